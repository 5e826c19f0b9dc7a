//! Maps of sessions by id hash.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::id::SessionIdHash;

/// A map by id hash. An attacker cannot choose its keys, which are hashes of generated ids.
pub(crate) type IdHashMap<V> = HashMap<SessionIdHash, V, BuildHasherDefault<KeyHasher>>;

/// Uses the first bytes of the key, which is a hash already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some((first, _)) = bytes.split_first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// The length of a key, which is constant.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
