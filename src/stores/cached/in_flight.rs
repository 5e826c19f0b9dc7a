//! Whether this process is changing sessions.

use crate::sync::atomic::{AtomicUsize, Ordering};

/// Between the change of the truth and the moment at which the cache has forgotten, somebody else
/// may learn of it from the truth: he reads the new value, or ends the same session, finds it gone
/// or under its new key only, and is acknowledged. What the cache still has must not be served
/// then. Which keys those are, nobody can say before the truth has; so while anything is being
/// changed, nothing is read from the cache.
#[derive(Debug, Default)]
pub(super) struct InFlight(AtomicUsize);

/// Something is being changed until this is dropped.
pub(super) struct UnderWay<'c>(&'c InFlight);

impl InFlight {
    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        UnderWay(self)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
