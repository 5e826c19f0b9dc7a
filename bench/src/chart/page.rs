//! The tables of docs/performance.md, each of which replaces the text between two comments.

use std::fmt::Write;
use std::path::Path;

use crate::chart::{Run, Runs};

pub fn fill(runs: &Runs, path: &Path) {
    let mut page = std::fs::read_to_string(path).expect("the page");
    for (name, table) in [
        ("limit", ratios(&runs.limit)),
        ("peers", ratios(&runs.peers)),
        ("scale", sizes(&runs.scale)),
        ("http", ratios(&runs.http)),
        ("memcached", ratios(&runs.memcached)),
        ("postgres", ratios(&runs.postgres)),
        ("contention", ratios(&runs.contention)),
        ("pieces", format!("```text\n{}\n```\n", runs.pieces.trim_end())),
    ] {
        let (begin, end) = (format!("<!-- figures: {name} -->\n"), "<!-- end -->");
        let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
        let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("no {end}"));
        page = format!("{before}{begin}{table}{end}{after}");
    }
    std::fs::write(path, page).expect("the page");
}

/// The line about the machine above a table.
fn origin(run: &Run) -> String {
    let others = run.0["others_percent"].as_f64().unwrap_or(0.0);
    format!("{} cores; other programs used {others:.0} % of them meanwhile.\n\n", run.0["cores"])
}

fn ratios(run: &Run) -> String {
    let mut table = origin(run);
    table.push_str("| | measured | goal | | from |\n|---|---|---|---|---|\n");
    for figure in run.figures() {
        let (Some(value), Some(goal)) = (figure["value"].as_f64(), figure["goal"].as_str()) else {
            continue;
        };
        let (sign, bound) = goal.split_once(' ').expect("a sign and a bound");
        let bound: f64 = bound.parse().expect("a number");
        let met = if sign == "<=" { value <= bound } else { value >= bound };
        let (name, from) = (figure["name"].as_str(), figure["from"].as_str());
        writeln!(
            table,
            "| `{}` | **{}** | {} {bound} | {} | {} |",
            name.expect("a name"),
            number(value),
            if sign == "<=" { '≤' } else { '≥' },
            if met { "met" } else { "not met" },
            from.expect("words"),
        )
        .expect("a string takes everything");
    }
    table
}

fn sizes(run: &Run) -> String {
    let mut table = origin(run);
    let rows = [
        ("load", "scale_load", "µs"),
        ("merge, checkpoint included", "scale_merge", "µs"),
        ("list of a user's 5 sessions", "scale_list", "µs"),
        ("sweep, a row", "scale_sweep", "µs"),
        ("start to first load", "scale_open", "ms"),
        ("resident memory", "scale_memory", "MiB"),
        ("file", "scale_file", "MiB"),
    ];
    table.push_str("| sessions |");
    for (sessions, _) in run.points("scale_load") {
        write!(table, " {} |", thousands(sessions)).expect("a string takes everything");
    }
    let columns = run.points("scale_load").len();
    writeln!(table, "\n|---|{}", "---|".repeat(columns)).expect("a string takes everything");
    for (what, name, unit) in rows {
        write!(table, "| {what} |").expect("a string takes everything");
        for (_, value) in run.points(name) {
            write!(table, " {} {unit} |", number(value)).expect("a string takes everything");
        }
        table.push('\n');
    }
    table.push('\n');
    table + ratios(run).split_once("\n\n").expect("the table follows the origin").1
}

/// Three significant digits, as far as they are decimals.
fn number(value: f64) -> String {
    match value {
        value if value >= 1e4 => thousands(value),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A whole number with separators of thousands.
pub fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
