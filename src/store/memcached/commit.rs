//! A commit: what [`Commit::decide`] says, carried out by single commands that each change one
//! version of one item, or nothing.
//!
//! A session lives in one item, so a merge, a touch and a delete are one command. A renewal and a
//! sign-in move it to another key, in four:
//!
//! 1. `add` the new key as [`Arriving`](State::Arriving) from the old one. It finds nothing yet; a
//!    key that is taken is found out here, before anything has changed.
//! 2. Replace the old item by [`Moved`](State::Moved), with the session in it. This is the moment
//!    of the commit.
//! 3. Replace what arrives by the session.
//! 4. Replace what has moved by [`Left`](State::Left), which is small and remembered for a while.
//!
//! Whoever meets a session between 2 and 4 does what is left to do. Nobody but 1 ever adds an
//! item, and what 1 adds does not live: so nothing that comes late brings anything back.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionKey;
use crate::record::{Record, Touch};
use crate::store::memcached::client::{Replacement, Space, Stamp, Written};
use crate::store::memcached::find::{Found, Place};
use crate::store::memcached::value::{State, Way};
use crate::store::memcached::{Inner, life_of};
use crate::store::{Commit, Committed, Decision, Fate, Loaded, ReplacedId};

/// The longest pause of somebody who was overtaken.
const LONGEST_PAUSE: Duration = Duration::from_millis(4);

/// A key that was reserved for a session to arrive at.
#[derive(Clone, Copy, Debug)]
struct Reserved {
    to: SessionKey,
    from: SessionKey,
    stamp: Stamp,
}

/// What an attempt came to.
#[allow(clippy::large_enum_variant)] // it lives on the stack for one request
enum Attempt {
    Answer(Committed),
    /// Somebody else has changed the session in between.
    Overtaken,
}

impl Inner {
    pub(super) fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        let mut reserved = None;
        let answer = self.attempts(commit, &mut reserved);
        if let Some(Reserved { to, stamp, .. }) = reserved {
            // It leads nowhere, and goes by itself in the end.
            let _ = self.client.remove(Space::Sessions, &to, stamp, doing(commit));
        }
        answer
    }

    fn attempts(&self, commit: &Commit<'_>, reserved: &mut Option<Reserved>) -> Result<Committed> {
        let began = Instant::now();
        let mut pause = Duration::from_micros(20);
        loop {
            if let Attempt::Answer(answer) = self.attempt(commit, reserved)? {
                return Ok(answer);
            }
            if began.elapsed() >= self.patience {
                let why = "others kept changing the session";
                return Err(Error::with_source(ErrorKind::Busy, doing(commit), why));
            }
            // By chance, or those who met once would meet again.
            let share = RandomState::new().hash_one(()) % 1000;
            thread::sleep(pause * u32::try_from(share).unwrap_or(0) / 1000);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn attempt(&self, commit: &Commit<'_>, reserved: &mut Option<Reserved>) -> Result<Attempt> {
        let (now, doing) = (commit.now, doing(commit));
        let Found { loaded, place } = match commit.fate {
            // Its key was made for it: whether it is taken is seen by storing it.
            Fate::Create(_) => Found { loaded: Loaded::Absent, place: None },
            _ => self.find(commit.key, now, doing)?,
        };
        if let (Loaded::Absent, Some(place)) = (&loaded, place)
            && commit.removes_expired()
            && !self.client.remove(Space::Sessions, &place.key, place.stamp, doing)?
        {
            return Ok(Attempt::Overtaken);
        }
        let answer = match (commit.decide(loaded)?, place) {
            (Decision::Answer(answer), _) => answer,
            (Decision::Insert { key, record, replaces: None }, _) => {
                self.begin(key, &record, reserved.take(), now, doing)?;
                Committed::Done { record, key, ended: Vec::new() }
            }
            (Decision::Insert { record, replaces: Some(presented), .. }, Some(place)) => {
                let way = Way::to_new(&presented, place.key);
                let anew = (presented.key != place.key).then_some((presented, true));
                return self.relocate(place, &way, record, reserved, anew, commit);
            }
            (Decision::Update { record, rekey: Some(rekey) }, Some(place)) => {
                let way = Way::of(&rekey.left);
                let anew = rekey.presented.map(|presented| (presented, false));
                return self.relocate(place, &way, record, reserved, anew, commit);
            }
            (Decision::Update { record, rekey: None }, Some(place)) => {
                match self.settle(place.key, place.stamp, record.clone(), now, doing)? {
                    Written::Stored(_) => {
                        Committed::Done { record, key: place.key, ended: Vec::new() }
                    }
                    Written::Changed | Written::Missing => return Ok(Attempt::Overtaken),
                }
            }
            (Decision::Touch { record }, Some(place)) => {
                match self.settle(place.key, place.stamp, record.clone(), now, doing)? {
                    Written::Stored(_) => Committed::Unchanged { record, key: place.key },
                    Written::Changed | Written::Missing => return Ok(Attempt::Overtaken),
                }
            }
            (Decision::Remove, Some(place)) => {
                // This version and no other: it might be the old key of a session by now.
                match self.client.remove(Space::Sessions, &place.key, place.stamp, doing)? {
                    true => Committed::Deleted { key: place.key },
                    false => return Ok(Attempt::Overtaken),
                }
            }
            (
                Decision::Insert { .. }
                | Decision::Update { .. }
                | Decision::Touch { .. }
                | Decision::Remove,
                None,
            ) => return Err(Error::new(ErrorKind::Unexpected, doing)),
        };
        Ok(Attempt::Answer(answer))
    }

    /// Stores a session that has no past.
    fn begin(
        &self,
        key: SessionKey,
        record: &Record,
        reserved: Option<Reserved>,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<()> {
        // Reserved by an attempt before, which found a session to move; it has gone since.
        if let Some(Reserved { to, stamp, .. }) = reserved {
            self.client.remove(Space::Sessions, &to, stamp, doing)?;
        }
        self.claim(key, &State::Live(record.clone()), record, now, doing).map(drop)
    }

    /// Stores a state under a key that must be free, or hold nothing of ours.
    fn claim(
        &self,
        key: SessionKey,
        state: &State,
        record: &Record,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<Stamp> {
        let (value, life) = (state.encode(), life_of(record, now));
        if let Some(stamp) = self.client.add(Space::Sessions, &key, &value, life, doing)? {
            return Ok(stamp);
        }
        if let Some(item) = self.client.get(Space::Sessions, &key, doing)?
            && self.is_garbage(&item)
        {
            let new = Replacement { key, stamp: item.stamp, value, life };
            if let Written::Stored(stamp) = self.client.replace(Space::Sessions, &new, doing)? {
                return Ok(stamp);
            }
        }
        Err(Error::new(ErrorKind::Conflict, doing))
    }

    /// Moves the session at `old` to another key, as `record`, and remembers `anew` the key that was
    /// presented for it, and whether it leads to a session that begins.
    fn relocate(
        &self,
        old: Place,
        way: &Way,
        record: Record,
        reserved: &mut Option<Reserved>,
        anew: Option<(ReplacedId, bool)>,
        commit: &Commit<'_>,
    ) -> Result<Attempt> {
        let (now, doing) = (commit.now, doing(commit));
        let arriving = self.reserve(old.key, way.to, &record, reserved, now, doing)?;
        let (value, life) = (State::Moved(*way, record.clone()).encode(), life_of(&record, now));
        let new = Replacement { key: old.key, stamp: old.stamp, value, life };
        let moved = match self.client.replace_within_reach(Space::Sessions, &new, doing) {
            Ok((Written::Stored(stamp), true)) => stamp,
            // The name of the old key holds the epoch under which it was read, while the new key's
            // may hold one of the time after a `clear`: then the session has been ended.
            Ok((Written::Stored(_), false)) => return Ok(Attempt::Overtaken),
            Ok((Written::Changed | Written::Missing, _)) => return Ok(Attempt::Overtaken),
            Err(error) => {
                // It may have been done, or be done yet: then the session needs what is reserved.
                *reserved = None;
                return Err(error);
            }
        };
        // From here on the session has moved, whatever fails: somebody else can go on from here.
        *reserved = None;
        match self.settle(way.to, arriving, record.clone(), now, doing) {
            Ok(Written::Stored(_) | Written::Changed) => {
                let _ = self.leave(Place { stamp: moved, ..old }, way, now, doing);
            }
            // The old item is left as it is: whoever comes needs what is in it.
            Err(_) => {}
            // Another request completed the move and ended the session there, or the server has
            // lost it. A sign-in counts as done before that: it had begun or bound the session.
            Ok(Written::Missing) if !matches!(commit.fate, Fate::SignIn { .. }) => {
                return Ok(Attempt::Answer(Committed::Gone));
            }
            Ok(Written::Missing) => {}
        }
        if let Some((presented, begins_session)) = anew {
            let way = Way { begins_session, ..Way::of(&presented) };
            self.remember_anew(&presented.key, way, now);
        }
        let ended = vec![old.key];
        Ok(Attempt::Answer(Committed::Done { record, key: way.to, ended }))
    }

    fn reserve(
        &self,
        from: SessionKey,
        to: SessionKey,
        record: &Record,
        reserved: &mut Option<Reserved>,
        now: Timestamp,
        doing: &'static str,
    ) -> Result<Stamp> {
        if let Some(before) = reserved.take() {
            if before.from == from {
                *reserved = Some(before);
                return Ok(before.stamp);
            }
            self.client.remove(Space::Sessions, &before.to, before.stamp, doing)?;
        }
        let stamp = self.claim(to, &State::Arriving(from), record, now, doing)?;
        *reserved = Some(Reserved { to, from, stamp });
        Ok(stamp)
    }

    /// Records activity through a key that leads elsewhere, or whose session others are changing.
    pub(super) fn touch_one(&self, key: &SessionKey, touch: Touch, now: Timestamp) -> Result<()> {
        const DOING: &str = "record activity";
        let began = Instant::now();
        loop {
            let Found { loaded: Loaded::Live { mut record, .. }, place: Some(place) } =
                self.find(key, now, DOING)?
            else {
                return Ok(());
            };
            if !record.touch(touch) {
                return Ok(());
            }
            match self.settle(place.key, place.stamp, record, now, DOING)? {
                Written::Stored(_) => return Ok(()),
                Written::Changed | Written::Missing if began.elapsed() < self.patience => {}
                Written::Changed | Written::Missing => {
                    return Err(Error::new(ErrorKind::Busy, DOING));
                }
            }
        }
    }
}

fn doing(commit: &Commit<'_>) -> &'static str {
    match commit.fate {
        Fate::Create(_) => "begin a session",
        Fate::Merge => "change a session",
        Fate::Renew { .. } => "renew a session",
        Fate::SignIn { .. } => "sign a user in",
        Fate::Delete => "end a session",
    }
}
