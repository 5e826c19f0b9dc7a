//! The sessions of users: to list them, and to end them from elsewhere.

use std::num::NonZeroUsize;
use std::ops::Deref;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{ExternalKey, Handle, UserKey};
use crate::manager::SessionManager;
use crate::record::{Stats, Summary};
use crate::session::{Session, cross};
use crate::store::{Page, Registry, Which};

/// So many sessions of a user are listed; nobody looks at more. [`SessionManager::page`] lists all.
const LISTED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99);

/// A session in a user's list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listed {
    /// Its handle, times, client and so on; its fields can be read from this directly.
    pub summary: Summary,
    /// Whether it is the one that looks at the list.
    pub current: bool,
}

impl Deref for Listed {
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
/// ([`Traits::lists`](crate::store::Traits::lists)) answers all of these with
/// [`ErrorKind::Unsupported`].
impl SessionManager {
    /// The live sessions of `user`, the newest first and at most a hundred, with the one marked
    /// that is `current`. There are handles in it, by which [`revoke`](Self::revoke) ends them,
    /// and no ids.
    ///
    /// # Errors
    /// The store's errors.
    pub fn list(&self, user: &UserKey, current: Option<&Session>) -> Result<Vec<Listed>> {
        let current = current.map(Session::handle).transpose()?.flatten();
        let page = self.page(&Which::User(user), Page::first(LISTED))?;
        let mark = |summary: Summary| {
            let current = current == Some(summary.handle);
            Listed { summary, current }
        };
        Ok(page.into_iter().map(mark).collect())
    }

    /// A page of live sessions of this manager's realm, the newest first.
    ///
    /// # Errors
    /// The store's errors.
    pub fn page(&self, which: &Which<'_>, page: Page) -> Result<Vec<Summary>> {
        let registry = self.registry("list sessions")?;
        let which = Which::InRealm(self.realm(), which);
        cross(self.crossing, || registry.list(&which, page, self.shared.now()))
    }

    /// How many live sessions `user` has.
    ///
    /// # Errors
    /// The store's errors.
    pub fn count(&self, user: &UserKey) -> Result<usize> {
        let (mut count, mut page) = (0, Page::first(LISTED));
        loop {
            let listed = self.page(&Which::User(user), page)?;
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
        let registry = self.registry("count sessions")?;
        cross(self.crossing, || registry.stats(self.shared.now()))
    }

    /// Ends the session of this handle, if it is `user`'s; says whether there was one. That its
    /// handle was sent by a user does not make a session theirs, which is why both are asked for.
    ///
    /// # Errors
    /// The store's errors. The session may have ended all the same where the kind is
    /// [`ErrorKind::Unavailable`].
    pub fn revoke(&self, user: &UserKey, handle: &Handle) -> Result<bool> {
        self.end(&Which::OfUser(user, handle), None).map(|ended| ended > 0)
    }

    /// Ends all sessions of the user who is signed in to `session`, but this one; says how many.
    /// None if nobody is signed in. This is for after a change of the password.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_others(&self, session: &Session) -> Result<usize> {
        match session.who()? {
            Some((user, handle)) => self.end(&Which::User(&user), Some(&handle)),
            None => Ok(0),
        }
    }

    /// Ends all sessions of `user`, the current one included; says how many. This is for an account
    /// that is disabled or deleted.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_all(&self, user: &UserKey) -> Result<usize> {
        self.end(&Which::User(user), None)
    }

    /// Ends all sessions that the identity provider knows by this name; says how many. This is for
    /// a logout that the provider announces.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_external(&self, key: &ExternalKey) -> Result<usize> {
        self.end(&Which::External(key), None)
    }

    /// Ends every session of every user and visitor of this manager's realm; says how many lived.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub fn revoke_everyone(&self) -> Result<u64> {
        let registry = self.registry("revoke all sessions")?;
        let ending = self.shared.endings.begin();
        let ended = cross(self.crossing, || {
            registry.revoke_everyone(Some(self.realm()), self.shared.now())
        })?;
        self.shared.endings.note_revocation_of_everyone();
        drop(ending);
        self.shared.events.raise(&Event::Revoked { sessions: ended });
        Ok(ended)
    }

    fn end(&self, which: &Which<'_>, except: Option<&Handle>) -> Result<usize> {
        let registry = self.registry("revoke sessions")?;
        let which = Which::InRealm(self.realm(), which);
        let revoke = || registry.revoke(&which, except, self.shared.now());
        let ending = self.shared.endings.begin();
        let ended = cross(self.crossing, revoke)?;
        // Requests under way learn that they are late, instead of beginning anew.
        ended.iter().for_each(|key| self.shared.endings.note_revocation(*key));
        drop(ending);
        if !ended.is_empty() {
            let sessions = u64::try_from(ended.len()).unwrap_or(u64::MAX);
            self.shared.events.raise(&Event::Revoked { sessions });
        }
        Ok(ended.len())
    }

    fn registry(&self, doing: &'static str) -> Result<&dyn Registry> {
        let none = || {
            let why = "this store cannot list sessions by user";
            Error::with_source(ErrorKind::Unsupported, doing, why)
        };
        self.shared.store()?.registry().ok_or_else(none)
    }
}
