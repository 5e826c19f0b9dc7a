//! The limit of a manager's anonymous sessions: when to count them, and which ones go.
//!
//! Requests count the sessions that they begin; the thread compares with the store and evicts.

use std::mem;
use std::num::NonZeroUsize;
use std::time::Instant;

use crate::backend::{SweepBatch, SweepReport};
use crate::error::Result;
use crate::id::{Realm, SessionIdHash};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The store is first asked after at most so many new sessions, because the process does not know
/// how many there are when it starts.
const FIRST_CHECK: u64 = 1000;

/// The maximum number of sessions that are listed at once: 3 MB.
const LISTED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(99_999);

/// The limit of the anonymous sessions of a realm.
#[derive(Clone, Debug)]
pub(crate) struct AnonymousLimit {
    pub(crate) realm: Realm,
    pub(crate) max: u64,
}

impl AnonymousLimit {
    /// Returns the number of new sessions between two checks: a 32nd of the maximum. A check reads
    /// every row of the table, so it must not follow each new session.
    fn step(&self) -> u64 {
        (self.max / 32).max(1)
    }

    /// Returns the number of sessions that an eviction leaves. With those that begin until the next
    /// check, the maximum is passed by one.
    fn kept(&self) -> u64 {
        (self.max + 1).saturating_sub(self.step())
    }
}

/// The anonymous sessions that this process has begun, and those that the store has evicted for
/// them.
#[derive(Debug)]
pub(super) struct AnonymousCounter {
    /// The number of sessions begun since the last check.
    begun: AtomicU64,
    /// The number at which a check is due; `u64::MAX` without a limit.
    due_at: AtomicU64,
    /// Whether the thread was asked for a check.
    is_requested: AtomicBool,
    /// The number of sessions that the store has evicted since the last event.
    evicted: AtomicU64,
}

impl AnonymousCounter {
    pub(super) fn new(limit: Option<&AnonymousLimit>) -> Self {
        let due_at = limit.map_or(u64::MAX, |limit| limit.step().min(FIRST_CHECK));
        AnonymousCounter {
            begun: AtomicU64::new(0),
            due_at: AtomicU64::new(due_at),
            is_requested: AtomicBool::new(false),
            evicted: AtomicU64::new(0),
        }
    }

    /// Counts a session. Returns whether the thread must be asked for a check.
    pub(super) fn count(&self) -> bool {
        let begun = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        self.request_if_due(begun)
    }

    fn request_if_due(&self, begun: u64) -> bool {
        begun >= self.due_at.load(Ordering::SeqCst)
            && !self.is_requested.swap(true, Ordering::SeqCst)
    }

    /// Lets the next new session ask again.
    pub(super) fn forget_request(&self) {
        self.is_requested.store(false, Ordering::SeqCst);
    }

    /// Ends a check: lets the next new session ask for another. Returns whether the next check is due
    /// already.
    pub(super) fn ask_again(&self) -> bool {
        self.forget_request();
        self.request_if_due(self.begun.load(Ordering::SeqCst))
    }

    pub(super) fn count_evicted(&self, sessions: usize) {
        self.evicted.fetch_add(sessions as u64, Ordering::Relaxed);
    }

    pub(super) fn take_evicted(&self) -> u64 {
        self.evicted.swap(0, Ordering::Relaxed)
    }
}

/// The evictions of the thread. One runs at a time, batch by batch.
#[derive(Debug)]
pub(super) struct Evictions {
    limit: Option<AnonymousLimit>,
    batch: SweepBatch,
    /// When the next batch of the running eviction is due.
    next_batch: Option<Instant>,
    /// The listed sessions that are still to be ended, those that were idle longest last.
    listed: Vec<SessionIdHash>,
    /// Whether there may be more than the listed ones.
    is_partial: bool,
    ended: u64,
}

/// The next call of a running eviction.
pub(super) enum EvictionStep<'e> {
    /// List the sessions of this realm but for so many, at most as many as the limit.
    List(&'e Realm, u64, NonZeroUsize),
    /// End these.
    End(Vec<SessionIdHash>),
}

impl Evictions {
    pub(super) fn new(limit: Option<AnonymousLimit>) -> Self {
        Evictions {
            limit,
            batch: SweepBatch::LARGEST,
            next_batch: None,
            listed: Vec::new(),
            is_partial: false,
            ended: 0,
        }
    }

    /// Starts an eviction, and the count of new sessions until the next one.
    pub(super) fn start(&mut self, now: Instant, counter: &AnonymousCounter) {
        let Some(limit) = &self.limit else { return };
        counter.begun.store(0, Ordering::SeqCst);
        counter.due_at.store(limit.step(), Ordering::SeqCst);
        self.next_batch = Some(now);
        self.is_partial = true;
    }

    /// Returns the time at which the next call is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.next_batch
    }

    /// Returns the call to make now, if one is due.
    pub(super) fn due_step(&mut self, now: Instant) -> Option<EvictionStep<'_>> {
        let limit = self.limit.as_ref()?;
        self.next_batch.filter(|due| *due <= now)?;
        if self.listed.is_empty() {
            return Some(EvictionStep::List(&limit.realm, limit.kept(), LISTED));
        }
        let left = self.listed.len().saturating_sub(self.batch.limit().get());
        Some(EvictionStep::End(self.listed.split_off(left)))
    }

    /// Records the result of a list. Returns the number of ended sessions if that is the end.
    pub(super) fn list_done(&mut self, listed: Result<Vec<SessionIdHash>>) -> Option<u64> {
        self.listed = listed.unwrap_or_default();
        self.listed.reverse();
        self.is_partial = self.listed.len() >= LISTED.get();
        self.finish_if_done()
    }

    /// Records the result of a batch, which is followed by a pause as long as it blocked writers.
    /// Returns the number of ended sessions if that is the end, which an error is too.
    pub(super) fn batch_done(
        &mut self,
        result: Result<SweepReport>,
        began: Instant,
        ended: Instant,
    ) -> Option<u64> {
        match result {
            Ok(SweepReport { removed, blocked_for, .. }) => {
                self.ended += removed as u64;
                // A store may report too much, but no writer was blocked for longer than the call.
                let blocked_for = blocked_for.min(ended.saturating_duration_since(began));
                self.batch = self.batch.after(blocked_for);
                self.next_batch = Some(ended + blocked_for);
            }
            Err(_) => {
                self.listed.clear();
                self.is_partial = false;
            }
        }
        self.finish_if_done()
    }

    fn finish_if_done(&mut self) -> Option<u64> {
        if !self.listed.is_empty() || self.is_partial {
            return None;
        }
        self.next_batch = None;
        Some(mem::take(&mut self.ended))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{Error, ErrorKind};

    const MILLI: Duration = Duration::from_millis(1);

    fn limit(max: u64) -> AnonymousLimit {
        AnonymousLimit { realm: Realm::default(), max }
    }

    fn ids(count: u32) -> Vec<SessionIdHash> {
        let id = |n: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            SessionIdHash::from_bytes(bytes)
        };
        (0..count).map(id).collect()
    }

    #[test]
    fn the_maximum_is_passed_by_at_most_one() {
        for (max, step, kept) in [(1, 1, 1), (31, 1, 31), (64, 2, 63), (1_000_000, 31_250, 968_751)]
        {
            let limit = limit(max);
            assert_eq!((limit.step(), limit.kept()), (step, kept));
            assert_eq!(limit.kept() + limit.step(), max + 1);
        }
        assert_eq!(limit(u64::MAX - 1).kept(), u64::MAX - (u64::MAX - 1) / 32);
    }

    #[test]
    fn one_new_session_asks_for_each_check() {
        let limit = limit(96);
        let counter = AnonymousCounter::new(Some(&limit));
        assert_eq!([(); 5].map(|()| counter.count()), [false, false, true, false, false]);
        Evictions::new(Some(limit)).start(Instant::now(), &counter);
        assert!(!counter.ask_again());
        assert_eq!([(); 4].map(|()| counter.count()), [false, false, true, false]);
        assert!(!counter.count());
        assert!(counter.ask_again(), "as many have begun during the check");
        let unlimited = AnonymousCounter::new(None);
        assert!(!(0..5000).any(|_| unlimited.count()));
    }

    #[test]
    fn the_longest_idle_are_evicted_first_with_pauses() {
        let (now, counter) = (Instant::now(), AnonymousCounter::new(None));
        let mut evictions = Evictions::new(Some(limit(96)));
        assert!(evictions.due_step(now).is_none());
        evictions.start(now, &counter);
        assert!(matches!(evictions.due_step(now), Some(EvictionStep::List(_, 94, LISTED))));
        assert_eq!(evictions.list_done(Ok(ids(1200))), None);
        let Some(EvictionStep::End(mut first)) = evictions.due_step(now) else { panic!() };
        first.reverse();
        assert_eq!(first, ids(1000));
        let (end, report) = (now + MILLI * 9, SweepReport::new(1000, MILLI * 5));
        assert_eq!(evictions.batch_done(Ok(report), now, end), None);
        assert!(evictions.due_step(end + MILLI * 4).is_none(), "a pause");
        let Some(EvictionStep::End(rest)) = evictions.due_step(end + MILLI * 5) else { panic!() };
        assert_eq!(rest.len(), 200);
        assert_eq!(evictions.batch_done(Ok(SweepReport::new(199, MILLI)), now, end), Some(1199));
        assert_eq!(evictions.next_due(), None);
    }

    #[test]
    fn an_error_ends_an_eviction() {
        let (now, counter) = (Instant::now(), AnonymousCounter::new(None));
        let mut evictions = Evictions::new(Some(limit(96)));
        let error = || Error::new(ErrorKind::Busy, "test");
        evictions.start(now, &counter);
        assert_eq!(evictions.list_done(Err(error())), Some(0));
        evictions.start(now, &counter);
        assert_eq!(evictions.list_done(Ok(ids(2000))), None);
        assert!(evictions.due_step(now).is_some());
        assert_eq!(evictions.batch_done(Err(error()), now, now), Some(0));
        assert_eq!(evictions.next_due(), None);
    }
}
