//! Requests without a session: why there is none, and what their changes do.
//!
//! Invariant: after a request has discarded changes, its values begin no session, until it signs in
//! or ends its session. A renewal alone never begins one.

use crate::backend::{LiveSession, Unreadable};
use crate::context::RetiredSinceOpen;
use crate::data::CsrfSecret;
use crate::error::Result;
use crate::event::Event;
use crate::id::{PublicId, SessionId, SessionIdHash, UserKey};
use crate::record::Record;
use crate::session::changes::Changes;
use crate::session::load::LoadState;
use crate::session::{Session, State};

/// A request without a session.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Whether an id of the request was retired since the request was opened. The load asks,
    /// because a call that begins later, such as this request's own, has not ended the session.
    pub(super) retired: RetiredSinceOpen,
    /// The replaced id of the request, if the store remembers one.
    pub(super) replaced_id: Option<UsedReplacedId>,
    /// Whether changes of this request were discarded.
    pub(super) has_discarded: bool,
}

/// A replaced id with which this request looked for its session.
#[derive(Debug)]
pub(super) struct UsedReplacedId {
    pub(super) id_hash: SessionIdHash,
    /// The id itself, if the request presented or issued it.
    pub(super) id: Option<SessionId>,
    /// The public id of the session.
    pub(super) public_id: PublicId,
    /// Whether the request overlaps the replacement, so that the new id is on its way to the client
    /// in another response.
    pub(super) overlaps: bool,
    /// The user of the session.
    pub(super) user: Option<UserKey>,
    /// Whether the browser keeps the session's cookie when it is closed.
    pub(super) persistent: bool,
    /// The CSRF secret that the session had while the id was current.
    pub(super) csrf_secret: Option<CsrfSecret>,
}

impl Session {
    /// Creates a session with the changes of a request that has found none, or discards them. A
    /// discard is reported: by an event, the result of `commit`, and the response. The first row
    /// that applies decides; the [design] has the reasons:
    ///
    /// [design]: crate::guide::design#states-of-the-session-of-a-request
    ///
    /// | the request | changed values | only a renewal |
    /// |---|---|---|
    /// | has discarded changes before | discarded | no effect |
    /// | overlaps the replacement of its id | discarded | no effect |
    /// | presents an id that was retired since the request was opened | discarded | discarded |
    /// | any other | create a session | no effect |
    ///
    /// A handler that renews the id so learns that its session has just ended.
    pub(super) fn create_or_discard(&self, state: &mut State) -> Result<()> {
        let LoadState::Absent(absence) = &state.load_state else { return Ok(()) };
        let has_values = !state.changes.delta().is_empty();
        let overlaps = absence.replaced_id.as_ref().is_some_and(|replaced| replaced.overlaps);
        let discards = if absence.has_discarded || overlaps {
            has_values
        } else {
            self.presents_retired_id(absence)?
        };
        if discards {
            self.discard_changes(state, None);
        } else if has_values {
            self.create_session(state)?;
        }
        Ok(())
    }

    /// Returns whether a presented id was retired since the request was opened. If the load was in
    /// doubt, waits for the calls that were in flight.
    fn presents_retired_id(&self, absence: &Absence) -> Result<bool> {
        if absence.retired != RetiredSinceOpen::InDoubt {
            return Ok(absence.retired == RetiredSinceOpen::Yes);
        }
        self.context.process.check()?;
        let retired_ids = &self.context.retired_ids;
        let is_retired = |id_hash| retired_ids.retired_since_blocking(&id_hash, self.opened_tick);
        self.blocking.run(|| Ok(self.presented.id_hashes(self.realm_tag()).any(is_retired)))
    }

    /// Continues without the session that was live, because a commit no longer finds it.
    ///
    /// | the commit finds | changed values | only a renewal |
    /// |---|---|---|
    /// | no session: it has ended or expired | discarded | discarded |
    /// | a session that cannot be decoded | discarded | discarded |
    /// | the session under another id | discarded | no effect |
    pub(super) fn continue_after_loss(&self, state: &mut State, unreadable: Unreadable) {
        let LoadState::Live { session, issued, .. } = &state.load_state else { return };
        let LiveSession { record: Record { public_id, persistent, .. }, id_hash } = **session;
        let user = session.record.user.clone();
        let has_values = !state.changes.delta().is_empty();
        let discards = has_values || !matches!(unreadable, Unreadable::Replaced { .. });
        // After a discard the response does not carry the id that this request has issued. If this
        // request signs in later, its id is random: the issued id reaches no client, so no other
        // sign-in can present it.
        let issued = issued.clone().filter(|_| !discards);
        self.note_unreadable(state, &id_hash, &unreadable);
        let replaced_id = self.used_replaced_id(unreadable, issued.as_ref());
        // Another sign-in may have chosen otherwise; this request keeps the choice that it knows.
        let replaced_id = replaced_id.map(|used| UsedReplacedId { persistent, user, ..used });
        let absence = Absence { replaced_id, ..Absence::default() };
        state.set_load_state(LoadState::Absent(absence));
        if discards {
            self.discard_changes(state, Some(&public_id));
        }
    }

    /// Notes why an id finds no session: keeps the reason for which the session has ended, or
    /// raises an event if it cannot be decoded.
    pub(super) fn note_unreadable(
        &self,
        state: &mut State,
        id_hash: &SessionIdHash,
        unreadable: &Unreadable,
    ) {
        match unreadable {
            Unreadable::NotFound { reached_limit } => {
                let find_reason = || self.context.end_trail.reason(id_hash);
                state.end_reason = state.end_reason.or(*reached_limit).or_else(find_reason);
            }
            Unreadable::Undecodable { public_id, error } => {
                let public_id = public_id.as_ref();
                self.context.events.raise(&Event::Undecodable { public_id, error });
            }
            Unreadable::Replaced { .. } => {}
        }
    }

    /// Returns the id that finds no session, if it was replaced. `issued` is the id that this
    /// request has issued, if any.
    pub(super) fn used_replaced_id(
        &self,
        unreadable: Unreadable,
        issued: Option<&SessionId>,
    ) -> Option<UsedReplacedId> {
        let Unreadable::Replaced { replaced, session } = unreadable else { return None };
        Some(UsedReplacedId {
            id_hash: replaced.id_hash,
            id: self.find_id(issued, &replaced.id_hash),
            public_id: session.record.public_id,
            overlaps: replaced.overlaps(self.opened_at_or(self.context.now())),
            persistent: session.record.persistent,
            user: session.record.user,
            csrf_secret: replaced.csrf_secret,
        })
    }

    fn discard_changes(&self, state: &mut State, public_id: Option<&PublicId>) {
        if let LoadState::Absent(absence) = &mut state.load_state {
            absence.has_discarded = true;
        }
        state.response.reports_discard = true;
        state.changes = Changes::default();
        self.context.events.raise(&Event::ChangesDiscarded { public_id });
    }
}
