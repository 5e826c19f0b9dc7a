//! How long a session and its cookie live: the choices of the handler, the deadline, the reason of
//! the end.
//!
//! Records the choices, which the commit and the close carry out.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::lifetime::EndReason;
use crate::session::{READ, Session};

impl Session {
    /// Chooses whether the browser keeps the session cookie when the browser is closed ("remember
    /// me"). With true the cookie carries `Max-Age` and `Expires`; with false it carries neither,
    /// and the browser deletes it when it is closed.
    ///
    /// Call it before each sign-in that has a box for "remember me". The choice applies to a
    /// session that begins in this request, or that a user signs in to later in this request.
    ///
    /// Without the call, a session that takes the place of an earlier one, as by a sign-in, keeps
    /// the choice of the earlier one, unless that was another user's. Any other new session has the
    /// manager's default, [`persistent`](crate::manager::SessionManagerBuilder::persistent).
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
    /// assert_eq!(sign_in(&session, UserKey::new("1")?, false)?, SignIn::Done);
    /// # let headers = sessions.close(&session, cloakroom::adapter::Outcome::Completed)?;
    /// // The response:
    /// assert!(headers.iter().all(|(_, value)| !value.contains("Max-Age")));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if this request has already issued a new id: by
    /// [`sign_in`](Self::sign_in), by [`confirm_authentication`](Self::confirm_authentication), or
    /// by a [`commit`](Self::commit) that has begun or renewed the session. The choice would have
    /// no effect then. Also [those of all methods](Self#errors-of-all-methods).
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        const OPERATION: &str = "choose how long the cookie lives";
        let mut state = self.lock_for_change(OPERATION)?;
        if state.load_state.issued().is_some() {
            let why = "this request has already issued an id: choose before that";
            return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
        }
        state.persistent = Some(persistent);
        Ok(())
    }

    /// Changes the idle limit of this session: a shorter one at a public terminal, or a longer one
    /// for a user who asks for it. The absolute limit stays and holds as well.
    ///
    /// The limit is rounded down to milliseconds. It is at most that of the session's
    /// [lifetime](crate::manager::SessionManagerBuilder::lifetime), unless
    /// [`max_idle_limit`](crate::manager::SessionManagerBuilder::max_idle_limit) allows more. It
    /// counts from the first use of the session in this request, and is stored with the other
    /// changes at its end. It holds for the rest of the session, until it is changed again or a
    /// user signs in.
    ///
    /// A [`sign_in`](Self::sign_in) later in this request keeps this limit, and fails if it is
    /// above the maximum for the user's session. A sign-in in a later request replaces it by the
    /// manager's.
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
    /// # assert_eq!(session.sign_in(cloakroom::UserKey::new("1")?)?, cloakroom::SignIn::Done);
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
        let mut state = self.lock_for_change(OPERATION)?;
        self.load_for_change(&mut state, OPERATION)?;
        let settings = &self.context.settings;
        let record = state.load_state.session().map(|session| &session.record);
        let persistent =
            record.map_or_else(|| self.new_persistence(&state, None), |record| record.persistent);
        let lifetime = if record.is_some_and(|record| record.user.is_some()) {
            settings.signed_in_lifetime(persistent)
        } else {
            settings.anonymous_lifetime(persistent)
        };
        let limit = settings.checked_idle_limit(limit, &lifetime, OPERATION)?;
        state.changes.edit(|delta| delta.set_idle_limit(limit));
        Ok(())
    }

    /// Returns the time at which the session ends if no further request uses it, for a page that
    /// warns of it; `None` if there is no session or no limit.
    ///
    /// This request counts as [activity](Self#activity), unless the browser prefetches the page or
    /// the handler has called [`ignore`](Self::ignore) before the first read. The returned time
    /// moves in steps of a fortieth of the idle limit, because activity is stored no more often.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.set("theme", "dark")?;
    /// let ends = session.deadline()?.map(|deadline| deadline.as_millis());
    /// // In JavaScript, `Date.now()` counts the same milliseconds.
    /// let script = ends.map(|millis| format!("warnAt({millis})")).unwrap_or_default();
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn deadline(&self) -> Result<Option<Timestamp>> {
        let mut state = self.lock_for_use(READ)?;
        self.ensure_loaded(&mut state)?;
        let Some(session) = state.load_state.session() else { return Ok(None) };
        let mut record = session.record.clone();
        let new_idle = state.changes.delta().idle_limit().filter(|_| !state.is_ignored);
        record.touch_if_due(state.touch, new_idle, self.context.now());
        record.limits.idle = new_idle.or(record.limits.idle);
        Ok(Some(record.deadline()).filter(|deadline| *deadline != Timestamp::MAX))
    }

    /// Returns why the user's session behind the presented id has ended, for a page that says so;
    /// `None` if the id finds a live session, if the request presented none, or if the reason is
    /// not known.
    ///
    /// Show the reason on the page that first sees the ended session: once a request writes, a new
    /// session replaces the id, and the reason is lost. [`EndReason::Idle`] has the idle limit of
    /// that session.
    ///
    /// The reason can be unknown, for example in another process, after an hour, or after a
    /// restart. The guide has [the details](crate::guide::lifetime#the-reason-for-the-end).
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
        let mut state = self.lock_for_use(READ)?;
        self.ensure_loaded(&mut state)?;
        Ok(state.end_reason)
    }
}
