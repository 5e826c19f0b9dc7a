//! The sessions that this process has ended recently.
//!
//! A request that only writes does not read its session before it commits. If the commit finds no
//! session, this decides whether the session ended during the request, which discards the changes,
//! or before, in which case they begin a new session. Called by the session and the manager.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::error::Result;
use crate::id::SessionIdHash;
use crate::process::ProcessBound;
use crate::session::shared::generations::Generations;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, IgnorePoison, Mutex, MutexGuard, instant};

/// How long an ending is remembered at least, unless many others follow it. The changes of a
/// request that takes longer may begin a new session.
const RETENTION: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct RecentlyEnded {
    /// The number of endings recorded so far. Every request reads it, which costs less than reading
    /// a clock.
    count: AtomicU64,
    endings: ProcessBound<Mutex<Endings>>,
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
pub(crate) enum EndedSinceOpen {
    #[default]
    No,
    /// Calls that end sessions are in flight, and one of them may end it.
    InDoubt,
    Yes,
}

#[derive(Debug, Default)]
struct Endings {
    by_id: Generations<EndedCount>,
    /// The last revocation of all sessions.
    all: Option<EndedCount>,
    /// The number of calls begun so far that end sessions.
    begun: u64,
    /// The numbers of those in flight.
    in_flight: BTreeSet<u64>,
}

impl RecentlyEnded {
    fn lock(&self) -> Result<MutexGuard<'_, Endings>> {
        Ok(self.endings.get()?.lock().ignore_poison())
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
        record: impl FnOnce(&T),
    ) -> Result<T> {
        let _in_flight = self.begin()?;
        end().inspect(record)
    }

    fn begin(&self) -> Result<EndingInFlight<'_>> {
        let mut endings = self.lock()?;
        endings.begun += 1;
        let number = endings.begun;
        endings.in_flight.insert(number);
        Ok(EndingInFlight { recently_ended: self, number })
    }

    /// Records the endings of the sessions of these id hashes.
    pub(crate) fn record(&self, ended: impl IntoIterator<Item = SessionIdHash>) {
        let Ok(mut endings) = self.lock() else { return };
        for id_hash in ended {
            endings.by_id.rotate(RETENTION, instant());
            endings.by_id.insert(id_hash, self.count_ending());
        }
    }

    /// Records that a call of the manager has ended all sessions.
    pub(crate) fn record_revocation_of_all(&self) {
        let Ok(mut endings) = self.lock() else { return };
        endings.all = Some(self.count_ending());
    }

    /// Returns whether the session of `id_hash`, which is not live, was ended after `since`.
    pub(crate) fn ended_since(
        &self,
        id_hash: &SessionIdHash,
        since: EndedCount,
    ) -> Result<EndedSinceOpen> {
        let endings = self.lock()?;
        Ok(endings.ended_since(id_hash, since, endings.begun))
    }

    /// As [`ended_since`](Self::ended_since), but is never in doubt: blocks until the calls in
    /// flight have recorded their endings. That is for writes, which would otherwise begin a new
    /// session for a visitor who has just signed out.
    pub(crate) fn await_ended(&self, id_hash: &SessionIdHash, since: EndedCount) -> Result<bool> {
        let mut endings = self.lock()?;
        // A call that begins later does not find the session, so it is not awaited.
        let last = endings.begun;
        loop {
            match endings.ended_since(id_hash, since, last) {
                EndedSinceOpen::InDoubt => endings = self.changed.wait(endings).ignore_poison(),
                ended => return Ok(ended == EndedSinceOpen::Yes),
            }
        }
    }
}

impl Endings {
    /// `last` is the number of the last call that counts as in flight.
    fn ended_since(&self, id_hash: &SessionIdHash, since: EndedCount, last: u64) -> EndedSinceOpen {
        let ended = self.by_id.get(id_hash);
        if ended.into_iter().chain(&self.all).any(|ending| since < *ending) {
            EndedSinceOpen::Yes
        } else if self.in_flight.first().is_some_and(|first| *first <= last) {
            EndedSinceOpen::InDoubt
        } else {
            EndedSinceOpen::No
        }
    }
}

impl Drop for EndingInFlight<'_> {
    fn drop(&mut self) {
        if let Ok(mut endings) = self.recently_ended.lock() {
            endings.in_flight.remove(&self.number);
            self.recently_ended.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::shared::generations::GENERATION_SIZE;

    #[test]
    fn an_ending_counts_for_requests_that_began_before_it() {
        let recently_ended = RecentlyEnded::default();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let before = recently_ended.count();
        recently_ended.record([id_hash]);
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
        assert_eq!(recently_ended.ended_since(&id_hash, before).unwrap(), EndedSinceOpen::InDoubt);
        recently_ended.record([id_hash]);
        assert_eq!(recently_ended.ended_since(&id_hash, before).unwrap(), EndedSinceOpen::Yes);
        assert_eq!(recently_ended.ended_since(&other, before).unwrap(), EndedSinceOpen::InDoubt);
        drop(in_flight);
        assert_eq!(recently_ended.ended_since(&other, before).unwrap(), EndedSinceOpen::No);
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
        recently_ended.record((0..5 * GENERATION_SIZE).map(id_hash));
        let kept = {
            let endings = recently_ended.lock().unwrap();
            (0..5 * GENERATION_SIZE).filter(|n| endings.by_id.get(&id_hash(*n)).is_some()).count()
        };
        assert!(kept <= 2 * GENERATION_SIZE);
        let last = id_hash(5 * GENERATION_SIZE - 1);
        assert!(recently_ended.await_ended(&last, before).unwrap());
    }
}
