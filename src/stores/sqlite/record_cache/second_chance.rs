//! A cache of sessions within a memory budget, with CLOCK (second chance) eviction.
//!
//! Invariants: `positions` has the index of each slot under its id hash, `weight` is the sum of the
//! slots' weights, and after each call it is at most `budget`.

use std::collections::HashMap;

use crate::id::{IdpSessionId, SessionIdHash, UserKey};
use crate::record::Record;

/// The approximate memory of a session beyond its strings, in bytes: its slot, its index entry, and
/// the allocator's overhead.
const OVERHEAD: usize = size_of::<Slot>() + 128;

/// Sessions by id hash. When the budget is exceeded, the CLOCK hand advances over the slots and
/// evicts the first session that was not read since the hand last passed it.
#[derive(Debug)]
pub(super) struct SecondChanceCache {
    budget: usize,
    weight: usize,
    hand: usize,
    positions: HashMap<SessionIdHash, usize>,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    id_hash: SessionIdHash,
    session: CachedSession,
    weight: usize,
    referenced: bool,
}

/// A session as stored in the database, with its row id.
#[derive(Clone, Debug)]
pub(crate) struct CachedSession {
    pub(crate) id: i64,
    pub(crate) record: Record,
}

impl SecondChanceCache {
    /// Makes an empty cache for about `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        SecondChanceCache {
            budget,
            weight: 0,
            hand: 0,
            positions: HashMap::new(),
            slots: Vec::new(),
        }
    }

    /// Empties the cache. Returns the sessions, so that the caller can drop them outside the lock.
    pub(super) fn empty(&mut self) -> Self {
        let budget = self.budget;
        std::mem::replace(self, SecondChanceCache::new(budget))
    }

    pub(super) fn get(&mut self, id_hash: &SessionIdHash) -> Option<&CachedSession> {
        let slot = self.slots.get_mut(*self.positions.get(id_hash)?)?;
        slot.referenced = true;
        Some(&slot.session)
    }

    pub(super) fn put(&mut self, id_hash: SessionIdHash, session: CachedSession) {
        let weight = weight(&session.record);
        if weight > self.budget / 8 {
            // It would evict too many other sessions.
            return self.remove(&id_hash);
        }
        match self.positions.get(&id_hash).and_then(|position| self.slots.get_mut(*position)) {
            Some(slot) => {
                self.weight = self.weight - slot.weight + weight;
                (slot.session, slot.weight) = (session, weight);
            }
            None => {
                self.weight += weight;
                self.positions.insert(id_hash, self.slots.len());
                self.slots.push(Slot { id_hash, session, weight, referenced: false });
            }
        }
        while self.weight > self.budget {
            self.advance_hand();
        }
    }

    fn advance_hand(&mut self) {
        if self.hand >= self.slots.len() {
            self.hand = 0;
        }
        match self.slots.get_mut(self.hand) {
            Some(slot) if slot.referenced => {
                slot.referenced = false;
                self.hand += 1;
            }
            Some(slot) => {
                let id_hash = slot.id_hash;
                self.remove(&id_hash);
            }
            // No slots, so by the invariant no weight either.
            None => self.weight = 0,
        }
    }

    pub(super) fn remove(&mut self, id_hash: &SessionIdHash) {
        let Some(position) = self.positions.remove(id_hash) else { return };
        if position < self.slots.len() {
            let slot = self.slots.swap_remove(position);
            self.weight = self.weight.saturating_sub(slot.weight);
        }
        // `swap_remove` has moved the last slot here.
        if let Some(moved) = self.slots.get(position) {
            self.positions.insert(moved.id_hash, position);
        }
    }
}

/// Returns the approximate memory of a record, in bytes.
fn weight(record: &Record) -> usize {
    let user = record.user.as_ref().map_or(0, |user| UserKey::as_str(user).len());
    let idp_session_id =
        record.idp_session_id.as_ref().map_or(0, |id| IdpSessionId::as_str(id).len());
    let agent = record.client.as_ref().and_then(|client| client.user_agent.as_ref());
    let agent = agent.map_or(0, |agent| agent.len());
    OVERHEAD + user + idp_session_id + agent + record.data.memory_size()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::data::Data;
    use crate::lifetime::Lifetime;
    use crate::record::NewSession;

    fn id_hash(number: u8) -> SessionIdHash {
        SessionIdHash::from_bytes([number; 32])
    }

    fn session(id: i64, bytes: usize) -> CachedSession {
        let now = Timestamp::from_millis(0);
        let new_session = NewSession::new(Lifetime::default().starting(now)).unwrap();
        let mut record = Record::create(&new_session, now);
        record.data = Data::from_json(&format!("{{\"data\":\"{}\"}}", "x".repeat(bytes))).unwrap();
        CachedSession { id, record }
    }

    fn kept(cache: &mut SecondChanceCache) -> Vec<u8> {
        (0..=u8::MAX).filter(|number| cache.positions.contains_key(&id_hash(*number))).collect()
    }

    #[test]
    fn referenced_sessions_stay_and_the_budget_is_kept() {
        let one = weight(&session(0, 1000).record);
        let mut cache = SecondChanceCache::new(one * 10);
        for number in 0..10 {
            cache.put(id_hash(number), session(i64::from(number), 1000));
        }
        assert_eq!(kept(&mut cache), (0..10).collect::<Vec<_>>());
        for number in [1, 4, 9] {
            assert_eq!(cache.get(&id_hash(number)).unwrap().id, i64::from(number));
        }
        for number in 10..17 {
            cache.put(id_hash(number), session(i64::from(number), 1000));
            assert!(cache.weight <= cache.budget);
        }
        let kept = kept(&mut cache);
        assert_eq!(kept.len(), 10);
        assert!([1, 4, 9].iter().all(|number| kept.contains(number)), "{kept:?}");
    }

    #[test]
    fn replaced_removed_and_large_sessions_free_their_weight() {
        let mut cache = SecondChanceCache::new(1 << 20);
        for number in 0..20 {
            cache.put(id_hash(number), session(1, 100));
        }
        cache.put(id_hash(3), session(2, 5000));
        assert_eq!(cache.get(&id_hash(3)).unwrap().id, 2);
        cache.put(id_hash(3), session(3, 1 << 18));
        assert!(cache.get(&id_hash(3)).is_none());
        for number in (0..20).rev() {
            cache.remove(&id_hash(number));
            cache.remove(&id_hash(number));
            assert!(cache.get(&id_hash(number)).is_none());
            let rest: Vec<u8> = (0..number).filter(|n| *n != 3).collect();
            assert_eq!(kept(&mut cache), rest);
            assert!(rest.iter().all(|n| cache.get(&id_hash(*n)).is_some()));
        }
        assert_eq!(cache.weight, 0);
    }

    #[test]
    fn emptying_keeps_the_budget() {
        let mut cache = SecondChanceCache::new(1 << 20);
        cache.put(id_hash(1), session(1, 100));
        assert_eq!(kept(&mut cache.empty()), [1]);
        assert!(kept(&mut cache).is_empty());
        cache.put(id_hash(2), session(1, 100));
        assert_eq!(kept(&mut cache), [2]);
    }
}
