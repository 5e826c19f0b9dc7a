//! The sizes of the batches of a sweep or an eviction, and the pauses between them.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::backend::RemovalReport;

/// Adapts the number of sessions that one transaction removes to the time for which the
/// transactions block writers.
#[derive(Debug)]
pub(crate) struct BatchPacer {
    limit: NonZeroUsize,
}

impl BatchPacer {
    /// The size of the first batch, and the maximum.
    pub(crate) const LARGEST: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

    const SMALLEST: NonZeroUsize = NonZeroUsize::new(50).unwrap();

    /// A batch that blocks writers for longer is followed by one of half its size.
    const TIME: Duration = Duration::from_millis(10);

    pub(crate) fn new() -> Self {
        BatchPacer { limit: Self::LARGEST }
    }

    /// Returns the maximum number of sessions in the next batch.
    pub(crate) fn limit(&self) -> NonZeroUsize {
        self.limit
    }

    /// Records a batch that took this long. Returns the pause after it: as long as it blocked
    /// writers.
    pub(crate) fn pause_after(&mut self, report: &RemovalReport, took: Duration) -> Duration {
        // A store may report too much, but no writer was blocked for longer than the call.
        let blocked_for = report.blocked_for.min(took);
        let limit = self.limit.get();
        let next = if blocked_for > Self::TIME { limit / 2 } else { limit * 2 };
        let next = NonZeroUsize::new(next).unwrap_or(Self::SMALLEST);
        self.limit = next.clamp(Self::SMALLEST, Self::LARGEST);
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
            (pause, pacer.limit())
        };
        for _ in 0..9 {
            pause(MILLI * 11, MILLI * 20);
        }
        assert_eq!(pause(MILLI * 11, MILLI * 20), (MILLI * 11, BatchPacer::SMALLEST));
        for _ in 0..9 {
            pause(MILLI * 10, MILLI * 20);
        }
        assert_eq!(pause(MILLI * 11, MILLI * 10), (MILLI * 10, BatchPacer::LARGEST));
    }
}
