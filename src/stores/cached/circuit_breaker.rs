//! The circuit breaker of a shard of the cache.
//!
//! Invariant: after it has opened, reads use the shard only when a probe has invalidated all of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::{self, IgnorePoison, Mutex, MutexGuard};

/// The number of failures within [`FAILURE_WINDOW`] that opens the breaker. A single failure may be
/// transient.
const FAILURE_THRESHOLD: u32 = 3;

/// The time within which failures are counted together.
const FAILURE_WINDOW: Duration = Duration::from_secs(10);

/// Closed, reads and invalidations use the cache. The breaker opens after [`FAILURE_THRESHOLD`]
/// failed reads or fills within [`FAILURE_WINDOW`], or immediately after a failed invalidation.
/// Open, reads bypass the shard and no invalidation is sent; one probe at a time asks whether the
/// shard works again. Half-open, invalidations are sent and reads still bypass the shard. The
/// breaker closes after the probe has invalidated the whole shard while it was half-open.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    retry_after: Duration,
    state: Mutex<BreakerState>,
}

#[derive(Debug)]
enum BreakerState {
    /// With the failures of the current window; `None` if there are none.
    Closed(Option<RecentFailures>),
    Open {
        next_probe: Instant,
    },
    /// Open, and a probe is running.
    Probing,
    /// A probe is running. Returns to `Probing` if an invalidation fails.
    HalfOpen,
}

#[derive(Clone, Copy, Debug)]
struct RecentFailures {
    first: Instant,
    count: u32,
}

impl CircuitBreaker {
    pub(super) fn new(retry_after: Duration) -> Self {
        CircuitBreaker { retry_after, state: Mutex::new(BreakerState::Closed(None)) }
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().ignore_poison()
    }

    /// Returns whether reads may use the shard.
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state(), BreakerState::Closed(_))
    }

    /// Returns whether invalidations must be sent. If not, a probe will invalidate the whole shard.
    pub(super) fn takes_invalidations(&self) -> bool {
        matches!(*self.state(), BreakerState::Closed(_) | BreakerState::HalfOpen)
    }

    /// Counts a failed read or fill. Returns true if this failure opened the breaker.
    pub(super) fn record_failure(&self, instant: Instant) -> bool {
        let mut state = self.state();
        let BreakerState::Closed(recent) = &mut *state else { return false };
        let in_window =
            recent.filter(|recent| instant.duration_since(recent.first) < FAILURE_WINDOW);
        let mut failures = in_window.unwrap_or(RecentFailures { first: instant, count: 0 });
        failures.count += 1;
        *recent = Some(failures);
        failures.count >= FAILURE_THRESHOLD && self.open(&mut state, instant)
    }

    /// Records a failed invalidation, and opens the breaker. Returns true if it was closed before.
    pub(super) fn record_missed_invalidation(&self, instant: Instant) -> bool {
        self.open(&mut self.state(), instant)
    }

    /// Opens the breaker. Returns true if it was closed before.
    fn open(&self, state: &mut BreakerState, instant: Instant) -> bool {
        match state {
            BreakerState::Closed(_) => {
                *state = self.next_probe(instant);
                return true;
            }
            BreakerState::HalfOpen => *state = BreakerState::Probing,
            BreakerState::Open { .. } | BreakerState::Probing => {}
        }
        false
    }

    /// Begins a probe if one is due.
    pub(super) fn begin_probe(self: &Arc<Self>, instant: Instant) -> Option<Probe> {
        let mut state = self.state();
        if !matches!(*state, BreakerState::Open { next_probe } if next_probe <= instant) {
            return None;
        }
        *state = BreakerState::Probing;
        Some(Probe { breaker: self.clone(), closed_it: false })
    }

    fn next_probe(&self, instant: Instant) -> BreakerState {
        BreakerState::Open { next_probe: instant + self.retry_after }
    }
}

/// A running probe. Unless it has closed the breaker, dropping it schedules the next probe: after a
/// failure, after a panic of the cache, and if no thread can be started for the probe.
#[must_use]
#[derive(Debug)]
pub(super) struct Probe {
    breaker: Arc<CircuitBreaker>,
    closed_it: bool,
}

impl Probe {
    /// Switches the breaker to half-open.
    pub(super) fn half_open(&self) {
        *self.breaker.state() = BreakerState::HalfOpen;
    }

    /// Ends a probe that has invalidated the whole shard since the breaker was half-open. Closes
    /// the breaker and returns true, unless another invalidation has failed since.
    pub(super) fn complete(mut self) -> bool {
        let mut state = self.breaker.state();
        self.closed_it = matches!(*state, BreakerState::HalfOpen);
        if self.closed_it {
            *state = BreakerState::Closed(None);
        }
        self.closed_it
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if !self.closed_it {
            *self.breaker.state() = self.breaker.next_probe(sync::monotonic_now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(3600);

    fn open_at(now: Instant) -> Arc<CircuitBreaker> {
        let circuit_breaker = Arc::new(CircuitBreaker::new(RETRY));
        assert!(circuit_breaker.record_missed_invalidation(now));
        circuit_breaker
    }

    #[test]
    fn failures_open_it_only_within_the_window() {
        let circuit_breaker = CircuitBreaker::new(RETRY);
        let mut now = Instant::now();
        for _ in 0..5 {
            assert!(!circuit_breaker.record_failure(now));
            assert!(!circuit_breaker.record_failure(now));
            now += FAILURE_WINDOW;
        }
        assert!(circuit_breaker.is_closed());
        assert!(!circuit_breaker.record_failure(now));
        assert!(!circuit_breaker.record_failure(now));
        assert!(circuit_breaker.record_failure(now), "reported once");
        assert!(!circuit_breaker.record_failure(now), "reported once");
        assert!(!circuit_breaker.is_closed());
    }

    #[test]
    fn a_failed_invalidation_opens_it_immediately() {
        assert!(!open_at(Instant::now()).is_closed());
    }

    #[test]
    fn one_probe_at_a_time_and_not_before_its_time() {
        let now = Instant::now();
        let circuit_breaker = open_at(now);
        let is_due = |at| circuit_breaker.begin_probe(at).is_some();
        assert!(!is_due(now));
        let probe = circuit_breaker.begin_probe(now + RETRY).unwrap();
        assert!(!is_due(now + RETRY * 2), "there is one");
        probe.half_open();
        assert!(!circuit_breaker.record_missed_invalidation(now));
        assert!(!is_due(now + RETRY * 2), "it is still running");
        drop(probe);
        assert!(!circuit_breaker.is_closed());
        assert!(!is_due(now + RETRY));
        let probe = circuit_breaker.begin_probe(now + RETRY * 2).unwrap();
        probe.half_open();
        assert!(probe.complete());
        assert!(circuit_breaker.is_closed());
        assert!(!is_due(now + RETRY * 9));
    }

    #[test]
    fn a_breaker_stays_open_if_an_invalidation_fails_meanwhile() {
        let now = Instant::now();
        let circuit_breaker = open_at(now);
        assert!(!circuit_breaker.takes_invalidations());
        let probe = circuit_breaker.begin_probe(now + RETRY).unwrap();
        assert!(!circuit_breaker.takes_invalidations());
        probe.half_open();
        assert!(circuit_breaker.takes_invalidations(), "sent by the caller");
        assert!(!circuit_breaker.record_missed_invalidation(now));
        assert!(!circuit_breaker.takes_invalidations());
        assert!(!probe.complete(), "that failed");
        assert!(!circuit_breaker.takes_invalidations() && !circuit_breaker.is_closed());
        let probe = circuit_breaker.begin_probe(now + RETRY * 2).unwrap();
        probe.half_open();
        assert!(!circuit_breaker.is_closed(), "reads still bypass it");
        drop(probe);
        assert!(!circuit_breaker.is_closed(), "the probe failed");
        let probe = circuit_breaker.begin_probe(now + RETRY * 3).unwrap();
        probe.half_open();
        assert!(probe.complete());
        assert!(circuit_breaker.takes_invalidations() && circuit_breaker.is_closed());
    }
}
