//! The removal of sessions in batches, with pauses between them.
//!
//! Used by the sweeps and evictions of the cleaner, and by the sweeps of operators.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::backend::RemovalReport;

/// Adapts the number of sessions that one transaction removes to the time for which the
/// transactions block writers.
#[derive(Debug)]
pub(crate) struct BatchPacer {
    batch_size: NonZeroUsize,
}

impl BatchPacer {
    /// The size of the first batch, and the maximum.
    pub(crate) const MAX_BATCH: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

    const MIN_BATCH: NonZeroUsize = NonZeroUsize::new(50).unwrap();

    /// A batch that blocks writers for longer is followed by one of half its size.
    const MAX_BLOCKING_TIME: Duration = Duration::from_millis(10);

    pub(crate) fn new() -> Self {
        BatchPacer { batch_size: Self::MAX_BATCH }
    }

    /// Returns the maximum number of sessions in the next batch.
    pub(crate) fn batch_size(&self) -> NonZeroUsize {
        self.batch_size
    }

    /// Adapts the size to a batch that took this long. Returns the pause after it: as long as it
    /// blocked writers.
    pub(crate) fn pause_after(&mut self, report: &RemovalReport, took: Duration) -> Duration {
        // A store may report too much, but no writer was blocked for longer than the call.
        let blocked_for = report.blocked_for.min(took);
        let size = self.batch_size.get();
        let next = if blocked_for > Self::MAX_BLOCKING_TIME { size / 2 } else { size * 2 };
        let next = NonZeroUsize::new(next).unwrap_or(Self::MIN_BATCH);
        self.batch_size = next.clamp(Self::MIN_BATCH, Self::MAX_BATCH);
        blocked_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn a_batch_shrinks_when_it_blocks_for_long_and_grows_again() {
        let mut pacer = BatchPacer::new();
        let mut pause = |blocked_for, took| {
            let pause = pacer.pause_after(&RemovalReport::new(1, blocked_for), took);
            (pause, pacer.batch_size())
        };
        for _ in 0..9 {
            pause(MILLI * 11, MILLI * 20);
        }
        assert_eq!(pause(MILLI * 11, MILLI * 20), (MILLI * 11, BatchPacer::MIN_BATCH));
        for _ in 0..9 {
            pause(MILLI * 10, MILLI * 20);
        }
        assert_eq!(pause(MILLI * 11, MILLI * 10), (MILLI * 10, BatchPacer::MAX_BATCH));
    }
}
