//! The application's own tables in the file of the sessions, through `SqliteStore::connect`.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::integrity::assert_integrity;
use crate::common::{Folder, create, live, merge, setting, sqlite, value};
use cloakroom::adapter::Outcome;
use cloakroom::backend::Delta;
use cloakroom::stores::sqlite::rusqlite::{self, Connection, ErrorCode};
use cloakroom::{ErrorKind, SessionManager, SignIn, SqliteStore, UserKey};

const SCHEMA: &str = "
    CREATE TABLE users (id INTEGER PRIMARY KEY) STRICT;
    CREATE TABLE notes (id INTEGER PRIMARY KEY, user INTEGER NOT NULL REFERENCES users,
                        text TEXT NOT NULL) STRICT;
    INSERT INTO users VALUES (1)";

fn pragma(connection: &Connection, name: &str) -> i64 {
    connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0)).unwrap()
}

fn count(connection: &Connection) -> i64 {
    connection.query_row("SELECT count(*) FROM notes", [], |row| row.get(0)).unwrap()
}

fn add_note(connection: &mut Connection) -> rusqlite::Result<()> {
    let tx = connection.transaction()?;
    // A transaction that reads first and was begun as deferred fails here, without waiting.
    tx.query_row("SELECT max(id) FROM notes", [], |_| Ok(()))?;
    tx.execute("INSERT INTO notes (user, text) VALUES (1, 'Buy milk')", [])?;
    tx.commit()
}

#[test]
fn own_connections_keep_foreign_keys_and_sync_commits() {
    let (_folder, store) = sqlite();
    let own = store.connect().unwrap();
    own.execute_batch(SCHEMA).unwrap();
    let stray = own.execute("INSERT INTO notes (user, text) VALUES (2, 'x')", []).unwrap_err();
    assert_eq!(stray.sqlite_error_code(), Some(ErrorCode::ConstraintViolation), "{stray}");
    assert_eq!(pragma(&own, "synchronous"), 2, "FULL");
}

#[test]
fn own_transactions_take_the_write_lock_at_their_beginning() {
    let (_folder, store) = sqlite();
    let mut own = store.connect().unwrap();
    let other = store.connect().unwrap();
    own.execute_batch(SCHEMA).unwrap();
    let tx = own.transaction().unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    let locked = other.execute("INSERT INTO users VALUES (2)", []).unwrap_err();
    assert_eq!(locked.sqlite_error_code(), Some(ErrorCode::DatabaseBusy), "{locked}");
    tx.commit().unwrap();
    other.execute("INSERT INTO users VALUES (2)", []).unwrap();
}

#[test]
fn sessions_within_an_own_transaction_are_busy_and_kept() {
    let folder = Folder::new();
    let timeout = Duration::from_millis(1);
    let store = SqliteStore::builder(folder.database()).busy_timeout(timeout).open().unwrap();
    let session = create(&store, &setting("n", 1)).unwrap();
    let mut own = store.connect().unwrap();
    let tx = own.transaction().unwrap();
    assert_eq!(merge(&store, &session, &setting("n", 2)).unwrap_err().kind(), ErrorKind::Busy);
    assert_eq!(live(&store, &session).unwrap().map(|r| value(&r, "n")), Some(Some(1)), "readable");
    tx.commit().unwrap();
    merge(&store, &session, &setting("n", 2)).unwrap();
}

#[test]
fn a_session_ended_by_an_own_connection_is_gone_at_once() {
    let (_folder, store) = sqlite();
    let session = create(&store, &Delta::new()).unwrap();
    assert!(live(&store, &session).unwrap().is_some(), "in memory now");
    store.connect().unwrap().execute("DELETE FROM cloakroom_sessions", []).unwrap();
    assert!(live(&store, &session).unwrap().is_none());
}

#[test]
fn own_connections_leave_checkpoints_to_another_program_too() {
    let folder = Folder::new();
    let autocheckpoint = |checkpoints| {
        let builder = SqliteStore::builder(folder.fresh()).checkpoints(checkpoints);
        pragma(&builder.open().unwrap().connect().unwrap(), "wal_autocheckpoint")
    };
    assert_eq!(autocheckpoint(false), 0);
    assert!(autocheckpoint(true) > 0);
}

#[test]
fn a_database_in_memory_has_no_own_connections() {
    let store = SqliteStore::in_memory().unwrap();
    assert_eq!(store.connect().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn own_connections_to_a_replaced_file_are_refused() {
    let (folder, store) = sqlite();
    fs::rename(folder.database(), folder.path("old.db")).unwrap();
    fs::write(folder.database(), "").unwrap();
    assert_eq!(store.connect().unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn an_own_connection_outlives_its_store() {
    let (folder, store) = sqlite();
    let mut own = store.connect().unwrap();
    own.execute_batch(SCHEMA).unwrap();
    drop(store);
    add_note(&mut own).unwrap();
    let store = SqliteStore::open(folder.database()).unwrap();
    let session = create(&store, &Delta::new()).unwrap();
    assert!(live(&store, &session).unwrap().is_some());
    assert_eq!(count(&own), 1);
}

#[test]
fn own_writers_beside_sign_ins_find_no_locked_database() {
    const SIGN_INS: usize = 100;
    let (folder, store) = sqlite();
    store.connect().unwrap().execute_batch(SCHEMA).unwrap();
    let sessions = SessionManager::new(store.clone()).unwrap();
    let sign_in = |user: String| {
        let session = sessions.open(None);
        assert_eq!(session.sign_in(UserKey::new(user).unwrap()).unwrap(), SignIn::Done);
        sessions.close(&session, Outcome::Completed).unwrap();
    };
    let done = AtomicBool::new(false);
    let write = || {
        let mut own = store.connect().unwrap();
        let mut written = 0;
        while !done.load(Ordering::Relaxed) {
            add_note(&mut own).unwrap();
            written += 1;
        }
        written
    };
    let written: i64 = thread::scope(|scope| {
        let writers = [scope.spawn(write), scope.spawn(write)];
        let users = ["a", "b", "c", "d"].map(|user| {
            scope.spawn(move || (0..SIGN_INS).for_each(|n| sign_in(format!("{user}{n}"))))
        });
        users.into_iter().for_each(|user| user.join().unwrap());
        done.store(true, Ordering::Relaxed);
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    assert!(written > 0);
    assert_eq!(count(&store.connect().unwrap()), written);
    assert_eq!(sessions.stats().unwrap().signed_in, 4 * SIGN_INS as u64);
    assert_integrity(folder.database());
}
