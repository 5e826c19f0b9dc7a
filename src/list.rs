//! What lists of sessions take and return: which sessions ([`SessionFilter`]), how many and from
//! where ([`Page`]), what a list shows of each ([`Summary`]), and their number ([`Stats`]).
//!
//! An administrator's page lists the sessions of all users by
//! [`list_page`](crate::SessionManager::list_page), and counts them by
//! [`stats`](crate::SessionManager::stats), which includes other realms. A page for one user needs
//! only [`list_for_user`](crate::SessionManager::list_for_user), and reads the summaries.
//!
//! ```
//! use std::num::NonZeroUsize;
//!
//! use cloakroom::SessionManager;
//! use cloakroom::list::{Page, SessionFilter};
//!
//! fn overview(sessions: &SessionManager) -> cloakroom::Result<String> {
//!     const TEN: NonZeroUsize = NonZeroUsize::new(10).unwrap();
//!     let mut text = format!("{} sessions have a user\n", sessions.stats()?.signed_in);
//!     for session in sessions.list_page(&SessionFilter::All, Page::first(TEN))? {
//!         let user = session.user.as_ref().map_or("a visitor", |user| user.as_str());
//!         text += &format!("{user}, since {}\n", session.created);
//!     }
//!     Ok(text)
//! }
//! # let sessions = SessionManager::new(cloakroom::MemoryStore::new())?;
//! # assert_eq!(overview(&sessions)?, "0 sessions have a user\n");
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! Authors of stores, and the calls of operators in `stores::admin`, use the same types.

use std::num::NonZeroUsize;

use crate::clock::Timestamp;
use crate::id::{IdpSessionId, PublicId, Realm, UserKey};
use crate::record::Record;

pub use crate::record::Client;

/// The sessions that a call applies to, such as [`list_page`](crate::SessionManager::list_page).
/// Names match exactly, byte for byte.
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

    /// Makes the page of the `limit` sessions after the one whose [`Summary::cursor`] is `after`.
    #[must_use]
    pub const fn after(limit: NonZeroUsize, after: Cursor) -> Self {
        Page { limit, after: Some(after) }
    }
}

/// What a list shows of a session: everything but its values.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The public id.
    pub public_id: PublicId,
    /// The realm whose managers find the session.
    pub realm: Realm,
    /// The user; `None` for an anonymous session.
    pub user: Option<UserKey>,
    /// The identity provider's id of the session, if a sign-in has set one.
    pub idp_session_id: Option<IdpSessionId>,
    /// The level of the user's last proof of identity.
    pub auth_level: u16,
    /// The time at which the session began.
    pub created: Timestamp,
    /// The time of the user's last proof of identity: a sign-in, or
    /// [`confirm_authentication`](crate::Session::confirm_authentication). `None` for an anonymous
    /// session.
    pub authenticated: Option<Timestamp>,
    /// The time of the last recorded activity. A request is recorded, within about a second, if a
    /// fortieth of the idle limit (36 minutes by default) has passed since the record before.
    pub seen: Timestamp,
    /// The time at which the session expires without further activity.
    pub deadline: Timestamp,
    /// Whether the browser keeps the cookie when it is closed.
    pub persistent: bool,
    /// The client that began the session or signed in to it, if
    /// [`record_user_agent`](crate::manager::SessionManagerBuilder::record_user_agent) or
    /// `record_address` was set then.
    pub client: Option<Client>,
    /// The size of the data, in bytes of JSON.
    pub bytes: usize,
    /// The position in the list, from which the next page continues.
    pub cursor: Cursor,
}

impl Summary {
    /// Makes the summary of `record` at the position `cursor`.
    #[must_use]
    pub fn of(record: &Record, cursor: Cursor) -> Self {
        Summary {
            public_id: record.public_id,
            realm: record.realm.clone(),
            user: record.user.clone(),
            idp_session_id: record.idp_session_id.clone(),
            auth_level: record.auth_level,
            created: record.created,
            authenticated: record.authenticated,
            seen: record.seen,
            deadline: record.deadline(),
            persistent: record.persistent,
            client: record.client.clone(),
            bytes: record.data.as_json().len(),
            cursor,
        }
    }
}

/// A position in a list of sessions. Only the store that made it can interpret it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(i64);

impl Cursor {
    /// Makes a cursor from a number. A store defines the meaning of its positions; newer sessions
    /// have higher ones.
    #[must_use]
    pub const fn new(position: i64) -> Self {
        Cursor(position)
    }

    /// Returns the number.
    #[must_use]
    pub const fn position(self) -> i64 {
        self.0
    }
}

/// The number of sessions in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The number of live sessions.
    pub live: u64,
    /// The number of expired sessions that are not swept yet.
    pub expired: u64,
    /// The number of live sessions with a user. A user with three devices counts three times.
    pub signed_in: u64,
    /// The number of expired sessions with a user.
    pub expired_signed_in: u64,
    /// The time at which the oldest live session began.
    pub oldest: Option<Timestamp>,
    /// The time at which the newest live session began.
    pub newest: Option<Timestamp>,
}

impl Stats {
    /// Returns the number of live anonymous sessions.
    #[must_use]
    pub const fn anonymous(&self) -> u64 {
        self.live.saturating_sub(self.signed_in)
    }

    /// Returns the number of expired anonymous sessions.
    #[must_use]
    pub const fn expired_anonymous(&self) -> u64 {
        self.expired.saturating_sub(self.expired_signed_in)
    }
}
