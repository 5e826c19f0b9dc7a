//! The [`Clock`] of a manager, and [`Timestamp`] in whole milliseconds.

// Imports nothing of this crate. Every module that compares times takes the current time as an
// argument, and the callers read it from the manager's clock.

use std::fmt::{self, Debug, Display};
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The maximum expected duration of a request, uploads and long polls included.
pub(crate) const MAX_REQUEST_TIME: Duration = Duration::from_secs(600);

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// Adding a [`Duration`] saturates at [`Timestamp::MAX`]; fractions of a millisecond are dropped.
/// `Display` writes the time in UTC in the format of RFC 3339; years before 0 and after 9999, which
/// that format does not have, are written with a sign.
///
/// ```
/// use std::time::{Duration, SystemTime, UNIX_EPOCH};
///
/// use cloakroom::clock::Timestamp;
///
/// let time = Timestamp::from_millis(784_111_777_250);
/// assert_eq!(time.to_string(), "1994-11-06T08:49:37.250Z");
/// assert_eq!(SystemTime::from(time), UNIX_EPOCH + Duration::from_millis(784_111_777_250));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The greatest timestamp. It is the deadline of a session without limits.
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

    /// Returns the time from `earlier` to this timestamp; zero if `earlier` is later.
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

/// A time that the platform's `SystemTime` cannot hold becomes [`UNIX_EPOCH`] or the last second of
/// the year 9999.
impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        const LAST: Duration = Duration::from_secs(253_402_300_799);
        let distance = Duration::from_millis(time.0.unsigned_abs());
        match time.0 {
            0.. => UNIX_EPOCH.checked_add(distance).unwrap_or(UNIX_EPOCH + LAST),
            _ => UNIX_EPOCH.checked_sub(distance).unwrap_or(UNIX_EPOCH),
        }
    }
}

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DAY: i64 = 86_400_000;
        let (year, month, day) = date(self.0.div_euclid(DAY));
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+05}")?,
        }
        let millis = self.0.rem_euclid(DAY);
        let (minutes, seconds) = (millis / 60_000, millis / 1000 % 60);
        let (hour, minute, fraction) = (minutes / 60, minutes % 60, millis % 1000);
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{seconds:02}.{fraction:03}Z")
    }
}

/// Returns the year, month and day of the Gregorian calendar, from the days since 1970-01-01.
/// Years begin in March here, so that the leap day is the last one; an era is 400 years. Source:
/// Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let calendar_month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(calendar_month <= 2), calendar_month, day_of_month)
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
///
/// Sessions expire by this clock, but the cleaner sweeps at intervals of real time. A test of what
/// happens after a sweep therefore calls [`sweep_now`](crate::SessionManager::sweep_now). When the
/// clock is more than an hour ahead of real time, the cleaner raises
/// [`Event::ClockStepped`](crate::event::Event::ClockStepped) and does not sweep for ten minutes of
/// real time.
///
/// ```
/// use std::time::Duration;
///
/// use cloakroom::clock::ManualClock;
/// use cloakroom::adapter::Outcome;
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let clock = ManualClock::default();
/// let sessions = SessionManager::builder(MemoryStore::new()).clock(clock.clone()).build()?;
/// let session = sessions.open(None);
/// session.set("theme", "dark")?;
/// sessions.close(&session, Outcome::Completed)?;
///
/// clock.advance(Duration::from_secs(366 * 86_400));
/// assert_eq!(sessions.sweep_now()?, 1);
/// # Ok::<(), cloakroom::Error>(())
/// ```
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

    /// Sets the time to `now`. An earlier time breaks the rule of [`Clock::now`] for a manager that
    /// has read the later one: set it only after dropping one manager and before building the next,
    /// as if the wall clock was set back while the process restarted.
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
    fn a_time_is_shown_in_utc_with_milliseconds() {
        // date -u -d @… +%FT%T.%3NZ
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_000_000_000_007, "2001-09-09T01:46:40.007Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "+10000-01-01T00:00:00.000Z"),
            (-62_167_219_200_001, "-0001-12-31T23:59:59.999Z"),
            (i64::MAX, "+292278994-08-17T07:12:55.807Z"),
            (i64::MIN, "-292275055-05-16T16:47:04.192Z"),
        ] {
            assert_eq!(Timestamp::from_millis(millis).to_string(), text, "{millis}");
        }
    }

    #[test]
    fn a_time_becomes_the_systems() {
        let of = |millis| SystemTime::from(Timestamp::from_millis(millis));
        assert_eq!(of(1500), UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(of(-1500), UNIX_EPOCH - Duration::from_millis(1500));
        assert!(of(i64::MAX) > of(253_402_300_798_000) && of(i64::MIN) <= UNIX_EPOCH);
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
