//! Sign-ins, and joining the sign-in of another request through the same id.
//!
//! Uses the commit and the context. Called by the application.

use crate::backend::{Action, Committed, Lookup, Missing, ReplacedBy};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{JoinSalt, PublicId, SessionId, SessionIdHash, UserKey};
use crate::record::NewSession;
use crate::session::changes::Changes;
use crate::session::commit::{DeltaKind, Proposal, TRIES};
use crate::session::csrf_secret::Secret;
use crate::session::load::{Live, LoadState};
use crate::session::update_queue::contention_error;
use crate::session::{Authentication, Session, SignIn, State};

const SIGN_IN: &str = "sign a user in";

impl Session {
    /// Signs `user` in: binds the session to the user, gives it a new id, restarts the idle and the
    /// absolute limit, and applies the limit per user. This request's changes so far are stored in
    /// the same step, and the old id no longer finds the session. Without a session, one begins.
    /// A session of another user ends, and a new one begins.
    ///
    /// The sign-in is committed when this returns. A later failure of the request does not undo it.
    ///
    /// # Repeated sign-ins
    /// A double click sends two sign-ins of one user with the same id. The browser keeps one of the
    /// two responses, so both carry the same new id:
    ///
    /// - A request that was opened at most ten seconds after the first sign-in was stored *joins*
    ///   it: its changes are merged into that session, and its response carries the id that the
    ///   first one issued. Both must have the same level, persistence and limits.
    /// - A request that was opened later comes from a client that did not receive the first
    ///   response. It gives the session another new id, and the id in the first response no longer
    ///   finds the session.
    /// - Requests that present no common id, such as two first visits without a cookie, each begin
    ///   a session.
    ///
    /// Send the response soon after the sign-in. The client presents the old id until the response
    /// arrives, and a request that is opened with it more than ten seconds after the sign-in is
    /// treated as one of a client that lost the response: it reads no session, and a write begins a
    /// new one.
    ///
    /// [`set_persistent`](Self::set_persistent) earlier in this request chooses whether the browser
    /// keeps the cookie after it is closed. Otherwise the choice of the session before the sign-in
    /// stays, or the manager's default applies if there was no session.
    ///
    /// # Errors
    /// The store's errors; the user is not signed in then. A [`destroy`](Self::destroy) earlier in
    /// this request may have been carried out.
    pub fn sign_in(&self, user: UserKey) -> Result<SignIn> {
        self.sign_in_with(user, &Authentication::new())
    }

    /// [`sign_in`](Self::sign_in) with the level of the authentication, its end, and the identity
    /// provider's session.
    ///
    /// # Errors
    /// As [`sign_in`](Self::sign_in); and [`ErrorKind::Invalid`] for an end in the past.
    pub fn sign_in_with(&self, user: UserKey, how: &Authentication) -> Result<SignIn> {
        let mut state = self.writable(SIGN_IN)?;
        self.read(&mut state)?;
        state.check_readable(SIGN_IN)?;
        self.carry_out_deletions(&mut state)?;
        let mut new_session = self.new_session(&state)?;
        how.apply(&mut new_session, self.context.now())?;
        // Neither the data of one user's session nor changes computed from it may reach the session
        // of another user.
        let owner = state.loaded.session().and_then(|session| session.record.user.as_ref());
        let mut rebased = match owner {
            Some(owner) if *owner != user => Some(state.changes.rebased_on_empty()?),
            _ => None,
        };
        self.sign_in_as(&mut state, rebased.as_mut(), &user, &new_session)
    }

    fn sign_in_as(
        &self,
        state: &mut State,
        mut changes: Option<&mut Changes>,
        user: &UserKey,
        new_session: &NewSession,
    ) -> Result<SignIn> {
        let found = &state.loaded;
        let (from, mut presented) = match found {
            LoadState::Live(live) => match self.own_id(found, &live.session.id_hash) {
                // A replaced id within its grace has found the session. The current id is not
                // known, and no request could join a sign-in through it.
                None => (live.found_by, self.own_id(found, &live.found_by)),
                id => (live.session.id_hash, id),
            },
            found => match found.replaced() {
                Some(replaced) => (replaced.id_hash, replaced.id.clone()),
                // No session exists, so the commit gets an id hash that finds none.
                None => (SessionId::generate()?.hash(self.realm()), None),
            },
        };
        let others = self.other_sessions(&from, state.loaded.public_id())?;
        for _ in 0..TRIES {
            let join_salt = presented.as_ref().map(|_| JoinSalt::generate()).transpose()?;
            let id = match (&presented, &join_salt) {
                (Some(presented), Some(salt)) => presented.derive(salt),
                _ => SessionId::generate()?,
            };
            let to = id.hash(self.realm());
            let sign_in = Action::SignIn {
                to,
                user: user.clone(),
                new_session: new_session.clone(),
                join_salt,
            };
            let proposal = Proposal {
                changes: changes.as_deref_mut(),
                kind: DeltaKind::SignIn(&Secret::of_id(&id)),
                ..Proposal::new(&from, sign_in)
            };
            match self.commit_to(state, proposal)? {
                Committed::Done { session, .. } => state.loaded = Live::issued(session, id),
                Committed::Missing(Missing::Replaced { id: replaced, session, .. }) => {
                    let id_hash = session.id_hash;
                    let salt = match replaced.by {
                        ReplacedBy::SignIn { salt } => salt,
                        ReplacedBy::Renewal { .. } => None,
                    };
                    let joined = presented.as_ref().zip(salt).map(|(id, salt)| id.derive(&salt));
                    // A manager of another realm may have issued that id, which this one must not.
                    let Some(joined) = joined.filter(|joined| joined.hash(self.realm()) == id_hash)
                    else {
                        presented = None;
                        continue;
                    };
                    if !self.join(state, changes.as_deref_mut(), joined)? {
                        continue;
                    }
                }
                Committed::LimitReached => {
                    self.context.events.raise(&Event::SignInRefused { user });
                    return Ok(SignIn::Refused);
                }
                _ => return Err(Error::new(ErrorKind::Unexpected, SIGN_IN)),
            }
            state.required_deletions.extend(others);
            state.changes = Changes::default();
            // Raised last, so that a panicking listener cannot undo the sign-in.
            if let Some(public_id) = &state.loaded.public_id() {
                self.context.events.raise(&Event::SignedIn { public_id, user });
            }
            return Ok(SignIn::Done);
        }
        Err(contention_error())
    }

    /// Joins the sign-in of the same user by another request through the same id: merges the
    /// changes of this request into that session. Returns false if that session was renewed or has
    /// ended since.
    fn join(
        &self,
        state: &mut State,
        changes: Option<&mut Changes>,
        id: SessionId,
    ) -> Result<bool> {
        let id_hash = id.hash(self.realm());
        let merge = Proposal::new(&id_hash, Action::Merge);
        match self.commit_to(state, Proposal { changes, kind: DeltaKind::Join, ..merge })? {
            Committed::Done { session, .. } | Committed::Unchanged(session) => {
                state.loaded = Live::issued(session, id);
                Ok(true)
            }
            Committed::Missing(_) => Ok(false),
            _ => Err(Error::new(ErrorKind::Unexpected, SIGN_IN)),
        }
    }

    /// Returns the live sessions of the presented ids, except the one that `from` leads to. They
    /// are ended after the sign-in: the browser would still send their ids, and one could be found
    /// first.
    fn other_sessions(
        &self,
        from: &SessionIdHash,
        own: Option<PublicId>,
    ) -> Result<Vec<SessionIdHash>> {
        let (mut others, now) = (Vec::new(), self.context.now());
        for id_hash in self.presented.id_hashes().filter(|id_hash| id_hash != from) {
            // Loaded before the sign-in, because afterwards an id may lead to the signed-in
            // session.
            let found = self.run_blocking(|| self.context.store.get()?.load(&id_hash, now))?;
            if let Lookup::Live { session, .. } = found
                && Some(session.record.public_id) != own
            {
                others.push(session.id_hash);
            }
        }
        Ok(others)
    }
}
