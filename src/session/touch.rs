//! The activity of a session: when a request uses it first, and the touch that records this.
//!
//! Invariant: a touch has the time of the first use, whenever it is written. A failed touch fails
//! no request that only reads.

use std::time::Duration;

use crate::backend::LiveSession;
use crate::clock::Timestamp;
use crate::event::Event;
use crate::record::Touch;
use crate::session::{Session, State};

/// Sessions with a shorter idle limit are touched without waiting for a batch.
const SHORT_IDLE: Duration = Duration::from_secs(60);

/// Sessions that reach their idle limit within this time are touched without waiting for a batch,
/// because the cleaner takes up to a second.
const TOUCH_IMMEDIATELY_WITHIN: Duration = Duration::from_secs(2);

impl Session {
    /// Records the time of the first use of the session, unless the request is no activity.
    pub(super) fn record_use(&self, state: &mut State, now: impl FnOnce() -> Timestamp) {
        if !state.is_ignored && !self.is_prefetch {
            state.touch.get_or_insert_with(|| Touch::at(now()));
        }
    }

    /// Stores the touch of the session that the first read has loaded, if it is due: hands it to
    /// the cleaner, which writes it within a second. Writes it now if the session may reach its
    /// idle limit before that, or if no cleaner takes it.
    ///
    /// The request's commit carries the touch too. A request that only writes has no read. And a
    /// kill of the process loses the touches that the cleaner has not written: without its touch,
    /// a session could then expire together with a change that was acknowledged.
    pub(super) fn touch_loaded(&self, state: &State, now: Timestamp) {
        let (Some(session), Some(touch)) = (state.load_state.session(), state.touch) else {
            return;
        };
        let LiveSession { record, id_hash } = session;
        let Some(idle) = record.limits.idle else { return };
        if !record.limits.touch_due(record.seen, touch.seen) {
            return;
        }
        let left = (record.seen + idle).since(now);
        let immediately = idle < SHORT_IDLE || left <= TOUCH_IMMEDIATELY_WITHIN;
        let written = match &self.context.cleaner {
            Some(cleaner) if !immediately && cleaner.touch(*id_hash, touch) => Ok(()),
            _ => {
                self.blocking.run(|| Ok(self.context.store()?.touch(&[(*id_hash, touch)], now)?))
            }
        };
        // A failed touch must not fail a request that only reads.
        if let Err(error) = &written {
            self.context.events.raise(&Event::TouchFailed { sessions: 1, error });
        }
    }
}
