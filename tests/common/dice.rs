//! Reproducible random numbers: the seed is printed, and can be set.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator that repeats its numbers for the same seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// The seed of this run: `CLOAKROOM_SEED`, or the time. It is printed, so that a failure can be
/// repeated.
pub fn seed() -> u64 {
    let seed = number("CLOAKROOM_SEED").unwrap_or_else(|| {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::try_from(time.as_micros()).unwrap()
    });
    println!("CLOAKROOM_SEED={seed}");
    seed
}

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// Independent dice, seeded by the next number of these.
    pub fn fork(&mut self) -> Dice {
        Dice(self.next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        usize::try_from((self.next() >> 33) % u64::try_from(sides.max(1)).unwrap()).unwrap()
    }

    /// Whether something happens that has this chance, in percent.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.roll(100) < percent
    }

    /// Whether something happens that has the chance of one in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())]
    }
}
