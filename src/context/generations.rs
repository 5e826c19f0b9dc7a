//! A memory of id hashes in two generations. A whole generation is dropped at a time, so forgetting
//! costs a request nothing.
//!
//! Called by `retired_ids` and `end_trail`.

use std::collections::HashMap;
use std::mem;
use std::time::{Duration, Instant};

use crate::id::SessionIdHash;
use crate::sync::monotonic_now;

/// The size at which a generation is replaced: at least this many ids are remembered, and at most
/// twice as many.
pub(super) const GENERATION_SIZE: usize = 10_000;

/// A value for each of the latest id hashes.
#[derive(Debug)]
pub(super) struct Generations<V> {
    started: Option<Instant>,
    current: HashMap<SessionIdHash, V>,
    previous: HashMap<SessionIdHash, V>,
}

impl<V> Default for Generations<V> {
    fn default() -> Self {
        Generations { started: None, current: HashMap::new(), previous: HashMap::new() }
    }
}

impl<V> Generations<V> {
    /// Adds a value. Before that, starts a new generation if the current one is full, or older than
    /// `retention`. A value is remembered for at least that time, unless more than
    /// [`GENERATION_SIZE`] others follow it.
    pub(super) fn insert(&mut self, id_hash: SessionIdHash, value: V, retention: Duration) {
        let now = monotonic_now();
        let started = *self.started.get_or_insert(now);
        if self.current.len() >= GENERATION_SIZE || now.duration_since(started) >= retention {
            self.previous = mem::take(&mut self.current);
            self.started = Some(now);
        }
        self.current.insert(id_hash, value);
    }

    pub(super) fn get(&self, id_hash: &SessionIdHash) -> Option<&V> {
        self.current.get(id_hash).or_else(|| self.previous.get(id_hash))
    }
}
