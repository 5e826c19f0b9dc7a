//! The touches of a session, which record its activity: when they are written, and how. The
//! activity of a request counts at its first use of the session.

use std::time::Duration;

use crate::backend::LiveSession;
use crate::clock::{MAX_REQUEST_TIME, Timestamp};
use crate::event::Event;
use crate::record::Touch;
use crate::session::{Session, State};

/// Sessions with a shorter idle limit are touched without waiting for a batch.
const SHORT_IDLE: Duration = Duration::from_secs(60);

/// Sessions that reach their idle limit within this time are touched without waiting for a batch,
/// because the cleaner takes up to a second.
const TOUCH_IMMEDIATELY_WITHIN: Duration = Duration::from_secs(2);

// The touch of a request is written, if that is due (`Limits::touch_due`), at the first of these
// points:
//
// | point | condition | written by |
// |---|---|---|
// | first read | the session may reach its idle limit before the request ends | a touch |
// | a commit | always | the commit |
// | end of the request | always | a touch |
//
// The cleaner writes a touch within a second. If the session may end before, or there is no
// cleaner, the request writes it.
impl Session {
    /// Returns the touch of this request, with the time of its first use of the session.
    /// [Ignored](Session::ignore) requests and prefetches have none.
    pub(super) fn request_touch(&self, state: &State) -> Option<Touch> {
        state.first_use.filter(|_| !state.is_ignored && !self.is_prefetch).map(Touch::at)
    }

    /// Touches the session that the first read has loaded, if it may reach its idle limit before
    /// the request ends.
    pub(super) fn touch_loaded(&self, state: &mut State, now: Timestamp) {
        let (Some(session), Some(touch)) = (state.load_state.session(), self.request_touch(state))
        else {
            return;
        };
        let ends = session.record.limits.idle.map(|idle| session.record.seen + idle);
        if ends.is_some_and(|ends| ends.since(now) <= MAX_REQUEST_TIME)
            && self.touch(session, touch, now)
        {
            state.touched = Some(touch);
        }
    }

    /// Touches the session at the end of the request, if its first read has not.
    pub(super) fn touch_at_end(&self, state: &State) {
        if let (None, Some(session), Some(touch)) =
            (state.touched, state.load_state.session(), self.request_touch(state))
        {
            self.touch(session, touch, self.context.now());
        }
    }

    /// Touches the session if that is due. Returns whether the touch is written, or handed over to
    /// the cleaner.
    fn touch(&self, session: &LiveSession, touch: Touch, now: Timestamp) -> bool {
        let LiveSession { record, id_hash } = session;
        let Some(idle) = record.limits.idle else { return false };
        if !record.limits.touch_due(record.seen, touch.seen) {
            return false;
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
        written.is_ok()
    }
}
