//! Whether a request has found its session, and the load, which looks for it.
//!
//! Invariant: a load that has succeeded is not repeated. Afterwards only commits, calls by which
//! the request ends its session, and an `ignore` that cancels such a call change what it has found.

use std::sync::Arc;

use crate::backend::{Expected, LiveSession, Loaded, Unreadable};
use crate::clock::Timestamp;
use crate::context::{GuessDetector, RetiredSinceOpen};
use crate::data::Data;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{PublicId, SessionId, SessionIdHash};
use crate::session::absence::{Absence, UsedReplacedId};
use crate::session::{Session, State};
use crate::settings::OnLoadFailure;

/// What the presented ids find. The [design] has the reasons.
///
/// [design]: crate::guide::design#states-of-the-session-of-a-request
///
/// | state | entered by | changes in this state |
/// |---|---|---|
/// | `Unread` | opening; it stays after a failed load, except in the last row | wait for the commit, which loads the session first |
/// | `Live` | a load; a renewal; a sign-in or the creation of a session, which issue an id | are merged into the session |
/// | `Absent` | a load that finds no session; from any state, `destroy`; from `Live`, a commit that no longer finds the session, or its revocation by this request | [create a session, or are discarded](Session::create_or_discard) |
/// | `LoadFailed` | a failed load, unless by a commit, with [`OnLoadFailure::TreatAsAnonymous`]; it ends by `destroy` only | are refused |
#[derive(Debug, Default)]
pub(super) enum LoadState {
    #[default]
    Unread,
    Live {
        /// Without the touch of this request: a store can compare the record with the stored one.
        session: Arc<LiveSession>,
        /// The hash of the id that has found the session: the current one, or one in its grace.
        found_by: SessionIdHash,
        /// The id that this request has issued for the session, and that the response carries.
        issued: Option<SessionId>,
    },
    Absent(Absence),
    /// The load failed, and the request is treated as anonymous.
    LoadFailed(Error),
}

impl LoadState {
    /// Returns the session that a load by this id hash has found.
    fn loaded(session: LiveSession, found_by: SessionIdHash) -> LoadState {
        LoadState::Live { session: Arc::new(session), found_by, issued: None }
    }

    /// Returns the session of an id that this request issues.
    pub(super) fn with_new_id(session: LiveSession, id: SessionId) -> LoadState {
        let found_by = session.id_hash;
        LoadState::Live { session: Arc::new(session), found_by, issued: Some(id) }
    }

    pub(super) fn session(&self) -> Option<&LiveSession> {
        self.shared_session().map(Arc::as_ref)
    }

    /// Returns the session, which commits share.
    pub(super) fn shared_session(&self) -> Option<&Arc<LiveSession>> {
        let LoadState::Live { session, .. } = self else { return None };
        Some(session)
    }

    pub(super) fn public_id(&self) -> Option<PublicId> {
        self.session().map(|session| session.record.public_id)
    }

    pub(super) fn data(&self) -> Option<&Data> {
        self.session().map(|session| &session.record.data)
    }

    pub(super) fn issued(&self) -> Option<&SessionId> {
        let LoadState::Live { issued, .. } = self else { return None };
        issued.as_ref()
    }

    /// Returns the replaced id of a request without a session, if it has one.
    pub(super) fn replaced_id(&self) -> Option<&UsedReplacedId> {
        let LoadState::Absent(absence) = self else { return None };
        absence.replaced_id.as_ref()
    }

    /// Returns whether changes of this request were discarded, as further values will be.
    pub(super) fn has_discarded(&self) -> bool {
        matches!(self, LoadState::Absent(Absence { has_discarded: true, .. }))
    }

    /// Returns the condition under which a commit of this request's updates is valid.
    pub(super) fn expected(&self) -> Expected {
        match (self.session(), self.replaced_id()) {
            // The updates ran on the data of this revision.
            (Some(session), _) => Expected::Revision(session.record.revision),
            // They ran on empty data. A sign-in by the replaced id may find the session: the
            // condition then fails, and they run again on its data.
            (None, Some(_)) => Expected::NoSession,
            // They ran on empty data, and no commit of this request can find a session.
            (None, None) => Expected::Anything,
        }
    }
}

impl Session {
    /// Loads the session at the first call, and returns the result of that load.
    pub(super) fn ensure_loaded<'s>(&self, state: &'s mut State) -> Result<&'s LoadState> {
        state.response.varies = true;
        if let LoadState::Unread = state.load_state {
            let now = self.context.now();
            self.record_use(state, || now);
            if let Err(error) = self.load(state, now) {
                if self.context.settings.on_load_failure == OnLoadFailure::Fail {
                    return Err(error);
                }
                self.context.events.raise(&Event::TreatedAsAnonymous { error: &error });
                state.set_load_state(LoadState::LoadFailed(error));
            }
            self.touch_loaded(state, now);
        }
        Ok(&state.load_state)
    }

    /// Loads the session for a change that depends on it, which a failed load refuses.
    pub(super) fn load_for_change(&self, state: &mut State, operation: &'static str) -> Result<()> {
        self.ensure_loaded(state)?;
        state.refuse_after_failed_load(operation)
    }

    /// Loads the session for a commit of this request, if the request has not read it. The commit
    /// records the activity, and reports a failed load, which a later commit repeats.
    pub(super) fn load_for_commit(&self, state: &mut State) -> Result<()> {
        match state.load_state {
            LoadState::Unread => self.load(state, self.context.now()),
            _ => Ok(()),
        }
    }

    /// Loads the session of the first presented id that finds one.
    fn load(&self, state: &mut State, now: Timestamp) -> Result<()> {
        let mut replaced_id: Option<UsedReplacedId> = None;
        let mut retired = RetiredSinceOpen::No;
        for id_hash in self.presented.id_hashes(self.realm_tag()) {
            let unreadable = match self.load_by(&id_hash, now)? {
                Loaded::Live(session) => {
                    state.end_reason = None;
                    state.set_load_state(LoadState::loaded(session, id_hash));
                    return Ok(());
                }
                Loaded::Unreadable(unreadable) => unreadable,
            };
            if let Unreadable::NotFound { .. } = unreadable {
                let retired_ids = &self.context.retired_ids;
                let found = retired_ids.retired_since(&id_hash, self.opened_tick);
                if found != RetiredSinceOpen::Yes {
                    self.context.events.raise(&Event::UnknownId { address: self.address });
                    self.context.count_guess(self.address, GuessDetector::hash_of(&id_hash));
                }
                retired = retired.max(found);
            }
            self.note_unreadable(state, &id_hash, &unreadable);
            // A replacement that the request overlaps comes first, so that a planted id does not
            // hide it.
            if let Some(next) = self.used_replaced_id(unreadable, None)
                && replaced_id.as_ref().is_none_or(|first| next.overlaps && !first.overlaps)
            {
                replaced_id = Some(next);
            }
        }
        self.handle_stale_id(&mut replaced_id)?;
        let absence = Absence { retired, replaced_id, ..Absence::default() };
        state.set_load_state(LoadState::Absent(absence));
        Ok(())
    }

    fn load_by(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        // Checked for each id, so that a request without ids skips the check.
        let store = self.context.store()?;
        // A store that knows the session in memory needs no call of the hook.
        let has_hook = self.blocking.hook.is_some();
        let in_memory = if has_hook { store.try_load(id_hash, now) } else { None };
        in_memory.map_or_else(|| self.blocking.run(|| store.load(id_hash, now)), Ok)
    }
}
