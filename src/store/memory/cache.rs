//! The memory store as a cache: entries, and the leases that guard their filling.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::SessionKey;
use crate::store::memory::MemoryStore;
use crate::store::{Cache, Entry, Fetched, Lease};

/// Whoever took a lease and has not filled by then has failed: the next one gets a new lease.
const LEASE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Entries {
    capacity: usize,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<SessionKey, Slot>,
    /// Grows with every lease, so that no two leases are alike, whatever was forgotten between.
    last_lease: u128,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly all are filled
enum Slot {
    Leased { lease: Lease, taken: Timestamp },
    Filled { lease: Lease, entry: Entry },
}

impl Slot {
    fn lease(&self) -> Lease {
        match self {
            Slot::Leased { lease, .. } | Slot::Filled { lease, .. } => *lease,
        }
    }
}

impl Entries {
    pub(super) fn new(capacity: usize) -> Self {
        Entries { capacity, slots: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn make_room(&mut self, capacity: usize) {
        if self.by_key.len() < capacity {
            return;
        }
        let mut leases: Vec<u128> =
            self.by_key.values().map(|slot| slot.lease().number()).collect();
        leases.sort_unstable();
        let median = leases.get(leases.len() / 2).copied().unwrap_or(u128::MAX);
        self.by_key.retain(|_, slot| slot.lease().number() > median);
    }
}

impl Cache for MemoryStore {
    fn shares(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn share_of(&self, _key: &SessionKey) -> usize {
        0
    }

    fn fetch(&self, key: &SessionKey, now: Timestamp) -> Result<Fetched> {
        let mut slots = self.cache.slots();
        match slots.by_key.get(key) {
            Some(Slot::Filled { entry, .. }) if entry.record.is_live(now) => {
                return Ok(Fetched::Hit(entry.clone()));
            }
            Some(Slot::Leased { taken, .. }) if now.since(*taken) < LEASE => {
                return Ok(Fetched::Miss(None));
            }
            _ => {}
        }
        slots.make_room(self.cache.capacity);
        slots.last_lease += 1;
        let lease = Lease::new(slots.last_lease);
        slots.by_key.insert(*key, Slot::Leased { lease, taken: now });
        Ok(Fetched::Miss(Some(lease)))
    }

    fn fill(
        &self,
        key: &SessionKey,
        lease: Lease,
        entry: &Entry,
        _until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let mut slots = self.cache.slots();
        match slots.by_key.get_mut(key) {
            Some(slot @ Slot::Leased { .. })
                if slot.lease() == lease && entry.record.is_live(now) =>
            {
                *slot = Slot::Filled { lease, entry: entry.clone() };
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn forget(&self, keys: &[SessionKey], _now: Timestamp) -> Result<()> {
        let mut slots = self.cache.slots();
        for key in keys {
            slots.by_key.remove(key);
        }
        Ok(())
    }

    fn forget_share(&self, _share: usize, _now: Timestamp) -> Result<()> {
        self.cache.slots().by_key.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::Lifetime;
    use crate::record::{Birth, Record};

    fn entry(now: Timestamp) -> Entry {
        let birth = Birth::new(Lifetime::default().starting(now)).unwrap();
        Entry::new(Record::born(&birth, now), now)
    }

    fn lease(cache: &MemoryStore, key: &SessionKey, now: Timestamp) -> Lease {
        match cache.fetch(key, now).unwrap() {
            Fetched::Miss(Some(lease)) => lease,
            other => panic!("expected a lease, got {other:?}"),
        }
    }

    const KEY: SessionKey = SessionKey::from_bytes([1; 32]);
    const NOW: Timestamp = Timestamp::from_millis(0);

    #[test]
    fn a_slow_reader_cannot_fill_in_what_was_forgotten_meanwhile() {
        let cache = MemoryStore::new();
        let slow = lease(&cache, &KEY, NOW);
        cache.forget(&[KEY], NOW).unwrap();
        assert!(!cache.fill(&KEY, slow, &entry(NOW), NOW, NOW).unwrap());
        let next = lease(&cache, &KEY, NOW);
        assert!(!cache.fill(&KEY, slow, &entry(NOW), NOW, NOW).unwrap(), "nor by another's lease");
        assert!(cache.fill(&KEY, next, &entry(NOW), NOW, NOW).unwrap());
        assert!(matches!(cache.fetch(&KEY, NOW).unwrap(), Fetched::Hit(_)));
        cache.forget_share(0, NOW).unwrap();
        assert!(!cache.fill(&KEY, next, &entry(NOW), NOW, NOW).unwrap());
    }

    #[test]
    fn only_one_of_two_readers_that_miss_gets_the_lease() {
        let cache = MemoryStore::new();
        lease(&cache, &KEY, NOW);
        assert_eq!(cache.fetch(&KEY, NOW).unwrap(), Fetched::Miss(None));
        let first_has_failed = NOW + LEASE;
        assert!(matches!(cache.fetch(&KEY, first_has_failed).unwrap(), Fetched::Miss(Some(_))));
    }

    #[test]
    fn an_entry_past_its_deadline_is_a_miss() {
        let cache = MemoryStore::new();
        let lease = lease(&cache, &KEY, NOW);
        let entry = entry(NOW);
        assert!(cache.fill(&KEY, lease, &entry, NOW, NOW).unwrap());
        let ended = entry.record.deadline();
        assert!(matches!(cache.fetch(&KEY, ended).unwrap(), Fetched::Miss(Some(_))));
    }

    #[test]
    fn a_full_cache_drops_its_older_half() {
        let cache = MemoryStore::with_capacity(4);
        let key = |n| SessionKey::from_bytes([n; 32]);
        for n in 0..5 {
            let lease = lease(&cache, &key(n), NOW);
            cache.fill(&key(n), lease, &entry(NOW), NOW, NOW).unwrap();
        }
        assert!(matches!(cache.fetch(&key(4), NOW).unwrap(), Fetched::Hit(_)));
        assert!(matches!(cache.fetch(&key(0), NOW).unwrap(), Fetched::Miss(_)));
    }
}
