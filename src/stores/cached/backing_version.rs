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

/// How often the version is read while the cache is used.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// How long the cache is not read after the identity was first read or has changed. By then every
/// process has noticed the change; until then, another one may still invalidate entries under the
/// old identity.
const SETTLING: Duration = Duration::from_secs(2 * READ_INTERVAL.as_secs());

/// What the cache entries of a backing store depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreVersion {
    identity: StoreIdentity,
    epoch: u64,
}

/// The ways in which a call may use the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheUse {
    /// It reads, fills in and invalidates entries, under the keys of this identity.
    ReadAndInvalidate(StoreIdentity),
    /// It only invalidates entries, under the keys of this identity.
    Invalidate(StoreIdentity),
    /// It only invalidates all entries together, because their keys are unknown.
    InvalidateAll,
}

/// The version of the backing store as of the last read.
#[derive(Debug)]
pub(super) struct BackingVersion {
    /// How long a version is used that cannot be read again.
    life: Duration,
    known: Mutex<KnownVersion>,
    /// Locked during a read.
    reading: Mutex<()>,
}

#[derive(Clone, Copy, Debug)]
struct KnownVersion {
    /// The time of the last read, also of one that failed.
    last_read: Timestamp,
    /// `None` before the first read, and while the store has no tables.
    current: Option<CurrentVersion>,
}

#[derive(Clone, Copy, Debug)]
struct CurrentVersion {
    version: StoreVersion,
    /// The time from which the cache may be read.
    readable_from: Timestamp,
    /// The time from which the version is too old to be used.
    usable_until: Timestamp,
}

impl StoreVersion {
    pub(super) fn read(index: &dyn SessionIndex) -> Result<Self> {
        Ok(StoreVersion { identity: index.identity()?, epoch: index.epoch()? })
    }
}

impl BackingVersion {
    pub(super) fn new(life: Duration) -> Self {
        let known = KnownVersion { last_read: Timestamp::from_millis(i64::MIN), current: None };
        BackingVersion { life, known: Mutex::new(known), reading: Mutex::default() }
    }

    fn known(&self) -> KnownVersion {
        *self.known.lock().ignore_poison()
    }

    /// Returns how a call at `now` may use the cache. If [`READ_INTERVAL`] has passed since the
    /// last read of the version, one caller calls `read`; concurrent callers do not read the cache
    /// meanwhile. If [`SETTLING`] has passed, they wait for `read`: other processes may already
    /// read entries under another identity, which their invalidations must name. If the version
    /// has changed, `on_change` is called before the new one is used. While reads fail, the last
    /// version is used for its life.
    pub(super) fn refresh(
        &self,
        now: Timestamp,
        read: impl FnOnce() -> Result<StoreVersion>,
        on_change: impl FnOnce(),
    ) -> CacheUse {
        let mut known = self.known();
        if known.is_read_due(now) {
            // Held during the read.
            let _reading = match self.reading.try_lock() {
                Ok(reading) => reading,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => match known.current {
                    Some(current) if now < known.last_read + SETTLING => {
                        return CacheUse::Invalidate(current.version.identity);
                    }
                    _ => self.reading.lock().ignore_poison(),
                },
            };
            // Another caller may have read it meanwhile.
            known = self.known();
            if known.is_read_due(now) {
                if known.update(now, read(), self.life) {
                    on_change();
                }
                *self.known.lock().ignore_poison() = known;
            }
        }
        known.cache_use(now)
    }
}

impl KnownVersion {
    fn is_read_due(&self, now: Timestamp) -> bool {
        self.last_read + READ_INTERVAL <= now
    }

    fn cache_use(&self, now: Timestamp) -> CacheUse {
        match self.current {
            Some(current) if now < current.usable_until => {
                let identity = current.version.identity;
                if now < current.readable_from {
                    CacheUse::Invalidate(identity)
                } else {
                    CacheUse::ReadAndInvalidate(identity)
                }
            }
            _ => CacheUse::InvalidateAll,
        }
    }

    /// Records the result of a read. Returns whether the version has changed.
    fn update(&mut self, now: Timestamp, read: Result<StoreVersion>, life: Duration) -> bool {
        self.last_read = now;
        let before = self.current;
        match read {
            Ok(version) => {
                let unchanged = before.filter(|before| before.version.identity == version.identity);
                let readable_from = unchanged.map_or(now + SETTLING, |before| before.readable_from);
                let usable_until = now + life;
                self.current = Some(CurrentVersion { version, readable_from, usable_until });
                before.is_some_and(|before| before.version != version)
            }
            // The tables were removed.
            Err(error) if error.kind() == ErrorKind::NotSetUp => self.current.take().is_some(),
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

    fn version(identity: u8, epoch: u64) -> Result<StoreVersion> {
        Ok(StoreVersion { identity: StoreIdentity::from_bytes([identity; 16]), epoch })
    }

    fn fail() -> Result<StoreVersion> {
        Err(Error::new(ErrorKind::Unavailable, "read the epoch"))
    }

    /// Returns one that knows the version and may read the cache at `NOW`.
    fn known() -> BackingVersion {
        let backing = BackingVersion::new(LIFE);
        backing.refresh(NOW - SETTLING, || version(1, 7), || panic!("it is the first"));
        assert_eq!(refresh(&backing, NOW, version(1, 7)), READABLE.after_read());
        backing
    }

    fn is_readable(cache_use: CacheUse) -> bool {
        matches!(cache_use, CacheUse::ReadAndInvalidate(_))
    }

    /// The effects of one `refresh`.
    #[derive(Debug, PartialEq, Eq)]
    struct Refreshed {
        /// Whether the cache may be read.
        is_readable: bool,
        /// The number of reads of the version.
        reads: u32,
        /// Whether `on_change` was called.
        is_changed: bool,
    }

    const READABLE: Refreshed = Refreshed { is_readable: true, reads: 0, is_changed: false };
    const UNREADABLE: Refreshed = Refreshed { is_readable: false, ..READABLE };

    impl Refreshed {
        const fn after_read(self) -> Self {
            Refreshed { reads: 1, ..self }
        }

        const fn after_change(self) -> Self {
            Refreshed { reads: 1, is_changed: true, ..self }
        }
    }

    /// Calls `refresh` with this result of a read.
    fn refresh(
        backing: &BackingVersion,
        now: Timestamp,
        read_result: Result<StoreVersion>,
    ) -> Refreshed {
        let reads = Cell::new(0);
        let is_changed = Cell::new(false);
        let read = || {
            reads.set(reads.get() + 1);
            read_result
        };
        let cache_use = backing.refresh(now, read, || is_changed.set(true));
        let is_readable = is_readable(cache_use);
        Refreshed { is_readable, reads: reads.get(), is_changed: is_changed.get() }
    }

    #[test]
    fn a_version_is_read_once_a_second_and_a_change_reported_once() {
        let backing = known();
        assert_eq!(refresh(&backing, NOW + READ_INTERVAL - MILLI, version(1, 8)), READABLE);
        assert_eq!(refresh(&backing, NOW + READ_INTERVAL, version(1, 8)), READABLE.after_change());
        assert_eq!(refresh(&backing, NOW + READ_INTERVAL, version(1, 8)), READABLE);
        assert_eq!(
            refresh(&backing, NOW + READ_INTERVAL * 2, version(1, 8)),
            READABLE.after_read()
        );
    }

    #[test]
    fn a_failed_read_of_the_version_is_repeated() {
        let backing = BackingVersion::new(LIFE);
        assert_eq!(refresh(&backing, NOW - SETTLING, fail()), UNREADABLE.after_read());
        let backing = known();
        assert_eq!(refresh(&backing, NOW + READ_INTERVAL, fail()), READABLE.after_read());
        assert_eq!(refresh(&backing, NOW + READ_INTERVAL, fail()), READABLE);
        assert_eq!(
            refresh(&backing, NOW + READ_INTERVAL * 2, version(1, 8)),
            READABLE.after_change()
        );
    }

    #[test]
    fn a_version_that_cannot_be_read_again_counts_for_its_life() {
        let backing = known();
        let cache_use = |now| backing.refresh(now, fail, || ());
        assert!(refresh(&backing, NOW + LIFE - MILLI, fail()).is_readable);
        assert!(is_readable(cache_use(NOW + LIFE - MILLI)));
        assert!(!refresh(&backing, NOW + LIFE, fail()).is_readable);
        assert_eq!(cache_use(NOW + LIFE), CacheUse::InvalidateAll);
        assert_eq!(refresh(&backing, NOW + LIFE * 2, version(1, 7)), READABLE.after_read());
    }

    #[test]
    fn concurrent_callers_bypass_the_cache_during_a_read() {
        let backing = known();
        let now = NOW + READ_INTERVAL;
        let read = || {
            assert!(!is_readable(backing.refresh(now, || panic!("one is enough"), || ())));
            version(1, 7)
        };
        assert!(is_readable(backing.refresh(now, read, || ())));
        assert!(is_readable(backing.refresh(now, fail, || ())));
    }

    #[test]
    fn after_a_pause_concurrent_callers_wait_for_the_identity() {
        let backing = known();
        let now = NOW + SETTLING;
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let backing = &backing;
            let read = || {
                scope.spawn(move || {
                    sender.send(backing.refresh(now, || panic!("one is enough"), || ())).unwrap();
                });
                // Enough for an answer that does not wait.
                assert_eq!(receiver.recv_timeout(Duration::from_millis(50)).ok(), None);
                version(2, 7)
            };
            let identity = StoreIdentity::from_bytes([2; 16]);
            assert_eq!(backing.refresh(now, read, || ()), CacheUse::Invalidate(identity));
            assert_eq!(receiver.recv(), Ok(CacheUse::Invalidate(identity)));
        });
    }

    #[test]
    fn after_a_first_or_another_identity_the_cache_is_not_read() {
        let backing = BackingVersion::new(LIFE);
        let mut now = NOW;
        for identity in 1..4 {
            let is_changed = identity > 1;
            let expected = Refreshed { is_changed, ..UNREADABLE.after_read() };
            assert_eq!(refresh(&backing, now, version(identity, 7)), expected);
            let settling = now + SETTLING - MILLI;
            assert!(!refresh(&backing, settling, version(identity, 7)).is_readable);
            assert!(refresh(&backing, now + SETTLING, version(identity, 7)).is_readable);
            now = now + SETTLING * 2;
        }
    }

    #[test]
    fn while_there_are_no_tables_the_cache_is_not_read() {
        let backing = known();
        let fail = || Err(Error::new(ErrorKind::NotSetUp, "read the epoch"));
        assert_eq!(refresh(&backing, NOW + READ_INTERVAL, fail()), UNREADABLE.after_change());
        assert_eq!(refresh(&backing, NOW + READ_INTERVAL * 2, fail()), UNREADABLE.after_read());
        assert_eq!(
            refresh(&backing, NOW + READ_INTERVAL * 3, version(1, 7)),
            UNREADABLE.after_read()
        );
        assert!(refresh(&backing, NOW + READ_INTERVAL * 3 + SETTLING, version(1, 7)).is_readable);
    }
}
