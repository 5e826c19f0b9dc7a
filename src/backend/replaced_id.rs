//! Ids that a session had before: how long a store remembers them, and what they are good for.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::{JoinSalt, SessionIdHash};

/// An id that a session had, and what replaced it. A store remembers it for a while, because
/// concurrent requests still present it, and so does a client that lost the response with its new
/// id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedId {
    /// The hash of the replaced id.
    pub id_hash: SessionIdHash,
    /// The hash of the id that replaced it.
    pub successor: SessionIdHash,
    /// When it was replaced.
    pub at: Timestamp,
    /// What replaced it.
    pub by: ReplacedBy,
    /// Whether the session had a user until then.
    pub had_user: bool,
}

/// What replaced an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacedBy {
    /// A renewal.
    Renewal {
        /// Until then the replaced id still finds the session; `None`: it never does.
        grace_until: Option<Timestamp>,
    },
    /// A sign-in, after which no replaced id finds the session.
    SignIn {
        /// Derives the new id from the replaced one, so that another sign-in through the replaced
        /// id gets the same new id; `None` where the new id was not derived.
        salt: Option<JoinSalt>,
    },
}

/// What a [`ReplacedId`] is good for at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacedIdStatus {
    /// It finds the session: the grace is not over.
    InGrace,
    /// It is known as replaced: [`Missing::Replaced`](crate::backend::Missing::Replaced).
    Remembered,
    /// It finds nothing, like an id that no session ever had.
    Forgotten,
}

impl ReplacedId {
    /// How long it is remembered after it was replaced and after its grace.
    pub const REMEMBERED: Duration = Duration::from_secs(600);

    /// How many replaced ids of one session are remembered: the latest ones.
    pub const MAX: usize = 8;

    /// A request that was opened at most this long after the replacement, or within the grace, was
    /// under way: another response overtook it. A later request comes from a client that lost the
    /// response, or from a thief.
    pub const UNDER_WAY: Duration = Duration::from_secs(10);

    /// What it is good for at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> ReplacedIdStatus {
        // The grace is no part of `at`: if the clock was set back over a restart, an id replaced
        // without grace must not find the session again.
        if self.grace_until().is_some_and(|until| now < until) {
            ReplacedIdStatus::InGrace
        } else if now < self.forget_at() {
            ReplacedIdStatus::Remembered
        } else {
            ReplacedIdStatus::Forgotten
        }
    }

    /// Until when it finds the session, if it does at all.
    #[must_use]
    pub fn grace_until(&self) -> Option<Timestamp> {
        match self.by {
            ReplacedBy::Renewal { grace_until } => grace_until,
            ReplacedBy::SignIn { .. } => None,
        }
    }

    /// From when on a store need not keep it.
    #[must_use]
    pub fn forget_at(&self) -> Timestamp {
        self.at.max(self.grace_until().unwrap_or(self.at)) + Self::REMEMBERED
    }

    /// Whether a request that was opened then was under way when the id was replaced.
    #[must_use]
    pub fn was_under_way(&self, opened: Timestamp) -> bool {
        let is_in_grace = self.grace_until().is_some_and(|until| opened < until);
        is_in_grace || opened <= self.at + Self::UNDER_WAY
    }

    /// The same without its grace, as after a sign-in to its session.
    #[must_use]
    pub fn without_grace(self) -> Self {
        let by = match self.by {
            ReplacedBy::Renewal { .. } => ReplacedBy::Renewal { grace_until: None },
            by @ ReplacedBy::SignIn { .. } => by,
        };
        ReplacedId { by, ..self }
    }

    /// Whether this replacement ends the grace of ids that were replaced before.
    #[must_use]
    pub fn ends_graces(&self) -> bool {
        matches!(self.by, ReplacedBy::SignIn { .. })
    }
}
