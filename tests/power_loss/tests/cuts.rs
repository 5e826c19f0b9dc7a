//! Power cuts at random moments: a change that ends sessions survives, and of the other changes
//! only the latest are lost.

#[path = "../../common/mod.rs"]
mod common;
mod recorded_run;

use std::path::Path;

use cloakroom::backend::Store;
use cloakroom::clock::Timestamp;
use cloakroom::stores::admin::{Admin, ProgressFn};
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::stores::sqlite::{CompactMode, SqliteFile};
use cloakroom::stores::sqlite::{Durability, Journal};
use cloakroom::{ErrorKind, SqliteStore};
use common::dice::Dice;
use common::{Folder, NOW, create, setting};
use recorded_run::{Promise, RecordedRun};

/// The number of cuts of one test.
fn cuts() -> usize {
    usize::try_from(common::dice::number("CLOAKROOM_CUTS").unwrap_or(60)).unwrap()
}

/// Checks the cuts in several runs: at most 400 cuts of one run.
fn check_runs(make_run: impl Fn(&mut Dice) -> RecordedRun, promise: Promise) {
    let mut dice = Dice::new(common::dice::seed());
    let mut left = cuts();
    let mut results = recorded_run::CutResults::default();
    while left > 0 {
        let some = left.min(400);
        let run = make_run(&mut dice);
        results.add(&run.cut(promise, some, &mut dice, false));
        left -= some;
    }
    println!("{results}");
    assert_eq!(results.wrong, Vec::<String>::new());
    assert!(results.lost > 0 || promise == Promise::Full, "nothing was ever lost: {results}");
}

fn check_runs_of_workers(durability: Durability, journal: Journal, stores: usize, threads: usize) {
    let make_run =
        |dice: &mut Dice| RecordedRun::of_workers(durability, journal, stores, threads, dice);
    check_runs(make_run, Promise::of(durability));
}

#[test]
fn a_cut_revives_no_session_and_loses_only_the_latest_writes() {
    check_runs_of_workers(Durability::Normal, Journal::Wal, 1, 1);
}

#[test]
fn the_same_holds_when_many_threads_of_two_stores_write() {
    check_runs_of_workers(Durability::Normal, Journal::Wal, 2, 4);
}

#[test]
fn under_full_durability_nothing_acknowledged_is_lost() {
    check_runs_of_workers(Durability::Full, Journal::Wal, 1, 1);
}

#[test]
fn full_durability_loses_nothing_with_two_stores() {
    check_runs_of_workers(Durability::Full, Journal::Wal, 2, 2);
}

#[test]
fn under_a_kept_rollback_journal_the_same_holds() {
    check_runs_of_workers(Durability::Normal, Journal::Keep, 1, 1);
}

#[test]
fn full_durability_loses_nothing_with_a_rollback_journal() {
    check_runs_of_workers(Durability::Full, Journal::Keep, 1, 2);
}

/// All operator's commands on all sessions, each with a mark when it was acknowledged.
fn operate(path: &Path, report: &dyn Fn(&str)) {
    let open = || SqliteStore::builder(path).open().unwrap();
    let watch = || -> ProgressFn { Box::new(|_| std::ops::ControlFlow::Continue(())) };
    let fill = |store: &SqliteStore| {
        for n in 0..20 {
            create(store, &setting("n", n)).unwrap();
        }
    };
    let ended = |work: &dyn Fn()| {
        report("operator begins everyone");
        work();
        report("operator done");
    };
    let copy = path.with_file_name("copy.db");
    let store = open();
    fill(&store);
    store.file().backup(&copy).unwrap();
    ended(&|| assert_eq!(store.clear().unwrap(), 20));
    fill(&store);
    ended(&|| {
        let now = Timestamp::from_millis(NOW.as_millis() + 1);
        let restored = SqliteFile::new(SqliteStore::builder(path))
            .restore(&copy, false, now, watch())
            .unwrap();
        assert!(restored.is_continue());
    });
    fill(&store);
    store.maintenance().unwrap().run().unwrap();
    let compacted =
        SqliteFile::new(SqliteStore::builder(path)).compact(CompactMode::Full, watch()).unwrap();
    assert!(compacted.is_continue());
    fill(&store);
    ended(&|| store.drop_tables().unwrap());
    store.file().setup().unwrap();
    fill(&store);
    drop(store);
    let store = open();
    fill(&store);
    ended(&|| assert_eq!(store.clear().unwrap(), 40));
}

#[test]
fn an_operation_on_all_sessions_is_done_or_not() {
    check_runs(|_| RecordedRun::of(operate), Promise::Normal);
}

/// Changes that end with the same page at the same place of the log each time it is used again.
fn repeat_last_page(path: &Path) {
    let store = SqliteStore::open(path).unwrap();
    create(&store, &setting("n", 1)).unwrap();
    drop(store);
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("CREATE TABLE last (n); INSERT INTO last VALUES (0)").unwrap();
    for _ in 0..10 {
        for n in [1, 2] {
            let change = "UPDATE cloakroom_sessions SET seen = seen + 1; UPDATE last SET n = ";
            connection.execute_batch(&format!("BEGIN; {change}{n}; COMMIT")).unwrap();
        }
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    }
}

#[test]
fn a_commit_whose_page_is_there_already_counts_from_its_header() {
    let results = RecordedRun::of(|path, _| repeat_last_page(path)).cut_everywhere();
    assert_eq!(results.wrong, Vec::<String>::new(), "{results}");
}

#[test]
fn a_disk_that_ignores_syncs_is_detected() {
    let mut dice = Dice::new(common::dice::seed());
    for durability in [Durability::Normal, Durability::Full] {
        let run = RecordedRun::of_workers(durability, Journal::Wal, 1, 1, &mut dice);
        let promise = Promise::of(durability);
        let results = run.cut(promise, 40, &mut dice, true);
        println!("{durability:?}: {results}");
        assert!(results.wrong.len() > 10, "{results}");
    }
}

#[test]
fn the_default_does_not_keep_the_promise_of_full_durability() {
    let mut dice = Dice::new(common::dice::seed());
    let run = RecordedRun::of_workers(Durability::Normal, Journal::Wal, 1, 1, &mut dice);
    let results = run.cut(Promise::Full, 40, &mut dice, false);
    assert!(!results.wrong.is_empty(), "{results}");
}

#[test]
fn a_file_that_a_cut_has_left_without_tables_is_set_up_anew() {
    let folder = Folder::new();
    std::fs::write(folder.database(), b"").unwrap();
    let refused = SqliteStore::builder(folder.database()).migrate(false).open().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotSetUp);
    create(&SqliteStore::open(folder.database()).unwrap(), &setting("n", 1)).unwrap();
}
