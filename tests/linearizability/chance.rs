//! Choices by chance, the same again for the same seed.

use crate::common::dice::Dice;

#[derive(Clone, Debug)]
pub struct Chance(Dice);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Chance(Dice::new(seed))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next()
    }

    /// Below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}
