//! Tokens against requests that another site makes a browser send.
//!
//! A token is the session's secret under a mask that is new each time, so that pages which are
//! compressed and watched do not give the secret away byte by byte (BREACH).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::Result;
use crate::id::random;
use crate::session::Session;

/// The length of every token: mask and masked secret, 64 bytes, as base64url.
const TEXT_LEN: usize = 86;

fn token(secret: &[u8; 32], mask: &[u8; 32]) -> String {
    let masked = secret.iter().zip(mask).map(|(secret, mask)| secret ^ mask);
    let bytes: Vec<u8> = mask.iter().copied().chain(masked).collect();
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The secret that a token claims to know; `None` for what no [`token`] can be.
fn unmasked(token: &str) -> Option<[u8; 32]> {
    if token.len() != TEXT_LEN {
        return None;
    }
    // Two bytes more than a token, because the decoder reserves room for whole groups.
    let mut bytes = [0; 66];
    let written = URL_SAFE_NO_PAD.decode_slice(token, &mut bytes).ok()?;
    let (mask, masked) = bytes.get(..written)?.split_at_checked(32)?;
    let mut secret: [u8; 32] = masked.try_into().ok()?;
    secret.iter_mut().zip(mask).for_each(|(secret, mask)| *secret ^= mask);
    Some(secret)
}

/// What [`Session::verify_csrf`] found. It is a type of its own, so that the compiler warns where
/// it is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a request may be forged"]
pub enum CsrfToken {
    /// The request was made from a page of this session.
    Valid,
    /// It may have been made by another site.
    Invalid,
}

impl Session {
    /// A token for a form of this page, which no other site can know: a request that brings it back
    /// was made from a page of this session. It is different at every call; all of them hold for as
    /// long as the session does, through renewals, until the next [`sign_in`](Self::sign_in). After
    /// that they hold with the replaced id alone, while it is remembered, so that a sign-in form can
    /// be sent twice.
    ///
    /// A page that is rendered after a sign-in in the same request must ask for it after that.
    ///
    /// Where there is no session, one begins at the end of the request, as with any change. Where
    /// there is one for which no token was ever made, that is stored at once and stands, whatever
    /// the response will be. [`clear`](Self::clear) removes what tokens are checked against, too,
    /// unless a token is asked for after it in the same request. After [`ignore`](Self::ignore) only
    /// the tokens of a session that had some before are of use.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn csrf_token(&self) -> Result<String> {
        let secret = self.secret()?;
        Ok(token(secret.bytes(), &random("mask a CSRF token")?))
    }

    /// The [token](Self::csrf_token) as a hidden field of the name `csrf`, for an HTML form.
    ///
    /// # Errors
    /// As [`csrf_token`](Self::csrf_token).
    pub fn csrf_field(&self) -> Result<String> {
        let token = self.csrf_token()?;
        Ok(format!("<input type=\"hidden\" name=\"csrf\" value=\"{token}\">"))
    }

    /// Whether `token` is one of this session's: ask before anything is changed on behalf of the
    /// user, and answer with 403 where it is invalid. It is so too where there is no session, and
    /// for anything that is no token; what is no token at all is not even looked up. Writes nothing.
    ///
    /// ```
    /// use cloakroom::csrf::CsrfToken;
    ///
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let shown = session.csrf_token()?;
    /// assert_eq!(session.verify_csrf(&shown)?, CsrfToken::Valid);
    /// assert_eq!(session.verify_csrf("forged")?, CsrfToken::Invalid);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn verify_csrf(&self, token: &str) -> Result<CsrfToken> {
        let Some(claimed) = unmasked(token) else { return Ok(CsrfToken::Invalid) };
        Ok(match self.secret_if_any()? {
            Some(secret) if secret.is(&claimed) => CsrfToken::Valid,
            _ => CsrfToken::Invalid,
        })
    }
}
