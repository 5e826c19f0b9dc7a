//! The sessions that a request ends: by `destroy`, by a sign-in in their place, or by a stale id.
//! The first two are marked, and the next commit ends them.
//!
//! Invariant: a mark stays until the store has ended the session. Only an `ignore` removes it
//! before, if it is of a `destroy` of which no part was carried out.

use std::mem;

use crate::backend::{Action, Commit, CommitAnswer, LiveSession};
use crate::delta::Delta;
use crate::error::Result;
use crate::event::Event;
use crate::id::SessionIdHash;
use crate::lifetime::EndReason;
use crate::record::EndedSession;
use crate::session::Session;
use crate::session::absence::UsedReplacedId;
use crate::session::load::LoadState;

/// The sessions that the request is still to end, and whether it has signed out.
#[derive(Debug, Default)]
pub(super) struct Ending {
    destroy: Destroy,
    /// What the request had found before the `destroy`, for an `ignore` that cancels it.
    before_destroy: Option<LoadState>,
    /// The sessions that the `destroy` ends.
    to_destroy: Vec<SessionIdHash>,
    /// Other presented sessions, which end after a sign-in. `ignore` does not clear these, because
    /// it does not undo the sign-in.
    pub(super) superseded: Vec<SessionIdHash>,
    pub(super) sign_out: SignOut,
}

/// Whether the next commit carries out a `destroy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Destroy {
    #[default]
    NotRequested,
    /// Yes, unless an `ignore` cancels it.
    Requested,
    /// Yes: a commit has ended a part of the sessions.
    Begun,
}

/// Whether the request has signed out: the response then removes the cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SignOut {
    #[default]
    NotDone,
    /// A commit has carried out a `destroy`, and has found no session to end.
    NothingToEnd,
    /// A session has ended.
    Done,
}

impl Ending {
    /// Cancels a `destroy` of which no commit has carried out a part. Returns what the request had
    /// found before it.
    pub(super) fn cancel_destroy(&mut self) -> Option<LoadState> {
        if self.destroy != Destroy::Requested {
            return None;
        }
        self.destroy = Destroy::NotRequested;
        self.to_destroy.clear();
        self.before_destroy.take()
    }

    /// Returns whether a `destroy` of the handler is not carried out yet.
    pub(super) fn is_unfinished(&self) -> bool {
        self.destroy != Destroy::NotRequested && !self.to_destroy.is_empty()
    }
}

impl Session {
    /// Signs out: ends the session, and every other session whose id this request presented. The
    /// response removes the cookie, even if the id found no session.
    ///
    /// For this request the session is gone at once. The store ends it at the end of the request,
    /// or at the next [`commit`](Self::commit); until then other requests can use it. A write after
    /// this call begins a new, anonymous session.
    ///
    /// `Ok` is not yet the sign-out: if the store fails at the end of the request, the response is
    /// an error. The user may then still be signed in, and must sign out again.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.destroy()?;
    /// session.flash("info", "You are signed out.")?; // begins an anonymous session
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// A handler that fails or panics afterwards does not cancel the sign-out. An
    /// [`ignore`](Self::ignore) after this call cancels it, unless a commit has carried it out or a
    /// part of it; an `ignore` before it does not.
    ///
    /// The sign-out also ends a session whose id another request has just replaced, by a renewal or
    /// a sign-in. The store remembers the replaced id for ten minutes. They begin with the
    /// replacement or, if the id had a [grace](crate::guide::ids#when-the-id-changes), with the end
    /// of the grace. Of one session it remembers only the latest eight.
    ///
    /// # Errors
    /// Reads and stores nothing now, so it fails only [as all methods
    /// do](Self#errors-of-all-methods).
    pub fn destroy(&self) -> Result<()> {
        const OPERATION: &str = "destroy the session";
        let mut state = self.lock_unclosed(OPERATION)?;
        self.check_cross_origin(&state, OPERATION)?;
        let current = state.load_state.session().map(|session| session.id_hash);
        for id_hash in current.into_iter().chain(self.presented.id_hashes(self.realm_tag())) {
            if !state.ending.to_destroy.contains(&id_hash) {
                state.ending.to_destroy.push(id_hash);
            }
        }
        let before = mem::take(&mut state.load_state);
        state.ending.destroy = state.ending.destroy.max(Destroy::Requested);
        state.ending.before_destroy.get_or_insert(before);
        state.continue_after_own_end();
        Ok(())
    }

    /// Continues as after [`destroy`](Self::destroy) if a call of the manager, made by this
    /// request, has ended the session that it has read.
    pub(crate) fn apply_own_revocation(&self, has_ended: impl FnOnce(&LiveSession) -> bool) {
        let mut state = self.lock();
        if !state.is_closed && state.load_state.session().is_some_and(has_ended) {
            state.ending.sign_out = SignOut::Done;
            state.continue_after_own_end();
        }
    }

    /// Ends the sessions that a sign-in or the handler has marked for it.
    pub(super) fn end_marked_sessions(&self, ending: &mut Ending) -> Result<()> {
        while let Some(id_hash) = ending.superseded.last() {
            let ended = self.end_session_of(id_hash)?;
            ending.superseded.pop();
            self.report_end(ended.as_ref(), EndReason::Superseded);
        }
        if ending.destroy == Destroy::NotRequested {
            return Ok(());
        }
        while let Some(id_hash) = ending.to_destroy.last() {
            let ended = self.end_session_of(id_hash)?;
            ending.to_destroy.pop();
            ending.destroy = Destroy::Begun;
            ending.before_destroy = None;
            if ended.is_some() {
                ending.sign_out = SignOut::Done;
            }
            self.report_end(ended.as_ref(), EndReason::SignedOut);
        }
        ending.destroy = Destroy::NotRequested;
        ending.before_destroy = None;
        ending.sign_out = ending.sign_out.max(SignOut::NothingToEnd);
        Ok(())
    }

    /// Ends the session of this id, which may be a remembered replaced id. Returns the session, if
    /// there was one, so that the caller can report it after it has recorded the end: the listener
    /// of the event may panic.
    fn end_session_of(&self, id_hash: &SessionIdHash) -> Result<Option<EndedSession>> {
        let end = Commit::new(id_hash, Action::End, Delta::new(), self.context.now());
        Ok(match self.call_store(&end)? {
            CommitAnswer::Ended(ended) => Some(ended),
            _ => None,
        })
    }

    /// Reports a session that this request has ended, if there was one.
    pub(super) fn report_end(&self, ended: Option<&EndedSession>, reason: EndReason) {
        if let Some(ended) = ended {
            self.context.end_trail.report(ended, reason, None, self.address);
        }
    }

    /// Raises an event if the request presents a stale id and no id of a live session, and ends the
    /// session if the settings say so.
    pub(super) fn handle_stale_id(&self, replaced_id: &mut Option<UsedReplacedId>) -> Result<()> {
        let stale = replaced_id.as_ref().filter(|replaced| !replaced.overlaps);
        let Some(UsedReplacedId { id_hash, public_id, .. }) = stale else { return Ok(()) };
        self.context.events.raise(&Event::ReplacedIdUsed { public_id, address: self.address });
        if self.context.settings.end_session_on_replaced_id {
            let ended = self.end_session_of(id_hash)?;
            *replaced_id = None;
            self.report_end(ended.as_ref(), EndReason::ReplacedId);
        }
        Ok(())
    }
}
