//! Tokens for forms, which protect against cross-site request forgery (CSRF), and their
//! verification: [`Session::csrf_field`] and [`Session::verify_csrf`].
//!
//! A token is a random mask, followed by the session's CSRF secret XORed with it. Every token has a
//! new random mask, so two tokens of one secret look unrelated, and the length of a compressed page
//! does not reveal the secret (the BREACH attack).

// Uses `session`, which stores the secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::Result;
use crate::id::random;
use crate::session::Session;

/// The length of a token: mask and masked secret, 64 bytes, as base64url.
const TEXT_LEN: usize = 86;

fn token(secret: &[u8; 32], mask: &[u8; 32]) -> String {
    let masked = secret.iter().zip(mask).map(|(secret, mask)| secret ^ mask);
    let bytes: Vec<u8> = mask.iter().copied().chain(masked).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the secret in a token, or `None` for text that [`token`] never returns.
fn unmasked(token: &str) -> Option<[u8; 32]> {
    if token.len() != TEXT_LEN {
        return None;
    }
    // Two bytes more than a token, because the decoder reserves space for whole groups.
    let mut bytes = [0; 66];
    let written = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
    let (mask, masked) = bytes.get(..written)?.split_at_checked(32)?;
    let mut secret: [u8; 32] = masked.try_into().ok()?;
    secret.iter_mut().zip(mask).for_each(|(secret, mask)| *secret ^= mask);
    Some(secret)
}

/// The result of [`Session::verify_csrf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a request may be forged"]
pub enum CsrfCheck {
    /// A page of this session sent the token.
    Valid,
    /// The token is not one of this session. A page of another origin may have sent the request.
    Invalid,
}

impl Session {
    /// Returns a CSRF token of this session, for a form in the response. Pages of other origins do
    /// not know it, so a request with a valid token comes from a page of this session.
    ///
    /// ```
    /// use cloakroom::Session;
    ///
    /// /// A page whose script sends the token back in a header, for `verify_csrf`.
    /// fn page(session: &Session) -> cloakroom::Result<String> {
    ///     Ok(format!("<meta name=csrf content={}>", session.csrf_token()?))
    /// }
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # assert!(page(&sessions.open(None))?.contains("content="));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// Every call returns a different token. All of them are valid until the session ends or until
    /// the next [`sign_in`](Self::sign_in). A page that is rendered in the request of a sign-in
    /// must request its token after the sign-in.
    ///
    /// Without a session, a token begins one at the end of the request. If that request fails or
    /// [ignores](Self::ignore) the session, the token is never valid. In a session that exists, a
    /// token stores nothing, unless the session was written into the store by another program.
    ///
    /// After a sign-in, the earlier tokens are still valid in requests that present the replaced
    /// id, while the store [remembers it](crate::guide::ids#what-an-old-id-does): so a sign-in form
    /// can be sent twice.
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn csrf_token(&self) -> Result<String> {
        let secret = self.csrf_secret_or_new()?;
        Ok(token(secret.as_bytes(), &random("mask a CSRF token")?))
    }

    /// Returns a [token](Self::csrf_token) as the hidden field `csrf` of an HTML form.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let csrf = session.csrf_field()?;
    /// let form = format!("<form method=post action=/pay>{csrf}<button>Pay</button></form>");
    /// # assert!(form.contains("csrf"));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`csrf_token`](Self::csrf_token).
    pub fn csrf_field(&self) -> Result<String> {
        let token = self.csrf_token()?;
        Ok(format!("<input type=\"hidden\" name=\"csrf\" value=\"{token}\">"))
    }

    /// Verifies a token. Call this before changing anything on behalf of the user, and answer with
    /// status 403 if the token is invalid.
    ///
    /// Every token is [`Invalid`](CsrfCheck::Invalid) if the request finds neither a session nor a
    /// replaced id that the store remembers. A text that is not a token is `Invalid` without a read
    /// of the session. The call writes nothing.
    ///
    /// ```
    /// use cloakroom::csrf::CsrfCheck;
    ///
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let shown = session.csrf_token()?;
    /// assert_eq!(session.verify_csrf(&shown)?, CsrfCheck::Valid);
    /// assert_eq!(session.verify_csrf("forged")?, CsrfCheck::Invalid);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [Those of all methods](Self#errors-of-all-methods).
    pub fn verify_csrf(&self, token: &str) -> Result<CsrfCheck> {
        let Some(claimed) = unmasked(token) else { return Ok(CsrfCheck::Invalid) };
        Ok(match self.csrf_secret_if_any()? {
            Some(secret) if secret.matches(&claimed) => CsrfCheck::Valid,
            _ => CsrfCheck::Invalid,
        })
    }
}
