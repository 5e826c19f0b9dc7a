//! A cache of sessions within a memory budget, which evicts the least recently used ones.
//!
//! Invariant: `weight` is the sum of the entries' weights, and after each call at most `budget`.

use std::mem;

use hashlink::LruCache;

use crate::id::{IdpSessionId, SessionIdHash, UserKey};
use crate::record::Record;

/// The approximate memory of a session beyond its strings, in bytes: its entry, and the overhead of
/// the index and the allocator.
const OVERHEAD_BYTES: usize = size_of::<(SessionIdHash, Entry)>() + 128;

#[derive(Debug)]
pub(super) struct SessionLru {
    budget: usize,
    weight: usize,
    entries: LruCache<SessionIdHash, Entry>,
}

#[derive(Debug)]
struct Entry {
    session: CachedSession,
    weight: usize,
}

/// A session as stored in the database, with its row id.
#[derive(Clone, Debug)]
pub(crate) struct CachedSession {
    pub(crate) id: i64,
    pub(crate) record: Record,
}

impl SessionLru {
    /// Makes an empty cache for about `budget` bytes.
    pub(super) fn new(budget: usize) -> Self {
        SessionLru { budget, weight: 0, entries: LruCache::new_unbounded() }
    }

    /// Empties the cache. Returns the sessions, so that the caller can drop them outside the lock.
    pub(super) fn empty(&mut self) -> Self {
        mem::replace(self, SessionLru::new(self.budget))
    }

    pub(super) fn get(&mut self, id_hash: &SessionIdHash) -> Option<&CachedSession> {
        self.entries.get(id_hash).map(|entry| &entry.session)
    }

    pub(super) fn put(&mut self, id_hash: SessionIdHash, session: CachedSession) {
        self.remove(&id_hash);
        let weight = weight(&session.record);
        // A larger one would evict too many others.
        if weight <= self.budget / 8 {
            self.weight += weight;
            self.entries.insert(id_hash, Entry { session, weight });
        }
        while self.weight > self.budget
            && let Some((_, evicted)) = self.entries.remove_lru()
        {
            self.weight -= evicted.weight;
        }
    }

    pub(super) fn remove(&mut self, id_hash: &SessionIdHash) {
        if let Some(removed) = self.entries.remove(id_hash) {
            self.weight -= removed.weight;
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
    OVERHEAD_BYTES + user + idp_session_id + agent + record.data.memory_size()
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
        let new_session = NewSession::new(Lifetime::default().limits_from(now)).unwrap();
        let mut record = Record::create(&new_session, now);
        record.data = Data::from_json(&format!("{{\"data\":\"{}\"}}", "x".repeat(bytes))).unwrap();
        CachedSession { id, record }
    }

    fn kept(cache: &SessionLru) -> Vec<u8> {
        (0..=u8::MAX).filter(|number| cache.entries.contains_key(&id_hash(*number))).collect()
    }

    #[test]
    fn used_sessions_stay_and_the_budget_is_kept() {
        let one = weight(&session(0, 1000).record);
        let mut cache = SessionLru::new(one * 10);
        for number in 0..10 {
            cache.put(id_hash(number), session(i64::from(number), 1000));
        }
        assert_eq!(kept(&cache), (0..10).collect::<Vec<_>>());
        for number in [1, 4, 9] {
            assert_eq!(cache.get(&id_hash(number)).unwrap().id, i64::from(number));
        }
        for number in 10..17 {
            cache.put(id_hash(number), session(i64::from(number), 1000));
            assert!(cache.weight <= cache.budget);
        }
        assert_eq!(kept(&cache), [1, 4, 9, 10, 11, 12, 13, 14, 15, 16]);
        for number in 17..27 {
            cache.put(id_hash(number), session(i64::from(number), 1000));
        }
        assert_eq!(kept(&cache), (17..27).collect::<Vec<_>>(), "the others were used longer ago");
    }

    #[test]
    fn replaced_removed_and_large_sessions_free_their_weight() {
        let mut cache = SessionLru::new(1 << 20);
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
            assert_eq!(kept(&cache), rest);
            assert!(rest.iter().all(|n| cache.get(&id_hash(*n)).is_some()));
        }
        assert_eq!(cache.weight, 0);
    }

    #[test]
    fn emptying_keeps_the_budget() {
        let mut cache = SessionLru::new(1 << 20);
        cache.put(id_hash(1), session(1, 100));
        assert_eq!(kept(&cache.empty()), [1]);
        assert!(kept(&cache).is_empty());
        cache.put(id_hash(2), session(1, 100));
        assert_eq!(kept(&cache), [2]);
    }
}
