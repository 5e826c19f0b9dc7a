//! Signing a user in, and joining a sign-in that another request has done through the same id.

use crate::backend::{Action, Committed, Lookup, Missing, ReplacedBy};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{JoinSalt, PublicId, SessionId, SessionIdHash, UserKey};
use crate::record::NewSession;
use crate::session::changes::Changes;
use crate::session::commit::TRIES;
use crate::session::update_queue::overtaken;
use crate::session::{Absence, Authentication, LoadState, Session, SignIn, State};

const SIGN_IN: &str = "sign a user in";

impl Session {
    /// Signs `user` in: the session gets a new id and is this user's from now on, both clocks
    /// start again, and the limit per user is applied. All changes so far are stored with it. The
    /// id from before is dead. Where there is no session, one begins; where it is another user's,
    /// that one ends and a new one begins.
    ///
    /// It is done at once and stands, whatever the response will be.
    ///
    /// Two requests that sign one user in through the same id, as a double click does, end in one
    /// session: the second joins the first, with the same new id, if it was opened at most ten
    /// seconds after that; a later one moves the session to another id. Requests that present no
    /// common id each begin a session. So answer soon after it: what another request of the client
    /// does with the id from before, more than ten seconds later, counts as done by a client that
    /// has lost the answer.
    ///
    /// The cookie of the session is kept by the browser as [`set_persistent`](Self::set_persistent)
    /// said before in this request; else as that of the session so far.
    ///
    /// # Errors
    /// The store's errors; nobody was signed in then. A [`destroy`](Self::destroy) that came
    /// before in this request may be done already.
    pub fn sign_in(&self, user: UserKey) -> Result<SignIn> {
        self.sign_in_with(user, &Authentication::new())
    }

    /// [`sign_in`](Self::sign_in) that says how the user was authenticated.
    ///
    /// # Errors
    /// As [`sign_in`](Self::sign_in); and [`ErrorKind::Invalid`] for an end that is not to come.
    pub fn sign_in_with(&self, user: UserKey, how: &Authentication) -> Result<SignIn> {
        let mut state = self.writable(SIGN_IN)?;
        self.read(&mut state)?;
        state.check_readable(SIGN_IN)?;
        self.end_what_was_destroyed(&mut state)?;
        let mut new_session = self.new_session(&state)?;
        how.apply(&mut new_session, self.context.now())?;
        // Nothing of one user's session may reach the next user's, nor what was computed from it.
        let owner = state.known.live().and_then(|session| session.record.user.as_ref());
        let apart = match owner {
            Some(owner) if *owner != user => Some(state.changes.rebased_on_empty()?),
            _ => None,
        };
        let kept = apart.map(|apart| std::mem::replace(&mut state.changes, apart));
        let signed_in = self.sign_in_as(&mut state, &user, &new_session);
        match (&signed_in, kept) {
            (Ok(SignIn::Done), _) => {
                state.changes = Changes::default();
                state.renew = false;
                state.lost = false;
            }
            (_, Some(kept)) => state.changes = kept,
            (_, None) => {}
        }
        if let Ok(SignIn::Refused) = signed_in {
            self.context.events.raise(&Event::SignInRefused { user: &user });
        }
        signed_in
    }

    fn sign_in_as(
        &self,
        state: &mut State,
        user: &UserKey,
        new_session: &NewSession,
    ) -> Result<SignIn> {
        // Without a session any key will do under which there is none.
        let from = match &state.known {
            // Through an id in its grace the current one is not known, and nobody could join.
            LoadState::Live(session) => {
                match (self.own_id(state, &session.id_hash), state.found_by) {
                    (None, Some(found_by)) => found_by,
                    _ => session.id_hash,
                }
            }
            LoadState::None(Absence { replaced: Some(replaced), .. }) => replaced.id_hash,
            LoadState::Unread | LoadState::None(_) => SessionId::generate()?.hash(self.realm()),
        };
        let others = self.other_sessions(&from, state.known.public_id())?;
        let mut presented = self.own_id(state, &from);
        for _ in 0..TRIES {
            let join_salt = presented.as_ref().map(|_| JoinSalt::generate()).transpose()?;
            let id = match (&presented, &join_salt) {
                (Some(presented), Some(salt)) => presented.joined(salt),
                _ => SessionId::generate()?,
            };
            let to = id.hash(self.realm());
            state.next_id = Some(id.clone());
            let ending = self.context.recently_ended.begin();
            let sign_in = Action::SignIn {
                to,
                user: user.clone(),
                new_session: new_session.clone(),
                join_salt,
            };
            let answer = self.commit_to(state, &from, sign_in);
            // No other session may begin with this id.
            state.next_id = None;
            match answer? {
                Committed::Done { session, ended } => {
                    ended.into_iter().for_each(|id_hash| self.context.recently_ended.note(id_hash));
                    drop(ending);
                    state.known = LoadState::Live(session);
                    state.issued = Some(id);
                }
                Committed::Missing(Missing::Replaced { id: replaced, session, .. }) => {
                    let id_hash = session.id_hash;
                    drop(ending);
                    let joined = match (&presented, replaced.by) {
                        (Some(presented), ReplacedBy::SignIn { salt: Some(salt) }) => {
                            Some(presented.joined(&salt))
                        }
                        _ => None,
                    };
                    // Its new id can be one of another realm, which is not this manager's to give.
                    let Some(joined) = joined.filter(|joined| joined.hash(self.realm()) == id_hash)
                    else {
                        presented = None;
                        continue;
                    };
                    if !self.join(state, &id_hash)? {
                        continue;
                    }
                    state.issued = Some(joined);
                }
                Committed::LimitReached => return Ok(SignIn::Refused),
                _ => return Err(Error::new(ErrorKind::Unexpected, SIGN_IN)),
            }
            state.left_behind.extend(others);
            // Last: what the application does with an event must not undo what was done.
            if let Some(public_id) = &state.known.public_id() {
                self.context.events.raise(&Event::SignedIn { public_id, user });
            }
            return Ok(SignIn::Done);
        }
        Err(overtaken())
    }

    /// Goes on with the session to which another request has just signed the same user in through
    /// the same id: the changes of this one are merged into it, but for a clear, which concerns
    /// what was there before the sign-in, and the form secret. False if that session has moved or
    /// ended since.
    fn join(&self, state: &mut State, id_hash: &SessionIdHash) -> Result<bool> {
        state.joins = true;
        let answer = self.commit_to(state, id_hash, Action::Merge);
        state.joins = false;
        match answer? {
            Committed::Done { session, .. } | Committed::Unchanged(session) => {
                state.known = LoadState::Live(session);
                Ok(true)
            }
            Committed::Missing(_) => Ok(false),
            _ => Err(Error::new(ErrorKind::Unexpected, SIGN_IN)),
        }
    }

    /// The live sessions of the ids presented, but the one that `from` leads to. After a sign-in
    /// the browser would go on sending those ids, and one of them could be found first.
    fn other_sessions(
        &self,
        from: &SessionIdHash,
        own: Option<PublicId>,
    ) -> Result<Vec<SessionIdHash>> {
        let (mut others, now) = (Vec::new(), self.context.now());
        for id_hash in self.presented.keys().filter(|id_hash| id_hash != from) {
            // Looked up before the sign-in: afterwards an id may lead to the session signed in to.
            let found = self.run_blocking(|| self.context.store()?.load(&id_hash, now))?;
            if let Lookup::Live { session, .. } = found
                && Some(session.record.public_id) != own
            {
                others.push(session.id_hash);
            }
        }
        Ok(others)
    }
}
