//! The times of sweeps and of their batches.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::backend::RemovalReport;
use crate::batch_pacer::BatchPacer;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::sync::channel::Sender;

/// A caller that waits for the end of a sweep.
pub(super) type Reply = Sender<Result<usize>>;

/// The regular sweeps, and those that callers request. One runs at a time, batch by batch.
#[derive(Debug)]
pub(super) struct SweepSchedule {
    interval: Duration,
    next_sweep_at: Instant,
    pacer: BatchPacer,
    running: Option<Sweep>,
}

#[derive(Debug)]
struct Sweep {
    /// It removes the sessions that have expired by this time, so that a step of the clock during
    /// the sweep has no effect.
    as_of: Timestamp,
    next_batch_at: Instant,
    /// The number of sessions removed so far.
    removed: usize,
    /// The callers that wait for its end.
    replies: Vec<Reply>,
}

/// A sweep that has ended.
#[derive(Debug)]
#[must_use]
pub(super) struct FinishedSweep {
    /// The number of removed sessions.
    pub(super) removed: Result<usize>,
    replies: Vec<Reply>,
}

impl SweepSchedule {
    /// Makes a schedule whose first sweep is due one `interval` after `start`.
    pub(super) fn new(interval: Duration, start: Instant) -> Self {
        SweepSchedule {
            interval,
            next_sweep_at: start + interval,
            pacer: BatchPacer::new(),
            running: None,
        }
    }

    /// Begins an interval if the last one is over. Returns whether it did: then a regular sweep is
    /// due.
    pub(super) fn begin_interval_if_due(&mut self, instant: Instant) -> bool {
        let is_due = self.next_sweep_at <= instant;
        if is_due {
            self.next_sweep_at = instant + self.interval;
        }
        is_due
    }

    /// Returns the time at which the next batch or sweep is due.
    pub(super) fn next_due(&self) -> Instant {
        self.running.as_ref().map_or(self.next_sweep_at, |sweep| sweep.next_batch_at)
    }

    /// Starts a sweep, or extends the running one, to sessions that have expired by `as_of`.
    pub(super) fn start(&mut self, as_of: Timestamp, instant: Instant, reply: Option<Reply>) {
        let new = Sweep { as_of, next_batch_at: instant, removed: 0, replies: vec![] };
        let sweep = self.running.get_or_insert(new);
        sweep.as_of = as_of;
        sweep.replies.extend(reply);
    }

    /// Returns the call of [`Store::sweep`] to make now, if one is due: its time, and the size of
    /// the batch.
    ///
    /// [`Store::sweep`]: crate::backend::Store::sweep
    pub(super) fn due_call(&self, instant: Instant) -> Option<(Timestamp, NonZeroUsize)> {
        let due = self.running.as_ref().filter(|sweep| sweep.next_batch_at <= instant);
        due.map(|sweep| (sweep.as_of, self.pacer.batch_size()))
    }

    /// Takes the result of a batch. A full batch is followed by another. Any other batch, and an
    /// error, ends the sweep.
    pub(super) fn batch_done(
        &mut self,
        result: Result<RemovalReport>,
        began_at: Instant,
        ended_at: Instant,
    ) -> Option<FinishedSweep> {
        let mut sweep = self.running.take()?;
        if let Ok(report) = &result {
            let is_full = report.removed >= self.pacer.batch_size().get();
            let took = ended_at.saturating_duration_since(began_at);
            sweep.removed = sweep.removed.saturating_add(report.removed);
            sweep.next_batch_at = ended_at + self.pacer.pause_after(report, took);
            if is_full {
                self.running = Some(sweep);
                return None;
            }
        }
        Some(FinishedSweep { removed: result.map(|_| sweep.removed), replies: sweep.replies })
    }
}

impl FinishedSweep {
    /// Sends the result to the callers that wait for it.
    pub(super) fn reply(self) {
        for reply in self.replies {
            // The caller may have given up.
            let _ = reply.send(self.removed.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};
    use crate::sync::channel::bounded;

    const MINUTE: Duration = Duration::from_secs(60);
    const MILLI: Duration = Duration::from_millis(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_millis(second * 1000)
    }

    fn full(blocked_for: Duration) -> Result<RemovalReport> {
        Ok(RemovalReport::new(usize::MAX, blocked_for))
    }

    #[test]
    fn a_sweep_is_due_once_an_interval() {
        let start = Instant::now();
        let mut schedule = SweepSchedule::new(MINUTE, start);
        assert!(!schedule.begin_interval_if_due(start));
        assert_eq!(schedule.next_due(), start + MINUTE);
        assert!(schedule.begin_interval_if_due(start + MINUTE * 3));
        assert!(!schedule.begin_interval_if_due(start + MINUTE * 3));
        assert_eq!(schedule.next_due(), start + MINUTE * 4);
    }

    #[test]
    fn batches_pause_for_as_long_as_they_blocked_writers() {
        let start = Instant::now();
        let mut schedule = SweepSchedule::new(MINUTE, start);
        assert_eq!(schedule.due_call(start), None);
        schedule.start(at(1), start, None);
        assert_eq!(schedule.due_call(start), Some((at(1), BatchPacer::MAX_BATCH)));
        let end = start + MILLI * 20;
        assert!(schedule.batch_done(full(MILLI * 8), start, end).is_none());
        assert_eq!(schedule.due_call(end + MILLI * 7), None);
        assert!(schedule.due_call(end + MILLI * 8).is_some());
        // A pause is never longer than the call.
        assert!(schedule.batch_done(full(MINUTE), start, start + MILLI).is_none());
        assert!(schedule.due_call(start + MILLI * 2).is_some());
        let last = schedule.batch_done(Ok(RemovalReport::new(7, MILLI)), start, end).unwrap();
        assert_eq!(last.removed.unwrap(), usize::MAX);
        assert_eq!(schedule.due_call(end + MINUTE), None);
    }

    #[test]
    fn callers_share_the_sweep_that_runs_and_its_error() {
        let start = Instant::now();
        let mut schedule = SweepSchedule::new(MINUTE, start);
        let (first, first_answer) = bounded(1);
        let (second, second_answer) = bounded(1);
        schedule.start(at(1), start, Some(first));
        schedule.start(at(2), start, Some(second));
        assert_eq!(schedule.due_call(start).map(|(as_of, _)| as_of), Some(at(2)));
        let error = Error::new(ErrorKind::Busy, "sweep");
        schedule.batch_done(Err(error), start, start).unwrap().reply();
        for answer in [first_answer, second_answer] {
            assert_eq!(answer.recv().unwrap().unwrap_err().kind(), ErrorKind::Busy);
        }
        assert_eq!(schedule.next_due(), start + MINUTE);
    }
}
