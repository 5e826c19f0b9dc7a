//! The names of a session: the browser's secret, its hash, the public handle, and whose it is.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::TryRng;
use rand::rngs::SysRng;
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// Random bytes straight from the operating system: there is no generator state in the process
/// that a fork could copy, so two processes never issue the same id.
pub(crate) fn random<const N: usize>(operation: &'static str) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng
        .try_fill_bytes(&mut bytes)
        .map_err(|source| Error::with_source(ErrorKind::Unavailable, operation, source))?;
    Ok(bytes)
}

/// The secret ticket in the browser's cookie: 256 random bits, base64url without padding.
///
/// It is never stored and never printed: there is no `Display`, no `Serialize`, and `Debug` is
/// masked. Stores see only its [`SessionIdHash`].
#[derive(Clone, PartialEq, Eq)]
pub struct SessionId([u8; 32]);

impl SessionId {
    /// The length of every id's text: 43 ASCII characters.
    pub const TEXT_LEN: usize = 43;

    /// A new id from the operating system's source of randomness.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self> {
        Ok(SessionId(random("generate a session id")?))
    }

    /// Reads an id from what a client sent. `None` for anything that [`reveal`](Self::reveal)
    /// cannot have written: another length, another alphabet, stray bits in the last character.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != Self::TEXT_LEN {
            return None;
        }
        // One byte more than an id, because the decoder reserves room for whole groups.
        let mut bytes = [0; 33];
        let written = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let id = bytes.get(..written)?.try_into().ok()?;
        Some(SessionId(id))
    }

    /// The text for the cookie: the one place where the secret leaves this type.
    #[must_use]
    pub fn reveal(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// The id that a sign-in through this one gives, with the salt that the store remembers beside
    /// the replaced id: SHA-256("join" ‖ id ‖ salt). Two sign-ins through one id get the same new
    /// id by it, although no id is stored. Whoever has the salt alone cannot compute it.
    pub(crate) fn joined(&self, salt: &JoinSalt) -> SessionId {
        let digest = Sha256::new().chain_update("join").chain_update(self.0).chain_update(salt.0);
        SessionId(digest.finalize().into())
    }

    /// A secret that only holders of this id can know: SHA-256("form" ‖ id).
    pub(crate) fn form_secret(&self) -> [u8; 32] {
        Sha256::new().chain_update("form").chain_update(self.0).finalize().into()
    }

    /// The SHA-256 of the realm's tag and the 32 bytes: all that a store ever sees of the id. The
    /// managers of another realm look it up under another key.
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

/// What a store files a session under: the SHA-256 of its realm's tag and its [`SessionId`].
///
/// It cannot be presented as a cookie: the id that hashes to it cannot be computed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionIdHash([u8; 32]);

impl SessionIdHash {
    /// The key made of these bytes, for stores that read it back.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        SessionIdHash(bytes)
    }

    /// The 32 bytes of the hash.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SessionIdHash {
    /// The first four bytes in hexadecimal, as the sqlite3 shell shows them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(")?;
        for byte in self.0.iter().take(4) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…)")
    }
}

/// What a store keeps beside an id that a sign-in replaced: 256 random bits, from which together
/// with the replaced id the new one follows. A second sign-in through the same id can join the
/// first one by it. It is worth nothing without the replaced id.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct JoinSalt([u8; 32]);

impl JoinSalt {
    /// A new salt.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self> {
        Ok(JoinSalt(random("generate the salt of a sign-in")?))
    }

    /// The salt made of these bytes, for stores that read it back.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        JoinSalt(bytes)
    }

    /// The 32 bytes.
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

/// The public name of a session: 128 random bits, 32 hexadecimal digits as text.
///
/// It stays the same when the id is renewed, says nothing about the id, and is what a page or a
/// command names a session by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicId([u8; 16]);

impl PublicId {
    /// A new handle.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when the operating system gives no randomness.
    pub fn generate() -> Result<Self> {
        Ok(PublicId(random("generate a session handle")?))
    }

    /// The handle made of these bytes, for stores that read it back.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        PublicId(bytes)
    }

    /// The 16 bytes.
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
        write!(f, "Handle({self})")
    }
}

impl FromStr for PublicId {
    type Err = Error;

    /// Reads the 32 lower-case hexadecimal digits that `Display` writes.
    fn from_str(text: &str) -> Result<Self> {
        let why = "it is not 32 hexadecimal digits in lower case";
        let invalid = || Error::with_source(ErrorKind::Invalid, "read a session handle", why);
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(|d| matches!(d, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(invalid());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| invalid())?;
        Ok(PublicId(number.to_be_bytes()))
    }
}

/// Whose ids a manager takes: the managers of one realm share their sessions, those of another
/// never see them, be the store the same.
///
/// A name of 1 to 255 bytes of UTF-8 without NUL, matched exactly, byte for byte. A manager's
/// defaults to the name of its cookie or header.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm(Arc<str>);

/// What tells the ids of one [`Realm`] from those of others: 16 bytes of the SHA-256 of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealmTag([u8; 16]);

impl Realm {
    /// The realm of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the name is empty, longer than 255 bytes, or contains NUL.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        checked(name.into(), "use that as a realm").map(|name| Realm(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its tag.
    #[must_use]
    pub fn tag(&self) -> RealmTag {
        let digest = Sha256::new().chain_update("cloakroom realm\0").chain_update(&*self.0);
        let mut tag = [0; 16];
        tag.iter_mut().zip(digest.finalize()).for_each(|(to, from)| *to = from);
        RealmTag(tag)
    }
}

impl RealmTag {
    /// The 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl Default for Realm {
    /// The realm of managers with the default cookie.
    fn default() -> Self {
        Realm("__Host-id".into())
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Realm({:?})", &*self.0)
    }
}

/// Text that names somebody, compared byte for byte.
fn checked(text: String, operation: &'static str) -> Result<Box<str>> {
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

/// Whose session it is: any text by which the application knows a user, such as a primary key.
///
/// 1 to 255 bytes of UTF-8 without NUL, matched exactly, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserKey(Box<str>);

impl UserKey {
    /// The longest user key and external key, in bytes of UTF-8.
    pub const MAX_LEN: usize = 255;

    /// Takes `text` as a user key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is empty, longer than 255 bytes, or contains NUL.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        checked(text.into(), "use that as a user key").map(UserKey)
    }

    /// The text.
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

/// The name that an identity provider has for a session (the `sid` of OpenID Connect), so that
/// the provider can end it. The same bounds as a [`UserKey`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdpSessionId(Box<str>);

impl IdpSessionId {
    /// Takes `text` as an external key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when it is empty, longer than 255 bytes, or contains NUL.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        checked(text.into(), "use that as an external key").map(IdpSessionId)
    }

    /// The text.
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
    fn an_id_survives_its_text_and_hashes_to_the_documented_key() {
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
    fn only_the_text_that_an_id_reveals_is_read_as_one() {
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
    fn nothing_prints_an_id() {
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
    fn a_handle_survives_its_text_and_nothing_else_is_one() {
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
