//! Events as lines of the [`log`](::log) crate.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::event::{Event, EventKind, Sink};

/// The target of everything that is logged.
const TARGET: &str = "cloakroom";

/// The time in which an identical line is held back.
const SECOND: Duration = Duration::from_secs(1);

/// The most different lines of one kind of event that are remembered, and so the most that are
/// logged within a second.
const MOST_LINES: usize = 32;

/// Writes events to the [`log`](::log) crate, under the target `cloakroom`.
///
/// Of errors and warnings, an identical line is logged at most once a second, with the number of
/// those that were held back before. A different one is logged at once; up to 32 different ones of
/// one [kind](EventKind) within a second, so that a failing disk does not fill the log.
#[derive(Debug)]
pub struct LogSink<C = SystemClock> {
    clock: C,
    hasher: RandomState,
    recent: Mutex<HashMap<EventKind, Recent>>,
}

/// The lines of one kind that were logged last.
#[derive(Debug, Default)]
struct Recent {
    lines: Vec<Line>,
    /// How many were held back whose line is remembered no more.
    others: u64,
}

#[derive(Debug)]
struct Line {
    /// Of its text.
    hash: u64,
    logged: Timestamp,
    held_back: u64,
}

/// What was held back before a line that is logged.
#[derive(Debug, Default, PartialEq, Eq)]
struct HeldBack {
    identical: u64,
    others: u64,
}

impl fmt::Display for HeldBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.identical, self.others) {
            (0, 0) => Ok(()),
            (identical, 0) => write!(f, " ({identical} identical ones before)"),
            (0, others) => write!(f, " ({others} others of this kind before)"),
            (identical, others) => {
                write!(f, " ({identical} identical ones and {others} others of this kind before)")
            }
        }
    }
}

impl Recent {
    /// What was held back before this line; `None` to hold this one back too.
    fn session_limit(&mut self, hash: u64, now: Timestamp) -> Option<HeldBack> {
        // A clock that was set back holds nothing back.
        let is_over = |line: &Line| now < line.logged || now.since(line.logged) >= SECOND;
        let mut identical = 0;
        if let Some(line) = self.lines.iter_mut().find(|line| line.hash == hash) {
            if !is_over(line) {
                line.held_back += 1;
                return None;
            }
            line.logged = now;
            identical = std::mem::take(&mut line.held_back);
        } else {
            if self.lines.len() >= MOST_LINES {
                let Some(old) = self.lines.iter().position(is_over) else {
                    self.others += 1;
                    return None;
                };
                self.others += self.lines.swap_remove(old).held_back;
            }
            self.lines.push(Line { hash, logged: now, held_back: 0 });
        }
        Some(HeldBack { identical, others: std::mem::take(&mut self.others) })
    }
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
        LogSink { clock, hasher: RandomState::new(), recent: Mutex::default() }
    }

    /// What was held back before this line; `None` to hold this one back too.
    fn session_limit(&self, kind: EventKind, line: &str) -> Option<HeldBack> {
        let (hash, now) = (self.hasher.hash_one(line), self.clock.now());
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.entry(kind).or_default().session_limit(hash, now)
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
        let level = event.kind().level();
        if level > ::log::max_level() {
            return;
        }
        if level > ::log::Level::Warn {
            ::log::log!(target: TARGET, level, "{}", OneLine(event));
            return;
        }
        let line = OneLine(event).to_string();
        if let Some(held_back) = self.session_limit(event.kind(), &line) {
            ::log::log!(target: TARGET, level, "{line}{held_back}");
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

    fn held(identical: u64, others: u64) -> Option<HeldBack> {
        Some(HeldBack { identical, others })
    }

    #[test]
    fn an_identical_line_is_logged_once_a_second_with_a_count() {
        let clock = ManualClock::default();
        let sink = LogSink::with_clock(clock.clone());
        assert_eq!(sink.session_limit(EventKind::Undecodable, "a"), held(0, 0));
        assert_eq!(sink.session_limit(EventKind::Undecodable, "a"), None);
        assert_eq!(sink.session_limit(EventKind::Undecodable, "a"), None);
        assert_eq!(
            sink.session_limit(EventKind::CheckpointBlocked, "a"),
            held(0, 0),
            "each kind for itself"
        );
        clock.advance(SECOND);
        assert_eq!(sink.session_limit(EventKind::Undecodable, "a"), held(2, 0));
        assert_eq!(sink.session_limit(EventKind::Undecodable, "a"), None);
    }

    #[test]
    fn a_different_line_within_the_second_is_logged() {
        let sink = LogSink::with_clock(ManualClock::default());
        for line in ["the printer is on fire", "the shop is shut"] {
            assert_eq!(sink.session_limit(EventKind::HandlerFailed, line), held(0, 0));
            assert_eq!(sink.session_limit(EventKind::HandlerFailed, line), None);
        }
    }

    #[test]
    fn no_more_than_32_different_lines_are_logged_in_a_second() {
        let clock = ManualClock::default();
        let sink = LogSink::with_clock(clock.clone());
        let session_limit = |n: usize| sink.session_limit(EventKind::HandlerFailed, &n.to_string());
        for n in 0..MOST_LINES {
            assert_eq!(session_limit(n), held(0, 0));
        }
        assert_eq!(session_limit(0), None);
        for n in MOST_LINES..1000 {
            assert_eq!(session_limit(n), None);
        }
        clock.advance(SECOND);
        // It takes the place of the first, of which one was held back.
        assert_eq!(session_limit(1000), held(0, 969));
        assert_eq!(sink.recent.lock().unwrap()[&EventKind::HandlerFailed].lines.len(), MOST_LINES);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_no_line_back() {
        let clock = ManualClock::new(Timestamp::from_millis(86_400_000));
        let sink = LogSink::with_clock(clock.clone());
        assert_eq!(sink.session_limit(EventKind::HandlerFailed, "a"), held(0, 0));
        clock.set(Timestamp::from_millis(0));
        assert_eq!(sink.session_limit(EventKind::HandlerFailed, "a"), held(0, 0));
    }

    #[test]
    fn what_was_held_back_is_said_in_the_line() {
        let line = |identical, others| HeldBack { identical, others }.to_string();
        assert_eq!(line(0, 0), "");
        assert_eq!(line(2, 0), " (2 identical ones before)");
        assert_eq!(line(0, 3), " (3 others of this kind before)");
        assert_eq!(line(2, 3), " (2 identical ones and 3 others of this kind before)");
    }
}
