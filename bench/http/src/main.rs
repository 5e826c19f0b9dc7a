//! Requests per second on rouille and Rocket: without a session, with one that is read, with one that
//! is written, without the record cache, and on Rocket with PostgreSQL, which waits for its disk. The
//! load comes from wrk, in another process. Variants take turns in slices of a second; each pair
//! gives one ratio, and the median of the ratios is printed.
//!
//! `cargo run --release --manifest-path bench/http/Cargo.toml [-- [--rounds N] [--only NAME]
//! [--json FILE]]`, where NAME is the beginning of the ratios' names. wrk and the programs of a
//! PostgreSQL server must be installed.

#[expect(dead_code, reason = "it can do more than is needed here")]
#[path = "../../src/report.rs"]
mod report;
mod servers;
#[allow(dead_code, reason = "the example starts memcached too")]
#[path = "../../../examples/several_machines/services.rs"]
mod services;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cloakroom::adapter::Outcome;
use cloakroom::{PostgresStore, SessionManager, SqliteStore};
use report::{Goal, Report};
use services::Postgres;

const SESSIONS: usize = 20_000;
const CONNECTIONS: usize = 32;

fn main() -> ExitCode {
    let option = |name: &str| std::env::args().skip_while(|word| word != name).nth(1);
    let rounds = option("--rounds").and_then(|rounds| rounds.parse().ok()).unwrap_or(7);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("bench.db");
    let store = SqliteStore::open(&path).expect("a database");
    let sessions = SessionManager::new(store).expect("a manager");
    let script = script(&folder.path().join("sqlite.lua"), &sessions);
    let mut bench = Bench { script, rounds, only: option("--only"), report: Report::new(None) };

    let store = SqliteStore::builder(&path).cache_bytes(0).open().expect("a database");
    let uncached = SessionManager::new(store).expect("a manager");

    let rouille = servers::rouille(sessions.clone());
    let rouille_uncached = servers::rouille(uncached.clone());
    bench.ratio("http_read", without(rouille, "/none"), (rouille, "/read"), 0.95);
    bench.ratio("http_write", without(rouille, "/none"), (rouille, "/write"), 0.75);
    bench.ratio("http_1ms_read", without(rouille, "/slow"), (rouille, "/slow-read"), 0.95);
    bench.ratio("http_1ms_write", without(rouille, "/slow"), (rouille, "/slow-write"), 0.65);
    bench.ratio("http_uncached", cached(rouille, "/read"), (rouille_uncached, "/read"), 0.8);
    let rocket = servers::rocket(sessions.clone(), false);
    let inline = servers::rocket(sessions, true);
    let rocket_uncached = servers::rocket(uncached, false);
    bench.ratio("rocket_1ms_read", without(rocket, "/slow"), (rocket, "/slow-read"), 0.95);
    bench.ratio("rocket_1ms_write", without(rocket, "/slow"), (rocket, "/slow-write"), 0.75);
    bench.ratio("rocket_read_inline", without(inline, "/none"), (inline, "/read"), 0.7);
    bench.ratio("rocket_read_crossing", without(rocket, "/none"), (rocket, "/read"), 0.45);
    bench.ratio("rocket_write_inline", without(inline, "/none"), (inline, "/write"), 0.35);
    bench.ratio("rocket_write_crossing", without(rocket, "/none"), (rocket, "/write"), 0.35);
    bench.ratio("rocket_uncached", cached(rocket, "/read"), (rocket_uncached, "/read"), 0.4);
    let slow = (rocket_uncached, "/slow-read");
    bench.ratio("rocket_1ms_uncached", cached(rocket, "/slow-read"), slow, 0.8);

    // The other ratios need no PostgreSQL.
    let names = "rocket_postgres";
    let is_wanted = |only: &str| names.starts_with(only) || only.starts_with(names);
    if bench.only.as_deref().is_none_or(is_wanted) {
        bench.on_postgres(folder.path());
    }
    if let Some(path) = option("--json")
        && let Err(error) = bench.report.write(Path::new(&path))
    {
        eprintln!("cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Makes the sessions, and the script with which wrk sends a random one in each request.
fn script(path: &Path, sessions: &SessionManager) -> PathBuf {
    let mut cookies = String::from("local cookies = {\n");
    for n in 0..SESSIONS {
        let session = sessions.open(None);
        session.set("visits", n).expect("a value");
        session.set("note", "x".repeat(100)).expect("a value");
        let headers = sessions.close(&session, Outcome::Completed).expect("a session");
        let (_, cookie) = headers.id_fields.first().expect("an id");
        cookies.push_str(&format!("\"{}\",\n", cookie.split(';').next().unwrap_or_default()));
    }
    cookies.push_str(
        "}
request = function()
  return wrk.format(nil, nil, { Cookie = cookies[math.random(#cookies)] })
end\n",
    );
    fs::write(path, cookies).expect("a script");
    path.to_owned()
}

/// A server and the path of a request to it.
type Route = (SocketAddr, &'static str);

/// Names the other side of a ratio.
fn without(server: SocketAddr, path: &'static str) -> (&'static str, Route) {
    ("without sessions", (server, path))
}

fn cached(server: SocketAddr, path: &'static str) -> (&'static str, Route) {
    ("with the record cache", (server, path))
}

struct Bench {
    script: PathBuf,
    rounds: usize,
    only: Option<String>,
    report: Report,
}

impl Bench {
    fn on_postgres(&mut self, folder: &Path) {
        let server = Postgres::start(&["shared_buffers=1GB"]).expect("PostgreSQL is installed");
        let store = PostgresStore::open(&server.url()).expect("a database");
        let sessions = SessionManager::new(store).expect("a manager");
        self.script = script(&folder.join("postgres.lua"), &sessions);
        let rocket = servers::rocket(sessions, false);
        let slow = without(rocket, "/slow");
        self.ratio("rocket_postgres_1ms_read", slow, (rocket, "/slow-read"), 0.75);
        self.ratio("rocket_postgres_1ms_write", slow, (rocket, "/slow-write"), 0.25);
        let none = without(rocket, "/none");
        self.ratio("rocket_postgres_read", none, (rocket, "/read"), 0.2);
        self.ratio("rocket_postgres_write", none, (rocket, "/write"), 0.05);
    }

    /// Measures the requests per second of `route` beside those of the other side.
    fn ratio(&mut self, name: &str, (other, beside): (&str, Route), route: Route, goal: f64) {
        if self.only.as_ref().is_some_and(|only| !name.starts_with(only)) {
            return;
        }
        let mut pairs: Vec<(f64, f64)> = (0..=self.rounds)
            .map(|_| (self.per_second(beside), self.per_second(route)))
            .skip(1)
            .collect();
        pairs.sort_by(|a, b| (a.1 / a.0).total_cmp(&(b.1 / b.0)));
        let (theirs, ours) = pairs[pairs.len() / 2];
        let sides = [("cloakroom", 1e6 / ours), (other, 1e6 / theirs)];
        self.report.ratio(name, ours / theirs, Goal::AtLeast(goal), &sides);
    }

    fn per_second(&self, (address, path): Route) -> f64 {
        let output = Command::new("wrk")
            .args(["-t", "1", "-d", "1", "-c", &CONNECTIONS.to_string(), "-s"])
            .arg(&self.script)
            .arg(format!("http://{address}{path}"))
            .output()
            .expect("wrk is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("Non-2xx"), "{text}");
        let line = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
        line.and_then(|rate| rate.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }
}
