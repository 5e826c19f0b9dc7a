//! Commits, by single commands that each change one version of one item, or nothing.
//!
//! A session is one item, so a merge, a touch and a delete are one command. A renewal and a sign-in
//! move it to another id, by the four commands of `move_session`.

use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::Duration;

use crate::backend::{
    Action, Commit, CommitAnswer, Decision, Found, IdChange, LiveSession, ReplacedId, SessionWrite,
    Unreadable,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::{Record, Touch};
use crate::stores::memcached::client::{ItemVersion, Replacement, Written};
use crate::stores::memcached::value::{ItemState, Redirect};
use crate::stores::memcached::{MemcachedInner, StoreCall, ttl_of};

/// The longest pause before another attempt.
const LONGEST_PAUSE: Duration = Duration::from_millis(4);

/// An id that is reserved for the session of another id.
#[derive(Clone, Copy, Debug)]
struct Reserved {
    at: ItemVersion,
    from: SessionIdHash,
}

/// The result of an attempt to execute a decision.
enum Execution {
    Done,
    /// Nothing was changed: another request has changed the session, or `clear` has ended it.
    Conflict,
    /// The session was moved and has ended since.
    Ended,
}

impl Execution {
    /// Returns the result of a command, which is a conflict unless it was executed.
    fn done_if(is_executed: bool) -> Self {
        if is_executed { Execution::Done } else { Execution::Conflict }
    }
}

/// A commit, and the id that its attempts have reserved.
struct Attempts<'a> {
    inner: &'a MemcachedInner,
    commit: &'a Commit,
    call: StoreCall,
    reserved: Option<Reserved>,
}

impl MemcachedInner {
    pub(super) fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        let call = self.call(commit.now, commit.action.operation());
        let mut attempts = Attempts { inner: self, commit, call, reserved: None };
        let answer = attempts.run();
        if let Some(Reserved { at, .. }) = attempts.reserved {
            // If this fails, the item finds nothing, and expires.
            let _ = self.client.remove(call.context, at);
        }
        answer
    }

    /// Stores a state under an id that is free or has a foreign value; else fails with
    /// [`ErrorKind::Conflict`].
    fn claim(
        &self,
        id_hash: SessionIdHash,
        state: &ItemState,
        record: &Record,
        call: StoreCall,
    ) -> Result<ItemVersion> {
        let value = state.encode(&id_hash);
        let ttl = ttl_of(record, call.now);
        if let Some(version) = self.client.add(call.context, &id_hash, &value, ttl)? {
            return Ok(ItemVersion { id_hash, version });
        }
        if let Some(item) = self.client.get(call.context, &id_hash)?
            && let Ok(None) = self.decode(&item)
        {
            let new = Replacement { at: item.at, value, ttl };
            if let Written::Stored(version) = self.client.replace(call.context, &new)? {
                return Ok(ItemVersion { id_hash, version });
            }
        }
        Err(Error::id_is_taken())
    }

    /// Records activity by an id that was replaced, or beside other changes of the session.
    pub(super) fn touch_one(
        &self,
        id_hash: &SessionIdHash,
        touch: Touch,
        call: StoreCall,
    ) -> Result<()> {
        loop {
            let Found::Live { mut session, key } = self.find(id_hash, call)? else {
                return Ok(());
            };
            if !session.record.touch(touch) {
                return Ok(());
            }
            match self.store_live(key, session.record, call)? {
                Written::Stored(_) => return Ok(()),
                Written::Changed | Written::Missing if !call.context.is_late() => {}
                Written::Changed | Written::Missing => {
                    return Err(Error::new(ErrorKind::Busy, call.context.operation));
                }
            }
        }
    }
}

impl Attempts<'_> {
    fn run(&mut self) -> Result<CommitAnswer> {
        let mut pause = Duration::from_micros(20);
        loop {
            if let Some(answer) = self.attempt()? {
                return Ok(answer);
            }
            if self.call.context.is_late() {
                let why = "other requests kept changing the session";
                return Err(Error::with_source(ErrorKind::Busy, self.call.context.operation, why));
            }
            // Random, or requests that collided once would collide again.
            let per_mille = RandomState::new().hash_one(()) % 1000;
            thread::sleep(pause * u32::try_from(per_mille).unwrap_or(0) / 1000);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Returns `None` if another request has changed the session in between.
    fn attempt(&mut self) -> Result<Option<CommitAnswer>> {
        let Attempts { inner, commit, call, .. } = *self;
        let found = match commit.action {
            // Its id is new: storing the session shows whether the id is taken.
            Action::Create(_) => Found::NotFound,
            _ => inner.find(&commit.id_hash, call)?,
        };
        let decision = commit.decide(found)?;
        Ok(match self.execute(&decision)? {
            Execution::Done => Some(decision.into_answer(Vec::new())),
            Execution::Conflict => None,
            Execution::Ended => Some(CommitAnswer::Unreadable(Unreadable::NOT_FOUND)),
        })
    }

    fn execute(&mut self, decision: &Decision<ItemVersion>) -> Result<Execution> {
        let Attempts { inner, call, .. } = *self;
        for key in &decision.expired {
            if !inner.client.remove(call.context, *key)? {
                return Ok(Execution::Conflict);
            }
        }
        // At most the session found: the manager gives a store without an index no maximum.
        match (&decision.write, decision.ended.first()) {
            (SessionWrite::Nothing(_), None) => Ok(Execution::Done),
            // Only this version: by now the item may belong to the old id of a moved session.
            (SessionWrite::Nothing(_), Some((key, _))) => {
                inner.client.remove(call.context, *key).map(Execution::done_if)
            }
            (SessionWrite::Insert { session, replaced: Some(replaced) }, Some((key, _))) => {
                let redirect = Redirect::to_new(replaced, key.id_hash);
                let presented = (replaced.id_hash != key.id_hash).then_some(*replaced);
                self.move_session(*key, &redirect, session, presented)
            }
            (SessionWrite::Insert { session, .. }, _) => {
                self.insert(session).map(|()| Execution::Done)
            }
            (SessionWrite::Move { key, session, id_change }, _) => {
                let IdChange { previous, presented } = id_change;
                let redirect = match presented {
                    Some(presented) => Redirect::of_sign_in_through(presented, previous),
                    None => Redirect::of(previous),
                };
                self.move_session(*key, &redirect, session, *presented)
            }
            (SessionWrite::Update { key, session } | SessionWrite::Touch { key, session }, _) => {
                let written = inner.store_live(*key, session.record.clone(), call)?;
                Ok(Execution::done_if(written.is_stored()))
            }
        }
    }

    /// Stores a new session.
    fn insert(&mut self, LiveSession { record, id_hash }: &LiveSession) -> Result<()> {
        let Attempts { inner, call, .. } = *self;
        // Reserved by an earlier attempt that found a session to move, which has ended since.
        if let Some(Reserved { at, .. }) = self.reserved.take() {
            inner.client.remove(call.context, at)?;
        }
        inner.claim(*id_hash, &ItemState::Live(record.clone()), record, call).map(drop)
    }

    /// Moves the session at `old` to another id, as `session`, by four commands:
    ///
    /// 1. `add` the new id as [`Reserved`](ItemState::Reserved). It finds no session yet. A taken
    ///    id is detected here, before anything has changed.
    /// 2. Replace the old item by [`Moved`](ItemState::Moved), with the session in it. This is the
    ///    linearization point.
    /// 3. Replace the reserved item by the session.
    /// 4. Replace the moved item by [`Redirected`](ItemState::Redirected), without the session.
    ///
    /// A request that finds a session between 2 and 4 completes the move. Only command 1 adds an
    /// item, and that is not a live session: so no delayed command restores an ended session.
    ///
    /// Then replaces the redirect of the presented id, if that was replaced earlier.
    fn move_session(
        &mut self,
        old: ItemVersion,
        redirect: &Redirect,
        session: &LiveSession,
        presented: Option<ReplacedId>,
    ) -> Result<Execution> {
        let Attempts { inner, commit, call, .. } = *self;
        let record = &session.record;
        let reserved = self.reserve(old.id_hash, redirect.to, record)?;
        let Some(moved) = self.store_moved(old, redirect, record)? else {
            return Ok(Execution::Conflict);
        };
        // Now the new id is current. If a later command fails, another request completes the move.
        match inner.store_live(reserved, record.clone(), call) {
            Ok(Written::Stored(_) | Written::Changed) => {
                let _ = inner.store_redirect(moved, redirect, call);
            }
            // The old item stays as it is: the next request needs the session in it.
            Err(_) => {}
            // Another request completed the move and ended the session there, or the server has
            // lost it. A sign-in counts as done before that: it had created or bound the session.
            Ok(Written::Missing) if !matches!(commit.action, Action::SignIn { .. }) => {
                return Ok(Execution::Ended);
            }
            Ok(Written::Missing) => {}
        }
        if let Some(presented) = presented {
            let to_new_session = redirect.to_new_session;
            let redirect = Redirect { to_new_session, ..Redirect::of(&presented) };
            inner.replace_redirect(&presented.id_hash, redirect, call);
        }
        Ok(Execution::Done)
    }

    /// Sends command 2 of a move. Returns the new version of the old item; `None` if another
    /// request has changed it, or `clear` has ended the session.
    fn store_moved(
        &mut self,
        old: ItemVersion,
        redirect: &Redirect,
        record: &Record,
    ) -> Result<Option<ItemVersion>> {
        let Attempts { inner, call, .. } = *self;
        let value = ItemState::Moved(*redirect, record.clone()).encode(&old.id_hash);
        let new = Replacement { at: old, value, ttl: ttl_of(record, call.now) };
        // The key of the old item has the nonce with which it was read. The key of the new one may
        // have the nonce after a `clear`.
        let written = inner.client.replace_with_nonce_check(call.context, &new);
        if !matches!(written, Ok(Written::Changed | Written::Missing)) {
            // The session needs the reserved id, also after an error: the command may take effect.
            self.reserved = None;
        }
        Ok(match written? {
            Written::Stored(version) => Some(ItemVersion { version, ..old }),
            Written::Changed | Written::Missing => None,
        })
    }

    /// Sends command 1 of a move, unless an earlier attempt has reserved this id.
    fn reserve(
        &mut self,
        from: SessionIdHash,
        to: SessionIdHash,
        record: &Record,
    ) -> Result<ItemVersion> {
        let Attempts { inner, call, reserved, .. } = *self;
        if let Some(Reserved { at, from: before }) = reserved {
            if before == from {
                return Ok(at);
            }
            self.reserved = None;
            inner.client.remove(call.context, at)?;
        }
        let at = inner.claim(to, &ItemState::Reserved(from), record, call)?;
        self.reserved = Some(Reserved { at, from });
        Ok(at)
    }
}
