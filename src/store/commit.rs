//! A commit, and what it means: decided here, carried out by the store.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::delta::Delta;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{SessionKey, UserKey};
use crate::record::{Birth, Record, Touch};
use crate::store::{Committed, Loaded};

/// Everything that one request wants done to one session, in one atomic step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Commit<'a> {
    /// The key the client presented; for [`Fate::Create`] the key of the new session.
    pub key: &'a SessionKey,
    /// What becomes of the session.
    pub fate: Fate<'a>,
    /// The changes to merge.
    pub delta: &'a Delta,
    /// Do it only if the session has this revision.
    pub if_revision: Option<u64>,
    /// Activity to record, if it is due.
    pub touch: Option<Touch>,
    /// The limit per user that a sign-in must obey.
    pub admit: Option<Admit>,
    /// The most bytes of JSON that the data may have.
    pub max_bytes: usize,
    /// The time.
    pub now: Timestamp,
}

/// What becomes of the session of a [`Commit`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Fate<'a> {
    /// A new session begins under the commit's key.
    Create(&'a Birth),
    /// It goes on as it is.
    Merge,
    /// It goes on under a new key; the absolute deadline stays. Through a key that is already
    /// within its grace this is a [`Merge`](Fate::Merge), and the answer's key is not `to`.
    Renew {
        /// The new key.
        to: &'a SessionKey,
        /// Until when the old key finds the session too; without it the old key is dead at once.
        grace_until: Option<Timestamp>,
    },
    /// It goes on under a new key as the session of `user`, and both clocks restart. If there is
    /// no session, or it is another user's, one begins (and the other user's ends). A condition on
    /// the revision holds only where there is a session.
    SignIn {
        /// The new key.
        to: &'a SessionKey,
        /// Who signed in.
        user: &'a UserKey,
        /// The limits from now on, the level, the external key; and the rest if a session begins.
        birth: &'a Birth,
    },
    /// It ends, whatever the delta, the condition and the touch say.
    Delete,
}

/// How many sessions a user may have, and what happens at the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Admit {
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

impl Admit {
    /// At most `limit` sessions a user.
    #[must_use]
    pub const fn new(limit: NonZeroU32, at_limit: AtLimit) -> Self {
        Admit { limit, at_limit }
    }

    /// Which of the user's other live sessions, given from the one that signed in longest ago,
    /// must end so that one more may live. `None`: the sign-in is refused.
    #[must_use]
    pub fn judge<'s, T>(&self, others: &'s [T]) -> Option<&'s [T]> {
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
    /// Store a new session under `key`, a [`Conflict`](ErrorKind::Conflict) if any session has or
    /// had that key; before that, obey the commit's limit per user. If it replaces the session
    /// that was found, remove that one, and let the new one remember its key.
    Insert {
        /// The key of the new session.
        key: SessionKey,
        /// The new session.
        record: Record,
        /// It takes the place of the session that was found under this key.
        replaces: Option<Former>,
    },
    /// Store `record` in place of the one that was found.
    Update {
        /// The session as it shall be.
        record: Record,
        /// Where it moves, if it moves; on a sign-in obey the commit's limit per user first.
        rekey: Option<Rekey>,
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

/// A move of a session to a new key, a [`Conflict`](ErrorKind::Conflict) if any session has or
/// had that key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rekey {
    /// The new key.
    pub to: SessionKey,
    /// The key it leaves, to be remembered in place of the one remembered before.
    pub former: Former,
}

/// A key that a session has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Former {
    /// The key.
    pub key: SessionKey,
    /// When it was left.
    pub left: Timestamp,
    /// Until when it finds the session all the same.
    pub grace_until: Option<Timestamp>,
}

/// What a [`Former`] key leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeadsTo {
    /// To the session: the grace is not over.
    Session,
    /// To the answer [`Loaded::Renewed`].
    Renewed,
    /// Nowhere, like a key that no session ever had.
    Nothing,
}

impl Former {
    /// For so long, after it was left and after its grace, it is answered [`Loaded::Renewed`]:
    /// longer than a request can be under way. A client that never received its new id is told
    /// then that the old one is dead, and can begin again.
    pub const REMEMBERED: Duration = Duration::from_secs(600);

    /// What it leads to at `now`.
    #[must_use]
    pub fn leads_to(&self, now: Timestamp) -> LeadsTo {
        // The grace is no part of `left`: were the clock set back over a restart, a key left
        // without grace must not find the session again.
        if self.grace_until.is_some_and(|until| now < until) {
            LeadsTo::Session
        } else if now < self.left.max(self.grace_until.unwrap_or(self.left)) + Self::REMEMBERED {
            LeadsTo::Renewed
        } else {
            LeadsTo::Nothing
        }
    }
}

impl<'a> Commit<'a> {
    /// A commit of `delta` without conditions, touch, or limits.
    #[must_use]
    pub const fn new(
        key: &'a SessionKey,
        fate: Fate<'a>,
        delta: &'a Delta,
        now: Timestamp,
    ) -> Self {
        Commit {
            key,
            fate,
            delta,
            if_revision: None,
            touch: None,
            admit: None,
            max_bytes: usize::MAX,
            now,
        }
    }

    /// Whether this ends something that must stay ended after a power cut: then a durable store
    /// has it on the disk before it answers.
    #[must_use]
    pub fn is_revocation(&self) -> bool {
        match self.fate {
            Fate::Renew { .. } | Fate::SignIn { .. } | Fate::Delete => true,
            Fate::Create(_) | Fate::Merge => self.delta.user().is_some(),
        }
    }

    /// Whether a session that the key finds, but whose deadline has passed, must be removed in the
    /// same step: it is as if there were none, but a write that has waited since before the
    /// deadline could make it live again, and this commit says that it shall not.
    #[must_use]
    pub fn removes_expired(&self) -> bool {
        matches!(self.fate, Fate::SignIn { .. } | Fate::Delete)
    }

    /// The limit per user that this commit must obey, and whose it is. The user's sessions whose
    /// deadlines have passed are removed in the same step, for the reason of
    /// [`removes_expired`](Self::removes_expired).
    #[must_use]
    pub fn admission(&self) -> Option<(Admit, &'a UserKey)> {
        match self.fate {
            Fate::SignIn { user, .. } => self.admit.map(|admit| (admit, user)),
            _ => None,
        }
    }

    /// What to do, given what was found under the commit's key at the commit's `now`. For
    /// [`Fate::Create`] that may be [`Loaded::Absent`] unseen: the store finds a conflict itself.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] when the data would exceed the limit and would grow.
    pub fn decide(&self, found: Loaded) -> Result<Decision> {
        match self.fate {
            Fate::Create(birth) => self.begin(*self.key, birth, None, None),
            Fate::SignIn { to, user, birth } => self.sign_in(found, to, user, birth),
            Fate::Merge | Fate::Renew { .. } => self.go_on(found),
            Fate::Delete => Ok(match found {
                Loaded::Live { .. } | Loaded::Undecodable { .. } => Decision::Remove,
                Loaded::Renewed => Decision::Answer(Committed::Renewed),
                Loaded::Absent => Decision::Answer(Committed::Gone),
            }),
        }
    }

    fn begin(
        &self,
        key: SessionKey,
        birth: &Birth,
        user: Option<&UserKey>,
        replaces: Option<Former>,
    ) -> Result<Decision> {
        let mut record = Record::born(birth, self.now);
        self.delta.apply(&mut record);
        if let Some(user) = user {
            self.stamp(&mut record, user, birth);
        }
        self.check_size(&record, 0)?;
        Ok(Decision::Insert { key, record, replaces })
    }

    fn stamp(&self, record: &mut Record, user: &UserKey, birth: &Birth) {
        record.user = Some(user.clone());
        record.authenticated = Some(self.now);
        record.auth_level = birth.auth_level;
        // A step up by the application itself does not take away the provider's power.
        if birth.external_key.is_some() {
            record.external_key.clone_from(&birth.external_key);
        }
    }

    fn sign_in(
        &self,
        found: Loaded,
        to: &SessionKey,
        user: &UserKey,
        birth: &Birth,
    ) -> Result<Decision> {
        let (mut record, key) = match found {
            Loaded::Live { record, key } => (record, key),
            // A sign-in is an authentication of its own: it does not need the session from
            // before, and it must not fail because that one has ended meanwhile.
            Loaded::Renewed | Loaded::Absent | Loaded::Undecodable { .. } => {
                return self.begin(*to, birth, Some(user), None);
            }
        };
        if self.is_stale(&record) {
            return Ok(Decision::Answer(Committed::Stale { record, key }));
        }
        if record.user.as_ref().is_some_and(|owner| owner != user) {
            // Nothing of one user's session may reach the next user's.
            return self.begin(*to, birth, Some(user), Some(self.leave(key, None)));
        }
        let bytes = record.data.json_len();
        self.delta.apply(&mut record);
        self.stamp(&mut record, user, birth);
        record.limits = birth.limits;
        record.persistent = birth.persistent;
        record.client.clone_from(&birth.client);
        record.seen = record.seen.max(self.now);
        record.revision += 1;
        self.check_size(&record, bytes)?;
        let former = self.leave(key, None);
        Ok(Decision::Update { record, rekey: Some(Rekey { to: *to, former }) })
    }

    fn leave(&self, key: SessionKey, grace_until: Option<Timestamp>) -> Former {
        Former { key, left: self.now, grace_until }
    }

    fn go_on(&self, found: Loaded) -> Result<Decision> {
        let (mut record, key) = match found {
            Loaded::Live { record, key } => (record, key),
            Loaded::Renewed => return Ok(Decision::Answer(Committed::Renewed)),
            Loaded::Absent => return Ok(Decision::Answer(Committed::Gone)),
            Loaded::Undecodable { handle, error } => {
                return Ok(Decision::Answer(Committed::Undecodable { handle, error }));
            }
        };
        if self.is_stale(&record) {
            return Ok(Decision::Answer(Committed::Stale { record, key }));
        }
        let rekey = match self.fate {
            // Not through a key in its grace: another request has renewed already, and a second
            // move would leave its new id behind.
            Fate::Renew { to, grace_until } if key == *self.key => {
                Some(Rekey { to: *to, former: self.leave(key, grace_until) })
            }
            _ => None,
        };
        let bytes = record.data.json_len();
        let changed = self.delta.apply(&mut record);
        let touched = match self.touch {
            Some(touch) if record.limits.touch_due(record.seen, touch.seen) => record.touch(touch),
            _ => false,
        };
        if !changed && rekey.is_none() {
            return Ok(match touched {
                true => Decision::Touch { record },
                false => Decision::Answer(Committed::Unchanged { record, key }),
            });
        }
        record.revision += 1;
        self.check_size(&record, bytes)?;
        Ok(Decision::Update { record, rekey })
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
        let admit = |limit, at_limit| Admit::new(NonZeroU32::new(limit).unwrap(), at_limit);
        let others = ["old", "middle", "new"];
        assert_eq!(admit(4, AtLimit::Refuse).judge(&others), Some(&[][..]));
        assert_eq!(admit(3, AtLimit::Refuse).judge(&others), None);
        assert_eq!(admit(3, AtLimit::EndOldest).judge(&others), Some(&["old"][..]));
        assert_eq!(admit(1, AtLimit::EndOldest).judge(&others), Some(&others[..]));
        assert_eq!(admit(3, AtLimit::EndOthers).judge(&others), Some(&others[..]));
        assert_eq!(admit(4, AtLimit::EndOthers).judge(&others), Some(&[][..]));
    }
}
