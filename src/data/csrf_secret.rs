//! The CSRF secret of a session.

use std::fmt;
use std::hint::black_box;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::data::{CSRF_SECRET, Data, Value};
use crate::error::Result;
use crate::id::random;

/// The secret in the CSRF tokens of a session: 256 random bits. The data of the session contains it
/// as base64url without padding, and a [`ReplacedId`](crate::backend::ReplacedId) remembers it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CsrfSecret([u8; 32]);

impl CsrfSecret {
    pub(crate) fn generate() -> Result<Self> {
        Ok(CsrfSecret(random("make a CSRF secret")?))
    }

    /// Makes a secret from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        CsrfSecret(bytes)
    }

    /// Returns the 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Decodes a value of the data; `None` for one that [`to_value`](Self::to_value) never returns.
    pub(crate) fn from_value(value: &Value<'_>) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(value.decode::<String>().ok()?).ok()?;
        Some(CsrfSecret(bytes.try_into().ok()?))
    }

    /// Returns the valid secret in the data, if there is one.
    pub(crate) fn from_data(data: &Data) -> Option<Self> {
        data.get(CSRF_SECRET).and_then(|value| CsrfSecret::from_value(&value))
    }

    pub(crate) fn to_value(self) -> Result<Value<'static>> {
        Value::encode(&URL_SAFE_NO_PAD.encode(self.0))
    }

    /// Compares in constant time.
    pub(crate) fn matches(&self, bytes: &[u8; 32]) -> bool {
        let pairs = self.0.iter().zip(bytes);
        // Without `black_box` the optimizer could end the loop at the first difference.
        pairs.fold(0, |different, (own, other)| black_box(different | (own ^ other))) == 0
    }
}

impl fmt::Debug for CsrfSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CsrfSecret(***)")
    }
}
