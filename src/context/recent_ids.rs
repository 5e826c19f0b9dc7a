//! A bounded memory of recent id hashes, in a newer and an older half. The older half is dropped as
//! a whole, so forgetting costs a request nothing.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use crate::id::SessionIdHash;
use crate::sync::monotonic_now;

/// The size at which the newer half becomes the older one: at least this many ids are remembered,
/// and at most twice as many.
const HALF_SIZE: usize = 10_000;

/// A value for each of the latest id hashes.
#[derive(Debug)]
pub(super) struct RecentIds<V> {
    retention: Duration,
    newer: HashMap<SessionIdHash, V>,
    newer_began_at: Instant,
    older: HashMap<SessionIdHash, V>,
}

impl<V> RecentIds<V> {
    /// Makes an empty memory. It keeps a value for at least `retention`, unless more than
    /// [`HALF_SIZE`] others follow it.
    pub(super) fn new(retention: Duration) -> Self {
        RecentIds {
            retention,
            newer: HashMap::new(),
            newer_began_at: monotonic_now(),
            older: HashMap::new(),
        }
    }

    /// Adds a value. Before that, begins a new half if the newer one is full, or older than the
    /// retention.
    pub(super) fn insert(&mut self, id_hash: SessionIdHash, value: V) {
        let now = monotonic_now();
        let age = now.saturating_duration_since(self.newer_began_at);
        if self.newer.len() >= HALF_SIZE || age >= self.retention {
            self.older = mem::take(&mut self.newer);
            self.newer_began_at = now;
        }
        self.newer.insert(id_hash, value);
    }

    pub(super) fn get(&self, id_hash: &SessionIdHash) -> Option<&V> {
        self.newer.get(id_hash).or_else(|| self.older.get(id_hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_ids_are_remembered() {
        let mut recent = RecentIds::new(Duration::from_secs(3600));
        let id_hash = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            SessionIdHash::from_bytes(bytes)
        };
        (0..5 * HALF_SIZE).for_each(|n| recent.insert(id_hash(n), n));
        let known = (0..5 * HALF_SIZE).filter(|n| recent.get(&id_hash(*n)) == Some(n));
        let known: Vec<usize> = known.collect();
        assert!((HALF_SIZE..=2 * HALF_SIZE).contains(&known.len()));
        assert_eq!(known.last(), Some(&(5 * HALF_SIZE - 1)));
    }
}
