//! Time: the [`Clock`] of a manager, and [`Timestamp`] in whole milliseconds.
//!
//! Imports nothing of this crate. Every module that compares times takes the current time as an
//! argument, and the callers read it from the manager's clock.

use std::fmt::Debug;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// Adding a [`Duration`] saturates at [`Timestamp::MAX`]; fractions of a millisecond are dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The greatest timestamp, used as the deadline of a session that has no limit.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// Makes a timestamp from milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis)
    }

    /// Returns the milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Returns the time from `earlier` to this timestamp, and zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(millis(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Timestamp;

    fn sub(self, duration: Duration) -> Timestamp {
        Timestamp(self.0.saturating_sub(millis(duration)))
    }
}

/// A source of the current time: [`SystemClock`], or [`ManualClock`] in tests.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the current time. It must never be earlier than a value returned before.
    fn now(&self) -> Timestamp;
}

/// The system's wall clock, made monotonic within the process.
///
/// When the wall clock is set back, the returned time continues from its last value at the pace of
/// the monotonic clock, until the process restarts. When the wall clock is set forward, or the
/// machine was suspended, the returned time follows immediately.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

struct Anchor {
    instant: Instant,
    wall: i64,
    /// The greatest lead of the wall clock over the anchor's own time so far, in milliseconds.
    ahead: AtomicI64,
}

impl Anchor {
    fn now(&self, instant: Instant, wall: i64) -> Timestamp {
        let paced =
            self.wall.saturating_add(millis(instant.saturating_duration_since(self.instant)));
        let ahead = wall.saturating_sub(paced);
        let before = self.ahead.fetch_max(ahead, Ordering::SeqCst);
        Timestamp(paced.saturating_add(ahead.max(before)))
    }
}

fn wall_clock() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        static ANCHOR: OnceLock<Anchor> = OnceLock::new();
        let anchor = ANCHOR.get_or_init(|| Anchor {
            instant: Instant::now(),
            wall: wall_clock(),
            ahead: AtomicI64::new(0),
        });
        anchor.now(Instant::now(), wall_clock())
    }
}

/// A clock that changes only by [`advance`](Self::advance) and [`set`](Self::set). Clones share the
/// same time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Makes a clock that shows `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        ManualClock(Arc::new(AtomicI64::new(now.0)))
    }

    /// Advances the time by `duration`; fractions of a millisecond are dropped.
    pub fn advance(&self, duration: Duration) {
        self.0.fetch_add(millis(duration), Ordering::SeqCst);
    }

    /// Sets the time to `now`, which may be earlier, as after a restart of the process when the
    /// wall clock was set back.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// Shows 2001-09-09T01:46:40Z, which is 1,000,000,000,000 milliseconds.
    fn default() -> Self {
        ManualClock::new(Timestamp::from_millis(1_000_000_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_advances_monotonically_when_the_wall_clock_is_set_back() {
        let start = Instant::now();
        let anchor = Anchor { instant: start, wall: 1_000_000, ahead: AtomicI64::new(0) };
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(anchor.now(after(0), 1_000_000).as_millis(), 1_000_000);
        assert_eq!(anchor.now(after(1), 4_601_000).as_millis(), 4_601_000, "a step forward");
        assert_eq!(anchor.now(after(2), 1_002_000).as_millis(), 4_602_000, "a step back");
        assert_eq!(anchor.now(after(3), 4_603_500).as_millis(), 4_603_500);
    }

    #[test]
    fn sums_saturate_and_differences_are_never_negative() {
        assert_eq!(Timestamp::MAX + Duration::from_secs(1), Timestamp::MAX);
        assert_eq!(Timestamp::from_millis(5) + Duration::MAX, Timestamp::MAX);
        let (early, late) = (Timestamp::from_millis(5), Timestamp::from_millis(9));
        assert_eq!(late.since(early), Duration::from_millis(4));
        assert_eq!(early.since(late), Duration::ZERO);
    }

    #[test]
    fn the_system_clock_never_goes_back_between_threads() {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(|| {
                    let mut last = SystemClock.now();
                    for _ in 0..20_000 {
                        let now = SystemClock.now();
                        assert!(now >= last);
                        last = now;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
