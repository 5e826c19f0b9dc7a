//! Output: times, counts, realms, tables, colours, JSON; control characters in it are escaped.

use std::env;
use std::io::{self, BufRead, Write};

use cloakroom::clock::Timestamp;
use cloakroom::id::Realm;
use comfy_table::{ColumnConstraint, ContentArrangement, Width, presets};
use console::Term;
use indicatif::HumanCount;
use jiff::tz::TimeZone;
use serde_json::Value as Json;

use crate::error::{CliError, CliResult};

/// The style of output for people.
#[derive(Clone, Debug)]
pub(crate) struct Style {
    zone: TimeZone,
    utc: bool,
    terminal: bool,
    colours: bool,
    /// The terminal's width; `None` for no limit.
    width: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Colour {
    Bold,
    Green,
    Yellow,
    Red,
}

/// Returns whether `c` is a control character or changes the direction of text.
fn is_control(c: char) -> bool {
    let changes_direction = matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() || changes_direction
}

/// Returns untrusted text (users, user agents, errors) as one line without control characters.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

/// Returns JSON on one line, with control characters escaped.
pub(crate) fn json(value: &Json) -> String {
    json_text(&value.to_string())
}

/// Returns JSON `text` on one line, with control characters escaped, which occur inside strings
/// only. Leaves the rest as it was written.
pub(crate) fn json_text(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            // Inside a string JSON has them as escapes.
            '\t' | '\n' | '\r' => line.push(' '),
            // All of them fit into the 16 bits of one escape.
            c if is_control(c) => line.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => line.push(c),
        }
    }
    line
}

/// Returns a time in JSON: RFC 3339 in UTC with milliseconds; null for the infinite future.
pub(crate) fn json_time(time: Timestamp) -> Json {
    match jiff::Timestamp::from_millisecond(time.as_millis()) {
        Ok(time) => Json::String(format!("{time:.3}")),
        Err(_) => Json::Null,
    }
}

impl Style {
    pub(crate) fn new(utc: bool, is_terminal: bool) -> Self {
        // A terminal of unknown width gets unlimited lines.
        let size = if is_terminal { Term::stdout().size_checked() } else { None };
        Style {
            zone: if utc { TimeZone::UTC } else { TimeZone::system() },
            utc,
            terminal: is_terminal,
            colours: allows_colours(is_terminal, |name| env::var(name).ok()),
            width: size.map(|(_, columns)| columns),
        }
    }

    pub(crate) fn time(&self, time: Timestamp) -> String {
        match jiff::Timestamp::from_millisecond(time.as_millis()) {
            Ok(time) => {
                let time = time.to_zoned(self.zone.clone());
                let mark = if self.utc { "Z" } else { "" };
                format!("{}{mark}", time.strftime("%Y-%m-%d %H:%M:%S"))
            }
            Err(_) => "never".to_owned(),
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Returns the last days up to `now`, in order: their names and start times.
    pub(crate) fn days(&self, now: Timestamp, days: usize) -> Vec<(String, Timestamp)> {
        let Ok(now) = jiff::Timestamp::from_millisecond(now.as_millis()) else {
            return Vec::new();
        };
        let mut begun = Vec::new();
        let mut day = now.to_zoned(self.zone.clone()).date();
        for _ in 0..days {
            if let Ok(start) = day.to_zoned(self.zone.clone()) {
                let start = Timestamp::from_millis(start.timestamp().as_millisecond());
                begun.push((day.to_string(), start));
            }
            let Ok(before) = day.yesterday() else { break };
            day = before;
        }
        begun.reverse();
        begun
    }

    /// Returns this style with times in UTC.
    pub(crate) fn in_utc(&self) -> Style {
        Style { zone: TimeZone::UTC, utc: true, ..self.clone() }
    }

    pub(crate) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Bold => 1,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Red => 31,
        };
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Returns a line with a name in a column of this width, and a value.
    pub(crate) fn line(&self, width: usize, name: &str, value: &str) -> String {
        format!("{} {}", self.paint(Colour::Bold, &format!("{name:<width$}")), one_line(value))
    }

    /// Returns a table of at most the terminal's width. The first column is never wrapped.
    pub(crate) fn table(&self, header: Vec<&'static str>) -> PagedTable {
        PagedTable { header, width: self.width, columns: Vec::new() }
    }
}

/// A table that is printed page by page, with one header.
pub(crate) struct PagedTable {
    header: Vec<&'static str>,
    width: Option<u16>,
    /// The widths of the columns so far; empty before the first page.
    columns: Vec<u16>,
}

impl PagedTable {
    /// Formats the next rows, in columns at least as wide as before.
    pub(crate) fn page(&mut self, rows: &[Vec<String>]) -> String {
        if rows.is_empty() {
            return String::new();
        }
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        if self.columns.is_empty() {
            table.set_header(self.header.iter());
        }
        for row in rows {
            table.add_row(row.iter().map(|cell| one_line(cell)).collect::<Vec<_>>());
        }
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
                if let Some(first) = table.column_mut(0) {
                    first.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
                for (column, least) in table.column_iter_mut().zip(&self.columns) {
                    let least = Width::Fixed(least.saturating_add(GAP));
                    column.set_constraint(ColumnConstraint::LowerBoundary(least));
                }
            }
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        let widths = table.column_max_content_widths();
        self.columns.resize(widths.len(), 0);
        for (column, width) in self.columns.iter_mut().zip(widths) {
            *column = width.max(*column);
        }
        table.trim_fmt() + "\n"
    }
}

/// Spaces between two columns.
const GAP: u16 = 2;

/// Returns whether the output may have colours: a terminal, unless `NO_COLOR` is set
/// (<https://no-color.org>).
fn allows_colours(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_terminal && !refused && variable("TERM").is_none_or(|term| term != "dumb")
}

/// Returns a number of sessions as text.
pub(crate) fn sessions_text(count: u64) -> String {
    match count {
        1 => "1 session".to_owned(),
        _ => format!("{} sessions", HumanCount(count)),
    }
}

/// Returns the number of live sessions, or `None` if it is not known, as text.
pub(crate) fn live_sessions_text(live: Option<u64>) -> String {
    match live {
        None => "all sessions".to_owned(),
        Some(1) => "1 live session".to_owned(),
        Some(live) => format!("{} live sessions", HumanCount(live)),
    }
}

/// Returns the realms that a command acts on, as text.
pub(crate) fn scope(realm: Option<&Realm>) -> String {
    match realm {
        Some(realm) => format!("in realm {}", realm.as_str()),
        None => "in all realms".to_owned(),
    }
}

/// Prints what the command is about to do, and asks for confirmation unless `--yes` gave it. Only
/// `yes` confirms; any other input, and a closed one, does not.
pub(crate) fn ask(about: &str, yes: bool) -> CliResult {
    let mut stderr = io::stderr();
    let about = one_line(about);
    if yes {
        writeln!(stderr, "{about}")?;
        return Ok(());
    }
    write!(stderr, "{about}\nType yes to go on: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    if !answer.ends_with('\n') {
        writeln!(stderr)?;
    }
    Err(CliError::new("nothing was changed; answer yes, or give --yes"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn style(width: Option<u16>) -> Style {
        Style { zone: TimeZone::UTC, utc: true, terminal: false, colours: false, width }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(one_line("a\u{1b}[2J\nb\u{9b}c\u{202e}é"), "a\\u{1b}[2J\\nb\\u{9b}c\\u{202e}é");
        let value = json!({ "a\u{9b}": ["\u{9b}\u{1b}\u{202e}\n\"\\", {}, [], [1, 2]] });
        for text in [value.to_string(), format!("{value:#}")] {
            let text = json_text(&text);
            assert!(!text.chars().any(is_control), "{text}");
            assert_eq!(serde_json::from_str::<Json>(&text).unwrap(), value);
        }
    }

    #[test]
    fn json_stays_as_it_was_written() {
        for value in [
            json!(null),
            json!([]),
            json!({}),
            json!([1, [], {}, [[2]], "[{,:\\\"]"]),
            json!({ "a": { "b": [1, 2], "c": {} }, "d": -1.5e300, "e:": "\\" }),
        ] {
            assert_eq!(json_text(&value.to_string()), value.to_string());
        }
        let numbers = "[340282366920938463463374607431768211455,1.10,-0,1e999]";
        assert_eq!(json_text(numbers), numbers);
    }

    #[test]
    fn colours_are_for_terminals_and_never_with_no_color() {
        let args = |no_color: Option<&str>, term: &str| {
            let no_color = no_color.map(str::to_owned);
            let term = term.to_owned();
            move |name: &str| if name == "TERM" { Some(term.clone()) } else { no_color.clone() }
        };
        assert!(allows_colours(true, args(None, "xterm")));
        assert!(allows_colours(true, args(Some(""), "xterm")));
        assert!(!allows_colours(true, args(Some("1"), "xterm")));
        assert!(!allows_colours(true, args(None, "dumb")));
        assert!(!allows_colours(false, args(None, "xterm")));
        assert_eq!(style(None).paint(Colour::Red, "x"), "x");
    }

    #[test]
    fn a_table_fits_the_terminal_and_keeps_public_ids_whole() {
        let agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)";
        let row = vec!["0".repeat(32), "ada".to_owned(), agent.to_owned()];
        let header = &["PUBLIC_ID", "USER", "AGENT"];
        let narrow = style(Some(60)).table(header.to_vec()).page(std::slice::from_ref(&row));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert!(narrow.contains(&row[0]), "{narrow}");
        let wide = style(None).table(header.to_vec()).page(&[row]);
        assert_eq!(wide.lines().count(), 2, "{wide}");
    }

    #[test]
    fn the_pages_of_a_table_share_a_header_and_their_columns() {
        let page = |cells: &[&str]| vec![cells.iter().map(|cell| (*cell).to_owned()).collect()];
        let mut table = style(None).table(vec!["A", "B", "C"]);
        let mut shown = table.page(&page(&["wide cell", "b", "c"]));
        shown += &table.page(&page(&["a", "wider than before", "c"]));
        shown += &table.page(&page(&["a", "b", "c"]));
        shown += &table.page(&[]);
        let expected = "\
A          B  C
wide cell  b  c
a          wider than before  c
a          b                  c
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn times_are_written_as_documented() {
        let time = Timestamp::from_millis(1_700_000_000_123);
        assert_eq!(json_time(time), json!("2023-11-14T22:13:20.123Z"));
        assert_eq!(json_time(Timestamp::MAX), Json::Null);
        assert_eq!(style(None).time(time), "2023-11-14 22:13:20Z");
        assert_eq!(style(None).time(Timestamp::MAX), "never");
        let days = style(None).days(time, 2);
        let names: Vec<_> = days.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["2023-11-13", "2023-11-14"]);
        assert_eq!(days[1].1.as_millis(), 1_699_920_000_000);
    }
}
