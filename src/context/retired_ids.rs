//! The ids that this process has retired in the last minutes: their session has ended, other than
//! by a sweep or an eviction, or another id has replaced them.
//!
//! If the commit of a request finds no session, its changes are discarded if the id was retired
//! during the request; else they create a new session.

use std::collections::BTreeSet;

use crate::clock::MAX_REQUEST_TIME;
use crate::context::recent_ids::RecentIds;
use crate::error::Result;
use crate::id::SessionIdHash;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, IgnorePoison, Mutex, MutexGuard};

#[derive(Debug)]
pub(crate) struct RetiredIds {
    /// The logical clock. It advances under the lock: by one tick for each retired id, for each
    /// revocation of everyone, and when a call that retires ids begins. No two events have the same
    /// time, and it never goes back, unlike a real clock.
    ticks: AtomicU64,
    memory: Mutex<Memory>,
    /// Notified when a call is no longer in flight.
    changed: Condvar,
}

/// A guard: a call that retires ids is in flight until this is dropped.
struct CallInFlight<'r> {
    retired_ids: &'r RetiredIds,
    began_at: RetiredTick,
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

#[derive(Debug)]
struct Memory {
    /// The time at which each id was retired.
    retired_at: RecentIds<RetiredTick>,
    /// The time of the last revocation of everyone.
    everyone_retired_at: Option<RetiredTick>,
    /// The times at which the calls in flight began.
    calls_in_flight: BTreeSet<RetiredTick>,
}

impl RetiredIds {
    pub(crate) fn new() -> Self {
        let memory = Memory {
            // The changes of a request that takes longer may create a new session.
            retired_at: RecentIds::new(MAX_REQUEST_TIME),
            everyone_retired_at: None,
            calls_in_flight: BTreeSet::new(),
        };
        let (ticks, changed) = (AtomicU64::new(0), Condvar::new());
        RetiredIds { ticks, memory: Mutex::new(memory), changed }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().ignore_poison()
    }

    /// Returns the time of the logical clock.
    pub(crate) fn now(&self) -> RetiredTick {
        RetiredTick(self.ticks.load(Ordering::SeqCst))
    }

    /// Advances the logical clock. The result is later than every earlier [`now`](Self::now).
    fn tick(&self) -> RetiredTick {
        RetiredTick(self.ticks.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Makes a call that retires ids. Which ones is known only after the store has returned, when
    /// `add` adds them; until then the call counts as in flight. Raise the events of the call
    /// afterwards: a listener's own write [waits](Self::retired_since_blocking) for calls in
    /// flight.
    pub(crate) fn during<T>(
        &self,
        call: impl FnOnce() -> Result<T>,
        add: impl FnOnce(&T),
    ) -> Result<T> {
        let _in_flight = self.begin();
        call().inspect(add)
    }

    fn begin(&self) -> CallInFlight<'_> {
        let mut memory = self.lock();
        let began_at = self.tick();
        memory.calls_in_flight.insert(began_at);
        CallInFlight { retired_ids: self, began_at }
    }

    /// Adds these id hashes. Takes the lock only for an id: most commits retire none.
    pub(crate) fn add(&self, retired: impl IntoIterator<Item = SessionIdHash>) {
        for id_hash in retired {
            self.lock().retired_at.insert(id_hash, self.tick());
        }
    }

    /// Adds the ids of all sessions, which a call of the manager has ended.
    pub(crate) fn add_everyone(&self) {
        let mut memory = self.lock();
        memory.everyone_retired_at = Some(self.tick());
    }

    /// Returns whether `id_hash`, which finds no session, was retired after `since`.
    pub(crate) fn retired_since(
        &self,
        id_hash: &SessionIdHash,
        since: RetiredTick,
    ) -> RetiredSinceOpen {
        let memory = self.lock();
        memory.retired_since(id_hash, since, self.now())
    }

    /// As [`retired_since`](Self::retired_since), but is never in doubt: blocks until the calls in
    /// flight have added their ids. That is for writes, which would otherwise create a new
    /// session for a visitor who has just signed out.
    pub(crate) fn retired_since_blocking(
        &self,
        id_hash: &SessionIdHash,
        since: RetiredTick,
    ) -> bool {
        let mut memory = self.lock();
        // A call that begins later does not find the session, so it is not awaited.
        let last = self.now();
        loop {
            match memory.retired_since(id_hash, since, last) {
                RetiredSinceOpen::InDoubt => memory = self.changed.wait(memory).ignore_poison(),
                retired => return retired == RetiredSinceOpen::Yes,
            }
        }
    }
}

impl Memory {
    /// Calls that began after `last` do not count as in flight.
    fn retired_since(
        &self,
        id_hash: &SessionIdHash,
        since: RetiredTick,
        last: RetiredTick,
    ) -> RetiredSinceOpen {
        let retired = self.retired_at.get(id_hash);
        if retired.into_iter().chain(&self.everyone_retired_at).any(|at| since < *at) {
            RetiredSinceOpen::Yes
        } else if self.calls_in_flight.first().is_some_and(|first| *first <= last) {
            RetiredSinceOpen::InDoubt
        } else {
            RetiredSinceOpen::No
        }
    }
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        self.retired_ids.lock().calls_in_flight.remove(&self.began_at);
        self.retired_ids.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_id_counts_for_requests_that_began_before() {
        let retired_ids = RetiredIds::new();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let before = retired_ids.now();
        retired_ids.add([id_hash]);
        assert!(retired_ids.retired_since_blocking(&id_hash, before));
        assert!(!retired_ids.retired_since_blocking(&id_hash, retired_ids.now()));
        let other = SessionIdHash::from_bytes([2; 32]);
        assert!(!retired_ids.retired_since_blocking(&other, before));
        let between = retired_ids.now();
        retired_ids.add_everyone();
        assert!(retired_ids.retired_since_blocking(&id_hash, between));
        assert!(!retired_ids.retired_since_blocking(&id_hash, retired_ids.now()));
    }

    #[test]
    fn the_result_is_undecided_while_a_call_is_in_flight() {
        let retired_ids = RetiredIds::new();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let other = SessionIdHash::from_bytes([2; 32]);
        let before = retired_ids.now();
        let in_flight = retired_ids.begin();
        assert_eq!(retired_ids.retired_since(&id_hash, before), RetiredSinceOpen::InDoubt);
        retired_ids.add([id_hash]);
        assert_eq!(retired_ids.retired_since(&id_hash, before), RetiredSinceOpen::Yes);
        assert_eq!(retired_ids.retired_since(&other, before), RetiredSinceOpen::InDoubt);
        drop(in_flight);
        assert_eq!(retired_ids.retired_since(&other, before), RetiredSinceOpen::No);
    }
}
