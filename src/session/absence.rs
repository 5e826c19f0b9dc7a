//! Requests without a session: why there is none, and what their changes do.
//!
//! Uses `retired_ids`. Called by the load, and by the commit, which may find that the session
//! has ended meanwhile.

use crate::backend::{Missing, ReplacedId};
use crate::context::RetiredSinceOpen;
use crate::error::Result;
use crate::event::Event;
use crate::id::{PublicId, SessionId, SessionIdHash};
use crate::record::Record;
use crate::session::load::LoadState;
use crate::session::{Session, State};

/// A request without a session: why it finds none, and what becomes of its changes.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// Whether its id was retired since this request was opened.
    pub(super) retired_since_open: RetiredSinceOpen,
    /// The replacement of its id, if the store remembers one.
    pub(super) replacement: Option<IdReplacement>,
    /// Whether changes of this request were discarded; further ones then are too.
    pub(super) discards_further_changes: bool,
    /// The id for the session that is created next, from which its CSRF secret is derived.
    pub(super) next_id: Option<SessionId>,
}

/// The replacement of an id of this request.
#[derive(Debug)]
pub(super) struct IdReplacement {
    /// The hash of the replaced id.
    pub(super) id_hash: SessionIdHash,
    /// The replaced id itself, if the request presented or issued it.
    pub(super) id: Option<SessionId>,
    /// The public id of the session.
    pub(super) public_id: PublicId,
    /// Whether the request overlaps it: the client receives its new id in another
    /// response.
    pub(super) overlaps: bool,
    /// Whether the browser keeps the session's cookie when it is closed.
    pub(super) persistent: bool,
}

impl Session {
    /// Creates a session with the changes of a request that has found none, or discards them. A
    /// discard is reported: by an event, the result of `commit`, and the response.
    ///
    /// | why there is no session | changed values | only a renewal |
    /// |---|---|---|
    /// | there was none, it has expired, or it cannot be decoded | create one | no effect |
    /// | this request has ended it, by `destroy` or a call of the manager | create one | no effect |
    /// | it presents a stale id | create one | no effect |
    /// | it overlaps the replacement of its id | discarded | no effect |
    /// | this request [has discarded changes](Absence::discards_further_changes) | discarded | no effect |
    /// | this process has [retired](RetiredSinceOpen) its id since this request was opened | discarded | discarded |
    pub(super) fn create_or_discard(&self, state: &mut State) -> Result<()> {
        let LoadState::Absent(absence) = &state.load_state else { return Ok(()) };
        let has_data = !state.changes.delta().is_empty();
        let overlaps = absence.replacement.as_ref().is_some_and(|replacement| replacement.overlaps);
        let discards_data = absence.discards_further_changes || overlaps;
        let is_retired = match absence.retired_since_open {
            RetiredSinceOpen::Yes => true,
            RetiredSinceOpen::InDoubt => !discards_data && self.was_retired_in_flight()?,
            RetiredSinceOpen::No => false,
        };
        if is_retired || (has_data && discards_data) {
            self.discard_changes(state, None);
        } else if has_data {
            self.create_session(state)?;
        }
        Ok(())
    }

    /// Returns whether a call that was in flight when the load found no session has retired a
    /// presented id.
    fn was_retired_in_flight(&self) -> Result<bool> {
        self.context.process.check()?;
        let retired_ids = &self.context.retired_ids;
        let is_retired = |id_hash| retired_ids.retired_since_blocking(&id_hash, self.opened_tick);
        self.blocking.run(|| Ok(self.presented.id_hashes().any(is_retired)))
    }

    /// Continues without the session that was live, because a commit no longer finds it.
    ///
    /// | the commit finds | changed values | only a renewal |
    /// |---|---|---|
    /// | no session: it has ended or expired | discarded | discarded |
    /// | a session that cannot be decoded | discarded | discarded |
    /// | the session under another id | discarded | no effect |
    pub(super) fn leave_session(&self, state: &mut State, missing: &Missing) {
        let LoadState::Live { session, issued, .. } = &state.load_state else { return };
        let public_id = session.record.public_id;
        let has_data = !state.changes.delta().is_empty();
        let discards = has_data || !matches!(missing, Missing::Replaced { .. });
        let mut absence = Absence::default();
        match missing {
            Missing::NotFound { reached_limit } => {
                let find_reason = || self.context.end_trail.reason(&session.id_hash);
                state.ending.reason = reached_limit.or_else(find_reason);
            }
            Missing::Replaced { id, .. } => {
                // After a discard, no later sign-in of this request may join another one, or be
                // joined, through the id that this request has issued.
                let issued = issued.as_ref().filter(|_| !discards);
                absence.replacement = Some(self.replacement(issued, id, &session.record));
            }
            Missing::Undecodable { public_id, error } => {
                let public_id = public_id.as_ref();
                self.context.events.raise(&Event::Undecodable { public_id, error });
            }
        }
        state.set_absent(absence);
        if discards {
            self.discard_changes(state, Some(&public_id));
        }
    }

    pub(super) fn replacement(
        &self,
        issued: Option<&SessionId>,
        id: &ReplacedId,
        record: &Record,
    ) -> IdReplacement {
        let opened = self.opened(self.context.now());
        IdReplacement {
            id_hash: id.id_hash,
            id: self.find_id(issued, &id.id_hash),
            public_id: record.public_id,
            overlaps: id.overlaps(opened),
            persistent: record.persistent,
        }
    }

    fn discard_changes(&self, state: &mut State, public_id: Option<&PublicId>) {
        if let LoadState::Absent(absence) = &mut state.load_state {
            absence.discards_further_changes = true;
        }
        state.response.reports_discard = true;
        state.changes.drop_all_but_renewal();
        self.context.events.raise(&Event::ChangesDiscarded { public_id });
    }
}
