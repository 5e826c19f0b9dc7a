//! [`MemoryCache`]: entries and fill leases.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::backend::{Cache, CacheEntry, CacheKey, CacheLookup, FillLease};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::sync::IgnorePoison;

/// How long a fill lease lasts. After that, the next miss gets a new lease.
const LEASE: Duration = Duration::from_secs(10);

/// A cache in the memory of one process, for a [`CachedStore`](crate::stores::cached::CachedStore).
///
/// Each process has its own, which no other process invalidates. So with several processes, one
/// sees a sign-out by another process only when its cache entry expires: after
/// [`entry_life`](crate::stores::cached::CachedStoreBuilder::entry_life), 60 seconds by default.
///
/// It holds a limited number of entries, 100,000 by default. When it is full, it drops the older
/// half.
#[derive(Debug)]
pub struct MemoryCache {
    capacity: usize,
    slots: Mutex<CacheSlots>,
}

#[derive(Debug, Default)]
struct CacheSlots {
    by_key: HashMap<CacheKey, CacheSlot>,
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

impl MemoryCache {
    /// The maximum number of entries in a cache made by [`new`](Self::new).
    pub const DEFAULT_CAPACITY: usize = 100_000;

    /// Makes an empty cache for 100,000 entries.
    #[must_use]
    pub fn new() -> Self {
        MemoryCache::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// Makes an empty cache for at most `capacity` entries.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        MemoryCache { capacity, slots: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, CacheSlots> {
        self.slots.lock().ignore_poison()
    }
}

impl Default for MemoryCache {
    fn default() -> Self {
        MemoryCache::new()
    }
}

impl CacheSlots {
    fn drop_older_half(&mut self) {
        let mut leases: Vec<_> = self.by_key.values().map(|slot| slot.lease.number()).collect();
        leases.sort_unstable();
        let median = leases.get(leases.len() / 2).copied().unwrap_or(u128::MAX);
        self.by_key.retain(|_, slot| slot.lease.number() > median);
    }
}

impl Cache for MemoryCache {
    fn shards(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    fn shard_of(&self, _key: &CacheKey) -> usize {
        0
    }

    fn fetch(&self, key: &CacheKey, now: Timestamp) -> Result<CacheLookup> {
        let mut slots = self.slots();
        match slots.by_key.get(key) {
            Some(CacheSlot { entry: Some(entry), .. }) if entry.record.is_live(now) => {
                return Ok(CacheLookup::Hit(entry.clone()));
            }
            Some(CacheSlot { entry: None, taken, .. }) if now.since(*taken) < LEASE => {
                return Ok(CacheLookup::Miss(None));
            }
            _ => {}
        }
        if slots.by_key.len() >= self.capacity {
            slots.drop_older_half();
        }
        slots.last_lease += 1;
        let lease = FillLease::new(slots.last_lease);
        slots.by_key.insert(*key, CacheSlot { lease, taken: now, entry: None });
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
        let mut slots = self.slots();
        let is_leased = |slot: &&mut CacheSlot| slot.entry.is_none() && slot.lease == lease;
        let slot = slots.by_key.get_mut(key).filter(is_leased);
        let Some(slot) = slot.filter(|_| entry.record.is_live(now)) else { return Ok(false) };
        slot.entry = Some(entry.clone());
        Ok(true)
    }

    fn invalidate(&self, keys: &[CacheKey], _now: Timestamp) -> Result<()> {
        let mut slots = self.slots();
        for key in keys {
            slots.by_key.remove(key);
        }
        Ok(())
    }

    fn invalidate_shard(&self, _shard: usize, _now: Timestamp) -> Result<()> {
        self.slots().by_key.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::Lifetime;
    use crate::record::{NewSession, Record};

    fn entry(now: Timestamp) -> CacheEntry {
        let new_session = NewSession::new(Lifetime::default().limits_from(now)).unwrap();
        CacheEntry::new(Record::create(&new_session, now), now)
    }

    fn lease(cache: &MemoryCache, key: &CacheKey, now: Timestamp) -> FillLease {
        match cache.fetch(key, now).unwrap() {
            CacheLookup::Miss(Some(lease)) => lease,
            other => panic!("expected a lease, got {other:?}"),
        }
    }

    const KEY: CacheKey = CacheKey::from_bytes([1; 32]);
    const NOW: Timestamp = Timestamp::from_millis(0);

    #[test]
    fn a_slow_reader_cannot_fill_in_an_invalidated_entry() {
        let cache = MemoryCache::new();
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
        let cache = MemoryCache::new();
        lease(&cache, &KEY, NOW);
        assert_eq!(cache.fetch(&KEY, NOW).unwrap(), CacheLookup::Miss(None));
        let first_has_failed = NOW + LEASE;
        assert!(matches!(cache.fetch(&KEY, first_has_failed).unwrap(), CacheLookup::Miss(Some(_))));
    }

    #[test]
    fn an_entry_past_its_deadline_is_a_miss() {
        let cache = MemoryCache::new();
        let lease = lease(&cache, &KEY, NOW);
        let entry = entry(NOW);
        assert!(cache.fill(&KEY, lease, &entry, NOW, NOW).unwrap());
        let ended = entry.record.deadline();
        assert!(matches!(cache.fetch(&KEY, ended).unwrap(), CacheLookup::Miss(Some(_))));
    }

    #[test]
    fn a_full_cache_drops_its_older_half() {
        let cache = MemoryCache::with_capacity(4);
        let key = |n| CacheKey::from_bytes([n; 32]);
        for n in 0..5 {
            let lease = lease(&cache, &key(n), NOW);
            cache.fill(&key(n), lease, &entry(NOW), NOW, NOW).unwrap();
        }
        assert!(matches!(cache.fetch(&key(4), NOW).unwrap(), CacheLookup::Hit(_)));
        assert!(matches!(cache.fetch(&key(0), NOW).unwrap(), CacheLookup::Miss(_)));
    }
}
