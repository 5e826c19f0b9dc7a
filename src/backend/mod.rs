//! Socket 1: what a back-end implements. One file in this folder is one back-end.
//!
//! [`Store`] is small and has no defaults, so that no wrapper forgets to forward a method; what
//! only some back-ends can do stands in [`SessionIndex`] and [`Maintenance`]. The meaning of a
//! [`Commit`] is decided by [`Commit::decide`], once for all stores.

mod commit;
pub(crate) mod key_map;

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{IdpSessionId, PublicId, Realm, SessionIdHash, UserKey};
use crate::record::{Cursor, Record, Stats, Summary, Touch};

pub use commit::{
    Action, AtLimit, Commit, Decision, IdChange, ReplacedBy, ReplacedId, ReplacedIdStatus,
    SessionLimit,
};

/// Where sessions are kept. Every call blocks until it is done.
///
/// `now` is the time of the caller's injected clock: a store never asks for the time itself, and
/// treats every session whose deadline is at or before `now` as absent.
///
/// # Errors
/// Each method fails with an [`Error`] whose kind says whether trying again can help:
/// [`Busy`](crate::ErrorKind::Busy), [`Unavailable`](crate::ErrorKind::Unavailable),
/// [`Full`](crate::ErrorKind::Full), [`NotSetUp`](crate::ErrorKind::NotSetUp) and so on. A
/// session that is not there is an answer, never an error.
#[allow(clippy::missing_errors_doc)] // once for all of them, above
pub trait Store: Debug + Send + Sync + 'static {
    /// Finds a live session. Writes nothing.
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded>;

    /// What [`load`](Self::load) would answer, where that is known without waiting for a disk,
    /// another machine, or whoever writes; else `None`, which says nothing of the session. It lets
    /// a server whose threads must not wait do without the detour that a call that may wait takes.
    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded>;

    /// Carries out everything that writes one session, in one atomic step. When it returns
    /// [`Committed::Done`] or [`Committed::Deleted`], the change is there for every later call.
    ///
    /// Besides the errors above: [`TooLarge`](crate::ErrorKind::TooLarge) when the data would
    /// exceed the commit's limit, [`Conflict`](crate::ErrorKind::Conflict) when a new key is
    /// taken; what was stored before is intact then.
    fn commit(&self, commit: &Commit<'_>) -> Result<Committed>;

    /// Records activity, for all sessions of the batch that still live. It never moves time
    /// back, and leaves data and revision alone.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()>;

    /// Removes at most `limit` sessions that have ended, and says how many and at what cost to
    /// others. Fewer than `limit` means that none is left.
    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport>;

    /// The power to list and revoke, if this store has it.
    fn index(&self) -> Option<&dyn SessionIndex>;

    /// The regular work this store needs done, if it needs any.
    fn maintenance(&self) -> Option<&dyn Maintenance>;

    /// What this store promises.
    fn capabilities(&self) -> Capabilities;
}

/// Lists and revokes sessions by user, handle or external key.
///
/// # Errors
/// The same kinds as for [`Store`].
#[allow(clippy::missing_errors_doc)] // once for all of them, above
pub trait SessionIndex: Debug + Send + Sync {
    /// Live sessions, the newest first, one page of them.
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>>;

    /// Ends sessions, except the one of the handle `except`, and gives the keys of those that
    /// lived, so that a cache can forget them. Those whose deadlines have passed are removed too,
    /// or a write that has waited since before the deadline could make one live again.
    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>>;

    /// Ends every session, of one realm or of all, and raises the [`epoch`](Registry::epoch). Says
    /// how many lived.
    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64>;

    /// How often everyone was revoked: what a cache holds from before is void. A cached store asks
    /// for it once a second.
    fn epoch(&self) -> Result<u64>;

    /// Counts the sessions.
    fn stats(&self, now: Timestamp) -> Result<Stats>;
}

/// Regular work of a store that no request should do: for SQLite, checkpoints.
///
/// # Errors
/// The same kinds as for [`Store`].
#[allow(clippy::missing_errors_doc)] // once for all of them, above
pub trait Maintenance: Debug + Send + Sync {
    /// Does what is due. Called by the cleaner, never by a request.
    fn run(&self) -> Result<()>;

    /// Asks for a ring when work is due before the next regular run. The bell is rung on a
    /// request's path, so it must not block. A second bell replaces the first.
    fn on_due(&self, bell: Box<dyn Fn() + Send + Sync>);
}

/// A place in front of a store that answers faster and may forget anything at any time.
///
/// A fill succeeds only by the lease that its miss took: whatever was forgotten in between has
/// ended the lease, so a slow reader cannot bring back a dead session.
///
/// It has one share or more, such as servers, of which one can fail without the others. Each key
/// belongs to one share, always to the same.
///
/// # Errors
/// [`Unavailable`](crate::ErrorKind::Unavailable) when the cache cannot be reached.
#[allow(clippy::missing_errors_doc)] // once for all of them, above
pub trait Cache: Debug + Send + Sync + 'static {
    /// How many shares it has, for its whole life.
    fn shards(&self) -> NonZeroUsize;

    /// The share that `id_hash` belongs to, counted from 0.
    fn shard_of(&self, id_hash: &SessionIdHash) -> usize;

    /// Looks a session up, and takes a lease on a miss if nobody else holds one.
    fn fetch(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<CacheLookup>;

    /// Stores `entry` if `lease` still holds; false if it does not. From `until` on nobody asks for
    /// it, so it need not be kept.
    fn fill(
        &self,
        id_hash: &SessionIdHash,
        lease: FillLease,
        entry: &CacheEntry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool>;

    /// Forgets these sessions and ends the leases on them.
    fn forget(&self, id_hashes: &[SessionIdHash], now: Timestamp) -> Result<()>;

    /// Forgets everything in one share and ends every lease there.
    fn forget_shard(&self, shard: usize, now: Timestamp) -> Result<()>;
}

/// What [`Cache::fetch`] found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CacheLookup {
    /// The session as it was when the entry's truth was read.
    Hit(CacheEntry),
    /// Nothing; the lease, if given, allows one fill.
    Miss(Option<FillLease>),
}

/// The right to fill one key, until the key is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillLease(u128);

impl FillLease {
    /// The lease with this number; a cache chooses what its numbers mean.
    #[must_use]
    pub const fn new(number: u128) -> Self {
        FillLease(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u128 {
        self.0
    }
}

/// A cached record and when it was true.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The record.
    pub record: Record,
    /// When it was read from the store behind the cache.
    pub read: Timestamp,
}

impl CacheEntry {
    /// `record` as it was read at `read`.
    #[must_use]
    pub const fn new(record: Record, read: Timestamp) -> Self {
        CacheEntry { record, read }
    }
}

/// What [`Store::load`] found.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
pub enum Loaded {
    /// A live session.
    Live {
        /// The session.
        record: Record,
        /// Its current key. It differs from the key asked for when that is the key from before a
        /// renewal, within its grace.
        id_hash: SessionIdHash,
    },
    /// This was the key of a live session until a renewal or a sign-in replaced it, not long ago
    /// ([`ReplacedId::REMEMBERED`]). It finds the session no more: a request with it may end the
    /// session or sign in, and must not read it.
    Replaced {
        /// What is remembered of the key.
        id: ReplacedId,
        /// The session.
        record: Record,
        /// Its current key.
        id_hash: SessionIdHash,
    },
    /// No such session, or it has ended.
    NotFound,
    /// The session cannot be read. It stays in place until its deadline.
    Undecodable {
        /// Its public name, if at least that can be read.
        public_id: Option<PublicId>,
        /// Why.
        error: Error,
    },
}

/// What [`Store::commit`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
pub enum Committed {
    /// The change was made.
    Done {
        /// The session as it is stored now.
        record: Record,
        /// Its key now. After a renewal through a grace key this is not the key asked for.
        id_hash: SessionIdHash,
        /// The current keys that stopped finding a session by this commit, so that a cache can
        /// forget them: the key replaced by a renewal, and sessions ended by the limit per user.
        /// Keys within their grace are not named; a cache files nothing under those.
        ended: Vec<SessionIdHash>,
    },
    /// The delta changed nothing. A due touch was recorded.
    Unchanged {
        /// The session as it is stored.
        record: Record,
        /// Its key.
        id_hash: SessionIdHash,
    },
    /// The session is gone by this commit.
    Deleted {
        /// The key it had.
        id_hash: SessionIdHash,
    },
    /// The revision is not the one the commit demands; nothing was done.
    RevisionMismatch {
        /// The session as it is stored.
        record: Record,
        /// Its key.
        id_hash: SessionIdHash,
    },
    /// As [`Loaded::Replaced`]; nothing was done.
    Replaced {
        /// What is remembered of the key.
        id: ReplacedId,
        /// The session's current key.
        id_hash: SessionIdHash,
        /// The session's public name.
        public_id: PublicId,
    },
    /// There is no such session, or it has ended; nothing was done.
    NotFound,
    /// As [`Loaded::Undecodable`]; nothing was done.
    Undecodable {
        /// Its public name, if at least that can be read.
        public_id: Option<PublicId>,
        /// Why.
        error: Error,
    },
    /// The user has as many sessions as allowed; nothing was done.
    LimitReached,
}

/// What a store promises beyond the laws that all stores keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What it acknowledged outlives the process.
    pub durable: bool,
    /// It has a [`SessionIndex`] and obeys limits per user.
    pub indexed: bool,
}

impl Capabilities {
    /// Promises nothing.
    #[must_use]
    pub const fn new() -> Self {
        Capabilities { durable: false, indexed: false }
    }

    /// The same with this durability.
    #[must_use]
    pub const fn with_durable(self, durable: bool) -> Self {
        Capabilities { durable, ..self }
    }

    /// The same with or without a registry.
    #[must_use]
    pub const fn with_indexed(self, indexed: bool) -> Self {
        Capabilities { indexed, ..self }
    }
}

/// Which sessions a [`SessionIndex`] call is about. Names match exactly, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionFilter<'a> {
    /// All.
    All,
    /// The sessions of this user.
    User(&'a UserKey),
    /// The session of this public name.
    PublicId(&'a PublicId),
    /// The session of this public name, if it is this user's.
    OfUser(&'a UserKey, &'a PublicId),
    /// The sessions that the identity provider knows by this name.
    IdpSession(&'a IdpSessionId),
    /// Those among these that are of this realm; the others are of any.
    InRealm(&'a Realm, &'a SessionFilter<'a>),
}

impl SessionFilter<'_> {
    /// Whether `record` is one of them.
    #[must_use]
    pub fn includes(&self, record: &Record) -> bool {
        match self {
            SessionFilter::All => true,
            SessionFilter::User(user) => record.user.as_ref() == Some(*user),
            SessionFilter::PublicId(public_id) => record.public_id == **public_id,
            SessionFilter::OfUser(user, public_id) => {
                record.public_id == **public_id && record.user.as_ref() == Some(*user)
            }
            SessionFilter::IdpSession(id_hash) => record.idp_session_id.as_ref() == Some(*id_hash),
            SessionFilter::InRealm(realm, filter) => {
                record.realm == **realm && filter.includes(record)
            }
        }
    }
}

/// What one sweep has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// How many sessions it removed.
    pub removed: usize,
    /// For how long it kept others from writing: the cleaner makes the next sweep smaller or larger
    /// by this, and pauses for as long. The time for which the sweep itself waited is no part of
    /// it: beside busy writers that may be most of the time, and a smaller sweep waits as long. A
    /// store that cannot tell gives the time of the whole call.
    pub held: Duration,
}

impl SweepReport {
    /// A sweep that removed so many sessions and kept others from writing for so long.
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

macro_rules! forward {
    ($pointer:ident) => {
        #[deny(clippy::missing_trait_methods)]
        impl<S: Store + ?Sized> Store for $pointer<S> {
            fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
                (**self).load(id_hash, now)
            }

            fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
                (**self).try_load(id_hash, now)
            }

            fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
                (**self).commit(commit)
            }

            fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
                (**self).touch(batch, now)
            }

            fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport> {
                (**self).sweep(now, limit)
            }

            fn index(&self) -> Option<&dyn SessionIndex> {
                (**self).index()
            }

            fn maintenance(&self) -> Option<&dyn Maintenance> {
                (**self).maintenance()
            }

            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }
        }
    };
}

forward!(Box);
forward!(Arc);
