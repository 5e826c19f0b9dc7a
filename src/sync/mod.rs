//! Locks, atomics, threads, channels and the monotonic clock, for the modules in which threads
//! meet.
//!
//! Re-exports the standard library and crossbeam; in the schedule tests, the types of a scheduler
//! that chooses the order of threads and when timeouts expire. Imports nothing of this crate.

#[cfg(schedules)]
#[path = "../../tests/shuttle/scheduled.rs"]
mod scheduled;
#[cfg(not(schedules))]
mod std_impl;

#[cfg(schedules)]
pub(crate) use scheduled::*;
#[cfg(not(schedules))]
pub(crate) use std_impl::*;
