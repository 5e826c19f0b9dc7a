//! The pace of a sweep or an eviction: batches, with pauses between them.

use std::num::NonZeroUsize;
use std::time::Instant;

use crate::backend::RemovalReport;
use crate::batch_pacer::BatchPacer;

/// Runs of batches, one run at a time. The size of the batches is kept from one run to the next.
#[derive(Debug)]
pub(super) struct PacedRun {
    pacer: BatchPacer,
    /// When the next batch is due; `None` between two runs.
    next_batch: Option<Instant>,
    removed: usize,
}

impl PacedRun {
    pub(super) fn new() -> Self {
        PacedRun { pacer: BatchPacer::new(), next_batch: None, removed: 0 }
    }

    /// Starts a run if none is active. Its first batch is due at `instant`.
    pub(super) fn start(&mut self, instant: Instant) {
        self.next_batch.get_or_insert(instant);
    }

    /// Returns the time of the next batch; `None` if no run is active.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_batch
    }

    /// Returns the maximum number of sessions in the next batch, if it is due.
    pub(super) fn due_batch(&self, instant: Instant) -> Option<NonZeroUsize> {
        self.next_batch.filter(|due| *due <= instant).map(|_| self.pacer.limit())
    }

    /// Records a batch. The next one is due after a pause as long as this one blocked writers.
    /// Returns whether the batch was full: then a sweep has more to remove.
    pub(super) fn batch_done(
        &mut self,
        report: &RemovalReport,
        began: Instant,
        ended: Instant,
    ) -> bool {
        let is_full = report.removed >= self.pacer.limit().get();
        self.removed = self.removed.saturating_add(report.removed);
        let took = ended.saturating_duration_since(began);
        self.next_batch = Some(ended + self.pacer.pause_after(report, took));
        is_full
    }

    /// Ends the run. Returns the number of sessions that it has removed.
    pub(super) fn finish(&mut self) -> usize {
        self.next_batch = None;
        std::mem::take(&mut self.removed)
    }
}
