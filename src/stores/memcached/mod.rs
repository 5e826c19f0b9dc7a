//! Sessions in memcached: shared by machines, and lost as a whole when memcached forgets. Alone as
//! the store, or as the [`Cache`](crate::backend::Cache) in front of one that remembers.

mod builder;
mod cache;
mod client;
mod commit;
mod lookup;
mod rendezvous;
mod value;

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{
    Capabilities, Commit, Committed, Lookup, Maintenance, SessionIndex, Store, SweepReport,
};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::record::{Record, Touch};
use crate::stores::memcached::client::{Client, Item, Replacement, Space, Written};
use crate::stores::memcached::value::{State, Unreadable};

pub use builder::MemcachedStoreBuilder;

/// The server's clock is another one than ours: an item stays so much longer than its session, so
/// that only the deadline in it decides.
const MARGIN: Duration = Duration::from_secs(60);

/// Sessions in one or more memcached servers, 1.6 or newer. Cloning gives another handle to the
/// same store.
///
/// It is volatile: a restart, a flush or a full server loses sessions, each as a whole, and nobody
/// is told. Each server has its share of the sessions; while one is down, its share is
/// [`Unavailable`](crate::ErrorKind::Unavailable), and never another server's. It cannot list
/// sessions, so there is no registry, and no limit per user.
///
/// As a [`Cache`](crate::backend::Cache) in front of another store it holds entries, beside and apart
/// from its sessions: see [`CachedStore`](crate::stores::cached::CachedStore).
///
/// ```no_run
/// use cloakroom::SessionManager;
/// use cloakroom::stores::memcached::MemcachedStore;
///
/// let store = MemcachedStore::builder().servers(["10.0.0.1:11211", "10.0.0.2:11211"]).open()?;
/// let sessions = SessionManager::new(store)?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MemcachedStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    /// How long a change may go on being overtaken by others.
    busy_timeout: Duration,
    events: Events,
}

impl MemcachedStore {
    /// Sessions in the memcached at `127.0.0.1:11211`, with all defaults.
    ///
    /// # Errors
    /// As [`MemcachedStoreBuilder::open`].
    pub fn open() -> Result<Self> {
        MemcachedStore::builder().open()
    }

    /// Starts with the defaults.
    pub fn builder() -> MemcachedStoreBuilder {
        MemcachedStoreBuilder::new()
    }

    /// Ends every session of this namespace, and no other: what was stored before is out of reach
    /// from now on, for every process. The memory is memcached's to take back, by and by. Several
    /// servers are closed first, and opened when all of them are; requests wait meanwhile, and
    /// fail with [`Busy`](crate::ErrorKind::Busy) when that takes longer than the timeout. If this
    /// process dies in between, the servers open by themselves after ten seconds.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when a server cannot be reached. The others
    /// are cleared then; try again.
    pub fn clear(&self) -> Result<()> {
        self.0.client.clear(Space::Sessions, "end all sessions in memcached")
    }
}

impl Inner {
    /// What stands in an item, if it is anything of ours.
    fn read(&self, item: &Item) -> Result<Option<State>, Error> {
        match State::decode(&item.value) {
            Ok(state) => Ok(Some(state)),
            Err(Unreadable::Undecodable(error)) => Err(error),
            Err(Unreadable::Garbage(error)) => {
                self.events.raise(&Event::InvalidCacheValue { error: &error });
                Ok(None)
            }
        }
    }
}

/// How long an item is kept that is worth nothing from `end` on.
fn life(end: Timestamp, now: Timestamp) -> Option<Duration> {
    (end != Timestamp::MAX).then(|| end.since(now).saturating_add(MARGIN))
}

fn life_of(record: &Record, now: Timestamp) -> Option<Duration> {
    life(record.deadline(), now)
}

#[deny(clippy::missing_trait_methods)]
impl Store for MemcachedStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Lookup> {
        self.0.find(id_hash, now, "load a session").map(Lookup::without_position)
    }

    fn try_load(&self, _: &SessionIdHash, _: Timestamp) -> Option<Lookup> {
        None
    }

    fn commit(&self, commit: &Commit) -> Result<Committed> {
        self.0.commit(commit)
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        self.0.touch(batch, now)
    }

    /// Nothing to do: memcached forgets what has ended by itself.
    fn sweep(&self, _now: Timestamp, _limit: NonZeroUsize) -> Result<SweepReport> {
        Ok(SweepReport::new(0, Duration::ZERO))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        None
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
    }
}

impl Inner {
    /// A touch is the same session with another `seen`, in place of exactly the version that was
    /// read. One that somebody else was faster than, or that leads through a grace, goes the way
    /// of a commit.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        const OPERATION: &str = "record activity";
        let id_hashes: Vec<SessionIdHash> = batch.iter().map(|(id_hash, _)| *id_hash).collect();
        let items = self.client.get_many(Space::Sessions, &id_hashes, OPERATION);
        let (mut failed, mut again, mut touched) = (None, Vec::new(), Vec::new());
        for ((id_hash, touch), item) in batch.iter().zip(items) {
            let item = match item {
                Ok(Some(item)) => item,
                Ok(None) => continue,
                // A server that is down keeps the others from nothing.
                Err(error) => {
                    failed = failed.or(Some(error));
                    continue;
                }
            };
            match self.read(&item) {
                Ok(Some(State::Live(mut record))) if record.is_live(now) => {
                    if record.touch(*touch) {
                        let life = life_of(&record, now);
                        let (stamp, value) = (item.stamp, State::Live(record).encode());
                        touched
                            .push((*touch, Replacement { id_hash: *id_hash, stamp, value, life }));
                    }
                }
                Ok(Some(State::Arriving(_) | State::Moved(..) | State::Left(_))) => {
                    again.push((*id_hash, *touch));
                }
                Ok(Some(State::Live(_)) | None) | Err(_) => {}
            }
        }
        let (touches, replacements): (Vec<_>, Vec<_>) = touched.into_iter().unzip();
        let written = self.client.replace_many(Space::Sessions, &replacements, OPERATION);
        for ((touch, replacement), written) in touches.into_iter().zip(&replacements).zip(written) {
            match written {
                Ok(Written::Stored(_) | Written::Missing) => {}
                Ok(Written::Changed) => again.push((replacement.id_hash, touch)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        for (id_hash, touch) in again {
            if let Err(error) = self.touch_one(&id_hash, touch, now) {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
