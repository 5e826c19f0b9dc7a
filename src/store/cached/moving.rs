//! Keys whose sessions are being changed by this process.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::id::SessionKey;

/// Between the change of the truth and the moment at which the cache has forgotten the old key,
/// somebody else may end the session at its new key, which is all he knows. What the cache still
/// has under the old key must not be served then, so it is not read while its change is under way.
#[derive(Debug, Default)]
pub(super) struct Moving {
    count: AtomicUsize,
    keys: Mutex<HashMap<SessionKey, usize>>,
}

/// Changes under way, until it is dropped.
pub(super) struct UnderWay<'m> {
    moving: &'m Moving,
    key: SessionKey,
}

impl Moving {
    fn keys(&self) -> MutexGuard<'_, HashMap<SessionKey, usize>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, key: SessionKey) -> UnderWay<'_> {
        *self.keys().entry(key).or_default() += 1;
        self.count.fetch_add(1, Ordering::SeqCst);
        UnderWay { moving: self, key }
    }

    pub(super) fn is_under_way(&self, key: &SessionKey) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && self.keys().contains_key(key)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut keys = self.moving.keys();
        if let Some(changes) = keys.get_mut(&self.key) {
            *changes -= 1;
            if *changes == 0 {
                keys.remove(&self.key);
            }
        }
        self.moving.count.fetch_sub(1, Ordering::SeqCst);
    }
}
