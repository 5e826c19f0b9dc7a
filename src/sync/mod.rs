//! Locks, atomics, threads, channels and the monotonic clock, for the modules in which threads
//! meet.
//!
//! Re-exports the standard library and crossbeam; in the schedule tests, the types of a scheduler
//! that chooses the order of threads and when timeouts expire. Imports nothing of this crate.

use std::sync::{LockResult, PoisonError};

mod handoff;
// Outside `src`, because only the package tests/shuttle, which compiles these sources with
// `cfg(schedules)`, depends on shuttle.
#[cfg(schedules)]
#[path = "../../tests/shuttle/scheduled.rs"]
mod scheduled;
#[cfg(not(schedules))]
mod std_impl;

pub(crate) use handoff::Handoff;
#[cfg(schedules)]
pub(crate) use scheduled::*;
#[cfg(not(schedules))]
pub(crate) use std_impl::*;

/// Access to a lock although a thread has panicked while it held it. Every value behind a lock of
/// this crate is consistent whenever code that can panic runs.
pub(crate) trait IgnorePoison {
    /// The guard, or the value.
    type Locked;

    fn ignore_poison(self) -> Self::Locked;
}

impl<T> IgnorePoison for LockResult<T> {
    type Locked = T;

    fn ignore_poison(self) -> T {
        self.unwrap_or_else(PoisonError::into_inner)
    }
}
