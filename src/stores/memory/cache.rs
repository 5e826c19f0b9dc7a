//! [`Cache`] for [`MemoryStore`]: entries and fill leases.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::MutexGuard;
use std::time::Duration;

use crate::backend::{Cache, CacheEntry, CacheKey, CacheLookup, FillLease};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::stores::memory::MemoryStore;
use crate::sync::IgnorePoison;

/// How long a fill lease lasts. After that, the next miss gets a new lease.
const LEASE: Duration = Duration::from_secs(10);

/// The entries of the cache, and the leases to fill them.
#[derive(Debug)]
pub(super) struct CacheSlots {
    capacity: usize,
    slots: HashMap<CacheKey, CacheSlot>,
    /// The number of the last lease. It grows with every lease, so no number is used twice, even
    /// after an invalidation.
    last_lease: u128,
}

#[derive(Debug)]
struct CacheSlot {
    lease: FillLease,
    /// The time at which the lease was granted.
    taken: Timestamp,
    /// The entry that was filled in by the lease.
    entry: Option<CacheEntry>,
}

impl CacheSlots {
    pub(super) fn new(capacity: usize) -> Self {
        CacheSlots { capacity, slots: HashMap::new(), last_lease: 0 }
    }

    fn drop_older_half_if_full(&mut self) {
        if self.slots.len() < self.capacity {
            return;
        }
        let mut leases: Vec<_> = self.slots.values().map(|slot| slot.lease.number()).collect();
        leases.sort_unstable();
        let median = leases.get(leases.len() / 2).copied().unwrap_or(u128::MAX);
        self.slots.retain(|_, slot| slot.lease.number() > median);
    }
}

impl MemoryStore {
    fn cache(&self) -> MutexGuard<'_, CacheSlots> {
        self.cache.lock().ignore_poison()
    }
}

impl Cache for MemoryStore {
    fn shards(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn shard_of(&self, _key: &CacheKey) -> usize {
        0
    }

    fn fetch(&self, key: &CacheKey, now: Timestamp) -> Result<CacheLookup> {
        let mut cache = self.cache();
        match cache.slots.get(key) {
            Some(CacheSlot { entry: Some(entry), .. }) if entry.record.is_live(now) => {
                return Ok(CacheLookup::Hit(entry.clone()));
            }
            Some(CacheSlot { entry: None, taken, .. }) if now.since(*taken) < LEASE => {
                return Ok(CacheLookup::Miss(None));
            }
            _ => {}
        }
        cache.drop_older_half_if_full();
        cache.last_lease += 1;
        let lease = FillLease::new(cache.last_lease);
        cache.slots.insert(*key, CacheSlot { lease, taken: now, entry: None });
        Ok(CacheLookup::Miss(Some(lease)))
    }

    fn fill(
        &self,
        key: &CacheKey,
        lease: FillLease,
        entry: &CacheEntry,
        _until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let mut cache = self.cache();
        let open = |slot: &&mut CacheSlot| slot.entry.is_none() && slot.lease == lease;
        let slot = cache.slots.get_mut(key).filter(open);
        let Some(slot) = slot.filter(|_| entry.record.is_live(now)) else { return Ok(false) };
        slot.entry = Some(entry.clone());
        Ok(true)
    }

    fn invalidate(&self, keys: &[CacheKey], _now: Timestamp) -> Result<()> {
        let mut cache = self.cache();
        for key in keys {
            cache.slots.remove(key);
        }
        Ok(())
    }

    fn invalidate_shard(&self, _shard: usize, _now: Timestamp) -> Result<()> {
        self.cache().slots.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::Lifetime;
    use crate::record::{NewSession, Record};

    fn entry(now: Timestamp) -> CacheEntry {
        let new_session = NewSession::new(Lifetime::default().starting(now)).unwrap();
        CacheEntry::new(Record::create(&new_session, now), now)
    }

    fn lease(cache: &MemoryStore, key: &CacheKey, now: Timestamp) -> FillLease {
        match cache.fetch(key, now).unwrap() {
            CacheLookup::Miss(Some(lease)) => lease,
            other => panic!("expected a lease, got {other:?}"),
        }
    }

    const KEY: CacheKey = CacheKey::from_bytes([1; 32]);
    const NOW: Timestamp = Timestamp::from_millis(0);

    #[test]
    fn a_slow_reader_cannot_fill_in_an_invalidated_entry() {
        let cache = MemoryStore::new();
        let slow = lease(&cache, &KEY, NOW);
        cache.invalidate(&[KEY], NOW).unwrap();
        assert!(!cache.fill(&KEY, slow, &entry(NOW), NOW, NOW).unwrap());
        let next = lease(&cache, &KEY, NOW);
        assert!(!cache.fill(&KEY, slow, &entry(NOW), NOW, NOW).unwrap(), "nor by another's lease");
        assert!(cache.fill(&KEY, next, &entry(NOW), NOW, NOW).unwrap());
        assert!(matches!(cache.fetch(&KEY, NOW).unwrap(), CacheLookup::Hit(_)));
        cache.invalidate_shard(0, NOW).unwrap();
        assert!(!cache.fill(&KEY, next, &entry(NOW), NOW, NOW).unwrap());
    }

    #[test]
    fn only_one_of_two_readers_that_miss_gets_the_lease() {
        let cache = MemoryStore::new();
        lease(&cache, &KEY, NOW);
        assert_eq!(cache.fetch(&KEY, NOW).unwrap(), CacheLookup::Miss(None));
        let first_has_failed = NOW + LEASE;
        assert!(matches!(cache.fetch(&KEY, first_has_failed).unwrap(), CacheLookup::Miss(Some(_))));
    }

    #[test]
    fn an_entry_past_its_deadline_is_a_miss() {
        let cache = MemoryStore::new();
        let lease = lease(&cache, &KEY, NOW);
        let entry = entry(NOW);
        assert!(cache.fill(&KEY, lease, &entry, NOW, NOW).unwrap());
        let ended = entry.record.deadline();
        assert!(matches!(cache.fetch(&KEY, ended).unwrap(), CacheLookup::Miss(Some(_))));
    }

    #[test]
    fn a_full_cache_drops_its_older_half() {
        let cache = MemoryStore::with_capacity(4);
        let key = |n| CacheKey::from_bytes([n; 32]);
        for n in 0..5 {
            let lease = lease(&cache, &key(n), NOW);
            cache.fill(&key(n), lease, &entry(NOW), NOW, NOW).unwrap();
        }
        assert!(matches!(cache.fetch(&key(4), NOW).unwrap(), CacheLookup::Hit(_)));
        assert!(matches!(cache.fetch(&key(0), NOW).unwrap(), CacheLookup::Miss(_)));
    }
}
