//! The process in which something was opened.

use crate::error::{Error, ErrorKind, Result};

/// A process and no other, not even one that was forked from it.
///
/// That one has copies of everything: of connections, whose other end takes both for one; of
/// locks in memory, as they stood at that moment; of SQLite's belief that it has locks on files,
/// which a child does not inherit; and of threads nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn current() -> Self {
        Process(std::process::id())
    }

    pub(crate) fn is_current(self) -> bool {
        self == Process::current()
    }

    /// Fails with [`ErrorKind::Unavailable`] in any other process. To be asked before any lock is
    /// taken: one that was held in the fork is never released.
    pub(crate) fn check(self) -> Result<()> {
        if self.is_current() {
            return Ok(());
        }
        let why = "it was opened before this process was forked; fork first, and open it in the \
                   process that uses it";
        Err(Error::with_source(ErrorKind::Unavailable, "use the session store", why))
    }
}
