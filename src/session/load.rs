//! The state of a request's session: unread, live, absent or unreadable; and the load, which ends
//! the first of them.
//!
//! Uses the store and the context. Called by every method that reads the session, and by commits,
//! which find a session or lose it.

use crate::backend::{LiveSession, Lookup, Missing, ReplacedId};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{PublicId, SessionId, SessionIdHash};
use crate::record::Record;
use crate::session::recently_ended::Ended;
use crate::session::{GuessDetector, OnLoadFailure, Session, State};

/// What the presented ids find.
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

/// The reasons why a request finds no session, and what a write does then.
#[derive(Debug, Default)]
pub(super) struct Absence {
    pub(super) ended: Ended,
    /// The id that was replaced, if the store remembers one.
    pub(super) replaced: Option<Replaced>,
    /// Whether the session ended, or its id was replaced, before its changes were stored.
    pub(super) lost: bool,
    /// The id for the session that begins next, from which its CSRF secret is derived.
    pub(super) next_id: Option<SessionId>,
}

/// An id of this request that was replaced.
#[derive(Debug)]
pub(super) struct Replaced {
    pub(super) id_hash: SessionIdHash,
    /// The id itself, if the request presented or issued it.
    pub(super) id: Option<SessionId>,
    /// The public id of the session.
    pub(super) public_id: PublicId,
    /// The request counts as concurrent with the replacement: the client receives its new id in
    /// another response.
    pub(super) concurrent: bool,
    /// Whether the browser keeps the session's cookie when it is closed.
    pub(super) persistent: bool,
}

/// The revision of an empty session while the session lives under another id. Revisions count from
/// 1, so it matches none, and a sign-in recomputes the updates of the empty session.
const NO_REVISION: u64 = 0;

impl Live {
    /// Returns the session of an id that this request issues.
    pub(super) fn issued(session: LiveSession, id: SessionId) -> LoadState {
        let found_by = session.id_hash;
        LoadState::Live(Live { session, found_by, issued: Some(id) })
    }
}

impl LoadState {
    pub(super) fn session(&self) -> Option<&LiveSession> {
        match self {
            LoadState::Live(live) => Some(&live.session),
            _ => None,
        }
    }

    pub(super) fn public_id(&self) -> Option<PublicId> {
        self.session().map(|session| session.record.public_id)
    }

    pub(super) fn data(&self) -> Option<&Data> {
        self.session().map(|session| &session.record.data)
    }

    pub(super) fn issued(&self) -> Option<&SessionId> {
        match self {
            LoadState::Live(live) => live.issued.as_ref(),
            _ => None,
        }
    }

    /// Returns the replaced id because of which there is no session.
    pub(super) fn replaced(&self) -> Option<&Replaced> {
        match self {
            LoadState::Absent(absence) => absence.replaced.as_ref(),
            _ => None,
        }
    }

    /// Returns whether changes of this request were lost with the session.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, LoadState::Absent(absence) if absence.lost)
    }

    /// Records the session that a commit by this id hash has found.
    pub(super) fn update(&mut self, session: LiveSession, id_hash: &SessionIdHash) {
        match self {
            LoadState::Live(live) => live.session = session,
            _ => *self = LoadState::Live(Live { session, found_by: *id_hash, issued: None }),
        }
    }

    /// Returns the revision on which an update is computed.
    pub(super) fn revision(&self) -> Option<u64> {
        match self {
            LoadState::Live(live) => Some(live.session.record.revision),
            _ => self.replaced().map(|_| NO_REVISION),
        }
    }
}

impl Absence {
    /// Returns whether the changes of this request are discarded and do not begin a new session.
    pub(super) fn discards_changes(&self) -> bool {
        let is_replaced = self.replaced.as_ref().is_some_and(|replaced| replaced.concurrent);
        self.lost || self.ended == Ended::Yes || is_replaced
    }
}

impl Session {
    /// Loads the session at the first call, and returns the result of that load.
    pub(super) fn read<'s>(&self, state: &'s mut State) -> Result<&'s LoadState> {
        state.response.varies = true;
        self.apply_own_revocation(state);
        if let LoadState::Unread = state.loaded {
            let now = self.context.now();
            state.activity.use_at(now);
            if let Err(error) = self.load(state, now) {
                if self.context.settings.on_load_failure == OnLoadFailure::Fail {
                    return Err(error);
                }
                self.context.events.raise(&Event::TreatedAsAnonymous { error: &error });
                state.loaded = LoadState::Unreadable(error);
            }
            self.touch_loaded(state, now);
        }
        Ok(&state.loaded)
    }

    /// Loads the session of the first presented id that finds one.
    fn load(&self, state: &mut State, now: Timestamp) -> Result<()> {
        let attempt = |state: &mut State, id_hash: &SessionIdHash| {
            // Checked for each id, so that a request without ids skips the check.
            let store = self.context.store()?;
            let immediate = self.blocking_hook.and_then(|_| store.try_load(id_hash, now));
            let found =
                immediate.map_or_else(|| self.run_blocking(|| store.load(id_hash, now)), Ok);
            Ok(match found? {
                Lookup::Live { session, .. } => {
                    state.loaded.update(session, id_hash);
                    None
                }
                Lookup::Missing(missing) => Some(missing),
            })
        };
        let recently_ended = &self.context.recently_ended;
        let has_ended =
            |id_hash: &_| Ok(recently_ended.try_has_ended_since(id_hash, self.endings_at_open));
        self.first_live(state, attempt, has_ended)
    }

    /// Attempts a load or a change by each presented id until one finds a live session. If none does,
    /// the session is absent. An attempt returns the reason why its id found none; `has_ended` says
    /// whether the session of an unknown id has ended meanwhile.
    pub(super) fn first_live(
        &self,
        state: &mut State,
        mut attempt: impl FnMut(&mut State, &SessionIdHash) -> Result<Option<Missing>>,
        has_ended: impl Fn(&SessionIdHash) -> Result<Ended>,
    ) -> Result<()> {
        let mut absence = Absence::default();
        for id_hash in self.presented.id_hashes() {
            let Some(missing) = attempt(state, &id_hash)? else { return Ok(()) };
            match missing {
                Missing::Replaced { id, session, .. } => {
                    let new = self.new_replaced(&LoadState::Unread, &id, &session.record);
                    // One that was replaced concurrently comes first, so that a planted id does not
                    // hide it.
                    let have = absence.replaced.as_ref();
                    if have.is_none_or(|have| new.concurrent && !have.concurrent) {
                        absence.replaced = Some(new);
                    }
                }
                Missing::Undecodable { public_id, error, .. } => {
                    let public_id = public_id.as_ref();
                    self.context.events.raise(&Event::Undecodable { public_id, error: &error });
                }
                Missing::NotFound { .. } => {
                    let ended = has_ended(&id_hash)?;
                    absence.ended = absence.ended.max(ended);
                    if ended != Ended::Yes {
                        self.context.events.raise(&Event::UnknownId { address: self.address });
                        self.context.count_guess(self.address, GuessDetector::hash_of(&id_hash));
                    }
                }
            }
        }
        self.report_stale_id(&mut absence)?;
        state.loaded = LoadState::Absent(absence);
        Ok(())
    }

    /// Records the loss of the live session, which another request has ended or given a new id.
    pub(super) fn lose_session(&self, state: &mut State, missing: &Missing) {
        // If another request replaced the id, a renewal without data changes loses nothing.
        let has_data = !state.changes.delta().is_empty();
        let is_lost = has_data || !matches!(missing, Missing::Replaced { .. });
        let public_id = state.loaded.public_id();
        let mut absence = Absence::default();
        match (missing, state.loaded.session()) {
            (Missing::Replaced { id, .. }, Some(session)) => {
                // An id that this request issued is not used after its changes were lost.
                let found = if is_lost { &LoadState::Unread } else { &state.loaded };
                absence.replaced = Some(self.new_replaced(found, id, &session.record));
            }
            (Missing::Undecodable { public_id, error, .. }, _) => {
                let public_id = public_id.as_ref();
                self.context.events.raise(&Event::Undecodable { public_id, error });
            }
            _ => {}
        }
        state.set_absent(absence);
        if is_lost {
            self.discard_changes(state, public_id.as_ref());
        }
    }

    fn new_replaced(&self, found: &LoadState, id: &ReplacedId, record: &Record) -> Replaced {
        // If the clock was set back, the id does not count as stale.
        let opened = self.opened_at.min(self.context.now());
        Replaced {
            id_hash: id.id_hash,
            id: self.own_id(found, &id.id_hash),
            public_id: record.public_id,
            concurrent: id.counts_as_concurrent(opened),
            persistent: record.persistent,
        }
    }

    /// Raises an event if the request presents a stale id and no id of a live session, and ends the
    /// session if the settings say so.
    fn report_stale_id(&self, absence: &mut Absence) -> Result<()> {
        let stale = absence.replaced.as_ref().filter(|replaced| !replaced.concurrent);
        let Some(Replaced { id_hash, public_id, .. }) = stale else { return Ok(()) };
        self.context.events.raise(&Event::ReplacedIdUsed { public_id, address: self.address });
        if self.context.settings.end_session_on_replaced_id {
            self.end_session_of(id_hash)?;
            absence.replaced = None;
        }
        Ok(())
    }
}
