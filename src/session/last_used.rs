//! Which session each thread has used last. A call of the manager does not say for which request it
//! is made; it is taken for one of that session's.

// The threads of the scheduler in tests/schedules know no constant values.
#![allow(clippy::missing_const_for_thread_local)]

use std::cell::Cell;
// No order of threads changes what a counter of names gives, and a scheduler in tests cannot have
// one that outlives a test.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::thread_local;

/// How many numbers a thread takes at a time, so that threads seldom meet.
const BLOCK: u64 = 1 << 16;

/// The number of a session; no other session of this process has or had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionNumber(u64);

thread_local! {
    /// The next number of this thread's, and the end of them.
    static FREE: Cell<(u64, u64)> = Cell::new((0, 0));
    static LAST_USED: Cell<Option<SessionNumber>> = Cell::new(None);
}

impl SessionNumber {
    pub(crate) fn new() -> Self {
        static TAKEN: AtomicU64 = AtomicU64::new(0);
        FREE.with(|free| {
            let (mut next, mut end) = free.get();
            if next == end {
                next = TAKEN.fetch_add(BLOCK, Ordering::Relaxed);
                end = next.saturating_add(BLOCK);
            }
            free.set((next + 1, end));
            SessionNumber(next)
        })
    }

    /// This session is used on this thread.
    pub(crate) fn use_here(self) {
        LAST_USED.with(|last| last.set(Some(self)));
    }

    /// The request of this session is over.
    pub(crate) fn leave(self) {
        if SessionNumber::last_used_here() == Some(self) {
            SessionNumber::forget_here();
        }
    }

    /// Another request begins on this thread, which has used no session.
    pub(crate) fn forget_here() {
        LAST_USED.with(|last| last.set(None));
    }

    /// The session that was used last on this thread.
    pub(crate) fn last_used_here() -> Option<Self> {
        LAST_USED.with(Cell::get)
    }
}
