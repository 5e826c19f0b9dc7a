//! The sessions that this process has ended recently.
//!
//! A request that only writes does not read its session before it commits. If the commit finds no
//! session, this decides whether the session ended during the request, which discards the changes,
//! or before, in which case they begin a new session. Called by the session and the manager.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::id::SessionIdHash;
use crate::process::ProcessBound;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, IgnorePoison, Mutex, MutexGuard, instant};

/// The age at which a generation is replaced. An ending is remembered for at least this time,
/// unless more than [`GENERATION_SIZE`] others follow it. The changes of a request that takes
/// longer may begin a new session.
const RETENTION: Duration = Duration::from_secs(600);

/// The size at which a generation is replaced: at least this many endings are remembered, and at
/// most twice as many.
const GENERATION_SIZE: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct RecentlyEnded {
    /// The number of endings recorded so far. Every request reads it, which costs less than reading
    /// a clock.
    count: AtomicU64,
    generations: ProcessBound<Mutex<Generations>>,
    /// Notified when an ending is no longer in flight.
    changed: Condvar,
}

/// A guard: a call that ends sessions is in flight until this is dropped. Which sessions it has
/// ended is known only after the store has returned.
struct EndingInFlight<'e> {
    recently_ended: &'e RecentlyEnded,
    number: u64,
}

/// How many sessions this process had ended at some moment, which orders the endings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndedCount(u64);

/// Whether the session of an id ended since this request was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ended {
    #[default]
    No,
    /// Calls that end sessions are in flight, and one of them may end it.
    InDoubt,
    Yes,
}

/// Endings in two generations. A whole generation is dropped at a time, so forgetting costs a
/// request nothing.
#[derive(Debug, Default)]
struct Generations {
    started: Option<Instant>,
    current: HashMap<SessionIdHash, EndedCount>,
    previous: HashMap<SessionIdHash, EndedCount>,
    /// The last revocation of all sessions.
    all: Option<EndedCount>,
    /// The number of calls begun so far that end sessions.
    begun: u64,
    /// The numbers of those in flight.
    in_flight: BTreeSet<u64>,
}

impl RecentlyEnded {
    fn lock(&self) -> Result<MutexGuard<'_, Generations>> {
        Ok(self.generations.get()?.lock().ignore_poison())
    }

    /// Returns how many sessions this process has ended so far.
    pub(crate) fn count(&self) -> EndedCount {
        EndedCount(self.count.load(Ordering::SeqCst))
    }

    /// Counts an ending. The result is higher than every earlier [`count`](Self::count).
    fn count_ending(&self) -> EndedCount {
        EndedCount(self.count.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Makes a call that ends sessions, and records by `record` which ones it has ended. It is in
    /// flight meanwhile.
    pub(crate) fn while_ending<T>(
        &self,
        end: impl FnOnce() -> Result<T>,
        record: impl FnOnce(&Self, &T),
    ) -> Result<T> {
        let _in_flight = self.begin()?;
        let ended = end()?;
        record(self, &ended);
        Ok(ended)
    }

    fn begin(&self) -> Result<EndingInFlight<'_>> {
        let mut generations = self.lock()?;
        generations.begun += 1;
        let number = generations.begun;
        generations.in_flight.insert(number);
        Ok(EndingInFlight { recently_ended: self, number })
    }

    /// Records the endings of the sessions of these id hashes.
    pub(crate) fn record(&self, ended: &[SessionIdHash]) {
        ended.iter().for_each(|id_hash| self.insert(*id_hash));
    }

    fn insert(&self, id_hash: SessionIdHash) {
        let now = instant();
        let Ok(mut generations) = self.lock() else { return };
        let started = *generations.started.get_or_insert(now);
        if generations.current.len() >= GENERATION_SIZE || now.duration_since(started) >= RETENTION
        {
            generations.previous = std::mem::take(&mut generations.current);
            generations.started = Some(now);
        }
        generations.current.insert(id_hash, self.count_ending());
    }

    /// Records that a call of the manager has ended all sessions.
    pub(crate) fn record_revocation_of_all(&self) {
        let Ok(mut generations) = self.lock() else { return };
        generations.all = Some(self.count_ending());
    }

    /// Returns whether the session of `id_hash`, which is not live, was ended after `since`.
    pub(crate) fn has_ended(&self, id_hash: &SessionIdHash, since: EndedCount) -> Result<Ended> {
        let generations = self.lock()?;
        Ok(generations.has_ended(id_hash, since, generations.begun))
    }

    /// As [`has_ended`](Self::has_ended), but is never in doubt: blocks until the calls in
    /// flight have recorded their endings. That is for writes, which would otherwise begin a new
    /// session for a visitor who has just signed out.
    pub(crate) fn await_ended(&self, id_hash: &SessionIdHash, since: EndedCount) -> Result<bool> {
        let mut generations = self.lock()?;
        // A call that begins later does not find the session, so it is not awaited.
        let last = generations.begun;
        loop {
            match generations.has_ended(id_hash, since, last) {
                Ended::InDoubt => generations = self.changed.wait(generations).ignore_poison(),
                ended => return Ok(ended == Ended::Yes),
            }
        }
    }
}

impl Generations {
    /// `last` is the number of the last call that counts as in flight.
    fn has_ended(&self, id_hash: &SessionIdHash, since: EndedCount, last: u64) -> Ended {
        let ended = self.current.get(id_hash).or_else(|| self.previous.get(id_hash));
        if ended.into_iter().chain(&self.all).any(|ending| since < *ending) {
            Ended::Yes
        } else if self.in_flight.first().is_some_and(|first| *first <= last) {
            Ended::InDoubt
        } else {
            Ended::No
        }
    }
}

impl Drop for EndingInFlight<'_> {
    fn drop(&mut self) {
        if let Ok(mut generations) = self.recently_ended.lock() {
            generations.in_flight.remove(&self.number);
            self.recently_ended.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_counts_for_requests_that_began_before_it() {
        let recently_ended = RecentlyEnded::default();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let before = recently_ended.count();
        recently_ended.record(&[id_hash]);
        assert!(recently_ended.await_ended(&id_hash, before).unwrap());
        assert!(!recently_ended.await_ended(&id_hash, recently_ended.count()).unwrap());
        let other = SessionIdHash::from_bytes([2; 32]);
        assert!(!recently_ended.await_ended(&other, before).unwrap());
        let between = recently_ended.count();
        recently_ended.record_revocation_of_all();
        assert!(recently_ended.await_ended(&id_hash, between).unwrap());
        assert!(!recently_ended.await_ended(&id_hash, recently_ended.count()).unwrap());
    }

    #[test]
    fn the_result_is_undecided_while_an_ending_is_in_flight() {
        let recently_ended = RecentlyEnded::default();
        let (id_hash, other) =
            (SessionIdHash::from_bytes([1; 32]), SessionIdHash::from_bytes([2; 32]));
        let before = recently_ended.count();
        let in_flight = recently_ended.begin().unwrap();
        assert_eq!(recently_ended.has_ended(&id_hash, before).unwrap(), Ended::InDoubt);
        recently_ended.record(&[id_hash]);
        assert_eq!(recently_ended.has_ended(&id_hash, before).unwrap(), Ended::Yes);
        assert_eq!(recently_ended.has_ended(&other, before).unwrap(), Ended::InDoubt);
        drop(in_flight);
        assert_eq!(recently_ended.has_ended(&other, before).unwrap(), Ended::No);
    }

    #[test]
    fn the_memory_is_bounded() {
        let recently_ended = RecentlyEnded::default();
        let id_hash = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            SessionIdHash::from_bytes(bytes)
        };
        let before = recently_ended.count();
        recently_ended.record(&(0..5 * GENERATION_SIZE).map(id_hash).collect::<Vec<_>>());
        let kept = {
            let generations = recently_ended.lock().unwrap();
            generations.current.len() + generations.previous.len()
        };
        assert!(kept <= 2 * GENERATION_SIZE);
        let last = id_hash(5 * GENERATION_SIZE - 1);
        assert!(recently_ended.await_ended(&last, before).unwrap());
    }
}
