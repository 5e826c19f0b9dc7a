//! The thread that runs a closure of [`Session::update`](crate::Session::update). The closure runs
//! under the session's lock, so a use of the session in it would deadlock; the session checks this
//! first and fails instead.

use crate::sync::{IgnorePoison, Mutex, MutexGuard, thread};

/// The thread that runs closures of a session, if one does.
#[derive(Debug, Default)]
pub(super) struct RunningUpdate(Mutex<Option<thread::ThreadId>>);

/// A guard: closures run until this is dropped.
pub(super) struct UpdateGuard<'u>(&'u RunningUpdate);

impl RunningUpdate {
    /// Records that closures run on this thread.
    pub(super) fn begin(&self) -> UpdateGuard<'_> {
        *self.thread() = Some(thread::current().id());
        UpdateGuard(self)
    }

    pub(super) fn is_on_this_thread(&self) -> bool {
        self.thread().is_some_and(|running| running == thread::current().id())
    }

    fn thread(&self) -> MutexGuard<'_, Option<thread::ThreadId>> {
        self.0.lock().ignore_poison()
    }
}

impl Drop for UpdateGuard<'_> {
    fn drop(&mut self) {
        *self.0.thread() = None;
    }
}
