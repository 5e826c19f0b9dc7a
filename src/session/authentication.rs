//! The authentication of a session's user: its level, its end, and its age.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::IdpSessionId;
use crate::record::{NewSession, Record};
use crate::session::sign_in::SIGN_IN;
use crate::session::{CommitOutcome, Session};
use crate::settings::Settings;

/// The authentication of a user, for [`Session::sign_in_with`].
///
/// ```
/// use cloakroom::{Authentication, MemoryStore, SessionManager, SignIn, UserKey};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let session = sessions.open(None);
/// // With a password and a second factor. The application defines the meaning of the number.
/// let signed_in = session.sign_in_with(UserKey::new("1")?, &Authentication::new().level(2))?;
/// assert_eq!(signed_in, SignIn::Done);
/// assert_eq!(session.auth_level()?, 2);
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Authentication {
    level: u16,
    idp_session_id: Option<IdpSessionId>,
    ends_at: Option<Timestamp>,
    idle_limit: Option<Duration>,
}

impl Authentication {
    /// Makes an authentication at level 0, without an identity provider, that lasts as long as the
    /// manager's limits allow.
    pub fn new() -> Self {
        Authentication::default()
    }

    /// Sets the level. The application defines the meaning of the number: a page can require a
    /// level with [`Session::auth_level`], and [`Session::confirm_authentication`] replaces it.
    /// Defaults to 0.
    pub fn level(self, level: u16) -> Self {
        Authentication { level, ..self }
    }

    /// Sets the identity provider's id of the session, by which the provider
    /// [revokes](crate::SessionManager::revoke_by_idp_session) it. Without one, a session of the
    /// same user keeps the id that it has.
    pub fn idp_session_id(self, idp_session_id: IdpSessionId) -> Self {
        Authentication { idp_session_id: Some(idp_session_id), ..self }
    }

    /// Sets the time at which the session ends at the latest, for example from an identity
    /// provider. The limits of the manager apply too. A later sign-in restarts all limits, so it
    /// must set the end again.
    pub fn ends_at(self, time: Timestamp) -> Self {
        Authentication { ends_at: Some(time), ..self }
    }

    /// Sets the idle limit of this session in place of the manager's, for example a shorter one at
    /// a public terminal. It is stored in the same step as the sign-in, and holds until the next
    /// sign-in or [`set_idle_limit`](Session::set_idle_limit). Rounded down to milliseconds; from
    /// 1 ms to the idle limit of the user's
    /// [lifetime](crate::manager::SessionManagerBuilder::lifetime), or to
    /// [`max_idle_limit`](crate::manager::SessionManagerBuilder::max_idle_limit).
    ///
    /// Defaults to the limit that `set_idle_limit` has set earlier in this request, or else to that
    /// of the lifetime.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cloakroom::{Authentication, Session, SignIn, UserKey};
    ///
    /// fn sign_in_at_a_terminal(session: &Session, user: UserKey) -> cloakroom::Result<SignIn> {
    ///     let authentication = Authentication::new().idle_limit(Duration::from_secs(5 * 60));
    ///     session.sign_in_with(user, &authentication)
    /// }
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// # let ada = UserKey::new("1")?;
    /// # assert_eq!(sign_in_at_a_terminal(&session, ada)?, SignIn::Done);
    /// # let left = session.deadline()?.unwrap().since(session.authenticated_at()?.unwrap());
    /// # assert!(left <= Duration::from_secs(5 * 60 + 1));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn idle_limit(self, limit: Duration) -> Self {
        Authentication { idle_limit: Some(limit), ..self }
    }

    /// Applies the authentication to the new session. `idle_limit` is the limit that
    /// `set_idle_limit` has set. Returns the limit that replaces the manager's.
    pub(super) fn apply(
        &self,
        new_session: &mut NewSession,
        idle_limit: Option<Duration>,
        settings: &Settings,
        now: Timestamp,
    ) -> Result<Option<Duration>> {
        if self.ends_at.is_some_and(|time| time <= now) {
            let why = "the end of the session is in the past";
            return Err(Error::with_source(ErrorKind::Invalid, SIGN_IN, why));
        }
        let lifetime = settings.signed_in_lifetime(new_session.persistent);
        let check = |limit| settings.checked_idle_limit(limit, &lifetime, SIGN_IN);
        let idle_limit = self.idle_limit.or(idle_limit).map(check).transpose()?;
        new_session.limits.idle = idle_limit.or(new_session.limits.idle);
        new_session.auth_level = self.level;
        new_session.idp_session_id.clone_from(&self.idp_session_id);
        let deadline = new_session.limits.absolute_deadline.into_iter().chain(self.ends_at).min();
        new_session.limits.absolute_deadline = deadline;
        Ok(idle_limit)
    }
}

/// The result of [`Session::recent_auth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum RecentAuth {
    /// The user's last proof of identity is recent enough.
    Recent,
    /// The last proof of identity is too old: ask for the password, and call
    /// [`confirm_authentication`](Session::confirm_authentication).
    TooOld,
    /// No user is signed in.
    NotSignedIn,
}

impl Session {
    /// Records that the signed-in user has proved the identity once more, now and at this level: by
    /// the password before a change of the e-mail address, or by a second factor. The session gets
    /// a new id. Its limits and its end, the identity provider's id and the CSRF secret stay, so
    /// forms in open pages still work.
    ///
    /// After a change of the password, call [`sign_in`](Self::sign_in) instead, which gives a new
    /// id in every case. A request that presents a replaced id within its
    /// [grace](crate::guide::ids#when-the-id-changes) is confirmed without a new id.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionManager, SignIn, UserKey};
    /// # let sessions = SessionManager::new(MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// # assert_eq!(session.sign_in(UserKey::new("1")?)?, SignIn::Done);
    /// use cloakroom::CommitOutcome;
    ///
    /// // After the check of the second factor:
    /// let confirmed = session.confirm_authentication(2)?;
    /// assert_eq!(confirmed, CommitOutcome::Stored);
    /// assert_eq!(session.auth_level()?, 2);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// The level replaces that of the session, even if it is lower. To keep the session's level,
    /// pass [`auth_level`](Self::auth_level):
    ///
    /// ```
    /// use cloakroom::{CommitOutcome, Session};
    ///
    /// /// The password was asked for once more, before a change of the e-mail address.
    /// fn confirm(session: &Session) -> cloakroom::Result<bool> {
    ///     let level = session.auth_level()?;
    ///     Ok(session.confirm_authentication(level)? == CommitOutcome::Stored)
    /// }
    /// ```
    ///
    /// The confirmation is committed when this returns, with the changes of this request so far. If
    /// another request has ended the session or replaced its id meanwhile, all of them are
    /// [discarded](CommitOutcome::Discarded).
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit); and [`ErrorKind::Invalid`] if no user is signed in.
    pub fn confirm_authentication(&self, level: u16) -> Result<CommitOutcome> {
        const OPERATION: &str = "confirm the user's authentication";
        let mut state = self.lock_for_change(OPERATION)?;
        self.load_for_change(&mut state, OPERATION)?;
        if state.load_state.session().is_none_or(|session| session.record.user.is_none()) {
            let why = "no user is signed in";
            return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
        }
        let now = self.context.now();
        state.changes.edit(|delta| delta.confirm_authentication(now, level));
        state.request_renewal();
        self.commit_all(&mut state)
    }

    /// Returns whether the user's last proof of identity, a [`sign_in`](Self::sign_in) or
    /// [`confirm_authentication`](Self::confirm_authentication), is less than `max_age` old. For
    /// pages that change a password or an address, or that spend money.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cloakroom::{RecentAuth, Session};
    ///
    /// /// The page that follows when a user wants to change the password.
    /// fn next_page(session: &Session) -> cloakroom::Result<&'static str> {
    ///     Ok(match session.recent_auth(Duration::from_secs(5 * 60))? {
    ///         RecentAuth::Recent => "/password",
    ///         RecentAuth::TooOld => "/confirm", // asks for the old password
    ///         _ => "/sign-in", // no user is signed in
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn recent_auth(&self, max_age: Duration) -> Result<RecentAuth> {
        let read = |record: &Record| record.user.is_some().then_some(record.authenticated);
        Ok(match self.read_record(read)?.flatten() {
            None => RecentAuth::NotSignedIn,
            Some(Some(at)) if self.context.now() < at + max_age => RecentAuth::Recent,
            Some(_) => RecentAuth::TooOld,
        })
    }
}
