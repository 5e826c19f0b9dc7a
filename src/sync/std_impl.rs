//! The types of the standard library and of crossbeam.
//!
//! Re-exported by `sync`, except in the schedule tests.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub(crate) use crossbeam_channel as channel;
pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::thread;

/// Spins until `is_over` returns true, for at most 30 µs, which is about the time that putting a
/// thread to sleep and waking it takes. On a machine with one processor it returns immediately,
/// because no other thread runs meanwhile.
pub(crate) fn spin_until(is_over: impl Fn() -> bool) {
    const MAX_SPIN: Duration = Duration::from_micros(30);
    static IS_SINGLE_CORE: LazyLock<bool> =
        LazyLock::new(|| thread::available_parallelism().is_ok_and(|count| count.get() == 1));
    if *IS_SINGLE_CORE {
        return;
    }
    let began = monotonic_now();
    while !is_over() && began.elapsed() < MAX_SPIN {
        std::hint::spin_loop();
    }
}

/// Returns the time of the monotonic clock.
pub(crate) fn monotonic_now() -> Instant {
    Instant::now()
}
