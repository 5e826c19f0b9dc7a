//! The close of a session, at the end of its request: what is stored, and the header fields of the
//! response.
//!
//! Uses the commit and the transport. Called by the manager and the adapters.

use std::time::Duration;

use crate::backend::{LiveSession, Loaded, ReplacedId};
use crate::clock::Timestamp;
use crate::cookie;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{SessionId, SessionIdHash};
use crate::message::{Outcome, ResponseHeaders, Sharing};
use crate::record::Record;
use crate::session::changes::Changes;
use crate::session::commit::Renewal;
use crate::session::load::LoadState;
use crate::session::shared::IdField;
use crate::session::{CommitOutcome, ResponseFacts, Session, SignOut, State, Transport};

const CLOSE: &str = "close a session";

/// The grace of an id that is renewed by its age.
pub(crate) const AGE_RENEWAL_GRACE: Duration = Duration::from_secs(60);

/// The age at which an id is renewed if the session may outlive its cookie: half of the 400 days
/// for which browsers keep a cookie at most.
const COOKIE_RENEWAL_AGE: Duration = Duration::from_secs(200 * 86_400);

impl Session {
    /// Marks the session to be ended, with every other session whose id this request presented. To
    /// this request it is empty from now on, and a later write begins a new, anonymous session. The
    /// store ends it at the close of this session, or at the next [`commit`](Self::commit). Until
    /// then other requests can use it.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.destroy()?;
    /// session.flash("info", "You are signed out.")?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// An [`ignore`](Self::ignore) after this call cancels it; an `ignore` before it does not. A
    /// failing or panicking handler does not cancel it either. This also ends the session of an id
    /// that another request has replaced in the last ten minutes, by a renewal or a sign-in. The
    /// response removes the cookie even if the id found no session.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn destroy(&self) -> Result<()> {
        const OPERATION: &str = "destroy the session";
        let mut state = self.lock_until_closed(OPERATION)?;
        self.check_cross_site(&state, OPERATION)?;
        let current = state.load_state.session().map(|session| session.id_hash);
        for id_hash in current.into_iter().chain(self.presented.id_hashes()) {
            if !state.ending.to_destroy.contains(&id_hash) {
                state.ending.to_destroy.push(id_hash);
            }
        }
        state.reset(SignOut::Requested);
        Ok(())
    }

    /// Continues as after [`destroy`](Self::destroy) if a call of the manager, made by this
    /// request, has ended the session that it has read.
    pub(crate) fn apply_own_revocation(&self, has_ended: impl FnOnce(&LiveSession) -> bool) {
        let mut state = self.lock_unchecked();
        if !state.is_closed && state.load_state.session().is_some_and(has_ended) {
            state.reset(SignOut::Done);
        }
    }

    /// Records that the response may read the session after the close, as a streamed body does. If
    /// the request presented an id, the session then counts as used, but is not loaded.
    pub(crate) fn mark_read_later(&self) {
        let mut state = self.lock_unchecked();
        if !self.presented.is_empty() {
            state.response.varies = true;
            state.response.may_read_later = true;
        }
    }

    /// Records that the response has flash messages.
    pub(crate) fn mark_flashes_shown(&self) {
        self.lock_unchecked().response.has_flash = true;
    }

    /// Stores the changes at the end of the request, and returns the headers of the response. Fails
    /// in the closure of an update, like every call.
    pub(crate) fn close(&self, outcome: Outcome) -> Result<ResponseHeaders> {
        let mut state = self.lock_to_read(CLOSE)?;
        if std::mem::replace(&mut state.is_closed, true) {
            return Err(Error::new(ErrorKind::Closed, CLOSE));
        }
        let headers = self.store_at_close(&mut state, outcome);
        if headers.is_err() {
            // The code that handles the error must not read changes that were not stored.
            state.changes = Changes::default();
        }
        headers
    }

    fn store_at_close(&self, state: &mut State, outcome: Outcome) -> Result<ResponseHeaders> {
        if state.is_ignored {
            state.changes = Changes::default();
            state.ending.to_destroy.clear();
            state.ending.sign_out = SignOut::NotRequested;
        }
        let has_failed = match outcome {
            Outcome::Completed => false,
            Outcome::ServerError => !self.context.settings.keep_on_server_error,
            Outcome::Panicked => true,
        };
        if outcome == Outcome::Panicked {
            state.changes = Changes::default();
        } else if has_failed {
            state.changes.drop_all_but_renewal();
        }
        let _: CommitOutcome = self.commit_all(state)?;
        if !has_failed {
            self.renew_old_id(state);
        }
        self.touch_at_end(state);
        let id_fields = match state.load_state.issued().or_else(|| self.id_to_reseal(state)) {
            Some(id) => self.fields_with_id(id, state),
            // Only a sign-out removes the cookie. If a read found no session, another response may
            // have given the browser a newer cookie, and responses arrive in any order.
            None if state.ending.sign_out != SignOut::NotRequested
                && !self.presented.is_empty() =>
            {
                let settings = &self.context.settings;
                let mut fields = settings.transport.remove(settings.no_store_when_signed_in);
                fields.extend(settings.former_removals());
                fields
            }
            None => Vec::new(),
        };
        Ok(self.headers(state, id_fields))
    }

    /// Returns the headers of the response after a failed close. They carry the id that an earlier
    /// sign-in or commit of the request has issued.
    pub(crate) fn headers_for_stored(&self) -> ResponseHeaders {
        let state = self.lock_unchecked();
        let issued = state.load_state.issued().map(|id| self.fields_with_id(id, &state));
        self.headers(&state, issued.unwrap_or_default())
    }

    /// Returns the header fields that send the id of the live session.
    fn fields_with_id(&self, id: &SessionId, state: &State) -> Vec<IdField> {
        let settings = &self.context.settings;
        let now = self.context.now();
        self.context.warn_if_rejected(self.cookie_rejected_by);
        let record = state.load_state.session().map(|session| &session.record);
        let max_age = record.filter(|record| record.persistent).map(|record| {
            record.limits.absolute_deadline.map_or(Duration::MAX, |end| end.since(now))
        });
        let mut fields = settings.transport.issue(id, max_age, now);
        // A cookie of a former name is never set again, so the first new cookie can remove it.
        if self.presented.ids.iter().any(|presented| presented.by_former_cookie) {
            fields.extend(settings.former_removals());
        }
        fields
    }

    fn headers(&self, state: &State, id_fields: Vec<IdField>) -> ResponseHeaders {
        let settings = &self.context.settings;
        let ResponseFacts { varies, has_token, has_flash, .. } = state.response;
        // What a streamed body reads later is not known yet.
        let reads_later =
            state.response.may_read_later && matches!(state.load_state, LoadState::Unread);
        let may_see_user = state.has_seen_user() || reads_later;
        let is_private = settings.no_store_when_signed_in && may_see_user;
        let is_form = settings.no_store_with_csrf_token && has_token;
        let is_personal = !id_fields.is_empty() || has_token || has_flash;
        let sharing = if is_personal {
            Sharing::Never
        } else if !varies {
            Sharing::Allowed
        } else if self.presented.is_empty() {
            Sharing::IfPublic
        } else {
            Sharing::Never
        };
        ResponseHeaders {
            id_fields,
            vary_on: varies.then(|| settings.transport.request_header()),
            discarded: state.response.has_discarded_changes,
            sharing,
            no_store: is_private || is_form,
            clear_site_data: settings.clear_site_data && state.ending.sign_out == SignOut::Done,
        }
    }

    /// Renews an id by its age: by the setting, or because its cookie may expire in the browser
    /// before the session ends. Overlapping requests still present it, so it has a grace, whatever
    /// the setting for renewals by the handler says.
    fn renew_old_id(&self, state: &mut State) {
        let Some(touch) = self.request_touch(state) else { return };
        let LoadState::Live { session, found_by, .. } = &state.load_state else { return };
        let LiveSession { record, id_hash } = &**session;
        let settings = &self.context.settings;
        let in_cookie = matches!(settings.transport, Transport::Cookie(_));
        let by_cookie = (in_cookie && may_outlive_cookie(record)).then_some(COOKIE_RENEWAL_AGE);
        let Some(max_age) = settings.renew_every.into_iter().chain(by_cookie).min() else { return };
        let grace = settings.renewal_grace.unwrap_or_default();
        if !renewal_is_due(session, found_by, max_age, grace, self.opened(touch.seen), touch.seen) {
            return;
        }
        let id_hash = *id_hash;
        let public_id = record.public_id;
        // If the session has ended meanwhile, nothing of this request is lost. A request that only
        // reads must not fail because the renewal does; the next one tries again.
        let renewal = Renewal { grace: Some(AGE_RENEWAL_GRACE) };
        if let Err(error) = &self.merge_or_renew(state, &id_hash, Some(renewal)) {
            self.context.events.raise(&Event::RenewalFailed { public_id: &public_id, error });
        }
    }

    /// Returns the presented id of the session, if it is the current one and its cookie was sealed
    /// with an old cookie key.
    fn id_to_reseal(&self, state: &State) -> Option<&SessionId> {
        let LiveSession { id_hash, .. } =
            state.load_state.session().filter(|_| !state.is_ignored)?;
        let mut outdated =
            self.presented.ids.iter().filter(|id| id.outdated && !id.by_former_cookie);
        let id = &outdated.find(|id| id.id_hash() == *id_hash)?.id;
        // Loads again, because another response may have given the client a newer id meanwhile.
        match self.blocking.run(|| self.context.store.get()?.load(id_hash, self.context.now())) {
            Ok(Loaded::Live(session)) if session.id_hash == *id_hash => Some(id),
            _ => None,
        }
    }
}

/// Returns whether a browser may forget the session's cookie before the session ends.
fn may_outlive_cookie(record: &Record) -> bool {
    let outlives = |end: Timestamp| end.since(record.id_issued) > cookie::MAX_LIFETIME;
    record.persistent && record.limits.absolute_deadline.is_none_or(outlives)
}

/// Returns whether a request renews the id of its session, because the id has reached `max_age` or
/// the client has not received it. The request was opened at `opened` and active at `seen`; `grace`
/// is that of a renewal by the handler.
fn renewal_is_due(
    session: &LiveSession,
    found_by: &SessionIdHash,
    max_age: Duration,
    grace: Duration,
    opened: Timestamp,
    seen: Timestamp,
) -> bool {
    let LiveSession { record, id_hash } = session;
    let is_old = seen.since(record.id_issued) >= max_age;
    // The presented id was replaced, and still finds the session after the grace that a handler's
    // renewal gives. So a renewal by age replaced it. The client has not received the response with
    // the new id, and would lose the session. After a handler's renewal, which may be meant to
    // invalidate a stolen id, the client must get no new id here.
    let overlaps_for = grace.max(ReplacedId::OVERLAPS_FOR);
    let has_lost_id = found_by != id_hash && opened > record.id_issued + overlaps_for;
    is_old || has_lost_id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    #[test]
    fn an_id_is_renewed_if_it_is_old_or_the_client_has_lost_it() {
        const MAX_AGE: Duration = Duration::from_secs(3600);
        const NO_GRACE: Duration = Duration::ZERO;
        const GRACE: Duration = Duration::from_secs(30);
        let current = SessionIdHash::from_bytes([1; 32]);
        let replaced = SessionIdHash::from_bytes([2; 32]);
        let issued = Timestamp::from_millis(1_700_000_000_000);
        let new_session = NewSession::new(Lifetime::default().starting(issued)).unwrap();
        let record = Record::create(&new_session, issued);
        for (found_by, grace, opened, seen, is_due) in [
            (current, NO_GRACE, 0, 3599, false),
            (current, NO_GRACE, 3600, 3600, true),
            (current, NO_GRACE, 3599, 3600, true),
            (current, GRACE, 3600, 3600, true),
            (replaced, NO_GRACE, 10, 10, false),
            (replaced, NO_GRACE, 10, 3600, true),
            (replaced, NO_GRACE, 11, 11, true),
            (replaced, GRACE, 11, 11, false),
            (replaced, GRACE, 30, 30, false),
            (replaced, GRACE, 31, 31, true),
            (replaced, GRACE, 3600, 3600, true),
        ] {
            let session = LiveSession { record: record.clone(), id_hash: current };
            let at = |seconds| issued + Duration::from_secs(seconds);
            let found = renewal_is_due(&session, &found_by, MAX_AGE, grace, at(opened), at(seen));
            assert_eq!(found, is_due, "{grace:?}, opened at {opened} s, seen at {seen} s");
        }
    }
}
