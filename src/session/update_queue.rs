//! The queues of requests that update one session: one at a time, first come, first served.
//!
//! An update is committed on the condition that the session has not changed since it was read. The
//! first try is optimistic. A request that was overtaken joins the queue of its session, and while
//! there is one, so does every request before its first try. Called by commits only; no code of
//! the application runs under a lock of these queues.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::Record;
use crate::session::context::{BlockingHook, run_blocking};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, instant, spin_until, thread};

/// The most requests that wait for one session at a time.
const MOST_WAITING: usize = 64;

/// The most time from a request's first try to commit to its last.
const LONGEST: Duration = Duration::from_secs(5);

/// How many locks the sessions share.
const SHARDS: usize = 64;

/// The queues of all sessions that are updated at this moment.
#[derive(Debug)]
pub(crate) struct UpdateQueues {
    shards: [Mutex<Shard>; SHARDS],
}

/// An entry for each session that is being updated: who waits for it.
type Shard = HashMap<SessionIdHash, VecDeque<Arc<Waiter>>>;

/// The turn of one request: no other request of this process updates the session until it is
/// dropped, which gives the turn to the first that waits.
#[derive(Debug)]
pub(crate) struct Turn<'q> {
    queues: &'q UpdateQueues,
    id_hash: SessionIdHash,
    deadline: Instant,
    /// The session as the request before this one has stored it, if that has succeeded; then as
    /// this one has, for the next.
    pub(crate) newest: Option<Record>,
}

/// A place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
struct Place<'q> {
    queues: &'q UpdateQueues,
    id_hash: SessionIdHash,
    deadline: Instant,
    waiter: Arc<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    state: Mutex<State>,
    changed: Condvar,
    /// Its turn is about to come.
    is_next: AtomicBool,
    /// Its turn has come: worth a look at the state.
    is_granted: AtomicBool,
    /// Its thread sleeps. To notify one that does not costs a system call too.
    is_asleep: AtomicBool,
}

impl Waiter {
    fn new(is_next: bool) -> Self {
        Waiter {
            state: Mutex::new(State::Waiting),
            changed: Condvar::new(),
            is_next: AtomicBool::new(is_next),
            is_granted: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
        }
    }

    /// Wakes its thread, which holds the lock of the state while it falls asleep.
    fn wake(&self, state: MutexGuard<'_, State>) {
        let is_asleep = self.is_asleep.swap(false, Ordering::Relaxed);
        drop(state);
        if is_asleep {
            self.changed.notify_one();
        }
    }
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // one for each request that waits
enum State {
    Waiting,
    /// It has the turn, with what [`Turn::newest`] says.
    Granted(Option<Record>),
    /// It has taken the turn, or left.
    Gone,
}

/// What a request gets that asks for a turn.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // it lives on the stack for one commit
enum Entered<'q> {
    /// The turn, because nobody else has it.
    Turn(Turn<'q>),
    /// A place in the queue.
    Place(Place<'q>),
    /// Nothing: as many wait as may.
    Full,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        lock(self.shards.get(usize::from(first) % SHARDS).unwrap_or(zeroth))
    }

    /// A turn to update the session of `id_hash`, if there is a queue for it.
    ///
    /// # Errors
    /// As [`turn`](Self::turn).
    pub(crate) fn turn_if_contended(
        &self,
        by: Option<BlockingHook>,
        id_hash: &SessionIdHash,
        entered: Instant,
    ) -> Result<Option<Turn<'_>>> {
        let is_contended = self.shard(id_hash).contains_key(id_hash);
        is_contended.then(|| self.turn(by, id_hash, entered)).transpose()
    }

    /// The turn to update the session of `id_hash`. Waits for the requests that came before, until 5
    /// seconds have passed since the request has `entered` its commit.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] when the time is over, or at once when 64 requests wait already.
    pub(crate) fn turn(
        &self,
        by: Option<BlockingHook>,
        id_hash: &SessionIdHash,
        entered: Instant,
    ) -> Result<Turn<'_>> {
        match self.enter(id_hash, entered + LONGEST) {
            Entered::Turn(turn) => Ok(turn),
            Entered::Place(place) => run_blocking(by, || place.wait().ok_or_else(overtaken)),
            Entered::Full => {
                // Refused requests that come again at once would keep those that wait off the
                // processor.
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
                return Entered::Turn(Turn {
                    queues: self,
                    id_hash: *id_hash,
                    deadline,
                    newest: None,
                });
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if waiting.len() >= MOST_WAITING {
            return Entered::Full;
        }
        let waiter = Arc::new(Waiter::new(waiting.is_empty()));
        waiting.push_back(waiter.clone());
        Entered::Place(Place { queues: self, id_hash: *id_hash, deadline, waiter })
    }

    /// Gives the turn to the first that waits, or to nobody.
    fn pass(&self, id_hash: &SessionIdHash, newest: Option<Record>) {
        let mut shard = self.shard(id_hash);
        let Some(next) = shard.get_mut(id_hash).and_then(VecDeque::pop_front) else {
            shard.remove(id_hash);
            return;
        };
        // In the same step: who is not in the queue any more has the turn.
        let mut state = lock(&next.state);
        *state = State::Granted(newest);
        next.is_granted.store(true, Ordering::Relaxed);
        drop(shard);
        next.wake(state);
    }

    /// Takes the waiter out of the queue, if it is still in it.
    fn leave(&self, id_hash: &SessionIdHash, waiter: &Arc<Waiter>) {
        if let Some(waiting) = self.shard(id_hash).get_mut(id_hash) {
            waiting.retain(|other| !Arc::ptr_eq(other, waiter));
        }
    }
}

impl Turn<'_> {
    /// Wakes the next in the queue, because this turn ends with the commit that begins now. To be
    /// woken takes about as long as a commit, so the two overlap.
    pub(crate) fn wake_next(&self) {
        let shard = self.queues.shard(&self.id_hash);
        let next = shard.get(&self.id_hash).and_then(|waiting| waiting.front().cloned());
        drop(shard);
        if let Some(next) = next
            && !next.is_next.swap(true, Ordering::Relaxed)
        {
            next.wake(lock(&next.state));
        }
    }

    /// Whether there is no time for another try.
    pub(crate) fn is_over(&self) -> bool {
        self.deadline <= instant()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.queues.pass(&self.id_hash, self.newest.take());
    }
}

impl<'q> Place<'q> {
    /// Waits for the turn; `None` if it has not come in time.
    fn wait(self) -> Option<Turn<'q>> {
        let waiter = &*self.waiter;
        let mut has_looked_out = false;
        let mut state = lock(&waiter.state);
        while matches!(*state, State::Waiting) {
            if !has_looked_out && waiter.is_next.load(Ordering::Relaxed) {
                has_looked_out = true;
                drop(state);
                spin_until(|| waiter.is_granted.load(Ordering::Relaxed));
                state = lock(&waiter.state);
                continue;
            }
            let left = self.deadline.saturating_duration_since(instant());
            if left.is_zero() {
                drop(state);
                self.queues.leave(&self.id_hash, &self.waiter);
                // The turn may have come before that.
                return self.take();
            }
            waiter.is_asleep.store(true, Ordering::Relaxed);
            let waited = waiter.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        self.take()
    }

    /// The turn, if it has come.
    fn take(&self) -> Option<Turn<'q>> {
        match std::mem::replace(&mut *lock(&self.waiter.state), State::Gone) {
            State::Granted(newest) => {
                let Place { queues, id_hash, deadline, .. } = *self;
                Some(Turn { queues, id_hash, deadline, newest })
            }
            State::Waiting | State::Gone => None,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let has_left = matches!(*lock(&self.waiter.state), State::Gone);
        if !has_left {
            self.queues.leave(&self.id_hash, &self.waiter);
            // A turn that has come is passed on.
            drop(self.take());
        }
    }
}

const OPERATION: &str = "update a session";

/// The error of a request whose changes could not be stored in time.
pub(crate) fn overtaken() -> Error {
    let why = "others kept changing the session";
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
        match queues.enter(id_hash, instant() + LONGEST) {
            Entered::Turn(turn) => turn,
            other => panic!("{other:?}"),
        }
    }

    fn place_until<'q>(queues: &'q UpdateQueues, deadline: Instant) -> Place<'q> {
        match queues.enter(&id_hash(1), deadline) {
            Entered::Place(place) => place,
            other => panic!("{other:?}"),
        }
    }

    fn place(queues: &UpdateQueues) -> Place<'_> {
        place_until(queues, instant() + LONGEST * 12)
    }

    fn is_empty(queues: &UpdateQueues) -> bool {
        queues.shards.iter().all(|shard| lock(shard).is_empty())
    }

    #[test]
    fn waiters_get_their_turns_in_the_order_in_which_they_came() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let places: Vec<_> = (0..10).map(|_| place(&queues)).collect();
        let (tell, told) = channel();
        thread::scope(|scope| {
            // The threads start from the last place to the first.
            for (number, place) in places.into_iter().enumerate().rev() {
                let tell = tell.clone();
                scope.spawn(move || {
                    let turn = place.wait().unwrap();
                    tell.send(number).unwrap();
                    drop(turn);
                });
            }
            drop(first);
        });
        drop(tell);
        assert_eq!(told.iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_turn_is_taken_before_the_first_try_only_where_others_wait() {
        let queues = UpdateQueues::default();
        assert!(queues.turn_if_contended(None, &id_hash(1), instant()).unwrap().is_none());
        let first = turn(&queues, &id_hash(1));
        // It would wait, and has no time to.
        let late = queues.turn_if_contended(None, &id_hash(1), instant() - LONGEST).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Busy);
        drop(first);
        assert!(is_empty(&queues));
    }

    #[test]
    fn at_most_64_wait_for_one_session_and_others_do_not_notice() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let places: Vec<_> = (0..64).map(|_| place(&queues)).collect();
        let refused = queues.turn(None, &id_hash(1), instant()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        // These share a lock.
        let other = turn(&queues, &id_hash(65));
        drop(places);
        drop(place(&queues));
        drop((first, other));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_waiter_whose_time_is_over_leaves_the_queue_to_the_others() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let (late, next) = (place_until(&queues, instant()), place(&queues));
        assert!(late.wait().is_none());
        drop(first);
        drop(next.wait().expect("its turn has come"));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_place_that_is_dropped_passes_a_turn_on_that_has_come() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let (second, third) = (place(&queues), place(&queues));
        drop(first);
        drop(second);
        drop(third.wait().expect("its turn has come"));
        assert!(is_empty(&queues));
    }

    #[test]
    fn a_turn_comes_with_the_session_as_it_was_stored_last() {
        let queues = UpdateQueues::default();
        let mut first = turn(&queues, &id_hash(1));
        let (second, third) = (place(&queues), place(&queues));
        let now = Timestamp::from_millis(0);
        let new_session = NewSession::new(Lifetime::default().starting(now)).unwrap();
        first.newest = Some(Record::create(&new_session, now));
        drop(first);
        let mut second = second.wait().unwrap();
        assert_eq!(
            second.newest.take().map(|record| record.public_id),
            Some(new_session.public_id)
        );
        drop(second);
        assert!(third.wait().unwrap().newest.is_none(), "the second has stored nothing");
    }

    #[test]
    fn a_panic_in_its_turn_lets_the_next_go_on() {
        let queues = UpdateQueues::default();
        let first = turn(&queues, &id_hash(1));
        let next = place(&queues);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _turn = first;
            panic!("as planned");
        }));
        assert!(panicked.is_err());
        drop(next.wait().expect("its turn has come"));
        assert!(is_empty(&queues));
    }
}
