//! A cache in front of a store. The store is the truth; the cache makes reading it cheaper, and
//! may fail, forget, or be away, and nobody is told a lie.

mod builder;
mod changing;
mod epoch;
mod health;
mod registry;
mod trust;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::SessionKey;
use crate::process::Process;
use crate::record::{Record, Touch};
use crate::store::cached::changing::Changing;
use crate::store::cached::epoch::Epoch;
use crate::store::cached::health::{Health, Shares, Untold};
use crate::store::cached::trust::{Trust, Verdict};
use crate::store::{
    Cache, Commit, Committed, Entry, Fate, Fetched, Lease, Loaded, Registry, Store, Swept, Traits,
    Upkeep,
};
use crate::sync::{instant, thread};

pub use builder::Builder;

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
/// [`epoch`](Registry::epoch). The clocks of the machines must agree; what they differ by is added
/// to that bound.
///
/// ```
/// use cloakroom::store::cached::CachedStore;
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
    truth: S,
    trust: Trust,
    epoch: Epoch,
    shares: Shares,
    changing: Changing,
    events: Events,
}

impl<C: Cache, S: Store> CachedStore<C, S> {
    /// `truth` with `cache` in front of it, with all defaults.
    pub fn new(cache: C, truth: S) -> Self {
        let (life, retry) = (builder::LIFE, builder::RETRY);
        CachedStore::with(cache, truth, life, retry, Events::default())
    }

    /// Starts with the defaults.
    pub fn builder(cache: C, truth: S) -> Builder<C, S> {
        Builder::new(cache, truth)
    }

    fn with(cache: C, truth: S, life: Duration, retry: Duration, events: Events) -> Self {
        CachedStore(Arc::new(Inner {
            process: Process::current(),
            trust: Trust::new(life),
            epoch: Epoch::new(),
            shares: Shares::new(cache.shares(), retry),
            changing: Changing::default(),
            cache,
            truth,
            events,
        }))
    }

    /// The store behind the cache.
    #[must_use]
    pub fn truth(&self) -> &S {
        &self.0.truth
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &C {
        &self.0.cache
    }

    /// Has a share asked again, if it is down and the time has come. No request waits for that.
    fn ask_again(&self, share: usize, now: Timestamp) {
        let health = self.0.shares.of(share);
        if !health.begin_probe(instant()) {
            return;
        }
        let inner = self.0.clone();
        let probe = move || inner.repair(share, now);
        if thread::Builder::new().name("cloakroom-cache".to_owned()).spawn(probe).is_err() {
            health.put_off(Untold::default(), instant());
        }
    }

    /// Makes a share forget. What it cannot be told now is made good later.
    fn tell(&self, share: usize, untold: Untold, now: Timestamp) {
        if let Some(untold) = self.0.shares.of(share).keep_for_later(untold) {
            self.0.tell_at_once(share, untold, now);
        } else {
            self.ask_again(share, now);
        }
    }

    fn tell_keys(&self, keys: impl IntoIterator<Item = SessionKey>, now: Timestamp) {
        let mut shares: HashMap<usize, HashSet<SessionKey>> = HashMap::new();
        for key in keys {
            shares.entry(self.0.cache.share_of(&key)).or_default().insert(key);
        }
        for (share, keys) in shares {
            self.tell(share, Untold::Keys(keys), now);
        }
    }

    fn tell_everything(&self, now: Timestamp) {
        (0..self.0.shares.count()).for_each(|share| self.tell(share, Untold::Everything, now));
    }

    /// After a commit, begun at `began`, that failed and may have been done all the same.
    fn tell_what_may_have_been(&self, commit: &Commit<'_>, began: Instant) {
        let (asked, now) = (*commit.key, commit.now);
        let mut keys = vec![asked];
        if commit.is_revocation() {
            // It may have ended sessions whose keys nobody has named.
            self.0.doubt(now, began);
        } else if matches!(commit.fate, Fate::Merge) {
            // Through a grace the session has another key than was asked for.
            match self.0.truth.load(&asked, now) {
                Ok(Loaded::Live { key, .. }) => keys.push(key),
                Ok(_) => {}
                Err(_) => self.0.doubt(now, began),
            }
        }
        self.tell_keys(keys, now);
    }
}

/// What the cache has for a read.
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
enum Consulted {
    Hit(Record),
    Fill(Lease),
    Nothing,
}

impl<C: Cache, S: Store> Inner<C, S> {
    fn consult(&self, key: &SessionKey, now: Timestamp) -> Consulted {
        self.fetch(key, now).unwrap_or_else(|error| {
            self.failed(key, &error);
            Consulted::Nothing
        })
    }

    fn fetch(&self, key: &SessionKey, now: Timestamp) -> Result<Consulted> {
        let entry = match self.cache.fetch(key, now)? {
            Fetched::Hit(entry) => entry,
            Fetched::Miss(Some(lease)) => return Ok(Consulted::Fill(lease)),
            Fetched::Miss(None) => return Ok(Consulted::Nothing),
        };
        match self.trust.judge(&entry, now) {
            Verdict::True => return Ok(Consulted::Hit(entry.record)),
            Verdict::Doubtful => return Ok(Consulted::Nothing),
            Verdict::Void => self.cache.forget(&[*key], now)?,
        }
        Ok(match self.cache.fetch(key, now)? {
            Fetched::Miss(Some(lease)) => Consulted::Fill(lease),
            Fetched::Miss(None) | Fetched::Hit(_) => Consulted::Nothing,
        })
    }

    fn fill(&self, key: &SessionKey, lease: Lease, record: &Record, now: Timestamp) {
        // `now` is from before the read: an entry is never younger than its truth.
        let entry = Entry::new(record.clone(), now);
        if let Err(error) = self.cache.fill(key, lease, &entry, self.trust.end_of(&entry), now) {
            self.failed(key, &error);
        }
    }

    /// A read or a fill failed.
    fn failed(&self, key: &SessionKey, error: &Error) {
        let share = self.cache.share_of(key);
        if self.shares.of(share).failed(*key, instant()) {
            self.raise_down(share, error);
        }
    }

    fn tell_at_once(&self, share: usize, untold: Untold, now: Timestamp) {
        if let Err(error) = self.say(share, &untold, now)
            && self.shares.of(share).missed(untold, instant())
        {
            self.raise_down(share, &error);
        }
    }

    fn raise_down(&self, share: usize, error: &Error) {
        let (share, of) = (share + 1, self.shares.count());
        self.events.raise(&Event::CacheDown { share, of, error });
    }

    fn say(&self, share: usize, untold: &Untold, now: Timestamp) -> Result<()> {
        match untold {
            Untold::Keys(keys) if keys.is_empty() => Ok(()),
            Untold::Keys(keys) => {
                let keys: Vec<SessionKey> = keys.iter().copied().collect();
                self.cache.forget(&keys, now)
            }
            Untold::Everything => self.cache.forget_share(share, now),
        }
    }

    /// Tells a share that was down all that it missed. Only then is it believed again.
    fn repair(&self, share: usize, now: Timestamp) {
        let health = self.shares.of(share);
        let mut probe = Probe { health, owed: Untold::default() };
        probe.owed = health.take_untold();
        if self.say(share, &probe.owed, now).is_err() {
            return;
        }
        // From here on whoever changes a session tells the cache himself: what is owed comes to an
        // end, however many those are.
        probe.owed = health.let_others_tell();
        if self.say(share, &probe.owed, now).is_err() {
            return;
        }
        probe.owed = Untold::default();
        if health.close() {
            let (share, of) = (share + 1, self.shares.count());
            self.events.raise(&Event::CacheBack { share, of });
        }
    }

    /// Whether everyone has been revoked, for all that this process knows, no earlier than it knows.
    fn is_in_epoch(&self, now: Timestamp) -> bool {
        let Some(registry) = self.truth.registry() else { return true };
        self.epoch.allows(now, || registry.epoch(), || self.trust.begin_after(now))
    }

    /// After a failed change, begun at `began`, that may have been done all the same. While it was
    /// waiting others may have filled in what it has ended since.
    fn doubt(&self, now: Timestamp, began: Instant) {
        self.trust.begin_after(now + instant().saturating_duration_since(began));
    }
}

/// A probe under way. However it ends, what it has not told is still owed.
struct Probe<'h> {
    health: &'h Health,
    owed: Untold,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.health.put_off(std::mem::take(&mut self.owed), instant());
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

impl<C: Cache, S: Store> Store for CachedStore<C, S> {
    fn load(&self, key: &SessionKey, now: Timestamp) -> Result<Loaded> {
        self.0.process.check()?;
        self.0.trust.begin(now);
        // Asked in this order: a change that the cache could not be told has opened the breaker by
        // the time it is over.
        let is_changing = self.0.changing.is_under_way();
        let share = self.0.cache.share_of(key);
        if !self.0.shares.of(share).is_closed() {
            self.ask_again(share, now);
            return self.0.truth.load(key, now);
        }
        if is_changing || !self.0.is_in_epoch(now) {
            return self.0.truth.load(key, now);
        }
        let consulted = self.0.consult(key, now);
        if let Consulted::Hit(record) = consulted {
            return Ok(Loaded::Live { record, key: *key });
        }
        let loaded = self.0.truth.load(key, now)?;
        // What another key leads to is not filed under this one: nobody would be told to forget it.
        if let (Consulted::Fill(lease), Loaded::Live { record, key: current }) =
            (&consulted, &loaded)
            && current == key
        {
            self.0.fill(key, *lease, record, now);
        }
        Ok(loaded)
    }

    /// Nothing: which of the two may answer is found out on the way.
    fn try_load(&self, _: &SessionKey, _: Timestamp) -> Option<Loaded> {
        None
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        self.0.process.check()?;
        let (asked, now) = (*commit.key, commit.now);
        self.0.trust.begin(now);
        // Until the cache has been told. Of a session that begins it knows nothing.
        let is_new = matches!(commit.fate, Fate::Create(_));
        let _changing = (!is_new).then(|| self.0.changing.begin());
        let began = instant();
        let answer = match self.0.truth.commit(commit) {
            Ok(answer) => answer,
            Err(error) => {
                if is_uncertain(&error) {
                    self.tell_what_may_have_been(commit, began);
                }
                return Err(error);
            }
        };
        match &answer {
            // Nobody can have asked for a key before its session began.
            Committed::Done { .. } if is_new => {}
            Committed::Done { key, ended, .. } => {
                self.tell_keys([asked, *key].into_iter().chain(ended.iter().copied()), now);
            }
            Committed::Unchanged { record, key } => {
                if commit.touch.is_some_and(|touch| touch.seen <= record.seen) {
                    self.tell_keys([asked, *key], now);
                }
            }
            // What the cache holds is not what the store does, or this request would know better.
            Committed::Stale { key, .. } | Committed::Deleted { key } => {
                self.tell_keys([asked, *key], now);
            }
            Committed::Replaced { .. } | Committed::Gone | Committed::Undecodable { .. } => {
                self.tell_keys([asked], now);
            }
            Committed::Full => {}
        }
        Ok(answer)
    }

    /// The cache forgets what was touched. An entry would go on saying that a touch is due, and
    /// every request would send another one.
    fn touch(&self, batch: &[(SessionKey, Touch)], now: Timestamp) -> Result<()> {
        self.0.process.check()?;
        self.0.trust.begin(now);
        let _changing = self.0.changing.begin();
        self.0.truth.touch(batch, now)?;
        self.tell_keys(batch.iter().map(|(key, _)| *key), now);
        Ok(())
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<Swept> {
        self.0.process.check()?;
        // A request that comes late must not find in the cache what is removed here.
        self.0.trust.begin(now);
        self.0.truth.sweep(now, limit)
    }

    fn registry(&self) -> Option<&dyn Registry> {
        self.0.truth.registry().map(|_| self as &dyn Registry)
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        self.0.truth.upkeep()
    }

    fn traits(&self) -> Traits {
        self.0.truth.traits()
    }
}
