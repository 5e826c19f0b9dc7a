//! The results of lookups, which loads, commits and the session of a request share.

use crate::backend::ReplacedId;
use crate::error::Error;
use crate::id::{PublicId, SessionIdHash};
use crate::lifetime::EndReason;
use crate::record::{EndedSession, Record};

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSession {
    /// Its record.
    pub record: Record,
    /// The hash of its current id.
    pub id_hash: SessionIdHash,
}

impl LiveSession {
    /// Returns what events say of the session when it has ended.
    #[must_use]
    pub fn to_ended(&self) -> EndedSession {
        EndedSession::of(self.id_hash, &self.record)
    }
}

/// The result of a lookup of an id hash in a store.
///
/// `P` is the position of the session in the store, such as a row number:
/// [`Commit::decide`](crate::backend::Commit::decide) returns it in its decision, so that a store
/// can change only the session that it found. In the answer to a load it is `()`.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per request, on the stack
pub enum Lookup<P = ()> {
    /// A live session, found by its current id or by one within its grace.
    Live {
        /// The session.
        session: LiveSession,
        /// Its position.
        at: P,
    },
    /// No live session can be read by this id.
    Missing(Missing<P>),
}

/// The reason why a request must not read a session by an id.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // one per request, on the stack
pub enum Missing<P = ()> {
    /// A renewal or a sign-in replaced the id less than [`ReplacedId::REMEMBERED`] ago. A request
    /// with this id may end the session or sign in, and must not read the session.
    Replaced {
        /// The replaced id.
        id: ReplacedId,
        /// The live session.
        session: LiveSession,
        /// Its position.
        at: P,
    },
    /// The stored session cannot be decoded. It stays in place until its deadline.
    Undecodable {
        /// Its public id, if that can be read.
        public_id: Option<PublicId>,
        /// The reason.
        error: Error,
        /// Its position.
        at: P,
    },
    /// The deadline of the session has passed. In the answer to a load or a commit this is
    /// [`NotFound`](Self::NotFound).
    Expired {
        /// Its position.
        at: P,
        /// The limit that the session of a user had reached.
        expired_by: Option<EndReason>,
    },
    /// There is no such session.
    NotFound {
        /// The limit that the session of a user had reached, if it is still stored.
        expired_by: Option<EndReason>,
    },
}

impl<P> Lookup<P> {
    /// Makes the result for an id under which nothing is stored.
    #[must_use]
    pub const fn not_found() -> Self {
        Lookup::Missing(Missing::not_found())
    }

    /// Returns the answer to a load.
    #[must_use]
    pub fn without_position(self) -> Lookup {
        match self {
            Lookup::Live { session, .. } => Lookup::Live { session, at: () },
            Lookup::Missing(missing) => Lookup::Missing(missing.without_position()),
        }
    }
}

impl<P> Missing<P> {
    /// Makes the result for an id under which nothing is stored.
    #[must_use]
    pub const fn not_found() -> Self {
        Missing::NotFound { expired_by: None }
    }

    /// Makes the result for the session of `record` at `at`, whose deadline has passed.
    #[must_use]
    pub fn expired(at: P, record: &Record) -> Self {
        Missing::Expired { at, expired_by: record.expired_by() }
    }

    /// Returns the answer to a load or a commit: without a position, and not found if expired.
    #[must_use]
    pub fn without_position(self) -> Missing {
        match self {
            Missing::Replaced { id, session, .. } => Missing::Replaced { id, session, at: () },
            Missing::Undecodable { public_id, error, .. } => {
                Missing::Undecodable { public_id, error, at: () }
            }
            Missing::Expired { expired_by, .. } | Missing::NotFound { expired_by } => {
                Missing::NotFound { expired_by }
            }
        }
    }
}
