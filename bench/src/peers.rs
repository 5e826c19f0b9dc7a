//! cloakroom beside other session stores, on sessions of the same content.
//!
//! Each peer is a program of its own under `bench/peers`, because a program can link only one
//! SQLite. It is started once, fills its store, and measures in its turns; between them it does
//! nothing.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use cloakroom::adapter::Outcome;
use cloakroom::backend::Store;
use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::id::SessionId;
use cloakroom::{MemoryStore, SessionManager, SqliteStore};

use crate::ours::{self, Cookie};
use crate::raw;
use crate::report::{Goal, Report};
use crate::timing::{median, per_operation};
use crate::workload::{Random, session_json};

const IDLE: Duration = Duration::from_secs(86_400);

#[derive(Clone, Copy)]
enum Workload {
    Load,
    Save,
    Request,
}

impl Workload {
    fn word(self) -> &'static str {
        match self {
            Workload::Load => "load",
            Workload::Save => "save",
            Workload::Request => "request",
        }
    }
}

/// The duration and the number of turns.
#[derive(Clone, Copy)]
struct Turns {
    slice: Duration,
    rounds: usize,
}

pub fn run(quick: bool, dir: Option<&Path>, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.unwrap_or(folder.path());
    let rows = if quick { 20_000 } else { 100_000 };
    let turns = Turns {
        slice: Duration::from_millis(if quick { 100 } else { 400 }),
        rounds: if quick { 5 } else { 11 },
    };
    println!("{rows} sessions of {} bytes", session_json(0).len());
    let wants = |report: &Report, family: &str| {
        [1, 8].iter().any(|threads| report.wants(&format!("{family}_{threads}t")))
    };
    if wants(report, "peer_memory") {
        let mut ours = Ours::in_memory(rows);
        let mut peers = [Peer::start("memory-store", "tower-sessions MemoryStore", dir, rows)];
        for (threads, goal) in [(1, 1.2), (8, 2.0)] {
            let name = format!("peer_memory_{threads}t");
            turns.ratio(report, &name, Workload::Load, threads, goal, &mut ours, &mut peers);
        }
    }
    // The goals on one thread and on eight. That of a save is to be no slower.
    let goals = [
        ("peer_load", Workload::Load, 10.0, 4.0),
        ("peer_save", Workload::Save, 1.0, 1.0),
        ("peer_request", Workload::Request, 5.0, 2.0),
    ];
    if !goals.iter().any(|(name, ..)| wants(report, name)) {
        return;
    }
    let mut ours = Ours::in_file(&dir.join("cloakroom.db"), rows);
    let mut peers = [
        Peer::start("rusqlite-store", "tower-sessions-rusqlite-store", dir, rows),
        Peer::start("sqlx-store", "tower-sessions-sqlx-store", dir, rows),
    ];
    for (name, workload, one, eight) in goals {
        for (threads, goal) in [(1, one), (8, eight)] {
            let name = format!("{name}_{threads}t");
            turns.ratio(report, &name, workload, threads, goal, &mut ours, &mut peers);
        }
    }
}

impl Turns {
    /// Measures all in turns, and compares the throughput with that of the best peer.
    #[allow(clippy::too_many_arguments, reason = "each is another thing")]
    fn ratio(
        self,
        report: &mut Report,
        name: &str,
        workload: Workload,
        threads: usize,
        goal: f64,
        ours: &mut Ours,
        peers: &mut [Peer],
    ) {
        if !report.wants(name) {
            return;
        }
        let mut round = || {
            let here = ours.measure(workload, threads, self.slice);
            let there: Vec<f64> =
                peers.iter_mut().map(|peer| peer.measure(workload, threads, self.slice)).collect();
            (here, there)
        };
        // One uncounted round fills caches and opens connections.
        round();
        let rounds: Vec<(f64, Vec<f64>)> = (0..self.rounds).map(|_| round()).collect();
        let here = median(rounds.iter().map(|(here, _)| *here).collect());
        let medians: Vec<f64> = (0..peers.len())
            .map(|peer| median(rounds.iter().map(|(_, there)| there[peer]).collect()))
            .collect();
        let best = (0..peers.len()).min_by(|a, b| medians[*a].total_cmp(&medians[*b])).unwrap_or(0);
        let ratio = median(rounds.iter().map(|(here, there)| there[best] / here).collect());
        let mut sides = vec![("cloakroom", here / 1e3)];
        sides.extend(peers.iter().zip(&medians).map(|(peer, time)| (peer.name, time / 1e3)));
        report.ratio(name, ratio, Goal::AtLeast(goal), &sides);
    }
}

struct Ours {
    sessions: SessionManager,
    /// The store whose log is checkpointed within the turn that filled it.
    file: Option<SqliteStore>,
    cookies: Vec<Cookie>,
}

impl Ours {
    fn in_file(path: &Path, rows: usize) -> Self {
        let clock = ManualClock::new(Timestamp::from_millis(raw::NOW));
        let store = SqliteStore::open(path).expect("open");
        let known = ours::fill(path, rows, &clock, |_| IDLE, |_| None);
        store.maintenance().expect("a file has a log").run().expect("checkpoint");
        let sessions =
            SessionManager::builder(store.clone()).clock(clock).build().expect("a manager");
        ours::warm(&sessions, &known);
        let cookies = known.into_iter().map(|known| known.cookie).collect();
        Ours { sessions, file: Some(store), cookies }
    }

    fn in_memory(rows: usize) -> Self {
        let sessions = SessionManager::new(MemoryStore::new()).expect("a manager");
        let cookies = (0..rows).map(|_| created(&sessions)).collect();
        Ours { sessions, file: None, cookies }
    }

    /// Nanoseconds per operation, with the cost of the checkpoints.
    fn measure(&mut self, workload: Workload, threads: usize, slice: Duration) -> f64 {
        let one = |random: &mut Random| {
            let cookie = random.pick(&self.cookies);
            match workload {
                Workload::Load => ours::read(&self.sessions, cookie),
                Workload::Save => ours::write(&self.sessions, cookie, random.next()),
                Workload::Request => ours::request(&self.sessions, cookie, random.next()),
            }
        };
        let began = Instant::now();
        let time = per_operation(threads, slice, |thread| Random::new(thread as u64 + 1), one);
        let operations = began.elapsed().as_nanos() as f64 / time;
        let began = Instant::now();
        if let (Some(file), Workload::Save | Workload::Request) = (&self.file, workload) {
            file.maintenance().expect("a file has a log").run().expect("checkpoint");
        }
        time + began.elapsed().as_nanos() as f64 / operations
    }
}

/// The cookie of a new session with the content of the workload.
fn created(sessions: &SessionManager) -> Cookie {
    let data: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&session_json(0)).expect("JSON");
    let session = sessions.open(None);
    for (name, value) in &data {
        session.set(name, value).expect("it is set");
    }
    let headers = sessions.close(&session, Outcome::Completed).expect("it closes");
    let (_, header) = headers.id_fields.first().expect("an id");
    let text = header.split(['=', ';']).nth(1).expect("a cookie");
    Cookie::of(&SessionId::parse(text).expect("an id"))
}

/// The program of a peer, which is stopped after the measurement.
struct Peer {
    name: &'static str,
    program: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Compiles and starts the program, and waits until it has filled its store.
    fn start(package: &str, name: &'static str, dir: &Path, rows: usize) -> Self {
        let folder = dir.join(package);
        std::fs::create_dir_all(&folder).expect("a folder");
        let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.args(["run", "--quiet", "--release", "--locked", "--manifest-path"]);
        command.arg(PathBuf::from_iter([&packages, Path::new(package), Path::new("Cargo.toml")]));
        command.arg("--").arg(&folder).arg(rows.to_string());
        let mut program =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cargo runs");
        let input = program.stdin.take().expect("it is a pipe");
        let output = BufReader::new(program.stdout.take().expect("it is a pipe"));
        let mut peer = Peer { name, program, input, output };
        assert_eq!(peer.line(), "ready", "{name}");
        peer
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        line.trim_end().to_owned()
    }

    fn measure(&mut self, workload: Workload, threads: usize, slice: Duration) -> f64 {
        let line = format!("{} {threads} {}\n", workload.word(), slice.as_millis());
        self.input.write_all(line.as_bytes()).expect("it listens");
        let answer = self.line();
        answer.parse().unwrap_or_else(|_| panic!("{} answered `{answer}`", self.name))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
