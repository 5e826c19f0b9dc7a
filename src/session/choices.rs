//! What a handler chooses for its session and this request: limits, persistence, `ignore`,
//! `allow_cross_site`.
//!
//! Records the choices; the commit and the close carry them out. Called by handlers.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;
use crate::session::ending::SignOut;

impl Session {
    /// Chooses whether the browser keeps the session cookie when the browser is closed ("remember
    /// me"). With true the cookie carries `Max-Age` and `Expires`; with false it carries neither,
    /// and the browser deletes it when it is closed.
    ///
    /// The choice applies to a session that begins in this request, or that a user signs in to
    /// later in this request. Any other session keeps the choice that was made when it began.
    /// Defaults to the manager's [`persistent`](crate::manager::SessionManagerBuilder::persistent).
    ///
    /// ```
    /// use cloakroom::{Session, SignIn, UserKey};
    ///
    /// /// `remember` is the box that the user has ticked.
    /// fn sign_in(session: &Session, user: UserKey, remember: bool) -> cloakroom::Result<SignIn> {
    ///     session.set_persistent(remember)?; // before the sign-in
    ///     session.sign_in(user)
    /// }
    ///
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// assert_eq!(sign_in(&session, UserKey::new("ada")?, false)?, SignIn::Done);
    /// # let headers = sessions.close(&session, cloakroom::adapter::Outcome::Completed)?;
    /// // The response:
    /// assert!(headers.iter().all(|(_, value)| !value.contains("Max-Age")));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] after [`sign_in`](Self::sign_in), and after [`commit`](Self::commit)
    /// has begun a session, because the choice would have no effect; and [those of all
    /// methods](Self#errors-of-all-methods).
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        const OPERATION: &str = "choose how long the cookie lives";
        let mut state = self.lock_for_change(OPERATION)?;
        if state.load_state.issued().is_some() {
            let why = "the session has begun or was signed in to already: choose before that";
            return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
        }
        state.persistent = Some(persistent);
        Ok(())
    }

    /// Changes the idle limit of this session: a shorter one at a public terminal, or a longer one
    /// for a user who asks for it. The limit is rounded down to milliseconds, and at most that of
    /// the session's [lifetime](crate::manager::SessionManagerBuilder::lifetime), unless
    /// [`max_idle_limit`](crate::manager::SessionManagerBuilder::max_idle_limit) allows more. The
    /// absolute limit stays and holds as well.
    ///
    /// The limit counts from the first use of the session in this request, and is stored with the
    /// other changes at its end. It holds for the whole session: through activity, renewals and
    /// restarts, until it is changed again or a user signs in. A [`sign_in`](Self::sign_in) later
    /// in this request keeps this limit, and fails if it is above the maximum for the user's
    /// session. A sign-in in a later request replaces it by the manager's.
    ///
    /// For a sign-in, [`Authentication::idle_limit`](crate::Authentication::idle_limit) is better:
    /// it is stored in the same step. If this is called after the sign-in and the end of the
    /// request cannot be stored, the user is signed in with the limit of the manager.
    ///
    /// Without a session, the limit applies to one that this request begins. The call alone begins
    /// none.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cloakroom::Session;
    ///
    /// /// The user has chosen "sign me out after a break of five minutes".
    /// fn shorten(session: &Session) -> cloakroom::Result<()> {
    ///     session.set_idle_limit(Duration::from_secs(5 * 60))
    /// }
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// # assert_eq!(session.sign_in(cloakroom::UserKey::new("ada")?)?, cloakroom::SignIn::Done);
    ///
    /// shorten(&session)?;
    /// let ends = session.deadline()?.expect("a session");
    /// let signed_in = session.authenticated_at()?.expect("a user");
    /// assert!(ends.since(signed_in) <= Duration::from_secs(5 * 60 + 1));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a limit below one millisecond or above the maximum; and [those of
    /// all methods](Self#errors-of-all-methods).
    pub fn set_idle_limit(&self, limit: Duration) -> Result<()> {
        const OPERATION: &str = "set the idle limit of a session";
        let mut state = self.lock_loaded_for_change(OPERATION)?;
        let settings = &self.context.settings;
        let record = state.load_state.session().map(|session| &session.record);
        let persistent =
            record.map_or_else(|| self.new_persistence(&state), |record| record.persistent);
        let lifetime = if record.is_some_and(|record| record.user.is_some()) {
            settings.signed_in_lifetime(persistent)
        } else {
            settings.anonymous_lifetime(persistent)
        };
        let limit = settings.checked_idle_limit(limit, &lifetime, OPERATION)?;
        state.changes.edit(|delta| delta.set_idle_limit(limit));
        Ok(())
    }

    /// Discards the changes of this request, so that it does not change its session or keep it
    /// alive. Call it before the first use of the session; its [activity](Self#activity) is not
    /// recorded then.
    ///
    /// What a [`commit`](Self::commit) has stored before stays stored. Calls of
    /// [`sign_in`](Self::sign_in), [`confirm_authentication`](Self::confirm_authentication) and
    /// [`destroy`](Self::destroy) after it are carried out. The guide [lists all
    /// cases](crate::guide::values#what-ignore-discards).
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// // A script that asks every minute must not keep the session alive.
    /// session.ignore()?;
    /// let unread: Option<u32> = session.get("unread")?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request; and [those of all
    /// methods](Self#errors-of-all-methods).
    pub fn ignore(&self) -> Result<()> {
        let mut state = self.lock_open("ignore the session")?;
        state.is_ignored = true;
        state.ending.sign_out = SignOut::NotRequested;
        Ok(())
    }

    /// Lets a request to an [exempt](crate::CrossOrigin::exempt) path begin a session, or remove
    /// the cookie, although another site sent it. Call it once the request has proved where it
    /// comes from.
    ///
    /// A browser sends no `SameSite=Lax` cookie with a `POST` from another site. A session that the
    /// request begins replaces the one that the browser has, so any site could sign the user out.
    /// Without this call such a request can read; every change, [`sign_in`](Self::sign_in) and
    /// [`destroy`](Self::destroy) fail with [`ErrorKind::CrossOrigin`]. On other paths, and if the
    /// request presents an id, the call has no effect.
    ///
    /// ```
    /// use cloakroom::{Session, SignIn, UserKey};
    ///
    /// /// The form of an identity provider, whose `state` was found to be that of our cookie.
    /// fn callback(session: &Session, user: UserKey) -> cloakroom::Result<SignIn> {
    ///     session.allow_cross_site()?;
    ///     session.sign_in(user)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request; and [those of all
    /// methods](Self#errors-of-all-methods).
    pub fn allow_cross_site(&self) -> Result<()> {
        self.lock_open("allow a request of another site")?.cross_site_allowed = true;
        Ok(())
    }
}
