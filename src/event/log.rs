//! The default sink: writes events to the [`log`](https://docs.rs/log) crate and limits the rate of
//! repeated lines.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write as _};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write as _};
use std::sync::Mutex;
use std::time::Duration;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::event::{Event, EventKind, Sink};
use crate::sync::IgnorePoison;

/// The target of all log records.
const TARGET: &str = "cloakroom";

/// The time for which a logged line suppresses identical ones, and counts towards [`MAX_LINES`].
const SUPPRESSION_TIME: Duration = Duration::from_secs(1);

/// The maximum number of different lines of one kind that are logged within that time.
const MAX_LINES: usize = 32;

/// The default sink. It writes events to the [`log`](https://docs.rs/log) crate, under the target
/// `cloakroom`.
///
/// An error or warning with the same text is logged at most once a second; the next line has the
/// number of suppressed ones. At most 32 different lines of one [kind](EventKind) are logged within
/// a second, so that a failing disk does not fill the log.
///
/// In a program without a logger, [`Event::InsecureConnection`] is written to standard error. A
/// developer who opens the application over plain HTTP would otherwise see only that no session
/// lasts.
#[derive(Debug)]
pub struct LogSink<C = SystemClock> {
    clock: C,
    hasher: RandomState,
    recent: Mutex<HashMap<EventKind, RecentLines>>,
}

/// The lines of one kind that were logged within the last second.
#[derive(Debug, Default)]
struct RecentLines {
    lines: Vec<Line>,
    /// The number of suppressed lines that are not remembered any more.
    others: u64,
}

#[derive(Debug)]
struct Line {
    /// The hash of the text.
    hash: u64,
    logged_at: Timestamp,
    suppressed: u64,
}

/// Returns what the next logged line says of the suppressed ones.
fn suppression_note(identical: u64, others: u64) -> String {
    match (identical, others) {
        (0, 0) => String::new(),
        (_, 0) => format!(" ({identical} identical ones before)"),
        (0, _) => format!(" ({others} others of this kind before)"),
        _ => format!(" ({identical} identical ones and {others} others of this kind before)"),
    }
}

impl LogSink {
    /// Makes a sink that reads the system clock.
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
    /// Makes a sink that measures time by `clock`.
    pub fn with_clock(clock: C) -> Self {
        LogSink { clock, hasher: RandomState::new(), recent: Mutex::default() }
    }

    /// Counts this line. If it is to be logged, returns the numbers of lines of this kind that were
    /// suppressed before: identical ones and others.
    fn admit(&self, kind: EventKind, line: &str) -> Option<(u64, u64)> {
        let hash = self.hasher.hash_one(line);
        let now = self.clock.now();
        let mut recent = self.recent.lock().ignore_poison();
        let RecentLines { lines, others } = recent.entry(kind).or_default();
        let mut identical = 0;
        // If the clock was set back, no line is suppressed.
        let is_over =
            |line: &mut Line| now < line.logged_at || now.since(line.logged_at) >= SUPPRESSION_TIME;
        for line in lines.extract_if(.., is_over) {
            if line.hash == hash {
                identical = line.suppressed;
            } else {
                *others += line.suppressed;
            }
        }
        if let Some(line) = lines.iter_mut().find(|line| line.hash == hash) {
            line.suppressed += 1;
            return None;
        }
        if lines.len() >= MAX_LINES {
            *others += 1;
            return None;
        }
        lines.push(Line { hash, logged_at: now, suppressed: 0 });
        Some((identical, std::mem::take(others)))
    }
}

/// Returns whether `c` changes the direction of the text after it, which could hide parts of a
/// line.
fn changes_direction(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Formats an event on one line: control characters in paths, panics and errors of the application
/// are escaped, and those that change the direction of text.
struct OneLine<'e>(&'e Event<'e>);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'f, 'o>(&'f mut fmt::Formatter<'o>);

        impl fmt::Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| {
                    if c.is_control() || changes_direction(c) {
                        write!(self.0, "{}", c.escape_default())
                    } else {
                        self.0.write_char(c)
                    }
                })
            }
        }

        write!(Escape(f), "{}", self.0)
    }
}

impl<C: Clock> Sink for LogSink<C> {
    fn record(&self, event: &Event<'_>) {
        let level = event.level();
        if level > ::log::max_level() {
            let is_silent = ::log::max_level() == ::log::LevelFilter::Off;
            if is_silent && event.kind() == EventKind::InsecureConnection {
                // Standard error may be closed.
                let _ = writeln!(io::stderr(), "cloakroom: {}", OneLine(event));
            }
            return;
        }
        if level > ::log::Level::Warn {
            ::log::log!(target: TARGET, level, "{}", OneLine(event));
            return;
        }
        let line = OneLine(event).to_string();
        if let Some((identical, others)) = self.admit(event.kind(), &line) {
            ::log::log!(target: TARGET, level, "{line}{}", suppression_note(identical, others));
        }
    }

    fn keeps(&self, kind: EventKind) -> bool {
        ::log::log_enabled!(target: TARGET, kind.level())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn control_characters_of_an_event_are_escaped() {
        let event = Event::HandlerFailed { error: "a\nb\u{1b}[2J" };
        assert_eq!(OneLine(&event).to_string(), "a handler failed: a\\nb\\u{1b}[2J");
        let event = Event::HandlerFailed { error: "a\u{202e}b" };
        assert_eq!(OneLine(&event).to_string(), "a handler failed: a\\u{202e}b");
    }

    #[test]
    fn an_identical_line_is_logged_once_a_second_with_a_count() {
        let clock = ManualClock::default();
        let sink = LogSink::with_clock(clock.clone());
        assert_eq!(sink.admit(EventKind::Undecodable, "a"), Some((0, 0)));
        assert_eq!(sink.admit(EventKind::Undecodable, "a"), None);
        assert_eq!(sink.admit(EventKind::Undecodable, "a"), None);
        assert_eq!(
            sink.admit(EventKind::CheckpointBlocked, "a"),
            Some((0, 0)),
            "kinds are counted separately"
        );
        clock.advance(SUPPRESSION_TIME);
        assert_eq!(sink.admit(EventKind::Undecodable, "a"), Some((2, 0)));
        assert_eq!(sink.admit(EventKind::Undecodable, "a"), None);
    }

    #[test]
    fn a_different_line_within_the_second_is_logged() {
        let sink = LogSink::with_clock(ManualClock::default());
        for line in ["the printer is on fire", "the shop is shut"] {
            assert_eq!(sink.admit(EventKind::HandlerFailed, line), Some((0, 0)));
            assert_eq!(sink.admit(EventKind::HandlerFailed, line), None);
        }
    }

    #[test]
    fn no_more_than_32_different_lines_are_logged_in_a_second() {
        let clock = ManualClock::default();
        let sink = LogSink::with_clock(clock.clone());
        let admit = |n: usize| sink.admit(EventKind::HandlerFailed, &n.to_string());
        for n in 0..MAX_LINES {
            assert_eq!(admit(n), Some((0, 0)));
        }
        assert_eq!(admit(0), None);
        for n in MAX_LINES..1000 {
            assert_eq!(admit(n), None);
        }
        clock.advance(SUPPRESSION_TIME);
        // One of them was identical to the first line, which is forgotten.
        assert_eq!(admit(1000), Some((0, 969)));
        assert_eq!(sink.recent.lock().unwrap()[&EventKind::HandlerFailed].lines.len(), 1);
    }

    #[test]
    fn no_line_is_suppressed_when_the_clock_is_set_back() {
        let clock = ManualClock::new(Timestamp::from_millis(86_400_000));
        let sink = LogSink::with_clock(clock.clone());
        assert_eq!(sink.admit(EventKind::HandlerFailed, "a"), Some((0, 0)));
        clock.set(Timestamp::from_millis(0));
        assert_eq!(sink.admit(EventKind::HandlerFailed, "a"), Some((0, 0)));
    }

    #[test]
    fn the_next_line_says_how_many_were_suppressed() {
        assert_eq!(suppression_note(0, 0), "");
        assert_eq!(suppression_note(2, 0), " (2 identical ones before)");
        assert_eq!(suppression_note(0, 3), " (3 others of this kind before)");
        assert_eq!(suppression_note(2, 3), " (2 identical ones and 3 others of this kind before)");
    }
}
