//! The ids that this process has retired in the last minutes: their session has ended, other than
//! by a sweep or an eviction, or another id has replaced them.
//!
//! If the commit of a request finds no session, its changes are discarded if the id was retired
//! during the request; else they create a new session. Called by the session and the manager.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::context::generations::Generations;
use crate::id::SessionIdHash;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, IgnorePoison, Mutex, MutexGuard};

/// How long an id is remembered at least, unless many others follow it. The changes of a request
/// that takes longer may create a new session.
const RETENTION: Duration = Duration::from_secs(600);

/// The maximum number of revocations of all sessions that are remembered.
const MAX_REVOCATIONS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct RetiredIds {
    /// The logical clock. It advances under the lock: by one tick for each recorded id, for each
    /// revocation of all, and when a call that retires ids begins. Every request reads it, which
    /// costs less than reading a real clock.
    ticks: AtomicU64,
    memory: Mutex<Memory>,
    /// Notified when a call is no longer in flight.
    changed: Condvar,
}

/// A guard: a call that retires ids is in flight until this is dropped. Which ids it retires is
/// known only after the store has returned.
pub(crate) struct CallInFlight<'r> {
    retired_ids: &'r RetiredIds,
    began: RetiredTick,
}

/// A time on the logical clock of [`RetiredIds`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RetiredTick(u64);

#[derive(Debug, Default)]
struct Memory {
    by_id: Generations<Retirement>,
    /// The latest revocations of all sessions.
    of_all: VecDeque<Retirement>,
    /// When the calls in flight began.
    in_flight: BTreeSet<RetiredTick>,
}

/// When one or all ids were retired.
#[derive(Clone, Copy, Debug)]
struct Retirement {
    /// When the call began; the start of the clock for a renewal, which is never in flight.
    began: RetiredTick,
    recorded: RetiredTick,
}

impl RetiredIds {
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

    /// Marks a call that retires ids as in flight, until it has recorded them and the guard is
    /// dropped. Drop it before an event is raised, because a listener can wait for it.
    pub(crate) fn begin(&self) -> CallInFlight<'_> {
        let mut memory = self.lock();
        let began = self.tick();
        memory.in_flight.insert(began);
        CallInFlight { retired_ids: self, began }
    }

    /// Records these id hashes as retired by a call; `None` for a renewal.
    pub(crate) fn record(
        &self,
        call: Option<&CallInFlight<'_>>,
        retired: impl IntoIterator<Item = SessionIdHash>,
    ) {
        let began = call.map_or_else(RetiredTick::default, |call| call.began);
        for id_hash in retired {
            let mut memory = self.lock();
            let retirement = Retirement { began, recorded: self.tick() };
            memory.by_id.insert(id_hash, retirement, RETENTION);
        }
    }

    /// Records that this call has ended all sessions.
    pub(crate) fn record_revocation_of_all(&self, call: &CallInFlight<'_>) {
        let mut memory = self.lock();
        if memory.of_all.len() == MAX_REVOCATIONS {
            memory.of_all.pop_front();
        }
        memory.of_all.push_back(Retirement { began: call.began, recorded: self.tick() });
    }

    /// Returns whether a call has recorded that `id_hash` was retired after `since`.
    pub(crate) fn retired_since(&self, id_hash: &SessionIdHash, since: RetiredTick) -> bool {
        self.lock().was_retired(id_hash, since, self.now())
    }

    /// Returns whether `id_hash` was retired after `since`, by a call that began before
    /// `unknown_at`. At that time the id was unknown, so a later call has not retired it.
    ///
    /// Blocks until the earlier calls have recorded their ids. A write would otherwise create a new
    /// session for a visitor who has just signed out.
    pub(crate) fn retired_since_blocking(
        &self,
        id_hash: &SessionIdHash,
        since: RetiredTick,
        unknown_at: RetiredTick,
    ) -> bool {
        let mut memory = self.lock();
        loop {
            let retired = memory.was_retired(id_hash, since, unknown_at);
            if retired || memory.in_flight.first().is_none_or(|first| unknown_at < *first) {
                return retired;
            }
            memory = self.changed.wait(memory).ignore_poison();
        }
    }
}

impl Memory {
    fn was_retired(&self, id_hash: &SessionIdHash, since: RetiredTick, until: RetiredTick) -> bool {
        let mut retirements = self.by_id.get(id_hash).into_iter().chain(&self.of_all);
        retirements.any(|retired| since < retired.recorded && retired.began <= until)
    }
}

impl Drop for CallInFlight<'_> {
    fn drop(&mut self) {
        self.retired_ids.lock().in_flight.remove(&self.began);
        self.retired_ids.changed.notify_all();
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
        let retired_since = |id_hash: &_, since| {
            retired_ids.retired_since_blocking(id_hash, since, retired_ids.now())
        };
        let before = retired_ids.now();
        retired_ids.record(None, [id_hash]);
        assert!(retired_since(&id_hash, before));
        assert!(!retired_since(&id_hash, retired_ids.now()));
        let other = SessionIdHash::from_bytes([2; 32]);
        assert!(!retired_since(&other, before));
        let between = retired_ids.now();
        retired_ids.record_revocation_of_all(&retired_ids.begin());
        assert!(retired_since(&id_hash, between));
        assert!(!retired_since(&id_hash, retired_ids.now()));
    }

    #[test]
    fn calls_that_began_after_the_read_do_not_count() {
        let retired_ids = RetiredIds::default();
        let ids = [1, 2, 3].map(|n| SessionIdHash::from_bytes([n; 32]));
        let before = retired_ids.now();
        let revoke = || {
            let call = retired_ids.begin();
            retired_ids.record_revocation_of_all(&call);
        };
        let early = retired_ids.begin();
        let unknown_at = retired_ids.now();
        let late = retired_ids.begin();
        retired_ids.record(Some(&late), [ids[1]]);
        revoke();
        retired_ids.record(Some(&early), [ids[0]]);
        drop(early);
        // `late` is still in flight, and is not awaited.
        let was_retired = |id| retired_ids.retired_since_blocking(id, before, unknown_at);
        assert_eq!(ids.each_ref().map(was_retired), [true, false, false]);
        drop(late);
        let (before, ()) = (retired_ids.now(), revoke());
        let unknown_at = retired_ids.now();
        revoke();
        assert!(retired_ids.retired_since_blocking(&ids[2], before, unknown_at), "the first");
    }

    #[test]
    fn an_id_counts_as_soon_as_a_call_in_flight_has_recorded_it() {
        let retired_ids = RetiredIds::default();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let other = SessionIdHash::from_bytes([2; 32]);
        let before = retired_ids.now();
        let in_flight = retired_ids.begin();
        assert!(!retired_ids.retired_since(&id_hash, before));
        retired_ids.record(Some(&in_flight), [id_hash]);
        assert!(retired_ids.retired_since(&id_hash, before));
        assert!(retired_ids.retired_since_blocking(&id_hash, before, retired_ids.now()));
        assert!(!retired_ids.retired_since(&other, before));
        drop(in_flight);
        assert!(!retired_ids.retired_since_blocking(&other, before, retired_ids.now()));
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
        retired_ids.record(None, (0..5 * GENERATION_SIZE).map(id_hash));
        let kept = {
            let memory = retired_ids.lock();
            (0..5 * GENERATION_SIZE).filter(|n| memory.by_id.get(&id_hash(*n)).is_some()).count()
        };
        assert!(kept <= 2 * GENERATION_SIZE);
        let last = id_hash(5 * GENERATION_SIZE - 1);
        assert!(retired_ids.retired_since_blocking(&last, before, retired_ids.now()));
    }
}
