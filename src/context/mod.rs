//! What all requests of one manager share: the store, the clock, the events, the cleaner, the
//! settings, and what requests remember of each other.
//!
//! Owns the `Context` and its parts. The manager makes one context, and every session holds it.

mod blocking_hook;
mod end_trail;
mod guess_detector;
mod recent_ids;
mod retired_ids;
mod update_queue;
mod warnings;

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Capabilities, Store};
use crate::cleaner::Cleaner;
use crate::clock::{Clock, Timestamp};
use crate::cross_origin::OriginDecision;
use crate::error::Result;
use crate::event::{Event, Events};
use crate::message::RequestHead;
use crate::process::Process;
use crate::settings::{IdSettings, Settings};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{IgnorePoison, Mutex};

pub(crate) use blocking_hook::BlockingCalls;
pub use blocking_hook::BlockingHook;
pub(crate) use end_trail::EndTrail;
pub(crate) use guess_detector::GuessDetector;
pub(crate) use retired_ids::{RetiredIds, RetiredSinceOpen, RetiredTick};
pub(crate) use update_queue::{UpdateQueues, contention_error};

/// The shortest time between two events about evictions.
const EVICTION_REPORT_INTERVAL: Duration = Duration::from_secs(60);

pub(crate) struct Context {
    /// The process that made this context. It is checked before a lock of this context is taken.
    pub(crate) process: Process,
    store: Arc<dyn Store>,
    pub(crate) capabilities: Capabilities,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) cleaner: Option<Cleaner>,
    pub(crate) id_settings: IdSettings,
    pub(crate) settings: Settings,
    pub(crate) retired_ids: RetiredIds,
    pub(crate) end_trail: Arc<EndTrail>,
    guess_detector: GuessDetector,
    /// The number of sessions that the store has evicted since the last event about them.
    unreported_evictions: AtomicU64,
    evictions_reported_at: Mutex<Option<Timestamp>>,
    pub(crate) update_queues: UpdateQueues,
}

impl Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl Context {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        events: Events,
        cleaner: Option<Cleaner>,
        id_settings: IdSettings,
        settings: Settings,
        end_trail: Arc<EndTrail>,
    ) -> Self {
        Context {
            process: Process::current(),
            capabilities: store.capabilities(),
            store,
            clock,
            events,
            cleaner,
            id_settings,
            settings,
            retired_ids: RetiredIds::new(),
            end_trail,
            guess_detector: GuessDetector::default(),
            unreported_evictions: AtomicU64::new(0),
            evictions_reported_at: Mutex::new(None),
            update_queues: UpdateQueues::default(),
        }
    }

    /// Returns the store.
    ///
    /// # Errors
    /// As [`Process::check`].
    pub(crate) fn store(&self) -> Result<&dyn Store> {
        self.process.check().map(|()| &*self.store)
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the decision whether a request may come from its origin.
    pub(crate) fn origin_decision(&self, head: &RequestHead<'_>) -> OriginDecision {
        self.id_settings.cross_origin.decide(head, self.settings.proxies)
    }

    /// Counts a malformed or unknown id by its hash, and raises the event when it is due.
    pub(crate) fn count_guess(&self, address: Option<IpAddr>, hash: u64) {
        if self.process.is_current()
            && let Some((address, count)) = self.guess_detector.count(address, hash, self.now())
        {
            self.events.raise(&Event::IdGuessing { address, count });
        }
    }

    /// Counts anonymous sessions that the store has evicted to make room.
    pub(crate) fn count_evictions(&self, count: usize) {
        self.unreported_evictions.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Raises the event that the store has evicted sessions, at most once a minute and with their
    /// number since the last event.
    pub(crate) fn report_evictions(&self) {
        if self.unreported_evictions.load(Ordering::Relaxed) == 0 || !self.process.is_current() {
            return;
        }
        let now = self.now();
        let mut reported_at = self.evictions_reported_at.lock().ignore_poison();
        if reported_at.is_some_and(|at| now.since(at) < EVICTION_REPORT_INTERVAL) {
            return;
        }
        *reported_at = Some(now);
        drop(reported_at);
        let sessions = self.unreported_evictions.swap(0, Ordering::Relaxed);
        self.events.raise(&Event::AnonymousEvicted { sessions });
    }
}
