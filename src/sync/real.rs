//! What the program runs on.

use std::time::Instant;

pub(crate) use crossbeam_channel as channel;
pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread;

/// The time of the machine, which never goes back.
pub(crate) fn instant() -> Instant {
    Instant::now()
}
