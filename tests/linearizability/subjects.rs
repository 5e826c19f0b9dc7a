//! The stores that histories are made on.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloakroom::backend::{Cache, Store};
use cloakroom::stores::admin::Admin;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{PostgresStore, SqliteStore};

use super::common::dice::Dice;
use super::common::faulty::FaultyCache;
use super::common::memcached::Memcached;
use super::common::postgres::{Postgres, fresh_table};
use super::common::{Folder, NOW, settled};
use super::model::{Reads, SessionModel};
use super::operations::{Answer, Call, Operation};
use super::pausing::pausing;
use super::plan::Capabilities;
use super::search::{Caller, Subject};
use super::target::{Names, failed};

pub const THREADS: usize = 4;

/// A caller for each thread.
fn callers<'s>(call: impl Fn(&Operation) -> Answer + Clone + Send + 's) -> Vec<Caller<'s>> {
    (0..THREADS).map(|_| -> Caller<'s> { Box::new(call.clone()) }).collect()
}

/// Lets other threads work for this time.
pub fn yield_for(micros: usize) {
    let until = Instant::now() + Duration::from_micros(micros as u64);
    while Instant::now() < until {
        std::thread::yield_now();
    }
}

/// A new store for every history.
pub struct NewStores<F> {
    pub make: F,
}

impl<S: Store, F: Fn() -> S + Sync> Subject for NewStores<F> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { lists: true, threads: THREADS, slow: false }
    }

    fn model(&self) -> SessionModel {
        SessionModel { sweeps_in_two_steps: true, ..SessionModel::PLAIN }
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
    fn capabilities(&self) -> Capabilities {
        Capabilities { lists: true, threads: THREADS, slow: false }
    }

    fn model(&self) -> SessionModel {
        SessionModel::PLAIN
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.store.clear().unwrap();
        callers(move |operation| names.call(&self.store, operation))
    }
}

/// One table for all histories, with a handle for each half of the threads, as two machines have
/// them.
pub struct PostgresSubject<'s> {
    server: &'s Postgres,
    handles: [PostgresStore; 2],
    /// Whether the server ends all connections once in every history.
    terminates: bool,
}

impl<'s> PostgresSubject<'s> {
    pub fn on(server: &'s Postgres, terminates: bool) -> Self {
        let table = fresh_table();
        let handles = [(); 2].map(|()| server.builder_in(&table).open().unwrap());
        PostgresSubject { server, handles, terminates }
    }
}

impl Subject for PostgresSubject<'_> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { lists: true, threads: THREADS, slow: self.terminates }
    }

    fn model(&self) -> SessionModel {
        // A sweep skips the sessions that other operations have locked.
        SessionModel { sweeps_in_two_steps: true, ..SessionModel::PLAIN }
    }

    fn threads_per_process(&self) -> usize {
        THREADS / 2
    }

    fn may_fail(&self) -> bool {
        self.terminates
    }

    fn locks_found_sessions_only(&self) -> bool {
        true
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.handles[0].index().unwrap().revoke_everyone(None, NOW).unwrap();
        let caller = |thread| -> Caller<'_> {
            let store = &self.handles[thread * 2 / THREADS];
            Box::new(move |operation| names.call(store, operation))
        };
        (0..THREADS).map(caller).collect()
    }

    fn disturb(&self, dice: &mut Dice) -> bool {
        if self.terminates {
            yield_for(dice.roll(2000));
            self.server.terminate_connections();
        }
        false
    }
}

/// A new cached store for every history, in front of one file for all of them.
pub struct CachedSqlite<F> {
    backing: Sqlite,
    make_cache: F,
}

impl<C: Cache, F: Fn() -> C + Sync> CachedSqlite<F> {
    pub fn new(make_cache: F) -> Self {
        CachedSqlite { backing: Sqlite::new(), make_cache }
    }
}

impl<C: Cache, F: Fn() -> C + Sync> Subject for CachedSqlite<F> {
    fn capabilities(&self) -> Capabilities {
        self.backing.capabilities()
    }

    fn model(&self) -> SessionModel {
        self.backing.model()
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.backing.store.clear().unwrap();
        let cache = pausing((self.make_cache)());
        let backing = pausing(self.backing.store.clone());
        let store = CachedStore::builder(cache, backing).retry_after(Duration::from_millis(1));
        let store = settled(store.build().unwrap());
        callers(move |operation| names.call(&store, operation))
    }
}

/// A memcached that does not fail.
pub struct MemcachedSubject {
    store: MemcachedStore,
}

impl MemcachedSubject {
    pub fn on(server: &Memcached) -> Self {
        MemcachedSubject { store: server.store() }
    }
}

fn call_memcached(store: &MemcachedStore, names: Names, operation: &Operation) -> Answer {
    match operation.call {
        Call::RevokeEveryone => match store.clear() {
            Ok(()) => Answer::RevokedEveryone(None),
            Err(error) => failed(&operation.call, &error),
        },
        _ => names.call(store, operation),
    }
}

impl Subject for MemcachedSubject {
    fn capabilities(&self) -> Capabilities {
        Capabilities { lists: false, threads: THREADS, slow: false }
    }

    fn model(&self) -> SessionModel {
        SessionModel { moves_in_steps: true, ..SessionModel::PLAIN }
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        callers(move |operation| call_memcached(&self.store, names, operation))
    }
}

/// A memcached that is restarted, or frozen for a while. It is never flushed: a flush also removes
/// what is stored in the same second, after its answer.
pub struct FailingMemcached {
    pub server: Memcached,
}

impl FailingMemcached {
    pub fn new() -> Self {
        FailingMemcached { server: Memcached::start() }
    }

    /// A store with short timeouts.
    pub fn store(&self) -> MemcachedStore {
        let timeout = Duration::from_millis(25);
        self.server.builder().connect_timeout(timeout).io_timeout(timeout).open().unwrap()
    }

    /// Restarts or freezes it. Returns true if all items were lost.
    fn disturb(&self, dice: &mut Dice) -> bool {
        yield_for(dice.roll(1000));
        match dice.roll(3) {
            0 => {
                self.server.freeze();
                yield_for(dice.roll(60_000));
                self.server.thaw();
                false
            }
            _ => {
                self.server.kill();
                yield_for(dice.roll(2000));
                self.server.start_again();
                true
            }
        }
    }
}

/// SessionModel in a memcached that fails.
pub struct FailingMemcachedSubject {
    failing: FailingMemcached,
    store: MemcachedStore,
}

impl FailingMemcachedSubject {
    pub fn new() -> Self {
        let failing = FailingMemcached::new();
        FailingMemcachedSubject { store: failing.store(), failing }
    }
}

impl Subject for FailingMemcachedSubject {
    fn capabilities(&self) -> Capabilities {
        Capabilities { lists: false, threads: THREADS, slow: true }
    }

    fn model(&self) -> SessionModel {
        SessionModel { moves_in_steps: true, ..SessionModel::PLAIN }
    }

    fn may_fail(&self) -> bool {
        true
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        callers(move |operation| call_memcached(&self.store, names, operation))
    }

    fn disturb(&self, dice: &mut Dice) -> bool {
        self.failing.disturb(dice)
    }
}

/// A memcached that fails, in front of SQLite: no operation fails.
pub struct CachedInFailingMemcached<'f, F> {
    pub failing: &'f FailingMemcached,
    pub cached: CachedSqlite<F>,
}

impl<C: Cache, F: Fn() -> C + Sync> Subject for CachedInFailingMemcached<'_, F> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { slow: true, ..self.cached.capabilities() }
    }

    fn model(&self) -> SessionModel {
        self.cached.model()
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.cached.begin(names)
    }

    fn disturb(&self, dice: &mut Dice) -> bool {
        self.failing.disturb(dice);
        false
    }
}

/// Two cached stores that share a database and a cache, as two processes do. With `outages`, the
/// first one loses its connection to the cache now and then.
pub struct TwoInstances {
    backing: Sqlite,
    outages: bool,
    first: Mutex<Option<FaultyCache>>,
}

impl TwoInstances {
    /// The lifetime of an entry, short enough that histories outlast it.
    const ENTRY_LIFE: Duration = Duration::from_secs(1);

    pub fn new(outages: bool) -> Self {
        TwoInstances { backing: Sqlite::new(), outages, first: Mutex::default() }
    }
}

impl Subject for TwoInstances {
    fn capabilities(&self) -> Capabilities {
        Capabilities { slow: self.outages, ..self.backing.capabilities() }
    }

    fn model(&self) -> SessionModel {
        let reads = match self.outages {
            true => Reads::Within(Self::ENTRY_LIFE.as_millis() as i64),
            false => Reads::LatestAcknowledged,
        };
        SessionModel { reads, ..SessionModel::PLAIN }
    }

    fn threads_per_process(&self) -> usize {
        THREADS / 2
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.backing.store.clear().unwrap();
        let cache = FaultyCache::cache(MemoryCache::new());
        let instance = || {
            let link = FaultyCache::cache(cache.clone());
            let backing = pausing(self.backing.store.clone());
            let store = CachedStore::builder(pausing(link.clone()), backing);
            let store = store.entry_life(Self::ENTRY_LIFE).retry_after(Duration::from_millis(1));
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

    fn disturb(&self, dice: &mut Dice) -> bool {
        if let Some(link) = &*self.first.lock().unwrap()
            && self.outages
        {
            yield_for(dice.roll(300));
            link.set_down(true);
            yield_for(dice.roll(5000));
            // Sometimes the connection stays lost until the end of the history.
            link.set_down(dice.one_in(2));
        }
        false
    }
}
