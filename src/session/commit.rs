//! The commit of a session: explicit, at the end of the request, and as part of a sign-in.
//!
//! Commits go to the store with optimistic retries. Called by the sign-in, the CSRF secret, the
//! manager and the adapters.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Action, Commit, Committed, LiveSession, Lookup, Missing};
use crate::clock::Timestamp;
use crate::cookie;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::id::{RealmTag, SessionId, SessionIdHash};
use crate::message::{Outcome, ResponseHeaders};
use crate::record::{NewSession, Record};
use crate::session::activity::Activity;
use crate::session::changes::Changes;
use crate::session::csrf_secret::Secret;
use crate::session::load::{Live, LoadState};
use crate::session::update_queue::contention_error;
use crate::session::{
    CommitOutcome, RecentlyEnded, Session, SignOut, State, Transport, csrf_secret,
};
use crate::sync::instant;

/// The maximum number of tries of a commit whose revision does not match. From the second try on,
/// the updates of one process take turns, so only constant writes by other processes reach it.
pub(super) const TRIES: usize = 100;

const CLOSE: &str = "close a session";

/// The age at which an id is renewed if the session may outlive its cookie: half of the 400 days
/// for which browsers keep a cookie at most.
const COOKIE_RENEWAL_AGE: Duration = Duration::from_secs(200 * 86_400);

impl Session {
    /// Stores all changes now, for a handler that needs to know the result. A later failure of the
    /// request does not undo it. After [`ignore`](Self::ignore) it does nothing.
    ///
    /// # Errors
    /// The store's errors. The changes are then kept, and the end of the request tries again.
    pub fn commit(&self) -> Result<CommitOutcome> {
        let mut state = self.writable("commit the session")?;
        if state.ignored {
            return Ok(CommitOutcome::Stored);
        }
        self.carry_out_deletions(&mut state)?;
        self.store_changes(&mut state)?;
        Ok(if state.loaded.is_lost() { CommitOutcome::Discarded } else { CommitOutcome::Stored })
    }

    /// Returns the id of this hash, if it was presented or was issued by this request.
    pub(super) fn own_id(&self, found: &LoadState, id_hash: &SessionIdHash) -> Option<SessionId> {
        let issued = found.issued().filter(|id| id.hash(self.realm_tag()) == *id_hash);
        let presented = || self.presented.ids.iter().find(|id| id.id_hash() == *id_hash);
        issued.or_else(|| presented().map(|presented| &presented.id)).cloned()
    }

    pub(super) fn realm_tag(&self) -> RealmTag {
        self.context.settings.realm_tag
    }

    /// Returns whether the id of this hash was presented under a former name of the cookie.
    fn is_former(&self, id_hash: &SessionIdHash) -> bool {
        self.presented.ids.iter().any(|id| id.former && id.id_hash() == *id_hash)
    }

    /// Ends the request: stores its changes and returns the headers of the response. Fails in the
    /// closure of an update, like every call.
    pub(crate) fn close(&self, outcome: Outcome) -> Result<ResponseHeaders> {
        let mut state = self.lock(CLOSE)?;
        if std::mem::replace(&mut state.closed, true) {
            return Err(Error::new(ErrorKind::Closed, CLOSE));
        }
        let headers = self.end(&mut state, outcome);
        if headers.is_err() {
            // The code that handles the error must not read changes that were not stored.
            state.changes = Changes::default();
        }
        headers
    }

    fn end(&self, state: &mut State, outcome: Outcome) -> Result<ResponseHeaders> {
        if state.ignored {
            state.changes = Changes::default();
            state.to_destroy.clear();
            state.sign_out = SignOut::NotRequested;
        }
        let discard = match outcome {
            Outcome::Completed => false,
            Outcome::ServerError => !self.context.settings.keep_on_server_error,
            Outcome::Panicked => true,
        };
        if discard {
            state.changes.drop_data();
            state.changes.renew &= outcome == Outcome::ServerError;
        }
        self.carry_out_deletions(state)?;
        state.changes.renew |= !discard && self.is_cookie_old(state);
        if !state.changes.is_empty() {
            // Changes that were made before the load failed are not stored either.
            state.check_readable("store the session's changes")?;
            self.store_changes(state)?;
        }
        self.touch_at_end(state);
        Ok(self.headers(state))
    }

    /// Returns the headers of the response after the end of the request failed. They carry the id
    /// that an earlier sign-in or commit of the request has issued.
    pub(crate) fn headers_for_stored(&self) -> ResponseHeaders {
        let state = self.state();
        let mut headers = self.headers(&state);
        if state.loaded.issued().is_none() {
            headers.id_fields = Vec::new();
        }
        headers
    }

    fn headers(&self, state: &State) -> ResponseHeaders {
        let transport = &self.context.settings.transport;
        let settings = &self.context.settings;
        let mut id_fields = Vec::new();
        match &state.loaded {
            LoadState::Unreadable(_) => {}
            found if state.ignored && found.issued().is_none() => {}
            LoadState::Live(Live { session, issued, .. }) => {
                if let Some(id) = issued.as_ref().or_else(|| self.id_to_reseal(&session.id_hash)) {
                    self.context.warn_if_insecure(self.insecure_host.as_deref());
                    let max_age = self.max_age(&session.record);
                    id_fields = transport.issue(id, max_age, self.context.now());
                    // A cookie of a former name is never set again, so the first new cookie can
                    // remove it.
                    if self.presented.ids.iter().any(|presented| presented.former) {
                        id_fields.extend(settings.remove_former());
                    }
                }
            }
            // Only a sign-out removes the cookie. If a read found no session, another response may
            // have given the browser a newer cookie, and responses arrive in any order.
            _ if state.sign_out != SignOut::NotRequested && !self.presented.is_empty() => {
                id_fields = transport.remove(settings.no_store_when_signed_in);
                id_fields.extend(settings.remove_former());
            }
            LoadState::Unread | LoadState::Absent(_) => {}
        }
        let is_private = settings.no_store_when_signed_in && state.has_seen_user();
        let is_form = settings.form_pages_no_store && state.response.has_token;
        ResponseHeaders {
            id_fields,
            vary_on: state.response.varies.then(|| transport.request_header()),
            discarded: state.response.discarded,
            no_store: is_private || is_form,
            clear_site_data: settings.clear_site_data && state.sign_out == SignOut::Done,
        }
    }

    /// Returns whether the cookie may expire in the browser before the session ends, and is old
    /// enough to be renewed.
    fn is_cookie_old(&self, state: &State) -> bool {
        let Some(LiveSession { record, .. }) = state.loaded.session() else { return false };
        let outlives = |end: Timestamp| end.since(record.id_issued) > cookie::MAX_LIFETIME;
        matches!(self.context.settings.transport, Transport::Cookie(_))
            && record.persistent
            && !state.ignored
            && record.limits.absolute.is_none_or(outlives)
            && self.context.now().since(record.id_issued) >= COOKIE_RENEWAL_AGE
    }

    /// Returns the presented id of this session, if it is the current one and its cookie was sealed
    /// with an old cookie key.
    fn id_to_reseal(&self, id_hash: &SessionIdHash) -> Option<&SessionId> {
        let mut outdated = self.presented.ids.iter().filter(|id| id.outdated && !id.former);
        let id = &outdated.find(|id| id.id_hash() == *id_hash)?.id;
        // Loads again, because another response may have given the client a newer id meanwhile.
        match self.run_blocking(|| self.context.store.get()?.load(id_hash, self.context.now())) {
            Ok(Lookup::Live { session, .. }) if session.id_hash == *id_hash => Some(id),
            _ => None,
        }
    }

    fn max_age(&self, record: &Record) -> Option<Duration> {
        record.persistent.then(|| {
            let absolute = record.limits.absolute.map(|end| end.since(self.context.now()));
            absolute.unwrap_or(Duration::MAX)
        })
    }

    /// Ends the sessions whose deletion a sign-in requires or the handler requested.
    pub(super) fn carry_out_deletions(&self, state: &mut State) -> Result<()> {
        while let Some(id_hash) = state.to_end_after_sign_in.last() {
            self.end_session_of(id_hash)?;
            state.to_end_after_sign_in.pop();
        }
        while let Some(id_hash) = state.to_destroy.last() {
            if self.end_session_of(id_hash)? {
                state.sign_out = SignOut::Done;
            }
            state.to_destroy.pop();
        }
        Ok(())
    }

    /// Ends the session of this id, which may be a remembered replaced id. Returns whether there
    /// was one.
    pub(super) fn end_session_of(&self, id_hash: &SessionIdHash) -> Result<bool> {
        let end = Commit::new(id_hash, Action::End, Delta::new(), self.context.now());
        let has_ended = matches!(self.commit_once(&end)?, Committed::Ended(_));
        if has_ended {
            self.context.events.raise(&Event::SignedOut);
        }
        Ok(has_ended)
    }

    /// Makes a commit, and records which sessions it has ended.
    fn commit_once(&self, commit: &Commit) -> Result<Committed> {
        let (store, recently_ended) = (self.context.store.get()?, &self.context.recently_ended);
        let call = || self.run_blocking(|| store.commit(commit));
        let record = |recently_ended: &RecentlyEnded, committed: &Committed| match committed {
            Committed::Done { former_ids, .. } => recently_ended.record(former_ids),
            Committed::Ended(current) => recently_ended.record(&[*current, commit.id_hash]),
            _ => {}
        };
        if matches!(commit.action, Action::SignIn { .. } | Action::End) {
            return recently_ended.while_ending(call, record);
        }
        // The others end no session; a renewal replaces an id.
        call().inspect(|committed| record(recently_ended, committed))
    }

    /// Stores the changes, or discards them if the session ended or was renewed meanwhile.
    fn store_changes(&self, state: &mut State) -> Result<()> {
        if state.changes.is_empty() {
            return Ok(());
        }
        match &state.loaded {
            // The first live session of the presented ids takes the changes, without a load.
            LoadState::Unread => {
                self.first_live(state, |state, id_hash| self.change(state, id_hash))?;
            }
            LoadState::Live(live) => {
                let id_hash = live.session.id_hash;
                if let Some(missing) = self.change(state, &id_hash)? {
                    self.lose_session(state, &missing);
                }
            }
            LoadState::Absent(_) | LoadState::Unreadable(_) => {}
        }
        // If a session was found, it has taken the changes.
        self.store_without_session(state)?;
        state.changes = Changes::default();
        Ok(())
    }

    /// Merges the changes into the session of this id, or renews it with them. Returns the reason
    /// if there is no such session.
    fn change(&self, state: &mut State, id_hash: &SessionIdHash) -> Result<Option<Missing>> {
        // A replaced id within its grace is not renewed, because the client was sent a newer one.
        let rotates = state.changes.renew && self.own_id(&state.loaded, id_hash).is_some()
            || self.is_former(id_hash);
        let id = rotates.then(SessionId::generate).transpose()?;
        let to = id.as_ref().map(|id| id.hash(self.realm_tag()));
        let settings = &self.context.settings;
        let action = to.map_or(Action::Merge, |to| Action::Renew {
            to,
            realm: settings.realm.clone(),
            grace_until: settings.grace.map(|grace| self.context.now() + grace),
        });
        let proposal = Proposal::new(id_hash, action);
        let State { loaded, changes, activity, .. } = state;
        let session = match self.commit_to(loaded, changes, *activity, proposal)? {
            Committed::Done { session, .. } | Committed::Unchanged(session) => session,
            Committed::Missing(missing) => return Ok(Some(missing)),
            _ => return Err(Error::new(ErrorKind::Unexpected, "change a session")),
        };
        state.changes = Changes::default();
        let public_id = session.record.public_id;
        match id.filter(|_| to == Some(session.id_hash)) {
            Some(id) => {
                state.loaded = LoadState::with_new_id(session, id);
                // Raised last, so that a panicking listener cannot undo the renewal.
                self.context.events.raise(&Event::Renewed { public_id: &public_id });
            }
            None => state.loaded.update(session, id_hash),
        }
        Ok(None)
    }

    /// Creates a session with the changes so far, unless they have no effect on an empty session.
    pub(super) fn begin(&self, state: &mut State) -> Result<()> {
        let now = self.context.now();
        let new_session = self.new_session(state)?;
        if !state.changes.delta().apply(&mut Record::create(&new_session, now)) {
            return Ok(());
        }
        let next_id = match &mut state.loaded {
            LoadState::Absent(absence) => absence.next_id.take(),
            _ => None,
        };
        let id = next_id.map_or_else(SessionId::generate, Ok)?;
        let id_hash = id.hash(self.realm_tag());
        let proposal = Proposal::new(&id_hash, Action::Create(new_session));
        let State { loaded, changes, activity, .. } = state;
        match self.commit_to(loaded, changes, *activity, proposal)? {
            Committed::Done { session, .. } => {
                let public_id = session.record.public_id;
                state.loaded = LoadState::with_new_id(session, id);
                self.context.events.raise(&Event::Created { public_id: &public_id });
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Unexpected, "begin a session")),
        }
    }

    pub(super) fn new_session(&self, state: &State) -> Result<NewSession> {
        let settings = &self.context.settings;
        let persistent = state.persistent.unwrap_or(match &state.loaded {
            LoadState::Live(live) => live.session.record.persistent,
            found => found.replaced().map_or(settings.persistent, |it| it.persistent),
        });
        let lifetime = match settings.browser_session {
            Some(short) if !persistent => short,
            _ => settings.lifetime,
        };
        let mut new_session = NewSession::new(lifetime.starting(self.context.now()))?;
        new_session.realm.clone_from(&settings.realm);
        new_session.persistent = persistent;
        new_session.client.clone_from(&self.client);
        Ok(new_session)
    }

    /// Commits the changes as the proposal says, and recomputes them on the stored session after
    /// each revision mismatch, at most [`TRIES`] times.
    pub(super) fn commit_to(
        &self,
        found: &mut LoadState,
        changes: &mut Changes,
        activity: Activity,
        proposal: Proposal<'_>,
    ) -> Result<Committed> {
        let Proposal { id_hash, action, kind } = proposal;
        let (updates, hook, entered) = (&self.context.update_queues, self.blocking_hook, instant());
        let mut turn = match changes.base_revision {
            Some(_) => updates.get()?.turn_if_contended(hook, id_hash, entered)?,
            None => None,
        };
        if let Some(turn) = &mut turn
            && let Some(received) = turn.take_newer_than(changes.base_revision)
            && found.session().is_some()
        {
            rebase(found, changes, received)?;
        }
        let mut commit = Commit::new(id_hash, action, Delta::new(), self.context.now());
        commit.session_limit = self.context.settings.session_limit;
        commit.max_bytes = self.context.settings.max_bytes;
        for _ in 0..TRIES {
            commit.delta = kind.delta(changes, found)?;
            commit.if_revision = changes.base_revision;
            commit.touch = (!self.prefetch).then(|| activity.touch(commit.now));
            commit.opened = self.opened_at.min(commit.now);
            if let Some(turn) = &turn {
                turn.wake_next();
            }
            let committed = self.commit_once(&commit)?;
            let Committed::RevisionMismatch(LiveSession { record, .. }) = committed else {
                if let (Committed::Done { session, .. }, Some(turn)) = (&committed, &mut turn)
                    && session.id_hash == *id_hash
                {
                    turn.stored = Some(session.record.clone());
                }
                return Ok(committed);
            };
            let received = match &turn {
                Some(turn) if turn.is_over() => break,
                Some(_) => None,
                None => turn
                    .insert(updates.get()?.turn(hook, id_hash, entered)?)
                    .take_newer_than(Some(record.revision)),
            };
            commit.now = self.context.now();
            rebase(found, changes, received.unwrap_or(record))?;
        }
        Err(contention_error())
    }
}

/// Recomputes the changes on a newer revision of the session.
fn rebase(found: &mut LoadState, changes: &mut Changes, newer: Record) -> Result<()> {
    changes.rebase_on(&newer.data, newer.revision)?;
    if let LoadState::Live(live) = found {
        live.session.record = newer;
    }
    Ok(())
}

/// A commit to the session of an id hash.
pub(super) struct Proposal<'p> {
    pub(super) id_hash: &'p SessionIdHash,
    pub(super) action: Action,
    pub(super) kind: DeltaKind<'p>,
}

impl<'p> Proposal<'p> {
    /// Proposes to commit all changes.
    pub(super) fn new(id_hash: &'p SessionIdHash, action: Action) -> Self {
        Proposal { id_hash, action, kind: DeltaKind::All }
    }
}

/// The part of the changes that a commit stores.
pub(super) enum DeltaKind<'p> {
    All,
    /// All, with this secret in place of any earlier one.
    SignIn(&'p Secret),
    /// All without a clear, which concerns the data before the sign-in that is joined, and without
    /// the CSRF secret.
    Join,
}

impl DeltaKind<'_> {
    fn delta(&self, changes: &Changes, found: &LoadState) -> Result<Arc<Delta>> {
        Ok(match self {
            DeltaKind::All => changes.shared(),
            DeltaKind::SignIn(secret) => {
                secret.replacing_others(changes.delta(), found.data())?.into()
            }
            DeltaKind::Join => changes.delta().without_clear(csrf_secret::NAME).into(),
        })
    }
}
