//! A cache in front of a backing store. The backing store is authoritative. The cache makes reads
//! cheaper, and may fail or lose entries at any time.
//!
//! For example, a sign-out deletes the session in PostgreSQL, and then its entry in memcached. A
//! load that misses an entry reads PostgreSQL, and fills the entry unless it was invalidated
//! meanwhile.

// Uses the cache and the backing store through `backend` only.

mod builder;
mod circuit_breaker;
mod freshness;
mod in_flight;
mod index;
mod version_check;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::{
    Action, Cache, CacheEntry, CacheKey, CacheLookup, Capabilities, Commit, CommitAnswer,
    FillLease, LiveSession, Loaded, Maintenance, RemovalReport, SessionIndex, Store, StoreIdentity,
    TouchError,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::process::Process;
use crate::record::{EndedSession, Record, Touch};
use crate::stores::cached::circuit_breaker::{CircuitBreaker, Probe};
use crate::stores::cached::freshness::{Freshness, Verdict};
use crate::stores::cached::in_flight::InFlight;
use crate::stores::cached::version_check::{CacheUse, StoreVersion, VersionCheck};
use crate::sync::{monotonic_now, thread};

pub use builder::CachedStoreBuilder;

/// A backing store `S` with a cache `C` in front of it. Clones share one store.
///
/// Reads use the cache where possible. A change is committed to the backing store first; then the
/// cache entry is invalidated. A fill lease keeps a reader from filling in a value that was
/// invalidated after its read began.
///
/// ```
/// use cloakroom::stores::cached::CachedStore;
/// use cloakroom::stores::memory::MemoryCache;
/// use cloakroom::{MemoryStore, SessionManager};
///
/// // In production, the cache is memcached and the backing store is a database.
/// let store = CachedStore::new(MemoryCache::new(), MemoryStore::new());
/// let sessions = SessionManager::new(store)?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// # Failures of the cache
/// A failure of the cache slows requests down, and loses no session. Each server of the cache has a
/// circuit breaker. After three failures within ten seconds, or one invalidation that could not be
/// sent, requests bypass the server, and a background thread probes it. Before the server is used
/// again, the probe invalidates all its entries.
///
/// A process that has just started does not read the cache for two seconds; the guide lists [the
/// other pauses](crate::guide::stores#pauses).
///
/// # Consistency
/// A process never reads from the cache an older state than one that it has acknowledged or read
/// from the backing store. Until a change is acknowledged, another process may see the new state
/// first and then the old one again.
///
/// If an entry is not invalidated, processes may read the old state of the session until the entry
/// expires, after 60 seconds by default:
///
/// | not invalidated, because | processes that may read the old state |
/// |---|---|
/// | the cache is a [`MemoryCache`](crate::stores::memory::MemoryCache), of which each process has its own | the others |
/// | the process that made the change cannot reach the cache | the others |
/// | that process ended between the commit and the invalidation | the others |
/// | `psql`, or a program without the cache, changed the backing store | all |
/// | a commit with an unknown outcome evicted an anonymous session to make room | all |
///
/// A revocation of all sessions takes effect within a second even then, by the backing store's
/// [`epoch`](SessionIndex::epoch), if that store has an [index](crate::backend::Store::index). The
/// machines' clocks must be synchronized: their difference adds to these times.
///
/// Several backing stores can share one cache, because each has an
/// [`identity`](SessionIndex::identity). A store without an index has none, and needs a cache of
/// its own.
#[derive(Debug)]
pub struct CachedStore<C, S>(Arc<CachedInner<C, S>>);

impl<C, S> Clone for CachedStore<C, S> {
    fn clone(&self) -> Self {
        CachedStore(self.0.clone())
    }
}

#[derive(Debug)]
struct CachedInner<C, S> {
    /// A forked process has a copy of this state that receives no changes, so it must not use it.
    process: Process,
    cache: C,
    backing: S,
    freshness: Freshness,
    version_check: VersionCheck,
    /// One for each shard of the cache. A number beyond these, by a fault of the cache, is not a
    /// shard and is not used.
    circuit_breakers: Vec<Arc<CircuitBreaker>>,
    in_flight: InFlight,
    events: Events,
}

impl<C: Cache, S: Store> CachedStore<C, S> {
    /// Makes a store with `cache` in front of `backing`, with the default settings.
    pub fn new(cache: C, backing: S) -> Self {
        CachedStore::builder(cache, backing).build_unchecked()
    }

    /// Starts a builder with the default settings.
    pub fn builder(cache: C, backing: S) -> CachedStoreBuilder<C, S> {
        CachedStoreBuilder::new(cache, backing)
    }

    /// Returns the backing store.
    #[must_use]
    pub fn backing(&self) -> &S {
        &self.0.backing
    }

    /// Returns the cache.
    #[must_use]
    pub fn cache(&self) -> &C {
        &self.0.cache
    }
}

impl<C: Cache, S: Store> CachedInner<C, S> {
    /// Begins a call: fails in a forked process, and tells the time to `freshness`, so that a
    /// request that lags behind finds no session in the cache that has expired at `now`.
    fn begin_call(&self, now: Timestamp) -> Result<()> {
        self.process.check()?;
        self.freshness.observe(now);
        Ok(())
    }

    /// Reads the cache. Returns fresh entries only.
    fn fetch(&self, key: &CacheKey, now: Timestamp) -> Result<CacheLookup> {
        let found = self.cache.fetch(key, now)?;
        let CacheLookup::Hit(entry) = &found else { return Ok(found) };
        match self.freshness.judge(entry, now) {
            Verdict::Fresh => return Ok(found),
            Verdict::FromTheFuture => return Ok(CacheLookup::Miss(None)),
            Verdict::Stale => self.cache.invalidate(&[*key], now)?,
        }
        Ok(match self.cache.fetch(key, now)? {
            CacheLookup::Hit(_) => CacheLookup::Miss(None),
            miss => miss,
        })
    }

    fn fill(&self, key: &CacheKey, lease: FillLease, record: &Record, now: Timestamp) {
        // `now` is from before the read of the backing store, so an entry never seems newer than it
        // is.
        let entry = CacheEntry::new(record.clone(), now);
        if let Err(error) =
            self.cache.fill(key, lease, &entry, self.freshness.expires_at(&entry), now)
        {
            self.record_failure(key, &error);
        }
    }

    /// Counts a failed read or fill. A cache that has no room for an entry works for others.
    fn record_failure(&self, key: &CacheKey, error: &Error) {
        if matches!(error.kind(), ErrorKind::TooLarge | ErrorKind::Full) {
            return;
        }
        let shard = self.cache.shard_of(key);
        let breaker = self.circuit_breakers.get(shard);
        if breaker.is_some_and(|breaker| breaker.record_failure(monotonic_now())) {
            self.report_down(shard, error);
        }
    }

    fn report_down(&self, shard: usize, error: &Error) {
        let shard = shard + 1;
        let shards = self.cache.shards().get();
        self.events.raise(&Event::CacheDown { shard, shards, error });
    }

    /// Invalidates a shard whose circuit breaker is open, and closes the breaker.
    fn repair(&self, shard: usize, probe: Probe, now: Timestamp) {
        let invalidate = || self.cache.invalidate_shard(shard, now);
        // Changes send no invalidations until the first one here has shown that the shard works,
        // so that they do not wait for a shard that is down. The second one includes theirs.
        let invalidated = invalidate().and_then(|()| {
            probe.half_open();
            invalidate()
        });
        if invalidated.is_ok() && probe.complete() {
            let shard = shard + 1;
            let shards = self.cache.shards().get();
            self.events.raise(&Event::CacheRecovered { shard, shards });
        }
    }

    /// Returns how a call at `now` may use the cache. Reads the backing store's version if that is
    /// due, and makes older entries stale if it has changed.
    fn check_version(&self, now: Timestamp) -> CacheUse {
        let Some(index) = self.backing.index() else {
            // Only stores with an index have an identity and an epoch.
            return CacheUse::Full(StoreIdentity::from_bytes([0; 16]));
        };
        let on_change = || self.freshness.mark_stale_until(now);
        self.version_check.cache_use(now, || StoreVersion::read(index), on_change)
    }

    /// Starts a probe of a shard on a background thread, if one is due. Does not block.
    fn probe_if_due(self: &Arc<Self>, shard: usize, now: Timestamp) {
        let breaker = self.circuit_breakers.get(shard);
        let Some(probe) = breaker.and_then(|breaker| breaker.begin_probe(monotonic_now())) else {
            return;
        };
        let inner = self.clone();
        let repair = move || inner.repair(shard, probe, now);
        // If this fails, the probe is dropped with the closure.
        let _ = thread::Builder::new().name("cloakroom-cache".to_owned()).spawn(repair);
    }

    /// Invalidates entries of a shard by `send`. While the shard cannot be reached, nothing is
    /// sent: a later probe invalidates the whole shard.
    fn invalidate(
        self: &Arc<Self>,
        shard: usize,
        now: Timestamp,
        send: impl FnOnce(&C) -> Result<()>,
    ) {
        let Some(circuit_breaker) = self.circuit_breakers.get(shard) else { return };
        if !circuit_breaker.takes_invalidations() {
            self.probe_if_due(shard, now);
        } else if let Err(error) = send(&self.cache)
            && circuit_breaker.record_missed_invalidation(monotonic_now())
        {
            self.report_down(shard, &error);
        }
    }

    fn invalidate_sessions(
        self: &Arc<Self>,
        id_hashes: impl IntoIterator<Item = SessionIdHash>,
        now: Timestamp,
    ) {
        // Read again, because this process may have read nothing since a restore.
        let identity = match self.check_version(now) {
            CacheUse::Full(identity) | CacheUse::NoReads(identity) => identity,
            CacheUse::KeysUnknown => return self.invalidate_all(now),
        };
        let mut shards: HashMap<usize, HashSet<CacheKey>> = HashMap::new();
        for id_hash in id_hashes {
            let key = identity.cache_key(&id_hash);
            shards.entry(self.cache.shard_of(&key)).or_default().insert(key);
        }
        for (shard, keys) in shards {
            let keys: Vec<CacheKey> = keys.into_iter().collect();
            self.invalidate(shard, now, |cache| cache.invalidate(&keys, now));
        }
    }

    fn invalidate_all(self: &Arc<Self>, now: Timestamp) {
        for shard in 0..self.cache.shards().get() {
            self.invalidate(shard, now, |cache| cache.invalidate_shard(shard, now));
        }
    }

    /// Invalidates what a commit that failed with an unknown outcome may have changed. The commit
    /// began at `began`.
    fn invalidate_possible_change(self: &Arc<Self>, commit: &Commit, began: Instant) {
        let presented = commit.id_hash;
        let now = commit.now;
        let mut id_hashes = vec![presented];
        match commit.action {
            // Which anonymous sessions it may have evicted is unknown. Making all entries stale
            // would turn the cache off whenever the backing store is full or busy.
            Action::Create(_) => {}
            // An id in its grace finds a session with another id hash.
            Action::Merge => match self.backing.load(&presented, now) {
                Ok(Loaded::Live(session)) => id_hashes.push(session.id_hash),
                Ok(_) => {}
                Err(_) => self.mark_entries_stale(now, began),
            },
            // It may have ended sessions whose id hashes are unknown.
            _ => self.mark_entries_stale(now, began),
        }
        self.invalidate_sessions(id_hashes, now);
    }

    /// Makes all entries stale that were read before the end of a change that began at `began` and
    /// failed with an unknown outcome. While the change waited, other requests may have filled in
    /// sessions that it has ended.
    fn mark_entries_stale(&self, now: Timestamp, began: Instant) {
        self.freshness.mark_stale_until(now + monotonic_now().saturating_duration_since(began));
    }
}

impl<C: Cache, S: Store> Store for CachedStore<C, S> {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        let inner = &self.0;
        inner.begin_call(now)?;
        // `InFlight` is read before the breaker: if a change has left it, its failed invalidation
        // has already opened the breaker.
        if inner.in_flight.is_active() {
            return inner.backing.load(id_hash, now);
        }
        let CacheUse::Full(identity) = inner.check_version(now) else {
            return inner.backing.load(id_hash, now);
        };
        let key = identity.cache_key(id_hash);
        let shard = inner.cache.shard_of(&key);
        if !inner.circuit_breakers.get(shard).is_some_and(|breaker| breaker.is_closed()) {
            inner.probe_if_due(shard, now);
            return inner.backing.load(id_hash, now);
        }
        let lease = match inner.fetch(&key, now) {
            Ok(CacheLookup::Hit(CacheEntry { record, .. })) => {
                let session = LiveSession { record, id_hash: *id_hash };
                return Ok(Loaded::Live(session));
            }
            Ok(CacheLookup::Miss(lease)) => lease,
            Err(error) => {
                inner.record_failure(&key, &error);
                None
            }
        };
        let found = inner.backing.load(id_hash, now)?;
        // An entry under a replaced id would never be invalidated, because invalidations name
        // current ids.
        if let (Some(lease), Loaded::Live(session)) = (lease, &found)
            && session.id_hash == *id_hash
        {
            inner.fill(&key, lease, &session.record, now);
        }
        Ok(found)
    }

    fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        let presented = commit.id_hash;
        let now = commit.now;
        let inner = &self.0;
        inner.begin_call(now)?;
        // In flight until the cache is invalidated. A new session has no entry; anonymous sessions
        // that a bounded store evicts for it may be read until then.
        let is_new = matches!(commit.action, Action::Create(_));
        let _changing = (!is_new).then(|| inner.in_flight.begin());
        let began = monotonic_now();
        let answer = match inner.backing.commit(commit) {
            Ok(answer) => answer,
            Err(error) => {
                if error.has_unknown_outcome() {
                    inner.invalidate_possible_change(commit, began);
                }
                return Err(error);
            }
        };
        match &answer {
            // No request can have used the id before its session was created.
            CommitAnswer::Done { evicted, .. } if is_new && evicted.is_empty() => {}
            CommitAnswer::Done { session, .. } => {
                let live = [presented, session.id_hash].into_iter();
                inner.invalidate_sessions(live.chain(answer.ids_to_invalidate()), now);
            }
            CommitAnswer::Unchanged(session) => {
                // The touch was recorded, or a later one: the entry may have an older time.
                if commit.touch.is_some_and(|touch| touch.seen <= session.record.seen) {
                    inner.invalidate_sessions([presented, session.id_hash], now);
                }
            }
            // A mismatch may come from an outdated entry. The entry of an ended session must go.
            CommitAnswer::RevisionMismatch(LiveSession { id_hash, .. })
            | CommitAnswer::Ended(EndedSession { id_hash, .. }) => {
                inner.invalidate_sessions([presented, *id_hash], now);
            }
            CommitAnswer::Unreadable(_) | CommitAnswer::CanJoin { .. } => {
                inner.invalidate_sessions([presented], now);
            }
            CommitAnswer::SignInRefused => {}
        }
        Ok(answer)
    }

    /// Invalidates the touched sessions. An outdated entry would make every request send another
    /// touch.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        self.0.begin_call(now)?;
        let _changing = self.0.in_flight.begin();
        let touched = self.0.backing.touch(batch, now);
        // Also those that failed: their outcome may be unknown.
        self.0.invalidate_sessions(batch.iter().map(|(id_hash, _)| *id_hash), now);
        touched
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        self.0.begin_call(now)?;
        self.0.backing.sweep(now, limit)
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        self.0.backing.index().map(|_| self as &dyn SessionIndex)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.0.backing.maintenance()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.backing.capabilities()
    }
}
