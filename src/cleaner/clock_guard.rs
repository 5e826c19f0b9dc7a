//! Protection against a clock that is set forward by mistake, which would end every session.

use std::time::{Duration, Instant};

use crate::clock::Timestamp;

/// A longer step forward suspends the sweeps.
const MAX_STEP: Duration = Duration::from_secs(3600);

/// How long sweeps are suspended after such a step, so that an operator can correct the clock.
const SWEEP_PAUSE: Duration = Duration::from_secs(600);

/// Compares the injected clock with the machine's monotonic one.
#[derive(Debug)]
pub(super) struct ClockGuard {
    time: Timestamp,
    instant: Instant,
    paused_until: Instant,
}

impl ClockGuard {
    pub(super) fn new(time: Timestamp, instant: Instant) -> Self {
        ClockGuard { time, instant, paused_until: instant }
    }

    /// Takes a reading of both clocks. If the injected one has stepped forward by more than an hour
    /// since the last reading, suspends the sweeps and returns the length of the step.
    pub(super) fn observe(&mut self, time: Timestamp, instant: Instant) -> Option<Duration> {
        let passed = instant.saturating_duration_since(self.instant);
        let step = time.since(self.time).saturating_sub(passed);
        (self.time, self.instant) = (time, instant);
        if step <= MAX_STEP {
            return None;
        }
        self.paused_until = instant + SWEEP_PAUSE;
        Some(step)
    }

    pub(super) fn allows_sweeps(&self, instant: Instant) -> bool {
        instant >= self.paused_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_forward_of_over_an_hour_suspends_sweeps() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        let mut guard = ClockGuard::new(at(0), start);
        assert_eq!(guard.observe(at(7200), after(7200)), None, "time that really passed");
        assert!(guard.allows_sweeps(after(7200)));
        assert_eq!(guard.observe(at(7200 + 3600 + 60), after(7260)), None, "an hour exactly");
        assert!(guard.allows_sweeps(after(7260)));
        let step = guard.observe(at(20_000), after(7320));
        assert_eq!(step, Some(Duration::from_secs(20_000 - 10_860 - 60)));
        assert!(!guard.allows_sweeps(after(7320)) && !guard.allows_sweeps(after(7919)));
        assert!(guard.allows_sweeps(after(7920)));
        assert_eq!(guard.observe(at(0), after(8000)), None, "a step back");
    }
}
