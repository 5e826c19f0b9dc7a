//! The identity and the epoch of the backing store. A new epoch shows that another process has
//! ended sessions, perhaps without invalidating the cache. A new identity shows that the store was
//! restored from a copy.
//!
//! Called by the store before it reads the cache or names an entry.

use std::sync::TryLockError;
use std::time::Duration;

use crate::backend::{SessionIndex, StoreIdentity};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::sync::{IgnorePoison, Mutex};

/// How long a version that was read is taken for the current one.
const FRESH: Duration = Duration::from_secs(1);

/// How long the cache is not used after the identity was first read or has changed: until every
/// process has noticed a change. A process that has not yet noticed the change still invalidates
/// entries under the old identity.
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
    /// For how long a version counts that cannot be read again.
    life: Duration,
    known: Mutex<Known>,
    /// Locked during a read.
    reading: Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// `None` before the first read, and while the store has no tables.
    version: Option<Version>,
    /// The time from which the version must be read again before the cache is used.
    due: Timestamp,
    /// The time from which the cache may be used.
    usable_from: Timestamp,
    /// The time from which the version is too old to be used.
    usable_until: Timestamp,
}

impl Version {
    pub(super) fn read(index: &dyn SessionIndex) -> Result<Self> {
        Ok(Version { identity: index.identity()?, epoch: index.epoch()? })
    }
}

impl BackingVersion {
    pub(super) fn new(life: Duration) -> Self {
        let never = Timestamp::from_millis(i64::MIN);
        let known = Known { version: None, due: never, usable_from: never, usable_until: never };
        BackingVersion { life, known: Mutex::new(known), reading: Mutex::default() }
    }

    fn known(&self) -> Known {
        *self.known.lock().ignore_poison()
    }

    /// Returns the identity of the backing store, if it is known, and whether the cache may be used
    /// at `now`. If the last read of the version is older than [`FRESH`], one caller calls `read`;
    /// concurrent callers get false and use the backing store. If the version has changed,
    /// `changed` is called before the new one is used. While reads fail, the last version counts
    /// for its life.
    pub(super) fn refresh(
        &self,
        now: Timestamp,
        read: impl FnOnce() -> Result<Version>,
        changed: impl FnOnce(),
    ) -> (Option<StoreIdentity>, bool) {
        let mut known = self.known();
        if known.due <= now {
            let reading = self.reading.try_lock();
            if let Err(TryLockError::WouldBlock) = reading {
                return (known.identity(), false);
            }
            // Another caller may have read it meanwhile.
            known = self.known();
            if known.due <= now {
                if known.update(now, read(), self.life) {
                    changed();
                }
                *self.known.lock().ignore_poison() = known;
            }
        }
        let identity = known.identity().filter(|_| now < known.usable_until);
        (identity, identity.is_some() && known.usable_from <= now)
    }
}

impl Known {
    fn identity(&self) -> Option<StoreIdentity> {
        self.version.map(|version| version.identity)
    }

    /// Records the result of a read. Returns whether the version has changed.
    fn update(&mut self, now: Timestamp, read: Result<Version>, life: Duration) -> bool {
        self.due = now + FRESH;
        match read {
            Ok(version) => {
                let before = self.version.replace(version);
                if before.is_none_or(|before| before.identity != version.identity) {
                    self.usable_from = now + SETTLING;
                }
                self.usable_until = now + life;
                before.is_some_and(|before| before != version)
            }
            // The tables were removed.
            Err(error) if error.kind() == ErrorKind::NotSetUp => self.version.take().is_some(),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::Error;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
    const LIFE: Duration = Duration::from_secs(60);
    const MILLI: Duration = Duration::from_millis(1);

    fn version(identity: u8, epoch: u64) -> Result<Version> {
        Ok(Version { identity: StoreIdentity::from_bytes([identity; 16]), epoch })
    }

    fn failed() -> Result<Version> {
        Err(Error::new(ErrorKind::Unavailable, "read the epoch"))
    }

    /// Returns one that knows the version and may use the cache at `NOW`.
    fn known() -> BackingVersion {
        let backing = BackingVersion::new(LIFE);
        backing.refresh(NOW - SETTLING, || version(1, 7), || panic!("it is the first"));
        assert_eq!(ask(&backing, NOW, version(1, 7)), (true, 1, false));
        backing
    }

    /// Calls `refresh` with the result `answer` of a read. Returns whether the cache may be used,
    /// the number of reads, and whether `changed` was called.
    fn ask(backing: &BackingVersion, now: Timestamp, answer: Result<Version>) -> (bool, u32, bool) {
        let (reads, changed) = (Cell::new(0), Cell::new(false));
        let read = || {
            reads.set(reads.get() + 1);
            answer
        };
        let (_, is_usable) = backing.refresh(now, read, || changed.set(true));
        (is_usable, reads.get(), changed.get())
    }

    #[test]
    fn a_version_is_read_once_a_second_and_a_change_reported_once() {
        let backing = known();
        assert_eq!(ask(&backing, NOW + FRESH - MILLI, version(1, 8)), (true, 0, false));
        assert_eq!(ask(&backing, NOW + FRESH, version(1, 8)), (true, 1, true));
        assert_eq!(ask(&backing, NOW + FRESH, version(1, 8)), (true, 0, false));
        assert_eq!(ask(&backing, NOW + FRESH * 2, version(1, 8)), (true, 1, false));
    }

    #[test]
    fn a_failed_read_of_the_version_is_repeated() {
        let backing = BackingVersion::new(LIFE);
        assert_eq!(ask(&backing, NOW - SETTLING, failed()), (false, 1, false));
        let backing = known();
        assert_eq!(ask(&backing, NOW + FRESH, failed()), (true, 1, false));
        assert_eq!(ask(&backing, NOW + FRESH, failed()), (true, 0, false));
        assert_eq!(ask(&backing, NOW + FRESH * 2, version(1, 8)), (true, 1, true));
    }

    #[test]
    fn a_version_that_cannot_be_read_again_counts_for_its_life() {
        let backing = known();
        let identity = |now| backing.refresh(now, failed, || ()).0;
        assert!(ask(&backing, NOW + LIFE - MILLI, failed()).0);
        assert!(identity(NOW + LIFE - MILLI).is_some());
        assert!(!ask(&backing, NOW + LIFE, failed()).0);
        assert_eq!(identity(NOW + LIFE), None, "invalidations remove everything");
        assert_eq!(ask(&backing, NOW + LIFE * 2, version(1, 7)), (true, 1, false));
    }

    #[test]
    fn concurrent_callers_bypass_the_cache_during_a_read() {
        let backing = known();
        let now = NOW + FRESH;
        let read = || {
            assert!(!backing.refresh(now, || panic!("one is enough"), || ()).1);
            version(1, 7)
        };
        assert!(backing.refresh(now, read, || ()).1);
        assert!(backing.refresh(now, failed, || ()).1);
    }

    #[test]
    fn after_a_first_or_another_identity_the_cache_is_not_used() {
        let backing = BackingVersion::new(LIFE);
        let mut now = NOW;
        for identity in 1..4 {
            assert_eq!(ask(&backing, now, version(identity, 7)), (false, 1, identity > 1));
            assert!(!ask(&backing, now + SETTLING - MILLI, version(identity, 7)).0);
            assert!(ask(&backing, now + SETTLING, version(identity, 7)).0);
            now = now + SETTLING * 2;
        }
    }

    #[test]
    fn while_there_are_no_tables_the_cache_is_not_used() {
        let backing = known();
        let removed = || Err(Error::new(ErrorKind::NotSetUp, "read the epoch"));
        assert_eq!(ask(&backing, NOW + FRESH, removed()), (false, 1, true));
        assert_eq!(ask(&backing, NOW + FRESH * 2, removed()), (false, 1, false));
        assert_eq!(ask(&backing, NOW + FRESH * 3, version(1, 7)), (false, 1, false));
        assert!(ask(&backing, NOW + FRESH * 3 + SETTLING, version(1, 7)).0);
    }
}
