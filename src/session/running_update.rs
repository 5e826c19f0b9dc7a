//! The thread that runs a closure of [`Session::update`](crate::Session::update). The closure runs
//! under the session's lock, so a use of the session in it would deadlock; the session checks this
//! first and fails instead.

use std::sync::Arc;

use crate::sync::{IgnorePoison, Mutex, MutexGuard, thread};

/// The running closure of a session, if there is one. Clones share it: the session holds one, and
/// each of its closures holds one.
#[derive(Clone, Debug, Default)]
pub(super) struct RunningUpdate(Arc<Mutex<Option<thread::ThreadId>>>);

/// A guard: a closure runs until this is dropped.
pub(super) struct UpdateGuard<'u>(&'u RunningUpdate);

impl RunningUpdate {
    /// Records that a closure runs on this thread.
    pub(super) fn begin(&self) -> UpdateGuard<'_> {
        *self.thread() = Some(thread::current().id());
        UpdateGuard(self)
    }

    pub(super) fn is_on_this_thread(&self) -> bool {
        *self.thread() == Some(thread::current().id())
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
