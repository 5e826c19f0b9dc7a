//! Queues of the requests that update one session: one at a time, first come, first served.
//!
//! A session gets a queue when the first attempt of an update finds a newer revision than it
//! expects. While it has one, an update joins it before its first attempt. No code of the
//! application runs under its lock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{CommitAnswer, Expected};
use crate::context::BlockingCalls;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::sync::{Handoff, IgnorePoison, Mutex, MutexGuard, monotonic_now, thread};

/// The maximum number of requests that wait for one session.
const MAX_WAITING: usize = 64;

/// The maximum time for which a commit waits and makes attempts.
const MAX_WAIT: Duration = Duration::from_secs(5);

const OPERATION: &str = "update a session";

/// The queues of the sessions of which a request has the turn.
#[derive(Debug, Default)]
pub(crate) struct UpdateQueues(Mutex<Queues>);

type Queues = HashMap<SessionIdHash, VecDeque<Arc<Waiter>>>;

/// A waiting request. With its turn it receives the [newest](Turn::newest) record.
type Waiter = Handoff<Option<Record>>;

/// The right of one request to update a session, exclusive among the updates of this process.
/// Dropping it passes it to the first waiting request.
#[derive(Debug)]
struct Turn<'q> {
    queues: &'q UpdateQueues,
    id_hash: SessionIdHash,
    /// The session as this request or an earlier one stored or found it, if one did. It saves the
    /// next request a failed attempt.
    newest: Option<Record>,
}

impl UpdateQueues {
    /// Makes attempts of a commit until one finds the session at the revision that it expects. An
    /// attempt receives the session's newer record, if one is known, and computes its changes again
    /// on that; after a revision mismatch there always is one.
    ///
    /// Every attempt but the first has the turn. The first waits for it if its changes depend on
    /// the session, and the session has a queue.
    ///
    /// # Errors
    /// Those of an attempt. [`ErrorKind::Busy`] at the deadline, or immediately when 64 requests
    /// wait already.
    pub(crate) fn run(
        &self,
        id_hash: &SessionIdHash,
        expected: Expected,
        blocking: BlockingCalls,
        mut attempt: impl FnMut(Option<Record>) -> Result<CommitAnswer>,
    ) -> Result<CommitAnswer> {
        let deadline = monotonic_now() + MAX_WAIT;
        let wait = || blocking.run(|| self.turn(id_hash, deadline));
        let mut turn = None;
        let mut newer = None;
        if expected != Expected::Anything && self.has_queue(id_hash) {
            newer = turn.insert(wait()?).take_newer_than(expected);
        }
        loop {
            let found = match attempt(newer)? {
                CommitAnswer::RevisionMismatch(session) => session.record,
                answer => {
                    if let Some(turn) = &mut turn {
                        turn.keep_newest(&answer);
                    }
                    return Ok(answer);
                }
            };
            newer = match turn {
                // Only a stream of writes without a turn leads here: those of other processes, and
                // commits of this one that expect no revision.
                Some(_) if deadline <= monotonic_now() => return Err(contention_error()),
                Some(_) => Some(found),
                None => {
                    let expected = Expected::Revision(found.revision);
                    turn.insert(wait()?).take_newer_than(expected).or(Some(found))
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.0.lock().ignore_poison()
    }

    /// Returns whether a request has the turn to update the session of `id_hash`.
    fn has_queue(&self, id_hash: &SessionIdHash) -> bool {
        self.lock().contains_key(id_hash)
    }

    /// Waits until the deadline for a turn to update the session of `id_hash`.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] at the deadline, or immediately when 64 requests wait already.
    fn turn(&self, id_hash: &SessionIdHash, deadline: Instant) -> Result<Turn<'_>> {
        match self.join(id_hash)? {
            Some(waiter) => self.wait(id_hash, &waiter, deadline),
            None => Ok(Turn { queues: self, id_hash: *id_hash, newest: None }),
        }
    }

    /// Joins the queue of the session. Returns `None` if there was none: the request has the turn.
    fn join(&self, id_hash: &SessionIdHash) -> Result<Option<Arc<Waiter>>> {
        let mut queues = self.lock();
        let Some(waiting) = queues.get_mut(id_hash) else {
            queues.insert(*id_hash, VecDeque::new());
            return Ok(None);
        };
        if waiting.len() >= MAX_WAITING {
            drop(queues);
            // Without this, refused requests that retry immediately would keep the waiting ones off
            // the processor.
            thread::yield_now();
            let why = "too many requests wait to change the session";
            return Err(Error::with_source(ErrorKind::Busy, OPERATION, why));
        }
        let waiter = Arc::new(Waiter::default());
        waiting.push_back(waiter.clone());
        Ok(Some(waiter))
    }

    fn wait(
        &self,
        id_hash: &SessionIdHash,
        waiter: &Arc<Waiter>,
        deadline: Instant,
    ) -> Result<Turn<'_>> {
        let newest = match waiter.receive_until(deadline) {
            Some(newest) => newest,
            None if self.remove(id_hash, waiter) => return Err(contention_error()),
            // It was removed from the queue because it gets the turn.
            None => waiter.receive(),
        };
        Ok(Turn { queues: self, id_hash: *id_hash, newest })
    }

    /// Passes the turn to the first waiter, or removes the queue if there is none.
    fn pass(&self, id_hash: &SessionIdHash, newest: Option<Record>) {
        let mut queues = self.lock();
        let Some(next) = queues.get_mut(id_hash).and_then(VecDeque::pop_front) else {
            queues.remove(id_hash);
            return;
        };
        drop(queues);
        next.send(newest);
    }

    /// Removes the waiter from the queue, and returns whether it was in it.
    fn remove(&self, id_hash: &SessionIdHash, waiter: &Arc<Waiter>) -> bool {
        let mut queues = self.lock();
        let Some(waiting) = queues.get_mut(id_hash) else { return false };
        let at = waiting.iter().position(|other| Arc::ptr_eq(other, waiter));
        at.and_then(|at| waiting.remove(at)).is_some()
    }
}

impl Turn<'_> {
    /// Keeps the session as an attempt has stored or found it, unless it has another id.
    fn keep_newest(&mut self, answer: &CommitAnswer) {
        if let CommitAnswer::Done { session, .. } | CommitAnswer::Unchanged(session) = answer
            && session.id_hash == self.id_hash
        {
            self.newest = Some(session.record.clone());
        }
    }

    /// Takes the newest record, if it is newer than the `expected` one. A request that has found no
    /// session gets none: it must not compute with a session's data.
    fn take_newer_than(&mut self, expected: Expected) -> Option<Record> {
        let Expected::Revision(revision) = expected else { return None };
        self.newest.take().filter(|newest| newest.revision > revision)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queues.pass(&self.id_hash, self.newest.take());
    }
}

/// Returns the error of a request whose changes could not be stored in time.
pub(crate) fn contention_error() -> Error {
    let why = "other requests kept changing the session";
    Error::with_source(ErrorKind::Busy, OPERATION, why)
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::backend::LiveSession;
    use crate::clock::Timestamp;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    fn id_hash(n: u8) -> SessionIdHash {
        SessionIdHash::from_bytes([n; 32])
    }

    fn turn<'q>(queues: &'q UpdateQueues, id_hash: &SessionIdHash) -> Turn<'q> {
        assert!(!queues.has_queue(id_hash));
        queues.turn(id_hash, monotonic_now()).unwrap()
    }

    fn enqueue(queues: &UpdateQueues) -> Arc<Waiter> {
        queues.join(&id_hash(1)).unwrap().expect("another request has the turn")
    }

    fn wait<'q>(queues: &'q UpdateQueues, waiter: &Arc<Waiter>) -> Turn<'q> {
        queues
            .wait(&id_hash(1), waiter, monotonic_now() + MAX_WAIT * 12)
            .expect("its turn has come")
    }

    fn is_empty(queues: &UpdateQueues) -> bool {
        queues.lock().is_empty()
    }

    #[test]
    fn waiters_get_their_turns_in_order_of_arrival() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let waiters: Vec<_> = (0..10).map(|_| enqueue(&queues)).collect();
        let (sender, receiver) = channel();
        thread::scope(|scope| {
            // The threads start in reverse order of their positions.
            for (number, waiter) in waiters.iter().enumerate().rev() {
                let sender = sender.clone();
                let queues = &queues;
                scope.spawn(move || {
                    let turn = wait(queues, waiter);
                    sender.send(number).unwrap();
                    drop(turn);
                });
            }
            drop(first);
        });
        drop(sender);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_session_has_a_queue_only_during_a_turn() {
        let queues = UpdateQueues::default();
        assert!(!queues.has_queue(&id_hash(1)));
        let first = turn(&queues, &id_hash(1));
        assert!(queues.has_queue(&id_hash(1)));
        // This request would wait, and its deadline has passed.
        let late = queues.turn(&id_hash(1), monotonic_now()).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Busy);
        assert!(!late.has_unknown_outcome());
        drop(first);
        assert!(is_empty(&queues));
    }

    #[test]
    fn at_most_64_wait_for_one_session_and_none_for_others() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let waiters: Vec<_> = (0..64).map(|_| enqueue(&queues)).collect();
        let refused = queues.turn(&id_hash(1), monotonic_now() + MAX_WAIT).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        assert!(!refused.has_unknown_outcome());
        let other = turn(&queues, &id_hash(2));
        for waiter in &waiters {
            queues.wait(&id_hash(1), waiter, monotonic_now()).unwrap_err();
        }
        queues.wait(&id_hash(1), &enqueue(&queues), monotonic_now()).unwrap_err();
        drop((first, other));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_waiter_leaves_the_queue_at_its_deadline() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let late = enqueue(&queues);
        let next = enqueue(&queues);
        assert!(queues.wait(&id_hash(1), &late, monotonic_now()).is_err());
        drop(first);
        drop(wait(&queues, &next));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_turn_granted_before_the_deadline_is_passed_on() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let second = enqueue(&queues);
        let third = enqueue(&queues);
        drop(first);
        drop(queues.wait(&id_hash(1), &second, monotonic_now()).expect("its turn has come"));
        drop(wait(&queues, &third));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_turn_carries_the_session_as_last_stored() {
        let queues = UpdateQueues::default();
        let mut first = turn(&queues, &id_hash(1));
        let second = enqueue(&queues);
        let third = enqueue(&queues);
        let now = Timestamp::from_millis(0);
        let new_session = NewSession::new(Lifetime::default().limits_from(now)).unwrap();
        first.newest = Some(Record::create(&new_session, now));
        drop(first);
        let mut second = wait(&queues, &second);
        assert_eq!(
            second.take_newer_than(Expected::Revision(0)).map(|record| record.public_id),
            Some(new_session.public_id)
        );
        drop(second);
        assert!(wait(&queues, &third).newest.is_none(), "the second has stored nothing");
    }

    #[test]
    fn a_turn_that_changes_nothing_carries_the_session_as_found() {
        let queues = UpdateQueues::default();
        let now = Timestamp::from_millis(0);
        let new_session = NewSession::new(Lifetime::default().limits_from(now)).unwrap();
        let record = Record::create(&new_session, now);
        let found = LiveSession { record: record.clone(), id_hash: id_hash(1) };
        let mut next = None;
        let expected = Expected::Revision(0);
        let attempt = |newer: Option<Record>| {
            if newer.is_none() {
                return Ok(CommitAnswer::RevisionMismatch(found.clone()));
            }
            next = Some(enqueue(&queues));
            Ok(CommitAnswer::Unchanged(found.clone()))
        };
        let blocking = BlockingCalls::default();
        queues.run(&id_hash(1), expected, blocking, attempt).unwrap();
        let next = wait(&queues, &next.unwrap());
        assert_eq!(next.newest.as_ref(), Some(&record));
    }

    #[test]
    fn a_panic_during_a_turn_passes_the_turn_on() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let next = enqueue(&queues);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _turn = first;
            panic!("as planned");
        }));
        assert!(panicked.is_err());
        drop(wait(&queues, &next));
        assert!(is_empty(&queues));
    }
}
