//! Decides which cache entries may be served.
//!
//! Invariant: a served entry was read from the backing store at most one entry life ago, and after
//! the first call of this process.

use std::time::Duration;

use crate::backend::CacheEntry;
use crate::clock::Timestamp;
use crate::sync::{IgnorePoison, Mutex};

/// An entry is fresh if it was read from the backing store after this process started, and no
/// longer ago than the entry life.
///
/// A process can die after it has changed a session and before it has invalidated the cache.
/// Therefore a restarted process serves no entry that was read before its start.
#[derive(Debug)]
pub(super) struct Freshness {
    life: Duration,
    times: Mutex<ObservedTimes>,
}

#[derive(Clone, Copy, Debug)]
struct ObservedTimes {
    /// Entries read before this time are stale. `None` before the first call: then every entry is
    /// stale. The first call sets it to its own `now`.
    trusted_from: Option<Timestamp>,
    /// The latest `now` of any call. Every entry that this process has filled was read by then, so
    /// that [`mark_stale_until`](Freshness::mark_stale_until) makes all of them stale.
    latest: Timestamp,
}

/// Whether an entry may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Fresh,
    /// Read after `now`: another machine's clock is ahead, or this request is delayed. Other
    /// requests may use the entry.
    FromTheFuture,
    /// Expired, read before this process trusts entries, or of a session that may have ended. The
    /// entry must be invalidated.
    Stale,
}

impl Freshness {
    pub(super) fn new(life: Duration) -> Self {
        let latest = Timestamp::from_millis(i64::MIN);
        Freshness { life, times: Mutex::new(ObservedTimes { trusted_from: None, latest }) }
    }

    /// Records the time of a call. The first one sets `trusted_from`.
    pub(super) fn observe(&self, now: Timestamp) {
        let mut times = self.times.lock().ignore_poison();
        times.latest = times.latest.max(now);
        times.trusted_from.get_or_insert(now);
    }

    /// Makes all entries stale that were read at or before `now` or the latest time of any call,
    /// whichever is later.
    pub(super) fn mark_stale_until(&self, now: Timestamp) {
        let mut times = self.times.lock().ignore_poison();
        times.latest = times.latest.max(now);
        let after = times.latest + Duration::from_millis(1);
        times.trusted_from = times.trusted_from.max(Some(after));
    }

    /// Returns when `entry` expires.
    pub(super) fn expires_at(&self, entry: &CacheEntry) -> Timestamp {
        entry.read + self.life
    }

    pub(super) fn judge(&self, entry: &CacheEntry, now: Timestamp) -> Verdict {
        let times = *self.times.lock().ignore_poison();
        // A delayed request has a `now` in the past. Sessions that have expired since may have been
        // swept from the backing store without an invalidation.
        let latest = times.latest.max(now);
        if times.trusted_from.is_none_or(|trusted_from| entry.read < trusted_from)
            || self.expires_at(entry) <= latest
            // An entry does not receive touches, so its deadline may be too early.
            || !entry.record.is_live(latest)
        {
            Verdict::Stale
        } else if now < entry.read {
            Verdict::FromTheFuture
        } else {
            Verdict::Fresh
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
        let new_session = NewSession::new(lifetime.limits_from(NOW)).unwrap();
        CacheEntry::new(Record::create(&new_session, NOW), read)
    }

    fn entry(read: Timestamp) -> CacheEntry {
        read_at(read, Lifetime::default())
    }

    #[test]
    fn an_entry_is_fresh_until_its_life_ends() {
        let freshness = Freshness::new(LIFE);
        freshness.observe(NOW);
        let last = NOW + LIFE - Duration::from_millis(1);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Fresh);
        assert_eq!(freshness.judge(&entry(NOW), last), Verdict::Fresh);
        assert_eq!(freshness.judge(&entry(NOW), NOW + LIFE), Verdict::Stale);
    }

    #[test]
    fn entries_read_before_the_start_are_stale() {
        let freshness = Freshness::new(LIFE);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Stale, "it has not begun");
        freshness.observe(NOW);
        freshness.observe(NOW - SECOND);
        assert_eq!(freshness.judge(&entry(NOW - Duration::from_millis(1)), NOW), Verdict::Stale);
        freshness.mark_stale_until(NOW);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Stale);
        assert_eq!(freshness.judge(&entry(NOW + SECOND), NOW + SECOND), Verdict::Fresh);
        freshness.mark_stale_until(NOW - SECOND);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Stale, "it does not move back");
    }

    #[test]
    fn a_delayed_request_gets_no_session_expired_since() {
        let freshness = Freshness::new(LIFE);
        freshness.observe(NOW);
        let short = read_at(NOW, Lifetime::idle(SECOND));
        assert_eq!(freshness.judge(&short, NOW), Verdict::Fresh);
        freshness.observe(NOW + SECOND);
        assert_eq!(freshness.judge(&short, NOW), Verdict::Stale);
        freshness.observe(NOW + LIFE);
        assert_eq!(freshness.judge(&entry(NOW), NOW), Verdict::Stale);
    }

    #[test]
    fn an_entry_from_the_future_or_past_its_deadline_is_not_fresh() {
        let freshness = Freshness::new(LIFE);
        freshness.observe(NOW);
        assert_eq!(freshness.judge(&entry(NOW + SECOND), NOW), Verdict::FromTheFuture);
        let short = read_at(NOW, Lifetime::idle(SECOND));
        assert_eq!(freshness.judge(&short, NOW + SECOND), Verdict::Stale);
    }
}
