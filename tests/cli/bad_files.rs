//! Files that are missing, foreign, newer, damaged, or not to be written: words, and no change.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::time::Duration;

use cloakroom::rusqlite::Connection;

use crate::common::Folder;
use crate::given::{Ran, begin, open, program, run};

/// Every command that needs a database, but those that make one.
fn commands(folder: &Folder) -> Vec<Vec<String>> {
    let copy = folder.path("copy.db").display().to_string();
    let handle = "0123456789abcdef0123456789abcdef";
    [
        &["clear", "--yes"][..],
        &["drop", "--yes"],
        &["stats"],
        &["stats", "--json"],
        &["list"],
        &["list", "--expired"],
        &["list", "--user", "ada"],
        &["show", handle],
        &["revoke", handle],
        &["revoke", "--user", "ada"],
        &["revoke", "--user", "ada", "--except", handle],
        &["revoke", "--all", "--yes"],
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
fn a_missing_file_is_not_set_up_and_is_not_made() {
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
fn a_database_without_our_tables_is_not_set_up_and_stays_as_it_is() {
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
fn what_is_not_ours_is_refused_and_stays_as_it_is() {
    for (spoil, words) in [
        ("CREATE TABLE cloakroom_sessions (id TEXT)", "choose another name with --table"),
        ("newer", "use the version of cloakroom that wrote it"),
        ("notes", "the database is damaged"),
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

#[test]
fn a_file_that_may_not_be_written_is_refused_in_words() {
    let folder = Folder::new();
    begin(&open(&folder), None, Duration::from_secs(60));
    let set = |name: &str, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.path(name), permissions).unwrap();
    };
    set("app.db", 0o444);
    set("", 0o555);
    let before = fs::read(folder.database()).unwrap();
    for command in commands(&folder) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let mut program = program(&folder, &words);
        // Root may write everything, so somebody else tries.
        if fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
            program.uid(65_534).gid(65_534);
        }
        let ran = Ran::from(program.output().unwrap());
        assert_eq!(ran.code, 1, "{words:?}: {}", ran.err);
        let said = format!("{}{}", ran.err, ran.out);
        assert!(said.contains("run this as the user who owns the file"), "{words:?}: {said}");
        assert_eq!(fs::read(folder.database()).unwrap(), before, "{words:?}");
    }
    set("", 0o755);
}
