//! Checks the identity and the epoch of the backing store. A new epoch shows that another process
//! has ended sessions, perhaps without invalidating the cache. A new identity shows that the store
//! was restored from a copy.

use std::time::Duration;

use crate::backend::{SessionIndex, StoreIdentity};
use crate::clock::Timestamp;
use crate::error::{ErrorKind, Result};
use crate::sync::{IgnorePoison, Mutex, monotonic_now};

/// How often the version is read while the cache is used.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// How long the cache is not read after the identity was first read or has changed. Another process
/// may still invalidate entries under the old identity. It notices the change at its next read,
/// which is due within one interval; the second interval is a margin.
const SETTLING: Duration = READ_INTERVAL.saturating_mul(2);

/// The ways in which a call may use the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheUse {
    /// It reads, fills in and invalidates entries, under the keys of this identity.
    Full(StoreIdentity),
    /// It only invalidates entries, under the keys of this identity.
    NoReads(StoreIdentity),
    /// It only invalidates all entries together, because their keys are unknown.
    KeysUnknown,
}

/// Reads the identity and the epoch of the backing store once a second, and decides from them how a
/// call may use the cache.
#[derive(Debug)]
pub(super) struct VersionCheck {
    /// How long the last version stays in use while reads fail.
    usable_for: Duration,
    /// Locked during a read, so that concurrent callers wait for its result.
    last_read: Mutex<LastRead>,
}

/// The version of the backing store, as of the last read.
#[derive(Clone, Copy, Debug)]
struct LastRead {
    /// The time from which the next read is due.
    due_from: Timestamp,
    /// `None` before the first read, and while the store has no tables.
    version: Option<StoreVersion>,
    /// The time from which the cache may be read.
    readable_from: Timestamp,
    /// The cache is not used from this time on, unless a read succeeds.
    usable_until: Timestamp,
}

/// The identity and the epoch of the backing store. When either changes, all older cache entries
/// become stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreVersion {
    identity: StoreIdentity,
    epoch: u64,
}

impl StoreVersion {
    pub(super) fn read(index: &dyn SessionIndex) -> Result<Self> {
        Ok(StoreVersion { identity: index.identity()?, epoch: index.epoch()? })
    }
}

impl VersionCheck {
    pub(super) fn new(usable_for: Duration) -> Self {
        let never = Timestamp::from_millis(i64::MIN);
        let last_read =
            LastRead { due_from: never, version: None, readable_from: never, usable_until: never };
        VersionCheck { usable_for, last_read: Mutex::new(last_read) }
    }

    /// Returns how a call at `now` may use the cache.
    ///
    /// If the last read is older than [`READ_INTERVAL`], one caller calls `read`, and concurrent
    /// callers wait for its result: another process may use a new identity by now, and
    /// invalidations must name the entries of that identity.
    ///
    /// If the identity or the epoch has changed, `on_change` is called before they are used. While
    /// reads fail, the last ones stay in use for `usable_for`.
    pub(super) fn cache_use(
        &self,
        now: Timestamp,
        read: impl FnOnce() -> Result<StoreVersion>,
        on_change: impl FnOnce(),
    ) -> CacheUse {
        let mut last_read = self.last_read.lock().ignore_poison();
        if last_read.due_from <= now {
            let began = monotonic_now();
            let result = read();
            let duration = monotonic_now().saturating_duration_since(began);
            if last_read.update(now, duration, result, self.usable_for) {
                on_change();
            }
        }
        last_read.allowed_use(now)
    }
}

impl LastRead {
    fn allowed_use(&self, now: Timestamp) -> CacheUse {
        match self.version {
            Some(_) if self.usable_until <= now => CacheUse::KeysUnknown,
            Some(version) if now < self.readable_from => CacheUse::NoReads(version.identity),
            Some(version) => CacheUse::Full(version.identity),
            None => CacheUse::KeysUnknown,
        }
    }

    /// Records the result of a read that began at `now`. Returns whether the identity or the epoch
    /// has changed.
    fn update(
        &mut self,
        now: Timestamp,
        duration: Duration,
        result: Result<StoreVersion>,
        usable_for: Duration,
    ) -> bool {
        // A failure may have taken long. The next read is due only for callers with a later `now`
        // than those that waited for this one.
        let interval = if result.is_ok() { READ_INTERVAL } else { READ_INTERVAL.max(duration) };
        self.due_from = now + interval;
        let before = self.version;
        match result {
            Ok(version) => {
                if before.is_none_or(|before| before.identity != version.identity) {
                    self.readable_from = now + SETTLING;
                }
                self.usable_until = now + usable_for;
                self.version = Some(version);
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

    fn version(identity: u8, epoch: u64) -> Result<StoreVersion> {
        Ok(StoreVersion { identity: StoreIdentity::from_bytes([identity; 16]), epoch })
    }

    fn fail() -> Result<StoreVersion> {
        Err(Error::new(ErrorKind::Unavailable, "read the epoch"))
    }

    /// Returns one that knows the version and may read the cache at `NOW`.
    fn known() -> VersionCheck {
        let check = VersionCheck::new(LIFE);
        check.cache_use(NOW - SETTLING, || version(1, 7), || panic!("it is the first"));
        assert_eq!(refresh(&check, NOW, version(1, 7)), READABLE.after_read());
        check
    }

    fn is_readable(cache_use: CacheUse) -> bool {
        matches!(cache_use, CacheUse::Full(_))
    }

    /// The effects of one call.
    #[derive(Debug, PartialEq, Eq)]
    struct CallEffects {
        /// Whether the cache may be read.
        is_readable: bool,
        /// The number of reads of the version.
        reads: u32,
        /// Whether `on_change` was called.
        is_changed: bool,
    }

    const READABLE: CallEffects = CallEffects { is_readable: true, reads: 0, is_changed: false };
    const UNREADABLE: CallEffects = CallEffects { is_readable: false, ..READABLE };

    impl CallEffects {
        const fn after_read(self) -> Self {
            CallEffects { reads: 1, ..self }
        }

        const fn after_change(self) -> Self {
            CallEffects { reads: 1, is_changed: true, ..self }
        }
    }

    /// Calls `cache_use` with this result of a read.
    fn refresh(
        check: &VersionCheck,
        now: Timestamp,
        read_result: Result<StoreVersion>,
    ) -> CallEffects {
        let reads = Cell::new(0);
        let is_changed = Cell::new(false);
        let read = || {
            reads.set(reads.get() + 1);
            read_result
        };
        let cache_use = check.cache_use(now, read, || is_changed.set(true));
        let is_readable = is_readable(cache_use);
        CallEffects { is_readable, reads: reads.get(), is_changed: is_changed.get() }
    }

    #[test]
    fn a_version_is_read_once_a_second_and_a_change_reported_once() {
        let check = known();
        assert_eq!(refresh(&check, NOW + READ_INTERVAL - MILLI, version(1, 8)), READABLE);
        assert_eq!(refresh(&check, NOW + READ_INTERVAL, version(1, 8)), READABLE.after_change());
        assert_eq!(refresh(&check, NOW + READ_INTERVAL, version(1, 8)), READABLE);
        assert_eq!(refresh(&check, NOW + READ_INTERVAL * 2, version(1, 8)), READABLE.after_read());
    }

    #[test]
    fn a_failed_read_of_the_version_is_repeated() {
        let check = VersionCheck::new(LIFE);
        assert_eq!(refresh(&check, NOW - SETTLING, fail()), UNREADABLE.after_read());
        let check = known();
        assert_eq!(refresh(&check, NOW + READ_INTERVAL, fail()), READABLE.after_read());
        assert_eq!(refresh(&check, NOW + READ_INTERVAL, fail()), READABLE);
        assert_eq!(
            refresh(&check, NOW + READ_INTERVAL * 2, version(1, 8)),
            READABLE.after_change()
        );
    }

    #[test]
    fn a_version_that_cannot_be_read_again_counts_for_its_life() {
        let check = known();
        let cache_use = |now| check.cache_use(now, fail, || ());
        assert!(refresh(&check, NOW + LIFE - MILLI, fail()).is_readable);
        assert!(is_readable(cache_use(NOW + LIFE - MILLI)));
        assert!(!refresh(&check, NOW + LIFE, fail()).is_readable);
        assert_eq!(cache_use(NOW + LIFE), CacheUse::KeysUnknown);
        assert_eq!(refresh(&check, NOW + LIFE * 2, version(1, 7)), READABLE.after_read());
    }

    #[test]
    fn concurrent_callers_wait_for_the_identity() {
        for pause in [READ_INTERVAL, SETTLING] {
            let check = &known();
            let now = NOW + pause;
            std::thread::scope(|scope| {
                let (sender, receiver) = std::sync::mpsc::channel();
                let read = || {
                    let refresh = || check.cache_use(now, || panic!("one is enough"), || ());
                    scope.spawn(move || sender.send(refresh()).unwrap());
                    // Enough for an answer that does not wait.
                    assert_eq!(receiver.recv_timeout(Duration::from_millis(50)).ok(), None);
                    version(2, 7)
                };
                let identity = StoreIdentity::from_bytes([2; 16]);
                assert_eq!(check.cache_use(now, read, || ()), CacheUse::NoReads(identity));
                assert_eq!(receiver.recv(), Ok(CacheUse::NoReads(identity)));
            });
        }
    }

    #[test]
    fn concurrent_callers_pass_after_a_failed_read() {
        let check = &known();
        let now = NOW + READ_INTERVAL;
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            let read = || {
                let refresh = || check.cache_use(now, || panic!("one is enough"), || ());
                scope.spawn(move || sender.send(refresh()).unwrap());
                fail()
            };
            assert!(is_readable(check.cache_use(now, read, || ())));
            assert!(receiver.recv().is_ok_and(is_readable));
        });
    }

    #[test]
    fn callers_that_waited_for_a_failed_read_do_not_repeat_it() {
        const LONG: Duration = Duration::from_secs(10);
        let mut last_read = *known().last_read.lock().unwrap();
        let now = NOW + READ_INTERVAL;
        last_read.update(now, LONG, fail(), LIFE);
        assert_eq!(last_read.due_from, now + LONG);
        last_read.update(now, LONG, version(1, 7), LIFE);
        assert_eq!(last_read.due_from, now + READ_INTERVAL);
    }

    #[test]
    fn after_a_first_or_another_identity_the_cache_is_not_read() {
        let check = VersionCheck::new(LIFE);
        let mut now = NOW;
        for identity in 1..4 {
            let is_changed = identity > 1;
            let expected = CallEffects { is_changed, ..UNREADABLE.after_read() };
            assert_eq!(refresh(&check, now, version(identity, 7)), expected);
            let settling = now + SETTLING - MILLI;
            assert!(!refresh(&check, settling, version(identity, 7)).is_readable);
            assert!(refresh(&check, now + SETTLING, version(identity, 7)).is_readable);
            now = now + SETTLING * 2;
        }
    }

    #[test]
    fn while_there_are_no_tables_the_cache_is_not_read() {
        let check = known();
        let fail = || Err(Error::new(ErrorKind::NotSetUp, "read the epoch"));
        assert_eq!(refresh(&check, NOW + READ_INTERVAL, fail()), UNREADABLE.after_change());
        assert_eq!(refresh(&check, NOW + READ_INTERVAL * 2, fail()), UNREADABLE.after_read());
        assert_eq!(
            refresh(&check, NOW + READ_INTERVAL * 3, version(1, 7)),
            UNREADABLE.after_read()
        );
        assert!(refresh(&check, NOW + READ_INTERVAL * 3 + SETTLING, version(1, 7)).is_readable);
    }
}
