//! Foreign keys and triggers of the application on our tables.

use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::ControlFlow;
use std::time::Duration;

use crate::common::integrity::assert_integrity;
use crate::common::{
    Folder, NOW, create, end, events, live, merge, new_id_hash, new_session, setting,
};
use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, MaxSessions, Store, Touch, TouchError,
};
use cloakroom::event::EventKind;
use cloakroom::id::{PublicId, Realm, SessionIdHash};
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::SessionFilter;
use cloakroom::stores::admin::Admin;
use cloakroom::stores::sqlite::SqliteFile;
use cloakroom::stores::sqlite::rusqlite::{Connection, params};
use cloakroom::{Error, ErrorKind, SqliteStore, UserKey};

const MANY: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

/// A table with one foreign key to our table, by row id or by id hash.
fn visits(foreign_key: &str) -> String {
    format!(
        "CREATE TABLE visits (session {} REFERENCES cloakroom_sessions {foreign_key})",
        if foreign_key.contains("id_hash") { "BLOB" } else { "INTEGER" }
    )
}

/// Foreign keys that keep a session's row.
const KEEPING: [&str; 5] =
    ["", "ON DELETE RESTRICT", "(id_hash)", "DEFERRABLE INITIALLY DEFERRED", "(id)"];

fn connect(folder: &Folder) -> Connection {
    Connection::open(folder.database()).unwrap()
}

/// Makes a row that references this session.
fn reference(connection: &Connection, id_hash: &SessionIdHash) {
    let by_hash = "SELECT \"to\" IS 'id_hash' FROM pragma_foreign_key_list('visits')";
    let by_hash: bool = connection.query_row(by_hash, [], |row| row.get(0)).unwrap();
    let column = if by_hash { "id_hash" } else { "id" };
    let insert =
        format!("INSERT INTO visits SELECT {column} FROM cloakroom_sessions WHERE id_hash = ?1");
    assert_eq!(connection.execute(&insert, [id_hash.as_bytes()]).unwrap(), 1);
}

fn rows(connection: &Connection) -> i64 {
    let count = "SELECT count(*) FROM cloakroom_sessions";
    connection.query_row(count, [], |row| row.get(0)).unwrap()
}

fn sign_in(store: &SqliteStore, user: &str) -> SessionIdHash {
    sign_in_under_limit(store, user, None)
}

fn sign_in_under_limit(
    store: &SqliteStore,
    user: &str,
    max_sessions: Option<MaxSessions>,
) -> SessionIdHash {
    let to = new_id_hash();
    let action = Action::SignIn {
        to,
        user: UserKey::new(user).unwrap(),
        new_session: new_session(),
        join_salt: None,
    };
    let mut commit = Commit::new(&new_id_hash(), action, setting("cart", "three coats"), NOW);
    commit.max_sessions = max_sessions;
    assert!(matches!(store.commit(&commit).unwrap(), CommitAnswer::Done { .. }));
    to
}

/// Fails unless nothing of the session can be found, listed or read.
fn assert_ended(store: &SqliteStore, connection: &Connection, id_hash: &SessionIdHash) {
    assert!(live(store, id_hash).unwrap().is_none());
    assert!(matches!(
        merge(store, id_hash, &setting("n", 1)).unwrap(),
        CommitAnswer::Unreadable(_)
    ));
    let left = "SELECT count(*) FROM cloakroom_sessions WHERE id_hash = ?1 AND
                (user_key IS NOT NULL OR client IS NOT NULL OR data <> '{}' OR deadline > 0)";
    let left: i64 = connection.query_row(left, [id_hash.as_bytes()], |row| row.get(0)).unwrap();
    assert_eq!(left, 0, "nothing is left of its data");
}

#[test]
fn a_sign_out_ends_a_session_that_another_table_keeps() {
    for foreign_key in KEEPING {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        let kept = sign_in(&store, "ada");
        let free = sign_in(&store, "ada");
        let connection = connect(&folder);
        connection.execute_batch(&visits(foreign_key)).unwrap();
        reference(&connection, &kept);
        assert!(live(&store, &kept).unwrap().is_some());
        for id_hash in [&kept, &free] {
            assert!(matches!(end(&store, id_hash).unwrap(), CommitAnswer::Ended(_)));
            assert_ended(&store, &connection, id_hash);
        }
        assert_eq!(rows(&connection), 1, "{foreign_key}: the row that is referenced");
        let again = SqliteStore::open(folder.database()).unwrap();
        assert!(live(&again, &kept).unwrap().is_none(), "{foreign_key}");
        assert_integrity(folder.database());
    }
}

#[test]
fn a_sweep_skips_rows_that_another_table_keeps() {
    for foreign_key in KEEPING {
        let folder = Folder::new();
        let (sink, raised) = events();
        let store = SqliteStore::builder(folder.database()).events(sink).open().unwrap();
        let connection = connect(&folder);
        connection.execute_batch(&visits(foreign_key)).unwrap();
        for n in 0..30 {
            let id_hash = create(&store, &setting("n", n)).unwrap();
            if n < 20 {
                reference(&connection, &id_hash);
            }
        }
        connection.execute("UPDATE cloakroom_sessions SET deadline = 1", []).unwrap();
        // Fewer at a time than are kept.
        let few = NonZeroUsize::new(5).unwrap();
        let swept: Vec<_> = (0..4).map(|_| store.sweep(NOW, few).unwrap().removed).collect();
        assert_eq!(swept, [5, 5, 0, 0], "{foreign_key}");
        let kept = raised.try_iter().filter(|kind| *kind == EventKind::EndedSessionsKept).count();
        assert_eq!(kept, 1, "{foreign_key}: reported once");
        connection.execute("DELETE FROM visits", []).unwrap();
        assert_eq!(store.sweep(NOW, MANY).unwrap().removed, 20, "{foreign_key}");
    }
}

#[test]
fn a_revocation_ends_sessions_that_another_table_keeps() {
    for foreign_key in KEEPING {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        let connection = connect(&folder);
        connection.execute_batch(&visits(foreign_key)).unwrap();
        let ids: Vec<_> = ["ada", "ada", "bob", "bob"].map(|user| sign_in(&store, user)).to_vec();
        for id_hash in &ids {
            reference(&connection, id_hash);
        }
        let index = store.index().unwrap();
        let ada = UserKey::new("ada").unwrap();
        let revoked = index.revoke(&SessionFilter::User(&ada), None, NOW).unwrap();
        assert_eq!(revoked.len(), 2, "{foreign_key}");
        assert!(live(&store, &ids[2]).unwrap().is_some(), "{foreign_key}: another user's stays");
        assert_eq!(index.stats(NOW).unwrap().live, 2);
        assert_eq!(index.revoke_everyone(Some(&Realm::default()), NOW).unwrap(), 2);
        sign_in(&store, "eve");
        assert_eq!(index.revoke_everyone(None, NOW).unwrap(), 1);
        for id_hash in &ids {
            assert_ended(&store, &connection, id_hash);
        }
        assert_eq!(rows(&connection), 4, "{foreign_key}");
        assert_integrity(folder.database());
    }
}

#[test]
fn a_sign_in_succeeds_if_a_table_keeps_expired_sessions() {
    let refuses = "CREATE TRIGGER never BEFORE DELETE ON cloakroom_sessions
         BEGIN SELECT RAISE(ABORT, 'no'); END";
    for foreign_key in KEEPING {
        for trigger in ["", refuses] {
            let folder = Folder::new();
            let store = SqliteStore::open(folder.database()).unwrap();
            let connection = connect(&folder);
            connection.execute_batch(&visits(foreign_key)).unwrap();
            connection.execute_batch(trigger).unwrap();
            let expired = [sign_in(&store, "ada"), sign_in(&store, "ada")];
            reference(&connection, &expired[0]);
            connection.execute("UPDATE cloakroom_sessions SET deadline = 1", []).unwrap();
            let limit = MaxSessions::new(NonZeroU32::MIN, AtMaximum::Refuse);
            let new = sign_in_under_limit(&store, "ada", Some(limit));
            assert!(live(&store, &new).unwrap().is_some());
            for id_hash in &expired {
                assert_ended(&store, &connection, id_hash);
            }
            assert_integrity(folder.database());
        }
    }
}

#[test]
fn a_sign_out_ends_what_a_trigger_or_a_chain_keeps() {
    for schema in [
        "CREATE TRIGGER never BEFORE DELETE ON cloakroom_sessions
         BEGIN SELECT RAISE(ABORT, 'no'); END",
        "CREATE TRIGGER ignored BEFORE DELETE ON cloakroom_sessions WHEN old.id = 1
         BEGIN SELECT RAISE(IGNORE); END",
        "CREATE TABLE visits (id INTEGER PRIMARY KEY, session INTEGER
             REFERENCES cloakroom_sessions ON DELETE CASCADE);
         CREATE TABLE pages (visit INTEGER REFERENCES visits);
         INSERT INTO visits SELECT id, id FROM cloakroom_sessions;
         INSERT INTO pages SELECT id FROM visits",
        "CREATE TABLE visits (session INTEGER NOT NULL
             REFERENCES cloakroom_sessions ON DELETE SET NULL);
         INSERT INTO visits SELECT id FROM cloakroom_sessions",
    ] {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        let one = sign_in(&store, "ada");
        let two = sign_in(&store, "ada");
        let connection = connect(&folder);
        connection.execute_batch(schema).unwrap();
        end(&store, &one).unwrap();
        assert_ended(&store, &connection, &one);
        let index = store.index().unwrap();
        let ada = UserKey::new("ada").unwrap();
        let ended = index.revoke(&SessionFilter::User(&ada), None, NOW).unwrap();
        assert!(ended.iter().map(|ended| ended.id_hash).eq([two]));
        assert_ended(&store, &connection, &two);
        assert_eq!(rows(&connection), if schema.contains("IGNORE") { 1 } else { 2 });
    }
}

#[test]
fn a_table_that_fails_a_sweep_is_named() {
    for (schema, table) in [
        (
            "CREATE TABLE visits (id INTEGER PRIMARY KEY, session INTEGER
                 REFERENCES cloakroom_sessions ON DELETE CASCADE);
             CREATE TABLE Pages (id INTEGER PRIMARY KEY, visit INTEGER
                 REFERENCES VISITS ON DELETE CASCADE);
             CREATE TABLE clicks (page INTEGER REFERENCES pages);
             INSERT INTO visits SELECT id, id FROM cloakroom_sessions;
             INSERT INTO pages SELECT id, id FROM visits;
             INSERT INTO clicks SELECT id FROM pages",
            "clicks",
        ),
        (
            "CREATE TABLE visits (session INTEGER NOT NULL
                 REFERENCES cloakroom_sessions ON DELETE SET NULL);
             INSERT INTO visits SELECT id FROM cloakroom_sessions",
            "visits",
        ),
    ] {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        create(&store, &Delta::new()).unwrap();
        let connection = connect(&folder);
        connection.execute_batch(schema).unwrap();
        connection.execute("UPDATE cloakroom_sessions SET deadline = 1", []).unwrap();
        let error = store.sweep(NOW, MANY).unwrap_err();
        assert!(error.to_string().contains("`cloakroom doctor` names the table"), "{error}");
        assert_eq!(store.file().info().unwrap().referencing_tables, [table]);
    }
}

#[test]
fn rows_that_cascade_go_with_their_session() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let connection = connect(&folder);
    connection.execute_batch(&visits("ON DELETE CASCADE")).unwrap();
    let id_hash = sign_in(&store, "ada");
    reference(&connection, &id_hash);
    end(&store, &id_hash).unwrap();
    let visits: i64 =
        connection.query_row("SELECT count(*) FROM visits", [], |row| row.get(0)).unwrap();
    assert_eq!((rows(&connection), visits), (0, 0));
    let info = store.file().info().unwrap();
    assert_eq!((info.referencing_tables.len(), info.triggers.len()), (0, 0));
}

#[test]
fn an_id_that_another_table_keeps_is_an_error_with_its_reason() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let connection = connect(&folder);
    connection.execute_batch(&visits("(id_hash) ON DELETE CASCADE")).unwrap();
    let id_hash = sign_in(&store, "ada");
    reference(&connection, &id_hash);
    let renew = Action::Renew { to: new_id_hash(), grace_until: None };
    let error = store.commit(&Commit::new(&id_hash, renew, Delta::new(), NOW)).unwrap_err();
    assert!(error.to_string().contains("another table references the session"), "{error}");
    assert_eq!(store.file().info().unwrap().referencing_tables, ["visits"]);
    assert!(live(&store, &id_hash).unwrap().is_some());
}

/// A trigger that brings every deleted session back.
const REVIVING: &str = "CREATE TRIGGER revive AFTER DELETE ON cloakroom_sessions BEGIN
     INSERT INTO cloakroom_sessions SELECT * FROM kept WHERE id = old.id; END";

#[test]
fn a_session_that_a_trigger_brings_back_has_ended() {
    for round in 0..4 {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        let id_hash = sign_in(&store, "ada");
        let connection = connect(&folder);
        let schema = format!("CREATE TABLE kept AS SELECT * FROM cloakroom_sessions; {REVIVING}");
        connection.execute_batch(&schema).unwrap();
        let index = store.index().unwrap();
        let ada = UserKey::new("ada").unwrap();
        match round {
            0 => assert!(matches!(end(&store, &id_hash).unwrap(), CommitAnswer::Ended(_))),
            1 => {
                let revoked = index.revoke(&SessionFilter::User(&ada), None, NOW).unwrap();
                assert!(revoked.iter().map(|ended| ended.id_hash).eq([id_hash]));
            }
            2 => assert_eq!(index.revoke_everyone(None, NOW).unwrap(), 1),
            _ => assert_eq!(store.clear().unwrap(), 1),
        }
        assert_ended(&store, &connection, &id_hash);
        assert_eq!(store.file().info().unwrap().triggers, ["revive"]);
    }
}

#[test]
fn ending_all_fails_if_a_trigger_keeps_sessions_live() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let id_hash = sign_in(&store, "ada");
    let connection = connect(&folder);
    connection
        .execute_batch(
            "CREATE TRIGGER keep BEFORE DELETE ON cloakroom_sessions
             BEGIN SELECT RAISE(IGNORE); END;
             CREATE TRIGGER keep_too BEFORE UPDATE ON cloakroom_sessions
             BEGIN SELECT RAISE(IGNORE); END",
        )
        .unwrap();
    let index = store.index().unwrap();
    for result in [
        index.revoke_everyone(None, NOW),
        index.revoke_everyone(Some(&Realm::default()), NOW),
        store.clear(),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        let words = "a trigger keeps sessions or brings them back, 1 of them";
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = end(&store, &id_hash).unwrap_err();
    assert!(error.to_string().contains("a trigger keeps sessions"), "{error}");
    assert_eq!(store.file().info().unwrap().triggers, ["keep", "keep_too"]);
    connection.execute_batch("DROP TRIGGER keep; DROP TRIGGER keep_too").unwrap();
    assert_eq!(index.revoke_everyone(None, NOW).unwrap(), 1);
    assert!(live(&store, &id_hash).unwrap().is_none());
}

#[test]
fn a_trigger_that_rolls_back_fails_only_the_touch_of_its_row() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let ids = ["ada", "bob", "eve"].map(|user| sign_in(&store, user));
    connect(&folder)
        .execute_batch(
            "CREATE TRIGGER back BEFORE UPDATE ON cloakroom_sessions WHEN old.user_key = 'bob'
             BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
        )
        .unwrap();
    let touch = Touch::at(NOW + Duration::from_secs(60));
    let error = store.touch(&ids.map(|id_hash| (id_hash, touch)), NOW).unwrap_err();
    let TouchError::Sessions(failed) = &error else { panic!("{error:?}") };
    assert_eq!(failed.iter().map(|((id_hash, _), _)| id_hash).collect::<Vec<_>>(), [&ids[1]]);
    assert!(Error::from(error).to_string().contains("a trigger refuses the change"));
    let seen = |id_hash| live(&store, id_hash).unwrap().unwrap().seen;
    assert_eq!(ids.each_ref().map(seen), [touch.seen, NOW, touch.seen]);
}

#[test]
fn a_copy_with_triggers_on_our_tables_is_not_restored() {
    for table in ["cloakroom_sessions", "cloakroom_sessions_replaced", "cloakroom_migrations"] {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        let id_hash = sign_in(&store, "ada");
        let copy = folder.path("copy.db");
        store.file().backup(&copy).unwrap();
        let trigger = format!("CREATE TRIGGER odd AFTER INSERT ON {table} BEGIN SELECT 1; END");
        Connection::open(&copy).unwrap().execute_batch(&trigger).unwrap();
        let go_on = || Box::new(|_| ControlFlow::Continue(()));
        let file = SqliteFile::new(SqliteStore::builder(folder.database()));
        let error = file.restore(&copy, false, NOW, go_on()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{table}: {error}");
        assert!(error.to_string().contains("DROP TRIGGER \"odd\""), "{table}: {error}");
        assert!(live(&store, &id_hash).unwrap().is_some(), "{table}: nothing was changed");
        Connection::open(&copy).unwrap().execute("DROP TRIGGER odd", []).unwrap();
        assert!(file.restore(&copy, false, NOW, go_on()).unwrap().is_continue());
        assert!(live(&store, &id_hash).unwrap().is_none(), "{table}");
    }
}

#[test]
fn triggers_on_own_tables_are_restored() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let connection = connect(&folder);
    let schema = format!(
        "{}; CREATE TABLE log (text); CREATE TRIGGER own AFTER DELETE ON visits
         BEGIN INSERT INTO log VALUES ('deleted'); END",
        visits("ON DELETE CASCADE")
    );
    connection.execute_batch(&schema).unwrap();
    let id_hash = sign_in(&store, "ada");
    reference(&connection, &id_hash);
    let copy = folder.path("copy.db");
    store.file().backup(&copy).unwrap();
    let file = SqliteFile::new(SqliteStore::builder(folder.database()));
    let go_on = Box::new(|_| ControlFlow::Continue(()));
    assert!(file.restore(&copy, false, NOW, go_on).unwrap().is_continue());
    assert!(live(&store, &id_hash).unwrap().is_none());
    let log = "SELECT count(*) FROM log";
    let logged: i64 = connection.query_row(log, [], |row| row.get(0)).unwrap();
    assert_eq!(logged, 1, "the visit went with its session");
}

#[test]
fn a_trigger_on_an_own_table_brings_no_session_back() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let connection = connect(&folder);
    let id_hash = sign_in(&store, "ada");
    let schema = format!(
        "{}; CREATE TABLE kept AS SELECT * FROM cloakroom_sessions;
         CREATE TRIGGER revive AFTER DELETE ON visits
         BEGIN INSERT INTO cloakroom_sessions SELECT * FROM kept; END",
        visits("ON DELETE CASCADE")
    );
    connection.execute_batch(&schema).unwrap();
    reference(&connection, &id_hash);
    let copy = folder.path("copy.db");
    store.file().backup(&copy).unwrap();
    let file = SqliteFile::new(SqliteStore::builder(folder.database()));
    let go_on = Box::new(|_| ControlFlow::Continue(()));
    assert!(file.restore(&copy, false, NOW, go_on).unwrap().is_continue());
    assert_ended(&store, &connection, &id_hash);
    assert_eq!(rows(&connection), 1, "the row is back, without its data");
}

#[test]
fn a_restored_copy_has_no_live_session_that_its_tables_keep() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let connection = connect(&folder);
    connection.execute_batch(&visits("")).unwrap();
    let id_hash = sign_in(&store, "ada");
    reference(&connection, &id_hash);
    let copy = folder.path("copy.db");
    store.file().backup(&copy).unwrap();
    let file = SqliteFile::new(SqliteStore::builder(folder.database()));
    let go_on = Box::new(|_| ControlFlow::Continue(()));
    assert!(file.restore(&copy, false, NOW, go_on).unwrap().is_continue());
    assert_ended(&store, &connection, &id_hash);
    assert_eq!(rows(&connection), 1);
}

#[test]
fn an_ended_row_can_be_shown_and_is_not_listed() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let connection = connect(&folder);
    connection.execute_batch(&visits("")).unwrap();
    let id_hash = sign_in(&store, "ada");
    reference(&connection, &id_hash);
    let public_id = live(&store, &id_hash).unwrap().unwrap().public_id;
    end(&store, &id_hash).unwrap();
    let details = store.find(&public_id).unwrap().unwrap();
    assert!(details.record.unwrap().data.is_empty());
    let revoked = store.revoke(&SessionFilter::PublicId(&public_id), None, NOW).unwrap();
    assert_eq!(revoked, 0, "it is not live");
    let other = "SELECT public_id FROM cloakroom_sessions WHERE id_hash = ?1";
    let other: [u8; 16] =
        connection.query_row(other, params![id_hash.as_bytes()], |row| row.get(0)).unwrap();
    assert_eq!(PublicId::from_bytes(other), public_id);
}
