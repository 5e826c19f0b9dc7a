//! Power cuts at any moment: what ends sessions stays done, the rest is lost from the end only.

#[path = "../../common/mod.rs"]
mod common;
mod story;

use std::path::Path;

use cloakroom::backend::Store;
use cloakroom::clock::Timestamp;
use cloakroom::stores::sqlite::{Admin, CompactMode, Durability, Journal};
use cloakroom::{ErrorKind, SqliteStore};
use common::dice::Dice;
use common::{Folder, NOW, create, setting};
use story::{Promise, Story};

/// The number of cuts of one test.
fn cuts() -> usize {
    usize::try_from(common::dice::number("CLOAKROOM_CUTS").unwrap_or(60)).unwrap()
}

/// Several stories with other numbers, where there are many cuts.
fn in_stories(story_of: impl Fn(&mut Dice) -> Story, promise: Promise) {
    let mut dice = Dice::new(common::dice::seed());
    let mut left = cuts();
    let mut tried = story::Tried::default();
    while left > 0 {
        let some = left.min(400);
        let story = story_of(&mut dice);
        tried.add(&story.cut(promise, some, &mut dice, false));
        left -= some;
    }
    println!("{tried}");
    assert_eq!(tried.wrong, Vec::<String>::new());
    assert!(tried.lost > 0 || promise == Promise::Full, "nothing was ever lost: {tried}");
}

fn in_stories_of_workers(durability: Durability, journal: Journal, stores: usize, threads: usize) {
    let story_of = |dice: &mut Dice| Story::of_workers(durability, journal, stores, threads, dice);
    in_stories(story_of, Promise::of(durability));
}

#[test]
fn a_cut_revives_no_session_and_loses_only_the_latest_writes() {
    in_stories_of_workers(Durability::Normal, Journal::Wal, 1, 1);
}

#[test]
fn the_same_holds_when_many_threads_of_two_stores_write() {
    in_stories_of_workers(Durability::Normal, Journal::Wal, 2, 4);
}

#[test]
fn under_full_durability_nothing_acknowledged_is_lost() {
    in_stories_of_workers(Durability::Full, Journal::Wal, 1, 1);
}

#[test]
fn full_durability_loses_nothing_with_two_stores() {
    in_stories_of_workers(Durability::Full, Journal::Wal, 2, 2);
}

#[test]
fn under_a_kept_rollback_journal_the_same_holds() {
    in_stories_of_workers(Durability::Normal, Journal::Keep, 1, 1);
}

#[test]
fn full_durability_loses_nothing_with_a_rollback_journal() {
    in_stories_of_workers(Durability::Full, Journal::Keep, 1, 2);
}

/// Everything an operator can do to all sessions at once, each with a mark when it was
/// acknowledged.
fn operate(path: &Path, report: &dyn Fn(&str)) {
    let open = || SqliteStore::builder(path).open().unwrap();
    let watch = || -> cloakroom::stores::sqlite::ProgressFn {
        Box::new(|_| std::ops::ControlFlow::Continue(()))
    };
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
    store.admin().backup(&copy).unwrap();
    ended(&|| assert_eq!(store.admin().clear().unwrap(), 20));
    fill(&store);
    ended(&|| {
        let now = Timestamp::from_millis(NOW.as_millis() + 1);
        let restored =
            Admin::new(SqliteStore::builder(path)).restore(&copy, false, now, watch()).unwrap();
        assert!(restored.is_continue());
    });
    fill(&store);
    store.maintenance().unwrap().run().unwrap();
    let compacted =
        Admin::new(SqliteStore::builder(path)).compact(CompactMode::Full, watch()).unwrap();
    assert!(compacted.is_continue());
    fill(&store);
    ended(&|| store.admin().drop_tables().unwrap());
    store.admin().setup().unwrap();
    fill(&store);
    drop(store);
    let store = open();
    fill(&store);
    ended(&|| assert_eq!(store.admin().clear().unwrap(), 40));
}

#[test]
fn an_operation_on_all_sessions_is_done_or_not() {
    in_stories(|_| Story::of(operate), Promise::Normal);
}

#[test]
fn a_disk_that_says_it_has_synced_and_has_not_is_found_out() {
    let mut dice = Dice::new(common::dice::seed());
    for durability in [Durability::Normal, Durability::Full] {
        let story = Story::of_workers(durability, Journal::Wal, 1, 1, &mut dice);
        let promise = Promise::of(durability);
        let tried = story.cut(promise, 40, &mut dice, true);
        println!("{durability:?}: {tried}");
        assert!(tried.wrong.len() > 10, "{tried}");
    }
}

#[test]
fn the_default_does_not_keep_the_promise_of_full_durability() {
    let mut dice = Dice::new(common::dice::seed());
    let story = Story::of_workers(Durability::Normal, Journal::Wal, 1, 1, &mut dice);
    let tried = story.cut(Promise::Full, 40, &mut dice, false);
    assert!(!tried.wrong.is_empty(), "{tried}");
}

#[test]
fn a_file_that_a_cut_has_left_without_tables_is_set_up_anew() {
    let folder = Folder::new();
    std::fs::write(folder.database(), b"").unwrap();
    let refused = SqliteStore::builder(folder.database()).migrate(false).open().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotSetUp);
    create(&SqliteStore::open(folder.database()).unwrap(), &setting("n", 1)).unwrap();
}
