//! Requests that a page of another origin has sent to an exempt path.
//!
//! Invariant: one that presents no id changes nothing before `allow_cross_origin`.

use crate::cross_origin::OriginDecision;
use crate::error::{Error, ErrorKind, Result};
use crate::session::{Session, State};

impl Session {
    /// Lets a request to an [exempt](crate::CrossOrigin::exempt) path begin a session, or remove
    /// the cookie, although a page of another origin sent it. Call it once the request has proved
    /// where it comes from.
    ///
    /// Without this call such a request can read, but every change, [`sign_in`](Self::sign_in) and
    /// [`destroy`](Self::destroy) fail with [`ErrorKind::CrossOrigin`]. On other paths, and if the
    /// request presents an id, the call has no effect.
    ///
    /// The reason: a browser sends no `SameSite=Lax` cookie with a `POST` from another site. A
    /// session that the request begins replaces the one that the browser has, so any site could
    /// sign the user out.
    ///
    /// ```
    /// use cloakroom::{Session, SignIn, UserKey};
    ///
    /// /// The form of an identity provider, whose `state` was found to be that of our cookie.
    /// fn callback(session: &Session, user: UserKey) -> cloakroom::Result<SignIn> {
    ///     session.allow_cross_origin()?;
    ///     session.sign_in(user)
    /// }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request; and [those of all
    /// methods](Self#errors-of-all-methods).
    pub fn allow_cross_origin(&self) -> Result<()> {
        self.lock_unclosed("allow a cross-origin request")?.cross_origin_allowed = true;
        Ok(())
    }

    /// Refuses to create or end a session in a request that a page of another origin sent, as it
    /// can to an exempt path. Such a request comes without the cookie, and the response would
    /// replace or remove it.
    pub(super) fn check_cross_origin(&self, state: &State, operation: &'static str) -> Result<()> {
        let is_exempt = self.origin_check == OriginDecision::Exempt;
        if is_exempt && self.presented.is_empty() && !state.cross_origin_allowed {
            let why = "a page of another origin sent the request, without the cookie that the \
                       browser may have: call allow_cross_origin first, if the response may \
                       replace it";
            return Err(Error::with_source(ErrorKind::CrossOrigin, operation, why));
        }
        Ok(())
    }
}
