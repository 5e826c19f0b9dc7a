//! The waits of a service's requests while an operator's command runs in another process. The
//! figures are milliseconds and not ratios, because they include fixed waiting times.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::adapter::Outcome;
use cloakroom::backend::{Maintenance, Store};
use cloakroom::clock::{Clock, ManualClock, SystemClock};
use cloakroom::{ErrorKind, SessionManager, SqliteStore};

use crate::ours::{KnownSession, fill};
use crate::report::{Goal, Report};
use crate::workload::Random;

const DAY: Duration = Duration::from_secs(86_400);
const ROLE: &str = "CLOAKROOM_BENCH_OPERATOR";

/// Runs the operator's command line, if this process was started for that.
pub fn run_command_line() -> Option<ExitCode> {
    std::env::var_os(ROLE)?;
    Some(cloakroom_cli::run(std::env::args_os(), cloakroom_cli::Target::Arguments))
}

struct Service {
    sessions: SessionManager,
    known: Vec<KnownSession>,
}

/// The durations of requests, in milliseconds, sorted.
struct Waits {
    times: Vec<f64>,
    busy: usize,
}

impl Waits {
    fn longest(&self) -> f64 {
        self.times.last().copied().unwrap_or_default()
    }

    fn summary(&self) -> String {
        let p99 = self.times[self.times.len() * 99 / 100];
        let (requests, longest) = (self.times.len(), self.longest());
        format!("{requests} requests, p99 {p99:.2} ms, longest {longest:.1} ms, {} busy", self.busy)
    }
}

impl Service {
    /// Sends requests that change a session, at most 2,000 a second, until `is_over`.
    fn serve(&self, mut is_over: impl FnMut() -> bool) -> Waits {
        let mut random = Random::new(7);
        let mut waits = Waits { times: Vec::new(), busy: 0 };
        while !is_over() {
            let began = Instant::now();
            let session = self.sessions.open(Some(random.pick(&self.known).cookie.as_str()));
            let theme = random.next() % 1_000_000;
            let done = session
                .set("theme", format!("{theme:06}"))
                .and_then(|()| self.sessions.close(&session, Outcome::Completed).map(drop));
            match done {
                Ok(()) => waits.times.push(began.elapsed().as_secs_f64() * 1e3),
                Err(error) if error.kind() == ErrorKind::Busy => waits.busy += 1,
                Err(error) => panic!("{error:?}"),
            }
            thread::sleep(Duration::from_micros(500).saturating_sub(began.elapsed()));
        }
        waits.times.sort_by(f64::total_cmp);
        waits
    }
}

fn command(path: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(words).env(ROLE, "1").env("CLOAKROOM_DB", path).stdout(Stdio::null());
    command
}

pub fn run(quick: bool, dir: Option<&Path>, report: &mut Report) {
    if !report.wants("operator") {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = dir.unwrap_or(folder.path()).join("operator.db");
    let copy = path.with_extension("copy");
    let all = if quick { 50_000 } else { 1_000_000 };
    let store = SqliteStore::open(&path).expect("open");
    // The sessions began two days ago, and every second one has expired.
    let clock = ManualClock::new(SystemClock.now() - DAY * 2);
    let idle = |n: usize| if n.is_multiple_of(2) { DAY } else { DAY * 100 };
    let user = |n: usize| Some(format!("user{}", n / 10));
    let known = fill(&path, all, &clock, idle, user);
    store.maintenance().map_or(Ok(()), Maintenance::run).expect("checkpoint");
    let builder = SessionManager::builder(store).sweep_every(DAY);
    let known = known.into_iter().skip(1).step_by(2).collect();
    let service = Service { sessions: builder.build().expect("a manager"), known };

    for (name, words) in
        [("operator_stats", &["stats"][..]), ("operator_list", &["list", "--user", "user7"])]
    {
        let mut times: Vec<f64> = (0..5)
            .map(|_| {
                let began = Instant::now();
                assert!(command(&path, words).status().expect("it runs").success(), "{words:?}");
                began.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let goal = Goal::AtMost(if name == "operator_stats" { 1000.0 } else { 50.0 });
        // The median of whole processes.
        report.amount(name, times[2], "ms", goal);
    }

    let began = Instant::now();
    let before = service.serve(|| began.elapsed() > Duration::from_secs(3));
    println!("nothing beside: {}", before.summary());
    let copy = copy.display().to_string();
    for (name, words, goal) in [
        ("operator_sweep", &["sweep"][..], 50.0),
        ("operator_backup", &["backup", &copy], 50.0),
        // Other writers wait meanwhile, and fail after the busy timeout.
        ("operator_compact", &["compact", "--yes"], 5000.0),
    ] {
        let began = Instant::now();
        let mut child = command(&path, words).stderr(Stdio::null()).spawn().expect("it starts");
        let mut ended = None;
        let waits = service.serve(|| {
            ended = child.try_wait().expect("a child");
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "{words:?}");
        println!("{name}: {:.1} s; {}", began.elapsed().as_secs_f64(), waits.summary());
        report.amount(name, waits.longest(), "ms", Goal::AtMost(goal));
    }
}
