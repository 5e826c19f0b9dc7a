//! `doctor`: finds each problem.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::common::Folder;
use crate::fixture::{
    DAY, Ran, begin, done, fill, is_root, json, number, open, run, set_up, start, with_store,
};

const MINUTE: Duration = Duration::from_secs(60);

/// The checks that find a problem, with their texts.
fn wrong(folder: &Folder, args: &[&str]) -> Vec<(String, String)> {
    let ran = run(folder, &[&["doctor", "--json"], args].concat());
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let wrong: Vec<_> = findings
        .iter()
        .filter(|finding| finding["severity"] == "problem")
        .map(|finding| {
            assert!(finding["remedy"].as_str().is_some_and(|words| !words.is_empty()), "{finding}");
            let text = |name: &str| finding[name].as_str().unwrap().to_owned();
            (text("check"), text("found"))
        })
        .collect();
    assert_eq!(answer["problems"], wrong.len());
    assert_eq!(ran.code, i32::from(!wrong.is_empty()), "{}", ran.err);
    wrong
}

fn only(folder: &Folder, check: &str, words: &str) {
    let found = wrong(folder, &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, check, "{found:?}");
    assert!(found[0].1.contains(words), "{found:?}");
}

#[test]
fn a_sound_database_has_no_problem() {
    let folder = Folder::new();
    let store = open(&folder);
    begin(&store, Some("ada"), MINUTE);
    assert_eq!(wrong(&folder, &[]), []);
    assert_eq!(wrong(&folder, &["--quick"]), []);
    let shown = done(&folder, &["doctor"]);
    for check in [
        "ok      file ",
        "ok      permissions ",
        "ok      file system ",
        "ok      disk ",
        "ok      journal ",
        "ok      log ",
        "ok      tables ",
        "ok      integrity ",
        "ok      cleaner ",
        "ok      sessions ",
        "ok      realms ",
        "ok      clock ",
        "note    cookie ",
    ] {
        assert!(shown.contains(check), "{check}: {shown}");
    }
    let answer = json(&folder, &["doctor", "--json"]);
    let keys: Vec<_> = answer["findings"][0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["check", "found", "remedy", "severity"]);
}

#[test]
fn tables_created_less_than_a_day_ago_are_noted() {
    let folder = set_up();
    let created = |ago: i64| {
        let sql = "UPDATE cloakroom_migrations SET applied = ?1";
        let applied = crate::fixture::now().as_millis() - ago * 1000;
        Connection::open(folder.database()).unwrap().execute(sql, [applied]).unwrap();
        done(&folder, &["doctor"])
    };
    assert!(created(190).contains("note    tables       the tables were created 3 minutes ago\n"));
    assert!(!created(90_000).contains("the tables were created"));
}

#[test]
fn permissions_for_other_users_are_found() {
    let folder = Folder::new();
    let _store = open(&folder);
    let set = |name: &str, mode| {
        fs::set_permissions(folder.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    set("app.db", 0o640);
    only(&folder, "permissions", "(mode 640)");
    set("app.db", 0o600);
    set("app.db-wal", 0o604);
    only(&folder, "permissions", "app.db-wal (mode 604)");
    set("app.db-wal", 0o600);
    set("", 0o777);
    only(&folder, "permissions", "any user can replace files");
    set("", 0o1777);
    assert_eq!(wrong(&folder, &[]), []);
}

#[test]
fn a_lock_that_is_held_is_found() {
    let folder = set_up();
    let other = Connection::open(folder.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    only(&folder, "access", "database is locked: another connection holds the lock");
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(wrong(&folder, &[]), []);
}

#[test]
fn a_file_replaced_while_a_process_has_it_open_is_found() {
    let (folder, store) = with_store();
    begin(&store, None, MINUTE);
    let in_use = format!("(process {})", std::process::id());
    assert!(done(&folder, &["doctor"]).contains(&in_use));
    let copy = folder.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    // The first one stays under another name; the second is deleted by the third.
    fs::rename(folder.database(), folder.path("moved.db")).unwrap();
    fs::copy(&copy, folder.database()).unwrap();
    only(&folder, "in use", &format!("{in_use} has a file open that was deleted, moved"));
    fs::rename(folder.path("moved.db"), folder.database()).unwrap();
    assert_eq!(wrong(&folder, &[]), []);
    fs::rename(&copy, folder.database()).unwrap();
    only(&folder, "in use", &format!("{in_use} has a file open that was deleted, moved"));
}

#[test]
fn a_limit_on_the_size_of_files_is_found() {
    let folder = set_up();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -f 1000; exec \"$0\" doctor", env!("CARGO_BIN_EXE_cloakroom")]);
    let ran: Ran = shell.env("CLOAKROOM_DB", folder.database()).output().unwrap().into();
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains("PROBLEM file size    files of cloakroom (process "), "{ran:?}");
}

#[test]
fn a_kept_journal_mode_is_noted() {
    let folder = Folder::new();
    done(&folder, &["setup", "--keep-journal"]);
    let _service = Connection::open(folder.database()).unwrap();
    let noted = "note    journal      delete: readers and the writer wait for each other";
    assert!(done(&folder, &["doctor"]).contains(noted));
}

#[test]
fn a_journal_mode_that_the_service_changes_is_noted() {
    let (folder, other) = (Folder::new(), Folder::new());
    done(&folder, &["setup", "--keep-journal"]);
    let copy = other.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    done(&other, &["restore", &copy, "--yes"]);
    assert!(done(&other, &["doctor"]).contains("note    journal      delete, until the service"));
    let _service = open(&other);
    assert!(done(&other, &["doctor"]).contains("ok      journal      wal"));
}

#[test]
fn files_of_another_user_than_the_services_are_found() {
    if !is_root() {
        return;
    }
    const USER: u32 = 65_534;
    let folder = Folder::new();
    let give = |name: &str, user| chown(folder.path(name), Some(user), None).unwrap();
    give("", USER);
    done(&folder, &["setup"]);
    let mut service = std::process::Command::new("sh");
    service.args(["-c", "exec 3<\"$0\"; echo; read _"]).arg(folder.database());
    let mut service = start(service.uid(USER).gid(USER).stdin(Stdio::piped()));
    let mut line = [0];
    service.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(wrong(&folder, &[]), []);
    for name in ["", "app.db"] {
        give(name, 0);
    }
    let found = wrong(&folder, &[]);
    let words = format!("do not belong to user {USER}, who runs sh (process {})", service.id());
    assert!(found[0].1.contains("app.db, /") && found[0].1.ends_with(&words), "{found:?}");
    drop(service.stdin.take());
    service.wait().unwrap();
    assert_eq!(wrong(&folder, &[]), []);
    let shown = done(&folder, &["doctor"]);
    assert!(shown.contains("note    permissions  only root can use the file; the"), "{shown}");
}

#[test]
fn a_damaged_index_is_found() {
    let folder = set_up();
    fill(&folder, 300, true);
    let deadline = "SELECT rootpage FROM sqlite_schema WHERE name = 'cloakroom_sessions_deadline'";
    let page = usize::try_from(number(&folder.database(), deadline)).unwrap();
    let mut bytes = fs::read(folder.database()).unwrap();
    bytes[page * 4096 - 600..page * 4096 - 8].fill(0);
    fs::write(folder.database(), bytes).unwrap();
    let found = wrong(&folder, &[]);
    assert!(found.iter().any(|(check, _)| check == "integrity"), "{found:?}");
}

#[test]
fn sessions_that_do_not_decode_are_found() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    let spoilt = begin(&store, None, MINUTE).public_id;
    let spoil = "UPDATE cloakroom_sessions SET data = 'no' WHERE user_key IS NULL";
    Connection::open(folder.database()).unwrap().execute(spoil, []).unwrap();
    only(&folder, "sessions", &format!("1 of 2 do not decode, such as {spoilt}"));
}

#[test]
fn overdue_sessions_are_found() {
    let (folder, store) = with_store();
    // Expired, but the cleaner may not have run yet.
    begin(&store, None, DAY + MINUTE * 5);
    assert_eq!(wrong(&folder, &[]), []);
    begin(&store, None, DAY + MINUTE * 20);
    only(&folder, "cleaner", "1 expired more than 15 minutes ago");
}

#[test]
fn a_clock_that_is_ahead_is_found() {
    let folder = Folder::new();
    begin(&open(&folder), None, MINUTE);
    let ahead = |seconds: i64| {
        let seen = crate::fixture::now().as_millis() + seconds * 1000;
        let sql = "UPDATE cloakroom_sessions SET seen = ?1";
        Connection::open(folder.database()).unwrap().execute(sql, [seen]).unwrap();
    };
    ahead(30);
    assert_eq!(wrong(&folder, &[]), []);
    ahead(7200);
    only(&folder, "clock", "in the future");
    assert!(run(&folder, &["doctor"]).out.contains("goes away by itself, at the latest at 20"));
    assert_eq!(wrong(&folder, &["--quick"])[0].0, "clock");
}
