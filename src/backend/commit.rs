//! A commit. [`Commit::decide`] decides for all stores what it does; each store executes the
//! decision.
//!
//! Sessions make commits; stores call [`Commit::decide`].

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::backend::{Found, LiveSession, ReplacedBy, ReplacedId, Unreadable};
use crate::clock::Timestamp;
use crate::data::CsrfSecret;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JoinSalt, Realm, SessionIdHash, UserKey};
use crate::lifetime::{AtMaximum, Limits};
use crate::record::{EndedSession, NewSession, Record, Touch};

/// The changes of one request in one session, which a store makes in one atomic step. It owns its
/// parts, so that another thread can execute it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Commit {
    /// The hash of the presented id, or of the new session's id for [`Action::Create`].
    pub id_hash: SessionIdHash,
    /// The action.
    pub action: Action,
    /// The changes to merge.
    pub delta: Arc<Delta>,
    /// The condition: what the changes were computed on. [`decide`](Self::decide) checks it: if the
    /// store has found something else, the answer is [`CommitAnswer::RevisionMismatch`].
    pub expected: Expected,
    /// The session as the request has loaded it, perhaps from a cache; `None` if it has not. For
    /// stores that can skip the lookup by [`merge_into_loaded`](Self::merge_into_loaded), as the
    /// one for PostgreSQL does to save a round trip; others ignore it.
    pub loaded: Option<Arc<LiveSession>>,
    /// Activity to record, if that is due.
    pub touch: Option<Touch>,
    /// The maximum number of sessions per user, for a sign-in.
    pub max_sessions: Option<MaxSessions>,
    /// The maximum size of the data, in bytes of JSON.
    pub max_bytes: usize,
    /// The time at which the request was opened. It shows whether the request
    /// [overlaps](ReplacedId::overlaps) the replacement of its id.
    pub opened_at: Timestamp,
    /// The current time.
    pub now: Timestamp,
}

/// What the changes of a commit were computed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expected {
    /// They depend on no session.
    #[default]
    Anything,
    /// The session at this revision.
    Revision(u64),
    /// No session: the request could not read one.
    NoSession,
}

/// The action of a [`Commit`] on its session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Creates a session under the commit's id.
    Create(NewSession),
    /// Changes the session under its current id.
    Merge,
    /// Gives the session a new id; its absolute deadline stays. Through an id within its grace this
    /// is a [`Merge`](Action::Merge), and the answer has the current id instead of `to`.
    Renew {
        /// The hash of the new id.
        to: SessionIdHash,
        /// The end of the grace, in which the old id still finds the session; `None` for no grace.
        grace_until: Option<Timestamp>,
    },
    /// Binds the session to `user` under a new id, and restarts both limits. Without a session, a
    /// new one is created. What happens to a session depends on the presented id and on the user:
    ///
    /// | presented id | user of the session | result |
    /// |---|---|---|
    /// | current, or within its grace | this user, or none | the session gets a new id |
    /// | current, or within its grace | another user | a new session is created; the other ends |
    /// | [replaced](ReplacedId) by an overlapping sign-in that this one repeats | this user | [`CommitAnswer::CanJoin`] |
    /// | replaced | this user, or none | the session gets a new id |
    /// | replaced when the session had a user | another user | a new session is created; the other ends |
    /// | replaced when the session had no user | another user | a new session is created |
    ///
    /// The first matching row counts. A creation ignores what the commit expects.
    ///
    /// A sign-in repeats another one if all of this holds:
    ///
    /// - Both have a `join_salt`.
    /// - Its level and its persistence are those of the session.
    /// - It names no session of an identity provider, or the same one as the session.
    /// - Its end is at most ten seconds earlier than that of the session.
    SignIn {
        /// The hash of the new id.
        to: SessionIdHash,
        /// The user.
        user: UserKey,
        /// The fields of the session after the sign-in.
        new_session: NewSession,
        /// The salt from which, with the presented id, the new id was derived; `None` if it was not
        /// derived.
        join_salt: Option<JoinSalt>,
    },
    /// Ends the session, also through an id within its grace or a [replaced](ReplacedId) one. The
    /// delta, the expectation and the touch are ignored.
    End,
}

/// The result of [`Store::commit`](crate::backend::Store::commit).
#[derive(Clone, Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant)] // one per request, on the stack
pub enum CommitAnswer {
    /// The change is stored.
    Done {
        /// The session as stored. After a renewal through an id within its grace, its id is not the
        /// one that the commit named.
        session: LiveSession,
        /// The hash of the session's previous id, if the commit gave it a new one.
        previous_id: Option<SessionIdHash>,
        /// The sessions that it ended: those above the maximum per user, and the one that the
        /// new session replaces.
        ended: Vec<EndedSession>,
        /// The id hashes of the anonymous sessions that a bounded store removed to make room. They
        /// are not among `ended`: a later request with such an id finds nothing and may create a
        /// session, as after a sweep.
        evicted: Vec<SessionIdHash>,
    },
    /// The delta changed nothing, so the session keeps its revision. A touch was recorded if it was
    /// due.
    Unchanged(LiveSession),
    /// The commit ended this session.
    Ended(EndedSession),
    /// The session is not the [expected](Commit::expected) one; nothing was changed.
    RevisionMismatch(LiveSession),
    /// The user has the maximum number of sessions, and the sign-in is refused; at most expired
    /// sessions were removed.
    SignInRefused,
    /// The sign-in repeats an overlapping one of the same user through the same id, and can join
    /// its session; nothing was changed.
    CanJoin {
        /// The salt of the other sign-in. From it, with the presented id, the new id was derived,
        /// which the session still has.
        salt: JoinSalt,
    },
    /// No session can be read by the id; nothing was changed.
    Unreadable(Unreadable),
}

impl CommitAnswer {
    /// Makes the answer [`Done`](CommitAnswer::Done) to a commit that has replaced no id and ended
    /// no other session.
    #[must_use]
    pub const fn done(session: LiveSession) -> Self {
        CommitAnswer::Done { session, previous_id: None, ended: Vec::new(), evicted: Vec::new() }
    }

    /// Returns the id hashes that were current before the commit and no longer are: the previous
    /// one, and those of ended and evicted sessions. A cache invalidates them.
    pub fn ids_to_invalidate(&self) -> impl Iterator<Item = SessionIdHash> {
        let evicted = match self {
            CommitAnswer::Done { evicted, .. } => evicted.as_slice(),
            _ => &[],
        };
        self.retired_ids().chain(evicted.iter().copied())
    }

    /// Returns those of the [ids to invalidate](Self::ids_to_invalidate) with which an overlapping
    /// request must not create another session: all but those of evicted sessions.
    pub(crate) fn retired_ids(&self) -> impl Iterator<Item = SessionIdHash> {
        let (previous_id, ended) = match self {
            CommitAnswer::Done { previous_id, ended, .. } => (*previous_id, ended.as_slice()),
            CommitAnswer::Ended(ended) => (None, std::slice::from_ref(ended)),
            _ => (None, [].as_slice()),
        };
        previous_id.into_iter().chain(ended.iter().map(|ended| ended.id_hash))
    }
}

/// The maximum number of sessions of a user, and the rule for a sign-in that would exceed it.
///
/// It counts the other live sessions of the user who signs in, in the same realm. A store applies
/// it by [`Decision::apply_maximum`]. One without a [`SessionIndex`](crate::backend::SessionIndex)
/// gets no maximum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaxSessions {
    /// The maximum number of sessions.
    pub max: NonZeroU32,
    /// The rule for a sign-in that would exceed it.
    pub at_maximum: AtMaximum,
}

impl MaxSessions {
    /// Makes a maximum of `max` sessions per user.
    #[must_use]
    pub const fn new(max: NonZeroU32, at_maximum: AtMaximum) -> Self {
        MaxSessions { max, at_maximum }
    }

    /// Returns how many of the user's `others`, the oldest ones, a sign-in ends; `None` if it is
    /// refused.
    fn ended_count(&self, others: usize) -> Option<usize> {
        let max = usize::try_from(self.max.get()).unwrap_or(usize::MAX);
        let excess = (others + 1).saturating_sub(max);
        match self.at_maximum {
            _ if excess == 0 => Some(0),
            AtMaximum::Refuse => None,
            AtMaximum::EndOldest => Some(excess),
            AtMaximum::EndOthers => Some(others),
        }
    }
}

/// The maximum for a sign-in, and the sessions that it counts: those of a user in a realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserMaximum {
    /// The user who signs in.
    pub user: UserKey,
    /// The realm of the sign-in.
    pub realm: Realm,
    /// The maximum.
    pub max_sessions: MaxSessions,
}

/// The decision about a commit, which a store executes in the same atomic step in which it found
/// the session. `K` is the key that [`Found`] has. A store executes it in this order:
///
/// 1. If the write has a [`new_id`](SessionWrite::new_id), fail with [`Error::id_is_taken`] if any
///    session has or had that id.
/// 2. If there is a [`user_maximum`](Self::user_maximum), [apply](Self::apply_maximum) it.
/// 3. Remove the [`removed`](Self::removed) sessions. A bounded store makes room.
/// 4. Execute the [`write`](Self::write).
///
/// A session is removed with all its ids. [`into_answer`](Self::into_answer) makes the answer.
#[derive(Clone, Debug)]
pub struct Decision<K = ()> {
    /// The keys of the expired sessions that a sign-out or a sign-in has found.
    ///
    /// They must be removed, because a request reads the clock before it commits. Request A reads
    /// the clock before the deadline of the session. Request B signs out after the deadline. If B
    /// left the expired session in the store, A could then find it live, and extend it.
    pub expired: Vec<K>,
    /// The maximum to apply, for a sign-in.
    pub user_maximum: Option<UserMaximum>,
    /// The sessions, with their keys, that the commit ends: the one found, by a sign-out or the
    /// sign-in of another user, and those above the maximum per user.
    pub ended: Vec<(K, EndedSession)>,
    /// The session to store.
    pub write: SessionWrite<K>,
}

/// The session that a store writes for a commit.
///
/// Unlike other enums here it is exhaustive, so that a store without code for a new write does not
/// compile.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one per request, on the stack
pub enum SessionWrite<K = ()> {
    /// Store no session. The answer to the commit is this one.
    Nothing(CommitAnswer),
    /// Store a new session.
    Insert {
        /// The new session.
        session: LiveSession,
        /// The presented id, to store as a replaced id of the new session, if that is created in
        /// place of another user's.
        replaced: Option<ReplacedId>,
    },
    /// Store `session`, whose id stays, in place of the one found.
    Update {
        /// The key of the session.
        key: K,
        /// The session with its changes.
        session: LiveSession,
    },
    /// Store only the record's `seen` and deadline, because nothing else has changed.
    Touch {
        /// The key of the session.
        key: K,
        /// The session with its new `seen`.
        session: LiveSession,
    },
    /// Store `session`, under its new id, in place of the one found.
    Move {
        /// The key of the session.
        key: K,
        /// The session with its changes and its new id.
        session: LiveSession,
        /// The ids that it had.
        id_change: IdChange,
    },
}

impl<K> Decision<K> {
    /// Makes a decision that changes nothing.
    fn nothing(answer: CommitAnswer) -> Self {
        SessionWrite::Nothing(answer).into()
    }

    /// Applies the [`user_maximum`](Self::user_maximum), if there is one: adds the sessions that
    /// it ends, or makes [`CommitAnswer::SignInRefused`] the answer.
    ///
    /// `of_user` are the sessions of that user in that realm, sorted by the time of their
    /// sign-ins, the earliest first. Expired ones, which have
    /// [reached a limit](EndedSession::reached_limit), are added to [`expired`](Self::expired) and
    /// do not count. Nor does the session that this commit changes.
    #[must_use]
    pub fn apply_maximum(mut self, of_user: Vec<(K, EndedSession)>) -> Self
    where
        K: PartialEq,
    {
        let Some(UserMaximum { max_sessions, .. }) = self.user_maximum.take() else { return self };
        let (mut others, expired): (Vec<_>, Vec<_>) =
            of_user.into_iter().partition(|(_, session)| session.reached_limit.is_none());
        // The commit itself may have found one of them.
        let expired =
            expired.into_iter().map(|(key, _)| key).filter(|key| !self.expired.contains(key));
        self.expired.extend(expired.collect::<Vec<_>>());
        if let SessionWrite::Move { id_change, .. } = &self.write {
            others.retain(|(_, session)| session.id_hash != id_change.previous.id_hash);
        }
        match max_sessions.ended_count(others.len()) {
            Some(count) => {
                others.truncate(count);
                others.append(&mut self.ended);
                self.ended = others;
            }
            None => {
                self.ended.clear();
                self.write = SessionWrite::Nothing(CommitAnswer::SignInRefused);
            }
        }
        self
    }

    /// Returns the keys of the sessions to remove: the [`expired`](Self::expired) and the
    /// [`ended`](Self::ended) ones.
    pub fn removed(&self) -> impl Iterator<Item = &K> {
        self.expired.iter().chain(self.ended.iter().map(|(key, _)| key))
    }

    /// Returns the answer to the commit when this decision is executed. `evicted` are the sessions
    /// that a bounded store removed to make room.
    #[must_use]
    pub fn into_answer(self, evicted: Vec<SessionIdHash>) -> CommitAnswer {
        let (session, previous_id) = match self.write {
            SessionWrite::Nothing(answer) => return answer,
            SessionWrite::Touch { session, .. } => return CommitAnswer::Unchanged(session),
            SessionWrite::Insert { session, .. } | SessionWrite::Update { session, .. } => {
                (session, None)
            }
            SessionWrite::Move { session, id_change, .. } => {
                (session, Some(id_change.previous.id_hash))
            }
        };
        let ended = self.ended.into_iter().map(|(_, session)| session).collect();
        CommitAnswer::Done { session, previous_id, ended, evicted }
    }
}

impl<K> From<SessionWrite<K>> for Decision<K> {
    /// Makes a decision that removes no session.
    fn from(write: SessionWrite<K>) -> Self {
        Decision { expired: Vec::new(), user_maximum: None, ended: Vec::new(), write }
    }
}

impl<K> SessionWrite<K> {
    /// Returns the id that the write gives to a session.
    #[must_use]
    pub const fn new_id(&self) -> Option<&SessionIdHash> {
        match self {
            SessionWrite::Insert { session, .. } | SessionWrite::Move { session, .. } => {
                Some(&session.id_hash)
            }
            _ => None,
        }
    }
}

/// A change of a session's id, to the [successor](ReplacedId::successor) of the previous id.
///
/// For example, a session had the id A and has the id B, and a sign-in gives it the id C. It
/// remembers these ids with their successors, the oldest first:
///
/// | sign-in | `previous` | `presented` | [remembered](IdChange::remembered) |
/// |---|---|---|---|
/// | none yet | | | A → B |
/// | through B | B → C | `None` | A → B, B → C |
/// | through A | B → C | A → C | B → C, A → C |
///
/// By the entry A → C, another sign-in through A can join this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdChange {
    /// The id that was current until now.
    pub previous: ReplacedId,
    /// The presented id of a sign-in, if it is not the previous one but was replaced earlier.
    pub presented: Option<ReplacedId>,
}

impl IdChange {
    /// Returns the replaced ids that the session remembers after this change, the oldest first; at
    /// most [`ReplacedId::MAX`]. `earlier` are those before the change, in the same order. The
    /// previous id [limits](ReplacedId::limited_by) their graces, and forgotten ones are left out.
    #[must_use]
    pub fn remembered(&self, earlier: Vec<ReplacedId>) -> Vec<ReplacedId> {
        let IdChange { previous, presented } = *self;
        let mut ids: Vec<_> = earlier.iter().map(|id| id.limited_by(&previous)).collect();
        ids.retain(|id| {
            let is_presented = presented.is_some_and(|presented| presented.id_hash == id.id_hash);
            !is_presented && previous.replaced_at < id.forget_at()
        });
        ids.push(previous);
        ids.extend(presented);
        ids.split_off(ids.len().saturating_sub(ReplacedId::MAX))
    }
}

/// Decides an [`Action::End`].
fn decide_end<K>(found: Found<K>) -> Decision<K> {
    let end_session = |key, session: EndedSession| {
        let ended = vec![(key, session.clone())];
        Decision { ended, ..Decision::nothing(CommitAnswer::Ended(session)) }
    };
    let not_found = Decision::nothing(CommitAnswer::Unreadable(Unreadable::NOT_FOUND));
    match found {
        Found::Live { session, key } | Found::Replaced { session, key, .. } => {
            end_session(key, session.to_ended())
        }
        Found::Undecodable { id_hash, public_id, key, .. } => {
            end_session(key, EndedSession::new(id_hash, public_id, None))
        }
        Found::Expired { key, .. } => Decision { expired: vec![key], ..not_found },
        Found::NotFound => not_found,
    }
}

/// Returns whether a session is the one that a sign-in asks for, by the rule of [`Action::SignIn`].
/// A join must not grant a level that was not proved, nor lose the identity provider's session id
/// or the end that it has set. The idle limit may differ: the first request may have changed it
/// after its sign-in.
///
/// An absolute limit may count from the sign-in, and two overlapping requests read the clock in
/// either order, so the requested end may be slightly earlier than the stored one.
fn is_as_requested(record: &Record, new_session: &NewSession) -> bool {
    let end = |limits: &Limits| limits.absolute_deadline.unwrap_or(Timestamp::MAX);
    new_session.auth_level == record.auth_level
        && (new_session.idp_session_id.is_none()
            || new_session.idp_session_id == record.idp_session_id)
        && new_session.persistent == record.persistent
        && end(&new_session.limits) + ReplacedId::OVERLAPS_FOR >= end(&record.limits)
}

impl Action {
    /// Describes the action, for an error's operation.
    pub(crate) fn operation(&self) -> &'static str {
        match self {
            Action::Create(_) => "create a session",
            Action::Merge => "change a session",
            Action::Renew { .. } => "renew a session",
            Action::SignIn { .. } => "sign a user in",
            Action::End => "end a session",
        }
    }
}

impl Commit {
    /// Makes a commit of `delta` without expectation, touch, or limits.
    #[must_use]
    pub fn new(
        id_hash: &SessionIdHash,
        action: Action,
        delta: impl Into<Arc<Delta>>,
        now: Timestamp,
    ) -> Self {
        Commit {
            id_hash: *id_hash,
            action,
            delta: delta.into(),
            expected: Expected::Anything,
            loaded: None,
            touch: None,
            max_sessions: None,
            max_bytes: usize::MAX,
            opened_at: now,
            now,
        }
    }

    /// Returns whether the commit may end a session or replace an id, which a power cut must not
    /// undo. A durable store then syncs it to the disk before it answers.
    #[must_use]
    pub fn must_survive_power_cut(&self) -> bool {
        !matches!(self.action, Action::Create(_) | Action::Merge)
    }

    /// Returns the maximum that the [decision](Decision::user_maximum) may apply, for stores that
    /// read the user's sessions before it; `None` for another action than a sign-in, or without a
    /// [`max_sessions`](Self::max_sessions).
    #[must_use]
    pub fn possible_maximum(&self) -> Option<UserMaximum> {
        let Action::SignIn { user, new_session, .. } = &self.action else { return None };
        let max_sessions = self.max_sessions?;
        Some(UserMaximum { user: user.clone(), realm: new_session.realm.clone(), max_sessions })
    }

    /// Decides what the commit does, from the lookup of its id at its `now`. For
    /// [`Action::Create`] a store may pass [`Found::NotFound`] without a lookup, because it detects
    /// a conflict itself.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] when the data would exceed the limit and would grow.
    pub fn decide<K>(&self, found: Found<K>) -> Result<Decision<K>> {
        match &self.action {
            Action::Create(new_session) => {
                let session = self.create(self.id_hash, new_session, None)?;
                Ok(SessionWrite::Insert { session, replaced: None }.into())
            }
            Action::Merge | Action::Renew { .. } => match found.into_live() {
                Ok((session, key)) => self.decide_change(session, key),
                Err(unreadable) => Ok(Decision::nothing(CommitAnswer::Unreadable(unreadable))),
            },
            Action::SignIn { to, user, new_session, join_salt } => {
                self.decide_sign_in(found, *to, user, new_session, *join_salt)
            }
            Action::End => Ok(decide_end(found)),
        }
    }

    /// Returns the [loaded](Self::loaded) session with the changes merged, so that a store can
    /// commit by one compare-and-swap: it stores this session if the stored one still has the id,
    /// the revision and `seen` of the loaded one, and so is unchanged. Otherwise it looks the
    /// session up and [decides](Self::decide).
    ///
    /// Returns `None` if the commit needs a lookup in any case: if it is no merge, changes more
    /// than data or nothing at all, exceeds the maximum size, or [expects](Self::expected) another
    /// revision than the loaded one.
    #[must_use]
    pub fn merge_into_loaded(&self) -> Option<LiveSession> {
        let loaded = self.loaded.as_deref()?;
        let is_merge = matches!(self.action, Action::Merge) && self.delta.changes_data_only();
        if !is_merge || loaded.id_hash != self.id_hash || !loaded.record.is_live(self.now) {
            return None;
        }
        match self.decide(Found::Live { session: loaded.clone(), key: () }).ok()?.write {
            SessionWrite::Update { session, .. } => Some(session),
            _ => None,
        }
    }

    /// Makes the session that this commit creates.
    fn create(
        &self,
        id_hash: SessionIdHash,
        new_session: &NewSession,
        user: Option<&UserKey>,
    ) -> Result<LiveSession> {
        let mut record = Record::create(new_session, self.now);
        self.delta.apply(&mut record);
        if let Some(user) = user {
            self.set_authentication(&mut record, user, new_session);
        }
        self.check_size(&record, 0)?;
        Ok(LiveSession { record, id_hash })
    }

    fn set_authentication(&self, record: &mut Record, user: &UserKey, new_session: &NewSession) {
        record.limits = new_session.limits;
        record.user = Some(user.clone());
        record.authenticated = Some(self.now);
        record.auth_level = new_session.auth_level;
        // After a step-up by the application, the identity provider can still end the session.
        if new_session.idp_session_id.is_some() {
            record.idp_session_id.clone_from(&new_session.idp_session_id);
        }
    }

    /// Decides an [`Action::SignIn`], by the table there.
    fn decide_sign_in<K>(
        &self,
        found: Found<K>,
        to: SessionIdHash,
        user: &UserKey,
        new_session: &NewSession,
        join_salt: Option<JoinSalt>,
    ) -> Result<Decision<K>> {
        let insert = |replaced| -> Result<Decision<K>> {
            let session = self.create(to, new_session, Some(user))?;
            let write = SessionWrite::Insert { session, replaced };
            Ok(Decision { user_maximum: self.possible_maximum(), ..write.into() })
        };
        let (session, key, replaced) = match found {
            // A sign-in does not need the previous session, and must not fail because that one has
            // ended meanwhile.
            Found::NotFound | Found::Undecodable { .. } => return insert(None),
            Found::Expired { key, .. } => {
                return Ok(Decision { expired: vec![key], ..insert(None)? });
            }
            Found::Live { session, key } => (session, key, None),
            Found::Replaced { replaced, session, key } => (session, key, Some(replaced)),
        };
        let current = self.replaced_id(&session, to, ReplacedBy::SignIn { salt: None });
        let presented = ReplacedId {
            id_hash: self.id_hash,
            // The salt belongs to the id that was presented.
            by: ReplacedBy::SignIn { salt: join_salt },
            // A replaced id keeps the secret that it had, and never gets that of a later sign-in.
            csrf_secret: replaced.map_or(current.csrf_secret, |replaced| replaced.csrf_secret),
            ..current
        };
        if session.record.user.iter().any(|owner| owner != user) {
            // The session got its user when the id was replaced, and belongs to another client.
            if replaced.is_some_and(|replaced| !replaced.had_user) {
                return insert(None);
            }
            // No data of one user's session may reach another user's.
            let ended = vec![(key, session.to_ended())];
            return Ok(Decision { ended, ..insert(Some(presented))? });
        }
        if join_salt.is_some()
            && let Some(replaced) = replaced
            && let Some(salt) = self.salt_to_join(&replaced, &session, new_session)
        {
            return Ok(Decision::nothing(CommitAnswer::CanJoin { salt }));
        }
        if self.is_unexpected(&session.record) {
            return Ok(Decision::nothing(CommitAnswer::RevisionMismatch(session)));
        }
        let LiveSession { mut record, id_hash } = session;
        let id_change = if id_hash == self.id_hash {
            IdChange { previous: presented, presented: None }
        } else {
            IdChange { previous: current, presented: Some(presented) }
        };
        let bytes = record.data.json_len();
        self.delta.apply(&mut record);
        self.set_authentication(&mut record, user, new_session);
        record.persistent = new_session.persistent;
        record.client.clone_from(&new_session.client);
        record.seen = record.seen.max(self.now);
        record.id_issued = self.now;
        record.revision += 1;
        self.check_size(&record, bytes)?;
        let session = LiveSession { record, id_hash: to };
        let write = SessionWrite::Move { key, session, id_change };
        Ok(Decision { user_maximum: self.possible_maximum(), ..write.into() })
    }

    /// Makes the replaced id that the current id of the session becomes.
    fn replaced_id(&self, session: &LiveSession, to: SessionIdHash, by: ReplacedBy) -> ReplacedId {
        let LiveSession { ref record, id_hash } = *session;
        let had_user = record.user.is_some();
        let csrf_secret = CsrfSecret::from_data(&record.data);
        ReplacedId { id_hash, successor: to, replaced_at: self.now, by, had_user, csrf_secret }
    }

    /// Returns the salt of the sign-in that replaced the id, if one through that id, of the same
    /// user, repeats it and can join it, because the session still has the new id.
    fn salt_to_join(
        &self,
        replaced: &ReplacedId,
        session: &LiveSession,
        new_session: &NewSession,
    ) -> Option<JoinSalt> {
        let ReplacedBy::SignIn { salt } = replaced.by else { return None };
        // The sign-in gave the session this id and its user in one step.
        let can_join = replaced.successor == session.id_hash
            && replaced.overlaps(self.opened_at)
            && is_as_requested(&session.record, new_session);
        salt.filter(|_| can_join)
    }

    /// Decides a merge or a renewal.
    fn decide_change<K>(&self, mut session: LiveSession, key: K) -> Result<Decision<K>> {
        if self.is_unexpected(&session.record) {
            return Ok(Decision::nothing(CommitAnswer::RevisionMismatch(session)));
        }
        let bytes = session.record.data.json_len();
        let id_change = match &self.action {
            // Not through an id within its grace: another request has already renewed it, and a
            // second renewal would replace that request's new id.
            Action::Renew { to, grace_until } if session.id_hash == self.id_hash => {
                let by = ReplacedBy::Renewal { grace_until: *grace_until };
                let previous = self.replaced_id(&session, *to, by);
                session.id_hash = *to;
                session.record.id_issued = self.now;
                Some(IdChange { previous, presented: None })
            }
            _ => None,
        };
        let record = &mut session.record;
        let touched = record.touch_if_due(self.touch, self.delta.idle_limit(), self.now);
        let changed = self.delta.apply(record);
        if !changed && id_change.is_none() {
            let write = if touched {
                SessionWrite::Touch { key, session }
            } else {
                SessionWrite::Nothing(CommitAnswer::Unchanged(session))
            };
            return Ok(write.into());
        }
        session.record.revision += 1;
        self.check_size(&session.record, bytes)?;
        let write = match id_change {
            Some(id_change) => SessionWrite::Move { key, session, id_change },
            None => SessionWrite::Update { key, session },
        };
        Ok(write.into())
    }

    fn is_unexpected(&self, record: &Record) -> bool {
        match self.expected {
            Expected::Anything => false,
            Expected::Revision(revision) => revision != record.revision,
            Expected::NoSession => true,
        }
    }

    /// Checks the size. A session above a limit that was lowered later may still shrink.
    fn check_size(&self, record: &Record, before: usize) -> Result<()> {
        let bytes = record.data.json_len();
        if bytes <= self.max_bytes || bytes <= before {
            return Ok(());
        }
        Err(Error::with_source(
            ErrorKind::TooLarge,
            "store the session's data",
            format!("it would be {bytes} bytes, the limit is {}", self.max_bytes),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_maximum_ends_the_oldest_all_others_or_refuses() {
        let count = |max, at_maximum| {
            MaxSessions::new(NonZeroU32::new(max).unwrap(), at_maximum).ended_count(3)
        };
        assert_eq!(count(4, AtMaximum::Refuse), Some(0));
        assert_eq!(count(3, AtMaximum::Refuse), None);
        assert_eq!(count(3, AtMaximum::EndOldest), Some(1));
        assert_eq!(count(1, AtMaximum::EndOldest), Some(3));
        assert_eq!(count(3, AtMaximum::EndOthers), Some(3));
        assert_eq!(count(4, AtMaximum::EndOthers), Some(0));
    }
}
