//! The size of a sweep's batches, for the cleaner and for an operator's sweep.

use std::num::NonZeroUsize;
use std::time::Duration;

/// The maximum number of sessions that one transaction of a sweep removes. It adapts to the time
/// for which the transactions block writers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SweepBatch(NonZeroUsize);

impl SweepBatch {
    /// The size of the first batch, and the maximum.
    pub(crate) const LARGEST: SweepBatch = SweepBatch(NonZeroUsize::MIN.saturating_add(999));

    const SMALLEST: usize = 50;

    /// A batch that blocks writers for longer is followed by one of half its size.
    const TIME: Duration = Duration::from_millis(10);

    pub(crate) fn limit(self) -> NonZeroUsize {
        self.0
    }

    /// Returns the next batch, after this one has blocked writers for this long.
    #[must_use]
    pub(crate) fn after(self, blocked_for: Duration) -> Self {
        let next = if blocked_for > Self::TIME { self.0.get() / 2 } else { self.0.get() * 2 };
        let next = NonZeroUsize::new(next.max(Self::SMALLEST)).unwrap_or(Self::LARGEST.0);
        SweepBatch(next.min(Self::LARGEST.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_batch_shrinks_when_it_blocks_for_long_and_grows_again() {
        let mut batch = SweepBatch::LARGEST;
        for _ in 0..10 {
            batch = batch.after(MILLI * 11);
        }
        assert_eq!(batch.limit().get(), SweepBatch::SMALLEST);
        for _ in 0..10 {
            batch = batch.after(MILLI * 10);
        }
        assert_eq!(batch.limit(), SweepBatch::LARGEST.limit());
    }
}
