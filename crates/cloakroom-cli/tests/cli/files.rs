//! Owners, names and schema of the file: each problem has a message, and a finding of `doctor`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{ErrorKind, SqliteStore};

use crate::common::Folder;
use crate::fixture::{
    Ran, begin, count, damage, done, fails, fill, is_intact, is_root, json, names, number, open,
    program, run, set_up, with_store,
};

const MINUTE: Duration = Duration::from_secs(60);

/// A user without rights; its name differs between systems.
const OTHER: u32 = 65_534;

fn as_other(folder: &Folder, args: &[&str]) -> Ran {
    program(folder, args).uid(OTHER).gid(OTHER).output().unwrap().into()
}

fn give(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder and a database of the user without rights.
fn of_other() -> Folder {
    let folder = Folder::new();
    give(&folder.path(""), OTHER);
    assert_eq!(as_other(&folder, &["setup"]).code, 0);
    folder
}

/// Fails unless commands that write are refused with these words and a remedy.
fn is_denied(folder: &Folder, words: &str) {
    for command in [&["setup"][..], &["revoke", "--user", "ada"], &["sweep"]] {
        let ran = as_other(folder, command);
        assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
        assert!(ran.err.contains("permission denied to "), "{command:?}: {}", ran.err);
        assert!(ran.err.contains(words), "{command:?}: {words}: {}", ran.err);
        assert!(ran.err.contains("; run this as the user who owns the file"), "{}", ran.err);
        assert!(!ran.err.contains("error code") && !ran.err.contains("os error"), "{}", ran.err);
    }
}

/// Returns the texts of a check in which `doctor` finds a problem.
fn problems(ran: &Ran, check: &str) -> Vec<String> {
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let is_it = |finding: &&serde_json::Value| {
        finding["check"] == check && finding["severity"] == "problem"
    };
    findings.iter().filter(is_it).map(|one| one["found"].as_str().unwrap().to_owned()).collect()
}

/// Returns the text of the only problem that `doctor` finds.
fn only_problem(folder: &Folder, check: &str) -> String {
    let ran = run(folder, &["doctor", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(answer["problems"], 1, "{answer}");
    problems(&ran, check).pop().unwrap()
}

#[test]
fn a_database_of_root_is_an_error_that_names_owner_and_mode() {
    if !is_root() {
        return;
    }
    let folder = of_other();
    give(&folder.database(), 0);
    is_denied(&folder, "app.db belongs to root and has mode 600");
    for command in ["stats", "list"] {
        let said = as_other(&folder, &[command]).err;
        assert!(said.contains("app.db belongs to root and has mode 600"), "{said}");
    }
    let found = problems(&as_other(&folder, &["doctor", "--json"]), "file");
    assert!(found[0].contains("app.db belongs to root and has mode 600"), "{found:?}");
    let found = problems(&run(&folder, &["doctor", "--json"]), "permissions");
    assert!(found[0].contains("app.db belongs to root and its folder to "), "{found:?}");
    // A process that ends while it closes the database leaves an empty log, here one of root.
    for name in names(&folder) {
        give(&folder.path(&name), OTHER);
    }
    let ran = as_other(&folder, &["sweep"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(problems(&run(&folder, &["doctor", "--json"]), "permissions"), [""; 0]);
}

#[test]
fn a_folder_of_root_is_an_error_that_names_owner_and_mode() {
    if !is_root() {
        return;
    }
    let folder = of_other();
    give(&folder.path(""), 0);
    set_mode(&folder.path(""), 0o755);
    is_denied(&folder, "belongs to root and has mode 755");
    for ran in [as_other(&folder, &["doctor", "--json"]), run(&folder, &["doctor", "--json"])] {
        let found = problems(&ran, "permissions");
        assert!(found[0].contains("cannot create its -wal and -shm in "), "{found:?}");
    }
    fs::remove_file(folder.database()).unwrap();
    let said = as_other(&folder, &["setup"]).err;
    assert!(said.contains("belongs to root and has mode 755"), "{said}");
    // A copy into that folder.
    let other = of_other();
    let copy = folder.path("copy.db").display().to_string();
    let said = as_other(&other, &["backup", &copy]).err;
    assert!(said.contains("belongs to root and has mode 755"), "{said}");
}

#[test]
fn a_folder_above_that_cannot_be_searched_is_named() {
    if !is_root() {
        return;
    }
    let above = Folder::new();
    set_mode(&above.path(""), 0o700);
    fs::create_dir(above.path("app")).unwrap();
    give(&above.path("app"), OTHER);
    let path = above.path("app/app.db").display().to_string();
    let said = as_other(&above, &["stats", "--db", &path]).err;
    assert!(said.contains(" belongs to root and has mode 700"), "{said}");
}

#[test]
fn a_log_of_root_is_an_error_that_names_it() {
    if !is_root() {
        return;
    }
    let folder = of_other();
    let store = open(&folder);
    begin(&store, Some("ada"), MINUTE);
    for name in ["app.db-wal", "app.db-shm"] {
        give(&folder.path(name), 0);
    }
    is_denied(&folder, "app.db-wal belongs to root and has mode 600");
    let said = as_other(&folder, &["stats"]).err;
    assert!(said.contains("app.db-wal belongs to root and has mode 600"), "{said}");
    // A command of root gives them back: SQLite does.
    assert_eq!(problems(&run(&folder, &["doctor", "--json"]), "permissions"), [""; 0]);
    assert_eq!(as_other(&folder, &["sweep"]).code, 0);
}

#[test]
fn a_file_that_root_makes_belongs_to_the_owner_of_its_folder() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    give(&folder.path(""), OTHER);
    let ran = run(&folder, &["setup"]);
    assert!(ran.err.contains("as its folder does"), "{ran:?}");
    let owner = || {
        let found = fs::metadata(folder.database()).unwrap();
        (found.uid(), found.gid(), found.mode() & 0o777)
    };
    assert_eq!(owner(), (OTHER, OTHER, 0o600));
    assert_eq!(as_other(&folder, &["sweep"]).code, 0);
    let other = Folder::new();
    let copy = other.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    assert_eq!(fs::metadata(&copy).unwrap().uid(), 0, "a copy stays private");
    fs::remove_file(folder.database()).unwrap();
    done(&folder, &["restore", &copy, "--yes"]);
    assert_eq!(owner(), (OTHER, OTHER, 0o600));
    // In a folder of root the file is root's, which may be wrong.
    let ran = run(&other, &["setup"]);
    assert!(ran.err.contains("`chown` it to the service's user"), "{ran:?}");
    // Beside a running service nothing changes.
    let store = open(&folder);
    begin(&store, Some("ada"), MINUTE);
    let ran = run(&folder, &["setup"]);
    assert!(ran.out.starts_with("already set up: ") && ran.err.is_empty(), "{ran:?}");
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        assert_eq!(fs::metadata(folder.path(name)).unwrap().uid(), OTHER, "{name}");
    }
}

#[test]
fn a_deleted_database_is_not_set_up_beside_its_log() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    let other = Folder::new();
    let copy = other.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    fs::remove_file(folder.database()).unwrap();
    let rescue = "do not stop the program yet, and keep -wal: see \"A deleted database\"";
    for command in
        [&["stats"][..], &["revoke", "--all", "--yes"], &["setup"], &["restore", &copy, "--yes"]]
    {
        // Not 3, after which a script might set it up.
        let said = fails(&folder, command, 1);
        let process = format!("(process {})", std::process::id());
        assert!(said.contains("app.db is missing, and open in ") && said.contains(&process));
        assert!(said.contains(rescue), "{said}");
    }
    let found = run(&folder, &["doctor"]).out;
    assert!(found.contains("PROBLEM in use       ") && found.contains(rescue), "{found}");
    assert!(found.contains("app.db is missing, and open in "), "{found}");
    let log = fs::read(folder.path("app.db-wal")).unwrap();
    assert!(!folder.database().exists());
    // A service that starts again refuses too: SQLite would remove the log.
    let error = SqliteStore::open(folder.database()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("app.db-wal exists, the log of a deleted"), "{error}");
    assert!(!folder.database().exists());
    assert_eq!(fs::read(folder.path("app.db-wal")).unwrap(), log);
    drop(store);
    fs::write(folder.path("app.db-wal"), &log).unwrap();
    let words = "app.db-wal exists, the log of a deleted database; keep the -wal file; do not run \
                 `setup`: see \"The rescue from the log\" in docs/rescue.md";
    for command in [&["setup"][..], &["restore", &copy]] {
        let said = fails(&folder, command, 1);
        assert!(said.contains(words), "{said}");
    }
    for name in ["app.db-wal", "app.db-shm"] {
        let _ = fs::rename(folder.path(name), other.path(name));
    }
    done(&folder, &["restore", &copy, "--yes"]);
    assert_eq!(count(&folder), 0);
}

/// Commands that change or read sessions, with a copy to restore.
fn commands(copy: &str) -> [Vec<&str>; 14] {
    [
        vec!["stats"],
        vec!["list"],
        vec!["backup", "/no/such/folder/copy.db"],
        vec!["setup"],
        vec!["setup", "--keep-journal"],
        vec!["migrate"],
        vec!["migrate", "--dry-run"],
        vec!["revoke", "--user", "ada"],
        vec!["revoke", "--all", "--yes"],
        vec!["sweep"],
        vec!["compact", "--yes"],
        vec!["clear", "--yes"],
        vec!["drop", "--yes"],
        vec!["restore", copy, "--yes"],
    ]
}

/// Fails unless a message names this process as one that has the former file open. The child of
/// another test may be a second one, until it executes its program.
fn is_lost(said: &str) {
    let process = format!("(process {})", std::process::id());
    let names_process = said.contains(&process) && said.contains(" a file open that was deleted, ");
    assert!(names_process, "{said}");
    let rescue = "do not stop the program yet, and keep -wal: see \"A deleted database\" in docs";
    assert!(said.contains(rescue) || said.ends_with("moved or replaced"), "{said}");
}

#[test]
fn a_replaced_database_is_not_changed_beside_its_log() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    let copy = folder.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    fs::copy(&copy, folder.path("new.db")).unwrap();
    fs::rename(folder.path("new.db"), folder.database()).unwrap();
    let log = fs::read(folder.path("app.db-wal")).unwrap();
    for command in &commands(&copy) {
        is_lost(&fails(&folder, command, 1));
    }
    is_lost(&only_problem(&folder, "in use"));
    assert_eq!(fs::read(folder.path("app.db-wal")).unwrap(), log);
    assert_eq!(fs::read(folder.database()).unwrap(), fs::read(&copy).unwrap());
    drop(store);
    done(&folder, &["sweep"]);
}

#[test]
fn a_deleted_log_is_not_replaced_while_it_is_open() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    let copy = folder.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    let before = fs::read(folder.database()).unwrap();
    fs::remove_file(folder.path("app.db-wal")).unwrap();
    for command in &commands(&copy) {
        is_lost(&fails(&folder, command, 1));
    }
    is_lost(&only_problem(&folder, "in use"));
    assert_eq!(fs::read(folder.database()).unwrap(), before);
    assert!(!folder.path("app.db-wal").exists());
}

#[test]
fn a_link_to_a_deleted_database_names_its_process() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    symlink(folder.database(), folder.path("link.db")).unwrap();
    fs::remove_file(folder.database()).unwrap();
    let link = folder.path("link.db").display().to_string();
    for command in ["stats", "setup"] {
        let said = fails(&folder, &[command, "--db", &link], 1);
        assert!(said.contains("app.db is missing, and open in "), "{said}");
    }
    let said = run(&folder, &["doctor", "--db", &link]).out;
    assert!(said.contains("PROBLEM in use "), "{said}");
    assert!(said.contains("app.db is missing, and open in "), "{said}");
}

/// Mounts `from` at `to` for a shell that has the database in the folder `to`, or `to` itself,
/// open, and its log. Returns `None` where this is impossible.
fn container(from: &Path, to: &Path) -> Option<Child> {
    let script = "mount --bind \"$1\" \"$2\" || exit; test -f \"$2\" || set \"$1\" \"$2/app.db\"
        exec 3<\"$2\" 4<\"$2-wal\"; echo open; read _";
    let mut shell = std::process::Command::new("unshare");
    shell.args(["--mount", "sh", "-c", script, "sh"]).arg(from).arg(to);
    let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut shell = shell.ok()?;
    let mut line = String::new();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line != "open\n" {
        eprintln!("skipped: unshare may not mount");
        shell.wait().unwrap();
        return None;
    }
    Some(shell)
}

fn stop(mut shell: Child) {
    drop(shell.stdin.take());
    shell.wait().unwrap();
}

#[test]
fn a_container_with_another_folder_at_the_path_is_ignored() {
    let (folder, other) = (set_up(), set_up());
    fs::write(other.path("app.db-wal"), "").unwrap();
    let Some(shell) = container(&other.path(""), &folder.path("")) else { return };
    done(&folder, &["sweep"]);
    done(&folder, &["doctor", "--quick"]);
    stop(shell);
}

#[test]
fn a_container_with_the_folder_at_another_path_is_found() {
    let (folder, other) = (set_up(), Folder::new());
    let _store = open(&folder);
    let Some(shell) = container(&folder.path(""), &other.path("")) else { return };
    let found = done(&folder, &["doctor", "--quick"]);
    assert!(found.contains(&format!("by sh (process {})", shell.id())), "{found}");
    done(&folder, &["sweep"]);
    stop(shell);
}

#[test]
fn a_file_mounted_alone_is_refused_while_it_is_used() {
    let (folder, other) = (set_up(), Folder::new());
    for name in ["app.db", "app.db-wal"] {
        fs::write(other.path(name), "").unwrap();
    }
    let Some(shell) = container(&folder.database(), &other.database()) else { return };
    let words = format!(
        "sh (process {}) uses it by another name or mount, {}, with a log of its own",
        shell.id(),
        other.database().display()
    );
    for command in [&["revoke", "--all", "--yes"][..], &["stats"], &["sweep"]] {
        let said = fails(&folder, command, 1);
        assert!(said.contains(&words), "{said}");
        assert!(said.contains("see \"A second name\" in docs/rescue.md"), "{said}");
    }
    assert!(only_problem(&folder, "in use").contains(&words));
    stop(shell);
    done(&folder, &["sweep"]);
}

#[test]
fn an_emptied_database_is_not_set_up_beside_its_log() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    let copy = Folder::new().path("copy.db").display().to_string();
    fs::write(folder.database(), "").unwrap();
    let log = fs::read(folder.path("app.db-wal")).unwrap();
    for command in [&["setup"][..], &["stats"], &["sweep"], &["restore", &copy, "--yes"]] {
        let said = run(&folder, command).err;
        let words = "app.db-wal exists, the log of an emptied database; keep the -wal file; do not";
        assert!(said.contains(words), "{command:?}: {said}");
    }
    assert!(only_problem(&folder, "file").contains("the log of an emptied database"));
    let error = SqliteStore::open(folder.database()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(fs::read(folder.path("app.db-wal")).unwrap(), log);
    assert_eq!(fs::metadata(folder.database()).unwrap().len(), 0);
}

#[test]
fn an_empty_file_is_reported_with_what_to_do() {
    let (folder, store) = with_store();
    let copy = folder.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    drop(store);
    fs::write(folder.database(), "").unwrap();
    assert!(only_problem(&folder, "file").contains("the file is empty"));
    for command in [&["stats"][..], &["migrate"], &["revoke", "--all", "--yes"]] {
        let said = fails(&folder, command, 3);
        assert!(said.contains("the file is empty; check --db; if a service used this"), "{said}");
        assert!(said.contains("keep the -wal file and do not run `setup`"), "{said}");
        assert!(!said.contains("stop the program"), "{said}");
    }
    assert_eq!(names(&folder).len(), 2, "no log was made");
    done(&folder, &["restore", &copy, "--yes"]);
    assert!(is_intact(&folder.database()) && count(&folder) == 0);
}

#[test]
fn a_change_under_a_second_name_is_refused() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    fs::hard_link(folder.database(), folder.path("other.db")).unwrap();
    let (other, copy) = (folder.path("other.db"), folder.path("copy.db"));
    let (other, copy) = (other.display().to_string(), copy.display().to_string());
    done(&folder, &["backup", &copy]);
    let refuses = |words: &str| {
        for command in [
            &["revoke", "--user", "ada"][..],
            &["sweep"],
            &["clear", "--yes"],
            &["setup"],
            &["compact", "--yes"],
            &["restore", &copy, "--yes"],
        ] {
            let ran = run(&folder, &[command, &["--db", &other]].concat());
            assert_eq!(ran.code, 1, "{command:?}: {ran:?}");
            assert!(ran.err.contains(words), "{command:?}: {ran:?}");
        }
    };
    refuses("uses it by another name or mount, ");
    let found = run(&folder, &["doctor", "--db", &other]).out;
    assert!(!found.contains("setup"), "{found}");
    assert!(found.contains(&format!("(process {})", std::process::id())), "{found}");
    // As after a kill.
    let files = ["app.db", "app.db-wal"].map(|name| (name, fs::read(folder.path(name)).unwrap()));
    drop(store);
    for (name, bytes) in files {
        fs::write(folder.path(name), bytes).unwrap();
    }
    refuses("use the name beside which there is a `-wal` with content, or");
    // The tables are in the log under the first name.
    for command in ["stats", "list"] {
        let said = fails(&folder, &[command, "--db", &other], 3);
        assert!(said.contains("it has a second name (it has 2 hard links)"), "{said}");
        assert!(!said.contains("setup"), "{said}");
    }
    let log = fs::metadata(folder.path("other.db-wal"));
    assert_eq!(log.map_or(0, |log| log.len()), 0, "nothing was written");
    assert_eq!(done(&folder, &["revoke", "--user", "ada"]), "ended 1 session in all realms\n");
}

#[test]
fn a_folder_in_which_no_log_can_be_made_is_found() {
    if !is_root() {
        return;
    }
    let folder = of_other();
    set_mode(&folder.path(""), 0o550);
    for ran in [as_other(&folder, &["doctor", "--json"]), run(&folder, &["doctor", "--json"])] {
        let found = problems(&ran, "permissions");
        assert!(found[0].contains(" cannot create -wal and -shm in "), "{found:?}");
    }
    let found = problems(&as_other(&folder, &["doctor", "--json"]), "access");
    assert!(found[0].contains("permission denied to "), "{found:?}");
    set_mode(&folder.path(""), 0o750);
    assert_eq!(as_other(&folder, &["doctor"]).code, 0);
}

#[test]
fn a_link_to_nothing_is_reported_with_its_target() {
    let folder = Folder::new();
    symlink("/no/such/disk/app.db", folder.database()).unwrap();
    let remedy = "; mount the disk to which the link leads, or correct the link; if the file there \
                  is lost, `restore` a copy with --db and the target of the link\n";
    for (command, code) in [("setup", 1), ("stats", 3), ("doctor", 3)] {
        let said = fails(&folder, &[command], code);
        assert!(said.contains("it is a link to /no/such/disk/app.db, where there is no"), "{said}");
        assert!(said.ends_with(remedy), "{said}");
    }
    // A restore, into the link and from it.
    let other = set_up();
    let (link, database) = (folder.database(), other.database());
    let (link, database) = (link.display().to_string(), database.display().to_string());
    let said = run(&folder, &["restore", &database, "--yes"]).err;
    assert!(said.contains("it is a link to /no/such/disk/app.db, where there is no"), "{said}");
    assert!(said.ends_with(remedy), "{said}");
    let said = run(&other, &["restore", &link, "--yes"]).err;
    assert!(said.contains("a link to /no/such/disk/app.db, where there is none"), "{said}");
    // What the message says.
    let target = folder.path("target.db");
    fs::remove_file(folder.database()).unwrap();
    symlink(&target, folder.database()).unwrap();
    done(&folder, &["restore", &database, "--yes", "--db", &target.display().to_string()]);
    assert_eq!(count(&folder), 0);
}

#[test]
fn a_uri_is_refused_before_it_makes_a_file() {
    let folder = Folder::new();
    for uri in ["file::memory:", "file:app.db?mode=ro", "sqlite:app.db"] {
        let mut setup = program(&folder, &["setup", "--db", uri]);
        let ran: Ran = setup.current_dir(folder.path("")).output().unwrap().into();
        assert_eq!(ran.code, 2, "{ran:?}");
        assert!(ran.err.contains("a URI is not a path"), "{ran:?}");
        assert!(fs::read_dir(folder.path("")).unwrap().next().is_none(), "{uri}");
    }
}

#[test]
fn a_second_name_is_found() {
    let folder = set_up();
    fs::hard_link(folder.database(), folder.path("other.db")).unwrap();
    assert!(only_problem(&folder, "name").contains("it has 2 hard links"));
    fs::remove_file(folder.path("other.db")).unwrap();
    done(&folder, &["doctor"]);
}

#[test]
fn triggers_and_foreign_keys_on_our_tables_are_found() {
    for (schema, check, words) in [
        (
            "CREATE TRIGGER odd AFTER DELETE ON cloakroom_sessions BEGIN SELECT 1; END",
            "triggers",
            "odd",
        ),
        ("CREATE TABLE visits (s REFERENCES cloakroom_sessions)", "references", "visits"),
        (
            "CREATE TABLE visits (s REFERENCES Cloakroom_Sessions (user_key) ON DELETE CASCADE)",
            "references",
            "visits",
        ),
        (
            "CREATE TABLE visits (s REFERENCES cloakroom_sessions (id_hash) ON DELETE CASCADE)",
            "references",
            "visits",
        ),
        (
            "CREATE TABLE visits (id INTEGER PRIMARY KEY,
                                  s REFERENCES cloakroom_sessions ON DELETE CASCADE);
             CREATE TABLE pages (visit REFERENCES visits)",
            "references",
            "pages",
        ),
    ] {
        let folder = set_up();
        Connection::open(folder.database()).unwrap().execute_batch(schema).unwrap();
        let found = only_problem(&folder, check);
        assert!(found.contains(words), "{found}");
    }
    let folder = set_up();
    let sound = "CREATE TABLE visits (s REFERENCES cloakroom_sessions ON DELETE CASCADE)";
    Connection::open(folder.database()).unwrap().execute_batch(sound).unwrap();
    done(&folder, &["doctor"]);
}

#[test]
fn a_session_that_a_table_keeps_is_revoked_all_the_same() {
    let (folder, store) = with_store();
    let public_id = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    begin(&store, Some("bob"), MINUTE);
    let keep = "CREATE TABLE visits (s INTEGER REFERENCES cloakroom_sessions);
                INSERT INTO visits SELECT id FROM cloakroom_sessions";
    Connection::open(folder.database()).unwrap().execute_batch(keep).unwrap();
    done(&folder, &["revoke", &public_id]);
    assert_eq!(json(&folder, &["list", "--json"])["sessions"].as_array().unwrap().len(), 1);
    done(&folder, &["revoke", "--all", "--yes"]);
    assert_eq!(json(&folder, &["stats", "--json"])["live"], 0);
    assert_eq!(count(&folder), 2);
    let ran = run(&folder, &["drop", "--yes"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("another table references the session"), "{ran:?}");
}

#[test]
fn a_damaged_page_is_reported_in_whole_lines() {
    let folder = set_up();
    fill(&folder, 2000, true);
    let page = "SELECT rootpage FROM sqlite_schema WHERE name = 'cloakroom_sessions_deadline'";
    damage(&folder, number(&folder.database(), page));
    let ran = run(&folder, &["doctor"]);
    assert!(ran.out.contains("PROBLEM integrity    Tree "), "{}", ran.out);
    assert!(!ran.out.contains("\\n") && !ran.out.contains("***"), "{}", ran.out);
}

#[test]
fn compacting_counts_the_log() {
    let (folder, store) = with_store();
    for _ in 0..50 {
        begin(&store, None, MINUTE);
    }
    let ran = run(&folder, &["compact", "--yes"]);
    assert!(ran.out.contains(" and a log of ") && ran.out.contains(" before, "), "{}", ran.out);
    assert!(!ran.out.split(" before, ").nth(1).unwrap().contains("log"), "{}", ran.out);
}

#[test]
fn an_unknown_user_is_answered_with_the_keys_of_others() {
    let (folder, store) = with_store();
    let none = fails(&folder, &["list", "--user", "ada"], 4);
    assert_eq!(none, "cloakroom: user ada has no live session\n");
    begin(&store, Some("42"), MINUTE);
    for command in [&["list", "--user", "ada"][..], &["revoke", "--user", "ada"]] {
        let said = fails(&folder, command, 4);
        assert!(said.ends_with("as the application names them, here such as 42\n"), "{said}");
    }
    done(&folder, &["revoke", "--user", "42"]);
    begin(&store, Some("43"), MINUTE);
    begin(&store, Some("44"), 2 * crate::fixture::DAY);
    let known = fails(&folder, &["list", "--user", "44"], 4);
    assert_eq!(known, "cloakroom: user 44 has no live session\n", "it has an expired one");
}

#[test]
fn the_secret_of_csrf_tokens_is_masked() {
    let (folder, store) = with_store();
    let public_id = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    let data = "{\"a\":1.10,\"cloakroom.csrf\":\"c2VjcmV0\",\"z\":\"cloakroom.csrf\"}";
    let connection = Connection::open(folder.database()).unwrap();
    connection.execute("UPDATE cloakroom_sessions SET data = ?1", [data]).unwrap();
    for json in [&["show", &public_id, "--data", "--json"][..], &["show", &public_id, "--data"]] {
        let shown = done(&folder, json);
        assert!(!shown.contains("c2VjcmV0"), "{shown}");
        assert!(shown.contains("(masked)") && shown.contains("1.10"), "{shown}");
    }
}

#[test]
fn a_held_lock_is_reported_with_its_causes() {
    let (folder, store) = with_store();
    begin(&store, Some("ada"), MINUTE);
    let other = Connection::open(folder.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let said = fails(&folder, &["revoke", "--user", "ada"], 1);
    let cause = "another connection holds the lock, of another program or of this one";
    assert!(said.contains(cause) && said.contains("`fuser -v`"), "{said}");
}

/// The environment variable with the folder in which a small disk is mounted.
const DISK: &str = "CLOAKROOM_TEST_DISK";

/// Runs a script in a folder on a disk of its own, which has this size. Returns `None` where this
/// is impossible.
fn on_a_disk(size: &str, script: &str) -> Option<Ran> {
    let folder = Folder::new();
    let script = format!(
        "mount -t tmpfs -o size={size} none \"${DISK}\" || exit 77; cd \"${DISK}\" && {script}"
    );
    let mut shell = std::process::Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script, env!("CARGO_BIN_EXE_cloakroom")]);
    shell.env(DISK, folder.path("")).env("CLOAKROOM_DB", folder.path("app.db"));
    let Some(output) = shell.output().ok().filter(|output| output.status.code() != Some(77)) else {
        eprintln!("skipped: unshare does not exist or may not mount");
        return None;
    };
    if !output.status.success() && !is_root() {
        return None;
    }
    Some(output.into())
}

#[test]
fn a_small_disk_is_no_problem_unless_it_is_full() {
    let Some(ran) = on_a_disk("20m", "\"$0\" setup; \"$0\" doctor") else { return };
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("note    disk         "), "{ran:?}");
    let fill = "dd if=/dev/zero of=junk bs=4k 2>/dev/null; truncate -s -1M junk";
    let script = format!("\"$0\" setup; {fill}; \"$0\" doctor");
    let ran = on_a_disk("20m", &script).unwrap();
    assert!(ran.out.contains("PROBLEM disk         "), "{ran:?}");
}

#[test]
fn a_disk_without_space_for_a_change_is_found() {
    let fill = "dd if=/dev/zero of=junk bs=4k 2>/dev/null; truncate -s -64k junk";
    let Some(ran) = on_a_disk("1m", &format!("\"$0\" setup; {fill}; \"$0\" doctor")) else {
        return;
    };
    assert!(ran.out.contains("PROBLEM access       cannot write beside the database: "), "{ran:?}");
}

#[test]
fn a_full_disk_without_shared_memory_is_no_question_of_owners() {
    let fill = "dd if=/dev/zero of=junk bs=4k 2>/dev/null";
    let script =
        format!("\"$0\" setup; rm -f app.db-shm; echo log > app.db-wal; {fill}; \"$0\" doctor");
    let Some(ran) = on_a_disk("1m", &script) else { return };
    assert!(ran.out.contains("PROBLEM file "), "{ran:?}");
    assert!(ran.out.contains("free space on the disk, outside the database first"), "{ran:?}");
    assert!(!ran.out.contains("chown"), "{ran:?}");
}

#[test]
fn a_file_system_mounted_read_only_is_no_question_of_owners() {
    let remount = format!("mount -o remount,ro \"${DISK}\"");
    let commands = "\"$0\" sweep; \"$0\" restore copy.db --yes; \"$0\" doctor";
    let script = format!("\"$0\" setup; cp app.db copy.db; {remount}; {commands}");
    let Some(ran) = on_a_disk("20m", &script) else { return };
    let words = "app.db: its file system is mounted read-only; mount it read-write; if it was,";
    assert_eq!(ran.err.matches(words).count(), 2, "{ran:?}");
    assert!(!ran.err.contains("`chown` both"), "{ran:?}");
    assert_eq!(ran.out.matches("PROBLEM access").count(), 1, "{ran:?}");
}

#[test]
fn a_full_disk_is_reported_and_leaves_a_usable_file() {
    // Full, then with space again.
    let script = "dd if=/dev/zero of=junk bs=4k 2>/dev/null
        \"$0\" setup; \"$0\" doctor; rm junk
        \"$0\" setup && \"$0\" list";
    let Some(ran) = on_a_disk("300k", script) else { return };
    assert_eq!(ran.code, 0, "{ran:?}");
    let full = "database or disk is full; free space on the disk, outside the database first";
    assert!(ran.err.contains(full), "{ran:?}");
    assert!(ran.out.contains("PROBLEM disk         0 B left"), "{ran:?}");
    assert!(ran.out.ends_with("There are none.\n"), "{ran:?}");
}
