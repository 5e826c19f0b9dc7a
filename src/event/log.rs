//! Events as lines of the [`log`](::log) crate.

use std::fmt::{self, Debug, Write};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::event::{Event, EventKind, Sink};

/// The target of everything that is logged.
const TARGET: &str = "cloakroom";

/// Writes events to the [`log`](::log) crate, under the target `cloakroom`: a repeated error at
/// most once a second, with a count.
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

/// What others wrote (paths, panics, errors of the application) stays on its line.
struct OneLine<'e>(&'e Event<'e>);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'f, 'o>(&'f mut fmt::Formatter<'o>);

        impl fmt::Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c.is_control() {
                    true => write!(self.0, "{}", c.escape_default()),
                    false => self.0.write_char(c),
                })
            }
        }

        write!(Escape(f), "{}", self.0)
    }
}

impl<C: Clock> Sink for LogSink<C> {
    fn record(&self, event: &Event<'_>) {
        let line = OneLine(event);
        let level = event.kind().level();
        if level > ::log::max_level() {
            return;
        }
        if level > ::log::Level::Warn {
            ::log::log!(target: TARGET, level, "{line}");
            return;
        }
        match self.admit(event.kind()) {
            Some(0) => ::log::log!(target: TARGET, level, "{line}"),
            Some(held_back) => {
                ::log::log!(target: TARGET, level, "{line} ({held_back} more of this kind before)")
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn an_event_is_one_line_whatever_others_wrote_into_it() {
        let event = Event::HandlerFailed { error: "a\nb\u{1b}[2J" };
        assert_eq!(OneLine(&event).to_string(), "a handler failed: a\\nb\\u{1b}[2J");
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
