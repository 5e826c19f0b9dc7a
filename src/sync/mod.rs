//! Locks, atomics, threads, channels and the clock of the machine, for the modules in which threads
//! meet: the standard library's, or, in the tests of schedules, those of a scheduler that decides
//! who goes on, and when a time is over.

#[cfg(schedules)]
#[path = "../../tests/schedules/scheduled.rs"]
mod scheduled;
#[cfg(not(schedules))]
mod std_impl;

#[cfg(schedules)]
pub(crate) use scheduled::*;
#[cfg(not(schedules))]
pub(crate) use std_impl::*;
