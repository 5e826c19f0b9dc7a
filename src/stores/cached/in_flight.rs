//! Counts the changes of this process that are in flight.
//!
//! Invariant: while there is one, no request of this process reads the cache.

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Counts changes from before the commit in the backing store until the cache is invalidated. In
/// between, another client may read the change from the backing store and be acknowledged, so the
/// old cache entry must not be served any more. The affected id hashes are known only after the
/// commit. Therefore no request of this process reads the cache while any change is in flight.
#[derive(Debug, Default)]
pub(super) struct InFlight(AtomicUsize);

/// A change in flight. Dropping it ends the change.
pub(super) struct ChangeGuard<'c>(&'c InFlight);

impl InFlight {
    pub(super) fn begin(&self) -> ChangeGuard<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        ChangeGuard(self)
    }

    pub(super) fn is_active(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
