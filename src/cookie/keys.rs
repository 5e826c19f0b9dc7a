//! Signed and encrypted cookies, with key rotation and keys derived for each realm.
//!
//! Wraps the `cookie` crate. [`CookieConfig`] uses it through the trait [`Seal`].

use std::fmt;
use std::sync::Arc;

use cookie::{Cookie, CookieJar, Key};
use sha2::{Digest, Sha256};

use crate::cookie::{CookieConfig, Seal, Unsealed};
use crate::error::{Error, ErrorKind, Result};
use crate::id::RealmTag;

/// The keys that sign or encrypt cookies. The first key is used for new cookies; all keys are tried
/// for received ones.
///
/// They are rarely needed: an id is 256 random bits, so it cannot be guessed and contains nothing
/// to read. [`signed`](CookieConfig::signed) refuses invented ids without asking the store;
/// [`encrypted`](CookieConfig::encrypted) also hides the id from the client.
///
/// To rotate keys, put the new key first and keep the old one: cookies of an old key stay valid and
/// are sent again under the new key. Removing a key invalidates its cookies.
///
/// ```
/// use cloakroom::cookie::CookieKeys;
/// use cloakroom::{CookieConfig, MemoryStore, SessionManager};
///
/// # let (new_secret, old_secret) = ([1; 64], [2; 64]);
/// let keys = CookieKeys::new([new_secret, old_secret])?;
/// let cookie = CookieConfig::new().signed(keys);
/// let sessions = SessionManager::builder(MemoryStore::new()).cookie(cookie).build()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone)]
pub struct CookieKeys(Vec<Key>);

impl CookieKeys {
    /// The minimum length of a secret, in bytes.
    pub const MIN_LEN: usize = 64;

    /// Makes keys from secrets of at least 64 random bytes each, the newest first. Of each secret,
    /// the first 32 bytes are the key for signing, and the next 32 the key for encryption.
    ///
    /// Remove keys that are no longer needed: up to 16 values of a request are each tried with
    /// every key.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: there is no secret, one is shorter than 64 bytes, or the key for
    /// signing or encryption in one is all zero, as in a buffer that was never filled.
    pub fn new<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Result<Self> {
        let invalid = |why: String| Error::with_source(ErrorKind::Invalid, "use those keys", why);
        let keys = secrets
            .into_iter()
            .map(|secret| {
                let secret = secret.as_ref();
                let is_zero = |key: &[u8]| key.iter().all(|byte| *byte == 0);
                if secret.chunks_exact(Self::MIN_LEN / 2).take(2).any(is_zero) {
                    return Err(invalid("a secret contains 32 zero bytes".to_owned()));
                }
                Key::try_from(secret).map_err(|why| invalid(why.to_string()))
            })
            .collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Err(invalid("there is no key".to_owned()));
        }
        Ok(CookieKeys(keys))
    }
}

impl fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CookieKeys({} keys)", self.0.len())
    }
}

impl CookieConfig {
    /// Signs the id with HMAC-SHA-256: clients can read it and cannot forge it. Replaces
    /// [`encrypted`](Self::encrypted).
    pub fn signed(self, keys: CookieKeys) -> Self {
        CookieConfig { seal: Some(Arc::new(KeyedSeal { keys, encrypts: false })), ..self }
    }

    /// Encrypts the id with AES-256-GCM: clients can neither read nor forge it. Replaces
    /// [`signed`](Self::signed).
    pub fn encrypted(self, keys: CookieKeys) -> Self {
        CookieConfig { seal: Some(Arc::new(KeyedSeal { keys, encrypts: true })), ..self }
    }
}

/// A seal that signs or encrypts.
#[derive(Debug)]
struct KeyedSeal {
    keys: CookieKeys,
    encrypts: bool,
}

fn cookie(name: &str, value: &str) -> Cookie<'static> {
    Cookie::new(name.to_owned(), value.to_owned())
}

impl Seal for KeyedSeal {
    fn seal(&self, name: &str, id: &str) -> String {
        let mut jar = CookieJar::new();
        if let Some(key) = self.keys.0.first() {
            if self.encrypts {
                jar.private_mut(key).add(cookie(name, id))
            } else {
                jar.signed_mut(key).add(cookie(name, id))
            }
        }
        jar.get(name).map(|cookie| cookie.value().to_owned()).unwrap_or_default()
    }

    fn unseal(&self, name: &str, value: &str) -> Option<Unsealed> {
        let jar = CookieJar::new();
        let sealed = cookie(name, value);
        self.keys.0.iter().enumerate().find_map(|(index, key)| {
            let opened = if self.encrypts {
                jar.private(key).decrypt(sealed.clone())
            } else {
                jar.signed(key).verify(sealed.clone())
            }?;
            Some(Unsealed { id: opened.value().to_owned(), sealed_with_old_key: index > 0 })
        })
    }

    /// Derives each key: SHA-256(tag ‖ half of the key), for both halves.
    fn of_realm(&self, realm: RealmTag) -> Result<Arc<dyn Seal>> {
        let derive_half =
            |key: &[u8]| Sha256::new().chain_update(realm.as_bytes()).chain_update(key).finalize();
        let derive = |key: &Key| {
            let both = [derive_half(key.signing()), derive_half(key.encryption())].concat();
            Key::try_from(&both[..]).map_err(|why| {
                let why = why.to_string();
                Error::with_source(ErrorKind::Unexpected, "derive the keys of a realm", why)
            })
        };
        let keys = CookieKeys(self.keys.0.iter().map(derive).collect::<Result<_>>()?);
        Ok(Arc::new(KeyedSeal { keys, encrypts: self.encrypts }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    fn config(encrypted: bool, secrets: &[u8]) -> CookieConfig {
        let keys = CookieKeys::new(secrets.iter().map(|byte| [*byte; 64])).unwrap();
        let config = CookieConfig::new();
        if encrypted { config.encrypted(keys) } else { config.signed(keys) }
    }

    #[test]
    fn an_old_key_opens_cookies_while_it_is_listed() {
        for encrypted in [false, true] {
            let id = SessionId::generate().unwrap();
            let header =
                config(encrypted, &[1]).issue(&id, None, crate::clock::Timestamp::default());
            let pair = header.split(';').next().unwrap();
            let read = |config: CookieConfig| {
                let value = config.values(pair).next().unwrap();
                config.read(value)
            };
            assert_eq!(read(config(encrypted, &[1])), Some((id.clone(), false)));
            assert_eq!(read(config(encrypted, &[2, 1])), Some((id.clone(), true)));
            assert_eq!(read(config(encrypted, &[2])), None);
            assert_eq!(read(config(!encrypted, &[1])), None);
            assert_eq!(header.contains(&id.reveal()), !encrypted);
            config(encrypted, &[1]).validate().unwrap();
        }
    }

    #[test]
    fn values_without_a_valid_seal_are_no_ids() {
        let id = SessionId::generate().unwrap().reveal();
        for encrypted in [false, true] {
            for bad in ["", "x", &id, &format!("{}{id}", "A".repeat(44)), &"A".repeat(100_000)] {
                assert_eq!(config(encrypted, &[1]).read(bad), None);
            }
        }
    }

    #[test]
    fn short_secrets_and_empty_lists_are_refused() {
        let none: [&[u8]; 0] = [];
        assert_eq!(CookieKeys::new(none).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(CookieKeys::new([[1; 63]]).unwrap_err().kind(), ErrorKind::Invalid);
        assert!(!format!("{:?}", CookieKeys::new([[7; 64]]).unwrap()).contains('7'));
    }

    #[test]
    fn keys_of_zero_bytes_are_refused() {
        let secret = |first: u8, next: u8| [[first; 32], [next; 32]].concat();
        for bad in [secret(0, 0), secret(0, 1), secret(1, 0), vec![0; 100]] {
            let error = CookieKeys::new([secret(1, 2), bad]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(format!("{error:?}").contains("zero"), "{error:?}");
        }
        CookieKeys::new([[secret(1, 2), vec![0; 32]].concat()]).unwrap();
    }
}
