//! The identity and the epoch of the backing store. A new epoch shows that another process has ended
//! sessions, perhaps without invalidating the cache. A new identity shows that the store was
//! restored from a copy.
//!
//! Called by the store before it reads the cache or names an entry.

use std::sync::TryLockError;
use std::time::Duration;

use crate::backend::{SessionIndex, StoreIdentity};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::sync::atomic::{AtomicI64, Ordering};
use crate::sync::{IgnorePoison, Mutex};

/// How long a version that was read is taken for the current one.
const FRESH: Duration = Duration::from_secs(1);

/// How long the cache is not read after the identity has changed: until every process has noticed.
/// Before that, the invalidations of a process that has not would name entries of the old identity.
const SETTLING: Duration = Duration::from_secs(2 * FRESH.as_secs());

/// What the cache entries of a backing store depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    identity: StoreIdentity,
    epoch: u64,
}

/// The version of the backing store as of the last read.
#[derive(Debug)]
pub(super) struct BackingVersion {
    /// The time from which the version must be read again before the cache is used, in
    /// milliseconds.
    due: AtomicI64,
    /// The time before which the cache is not read, in milliseconds.
    usable_from: AtomicI64,
    /// The version that was read last. Locked during a read.
    last: Mutex<Option<Version>>,
    /// The identity that was read last; `None` also while the store has no tables.
    identity: Mutex<Option<StoreIdentity>>,
}

impl Version {
    pub(super) fn read(index: &dyn SessionIndex) -> Result<Self> {
        Ok(Version { identity: index.identity()?, epoch: index.epoch()? })
    }
}

impl BackingVersion {
    pub(super) fn new() -> Self {
        BackingVersion {
            due: AtomicI64::new(i64::MIN),
            usable_from: AtomicI64::new(i64::MIN),
            last: Mutex::default(),
            identity: Mutex::default(),
        }
    }

    /// Returns the identity that was read last.
    fn identity(&self) -> Option<StoreIdentity> {
        *self.identity.lock().ignore_poison()
    }

    fn is_due(&self, now: Timestamp) -> bool {
        self.due.load(Ordering::SeqCst) <= now.as_millis()
    }

    /// Returns the identity of the backing store, if it is known, and whether the cache may be read
    /// at `now`. If the last read of the version is older than [`FRESH`], one caller calls `read`;
    /// concurrent callers get false and use the backing store. If the version has changed, `changed`
    /// is called before this returns. A failed read does not block the cache, if there was a
    /// successful one before.
    pub(super) fn refresh(
        &self,
        now: Timestamp,
        read: impl FnOnce() -> Result<Version>,
        changed: impl FnOnce(),
    ) -> (Option<StoreIdentity>, bool) {
        if self.is_due(now) {
            let mut last = match self.last.try_lock() {
                Ok(last) => last,
                Err(TryLockError::Poisoned(last)) => last.into_inner(),
                Err(TryLockError::WouldBlock) => return (self.identity(), false),
            };
            if self.is_due(now) {
                if self.update(&mut last, now, read()) {
                    changed();
                }
                self.due.store((now + FRESH).as_millis(), Ordering::SeqCst);
            }
        }
        let identity = self.identity();
        let is_usable = self.usable_from.load(Ordering::SeqCst) <= now.as_millis();
        (identity, is_usable && identity.is_some())
    }

    /// Records the result of a read. Returns whether the version has changed.
    fn update(&self, last: &mut Option<Version>, now: Timestamp, read: Result<Version>) -> bool {
        let version = match read {
            Ok(version) => version,
            // The tables were removed.
            Err(error) if error.kind() == ErrorKind::NotSetUp => {
                return self.identity.lock().ignore_poison().take().is_some();
            }
            Err(_) => return false,
        };
        let before = last.replace(version);
        if before == Some(version) && self.identity().is_some() {
            return false;
        }
        if before.is_some_and(|before| before.identity != version.identity) {
            self.usable_from.store((now + SETTLING).as_millis(), Ordering::SeqCst);
        }
        *self.identity.lock().ignore_poison() = Some(version.identity);
        before.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::Error;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// Calls `refresh` with the result `answer` of a read. Returns the number of reads and
    /// whether `raised` was called.
    fn ask(backing: &BackingVersion, now: Timestamp, answer: Result<Version>) -> (u32, bool) {
        let (reads, raised) = (Cell::new(0), Cell::new(false));
        let is_known = answer.is_ok() || backing.identity().is_some();
        let read = || {
            reads.set(reads.get() + 1);
            answer
        };
        assert_eq!(backing.refresh(now, read, || raised.set(true)).1, is_known);
        (reads.get(), raised.get())
    }

    fn version(identity: u8, epoch: u64) -> Result<Version> {
        Ok(Version { identity: StoreIdentity::from_bytes([identity; 16]), epoch })
    }

    fn failed() -> Result<Version> {
        Err(Error::new(ErrorKind::Unavailable, "read the epoch"))
    }

    #[test]
    fn a_version_is_read_once_a_second_and_a_change_reported_once() {
        let backing = BackingVersion::new();
        assert_eq!(ask(&backing, NOW, version(1, 7)), (1, false), "the first epoch is no raise");
        assert_eq!(
            ask(&backing, NOW + FRESH - Duration::from_millis(1), version(1, 8)),
            (0, false)
        );
        assert_eq!(ask(&backing, NOW + FRESH, version(1, 8)), (1, true));
        assert_eq!(ask(&backing, NOW + FRESH, version(1, 8)), (0, false));
        assert_eq!(ask(&backing, NOW + FRESH * 2, version(1, 8)), (1, false));
    }

    #[test]
    fn a_failed_read_of_the_version_is_repeated() {
        let backing = BackingVersion::new();
        assert_eq!(ask(&backing, NOW, failed()), (1, false));
        assert_eq!(
            ask(&backing, NOW + FRESH, version(1, 7)),
            (1, false),
            "nothing was cached before"
        );
        assert_eq!(ask(&backing, NOW + FRESH * 2, failed()), (1, false));
        assert_eq!(ask(&backing, NOW + FRESH * 3, version(1, 7)), (1, false));
        assert_eq!(ask(&backing, NOW + FRESH * 4, failed()), (1, false));
        assert_eq!(ask(&backing, NOW + FRESH * 5, version(1, 8)), (1, true));
    }

    #[test]
    fn concurrent_callers_bypass_the_cache_during_a_read() {
        let backing = BackingVersion::new();
        let read = || {
            assert!(!backing.refresh(NOW, || version(1, 7), || ()).1);
            version(1, 7)
        };
        assert!(backing.refresh(NOW, read, || ()).1);
        assert!(backing.refresh(NOW, failed, || ()).1);
    }

    #[test]
    fn after_another_identity_the_cache_is_not_read_for_a_while() {
        let backing = BackingVersion::new();
        assert_eq!(ask(&backing, NOW, version(1, 7)), (1, false));
        let changed = Cell::new(false);
        let at = NOW + FRESH;
        assert!(!backing.refresh(at, || version(2, 7), || changed.set(true)).1);
        assert!(changed.get());
        let early = at + SETTLING - Duration::from_millis(1);
        assert!(!backing.refresh(early, || version(2, 7), || panic!("it is the same")).1);
        assert!(backing.refresh(at + SETTLING, || version(2, 7), || ()).1);
        assert_eq!(backing.identity(), Some(StoreIdentity::from_bytes([2; 16])));
    }
}
