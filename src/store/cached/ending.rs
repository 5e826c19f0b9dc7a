//! Whether this process is ending sessions.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Between the change of the truth and the moment at which the cache has forgotten, somebody else
/// may end the same session: he finds it gone, or under its new key only, and is acknowledged.
/// What the cache still has must not be served then. Which keys those are, nobody can say before
/// the truth has; so while anything is being ended, nothing is read from the cache.
#[derive(Debug, Default)]
pub(super) struct Ending(AtomicUsize);

/// Something is being ended until this is dropped.
pub(super) struct UnderWay<'e>(&'e Ending);

impl Ending {
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
