//! Commits, by single commands that each change one version of one item, or nothing.
//!
//! A session is one item, so a merge, a touch and a delete are one command. A renewal and a sign-in
//! move it to another id, by four commands:
//!
//! 1. `add` the new id as [`Arriving`](ItemState::Arriving) from the old one. It finds nothing yet.
//!    An id that is taken is detected here, before anything has changed.
//! 2. Replace the old item by [`Moved`](ItemState::Moved), with the session in it. This is the
//!    linearization point.
//! 3. Replace the arriving item by the session.
//! 4. Replace the moved item by [`Left`](ItemState::Left), a small tombstone.
//!
//! A request that meets a session between 2 and 4 completes the move. Only command 1 adds an item,
//! and the item is not a live session: so no late command brings an ended session back.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use crate::backend::{
    Action, Commit, Committed, Decision, LiveSession, Lookup, Missing, ReplacedId,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::{Record, Touch};
use crate::stores::memcached::client::{Replacement, Space, Stamp, Written};
use crate::stores::memcached::lookup::ItemVersion;
use crate::stores::memcached::value::{ItemState, Way};
use crate::stores::memcached::{MemcachedInner, life_of};

/// The longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_millis(4);

/// An id that is reserved for a session that moves.
#[derive(Clone, Copy, Debug)]
struct Reserved {
    to: SessionIdHash,
    from: SessionIdHash,
    stamp: Stamp,
}

/// The result of one attempt.
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
enum Attempt {
    Answer(Committed),
    /// Another request has changed the session in between.
    Overtaken,
}

impl MemcachedInner {
    pub(super) fn commit(&self, commit: &Commit) -> Result<Committed> {
        let mut reserved = None;
        let answer = self.attempts(commit, &mut reserved);
        if let Some(Reserved { to, stamp, .. }) = reserved {
            // If this fails, the item finds nothing, and expires.
            let _ = self.client.remove(Space::Sessions, &to, stamp, commit.action.operation());
        }
        answer
    }

    fn attempts(&self, commit: &Commit, reserved: &mut Option<Reserved>) -> Result<Committed> {
        let began = Instant::now();
        let mut pause = Duration::from_micros(20);
        loop {
            if let Attempt::Answer(answer) = self.attempt(commit, reserved)? {
                return Ok(answer);
            }
            if began.elapsed() >= self.busy_timeout {
                let why = "other requests kept changing the session";
                return Err(Error::with_source(ErrorKind::Busy, commit.action.operation(), why));
            }
            // Random, or requests that collided once would collide again.
            let shard = RandomState::new().hash_one(()) % 1000;
            thread::sleep(pause * u32::try_from(shard).unwrap_or(0) / 1000);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn attempt(&self, commit: &Commit, reserved: &mut Option<Reserved>) -> Result<Attempt> {
        let (now, operation) = (commit.now, commit.action.operation());
        let found = match commit.action {
            // Its id was made for it: storing it shows whether the id is taken.
            Action::Create(_) => Lookup::not_found(),
            _ => self.find(&commit.id_hash, now, operation)?,
        };
        if let Some(expired) = commit.expired_to_remove(&found)
            && !self.client.remove(Space::Sessions, &expired.id_hash, expired.stamp, operation)?
        {
            return Ok(Attempt::Overtaken);
        }
        let answer = match commit.decide(found)? {
            Decision::Answer(answer) => answer,
            Decision::Insert { session, replaces: None } => {
                self.begin(&session, reserved.take(), now, operation)?;
                Committed::Done { session, ended: Vec::new() }
            }
            Decision::Insert { session, replaces: Some((presented, at)) } => {
                let way = Way::to_new(&presented, at.id_hash);
                let anew = (presented.id_hash != at.id_hash).then_some((presented, true));
                return self.relocate(at, &way, session, reserved, anew, commit);
            }
            Decision::Update { at, session, id_change: Some(id_change) } => {
                let way = Way::of(&id_change.left);
                let anew = id_change.presented.map(|presented| (presented, false));
                return self.relocate(at, &way, session, reserved, anew, commit);
            }
            Decision::Update { at, session, id_change: None } => {
                match self.replace(at, &session, now, operation)? {
                    Written::Stored(_) => Committed::Done { session, ended: Vec::new() },
                    Written::Changed | Written::Missing => return Ok(Attempt::Overtaken),
                }
            }
            Decision::Touch { at, session } => match self.replace(at, &session, now, operation)? {
                Written::Stored(_) => Committed::Unchanged(session),
                Written::Changed | Written::Missing => return Ok(Attempt::Overtaken),
            },
            Decision::Remove { at } => {
                // Only this version: by now it may be the old id of a session.
                match self.client.remove(Space::Sessions, &at.id_hash, at.stamp, operation)? {
                    true => Committed::Deleted(at.id_hash),
                    false => return Ok(Attempt::Overtaken),
                }
            }
        };
        Ok(Attempt::Answer(answer))
    }

    fn replace(
        &self,
        at: ItemVersion,
        session: &LiveSession,
        now: Timestamp,
        operation: &'static str,
    ) -> Result<Written> {
        self.settle(at.id_hash, at.stamp, session.record.clone(), now, operation)
    }

    /// Stores a new session.
    fn begin(
        &self,
        LiveSession { record, id_hash }: &LiveSession,
        reserved: Option<Reserved>,
        now: Timestamp,
        operation: &'static str,
    ) -> Result<()> {
        // Reserved by an earlier attempt that found a session to move, which has ended since.
        if let Some(Reserved { to, stamp, .. }) = reserved {
            self.client.remove(Space::Sessions, &to, stamp, operation)?;
        }
        self.claim(*id_hash, &ItemState::Live(record.clone()), record, now, operation).map(drop)
    }

    /// Stores a state under an id that must be free, or hold a foreign value.
    fn claim(
        &self,
        id_hash: SessionIdHash,
        state: &ItemState,
        record: &Record,
        now: Timestamp,
        operation: &'static str,
    ) -> Result<Stamp> {
        let (value, life) = (state.encode(), life_of(record, now));
        if let Some(stamp) = self.client.add(Space::Sessions, &id_hash, &value, life, operation)? {
            return Ok(stamp);
        }
        if let Some(item) = self.client.get(Space::Sessions, &id_hash, operation)?
            && self.is_garbage(&item)
        {
            let new = Replacement { id_hash, stamp: item.stamp, value, life };
            if let Written::Stored(stamp) = self.client.replace(Space::Sessions, &new, operation)? {
                return Ok(stamp);
            }
        }
        Err(Error::new(ErrorKind::Conflict, operation))
    }

    /// Moves the session at `old` to another id, as `session`. Also stores the entry `anew` of the
    /// presented id, and whether it leads to a new session.
    fn relocate(
        &self,
        old: ItemVersion,
        way: &Way,
        session: LiveSession,
        reserved: &mut Option<Reserved>,
        anew: Option<(ReplacedId, bool)>,
        commit: &Commit,
    ) -> Result<Attempt> {
        let (now, operation) = (commit.now, commit.action.operation());
        let record = &session.record;
        let arriving = self.reserve(old.id_hash, way.to, record, reserved, now, operation)?;
        let (value, life) = (ItemState::Moved(*way, record.clone()).encode(), life_of(record, now));
        let new = Replacement { id_hash: old.id_hash, stamp: old.stamp, value, life };
        let moved = match self.client.replace_within_reach(Space::Sessions, &new, operation) {
            Ok((Written::Stored(stamp), true)) => stamp,
            // The old item's name has the epoch in which it was read; the new one's may have the
            // epoch after a `clear`, which has ended the session then.
            Ok((Written::Stored(_), false)) => return Ok(Attempt::Overtaken),
            Ok((Written::Changed | Written::Missing, _)) => return Ok(Attempt::Overtaken),
            Err(error) => {
                // It may take effect all the same: then the session needs the reserved id.
                *reserved = None;
                return Err(error);
            }
        };
        // Now the session has moved. If a later command fails, another request completes the move.
        *reserved = None;
        match self.settle(way.to, arriving, record.clone(), now, operation) {
            Ok(Written::Stored(_) | Written::Changed) => {
                let _ = self.leave(ItemVersion { stamp: moved, ..old }, way, now, operation);
            }
            // The old item stays as it is: the next request needs the session in it.
            Err(_) => {}
            // Another request completed the move and ended the session there, or the server has
            // lost it. A sign-in counts as done before that: it had begun or bound the session.
            Ok(Written::Missing) if !matches!(commit.action, Action::SignIn { .. }) => {
                return Ok(Attempt::Answer(Committed::Missing(Missing::not_found())));
            }
            Ok(Written::Missing) => {}
        }
        if let Some((presented, begins_session)) = anew {
            let way = Way { begins_session, ..Way::of(&presented) };
            self.remember_anew(&presented.id_hash, way, now);
        }
        let ended = vec![old.id_hash];
        Ok(Attempt::Answer(Committed::Done { session, ended }))
    }

    fn reserve(
        &self,
        from: SessionIdHash,
        to: SessionIdHash,
        record: &Record,
        reserved: &mut Option<Reserved>,
        now: Timestamp,
        operation: &'static str,
    ) -> Result<Stamp> {
        if let Some(before) = reserved.take() {
            if before.from == from {
                *reserved = Some(before);
                return Ok(before.stamp);
            }
            self.client.remove(Space::Sessions, &before.to, before.stamp, operation)?;
        }
        let stamp = self.claim(to, &ItemState::Arriving(from), record, now, operation)?;
        *reserved = Some(Reserved { to, from, stamp });
        Ok(stamp)
    }

    /// Records activity by an id that was replaced, or beside other changes of the session.
    pub(super) fn touch_one(
        &self,
        id_hash: &SessionIdHash,
        touch: Touch,
        now: Timestamp,
    ) -> Result<()> {
        const OPERATION: &str = "record activity";
        let began = Instant::now();
        loop {
            let Lookup::Live { mut session, at } = self.find(id_hash, now, OPERATION)? else {
                return Ok(());
            };
            if !session.record.touch(touch) {
                return Ok(());
            }
            match self.replace(at, &session, now, OPERATION)? {
                Written::Stored(_) => return Ok(()),
                Written::Changed | Written::Missing if began.elapsed() < self.busy_timeout => {}
                Written::Changed | Written::Missing => {
                    return Err(Error::new(ErrorKind::Busy, OPERATION));
                }
            }
        }
    }
}
