//! The growth of costs with the number of sessions: files of four sizes, measured in turns.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cloakroom::backend::Store;
use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::id::SessionId;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{SessionManager, SqliteStore, UserKey};

use crate::ours::{self, Cookie, Row};
use crate::raw;
use crate::report::{Goal, Report};
use crate::timing::median;
use crate::workload::Random;

/// The idle limit of one session in ten; the others' is longer, so that a sweep spares them.
const SHORT: Duration = Duration::from_secs(86_400);

const SESSIONS_PER_USER: u64 = 5;

/// The maximum number of rows to sweep: enough for a rate.
const SWEPT: usize = 200_000;

pub fn run(quick: bool, dir: Option<&Path>, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.unwrap_or(folder.path());
    let sizes: &[u64] = match quick {
        true => &[1_000, 10_000, 100_000],
        false => &[10_000, 100_000, 1_000_000, 10_000_000],
    };
    let mut sites: Vec<Site> = sizes.iter().map(|sessions| Site::fill(dir, *sessions)).collect();
    let series = |report: &mut Report, name: &str, unit: &str, values: &[f64]| {
        let labels: Vec<String> = sizes.iter().map(u64::to_string).collect();
        let points: Vec<(&str, f64)> =
            labels.iter().map(String::as_str).zip(values.iter().copied()).collect();
        report.series(name, unit, &points);
    };
    let sizes_of = |sites: &[Site]| sites.iter().map(Site::mebibytes).collect::<Vec<_>>();
    series(report, "scale_file", "MiB", &sizes_of(&sites));

    // Each is served by a new process.
    let seconds = if quick { 1 } else { 5 };
    let served: Vec<Served> = sites.iter().map(|site| site.serve(seconds)).collect();
    let memory: Vec<f64> = served.iter().map(|served| served.mebibytes).collect();
    series(report, "scale_memory", "MiB", &memory);
    let open: Vec<f64> = served.iter().map(|served| served.open).collect();
    series(report, "scale_open", "ms", &open);
    let largest = sizes.len() - 1;
    report.amount("memory", memory[largest], "MiB", Goal::AtMost(128.0));
    report.amount("open", open[largest], "ms", Goal::AtMost(50.0));

    let (rounds, slice) = (if quick { 3 } else { 9 }, if quick { 60 } else { 500 });
    let slice = Duration::from_millis(slice);
    let mut turns = |work: fn(&Site, Duration) -> f64| -> Vec<Vec<f64>> {
        // One uncounted round fills caches and opens connections.
        for site in &mut sites {
            work(site, slice);
        }
        (0..rounds).map(|_| sites.iter().map(|site| work(site, slice)).collect()).collect()
    };
    let medians = |rounds: &[Vec<f64>]| -> Vec<f64> {
        let of = |site: usize| median(rounds.iter().map(|round| round[site] / 1e3).collect());
        (0..sizes.len()).map(of).collect()
    };
    let loads = turns(Site::loads);
    series(report, "scale_load", "us", &medians(&loads));
    series(report, "scale_merge", "us", &medians(&turns(Site::merges)));
    series(report, "scale_list", "us", &medians(&turns(Site::lists)));
    let ratio = median(loads.iter().map(|round| round[largest] / round[1]).collect());
    report.amount("scale_load_growth", ratio, "", Goal::AtMost(1.6));
    // Last, because it changes the files.
    if report.wants("scale_sweep") {
        let sweeps: Vec<f64> = sites.iter().map(|site| site.sweep() / 1e3).collect();
        series(report, "scale_sweep", "us a row", &sweeps);
    }
}

/// The id of a session, computed from its number, so that ten million ids need no memory.
fn id(n: u64) -> SessionId {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = Random::new(n + 1);
    let mut text = String::with_capacity(SessionId::TEXT_LEN);
    for at in 1..=SessionId::TEXT_LEN {
        // With a small seed, the first numbers of such a generator are hardly random.
        let bits = (random.next() ^ random.next() >> 32) as usize;
        // The last character has only four bits of the id.
        let six = if at == SessionId::TEXT_LEN { bits & 0b111_100 } else { bits & 0b111_111 };
        text.push(char::from(ALPHABET[six]));
    }
    SessionId::parse(&text).expect("an id")
}

/// A file with `count` sessions, and managers on it.
struct Site {
    count: u64,
    path: PathBuf,
    store: SqliteStore,
    sessions: SessionManager,
    /// Keeps no session in memory, to measure how a query grows with the file.
    cold: SessionManager,
}

/// The results of a process that has served a site.
struct Served {
    open: f64,
    mebibytes: f64,
}

impl Site {
    fn fill(dir: &Path, count: u64) -> Self {
        let began = Instant::now();
        let folder = dir.join(count.to_string());
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("cloakroom.db");
        drop(SqliteStore::open(&path).expect("open"));
        let connection = Connection::open(&path).expect("open");
        // Reuse the file of an earlier run, unless a sweep has removed rows.
        let first_and_last = "SELECT min(id), max(id) FROM cloakroom_sessions";
        let ends = connection.query_row(first_and_last, [], |row| {
            Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?))
        });
        match ends.expect("select") {
            (None, None) => {}
            ends if ends == (Some(1), i64::try_from(count).ok()) => return Site::open(path, count),
            _ => panic!("{} has been swept; please delete it", path.display()),
        }
        // No journal, because it would be as large as the file; a cache for whole indexes.
        let pragmas = "PRAGMA journal_mode = DELETE; PRAGMA locking_mode = EXCLUSIVE;
                       PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
                       PRAGMA cache_size = -1500000";
        connection.execute_batch(pragmas).expect("pragmas");
        let clock = ManualClock::new(Timestamp::from_millis(raw::NOW));
        let rows = (0..count).map(|n| Row {
            id: id(n),
            idle: if n % 10 == 0 { SHORT } else { SHORT * 100 },
            user: Some(user_name(n % (count / SESSIONS_PER_USER))),
        });
        ours::insert(&connection, &clock, rows);
        drop(connection);
        println!("{count} sessions in {:.1} s", began.elapsed().as_secs_f64());
        Site::open(path, count)
    }

    fn open(path: PathBuf, count: u64) -> Self {
        let clock = ManualClock::new(Timestamp::from_millis(raw::NOW));
        let store = SqliteStore::open(&path).expect("open");
        let cold = SqliteStore::builder(&path).cache_bytes(0).open().expect("open");
        let manager = |store: SqliteStore| {
            SessionManager::builder(store).clock(clock.clone()).build().expect("a manager")
        };
        let (sessions, cold) = (manager(store.clone()), manager(cold));
        Site { count, path, store, sessions, cold }
    }

    fn mebibytes(&self) -> f64 {
        std::fs::metadata(&self.path).expect("the file").len() as f64 / f64::from(1 << 20)
    }

    fn cookie(&self, random: &mut Random) -> Cookie {
        Cookie::of(&id(random.next() % self.count))
    }

    fn loads(&self, slice: Duration) -> f64 {
        timed(slice, |random| self.cookie(random), |cookie| ours::read(&self.cold, cookie))
    }

    /// Merges, with the cost of their checkpoint.
    fn merges(&self, slice: Duration) -> f64 {
        let mut written = 0;
        let time = timed(
            slice,
            |random| (self.cookie(random), random.next()),
            |(cookie, n)| {
                ours::write(&self.sessions, cookie, *n);
                written += 1;
            },
        );
        let began = Instant::now();
        self.store.maintenance().expect("a file has a log").run().expect("checkpoint");
        time + began.elapsed().as_nanos() as f64 / f64::from(written)
    }

    fn lists(&self, slice: Duration) -> f64 {
        let index = self.store.index().expect("it lists");
        let page = Page::first(NonZeroUsize::new(100).expect("not zero"));
        let now = Timestamp::from_millis(raw::NOW);
        timed(
            slice,
            |random| {
                let name = user_name(random.next() % (self.count / SESSIONS_PER_USER));
                UserKey::new(name).expect("a user")
            },
            |user| {
                let listed = index.list(&SessionFilter::User(user), page, now).expect("it lists");
                assert_eq!(black_box(listed).len() as u64, SESSIONS_PER_USER);
            },
        )
    }

    /// Nanoseconds per row that is removed in batches of the cleaner's size.
    fn sweep(&self) -> f64 {
        let batch = NonZeroUsize::new(1000).expect("not zero");
        let now = Timestamp::from_millis(raw::NOW) + SHORT * 2;
        let began = Instant::now();
        let mut swept = 0;
        while swept < SWEPT {
            match self.store.sweep(now, batch).expect("sweep").removed {
                0 => break,
                rows => swept += rows,
            }
        }
        // The manager's cleaner has run the checkpoints that became due during the sweep.
        self.store.maintenance().expect("a file has a log").run().expect("checkpoint");
        began.elapsed().as_nanos() as f64 / swept as f64
    }

    /// Starts a process that opens the file and serves it.
    fn serve(&self, seconds: u64) -> Served {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.arg(SERVE).arg(&self.path).args([self.count, seconds].map(|n| n.to_string()));
        let output = command.output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let figures: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [open, mebibytes] = figures[..] else {
            panic!("{text}{}", String::from_utf8_lossy(&output.stderr))
        };
        Served { open, mebibytes }
    }
}

/// The command by which this program starts itself.
pub const SERVE: &str = "scale-serve";

/// The command [`SERVE`]: prints the time from start to first load in milliseconds, and the memory
/// of the process in MiB after some seconds of requests on eight threads.
pub fn serve(mut args: impl Iterator<Item = String>) {
    let path = PathBuf::from(args.next().expect("a file"));
    let mut number = || args.next().and_then(|n| n.parse().ok()).expect("a number");
    let (count, seconds) = (number(), number());
    let began = Instant::now();
    let site = Site::open(path, count);
    ours::read(&site.sessions, &Cookie::of(&id(count / 2)));
    let open = began.elapsed().as_secs_f64() * 1e3;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (site, began) = (&site, Instant::now());
            scope.spawn(move || {
                let mut random = Random::new(thread + 1);
                while began.elapsed() < Duration::from_secs(seconds) {
                    ours::read(&site.sessions, &site.cookie(&mut random));
                    ours::write(&site.sessions, &site.cookie(&mut random), random.next());
                }
            });
        }
    });
    site.lists(Duration::from_millis(100));
    println!("{open} {}", peak_mebibytes());
}

/// The maximum resident memory of this process, where the system reports it (Linux).
fn peak_mebibytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kibibytes.unwrap_or(f64::NAN) / 1024.0
}

fn user_name(n: u64) -> String {
    format!("user{n}")
}

/// Nanoseconds per operation; the time to make its input does not count.
fn timed<T>(
    slice: Duration,
    make: impl Fn(&mut Random) -> T,
    mut operation: impl FnMut(&T),
) -> f64 {
    let mut random = Random::new(11);
    let (mut operations, mut spent) = (0, Duration::ZERO);
    while spent < slice {
        let batch: Vec<T> = (0..256).map(|_| make(&mut random)).collect();
        let began = Instant::now();
        batch.iter().for_each(&mut operation);
        spent += began.elapsed();
        operations += batch.len();
    }
    spent.as_nanos() as f64 / operations as f64
}
