//! The workload: the data of a session, and random choice. The programs of the peers include this
//! file too.

use std::sync::atomic::{AtomicU64, Ordering};

/// A small generator of random numbers, whose cost is negligible beside the measured operations.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Starts a sequence that no other call with the same seed starts. Otherwise every slice of a
    /// measurement would write the values that are stored already.
    pub fn new(seed: u64) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let seed = seed + (STARTED.fetch_add(1, Ordering::Relaxed) << 32);
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[(self.next() % from.len() as u64) as usize]
    }
}

/// The data of one session, about 220 bytes.
pub fn session_json(theme: u64) -> String {
    let note = "what the customer wrote in the box for notes, about a hundred characters of it, as text goes, more";
    format!(
        "{{\"cart\":[11,22,33,44,55],\"csrf\":\"0123456789abcdef0123456789abcdef\",\
         \"note\":\"{note}\",\"theme\":\"dark{theme:06}\",\"user_id\":123456}}"
    )
}
