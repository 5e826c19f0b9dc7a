//! Named policies: the session limits of NIST SP 800-63B-4.

// Uses only `lifetime`. The manager's review compares a configuration with all of them.

use std::time::Duration;

use crate::lifetime::Lifetime;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The session limits of an authenticator assurance level of NIST SP 800-63B-4 (2025), for
/// [`SessionManagerBuilder::policy`](crate::manager::SessionManagerBuilder::policy). Each value can
/// be changed.
///
/// | level | absolute | idle | persistent cookie |
/// |---|---|---|---|
/// | [`aal1`](Self::aal1) | 30 days (should) | 1 day; the standard has no limit | no |
/// | [`aal2`](Self::aal2) | 24 hours (should) | 1 hour (should) | no |
/// | [`aal3`](Self::aal3) | 12 hours (**shall**) | 15 minutes (should) | no |
///
/// "Should" and "shall" are the words of the standard. It also requires that a session's secret
/// does not outlive the browser: document a "remember me" cookie, set by
/// [`persistent(true)`](Self::persistent), as a deviation.
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
    /// Makes the policy of authenticator assurance level 1: 30 days absolute, 1 day idle.
    pub const fn aal1() -> Self {
        Policy { idle: DAY, absolute: Duration::from_secs(30 * 86_400), persistent: false }
    }

    /// Makes the policy of authenticator assurance level 2: 24 hours absolute, 1 hour idle.
    pub const fn aal2() -> Self {
        Policy { idle: HOUR, absolute: DAY, persistent: false }
    }

    /// Makes the policy of authenticator assurance level 3: 12 hours absolute, 15 minutes idle.
    pub const fn aal3() -> Self {
        Policy {
            idle: Duration::from_secs(15 * 60),
            absolute: Duration::from_secs(12 * 3600),
            persistent: false,
        }
    }

    /// Returns this policy with the idle limit `limit`.
    pub const fn idle(self, limit: Duration) -> Self {
        Policy { idle: limit, ..self }
    }

    /// Returns this policy with the absolute limit `limit`.
    pub const fn absolute(self, limit: Duration) -> Self {
        Policy { absolute: limit, ..self }
    }

    /// Returns this policy with a cookie that browsers keep when they are closed (true) or delete
    /// (false).
    pub const fn persistent(self, persistent: bool) -> Self {
        Policy { persistent, ..self }
    }

    /// Returns both limits.
    #[must_use]
    pub const fn lifetime(&self) -> Lifetime {
        Lifetime::idle(self.idle).with_absolute(self.absolute)
    }

    /// Returns whether browsers keep the cookie when they are closed.
    #[must_use]
    pub const fn is_persistent(&self) -> bool {
        self.persistent
    }
}

/// Formats a duration in days, hours, minutes and seconds without units that are zero; a duration
/// below one second in milliseconds.
pub(crate) fn humanize(duration: Duration) -> String {
    let mut left = duration;
    let mut parts = Vec::new();
    for (unit, name) in [(DAY, "d"), (HOUR, "h"), (MINUTE, "min"), (Duration::from_secs(1), "s")] {
        let count = left.as_secs() / unit.as_secs();
        if count > 0 {
            parts.push(format!("{count} {name}"));
            left -= Duration::from_secs(count * unit.as_secs());
        }
    }
    if parts.is_empty() { format!("{} ms", duration.as_millis()) } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_formatted_in_their_largest_units() {
        assert_eq!(humanize(DAY * 30), "30 d");
        assert_eq!(humanize(DAY + MINUTE * 90), "1 d 1 h 30 min");
        assert_eq!(humanize(Duration::from_millis(90_500)), "1 min 30 s");
        assert_eq!(humanize(Duration::from_millis(5)), "5 ms");
    }
}
