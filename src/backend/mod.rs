//! The interface for authors of stores and caches. It may change in each 0.x version, and after 1.0
//! in a minor one.
//!
//! An author implements these traits:
//!
//! | trait | implemented by |
//! |---|---|
//! | [`Store`] | every store; all methods but the optimisation [`try_load`](Store::try_load) are required |
//! | [`SessionIndex`] | a store that can list the sessions of a user |
//! | [`Maintenance`] | a store with regular background work, such as checkpoints |
//! | [`StoreWrapper`] | a store that passes its calls on to another store, and changes some of them |
//! | [`Cache`] | a cache in front of a store, for a [`CachedStore`](crate::stores::cached::CachedStore) |
//!
//! The types that applications use too change less often. They are in the modules
//! [`clock`](crate::clock), [`id`](crate::id), [`lifetime`](crate::lifetime) and
//! [`list`](crate::list).
//!
//! # Commits
//!
//! A [`Commit`] is the change of one session by one request. A store executes it in these steps,
//! within one atomic operation, such as a transaction:
//!
//! 1. It looks up the session of the commit's id hash. The result is a [`Found`].
//! 2. It passes that to [`Commit::decide`], which applies all rules and returns a [`Decision`].
//! 3. It executes the decision: it removes and writes the sessions that the decision names.
//!
//! In a store that keeps its sessions in a map, these steps are as follows. Replaced ids are left
//! out; without them a sign-out does not work by an old id.
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::Mutex;
//!
//! use cloakroom::backend::{Commit, CommitAnswer, Found, LiveSession, Record, SessionWrite};
//! use cloakroom::clock::Timestamp;
//! use cloakroom::id::SessionIdHash;
//! use cloakroom::{Error, Result};
//!
//! type Rows = HashMap<SessionIdHash, Record>;
//!
//! /// The key of a session is its id hash. The decision names the sessions by their keys.
//! fn find(rows: &Rows, id_hash: SessionIdHash, now: Timestamp) -> Found<SessionIdHash> {
//!     match rows.get(&id_hash) {
//!         None => Found::NotFound, // or a replaced id, which a store must remember
//!         Some(record) => {
//!             let session = LiveSession { record: record.clone(), id_hash };
//!             Found::of_session(session, id_hash, now)
//!         }
//!     }
//! }
//!
//! /// `Store::load` is `Ok(find(&rows, *id_hash, now).into())`, and `Store::commit` is this.
//! fn commit(rows: &Mutex<Rows>, commit: &Commit) -> Result<CommitAnswer> {
//!     let mut rows = rows.lock().unwrap(); // a database begins a transaction here
//!     let decision = commit.decide(find(&rows, commit.id_hash, commit.now))?;
//!     if decision.write.new_id().is_some_and(|id_hash| rows.contains_key(id_hash)) {
//!         return Err(Error::id_is_taken());
//!     }
//!     // A store with an index applies the maximum per user here; others get none.
//!     for key in decision.removed() {
//!         rows.remove(key);
//!     }
//!     match &decision.write {
//!         SessionWrite::Nothing(_) => {}
//!         // An insert may name a replaced id to remember.
//!         SessionWrite::Insert { session, .. }
//!         | SessionWrite::Update { session, .. }
//!         | SessionWrite::Touch { session, .. } => {
//!             rows.insert(session.id_hash, session.record.clone());
//!         }
//!         SessionWrite::Move { key, session, .. } => {
//!             rows.remove(key); // and store `id_change.remembered(…)`
//!             rows.insert(session.id_hash, session.record.clone());
//!         }
//!     }
//!     Ok(decision.into_answer(vec![])) // no bound has removed sessions
//! }
//! # use cloakroom::Lifetime;
//! # use cloakroom::backend::{Action, Delta, NewSession};
//! # let (rows, now) = (Mutex::default(), Timestamp::from_millis(0));
//! # let id_hash = SessionIdHash::from_bytes([1; 32]);
//! # let new_session = NewSession::new(Lifetime::default().limits_from(now))?;
//! # let create = Commit::new(&id_hash, Action::Create(new_session), Delta::new(), now);
//! # assert!(matches!(commit(&rows, &create)?, CommitAnswer::Done { .. }));
//! # let end = Commit::new(&id_hash, Action::End, Delta::new(), now);
//! # assert!(matches!(commit(&rows, &end)?, CommitAnswer::Ended(_)));
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! The example `examples/own_store.rs` is a complete store in less than 200 lines: it also
//! remembers replaced ids and refuses conflicts. [`conformance`](crate::conformance) checks the
//! guarantees that can be seen through the interface.

mod cache;
pub(crate) mod commit;
mod lookup;
mod replaced_id;
mod touch_error;
mod wrapper;

use std::fmt::Debug;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::list::{Page, SessionFilter, Stats, Summary};
use crate::sync::monotonic_now;

pub use crate::data::{CsrfSecret, Data, Value};
pub use crate::delta::{Change, Delta};
pub use crate::record::{EndedSession, NewSession, Record, Touch};
pub use cache::{Cache, CacheEntry, CacheKey, CacheLookup, FillLease};
pub use commit::{
    Action, Commit, CommitAnswer, Decision, Expected, IdChange, MaxSessions, SessionWrite,
    UserMaximum,
};
pub use lookup::{Found, LiveSession, Loaded, Unreadable};
pub use replaced_id::{ReplacedBy, ReplacedId};
pub use touch_error::TouchError;
pub use wrapper::StoreWrapper;

/// A store of sessions. Every call blocks until it is done.
///
/// `now` is the time of the caller's injected clock: a store never reads a clock for it, and treats
/// every session whose deadline is at or before `now` as absent.
///
/// # Errors
/// The [store's errors](crate::ErrorKind#the-stores-errors). A missing session is an answer, never
/// an error.
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait Store: Debug + Send + Sync + 'static {
    /// Finds a live session. Writes nothing.
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded>;

    /// Returns the answer of [`load`](Self::load) if that needs no waiting for a disk, another
    /// machine or a writer; else `None`. An optimisation: an asynchronous server can make this call
    /// on a thread that must not block. Returns `None` by default.
    fn try_load(&self, _id_hash: &SessionIdHash, _now: Timestamp) -> Option<Loaded> {
        None
    }

    /// Executes a commit, in one atomic step. When it returns [`CommitAnswer::Done`] or
    /// [`CommitAnswer::Ended`], every later call sees the change.
    ///
    /// Besides the errors above: [`TooLarge`](crate::ErrorKind::TooLarge) when the data would
    /// exceed the commit's limit, [`Conflict`](crate::ErrorKind::Conflict) when a new id is taken;
    /// what was stored before is intact then, as it is after [`Busy`](crate::ErrorKind::Busy).
    fn commit(&self, commit: &Commit) -> Result<CommitAnswer>;

    /// Records activity for all live sessions of the batch. It never moves a time back, and changes
    /// neither data nor revision.
    ///
    /// Touches every session of the batch that can be touched, even if others fail. The error names
    /// those that were not touched; the caller tries them again.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError>;

    /// Removes at most `limit` expired sessions. If it removes fewer, no more can be removed at
    /// this time. Some may remain: a store may keep rows that other tables reference, or leave
    /// sessions to the sweep of another process.
    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport>;

    /// Returns the index that lists and revokes sessions; `None` if this store has none. Only a
    /// store with an index gets commits with a [maximum per user](MaxSessions).
    fn index(&self) -> Option<&dyn SessionIndex>;

    /// Returns the background work of this store; `None` if it has none.
    fn maintenance(&self) -> Option<&dyn Maintenance>;

    /// Returns the optional guarantees of this store.
    fn capabilities(&self) -> Capabilities;
}

/// Lists and revokes sessions by user, public id, or the identity provider's session id.
///
/// # Errors
/// The same kinds as for [`Store`].
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait SessionIndex: Debug + Send + Sync {
    /// Returns one page of the live sessions, the newest first.
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>>;

    /// Ends sessions, except the one of the public id `except`, and returns the live ones, for
    /// events and the invalidation of caches. It also removes the expired ones, for the reason of
    /// [`Decision::expired`].
    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>>;

    /// Gives the sessions of the user `from` in `realm`, expired ones included, to the user `to`,
    /// in one atomic step that raises their revisions. Returns their current id hashes, for the
    /// invalidation of caches.
    fn rename_user(
        &self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>>;

    /// Ends every session, of one realm or of all, and raises the [`epoch`](Self::epoch). Returns
    /// the number of live ones.
    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64>;

    /// Returns a number that rises, not always by one, when cache entries must no longer be used:
    /// after a revocation of all sessions, an operator's revocation, a clear or a restore. A cached
    /// store calls this once a second.
    fn epoch(&self) -> Result<u64>;

    /// Returns the identity of this set of sessions. A cached store reads it with the
    /// [`epoch`](Self::epoch), so that two stores behind one cache never share an entry.
    fn identity(&self) -> Result<StoreIdentity>;

    /// Counts the sessions.
    fn stats(&self, now: Timestamp) -> Result<Stats>;

    /// Returns the id hashes of the anonymous sessions of `realm`, expired ones included, except
    /// for the `keep` that were used last: at most `limit`, and those that were idle longest first.
    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>>;

    /// Evicts those of these sessions that are anonymous and still have the id hash. A session that
    /// was signed in meanwhile has another one.
    fn evict_anonymous(&self, id_hashes: &[SessionIdHash], now: Timestamp)
    -> Result<RemovalReport>;
}

/// A number that tells a store from every other, also from a copy of its tables that was restored
/// elsewhere. A copy of the files, by `cp` or of the folder of a PostgreSQL server, has the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreIdentity(pub(crate) [u8; 16]);

impl StoreIdentity {
    /// Makes an identity of random bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        StoreIdentity(bytes)
    }

    /// Returns the key of a session's entry in a cache: another one for each store.
    #[must_use]
    pub fn cache_key(self, id_hash: &SessionIdHash) -> CacheKey {
        let mut bytes = *id_hash.as_bytes();
        bytes.iter_mut().zip(self.0).for_each(|(byte, own)| *byte ^= own);
        CacheKey::from_bytes(bytes)
    }
}

/// Background work of a store: for SQLite, checkpoints.
///
/// # Errors
/// The same kinds as for [`Store`].
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait Maintenance: Debug + Send + Sync {
    /// Does the work that is due. The cleaner calls it, never a request.
    fn run(&self) -> Result<()>;

    /// Registers a callback for work that is due before the next regular run. It runs on a request
    /// thread and must not block. A second callback replaces the first.
    fn on_due(&self, callback: Box<dyn Fn() + Send + Sync>);
}

/// The optional guarantees of a store, and a risk of its settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Acknowledged changes survive the end of the process.
    pub durable: bool,
    /// Two applications with default settings share one set of sessions, as in memcached. A review
    /// of the settings reports this risk.
    pub shared_by_default: bool,
    /// Anonymous sessions never take the whole room of the store, so that their number needs no
    /// limit.
    pub bounds_anonymous: bool,
}

impl Capabilities {
    /// Makes capabilities without optional guarantees.
    #[must_use]
    pub const fn new() -> Self {
        Capabilities { durable: false, shared_by_default: false, bounds_anonymous: false }
    }

    /// Returns these capabilities with or without durability.
    #[must_use]
    pub const fn with_durable(self, durable: bool) -> Self {
        Capabilities { durable, ..self }
    }

    /// Returns these capabilities with or without the warning that default settings are shared.
    #[must_use]
    pub const fn with_shared_by_default(self, shared_by_default: bool) -> Self {
        Capabilities { shared_by_default, ..self }
    }

    /// Returns these capabilities with or without a bound of anonymous sessions.
    #[must_use]
    pub const fn with_bounds_anonymous(self, bounds_anonymous: bool) -> Self {
        Capabilities { bounds_anonymous, ..self }
    }
}

/// The result of one sweep, or of one eviction of anonymous sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemovalReport {
    /// The number of removed sessions.
    pub removed: usize,
    /// The time for which it blocked other writers. The cleaner adapts the size of the next sweep
    /// to it, and pauses for as long. The sweep's own wait for the lock is not included: that
    /// wait does not shrink with the batch, so it must not shrink the batch. A store that cannot
    /// measure this returns the duration of the whole call.
    pub blocked_for: Duration,
    /// Those of the removed sessions that had a user, each with the limit that it
    /// [had reached](EndedSession::reached_limit). The trail of events has gaps if a store does not
    /// know them or their limits.
    pub user_sessions: Vec<EndedSession>,
}

impl RemovalReport {
    /// Makes a report of `removed` sessions and a blocking time of `blocked_for`.
    #[must_use]
    pub const fn new(removed: usize, blocked_for: Duration) -> Self {
        RemovalReport { removed, blocked_for, user_sessions: Vec::new() }
    }

    /// Makes a report of `removed` sessions that has blocked other writers since `began`.
    pub(crate) fn since(began: Instant, removed: usize) -> Self {
        RemovalReport::new(removed, monotonic_now().saturating_duration_since(began))
    }

    /// Returns this report with those of `removed` that had a user.
    #[must_use]
    pub fn with_user_sessions(self, removed: impl IntoIterator<Item = EndedSession>) -> Self {
        let user_sessions = removed.into_iter().filter(|ended| ended.user.is_some()).collect();
        RemovalReport { user_sessions, ..self }
    }
}
