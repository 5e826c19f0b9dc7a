//! Maps of sessions by key.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::id::SessionIdHash;

/// What belongs to sessions, by their keys. Nobody can choose the keys that are put into it: they
/// are hashes of ids that this crate has drawn.
pub(crate) type IdHashMap<V> = HashMap<SessionIdHash, V, BuildHasherDefault<KeyHasher>>;

/// A key is a hash already; its first bytes do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some((first, _)) = bytes.split_first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    /// The length of a key, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
