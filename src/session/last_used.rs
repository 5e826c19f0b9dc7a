//! The session that each thread has used last. A call of the manager does not name its request, so
//! it is attributed to that session.
//!
//! Sessions report their use; `recently_ended` and the adapters read it.

// The scheduler in tests/shuttle has no constant initializers of thread locals.
#![allow(clippy::missing_const_for_thread_local)]

use std::cell::Cell;
// The counter needs no scheduling, because no order of threads changes its results. The scheduler's
// counters cannot outlive a test, so this one is the standard library's.
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::thread_local;

/// The number of session numbers that a thread takes at a time, which makes contention rare.
const BLOCK: u64 = 1 << 16;

/// The number of a session, unique within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionNumber(u64);

thread_local! {
    /// The next number of this thread, and the end of its block.
    static FREE: Cell<(u64, u64)> = Cell::new((0, 0));
    static LAST_USED: Cell<Option<SessionNumber>> = Cell::new(None);
}

impl SessionNumber {
    pub(crate) fn new() -> Self {
        static NEXT_BLOCK: AtomicU64 = AtomicU64::new(0);
        FREE.with(|free| {
            let (mut next, mut end) = free.get();
            if next == end {
                next = NEXT_BLOCK.fetch_add(BLOCK, Ordering::Relaxed);
                end = next.saturating_add(BLOCK);
            }
            free.set((next + 1, end));
            SessionNumber(next)
        })
    }

    /// Records that this thread uses this session.
    pub(crate) fn mark_last_used(self) {
        LAST_USED.with(|last| last.set(Some(self)));
    }

    /// Records the end of this session's request.
    pub(crate) fn finish(self) {
        if SessionNumber::last_used_here() == Some(self) {
            SessionNumber::clear_last_used();
        }
    }

    /// Records that this thread begins another request, which has used no session yet.
    pub(crate) fn clear_last_used() {
        LAST_USED.with(|last| last.set(None));
    }

    /// Returns the session that this thread has used last.
    pub(crate) fn last_used_here() -> Option<Self> {
        LAST_USED.with(Cell::get)
    }
}
