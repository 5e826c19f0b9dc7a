//! The state that all sessions of one manager share.
//!
//! Uses the modules below `session`. The manager makes one context; every session holds it.

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backend::Store;
use crate::cleaner::Cleaner;
use crate::clock::{Clock, Timestamp};
use crate::error::Result;
use crate::event::{Event, Events};
use crate::id::PublicId;
use crate::message::{RequestHead, is_loopback, is_webkit};
use crate::process::Process;
use crate::session::guess_detector::GuessDetector;
use crate::session::recently_ended::RecentlyEnded;
use crate::session::update_queue::UpdateQueues;
use crate::session::{Settings, Transport};
use crate::sync::{IgnorePoison, Mutex};

pub(crate) struct Context {
    /// The process that made the manager.
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) cleaner: Option<Cleaner>,
    pub(crate) settings: Settings,
    pub(crate) recently_ended: RecentlyEnded,
    pub(crate) guess_detector: GuessDetector,
    /// The time at which a session was last dropped without being closed.
    pub(crate) dropped: Mutex<Option<Timestamp>>,
    pub(crate) updates: UpdateQueues,
}

impl Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("store", &self.store).finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the store.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) in a process that was forked from the manager's.
    pub(crate) fn store(&self) -> Result<&dyn Store> {
        self.process.check()?;
        Ok(&*self.store)
    }

    /// Counts a malformed or unknown id by its hash, and raises the event when it is due.
    pub(crate) fn count_guess(&self, address: Option<IpAddr>, hash: u64) {
        // In a forked process the lock may never be released.
        if self.process.is_current()
            && let Some((address, count)) = self.guess_detector.count(address, hash, self.now())
        {
            self.events.raise(&Event::IdGuessing { address, count });
        }
    }

    /// Raises the event that a session was dropped without being closed, at most once a second.
    pub(crate) fn dropped(&self, public_id: Option<&PublicId>) {
        // In a forked process the lock may never be released.
        if !self.process.is_current() {
            return;
        }
        let now = self.now();
        let mut last = self.dropped.lock().ignore_poison();
        // If the clock was set back, the event is raised.
        if last.is_none_or(|last| now < last || now.since(last) >= Duration::from_secs(1)) {
            *last = Some(now);
            drop(last);
            self.events.raise(&Event::Dropped { public_id });
        }
    }

    /// Returns the host of a request whose browser drops the cookie, until the event was raised. On
    /// a loopback name only WebKit browsers drop it.
    pub(crate) fn insecure_host<'r>(&self, head: &RequestHead<'r>) -> Option<&'r str> {
        let Transport::Cookie(cookie) = &self.settings.transport else { return None };
        let host = head.host.filter(|_| cookie.is_secure() && !head.secure)?;
        let drops = !is_loopback(host) || head.user_agent.is_some_and(is_webkit);
        (drops && !was_warned(host).load(Ordering::Relaxed)).then_some(host)
    }

    /// Raises once per process the event that browsers drop the cookie that is being sent, and once
    /// more the event that WebKit browsers drop it on a loopback name.
    pub(crate) fn warn_if_insecure(&self, host: Option<&str>) {
        if let Some(host) = host
            && !was_warned(host).swap(true, Ordering::Relaxed)
        {
            self.events.raise(&Event::InsecureConnection { host });
        }
    }
}

/// Returns the flag that the event was raised for hosts like `host`.
fn was_warned(host: &str) -> &'static AtomicBool {
    static WARNED: AtomicBool = AtomicBool::new(false);
    static WARNED_OF_LOOPBACK: AtomicBool = AtomicBool::new(false);
    if is_loopback(host) { &WARNED_OF_LOOPBACK } else { &WARNED }
}
