//! Which sessions were ended lately, in this process.
//!
//! A request that only writes learns nothing of its session before it commits. When it finds
//! none then, this tells whether the session was ended while the request was under way (then its
//! changes are late) or was gone before (then they begin a new session).

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::id::SessionKey;
use crate::session::current::Number;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, instant};

/// A request that takes longer than this is not told that it was late.
const KEPT: Duration = Duration::from_secs(600);

/// So many endings are kept at least, and twice as many at most.
const MANY: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Endings {
    /// How many were noted until now. Every request reads it, so it costs less than a clock.
    noted: AtomicU64,
    known: Mutex<Generations>,
    /// One that was under way is over.
    changed: Condvar,
}

/// Something is being ended until this is dropped. Only the store knows by then what it has ended.
pub(crate) struct UnderWay<'e> {
    endings: &'e Endings,
    number: u64,
}

/// A moment: how many endings had been noted then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

#[derive(Clone, Copy, Debug)]
struct Ending {
    at: Moment,
    /// The session whose request has ended it by a call of the manager, perhaps its own.
    revoked_by: Option<Number>,
}

/// Old endings go a generation at a time, so that forgetting costs nothing per request.
#[derive(Debug, Default)]
struct Generations {
    began: Option<Instant>,
    young: HashMap<SessionKey, Ending>,
    old: HashMap<SessionKey, Ending>,
    /// When all sessions were ended.
    everyone: Option<Ending>,
    /// How many have begun.
    begun: u64,
    /// The numbers of those that are under way.
    under_way: BTreeSet<u64>,
}

impl Endings {
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
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        let mut endings = self.lock();
        endings.begun += 1;
        let number = endings.begun;
        endings.under_way.insert(number);
        UnderWay { endings: self, number }
    }

    /// The session of this key was ended now, by the request of a session.
    pub(crate) fn note(&self, key: SessionKey) {
        self.note_ending(key, None);
    }

    /// The session of this key was ended now, by a call of the manager, which is taken
    /// for one of the session that this thread has used last.
    pub(crate) fn note_revocation(&self, key: SessionKey) {
        self.note_ending(key, Number::last_used_here());
    }

    fn note_ending(&self, key: SessionKey, revoked_by: Option<Number>) {
        let now = instant();
        let mut endings = self.lock();
        let began = *endings.began.get_or_insert(now);
        if endings.young.len() >= MANY || now.duration_since(began) >= KEPT {
            endings.old = std::mem::take(&mut endings.young);
            endings.began = Some(now);
        }
        endings.young.insert(key, Ending { at: self.next(), revoked_by });
    }

    /// All sessions were ended now, by a call of the manager, as above.
    pub(crate) fn note_revocation_of_everyone(&self) {
        let mut endings = self.lock();
        endings.everyone = Some(Ending { at: self.next(), revoked_by: Number::last_used_here() });
    }

    /// Whether a call of the manager by the request of the session `by` has ended the session of
    /// this key since `then`.
    pub(crate) fn was_revoked_by(&self, key: &SessionKey, by: Number, then: Moment) -> bool {
        self.lock().of(key).any(|ending| then < ending.at && ending.revoked_by == Some(by))
    }

    /// Whether the session of this key, which is not live, was ended since `then`; `None` if that
    /// is not known yet, because deletions are in flight. Never waits.
    pub(crate) fn try_has_ended_since(&self, key: &SessionKey, then: Moment) -> Option<bool> {
        let endings = self.lock();
        match endings.has_ended_since(key, then) {
            true => Some(true),
            false => endings.under_way.is_empty().then_some(false),
        }
    }

    /// Whether the session of this key, which is not live, was ended since `then`. Blocks until the
    /// deletions in flight have recorded their keys: for writes only, which would otherwise begin a
    /// new session for a visitor who was just signed out.
    pub(crate) fn has_ended_since(&self, key: &SessionKey, then: Moment) -> bool {
        let mut endings = self.lock();
        // Who begins later does not find the session either.
        let last = endings.begun;
        loop {
            if endings.has_ended_since(key, then) {
                return true;
            }
            if endings.under_way.first().is_none_or(|first| *first > last) {
                return false;
            }
            endings = self.changed.wait(endings).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Generations {
    fn has_ended_since(&self, key: &SessionKey, then: Moment) -> bool {
        self.of(key).any(|ending| then < ending.at)
    }

    fn of(&self, key: &SessionKey) -> impl Iterator<Item = &Ending> {
        let ended = self.young.get(key).or_else(|| self.old.get(key));
        ended.into_iter().chain(&self.everyone)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.endings.lock().under_way.remove(&self.number);
        self.endings.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_known_to_those_who_were_under_way() {
        let endings = Endings::default();
        let key = SessionKey::from_bytes([1; 32]);
        let before = endings.now();
        endings.note(key);
        assert!(endings.has_ended_since(&key, before));
        assert!(!endings.has_ended_since(&key, endings.now()));
        assert!(!endings.has_ended_since(&SessionKey::from_bytes([2; 32]), before));
        let between = endings.now();
        endings.note_revocation_of_everyone();
        assert!(endings.has_ended_since(&key, between));
        assert!(!endings.has_ended_since(&key, endings.now()));
    }

    #[test]
    fn a_deletion_in_flight_leaves_open_what_it_has_ended() {
        let endings = Endings::default();
        let (key, other) = (SessionKey::from_bytes([1; 32]), SessionKey::from_bytes([2; 32]));
        let before = endings.now();
        let in_flight = endings.begin();
        assert_eq!(endings.try_has_ended_since(&key, before), None);
        endings.note(key);
        assert_eq!(endings.try_has_ended_since(&key, before), Some(true));
        assert_eq!(endings.try_has_ended_since(&other, before), None);
        drop(in_flight);
        assert_eq!(endings.try_has_ended_since(&other, before), Some(false));
    }

    #[test]
    fn the_memory_is_bounded() {
        let endings = Endings::default();
        let key = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            SessionKey::from_bytes(bytes)
        };
        let before = endings.now();
        (0..5 * MANY).for_each(|n| endings.note(key(n)));
        let kept = {
            let generations = endings.lock();
            generations.young.len() + generations.old.len()
        };
        assert!(kept <= 2 * MANY);
        assert!(endings.has_ended_since(&key(5 * MANY - 1), before));
    }
}
