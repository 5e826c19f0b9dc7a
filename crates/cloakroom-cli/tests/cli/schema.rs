//! `setup`, `migrate`, `clear` and `drop`; help, completions and invalid arguments.

use std::fs;

use cloakroom::SqliteStore;
use cloakroom::backend::Store;
use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::common::Folder;
use crate::fixture::{
    DAY, answered, begin, count, done, fails, masked, number, open, program, run, set_up, start,
    with_store,
};

#[test]
fn a_second_setup_changes_nothing() {
    let folder = Folder::new();
    let first = done(&folder, &["setup"]);
    assert_eq!(masked(&folder, &first), "set up: table cloakroom_sessions in FOLDER/app.db\n");
    begin(&open(&folder), None, DAY / 2);
    let again = done(&folder, &["setup"]);
    let text = masked(&folder, &again);
    assert_eq!(text, "already set up: table cloakroom_sessions in FOLDER/app.db\n");
    assert_eq!(count(&folder), 1);
}

#[test]
fn a_table_of_another_name_is_set_up_and_used() {
    let folder = Folder::new();
    done(&folder, &["--table", "session", "setup"]);
    SqliteStore::builder(folder.database()).table("session").migrate(false).open().unwrap();
    done(&folder, &["stats", "--table", "session"]);
    fails(&folder, &["stats"], 3);
}

#[cfg(not(feature = "postgres"))]
#[test]
fn a_program_without_postgres_names_the_feature() {
    let folder = Folder::new();
    let said = fails(&folder, &["stats", "--store", "postgres://app@localhost/app"], 2);
    assert!(said.contains("--features postgres-rustls"), "{said}");
}

#[test]
fn the_journal_mode_is_kept_on_request() {
    let folder = Folder::new();
    let wal = "SELECT journal_mode = 'wal' FROM pragma_journal_mode";
    Connection::open(folder.database()).unwrap().execute_batch("CREATE TABLE host (a)").unwrap();
    done(&folder, &["setup", "--keep-journal"]);
    done(&folder, &["stats"]);
    assert_eq!(number(&folder.database(), wal), 0, "no command but setup switches it");
    done(&folder, &["setup"]);
    assert_eq!(number(&folder.database(), wal), 1);
}

#[test]
fn a_dry_run_lists_migrations_and_changes_nothing() {
    let folder = Folder::new();
    fails(&folder, &["migrate"], 3);
    assert!(!folder.database().exists());
    Connection::open(folder.database()).unwrap().execute_batch("CREATE TABLE host (a)").unwrap();
    let would = done(&folder, &["migrate", "--dry-run"]);
    assert_eq!(would, "would apply migration 1, sessions\n");
    fails(&folder, &["stats"], 3);
    assert_eq!(done(&folder, &["migrate"]), "applied migration 1, sessions\n");
    let text = done(&folder, &["migrate"]);
    assert_eq!(text, "nothing to do: the tables have this version's schema\n");
    done(&folder, &["stats"]);
}

#[test]
fn destructive_commands_ask_and_accept_only_yes() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), DAY / 2);
    for command in [vec!["clear"], vec!["drop"], vec!["revoke", "--all"], vec!["compact"]] {
        for answer in ["", "\n", "y\n", "no\n", "yes please\n", "YES\n"] {
            let ran = answered(&folder, &command, answer);
            assert_eq!(ran.code, 1, "{command:?} {answer:?}: {}", ran.err);
            assert!(
                ran.err.contains("nothing was changed; answer yes, or give --yes"),
                "{}",
                ran.err
            );
            assert_eq!(ran.out, "", "{command:?} {answer:?}");
        }
        assert_eq!(run(&folder, &command).code, 1, "a closed input is no yes");
    }
    assert_eq!(count(&folder), 1);
    let ran = answered(&folder, &["clear"], "yes\n");
    let status = (ran.code, ran.out.as_str());
    assert_eq!(status, (0, "ended 1 session in all realms, expired ones included\n"));
    assert_eq!(
        masked(&folder, &ran.err),
        "This ends 1 live session of table cloakroom_sessions in FOLDER/app.db, in all realms: \
         all users have to sign in again.\nType yes to go on: "
    );
    assert_eq!(count(&folder), 0);
    assert_eq!(store.index().unwrap().epoch().unwrap(), 1);
}

#[test]
fn dropping_removes_our_tables_and_no_other() {
    let folder = Folder::new();
    let host = "CREATE TABLE customers (name TEXT); INSERT INTO customers VALUES ('Ada')";
    Connection::open(folder.database()).unwrap().execute_batch(host).unwrap();
    begin(&open(&folder), None, DAY / 2);
    let ran = run(&folder, &["drop", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(
        masked(&folder, &ran.err),
        "This removes table cloakroom_sessions in FOLDER/app.db with 1 live session; a running \
         service fails until `setup` is run. The one other table in it stays.\n"
    );
    let left = "SELECT count(*) FROM sqlite_schema";
    assert_eq!(number(&folder.database(), left), 1);
    assert_eq!(number(&folder.database(), "SELECT count(*) FROM customers"), 1);
    fails(&folder, &["drop", "--yes"], 3);
}

#[test]
fn invalid_arguments_are_refused_in_one_line() {
    let folder = set_up();
    for wrong in [
        &[][..],
        &["lost"],
        &["list", "--limit", "0"],
        &["list", "--limit", "-1"],
        &["list", "--user", ""],
        &["list", "--realm", ""],
        &["list", "--realm", &"x".repeat(256)],
        &["revoke", "--all", "--realm", "", "--yes"],
        &["revoke", "--realm", "shop"],
        &["revoke", "--realm", "shop", "--yes"],
        &["show"],
        &["show", "x"],
        &["revoke"],
        &["revoke", "--user", "ada", "--all"],
        &["revoke", "--except", "0123456789abcdef0123456789abcdef"],
        &["stats", "--watch", "0"],
        &["stats", "--table", "a b"],
        &["stats", "--db", ":memory:"],
        &["list", "--limit", "\u{1b}[2J"],
        &["backup"],
        &["man", "lost"],
        &["completions", "cmd"],
    ] {
        let said = fails(&folder, wrong, 2);
        assert!(said.len() > 20, "{wrong:?}: {said}");
        assert!(!said.contains('\u{1b}'), "{wrong:?}: {said:?}");
    }
    let mut nowhere = program(&folder, &["stats"]);
    let nowhere = start(nowhere.env_remove("CLOAKROOM_DB")).wait_with_output().unwrap();
    assert_eq!(nowhere.status.code(), Some(2));
}

#[test]
fn completions_and_manual_cover_every_command() {
    let folder = Folder::new();
    let help = done(&folder, &["help"]);
    let man = done(&folder, &["man"]);
    for shell in ["bash", "zsh", "fish"] {
        let script = done(&folder, &["completions", shell]);
        for command in ["setup", "sweep", "restore"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    for command in [
        "setup",
        "migrate",
        "clear",
        "drop",
        "stats",
        "list",
        "show",
        "revoke",
        "sweep",
        "compact",
        "backup",
        "restore",
        "doctor",
        "completions",
        "man",
    ] {
        assert!(help.contains(command) && man.contains(command), "{command}");
        assert!(done(&folder, &["man", command]).contains(".TH"), "{command}");
        assert!(done(&folder, &[command, "--help"]).contains("Usage:"), "{command}");
    }
    assert!(fs::read_dir(folder.path("")).unwrap().next().is_none(), "no file was made");
    assert!(done(&folder, &["--version"]).contains(env!("CARGO_PKG_VERSION")));
}
