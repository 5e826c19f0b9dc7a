//! A cache in front of a store. The store is the truth; the cache makes reading it cheaper, and
//! may fail, forget, or be away, and nobody is told a lie.

mod builder;
mod circuit_breaker;
mod epoch;
mod freshness;
mod in_flight;
mod index;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{
    Action, Cache, CacheEntry, CacheLookup, Capabilities, Commit, Committed, FillLease,
    LiveSession, Lookup, Maintenance, SessionIndex, Store, SweepReport,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::process::Process;
use crate::record::{Record, Touch};
use crate::stores::cached::circuit_breaker::{CircuitBreaker, PendingInvalidations, Shards};
use crate::stores::cached::epoch::Epoch;
use crate::stores::cached::freshness::{Freshness, Verdict};
use crate::stores::cached::in_flight::InFlight;
use crate::sync::{instant, thread};

pub use builder::CachedStoreBuilder;

/// The store `S`, with the cache `C` in front of it. Cloning gives another handle to the same.
///
/// Reads come from the cache if they can. Whatever changes a session is done in the store first,
/// and then the cache is made to forget it. What was read from the store is filled in only if
/// nobody has changed it meanwhile.
///
/// A cache that fails costs time, never a session: after a few failures it is left alone, and
/// asked from time to time by a thread of its own. What it could not be told until then is made
/// good before it is believed again. Of several servers each is left alone by itself.
///
/// What this process has acknowledged, or has read from the store, it never reads otherwise from the
/// cache. Another process may see a change that is under way, and once more what was before, until
/// it is acknowledged.
///
/// The one bound: where the cache was not told of a change, a process may serve the session as it
/// was for as long as an entry lives, 60 seconds by default. That is so for other processes when
/// this one cannot reach the cache, or dies between store and cache; and for all of them when the
/// store is changed past this type, by the sqlite3 shell or a program that uses the store alone.
/// That everyone was revoked is seen within a second in any case, by the store's
/// [`epoch`](SessionIndex::epoch). The clocks of the machines must agree; what they differ by is added
/// to that bound.
///
/// ```
/// use cloakroom::stores::cached::CachedStore;
/// use cloakroom::{MemoryStore, SessionManager};
///
/// // In earnest, a memcached in front of a database.
/// let store = CachedStore::new(MemoryStore::new(), MemoryStore::new());
/// let sessions = SessionManager::new(store)?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Debug)]
pub struct CachedStore<C, S>(Arc<Inner<C, S>>);

impl<C, S> Clone for CachedStore<C, S> {
    fn clone(&self) -> Self {
        CachedStore(self.0.clone())
    }
}

#[derive(Debug)]
struct Inner<C, S> {
    /// A copy of what it knows, in a process forked from this one, is told of no change.
    process: Process,
    cache: C,
    backing: S,
    freshness: Freshness,
    epoch: Epoch,
    shards: Shards,
    in_flight: InFlight,
    events: Events,
}

impl<C: Cache, S: Store> CachedStore<C, S> {
    /// `backing` with `cache` in front of it, with all defaults.
    pub fn new(cache: C, backing: S) -> Self {
        let (life, retry) = (builder::LIFE, builder::RETRY);
        CachedStore::with(cache, backing, life, retry, Events::default())
    }

    /// Starts with the defaults.
    pub fn builder(cache: C, backing: S) -> CachedStoreBuilder<C, S> {
        CachedStoreBuilder::new(cache, backing)
    }

    fn with(cache: C, backing: S, life: Duration, retry: Duration, events: Events) -> Self {
        CachedStore(Arc::new(Inner {
            process: Process::current(),
            freshness: Freshness::new(life),
            epoch: Epoch::new(),
            shards: Shards::new(cache.shards(), retry),
            in_flight: InFlight::default(),
            cache,
            backing,
            events,
        }))
    }

    /// The store behind the cache.
    #[must_use]
    pub fn backing(&self) -> &S {
        &self.0.backing
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &C {
        &self.0.cache
    }

    /// Has a share asked again, if it is down and the time has come. No request waits for that.
    fn ask_again(&self, shard: usize, now: Timestamp) {
        let circuit_breaker = self.0.shards.of(shard);
        if !circuit_breaker.begin_probe(instant()) {
            return;
        }
        let inner = self.0.clone();
        let probe = move || inner.repair(shard, now);
        if thread::Builder::new().name("cloakroom-cache".to_owned()).spawn(probe).is_err() {
            circuit_breaker.put_off(PendingInvalidations::default(), instant());
        }
    }

    /// Makes a share forget. What it cannot be told now is made good later.
    fn invalidate(&self, shard: usize, pending: PendingInvalidations, now: Timestamp) {
        if let Some(pending) = self.0.shards.of(shard).keep_for_later(pending) {
            self.0.invalidate_now(shard, pending, now);
        } else {
            self.ask_again(shard, now);
        }
    }

    fn invalidate_sessions(
        &self,
        id_hashes: impl IntoIterator<Item = SessionIdHash>,
        now: Timestamp,
    ) {
        let mut shards: HashMap<usize, HashSet<SessionIdHash>> = HashMap::new();
        for id_hash in id_hashes {
            shards.entry(self.0.cache.shard_of(&id_hash)).or_default().insert(id_hash);
        }
        for (shard, id_hashes) in shards {
            self.invalidate(shard, PendingInvalidations::Keys(id_hashes), now);
        }
    }

    fn invalidate_all(&self, now: Timestamp) {
        (0..self.0.shards.count())
            .for_each(|shard| self.invalidate(shard, PendingInvalidations::Everything, now));
    }

    /// After a commit, begun at `began`, that failed and may have been done all the same.
    fn invalidate_possible_change(&self, commit: &Commit, began: Instant) {
        let (asked, now) = (commit.id_hash, commit.now);
        let mut id_hashes = vec![asked];
        if commit.is_revocation() {
            // It may have ended sessions whose keys nobody has named.
            self.0.doubt(now, began);
        } else if matches!(commit.action, Action::Merge) {
            // Through a grace the session has another key than was asked for.
            match self.0.backing.load(&asked, now) {
                Ok(Lookup::Live { session, .. }) => id_hashes.push(session.id_hash),
                Ok(_) => {}
                Err(_) => self.0.doubt(now, began),
            }
        }
        self.invalidate_sessions(id_hashes, now);
    }
}

/// What the cache has for a read.
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
enum Consultation {
    Hit(Record),
    Fill(FillLease),
    Nothing,
}

impl<C: Cache, S: Store> Inner<C, S> {
    fn consult(&self, id_hash: &SessionIdHash, now: Timestamp) -> Consultation {
        self.fetch(id_hash, now).unwrap_or_else(|error| {
            self.failed(id_hash, &error);
            Consultation::Nothing
        })
    }

    fn fetch(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Consultation> {
        let entry = match self.cache.fetch(id_hash, now)? {
            CacheLookup::Hit(entry) => entry,
            CacheLookup::Miss(Some(lease)) => return Ok(Consultation::Fill(lease)),
            CacheLookup::Miss(None) => return Ok(Consultation::Nothing),
        };
        match self.freshness.judge(&entry, now) {
            Verdict::True => return Ok(Consultation::Hit(entry.record)),
            Verdict::Doubtful => return Ok(Consultation::Nothing),
            Verdict::Void => self.cache.forget(&[*id_hash], now)?,
        }
        Ok(match self.cache.fetch(id_hash, now)? {
            CacheLookup::Miss(Some(lease)) => Consultation::Fill(lease),
            CacheLookup::Miss(None) | CacheLookup::Hit(_) => Consultation::Nothing,
        })
    }

    fn fill(&self, id_hash: &SessionIdHash, lease: FillLease, record: &Record, now: Timestamp) {
        // `now` is from before the read: an entry is never younger than its truth.
        let entry = CacheEntry::new(record.clone(), now);
        if let Err(error) =
            self.cache.fill(id_hash, lease, &entry, self.freshness.end_of(&entry), now)
        {
            self.failed(id_hash, &error);
        }
    }

    /// A read or a fill failed.
    fn failed(&self, id_hash: &SessionIdHash, error: &Error) {
        let shard = self.cache.shard_of(id_hash);
        if self.shards.of(shard).failed(*id_hash, instant()) {
            self.raise_down(shard, error);
        }
    }

    fn invalidate_now(&self, shard: usize, pending: PendingInvalidations, now: Timestamp) {
        if let Err(error) = self.say(shard, &pending, now)
            && self.shards.of(shard).missed(pending, instant())
        {
            self.raise_down(shard, &error);
        }
    }

    fn raise_down(&self, shard: usize, error: &Error) {
        let (shard, of) = (shard + 1, self.shards.count());
        self.events.raise(&Event::CacheDown { shard, of, error });
    }

    fn say(&self, shard: usize, pending: &PendingInvalidations, now: Timestamp) -> Result<()> {
        match pending {
            PendingInvalidations::Keys(id_hashes) if id_hashes.is_empty() => Ok(()),
            PendingInvalidations::Keys(id_hashes) => {
                let id_hashes: Vec<SessionIdHash> = id_hashes.iter().copied().collect();
                self.cache.forget(&id_hashes, now)
            }
            PendingInvalidations::Everything => self.cache.forget_shard(shard, now),
        }
    }

    /// Tells a share that was down all that it missed. Only then is it believed again.
    fn repair(&self, shard: usize, now: Timestamp) {
        let circuit_breaker = self.shards.of(shard);
        let mut probe = Probe { circuit_breaker, owed: PendingInvalidations::default() };
        probe.owed = circuit_breaker.take_untold();
        if self.say(shard, &probe.owed, now).is_err() {
            return;
        }
        // From here on whoever changes a session tells the cache himself: what is owed comes to an
        // end, however many those are.
        probe.owed = circuit_breaker.let_others_tell();
        if self.say(shard, &probe.owed, now).is_err() {
            return;
        }
        probe.owed = PendingInvalidations::default();
        if circuit_breaker.close() {
            let (shard, of) = (shard + 1, self.shards.count());
            self.events.raise(&Event::CacheRecovered { shard, of });
        }
    }

    /// Whether everyone has been revoked, for all that this process knows, no earlier than it knows.
    fn is_in_epoch(&self, now: Timestamp) -> bool {
        let Some(index) = self.backing.index() else { return true };
        self.epoch.allows(now, || index.epoch(), || self.freshness.begin_after(now))
    }

    /// After a failed change, begun at `began`, that may have been done all the same. While it was
    /// waiting others may have filled in what it has ended since.
    fn doubt(&self, now: Timestamp, began: Instant) {
        self.freshness.begin_after(now + instant().saturating_duration_since(began));
    }
}

/// A probe under way. However it ends, what it has not told is still owed.
struct Probe<'h> {
    circuit_breaker: &'h CircuitBreaker,
    owed: PendingInvalidations,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.circuit_breaker.put_off(std::mem::take(&mut self.owed), instant());
    }
}

/// Whether an error leaves open what was done. The other kinds say that nothing was.
fn is_uncertain(error: &Error) -> bool {
    !matches!(
        error.kind(),
        ErrorKind::TooLarge
            | ErrorKind::Conflict
            | ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::WrongType
            | ErrorKind::NotSetUp
            | ErrorKind::ForeignTable
            | ErrorKind::NewerSchema
            | ErrorKind::ReadOnly
    )
}

#[deny(clippy::missing_trait_methods)]
impl<C: Cache, S: Store> Store for CachedStore<C, S> {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Lookup> {
        self.0.process.check()?;
        self.0.freshness.begin(now);
        // Asked in this order: a change that the cache could not be told has opened the breaker by
        // the time it is over.
        let is_changing = self.0.in_flight.is_under_way();
        let shard = self.0.cache.shard_of(id_hash);
        if !self.0.shards.of(shard).is_closed() {
            self.ask_again(shard, now);
            return self.0.backing.load(id_hash, now);
        }
        if is_changing || !self.0.is_in_epoch(now) {
            return self.0.backing.load(id_hash, now);
        }
        let consulted = self.0.consult(id_hash, now);
        if let Consultation::Hit(record) = consulted {
            let session = LiveSession { record, id_hash: *id_hash };
            return Ok(Lookup::Live { session, at: () });
        }
        let found = self.0.backing.load(id_hash, now)?;
        // What another key leads to is not filed under this one: nobody would be told to forget it.
        if let (Consultation::Fill(lease), Lookup::Live { session, .. }) = (&consulted, &found)
            && session.id_hash == *id_hash
        {
            self.0.fill(id_hash, *lease, &session.record, now);
        }
        Ok(found)
    }

    /// Nothing: which of the two may answer is found out on the way.
    fn try_load(&self, _: &SessionIdHash, _: Timestamp) -> Option<Lookup> {
        None
    }

    fn commit(&self, commit: &Commit) -> Result<Committed> {
        self.0.process.check()?;
        let (asked, now) = (commit.id_hash, commit.now);
        self.0.freshness.begin(now);
        // Until the cache has been told. Of a session that begins it knows nothing.
        let is_new = matches!(commit.action, Action::Create(_));
        let _changing = (!is_new).then(|| self.0.in_flight.begin());
        let began = instant();
        let answer = match self.0.backing.commit(commit) {
            Ok(answer) => answer,
            Err(error) => {
                if is_uncertain(&error) {
                    self.invalidate_possible_change(commit, began);
                }
                return Err(error);
            }
        };
        match &answer {
            // Nobody can have asked for a key before its session began.
            Committed::Done { .. } if is_new => {}
            Committed::Done { session, ended } => {
                let asked_and_current = [asked, session.id_hash].into_iter();
                self.invalidate_sessions(asked_and_current.chain(ended.iter().copied()), now);
            }
            Committed::Unchanged(session) => {
                if commit.touch.is_some_and(|touch| touch.seen <= session.record.seen) {
                    self.invalidate_sessions([asked, session.id_hash], now);
                }
            }
            // What the cache holds is not what the store does, or this request would know better.
            Committed::RevisionMismatch(LiveSession { id_hash, .. })
            | Committed::Deleted(id_hash) => {
                self.invalidate_sessions([asked, *id_hash], now);
            }
            Committed::Missing(_) => self.invalidate_sessions([asked], now),
            Committed::LimitReached => {}
        }
        Ok(answer)
    }

    /// The cache forgets what was touched. An entry would go on saying that a touch is due, and
    /// every request would send another one.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        self.0.process.check()?;
        self.0.freshness.begin(now);
        let _changing = self.0.in_flight.begin();
        self.0.backing.touch(batch, now)?;
        self.invalidate_sessions(batch.iter().map(|(id_hash, _)| *id_hash), now);
        Ok(())
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport> {
        self.0.process.check()?;
        // A request that comes late must not find in the cache what is removed here.
        self.0.freshness.begin(now);
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
