//! Which sessions were ended lately, in this process.
//!
//! A request that only writes learns nothing of its session before it commits. When it finds
//! none then, this tells whether the session was ended while the request was under way (then its
//! changes are late) or was gone before (then they begin a new session).

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::id::SessionIdHash;
use crate::session::last_used::SessionNumber;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, instant};

/// A request that takes longer than this is not told that it was late.
const KEPT: Duration = Duration::from_secs(600);

/// So many endings are kept at least, and twice as many at most.
const MANY: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct RecentlyEnded {
    /// How many were noted until now. Every request reads it, so it costs less than a clock.
    noted: AtomicU64,
    known: Mutex<Generations>,
    /// One that was under way is over.
    changed: Condvar,
}

/// Something is being ended until this is dropped. Only the store knows by then what it has ended.
pub(crate) struct DeletionInFlight<'e> {
    recently_ended: &'e RecentlyEnded,
    number: u64,
}

/// A moment: how many endings had been noted then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

#[derive(Clone, Copy, Debug)]
struct EndedSession {
    at: Moment,
    /// The session whose request has ended it by a call of the manager, perhaps its own.
    revoked_by: Option<SessionNumber>,
}

/// Old endings go a generation at a time, so that forgetting costs nothing per request.
#[derive(Debug, Default)]
struct Generations {
    began: Option<Instant>,
    young: HashMap<SessionIdHash, EndedSession>,
    old: HashMap<SessionIdHash, EndedSession>,
    /// When all sessions were ended.
    everyone: Option<EndedSession>,
    /// How many have begun.
    begun: u64,
    /// The numbers of those that are under way.
    under_way: BTreeSet<u64>,
}

impl RecentlyEnded {
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The moment that it is.
    pub(crate) fn now(&self) -> Moment {
        Moment(self.noted.load(Ordering::SeqCst))
    }

    /// The moment of an ending, which is after all that anybody has seen.
    fn next(&self) -> Moment {
        Moment(self.noted.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// From before the store is asked to end something until all of that was noted.
    pub(crate) fn begin(&self) -> DeletionInFlight<'_> {
        let mut recently_ended = self.lock();
        recently_ended.begun += 1;
        let number = recently_ended.begun;
        recently_ended.under_way.insert(number);
        DeletionInFlight { recently_ended: self, number }
    }

    /// The session of this key was ended now, by the request of a session.
    pub(crate) fn note(&self, id_hash: SessionIdHash) {
        self.note_ending(id_hash, None);
    }

    /// The session of this key was ended now, by a call of the manager, which is taken
    /// for one of the session that this thread has used last.
    pub(crate) fn note_revocation(&self, id_hash: SessionIdHash) {
        self.note_ending(id_hash, SessionNumber::last_used_here());
    }

    fn note_ending(&self, id_hash: SessionIdHash, revoked_by: Option<SessionNumber>) {
        let now = instant();
        let mut recently_ended = self.lock();
        let began = *recently_ended.began.get_or_insert(now);
        if recently_ended.young.len() >= MANY || now.duration_since(began) >= KEPT {
            recently_ended.old = std::mem::take(&mut recently_ended.young);
            recently_ended.began = Some(now);
        }
        recently_ended.young.insert(id_hash, EndedSession { at: self.next(), revoked_by });
    }

    /// All sessions were ended now, by a call of the manager, as above.
    pub(crate) fn note_revocation_of_everyone(&self) {
        let mut recently_ended = self.lock();
        recently_ended.everyone =
            Some(EndedSession { at: self.next(), revoked_by: SessionNumber::last_used_here() });
    }

    /// Whether a call of the manager by the request of the session `by` has ended the session of
    /// this key since `then`.
    pub(crate) fn was_revoked_by(
        &self,
        id_hash: &SessionIdHash,
        by: SessionNumber,
        then: Moment,
    ) -> bool {
        self.lock().of(id_hash).any(|ending| then < ending.at && ending.revoked_by == Some(by))
    }

    /// Whether the session of this key, which is not live, was ended since `then`; `None` if that
    /// is not known yet, because deletions are in flight. Never waits.
    pub(crate) fn try_has_ended_since(
        &self,
        id_hash: &SessionIdHash,
        then: Moment,
    ) -> Option<bool> {
        let recently_ended = self.lock();
        match recently_ended.has_ended_since(id_hash, then) {
            true => Some(true),
            false => recently_ended.under_way.is_empty().then_some(false),
        }
    }

    /// Whether the session of this key, which is not live, was ended since `then`. Blocks until the
    /// deletions in flight have recorded their keys: for writes only, which would otherwise begin a
    /// new session for a visitor who was just signed out.
    pub(crate) fn has_ended_since(&self, id_hash: &SessionIdHash, then: Moment) -> bool {
        let mut recently_ended = self.lock();
        // Who begins later does not find the session either.
        let last = recently_ended.begun;
        loop {
            if recently_ended.has_ended_since(id_hash, then) {
                return true;
            }
            if recently_ended.under_way.first().is_none_or(|first| *first > last) {
                return false;
            }
            recently_ended =
                self.changed.wait(recently_ended).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Generations {
    fn has_ended_since(&self, id_hash: &SessionIdHash, then: Moment) -> bool {
        self.of(id_hash).any(|ending| then < ending.at)
    }

    fn of(&self, id_hash: &SessionIdHash) -> impl Iterator<Item = &EndedSession> {
        let ended = self.young.get(id_hash).or_else(|| self.old.get(id_hash));
        ended.into_iter().chain(&self.everyone)
    }
}

impl Drop for DeletionInFlight<'_> {
    fn drop(&mut self) {
        self.recently_ended.lock().under_way.remove(&self.number);
        self.recently_ended.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_known_to_those_who_were_under_way() {
        let recently_ended = RecentlyEnded::default();
        let id_hash = SessionIdHash::from_bytes([1; 32]);
        let before = recently_ended.now();
        recently_ended.note(id_hash);
        assert!(recently_ended.has_ended_since(&id_hash, before));
        assert!(!recently_ended.has_ended_since(&id_hash, recently_ended.now()));
        assert!(!recently_ended.has_ended_since(&SessionIdHash::from_bytes([2; 32]), before));
        let between = recently_ended.now();
        recently_ended.note_revocation_of_everyone();
        assert!(recently_ended.has_ended_since(&id_hash, between));
        assert!(!recently_ended.has_ended_since(&id_hash, recently_ended.now()));
    }

    #[test]
    fn a_deletion_in_flight_leaves_open_what_it_has_ended() {
        let recently_ended = RecentlyEnded::default();
        let (id_hash, other) =
            (SessionIdHash::from_bytes([1; 32]), SessionIdHash::from_bytes([2; 32]));
        let before = recently_ended.now();
        let in_flight = recently_ended.begin();
        assert_eq!(recently_ended.try_has_ended_since(&id_hash, before), None);
        recently_ended.note(id_hash);
        assert_eq!(recently_ended.try_has_ended_since(&id_hash, before), Some(true));
        assert_eq!(recently_ended.try_has_ended_since(&other, before), None);
        drop(in_flight);
        assert_eq!(recently_ended.try_has_ended_since(&other, before), Some(false));
    }

    #[test]
    fn the_memory_is_bounded() {
        let recently_ended = RecentlyEnded::default();
        let id_hash = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            SessionIdHash::from_bytes(bytes)
        };
        let before = recently_ended.now();
        (0..5 * MANY).for_each(|n| recently_ended.note(id_hash(n)));
        let kept = {
            let generations = recently_ended.lock();
            generations.young.len() + generations.old.len()
        };
        assert!(kept <= 2 * MANY);
        assert!(recently_ended.has_ended_since(&id_hash(5 * MANY - 1), before));
    }
}
