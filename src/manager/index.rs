//! The calls of a manager that list, count and revoke sessions.
//!
//! Invariant: a revocation adds the ids of the sessions to the retired ids before it returns, so
//! that the changes of concurrent requests begin no new sessions.

use std::num::NonZeroUsize;

use crate::backend::{LiveSession, SessionIndex};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{IdpSessionId, PublicId, UserKey};
use crate::lifetime::EndReason;
use crate::list::{Cursor, Page, SessionFilter, Stats, Summary};
use crate::manager::SessionManager;
use crate::session::Session;

/// The number of sessions in a list of one user's sessions.
const PAGE_SIZE: NonZeroUsize = NonZeroUsize::new(100).unwrap();

/// One page of a list of live sessions, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionPage<T = Summary> {
    /// The sessions of this page.
    pub sessions: Vec<T>,
    /// The beginning of the next page, for [`Page::after`]; `None` if this page is the last.
    pub next: Option<Cursor>,
}

impl<T> IntoIterator for SessionPage<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.sessions.into_iter()
    }
}

/// A session in a list of a user's sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserSession {
    /// The public id, times and client, among others.
    pub summary: Summary,
    /// Whether this is the session that was passed to the list as `current`.
    pub is_current: bool,
}

/// Lists and revocations of the sessions of this manager's [realm](SessionManager::realm).
///
/// A revocation names a user or a public id, and no session id. So it also ends a session whose id
/// was renewed, by the user or by a thief. The changes of other requests that use an ended session
/// are discarded, or begin a new, anonymous session
/// ([when](crate::guide::values#discarded-changes)).
///
/// Behind a [`CachedStore`](crate::stores::cached::CachedStore), if an invalidation is lost,
/// another process can still read an ended session for the life of a cache entry, 60 seconds by
/// default. The guide says [how to end sessions at once](crate::guide::stores#delay).
///
/// All of these calls fail with [`ErrorKind::Unsupported`] if the store has no
/// [index](crate::backend::Store::index), such as memcached. A call that gets a session reads it,
/// and then also has the [errors of its methods](Session#errors-of-all-methods).
///
/// ```
/// # use cloakroom::{MemoryStore, SessionManager, SignIn, UserKey};
/// # let sessions = SessionManager::new(MemoryStore::new())?;
/// let ada = UserKey::new("1")?;
/// # let (session, phone) = (sessions.open(None), sessions.open(None));
/// # assert_eq!(session.sign_in(ada.clone())?, SignIn::Done);
/// # assert_eq!(phone.sign_in(ada.clone())?, SignIn::Done);
/// // The page that lists ada's devices:
/// let devices = sessions.list_for_user(&ada, Some(&session))?.sessions;
/// for device in &devices {
///     let mark = if device.is_current { "this device" } else { "" };
///     println!("{} {} {mark}", device.summary.public_id, device.summary.seen);
/// }
/// // The button beside one of them, which sends its public id:
/// # let device = devices.iter().find(|device| !device.is_current).unwrap();
/// assert!(sessions.revoke(&ada, &device.summary.public_id, Some(&session))?);
/// assert_eq!(sessions.count_for_user(&ada)?, 1);
/// # Ok::<(), cloakroom::Error>(())
/// ```
impl SessionManager {
    /// Lists the live sessions of `user`, at most one hundred. Those that began last come first,
    /// whenever they were last used. The session `current` is marked.
    ///
    /// The list contains public ids, by which [`revoke`](Self::revoke) ends a session, and no
    /// session ids. It names the devices only if
    /// [`record_user_agent`](crate::manager::SessionManagerBuilder::record_user_agent) was set when
    /// they signed in. If [`next`](SessionPage::next) is `Some`, the user has more sessions:
    /// [`list_page`](Self::list_page) lists them.
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors).
    pub fn list_for_user(
        &self,
        user: &UserKey,
        current: Option<&Session>,
    ) -> Result<SessionPage<UserSession>> {
        let current = current.map(Session::public_id).transpose()?.flatten();
        let page = self.list_page(&SessionFilter::User(user), Page::first(PAGE_SIZE))?;
        let mark = |summary: Summary| {
            let is_current = current == Some(summary.public_id);
            UserSession { summary, is_current }
        };
        let sessions = page.sessions.into_iter().map(mark).collect();
        Ok(SessionPage { sessions, next: page.next })
    }

    /// Lists one page of the live sessions of this manager that match `filter`: those of one user,
    /// or with [`SessionFilter::All`] those of all users and visitors. The order is that of
    /// [`list_for_user`](Self::list_for_user).
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionManager};
    /// use cloakroom::list::{Page, SessionFilter};
    /// use std::num::NonZeroUsize;
    ///
    /// # let sessions = SessionManager::new(MemoryStore::new())?;
    /// const LIMIT: NonZeroUsize = NonZeroUsize::new(100).unwrap();
    /// let mut next = Some(Page::first(LIMIT));
    /// while let Some(page) = next {
    ///     let list = sessions.list_page(&SessionFilter::All, page)?;
    ///     for session in &list.sessions {
    ///         println!("{} {:?} {}", session.public_id, session.user, session.seen);
    ///     }
    ///     next = list.next.map(|cursor| Page::after(LIMIT, cursor));
    /// }
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors).
    pub fn list_page(&self, filter: &SessionFilter<'_>, page: Page) -> Result<SessionPage> {
        let index = self.index("list sessions")?;
        // One more than requested shows whether there is a next page.
        let one_more = Page { limit: page.limit.saturating_add(1), ..page };
        let filter = SessionFilter::InRealm(self.realm(), filter);
        let list = || index.list(&filter, one_more, self.context.now());
        let mut sessions = self.blocking.run(list)?;
        let has_more = sessions.len() > page.limit.get();
        sessions.truncate(page.limit.get());
        let next = sessions.last().filter(|_| has_more).map(|last| last.cursor);
        Ok(SessionPage { sessions, next })
    }

    /// Counts the live sessions of `user`.
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors).
    pub fn count_for_user(&self, user: &UserKey) -> Result<usize> {
        let mut count = 0;
        let mut page = Page::first(PAGE_SIZE);
        loop {
            let SessionPage { sessions, next } =
                self.list_page(&SessionFilter::User(user), page)?;
            count += sessions.len();
            match next {
                Some(next) => page = Page::after(PAGE_SIZE, next),
                None => return Ok(count),
            }
        }
    }

    /// Counts all sessions in the store, those of other realms included.
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors).
    pub fn stats(&self) -> Result<Stats> {
        let index = self.index("count sessions")?;
        self.blocking.run(|| index.stats(self.context.now()))
    }

    /// Ends the session `public_id` if it belongs to `user`. Returns false if it had already ended,
    /// or if it is another user's, as the public id in a forged request may be.
    ///
    /// `current` is the session of the request that makes this call. Pass it whenever there is one,
    /// on an administrator's page too: the [event](Event::Revoked) then names its user and address.
    /// If this session is the one that ends, the request continues as after [`Session::destroy`].
    /// Pass `None` in a job without a request.
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors). Sessions may have ended after an error
    /// that [has an unknown outcome](Error::has_unknown_outcome); the call can be repeated.
    pub fn revoke(
        &self,
        user: &UserKey,
        public_id: &PublicId,
        current: Option<&Session>,
    ) -> Result<bool> {
        let filter = SessionFilter::PublicIdOfUser(user, public_id);
        self.revoke_where(&filter, None, current).map(|ended| ended > 0)
    }

    /// Ends all sessions of the user of `session` except `session` itself, and returns their
    /// number; 0 if no user is signed in.
    ///
    /// After a change of the password, first sign the user in again by
    /// [`sign_in_with`](Session::sign_in_with), with the level that
    /// [`auth_level`](Session::auth_level) returns, so that this session has a new id. The guide
    /// has [the handler](crate::guide::devices#after-a-change-of-the-password).
    ///
    /// A sign-in elsewhere may have verified the old password just before the change. If its
    /// session is stored after this call, it stays. A
    /// [generation](crate::guide::own_tables#the-generation) of the user's row refuses it.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_others(&self, session: &Session) -> Result<usize> {
        match session.user_and_public_id()? {
            Some((user, public_id)) => {
                self.revoke_where(&SessionFilter::User(&user), Some(&public_id), Some(session))
            }
            None => Ok(0),
        }
    }

    /// Ends all sessions of `user`, `current` included, and returns their number. Use it after an
    /// account is disabled or deleted. `current` is that of [`revoke`](Self::revoke).
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// # use cloakroom::UserKey;
    /// let ada = UserKey::new("1")?;
    /// sessions.revoke_for_user(&ada, Some(&session))?; // ada closes her account in this request
    /// sessions.revoke_for_user(&ada, None)?; // a job without a request removes the account
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_for_user(&self, user: &UserKey, current: Option<&Session>) -> Result<usize> {
        self.revoke_where(&SessionFilter::User(user), None, current)
    }

    /// Ends all sessions of the user of `session`, `session` included, and returns their number; 0
    /// if no user is signed in. The request continues as after [`Session::destroy`].
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn sign_out_everywhere(&self, session: &Session) -> Result<usize> {
        match session.user()? {
            Some(user) => self.revoke_for_user(&user, Some(session)),
            None => Ok(0),
        }
    }

    /// Changes the user key of all sessions of `from` to `to` in one atomic step. Returns the
    /// number of sessions, with expired ones that are not swept yet.
    ///
    /// It is for an application whose keys were names or e-mail addresses, which can change. It
    /// moves to a key that never changes, such as the number of the user's row:
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionManager, SignIn, UserKey};
    /// # let sessions = SessionManager::new(MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let (from, to) = (UserKey::new("ada@example.org")?, UserKey::new("42")?);
    /// # assert_eq!(session.sign_in(from.clone())?, SignIn::Done);
    /// // The sign-in uses the number already:
    /// assert_eq!(sessions.rename_user(&from, &to)?, 1);
    /// # assert_eq!(sessions.count_for_user(&to)?, 1);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// Change the sign-in first, so that no later one uses the former key. A request that has
    /// read its session before still sees the former key. The maximum per user applies at the next
    /// sign-in.
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors). The user may be renamed after an error
    /// that [has an unknown outcome](Error::has_unknown_outcome); the call can be repeated.
    pub fn rename_user(&self, from: &UserKey, to: &UserKey) -> Result<usize> {
        let index = self.index("rename a user")?;
        if from == to {
            return Ok(0);
        }
        let rename = || index.rename_user(self.realm(), from, to, self.context.now());
        let sessions = self.blocking.run(rename)?.len();
        self.context.events.raise(&Event::UserRenamed { from, to, sessions });
        Ok(sessions)
    }

    /// Ends all sessions that an identity provider knows by this id, and returns their number. Use
    /// it for OpenID Connect Back-Channel Logout. `current` is that of [`revoke`](Self::revoke).
    ///
    /// ```
    /// # use cloakroom::{Authentication, MemoryStore, SessionManager, SignIn, UserKey};
    /// use cloakroom::id::IdpSessionId;
    ///
    /// # let sessions = SessionManager::new(MemoryStore::new())?;
    /// # let (session, ada) = (sessions.open(None), UserKey::new("1")?);
    /// // At the sign-in, the `sid` of the provider's ID token:
    /// let how = Authentication::new().idp_session_id(IdpSessionId::new("08a5019c")?);
    /// assert_eq!(session.sign_in_with(ada, &how)?, SignIn::Done);
    /// // Later, the `sid` of the provider's logout token, whose signature was verified:
    /// assert_eq!(sessions.revoke_by_idp_session(&IdpSessionId::new("08a5019c")?, None)?, 1);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_by_idp_session(
        &self,
        idp_session_id: &IdpSessionId,
        current: Option<&Session>,
    ) -> Result<usize> {
        self.revoke_where(&SessionFilter::IdpSession(idp_session_id), None, current)
    }

    /// Ends all sessions of this manager, anonymous ones included, and returns the number of those
    /// that were live. Use it after a theft of many cookies. `current` is that of
    /// [`revoke`](Self::revoke).
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_everyone(&self, current: Option<&Session>) -> Result<u64> {
        let index = self.index("revoke everyone")?;
        let by = user_of(current)?;
        let retired_ids = &self.context.retired_ids;
        let call = || index.revoke_everyone(Some(self.realm()), self.context.now());
        let revoke = || self.blocking.run(call);
        let ended = retired_ids.during(revoke, |_| retired_ids.add_everyone())?;
        if let Some(current) = current {
            current.apply_own_revocation(|live| live.record.realm == *self.realm());
        }
        self.raise_revoked(ended, by.as_ref(), current);
        Ok(ended)
    }

    fn revoke_where(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        current: Option<&Session>,
    ) -> Result<usize> {
        let index = self.index("revoke sessions")?;
        let by = user_of(current)?;
        let filter = SessionFilter::InRealm(self.realm(), filter);
        let retired_ids = &self.context.retired_ids;
        let revoke = || self.blocking.run(|| index.revoke(&filter, except, self.context.now()));
        let ended = retired_ids
            .during(revoke, |ended| retired_ids.add(ended.iter().map(|it| it.id_hash)))?;
        if let Some(current) = current {
            let is_own = |live: &LiveSession| ended.iter().any(|it| it.id_hash == live.id_hash);
            current.apply_own_revocation(is_own);
        }
        if !ended.is_empty() {
            let sessions = u64::try_from(ended.len()).unwrap_or(u64::MAX);
            self.raise_revoked(sessions, by.as_ref(), current);
        }
        let address = current.and_then(Session::client_address);
        for session in &ended {
            self.context.end_trail.report(session, EndReason::Revoked, by.as_ref(), address);
        }
        Ok(ended.len())
    }

    fn raise_revoked(&self, sessions: u64, by: Option<&UserKey>, current: Option<&Session>) {
        let address = current.and_then(Session::client_address);
        self.context.events.raise(&Event::Revoked { sessions, revoked_by: by, address });
    }

    pub(super) fn index(&self, operation: &'static str) -> Result<&dyn SessionIndex> {
        let no_index = || {
            let why = "this store cannot list sessions by user";
            Error::with_source(ErrorKind::Unsupported, operation, why)
        };
        self.context.store()?.index().ok_or_else(no_index)
    }
}

/// Returns the user of the request that asks for a revocation. Reads its session, whose id may be a
/// replaced one.
fn user_of(current: Option<&Session>) -> Result<Option<UserKey>> {
    current.map(Session::user).transpose().map(Option::flatten)
}
