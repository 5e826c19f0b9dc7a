//! Passes a value to the one thread that waits for it.

use std::time::Instant;

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, IgnorePoison, Mutex, monotonic_now, spin_until};

/// A place for one value, and the thread that waits for it.
#[derive(Debug)]
pub(crate) struct Handoff<T> {
    value: Mutex<Option<T>>,
    changed: Condvar,
    /// Whether a value was sent. Read without the lock while spinning.
    is_sent: AtomicBool,
}

impl<T> Default for Handoff<T> {
    fn default() -> Self {
        Handoff {
            value: Mutex::new(None),
            changed: Condvar::new(),
            is_sent: AtomicBool::new(false),
        }
    }
}

impl<T> Handoff<T> {
    pub(crate) fn send(&self, value: T) {
        *self.value.lock().ignore_poison() = Some(value);
        self.is_sent.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Spins for a value that comes soon, so that it is received without the delay of putting this
    /// thread to sleep and waking it.
    #[allow(dead_code, reason = "only the group commit of SQLite, which is a feature, calls this")]
    pub(crate) fn spin(&self) {
        spin_until(|| self.is_sent.load(Ordering::Relaxed));
    }

    /// Waits for the value.
    pub(crate) fn receive(&self) -> T {
        let mut value = self.value.lock().ignore_poison();
        loop {
            match value.take() {
                Some(value) => return value,
                None => value = self.changed.wait(value).ignore_poison(),
            }
        }
    }

    /// Waits for the value; returns `None` at the deadline.
    pub(crate) fn receive_until(&self, deadline: Instant) -> Option<T> {
        let mut value = self.value.lock().ignore_poison();
        loop {
            let left = deadline.saturating_duration_since(monotonic_now());
            if value.is_some() || left.is_zero() {
                return value.take();
            }
            value = self.changed.wait_timeout(value, left).ignore_poison().0;
        }
    }
}
