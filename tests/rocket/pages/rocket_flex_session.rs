//! The move from rocket_flex_session of docs/taking-over.md.

use cloakroom::SqliteStore;
use serde::Deserialize;

/// The former type `T` of the session: the field with the user is enough.
#[derive(Deserialize)]
struct Former {
    user_id: Option<String>,
}

/// Deletes the old session, and returns its user if it has not expired. An error counts as no
/// session.
fn owner(store: &SqliteStore, id: &str) -> Option<String> {
    let sql = "DELETE FROM sessions WHERE id = ?1 AND datetime(expires) > datetime('now')
               RETURNING data";
    let db = store.connect().ok()?;
    let data: String = db.query_row(sql, [id], |row| row.get(0)).ok()?;
    serde_json::from_str::<Former>(&data).ok()?.user_id
}

mod checks {
    use super::*;
    use crate::pages::assert_shown;

    /// Rows as `SqlxSqliteStorage` of 0.2.0 writes them: `expires` is in RFC 3339.
    fn table(folder: &tempfile::TempDir) -> SqliteStore {
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let sql = r#"
            CREATE TABLE sessions (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL, user_id TEXT,
                                   expires TEXT NOT NULL);
            INSERT INTO sessions (id, data, user_id, expires) VALUES
                ('live', '{"user_id":"ada"}', 'ada', date('now', '+14 days') || 'T02:24:33.5Z'),
                ('today', '{"user_id":"eve"}', 'eve', date('now') || 'T00:00:00.000000001Z'),
                ('visitor', '{"user_id":null}', NULL, date('now', '+1 day') || 'T02:24:33Z'),
                ('changed', '{"user_id":"bob"}', 'ada', date('now', '+1 day') || 'T02:24:33Z')"#;
        store.connect().unwrap().execute_batch(sql).unwrap();
        store
    }

    #[test]
    fn the_user_of_a_stored_session_is_returned_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = table(&folder);
        assert_eq!(owner(&store, "live").as_deref(), Some("ada"));
        assert_eq!(owner(&store, "live"), None);
        assert_eq!(owner(&store, "unknown"), None);
        assert_eq!(owner(&store, "visitor"), None);
    }

    #[test]
    fn a_session_that_has_expired_today_has_no_user() {
        let folder = tempfile::tempdir().unwrap();
        let store = table(&folder);
        let sql = "SELECT expires > datetime('now') FROM sessions WHERE id = 'today'";
        let db = store.connect().unwrap();
        let is_later_as_text: bool = db.query_row(sql, [], |row| row.get(0)).unwrap();
        assert!(is_later_as_text);
        assert_eq!(owner(&store, "today"), None);
    }

    /// A save leaves the column `user_id` as it was when the session began.
    #[test]
    fn the_user_is_that_of_the_data_and_not_of_the_column() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(owner(&table(&folder), "changed").as_deref(), Some("bob"));
    }

    #[test]
    fn the_page_on_taking_over_shows_the_tested_owner() {
        let page = include_str!("../../../docs/taking-over.md");
        assert_shown(include_str!("rocket_flex_session.rs"), page);
    }
}
