//! What the program runs on.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub(crate) use crossbeam_channel as channel;
pub(crate) use std::sync::atomic;
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
pub(crate) use std::{thread, thread_local};

/// Looks again and again whether something `is_over`, for about as long as it takes to be put to
/// sleep and woken. On a machine with one processor, what is waited for could not happen meanwhile.
#[allow(dead_code)] // only who writes a file waits so, and that is a feature
pub(crate) fn spin_until(is_over: impl Fn() -> bool) {
    const TIME: Duration = Duration::from_micros(30);
    static ALONE: LazyLock<bool> =
        LazyLock::new(|| thread::available_parallelism().is_ok_and(|count| count.get() == 1));
    if *ALONE {
        return;
    }
    let began = instant();
    while !is_over() && began.elapsed() < TIME {
        std::hint::spin_loop();
    }
}

/// The time of the machine, which never goes back.
pub(crate) fn instant() -> Instant {
    Instant::now()
}
