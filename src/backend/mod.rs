//! The interface of stores. A store implements [`Store`]; listing and background work are in
//! [`SessionIndex`] and [`Maintenance`], for stores that have them. [`Commit::decide`] states what
//! a commit does, once for all stores.
//!
//! The methods of [`Store`] have no defaults, so that no implementation forgets one; a store around
//! another one implements [`StoreWrapper`] instead.

mod cache;
mod commit;
mod filter;
pub(crate) mod key_map;
mod lookup;
mod replaced_id;
mod sweep_batch;
mod wrapper;

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm, SessionIdHash};
use crate::record::{Cursor, Stats, Summary, Touch};

pub use cache::{Cache, CacheEntry, CacheLookup, FillLease};
pub use commit::{Action, AtLimit, Commit, Committed, Decision, IdChange, SessionLimit};
pub use filter::SessionFilter;
pub use lookup::{LiveSession, Lookup, Missing};
pub use replaced_id::{ReplacedBy, ReplacedId, ReplacedIdStatus};
pub(crate) use sweep_batch::SweepBatch;
pub use wrapper::StoreWrapper;

/// A store of sessions. Every call blocks until it is done.
///
/// `now` is the time of the caller's injected clock: a store never reads a clock for it, and treats
/// every session whose deadline is at or before `now` as absent.
///
/// # Errors
/// Each method fails with an [`Error`](crate::Error) whose kind tells whether trying again can
/// help: [`Busy`](crate::ErrorKind::Busy), [`Unavailable`](crate::ErrorKind::Unavailable),
/// [`Full`](crate::ErrorKind::Full), [`NotSetUp`](crate::ErrorKind::NotSetUp) and so on. A missing
/// session is an answer, never an error.
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait Store: Debug + Send + Sync + 'static {
    /// Finds a live session. Writes nothing.
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Lookup>;

    /// The answer of [`load`](Self::load) where it is known without waiting for a disk, another
    /// machine or a writer; else `None`, which says nothing about the session. An asynchronous
    /// server saves the change to a blocking thread by it.
    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Lookup>;

    /// Carries out all that writes one session, in one atomic step. When it returns
    /// [`Committed::Done`] or [`Committed::Deleted`], every later call sees the change.
    ///
    /// Besides the errors above: [`TooLarge`](crate::ErrorKind::TooLarge) when the data would
    /// exceed the commit's limit, [`Conflict`](crate::ErrorKind::Conflict) when a new id is taken;
    /// what was stored before is intact then.
    fn commit(&self, commit: &Commit) -> Result<Committed>;

    /// Records activity, for all sessions of the batch that still live. It never moves time
    /// back, and changes neither data nor revision.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()>;

    /// Removes at most `limit` sessions whose deadlines have passed. Fewer than `limit` mean that
    /// none is left.
    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport>;

    /// Lists and revokes sessions; `None` if this store cannot.
    fn index(&self) -> Option<&dyn SessionIndex>;

    /// The background work of this store; `None` if it has none.
    fn maintenance(&self) -> Option<&dyn Maintenance>;

    /// What this store guarantees.
    fn capabilities(&self) -> Capabilities;
}

/// Lists and revokes sessions by user, public id, or the provider's session id.
///
/// # Errors
/// The same kinds as for [`Store`].
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait SessionIndex: Debug + Send + Sync {
    /// One page of the live sessions, the newest first.
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>>;

    /// Ends sessions, except the one of the public id `except`, and returns the current id hashes
    /// of those that lived, for caches to forget. It also removes those whose deadlines have passed:
    /// a write that has waited since before the deadline could make one live again.
    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>>;

    /// Ends every session, of one realm or of all, and raises the [`epoch`](Self::epoch). Returns
    /// how many lived.
    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64>;

    /// How often all sessions were revoked: cached entries from before are void. A cached store asks
    /// for it once a second.
    fn epoch(&self) -> Result<u64>;

    /// Counts the sessions.
    fn stats(&self, now: Timestamp) -> Result<Stats>;
}

/// Background work of a store: for SQLite, checkpoints.
///
/// # Errors
/// The same kinds as for [`Store`].
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait Maintenance: Debug + Send + Sync {
    /// Does what is due. The cleaner calls it, never a request.
    fn run(&self) -> Result<()>;

    /// Registers a callback for work that is due before the next regular run. It runs on a request
    /// thread and must not block. A second callback replaces the first.
    fn on_due(&self, callback: Box<dyn Fn() + Send + Sync>);
}

/// What a store guarantees beyond the guarantees of all stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What it acknowledged outlives the process.
    pub durable: bool,
    /// It has a [`SessionIndex`] and obeys limits per user.
    pub indexed: bool,
}

impl Capabilities {
    /// Guarantees nothing more.
    #[must_use]
    pub const fn new() -> Self {
        Capabilities { durable: false, indexed: false }
    }

    /// The same with this durability.
    #[must_use]
    pub const fn with_durable(self, durable: bool) -> Self {
        Capabilities { durable, ..self }
    }

    /// The same with or without a session index.
    #[must_use]
    pub const fn with_indexed(self, indexed: bool) -> Self {
        Capabilities { indexed, ..self }
    }
}

/// What one sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// How many sessions it removed.
    pub removed: usize,
    /// For how long it kept others from writing: the cleaner adapts the size of the next sweep to
    /// it, and pauses for as long. The time for which the sweep itself waited is no part of it:
    /// beside busy writers that may be most of the time, and a smaller sweep waits as long. A store
    /// that cannot measure it gives the time of the whole call.
    pub held: Duration,
}

impl SweepReport {
    /// A sweep that removed `removed` sessions and kept others from writing for `held`.
    #[must_use]
    pub const fn new(removed: usize, held: Duration) -> Self {
        SweepReport { removed, held }
    }
}

/// A page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// At most this many.
    pub limit: NonZeroUsize,
    /// Only those after the session at this place.
    pub after: Option<Cursor>,
}

impl Page {
    /// The first `limit` sessions.
    #[must_use]
    pub const fn first(limit: NonZeroUsize) -> Self {
        Page { limit, after: None }
    }

    /// The `limit` sessions after the one whose [`Summary::cursor`] is `after`.
    #[must_use]
    pub const fn after(limit: NonZeroUsize, after: Cursor) -> Self {
        Page { limit, after: Some(after) }
    }
}
