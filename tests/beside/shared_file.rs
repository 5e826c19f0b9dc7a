//! The common part of the programs: cloakroom and the other crate use one file in turns.

use cloakroom::adapter::Outcome;
use cloakroom::stores::sqlite::rusqlite;
use cloakroom::{SessionManager, SqliteStore, UserKey};

/// `write` inserts the text `theirs` into the table `notes` by the other crate, and `read` returns
/// all texts in order.
pub fn run(write: impl FnOnce(&SqliteStore), read: impl FnOnce(&SqliteStore) -> Vec<String>) {
    let path = std::env::args().nth(1).expect("the path of a new database");
    let store = SqliteStore::open(path).unwrap();
    let own = store.connect().unwrap();
    own.execute_batch("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)").unwrap();
    let sessions = SessionManager::new(store.clone()).unwrap();
    let session = sessions.open(None);
    let _ = session.sign_in(UserKey::new("ada").unwrap()).unwrap();
    let headers = sessions.close(&session, Outcome::Completed).unwrap();
    let cookie = headers.id_fields[0].1.split(';').next().unwrap();

    write(&store);
    let session = sessions.open(Some(cookie));
    assert_eq!(session.user().unwrap().unwrap().as_str(), "ada", "after a commit of the other");
    session.set("theme", "dark").unwrap();
    sessions.close(&session, Outcome::Completed).unwrap();
    own.execute("INSERT INTO notes (text) VALUES ('ours')", []).unwrap();
    assert_eq!(read(&store), ["theirs", "ours"]);

    let texts = "SELECT group_concat(text, ' ') FROM (SELECT text FROM notes ORDER BY id)";
    let texts: String = own.query_row(texts, [], |row| row.get(0)).unwrap();
    assert_eq!(texts, "theirs ours");
    let theme: Option<String> = sessions.open(Some(cookie)).get("theme").unwrap();
    assert_eq!(theme.as_deref(), Some("dark"));
    println!("SQLite {}", rusqlite::version());
}

/// The path, for crates that open the file themselves.
#[allow(dead_code, reason = "not all of them do")]
pub fn path(store: &SqliteStore) -> &str {
    store.path().unwrap().to_str().unwrap()
}
