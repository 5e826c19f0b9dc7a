//! The process that opened a store or a manager, to detect use after a fork.
//!
//! Invariant: managers, cleaners and stores check their [`Process`] before they take a lock, which
//! a thread that the fork did not copy may hold.

use std::mem;

use crate::error::{Error, ErrorKind, Result};

/// The identity of one process; a forked child is another process.
///
/// A child process inherits copies that must not be used: of connections, whose peer cannot
/// distinguish the two processes; of locks in memory, in the state that they had at the fork; and
/// of SQLite's record of its file locks, although it does not inherit the locks. It inherits no
/// threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn current() -> Self {
        Process(std::process::id())
    }

    pub(crate) fn is_current(self) -> bool {
        self == Process::current()
    }

    /// Leaks the clones that `clone` makes, but only in a fork of this process. Returns whether it
    /// did. What the originals share with them is then never dropped.
    pub(crate) fn leak_in_fork<T>(self, clone: impl FnOnce() -> T) -> bool {
        let is_fork = !self.is_current();
        if is_fork {
            mem::forget(clone());
        }
        is_fork
    }

    /// Fails with [`ErrorKind::Unavailable`] in any other process. Call it before taking a lock: a
    /// lock that was held at the fork is never released in the child.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let why = "it was opened before this process was forked; fork first, and open it in the \
                   process that uses it";
        Err(Error::with_source(ErrorKind::Unavailable, "use the session store", why))
    }
}
