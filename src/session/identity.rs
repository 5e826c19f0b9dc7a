//! Whose session it is: its user, their authentication, its public id, the address of the client.

use std::net::IpAddr;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, UserKey};
use crate::record::Record;
use crate::session::{READ, Session};

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
    /// If the session ends after this call has found it, the changes of this request [are
    /// discarded](crate::guide::values#discarded-changes). With several processes on one store,
    /// call this first, also in a handler that only changes values: otherwise its changes can begin
    /// a new session, without a user, after another process has ended this one.
    ///
    /// The first call that reads the session loads it; later ones do not load it again. So a
    /// handler that runs for long does not see that another request has signed the user out. The
    /// guide says [how it can look again](crate::guide::devices#websockets-and-streams).
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

    pub(super) fn read_record<T>(&self, ask: impl FnOnce(&Record) -> T) -> Result<Option<T>> {
        let mut state = self.lock_for_use(READ)?;
        Ok(self.ensure_loaded(&mut state)?.session().map(|session| ask(&session.record)))
    }
}
