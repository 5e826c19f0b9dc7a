//! `backup` and `restore`: beside writers, interrupted, and with input that they must refuse.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cloakroom::SqliteStore;
use cloakroom::backend::Store;
use cloakroom::stores::admin::Admin;
use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::common::{Folder, live};
use crate::fixture::{
    Begun, answered, begin, beside_a_service, count, damage, done, fails, fill, interrupt,
    is_intact, number, open, program, run, set_up, start, strangers, with_store,
};

const MINUTE: Duration = Duration::from_secs(60);

fn is_live(store: &SqliteStore, begun: &Begun) -> bool {
    live(store, &begun.id_hash).unwrap().is_some()
}

fn backup(folder: &Folder) -> String {
    let copy = folder.fresh().display().to_string();
    done(folder, &["backup", &copy]);
    copy
}

#[test]
fn a_copy_made_beside_writers_is_complete_and_private() {
    let folder = set_up();
    fill(&folder, 5000, true);
    let (copy, _) = beside_a_service(&folder, || backup(&folder));
    assert!(is_intact(Path::new(&copy)));
    assert_eq!(number(Path::new(&copy), "SELECT count(*) FROM cloakroom_sessions"), 5001);
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_copy_never_overwrites_a_file() {
    let folder = set_up();
    let copy = folder.path("copy.db").display().to_string();
    for name in ["copy.db", "copy.db-wal", "copy.db-journal"] {
        fs::write(folder.path(name), "mine").unwrap();
        let said = fails(&folder, &["backup", &copy], 1);
        assert!(said.contains(&format!("{name} exists")), "{said}");
        assert_eq!(fs::read(folder.path(name)).unwrap(), b"mine");
        assert_eq!(strangers(&folder), [name]);
        fs::remove_file(folder.path(name)).unwrap();
    }
    fails(&folder, &["backup", "/no/such/folder/copy.db"], 1);
}

#[test]
fn a_copy_of_a_damaged_database_is_refused() {
    let folder = Folder::new();
    damaged(&folder);
    let copy = folder.path("copy.db").display().to_string();
    let said = fails(&folder, &["backup", &copy], 1);
    assert!(said.contains("damaged"), "{said}");
    assert_eq!(strangers(&folder), Vec::<String>::new());
}

/// A database with a damaged page of sessions.
fn damaged(folder: &Folder) {
    open(folder);
    fill(folder, 500, true);
    let leaf = number(
        &folder.database(),
        "SELECT max(pageno) FROM dbstat WHERE name = 'cloakroom_sessions' AND pagetype = 'leaf'",
    );
    damage(folder, leaf);
}

#[test]
fn an_interrupted_backup_leaves_nothing() {
    let folder = set_up();
    fill(&folder, 100_000, true);
    let copy = folder.path("copy.db");
    for _ in 0..5 {
        let child = start(&mut program(&folder, &["backup", copy.to_str().unwrap()]));
        while strangers(&folder).is_empty() {
            thread::yield_now();
        }
        interrupt(&child);
        let output = child.wait_with_output().unwrap();
        if output.status.code() == Some(1) {
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(said, "cloakroom: interrupted: there is no copy\n");
            assert_eq!(strangers(&folder), Vec::<String>::new());
            return;
        }
        assert_eq!(output.status.code(), Some(0));
        fs::remove_file(&copy).unwrap();
    }
    panic!("no backup was interrupted");
}

#[test]
fn restoring_ends_sessions_unless_they_are_kept() {
    let (folder, store) = with_store();
    let revoked = begin(&store, Some("ada"), MINUTE);
    let copy = backup(&folder);
    done(&folder, &["revoke", "--user", "ada"]);
    let later = begin(&store, None, MINUTE);
    let epoch = store.index().unwrap().epoch().unwrap();

    let ran = answered(&folder, &["restore", &copy], "no\n");
    assert_eq!(ran.code, 1);
    assert!(is_live(&store, &later), "nothing was changed");

    let ran = answered(&folder, &["restore", &copy], "yes\n");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("every session in it is ended"), "{}", ran.err);
    assert_eq!(ran.out, format!("restored from {copy}; ended 1 session\n"));
    assert!(!is_live(&store, &revoked) && !is_live(&store, &later));
    assert_eq!(count(&folder), 0);
    // Entries of a cache from before the restore must become stale.
    let raised = store.index().unwrap().epoch().unwrap();
    assert!(raised > epoch, "{raised} after {epoch}");

    let ran = run(&folder, &["restore", &copy, "--keep", "--yes"]);
    assert_eq!(ran.out, format!("restored from {copy}; kept 1 session\n"), "{}", ran.err);
    assert!(is_live(&store, &revoked), "which is what --keep says");
    assert!(store.index().unwrap().epoch().unwrap() > raised);
    assert!(is_intact(&folder.database()));
    let wal = "SELECT journal_mode = 'wal' FROM pragma_journal_mode";
    assert_eq!(number(&folder.database(), wal), 1);
}

#[test]
fn a_service_keeps_running_through_a_restore() {
    let (folder, store) = with_store();
    let host = "CREATE TABLE customers (name TEXT); INSERT INTO customers VALUES ('Ada')";
    let host_connection = Connection::open(folder.database()).unwrap();
    host_connection.execute_batch(host).unwrap();
    fill(&folder, 5000, true);
    let copy = backup(&folder);
    host_connection.execute("UPDATE customers SET name = 'Bob'", []).unwrap();
    let (ran, _) = beside_a_service(&folder, || run(&folder, &["restore", &copy, "--yes"]));
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(", including one other table"), "{}", ran.err);
    assert_eq!(count(&folder), 1, "the visitor, who came again");
    let name: String =
        host_connection.query_row("SELECT name FROM customers", [], |row| row.get(0)).unwrap();
    assert_eq!(name, "Ada", "a connection that was open all the time sees what was restored");
    let begun = begin(&store, None, MINUTE);
    assert!(is_live(&store, &begun));
    assert!(is_intact(&folder.database()));
    assert_eq!(strangers(&folder).len(), 1, "the copy alone");
}

#[test]
fn a_missing_file_is_restored() {
    let folder = Folder::new();
    begin(&open(&folder), None, MINUTE);
    let copy = backup(&folder);
    fs::remove_file(folder.database()).unwrap();
    fs::write(folder.path("app.db-wal"), "of the lost file").unwrap();
    let ran = run(&folder, &["restore", &copy, "--yes"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("app.db-wal exists"), "{}", ran.err);
    assert!(!folder.database().exists());
    fs::remove_file(folder.path("app.db-wal")).unwrap();
    let ran = run(&folder, &["restore", &copy, "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(count(&folder), 0);
    assert_eq!(fs::metadata(folder.database()).unwrap().permissions().mode() & 0o777, 0o600);
    let wal = "SELECT journal_mode = 'wal' FROM pragma_journal_mode";
    assert_eq!(number(&folder.database(), wal), 1, "as the copy was");
    begin(&open(&folder), None, MINUTE);
}

#[test]
fn a_damaged_database_is_replaced_by_its_copy() {
    let (folder, store) = with_store();
    let kept = begin(&store, None, MINUTE);
    let copy = backup(&folder);
    drop(store);
    fs::remove_file(folder.database()).unwrap();
    damaged(&folder);
    assert!(!is_intact(&folder.database()));
    let ran = run(&folder, &["restore", &copy, "--keep", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(is_intact(&folder.database()));
    assert!(is_live(&open(&folder), &kept));
}

#[test]
fn pages_of_another_size_are_restored_too() {
    let folder = Folder::new();
    let sized = Connection::open(folder.database()).unwrap();
    sized.execute_batch("PRAGMA page_size = 8192; CREATE TABLE host (a)").unwrap();
    drop(sized);
    let store = open(&folder);
    begin(&store, None, MINUTE);
    let other = Folder::new();
    let kept = begin(&open(&other), None, MINUTE);
    let copy = backup(&other);
    let ran = run(&folder, &["restore", &copy, "--keep", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(is_live(&store, &kept));
    assert_eq!(number(&folder.database(), "PRAGMA page_size"), 8192);
    assert!(is_intact(&folder.database()));
}

#[test]
fn a_foreign_copy_is_refused_and_changes_nothing() {
    let (folder, store) = with_store();
    let begun = begin(&store, None, MINUTE);
    let good = backup(&folder);
    let path = |name: &str| folder.path(name).display().to_string();

    fs::write(folder.path("notes"), "These are my notes. ".repeat(500)).unwrap();
    Connection::open(folder.path("host.db")).unwrap().execute_batch("CREATE TABLE a (b)").unwrap();
    let foreign = "CREATE TABLE cloakroom_sessions (id TEXT)";
    Connection::open(folder.path("foreign.db")).unwrap().execute_batch(foreign).unwrap();
    fs::copy(&good, folder.path("newer.db")).unwrap();
    Connection::open(folder.path("newer.db"))
        .unwrap()
        .execute("UPDATE cloakroom_migrations SET version = 1000", [])
        .unwrap();
    let broken = Folder::new();
    damaged(&broken);
    for (copy, code) in [
        (path("missing"), 1),
        (path("notes"), 1),
        (path("host.db"), 3),
        (path("foreign.db"), 1),
        (path("newer.db"), 1),
        (broken.database().display().to_string(), 1),
        (folder.database().display().to_string(), 1),
    ] {
        let ran = run(&folder, &["restore", &copy, "--keep", "--yes"]);
        assert_eq!(ran.code, code, "{copy}: {}{}", ran.out, ran.err);
        assert!(is_live(&store, &begun), "{copy}");
    }
    assert!(!strangers(&folder).iter().any(|name| name.contains("partial")));

    // A database that never had our table is not replaced.
    for (name, code) in [("host.db", 3), ("foreign.db", 1), ("notes", 1)] {
        let before = fs::read(folder.path(name)).unwrap();
        let ran = run(&folder, &["restore", &good, "--yes", "--db", &path(name)]);
        assert_eq!(ran.code, code, "{name}: {}{}", ran.out, ran.err);
        assert_eq!(fs::read(folder.path(name)).unwrap(), before, "{name}");
    }
}

#[test]
fn a_copy_without_tables_is_reported_as_such() {
    let folder = set_up();
    fs::write(folder.path("empty.db"), "").unwrap();
    let empty = folder.path("empty.db").display().to_string();
    let ran = run(&folder, &["restore", &empty, "--yes"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    assert!(ran.err.contains("the copy cannot be used: the file is empty; check"), "{}", ran.err);
    assert!(ran.err.ends_with("and that this is the copy you mean\n"), "{}", ran.err);
    fs::write(folder.path("notes"), "These are my notes. ".repeat(500)).unwrap();
    let notes = folder.path("notes").display().to_string();
    let ran = run(&folder, &["restore", &notes, "--yes"]);
    assert!(ran.code == 1 && ran.err.ends_with("notes is not a database\n"), "{}", ran.err);
}

#[test]
fn a_killed_restore_changes_everything_or_nothing() {
    let (folder, store) = with_store();
    fill(&folder, 50_000, true);
    let copy = backup(&folder);
    store.clear().unwrap();
    done(&folder, &["compact", "--yes"]);
    let log = || fs::metadata(folder.path("app.db-wal")).map_or(0, |file| file.len());
    let before = log();
    let mut child = start(&mut program(&folder, &["restore", &copy, "--keep", "--yes"]));
    while log() < before + (1 << 20) && child.try_wait().unwrap().is_none() {
        thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_intact(&folder.database()));
    assert!([0, 50_000].contains(&count(&folder)), "{} sessions", count(&folder));
    let begun = begin(&store, None, MINUTE);
    assert!(is_live(&store, &begun));
    // If it was killed in time, `doctor` finds its unfinished file.
    let left = strangers(&folder).into_iter().any(|name| name.ends_with(".partial"));
    assert_eq!(run(&folder, &["doctor"]).out.contains(".partial was not finished"), left);
}

#[test]
fn damage_that_prevents_a_restore_is_named_with_its_remedy() {
    let (folder, _store) = with_store();
    let copy = backup(&folder);
    let other = set_up();
    let path = other.database().display().to_string();
    let mut bytes = fs::read(&path).unwrap();
    bytes[100..3000].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    // One line: it asks nothing.
    let said = fails(&other, &["restore", &copy], 1);
    assert!(said.contains("app.db is too damaged to be written over ("), "{said}");
    assert!(said.ends_with("with its -wal and -shm, and `restore` again\n"), "{said}");
    let found = run(&other, &["doctor"]).out;
    assert!(!found.contains("run `doctor`"), "{found}");
    assert!(
        found.contains(" -> stop the service, move the file away with its -wal and"),
        "{found}"
    );
    let ran = run(&folder, &["restore", &path, "--yes"]);
    assert!(ran.err.contains("the copy is damaged: "), "{ran:?}");
    // What the message says helps.
    fs::rename(&path, other.path("damaged.db")).unwrap();
    done(&other, &["restore", &copy, "--yes"]);
}

/// Interrupts a restore when `now` returns true. Returns whether that was in time.
fn interrupted(folder: &Folder, copy: &str, now: impl Fn() -> bool) -> bool {
    let mut child = start(&mut program(folder, &["restore", copy, "--keep", "--yes"]));
    while !now() && child.try_wait().unwrap().is_none() {
        thread::yield_now();
    }
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    assert!(is_intact(&folder.database()));
    let said = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(1) => {
            assert!(said.ends_with("cloakroom: interrupted: nothing was changed\n"), "{said}");
            assert_eq!(count(folder), 1, "nothing was changed");
            assert_eq!(strangers(folder).len(), 1, "the copy alone");
            true
        }
        code => {
            assert_eq!(code, Some(0), "{said}");
            // The restore was faster than the signal: prepare another attempt.
            open(folder).clear().unwrap();
            begin(&open(folder), None, MINUTE);
            false
        }
    }
}

#[test]
fn an_interrupted_restore_changes_nothing() {
    let (folder, store) = with_store();
    fill(&folder, 100_000, true);
    let copy = backup(&folder);
    store.clear().unwrap();
    store.maintenance().unwrap().run().unwrap();
    begin(&store, None, MINUTE);
    // While the copy is prepared beside the database …
    let prepares = || strangers(&folder).len() > 1;
    assert!((0..5).any(|_| interrupted(&folder, &copy, prepares)), "never in time");
    // … and while it is being put in its place.
    let log = || fs::metadata(folder.path("app.db-wal")).map_or(0, |file| file.len());
    let mut tries = (0..8).map(|_| {
        done(&folder, &["compact", "--yes"]);
        let before = log();
        interrupted(&folder, &copy, || log() > before + (1 << 20))
    });
    assert!(tries.any(|in_time| in_time), "never in time");
}
