//! The removal of sessions in batches, with pauses between them.
//!
//! Used by the sweeps and evictions of the cleaner, and by the sweeps of operators.

use std::mem;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::backend::RemovalReport;

/// Runs of batches, one run at a time. Adapts the number of sessions that one transaction removes
/// to the time for which the transactions block writers.
#[derive(Debug)]
pub(crate) struct BatchPacer {
    /// Kept from one run to the next.
    batch_size: NonZeroUsize,
    /// When the next batch is due; `None` between two runs.
    next_batch_at: Option<Instant>,
    /// The number of sessions that the run has removed.
    removed: usize,
}

impl BatchPacer {
    /// The size of the first batch, and the maximum.
    pub(crate) const MAX_BATCH: NonZeroUsize = NonZeroUsize::new(1000).unwrap();

    const MIN_BATCH: NonZeroUsize = NonZeroUsize::new(50).unwrap();

    /// A batch that blocks writers for longer is followed by one of half its size.
    const MAX_BLOCKING_TIME: Duration = Duration::from_millis(10);

    pub(crate) fn new() -> Self {
        BatchPacer { batch_size: Self::MAX_BATCH, next_batch_at: None, removed: 0 }
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

    /// Starts a run if none is active. Its first batch is due at `instant`.
    pub(crate) fn start(&mut self, instant: Instant) {
        self.next_batch_at.get_or_insert(instant);
    }

    /// Returns the time of the next batch; `None` if no run is active.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.next_batch_at
    }

    /// Returns the maximum number of sessions in the next batch, if it is due.
    pub(crate) fn due_batch(&self, instant: Instant) -> Option<NonZeroUsize> {
        self.next_batch_at.filter(|due| *due <= instant).map(|_| self.batch_size())
    }

    /// Counts a batch of the run. The next one is due after the pause. Returns whether the batch
    /// was full: then a sweep has more to remove.
    pub(crate) fn batch_done(
        &mut self,
        report: &RemovalReport,
        began_at: Instant,
        ended_at: Instant,
    ) -> bool {
        let is_full = report.removed >= self.batch_size.get();
        self.removed = self.removed.saturating_add(report.removed);
        let took = ended_at.saturating_duration_since(began_at);
        self.next_batch_at = Some(ended_at + self.pause_after(report, took));
        is_full
    }

    /// Ends the run. Returns the number of sessions that it has removed.
    pub(crate) fn finish(&mut self) -> usize {
        self.next_batch_at = None;
        mem::take(&mut self.removed)
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
