//! The command `doctor`: finds problems and their remedies.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use cloakroom::clock::Timestamp;
use cloakroom::id::Realm;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::manager::Area;
use cloakroom::stores::admin::Admin;
use cloakroom::stores::sqlite::shared::{LOG_RESTART_BYTES, MAX_LOG_BYTES, folder};
use cloakroom::stores::sqlite::{DatabaseInfo, OpenFailure, SqliteFile};
use cloakroom::{Error, ErrorKind};
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde_json::json;

use crate::arguments::DoctorArgs;
use crate::database::Database;
use crate::error::{CliError, CliResult, DAMAGED, FULL, REFERENCES};
use crate::output::{self, Colour, Style, one_line};
use crate::processes::{self, ProcessInfo};
use crate::progress::{bar, spinner};
#[cfg(feature = "postgres")]
use crate::server_checks;
use crate::signals::Interrupt;
use crate::{CliContext, host_checks};

/// The time after its deadline by which a session should have been swept: the cleaner runs every
/// minute, and pauses for ten minutes after a step of the clock.
const BACKLOG: Duration = Duration::from_secs(15 * 60);

/// The largest difference between the clocks of two machines that is no problem.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(60);

/// The remedy for a SQLite database without a readable schema, which `restore` cannot write over.
const UNREADABLE: &str = "stop the service, move the file away with its -wal and -shm, and \
                          `restore` the last copy; without one see \"Damage without a copy\" in \
                          docs/rescue.md";

/// The remedy for files of another user than the service's.
const CHOWN: &str = "`chown` the folder, the file, its -wal and its -shm to the service's user, \
                     `chmod 600` the files, `chmod u+rwx,o-w` the folder";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Ok,
    /// Not a problem, or not known.
    Note,
    Problem,
}

impl Severity {
    /// Returns the name in JSON.
    fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Problem => "problem",
        }
    }

    /// Returns the name in text.
    fn mark(self) -> &'static str {
        if self == Severity::Problem { "PROBLEM" } else { self.name() }
    }

    fn colour(self) -> Colour {
        match self {
            Severity::Ok => Colour::Green,
            Severity::Note => Colour::Yellow,
            Severity::Problem => Colour::Red,
        }
    }
}

#[derive(Debug)]
struct DoctorFinding {
    check: &'static str,
    severity: Severity,
    found: String,
    /// The advice to the operator.
    remedy: Option<String>,
}

/// The findings of the checks so far, and what the checks use.
pub(crate) struct Examination<'c> {
    findings: Vec<DoctorFinding>,
    context: &'c CliContext,
    database: &'c Database,
    is_quick: bool,
    interrupt: Interrupt,
}

impl Examination<'_> {
    pub(crate) fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        let severity = Severity::Ok;
        let found = found.into();
        self.findings.push(DoctorFinding { check, severity, found, remedy: None });
    }

    pub(crate) fn note(&mut self, check: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(Severity::Note, check, found.into(), remedy);
    }

    pub(crate) fn problem(&mut self, check: &'static str, found: impl Into<String>, remedy: &str) {
        self.add(Severity::Problem, check, found.into(), remedy);
    }

    fn add(&mut self, severity: Severity, check: &'static str, found: String, remedy: &str) {
        let remedy = Some(remedy.to_owned());
        self.findings.push(DoctorFinding { check, severity, found, remedy });
    }

    /// Adds tables that were not migrated to the newest schema version.
    pub(crate) fn old_schema(&mut self, version: u32, newest: u32) {
        self.problem(
            "tables",
            format!("schema version {version}, this program has {newest}"),
            "run `migrate`, or start the service's new version",
        );
    }

    /// Adds an error of the store.
    pub(crate) fn failed(&mut self, check: &'static str, error: &Error) {
        let remedy = if self.database.file().is_some() && is_of_permissions(error) {
            // The service needs them, whichever user runs this.
            CHOWN
        } else {
            let other = "see \"Problems\" in docs/operating.md, and the log of the service";
            self.database.advice(error).unwrap_or(other)
        };
        self.problem(check, error.to_string(), remedy);
    }
}

pub(crate) fn doctor(args: &DoctorArgs, context: &CliContext, out: &mut dyn Write) -> CliResult {
    let interrupt = Interrupt::listen()?;
    let database = context.database_unchecked()?;
    let is_quick = args.quick;
    let findings = Vec::new();
    let exam = &mut Examination { findings, context, database, is_quick, interrupt };
    match database {
        Database::Sqlite(file) => examine_file(exam, file)?,
        #[cfg(feature = "postgres")]
        Database::Postgres(builder) => {
            if server_checks::check(exam, &builder.inspect()?) {
                check_sessions(exam, &*database.open()?)?;
            }
        }
    }
    check_configuration(exam);
    print(&exam.findings, args.json, &context.style, out)
}

fn examine_file(exam: &mut Examination<'_>, file: &SqliteFile) -> CliResult {
    let processes = file.path().map(processes::processes).unwrap_or_default();
    if let Some(path) = file.path()
        && let Some((found, remedy)) = processes::other_file_in_use(path, &processes)
    {
        // The file says nothing about what the process uses.
        exam.problem("in use", found, remedy);
        check_disk(exam, path, LOG_RESTART_BYTES);
        return Ok(());
    }
    let info = match file.info() {
        Ok(info) => info,
        Err(error) => return not_examined(exam, file, error),
    };
    exam.ok("file", format!("{}, {}", info.path.display(), HumanBytes(info.bytes)));
    check_host(exam, &info, &processes);
    check_processes(exam, file, &info, &processes);
    check_interference(exam, &info);
    check_properties(exam, &info, &processes);
    let is_readable = check_integrity(exam, file)?;
    let set_up = matches!(info.schema, Ok(version) if version == info.newest_schema);
    if is_readable && set_up {
        match file.store_for_reading() {
            Ok(store) => check_sessions(exam, &store)?,
            Err(error) => exam.failed("tables", &error),
        }
    }
    Ok(())
}

/// Adds why the file could not be examined.
fn not_examined(exam: &mut Examination<'_>, file: &SqliteFile, error: Error) -> CliResult {
    match (SqliteFile::open_failure(&error), error.kind()) {
        // There is nothing to examine: an error, not a finding.
        (Some(OpenFailure::Missing | OpenFailure::DanglingLink), _) => return Err(error.into()),
        // Without space SQLite cannot make -shm, as without a permission.
        _ if file.path().is_some_and(is_full) => {
            exam.problem("file", error.to_string(), FULL);
        }
        (None, ErrorKind::Corrupt) => exam.problem("file", error.to_string(), UNREADABLE),
        _ => exam.failed("file", &error),
    }
    if let Some(path) = file.path() {
        check_disk(exam, path, LOG_RESTART_BYTES);
    }
    Ok(())
}

/// Returns whether a file cannot be written because of owners and modes.
fn is_of_permissions(error: &Error) -> bool {
    error.kind() == ErrorKind::ReadOnly && SqliteFile::open_failure(error).is_none()
}

fn check_host(exam: &mut Examination<'_>, info: &DatabaseInfo, processes: &[ProcessInfo]) {
    let wrong = host_checks::permissions(info, processes);
    let is_of_root = host_checks::is_root() && host_checks::is_owner(&info.path);
    if !wrong.is_empty() {
        wrong.into_iter().for_each(|it| exam.problem("permissions", it, CHOWN));
    } else if is_of_root && !is_in_use(processes) {
        // To root this shows nothing about another user.
        exam.note(
            "permissions",
            "only root can use the file; the service's user was not compared, because no process \
             has the file open",
            "if the service runs as another user, `chown` the folder, the file, its -wal and its \
             -shm to that user",
        );
    } else {
        exam.ok("permissions", "only the owner can use the file");
    }
    for file in host_checks::unfinished(&info.path) {
        let remedy = "remove it, unless a restore is running: it may contain sessions";
        exam.note("copies", format!("{} was not finished", file.display()), remedy);
    }
    match &info.file_system {
        Some(kind) if host_checks::is_network(kind) => exam.problem(
            "file system",
            format!("{kind}, a network file system"),
            "move the file to a local disk: locks and the log do not work over a network",
        ),
        Some(kind) => exam.ok("file system", kind.as_str()),
        None => exam.note("file system", "unknown", "keep the file on a local disk"),
    }
    let log = LOG_RESTART_BYTES.saturating_sub(info.log_bytes);
    check_disk(exam, &info.path, log.max(info.bytes / 10));
}

/// Returns whether another process has the file open.
fn is_in_use(processes: &[ProcessInfo]) -> bool {
    processes.iter().any(|process| !process.is_own())
}

/// Returns whether the file system has no space for the shared memory of SQLite (`-shm`).
fn is_full(path: &Path) -> bool {
    host_checks::free_and_all_bytes(folder(path)).is_ok_and(|(free, _)| free < 64 << 10)
}

/// Checks the free space, of which the database needs so much to grow.
fn check_disk(exam: &mut Examination<'_>, path: &Path, needed: u64) {
    match host_checks::free_and_all_bytes(folder(path)) {
        // A small volume would never have as much as is needed.
        Ok((free, all)) if free < needed.min(all / 10) => exam.problem(
            "disk",
            format!("{} left", HumanBytes(free)),
            "free space: on a full disk every change fails, sign-ins included",
        ),
        Ok((free, _)) if free < needed => exam.note(
            "disk",
            format!("{} left", HumanBytes(free)),
            &format!(
                "watch it: under many changes the log (-wal) can grow to {} MiB",
                LOG_RESTART_BYTES >> 20
            ),
        ),
        Ok((free, _)) => exam.ok("disk", format!("{} left", HumanBytes(free))),
        Err(error) => exam.note("disk", error.to_string(), "see how much space is left"),
    }
}

/// Checks which processes have the file open, and whether a change is possible.
fn check_processes(
    exam: &mut Examination<'_>,
    file: &SqliteFile,
    info: &DatabaseInfo,
    processes: &[ProcessInfo],
) {
    let mut can_write_files = true;
    for process in processes {
        let name = process.to_string();
        let is_own = process.is_own();
        let least = LOG_RESTART_BYTES.max(info.bytes.saturating_add(info.bytes / 10));
        if let Some(limit) = process.max_file_bytes.filter(|limit| *limit < least) {
            // At its own limit this program would be killed by SIGXFSZ in `try_write`.
            can_write_files &= !is_own;
            exam.problem(
                "file size",
                format!("files of {name} cannot exceed {}", HumanBytes(limit)),
                "raise the limit (`ulimit -f`, LimitFSIZE= of systemd): at the limit the service \
                 is killed by SIGXFSZ",
            );
        }
        if !is_own {
            exam.ok("in use", format!("by {name}"));
        }
    }
    if !can_write_files {
        return;
    }
    match file.try_write() {
        Ok(()) => exam.ok("access", "the file and its folder can be written"),
        // What this user may not do, the service's user may.
        Err(error) if is_of_permissions(&error) && !host_checks::is_owner(&info.path) => {
            let remedy = "run this as the service's user to see what the service can do";
            exam.note("access", "here the file can only be read", remedy);
        }
        Err(error) => exam.failed("access", &error),
    }
}

/// Checks for what else can change the file and the sessions: a second name, triggers, foreign
/// keys.
fn check_interference(exam: &mut Examination<'_>, info: &DatabaseInfo) {
    match &info.second_name {
        Some(reason) => exam.problem(
            "name",
            format!("the file can have a second name: {reason}"),
            "use the name beside which there is a `-wal` with content; stop the service, and leave \
             that one: under another one a process finds neither the log nor the locks, and loses \
             changes; into a container mount the folder",
        ),
        None => exam.ok("name", "the file has one name"),
    }
    if !info.triggers.is_empty() {
        exam.problem(
            "triggers",
            format!("there are triggers on the sessions: {}", info.triggers.join(", ")),
            "examine them: they run with every change and can bring ended sessions back; DROP \
             TRIGGER removes one",
        );
    }
    if !info.referencing_tables.is_empty() {
        exam.problem(
            "references",
            format!("rows of {} keep ended sessions", info.referencing_tables.join(", ")),
            REFERENCES,
        );
    }
}

fn check_properties(exam: &mut Examination<'_>, info: &DatabaseInfo, processes: &[ProcessInfo]) {
    match info.journal.as_str() {
        "wal" => exam.ok("journal", "wal"),
        // As `restore` leaves it where no file was.
        other if !is_in_use(processes) => exam.note(
            "journal",
            format!("{other}, until the service opens the file"),
            "the service switches it to wal when it starts, unless it has Journal::Keep",
        ),
        // The service has chosen it: without Journal::Keep it would have switched.
        other => exam.note(
            "journal",
            format!("{other}: readers and the writer wait for each other"),
            "to switch to wal, start the service without Journal::Keep",
        ),
    }
    if info.log_bytes > MAX_LOG_BYTES {
        exam.problem(
            "log",
            format!("{} long", HumanBytes(info.log_bytes)),
            "end long reads (a shell with an open transaction, a stuck copy), or start the \
             service: its cleaner resets the log",
        );
    } else {
        exam.ok("log", HumanBytes(info.log_bytes).to_string());
    }
    let free = info.free_pages.saturating_mul(info.page_size);
    if info.free_pages > info.pages / 2 && free > 16 << 20 {
        let remedy = "new sessions use it; `compact` releases it";
        exam.note("free pages", HumanBytes(free).to_string(), remedy);
    }
    match &info.schema {
        Ok(version) if *version == info.newest_schema => {
            exam.ok("tables", format!("schema version {version}"));
            if let Some(age) = info.created.map(|created| exam.context.now.since(created))
                && age < Duration::from_secs(86_400)
            {
                exam.note(
                    "tables",
                    format!("the tables were created {} ago", HumanDuration(age)),
                    "if the service is older, it opened another file or its own was missing: see \
                     \"All users are signed out\" in docs/operating.md",
                );
            }
        }
        Ok(0) if info.second_name.is_some() => exam.problem(
            "tables",
            "not under this name of the file",
            "use the name beside which there is a `-wal` with content",
        ),
        Ok(0) => exam.problem("tables", "not set up", "check --db and --table; run `setup`"),
        Ok(version) => exam.old_schema(*version, info.newest_schema),
        Err(error) => exam.failed("tables", error),
    }
}

/// Checks the file, and returns whether its sessions can be read.
fn check_integrity(exam: &mut Examination<'_>, file: &SqliteFile) -> CliResult<bool> {
    let spinner = spinner("checking the file");
    let check = |progress| file.check_file(exam.is_quick, progress);
    match exam.interrupt.run(&spinner, "the file was not checked", check) {
        Ok(problems) if problems.is_empty() => {
            exam.ok("integrity", if exam.is_quick { "ok, by a quick check" } else { "ok" });
            Ok(true)
        }
        Ok(problems) => {
            let more = match problems.len() {
                1 => String::new(),
                count => format!(", and {} more", count - 1),
            };
            let first = problems.first().map_or("", String::as_str);
            exam.problem("integrity", format!("{first}{more}"), DAMAGED);
            Ok(true)
        }
        Err(CliError::Store(error)) => {
            exam.failed("integrity", &error);
            Ok(false)
        }
        Err(interrupted) => Err(interrupted),
    }
}

fn check_sessions(exam: &mut Examination<'_>, store: &dyn Admin) -> CliResult {
    let index = store.session_index();
    let now = exam.context.now;
    match index.stats(now - BACKLOG) {
        Ok(stats) if stats.expired > 0 => exam.problem(
            "cleaner",
            format!("{} expired more than 15 minutes ago", HumanCount(stats.expired)),
            "check the clock (`date`), that the service runs, and its log for \"the cleaner \
             failed\"; `sweep` removes them now",
        ),
        Ok(_) => exam.ok("cleaner", "nothing is overdue"),
        Err(error) => exam.failed("cleaner", &error),
    }
    match index.stats(now) {
        Ok(stats) => {
            let signed_in = HumanCount(stats.signed_in);
            let anonymous = HumanCount(stats.anonymous());
            exam.ok("live", format!("{signed_in} signed in, {anonymous} anonymous"));
        }
        Err(error) => exam.failed("live", &error),
    }
    if exam.is_quick {
        let newest = Page::first(NonZeroUsize::MIN.saturating_add(99));
        match index.list(&SessionFilter::All, newest, now) {
            Ok(newest) => {
                let latest = newest.into_iter().map(|summary| summary.seen).max();
                check_clock(exam, latest);
            }
            Err(error) => exam.failed("sessions", &error),
        }
        return Ok(());
    }
    let bar = bar("reading", "sessions");
    let scan = |progress| store.scan(progress);
    match exam.interrupt.run(&bar, "not every session was read", scan) {
        Err(CliError::Store(error)) => exam.failed("sessions", &error),
        Err(interrupted) => return Err(interrupted),
        Ok(report) => {
            if report.undecodable == 0 {
                let read = HumanCount(report.sessions);
                exam.ok("sessions", format!("all {read} decode"));
            } else {
                let (public_id, why) = match report.examples.first() {
                    Some((public_id, error)) => (public_id.to_string(), error.to_string()),
                    None => Default::default(),
                };
                exam.problem(
                    "sessions",
                    format!(
                        "{} of {} do not decode, such as {public_id}: {why}",
                        HumanCount(report.undecodable),
                        HumanCount(report.sessions)
                    ),
                    "if a newer version of the service wrote them, go back to it; else `revoke` \
                     them, or let them expire",
                );
            }
            if !report.realms.is_empty() {
                exam.ok("realms", realms(&report.realms));
            }
            check_clock(exam, report.latest);
        }
    }
    Ok(())
}

/// Returns the number of sessions of each realm as text, in descending order.
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
        more => format!("{some}, and {more} more realms"),
    }
}

fn check_clock(exam: &mut Examination<'_>, latest: Option<Timestamp>) {
    let CliContext { now, style, .. } = exam.context;
    match latest {
        Some(latest) if latest.since(*now) > MAX_CLOCK_SKEW => exam.problem(
            "clock",
            format!("a session was used {} in the future", HumanDuration(latest.since(*now))),
            &format!(
                "correct the clocks of this machine and of the service (NTP), on which limits \
                 depend; then this goes away by itself, at the latest at {}, or when you `revoke` \
                 the sessions that `list` shows with such times",
                style.time(latest)
            ),
        ),
        _ => exam.ok("clock", "no session is from the future"),
    }
}

fn check_configuration(exam: &mut Examination<'_>) {
    let Some(review) = &exam.context.review else {
        exam.note(
            "cookie",
            "not checked: its settings are in the application",
            "print SessionManager::review(), or offer `doctor` in the application's own program \
             with cloakroom_cli::run_reviewed",
        );
        return;
    };
    for (area, check, ok, remedy) in REVIEWED {
        let (met, unmet): (Vec<_>, Vec<_>) =
            review.findings.iter().filter(|it| it.area == area).partition(|it| it.met);
        if unmet.is_empty() && !met.is_empty() {
            exam.ok(check, ok);
        }
        for finding in unmet {
            let found = format!("{} is not met: {}", finding.requirement, finding.why);
            exam.problem(check, found, remedy);
        }
    }
}

/// What is checked of a review. [`Area::Other`] contains choices of the application.
const REVIEWED: [(Area, &str, &str, &str); 4] = [
    (Area::Cookie, "cookie", "the cookie meets ASVS 5.0", "see CookieConfig for the safe defaults"),
    (Area::Limits, "limits", "sessions have both limits", "see Lifetime for the safe defaults"),
    (Area::Origins, "origins", "requests of other origins are refused", "see CrossOrigin"),
    (
        Area::Anonymous,
        "anonymous",
        "anonymous sessions are bounded",
        "see SessionManagerBuilder::anonymous_lifetime and max_anonymous",
    ),
];

fn print(all: &[DoctorFinding], as_json: bool, style: &Style, out: &mut dyn Write) -> CliResult {
    let problems = all.iter().filter(|finding| finding.severity == Severity::Problem).count();
    if as_json {
        let json = |DoctorFinding { check, severity, found, remedy }: &DoctorFinding| {
            let severity = severity.name();
            json!({ "check": check, "severity": severity, "found": found, "remedy": remedy })
        };
        let all: Vec<_> = all.iter().map(json).collect();
        let answer = json!({ "problems": problems, "findings": all });
        writeln!(out, "{}", output::json(&answer))?;
    } else {
        for finding in all {
            let severity = finding.severity;
            let mark = style.paint(severity.colour(), &format!("{:<7}", severity.mark()));
            writeln!(out, "{mark} {:<12} {}", finding.check, one_line(&finding.found))?;
            if let Some(remedy) = &finding.remedy {
                writeln!(out, "{:20} -> {}", "", one_line(remedy))?;
            }
        }
    }
    match problems {
        0 => Ok(()),
        1 => Err(CliError::new("1 problem; its remedy is listed with it")),
        n => Err(CliError::new(format!("{n} problems; their remedies are listed with them"))),
    }
}
