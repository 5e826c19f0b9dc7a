//! The circuit breaker of a shard of the cache.
//!
//! Uses no cache itself.

use std::time::{Duration, Instant};

use crate::sync::{IgnorePoison, Mutex, MutexGuard};

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
    pub(super) fn record_failure(&self, now: Instant) -> bool {
        let mut state = self.state();
        let BreakerState::Closed(recent) = &mut *state else { return false };
        let in_window = recent.filter(|recent| now.duration_since(recent.first) < FAILURE_WINDOW);
        let mut failures = in_window.unwrap_or(RecentFailures { first: now, count: 0 });
        failures.count += 1;
        *recent = Some(failures);
        failures.count >= FAILURE_THRESHOLD && self.open(&mut state, now)
    }

    /// Records a failed invalidation, and opens the breaker. Returns true if it was closed before.
    pub(super) fn record_missed_invalidation(&self, now: Instant) -> bool {
        self.open(&mut self.state(), now)
    }

    /// Opens the breaker. Returns true if it was closed before.
    fn open(&self, state: &mut BreakerState, now: Instant) -> bool {
        match state {
            BreakerState::Closed(_) => {
                *state = self.next_probe(now);
                return true;
            }
            BreakerState::HalfOpen => *state = BreakerState::Probing,
            BreakerState::Open { .. } | BreakerState::Probing => {}
        }
        false
    }

    /// Begins a probe if one is due. If it returns true, the caller must run the probe.
    pub(super) fn begin_probe(&self, now: Instant) -> bool {
        let mut state = self.state();
        let is_due = matches!(*state, BreakerState::Open { next_probe } if next_probe <= now);
        if is_due {
            *state = BreakerState::Probing;
        }
        is_due
    }

    /// Switches a probed breaker to half-open.
    pub(super) fn half_open(&self) {
        *self.state() = BreakerState::HalfOpen;
    }

    /// Ends a probe that has invalidated the whole shard since the breaker was half-open. Closes
    /// the breaker and returns true, unless another invalidation has failed since: then schedules
    /// the next probe.
    pub(super) fn complete_probe(&self, now: Instant) -> bool {
        let mut state = self.state();
        let closes = matches!(*state, BreakerState::HalfOpen);
        *state = if closes { BreakerState::Closed(None) } else { self.next_probe(now) };
        closes
    }

    /// Ends a probe that has failed, and schedules the next one.
    pub(super) fn abort_probe(&self, now: Instant) {
        *self.state() = self.next_probe(now);
    }

    fn next_probe(&self, now: Instant) -> BreakerState {
        BreakerState::Open { next_probe: now + self.retry_after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(1);

    fn open_at(now: Instant) -> CircuitBreaker {
        let circuit_breaker = CircuitBreaker::new(RETRY);
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
        assert!(!circuit_breaker.begin_probe(now));
        assert!(circuit_breaker.begin_probe(now + RETRY));
        assert!(!circuit_breaker.begin_probe(now + RETRY * 2), "there is one");
        circuit_breaker.half_open();
        assert!(!circuit_breaker.record_missed_invalidation(now));
        assert!(!circuit_breaker.begin_probe(now + RETRY * 2), "it is still running");
        circuit_breaker.abort_probe(now + RETRY);
        assert!(!circuit_breaker.is_closed());
        assert!(!circuit_breaker.begin_probe(now + RETRY));
        assert!(circuit_breaker.begin_probe(now + RETRY * 2));
        circuit_breaker.half_open();
        assert!(circuit_breaker.complete_probe(now + RETRY * 2));
        assert!(circuit_breaker.is_closed());
        assert!(!circuit_breaker.begin_probe(now + RETRY * 9));
    }

    #[test]
    fn a_breaker_stays_open_if_an_invalidation_fails_meanwhile() {
        let now = Instant::now();
        let circuit_breaker = open_at(now);
        assert!(!circuit_breaker.takes_invalidations());
        assert!(circuit_breaker.begin_probe(now + RETRY));
        assert!(!circuit_breaker.takes_invalidations());
        circuit_breaker.half_open();
        assert!(circuit_breaker.takes_invalidations(), "sent by the caller");
        assert!(!circuit_breaker.record_missed_invalidation(now));
        assert!(!circuit_breaker.takes_invalidations());
        assert!(!circuit_breaker.complete_probe(now + RETRY), "that failed");
        assert!(!circuit_breaker.takes_invalidations() && !circuit_breaker.is_closed());
        assert!(circuit_breaker.begin_probe(now + RETRY * 2));
        circuit_breaker.half_open();
        assert!(!circuit_breaker.is_closed(), "reads still bypass it");
        circuit_breaker.abort_probe(now + RETRY * 2);
        assert!(!circuit_breaker.is_closed(), "the probe failed");
        assert!(circuit_breaker.begin_probe(now + RETRY * 3));
        circuit_breaker.half_open();
        assert!(circuit_breaker.complete_probe(now + RETRY * 3));
        assert!(circuit_breaker.takes_invalidations() && circuit_breaker.is_closed());
    }
}
