//! Sign-ins, and joining the sign-in of another request through the same id.

use std::time::Duration;

use crate::backend::{Action, CommitAnswer, Loaded};
use crate::context::contention_error;
use crate::data::CsrfSecret;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{JoinSalt, PublicId, SessionId, SessionIdHash, UserKey};
use crate::lifetime::EndReason;
use crate::record::{EndedSession, NewSession, Touch};
use crate::session::changes::Changes;
use crate::session::commit::CommitPlan;
use crate::session::load::LoadState;
use crate::session::{Authentication, Session, State};

pub(super) const SIGN_IN: &str = "sign a user in";

/// The maximum number of attempts. A further one follows if the session to join was renewed or has
/// ended meanwhile, so more than two are rare. The bound ends the loop if a store contradicts
/// itself.
const MAX_ATTEMPTS: usize = 10;

/// The result of [`Session::sign_in`]. It may get further values, so a `match` needs `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum SignIn {
    /// The user is signed in.
    Done,
    /// The user has as many sessions as
    /// [`max_sessions_per_user`](crate::manager::SessionManagerBuilder::max_sessions_per_user)
    /// allows. Only with [`AtMaximum::Refuse`](crate::lifetime::AtMaximum::Refuse).
    ///
    /// The session from before goes on, which may be another user's. What this request has set is
    /// stored in it at the end. If you have set a value for the new user before the call, set the
    /// old value again, as [this program](crate::guide::signing_in#a-sign-in-on-rocket) does. An
    /// earlier `destroy` has been carried out.
    Refused,
}

/// The plan of a sign-in, which may take several attempts.
struct SignInPlan<'r> {
    load_state: &'r mut LoadState,
    changes: &'r mut Changes,
    touch: Option<Touch>,
    user: &'r UserKey,
    new_session: NewSession,
    /// The CSRF secret from now on.
    secret: CsrfSecret,
    /// The idle limit that replaces the manager's.
    idle_limit: Option<Duration>,
    /// The hash of the id that the sign-in replaces.
    from: SessionIdHash,
    /// That id, if this request knows it. Sign-ins through it can then join each other.
    join_id: Option<SessionId>,
}

/// What a sign-in has done.
struct SignedIn {
    /// The session under its new id.
    load_state: LoadState,
    /// The sessions that the sign-in ended.
    ended: Vec<EndedSession>,
}

/// The result of one attempt.
enum AttemptResult {
    Done(SignedIn),
    Refused,
    Retry,
}

impl Session {
    /// Signs `user` in: binds the session to the user, gives it a new id, restarts the idle and the
    /// absolute limit, and applies the maximum per user. This request's changes so far are stored
    /// in the same step, and the old id no longer finds the session. Without a session, one begins.
    ///
    /// | before the sign-in | its values |
    /// |---|---|
    /// | an anonymous session, or one of `user` | stay: a cart is still there |
    /// | a session of another user | end with it; the new session has only the changes of this request |
    ///
    /// Call [`destroy`](Self::destroy) first to begin with an empty session.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// # use cloakroom::{SignIn, UserKey};
    /// // After the check of the password:
    /// let signed_in = session.sign_in(UserKey::new("1")?)?;
    /// assert_eq!(signed_in, SignIn::Done);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// The sign-in is committed when this returns: a later failure of the request does not undo it.
    /// Call [`set_persistent`](Self::set_persistent) for "remember me", or
    /// [`set_idle_limit`](Self::set_idle_limit), before it. The guide has [whole
    /// handlers](crate::guide::signing_in).
    ///
    /// # Concurrent requests
    /// A double click sends two sign-ins of one user with the same id, and the browser may keep
    /// either response. The second sign-in joins the first if
    ///
    /// - its request was opened at most ten seconds after the first sign-in;
    /// - both have the same level and the same choice of [`set_persistent`](Self::set_persistent);
    /// - it names the same session of an identity provider, or none;
    /// - it asks for no end that is more than ten seconds earlier.
    ///
    /// Then both responses have the same id, and the second request's changes are merged into the
    /// session. A sign-in that does not join gives the session another new id.
    ///
    /// Requests that present no id, as on a first visit, cannot join: each begins a session of its
    /// own.
    ///
    /// Send the response soon: until it arrives, requests with the old id find no session. The
    /// guide says [what their changes do][old-id].
    ///
    /// [old-id]: crate::guide::ids#what-an-old-id-does
    ///
    /// # Errors
    /// - [`ErrorKind::Busy`] or [`ErrorKind::Unavailable`] if the store cannot commit now;
    /// - [`ErrorKind::Full`] if it has no space;
    /// - [`ErrorKind::TooLarge`] if the changes of this request make the session too large;
    /// - [`ErrorKind::Invalid`] if an earlier `set_idle_limit` of this request is above the maximum
    ///   for the user's session;
    /// - the rarer ones of [`commit`](Self::commit).
    ///
    /// After an error the user is not signed in, unless the error [has an unknown
    /// outcome](Error::has_unknown_outcome). A [`destroy`](Self::destroy) earlier in this request
    /// may have been carried out.
    pub fn sign_in(&self, user: UserKey) -> Result<SignIn> {
        self.sign_in_with(user, &Authentication::new())
    }

    /// Signs `user` in as [`sign_in`](Self::sign_in) does, and stores the `authentication`: its
    /// level, the end and the idle limit of the session, and the identity provider's id of it.
    /// [`Authentication`] has an example.
    ///
    /// # Errors
    /// As [`sign_in`](Self::sign_in); and [`ErrorKind::Invalid`] for an end in the past, or an idle
    /// limit below one millisecond or above the maximum.
    pub fn sign_in_with(&self, user: UserKey, authentication: &Authentication) -> Result<SignIn> {
        let mut state = self.lock_for_change(SIGN_IN)?;
        self.load_for_change(&mut state, SIGN_IN)?;
        self.end_marked_sessions(&mut state.ending)?;
        let mut new_session = self.new_session(&state, Some(&user))?;
        let set_before = state.changes.delta().idle_limit();
        let settings = &self.context.settings;
        let now = self.context.now();
        let idle_limit = authentication.apply(&mut new_session, set_before, settings, now)?;
        let touch = state.touch;
        let State { load_state, changes, .. } = &mut *state;
        let owner = load_state.session().and_then(|session| session.record.user.as_ref());
        // Neither the data of one user's session nor changes computed from it may reach the session
        // of another user.
        let mut rebased;
        let changes = match owner {
            Some(owner) if *owner != user => {
                let _running = self.running_update.begin();
                rebased = changes.rebased_on_empty()?;
                &mut rebased
            }
            _ => changes,
        };
        let (from, join_id) = self.id_to_replace(load_state)?;
        let others = self.other_sessions(&from, load_state.public_id())?;
        let user = &user;
        let secret = CsrfSecret::generate()?;
        let mut plan = SignInPlan {
            load_state,
            changes,
            touch,
            user,
            new_session,
            secret,
            idle_limit,
            from,
            join_id,
        };
        let Some(signed_in) = self.attempt_until_done(&mut plan)? else {
            self.context.events.raise(&Event::SignInRefused { user });
            return Ok(SignIn::Refused);
        };
        let SignedIn { load_state, ended } = signed_in;
        state.set_load_state(load_state);
        state.ending.superseded.extend(others);
        state.changes = Changes::default();
        // Raised last, so that a panicking listener cannot undo the sign-in.
        for session in &ended {
            let has_same_user = session.user.as_ref() == Some(user);
            let reason =
                if has_same_user { EndReason::TooManySessions } else { EndReason::Superseded };
            self.report_end(Some(session), reason);
        }
        if let Some(public_id) = &state.load_state.public_id() {
            self.context.events.raise(&Event::SignedIn { public_id, user, address: self.address });
        }
        Ok(SignIn::Done)
    }

    /// Returns the hash of the id that the sign-in replaces, and that id if this request knows it.
    fn id_to_replace(&self, load_state: &LoadState) -> Result<(SessionIdHash, Option<SessionId>)> {
        Ok(match load_state {
            LoadState::Live { session, found_by, issued } => {
                match self.find_id(issued.as_ref(), &session.id_hash) {
                    // A replaced id within its grace has found the session. The current id is not
                    // known, and no request could join a sign-in through it.
                    None => (*found_by, self.find_id(issued.as_ref(), found_by)),
                    id => (session.id_hash, id),
                }
            }
            load_state => match load_state.replaced_id() {
                Some(replaced) => (replaced.id_hash, replaced.id.clone()),
                // No session exists, so the commit gets an id hash that finds none.
                None => (SessionId::generate()?.hash(self.realm_tag()), None),
            },
        })
    }

    /// Returns `None` if the sign-in is refused.
    fn attempt_until_done(&self, plan: &mut SignInPlan<'_>) -> Result<Option<SignedIn>> {
        for _ in 0..MAX_ATTEMPTS {
            match self.attempt(plan)? {
                AttemptResult::Done(signed_in) => return Ok(Some(signed_in)),
                AttemptResult::Refused => return Ok(None),
                AttemptResult::Retry => {}
            }
        }
        Err(contention_error())
    }

    /// Signs the user in under a new id, or joins the sign-in that has replaced the id.
    fn attempt(&self, plan: &mut SignInPlan<'_>) -> Result<AttemptResult> {
        let (id, join_salt) = match &plan.join_id {
            Some(known) => {
                let salt = JoinSalt::generate()?;
                (known.derive(&salt), Some(salt))
            }
            None => (SessionId::generate()?, None),
        };
        let action = Action::SignIn {
            to: id.hash(self.realm_tag()),
            user: plan.user.clone(),
            new_session: plan.new_session.clone(),
            join_salt,
        };
        let commit = CommitPlan { id_hash: plan.from, action, touch: plan.touch };
        let delta = |changes: &Changes| changes.delta_with_secret(&plan.secret);
        let answer = self.commit_with_retries(plan.load_state, plan.changes, &commit, delta)?;
        match (answer, &plan.join_id) {
            (CommitAnswer::Done { session, ended, .. }, _) => {
                let load_state = LoadState::with_new_id(session, id);
                Ok(AttemptResult::Done(SignedIn { load_state, ended }))
            }
            (CommitAnswer::CanJoin { salt }, Some(id)) => {
                let joined = id.derive(&salt);
                self.join(plan, joined)
            }
            (CommitAnswer::SignInRefused, _) => Ok(AttemptResult::Refused),
            _ => Err(Error::new(ErrorKind::Unexpected, SIGN_IN)),
        }
    }

    /// Joins the sign-in of the same user by another request through the same id: merges the
    /// changes of this request into that session, without those that concern the session before the
    /// sign-in: a clear, the CSRF secret, and a confirmed authentication. Returns `Retry` if that
    /// session was renewed or has ended since.
    fn join(&self, plan: &mut SignInPlan<'_>, id: SessionId) -> Result<AttemptResult> {
        let id_hash = id.hash(self.realm_tag());
        let commit = CommitPlan { id_hash, action: Action::Merge, touch: plan.touch };
        let delta = |changes: &Changes| Ok(changes.delta().for_join(plan.idle_limit).into());
        match self.commit_with_retries(plan.load_state, plan.changes, &commit, delta)? {
            CommitAnswer::Done { session, .. } | CommitAnswer::Unchanged(session) => {
                let load_state = LoadState::with_new_id(session, id);
                Ok(AttemptResult::Done(SignedIn { load_state, ended: vec![] }))
            }
            CommitAnswer::Unreadable(_) => Ok(AttemptResult::Retry),
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
        let mut others = Vec::new();
        let now = self.context.now();
        for id_hash in self.presented.id_hashes(self.realm_tag()).filter(|id_hash| id_hash != from)
        {
            // Loaded before the sign-in, because afterwards an id may lead to the signed-in
            // session.
            let found = self.blocking.run(|| self.context.store()?.load(&id_hash, now))?;
            if let Loaded::Live(session) = found
                && Some(session.record.public_id) != own
            {
                others.push(session.id_hash);
            }
        }
        Ok(others)
    }
}
