//! The group commit of SQLite, and the cached store with its breaker: histories, as in the test of
//! that name, one a schedule.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use cloakroom::backend::{Cache, Store};
use cloakroom::id::SessionIdHash;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{Error, ErrorKind, MemoryStore, Result, SqliteStore};
use shuttle::rand::Rng;
use shuttle::thread;

use super::chance::Chance;
use super::common::NOW;
use super::common::hooked::{self, Hook, Hooked};
use super::explore;
use super::model::Sessions;
use super::operations::{Answer, Begins, Call, Change, Happened, Operation, Who, readable};
use super::pausing::pausing;
use super::plan::{Abilities, HistoryPlan, PlannedStep};
use super::target::Names;

const THREADS: usize = 3;

/// A plan that is short enough for many schedules.
fn short_plan() -> HistoryPlan {
    let seed = shuttle::rand::thread_rng().r#gen();
    let abilities = Abilities { lists: true, threads: THREADS, slow: false };
    let mut plan = HistoryPlan::by(&mut Chance::new(seed), abilities);
    plan.threads.iter_mut().for_each(|steps| steps.truncate(3));
    plan
}

/// A plan of reads and changes of two sessions.
fn plan_of_reads() -> HistoryPlan {
    let mut chance = Chance::new(shuttle::rand::thread_rng().r#gen());
    let step = |call| PlannedStep {
        operation: Operation { call, now: 0 },
        conditional: false,
        counts_up: None,
        pause: 0,
    };
    let create = |id_hash| {
        let (idp_session_id, level, idle, absolute) = (None, 0, Some(1000), None);
        let begins = Begins { public_id: id_hash, idp_session_id, level, idle, absolute };
        step(Call::Create { id_hash, begins, changes: Vec::new() })
    };
    let mut call = || {
        let id_hash = chance.pick(&[1, 2]);
        let changes = vec![Change::Set(1, chance.below(100) as u8)];
        let merge = |changes| Call::Merge { id_hash, changes, if_revision: None, seen: None };
        match chance.below(10) {
            0..=4 => Call::Load { id_hash },
            5 | 6 => merge(changes),
            7 => Call::Delete { id_hash },
            // These two show what is stored, whatever the cache says.
            8 => Call::List(Who::All),
            _ => merge(Vec::new()),
        }
    };
    let threads = (0..THREADS).map(|_| (0..5).map(|_| step(call())).collect()).collect();
    HistoryPlan { before: [1, 2].map(create).into(), threads, in_rounds: false }
}

/// Mostly one of reads, because those are what a cache answers.
fn some_plan() -> HistoryPlan {
    match shuttle::rand::thread_rng().gen_ratio(1, 4) {
        true => short_plan(),
        false => plan_of_reads(),
    }
}

#[derive(Default)]
struct Clock {
    stamps: AtomicU64,
    now: AtomicI64,
}

/// One history of this store; what was refused for want of time was not done.
fn has_an_order(
    plan: HistoryPlan,
    store: impl Store + Clone,
    model: Sessions,
    others: impl FnOnce(),
) {
    let clock = Arc::new(Clock::default());
    let mut history = take(&store, &plan.before, 0, &clock);
    let threads = plan.threads.into_iter().enumerate();
    let threads: Vec<_> = threads
        .map(|(number, steps)| {
            let (store, clock) = (store.clone(), clock.clone());
            thread::spawn(move || take(&store, &steps, number, &clock))
        })
        .collect();
    others();
    for thread in threads {
        history.extend(thread.join().unwrap());
    }
    // The store goes within the schedule, with all that it has begun.
    drop(store);
    for happened in &history {
        assert!(!matches!(happened.answer, Answer::Failed(_)), "{happened:?}");
    }
    history.retain(|happened| !happened.is_open());
    if let Err(why) = model.judge(&history) {
        panic!("{}{why}", readable(&history));
    }
}

fn take(store: &impl Store, steps: &[PlannedStep], thread: usize, clock: &Clock) -> Vec<Happened> {
    let mut history = Vec::new();
    for step in steps {
        let start = clock.stamps.fetch_add(1, Ordering::SeqCst);
        let planned = step.operation.now;
        let now = clock.now.fetch_max(planned, Ordering::SeqCst).max(planned);
        let operation = step.operation.at(now);
        let answer = Names { history: 0 }.call(store, &operation);
        let end = clock.stamps.fetch_add(1, Ordering::SeqCst);
        let latest = clock.now.load(Ordering::SeqCst);
        history.push(Happened { thread, process: 0, operation, answer, start, end, latest });
    }
    history
}

#[test]
fn every_waiting_writer_is_answered_truthfully() {
    explore("group commit", 1000, || {
        // In a schedule the time may be over at any wait.
        has_an_order(short_plan(), SqliteStore::in_memory().unwrap(), Sessions::PLAIN, || ());
    });
}

/// The store, after the two seconds in which a new process does not use the cache.
fn settled<C: Cache, S: Store>(store: CachedStore<C, S>) -> CachedStore<C, S> {
    let id_hash = SessionIdHash::from_bytes([0; 32]);
    store.load(&id_hash, NOW - Duration::from_secs(2)).unwrap();
    store
}

#[test]
fn no_read_returns_from_the_cache_what_was_changed_before() {
    explore("cached", 2000, || {
        let (cache, backing) = (pausing(MemoryCache::new()), pausing(MemoryStore::new()));
        let model = Sessions { sweeps_in_two_steps: true, ..Sessions::PLAIN };
        has_an_order(some_plan(), settled(CachedStore::new(cache, backing)), model, || ());
    });
}

/// A cache that is down from time to time.
#[derive(Debug)]
struct Down(Arc<AtomicBool>);

impl Hook for Down {
    fn around<R>(&self, _: hooked::Call, work: impl FnOnce() -> Result<R>) -> Result<R> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "simulate a cache that is down")),
            false => work(),
        }
    }
}

#[test]
fn a_cache_that_fails_and_comes_back_hides_nothing() {
    explore("failing cache", 2000, || {
        let is_down = Arc::new(AtomicBool::new(false));
        let cache = Hooked::with(Down(is_down.clone()), Arc::new(MemoryCache::new()));
        let builder = CachedStore::builder(pausing(cache), pausing(MemoryStore::new()));
        let store = settled(builder.retry_after(Duration::from_millis(1)).build().unwrap());
        let model = Sessions { sweeps_in_two_steps: true, ..Sessions::PLAIN };
        has_an_order(some_plan(), store, model, || {
            for _ in 0..2 {
                for _ in 0..shuttle::rand::thread_rng().gen_range(1..40) {
                    thread::yield_now();
                }
                is_down.fetch_not(Ordering::SeqCst);
            }
        });
    });
}
