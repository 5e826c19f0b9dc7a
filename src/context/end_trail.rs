//! The trail of ended sessions: an event for each, and the reasons that this process knows.

use std::net::IpAddr;
use std::time::Duration;

use crate::context::recent_ids::RecentIds;
use crate::event::{Event, Events};
use crate::id::{SessionIdHash, UserKey};
use crate::lifetime::EndReason;
use crate::record::EndedSession;
use crate::sync::{IgnorePoison, Mutex};

/// How long a reason is remembered at least, unless many others follow it.
const RETENTION: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(crate) struct EndTrail {
    events: Events,
    /// The reasons for which sessions of users ended.
    reasons: Mutex<RecentIds<EndReason>>,
}

impl EndTrail {
    pub(crate) fn new(events: Events) -> Self {
        EndTrail { events, reasons: Mutex::new(RecentIds::new(RETENTION)) }
    }

    /// Reports a session that has ended: by the request of a client at `address`, and by the user
    /// `revoked_by` if it was revoked.
    pub(crate) fn report(
        &self,
        ended: &EndedSession,
        reason: EndReason,
        revoked_by: Option<&UserKey>,
        address: Option<IpAddr>,
    ) {
        let EndedSession { id_hash, public_id, user, .. } = ended;
        let public_id = public_id.as_ref();
        let user = user.as_ref();
        if user.is_some() {
            self.remember(*id_hash, reason);
        }
        self.events.raise(&Event::Ended { public_id, user, reason, revoked_by, address });
    }

    fn remember(&self, id_hash: SessionIdHash, reason: EndReason) {
        self.reasons.lock().ignore_poison().insert(id_hash, reason);
    }

    /// Returns why the user's session whose last id has this hash ended.
    pub(crate) fn reason(&self, id_hash: &SessionIdHash) -> Option<EndReason> {
        self.reasons.lock().ignore_poison().get(id_hash).copied()
    }
}
