//! Identifiers: the secret session id, its hash, the public id, the realm, and the user key.
//!
//! Applications use [`UserKey`] and [`PublicId`], and with an identity provider [`IdpSessionId`].
//! The others are for authors of stores.

// Uses only `error`. Ids are made by the session and reach stores as hashes only; the texts that
// name users, realms and providers' sessions are validated here once.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// Returns random bytes of the operating system. The process holds no generator state that a fork
/// could copy, so two processes never issue the same id.
pub(crate) fn random<const N: usize>(operation: &'static str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|source| Error::with_source(ErrorKind::Unavailable, operation, source))?;
    Ok(bytes)
}

/// The secret of a session in the browser's cookie: 256 bits, which are random or, after a sign-in
/// through another id, derived from that id and a random salt. As text it is base64url without
/// padding.
///
/// An id is never stored and never printed: the type has no `Display` and no `Serialize`, and its
/// `Debug` output is masked. Stores see only the [`SessionIdHash`].
#[derive(Clone, PartialEq, Eq)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// The length of an id as text: 43 ASCII characters.
    pub const TEXT_LEN: usize = 43;

    /// Generates an id from the operating system's source of randomness.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system provides no randomness.
    pub fn generate() -> Result<Self> {
        Ok(SessionId(random("generate a session id")?))
    }

    /// Parses the text that a client sent. Returns `None` for text that [`reveal`](Self::reveal)
    /// never returns: another length, another alphabet, or unused bits set in the last character.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Self::TEXT_LEN {
            return None;
        }
        // One byte more than an id, because the decoder reserves space for whole groups.
        let mut bytes = [0; 33];
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let id = bytes.get(..written)?.try_into().ok()?;
        Some(SessionId(id))
    }

    /// Returns the id as text, for the cookie. No other method returns the secret.
    #[must_use]
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Derives the id that a sign-in through this one issues: SHA-256("join" ‖ id ‖ salt). The
    /// store keeps the salt beside the replaced id, so two sign-ins through one id issue the same
    /// new id although no id is stored. The salt alone does not determine it.
    pub(crate) fn derive(&self, salt: &JoinSalt) -> SessionId {
        let digest = Sha256::new().chain_update("join").chain_update(self.0).chain_update(salt.0);
        SessionId(digest.finalize().into())
    }

    /// Returns the SHA-256 of the realm's tag and the id's 32 bytes. Stores see nothing else of an
    /// id. In another realm the same id has another hash.
    #[must_use]
    pub fn hash(&self, realm: RealmTag) -> SessionIdHash {
        SessionIdHash(Sha256::new().chain_update(realm.0).chain_update(self.0).finalize().into())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(***)")
    }
}

/// The hash of a [`SessionId`] under which a store keeps its session: the SHA-256 of the realm's
/// tag and the id.
///
/// A hash cannot be presented as a cookie, because the id cannot be computed from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIdHash([u8; 32]);

impl SessionIdHash {
    /// Makes a hash from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        SessionIdHash(bytes)
    }

    /// Returns the 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SessionIdHash {
    /// Shows the first four bytes in hexadecimal, as the sqlite3 shell shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionIdHash(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…)")
    }
}

/// The salt that a store keeps beside an id that a sign-in replaced: 256 random bits.
///
/// The new id follows from the replaced id and the salt, so a second sign-in through the same id
/// can join the first one. The salt is useless without the replaced id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JoinSalt([u8; 32]);

impl JoinSalt {
    /// Generates a salt.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system provides no randomness.
    pub fn generate() -> Result<Self> {
        Ok(JoinSalt(random("generate the salt of a sign-in")?))
    }

    /// Makes a salt from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        JoinSalt(bytes)
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for JoinSalt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSalt(***)")
    }
}

/// The public identifier of a session: 128 random bits, 32 hexadecimal digits as text.
///
/// It stays the same when the session id is renewed, and reveals nothing of the session id. Pages,
/// logs and commands name a session by it:
///
/// ```
/// use cloakroom::id::PublicId;
/// use cloakroom::{Session, SessionManager};
///
/// /// `device` is from the form of a page that lists the user's sessions.
/// fn end(sessions: &SessionManager, session: &Session, device: &str) -> cloakroom::Result<bool> {
///     let Some(user) = session.user()? else { return Ok(false) };
///     let public_id: PublicId = device.parse()?;
///     sessions.revoke(&user, &public_id, Some(session))
/// }
/// # let sessions = SessionManager::new(cloakroom::MemoryStore::new())?;
/// # let session = sessions.open(None);
/// # assert_eq!(session.sign_in(cloakroom::UserKey::new("1")?)?, cloakroom::SignIn::Done);
/// # assert!(!end(&sessions, &session, "000102030405060708090a0b0c0d0e0f")?);
/// # let own = session.public_id()?.unwrap().to_string();
/// # assert!(end(&sessions, &session, &own)?);
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicId([u8; 16]);

impl PublicId {
    /// Generates a public id.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system provides no randomness.
    pub fn generate() -> Result<Self> {
        Ok(PublicId(random("generate a public id")?))
    }

    /// Makes a public id from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        PublicId(bytes)
    }

    /// Returns the 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicId({self})")
    }
}

impl FromStr for PublicId {
    type Err = Error;

    /// Parses the 32 lower-case hexadecimal digits that `Display` writes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for any other text.
    fn from_str(text: &str) -> Result<Self> {
        let why = "it is not 32 hexadecimal digits in lower case";
        let invalid = || Error::with_source(ErrorKind::Invalid, "parse a public id", why);
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| invalid())?;
        Ok(PublicId(number.to_be_bytes()))
    }
}

/// A namespace of session ids. Managers of one realm share their sessions; managers of different
/// realms do not find each other's sessions, even in one store.
///
/// The name has 1 to 255 bytes of UTF-8 without NUL and is compared byte for byte. A manager's
/// realm defaults to the name of its cookie or header.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm(Arc<str>);

/// The tag of a [`Realm`] in the hashes of its ids: the first 16 bytes of SHA-256("cloakroom
/// realm\0" ‖ name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealmTag([u8; 16]);

impl Realm {
    /// Makes a realm from its name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the name is empty, longer than 255 bytes, or contains NUL.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        validated_name(name.into(), "use that as a realm").map(|name| Realm(name.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the tag of this realm: 16 bytes, so that tag and id fit into one block of SHA-256.
    #[must_use]
    pub fn tag(&self) -> RealmTag {
        let digest = Sha256::new().chain_update("cloakroom realm\0").chain_update(&*self.0);
        let mut tag = [0; 16];
        tag.iter_mut().zip(digest.finalize()).for_each(|(to, from)| *to = from);
        RealmTag(tag)
    }
}

impl RealmTag {
    /// Returns the 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Default for Realm {
    /// Returns the realm of managers with the default cookie, `__Host-id`.
    fn default() -> Self {
        Realm("__Host-id".into())
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Realm({:?})", &*self.0)
    }
}

/// Validates a name: 1 to 255 bytes without NUL.
fn validated_name(text: String, operation: &'static str) -> Result<Box<str>> {
    let why = if text.is_empty() {
        "it is empty"
    } else if text.len() > UserKey::MAX_LEN {
        "it is longer than 255 bytes"
    } else if text.contains('\0') {
        "it contains a NUL character"
    } else {
        return Ok(text.into());
    };
    Err(Error::with_source(ErrorKind::Invalid, operation, why))
}

/// The text by which the application identifies a user. Use one that never changes, such as the
/// primary key of the user's row; an e-mail address changes, and `Ada` and `ada` are two users.
///
/// It has 1 to 255 bytes of UTF-8 without NUL and is compared byte for byte.
///
/// ```
/// use cloakroom::UserKey;
///
/// let row_id: i64 = 42;
/// let user = UserKey::new(row_id.to_string())?;
/// assert_eq!(user.as_str(), "42");
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(Box<str>);

impl UserKey {
    /// The maximum length of a user key, in bytes of UTF-8. The same maximum applies to
    /// [`IdpSessionId`] and [`Realm`].
    pub const MAX_LEN: usize = 255;

    /// Makes a user key from `text`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the text is empty, longer than 255 bytes, or contains NUL.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        validated_name(text.into(), "use that as a user key").map(UserKey)
    }

    /// Returns the text.
    ///
    /// For a key that was made from a number, `key.as_str().parse::<i64>()` returns the number.
    /// SQLite converts a text parameter that a statement compares with an `INTEGER` column;
    /// PostgreSQL needs the number.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identifier that an identity provider has for a session (`sid` in OpenID Connect), by which
/// the provider ends it.
///
/// It has the same bounds as a [`UserKey`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdpSessionId(Box<str>);

impl IdpSessionId {
    /// Makes a provider's session id from `text`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the text is empty, longer than 255 bytes, or contains NUL.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        validated_name(text.into(), "use that as an identity provider's session id")
            .map(IdpSessionId)
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdpSessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_round_trips_and_hashes_to_the_documented_value() {
        let id = SessionId([7; 32]);
        let text = id.reveal();
        assert_eq!(text.len(), SessionId::TEXT_LEN);
        assert_eq!(SessionId::parse(&text), Some(id.clone()));
        // tag=$(printf 'cloakroom realm\0__Host-id' | sha256sum | cut -c 1-32)
        // (xxd -r -p <<<"$tag"; printf '\007%.0s' {1..32}) | sha256sum
        let hash = "63cbb7fe60fbf1d6a9209b5fa42f0845f2e3b256d2bb201611bd58091d1981e8";
        let hex: String =
            id.hash(Realm::default().tag()).as_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, hash);
    }

    #[test]
    fn only_the_text_of_an_id_is_parsed_as_an_id() {
        let good = SessionId([0xff; 32]).reveal();
        assert!(SessionId::parse(&good).is_some());
        let stray = format!("{}9", &good[..42]);
        for bad in ["", &good[..42], &format!("{good}="), &format!("{good}8"), &stray] {
            assert_eq!(SessionId::parse(bad), None, "{bad:?}");
        }
        for bad in ['+', '/', '=', ' ', '\0', '\n', '"', '%'] {
            assert_eq!(SessionId::parse(&format!("{bad}{}", &good[1..])), None, "{bad:?}");
        }
        assert_eq!(SessionId::parse(&format!("é{}", &good[2..])), None);
        assert_eq!(SessionId::parse(&"A".repeat(1_000_000)), None);
    }

    #[test]
    fn debug_output_contains_no_id() {
        let id = SessionId::generate().unwrap();
        let shown = format!("{id:?} {:?}", id.hash(Realm::default().tag()));
        assert!(!shown.contains(&id.reveal()[..8]));
    }

    #[test]
    fn ids_do_not_repeat() {
        let ids: std::collections::HashSet<_> = (0..1000)
            .map(|_| SessionId::generate().unwrap().hash(Realm::default().tag()))
            .collect();
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn a_public_id_round_trips_and_other_text_is_refused() {
        let public_id = PublicId::generate().unwrap();
        assert_eq!(public_id.to_string().parse::<PublicId>().unwrap(), public_id);
        for bad in ["", "0", "+0000000000000000000000000000000", &"A".repeat(32), &"é".repeat(16)]
        {
            assert_eq!(bad.parse::<PublicId>().unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn user_keys_are_bounded() {
        for bad in [String::new(), "a\0b".into(), "x".repeat(256), "x".repeat(1 << 20)] {
            assert_eq!(UserKey::new(bad.clone()).unwrap_err().kind(), ErrorKind::Invalid);
            assert_eq!(IdpSessionId::new(bad).unwrap_err().kind(), ErrorKind::Invalid);
        }
        for good in ["1", "%", "_", "'\"", "søren@example.org", &"x".repeat(255)] {
            assert_eq!(UserKey::new(good).unwrap().as_str(), good);
        }
    }
}
