//! A commit, and what it means: decided here, carried out by the store.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::backend::{Committed, Loaded};
use crate::clock::Timestamp;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JoinSalt, Realm, SessionIdHash, UserKey};
use crate::lifetime::Limits;
use crate::record::{NewSession, Record, Touch};

/// Everything that one request wants done to one session, in one atomic step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Commit<'a> {
    /// The key the client presented; for [`Action::Create`] the key of the new session.
    pub id_hash: &'a SessionIdHash,
    /// What becomes of the session.
    pub action: Action<'a>,
    /// The changes to merge.
    pub delta: &'a Delta,
    /// Do it only if the session has this revision.
    pub if_revision: Option<u64>,
    /// Activity to record, if it is due.
    pub touch: Option<Touch>,
    /// The limit per user that a sign-in must obey.
    pub session_limit: Option<SessionLimit>,
    /// The most bytes of JSON that the data may have.
    pub max_bytes: usize,
    /// When the request was opened that wants this: whether it was under way when its id was
    /// replaced depends on it.
    pub opened: Timestamp,
    /// The time.
    pub now: Timestamp,
}

/// What becomes of the session of a [`Commit`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Action<'a> {
    /// A new session begins under the commit's key.
    Create(&'a NewSession),
    /// It goes on as it is.
    Merge,
    /// It goes on under a new key; the absolute deadline stays. Through a key that is already
    /// within its grace this is a [`Merge`](Fate::Merge), and the answer's key is not `to`.
    Renew {
        /// The new key.
        to: &'a SessionIdHash,
        /// The realm of the new key.
        realm: &'a Realm,
        /// Until when the old key finds the session too; without it the old key is dead at once.
        grace_until: Option<Timestamp>,
    },
    /// It goes on under a new key as the session of `user`, and both clocks restart. If there is
    /// no session, or it is another user's, one begins (and the other user's ends). A condition on
    /// the revision holds only where there is a session.
    ///
    /// A key that was replaced, and is remembered, counts as follows:
    /// - The session is this user's, and the key was replaced by their sign-in, which said the same
    ///   of them, while this request was under way: nothing is done, and the answer is [`Committed::Replaced`], by which this
    ///   sign-in joins that one.
    /// - The session is this user's otherwise, or nobody's: it moves, as if its current key had
    ///   been presented.
    /// - It is another user's: one begins. Theirs ends if it had a user when the key was replaced.
    SignIn {
        /// The new key.
        to: &'a SessionIdHash,
        /// Who signed in.
        user: &'a UserKey,
        /// The limits from now on, the level, the external key; and the rest if a session begins.
        new_session: &'a NewSession,
        /// By which `to` follows from the id behind the commit's key; `None` if it does not.
        join_salt: Option<JoinSalt>,
    },
    /// It ends, whatever the delta, the condition and the touch say, through a key in its grace or
    /// one that is [remembered as replaced](ReplacedId) too.
    Delete,
}

/// How many sessions a user may have, and what happens at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SessionLimit {
    /// The limit.
    pub limit: NonZeroU32,
    /// What happens when a sign-in would exceed it.
    pub at_limit: AtLimit,
}

/// What happens when a sign-in would exceed the limit per user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtLimit {
    /// The sign-in is refused.
    Refuse,
    /// The sessions that signed in longest ago end.
    EndOldest,
    /// All other sessions of the user end.
    EndOthers,
}

impl SessionLimit {
    /// At most `limit` sessions a user.
    #[must_use]
    pub const fn new(limit: NonZeroU32, at_limit: AtLimit) -> Self {
        SessionLimit { limit, at_limit }
    }

    /// Which of the user's other live sessions, given from the one that signed in longest ago,
    /// must end so that one more may live. `None`: the sign-in is refused.
    #[must_use]
    pub fn sessions_to_end<'s, T>(&self, others: &'s [T]) -> Option<&'s [T]> {
        let limit = usize::try_from(self.limit.get()).unwrap_or(usize::MAX);
        let excess = (others.len() + 1).saturating_sub(limit);
        match self.at_limit {
            _ if excess == 0 => Some(&[]),
            AtLimit::Refuse => None,
            AtLimit::EndOldest => others.get(..excess),
            AtLimit::EndOthers => Some(others),
        }
    }
}

/// What a store has to do for a commit, in the same atomic step in which it found the session.
///
/// Unlike other enums here it is exhaustive: a store that does not know a decision must fail to
/// compile, not at a commit.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
pub enum Decision {
    /// Store a new session under `id_hash`, a [`Conflict`](ErrorKind::Conflict) if any session has or
    /// had that key; before that, obey the commit's limit per user. If it replaces the session
    /// that was found, remove that one with all its keys, and let the new one remember the key that
    /// was presented for it, the commit's.
    Insert {
        /// The key of the new session.
        id_hash: SessionIdHash,
        /// The new session.
        record: Record,
        /// The commit's key, if the new session takes the place of the one that it led to.
        replaces: Option<ReplacedId>,
    },
    /// Store `record` in place of the one that was found.
    Update {
        /// The session as it shall be.
        record: Record,
        /// Where it moves, if it moves; on a sign-in obey the commit's limit per user first.
        id_change: Option<IdChange>,
    },
    /// Store only the record's `seen` and deadline, then answer [`Committed::Unchanged`].
    Touch {
        /// The session with its new `seen`.
        record: Record,
    },
    /// Remove the session that was found.
    Remove,
    /// Nothing; this is the answer.
    Answer(Committed),
}

/// A move of a session to the [successor](ReplacedId::successor) of its key, a
/// [`Conflict`](ErrorKind::Conflict) if any session has or had that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdChange {
    /// The key that it leaves. Remember it beside those remembered before, at most
    /// [`ReplacedId::MAX`] of them; if [it ends graces](ReplacedId::ends_graces), those end.
    pub left: ReplacedId,
    /// The key that was presented for a sign-in, where the session had left it before. Remember
    /// this in place of what is remembered of it, so that another sign-in through it can join.
    pub presented: Option<ReplacedId>,
}

/// An id that a session had, and by what it was replaced. It is remembered for a while, because
/// requests under way still present it, and so does a client that lost the answer with its new id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplacedId {
    /// The hash of the replaced id.
    pub id_hash: SessionIdHash,
    /// The hash of the id that took its place.
    pub successor: SessionIdHash,
    /// When it was replaced.
    pub at: Timestamp,
    /// By what.
    pub by: ReplacedBy,
    /// Whether the session had a user until then.
    pub had_user: bool,
}

/// What replaced an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacedBy {
    /// A renewal.
    Renewal {
        /// Until when the replaced id finds the session all the same; `None`: never.
        grace_until: Option<Timestamp>,
    },
    /// A sign-in, after which no replaced id finds the session.
    SignIn {
        /// By which another sign-in through the replaced id gets the same new id; `None` where the
        /// new id does not follow from the replaced one.
        salt: Option<JoinSalt>,
    },
}

/// What a [`ReplacedId`] means at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplacedIdStatus {
    /// It finds the session: the grace is not over.
    InGrace,
    /// It is known as replaced: [`Loaded::Replaced`].
    Remembered,
    /// It means nothing, like an id that no session ever had.
    Forgotten,
}

impl ReplacedId {
    /// For so long it is remembered after it was replaced and after its grace.
    pub const REMEMBERED: Duration = Duration::from_secs(600);

    /// This many replaced ids of one session are remembered, the latest ones.
    pub const MAX: usize = 8;

    /// A request that was opened no later than this after the replacement, or within the grace, was
    /// under way: it is taken for one that another answer has overtaken. A later one comes from a
    /// client that lost the answer, or from a thief.
    pub const UNDER_WAY: Duration = Duration::from_secs(10);

    /// What it means at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> ReplacedIdStatus {
        // The grace is no part of `at`: were the clock set back over a restart, an id replaced
        // without grace must not find the session again.
        if self.grace_until().is_some_and(|until| now < until) {
            ReplacedIdStatus::InGrace
        } else if now < self.forget_at() {
            ReplacedIdStatus::Remembered
        } else {
            ReplacedIdStatus::Forgotten
        }
    }

    /// Until when it finds the session, if it does at all.
    #[must_use]
    pub fn grace_until(&self) -> Option<Timestamp> {
        match self.by {
            ReplacedBy::Renewal { grace_until } => grace_until,
            ReplacedBy::SignIn { .. } => None,
        }
    }

    /// From when on it need not be kept.
    #[must_use]
    pub fn forget_at(&self) -> Timestamp {
        self.at.max(self.grace_until().unwrap_or(self.at)) + Self::REMEMBERED
    }

    /// Whether a request that was opened then was under way when the id was replaced.
    #[must_use]
    pub fn was_under_way(&self, opened: Timestamp) -> bool {
        let is_in_grace = self.grace_until().is_some_and(|until| opened < until);
        is_in_grace || opened <= self.at + Self::UNDER_WAY
    }

    /// The same without its grace, as after a sign-in to its session.
    #[must_use]
    pub fn without_grace(self) -> Self {
        let by = match self.by {
            ReplacedBy::Renewal { .. } => ReplacedBy::Renewal { grace_until: None },
            by @ ReplacedBy::SignIn { .. } => by,
        };
        ReplacedId { by, ..self }
    }

    /// Whether this replacement ends the grace of ids that were replaced before.
    #[must_use]
    pub fn ends_graces(&self) -> bool {
        matches!(self.by, ReplacedBy::SignIn { .. })
    }
}

/// Whether a sign-in says the same of its user as the one that `record` comes from, as the second
/// one of a double click does. A join must not give a level that was not proved, nor lose the
/// provider's name for the session or an end that it has set.
///
/// An absolute limit may be a length of time from the sign-in, and two requests at once read the
/// time in either order: so the end asked for may be somewhat earlier than the one that is stored.
fn says_the_same(new_session: &NewSession, record: &Record) -> bool {
    let end = |limits: &Limits| limits.absolute.unwrap_or(Timestamp::MAX);
    new_session.auth_level == record.auth_level
        && (new_session.idp_session_id.is_none()
            || new_session.idp_session_id == record.idp_session_id)
        && new_session.persistent == record.persistent
        && new_session.limits.idle == record.limits.idle
        && end(&new_session.limits) + ReplacedId::UNDER_WAY >= end(&record.limits)
}

impl<'a> Commit<'a> {
    /// A commit of `delta` without conditions, touch, or limits.
    #[must_use]
    pub const fn new(
        id_hash: &'a SessionIdHash,
        action: Action<'a>,
        delta: &'a Delta,
        now: Timestamp,
    ) -> Self {
        Commit {
            id_hash,
            action,
            delta,
            if_revision: None,
            touch: None,
            session_limit: None,
            max_bytes: usize::MAX,
            opened: now,
            now,
        }
    }

    /// Whether this ends something that must stay ended after a power cut: then a durable store
    /// has it on the disk before it answers.
    #[must_use]
    pub fn is_revocation(&self) -> bool {
        match self.action {
            Action::Renew { .. } | Action::SignIn { .. } | Action::Delete => true,
            Action::Create(_) | Action::Merge => self.delta.user().is_some(),
        }
    }

    /// Whether a session that the key finds, but whose deadline has passed, must be removed in the
    /// same step: it is as if there were none, but a write that has waited since before the
    /// deadline could make it live again, and this commit says that it shall not.
    #[must_use]
    pub fn removes_expired(&self) -> bool {
        matches!(self.action, Action::SignIn { .. } | Action::Delete)
    }

    /// The limit per user that this commit must obey, and on which sessions: those of its user in
    /// its realm. Those among them whose deadlines have passed are removed in the same step, for
    /// the reason of [`removes_expired`](Self::removes_expired).
    #[must_use]
    pub fn session_limit_of(&self) -> Option<(SessionLimit, &'a UserKey, &'a Realm)> {
        match self.action {
            Action::SignIn { user, new_session, .. } => {
                self.session_limit.map(|session_limit| (session_limit, user, &new_session.realm))
            }
            _ => None,
        }
    }

    /// What to do, given what was found under the commit's key at the commit's `now`. For
    /// [`Action::Create`] that may be [`Loaded::NotFound`] unseen: the store finds a conflict itself.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] when the data would exceed the limit and would grow.
    pub fn decide(&self, found: Loaded) -> Result<Decision> {
        match self.action {
            Action::Create(new_session) => self.begin(*self.id_hash, new_session, None, None),
            Action::SignIn { to, user, new_session, join_salt } => {
                self.sign_in(found, to, user, new_session, join_salt)
            }
            Action::Merge | Action::Renew { .. } => self.go_on(found),
            Action::Delete => Ok(match found {
                Loaded::Live { .. } | Loaded::Replaced { .. } | Loaded::Undecodable { .. } => {
                    Decision::Remove
                }
                Loaded::NotFound => Decision::Answer(Committed::NotFound),
            }),
        }
    }

    fn begin(
        &self,
        id_hash: SessionIdHash,
        new_session: &NewSession,
        user: Option<&UserKey>,
        replaces: Option<ReplacedId>,
    ) -> Result<Decision> {
        let mut record = Record::create(new_session, self.now);
        self.delta.apply(&mut record);
        if let Some(user) = user {
            self.stamp(&mut record, user, new_session);
        }
        self.check_size(&record, 0)?;
        Ok(Decision::Insert { id_hash, record, replaces })
    }

    fn stamp(&self, record: &mut Record, user: &UserKey, new_session: &NewSession) {
        record.user = Some(user.clone());
        record.authenticated = Some(self.now);
        record.auth_level = new_session.auth_level;
        // A step up by the application itself does not take away the provider's power.
        if new_session.idp_session_id.is_some() {
            record.idp_session_id.clone_from(&new_session.idp_session_id);
        }
    }

    fn sign_in(
        &self,
        found: Loaded,
        to: &SessionIdHash,
        user: &UserKey,
        new_session: &NewSession,
        join_salt: Option<JoinSalt>,
    ) -> Result<Decision> {
        let (mut record, id_hash, replaced) = match found {
            Loaded::Live { record, id_hash } => (record, id_hash, None),
            Loaded::Replaced { id, record, id_hash } => (record, id_hash, Some(id)),
            // A sign-in is an authentication of its own: it does not need the session from
            // before, and it must not fail because that one has ended meanwhile.
            Loaded::NotFound | Loaded::Undecodable { .. } => {
                return self.begin(*to, new_session, Some(user), None);
            }
        };
        let leave = |id_hash, salt, had_user| {
            let by = ReplacedBy::SignIn { salt };
            ReplacedId { id_hash, successor: *to, at: self.now, by, had_user }
        };
        let owner = record.user.as_ref();
        if owner.is_some_and(|owner| owner != user) {
            // Nothing of one user's session may reach the next user's. A session that was bound
            // to another user only when the key was replaced is that other client's.
            let ends = replaced.is_none_or(|id| id.had_user);
            let presented = leave(*self.id_hash, join_salt, true);
            return self.begin(*to, new_session, Some(user), ends.then_some(presented));
        }
        if let Some(id) = replaced
            && owner.is_some()
            && join_salt.is_some()
            && self.can_join(&id, &id_hash)
            && says_the_same(new_session, &record)
        {
            let public_id = record.public_id;
            return Ok(Decision::Answer(Committed::Replaced { id, id_hash, public_id }));
        }
        if self.is_stale(&record) {
            return Ok(Decision::Answer(Committed::RevisionMismatch { record, id_hash }));
        }
        // The salt belongs to the id that was presented.
        let (had_user, is_current) = (record.user.is_some(), id_hash == *self.id_hash);
        let id_change = IdChange {
            left: leave(id_hash, join_salt.filter(|_| is_current), had_user),
            presented: (!is_current).then(|| leave(*self.id_hash, join_salt, had_user)),
        };
        let bytes = record.data.json_len();
        self.delta.apply(&mut record);
        self.stamp(&mut record, user, new_session);
        record.realm.clone_from(&new_session.realm);
        record.limits = new_session.limits;
        record.persistent = new_session.persistent;
        record.client.clone_from(&new_session.client);
        record.seen = record.seen.max(self.now);
        record.id_issued = self.now;
        record.revision += 1;
        self.check_size(&record, bytes)?;
        Ok(Decision::Update { record, id_change: Some(id_change) })
    }

    /// Whether a sign-in through the replaced id can have the id that an earlier one got, because
    /// that one is the session's still.
    fn can_join(&self, id: &ReplacedId, current: &SessionIdHash) -> bool {
        matches!(id.by, ReplacedBy::SignIn { salt: Some(_) })
            && id.successor == *current
            && id.was_under_way(self.opened)
    }

    fn go_on(&self, found: Loaded) -> Result<Decision> {
        let (mut record, id_hash) = match found {
            Loaded::Live { record, id_hash } => (record, id_hash),
            Loaded::Replaced { id, record, id_hash } => {
                let public_id = record.public_id;
                return Ok(Decision::Answer(Committed::Replaced { id, id_hash, public_id }));
            }
            Loaded::NotFound => return Ok(Decision::Answer(Committed::NotFound)),
            Loaded::Undecodable { public_id, error } => {
                return Ok(Decision::Answer(Committed::Undecodable { public_id, error }));
            }
        };
        if self.is_stale(&record) {
            return Ok(Decision::Answer(Committed::RevisionMismatch { record, id_hash }));
        }
        let id_change = match self.action {
            // Not through a key in its grace: another request has renewed already, and a second
            // move would leave its new id behind.
            Action::Renew { to, grace_until, .. } if id_hash == *self.id_hash => Some(IdChange {
                left: ReplacedId {
                    id_hash,
                    successor: *to,
                    at: self.now,
                    by: ReplacedBy::Renewal { grace_until },
                    had_user: record.user.is_some(),
                },
                presented: None,
            }),
            _ => None,
        };
        let bytes = record.data.json_len();
        let changed = self.delta.apply(&mut record);
        let touched = match self.touch {
            Some(touch) if record.limits.touch_due(record.seen, touch.seen) => record.touch(touch),
            _ => false,
        };
        if !changed && id_change.is_none() {
            return Ok(match touched {
                true => Decision::Touch { record },
                false => Decision::Answer(Committed::Unchanged { record, id_hash }),
            });
        }
        record.revision += 1;
        if id_change.is_some()
            && let Action::Renew { realm, .. } = self.action
        {
            record.id_issued = self.now;
            record.realm.clone_from(realm);
        }
        self.check_size(&record, bytes)?;
        Ok(Decision::Update { record, id_change })
    }

    fn is_stale(&self, record: &Record) -> bool {
        self.if_revision.is_some_and(|revision| revision != record.revision)
    }

    /// A session that is over a limit lowered since may still shrink.
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
    fn a_limit_ends_the_oldest_all_others_or_refuses() {
        let session_limit =
            |limit, at_limit| SessionLimit::new(NonZeroU32::new(limit).unwrap(), at_limit);
        let others = ["old", "middle", "new"];
        assert_eq!(session_limit(4, AtLimit::Refuse).sessions_to_end(&others), Some(&[][..]));
        assert_eq!(session_limit(3, AtLimit::Refuse).sessions_to_end(&others), None);
        assert_eq!(
            session_limit(3, AtLimit::EndOldest).sessions_to_end(&others),
            Some(&["old"][..])
        );
        assert_eq!(
            session_limit(1, AtLimit::EndOldest).sessions_to_end(&others),
            Some(&others[..])
        );
        assert_eq!(
            session_limit(3, AtLimit::EndOthers).sessions_to_end(&others),
            Some(&others[..])
        );
        assert_eq!(session_limit(4, AtLimit::EndOthers).sessions_to_end(&others), Some(&[][..]));
    }
}
