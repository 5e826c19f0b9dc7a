//! Time comes from an injected clock, in whole milliseconds.

use std::fmt::Debug;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// Adding a [`Duration`] saturates at [`Timestamp::MAX`] and drops what is below a millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// Later than every other moment: the deadline of what never ends.
    pub const MAX: Timestamp = Timestamp(i64::MAX);

    /// The moment `millis` milliseconds after 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Timestamp(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is; zero if it is not after it.
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

/// Where the time comes from: [`SystemClock`], or [`ManualClock`] in tests.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time now. Must never be earlier than an answer given before.
    fn now(&self) -> Timestamp;
}

/// The system's wall clock, except that it never goes back within a process.
///
/// When the wall clock is set back, time goes on from where it was at its usual pace; when it is
/// set forward (or the machine was asleep), time follows at once. A step back therefore lasts
/// until the process restarts.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

struct Anchor {
    instant: Instant,
    wall: i64,
    /// How far the wall clock was ever seen ahead of the anchor's own pace.
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

/// A clock that stands still until it is told to move. Clones share the same time.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        ManualClock(Arc::new(AtomicI64::new(now.0)))
    }

    /// Moves the time on by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.0.fetch_add(millis(duration), Ordering::SeqCst);
    }

    /// Sets the time, also back: what a restart after a step of the wall clock would see.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    /// Stands at 2001-09-09T01:46:40Z, a round number of milliseconds.
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
    fn time_goes_on_at_its_pace_when_the_wall_clock_is_set_back() {
        let start = Instant::now();
        let anchor = Anchor { instant: start, wall: 1_000_000, ahead: AtomicI64::new(0) };
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(anchor.now(after(0), 1_000_000).as_millis(), 1_000_000);
        assert_eq!(anchor.now(after(1), 4_601_000).as_millis(), 4_601_000, "forward is followed");
        assert_eq!(anchor.now(after(2), 1_002_000).as_millis(), 4_602_000, "back is not");
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
