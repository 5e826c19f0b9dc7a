//! A circuit breaker for each shard of the cache: [`CircuitBreaker`].
//!
//! Owns the missed invalidations, and uses no cache itself. Called by the store.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use crate::backend::CacheKey;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{IgnorePoison, Mutex, MutexGuard};

/// The number of failures within [`FAILURE_WINDOW`] that opens the breaker. A single failure may be
/// transient.
const FAILURE_THRESHOLD: u32 = 3;

/// The time within which failures are counted together.
const FAILURE_WINDOW: Duration = Duration::from_secs(10);

/// The maximum number of queued keys. Above it, the whole shard is invalidated.
const MAX_PENDING: usize = 10_000;

/// Invalidations that a shard has not received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PendingInvalidations {
    Keys(HashSet<CacheKey>),
    Everything,
}

impl Default for PendingInvalidations {
    fn default() -> Self {
        PendingInvalidations::Keys(HashSet::new())
    }
}

impl PendingInvalidations {
    pub(super) fn keys(keys: impl IntoIterator<Item = CacheKey>) -> Self {
        PendingInvalidations::Keys(keys.into_iter().collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, PendingInvalidations::Keys(keys) if keys.is_empty())
    }

    fn add(&mut self, more: PendingInvalidations) {
        match (&mut *self, more) {
            (PendingInvalidations::Everything, _) => {}
            (PendingInvalidations::Keys(keys), PendingInvalidations::Keys(more))
                if keys.len() + more.len() <= MAX_PENDING =>
            {
                keys.extend(more);
            }
            _ => *self = PendingInvalidations::Everything,
        }
    }
}

/// The circuit breakers of all shards. There is at least one.
#[derive(Debug)]
pub(super) struct Shards {
    first: CircuitBreaker,
    others: Vec<CircuitBreaker>,
}

impl Shards {
    pub(super) fn new(count: NonZeroUsize, retry_after: Duration) -> Self {
        let others = (1..count.get()).map(|_| CircuitBreaker::new(retry_after)).collect();
        Shards { first: CircuitBreaker::new(retry_after), others }
    }

    pub(super) fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// Returns the breaker of `shard`, or of the first shard if there is no such shard.
    pub(super) fn of(&self, shard: usize) -> &CircuitBreaker {
        let other = shard.checked_sub(1).and_then(|other| self.others.get(other));
        other.unwrap_or(&self.first)
    }
}

/// Closed, reads and invalidations use the cache. The breaker opens after [`FAILURE_THRESHOLD`]
/// failed reads or fills within [`FAILURE_WINDOW`], or immediately after a failed invalidation.
/// Open, reads bypass the shard and invalidations are queued; one probe at a time sends the queue.
/// Half-open, invalidations are sent directly and reads still bypass the shard. When no
/// invalidation is pending, the breaker closes.
#[derive(Debug)]
pub(super) struct CircuitBreaker {
    retry_after: Duration,
    /// Equals `open.is_none()`; readable without the lock.
    closed: AtomicBool,
    /// The time of the first failure in the current window, and the number of failures since.
    failures: Mutex<Option<(Instant, u32)>>,
    open: Mutex<Option<OpenBreaker>>,
}

#[derive(Debug)]
struct OpenBreaker {
    pending: PendingInvalidations,
    next_probe: Instant,
    probing: bool,
    /// Half-open: invalidations are sent directly instead of being queued.
    half_open: bool,
}

impl CircuitBreaker {
    fn new(retry_after: Duration) -> Self {
        CircuitBreaker {
            retry_after,
            closed: AtomicBool::new(true),
            failures: Mutex::default(),
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, Option<OpenBreaker>> {
        self.open.lock().ignore_poison()
    }

    /// Returns whether reads may use the shard.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Counts a failed read or fill of `key`. Returns true if this failure opened the breaker.
    pub(super) fn record_failure(&self, key: CacheKey, at: Instant) -> bool {
        let failures = self.count(at);
        // The probe invalidates this key, which shows whether the server has recovered.
        failures >= FAILURE_THRESHOLD
            && self.record_missed_invalidation(PendingInvalidations::keys([key]), at)
    }

    fn count(&self, at: Instant) -> u32 {
        let mut failures = self.failures.lock().ignore_poison();
        let (first, count) = match *failures {
            Some((first, count)) if at.duration_since(first) < FAILURE_WINDOW => (first, count + 1),
            _ => (at, 1),
        };
        *failures = Some((first, count));
        count
    }

    /// Records a failed invalidation, and opens the breaker. Returns true if it was closed before.
    pub(super) fn record_missed_invalidation(
        &self,
        pending: PendingInvalidations,
        at: Instant,
    ) -> bool {
        let mut open = self.open();
        match &mut *open {
            Some(open) => {
                open.pending.add(pending);
                open.half_open = false;
                false
            }
            None => {
                let next_probe = at + self.retry_after;
                let (probing, half_open) = (false, false);
                *open = Some(OpenBreaker { pending, next_probe, probing, half_open });
                self.closed.store(false, Ordering::SeqCst);
                true
            }
        }
    }

    /// Queues an invalidation if the breaker is open. Otherwise returns it, and the caller sends
    /// it.
    pub(super) fn queue_if_open(
        &self,
        pending: PendingInvalidations,
    ) -> Option<PendingInvalidations> {
        if self.is_closed() {
            return Some(pending);
        }
        match &mut *self.open() {
            Some(open) if !open.half_open => {
                open.pending.add(pending);
                None
            }
            _ => Some(pending),
        }
    }

    /// Begins a probe if one is due. If it returns true, the caller must run the probe.
    pub(super) fn begin_probe(&self, at: Instant) -> bool {
        if self.is_closed() {
            return false;
        }
        match &mut *self.open() {
            Some(open) if !open.probing && open.next_probe <= at => {
                open.probing = true;
                true
            }
            _ => false,
        }
    }

    /// Takes the queued invalidations.
    pub(super) fn take_pending(&self) -> PendingInvalidations {
        self.open().as_mut().map(|open| std::mem::take(&mut open.pending)).unwrap_or_default()
    }

    /// Switches to half-open, so that no more invalidations are queued, and takes the queued ones.
    pub(super) fn half_open(&self) -> PendingInvalidations {
        let mut open = self.open();
        let Some(open) = &mut *open else { return PendingInvalidations::default() };
        open.half_open = true;
        std::mem::take(&mut open.pending)
    }

    /// Closes the breaker. Returns false if an invalidation has failed or was queued meanwhile.
    pub(super) fn close(&self) -> bool {
        let mut open = self.open();
        let is_done = open.as_ref().is_some_and(|open| open.pending.is_empty() && open.half_open);
        if is_done {
            *open = None;
            *self.failures.lock().ignore_poison() = None;
            self.closed.store(true, Ordering::SeqCst);
        }
        is_done
    }

    /// Ends a probe: queues `unsent`, the invalidations that it has not sent, and schedules the
    /// next probe. Does nothing if the breaker is closed.
    pub(super) fn end_probe(&self, unsent: PendingInvalidations, at: Instant) {
        if let Some(open) = &mut *self.open() {
            open.pending.add(unsent);
            open.next_probe = at + self.retry_after;
            open.probing = false;
            open.half_open = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(1);

    fn key(n: u32) -> CacheKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        CacheKey::from_bytes(bytes)
    }

    fn keys(range: std::ops::Range<u32>) -> PendingInvalidations {
        PendingInvalidations::keys(range.map(key))
    }

    fn open_at(at: Instant) -> CircuitBreaker {
        let circuit_breaker = CircuitBreaker::new(RETRY);
        assert!(circuit_breaker.record_missed_invalidation(keys(0..1), at));
        circuit_breaker
    }

    /// Runs a successful probe.
    fn repair(circuit_breaker: &CircuitBreaker) -> bool {
        circuit_breaker.take_pending();
        circuit_breaker.half_open();
        circuit_breaker.close()
    }

    #[test]
    fn failures_open_it_only_within_the_window() {
        let (circuit_breaker, mut at) = (CircuitBreaker::new(RETRY), Instant::now());
        for _ in 0..5 {
            assert!(!circuit_breaker.record_failure(key(0), at));
            assert!(!circuit_breaker.record_failure(key(0), at));
            at += FAILURE_WINDOW;
        }
        assert!(circuit_breaker.is_closed());
        assert!(!circuit_breaker.record_failure(key(0), at));
        assert!(!circuit_breaker.record_failure(key(0), at));
        assert!(circuit_breaker.record_failure(key(0), at), "reported once");
        assert!(!circuit_breaker.record_failure(key(0), at), "reported once");
        assert!(!circuit_breaker.is_closed());
    }

    #[test]
    fn a_failed_invalidation_opens_it_immediately() {
        assert!(!open_at(Instant::now()).is_closed());
    }

    #[test]
    fn one_probe_at_a_time_and_not_before_its_time() {
        let at = Instant::now();
        let circuit_breaker = open_at(at);
        assert!(!circuit_breaker.begin_probe(at));
        assert!(circuit_breaker.begin_probe(at + RETRY));
        assert!(!circuit_breaker.begin_probe(at + RETRY * 2), "there is one");
        circuit_breaker.end_probe(circuit_breaker.take_pending(), at + RETRY);
        assert!(!circuit_breaker.begin_probe(at + RETRY));
        assert!(circuit_breaker.begin_probe(at + RETRY * 2));
        assert!(repair(&circuit_breaker));
        assert!(circuit_breaker.is_closed());
        assert!(!circuit_breaker.begin_probe(at + RETRY * 9));
    }

    #[test]
    fn a_failed_probe_queues_what_it_has_not_sent() {
        let at = Instant::now();
        let circuit_breaker = open_at(at);
        assert_eq!(circuit_breaker.queue_if_open(keys(1..2)), None);
        let unsent = circuit_breaker.take_pending();
        assert_eq!(unsent, keys(0..2));
        assert_eq!(circuit_breaker.queue_if_open(keys(2..3)), None);
        circuit_breaker.end_probe(unsent, at);
        assert_eq!(circuit_breaker.take_pending(), keys(0..3));
    }

    #[test]
    fn a_breaker_stays_open_while_an_invalidation_is_pending() {
        let at = Instant::now();
        let circuit_breaker = open_at(at);
        assert!(!circuit_breaker.close(), "nothing was sent yet");
        circuit_breaker.take_pending();
        assert_eq!(circuit_breaker.queue_if_open(keys(1..2)), None);
        assert_eq!(circuit_breaker.half_open(), keys(1..2));
        assert_eq!(
            circuit_breaker.queue_if_open(keys(2..3)),
            Some(keys(2..3)),
            "sent by the caller"
        );
        assert!(!circuit_breaker.record_missed_invalidation(keys(2..3), at));
        assert!(!circuit_breaker.close(), "that failed");
        circuit_breaker.end_probe(PendingInvalidations::default(), at);
        assert_eq!(circuit_breaker.queue_if_open(keys(3..4)), None);
        assert_eq!(circuit_breaker.take_pending(), keys(2..4));
        circuit_breaker.half_open();
        assert!(circuit_breaker.close());
        assert_eq!(circuit_breaker.queue_if_open(keys(4..5)), Some(keys(4..5)));
    }

    #[test]
    fn too_many_invalidations_become_everything() {
        let circuit_breaker = open_at(Instant::now());
        assert_eq!(circuit_breaker.queue_if_open(keys(1..9_000)), None);
        assert_eq!(circuit_breaker.queue_if_open(keys(10_000..20_000)), None);
        assert_eq!(circuit_breaker.queue_if_open(keys(0..1)), None);
        assert_eq!(circuit_breaker.take_pending(), PendingInvalidations::Everything);
    }
}
