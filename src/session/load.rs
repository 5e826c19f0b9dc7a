//! Whether a request has found its session, and the load, which looks for it.
//!
//! Uses the store and the context. Called by every method that reads the session. A commit records
//! here too what it has found.

use crate::backend::{Expected, LiveSession, Loaded, Missing};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{PublicId, SessionId, SessionIdHash};
use crate::session::absence::{Absence, Replaced};
use crate::session::shared::RetiredSinceOpen;
use crate::session::{GuessDetector, OnLoadFailure, Session, State};

/// What the presented ids find. The state changes in these ways:
///
/// | from | to | by |
/// |---|---|---|
/// | `Unread` | `Live`, `Absent` | the load, or the commit of a request that only writes |
/// | `Unread` | `Unreadable` | a load that failed |
/// | `Live`, `Absent` | `Live` with an issued id | a sign-in, a renewal, the beginning of a session |
/// | `Live` | `Absent` | a commit that finds no session |
/// | any | `Absent` | `destroy`, or a revocation by this request |
#[derive(Debug, Default)]
#[allow(clippy::large_enum_variant)] // one per request, stored inline
pub(super) enum LoadState {
    #[default]
    Unread,
    Live(Live),
    Absent(Absence),
    /// The load failed, and the request is treated as anonymous.
    Unreadable(Error),
}

/// The live session of a request.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) session: LiveSession,
    /// The id hash that found it. A replaced id in its grace finds a session too.
    pub(super) found_by: SessionIdHash,
    /// The id that this request has issued for it; the response carries it.
    pub(super) issued: Option<SessionId>,
}

impl LoadState {
    /// Returns the session of an id that this request issues.
    pub(super) fn with_new_id(session: LiveSession, id: SessionId) -> LoadState {
        let found_by = session.id_hash;
        LoadState::Live(Live { session, found_by, issued: Some(id) })
    }

    fn live(&self) -> Option<&Live> {
        match self {
            LoadState::Live(live) => Some(live),
            _ => None,
        }
    }

    fn absence(&self) -> Option<&Absence> {
        match self {
            LoadState::Absent(absence) => Some(absence),
            _ => None,
        }
    }

    pub(super) fn session(&self) -> Option<&LiveSession> {
        self.live().map(|live| &live.session)
    }

    pub(super) fn public_id(&self) -> Option<PublicId> {
        self.session().map(|session| session.record.public_id)
    }

    pub(super) fn data(&self) -> Option<&Data> {
        self.session().map(|session| &session.record.data)
    }

    pub(super) fn issued(&self) -> Option<&SessionId> {
        self.live()?.issued.as_ref()
    }

    /// Returns the replaced id because of which there is no session.
    pub(super) fn replaced(&self) -> Option<&Replaced> {
        self.absence()?.replaced.as_ref()
    }

    /// Returns whether changes of this request were discarded, because its session ended meanwhile.
    pub(super) fn has_discarded_changes(&self) -> bool {
        self.absence().is_some_and(|absence| absence.has_discarded_changes)
    }

    /// Records the session that a commit by this id hash has found.
    pub(super) fn set_session(&mut self, session: LiveSession, id_hash: &SessionIdHash) {
        match self {
            LoadState::Live(live) => live.session = session,
            _ => *self = LoadState::Live(Live { session, found_by: *id_hash, issued: None }),
        }
    }

    /// Returns what an update is computed on. If the presented id was replaced, then the commit
    /// expects no session: a sign-in that finds one after all recomputes the updates on it.
    pub(super) fn expected(&self) -> Expected {
        match (self.session(), self.replaced()) {
            (Some(session), _) => Expected::Revision(session.record.revision),
            (None, Some(_)) => Expected::NoSession,
            (None, None) => Expected::Anything,
        }
    }
}

impl Session {
    /// Loads the session at the first call, and returns the result of that load.
    pub(super) fn read<'s>(&self, state: &'s mut State) -> Result<&'s LoadState> {
        state.response.varies = true;
        if let LoadState::Unread = state.load_state {
            let now = self.context.now();
            state.first_use.get_or_insert(now);
            if let Err(error) = self.load(state, now) {
                if self.context.settings.on_load_failure == OnLoadFailure::Fail {
                    return Err(error);
                }
                self.context.events.raise(&Event::TreatedAsAnonymous { error: &error });
                state.load_state = LoadState::Unreadable(error);
            }
            self.touch_loaded(state, now);
        }
        Ok(&state.load_state)
    }

    /// Loads the session of the first presented id that finds one.
    fn load(&self, state: &mut State, now: Timestamp) -> Result<()> {
        let attempt = |state: &mut State, id_hash: &SessionIdHash| {
            // Checked for each id, so that a request without ids skips the check.
            let store = self.context.store.get()?;
            // A store that knows the session in memory needs no call of the hook.
            let immediate = self.blocking.hook.and_then(|_| store.try_load(id_hash, now));
            let found =
                immediate.map_or_else(|| self.blocking.run(|| store.load(id_hash, now)), Ok);
            Ok(match found? {
                Loaded::Live(session) => {
                    state.load_state.set_session(session, id_hash);
                    None
                }
                Loaded::Missing(missing) => Some(missing),
            })
        };
        self.try_presented_ids(state, attempt).map(drop)
    }

    /// Attempts a load or a change by each presented id until one finds a live session, and returns
    /// whether one did; if not, the session is absent. An attempt returns the reason why its id
    /// found none.
    pub(super) fn try_presented_ids(
        &self,
        state: &mut State,
        mut attempt: impl FnMut(&mut State, &SessionIdHash) -> Result<Option<Missing>>,
    ) -> Result<bool> {
        let mut absence = Absence::default();
        for id_hash in self.presented.id_hashes() {
            let Some(missing) = attempt(state, &id_hash)? else {
                state.ending.reason = None;
                return Ok(true);
            };
            match missing {
                Missing::Replaced { id, session } => {
                    let new = self.new_replaced(None, &id, &session.record);
                    // A replacement that the request overlaps comes first, so that a planted id
                    // does not hide it.
                    let have = absence.replaced.as_ref();
                    if have.is_none_or(|have| new.overlaps && !have.overlaps) {
                        absence.replaced = Some(new);
                    }
                }
                Missing::Undecodable { public_id, error } => {
                    let public_id = public_id.as_ref();
                    self.context.events.raise(&Event::Undecodable { public_id, error: &error });
                }
                Missing::NotFound { reached_limit } => {
                    let reason =
                        || reached_limit.or_else(|| self.context.end_trail.reason(&id_hash));
                    state.ending.reason = state.ending.reason.or_else(reason);
                    let retired_ids = &self.context.retired_ids;
                    let retired = retired_ids.retired_since(&id_hash, self.retired_at_open)?;
                    absence.retired_since_open = absence.retired_since_open.max(retired);
                    if retired != RetiredSinceOpen::Yes {
                        self.context.events.raise(&Event::UnknownId { address: self.address });
                        self.context.count_guess(self.address, GuessDetector::hash_of(&id_hash));
                    }
                }
            }
        }
        self.handle_stale_id(&mut absence)?;
        state.load_state = LoadState::Absent(absence);
        Ok(false)
    }
}
