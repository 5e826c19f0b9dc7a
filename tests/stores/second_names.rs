//! Files that can be reached by a second name, and names that are no file. The tests of mounts run
//! again as a process with its own mounts, which needs root.

use std::env;
use std::fs;
use std::process::Command;

use crate::common::{Folder, events};
use cloakroom::event::EventKind;
use cloakroom::{ErrorKind, SqliteStore};

/// Opens the database, and returns how often it was reported to have a second name, and why it has.
fn reported(path: &std::path::Path) -> (usize, Option<String>) {
    let (sink, raised) = events();
    let store = SqliteStore::builder(path).events(sink).open().unwrap();
    let reported = raised.try_iter().filter(|kind| *kind == EventKind::FileAliased).count();
    (reported, store.file().info().unwrap().second_name)
}

#[test]
fn a_hard_link_is_reported() {
    let folder = Folder::new();
    assert_eq!(reported(&folder.database()), (0, None));
    fs::hard_link(folder.database(), folder.path("other.db")).unwrap();
    let reason = Some("it has 2 hard links".to_owned());
    assert_eq!(reported(&folder.database()), (1, reason.clone()));
    assert_eq!(reported(&folder.path("other.db")), (1, reason));
    fs::remove_file(folder.path("other.db")).unwrap();
    assert_eq!(reported(&folder.database()), (0, None));
}

#[test]
fn a_symbolic_link_is_no_second_name() {
    let folder = Folder::new();
    assert_eq!(reported(&folder.database()), (0, None));
    std::os::unix::fs::symlink(folder.database(), folder.path("link.db")).unwrap();
    assert_eq!(reported(&folder.path("link.db")), (0, None));
}

/// The environment variable with the folder of the test inside its own mounts.
const MOUNTED: &str = "CLOAKROOM_TEST_MOUNTED";

#[test]
fn a_file_that_is_mounted_alone_is_reported() {
    if let Some(folder) = env::var_os(MOUNTED) {
        let folder = std::path::PathBuf::from(folder);
        let (count, reason) = reported(&folder.join("a b.db"));
        assert_eq!(count, 1);
        assert!(reason.unwrap().contains("mount its folder instead"));
        assert_eq!(reported(&folder.join("elsewhere.db")), (0, None));
        return;
    }
    let folder = Folder::new();
    drop(SqliteStore::open(folder.path("elsewhere.db")).unwrap());
    fs::write(folder.path("a b.db"), "").unwrap();
    let mount = |command: &str| {
        let mount =
            format!("mount --bind \"${MOUNTED}/elsewhere.db\" \"${MOUNTED}/a b.db\" && {command}");
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", &mount]).env(MOUNTED, folder.path(""));
        shell
    };
    if !mount("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: it needs root, for mounts of its own");
        return;
    }
    let mut run = mount("exec \"$0\" \"$@\"");
    run.arg(env::current_exe().unwrap()).args(["--exact", "--nocapture"]);
    let output =
        run.arg("second_names::a_file_that_is_mounted_alone_is_reported").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[test]
fn a_uri_is_refused_as_a_path() {
    for uri in ["file::memory:", "file:app.db", "file:///srv/app.db?mode=ro", "sqlite://app.db"] {
        let error = SqliteStore::open(uri).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{uri}");
        assert!(error.to_string().contains("a URI is not a path"), "{error}");
        assert!(!std::path::Path::new(uri).exists(), "{uri}");
    }
    // The same name with its folder.
    let folder = Folder::new();
    SqliteStore::open(folder.path("file:app.db")).unwrap();
}

#[test]
fn a_link_to_nothing_is_an_error_that_names_its_target() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("/no/such/disk/app.db", folder.database()).unwrap();
    let kind = |store: cloakroom::Result<SqliteStore>| {
        let error = store.unwrap_err();
        assert!(error.to_string().contains("a link to /no/such/disk/app.db"), "{error}");
        error.kind()
    };
    let build = || SqliteStore::builder(folder.database());
    assert_eq!(kind(build().open()), ErrorKind::Unavailable);
    assert_eq!(kind(build().migrate(false).open()), ErrorKind::NotSetUp);
    assert_eq!(kind(build().read_only().open()), ErrorKind::NotSetUp);
}

#[test]
fn a_special_file_is_refused() {
    let folder = Folder::new();
    let message = |path: &std::path::Path| {
        let error = SqliteStore::open(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        error.to_string()
    };
    assert!(message(&folder.path("")).contains("it is a folder"));
    assert!(message("/dev/null".as_ref()).contains("it is not a regular file"));
    let _socket = std::os::unix::net::UnixListener::bind(folder.path("socket")).unwrap();
    assert!(message(&folder.path("socket")).contains("it is not a regular file"));
    // In the place of a file beside the database.
    fs::create_dir(folder.path("app.db-wal")).unwrap();
    let error = SqliteStore::open(folder.database()).unwrap_err().to_string();
    assert!(error.contains("app.db-wal is a folder"), "{error}");
}
