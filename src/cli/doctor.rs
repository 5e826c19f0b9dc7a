//! What is wrong, and what to do about it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde_json::json;

use crate::backend::{Page, SessionFilter, Store};
use crate::cli::Context;
use crate::cli::arguments::Doctor;
use crate::cli::failure::{Done, Failure, is_no_database, what_to_do};
use crate::cli::interrupt::{Interrupt, bar, spinner};
use crate::cli::machine;
use crate::cli::output::{self, Colour, one_line};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::id::Realm;
use crate::stores::sqlite::{DatabaseInfo, SqliteStore, SqliteStoreBuilder};

/// Past its deadline by so much, a session should have been swept: a cleaner comes every minute,
/// and pauses ten minutes after a step of the clock.
const BACKLOG: Duration = Duration::from_secs(15 * 60);

/// A log is made to start again at half of this.
const LONGEST_LOG: u64 = 64 << 20;

/// With less room than this a disk is as good as full.
const LEAST_ROOM: u64 = 256 << 20;

/// Clocks of machines differ by less than this.
const SKEW: Duration = Duration::from_secs(60);

/// What to do with a database of which some pages make no sense.
const DAMAGED: &str = "stop the service, keep the file, and `restore` a copy; without one, \
                       `.recover` of the sqlite3 shell saves what can be read";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Fine,
    /// Nothing is wrong with it, or nothing is known.
    Note,
    Wrong,
}

#[derive(Debug)]
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    /// What to do, where something is wrong.
    remedy: Option<String>,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn fine(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Finding { check, state: State::Fine, found: found.into(), remedy: None });
    }

    fn note(&mut self, check: &'static str, found: impl Into<String>, remedy: &str) {
        let remedy = Some(remedy.to_owned());
        self.0.push(Finding { check, state: State::Note, found: found.into(), remedy });
    }

    fn wrong(&mut self, check: &'static str, found: impl Into<String>, remedy: &str) {
        let remedy = Some(remedy.to_owned());
        self.0.push(Finding { check, state: State::Wrong, found: found.into(), remedy });
    }

    fn failed(&mut self, check: &'static str, error: &Error) {
        let remedy = match error.kind() {
            ErrorKind::Corrupt if !is_no_database(error) => DAMAGED,
            _ => what_to_do(error).unwrap_or("see the log of the service"),
        };
        self.wrong(check, error.to_string(), remedy);
    }
}

pub(super) fn doctor(
    args: &Doctor,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let file = context.place.file()?;
    let interrupt = Interrupt::listen()?;
    let mut findings = Findings::default();
    let facts = match file.facts() {
        // Here nothing can be looked at: that is an error, not a finding.
        Err(error) if error.kind() == ErrorKind::NotSetUp => return Err(error.into()),
        Err(error) => {
            findings.failed("file", &error);
            None
        }
        Ok(facts) => Some(facts),
    };
    if let Some(facts) = &facts {
        findings.fine("file", format!("{}, {}", facts.path.display(), HumanBytes(facts.bytes)));
        if facts.read_only {
            let remedy = "run this as the service's user to see what the service can do";
            findings.note("access", "here the file can only be read", remedy);
        }
        look_at_machine(&mut findings, &facts.path, facts);
        look_at_file(&mut findings, facts);
        let goes_on = check(&mut findings, &file, args.quick, &interrupt)?;
        let set_up = matches!(facts.schema, Ok(version) if version == facts.newest_schema);
        if goes_on && set_up {
            match context.place.store_to_read() {
                Ok(store) => look_at_sessions(&mut findings, &store, args, context, &interrupt)?,
                Err(Failure::Store(error)) => findings.failed("tables", &error),
                Err(other) => return Err(other),
            }
        }
    }
    look_at_configuration(&mut findings, context);
    print(&findings, args.json, context, out)
}

fn look_at_machine(findings: &mut Findings, path: &Path, facts: &DatabaseInfo) {
    let wrong = machine::permissions(path);
    if wrong.is_empty() {
        findings.fine("permissions", "only the owner may use the file");
    }
    for found in wrong {
        let remedy = "chown the file to the service's user, chmod 600 it and what is beside it, \
                      chmod o-w the folder";
        findings.wrong("permissions", found, remedy);
    }
    for file in machine::unfinished(path) {
        let remedy = "remove it, unless a restore is running: it may hold sessions";
        findings.note("copies", format!("{} was not finished", file.display()), remedy);
    }
    match machine::file_system(path) {
        Some(kind) if machine::is_network(&kind) => findings.wrong(
            "file system",
            format!("{kind}, a network's"),
            "move the file to a local disk: locks and the log do not work over a network",
        ),
        Some(kind) => findings.fine("file system", kind),
        None => findings.note("file system", "not known here", "keep the file on a local disk"),
    }
    let folder = path.parent().unwrap_or(path);
    match machine::free_bytes(folder) {
        Ok(free) if free < LEAST_ROOM.max(facts.bytes / 10) => findings.wrong(
            "disk",
            format!("{} left", HumanBytes(free)),
            "make room: a full disk ends every change, sign-ins included",
        ),
        Ok(free) => findings.fine("disk", format!("{} left", HumanBytes(free))),
        Err(error) => findings.note("disk", error.to_string(), "see how much room is left"),
    }
}

fn look_at_file(findings: &mut Findings, facts: &DatabaseInfo) {
    match facts.journal.as_str() {
        "wal" => findings.fine("journal", "wal"),
        other => findings.wrong(
            "journal",
            format!("{other}: readers and the writer wait for each other"),
            "run `setup`, or let the service open the file without Journal::Keep",
        ),
    }
    if facts.log_bytes > LONGEST_LOG {
        findings.wrong(
            "log",
            format!("{} long", HumanBytes(facts.log_bytes)),
            "end what reads for long (a shell with an open transaction, a stuck copy), or start \
             the service: its cleaner makes the log start again",
        );
    } else {
        findings.fine("log", HumanBytes(facts.log_bytes).to_string());
    }
    let free = facts.free_pages.saturating_mul(facts.page_size);
    if facts.free_pages > facts.pages / 2 && free > 16 << 20 {
        let remedy = "it is used again as sessions begin; `compact` gives it back";
        findings.note("free pages", HumanBytes(free).to_string(), remedy);
    }
    match &facts.schema {
        Ok(version) if *version == facts.newest_schema => {
            findings.fine("tables", format!("schema version {version}"));
        }
        Ok(0) => findings.wrong("tables", "not set up", "check --db and --table; run `setup`"),
        Ok(version) => findings.wrong(
            "tables",
            format!("schema version {version}, this program has {}", facts.newest_schema),
            "run `migrate`, or start the service's new version",
        ),
        Err(error) => findings.failed("tables", error),
    }
}

/// Whether looking further makes sense.
fn check(
    findings: &mut Findings,
    file: &SqliteStoreBuilder,
    quick: bool,
    interrupt: &Interrupt,
) -> Result<bool, Failure> {
    let spinner = spinner("checking the file");
    spinner.enable_steady_tick(Duration::from_millis(200));
    let checked = file.check_file(quick, interrupt.watch(&spinner));
    spinner.finish_and_clear();
    match checked {
        Ok(ControlFlow::Break(())) => Err(Failure::interrupted("the file was not checked")),
        Ok(ControlFlow::Continue(problems)) if problems.is_empty() => {
            findings.fine("integrity", if quick { "ok, by a quick check" } else { "ok" });
            Ok(true)
        }
        Ok(ControlFlow::Continue(problems)) => {
            let more = match problems.len() {
                1 => String::new(),
                count => format!(", and {} more", count - 1),
            };
            let first = problems.first().map_or("", String::as_str);
            findings.wrong("integrity", format!("{first}{more}"), DAMAGED);
            Ok(true)
        }
        Err(error) => {
            findings.failed("integrity", &error);
            Ok(false)
        }
    }
}

fn look_at_sessions(
    findings: &mut Findings,
    store: &SqliteStore,
    args: &Doctor,
    context: &Context,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let overdue = context.now - BACKLOG;
    match store.index().map(|index| index.stats(overdue)).transpose() {
        Ok(Some(stats)) if stats.expired > 0 => findings.wrong(
            "cleaner",
            format!("{} expired more than 15 minutes ago", HumanCount(stats.expired)),
            "see that the service runs, and its log for CleanerFailed; `sweep` removes them now",
        ),
        Ok(_) => findings.fine("cleaner", "nothing is overdue"),
        Err(error) => findings.failed("cleaner", &error),
    }
    if args.quick {
        let newest = Page::first(NonZeroUsize::MIN.saturating_add(99));
        match store.index().map(|index| index.list(&SessionFilter::All, newest, context.now)) {
            Some(Ok(newest)) => {
                let latest = newest.into_iter().map(|summary| summary.seen).max();
                look_at_clock(findings, latest, context);
            }
            Some(Err(error)) => findings.failed("sessions", &error),
            None => {}
        }
        return Ok(());
    }
    let bar = bar("reading", "sessions");
    let examined = store.scan(interrupt.watch(&bar));
    bar.finish_and_clear();
    match examined {
        Err(error) => findings.failed("sessions", &error),
        Ok(ControlFlow::Break(())) => {
            return Err(Failure::interrupted("not every session was read"));
        }
        Ok(ControlFlow::Continue(examined)) => {
            if examined.undecodable == 0 {
                let read = HumanCount(examined.sessions);
                findings.fine("sessions", format!("all {read} decode"));
            } else {
                let (public_id, why) = match examined.examples.first() {
                    Some((public_id, error)) => (public_id.to_string(), error.to_string()),
                    None => Default::default(),
                };
                findings.wrong(
                    "sessions",
                    format!(
                        "{} of {} do not decode, such as {public_id}: {why}",
                        HumanCount(examined.undecodable),
                        HumanCount(examined.sessions)
                    ),
                    "if a newer version of the service wrote them, go back to it; else `revoke` \
                     them, or let them expire",
                );
            }
            if !examined.realms.is_empty() {
                findings.fine("realms", realms(&examined.realms));
            }
            look_at_clock(findings, examined.latest, context);
        }
    }
    Ok(())
}

/// How many sessions are of each realm, those with the most first.
fn realms(realms: &BTreeMap<Realm, u64>) -> String {
    const MOST: usize = 10;
    let mut realms: Vec<_> = realms.iter().collect();
    realms.sort_by_key(|(_, sessions)| Reverse(**sessions));
    let one = |(realm, sessions): &(&Realm, &u64)| {
        format!("{} {}", HumanCount(**sessions), realm.as_str())
    };
    let some = realms.iter().take(MOST).map(one).collect::<Vec<_>>().join(", ");
    match realms.len().saturating_sub(MOST) {
        0 => some,
        more => format!("{some}, and {more} realms more"),
    }
}

fn look_at_clock(findings: &mut Findings, latest: Option<Timestamp>, context: &Context) {
    match latest.map(|latest| latest.since(context.now)) {
        Some(ahead) if ahead > SKEW => findings.wrong(
            "clock",
            format!("a session was used {} s in the future", ahead.as_secs()),
            "set the clocks of this machine and the service's right (NTP): limits count by them",
        ),
        _ => findings.fine("clock", "no session is from the future"),
    }
}

fn look_at_configuration(findings: &mut Findings, context: &Context) {
    let Some(review) = &context.review else {
        findings.note(
            "cookie",
            "only the application knows its settings",
            "print SessionManager::review(), or offer `doctor` in the application's own program \
             with cli::run_reviewed",
        );
        return;
    };
    // The cookie, and that sessions end; how many there may be is a choice.
    let asked = |requirement: &str| {
        requirement.starts_with("ASVS 3.3.") || requirement.starts_with("ASVS 7.3.")
    };
    let mut unmet = review.unmet().filter(|finding| asked(finding.requirement)).peekable();
    if unmet.peek().is_none() {
        findings.fine("cookie", "the cookie and the limits are as ASVS 5.0 asks");
    }
    for finding in unmet {
        let found = format!("{} is not met: {}", finding.requirement, finding.why);
        findings.wrong("cookie", found, "see CookieConfig and Lifetime for the safe defaults");
    }
}

fn print(
    findings: &Findings,
    as_json: bool,
    context: &Context,
    out: &mut dyn Write,
) -> Result<Done, Failure> {
    let wrong = findings.0.iter().filter(|finding| finding.state == State::Wrong).count();
    if as_json {
        let all: Vec<_> = findings
            .0
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "state": match finding.state {
                        State::Fine => "fine",
                        State::Note => "note",
                        State::Wrong => "wrong",
                    },
                    "found": finding.found,
                    "remedy": finding.remedy,
                })
            })
            .collect();
        let answer = json!({ "wrong": wrong, "findings": all });
        writeln!(out, "{}", output::json(&answer))?;
    } else {
        let style = &context.style;
        for finding in &findings.0 {
            let mark = match finding.state {
                State::Fine => style.paint(Colour::Green, "fine "),
                State::Note => style.paint(Colour::Yellow, "note "),
                State::Wrong => style.paint(Colour::Red, "WRONG"),
            };
            writeln!(out, "{mark} {:<12} {}", finding.check, one_line(&finding.found))?;
            if let Some(remedy) = &finding.remedy {
                writeln!(out, "{:18} -> {}", "", one_line(remedy))?;
            }
        }
    }
    match wrong {
        0 => Ok(Done::Well),
        1 => Err(Failure::new("1 thing is wrong; what to do stands beside it")),
        _ => Err(Failure::new(format!("{wrong} things are wrong; what to do stands beside them"))),
    }
}
