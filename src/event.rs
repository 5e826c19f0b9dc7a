//! What happened, for the operator: typed events, where they go, and how often each came.

use std::fmt::{self, Debug};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::error::Error;
use crate::id::Handle;

/// Something the operator may want to know. No event carries an id.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A store was opened.
    Opened {
        /// The store, in words.
        store: &'a str,
    },
    /// The tables were set up or brought to a newer version.
    Migrated {
        /// The sessions table.
        table: &'a str,
        /// The schema version before; 0 for none.
        from: u32,
        /// The schema version now.
        to: u32,
    },
    /// A stored session does not decode; it stays in place until its deadline.
    Undecodable {
        /// The session's public name.
        handle: &'a Handle,
        /// Why.
        error: &'a Error,
    },
    /// The write-ahead log cannot restart because an old reader still uses it: it grows.
    LogHeld {
        /// Pages in the log.
        pages: u32,
    },
    /// The write-ahead log restarts again.
    LogReleased,
}

/// The kind of an [`Event`], for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventKind {
    /// [`Event::Opened`]
    Opened,
    /// [`Event::Migrated`]
    Migrated,
    /// [`Event::Undecodable`]
    Undecodable,
    /// [`Event::LogHeld`]
    LogHeld,
    /// [`Event::LogReleased`]
    LogReleased,
}

impl EventKind {
    /// Every kind, in the order of the counters.
    pub const ALL: [EventKind; 5] = [
        EventKind::Opened,
        EventKind::Migrated,
        EventKind::Undecodable,
        EventKind::LogHeld,
        EventKind::LogReleased,
    ];

    /// Error: a request failed or data was discarded. Warn: a change of state. Info: start,
    /// migration, stop.
    fn level(self) -> log::Level {
        match self {
            EventKind::Undecodable => log::Level::Error,
            EventKind::LogHeld | EventKind::LogReleased => log::Level::Warn,
            EventKind::Opened | EventKind::Migrated => log::Level::Info,
        }
    }
}

impl Event<'_> {
    /// Which kind of event this is.
    #[must_use]
    pub fn kind(&self) -> EventKind {
        match self {
            Event::Opened { .. } => EventKind::Opened,
            Event::Migrated { .. } => EventKind::Migrated,
            Event::Undecodable { .. } => EventKind::Undecodable,
            Event::LogHeld { .. } => EventKind::LogHeld,
            Event::LogReleased => EventKind::LogReleased,
        }
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Opened { store } => write!(f, "opened {store}"),
            Event::Migrated { table, from: 0, to } => {
                write!(f, "set up table {table} at schema version {to}")
            }
            Event::Migrated { table, from, to } => {
                write!(f, "migrated table {table} from schema version {from} to {to}")
            }
            Event::Undecodable { handle, error } => {
                write!(f, "session {handle} does not decode and is kept as it is: {error:?}")
            }
            Event::LogHeld { pages } => {
                write!(
                    f,
                    "the write-ahead log cannot restart, an old reader holds it: {pages} pages"
                )
            }
            Event::LogReleased => f.write_str("the write-ahead log restarts again"),
        }
    }
}

/// Where events go: [`LogSink`] by default, or your own bridge to metrics.
///
/// It is called on the request's path, so it must be quick and must not call back into the store.
pub trait Sink: Debug + Send + Sync + 'static {
    /// Takes one event.
    fn record(&self, event: &Event<'_>);
}

/// Writes events to the [`log`] crate: a repeated error at most once a second, with a count.
#[derive(Debug)]
pub struct LogSink<C = SystemClock> {
    clock: C,
    repeats: Mutex<[Repeat; EventKind::ALL.len()]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Repeat {
    last: Option<Timestamp>,
    held_back: u64,
}

impl LogSink {
    /// A sink that reads the system clock.
    #[must_use]
    pub fn new() -> Self {
        LogSink::with_clock(SystemClock)
    }
}

impl Default for LogSink {
    fn default() -> Self {
        LogSink::new()
    }
}

impl<C: Clock> LogSink<C> {
    /// A sink that measures its second by `clock`.
    pub fn with_clock(clock: C) -> Self {
        LogSink { clock, repeats: Mutex::default() }
    }

    /// How many of this kind were held back before this one; `None` to hold this one back too.
    fn admit(&self, kind: EventKind) -> Option<u64> {
        let now = self.clock.now();
        let mut repeats = self.repeats.lock().unwrap_or_else(PoisonError::into_inner);
        let repeat = repeats.get_mut(kind as usize)?;
        match repeat.last {
            Some(last) if now.since(last) < Duration::from_secs(1) => {
                repeat.held_back += 1;
                None
            }
            _ => {
                repeat.last = Some(now);
                Some(std::mem::take(&mut repeat.held_back))
            }
        }
    }
}

impl<C: Clock> Sink for LogSink<C> {
    fn record(&self, event: &Event<'_>) {
        let level = event.kind().level();
        if level > log::max_level() {
            return;
        }
        if level > log::Level::Error {
            log::log!(level, "{event}");
            return;
        }
        match self.admit(event.kind()) {
            Some(0) => log::log!(level, "{event}"),
            Some(held_back) => log::log!(level, "{event} ({held_back} more of this kind before)"),
            None => {}
        }
    }
}

/// A [`Sink`] with a counter for each kind of event. Clones share both.
#[derive(Clone, Debug)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sink: Box<dyn Sink>,
    counters: [AtomicU64; EventKind::ALL.len()],
}

impl Events {
    /// Counts every event and passes it on to `sink`.
    pub fn new(sink: impl Sink) -> Self {
        Events(Arc::new(Inner { sink: Box::new(sink), counters: Default::default() }))
    }

    /// Counts the event and passes it on.
    pub fn raise(&self, event: &Event<'_>) {
        if let Some(counter) = self.0.counters.get(event.kind() as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sink.record(event);
    }

    /// How many events of `kind` were raised so far.
    #[must_use]
    pub fn count(&self, kind: EventKind) -> u64 {
        self.0.counters.get(kind as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

impl Default for Events {
    /// Events go to the [`log`] crate.
    fn default() -> Self {
        Events::new(LogSink::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn every_kind_has_its_own_counter() {
        for (index, kind) in EventKind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
        let events = Events::default();
        events.raise(&Event::LogReleased);
        events.raise(&Event::LogReleased);
        assert_eq!(events.count(EventKind::LogReleased), 2);
        assert_eq!(events.count(EventKind::LogHeld), 0);
    }

    #[test]
    fn a_repeated_error_is_logged_once_a_second_with_a_count() {
        let clock = ManualClock::default();
        let sink = LogSink::with_clock(clock.clone());
        assert_eq!(sink.admit(EventKind::Undecodable), Some(0));
        assert_eq!(sink.admit(EventKind::Undecodable), None);
        assert_eq!(sink.admit(EventKind::Undecodable), None);
        assert_eq!(sink.admit(EventKind::LogHeld), Some(0), "kinds do not hold each other back");
        clock.advance(Duration::from_secs(1));
        assert_eq!(sink.admit(EventKind::Undecodable), Some(2));
    }
}
