//! Caches in front of a store.
//!
//! Implemented by the stores in memory and in memcached.

use std::fmt::Debug;
use std::num::NonZeroUsize;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::record::Record;

/// A cache in front of a store. It may lose any entry at any time.
///
/// A fill succeeds only with the lease that its miss took. Invalidating an entry ends the lease on
/// it, so that a slow reader cannot bring back an ended session.
///
/// A cache has one or more shards, such as servers, each of which can fail without the others. A
/// key always belongs to the same shard.
///
/// # Errors
/// [`Unavailable`](crate::ErrorKind::Unavailable) when the cache cannot be reached.
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait Cache: Debug + Send + Sync + 'static {
    /// Returns the number of shards, which never changes.
    fn shards(&self) -> NonZeroUsize;

    /// Returns the shard of `key`, counted from 0.
    fn shard_of(&self, key: &CacheKey) -> usize;

    /// Looks a session up. On a miss it takes a lease, if no other reader holds one.
    fn fetch(&self, key: &CacheKey, now: Timestamp) -> Result<CacheLookup>;

    /// Stores `entry` and returns true if `lease` is still valid; else returns false. The entry is
    /// not used after `until`, so the cache may drop it then.
    fn fill(
        &self,
        key: &CacheKey,
        lease: FillLease,
        entry: &CacheEntry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool>;

    /// Removes these entries and ends the leases on them.
    fn invalidate(&self, keys: &[CacheKey], now: Timestamp) -> Result<()>;

    /// Removes all entries of one shard and ends all its leases.
    fn invalidate_shard(&self, shard: usize, now: Timestamp) -> Result<()>;
}

/// The key of a session's entry: its id hash, combined with the identity of its store by
/// [`StoreIdentity::cache_key`](crate::backend::StoreIdentity::cache_key).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// Makes a key of its bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        CacheKey(bytes)
    }

    /// Returns the bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The result of [`Cache::fetch`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CacheLookup {
    /// The session as it was when the entry was read from the store.
    Hit(CacheEntry),
    /// No entry. With a lease, the caller may fill it in.
    Miss(Option<FillLease>),
}

/// The right to fill in one entry. An invalidation of the entry ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillLease(u128);

impl FillLease {
    /// Makes a lease from a number, whose meaning the cache defines.
    #[must_use]
    pub const fn new(number: u128) -> Self {
        FillLease(number)
    }

    /// Returns the number.
    #[must_use]
    pub const fn number(self) -> u128 {
        self.0
    }
}

/// A cached record, and the time at which it was read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The record.
    pub record: Record,
    /// The time at which it was read from the store behind the cache.
    pub read: Timestamp,
}

impl CacheEntry {
    /// Makes an entry of `record`, read at `read`.
    #[must_use]
    pub const fn new(record: Record, read: Timestamp) -> Self {
        CacheEntry { record, read }
    }
}
