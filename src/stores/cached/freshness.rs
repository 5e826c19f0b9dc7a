//! Which entries of a cache are believed.

use std::time::Duration;

use crate::backend::CacheEntry;
use crate::clock::Timestamp;
use crate::sync::atomic::{AtomicI64, Ordering};

/// Entries that were read from the truth since this process began, and not longer ago than an
/// entry lives.
///
/// A process may have died after it had changed a session and before it could tell the cache; so
/// it believes nothing, after its restart, that was read before.
#[derive(Debug)]
pub(super) struct Freshness {
    life: Duration,
    /// In milliseconds; [`NOT_BEGUN`](Trust::NOT_BEGUN) until the first call.
    since: AtomicI64,
    /// The latest time that was given: nothing was filled in by this process that was read later.
    latest: AtomicI64,
}

/// What an entry is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    True,
    /// Read later than now, by a clock that is ahead, or by a request that is. It may be of use to
    /// others.
    Doubtful,
    /// Too old, from before the beginning, or of a session that may have ended. The truth knows.
    Void,
}

impl Freshness {
    const NOT_BEGUN: i64 = i64::MAX;

    pub(super) fn new(life: Duration) -> Self {
        Freshness { life, since: AtomicI64::new(Self::NOT_BEGUN), latest: AtomicI64::new(i64::MIN) }
    }

    /// The process is at work, at the latest from the first time that it is given.
    pub(super) fn begin(&self, now: Timestamp) {
        if self.latest.load(Ordering::SeqCst) < now.as_millis() {
            self.latest.fetch_max(now.as_millis(), Ordering::SeqCst);
        }
        if self.since.load(Ordering::SeqCst) == Self::NOT_BEGUN {
            let (before, begun) = (Self::NOT_BEGUN, now.as_millis());
            // Whoever was faster has said when.
            let _ = self.since.compare_exchange(before, begun, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// From now on nothing is believed that was read up to `now`, or up to the latest time known.
    pub(super) fn begin_after(&self, now: Timestamp) {
        self.begin(now);
        let latest = Timestamp::from_millis(self.latest.load(Ordering::SeqCst));
        let after = latest.max(now) + Duration::from_millis(1);
        self.since.fetch_max(after.as_millis(), Ordering::SeqCst);
    }

    /// When nobody believes the entry any more.
    pub(super) fn end_of(&self, entry: &CacheEntry) -> Timestamp {
        entry.read + self.life
    }

    pub(super) fn judge(&self, entry: &CacheEntry, now: Timestamp) -> Verdict {
        // A request that comes late asks for a time gone by. Since then what has expired may have
        // been removed from the truth, and nobody names it to the cache.
        let latest = Timestamp::from_millis(self.latest.load(Ordering::SeqCst)).max(now);
        if entry.read.as_millis() < self.since.load(Ordering::SeqCst)
            || self.end_of(entry) <= latest
            // Touches do not reach an entry, so its deadline may be too early.
            || !entry.record.is_live(latest)
        {
            Verdict::Void
        } else if now < entry.read {
            Verdict::Doubtful
        } else {
            Verdict::True
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifetime::Lifetime;
    use crate::record::{NewSession, Record};

    const LIFE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);
    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn read_at(read: Timestamp, lifetime: Lifetime) -> CacheEntry {
        let new_session = NewSession::new(lifetime.starting(NOW)).unwrap();
        CacheEntry::new(Record::create(&new_session, NOW), read)
    }

    fn entry(read: Timestamp) -> CacheEntry {
        read_at(read, Lifetime::default())
    }

    #[test]
    fn an_entry_is_believed_until_its_life_ends() {
        let freshness = Freshness::new(LIFE);
        freshness.begin(NOW);
        let last = NOW + LIFE - Duration::from_millis(1);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::True);
        assert_eq!(freshness.judge(&entry(NOW), last), Verdict::True);
        assert_eq!(freshness.judge(&entry(NOW), NOW + LIFE), Verdict::Void);
    }

    #[test]
    fn nothing_is_believed_from_before_the_beginning() {
        let freshness = Freshness::new(LIFE);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Void, "it has not begun");
        freshness.begin(NOW);
        freshness.begin(NOW - SECOND);
        assert_eq!(freshness.judge(&entry(NOW - Duration::from_millis(1)), NOW), Verdict::Void);
        freshness.begin_after(NOW);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Void);
        assert_eq!(freshness.judge(&entry(NOW + SECOND), NOW + SECOND), Verdict::True);
        freshness.begin_after(NOW - SECOND);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Void, "it does not move back");
    }

    #[test]
    fn who_is_late_does_not_find_what_has_ended_since() {
        let freshness = Freshness::new(LIFE);
        freshness.begin(NOW);
        let short = read_at(NOW, Lifetime::idle(SECOND));
        assert_eq!(freshness.judge(&short, NOW), Verdict::True);
        freshness.begin(NOW + SECOND);
        assert_eq!(freshness.judge(&short, NOW), Verdict::Void);
        freshness.begin(NOW + LIFE);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Void);
    }

    #[test]
    fn an_entry_from_the_future_and_one_past_its_deadline_are_not_believed() {
        let freshness = Freshness::new(LIFE);
        freshness.begin(NOW);
        assert_eq!(freshness.judge(&entry(NOW + SECOND), NOW), Verdict::Doubtful);
        let short = read_at(NOW, Lifetime::idle(SECOND));
        assert_eq!(freshness.judge(&short, NOW + SECOND), Verdict::Void);
    }
}
