//! Missing, foreign, newer, damaged and read-only files: an error with a remedy, and no change.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use cloakroom::SqliteStore;
use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::common::Folder;
use crate::fixture::{
    Ran, begin, count, damage, done, fill, is_intact, names, number, open, program, run, set_up,
    with_store,
};

const MINUTE: Duration = Duration::from_secs(60);

/// Every command that needs a database, without those that create one.
fn commands(folder: &Folder) -> Vec<Vec<String>> {
    let copy = folder.path("copy.db").display().to_string();
    let public_id = "0123456789abcdef0123456789abcdef";
    [
        &["clear", "--yes"][..],
        &["drop", "--yes"],
        &["stats"],
        &["stats", "--json"],
        &["list"],
        &["list", "--expired"],
        &["list", "--user", "ada"],
        &["list", "--realm", "__Host-id"],
        &["list", "--realm", "__Host-id", "--expired"],
        &["show", public_id],
        &["revoke", public_id],
        &["revoke", "--user", "ada"],
        &["revoke", "--user", "ada", "--except", public_id],
        &["revoke", "--all", "--yes"],
        &["revoke", "--all", "--realm", "__Host-id", "--yes"],
        &["sweep"],
        &["compact", "--yes"],
        &["backup", &copy],
        &["doctor"],
    ]
    .iter()
    .map(|words| words.iter().map(|word| (*word).to_owned()).collect())
    .collect()
}

fn each(folder: &Folder, check: impl Fn(&[&str], Ran)) {
    for command in commands(folder) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let ran = run(folder, &words);
        assert_eq!(ran.err.lines().count(), 1, "{words:?}: {}", ran.err);
        assert!(!folder.path("copy.db").exists(), "{words:?}");
        check(&words, ran);
    }
}

#[test]
fn a_missing_file_is_not_created() {
    let folder = Folder::new();
    each(&folder, |words, ran| {
        assert_eq!(ran.code, 3, "{words:?}: {}", ran.err);
        assert!(ran.err.contains("`setup`"), "{words:?}: {}", ran.err);
        assert!(fs::read_dir(folder.path("")).unwrap().next().is_none(), "{words:?}");
    });
    let missing = folder.path("no/folder/app.db").display().to_string();
    assert_eq!(run(&folder, &["stats", "--db", &missing]).code, 3);
    assert_eq!(run(&folder, &["setup", "--db", &missing]).code, 1);
}

#[test]
fn a_database_without_our_tables_is_not_changed() {
    let folder = Folder::new();
    let host = "CREATE TABLE customers (name TEXT)";
    Connection::open(folder.database()).unwrap().execute_batch(host).unwrap();
    let before = fs::read(folder.database()).unwrap();
    each(&folder, |words, ran| {
        let code = if words[0] == "doctor" { 1 } else { 3 };
        assert_eq!(ran.code, code, "{words:?}: {}", ran.err);
        assert_eq!(fs::read(folder.database()).unwrap(), before, "{words:?}");
    });
}

#[test]
fn a_failure_is_one_line_with_its_reason_once() {
    let folder = Folder::new();
    fs::write(folder.database(), "These are my notes. ".repeat(500)).unwrap();
    let check = |command: &[&str], ran: Ran| {
        let said = format!("{}{}", ran.err, ran.out);
        assert_eq!(said.matches("not a database").count(), 1, "{command:?}: {said}");
        // SQLite's error code has another text.
        assert!(!said.contains("rror code"), "{command:?}: {said}");
    };
    for command in ["stats", "list", "setup", "migrate"] {
        check(&[command], run(&folder, &[command]));
    }
    let ran = run(&folder, &["stats"]);
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[test]
fn foreign_tables_are_refused_and_not_changed() {
    for (spoil, words) in [
        ("CREATE TABLE cloakroom_sessions (id TEXT)", "choose another name with --table"),
        ("newer", "use the version of cloakroom that wrote it"),
        ("notes", "file is not a database"),
    ] {
        let folder = Folder::new();
        match spoil {
            "newer" => {
                open(&folder);
                let newer = "UPDATE cloakroom_migrations SET version = 1000";
                Connection::open(folder.database()).unwrap().execute(newer, []).unwrap();
            }
            "notes" => {
                fs::write(folder.database(), "These are my notes. ".repeat(500)).unwrap();
            }
            foreign => {
                Connection::open(folder.database()).unwrap().execute_batch(foreign).unwrap();
            }
        }
        let before = fs::read(folder.database()).unwrap();
        let check = |command: &[&str], ran: Ran| {
            assert_eq!(ran.code, 1, "{spoil}: {command:?}: {}", ran.err);
            let said = format!("{}{}", ran.err, ran.out);
            assert!(said.contains(words), "{spoil}: {command:?}: {said}");
            assert_eq!(fs::read(folder.database()).unwrap(), before, "{spoil}: {command:?}");
        };
        each(&folder, check);
        for command in [&["setup"][..], &["migrate"], &["migrate", "--dry-run"]] {
            check(command, run(&folder, command));
        }
    }
}

/// Runs it as a user without write permission, because root can write every file.
fn as_a_reader(folder: &Folder, args: &[&str]) -> Ran {
    let mut program = program(folder, args);
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
        program.uid(65_534).gid(65_534);
    }
    program.output().unwrap().into()
}

fn set_mode(folder: &Folder, name: &str, mode: u32) {
    fs::set_permissions(folder.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// Reads as a user without write permission, and fails unless that succeeds and leaves no file.
fn reads(folder: &Folder, public_id: &str) {
    let before = (fs::read(folder.database()).unwrap(), names(folder));
    let elsewhere = tempfile::tempdir().unwrap();
    fs::set_permissions(elsewhere.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let copy = elsewhere.path().join("copy.db").display().to_string();
    for words in [
        &["stats"][..],
        &["stats", "--json"],
        &["list"],
        &["list", "--expired"],
        &["list", "--user", "ada"],
        &["show", public_id, "--data"],
        &["migrate", "--dry-run"],
        &["backup", &copy],
    ] {
        let ran = as_a_reader(folder, words);
        assert_eq!(ran.code, 0, "{words:?}: {}", ran.err);
    }
    assert!(is_intact(Path::new(&copy)));
    let ran = as_a_reader(folder, &["doctor"]);
    assert!(ran.out.contains("note    access       here the file can only be read"), "{}", ran.out);
    for check in ["journal      wal", "integrity    ok", "sessions     all "] {
        assert!(ran.out.contains(&format!("ok      {check}")), "{check}: {}", ran.out);
    }
    assert_eq!((fs::read(folder.database()).unwrap(), names(folder)), before);
}

/// Fails unless every writing command is refused before it asks, in a line with a remedy.
fn writes_nothing(folder: &Folder, copy: &str) {
    let before = (fs::read(folder.database()).unwrap(), names(folder));
    let public_id = "0123456789abcdef0123456789abcdef";
    for words in [
        &["setup"][..],
        &["clear"],
        &["drop"],
        &["revoke", public_id],
        &["revoke", "--user", "ada"],
        &["revoke", "--all"],
        &["sweep"],
        &["compact"],
        &["restore", copy],
    ] {
        let ran = as_a_reader(folder, words);
        assert_eq!(ran.code, 1, "{words:?}: {}", ran.err);
        assert!(ran.err.contains("run this as the user who owns the file"), "{words:?}: {ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "{words:?}: {}", ran.err);
    }
    assert_eq!((fs::read(folder.database()).unwrap(), names(folder)), before);
}

#[test]
fn a_read_only_file_is_read_and_not_written() {
    let (folder, other) = (Folder::new(), Folder::new());
    let public_id = begin(&open(&folder), Some("ada"), MINUTE).public_id.to_string();
    let copy = other.path("copy of 100% ?.db").display().to_string();
    done(&folder, &["backup", &copy]);
    set_mode(&folder, "app.db", 0o444);
    // In a writable folder SQLite would create files that the owner cannot open.
    for mode in [0o555, 0o777] {
        set_mode(&folder, "", mode);
        reads(&folder, &public_id);
        writes_nothing(&folder, &copy);
    }
    set_mode(&folder, "", 0o755);
    // While the owner has it open, with changes that are only in the log.
    let store = open(&folder);
    let newest = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    for name in ["app.db-wal", "app.db-shm"] {
        set_mode(&folder, name, 0o644);
    }
    reads(&folder, &newest);
    writes_nothing(&folder, &copy);
    begin(&store, Some("ada"), MINUTE);
}

#[test]
fn a_file_in_a_read_only_folder_is_read_and_restored() {
    let folder = Folder::new();
    let public_id = begin(&open(&folder), Some("ada"), MINUTE).public_id.to_string();
    set_mode(&folder, "app.db", 0o666);
    set_mode(&folder, "", 0o555);
    reads(&folder, &public_id);
    writes_nothing(&folder, &folder.database().display().to_string());
    // As a copy on a disk that is mounted read-only.
    set_mode(&folder, "app.db", 0o444);
    let other = Folder::new();
    set_mode(&other, "", 0o777);
    let copy = folder.database().display().to_string();
    let ran = as_a_reader(&other, &["restore", &copy, "--keep", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(count(&other), 1);
    set_mode(&folder, "", 0o755);
}

#[test]
fn a_log_that_cannot_be_read_is_an_error() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    let copied = Folder::new();
    for name in ["app.db", "app.db-wal"] {
        fs::copy(folder.path(name), copied.path(name)).unwrap();
        set_mode(&copied, name, 0o444);
    }
    for mode in [0o555, 0o777] {
        set_mode(&copied, "", mode);
        for words in [&["stats"][..], &["list"]] {
            let ran = as_a_reader(&copied, words);
            assert_eq!(ran.code, 1, "{words:?}: {ran:?}");
            assert!(ran.err.contains("changes are in the log beside it"), "{}", ran.err);
            assert_eq!(names(&copied).len(), 2, "{words:?}");
        }
    }
    set_mode(&copied, "", 0o755);
}

#[test]
fn a_folder_in_place_of_the_file_is_reported() {
    let folder = Folder::new();
    fs::create_dir(folder.database()).unwrap();
    each(&folder, |words, ran| {
        assert_eq!(ran.code, 1, "{words:?}: {}", ran.err);
        let said = format!("{}{}", ran.err, ran.out);
        assert!(said.contains("it is a folder"), "{words:?}: {said}");
    });
}

#[test]
fn a_link_is_followed_to_its_file() {
    let folder = Folder::new();
    let public_id = begin(&open(&folder), Some("ada"), MINUTE).public_id.to_string();
    std::os::unix::fs::symlink(folder.database(), folder.path("link.db")).unwrap();
    let link = folder.path("link.db").display().to_string();
    let listed = done(&folder, &["list", "--db", &link]);
    assert!(listed.contains(&public_id), "{listed}");
    let copy = folder.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy, "--db", &link]);
    done(&folder, &["restore", &copy, "--yes", "--db", &link]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(count(&folder), 0);
    // Neither a restore from itself through a link, nor a copy onto a link.
    for args in [&["restore", link.as_str(), "--yes"][..], &["backup", &link]] {
        assert_eq!(run(&folder, args).code, 1, "{args:?}");
    }
    assert!(is_intact(&folder.database()));
}

#[test]
fn damage_anywhere_is_one_line_with_a_remedy() {
    let other = Folder::new();
    begin(&open(&other), Some("ada"), MINUTE);
    let copy = other.database().display().to_string();
    let root =
        |name: &str| format!("SELECT rootpage FROM sqlite_schema WHERE name = 'cloakroom_{name}'");
    let leaf = "SELECT max(pageno) FROM dbstat WHERE name = 'cloakroom_sessions'".to_owned();
    for place in [
        "SELECT 1".to_owned(),
        root("migrations"),
        root("sessions"),
        root("sessions_meta"),
        root("sessions_replaced"),
        root("sessions_replaced_forget"),
        root("sessions_deadline"),
        root("sessions_user"),
        leaf,
    ] {
        let folder = set_up();
        fill(&folder, 2000, true);
        damage(&folder, number(&folder.database(), &place));
        let before = fs::read(folder.database()).unwrap();
        let is_header = place == "SELECT 1";
        if place == root("migrations") {
            let error = SqliteStore::open(folder.database()).unwrap_err().to_string();
            let path = folder.database();
            let begin = format!("cannot read the history of migrations in {}: ", path.display());
            assert!(error.starts_with(&begin), "{error}");
            assert!(error.ends_with(": see \"Damage\" in docs/operating.md"), "{error}");
        }
        let way_out = if is_header {
            "move it away with its -wal and -shm, and `restore` a copy"
        } else {
            "; without one see \"Damage without a copy\" in docs/rescue.md"
        };
        for command in commands(&folder) {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let ran = run(&folder, &words);
            // A command that does not read the damaged page succeeds.
            assert!([0, 1, 4].contains(&ran.code), "{place}: {ran:?}");
            if words[0] == "doctor" {
                assert_eq!(ran.code, 1, "{place}: {ran:?}");
                assert!(!ran.out.contains("run `doctor`"), "{place}: {ran:?}");
                assert_eq!(ran.out.contains("PROBLEM integrity"), !is_header, "{place}: {ran:?}");
            } else if ran.code == 1 {
                let said = ran.err.lines().last().unwrap();
                assert!(said.starts_with("cloakroom: cannot "), "{place}: {words:?}: {said}");
                assert!(said.ends_with(way_out), "{place}: {words:?}: {said}");
                let twice =
                    ["malformed", "not a database"].map(|words| said.matches(words).count());
                assert!(twice.iter().all(|times| *times < 2), "{place}: {said}");
            }
            assert!(!folder.path("copy.db").exists(), "{place}: {words:?}");
            fs::write(folder.database(), &before).unwrap();
            for beside in ["app.db-wal", "app.db-shm"] {
                let _ = fs::remove_file(folder.path(beside));
            }
        }
        // The remedy works.
        if is_header {
            fs::remove_file(folder.database()).unwrap();
        }
        let ran = run(&folder, &["restore", &copy, "--keep", "--yes"]);
        assert_eq!(ran.code, 0, "{place}: {}", ran.err);
        assert!(!ran.err.contains("other table"), "{place}: {}", ran.err);
        assert!(is_intact(&folder.database()) && count(&folder) == 1, "{place}");
    }
}
