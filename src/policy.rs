//! Named policies: what the standards ask of the life of a session, to begin with.

use std::time::Duration;

use crate::lifetime::Lifetime;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// How long sessions live and whether browsers keep them, by the assurance level of NIST SP
/// 800-63B-4 (2025) that the application wants. A starting point: change what does not fit.
///
/// | level | absolute | idle | the browser keeps it |
/// |---|---|---|---|
/// | [`aal1`](Self::aal1) | 30 days (should) | 1 day; none is asked for | no |
/// | [`aal2`](Self::aal2) | 24 hours (should) | 1 hour (should) | no |
/// | [`aal3`](Self::aal3) | 12 hours (**shall**) | 15 minutes (should) | no |
///
/// The publication demands that a session's secret does not outlive the browser; "remember me" is
/// [`persistent(true)`](Self::persistent), which then is a deviation to document.
///
/// ```
/// use std::time::Duration;
/// use cloakroom::policy::Policy;
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let policy = Policy::aal2().idle(Duration::from_secs(30 * 60));
/// let sessions = SessionManager::builder(MemoryStore::new()).policy(policy).build()?;
/// println!("{}", sessions.review());
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Policy {
    idle: Duration,
    absolute: Duration,
    persistent: bool,
}

impl Policy {
    /// Authenticator assurance level 1: 30 days, and a day of silence.
    pub const fn aal1() -> Self {
        Policy { idle: DAY, absolute: Duration::from_secs(30 * 86_400), persistent: false }
    }

    /// Authenticator assurance level 2: 24 hours, and an hour of silence.
    pub const fn aal2() -> Self {
        Policy { idle: HOUR, absolute: DAY, persistent: false }
    }

    /// Authenticator assurance level 3: 12 hours, and 15 minutes of silence.
    pub const fn aal3() -> Self {
        Policy {
            idle: Duration::from_secs(15 * 60),
            absolute: Duration::from_secs(12 * 3600),
            persistent: false,
        }
    }

    /// The same with another idle limit.
    pub const fn idle(self, limit: Duration) -> Self {
        Policy { idle: limit, ..self }
    }

    /// The same with another absolute limit.
    pub const fn absolute(self, limit: Duration) -> Self {
        Policy { absolute: limit, ..self }
    }

    /// The same, but whether browsers keep the cookie when they are closed.
    pub const fn persistent(self, persistent: bool) -> Self {
        Policy { persistent, ..self }
    }

    /// The limits.
    #[must_use]
    pub const fn lifetime(&self) -> Lifetime {
        Lifetime::idle(self.idle).with_absolute(self.absolute)
    }

    /// Whether browsers keep the cookie.
    #[must_use]
    pub const fn is_persistent(&self) -> bool {
        self.persistent
    }
}

/// A duration as people say it: the largest units that fit, none that is zero.
pub(crate) fn in_words(duration: Duration) -> String {
    let mut left = duration;
    let mut words = Vec::new();
    for (unit, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (Duration::from_secs(1), "s")] {
        let count = left.as_secs() / unit.as_secs();
        if count > 0 {
            words.push(format!("{count} {name}"));
            left -= Duration::from_secs(count * unit.as_secs());
        }
    }
    if words.is_empty() { format!("{} ms", duration.as_millis()) } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_as_people_say_them() {
        assert_eq!(in_words(DAY * 30), "30 d");
        assert_eq!(in_words(DAY + MINUTE * 90), "1 d 1 h 30 min");
        assert_eq!(in_words(Duration::from_millis(90_500)), "1 min 30 s");
        assert_eq!(in_words(Duration::from_millis(5)), "5 ms");
    }
}
