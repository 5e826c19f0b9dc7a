//! Whether a share of the cache works, and what it could not be told while it did not.
//!
//! A breaker: closed while the share works; open, and the share is left alone, after a few reads
//! have failed within a while, or as soon as it could not be told to forget something. While it is
//! open, one probe at a time tells what is owed; when nothing is owed any more, it closes.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::id::SessionIdHash;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// So many reads must fail, one may be an accident, …
const FAILURES: u32 = 3;

/// … within so long a time.
const WITHIN: Duration = Duration::from_secs(10);

/// So many keys are kept; more, and the share is told to forget everything.
const MOST_UNTOLD: usize = 10_000;

/// What a share must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PendingInvalidations {
    Keys(HashSet<SessionIdHash>),
    Everything,
}

impl Default for PendingInvalidations {
    fn default() -> Self {
        PendingInvalidations::Keys(HashSet::new())
    }
}

impl PendingInvalidations {
    pub(super) fn keys(id_hashes: impl IntoIterator<Item = SessionIdHash>) -> Self {
        PendingInvalidations::Keys(id_hashes.into_iter().collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(self, PendingInvalidations::Keys(id_hashes) if id_hashes.is_empty())
    }

    fn add(&mut self, more: PendingInvalidations) {
        match (&mut *self, more) {
            (PendingInvalidations::Everything, _) => {}
            (PendingInvalidations::Keys(id_hashes), PendingInvalidations::Keys(more))
                if id_hashes.len() + more.len() <= MOST_UNTOLD =>
            {
                id_hashes.extend(more);
            }
            _ => *self = PendingInvalidations::Everything,
        }
    }
}

/// The health of each share.
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

    /// The health of a share; of the first, if a cache names one that it does not have.
    pub(super) fn of(&self, shard: usize) -> &CircuitBreaker {
        let other = shard.checked_sub(1).and_then(|other| self.others.get(other));
        other.unwrap_or(&self.first)
    }
}

#[derive(Debug)]
pub(super) struct CircuitBreaker {
    retry_after: Duration,
    /// Whether `open` is `None`, for those who only want to know that.
    closed: AtomicBool,
    /// When the first of the last failures was, and how many those are.
    failures: Mutex<Option<(Instant, u32)>>,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    pending: PendingInvalidations,
    next_probe: Instant,
    probing: bool,
    /// The cache answers again: whoever has something to tell tells it himself.
    others_tell: bool,
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

    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the cache may be read.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// A read or a fill under `id_hash` has failed. True if that was one too many.
    pub(super) fn failed(&self, id_hash: SessionIdHash, at: Instant) -> bool {
        let failures = self.count(at);
        // The key is what the probe has to tell: forgetting it shows whether its server is back.
        failures >= FAILURES && self.missed(PendingInvalidations::keys([id_hash]), at)
    }

    fn count(&self, at: Instant) -> u32 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, count) = match *failures {
            Some((first, count)) if at.duration_since(first) < WITHIN => (first, count + 1),
            _ => (at, 1),
        };
        *failures = Some((first, count));
        count
    }

    /// The cache could not be told. True if it is left alone from now on, and was not before.
    pub(super) fn missed(&self, pending: PendingInvalidations, at: Instant) -> bool {
        let mut open = self.open();
        match &mut *open {
            Some(open) => {
                open.pending.add(pending);
                open.others_tell = false;
                false
            }
            None => {
                let next_probe = at + self.retry_after;
                let (probing, others_tell) = (false, false);
                *open = Some(Open { pending, next_probe, probing, others_tell });
                self.closed.store(false, Ordering::SeqCst);
                true
            }
        }
    }

    /// Keeps this until the cache is back; gives it back if it is to be told at once.
    pub(super) fn keep_for_later(
        &self,
        pending: PendingInvalidations,
    ) -> Option<PendingInvalidations> {
        if self.is_closed() {
            return Some(pending);
        }
        match &mut *self.open() {
            Some(open) if !open.others_tell => {
                open.pending.add(pending);
                None
            }
            _ => Some(pending),
        }
    }

    /// Whether a probe is due; if so, the caller makes it.
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

    /// What the cache was not told so far.
    pub(super) fn take_untold(&self) -> PendingInvalidations {
        self.open().as_mut().map(|open| std::mem::take(&mut open.pending)).unwrap_or_default()
    }

    /// [`take_untold`](Self::take_untold), and nothing is kept for later any more.
    pub(super) fn let_others_tell(&self) -> PendingInvalidations {
        let mut open = self.open();
        let Some(open) = &mut *open else { return PendingInvalidations::default() };
        open.others_tell = true;
        std::mem::take(&mut open.pending)
    }

    /// Everything was told: the cache is read again. False if somebody failed to tell it something
    /// meanwhile.
    pub(super) fn close(&self) -> bool {
        let mut open = self.open();
        let is_told = open.as_ref().is_some_and(|open| open.pending.is_empty() && open.others_tell);
        if is_told {
            *open = None;
            *self.failures.lock().unwrap_or_else(PoisonError::into_inner) = None;
            self.closed.store(true, Ordering::SeqCst);
        }
        is_told
    }

    /// A probe has ended that may have told nothing; `owed` is what it was to tell.
    pub(super) fn put_off(&self, owed: PendingInvalidations, at: Instant) {
        if let Some(open) = &mut *self.open() {
            open.pending.add(owed);
            open.next_probe = at + self.retry_after;
            open.probing = false;
            open.others_tell = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Duration = Duration::from_secs(1);

    fn id_hash(n: u32) -> SessionIdHash {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        SessionIdHash::from_bytes(bytes)
    }

    fn keys(range: std::ops::Range<u32>) -> PendingInvalidations {
        PendingInvalidations::keys(range.map(id_hash))
    }

    fn open_at(at: Instant) -> CircuitBreaker {
        let circuit_breaker = CircuitBreaker::new(RETRY);
        assert!(circuit_breaker.missed(keys(0..1), at));
        circuit_breaker
    }

    /// A probe that goes well.
    fn repair(circuit_breaker: &CircuitBreaker) -> bool {
        circuit_breaker.take_untold();
        circuit_breaker.let_others_tell();
        circuit_breaker.close()
    }

    #[test]
    fn a_few_failures_within_a_while_open_it_and_as_many_in_a_long_time_do_not() {
        let (circuit_breaker, mut at) = (CircuitBreaker::new(RETRY), Instant::now());
        for _ in 0..5 {
            assert!(!circuit_breaker.failed(id_hash(0), at));
            assert!(!circuit_breaker.failed(id_hash(0), at));
            at += WITHIN;
        }
        assert!(circuit_breaker.is_closed());
        assert!(!circuit_breaker.failed(id_hash(0), at));
        assert!(!circuit_breaker.failed(id_hash(0), at));
        assert!(circuit_breaker.failed(id_hash(0), at), "told once");
        assert!(!circuit_breaker.failed(id_hash(0), at), "told once");
        assert!(!circuit_breaker.is_closed());
    }

    #[test]
    fn what_could_not_be_told_opens_it_at_once() {
        assert!(!open_at(Instant::now()).is_closed());
    }

    #[test]
    fn one_probe_at_a_time_and_not_before_its_time() {
        let at = Instant::now();
        let circuit_breaker = open_at(at);
        assert!(!circuit_breaker.begin_probe(at));
        assert!(circuit_breaker.begin_probe(at + RETRY));
        assert!(!circuit_breaker.begin_probe(at + RETRY * 2), "there is one");
        circuit_breaker.put_off(circuit_breaker.take_untold(), at + RETRY);
        assert!(!circuit_breaker.begin_probe(at + RETRY));
        assert!(circuit_breaker.begin_probe(at + RETRY * 2));
        assert!(repair(&circuit_breaker));
        assert!(circuit_breaker.is_closed());
        assert!(!circuit_breaker.begin_probe(at + RETRY * 9));
    }

    #[test]
    fn what_a_failed_probe_was_to_tell_is_still_owed() {
        let at = Instant::now();
        let circuit_breaker = open_at(at);
        assert_eq!(circuit_breaker.keep_for_later(keys(1..2)), None);
        let owed = circuit_breaker.take_untold();
        assert_eq!(owed, keys(0..2));
        assert_eq!(circuit_breaker.keep_for_later(keys(2..3)), None);
        circuit_breaker.put_off(owed, at);
        assert_eq!(circuit_breaker.take_untold(), keys(0..3));
    }

    #[test]
    fn it_does_not_close_while_something_is_owed() {
        let at = Instant::now();
        let circuit_breaker = open_at(at);
        assert!(!circuit_breaker.close(), "nothing was told yet");
        circuit_breaker.take_untold();
        assert_eq!(circuit_breaker.keep_for_later(keys(1..2)), None);
        assert_eq!(circuit_breaker.let_others_tell(), keys(1..2));
        assert_eq!(
            circuit_breaker.keep_for_later(keys(2..3)),
            Some(keys(2..3)),
            "told by who has it"
        );
        assert!(!circuit_breaker.missed(keys(2..3), at));
        assert!(!circuit_breaker.close(), "that failed");
        circuit_breaker.put_off(PendingInvalidations::default(), at);
        assert_eq!(circuit_breaker.keep_for_later(keys(3..4)), None);
        assert_eq!(circuit_breaker.take_untold(), keys(2..4));
        circuit_breaker.let_others_tell();
        assert!(circuit_breaker.close());
        assert_eq!(circuit_breaker.keep_for_later(keys(4..5)), Some(keys(4..5)));
    }

    #[test]
    fn too_much_to_remember_becomes_everything() {
        let circuit_breaker = open_at(Instant::now());
        assert_eq!(circuit_breaker.keep_for_later(keys(1..9_000)), None);
        assert_eq!(circuit_breaker.keep_for_later(keys(10_000..20_000)), None);
        assert_eq!(circuit_breaker.keep_for_later(keys(0..1)), None);
        assert_eq!(circuit_breaker.take_untold(), PendingInvalidations::Everything);
    }
}
