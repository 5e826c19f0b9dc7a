//! The sessions of users: to list them, and to end them from elsewhere.

use std::num::NonZeroUsize;
use std::ops::Deref;

use crate::backend::{Page, SessionFilter, SessionIndex};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{IdpSessionId, PublicId, UserKey};
use crate::manager::SessionManager;
use crate::record::{Stats, Summary};
use crate::session::{Session, run_blocking};

/// So many sessions of a user are listed; nobody looks at more. [`SessionManager::page`] lists all.
const LISTED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// A session in a user's list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UserSession {
    /// Its handle, times, client and so on; its fields can be read from this directly.
    pub summary: Summary,
    /// Whether it is the one that looks at the list.
    pub current: bool,
}

impl Deref for UserSession {
    type Target = Summary;

    fn deref(&self) -> &Summary {
        &self.summary
    }
}

/// Users and their sessions, in this manager's [realm](SessionManager::realm).
///
/// A handler that ends the session of its own request by one of these calls, on the thread that it
/// runs on, goes on as after [`Session::destroy`]. Requests on other threads learn that they come
/// late: what they change is discarded.
///
/// A store that cannot list
/// ([`Capabilities::indexed`](crate::backend::Capabilities::indexed)) answers all of these with
/// [`ErrorKind::Unsupported`].
impl SessionManager {
    /// The live sessions of `user`, the newest first and at most a hundred, with the one marked
    /// that is `current`. There are handles in it, by which [`revoke`](Self::revoke) ends them,
    /// and no ids.
    ///
    /// # Errors
    /// The store's errors.
    pub fn list_for_user(
        &self,
        user: &UserKey,
        current: Option<&Session>,
    ) -> Result<Vec<UserSession>> {
        let current = current.map(Session::public_id).transpose()?.flatten();
        let page = self.list_page(&SessionFilter::User(user), Page::first(LISTED))?;
        let mark = |summary: Summary| {
            let current = current == Some(summary.public_id);
            UserSession { summary, current }
        };
        Ok(page.into_iter().map(mark).collect())
    }

    /// A page of live sessions of this manager's realm, the newest first.
    ///
    /// # Errors
    /// The store's errors.
    pub fn list_page(&self, filter: &SessionFilter<'_>, page: Page) -> Result<Vec<Summary>> {
        let index = self.index("list sessions")?;
        let filter = SessionFilter::InRealm(self.realm(), filter);
        run_blocking(self.blocking_hook, || index.list(&filter, page, self.context.now()))
    }

    /// How many live sessions `user` has.
    ///
    /// # Errors
    /// The store's errors.
    pub fn count_for_user(&self, user: &UserKey) -> Result<usize> {
        let (mut count, mut page) = (0, Page::first(LISTED));
        loop {
            let listed = self.list_page(&SessionFilter::User(user), page)?;
            count += listed.len();
            match listed.last() {
                Some(last) if listed.len() == LISTED.get() => {
                    page = Page::after(LISTED, last.cursor);
                }
                _ => return Ok(count),
            }
        }
    }

    /// Counts all sessions in the store, those of other realms too.
    ///
    /// # Errors
    /// The store's errors.
    pub fn stats(&self) -> Result<Stats> {
        let index = self.index("count sessions")?;
        run_blocking(self.blocking_hook, || index.stats(self.context.now()))
    }

    /// Ends the session of this handle, if it is `user`'s; says whether there was one. That its
    /// handle was sent by a user does not make a session theirs, which is why both are asked for.
    ///
    /// # Errors
    /// The store's errors. The session may have ended all the same where the kind is
    /// [`ErrorKind::Unavailable`].
    pub fn revoke(&self, user: &UserKey, public_id: &PublicId) -> Result<bool> {
        self.end(&SessionFilter::OfUser(user, public_id), None).map(|ended| ended > 0)
    }

    /// Ends all sessions of the user who is signed in to `session`, but this one; says how many.
    /// None if nobody is signed in. This is for after a change of the password.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_others(&self, session: &Session) -> Result<usize> {
        match session.who()? {
            Some((user, public_id)) => self.end(&SessionFilter::User(&user), Some(&public_id)),
            None => Ok(0),
        }
    }

    /// Ends all sessions of `user`, the current one included; says how many. This is for an account
    /// that is disabled or deleted.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_all(&self, user: &UserKey) -> Result<usize> {
        self.end(&SessionFilter::User(user), None)
    }

    /// Ends all sessions that the identity provider knows by this name; says how many. This is for
    /// a logout that the provider announces.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_by_idp_session(&self, key: &IdpSessionId) -> Result<usize> {
        self.end(&SessionFilter::IdpSession(key), None)
    }

    /// Ends every session of every user and visitor of this manager's realm; says how many lived.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_everyone(&self) -> Result<u64> {
        let index = self.index("revoke all sessions")?;
        let ending = self.context.recently_ended.begin();
        let ended = run_blocking(self.blocking_hook, || {
            index.revoke_everyone(Some(self.realm()), self.context.now())
        })?;
        self.context.recently_ended.note_revocation_of_everyone();
        drop(ending);
        self.context.events.raise(&Event::Revoked { sessions: ended });
        Ok(ended)
    }

    fn end(&self, filter: &SessionFilter<'_>, except: Option<&PublicId>) -> Result<usize> {
        let index = self.index("revoke sessions")?;
        let filter = SessionFilter::InRealm(self.realm(), filter);
        let revoke = || index.revoke(&filter, except, self.context.now());
        let ending = self.context.recently_ended.begin();
        let ended = run_blocking(self.blocking_hook, revoke)?;
        // Requests under way learn that they are late, instead of beginning anew.
        ended.iter().for_each(|key| self.context.recently_ended.note_revocation(*key));
        drop(ending);
        if !ended.is_empty() {
            let sessions = u64::try_from(ended.len()).unwrap_or(u64::MAX);
            self.context.events.raise(&Event::Revoked { sessions });
        }
        Ok(ended.len())
    }

    fn index(&self, operation: &'static str) -> Result<&dyn SessionIndex> {
        let none = || {
            let why = "this store cannot list sessions by user";
            Error::with_source(ErrorKind::Unsupported, operation, why)
        };
        self.context.store()?.index().ok_or_else(none)
    }
}
