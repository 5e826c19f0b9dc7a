//! [`Cache`] for [`MemcachedStore`]. A miss takes memcached's own lease, and a fill replaces
//! exactly the item version that the lease has created. An invalidation deletes the item and thus
//! the lease, so no mark must stay behind. A [`FillLease`] includes the nonce, because memcached
//! restarts its version numbers when it restarts.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::backend::{Cache, CacheEntry, CacheKey, CacheLookup, FillLease};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::event::Event;
use crate::id::SessionIdHash;
use crate::stores::memcached::MemcachedStore;
use crate::stores::memcached::client::{
    CallContext, ItemVersion, KeySpace, Leased, Replacement, Version,
};
use crate::stores::memcached::value::{UnreadableValue, decode_entry, encode_entry};

const INVALIDATE: &str = "invalidate entries in memcached";

impl MemcachedStore {
    fn entry_context(&self, operation: &'static str) -> CallContext {
        self.0.client.context(KeySpace::Entries, operation)
    }
}

impl Version {
    fn lease(self) -> FillLease {
        FillLease::new(u128::from(self.nonce) << 64 | u128::from(self.cas))
    }

    fn of(lease: FillLease) -> Self {
        let half = |number: u128| u64::try_from(number & u128::from(u64::MAX)).unwrap_or(0);
        Version { nonce: half(lease.number() >> 64), cas: half(lease.number()) }
    }
}

/// Returns the id hash under which the client has the entry.
fn item_id(key: &CacheKey) -> SessionIdHash {
    SessionIdHash::from_bytes(*key.as_bytes())
}

impl Cache for MemcachedStore {
    /// Returns the number of servers.
    fn shards(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.0.client.servers()).unwrap_or(NonZeroUsize::MIN)
    }

    fn shard_of(&self, key: &CacheKey) -> usize {
        self.0.client.server_index(&item_id(key))
    }

    fn fetch(&self, key: &CacheKey, now: Timestamp) -> Result<CacheLookup> {
        let id = item_id(key);
        let context = self.entry_context("look a session up in memcached");
        let item = match self.0.client.get_or_lease(context, &id)? {
            Leased::Item(item) => item,
            Leased::Granted(version) => return Ok(CacheLookup::Miss(Some(version.lease()))),
            Leased::Busy => return Ok(CacheLookup::Miss(None)),
        };
        match decode_entry(&item.value, &id) {
            Ok(entry) if entry.record.is_live(now) => return Ok(CacheLookup::Hit(entry)),
            // A newer version of this program may run beside this one.
            Err(UnreadableValue::Undecodable(_)) => return Ok(CacheLookup::Miss(None)),
            Ok(_) => {}
            Err(UnreadableValue::Foreign(error)) => {
                self.0.events.raise(&Event::ForeignItem { error: &error });
            }
        }
        // The next miss gets a lease.
        self.0.client.remove(context, item.at)?;
        Ok(CacheLookup::Miss(None))
    }

    fn fill(
        &self,
        key: &CacheKey,
        lease: FillLease,
        entry: &CacheEntry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let id_hash = item_id(key);
        let ttl = until.min(entry.record.deadline()).since(now);
        let at = ItemVersion { id_hash, version: Version::of(lease) };
        if ttl < Duration::from_secs(1) || !self.0.client.nonce_is_current(KeySpace::Entries, at) {
            return Ok(false);
        }
        let new = Replacement { at, value: encode_entry(entry, &id_hash), ttl: Some(ttl) };
        Ok(self.0.client.replace(self.entry_context("fill memcached"), &new)?.is_stored())
    }

    fn invalidate(&self, keys: &[CacheKey], _now: Timestamp) -> Result<()> {
        let ids: Vec<_> = keys.iter().map(item_id).collect();
        self.0.client.remove_all(self.entry_context(INVALIDATE), &ids)
    }

    fn invalidate_shard(&self, shard: usize, _now: Timestamp) -> Result<()> {
        self.0.client.replace_nonce(shard, self.entry_context(INVALIDATE))
    }
}
