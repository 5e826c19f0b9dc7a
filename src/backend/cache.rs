//! Caches in front of a store.

use std::fmt::Debug;
use std::num::NonZeroUsize;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::SessionIdHash;
use crate::record::Record;

/// A cache in front of a store: it answers faster, and may forget anything at any time.
///
/// A fill succeeds only with the lease that its miss took. Forgetting an entry ends the lease on it,
/// so that a slow reader cannot bring back an ended session.
///
/// It has one shard or more, such as servers, of which one can fail without the others. Each id hash
/// belongs to one shard, always to the same.
///
/// # Errors
/// [`Unavailable`](crate::ErrorKind::Unavailable) when the cache cannot be reached.
#[allow(clippy::missing_errors_doc)] // once for all methods, above
pub trait Cache: Debug + Send + Sync + 'static {
    /// The number of shards, constant for its whole life.
    fn shards(&self) -> NonZeroUsize;

    /// The shard that `id_hash` belongs to, counted from 0.
    fn shard_of(&self, id_hash: &SessionIdHash) -> usize;

    /// Looks a session up, and takes a lease on a miss if there is none on it.
    fn fetch(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<CacheLookup>;

    /// Stores `entry` if `lease` still holds; false if it does not. It is not read from `until` on,
    /// so it need not be kept longer.
    fn fill(
        &self,
        id_hash: &SessionIdHash,
        lease: FillLease,
        entry: &CacheEntry,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool>;

    /// Forgets these sessions and ends the leases on them.
    fn forget(&self, id_hashes: &[SessionIdHash], now: Timestamp) -> Result<()>;

    /// Forgets everything in one shard and ends every lease there.
    fn forget_shard(&self, shard: usize, now: Timestamp) -> Result<()>;
}

/// What [`Cache::fetch`] found.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum CacheLookup {
    /// The session as it was when the entry was read from the store.
    Hit(CacheEntry),
    /// Nothing; a lease allows one fill.
    Miss(Option<FillLease>),
}

/// The right to fill one entry, until it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillLease(u128);

impl FillLease {
    /// The lease of this number; its meaning is the cache's.
    #[must_use]
    pub const fn new(number: u128) -> Self {
        FillLease(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u128 {
        self.0
    }
}

/// A cached record and when it was read.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct CacheEntry {
    /// The record.
    pub record: Record,
    /// When it was read from the store behind the cache.
    pub read: Timestamp,
}

impl CacheEntry {
    /// `record` as it was read at `read`.
    #[must_use]
    pub const fn new(record: Record, read: Timestamp) -> Self {
        CacheEntry { record, read }
    }
}
