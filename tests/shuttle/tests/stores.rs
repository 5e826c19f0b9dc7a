//! The group commit of SQLite, and the cached store with its breaker: one history of
//! `tests/linearizability` in each schedule.

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

use super::common::NOW;
use super::common::dice::Dice;
use super::common::hooked::{self, Hook, Hooked};
use super::explore;
use super::model::SessionModel;
use super::operations::{
    Answer, Call, Change, Filter, InitialFields, Operation, RecordedOperation, readable,
};
use super::pausing::pausing;
use super::plan::{Capabilities, HistoryPlan, PlannedStep};
use super::target::Names;

const THREADS: usize = 3;

/// A plan that is short enough for many schedules.
fn short_plan() -> HistoryPlan {
    let seed = shuttle::rand::thread_rng().r#gen();
    let capabilities = Capabilities { lists: true, threads: THREADS, slow: false };
    let mut plan = HistoryPlan::random(&mut Dice::new(seed), capabilities);
    plan.threads.iter_mut().for_each(|steps| steps.truncate(3));
    plan
}

/// A plan of reads and changes of two sessions.
fn plan_of_reads() -> HistoryPlan {
    let mut dice = Dice::new(shuttle::rand::thread_rng().r#gen());
    let step = |call| PlannedStep {
        operation: Operation { call, now: 0 },
        conditional: false,
        increments: None,
        pause: 0,
    };
    let create = |id_hash| {
        let (idp_session_id, level, idle, absolute) = (None, 0, Some(1000), None);
        let initial = InitialFields { public_id: id_hash, idp_session_id, level, idle, absolute };
        step(Call::Create { id_hash, initial, changes: Vec::new() })
    };
    let mut call = || {
        let id_hash = dice.pick(&[1, 2]);
        let changes = vec![Change::Set(1, dice.roll(100) as u8)];
        let merge = |changes| Call::Merge { id_hash, changes, if_revision: None, seen: None };
        match dice.roll(10) {
            0..=4 => Call::Load { id_hash },
            5 | 6 => merge(changes),
            7 => Call::Delete { id_hash },
            // These two read the backing store.
            8 => Call::List(Filter::All),
            _ => merge(Vec::new()),
        }
    };
    let threads = (0..THREADS).map(|_| (0..5).map(|_| step(call())).collect()).collect();
    HistoryPlan { setup: [1, 2].map(create).into(), threads, in_rounds: false }
}

/// A random plan, in most cases of reads, because a cache answers those.
fn random_plan() -> HistoryPlan {
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

/// Executes the plan on this store and checks the history. Operations that timed out have changed
/// nothing.
fn check_history(
    plan: HistoryPlan,
    store: impl Store + Clone,
    model: SessionModel,
    others: impl FnOnce(),
) {
    let clock = Arc::new(Clock::default());
    let mut history = execute(&store, &plan.setup, 0, &clock);
    let threads = plan.threads.into_iter().enumerate();
    let threads: Vec<_> = threads
        .map(|(number, steps)| {
            let (store, clock) = (store.clone(), clock.clone());
            thread::spawn(move || execute(&store, &steps, number, &clock))
        })
        .collect();
    others();
    for thread in threads {
        history.extend(thread.join().unwrap());
    }
    // The store's threads must end within the schedule.
    drop(store);
    for recorded in &history {
        assert!(!matches!(recorded.answer, Answer::Failed(_)), "{recorded:?}");
    }
    history.retain(|recorded| !recorded.has_unknown_outcome());
    if let Err(why) = model.check_history(&history) {
        panic!("{}{why}", readable(&history));
    }
}

fn execute(
    store: &impl Store,
    steps: &[PlannedStep],
    thread: usize,
    clock: &Clock,
) -> Vec<RecordedOperation> {
    let mut history = Vec::new();
    for step in steps {
        let start = clock.stamps.fetch_add(1, Ordering::SeqCst);
        let planned = step.operation.now;
        let now = clock.now.fetch_max(planned, Ordering::SeqCst).max(planned);
        let operation = step.operation.at(now);
        let answer = Names { history: 0 }.call(store, &operation);
        let end = clock.stamps.fetch_add(1, Ordering::SeqCst);
        let latest = clock.now.load(Ordering::SeqCst);
        history.push(RecordedOperation {
            thread,
            process: 0,
            operation,
            answer,
            start,
            end,
            latest,
        });
    }
    history
}

#[test]
fn every_waiting_writer_is_answered_truthfully() {
    explore("group commit", 1000, || {
        // In a schedule, any wait can end by its timeout.
        check_history(short_plan(), SqliteStore::in_memory().unwrap(), SessionModel::PLAIN, || ());
    });
}

/// Returns the store, after the two seconds in which a new process does not use the cache.
fn settled<C: Cache, S: Store>(store: CachedStore<C, S>) -> CachedStore<C, S> {
    let id_hash = SessionIdHash::from_bytes([0; 32]);
    store.load(&id_hash, NOW - Duration::from_secs(2)).unwrap();
    store
}

#[test]
fn no_read_returns_from_the_cache_what_was_changed_before() {
    explore("cached", 2000, || {
        let (cache, backing) = (pausing(MemoryCache::new()), pausing(MemoryStore::new()));
        let model = SessionModel { sweeps_in_two_steps: true, ..SessionModel::PLAIN };
        check_history(random_plan(), settled(CachedStore::new(cache, backing)), model, || ());
    });
}

/// A hook that fails all calls while it is true.
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
        let model = SessionModel { sweeps_in_two_steps: true, ..SessionModel::PLAIN };
        check_history(random_plan(), store, model, || {
            for _ in 0..2 {
                for _ in 0..shuttle::rand::thread_rng().gen_range(1..40) {
                    thread::yield_now();
                }
                is_down.fetch_not(Ordering::SeqCst);
            }
        });
    });
}
