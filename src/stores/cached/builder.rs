//! The builder of a [`CachedStore`] and its settings.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Cache, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::process::Process;
use crate::stores::cached::circuit_breaker::CircuitBreaker;
use crate::stores::cached::freshness::Freshness;
use crate::stores::cached::in_flight::InFlight;
use crate::stores::cached::version_check::VersionCheck;
use crate::stores::cached::{CachedInner, CachedStore};

/// The settings of a [`CachedStore`]. Start with [`CachedStore::builder`].
///
/// ```
/// # use cloakroom::MemoryStore;
/// use cloakroom::stores::cached::CachedStore;
/// # use cloakroom::stores::memory::MemoryCache;
/// use std::time::Duration;
///
/// # let (cache, store) = (MemoryCache::new(), MemoryStore::new());
/// let store = CachedStore::builder(cache, store).entry_life(Duration::from_secs(10)).build()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct CachedStoreBuilder<C, S> {
    cache: C,
    backing: S,
    life: Duration,
    retry: Duration,
    events: Events,
}

impl<C: Cache, S: Store> CachedStoreBuilder<C, S> {
    pub(super) fn new(cache: C, backing: S) -> Self {
        let life = Duration::from_secs(60);
        let retry = Duration::from_secs(1);
        CachedStoreBuilder { cache, backing, life, retry, events: Events::default() }
    }

    /// Sets how long a cache entry is valid after it was read from the backing store; 1 second to 1
    /// hour. Defaults to 60 seconds. If an invalidation fails, other processes see the change after
    /// this time at the latest.
    pub fn entry_life(self, life: Duration) -> Self {
        CachedStoreBuilder { life, ..self }
    }

    /// Sets how long an open circuit breaker waits before it probes the cache again; 1 millisecond
    /// to 1 hour. Defaults to 1 second.
    pub fn retry_after(self, pause: Duration) -> Self {
        CachedStoreBuilder { retry: pause, ..self }
    }

    /// Sets the receiver of events, such as `CacheDown` and `CacheRecovered`. Defaults to the
    /// [`log`](https://docs.rs/log) crate.
    pub fn events(self, events: Events) -> Self {
        CachedStoreBuilder { events, ..self }
    }

    /// Validates the settings and builds the store.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a setting is out of range.
    pub fn build(self) -> Result<CachedStore<C, S>> {
        let hour = Duration::from_secs(3600);
        let why = if !(Duration::from_secs(1)..=hour).contains(&self.life) {
            "the life of an entry is from one second to one hour"
        } else if !(Duration::from_millis(1)..=hour).contains(&self.retry) {
            "the retry interval is from one millisecond to one hour"
        } else {
            return Ok(self.build_unchecked());
        };
        Err(Error::with_source(ErrorKind::Invalid, "configure a cached store", why))
    }

    /// Builds the store without validating the settings.
    pub(super) fn build_unchecked(self) -> CachedStore<C, S> {
        let shards = 0..self.cache.shards().get();
        CachedStore(Arc::new(CachedInner {
            process: Process::current(),
            freshness: Freshness::new(self.life),
            version_check: VersionCheck::new(self.life),
            circuit_breakers: shards.map(|_| Arc::new(CircuitBreaker::new(self.retry))).collect(),
            in_flight: InFlight::default(),
            cache: self.cache,
            backing: self.backing,
            events: self.events,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::memory::{MemoryCache, MemoryStore};

    #[test]
    fn settings_that_make_no_sense_are_refused() {
        let builder = || CachedStore::builder(MemoryCache::new(), MemoryStore::new());
        for bad in [
            builder().entry_life(Duration::from_millis(999)),
            builder().entry_life(Duration::from_secs(3601)),
            builder().retry_after(Duration::ZERO),
            builder().retry_after(Duration::from_secs(3601)),
        ] {
            assert_eq!(bad.build().unwrap_err().kind(), ErrorKind::Invalid);
        }
        builder().build().unwrap();
    }
}
