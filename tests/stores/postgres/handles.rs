//! Several handles on one table, as several machines have them.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use cloakroom::backend::{Delta, Store, StoreWrapper};
use cloakroom::conformance::check;
use cloakroom::{PostgresStore, SessionManager};

use super::given::number;
use crate::common::postgres::{fresh_table, shared};
use crate::common::{HOUR, NOW, create, live, new_session, on_threads, setting};

/// Two handles with connections of their own, which take turns.
#[derive(Debug)]
struct Alternating {
    handles: [PostgresStore; 2],
    next: AtomicUsize,
}

impl Alternating {
    fn new() -> Self {
        let table = fresh_table();
        let handles = [(); 2].map(|()| shared().builder_in(&table).open().unwrap());
        Alternating { handles, next: AtomicUsize::new(0) }
    }
}

impl StoreWrapper for Alternating {
    type Wrapped = PostgresStore;

    fn wrapped(&self) -> &PostgresStore {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % 2]
    }
}

#[test]
fn two_handles_on_one_table_conform() {
    check(Alternating::new).unwrap();
}

#[test]
fn increments_over_two_handles_are_all_counted() {
    const THREADS: usize = 8;
    const EACH: usize = 400;
    let table = fresh_table();
    let managers =
        [(); 2].map(|()| SessionManager::new(shared().builder_in(&table).open().unwrap()).unwrap());
    let first = managers[0].open(None);
    first.set("n", 0).unwrap();
    let headers = managers[0].close(&first, cloakroom::adapter::Outcome::Completed).unwrap();
    let cookie = headers.iter().find(|(name, _)| *name == "Set-Cookie").unwrap().1.to_owned();
    let cookie = cookie.split(';').next().unwrap();
    let next = AtomicUsize::new(0);
    on_threads(THREADS, || {
        let manager = &managers[next.fetch_add(1, Ordering::Relaxed) % 2];
        for _ in 0..EACH {
            let session = manager.open(Some(cookie));
            session.update("n", |n: Option<i64>| n.unwrap_or(0) + 1).unwrap();
            manager.close(&session, cloakroom::adapter::Outcome::Completed).unwrap();
        }
    });
    let session = managers[1].open(Some(cookie));
    assert_eq!(session.get::<usize>("n").unwrap(), Some(THREADS * EACH));
}

#[test]
fn two_handles_sweep_each_session_once() {
    let table = fresh_table();
    let handles = [(); 2].map(|()| shared().builder_in(&table).open().unwrap());
    for _ in 0..200 {
        create(&handles[0], &Delta::new()).unwrap();
    }
    let later = NOW + HOUR * 24 * 400;
    let next = AtomicUsize::new(0);
    let removed = AtomicUsize::new(0);
    on_threads(2, || {
        let handle = &handles[next.fetch_add(1, Ordering::Relaxed)];
        for _ in 0..40 {
            let swept = handle.sweep(later, NonZeroUsize::new(10).unwrap()).unwrap();
            removed.fetch_add(swept.removed, Ordering::Relaxed);
        }
    });
    assert_eq!(removed.into_inner(), 200);
}

#[test]
fn a_touch_leaves_a_session_to_a_later_sweep() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let limits = new_session().limits;
    let touched = NOW + limits.idle.unwrap() / 2;
    let touch = cloakroom::backend::Touch::at(touched);
    store.touch(&[(id_hash, touch)], touched).unwrap();
    // The first deadline has passed, and the sweep finds the session by it.
    let later = limits.deadline(NOW) + std::time::Duration::from_millis(1);
    assert_eq!(store.sweep(later, NonZeroUsize::MIN).unwrap().removed, 0);
    assert_eq!(number(&store, &id_hash), 1);
    let record = live(&store, &id_hash).unwrap().unwrap();
    assert_eq!(store.sweep(record.deadline(), NonZeroUsize::MIN).unwrap().removed, 1);
}
