//! Which sessions were ended lately, in this process.
//!
//! A request that only writes learns nothing of its session before it commits. When it finds
//! none then, this tells whether the session was ended while the request was under way (then its
//! changes are late) or was gone before (then they begin a new session).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::id::SessionKey;

/// A request that takes longer than this is not told that it was late.
const KEPT: Duration = Duration::from_secs(600);

/// So many endings are kept at least, and twice as many at most.
const MANY: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Endings(Mutex<Generations>);

/// Old endings go a generation at a time, so that forgetting costs nothing per request.
#[derive(Debug, Default)]
struct Generations {
    began: Option<Instant>,
    young: HashMap<SessionKey, Instant>,
    old: HashMap<SessionKey, Instant>,
    /// When all sessions were ended.
    everyone: Option<Instant>,
}

impl Endings {
    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of this key was ended now.
    pub(crate) fn note(&self, key: SessionKey) {
        let now = Instant::now();
        let mut endings = self.lock();
        let began = *endings.began.get_or_insert(now);
        if endings.young.len() >= MANY || now.duration_since(began) >= KEPT {
            endings.old = std::mem::take(&mut endings.young);
            endings.began = Some(now);
        }
        endings.young.insert(key, now);
    }

    /// All sessions were ended now.
    pub(crate) fn note_everyone(&self) {
        self.lock().everyone = Some(Instant::now());
    }

    /// Whether the session of this key was ended since `then`. It is asked for keys of no live
    /// session.
    pub(crate) fn has_ended_since(&self, key: &SessionKey, then: Instant) -> bool {
        let endings = self.lock();
        let ended = endings.young.get(key).or_else(|| endings.old.get(key));
        ended.into_iter().chain(&endings.everyone).any(|ended| then <= *ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_is_known_to_those_who_were_under_way() {
        let endings = Endings::default();
        let key = SessionKey::from_bytes([1; 32]);
        let before = Instant::now();
        endings.note(key);
        assert!(endings.has_ended_since(&key, before));
        assert!(!endings.has_ended_since(&key, Instant::now() + Duration::from_millis(1)));
        assert!(!endings.has_ended_since(&SessionKey::from_bytes([2; 32]), before));
    }

    #[test]
    fn the_memory_is_bounded() {
        let endings = Endings::default();
        let key = |n: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            SessionKey::from_bytes(bytes)
        };
        let before = Instant::now();
        (0..5 * MANY).for_each(|n| endings.note(key(n)));
        let kept = {
            let generations = endings.lock();
            generations.young.len() + generations.old.len()
        };
        assert!(kept <= 2 * MANY);
        assert!(endings.has_ended_since(&key(5 * MANY - 1), before));
    }
}
