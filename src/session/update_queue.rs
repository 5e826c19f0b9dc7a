//! Fair queues of requests that update one session, one at a time in the order of their arrival.
//! The first try of a commit does not wait; a request that finds a newer revision joins the queue
//! of its session, and while the queue exists, so does every other request before its first try.
//! Called by commits only; no code of the application runs under its locks.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::session::{BlockingHook, run_blocking};
use crate::sync::{Handoff, IgnorePoison, Mutex, MutexGuard, instant, thread};

/// The maximum number of requests that wait for one session.
const MAX_WAITING: usize = 64;

/// The maximum time from a request's first try to commit to its last.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The number of locks over which the sessions are distributed.
const SHARDS: usize = 64;

/// The queues of all sessions that are being updated.
#[derive(Debug)]
pub(crate) struct UpdateQueues {
    shards: [Mutex<Shard>; SHARDS],
}

/// The sessions of one shard that are being updated, with their waiters.
type Shard = HashMap<SessionIdHash, VecDeque<Arc<Waiter>>>;

/// A waiting request. With its turn it receives what the holder before it has [stored](Turn::stored).
type Waiter = Handoff<Option<Record>>;

/// The exclusive right of one request to update a session in this process. Dropping it passes the
/// turn to the first waiter.
#[derive(Debug)]
pub(crate) struct Turn<'q> {
    queues: &'q UpdateQueues,
    id_hash: SessionIdHash,
    deadline: Instant,
    /// The session as the previous holder stored it, if it did.
    received: Option<Record>,
    /// The session as this holder stored it, for the next one.
    pub(crate) stored: Option<Record>,
}

/// A position in a queue. Dropping it leaves the queue.
#[derive(Debug)]
struct QueuePosition<'q> {
    queues: &'q UpdateQueues,
    id_hash: SessionIdHash,
    deadline: Instant,
    /// `None` when the wait is over.
    waiter: Option<Arc<Waiter>>,
}

/// The result of a request for a turn.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // on the stack for one commit
enum Entered<'q> {
    /// The turn, because no other request has it.
    Turn(Turn<'q>),
    /// A position in the queue, because another request has the turn.
    Queued(QueuePosition<'q>),
    /// Neither, because the queue is full.
    QueueFull,
}

impl Default for UpdateQueues {
    fn default() -> Self {
        UpdateQueues { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl UpdateQueues {
    fn shard(&self, id_hash: &SessionIdHash) -> MutexGuard<'_, Shard> {
        let [first, ..] = *id_hash.as_bytes();
        let [zeroth, ..] = &self.shards;
        self.shards.get(usize::from(first) % SHARDS).unwrap_or(zeroth).lock().ignore_poison()
    }

    /// Waits for a turn to update the session of `id_hash`, if its queue exists; else returns
    /// `None`.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub(crate) fn turn_if_contended(
        &self,
        hook: Option<BlockingHook>,
        id_hash: &SessionIdHash,
        entered: Instant,
    ) -> Result<Option<Turn<'_>>> {
        let is_contended = self.shard(id_hash).contains_key(id_hash);
        is_contended.then(|| self.turn(hook, id_hash, entered)).transpose()
    }

    /// Waits for a turn to update the session of `id_hash`, at most until 5 seconds after the
    /// request has `entered` its commit.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the time is over, or immediately when 64 requests wait already.
    pub(crate) fn turn(
        &self,
        hook: Option<BlockingHook>,
        id_hash: &SessionIdHash,
        entered: Instant,
    ) -> Result<Turn<'_>> {
        match self.enter(id_hash, entered + MAX_WAIT) {
            Entered::Turn(turn) => Ok(turn),
            Entered::Queued(position) => {
                run_blocking(hook, || position.wait().ok_or_else(contention_error))
            }
            Entered::QueueFull => {
                // Without this, refused requests that retry immediately would keep the waiting ones
                // off the processor.
                thread::yield_now();
                let why = "too many requests wait to change the session";
                Err(Error::with_source(ErrorKind::Busy, OPERATION, why))
            }
        }
    }

    fn enter(&self, id_hash: &SessionIdHash, deadline: Instant) -> Entered<'_> {
        let mut shard = self.shard(id_hash);
        let waiting = match shard.entry(*id_hash) {
            Entry::Vacant(vacant) => {
                vacant.insert(VecDeque::new());
                return Entered::Turn(Turn::new(self, id_hash, deadline, None));
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if waiting.len() >= MAX_WAITING {
            return Entered::QueueFull;
        }
        let waiter = Arc::new(Waiter::default());
        if waiting.is_empty() {
            waiter.announce();
        }
        waiting.push_back(waiter.clone());
        let waiter = Some(waiter);
        Entered::Queued(QueuePosition { queues: self, id_hash: *id_hash, deadline, waiter })
    }

    /// Passes the turn to the first waiter, or removes the queue if there is none.
    fn pass(&self, id_hash: &SessionIdHash, stored: Option<Record>) {
        let mut shard = self.shard(id_hash);
        let Some(next) = shard.get_mut(id_hash).and_then(VecDeque::pop_front) else {
            shard.remove(id_hash);
            return;
        };
        drop(shard);
        next.send(stored);
    }

    /// Removes the waiter from the queue, and returns whether it was in it.
    fn remove(&self, id_hash: &SessionIdHash, waiter: &Arc<Waiter>) -> bool {
        let mut shard = self.shard(id_hash);
        let Some(waiting) = shard.get_mut(id_hash) else { return false };
        let at = waiting.iter().position(|other| Arc::ptr_eq(other, waiter));
        at.and_then(|at| waiting.remove(at)).is_some()
    }
}

impl<'q> Turn<'q> {
    fn new(
        queues: &'q UpdateQueues,
        id_hash: &SessionIdHash,
        deadline: Instant,
        received: Option<Record>,
    ) -> Self {
        Turn { queues, id_hash: *id_hash, deadline, received, stored: None }
    }

    /// Takes the session as the previous holder stored it, if it is newer than `revision`.
    pub(crate) fn take_newer_than(&mut self, revision: Option<u64>) -> Option<Record> {
        self.received.take().filter(|received| Some(received.revision) > revision)
    }

    /// Wakes the next waiter, because this turn ends with the commit that begins now. Waking a
    /// thread takes about as long as a commit, so the two overlap.
    pub(crate) fn wake_next(&self) {
        let shard = self.queues.shard(&self.id_hash);
        let next = shard.get(&self.id_hash).and_then(|waiting| waiting.front().cloned());
        drop(shard);
        if let Some(next) = next {
            next.announce();
        }
    }

    /// Returns whether the deadline for another try has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline <= instant()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queues.pass(&self.id_hash, self.stored.take());
    }
}

impl<'q> QueuePosition<'q> {
    /// Waits for the turn; returns `None` at the deadline.
    fn wait(mut self) -> Option<Turn<'q>> {
        let waiter = self.waiter.take()?;
        match waiter.receive_until(self.deadline) {
            Some(newest) => Some(self.turn(newest)),
            None => self.leave(&waiter),
        }
    }

    /// Leaves the queue. Returns the turn if the waiter is not in the queue any more, because it
    /// was granted.
    fn leave(&self, waiter: &Arc<Waiter>) -> Option<Turn<'q>> {
        let has_left = self.queues.remove(&self.id_hash, waiter);
        if has_left { None } else { Some(self.turn(waiter.receive())) }
    }

    fn turn(&self, received: Option<Record>) -> Turn<'q> {
        Turn::new(self.queues, &self.id_hash, self.deadline, received)
    }
}

impl Drop for QueuePosition<'_> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            // A turn that was granted is passed on.
            drop(self.leave(&waiter));
        }
    }
}

const OPERATION: &str = "update a session";

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
    use crate::clock::Timestamp;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    fn id_hash(n: u8) -> SessionIdHash {
        SessionIdHash::from_bytes([n; 32])
    }

    fn turn<'q>(queues: &'q UpdateQueues, id_hash: &SessionIdHash) -> Turn<'q> {
        match queues.enter(id_hash, instant() + MAX_WAIT) {
            Entered::Turn(turn) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn enqueue_until<'q>(queues: &'q UpdateQueues, deadline: Instant) -> QueuePosition<'q> {
        match queues.enter(&id_hash(1), deadline) {
            Entered::Queued(position) => position,
            other => panic!("{other:?}"),
        }
    }

    fn enqueue(queues: &UpdateQueues) -> QueuePosition<'_> {
        enqueue_until(queues, instant() + MAX_WAIT * 12)
    }

    fn is_empty(queues: &UpdateQueues) -> bool {
        queues.shards.iter().all(|shard| shard.lock().ignore_poison().is_empty())
    }

    #[test]
    fn waiters_get_their_turns_in_order_of_arrival() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let positions: Vec<_> = (0..10).map(|_| enqueue(&queues)).collect();
        let (sender, receiver) = channel();
        thread::scope(|scope| {
            // The threads start in reverse order of their positions.
            for (number, position) in positions.into_iter().enumerate().rev() {
                let sender = sender.clone();
                scope.spawn(move || {
                    let turn = position.wait().unwrap();
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
    fn turn_if_contended_waits_only_while_a_queue_exists() {
        let queues = UpdateQueues::default();
        assert!(queues.turn_if_contended(None, &id_hash(1), instant()).unwrap().is_none());
        let first = turn(&queues, &id_hash(1));
        // This request would wait, and its deadline has passed.
        let late = queues.turn_if_contended(None, &id_hash(1), instant() - MAX_WAIT).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Busy);
        drop(first);
        assert!(is_empty(&queues));
    }

    #[test]
    fn at_most_64_wait_for_one_session_and_none_for_others() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let positions: Vec<_> = (0..64).map(|_| enqueue(&queues)).collect();
        let refused = queues.turn(None, &id_hash(1), instant()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        // This session is in the same shard.
        let other = turn(&queues, &id_hash(65));
        drop(positions);
        drop(enqueue(&queues));
        drop((first, other));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_waiter_leaves_the_queue_at_its_deadline() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let (late, next) = (enqueue_until(&queues, instant()), enqueue(&queues));
        assert!(late.wait().is_none());
        drop(first);
        drop(next.wait().expect("its turn has come"));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_dropped_position_passes_a_granted_turn_on() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let (second, third) = (enqueue(&queues), enqueue(&queues));
        drop(first);
        drop(second);
        drop(third.wait().expect("its turn has come"));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_turn_carries_the_session_as_last_stored() {
        let queues = UpdateQueues::default();
        let mut first = turn(&queues, &id_hash(1));
        let (second, third) = (enqueue(&queues), enqueue(&queues));
        let now = Timestamp::from_millis(0);
        let new_session = NewSession::new(Lifetime::default().starting(now)).unwrap();
        first.stored = Some(Record::create(&new_session, now));
        drop(first);
        let mut second = second.wait().unwrap();
        assert_eq!(
            second.take_newer_than(None).map(|record| record.public_id),
            Some(new_session.public_id)
        );
        drop(second);
        assert!(third.wait().unwrap().received.is_none(), "the second has stored nothing");
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
        drop(next.wait().expect("its turn has come"));
        assert!(is_empty(&queues));
    }
}
