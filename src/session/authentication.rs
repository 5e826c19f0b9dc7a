//! How a user was authenticated, and how long ago.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::IdpSessionId;
use crate::record::NewSession;
use crate::session::Session;

/// How a user was authenticated, for [`Session::sign_in_with`].
///
/// ```
/// use cloakroom::http::Outcome;
/// use cloakroom::{Authentication, MemoryStore, SessionManager, SignIn, UserKey};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let session = sessions.open(None);
/// // With a password and a second factor; the application gives the number its meaning.
/// let signed_in = session.sign_in_with(UserKey::new("ada")?, &Authentication::new().level(2))?;
/// assert_eq!(signed_in, SignIn::Done);
/// assert_eq!(session.auth_level()?, 2);
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Authentication {
    level: u16,
    idp_session_id: Option<IdpSessionId>,
    ends: Option<Timestamp>,
}

impl Authentication {
    /// At level 0, by the application itself, for as long as the manager's limits allow.
    pub fn new() -> Self {
        Authentication::default()
    }

    /// How strong it was. The application gives the number its meaning: a page can ask for at
    /// least a level with [`Session::auth_level`], and for a step up by another sign-in.
    pub fn level(self, level: u16) -> Self {
        Authentication { level, ..self }
    }

    /// The name that the identity provider has for the session, to
    /// [revoke](crate::SessionManager::revoke_by_idp_session) it by. Without one, a session of the same
    /// user keeps the name it has.
    pub fn idp_session_id(self, key: IdpSessionId) -> Self {
        Authentication { idp_session_id: Some(key), ..self }
    }

    /// When the session ends at the latest, as an identity provider says. The limits of the
    /// manager hold too. A later sign-in restarts all limits: say it again there.
    pub fn ends(self, at: Timestamp) -> Self {
        Authentication { ends: Some(at), ..self }
    }

    pub(super) fn apply(&self, new_session: &mut NewSession, now: Timestamp) -> Result<()> {
        if self.ends.is_some_and(|ends| ends <= now) {
            let why = "the session would end before it begins";
            return Err(Error::with_source(ErrorKind::Invalid, "sign a user in", why));
        }
        new_session.auth_level = self.level;
        new_session.idp_session_id.clone_from(&self.idp_session_id);
        let ends = new_session.limits.absolute.into_iter().chain(self.ends).min();
        new_session.limits.absolute = ends;
        Ok(())
    }
}

/// What [`Session::require_recent_auth`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum RecentAuth {
    /// The user has signed in recently enough.
    Recent,
    /// That was too long ago: ask for the password, and sign the same user in again.
    TooOld,
    /// Nobody is signed in.
    NotSignedIn,
}

impl Session {
    /// Whether the user has signed in less than `max_age` ago: for pages that change a password or
    /// an address, or that spend money. Signing the same user in again makes it so.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cloakroom::{RecentAuth, Session};
    ///
    /// fn may_change_the_password(session: &Session) -> cloakroom::Result<bool> {
    ///     let recent = session.require_recent_auth(Duration::from_secs(5 * 60))?;
    ///     Ok(recent == RecentAuth::Recent)
    /// }
    /// ```
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn require_recent_auth(&self, max_age: Duration) -> Result<RecentAuth> {
        let authenticated = match self.user()? {
            Some(_) => self.authenticated_at()?,
            None => return Ok(RecentAuth::NotSignedIn),
        };
        let now = self.context.now();
        Ok(match authenticated {
            Some(at) if now < at + max_age => RecentAuth::Recent,
            _ => RecentAuth::TooOld,
        })
    }
}
