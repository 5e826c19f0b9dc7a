//! The stores that histories are made on.

use std::sync::{Arc, Mutex};

use std::time::{Duration, Instant};

use cloakroom::SqliteStore;
use cloakroom::backend::{Cache, Store};
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::stores::memory::MemoryCache;

use super::chance::Chance;
use super::common::faulty::FaultyCache;
use super::common::memcached::Memcached;
use super::common::{Folder, settled};
use super::model::{Reads, Sessions};
use super::operations::{Answer, Call, Operation};
use super::pausing::pausing;
use super::plan::Abilities;
use super::search::{Caller, Subject};
use super::target::{Names, failed};

pub const THREADS: usize = 4;

/// A caller for each thread.
fn callers<'s>(call: impl Fn(&Operation) -> Answer + Clone + Send + 's) -> Vec<Caller<'s>> {
    (0..THREADS).map(|_| -> Caller<'s> { Box::new(call.clone()) }).collect()
}

/// Lets the others work so long.
pub fn wait(micros: usize) {
    let until = Instant::now() + Duration::from_micros(micros as u64);
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

/// A new store for every history.
pub struct Fresh<F> {
    pub make: F,
}

impl<S: Store, F: Fn() -> S + Sync> Subject for Fresh<F> {
    fn abilities(&self) -> Abilities {
        Abilities { lists: true, threads: THREADS, slow: false }
    }

    fn model(&self) -> Sessions {
        Sessions { sweeps_in_two_steps: true, ..Sessions::PLAIN }
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        let store = Arc::new((self.make)());
        callers(move |operation| names.call(&store, operation))
    }
}

/// One file for all histories.
pub struct Sqlite {
    store: SqliteStore,
    _folder: Folder,
}

impl Sqlite {
    pub fn new() -> Self {
        let folder = Folder::new();
        Sqlite { store: SqliteStore::open(folder.database()).unwrap(), _folder: folder }
    }
}

impl Subject for Sqlite {
    fn abilities(&self) -> Abilities {
        Abilities { lists: true, threads: THREADS, slow: false }
    }

    fn model(&self) -> Sessions {
        Sessions::PLAIN
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.store.admin().clear().unwrap();
        callers(move |operation| names.call(&self.store, operation))
    }
}

/// A new cached store for every history, in front of one file for all of them.
pub struct Before<F> {
    backing: Sqlite,
    make_cache: F,
}

impl<C: Cache, F: Fn() -> C + Sync> Before<F> {
    pub fn sqlite(make_cache: F) -> Self {
        Before { backing: Sqlite::new(), make_cache }
    }
}

impl<C: Cache, F: Fn() -> C + Sync> Subject for Before<F> {
    fn abilities(&self) -> Abilities {
        self.backing.abilities()
    }

    fn model(&self) -> Sessions {
        self.backing.model()
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.backing.store.admin().clear().unwrap();
        let cache = pausing((self.make_cache)());
        let backing = pausing(self.backing.store.clone());
        let store = CachedStore::builder(cache, backing).retry_after(Duration::from_millis(1));
        let store = settled(store.build().unwrap());
        callers(move |operation| names.call(&store, operation))
    }
}

/// A memcached that nothing happens to.
pub struct InMemcached {
    store: MemcachedStore,
}

impl InMemcached {
    pub fn on(server: &Memcached) -> Self {
        InMemcached { store: server.store() }
    }
}

fn call_memcached(store: &MemcachedStore, names: Names, operation: &Operation) -> Answer {
    match operation.call {
        Call::RevokeEveryone => match store.clear() {
            Ok(()) => Answer::RevokedEveryone(None),
            Err(error) => failed(&error),
        },
        _ => names.call(store, operation),
    }
}

impl Subject for InMemcached {
    fn abilities(&self) -> Abilities {
        Abilities { lists: false, threads: THREADS, slow: false }
    }

    fn model(&self) -> Sessions {
        Sessions { moves_in_steps: true, ..Sessions::PLAIN }
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        callers(move |operation| call_memcached(&self.store, names, operation))
    }
}

/// A memcached that is started again, or frozen for a while. It is never flushed: that also
/// takes what is stored within the same second, after the answer.
pub struct Failing {
    pub server: Memcached,
}

impl Failing {
    pub fn new() -> Self {
        Failing { server: Memcached::start() }
    }

    /// A store that does not wait for it long.
    pub fn store(&self) -> MemcachedStore {
        let timeout = Duration::from_millis(25);
        self.server.builder().connect_timeout(timeout).io_timeout(timeout).open().unwrap()
    }

    /// True if it has lost what it had.
    fn disturb(&self, chance: &mut Chance) -> bool {
        wait(chance.below(1000));
        match chance.below(3) {
            0 => {
                self.server.freeze();
                wait(chance.below(60_000));
                self.server.thaw();
                false
            }
            _ => {
                self.server.kill();
                wait(chance.below(2000));
                self.server.start_again();
                true
            }
        }
    }
}

/// Sessions in a memcached that fails.
pub struct InFailing {
    failing: Failing,
    store: MemcachedStore,
}

impl InFailing {
    pub fn new() -> Self {
        let failing = Failing::new();
        InFailing { store: failing.store(), failing }
    }
}

impl Subject for InFailing {
    fn abilities(&self) -> Abilities {
        Abilities { lists: false, threads: THREADS, slow: true }
    }

    fn model(&self) -> Sessions {
        Sessions { moves_in_steps: true, ..Sessions::PLAIN }
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        callers(move |operation| call_memcached(&self.store, names, operation))
    }

    fn disturb(&self, chance: &mut Chance) -> bool {
        self.failing.disturb(chance)
    }
}

/// A memcached that fails, before SQLite: no operation fails.
pub struct BehindFailing<'f, F> {
    pub failing: &'f Failing,
    pub before: Before<F>,
}

impl<C: Cache, F: Fn() -> C + Sync> Subject for BehindFailing<'_, F> {
    fn abilities(&self) -> Abilities {
        Abilities { slow: true, ..self.before.abilities() }
    }

    fn model(&self) -> Sessions {
        self.before.model()
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.before.begin(names)
    }

    fn disturb(&self, chance: &mut Chance) -> bool {
        self.failing.disturb(chance);
        false
    }
}

/// Two stores that share a database and a cache, as two processes do. From the cache the first one
/// is cut off now and then, if it is to be.
pub struct TwoInstances {
    backing: Sqlite,
    outages: bool,
    first: Mutex<Option<FaultyCache>>,
}

impl TwoInstances {
    /// The lifetime of an entry: so short that histories go beyond it.
    const LIFE: Duration = Duration::from_secs(1);

    pub fn new(outages: bool) -> Self {
        TwoInstances { backing: Sqlite::new(), outages, first: Mutex::default() }
    }
}

impl Subject for TwoInstances {
    fn abilities(&self) -> Abilities {
        Abilities { slow: self.outages, ..self.backing.abilities() }
    }

    fn model(&self) -> Sessions {
        let reads = match self.outages {
            true => Reads::Within(Self::LIFE.as_millis() as i64),
            false => Reads::LatestAcknowledged,
        };
        Sessions { reads, ..Sessions::PLAIN }
    }

    fn threads_per_process(&self) -> usize {
        THREADS / 2
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.backing.store.admin().clear().unwrap();
        let cache = FaultyCache::cache(MemoryCache::new());
        let instance = || {
            let link = FaultyCache::cache(cache.clone());
            let backing = pausing(self.backing.store.clone());
            let store = CachedStore::builder(pausing(link.clone()), backing);
            let store = store.entry_life(Self::LIFE).retry_after(Duration::from_millis(1));
            (link, settled(store.build().unwrap()))
        };
        let ((link, first), (_, second)) = (instance(), instance());
        *self.first.lock().unwrap() = Some(link);
        let caller = |thread| -> Caller<'_> {
            let store = if thread < THREADS / 2 { first.clone() } else { second.clone() };
            Box::new(move |operation| names.call(&store, operation))
        };
        (0..THREADS).map(caller).collect()
    }

    fn disturb(&self, chance: &mut Chance) -> bool {
        if let Some(link) = &*self.first.lock().unwrap()
            && self.outages
        {
            wait(chance.below(300));
            link.set_down(true);
            wait(chance.below(5000));
            // Sometimes it stays so until the end of the history.
            link.set_down(chance.one_in(2));
        }
        false
    }
}
