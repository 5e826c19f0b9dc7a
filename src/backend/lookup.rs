//! What stores find under an id hash, and what they answer to a load.
//!
//! Stores make a [`Found`]; the answers to loads and commits follow from it.

use crate::backend::ReplacedId;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::id::{PublicId, SessionIdHash};
use crate::lifetime::EndReason;
use crate::record::{EndedSession, Record};

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSession {
    /// The session as it is stored.
    pub record: Record,
    /// The hash of the session's current id.
    pub id_hash: SessionIdHash,
}

impl LiveSession {
    /// Returns what events say of the session when it has ended.
    #[must_use]
    pub fn to_ended(&self) -> EndedSession {
        EndedSession::of(self.id_hash, &self.record)
    }
}

/// What a store has found under an id hash. The first row that applies decides:
///
/// | stored under the id hash | found |
/// |---|---|
/// | nothing, or a replaced id that is [forgotten](ReplacedId::forget_at) | `NotFound` |
/// | a session whose deadline has passed | `Expired` |
/// | a session that cannot be decoded | `Undecodable` |
/// | a replaced id that is not in its [grace](ReplacedId::is_in_grace) | `Replaced` |
/// | the current id of a session, or one in its grace | `Live` |
///
/// [`of_session`](Self::of_session) and [`through_replaced_id`](Self::through_replaced_id) follow
/// this table.
///
/// `K` is the key of the session in the store, such as a row number:
/// [`Commit::decide`](crate::backend::Commit::decide) returns it in its decision, so that a store
/// can change only the session that it found. For a load, convert it into [`Loaded`].
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per request, on the stack
pub enum Found<K> {
    /// A live session, found by its current id or by one within its grace.
    Live {
        /// The session, with its current id.
        session: LiveSession,
        /// The key of the session.
        key: K,
    },
    /// A live session, found by a replaced id that is not in its grace.
    Replaced {
        /// The replaced id.
        replaced: ReplacedId,
        /// The session, with its current id.
        session: LiveSession,
        /// The key of the session.
        key: K,
    },
    /// A session that cannot be decoded. It stays in place until its deadline.
    Undecodable {
        /// The hash of the session's current id.
        id_hash: SessionIdHash,
        /// The public id of the session, if that can be read.
        public_id: Option<PublicId>,
        /// The reason why it cannot be decoded.
        error: Error,
        /// The key of the session.
        key: K,
    },
    /// A session whose deadline has passed.
    Expired {
        /// The limit that the session of a user had reached.
        reached_limit: Option<EndReason>,
        /// The key of the session.
        key: K,
    },
    /// No session.
    NotFound,
}

/// The answer to a load.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per request, on the stack
pub enum Loaded {
    /// A live session, found by its current id or by one within its grace.
    Live(LiveSession),
    /// No session can be read by this id.
    Unreadable(Unreadable),
}

/// The reason why a request must not read a session by an id.
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // one per request, on the stack
pub enum Unreadable {
    /// A renewal or a sign-in replaced the id, and the id is not forgotten
    /// ([`ReplacedId::forget_at`]). A request with this id may end the session or sign in, and must
    /// not read the session.
    Replaced {
        /// The replaced id.
        replaced: ReplacedId,
        /// The live session.
        session: LiveSession,
    },
    /// The stored session cannot be decoded. It stays in place until its deadline.
    Undecodable {
        /// The public id of the session, if that can be read.
        public_id: Option<PublicId>,
        /// The reason why it cannot be decoded.
        error: Error,
    },
    /// There is no such session, or its deadline has passed.
    NotFound {
        /// The limit that the session of a user had reached, if it is still stored.
        reached_limit: Option<EndReason>,
    },
}

impl<K> Found<K> {
    /// Makes the result for the current id of `session`, which may have expired.
    #[must_use]
    pub fn of_session(session: LiveSession, key: K, now: Timestamp) -> Self {
        if session.record.is_live(now) {
            Found::Live { session, key }
        } else {
            Found::of_expired(&session.record, key)
        }
    }

    /// Returns the result for a replaced id of the session, from the one for its current id.
    #[must_use]
    pub fn through_replaced_id(self, replaced: ReplacedId, now: Timestamp) -> Self {
        match self {
            _ if replaced.forget_at() <= now => Found::NotFound,
            Found::Live { session, key } if !replaced.is_in_grace(now) => {
                Found::Replaced { replaced, session, key }
            }
            found => found,
        }
    }

    /// Makes the result for the session of `record`, whose deadline has passed.
    #[must_use]
    pub fn of_expired(record: &Record, key: K) -> Self {
        // The visitor of an anonymous session need not know.
        let reached_limit = record.user.as_ref().map(|_| record.limits.reached_limit(record.seen));
        Found::Expired { reached_limit, key }
    }

    /// Returns the session if it can be read, with its key; else the reason.
    #[allow(clippy::result_large_err)] // one per request, on the stack
    pub(super) fn into_live(self) -> Result<(LiveSession, K), Unreadable> {
        Err(match self {
            Found::Live { session, key } => return Ok((session, key)),
            Found::Replaced { replaced, session, .. } => Unreadable::Replaced { replaced, session },
            Found::Undecodable { public_id, error, .. } => {
                Unreadable::Undecodable { public_id, error }
            }
            Found::Expired { reached_limit, .. } => Unreadable::NotFound { reached_limit },
            Found::NotFound => Unreadable::NOT_FOUND,
        })
    }
}

impl Unreadable {
    /// There is no such session, and none has expired.
    pub const NOT_FOUND: Unreadable = Unreadable::NotFound { reached_limit: None };
}

impl<K> From<Found<K>> for Loaded {
    fn from(found: Found<K>) -> Self {
        match found.into_live() {
            Ok((session, _)) => Loaded::Live(session),
            Err(unreadable) => Loaded::Unreadable(unreadable),
        }
    }
}
