//! cloakroom and hand-written SQLite on the same rows.

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::backend::{SessionIndex, Store};
use cloakroom::clock::{Clock, ManualClock, Timestamp};
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::sqlite::Durability;
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{SessionManager, SqliteStore, UserKey};

use crate::ours::{self, KnownSession, fill};
use crate::raw::{self, Raw};
use crate::report::{Goal, Report};
use crate::timing::{Pairs, interleaved, median, per_operation};
use crate::workload::{Random, session_json};

const DAY: Duration = Duration::from_secs(86_400);

const IDLE: Duration = DAY;

struct Bench {
    clock: ManualClock,
    store: SqliteStore,
    sessions: SessionManager,
    /// The same sessions, none of them kept in memory.
    cold: SessionManager,
    known: Vec<KnownSession>,
    raw: Raw,
    rounds: usize,
    slice: Duration,
}

pub fn run(quick: bool, dir: Option<&Path>, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.unwrap_or(folder.path());
    let rows = if quick { 20_000 } else { 100_000 };
    let bench = Bench::new(&dir.join("normal"), rows, quick, Durability::Normal);
    println!("{rows} sessions of {} bytes", session_json(0).len());
    bench.no_session(report);
    bench.cross_origin(report);
    bench.load(report, "load_1t", &bench.sessions, 1, Goal::AtMost(1.4));
    bench.load(report, "load_8t", &bench.sessions, 8, Goal::AtLeast(0.9));
    bench.load(report, "load_cold_1t", &bench.cold, 1, Goal::AtMost(1.4));
    bench.load(report, "load_cold_8t", &bench.cold, 8, Goal::AtLeast(0.9));
    bench.touch(report);
    bench.merge(report, "merge_1t", 1, false, Goal::AtMost(0.6));
    bench.request(report);
    bench.checkpoint(report);
    bench.merge(report, "merge_32t", 32, false, Goal::AtLeast(2.5));
    if report.wants("merge_full_32t") {
        let full = Bench::new(&dir.join("full"), rows, quick, Durability::Full);
        full.merge(report, "merge_full_32t", 32, true, Goal::AtLeast(5.0));
    }
    bench.sign_in(report, "sign_in_1t", 1, Goal::AtMost(1.5));
    bench.sign_in(report, "sign_in_32t", 32, Goal::AtLeast(3.0));
    let (expired, all) = if quick { (25_000, 50_000) } else { (500_000, 1_000_000) };
    if report.wants("sweep") {
        sweep(report, &dir.join("sweep"), expired, all);
    }
    if report.wants("open") || report.wants("list") {
        open_and_list(report, &dir.join("large"), all);
    }
}

impl Bench {
    fn new(dir: &Path, rows: usize, quick: bool, durability: Durability) -> Self {
        std::fs::create_dir_all(dir).expect("a folder");
        let clock = ManualClock::new(Timestamp::from_millis(raw::NOW));
        let path = dir.join("cloakroom.db");
        let store = SqliteStore::builder(&path).durability(durability).open().expect("open");
        let known = fill(&path, rows, &clock, |_| IDLE, |_| None);
        store.maintenance().expect("a file has a log").run().expect("checkpoint");
        let sessions =
            SessionManager::builder(store.clone()).clock(clock.clone()).build().expect("a manager");
        let cold = SqliteStore::builder(&path).cache_bytes(0).open().expect("open");
        let cold = SessionManager::builder(cold).clock(clock.clone()).build().expect("a manager");
        let keys: Vec<[u8; 32]> = known.iter().map(|known| known.id_hash).collect();
        let raw = Raw::fill(&dir.join("raw.db"), &keys, &session_json(0));
        let slice = Duration::from_millis(if quick { 60 } else { 400 });
        ours::warm(&sessions, &known);
        let rounds = if quick { 5 } else { 11 };
        Bench { clock, store, sessions, cold, known, raw, rounds, slice }
    }

    fn time_reads(&self, sessions: &SessionManager, threads: usize) -> f64 {
        per_operation(
            threads,
            self.slice,
            |thread| Random::new(thread as u64 + 1),
            |random| ours::read(sessions, &random.pick(&self.known).cookie),
        )
    }

    fn time_raw_reads(&self, threads: usize) -> f64 {
        per_operation(
            threads,
            self.slice,
            |thread| (Random::new(thread as u64 + 1), self.raw.connect(false)),
            |(random, connection)| {
                black_box(raw::select(connection, &random.pick(&self.known).id_hash));
            },
        )
    }

    fn time_writes(&self, threads: usize) -> f64 {
        per_operation(
            threads,
            self.slice,
            |thread| Random::new(thread as u64 + 1),
            |random| {
                let n = random.next();
                ours::write(&self.sessions, &random.pick(&self.known).cookie, n);
            },
        )
    }

    fn time_raw_writes(&self, threads: usize, full: bool) -> f64 {
        per_operation(
            threads,
            self.slice,
            |thread| (Random::new(thread as u64 + 1), self.raw.connect(full)),
            |(random, connection)| {
                let n = random.next() % 1_000_000;
                let id_hash = &random.pick(&self.known).id_hash;
                raw::update(connection, id_hash, &session_json(n), raw::NOW + n as i64);
            },
        )
    }

    fn no_session(&self, report: &mut Report) {
        if !report.wants("load_none") {
            return;
        }
        let times = (0..self.rounds).map(|_| {
            per_operation(
                1,
                self.slice,
                |_| (),
                |()| {
                    let session = self.sessions.open(black_box(None));
                    black_box(
                        self.sessions.close(&session, Outcome::Completed).expect("it closes"),
                    );
                },
            )
        });
        let time = median(times.collect());
        report.amount("load_none", time, "ns", Goal::AtMost(150.0));
    }

    fn cross_origin(&self, report: &mut Report) {
        if !report.wants("cross_origin") {
            return;
        }
        // The longest way: the fields of a browser that does not send `Sec-Fetch-Site`.
        let head = RequestHead::new().method("POST").target("/orders?page=2");
        let head = head.host("shop.example.org:8443").origin("https://shop.example.org:8443");
        let times = (0..self.rounds).map(|_| {
            per_operation(
                1,
                self.slice,
                |_| (),
                |()| self.sessions.check_origin(black_box(&head)).expect("it passes"),
            )
        });
        let time = median(times.collect());
        report.amount("cross_origin", time, "ns", Goal::AtMost(100.0));
    }

    fn load(
        &self,
        report: &mut Report,
        name: &str,
        sessions: &SessionManager,
        threads: usize,
        goal: Goal,
    ) {
        if report.wants(name) {
            let pairs = interleaved(
                self.rounds,
                || self.time_reads(sessions, threads),
                || self.time_raw_reads(threads),
            );
            add(report, name, goal, &pairs);
        }
    }

    fn merge(&self, report: &mut Report, name: &str, threads: usize, full: bool, goal: Goal) {
        if report.wants(name) {
            let pairs = interleaved(
                self.rounds,
                || self.time_writes(threads),
                || self.time_raw_writes(threads, full),
            );
            add(report, name, goal, &pairs);
        }
    }

    /// Sign-ins of new visitors, each synced before it is acknowledged, beside a synced UPDATE.
    fn sign_in(&self, report: &mut Report, name: &str, threads: usize, goal: Goal) {
        if report.wants(name) {
            let ours = || {
                per_operation(
                    threads,
                    self.slice,
                    |thread| Random::new(thread as u64 + 1),
                    |random| ours::sign_in(&self.sessions, random.next()),
                )
            };
            let raw = || self.time_raw_writes(threads, true);
            add(report, name, goal, &interleaved(self.rounds, ours, raw));
        }
    }

    /// Reads whose touch is due and goes to the cleaner, beside reads without a touch. They come in
    /// bursts that fit the cleaner's channel; its writes after each burst are timed separately.
    fn touch(&self, report: &mut Report) {
        const BURST: usize = 2000;
        if !report.wants("touch") {
            return;
        }
        let mut random = Random::new(3);
        let mut writing = Duration::ZERO;
        let mut bursts = |written: &mut Duration| {
            let mut reading = Duration::ZERO;
            for _ in 0..5 {
                let chosen: Vec<_> = (0..BURST).map(|_| random.pick(&self.known).cookie).collect();
                let began = Instant::now();
                chosen.iter().for_each(|cookie| ours::read(&self.sessions, cookie));
                reading += began.elapsed();
                let began = Instant::now();
                self.sessions.flush().expect("the touches are written");
                *written += began.elapsed();
            }
            reading.as_nanos() as f64 / (5 * BURST) as f64
        };
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            // Now every session's next read has a touch that is due.
            self.clock.advance(IDLE / 20);
            with.push(bursts(&mut writing));
            self.known.iter().for_each(|known| ours::read(&self.sessions, &known.cookie));
            self.sessions.flush().expect("the touches are written");
            let mut unused = Duration::ZERO;
            without.push(bursts(&mut unused));
        }
        let each = writing.as_secs_f64() * 1e6 / (self.rounds * 5 * BURST) as f64;
        let (with, without) = (median(with) / 1e3, median(without) / 1e3);
        let sides = [("cloakroom", with), ("without a touch", without)];
        report.ratio("touch", with / without, Goal::AtMost(1.1), &sides);
        report.series("touch_later", "us", &[("on the cleaner's thread", each)]);
    }

    fn request(&self, report: &mut Report) {
        if !report.wants("request_1t") {
            return;
        }
        let ours = || {
            per_operation(
                1,
                self.slice,
                |_| Random::new(5),
                |random| {
                    let n = random.next();
                    ours::request(&self.sessions, &random.pick(&self.known).cookie, n);
                },
            )
        };
        let raw = || self.time_raw_reads(1) + self.time_raw_writes(1, false);
        let pairs = interleaved(self.rounds, ours, raw);
        add(report, "request_1t", Goal::AtMost(0.7), &pairs);
    }

    /// Merges with their checkpoints, beside the raw UPDATE with its checkpoints; and how long a
    /// checkpoint blocks a writer.
    fn checkpoint(&self, report: &mut Report) {
        if !report.wants("checkpoint") {
            return;
        }
        let longest = Cell::new(0.0_f64);
        let maintenance = self.store.maintenance().expect("a file has a log");
        let ours = || {
            let began = Instant::now();
            let mut random = Random::new(7);
            let mut operations = 0;
            while began.elapsed() < self.slice * 2 {
                let n = random.next();
                ours::write(&self.sessions, &random.pick(&self.known).cookie, n);
                operations += 1;
            }
            maintenance.run().expect("checkpoint");
            began.elapsed().as_nanos() as f64 / f64::from(operations)
        };
        let raw = || self.time_raw_writes(1, false);
        let pairs = interleaved(self.rounds, ours, raw);
        add(report, "checkpoint", Goal::AtMost(0.8), &pairs);

        // Requests that write while checkpoints run on another thread, which block the slowest.
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    maintenance.run().expect("checkpoint");
                }
            });
            let mut random = Random::new(9);
            let mut times: Vec<f64> = Vec::new();
            let began = Instant::now();
            while began.elapsed() < self.slice * 5 {
                let one = Instant::now();
                let n = random.next();
                ours::write(&self.sessions, &random.pick(&self.known).cookie, n);
                times.push(one.elapsed().as_secs_f64() * 1e3);
            }
            stop.store(true, Ordering::Relaxed);
            times.sort_by(f64::total_cmp);
            longest.set(times[times.len() * 99 / 100]);
        });
        report.amount("checkpoint_p99", longest.get(), "ms", Goal::AtMost(50.0));
    }
}

/// Reports a ratio: of times for an upper bound, of throughputs for a lower bound.
fn add(report: &mut Report, name: &str, goal: Goal, pairs: &Pairs) {
    let value = match goal {
        Goal::AtMost(_) => pairs.ratio,
        Goal::AtLeast(_) => 1.0 / pairs.ratio,
    };
    let sides = [("cloakroom", pairs.a / 1e3), ("hand-written", pairs.b / 1e3)];
    report.ratio(name, value, goal, &sides);
}

/// The cleaner's sweep beside one raw DELETE on a copy; and the requests during a sweep.
fn sweep(report: &mut Report, dir: &Path, expired: usize, all: usize) {
    std::fs::create_dir_all(dir).expect("a folder");
    let clock = ManualClock::new(Timestamp::from_millis(raw::NOW));
    let path = dir.join("cloakroom.db");
    let store = SqliteStore::open(&path).expect("open");
    // The short-lived ones are spread evenly among the others.
    let long = |n: usize| n * expired / all == (n + 1) * expired / all;
    let known = fill(
        &path,
        all,
        &clock,
        |n| if long(n) { IDLE * 100 } else { IDLE },
        |n| (n % 5 == 0).then(|| format!("user{}", n / 25)),
    );
    store.maintenance().expect("a file has a log").run().expect("checkpoint");
    let raw_paths = ["before.db", "after.db"].map(|name| dir.join(name));
    raw_paths.iter().for_each(|path| store.file().backup(path).expect("copy"));
    // This manager sweeps only on request.
    let manager = || {
        let builder = SessionManager::builder(store.clone()).clock(clock.clone());
        builder.sweep_every(DAY).build().expect("a manager")
    };
    let live: Vec<&KnownSession> =
        known.iter().enumerate().filter(|(n, _)| long(*n)).map(|(_, known)| known).collect();

    let began = Instant::now();
    let before = time_requests(&manager(), &live, || began.elapsed() > Duration::from_secs(1));

    // First without requests, for the rate, because the raw DELETE runs without requests too.
    clock.advance(IDLE * 2);
    let now = clock.now();
    let [before_ours, after_ours] = raw_paths;
    let raw = time_raw_delete(&before_ours, now);
    let ours = time_sweep(&store, now, expired / 2);
    let raw = f64::midpoint(raw, time_raw_delete(&after_ours, now));
    let sides = [("cloakroom", ours * 1e6), ("hand-written", raw * 1e6)];
    report.ratio("sweep", raw / ours, Goal::AtLeast(0.5), &sides);

    // The cleaner removes the rest, while requests run.
    let sessions = manager();
    let done = AtomicBool::new(false);
    let during = std::thread::scope(|scope| {
        scope.spawn(|| {
            sessions.sweep_now().expect("sweep");
            done.store(true, Ordering::Relaxed);
        });
        time_requests(&sessions, &live, || done.load(Ordering::Relaxed))
    });
    let p99 = |times: &[f64]| times[times.len() * 99 / 100];
    for (what, during, before) in
        [("load", &during.reads, &before.reads), ("merge", &during.writes, &before.writes)]
    {
        let (during_p99, before_p99) = (p99(during), p99(before));
        let sides = [("cloakroom", during_p99 * 1e3), ("before the sweep", before_p99 * 1e3)];
        let name = format!("sweep_p99_{what}");
        report.ratio(&name, during_p99 / before_p99, Goal::AtMost(2.0), &sides);
        let longest = during.last().copied().unwrap_or_default();
        report.amount(&format!("sweep_longest_{what}"), longest, "ms", Goal::AtMost(50.0));
    }
}

/// The durations of requests in milliseconds, sorted.
struct RequestTimes {
    reads: Vec<f64>,
    writes: Vec<f64>,
}

/// Sends requests that read and write one of these sessions, until `is_over`.
fn time_requests(
    sessions: &SessionManager,
    live: &[&KnownSession],
    is_over: impl Fn() -> bool,
) -> RequestTimes {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    let mut random = Random::new(3);
    while !is_over() {
        let known = random.pick(live);
        let one = Instant::now();
        ours::read(sessions, &known.cookie);
        reads.push(one.elapsed().as_secs_f64() * 1e3);
        let one = Instant::now();
        ours::write(sessions, &known.cookie, random.next());
        writes.push(one.elapsed().as_secs_f64() * 1e3);
    }
    reads.sort_by(f64::total_cmp);
    writes.sort_by(f64::total_cmp);
    RequestTimes { reads, writes }
}

/// Removes the expired rows by one DELETE. Returns the seconds per row.
fn time_raw_delete(path: &Path, now: Timestamp) -> f64 {
    let connection = Connection::open(path).expect("open");
    connection.execute_batch("PRAGMA synchronous = NORMAL").expect("synchronous");
    let began = Instant::now();
    let deleted = connection
        .execute("DELETE FROM cloakroom_sessions WHERE deadline <= ?1", [now.as_millis()])
        .expect("delete");
    began.elapsed().as_secs_f64() / deleted as f64
}

/// Sweeps this number of rows in batches, and returns the seconds per row. Like the cleaner, it
/// checkpoints when the store requests it, but it makes no pauses.
fn time_sweep(store: &SqliteStore, now: Timestamp, rows: usize) -> f64 {
    let maintenance = store.maintenance().expect("a file has a log");
    let is_due = Arc::new(AtomicBool::new(false));
    let callback = is_due.clone();
    maintenance.on_due(Box::new(move || callback.store(true, Ordering::Relaxed)));
    let batch = std::num::NonZeroUsize::new(1000).expect("not zero");
    let began = Instant::now();
    let mut swept = 0;
    while swept < rows {
        swept += store.sweep(now, batch).expect("sweep").removed;
        if is_due.swap(false, Ordering::Relaxed) {
            maintenance.run().expect("checkpoint");
        }
    }
    maintenance.run().expect("checkpoint");
    began.elapsed().as_secs_f64() / swept as f64
}

/// The time from opening a large file to the first load, and the list of one user's sessions.
fn open_and_list(report: &mut Report, dir: &Path, all: usize) {
    std::fs::create_dir_all(dir).expect("a folder");
    let clock = ManualClock::new(Timestamp::from_millis(raw::NOW));
    let path = dir.join("cloakroom.db");
    drop(SqliteStore::open(&path).expect("open"));
    let user = |n: usize| Some(format!("user{}", n % (all / 5)));
    let known = fill(&path, all, &clock, |_| IDLE, user);

    let began = Instant::now();
    let store = SqliteStore::open(&path).expect("open");
    let sessions =
        SessionManager::builder(store.clone()).clock(clock.clone()).build().expect("a manager");
    ours::read(&sessions, &known[all / 2].cookie);
    let time = began.elapsed().as_secs_f64() * 1e3;
    report.amount("open", time, "ms", Goal::AtMost(50.0));

    let slice = Duration::from_millis(100);
    let index: &dyn SessionIndex = store.index().expect("it lists");
    let page = Page::first(std::num::NonZeroUsize::new(100).expect("not zero"));
    let pairs = interleaved(
        5,
        || {
            per_operation(
                1,
                slice,
                |_| Random::new(1),
                |random| {
                    let user = format!("user{}", random.next() as usize % (all / 5));
                    let user = UserKey::new(user).expect("a user");
                    let listed = index.list(&SessionFilter::User(&user), page, clock.now());
                    assert_eq!(listed.expect("it lists").len(), 5);
                },
            )
        },
        || {
            per_operation(
                1,
                slice,
                |_| (Random::new(1), Connection::open(&path).expect("open")),
                |(random, connection)| {
                    for _ in 0..5 {
                        let id_hash = &random.pick(&known).id_hash;
                        let sql =
                            "SELECT data, deadline FROM cloakroom_sessions WHERE id_hash = ?1";
                        let row: (String, i64) = connection
                            .prepare_cached(sql)
                            .and_then(|mut s| {
                                s.query_row([id_hash], |r| Ok((r.get(0)?, r.get(1)?)))
                            })
                            .expect("select");
                        black_box(row);
                    }
                },
            )
        },
    );
    add(report, "list", Goal::AtMost(3.0), &pairs);
}
