//! Evicts the anonymous sessions of one realm that were idle longest, when there are more than its
//! maximum. A list of all sessions finds them. That is too slow for a commit, so the cleaner's
//! thread does it, and requests only count the sessions that they begin. One process exceeds the
//! maximum by at most one session, and by those that begin during an eviction. DESIGN.md
//! ("Anonymous sessions") says what a restart and other processes add.

use std::mem;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use crate::backend::RemovalReport;
use crate::batch_pacer::BatchPacer;
use crate::error::Result;
use crate::id::{Realm, SessionIdHash};
use crate::sync::atomic::{AtomicI64, Ordering};

/// The maximum number of new sessions before the first check. A process that starts does not know
/// how many sessions the store has.
const FIRST_CHECK: u64 = 1000;

/// The maximum number of sessions in a list: 3 MB.
pub(super) const MAX_LISTED: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// The maximum number of anonymous sessions of a realm.
#[derive(Clone, Debug)]
pub(crate) struct MaxAnonymous {
    pub(crate) realm: Realm,
    pub(crate) max: u64,
}

impl MaxAnonymous {
    /// Returns the number of new sessions between two checks: a 32nd of the maximum. A check reads
    /// every row of the table, so it must not follow each new session.
    fn check_every(&self) -> u64 {
        (self.max / 32).max(1)
    }

    /// Returns the number of sessions that an eviction leaves. Until the next check
    /// [`check_every`](Self::check_every) sessions may begin. If this process begins all, the
    /// total is then `max + 1`.
    fn target(&self) -> u64 {
        (self.max + 1).saturating_sub(self.check_every())
    }
}

/// Counts the anonymous sessions that this process begins.
#[derive(Debug)]
pub(super) struct AnonymousCounter {
    /// The number of sessions that may begin before the next check; with less than one, it is due.
    until_check: AtomicI64,
}

impl AnonymousCounter {
    pub(super) fn new(maximum: Option<&MaxAnonymous>) -> Self {
        let until_check =
            maximum.map_or(i64::MAX, |maximum| maximum.check_every().min(FIRST_CHECK) as i64);
        AnonymousCounter { until_check: until_check.into() }
    }

    /// Counts a session. Returns whether the thread must be woken for a check: only for one
    /// session, because a thread that is awake asks itself whether one is due.
    pub(super) fn count_one(&self) -> bool {
        self.until_check.fetch_sub(1, Ordering::SeqCst) == 1
    }

    /// Begins a check, and the count of the sessions until the next one.
    fn begin_check(&self, maximum: &MaxAnonymous) {
        self.until_check.store(maximum.check_every() as i64, Ordering::SeqCst);
    }
}

/// The evictions of the thread. One runs at a time: it lists sessions and evicts them batch by
/// batch, until a list has all that are left.
#[derive(Debug)]
pub(super) struct Evictions {
    maximum: Option<MaxAnonymous>,
    counter: Arc<AnonymousCounter>,
    pacer: BatchPacer,
    /// The end of the pause after the last batch.
    next_call_at: Instant,
    /// The listed sessions that are to be evicted, those that were idle longest last.
    listed: Vec<SessionIdHash>,
    /// Whether a list follows these: the last one was full, or has no result yet.
    must_list: bool,
    /// The number of sessions that the running eviction has evicted.
    evicted: usize,
}

/// A call of the store.
pub(super) enum EvictionCall {
    /// List at most [`MAX_LISTED`] sessions of `realm`, without the `keep` that were used last.
    List { realm: Realm, keep: u64 },
    /// Evict these.
    Evict(Vec<SessionIdHash>),
}

impl Evictions {
    /// Makes the evictions above the maximum, with the counter of the sessions that begin.
    pub(super) fn new(
        maximum: Option<MaxAnonymous>,
        start: Instant,
    ) -> (Arc<AnonymousCounter>, Self) {
        let counter = Arc::new(AnonymousCounter::new(maximum.as_ref()));
        let evictions = Evictions {
            maximum,
            counter: counter.clone(),
            pacer: BatchPacer::new(),
            next_call_at: start,
            listed: Vec::new(),
            must_list: false,
            evicted: 0,
        };
        (counter, evictions)
    }

    /// Returns whether an eviction runs.
    fn is_running(&self) -> bool {
        self.must_list || !self.listed.is_empty()
    }

    /// Returns the time at which the next call is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let is_due = self.is_running() || self.counter.until_check.load(Ordering::SeqCst) < 1;
        is_due.then_some(self.next_call_at)
    }

    /// Returns the call to make now, if one is due.
    pub(super) fn due_call(&mut self, instant: Instant) -> Option<EvictionCall> {
        let maximum = self.maximum.as_ref()?;
        self.next_due().filter(|due| *due <= instant)?;
        if !self.listed.is_empty() {
            let batch_start = self.listed.len().saturating_sub(self.pacer.batch_size().get());
            return Some(EvictionCall::Evict(self.listed.split_off(batch_start)));
        }
        self.counter.begin_check(maximum);
        // If the application's event sink panics, there is no result, and the list is repeated.
        self.must_list = true;
        Some(EvictionCall::List { realm: maximum.realm.clone(), keep: maximum.target() })
    }

    /// Takes the result of a list; an error counts as an empty one. Returns the number of evicted
    /// sessions if the eviction has finished.
    pub(super) fn list_done(&mut self, listed: Result<Vec<SessionIdHash>>) -> Option<usize> {
        self.listed = listed.unwrap_or_default();
        self.listed.reverse();
        self.must_list = self.listed.len() >= MAX_LISTED.get();
        self.finish_if_done()
    }

    /// Takes the result of a batch; an error ends the eviction. Returns the number of evicted
    /// sessions if the eviction has finished.
    pub(super) fn batch_done(
        &mut self,
        result: Result<RemovalReport>,
        began_at: Instant,
        ended_at: Instant,
    ) -> Option<usize> {
        match result {
            Ok(report) => {
                let took = ended_at.saturating_duration_since(began_at);
                self.evicted = self.evicted.saturating_add(report.removed);
                self.next_call_at = ended_at + self.pacer.pause_after(&report, took);
            }
            Err(_) => (self.listed, self.must_list) = (Vec::new(), false),
        }
        self.finish_if_done()
    }

    fn finish_if_done(&mut self) -> Option<usize> {
        (!self.is_running()).then(|| mem::take(&mut self.evicted))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{Error, ErrorKind};

    const MILLI: Duration = Duration::from_millis(1);

    fn maximum(max: u64) -> MaxAnonymous {
        MaxAnonymous { realm: Realm::default(), max }
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
        for (max, check_every, target) in
            [(1, 1, 1), (31, 1, 31), (64, 2, 63), (1_000_000, 31_250, 968_751)]
        {
            let maximum = maximum(max);
            assert_eq!((maximum.check_every(), maximum.target()), (check_every, target));
            assert_eq!(maximum.target() + maximum.check_every(), max + 1);
        }
        assert_eq!(maximum(u64::MAX - 1).target(), u64::MAX - (u64::MAX - 1) / 32);
    }

    /// Makes evictions for which a check is due.
    fn due(maximum: MaxAnonymous, now: Instant) -> (Arc<AnonymousCounter>, Evictions) {
        let check_every = maximum.check_every();
        let (counter, evictions) = Evictions::new(Some(maximum), now);
        assert!((0..check_every).any(|_| counter.count_one()));
        (counter, evictions)
    }

    fn lists(call: Option<EvictionCall>) -> bool {
        matches!(call, Some(EvictionCall::List { .. }))
    }

    #[test]
    fn one_new_session_wakes_the_thread_for_each_check() {
        let now = Instant::now();
        let (counter, mut evictions) = Evictions::new(Some(maximum(96)), now);
        assert!(evictions.due_call(now).is_none());
        assert_eq!([(); 5].map(|()| counter.count_one()), [false, false, true, false, false]);
        assert!(lists(evictions.due_call(now)));
        assert_eq!([(); 4].map(|()| counter.count_one()), [false, false, true, false]);
        assert_eq!(evictions.list_done(Ok(ids(1))), None);
        assert!(!lists(evictions.due_call(now)), "one runs");
        assert_eq!(evictions.batch_done(Ok(RemovalReport::new(0, MILLI)), now, now), Some(0));
        assert!(lists(evictions.due_call(now)), "as many have begun during the check");
        assert_eq!(evictions.list_done(Ok(vec![])), Some(0));
        assert!(evictions.due_call(now).is_none());
        let (unlimited, mut evictions) = Evictions::new(None, now);
        assert!(!(0..5000).any(|_| unlimited.count_one()));
        assert!(evictions.due_call(now).is_none());
    }

    #[test]
    fn the_first_check_is_due_after_a_thousand_sessions() {
        let now = Instant::now();
        let (counter, mut evictions) = Evictions::new(Some(maximum(1_000_000)), now);
        assert_eq!((1..=1000).find(|_| counter.count_one()), Some(1000));
        assert!(lists(evictions.due_call(now)));
        assert_eq!(evictions.list_done(Ok(vec![])), Some(0));
        assert_eq!((1..=40_000).find(|_| counter.count_one()), Some(31_250));
        assert!(!(0..40_000).any(|_| counter.count_one()), "the thread is awake");
        assert!(lists(evictions.due_call(now)));
    }

    #[test]
    fn the_longest_idle_are_evicted_first_with_pauses() {
        let now = Instant::now();
        let (_, mut evictions) = due(maximum(96), now);
        assert_eq!(evictions.next_due(), Some(now));
        assert!(matches!(evictions.due_call(now), Some(EvictionCall::List { keep: 94, .. })));
        assert_eq!(evictions.list_done(Ok(ids(1200))), None);
        let Some(EvictionCall::Evict(mut first)) = evictions.due_call(now) else { panic!() };
        first.reverse();
        assert_eq!(first, ids(1000));
        let end = now + MILLI * 9;
        let report = RemovalReport::new(1000, MILLI * 5);
        assert_eq!(evictions.batch_done(Ok(report), now, end), None);
        assert!(evictions.due_call(end + MILLI * 4).is_none(), "a pause");
        let Some(EvictionCall::Evict(rest)) = evictions.due_call(end + MILLI * 5) else { panic!() };
        assert_eq!(rest.len(), 200);
        assert_eq!(evictions.batch_done(Ok(RemovalReport::new(199, MILLI)), now, end), Some(1199));
        assert_eq!(evictions.next_due(), None);
    }

    #[test]
    fn another_list_follows_a_full_one() {
        let now = Instant::now();
        let (_, mut evictions) = due(maximum(96), now);
        assert!(lists(evictions.due_call(now)));
        assert_eq!(evictions.list_done(Ok(ids(100_000))), None);
        let mut evicted = 0;
        while let Some(EvictionCall::Evict(batch)) = evictions.due_call(now) {
            evicted += batch.len();
            let report = RemovalReport::new(batch.len(), Duration::ZERO);
            assert_eq!(evictions.batch_done(Ok(report), now, now), None);
        }
        assert_eq!(evictions.list_done(Ok(vec![])), Some(evicted));
        assert_eq!((evicted, evictions.next_due()), (100_000, None));
    }

    #[test]
    fn an_error_ends_an_eviction() {
        let now = Instant::now();
        let (counter, mut evictions) = due(maximum(96), now);
        let error = || Error::new(ErrorKind::Busy, "test");
        assert!(lists(evictions.due_call(now)));
        assert_eq!(evictions.list_done(Err(error())), Some(0));
        assert!((0..3).any(|_| counter.count_one()));
        assert!(lists(evictions.due_call(now)));
        assert_eq!(evictions.list_done(Ok(ids(2000))), None);
        assert!(evictions.due_call(now).is_some());
        assert_eq!(evictions.batch_done(Err(error()), now, now), Some(0));
        assert_eq!(evictions.next_due(), None);
    }
}
