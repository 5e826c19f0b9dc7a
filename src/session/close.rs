//! The close of a session, at the end of its request: what is stored, and the header fields of the
//! response.
//!
//! Invariant: a session is closed once, and has no changes afterwards, even if the close fails.

use std::time::Duration;

use crate::backend::{LiveSession, Loaded};
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionId;
use crate::message::{Outcome, ResponseHeaders, SharedCaching};
use crate::session::changes::Changes;
use crate::session::ending::SignOut;
use crate::session::load::LoadState;
use crate::session::presented::PresentedId;
use crate::session::{CommitOutcome, ResponseFacts, Session, State};
use crate::settings::IdField;

const CLOSE: &str = "close a session";

impl Session {
    /// Records that the response may read the session after the close, as a streamed body does. If
    /// the request presented an id, the session then counts as used, but is not loaded.
    pub(crate) fn mark_read_later(&self) {
        let mut state = self.lock();
        if !self.presented.is_empty() {
            state.response.varies = true;
            state.response.may_read_later = true;
        }
    }

    /// Records that the response has flash messages.
    pub(crate) fn mark_flashes_shown(&self) {
        self.lock().response.has_flash = true;
    }

    /// Stores the changes at the end of the request, and returns the headers of the response. Fails
    /// with `Invalid` if the closure of an update calls it.
    pub(crate) fn close(&self, outcome: Outcome) -> Result<ResponseHeaders> {
        let mut state = self.lock_for_use(CLOSE)?;
        if std::mem::replace(&mut state.is_closed, true) {
            return Err(Error::new(ErrorKind::Closed, CLOSE));
        }
        let headers = self.store_at_close(&mut state, outcome);
        if headers.is_err() {
            // The code that handles the error must not read changes that were not stored.
            state.changes = Changes::default();
        }
        // A request that does not use its session raises no event. Raised last, so that a panicking
        // listener can undo nothing.
        if !matches!(state.load_state, LoadState::Unread) {
            self.context.report_evictions();
        }
        headers
    }

    fn store_at_close(&self, state: &mut State, outcome: Outcome) -> Result<ResponseHeaders> {
        let has_failed = match outcome {
            Outcome::Completed => false,
            Outcome::ServerError => !self.context.settings.keep_on_server_error,
            Outcome::Panicked => true,
        };
        if state.is_ignored || outcome == Outcome::Panicked {
            state.changes = Changes::default();
        } else if has_failed {
            state.changes.drop_all_but_renewal();
        }
        let _: CommitOutcome = self.commit_all(state)?;
        if !has_failed {
            self.renew_old_id(state);
        }
        let id_fields = match state.load_state.issued().or_else(|| self.id_to_reseal(state)) {
            Some(id) => self.fields_with_id(id, state),
            // Only a sign-out removes the cookie. If a read found no session, another response may
            // have given the browser a newer cookie, and responses arrive in any order.
            None if state.ending.sign_out != SignOut::NotDone && !self.presented.is_empty() => {
                let Context { id_settings, settings, .. } = &*self.context;
                let mut fields = id_settings.carrier.remove(settings.no_store_when_signed_in);
                fields.extend(id_settings.former_removals());
                fields
            }
            None => Vec::new(),
        };
        Ok(self.headers(state, id_fields))
    }

    /// Returns the headers of the response after a failed close. They carry the id that an earlier
    /// sign-in or commit of the request has issued. Returns none in the closure of an update.
    pub(crate) fn headers_on_error(&self) -> ResponseHeaders {
        if self.running_update.is_on_this_thread() {
            return ResponseHeaders::default();
        }
        let state = self.lock();
        let issued = state.load_state.issued().map(|id| self.fields_with_id(id, &state));
        self.headers(&state, issued.unwrap_or_default())
    }

    /// Returns the header fields that send the id of the live session.
    fn fields_with_id(&self, id: &SessionId, state: &State) -> Vec<IdField> {
        let settings = &self.context.id_settings;
        let now = self.context.now();
        self.context.warn_if_rejected(self.rejecting_browsers);
        let record = state.load_state.session().map(|session| &session.record);
        let max_age = record.filter(|record| record.persistent).map(|record| {
            record.limits.absolute_deadline.map_or(Duration::MAX, |end| end.since(now))
        });
        let mut fields = settings.carrier.issue(id, max_age, now);
        // A cookie of a former name is never set again, so the first new cookie can remove it.
        if self.presented.ids.iter().any(|presented| presented.by_former_cookie) {
            fields.extend(settings.former_removals());
        }
        fields
    }

    fn headers(&self, state: &State, id_fields: Vec<IdField>) -> ResponseHeaders {
        let Context { id_settings, settings, .. } = &*self.context;
        let ResponseFacts { varies, has_token, has_flash, .. } = state.response;
        // What a streamed body reads later is not known yet.
        let reads_later =
            state.response.may_read_later && matches!(state.load_state, LoadState::Unread);
        let may_see_user = state.response.saw_user || reads_later;
        let is_private = settings.no_store_when_signed_in && may_see_user;
        let is_form = settings.no_store_with_csrf_token && has_token;
        let is_personal = !id_fields.is_empty() || has_token || has_flash;
        let shared_caching = if is_personal || (varies && !self.presented.is_empty()) {
            SharedCaching::Never
        } else if varies {
            SharedCaching::IfPublic
        } else {
            SharedCaching::Allowed
        };
        ResponseHeaders {
            id_fields,
            vary_on: varies.then(|| id_settings.carrier.request_header()),
            discarded: state.response.reports_discard,
            shared_caching,
            no_store: is_private || is_form,
            clear_site_data: settings.clear_site_data && state.ending.sign_out == SignOut::Done,
        }
    }

    /// Returns the presented id of the session, if it is the current one and its cookie was sealed
    /// with an old cookie key. It is not renewed instead: a renewal signs out a client that loses
    /// the response and then pauses for longer than the grace.
    fn id_to_reseal(&self, state: &State) -> Option<&SessionId> {
        let LiveSession { id_hash, .. } =
            state.load_state.session().filter(|_| !state.is_ignored)?;
        let is_to_reseal = |presented: &&PresentedId| {
            presented.sealed_with_old_key
                && !presented.by_former_cookie
                && presented.id.hash(self.realm_tag()) == *id_hash
        };
        let id = &self.presented.ids.iter().find(is_to_reseal)?.id;
        // Loads again, because another response may have given the client a newer id since this
        // request has loaded it. That response can still overtake this one.
        match self.blocking.run(|| self.context.store()?.load(id_hash, self.context.now())) {
            Ok(Loaded::Live(session)) if session.id_hash == *id_hash => Some(id),
            _ => None,
        }
    }
}
