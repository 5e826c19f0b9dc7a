//! The ids that this process has retired in the last minutes: their session has ended, other than
//! by a sweep or an eviction, or another id has replaced them.
//!
//! If the commit of a request finds no session, its changes are discarded if the id was retired
//! during the request; else they create a new session. Called by the session and the manager.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::context::generations::Generations;
use crate::error::Result;
use crate::id::SessionIdHash;
use crate::process::ProcessBound;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, IgnorePoison, Mutex, MutexGuard};

/// How long an id is remembered at least, unless many others follow it. The changes of a request
/// that takes longer may create a new session.
const RETENTION: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct RetiredIds {
    /// The logical clock: one tick for each recorded id and for each revocation of all. Every
    /// request reads it, which costs less than reading a real clock.
    ticks: AtomicU64,
    memory: ProcessBound<Mutex<Memory>>,
    /// Notified when a call is no longer in flight.
    changed: Condvar,
}

/// A guard: a call that retires ids is in flight until this is dropped. Which ids it retires is
/// known only after the store has returned.
struct CallInFlight<'r> {
    retired_ids: &'r RetiredIds,
    number: u64,
}

/// A time on the logical clock of [`RetiredIds`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RetiredTick(u64);

/// Whether an id was retired since this request was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RetiredSinceOpen {
    #[default]
    No,
    /// Calls that retire ids are in flight, and one of them may retire it.
    InDoubt,
    Yes,
}

#[derive(Debug, Default)]
struct Memory {
    by_id: Generations<RetiredTick>,
    /// The last revocation of all sessions.
    all: Option<RetiredTick>,
    /// The number of calls begun so far that retire ids.
    begun: u64,
    /// The numbers of those in flight.
    in_flight: BTreeSet<u64>,
}

impl RetiredIds {
    fn lock(&self) -> Result<MutexGuard<'_, Memory>> {
        Ok(self.memory.get()?.lock().ignore_poison())
    }

    /// Returns the time of the logical clock.
    pub(crate) fn now(&self) -> RetiredTick {
        RetiredTick(self.ticks.load(Ordering::SeqCst))
    }

    /// Advances the logical clock. The result is later than every earlier [`now`](Self::now).
    fn tick(&self) -> RetiredTick {
        RetiredTick(self.ticks.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Makes a call that retires ids, and records by `record` which ones. It is in flight
    /// meanwhile.
    pub(crate) fn while_retiring<T>(
        &self,
        call: impl FnOnce() -> Result<T>,
        record: impl FnOnce(&T),
    ) -> Result<T> {
        let _in_flight = self.begin()?;
        call().inspect(record)
    }

    fn begin(&self) -> Result<CallInFlight<'_>> {
        let mut memory = self.lock()?;
        memory.begun += 1;
        let number = memory.begun;
        memory.in_flight.insert(number);
        Ok(CallInFlight { retired_ids: self, number })
    }

    /// Records these id hashes as retired.
    pub(crate) fn record(&self, retired: impl IntoIterator<Item = SessionIdHash>) {
        let Ok(mut memory) = self.lock() else { return };
        for id_hash in retired {
            memory.by_id.insert(id_hash, self.tick(), RETENTION);
        }
    }

    /// Records that a call of the manager has ended all sessions.
    pub(crate) fn record_revocation_of_all(&self) {
        let Ok(mut memory) = self.lock() else { return };
        memory.all = Some(self.tick());
    }

    /// Returns whether `id_hash`, which finds no session, was retired after `since`.
    pub(crate) fn retired_since(
        &self,
        id_hash: &SessionIdHash,
        since: RetiredTick,
    ) -> Result<RetiredSinceOpen> {
        let memory = self.lock()?;
        Ok(memory.retired_since(id_hash, since, memory.begun))
    }

    /// As [`retired_since`](Self::retired_since), but is never in doubt: blocks until the calls in
    /// flight have recorded their ids. That is for writes, which would otherwise create a new
    /// session for a visitor who has just signed out.
    pub(crate) fn await_retired(
        &self,
        id_hash: &SessionIdHash,
        since: RetiredTick,
    ) -> Result<bool> {
        let mut memory = self.lock()?;
        // A call that begins later does not find the session, so it is not awaited.
        let last = memory.begun;
        loop {
            match memory.retired_since(id_hash, since, last) {
                RetiredSinceOpen::InDoubt => memory = self.changed.wait(memory).ignore_poison(),
                retired => return Ok(retired == RetiredSinceOpen::Yes),
            }
        }
    }
}

impl Memory {
    /// `last` is the number of the last call that counts as in flight.
    fn retired_since(
        &self,
        id_hash: &SessionIdHash,
        since: RetiredTick,
        last: u64,
    ) -> RetiredSinceOpen {
        let retired = self.by_id.get(id_hash);
        if retired.into_iter().chain(&self.all).any(|at| since < *at) {
            RetiredSinceOpen::Yes
        } else if self.in_flight.first().is_some_and(|first| *first <= last) {
            RetiredSinceOpen::InDoubt
        } else {
            RetiredSinceOpen::No
        }
    }
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        if let Ok(mut memory) = self.retired_ids.lock() {
            memory.in_flight.remove(&self.number);
            self.retired_ids.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::generations::GENERATION_SIZE;

    #[test]
    fn a_retired_id_counts_for_requests_that_began_before() {
        let retired_ids = RetiredIds::default();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let before = retired_ids.now();
        retired_ids.record([id_hash]);
        assert!(retired_ids.await_retired(&id_hash, before).unwrap());
        assert!(!retired_ids.await_retired(&id_hash, retired_ids.now()).unwrap());
        let other = SessionIdHash::from_bytes([2; 32]);
        assert!(!retired_ids.await_retired(&other, before).unwrap());
        let between = retired_ids.now();
        retired_ids.record_revocation_of_all();
        assert!(retired_ids.await_retired(&id_hash, between).unwrap());
        assert!(!retired_ids.await_retired(&id_hash, retired_ids.now()).unwrap());
    }

    #[test]
    fn the_result_is_undecided_while_a_call_is_in_flight() {
        let retired_ids = RetiredIds::default();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let other = SessionIdHash::from_bytes([2; 32]);
        let before = retired_ids.now();
        let in_flight = retired_ids.begin().unwrap();
        assert_eq!(retired_ids.retired_since(&id_hash, before).unwrap(), RetiredSinceOpen::InDoubt);
        retired_ids.record([id_hash]);
        assert_eq!(retired_ids.retired_since(&id_hash, before).unwrap(), RetiredSinceOpen::Yes);
        assert_eq!(retired_ids.retired_since(&other, before).unwrap(), RetiredSinceOpen::InDoubt);
        drop(in_flight);
        assert_eq!(retired_ids.retired_since(&other, before).unwrap(), RetiredSinceOpen::No);
    }

    #[test]
    fn the_memory_is_bounded() {
        let retired_ids = RetiredIds::default();
        let id_hash = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            SessionIdHash::from_bytes(bytes)
        };
        let before = retired_ids.now();
        retired_ids.record((0..5 * GENERATION_SIZE).map(id_hash));
        let kept = {
            let memory = retired_ids.lock().unwrap();
            (0..5 * GENERATION_SIZE).filter(|n| memory.by_id.get(&id_hash(*n)).is_some()).count()
        };
        assert!(kept <= 2 * GENERATION_SIZE);
        let last = id_hash(5 * GENERATION_SIZE - 1);
        assert!(retired_ids.await_retired(&last, before).unwrap());
    }
}
