//! Every command beside a service that writes without a pause.

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloakroom::{ErrorKind, SessionManager};

use crate::common::Folder;
use crate::fixture::{
    begin, beside_a_service, count, done, fill, is_intact, open, program, run, set_up, start,
    strangers, visit, with_store,
};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn reading_and_sweeping_do_not_disturb_a_service() {
    let (folder, store) = with_store();
    fill(&folder, 500, true);
    fill(&folder, 500, false);
    let public_id = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    let other = begin(&store, Some("ada"), MINUTE).public_id.to_string();
    let copy = folder.path("copy.db").display().to_string();
    for args in [
        &["setup"][..],
        &["migrate"],
        &["migrate", "--dry-run"],
        &["stats"],
        &["stats", "--json"],
        &["list"],
        &["list", "--json", "--limit", "100000"],
        &["list", "--expired"],
        &["list", "--user", "visitor"],
        &["show", &public_id],
        &["show", &public_id, "--data", "--json"],
        &["sweep", "--limit", "100"],
        &["sweep"],
        &["doctor"],
        &["doctor", "--quick", "--json"],
        &["backup", &copy],
        &["compact", "--yes"],
        &["revoke", &other],
        &["revoke", "--user", "ada"],
    ] {
        let (ran, seen) = beside_a_service(&folder, || run(&folder, args));
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        assert!(seen.requests > 10, "{args:?}: {seen:?}");
        assert_eq!((seen.busy, seen.ended), (0, 0), "{args:?}: {seen:?}");
        assert!(is_intact(&folder.database()), "{args:?}");
    }
    assert!(is_intact(Path::new(&copy)));
    assert_eq!(strangers(&folder), ["copy.db"]);
}

#[test]
fn ended_sessions_are_ended_for_a_running_service() {
    let folder = set_up();
    fill(&folder, 500, true);
    let copy = folder.path("copy.db").display().to_string();
    done(&folder, &["backup", &copy]);
    for args in [
        &["revoke", "--user", "visitor"][..],
        &["revoke", "--all", "--yes"],
        &["clear", "--yes"],
        &["restore", &copy, "--yes"],
        &["restore", &copy, "--yes", "--keep"],
    ] {
        let (ran, seen) = beside_a_service(&folder, || run(&folder, args));
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        assert_eq!((seen.busy, seen.ended), (0, 1), "{args:?}: {seen:?}");
        assert!(is_intact(&folder.database()), "{args:?}");
    }
    // The kept sessions, and the new one of the visitor.
    assert_eq!(count(&folder), 501);
}

#[test]
fn a_service_recovers_when_dropped_tables_are_set_up() {
    let folder = Folder::new();
    let sessions = SessionManager::new(open(&folder)).unwrap();
    let (cookie, _) = visit(&sessions, None).unwrap();
    done(&folder, &["drop", "--yes"]);
    let error = visit(&sessions, cookie.as_deref()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSetUp, "{error:?}");
    done(&folder, &["setup"]);
    let (_, count) = visit(&sessions, cookie.as_deref()).unwrap();
    assert_eq!(count, 1, "a new session");
}

#[test]
fn two_concurrent_operators_do_not_interfere() {
    let folder = set_up();
    fill(&folder, 20_000, true);
    let copy = folder.path("copy.db").display().to_string();
    let both = |args: [&[&str]; 2]| {
        let two = args.map(|args| start(&mut program(&folder, args)));
        two.map(|child| child.wait_with_output().unwrap().status.code().unwrap())
    };
    let mut codes = both([&["backup", &copy], &["backup", &copy]]);
    codes.sort_unstable();
    assert_eq!(codes, [0, 1], "one of them finds the name taken");
    assert!(is_intact(Path::new(&copy)));
    assert_eq!(both([&["sweep"], &["compact", "--yes"]]), [0, 0]);
    fill(&folder, 20_000, false);
    assert_eq!(both([&["sweep"], &["sweep"]]), [0, 0]);
    assert_eq!(count(&folder), 20_000);
    let restore = &["restore", copy.as_str(), "--yes"];
    assert_eq!(both([restore, &[restore, &["--keep"][..]].concat()]), [0, 0]);
    assert!([0, 20_000].contains(&count(&folder)), "the one or the other");
    assert!(is_intact(&folder.database()));
    // Of two processes that close a database at the same time, neither may remove its empty log.
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{copy}{suffix}"));
    }
    assert_eq!(strangers(&folder), Vec::<String>::new());
}
