//! The trail of ended sessions: an event for each, and the reasons that this process knows.
//!
//! Called by sessions, the manager and the cleaner when a session has ended, and by
//! [`Session::ended`].

use std::net::IpAddr;
use std::time::Duration;

use crate::error::Result;
use crate::event::{EndReason, Event, Events};
use crate::id::{SessionIdHash, UserKey};
use crate::process::ProcessBound;
use crate::record::EndedSession;
use crate::session::Session;
use crate::session::generations::Generations;
use crate::sync::{IgnorePoison, Mutex, instant};

/// How long a reason is remembered at least, unless many others follow it.
const RETENTION: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct EndTrail {
    events: Events,
    /// The reasons for which sessions of users ended.
    reasons: ProcessBound<Mutex<Generations<EndReason>>>,
}

impl EndTrail {
    pub(crate) fn new(events: Events) -> Self {
        EndTrail { events, reasons: ProcessBound::default() }
    }

    /// Reports a session that has ended: by the request of a client at `address`, and `by` that
    /// user if it was revoked.
    pub(crate) fn report(
        &self,
        ended: &EndedSession,
        reason: EndReason,
        by: Option<&UserKey>,
        address: Option<IpAddr>,
    ) {
        let EndedSession { id_hash, public_id, user, .. } = ended;
        let (public_id, user) = (public_id.as_ref(), user.as_ref());
        if user.is_some() {
            self.remember(*id_hash, reason);
        }
        self.events.raise(&Event::Ended { public_id, user, reason, by, address });
    }

    fn remember(&self, id_hash: SessionIdHash, reason: EndReason) {
        let (Ok(reasons), now) = (self.reasons.get(), instant()) else { return };
        let mut reasons = reasons.lock().ignore_poison();
        reasons.rotate(RETENTION, now);
        reasons.insert(id_hash, reason);
    }

    /// Returns the reason for which the session of a user ended that had this id last.
    pub(super) fn reason(&self, id_hash: &SessionIdHash) -> Option<EndReason> {
        let reasons = self.reasons.get().ok()?.lock().ignore_poison();
        reasons.get(id_hash).copied()
    }
}

impl Session {
    /// Returns the reason for which the session of a user has ended that this request presented,
    /// for a page that says so; `None` if the request presented the id of a live session or none.
    ///
    /// Show it on the page that first sees the ended session: once a request writes, a new session
    /// replaces the id, and the reason is lost. [`EndReason::Idle`] has the idle limit of that
    /// session, which [`set_idle_limit`](Self::set_idle_limit) may have changed.
    ///
    /// The reason is known while the expired session is stored, which is until the next sweep, and
    /// for at least an hour if this process has ended or swept the session, unless it has ended
    /// more than 10,000 others since. In other cases the result is `None` too: after a restart,
    /// after [`revoke_everyone`](crate::SessionManager::revoke_everyone), or if another process, or
    /// memcached itself, has removed the session.
    ///
    /// ```
    /// use cloakroom::{Session, session::EndReason};
    ///
    /// fn notice(session: &Session) -> cloakroom::Result<Option<&'static str>> {
    ///     Ok(session.ended()?.map(|reason| match reason {
    ///         EndReason::Idle(_) => "You were signed out after a day without activity.",
    ///         EndReason::SignedOut => "You are signed out.",
    ///         _ => "Please sign in again.",
    ///     }))
    /// }
    /// ```
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn ended(&self) -> Result<Option<EndReason>> {
        let mut state = self.lock("look at a session")?;
        self.read(&mut state)?;
        Ok(state.ending.reason)
    }

    /// Reports a session that this request has ended.
    pub(super) fn report_end(&self, ended: &EndedSession, reason: EndReason) {
        self.context.end_trail.report(ended, reason, None, self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::generations::GENERATION_SIZE;

    #[test]
    fn the_latest_reasons_are_remembered() {
        let trail = EndTrail::new(Events::default());
        let id_hash = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            SessionIdHash::from_bytes(bytes)
        };
        (0..5 * GENERATION_SIZE).for_each(|n| trail.remember(id_hash(n), EndReason::Revoked));
        let known = (0..5 * GENERATION_SIZE).filter(|n| trail.reason(&id_hash(*n)).is_some());
        let known: Vec<usize> = known.collect();
        assert!((GENERATION_SIZE..=2 * GENERATION_SIZE).contains(&known.len()));
        assert_eq!(known.last(), Some(&(5 * GENERATION_SIZE - 1)));
    }
}
