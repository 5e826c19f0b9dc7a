//! The commit of a session, in levels that call the next one: `commit_all` ends the sessions that
//! are marked for it, and stores all changes; `commit_changes` finds the session that takes them;
//! `merge_or_renew` and `create_session` plan one action on one session, as do sign-ins;
//! `commit_with_retries` repeats it after revision mismatches, with the changes recomputed;
//! `call_store` makes one call of the store.

use std::sync::Arc;

use crate::backend::{Action, Commit, CommitAnswer, Unreadable};
use crate::data::CsrfSecret;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{SessionId, SessionIdHash, UserKey};
use crate::record::{NewSession, Touch};
use crate::session::changes::Changes;
use crate::session::load::LoadState;
use crate::session::renewal::Renewal;
use crate::session::{Session, State};

/// The result of [`Session::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum CommitOutcome {
    /// The changes are stored, perhaps in a [new session](Session::set), or there were none.
    Stored,
    /// Changes were discarded, for one of these reasons:
    /// - the session had ended before they could be stored;
    /// - its id had been replaced before, and the old id [no longer found
    ///   it](crate::guide::ids#what-an-old-id-does);
    /// - the request [ignores](Session::ignore) the session.
    ///
    /// After a discard for one of the first two reasons, later commits of the request also have
    /// this result, even without changes, until a sign-in, a [`destroy`](Session::destroy) or an
    /// `ignore`.
    Discarded,
}

impl CommitOutcome {
    fn discarded_if(discarded: bool) -> Self {
        if discarded { CommitOutcome::Discarded } else { CommitOutcome::Stored }
    }
}

impl Session {
    /// Stores all changes now, for a handler that needs to know the result, and carries out a
    /// [`destroy`](Self::destroy). A later failure of the request does not undo it. After an
    /// [`ignore`](Self::ignore) the call stores nothing.
    ///
    /// In SQLite and PostgreSQL the changes then survive a kill of the process. What survives a
    /// power cut is [a setting](crate::guide::guarantees#durability) of the SQLite store.
    ///
    /// ```
    /// use cloakroom::CommitOutcome;
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.set("draft", "Dear Ada, …")?;
    /// if session.commit()? == CommitOutcome::Stored {
    ///     println!("the draft is stored");
    /// }
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors); those of an [`update`](Self::update) that
    /// runs again, such as [`ErrorKind::WrongType`] if another request has stored a value of
    /// another type; and [those of all methods](Self#errors-of-all-methods). After an error the
    /// changes are kept: the end of the request tries again, unless the request fails.
    pub fn commit(&self) -> Result<CommitOutcome> {
        let mut state = self.lock_for_change("commit the session")?;
        if state.is_ignored {
            return Ok(CommitOutcome::discarded_if(!state.changes.is_empty()));
        }
        self.commit_all(&mut state)
    }

    /// Discards the changes of this request, so that it does not change its session or keep it
    /// alive. Call it before the first use of the session; its [activity](Self#activity) is not
    /// recorded then.
    ///
    /// What a commit has stored before stays stored: [`commit`](Self::commit),
    /// [`update_now`](Self::update_now), [`sign_in`](Self::sign_in) and
    /// [`confirm_authentication`](Self::confirm_authentication) commit. Revocations by the manager
    /// stay too.
    ///
    /// | | before `ignore` | after `ignore` |
    /// |---|---|---|
    /// | changes of values, messages or the idle limit; [`renew`](Self::renew); a session that a [CSRF token](Self::csrf_token) begins | discarded | discarded |
    /// | [`destroy`](Self::destroy) | cancelled, so the user stays signed in, unless a commit has carried it out or a part of it | carried out; changes after it begin a new session |
    /// | `sign_in`, `confirm_authentication` | stays | stored, with all changes before it |
    /// | activity | recorded by the first read and by a commit | not recorded |
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// // A script that asks every minute must not keep the session alive.
    /// session.ignore()?;
    /// let unread: Option<u32> = session.get("unread")?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request; and [those of all
    /// methods](Self#errors-of-all-methods).
    pub fn ignore(&self) -> Result<()> {
        let mut state = self.lock_unclosed("ignore the session")?;
        state.ignore();
        Ok(())
    }

    /// Returns whether this request has changes that are not stored yet. A write of the value that
    /// is already stored counts as a change.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        if self.running_update.is_on_this_thread() {
            return true;
        }
        let state = self.lock();
        !state.is_closed && !state.changes.is_empty()
    }

    /// Raises an event if the request, which does not complete, has changes that its close would
    /// have stored.
    #[allow(dead_code, reason = "the adapter for Rocket, which is a feature, is the only caller")]
    pub(crate) fn report_lost_changes(&self) {
        let state = self.lock();
        let loses_changes = !state.is_closed && state.has_changes_to_store();
        let public_id = state.load_state.public_id();
        drop(state);
        if loses_changes {
            let public_id = public_id.as_ref();
            self.context.events.raise(&Event::ChangesDiscarded { public_id });
        }
    }

    /// Ends the sessions that are marked for it, and stores all changes.
    pub(super) fn commit_all(&self, state: &mut State) -> Result<CommitOutcome> {
        self.end_marked_sessions(&mut state.ending)?;
        if !state.changes.is_empty() {
            self.commit_changes(state)?;
            state.changes = Changes::default();
        }
        Ok(CommitOutcome::discarded_if(state.load_state.has_discarded()))
    }

    /// Makes one call of the store. Adds the ids that it has retired, and counts the evictions.
    pub(super) fn call_store(&self, commit: &Commit) -> Result<CommitAnswer> {
        let store = self.context.store()?;
        let retired_ids = &self.context.retired_ids;
        let call = || self.blocking.run(|| store.commit(commit));
        let note = |answer: &CommitAnswer| {
            retired_ids.add(answer.retired_ids());
            match answer {
                // The commit may have named the session by a replaced id: that is retired too.
                CommitAnswer::Ended(_) => retired_ids.add([commit.id_hash]),
                CommitAnswer::Done { evicted, .. } => self.context.count_evictions(evicted.len()),
                _ => {}
            }
        };
        match commit.action {
            Action::SignIn { .. } | Action::End => retired_ids.during(call, note),
            // A request that looks for the id that a renewal replaces learns of that from the
            // store, which remembers the id, and need not wait for this call.
            Action::Create(_) | Action::Merge | Action::Renew { .. } => call().inspect(note),
        }
    }

    /// Stores the changes, or discards them if the session ended or was renewed meanwhile. Loads
    /// the session first, if the request has not read it.
    fn commit_changes(&self, state: &mut State) -> Result<()> {
        self.load_for_commit(state)?;
        // Changes that were made before a load failed are not stored either.
        state.refuse_after_failed_load("store the session's changes")?;
        let Some(id_hash) = state.load_state.session().map(|session| session.id_hash) else {
            return self.create_or_discard(state);
        };
        let renewal = self.renewal_of_changes(state, &id_hash);
        if let Some(unreadable) = self.merge_or_renew(state, &id_hash, renewal)? {
            self.continue_after_loss(state, unreadable);
        }
        Ok(())
    }

    /// Merges the changes into the session of this id. A renewal is part of the same commit.
    /// Returns the reason if there is no such session.
    pub(super) fn merge_or_renew(
        &self,
        state: &mut State,
        id_hash: &SessionIdHash,
        renewal: Option<Renewal>,
    ) -> Result<Option<Unreadable>> {
        let (new_id, action) = match renewal {
            None => (None, Action::Merge),
            Some(Renewal { grace }) => {
                let id = SessionId::generate()?;
                let to = id.hash(self.realm_tag());
                let grace_until = (!grace.is_zero()).then(|| self.context.now() + grace);
                (Some(id), Action::Renew { to, grace_until })
            }
        };
        let plan = CommitPlan { id_hash: *id_hash, action, touch: state.touch };
        let State { load_state, changes, .. } = state;
        let delta = |changes: &Changes| Ok(changes.shared_delta());
        let session = match self.commit_with_retries(load_state, changes, &plan, delta)? {
            CommitAnswer::Done { session, .. } | CommitAnswer::Unchanged(session) => session,
            CommitAnswer::Unreadable(unreadable) => return Ok(Some(unreadable)),
            _ => return Err(Error::new(ErrorKind::Unexpected, "change a session")),
        };
        state.changes = Changes::default();
        let public_id = session.record.public_id;
        // Through an id within its grace, a renewal only merges and the new id is not used.
        match new_id.filter(|id| id.hash(self.realm_tag()) == session.id_hash) {
            Some(id) => {
                state.set_load_state(LoadState::with_new_id(session, id));
                // Raised last, so that a panicking listener cannot undo the renewal.
                self.context.events.raise(&Event::Renewed { public_id: &public_id });
            }
            None => state.update_session(session),
        }
        Ok(None)
    }

    /// Creates a session with the changes so far, if they set a value. Other changes do not begin a
    /// session.
    pub(super) fn create_session(&self, state: &mut State) -> Result<()> {
        if !state.changes.delta().sets_any_value() {
            return Ok(());
        }
        let new_session = self.new_session(state, None)?;
        let id = SessionId::generate()?;
        let id_hash = id.hash(self.realm_tag());
        let action = Action::Create(new_session);
        let secret = state.csrf_secret().map_or_else(CsrfSecret::generate, Ok)?;
        let plan = CommitPlan { id_hash, action, touch: state.touch };
        let State { load_state, changes, .. } = state;
        let delta = |changes: &Changes| changes.delta_with_secret(&secret);
        let answer = self.commit_with_retries(load_state, changes, &plan, delta)?;
        let CommitAnswer::Done { session, .. } = answer else {
            return Err(Error::new(ErrorKind::Unexpected, "create a session"));
        };
        let public_id = session.record.public_id;
        state.changes = Changes::default();
        state.set_load_state(LoadState::with_new_id(session, id));
        if let Some(cleaner) = &self.context.cleaner {
            cleaner.count_anonymous();
        }
        // Raised last, so that a panicking listener leaves no stored change to store again.
        self.context.events.raise(&Event::Created { public_id: &public_id });
        Ok(())
    }

    /// Makes the fields of a session that is created, or to which `user` signs in.
    pub(super) fn new_session(&self, state: &State, user: Option<&UserKey>) -> Result<NewSession> {
        let settings = &self.context.settings;
        let persistent = self.new_persistence(state, user);
        let lifetime = match user {
            Some(_) => settings.signed_in_lifetime(persistent),
            None => settings.anonymous_lifetime(persistent),
        };
        let mut new_session = NewSession::new(lifetime.limits_from(self.context.now()))?;
        new_session.realm.clone_from(&self.context.id_settings.realm);
        new_session.persistent = persistent;
        new_session.client.clone_from(&self.client);
        Ok(new_session)
    }

    /// Returns whether the cookie of a session that this request creates, or to which `user` signs
    /// in, is persistent. The choice of another user does not count.
    pub(super) fn new_persistence(&self, state: &State, user: Option<&UserKey>) -> bool {
        let earlier = match &state.load_state {
            LoadState::Live { session, .. } => {
                Some((session.record.user.as_ref(), session.record.persistent))
            }
            load_state => load_state.replaced_id().map(|id| (id.user.as_ref(), id.persistent)),
        };
        let earlier = earlier.filter(|(owner, _)| owner.is_none() || *owner == user);
        let earlier_choice = earlier.map(|(_, persistent)| persistent);
        state.persistent.or(earlier_choice).unwrap_or(self.context.settings.persistent)
    }

    /// Commits the changes as planned, as `delta` makes it of them. Recomputes them on the stored
    /// session after each revision mismatch, and commits them again.
    pub(super) fn commit_with_retries(
        &self,
        load_state: &mut LoadState,
        changes: &mut Changes,
        plan: &CommitPlan,
        delta: impl Fn(&Changes) -> Result<Arc<Delta>>,
    ) -> Result<CommitAnswer> {
        self.context.process.check()?;
        let expected = changes.expected;
        self.context.update_queues.run(&plan.id_hash, expected, self.blocking, |newer| {
            if let Some(newer) = newer {
                let _running = self.running_update.begin();
                changes.rebase_on(&newer.data, newer.revision)?;
                if let LoadState::Live { session, .. } = load_state {
                    Arc::make_mut(session).record = newer;
                }
            }
            let settings = &self.context.settings;
            let now = self.context.now();
            self.call_store(&Commit {
                id_hash: plan.id_hash,
                action: plan.action.clone(),
                delta: delta(changes)?,
                expected: changes.expected,
                loaded: load_state.shared_session().cloned(),
                touch: plan.touch,
                max_sessions: settings.max_sessions,
                max_bytes: settings.max_bytes,
                opened_at: self.opened_at_or(now),
                now,
            })
        })
    }
}

/// The parts of a commit that stay the same when its changes are recomputed.
pub(super) struct CommitPlan {
    pub(super) id_hash: SessionIdHash,
    pub(super) action: Action,
    pub(super) touch: Option<Touch>,
}
