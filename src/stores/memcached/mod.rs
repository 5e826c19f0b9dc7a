//! Sessions in memcached, shared by several machines, and lost when memcached loses them.
//!
//! A session is one item, under the hash of its id. For example, a renewal from id A to id B moves
//! the session to the item of B, and leaves in the item of A a redirect to B.

mod builder;
mod cache;
mod client;
mod commit;
mod lookup;
mod rendezvous;
mod value;

use std::collections::HashSet;
use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{
    Capabilities, Commit, CommitAnswer, Loaded, Maintenance, RemovalReport, SessionIndex, Store,
    TouchError,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::record::{Record, Touch};
use crate::stores::memcached::client::{
    CallContext, Item, KeySpace, Replacement, ServerClient, Written,
};
use crate::stores::memcached::value::{ItemState, UnreadableValue};

pub use builder::MemcachedStoreBuilder;

/// How much longer an item is kept than its session lives. The server's clock may differ from ours;
/// with this margin only the deadline inside the item counts.
const MARGIN: Duration = Duration::from_secs(60);

/// Sessions in one or more memcached servers, version 1.6.18 or newer. Clones share one store.
///
/// Used as the only store, or as the [`Cache`](crate::backend::Cache) of a
/// [`CachedStore`](crate::stores::cached::CachedStore), whose entries are separate from sessions.
///
/// ```no_run
/// use cloakroom::SessionManager;
/// use cloakroom::stores::memcached::MemcachedStore;
///
/// let store = MemcachedStore::builder().servers(["10.0.0.1:11211", "10.0.0.2:11211"]).open()?;
/// let sessions = SessionManager::new(store)?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// - **Losses.** The store is volatile: a restart, a flush or a full server loses whole sessions
///   without an error.
/// - **Outages.** Each session is on one server. While that is down, its sessions are
///   [`Unavailable`](crate::ErrorKind::Unavailable); they do not move to another server.
/// - **Lists.** The store cannot list sessions, so it has no [`SessionIndex`] and supports no
///   maximum per user.
/// - **Clocks.** Deadlines are compared with the clock of the machine that serves the request, so
///   the machines' clocks must be synchronized.
/// - **Memory.** memcached drops an item a minute after its session's deadline at the latest. A
///   session of more than 30 days has no expiry in memcached, and stays there until its memory is
///   needed.
/// - **Option `-M`.** A full server then refuses new sessions with
///   [`Full`](crate::ErrorKind::Full), and loses a session that it cannot store again. A session of
///   more than 30 days keeps its memory until it is signed out.
/// - **Separation.** Two applications on one memcached need different
///   [namespaces](MemcachedStoreBuilder::namespace) or
///   [realms](crate::manager::SessionManagerBuilder::realm). Otherwise the sessions of one are
///   sessions of the other.
#[derive(Clone, Debug)]
pub struct MemcachedStore(Arc<MemcachedInner>);

#[derive(Debug)]
struct MemcachedInner {
    client: ServerClient,
    events: Events,
}

/// A call of the store.
#[derive(Clone, Copy, Debug)]
struct StoreCall {
    now: Timestamp,
    context: CallContext,
}

impl MemcachedStore {
    /// Opens a store in the memcached server at `127.0.0.1:11211`, with the default settings.
    ///
    /// # Errors
    /// As [`MemcachedStoreBuilder::open`].
    pub fn open() -> Result<Self> {
        MemcachedStore::builder().open()
    }

    /// Starts a builder with the default settings.
    pub fn builder() -> MemcachedStoreBuilder {
        MemcachedStoreBuilder::new()
    }

    /// Ends all sessions of this namespace, for every process. memcached reclaims their memory over
    /// time.
    ///
    /// All servers are blocked first and then cleared, because a renewal could otherwise move a
    /// session to a server that is already cleared. Requests wait meanwhile, and fail with
    /// [`Busy`](crate::ErrorKind::Busy) after the I/O timeout. If this process ends meanwhile, the
    /// servers are unblocked after ten seconds.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if a server cannot be reached. The other
    /// servers are then cleared; call this again.
    pub fn clear(&self) -> Result<()> {
        self.0.client.clear(KeySpace::Sessions, "end all sessions in memcached")
    }
}

impl MemcachedInner {
    /// Begins a call.
    fn call(&self, now: Timestamp, operation: &'static str) -> StoreCall {
        StoreCall { now, context: self.client.context(KeySpace::Sessions, operation) }
    }

    /// Decodes an item; `None` if this program has not written it.
    fn decode(&self, item: &Item) -> Result<Option<ItemState>, Error> {
        match ItemState::decode(&item.value, &item.at.id_hash) {
            Ok(state) => Ok(Some(state)),
            Err(UnreadableValue::Undecodable(error)) => Err(error),
            Err(UnreadableValue::Foreign(error)) => {
                self.events.raise(&Event::ForeignItem { error: &error });
                Ok(None)
            }
        }
    }
}

/// Returns the time to live of an item that is useless after `end`; `None` for no limit.
fn ttl(end: Timestamp, now: Timestamp) -> Option<Duration> {
    (end != Timestamp::MAX).then(|| end.since(now).saturating_add(MARGIN))
}

fn ttl_of(record: &Record, now: Timestamp) -> Option<Duration> {
    ttl(record.deadline(), now)
}

impl Store for MemcachedStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        self.0.find(id_hash, self.0.call(now, "load a session")).map(Loaded::from)
    }

    fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        self.0.commit(commit)
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        self.0.touch(batch, now)
    }

    /// Removes nothing: memcached removes expired items itself.
    fn sweep(&self, _now: Timestamp, _limit: NonZeroUsize) -> Result<RemovalReport> {
        Ok(RemovalReport::new(0, Duration::ZERO))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        None
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_shared_by_default(self.0.client.has_default_namespace())
    }
}

impl MemcachedInner {
    /// Replaces each item, in exactly the version that was read, by one with a new `seen`. If
    /// another change has come in between, or the id was replaced, then looks the session up and
    /// touches it alone.
    ///
    /// # Errors
    /// [`TouchError::Store`] if each server failed; [`TouchError::Sessions`] if some did.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        let call = self.call(now, "record activity");
        let items = self.client.get_many(call.context, batch.iter().map(|(id_hash, _)| id_hash));
        let mut writes = Vec::new();
        let mut conflicts = Vec::new();
        let mut failed = Vec::new();
        for (touch, item) in batch.iter().zip(items) {
            match item.map(|item| self.touch_step(item, touch.1, now)) {
                Ok(TouchStep::Nothing) => {}
                Ok(TouchStep::Replace(new)) => writes.push((*touch, new)),
                Ok(TouchStep::Find) => conflicts.push(*touch),
                Err(error) => failed.push((*touch, error)),
            }
        }
        let written = self.client.replace_many(call.context, writes.iter().map(|(_, new)| new));
        for ((touch, _), written) in writes.iter().zip(written) {
            match written {
                Ok(Written::Stored(_) | Written::Missing) => {}
                Ok(Written::Changed) => conflicts.push(*touch),
                Err(error) => failed.push((*touch, error)),
            }
        }
        // Together they have the time of one call. What does not fit into it is tried again later.
        let call = self.call(now, "record activity");
        for (id_hash, touch) in conflicts {
            if let Err(error) = self.touch_one(&id_hash, touch, call) {
                failed.push(((id_hash, touch), error));
            }
        }
        self.touch_result(batch.len(), failed)
    }

    fn touch_step(&self, item: Option<Item>, touch: Touch, now: Timestamp) -> TouchStep {
        let Some(item) = item else { return TouchStep::Nothing };
        match self.decode(&item) {
            Ok(Some(ItemState::Live(mut record))) => {
                if record.is_live(now) && record.touch(touch) {
                    TouchStep::Replace(lookup::live(item.at, record, now))
                } else {
                    TouchStep::Nothing
                }
            }
            Ok(Some(_)) => TouchStep::Find,
            Ok(None) | Err(_) => TouchStep::Nothing,
        }
    }

    /// Returns the result of a batch with this number of touches, of which these have failed.
    fn touch_result(
        &self,
        touches: usize,
        failed: Vec<((SessionIdHash, Touch), Error)>,
    ) -> Result<(), TouchError> {
        let outages = failed.iter().filter(|(_, error)| error.kind() == ErrorKind::Unavailable);
        let down: HashSet<usize> =
            outages.map(|((id_hash, _), _)| self.client.server_index(id_hash)).collect();
        let each_is_down = failed.len() == touches && down.len() == self.client.servers();
        match failed.first() {
            // Another batch would wait for each server again.
            Some((_, error)) if each_is_down => Err(TouchError::Store(error.clone())),
            _ => TouchError::check(failed),
        }
    }
}

/// What a touch of an item needs.
enum TouchStep {
    /// Nothing: there is no live session, or later activity is recorded.
    Nothing,
    /// One conditional write.
    Replace(Replacement),
    /// A lookup, because the id was replaced.
    Find,
}
