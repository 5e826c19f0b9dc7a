//! Opening a database: setting up, and refusing without a change what is not ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use crate::common::{Folder, NOW, child, create, live, role, setting, sqlite};
use cloakroom::backend::{SessionIndex, Store};
use cloakroom::stores::admin::Admin;
use cloakroom::stores::sqlite::Journal;
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{ErrorKind, SqliteStore};

#[test]
fn child_process() {
    match role().as_deref() {
        Some("open") => {
            let path = std::env::var("DATABASE").unwrap();
            // Wait for the starting shot: the parent creates this file when all are up.
            let shot = std::env::var("SHOT").unwrap();
            while !Path::new(&shot).exists() {
                std::thread::yield_now();
            }
            let store = SqliteStore::open(path).unwrap();
            create(&store, &setting("n", 1)).unwrap();
        }
        Some("open read-only") => {
            let error = SqliteStore::open(std::env::var("DATABASE").unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
        }
        _ => {}
    }
}

#[test]
fn eight_processes_can_start_at_once_on_an_empty_file() {
    for round in 0..10 {
        let folder = Folder::new();
        let shot = folder.path("shot");
        let children: Vec<_> = (0..8)
            .map(|_| {
                child(module_path!(), "open")
                    .env("DATABASE", folder.database())
                    .env("SHOT", &shot)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        fs::write(&shot, "").unwrap();
        for child in children {
            let output = child.wait_with_output().unwrap();
            let words = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "round {round}: {words}");
        }
        let store = SqliteStore::open(folder.database()).unwrap();
        assert_eq!(store.index().unwrap().stats(NOW).unwrap().live, 8);
        let history = "SELECT count(*) FROM cloakroom_migrations";
        assert_eq!(number(&folder.database(), history), 1, "migrated once");
    }
}

fn number(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

/// Everything in the file, as far as SQL shows it.
fn everything(path: &Path) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut seen = vec![];
    for sql in [
        "SELECT coalesce(sql, '') FROM sqlite_schema",
        "PRAGMA user_version",
        "PRAGMA journal_mode",
    ] {
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| {
            Ok(format!("{:?}", row.get::<_, cloakroom::stores::sqlite::rusqlite::types::Value>(0)?))
        });
        seen.extend(rows.unwrap().map(Result::unwrap));
    }
    seen
}

fn refused(path: &Path, kind: ErrorKind) {
    let before = everything(path);
    for migrate in [true, false] {
        let error = SqliteStore::builder(path).migrate(migrate).open().unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert_eq!(everything(path), before, "a refusal changes nothing");
    }
}

#[test]
fn opening_twice_sets_up_once_and_keeps_the_sessions() {
    let (folder, store) = sqlite();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    drop(store);
    let before = everything(&folder.database());
    let store = SqliteStore::open(folder.database()).unwrap();
    store.file().setup().unwrap();
    assert_eq!(everything(&folder.database()), before);
    assert!(live(&store, &id_hash).unwrap().is_some());
    SqliteStore::builder(folder.database()).migrate(false).open().unwrap();
}

#[test]
fn a_new_file_is_readable_by_its_owner_only() {
    let (folder, store) = sqlite();
    create(&store, &setting("n", 1)).unwrap();
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let mode = fs::metadata(folder.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_schema_of_a_newer_program_is_refused() {
    let folder = Folder::new();
    SqliteStore::open(folder.database()).unwrap();
    let newer = "INSERT INTO cloakroom_migrations
                 SELECT table_name, 1000, name, checksum, applied, 'cloakroom 99' FROM cloakroom_migrations";
    Connection::open(folder.database()).unwrap().execute(newer, []).unwrap();
    refused(&folder.database(), ErrorKind::NewerSchema);
}

#[test]
fn a_schema_whose_history_is_another_is_refused() {
    let folder = Folder::new();
    SqliteStore::open(folder.database()).unwrap();
    let other = "UPDATE cloakroom_migrations SET checksum = 'other'";
    Connection::open(folder.database()).unwrap().execute(other, []).unwrap();
    refused(&folder.database(), ErrorKind::ForeignTable);
}

#[test]
fn a_foreign_thing_of_any_name_we_would_use_is_refused() {
    for foreign in [
        "CREATE TABLE cloakroom_sessions (id TEXT)",
        "CREATE TABLE CloakRoom_Sessions (id TEXT)",
        "CREATE VIEW cloakroom_sessions AS SELECT 1",
        "CREATE TABLE cloakroom_sessions_meta (a)",
        "CREATE TABLE cloakroom_sessions_replaced (a)",
        "CREATE TABLE cloakroom_sessions_readable (a)",
        "CREATE TABLE t (a); CREATE INDEX cloakroom_sessions_deadline ON t (a)",
        "CREATE TABLE t (a); CREATE INDEX cloakroom_sessions_replaced_forget ON t (a)",
        "CREATE TABLE cloakroom_migrations (version INTEGER, applied_on TEXT)",
    ] {
        let folder = Folder::new();
        Connection::open(folder.database()).unwrap().execute_batch(foreign).unwrap();
        refused(&folder.database(), ErrorKind::ForeignTable);
    }
}

#[test]
fn without_migrations_an_empty_file_is_refused() {
    let folder = Folder::new();
    let open = || SqliteStore::builder(folder.database()).migrate(false).open().unwrap_err();
    assert_eq!(open().kind(), ErrorKind::NotSetUp);
    assert!(!folder.database().exists());
    let host = "CREATE TABLE customers (name TEXT); PRAGMA user_version = 7";
    Connection::open(folder.database()).unwrap().execute_batch(host).unwrap();
    let before = everything(&folder.database());
    assert_eq!(open().kind(), ErrorKind::NotSetUp);
    assert_eq!(everything(&folder.database()), before);
}

#[test]
fn a_hosts_own_tables_and_user_version_are_left_alone() {
    let folder = Folder::new();
    let path = folder.database();
    let host = "CREATE TABLE customers (name TEXT);
                INSERT INTO customers VALUES ('Ada');
                CREATE TABLE refinery_schema_history (version INTEGER);
                PRAGMA user_version = 7;";
    Connection::open(&path).unwrap().execute_batch(host).unwrap();
    let page_size = number(&path, "PRAGMA page_size");
    let store = SqliteStore::open(&path).unwrap();
    create(&store, &setting("n", 1)).unwrap();
    store.clear().unwrap();
    store.drop_tables().unwrap();
    drop(store);
    assert_eq!(number(&path, "SELECT count(*) FROM customers"), 1);
    assert_eq!(number(&path, "PRAGMA user_version"), 7);
    assert_eq!(number(&path, "PRAGMA page_size"), page_size);
    let tables = "SELECT count(*) FROM sqlite_schema";
    assert_eq!(number(&path, tables), 2, "nothing of ours is left behind");
}

#[test]
fn a_kept_journal_mode_stays_and_works() {
    let folder = Folder::new();
    let path = folder.database();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE host (a)").unwrap();
    let store = SqliteStore::builder(&path).journal(Journal::Keep).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(live(&store, &id_hash).unwrap().is_some());
    store.maintenance().unwrap().run().unwrap();
    let mode: String = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA journal_mode", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "delete");
}

#[test]
fn two_stores_in_one_file_do_not_touch_each_other() {
    let folder = Folder::new();
    let open = |table| SqliteStore::builder(folder.database()).table(table).open().unwrap();
    let one = open("one");
    let other = open("other");
    let id_hash = create(&one, &setting("n", 1)).unwrap();
    let others = create(&other, &setting("n", 2)).unwrap();
    assert!(live(&other, &id_hash).unwrap().is_none());
    assert_eq!(one.clear().unwrap(), 1);
    assert!(live(&one, &id_hash).unwrap().is_none());
    assert!(live(&other, &others).unwrap().is_some());
    one.drop_tables().unwrap();
    one.drop_tables().unwrap();
    assert_eq!(one.clear().unwrap(), 0, "nothing to clear is no error");
    assert!(live(&other, &others).unwrap().is_some());
    assert_eq!(live(&one, &id_hash).unwrap_err().kind(), ErrorKind::NotSetUp);
    assert_eq!(create(&one, &setting("n", 1)).unwrap_err().kind(), ErrorKind::NotSetUp);
    assert_eq!(one.index().unwrap().stats(NOW).unwrap_err().kind(), ErrorKind::NotSetUp);
    one.file().setup().unwrap();
    create(&one, &setting("n", 1)).unwrap();
}

#[test]
fn clearing_raises_the_epoch() {
    let (_folder, store) = sqlite();
    let index: &dyn SessionIndex = store.index().unwrap();
    assert_eq!(index.epoch().unwrap(), 0);
    store.clear().unwrap();
    assert_eq!(index.revoke_everyone(None, NOW).unwrap(), 0);
    assert_eq!(index.epoch().unwrap(), 2);
}

#[test]
fn tables_dropped_by_hand_are_set_up_anew() {
    let folder = Folder::new();
    SqliteStore::open(folder.database()).unwrap();
    let by_hand = "DROP TABLE cloakroom_sessions";
    Connection::open(folder.database()).unwrap().execute_batch(by_hand).unwrap();
    let store = SqliteStore::open(folder.database()).unwrap();
    create(&store, &setting("n", 1)).unwrap();
}

/// The host's own objects under our names, after it has removed our tables by hand.
const TAKEN_OVER: [&str; 4] = [
    "CREATE TABLE session (customer TEXT)",
    "CREATE TABLE session_meta (customer TEXT)",
    "CREATE TABLE session_replaced (customer TEXT)",
    "CREATE VIEW session_readable AS SELECT 1 AS customer",
];

#[test]
fn a_table_of_the_application_under_our_name_is_left_alone() {
    for theirs in TAKEN_OVER {
        let folder = Folder::new();
        let store = SqliteStore::builder(folder.database()).table("session").open().unwrap();
        let host = Connection::open(folder.database()).unwrap();
        host.execute_batch(
            "DROP VIEW session_readable; DROP TABLE session; DROP TABLE session_meta; \
             DROP TABLE session_replaced",
        )
        .unwrap();
        host.execute_batch(theirs).unwrap();
        let before = everything(&folder.database());
        let refused = store.drop_tables().unwrap_err().kind();
        assert_eq!(refused, ErrorKind::ForeignTable, "{theirs}");
        assert_eq!(store.clear().unwrap_err().kind(), ErrorKind::ForeignTable, "{theirs}");
        assert_eq!(store.file().setup().unwrap_err().kind(), ErrorKind::ForeignTable, "{theirs}");
        let again = SqliteStore::builder(folder.database()).table("session").open();
        assert_eq!(again.unwrap_err().kind(), ErrorKind::ForeignTable, "{theirs}");
        assert_eq!(everything(&folder.database()), before, "{theirs}");
    }
}

#[test]
fn a_table_made_by_the_host_after_a_drop_is_left_alone() {
    for theirs in TAKEN_OVER {
        let folder = Folder::new();
        let store = SqliteStore::builder(folder.database()).table("session").open().unwrap();
        store.drop_tables().unwrap();
        Connection::open(folder.database()).unwrap().execute_batch(theirs).unwrap();
        let before = everything(&folder.database());
        let kind = store.drop_tables().unwrap_err().kind();
        assert_eq!(kind, ErrorKind::ForeignTable, "{theirs}");
        assert_eq!(everything(&folder.database()), before, "{theirs}");
    }
}

#[test]
fn a_table_name_in_another_case_is_the_same_table() {
    let folder = Folder::new();
    let open = |table| SqliteStore::builder(folder.database()).table(table).open();
    let id_hash = create(&open("Session").unwrap(), &setting("n", 1)).unwrap();
    let error = open("session").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ForeignTable, "spelled otherwise: {error:?}");
    assert!(live(&open("Session").unwrap(), &id_hash).unwrap().is_some());
}

#[test]
fn the_readable_view_shows_sessions_to_a_person() {
    let (folder, store) = sqlite();
    create(&store, &setting("n", 1)).unwrap();
    let sql = "SELECT id_hash_prefix, length(public_id), created_utc, state, data, realm
               FROM cloakroom_sessions_readable";
    let row: (String, i64, String, String, String, String) = Connection::open(folder.database())
        .unwrap()
        .query_row(sql, [], |r| {
            Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?, r.get(5)?))
        })
        .unwrap();
    assert_eq!(row.0.len(), 8);
    assert_eq!(row.1, 32);
    assert_eq!(row.2, "2023-11-14 22:13:20");
    assert_eq!(row.3, "expired", "its deadline was in 2023");
    assert_eq!(row.4, "{\"n\":1}");
    assert_eq!(row.5, "__Host-id");
}

/// Root may write everything, so the refusal is seen by a child that runs as another user.
fn as_another_user(path: &Path) -> bool {
    use std::os::unix::process::CommandExt;
    let mut command = child(module_path!(), "open read-only");
    command.env("DATABASE", path);
    // SAFETY-free: uid is applied by the standard library between fork and exec.
    if fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        command.uid(65_534);
    }
    let output = command.output().unwrap();
    println!("{}", String::from_utf8_lossy(&output.stdout));
    output.status.success()
}

#[test]
fn a_read_only_file_or_folder_is_refused_with_its_kind() {
    let folder = Folder::new();
    let path = folder.database();
    let set = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // Others may enter, but neither the folder nor the file can be written.
    set(path.parent().unwrap(), 0o555);
    let program = std::env::current_exe().unwrap();
    assert!(program.exists());
    assert!(as_another_user(&path), "a file that cannot be created");
    set(path.parent().unwrap(), 0o755);
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE host (a)").unwrap();
    set(&path, 0o444);
    let before = everything(&path);
    assert!(as_another_user(&path), "a file that cannot be written");
    assert_eq!(everything(&path), before);
}
