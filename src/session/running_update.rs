//! The thread that runs a closure of [`Session::update`](crate::Session::update). It holds the
//! session's lock meanwhile: another use of the session on it would wait for itself.

use std::sync::{Arc, PoisonError};

use crate::sync::{Mutex, MutexGuard, thread};

/// Clones share what they know: the session has one, and each of its closures.
#[derive(Clone, Debug, Default)]
pub(super) struct Updating(Arc<Mutex<Option<thread::ThreadId>>>);

/// A closure runs, until this is dropped.
pub(super) struct Running<'u>(&'u Updating);

impl Updating {
    /// Says that a closure runs on this thread.
    pub(super) fn begin(&self) -> Running<'_> {
        *self.thread() = Some(thread::current().id());
        Running(self)
    }

    pub(super) fn is_on_this_thread(&self) -> bool {
        *self.thread() == Some(thread::current().id())
    }

    fn thread(&self) -> MutexGuard<'_, Option<thread::ThreadId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        *self.0.thread() = None;
    }
}
