//! Selections and pages of sessions, for lists and revocations.
//!
//! Called by the manager, by session indexes and by operators' commands.

use std::num::NonZeroUsize;

use crate::id::{IdpSessionId, PublicId, Realm, UserKey};
use crate::record::{Cursor, Record};

/// The sessions that a call of [`SessionIndex`](crate::backend::SessionIndex) applies to. Names
/// match exactly, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionFilter<'a> {
    /// All sessions.
    All,
    /// The sessions of this user.
    User(&'a UserKey),
    /// The session of this public id.
    PublicId(&'a PublicId),
    /// The session of this public id, if it is this user's.
    PublicIdOfUser(&'a UserKey, &'a PublicId),
    /// The sessions that belong to this session of the identity provider.
    IdpSession(&'a IdpSessionId),
    /// The sessions of the inner filter that belong to this realm.
    InRealm(&'a Realm, &'a SessionFilter<'a>),
}

impl SessionFilter<'_> {
    /// Returns whether `record` matches.
    #[must_use]
    pub fn includes(&self, record: &Record) -> bool {
        match self {
            SessionFilter::All => true,
            SessionFilter::User(user) => record.user.as_ref() == Some(*user),
            SessionFilter::PublicId(public_id) => record.public_id == **public_id,
            SessionFilter::PublicIdOfUser(user, public_id) => {
                record.public_id == **public_id && record.user.as_ref() == Some(*user)
            }
            SessionFilter::IdpSession(idp_session_id) => {
                record.idp_session_id.as_ref() == Some(*idp_session_id)
            }
            SessionFilter::InRealm(realm, filter) => {
                record.realm == **realm && filter.includes(record)
            }
        }
    }
}

/// A page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The maximum number of sessions.
    pub limit: NonZeroUsize,
    /// The cursor of the session after which the page begins; `None` for the first page.
    pub after: Option<Cursor>,
}

impl Page {
    /// Makes the page of the first `limit` sessions.
    #[must_use]
    pub const fn first(limit: NonZeroUsize) -> Self {
        Page { limit, after: None }
    }

    /// Makes the page of the `limit` sessions after the one whose
    /// [`Summary::cursor`](crate::record::Summary::cursor) is `after`.
    #[must_use]
    pub const fn after(limit: NonZeroUsize, after: Cursor) -> Self {
        Page { limit, after: Some(after) }
    }
}
