//! Replaced ids of sessions: how long a store remembers them, and their effects.
//!
//! Made by `commit`, kept by stores. Read by lookups and by the session of a request.

use std::time::Duration;

use crate::clock::{MAX_REQUEST_TIME, Timestamp};
use crate::data::CsrfSecret;
use crate::id::{JoinSalt, SessionIdHash};

/// A replaced id of a session, and the renewal or sign-in that replaced it. A store remembers it,
/// because overlapping requests still present it, and so does a client that lost the response with
/// its new id. It does so for ten minutes, which begin with the replacement or, if the id had a
/// grace, with the end of the grace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedId {
    /// The hash of the replaced id.
    pub id_hash: SessionIdHash,
    /// The hash of the id that replaced it.
    pub successor: SessionIdHash,
    /// The time of the replacement.
    pub replaced_at: Timestamp,
    /// The kind of the replacement.
    pub by: ReplacedBy,
    /// Whether the session had a user before the replacement.
    pub had_user: bool,
    /// The CSRF secret that the session had while the id was current; `None` if it had none. It is
    /// valid in requests that present the id.
    pub csrf_secret: Option<CsrfSecret>,
}

/// The kind of a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacedBy {
    /// A renewal.
    Renewal {
        /// The end of the grace, in which the replaced id still finds the session; `None` for no
        /// grace.
        grace_until: Option<Timestamp>,
    },
    /// A sign-in, after which no replaced id finds the session.
    SignIn {
        /// The salt from which, with the replaced id, the new id was derived. Another sign-in
        /// through the replaced id gets the same new id by it. `None` if the new id was not
        /// derived.
        salt: Option<JoinSalt>,
    },
}

impl ReplacedId {
    /// The time for which a replaced id is remembered, from the replacement or, if it had a grace,
    /// from the end of the grace.
    pub const REMEMBERED: Duration = MAX_REQUEST_TIME;

    /// The maximum number of remembered ids of one session: the latest ones.
    pub const MAX: usize = 8;

    /// A request with this id overlaps the replacement if it was opened at most this long after it,
    /// or within the grace: it may have been sent before the response with the new id arrived. One
    /// that is opened later comes from a client that lost that response, or from a thief.
    pub const OVERLAPS_FOR: Duration = Duration::from_secs(10);

    /// Returns whether the id still finds the session, as the current id does.
    #[must_use]
    pub fn is_in_grace(&self, now: Timestamp) -> bool {
        // Compares with the grace only: if the clock was set back over a restart, an id replaced
        // without grace must not find the session again.
        self.grace_until().is_some_and(|until| now < until)
    }

    /// Returns the end of the grace, if the id has one.
    #[must_use]
    pub fn grace_until(&self) -> Option<Timestamp> {
        match self.by {
            ReplacedBy::Renewal { grace_until } => grace_until,
            ReplacedBy::SignIn { .. } => None,
        }
    }

    /// Returns the time from which a lookup by the id finds nothing, as by one that was never
    /// issued. A store may drop the id then.
    #[must_use]
    pub fn forget_at(&self) -> Timestamp {
        self.replaced_at.max(self.grace_until().unwrap_or(self.replaced_at)) + Self::REMEMBERED
    }

    /// Returns whether a request with this id that was opened at that time overlaps the
    /// replacement; see [`OVERLAPS_FOR`](Self::OVERLAPS_FOR).
    #[must_use]
    pub fn overlaps(&self, opened_at: Timestamp) -> bool {
        self.is_in_grace(opened_at) || opened_at <= self.replaced_at + Self::OVERLAPS_FOR
    }

    /// Returns this id after its session's id was replaced again: the `later` id. The grace of this
    /// id ends with that of the later one, at the latest. If the later one has no grace, the grace
    /// of this id ends now: [`grace_until`](Self::grace_until) becomes `None`, and `replaced_at`
    /// becomes the end of the grace, so that requests opened before the end still
    /// [overlap](Self::overlaps).
    #[must_use]
    pub fn limited_by(self, later: &ReplacedId) -> Self {
        let Some(until) = self.grace_until() else { return self };
        let limit = later.grace_until();
        let replaced_at = match limit {
            Some(_) => self.replaced_at,
            None => until.min(later.replaced_at).max(self.replaced_at),
        };
        let by = ReplacedBy::Renewal { grace_until: limit.map(|limit| until.min(limit)) };
        ReplacedId { by, replaced_at, ..self }
    }
}
