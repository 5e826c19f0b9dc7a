//! The limits of sessions: idle and absolute; and the reasons for which sessions end.

// Uses only `clock` and `error`. The session, the cleaner and every store compute deadlines, and
// whether activity is due to be recorded, here.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};

const DAY: Duration = Duration::from_secs(86_400);

/// A touch is due when this fraction of the idle limit has passed since the last stored activity.
/// A touch has the time of the activity, so its wait in a batch moves no deadline. A session thus
/// ends less than a fortieth of its idle limit early, unless a touch is lost.
const TOUCHES_PER_IDLE_LIMIT: u32 = 40;

/// The lifetime of sessions: an idle limit, an absolute limit, or both.
///
/// With both, the earlier deadline counts. Each limit is at least one millisecond. Defaults to 1
/// day idle and 30 days absolute. The guide says [what counts as
/// activity](crate::guide::lifetime#activity), and what else ends a session.
///
/// ```
/// use std::time::Duration;
/// use cloakroom::Lifetime;
///
/// // Ends after 15 minutes without a request, and after 12 hours in any case.
/// let office = Lifetime::idle(Duration::from_secs(15 * 60))
///     .with_absolute(Duration::from_secs(12 * 3600));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    idle: Option<Duration>,
    absolute: Option<Duration>,
}

impl Lifetime {
    /// Makes a lifetime with an idle limit only: a session ends when no request uses it for
    /// `limit`. Not every use is written, so a session can end early, by less than a fortieth of
    /// the limit (36 minutes of a day). It never ends late.
    #[must_use]
    pub const fn idle(limit: Duration) -> Self {
        Lifetime { idle: Some(limit), absolute: None }
    }

    /// Makes a lifetime with an absolute limit only: a session ends `limit` after its creation or
    /// its last sign-in. Activity does not extend it.
    #[must_use]
    pub const fn absolute(limit: Duration) -> Self {
        Lifetime { idle: None, absolute: Some(limit) }
    }

    /// Returns this lifetime with the absolute limit `limit`.
    #[must_use]
    pub const fn with_absolute(self, limit: Duration) -> Self {
        Lifetime { absolute: Some(limit), ..self }
    }

    /// Returns the idle limit.
    #[must_use]
    pub const fn idle_limit(&self) -> Option<Duration> {
        self.idle
    }

    /// Returns the absolute limit.
    #[must_use]
    pub const fn absolute_limit(&self) -> Option<Duration> {
        self.absolute
    }

    /// Returns the default lifetime of anonymous sessions: idle 1 day and absolute 7 days, each no
    /// longer than the limit of `signed_in`. An idle limit that the absolute one precedes is left
    /// out, because it would have no effect.
    pub(crate) fn anonymous(signed_in: Lifetime) -> Self {
        let shorter = |own: Duration, other: Option<Duration>| other.map_or(own, |it| it.min(own));
        let absolute = shorter(DAY * 7, signed_in.absolute);
        let idle = Some(shorter(DAY, signed_in.idle)).filter(|idle| *idle < absolute);
        Lifetime { idle, absolute: Some(absolute) }
    }

    /// Checks that each limit is at least one millisecond.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a shorter limit: such a session would expire before its first
    /// use.
    pub fn validate(&self) -> Result<()> {
        let shortest = Duration::from_millis(1);
        if self.idle.iter().chain(&self.absolute).all(|limit| *limit >= shortest) {
            return Ok(());
        }
        let why = "a limit must be at least one millisecond";
        Err(Error::with_source(ErrorKind::Invalid, "use that lifetime", why))
    }

    /// Returns the limits of a session that is created, or signed in, at `now`.
    #[must_use]
    pub fn limits_from(&self, now: Timestamp) -> Limits {
        Limits { idle: self.idle, absolute_deadline: self.absolute.map(|limit| now + limit) }
    }
}

impl Default for Lifetime {
    fn default() -> Self {
        Lifetime::idle(DAY).with_absolute(DAY * 30)
    }
}

/// The reason for which a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// A request ended it with [`destroy`](crate::Session::destroy).
    SignedOut,
    /// A sign-in ended it. Either another user has signed in through its id, or the request of the
    /// sign-in presented several ids, and this session is not the one that was signed in.
    Superseded,
    /// A call of the manager ended it.
    Revoked,
    /// A sign-in of the same user reached the maximum number of sessions.
    TooManySessions,
    /// A request presented a replaced id of it, and the manager is
    /// [configured](crate::manager::SessionManagerBuilder::end_session_on_replaced_id) to end such
    /// sessions.
    ReplacedId,
    /// It had no activity for this long, its idle limit.
    Idle(Duration),
    /// It reached its absolute limit.
    Absolute,
}

/// The rule for a sign-in that would exceed the maximum number of sessions per user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtMaximum {
    /// The sign-in is refused.
    Refuse,
    /// The sessions that signed in longest ago end.
    EndOldest,
    /// All other sessions of the user end.
    EndOthers,
}

/// The limits of one session, as they are stored with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest time between two requests, in whole milliseconds; `None` for no limit.
    pub idle: Option<Duration>,
    /// The time at which the session ends in any case; `None` for no limit.
    pub absolute_deadline: Option<Timestamp>,
}

impl Limits {
    /// Makes limits from their stored parts.
    #[must_use]
    pub const fn new(idle: Option<Duration>, absolute_deadline: Option<Timestamp>) -> Self {
        Limits { idle, absolute_deadline }
    }

    /// Returns the deadline of a session whose last activity was at `seen`; [`Timestamp::MAX`]
    /// without limits. At its deadline a session has expired.
    #[must_use]
    pub fn deadline(&self, seen: Timestamp) -> Timestamp {
        let idle = self.idle.map_or(Timestamp::MAX, |idle| seen + idle);
        idle.min(self.absolute_deadline.unwrap_or(Timestamp::MAX))
    }

    /// Returns the limit that ends a session whose last activity was at `seen`.
    #[must_use]
    pub fn reached_limit(&self, seen: Timestamp) -> EndReason {
        match self.idle {
            Some(idle) if self.absolute_deadline.is_none_or(|end| seen + idle < end) => {
                EndReason::Idle(idle)
            }
            _ => EndReason::Absolute,
        }
    }

    /// Returns the shortest time between two recorded activities: a fortieth of the idle limit.
    /// `None` without an idle limit, because activity has no effect then.
    #[must_use]
    pub fn touch_interval(&self) -> Option<Duration> {
        self.idle.map(|idle| idle / TOUCHES_PER_IDLE_LIMIT)
    }

    /// Returns whether activity at `now` is due to be recorded when the stored activity is `seen`.
    #[must_use]
    pub fn touch_due(&self, seen: Timestamp, now: Timestamp) -> bool {
        self.touch_interval().is_some_and(|interval| now > seen && now.since(seen) >= interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn the_earlier_of_idle_and_absolute_counts() {
        let limits = Lifetime::idle(SECOND * 40).with_absolute(SECOND * 100).limits_from(at(0));
        assert_eq!(limits.deadline(at(10)), at(50));
        assert_eq!(limits.deadline(at(90)), at(100));
    }

    #[test]
    fn activity_does_not_move_an_absolute_limit() {
        let limits = Lifetime::absolute(SECOND * 100).limits_from(at(5));
        assert_eq!(limits.deadline(at(5)), at(105));
        assert_eq!(limits.deadline(at(99)), at(105));
        assert!(!limits.touch_due(at(5), at(99)));
    }

    #[test]
    fn a_touch_is_due_after_a_fortieth_of_the_idle_limit() {
        let limits = Lifetime::idle(SECOND * 40).limits_from(at(0));
        assert!(!limits.touch_due(at(10), at(10)));
        assert!(!limits.touch_due(at(10), Timestamp::from_millis(10_999)));
        assert!(limits.touch_due(at(10), at(11)));
        assert!(!limits.touch_due(at(10), at(3)), "time does not go back");
        let tiny = Lifetime::idle(Duration::from_millis(1)).limits_from(at(0));
        assert!(!tiny.touch_due(at(10), at(10)), "at most one write per millisecond");
    }

    #[test]
    fn an_anonymous_session_lives_no_longer_than_a_signed_in_one() {
        let anonymous = |signed_in| Lifetime::anonymous(signed_in);
        let default = Lifetime::idle(DAY).with_absolute(DAY * 7);
        assert_eq!(anonymous(Lifetime::default()), default);
        assert_eq!(anonymous(Lifetime::idle(DAY * 90)), default);
        assert_eq!(anonymous(Lifetime::absolute(DAY * 90)), default);
        let office = Lifetime::idle(SECOND * 900).with_absolute(SECOND * 43_200);
        assert_eq!(anonymous(office), office);
        assert_eq!(anonymous(Lifetime::absolute(SECOND)), Lifetime::absolute(SECOND));
        let idle = Lifetime::idle(SECOND);
        assert_eq!(anonymous(idle), idle.with_absolute(DAY * 7));
    }

    #[test]
    fn limits_below_a_millisecond_are_refused() {
        for bad in [
            Lifetime::idle(Duration::ZERO),
            Lifetime::absolute(Duration::from_micros(999)),
            Lifetime::default().with_absolute(Duration::ZERO),
        ] {
            assert_eq!(bad.validate().unwrap_err().kind(), ErrorKind::Invalid);
        }
        Lifetime::default().validate().unwrap();
        Lifetime::idle(Duration::MAX).with_absolute(Duration::MAX).validate().unwrap();
        let endless = Lifetime::absolute(Duration::MAX).limits_from(at(0));
        assert_eq!(endless.deadline(at(0)), Timestamp::MAX);
    }
}
