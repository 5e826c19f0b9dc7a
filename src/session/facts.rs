//! The facts of a session that a request reads: its user, ids, authentication, end and deadline.
//!
//! Uses the load. Called by handlers and the manager.

use std::net::IpAddr;

use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::id::{PublicId, UserKey};
use crate::lifetime::EndReason;
use crate::record::Record;
use crate::session::Session;

impl Session {
    /// Returns the signed-in user; `None` if there is none.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let greeting = match session.user()? {
    ///     Some(user) => format!("Hello, {user}"),
    ///     None => "Hello, stranger".to_owned(),
    /// };
    /// # assert_eq!(greeting, "Hello, stranger");
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn user(&self) -> Result<Option<UserKey>> {
        self.read_record(|record| record.user.clone()).map(Option::flatten)
    }

    /// Returns the time of the user's last proof of identity: a [`sign_in`](Self::sign_in) or
    /// [`confirm_authentication`](Self::confirm_authentication). `None` if no user is signed in.
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn authenticated_at(&self) -> Result<Option<Timestamp>> {
        self.read_record(|record| record.authenticated).map(Option::flatten)
    }

    /// Returns the level of the user's last proof of identity, whose time is
    /// [`authenticated_at`](Self::authenticated_at). The level is 0 if that proof recorded none, or
    /// if no user is signed in.
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn auth_level(&self) -> Result<u16> {
        self.read_record(|record| record.auth_level).map(Option::unwrap_or_default)
    }

    /// Returns the public id of the session, for pages and logs; `None` if there is no session. It
    /// is of no use to a thief, because no request finds a session by it.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// if let Some(public_id) = session.public_id()? {
    ///     println!("session {public_id} places an order");
    /// }
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn public_id(&self) -> Result<Option<PublicId>> {
        self.read_record(|record| record.public_id)
    }

    /// Returns the signed-in user and the public id of the session.
    pub(crate) fn user_and_public_id(&self) -> Result<Option<(UserKey, PublicId)>> {
        let read = |record: &Record| record.user.clone().map(|user| (user, record.public_id));
        self.read_record(read).map(Option::flatten)
    }

    /// Returns why the user's session behind the presented id has ended, for a page that says so;
    /// `None` if the id finds a live session, or if the request presented none.
    ///
    /// Show it on the page that first sees the ended session: once a request writes, a new session
    /// replaces the id, and the reason is lost. [`EndReason::Idle`] has the idle limit of that
    /// session, which [`set_idle_limit`](Self::set_idle_limit) may have changed.
    ///
    /// Every process knows the reason of an expired session until the next sweep. After that, and
    /// for other ends, only the process that swept or ended the session knows it: for an hour,
    /// or less if it ends more than 10,000 sessions of users in that time. A restart loses the
    /// reason. It is unknown after [`revoke_everyone`](crate::SessionManager::revoke_everyone), and
    /// after a removal by memcached itself.
    ///
    /// ```
    /// use cloakroom::{Session, lifetime::EndReason};
    ///
    /// fn notice(session: &Session) -> cloakroom::Result<Option<String>> {
    ///     Ok(session.end_reason()?.map(|reason| match reason {
    ///         EndReason::Idle(limit) => {
    ///             let minutes = limit.as_secs() / 60;
    ///             format!("You were signed out after {minutes} minutes without activity.")
    ///         }
    ///         EndReason::SignedOut => "You are signed out.".to_owned(),
    ///         _ => "Please sign in again.".to_owned(),
    ///     }))
    /// }
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn end_reason(&self) -> Result<Option<EndReason>> {
        let mut state = self.lock_for_use("look at a session")?;
        self.ensure_loaded(&mut state)?;
        Ok(state.end_reason)
    }

    /// Returns the time at which the session ends if no further request uses it, for a page that
    /// warns of it; `None` if there is no session or no limit. The use by this request counts. A
    /// request that [ignores](Self::ignore) its session does not move the end, nor does a prefetch.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.set("theme", "dark")?;
    /// let ends = session.deadline()?.map(|deadline| deadline.as_millis());
    /// let script = format!("warnAt({})", ends.unwrap_or(i64::MAX)); // JavaScript's `Date.now()`
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn deadline(&self) -> Result<Option<Timestamp>> {
        let mut state = self.lock_for_use("look at a session")?;
        self.ensure_loaded(&mut state)?;
        let Some(session) = state.load_state.session() else { return Ok(None) };
        let mut record = session.record.clone();
        let new_idle = state.changes.delta().idle_limit().filter(|_| !state.is_ignored);
        // A limit that this request changes counts from the commit, which comes later.
        let now = state.first_use.unwrap_or(record.seen);
        // A call of `ignore` does not undo the touch of the first read.
        let touch = self.request_touch(&state).or(state.touched);
        record.touch_if_due(touch, new_idle, now);
        record.limits.idle = new_idle.or(record.limits.idle);
        Ok(Some(record.deadline()).filter(|deadline| *deadline != Timestamp::MAX))
    }

    /// Returns the address of the client, if it is known. Behind a proxy this is the proxy's,
    /// unless [`behind_proxies`](crate::manager::SessionManagerBuilder::behind_proxies) is set. The
    /// call does not read the session.
    ///
    /// ```
    /// use cloakroom::adapter::RequestHead;
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    ///
    /// // An adapter passes the address on:
    /// let peer = std::net::IpAddr::from([192, 0, 2, 7]);
    /// let session = sessions.open(RequestHead::new().peer_addr(peer));
    /// assert_eq!(session.client_address(), Some(peer));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    #[must_use]
    pub fn client_address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns whether this request has changes that are not stored yet. A write of the value that
    /// is already stored counts as a change. Inside the closure of an update the result is true.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        match self.lock_for_use("look at a session") {
            Ok(state) => !state.is_closed && !state.changes.is_empty(),
            Err(error) => error.kind() != ErrorKind::CrossOrigin,
        }
    }

    /// Returns whether the browser prefetches the page, and may never show it.
    pub(crate) fn is_prefetch(&self) -> bool {
        self.is_prefetch
    }

    fn read_record<T>(&self, ask: impl FnOnce(&Record) -> T) -> Result<Option<T>> {
        let mut state = self.lock_for_use("look at a session")?;
        Ok(self.ensure_loaded(&mut state)?.session().map(|session| ask(&session.record)))
    }
}
