//! The first read of a request's session: which of the presented ids finds a session, and why none
//! does.
//!
//! Uses the store and the context. Called by every method that reads the session; blind commits use
//! [`Missing`] too.

use crate::backend::{Lookup, Missing, ReplacedId};
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::id::{PublicId, SessionIdHash};
use crate::session::{GuessDetector, LoadState, OnLoadFailure, Session, State};

/// The reasons why a request that presented ids finds no session.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Absence {
    /// Whether the session ended while the request was under way.
    pub(super) ended: bool,
    /// The presented id that was replaced, if the store remembers one.
    pub(super) replaced: Option<Replaced>,
}

/// A presented id that was replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replaced {
    pub(super) id_hash: SessionIdHash,
    /// The public id of the session.
    pub(super) public_id: PublicId,
    /// The request was under way at the replacement: the client receives its new id in another
    /// response.
    pub(super) under_way: bool,
    /// Whether the browser keeps the session's cookie when it is closed, if the session was read.
    pub(super) persistent: Option<bool>,
}

impl Absence {
    /// Returns whether the changes of this request are too late. They are then discarded and do not
    /// begin a new session.
    pub(super) fn is_overtaken(&self) -> bool {
        self.ended || self.replaced.is_some_and(|replaced| replaced.under_way)
    }

    /// Keeps the first replaced id, but prefers one that was replaced while the request was under
    /// way, so that a planted id does not hide it.
    pub(super) fn note(&mut self, new: Replaced) {
        if self.replaced.is_none_or(|have| new.under_way && !have.under_way) {
            self.replaced = Some(new);
        }
    }
}

pub(super) const NOTHING: LoadState = LoadState::None(Absence { ended: false, replaced: None });

impl Session {
    /// Loads the session at the first call, and returns the result of that load.
    pub(super) fn read<'s>(&self, state: &'s mut State) -> Result<&'s LoadState> {
        state.looked_at = true;
        self.follow_own_revocation(state);
        if let LoadState::Unread = state.known {
            let now = self.context.now();
            state.used.get_or_insert(now);
            state.known = match self.load(now, &mut state.in_doubt, &mut state.found_by) {
                Ok(mut known) => {
                    if let LoadState::Live(session) = &mut known
                        && !state.ignored
                    {
                        self.context.touch_early(self.blocking_hook, session, now);
                    }
                    known
                }
                Err(error) => match self.context.settings.on_load_failure {
                    OnLoadFailure::Fail => return Err(error),
                    OnLoadFailure::TreatAsAnonymous => {
                        self.context.events.raise(&Event::TreatedAsAnonymous { error: &error });
                        state.unreadable = Some(error);
                        NOTHING
                    }
                },
            };
        }
        Ok(&state.known)
    }

    /// Loads the session of the first presented id that finds one.
    fn load(
        &self,
        now: Timestamp,
        in_doubt: &mut bool,
        found_by: &mut Option<SessionIdHash>,
    ) -> Result<LoadState> {
        let mut absence = Absence::default();
        for asked in self.presented.keys() {
            // Inside the loop, so that a request without ids does not pay for it.
            let store = self.context.store()?;
            let immediate = self.blocking_hook.and_then(|_| store.try_load(&asked, now));
            let found = match immediate {
                Some(found) => found,
                None => self.run_blocking(|| store.load(&asked, now))?,
            };
            let missing = match found {
                Lookup::Live { session, .. } => {
                    *found_by = Some(asked);
                    return Ok(LoadState::Live(session));
                }
                Lookup::Missing(missing) => missing,
            };
            match missing {
                Missing::Replaced { id, session, .. } => {
                    let persistent = Some(session.record.persistent);
                    let public_id = session.record.public_id;
                    absence.note(Replaced { persistent, ..self.replaced(&id, public_id) });
                }
                Missing::NotFound { .. } => {
                    match self.context.recently_ended.try_has_ended_since(&asked, self.opened) {
                        Some(true) => absence.ended = true,
                        ended => {
                            *in_doubt |= ended.is_none();
                            self.unknown_id(&asked);
                        }
                    }
                }
                Missing::Undecodable { public_id, error, .. } => {
                    self.undecodable(public_id.as_ref(), &error);
                }
            }
        }
        self.report_late_use(&mut absence)?;
        Ok(LoadState::None(absence))
    }

    pub(super) fn replaced(&self, id: &ReplacedId, public_id: PublicId) -> Replaced {
        // If the clock was set back, the request does not count as late.
        let opened = self.opened_at.min(self.context.now());
        let under_way = id.was_under_way(opened);
        Replaced { id_hash: id.id_hash, public_id, under_way, persistent: None }
    }

    /// Raises an event if the request presents a replaced id late and no id of a live session, and
    /// ends the session if the settings say so.
    pub(super) fn report_late_use(&self, absence: &mut Absence) -> Result<()> {
        let Some(late) = absence.replaced.filter(|replaced| !replaced.under_way) else {
            return Ok(());
        };
        let event = Event::ReplacedIdUsed { public_id: &late.public_id, address: self.address };
        self.context.events.raise(&event);
        if self.context.settings.end_session_on_replaced_id {
            self.end_session_of(&late.id_hash)?;
            absence.replaced = None;
        }
        Ok(())
    }

    pub(super) fn unknown_id(&self, id_hash: &SessionIdHash) {
        self.context.events.raise(&Event::UnknownId { address: self.address });
        self.context.count_guess(self.address, GuessDetector::hash_of(id_hash));
    }

    pub(super) fn undecodable(&self, public_id: Option<&PublicId>, error: &Error) {
        self.context.events.raise(&Event::Undecodable { public_id, error });
    }
}
