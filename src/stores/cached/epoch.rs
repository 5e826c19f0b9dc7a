//! The epoch of the backing store. A new epoch shows that another process has revoked all sessions,
//! perhaps without invalidating the cache.

use std::sync::TryLockError;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicI64, Ordering};

/// How long an epoch that was read is taken for the current one.
const FRESH: Duration = Duration::from_secs(1);

/// The epoch as of the last read.
#[derive(Debug)]
pub(super) struct Epoch {
    /// The time from which the epoch must be read again before the cache is used, in milliseconds.
    due: AtomicI64,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    #[default]
    NotRead,
    /// The first read failed.
    Unknown,
    Read(u64),
}

impl Epoch {
    pub(super) fn new() -> Self {
        Epoch { due: AtomicI64::new(i64::MIN), last: Mutex::default() }
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.due.load(Ordering::SeqCst) <= now.as_millis()
    }

    /// Whether the cache may be read at `now`. If the last read of the epoch is older than
    /// [`FRESH`], one caller calls `read`; concurrent callers get false and use the backing store.
    /// If the epoch has changed, `raised` is called before this returns. A failed read does not
    /// block the cache.
    pub(super) fn allows(
        &self,
        now: Timestamp,
        read: impl FnOnce() -> Result<u64>,
        raised: impl FnOnce(),
    ) -> bool {
        if !self.is_due(now) {
            return true;
        }
        let mut last = match self.last.try_lock() {
            Ok(last) => last,
            Err(TryLockError::Poisoned(last)) => last.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if self.is_due(now) {
            let before = *last;
            *last = match (read(), before) {
                (Ok(epoch), _) => Last::Read(epoch),
                (Err(_), Last::NotRead) => Last::Unknown,
                (Err(_), before) => before,
            };
            if before != Last::NotRead && *last != before {
                raised();
            }
            self.due.store((now + FRESH).as_millis(), Ordering::SeqCst);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::{Error, ErrorKind};

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// Calls `allows` with the result `answer` of a read. Returns the number of reads and whether
    /// `raised` was called.
    fn ask(epoch: &Epoch, now: Timestamp, answer: Result<u64>) -> (u32, bool) {
        let (reads, raised) = (Cell::new(0), Cell::new(false));
        let read = || {
            reads.set(reads.get() + 1);
            answer
        };
        assert!(epoch.allows(now, read, || raised.set(true)));
        (reads.get(), raised.get())
    }

    fn failed() -> Result<u64> {
        Err(Error::new(ErrorKind::Unavailable, "read the epoch"))
    }

    #[test]
    fn it_is_read_once_per_period_and_a_raise_is_reported_once() {
        let epoch = Epoch::new();
        assert_eq!(ask(&epoch, NOW, Ok(7)), (1, false), "the first epoch is no raise");
        assert_eq!(ask(&epoch, NOW + FRESH - Duration::from_millis(1), Ok(8)), (0, false));
        assert_eq!(ask(&epoch, NOW + FRESH, Ok(8)), (1, true));
        assert_eq!(ask(&epoch, NOW + FRESH, Ok(8)), (0, false));
        assert_eq!(ask(&epoch, NOW + FRESH * 2, Ok(8)), (1, false));
    }

    #[test]
    fn one_that_could_not_be_read_is_read_later_and_misses_no_raise() {
        let epoch = Epoch::new();
        assert_eq!(ask(&epoch, NOW, failed()), (1, false));
        assert_eq!(ask(&epoch, NOW + FRESH, Ok(7)), (1, true), "it may have been another one");
        assert_eq!(ask(&epoch, NOW + FRESH * 2, failed()), (1, false));
        assert_eq!(ask(&epoch, NOW + FRESH * 3, Ok(7)), (1, false));
        assert_eq!(ask(&epoch, NOW + FRESH * 4, failed()), (1, false));
        assert_eq!(ask(&epoch, NOW + FRESH * 5, Ok(8)), (1, true));
    }

    #[test]
    fn concurrent_callers_bypass_the_cache_during_a_read() {
        let epoch = Epoch::new();
        let read = || {
            assert!(!epoch.allows(NOW, || Ok(7), || ()));
            Ok(7)
        };
        assert!(epoch.allows(NOW, read, || ()));
        assert!(epoch.allows(NOW, failed, || ()));
    }
}
