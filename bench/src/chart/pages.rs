//! The tables of figures in docs and bench/README.md, each of which replaces the text between two
//! comments of its page.

use std::fmt::Write;
use std::path::Path;

use crate::chart::{Run, Runs, Wanted};

/// What each figure measures, by its name: on both sides, or first here and then on the other.
const MEMORY: &[(&str, &str)] =
    &[("peer_memory_1t", "in memory: one value read"), ("peer_memory_8t", "the same, 8 threads")];
const PEERS: &[(&str, &str)] = &[
    ("peer_load_1t", "in SQLite: one value read"),
    ("peer_load_8t", "the same, 8 threads"),
    ("peer_save_1t", "one value changed"),
    ("peer_save_8t", "the same, 8 threads"),
    ("peer_request_1t", "one value read, one changed"),
    ("peer_request_8t", "the same, 8 threads"),
];
const READS: &[(&str, &str)] = &[
    ("load_1t", "one value read; `SELECT`"),
    ("load_8t", "the same, 8 threads"),
    ("load_cold_1t", "one value read, no record cache; `SELECT`"),
    ("load_cold_8t", "the same, 8 threads"),
    ("list", "a list of 5 sessions; 5 `SELECT`s"),
    ("load_none", "a request that does not use its session"),
    ("cross_origin", "the check of a request's origin"),
    ("open", "from the start to the first load, a million sessions"),
];
const CHANGES: &[(&str, &str)] = &[
    ("merge_1t", "one value changed; `UPDATE`"),
    ("merge_32t", "the same, 32 threads"),
    ("merge_full_32t", "32 threads, `FULL`; `UPDATE`"),
    ("request_1t", "one read, one changed; `SELECT` and `UPDATE`"),
    ("checkpoint", "one changed, checkpoints included; `UPDATE`"),
    ("checkpoint_p99", "p99 of a change while checkpoints never stop"),
    ("sign_in_1t", "a sign-in; `UPDATE` with `FULL`"),
    ("sign_in_32t", "the same, 32 threads"),
    ("touch", "a read with a touch; a read without"),
];
const SWEEPS: &[(&str, &str)] = &[
    ("sweep", "a row swept in batches; a row of one `DELETE`"),
    ("sweep_p99_load", "p99 of a read during a sweep; before it"),
    ("sweep_p99_merge", "p99 of a change during a sweep; before it"),
    ("sweep_longest_load", "the longest read during a sweep"),
    ("sweep_longest_merge", "the longest change during a sweep"),
];
const CONTENTION: &[(&str, &str)] = &[
    ("contention_p99", "p99 of the visitor: beside one session; beside 400"),
    ("contention_rate", "mean of the visitor: beside one session; beside 400"),
    ("contention_hot", "an update of one session: by 400 threads; by one"),
];
/// The goals of `scale`.
const SCALE: &[(&str, &str)] = &[("memory", ""), ("scale_load_growth", "")];
const HTTP: &[(&str, &str)] = &[
    ("http_read", "rouille, session read"),
    ("http_write", "rouille, session changed"),
    ("http_1ms_read", "rouille, handler of 1 ms, session read"),
    ("http_1ms_write", "rouille, handler of 1 ms, session changed"),
    ("rocket_1ms_read", "Rocket, handler of 1 ms, session read"),
    ("rocket_1ms_write", "Rocket, handler of 1 ms, session changed"),
    ("rocket_read_inline", "Rocket with `inline`, session read"),
    ("rocket_read_crossing", "Rocket, session read"),
    ("rocket_write_inline", "Rocket with `inline`, session changed"),
    ("rocket_write_crossing", "Rocket, session changed"),
    ("rocket_postgres_1ms_read", "Rocket with PostgreSQL, handler of 1 ms, session read"),
    ("rocket_postgres_1ms_write", "Rocket with PostgreSQL, handler of 1 ms, session changed"),
    ("rocket_postgres_read", "Rocket with PostgreSQL, session read"),
    ("rocket_postgres_write", "Rocket with PostgreSQL, session changed"),
];
const MEMCACHED: &[(&str, &str)] = &[
    ("memcached_load_1t", "a load; `get`"),
    ("memcached_load_8t", "the same, 8 threads"),
    ("memcached_merge", "a change; `gets` and `cas`"),
    ("memcached_down", "a load and a change: mean behind a frozen cache, minus mean without"),
];
const POSTGRES: &[(&str, &str)] = &[
    ("postgres_load", "a load; prepared `SELECT`"),
    ("postgres_32t", "the same, 32 threads on 8 connections"),
    ("postgres_merge", "a loaded session changed; `UPDATE … RETURNING`"),
    ("postgres_request", "one value read, one changed; `SELECT` and `UPDATE`"),
    ("postgres_touch", "a touch in a batch of 256; `UPDATE`"),
    ("postgres_sweep", "share of the slower of two cleaners on one table"),
];

/// The operations of docs/scaling.md, and their figures on SQLite, memcached and PostgreSQL: empty
/// if not measured, "n/a" if a store has no such operation.
const COSTS: &[(&str, [&str; 3])] = &[
    ("a load", ["load_1t", "memcached_load_1t", "postgres_load"]),
    ("a load past the record cache", ["load_cold_1t", "n/a", "n/a"]),
    ("a change", ["merge_1t", "memcached_merge", "postgres_merge"]),
    ("a load and a change", ["request_1t", "", "postgres_request"]),
    ("a sign-in", ["sign_in_1t", "", "postgres_operations: sign_in"]),
    ("a touch in a batch", ["touch_later: on the cleaner's thread", "", "postgres_touch"]),
];
const RATES: &[(&str, [&str; 3])] = &[
    ("loads", ["load_8t", "memcached_load_8t", "postgres_32t"]),
    ("rows swept", ["sweep", "n/a", "postgres_sweep_rate: two cleaners"]),
];

/// The table and the indexes of PostgreSQL.
const SIZES: &[(&str, &str)] = &[
    ("table", "table"),
    ("index on the number", "id"),
    ("index on the id hash", "id_hash"),
    ("index on the public id", "public_id"),
    ("index on the user", "user"),
    ("index for the sweep", "sweep"),
];

/// A table, after the name in the comment that begins it.
type Named = (&'static str, String);

pub fn fill(runs: &Runs, docs: &Path) -> Vec<Wanted> {
    let page = |(name, tables): (&str, Vec<Named>)| {
        let path = docs.join(name);
        let mut page = std::fs::read_to_string(&path).expect("the page");
        for (name, table) in tables {
            let (begin, end) = (format!("<!-- figures: {name} -->\n"), "<!-- end -->");
            let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("no {begin}"));
            let (_, after) = rest.split_once(end).unwrap_or_else(|| panic!("no {end}"));
            page = format!("{before}{begin}{table}{end}{after}");
        }
        (path, page)
    };
    let goals = vec![("goals", goals(runs))];
    [("performance.md", performance(runs)), ("scaling.md", scaling(runs))]
        .into_iter()
        .chain([("../bench/README.md", goals)])
        .map(page)
        .collect()
}

fn performance(runs: &Runs) -> Vec<Named> {
    let Runs { limit, peers, scale, http, memcached, postgres, contention } = runs;
    let hand_written = |run, rows| times(run, "cloakroom", "hand-written", rows);
    vec![
        ("in short", in_short(runs)),
        ("lost", lost(runs)),
        ("peers", origin(peers) + &speeds(peers, &[MEMORY, PEERS].concat())),
        ("reads", origin(limit) + &hand_written(limit, READS)),
        ("changes", hand_written(limit, CHANGES)),
        ("sweeps", hand_written(limit, SWEEPS)),
        (
            "contention",
            origin(contention) + &times(contention, "first case", "second case", CONTENTION),
        ),
        ("scale", origin(scale) + &sizes(scale)),
        ("http", origin(http) + &rates(http, HTTP)),
        (
            "memcached",
            origin(memcached) + &times(memcached, "cloakroom", "the client alone", MEMCACHED),
        ),
        ("postgres", origin(postgres) + &hand_written(postgres, POSTGRES)),
    ]
}

/// Every figure that has a goal, as performance.md shows it.
fn goals(Runs { limit, peers, scale, http, memcached, postgres, contention }: &Runs) -> String {
    let of_times = [
        (limit, READS),
        (limit, CHANGES),
        (limit, SWEEPS),
        (contention, CONTENTION),
        (memcached, MEMCACHED),
        (postgres, POSTGRES),
    ];
    let of_rates = [(peers, MEMORY), (peers, PEERS), (http, HTTP), (scale, SCALE)];
    let groups = of_times.map(|group| (true, group)).into_iter();
    let groups = groups.chain(of_rates.map(|group| (false, group)));
    let rows = groups.flat_map(|(of_times, (run, rows))| {
        rows.iter().map(move |(name, _)| goal(run, name, of_times && run.is_ratio(name)))
    });
    table("| | figure | goal | |", rows)
}

/// The time of a request on one thread, and the requests a second of several threads.
fn in_short(Runs { limit, .. }: &Runs) -> String {
    let none = number(limit.value("load_none") / 1e3);
    let none = format!("| does not use its session | {none} µs | |");
    let row = |(what, alone, together, threads): (&str, &str, &str, u32)| {
        let [alone, together] = [alone, together].map(|name| limit.side(name, "cloakroom"));
        let (alone, rate) = (time(alone), per_second(together));
        format!("| {what} | {alone} | {rate} with {threads} threads |")
    };
    let rows = [
        ("reads it", "load_1t", "load_8t", 8),
        ("changes it", "merge_1t", "merge_32t", 32),
        ("signs a user in", "sign_in_1t", "sign_in_32t", 32),
    ];
    let head = "| a request that | one thread: its time | several threads: requests a second |";
    table(head, std::iter::once(none).chain(rows.map(row)))
}

/// The share of its requests per second that a server loses.
fn lost(Runs { http, .. }: &Runs) -> String {
    let columns = [
        ("rouille, empty handler", ["http_read", "http_write"]),
        ("rouille, 1 ms", ["http_1ms_read", "http_1ms_write"]),
        ("Rocket, empty handler", ["rocket_read_crossing", "rocket_write_crossing"]),
        ("Rocket, 1 ms", ["rocket_1ms_read", "rocket_1ms_write"]),
        ("Rocket with PostgreSQL, 1 ms", ["rocket_postgres_1ms_read", "rocket_postgres_1ms_write"]),
    ];
    let row = |(at, what): (usize, &str)| {
        let lost =
            columns.map(|(_, names)| format!("{:.0} %", 100.0 * (1.0 - http.value(names[at]))));
        format!("| {what} | {} |", lost.join(" | "))
    };
    let head = format!("| if each request | {} |", columns.map(|(server, _)| server).join(" | "));
    table(&head, ["reads its session", "changes it"].into_iter().enumerate().map(row))
}

fn scaling(runs: &Runs) -> Vec<Named> {
    vec![
        ("costs", stores(runs, COSTS, time)),
        ("rates", stores(runs, RATES, per_second)),
        ("size", postgres_size(&runs.postgres)),
    ]
}

/// One operation in each row, on each of the stores.
fn stores(runs: &Runs, rows: &[(&str, [&str; 3])], show: fn(f64) -> String) -> String {
    let row = |(what, names): &(&str, [&str; 3])| {
        let cells = [&runs.limit, &runs.memcached, &runs.postgres].into_iter().zip(names);
        let cells = cells.map(|(run, name)| match *name {
            "" => "–".to_owned(),
            "n/a" => "n/a".to_owned(),
            name if is_whole_request(name) => format!("{} ¹", show(run.operation(name))),
            name => show(run.operation(name)),
        });
        format!("| {what} | {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    table("| | SQLite | memcached | PostgreSQL, `fsync = off` |", rows.iter().map(row))
}

/// Whether a figure is of whole requests. The others are of calls of the store.
fn is_whole_request(name: &str) -> bool {
    let families = ["load_", "merge_", "request_", "sign_in_", "postgres_request"];
    families.iter().any(|family| name.starts_with(family))
}

/// The bytes of a session, and the gigabytes of a hundred million.
fn postgres_size(run: &Run) -> String {
    let bytes = |label| run.point("postgres_size", label);
    let sizes = SIZES.iter().map(|(what, label)| (*what, bytes(label)));
    let all = SIZES.iter().map(|(_, label)| bytes(label)).sum();
    let row = |(what, bytes): (&str, f64)| {
        format!("| {what} | {bytes:.0} | {} GB |", number(bytes / 10.0))
    };
    table("| | bytes | 100 million sessions |", sizes.chain([("all", all)]).map(row))
}

/// The line about the run above a table.
fn origin(run: &Run) -> String {
    let others = run.0["others_percent"].as_f64().unwrap_or(0.0);
    let (date, cores) = (run.0["date"].as_str().unwrap_or("?"), &run.0["cores"]);
    format!("{date}; other programs used {others:.0} % of the {cores} cores meanwhile.\n\n")
}

fn table(head: &str, rows: impl Iterator<Item = String>) -> String {
    let columns = head.matches('|').count() - 1;
    let mut table = format!("{head}\n|{}\n", "---|".repeat(columns));
    for row in rows {
        table.push_str(&row);
        table.push('\n');
    }
    table
}

/// Ratios of times, of which less is better, and figures that are no ratio.
fn times(run: &Run, ours: &str, other: &str, rows: &[(&str, &str)]) -> String {
    let head = format!("| | what is measured | {ours} | {other} | ratio |");
    let row = |(name, what): &(&str, &str)| {
        if !run.is_ratio(name) {
            return format!("| `{name}` | {what} | {} | – | – |", amount(run, name));
        }
        let [ours, theirs] = [run.side(name, "cloakroom"), run.best_other(name).1].map(time);
        let ratio = number(run.time_ratio(name));
        format!("| `{name}` | {what} | {ours} | {theirs} | **{ratio}** |")
    };
    table(&head, rows.iter().map(row))
}

/// Speeds beside peers: more is better.
fn speeds(run: &Run, rows: &[(&str, &str)]) -> String {
    let head = "| | what is measured | cloakroom | best peer | times as fast |";
    let row = |(name, what): &(&str, &str)| {
        let (ours, ratio) = (time(run.side(name, "cloakroom")), number(run.value(name)));
        let (peer, theirs) = run.best_other(name);
        let (peer, theirs) = (peer.trim_start_matches("tower-sessions").trim(), time(theirs));
        let peer = peer.trim_start_matches('-');
        format!("| `{name}` | {what} | {ours} | {theirs}, {peer} | **{ratio}** |")
    };
    table(head, rows.iter().map(row))
}

/// Requests a second with sessions and without: more is better.
fn rates(run: &Run, rows: &[(&str, &str)]) -> String {
    let head = "| | what is measured | with sessions | without | ratio |";
    let row = |(name, what): &(&str, &str)| {
        let rate = |time: f64| thousands((1e4 / time).round() * 100.0);
        let [with, without] = [run.side(name, "cloakroom"), run.best_other(name).1].map(rate);
        let ratio = number(run.value(name));
        format!("| `{name}` | {what} | {with}/s | {without}/s | **{ratio}** |")
    };
    table(head, rows.iter().map(row))
}

/// A figure that is no ratio of two sides.
fn amount(run: &Run, name: &str) -> String {
    let (value, unit) = (number(run.value(name)), run.figure(name)["unit"].as_str());
    format!("{value} {}", unit.unwrap_or_default()).trim_end().to_owned()
}

/// The row of a goal: a bound of the ratio of times, or of the figure itself.
fn goal(run: &Run, name: &str, of_times: bool) -> String {
    let (value, (at_most, bound)) = (run.value(name), run.goal(name));
    let met = if at_most { value <= bound } else { value >= bound };
    let (sign, figure, shown) = match (at_most, of_times) {
        (true, _) => ('≤', value, bound),
        (false, true) => ('≤', run.time_ratio(name), 1.0 / bound),
        (false, false) => ('≥', value, bound),
    };
    let figure = number_beside(figure, shown);
    let unit = run.figure(name)["unit"].as_str().unwrap_or_default();
    let figure = format!("{figure} {unit}");
    let shown = format!("{shown:.2}");
    let shown = shown.trim_end_matches('0').trim_end_matches('.');
    let result = if met { "met" } else { "**missed**" };
    format!("| `{name}` | {} | {sign} {shown} | {result} |", figure.trim_end())
}

/// Microseconds, or milliseconds from a thousand on.
fn time(microseconds: f64) -> String {
    match microseconds {
        long if long >= 1000.0 => format!("{} ms", number(long / 1000.0)),
        short => format!("{} µs", number(short)),
    }
}

fn sizes(run: &Run) -> String {
    let rows = [
        ("load", "scale_load", "µs"),
        ("change, checkpoint included", "scale_merge", "µs"),
        ("list of a user's 5 sessions", "scale_list", "µs"),
        ("sweep, a row", "scale_sweep", "µs"),
        ("start to first load", "scale_open", "ms"),
        ("resident memory", "scale_memory", "MiB"),
        ("file", "scale_file", "MiB"),
    ];
    let mut head = String::from("| sessions |");
    for (sessions, _) in run.points("scale_load") {
        write!(head, " {} |", thousands(sessions)).expect("a string takes everything");
    }
    let row = |(what, name, unit): (&str, &str, &str)| {
        let mut row = format!("| {what} |");
        for (_, value) in run.points(name) {
            write!(row, " {} {unit} |", number(value)).expect("a string takes everything");
        }
        row
    };
    table(&head, rows.into_iter().map(row))
}

/// At most three significant digits, and whole numbers in full.
fn number(value: f64) -> String {
    match value {
        value if value >= 1e4 => thousands(value),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.095 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// With one more digit where the number would look like the goal.
fn number_beside(value: f64, goal: f64) -> String {
    let shown = number(value);
    if value != goal && shown == number(goal) { format!("{value:.3}") } else { shown }
}

/// The operations a second, at microseconds for each.
fn per_second(microseconds: f64) -> String {
    three_digits(1e6 / microseconds)
}

/// A whole number with three significant digits.
fn three_digits(value: f64) -> String {
    thousands(format!("{value:.2e}").parse().expect("a number"))
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
