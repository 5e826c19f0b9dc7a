//! The effect on one visitor when 400 threads update another session.
//!
//! Each round measures four slices. In two of them a visitor updates a session of its own beside
//! 400 threads: these update one session, or 400 sessions. In the other two 400 threads, or one,
//! update one session without other visitors.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::adapter::Outcome;
use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::{ErrorKind, SessionManager, SqliteStore};

use crate::ours::{Cookie, KnownSession, fill, warm};
use crate::raw;
use crate::report::{Goal, Report};
use crate::timing::median;

const THREADS: usize = 400;

/// A day.
const IDLE: Duration = Duration::from_secs(86_400);

/// The pause of a client before it repeats a refused request.
const PAUSE: Duration = Duration::from_millis(100);

/// The sessions: the first is the visitor's, the second the one that all update.
struct Bench {
    sessions: SessionManager,
    known: Vec<KnownSession>,
    slice: Duration,
}

/// The measurements of one slice.
struct Slice {
    /// The duration of each of the visitor's requests, in milliseconds, sorted.
    visits: Vec<f64>,
    seconds: f64,
    /// Updates of the others, per second.
    updates: f64,
    /// Requests of the others that were refused, per second.
    refused: f64,
}

struct Round {
    beside_one: Slice,
    beside_many: Slice,
    together: Slice,
    alone: Slice,
}

impl Slice {
    fn new(mut visits: Vec<f64>, seconds: f64, updates: f64, refused: f64) -> Self {
        visits.sort_by(f64::total_cmp);
        Slice { visits, seconds, updates, refused }
    }

    fn p99(&self) -> f64 {
        self.visits[self.visits.len() * 99 / 100]
    }

    fn longest(&self) -> f64 {
        self.visits.last().copied().unwrap_or_default()
    }

    /// The visitor's requests per second.
    fn visits(&self) -> f64 {
        self.visits.len() as f64 / self.seconds
    }
}

pub fn run(quick: bool, dir: Option<&Path>, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = dir.unwrap_or(folder.path()).join("contention.db");
    let clock = ManualClock::new(Timestamp::from_millis(raw::NOW));
    let store = SqliteStore::open(&path).expect("open");
    let known = fill(&path, THREADS + 2, &clock, |_| IDLE, |_| None);
    let sessions = SessionManager::builder(store).clock(clock).build().expect("a manager");
    warm(&sessions, &known);
    let slice = Duration::from_millis(if quick { 500 } else { 2000 });
    let bench = Bench { sessions, known, slice };
    bench.measure(if quick { 5 } else { 11 }, report);
}

/// A whole request that counts up; false if it was refused.
fn count_up(sessions: &SessionManager, cookie: &Cookie) -> bool {
    let session = sessions.open(Some(cookie.as_str()));
    session.update("n", |n: Option<u64>| n.unwrap_or(0) + 1).expect("it loads");
    match sessions.close(&session, Outcome::Completed) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::Busy => false,
        Err(error) => panic!("{error}"),
    }
}

impl Bench {
    fn measure(&self, rounds: usize, report: &mut Report) {
        let (visitor, shared) = (&self.known[0].cookie, &self.known[1].cookie);
        let mut of_rounds = Vec::new();
        for _ in 0..=rounds {
            of_rounds.push(Round {
                beside_one: self.slice(Some(visitor), THREADS, |_| shared),
                beside_many: self.slice(Some(visitor), THREADS, |n| &self.known[2 + n].cookie),
                together: self.slice(None, THREADS, |_| shared),
                alone: self.slice(None, 1, |_| shared),
            });
        }
        // The first round filled caches and opened connections.
        of_rounds.remove(0);
        let of = |what: &dyn Fn(&Round) -> f64| median(of_rounds.iter().map(what).collect());
        let sides = [
            ("cloakroom", of(&|round| round.beside_one.p99() * 1e3)),
            ("beside 400 sessions", of(&|round| round.beside_many.p99() * 1e3)),
        ];
        let ratio = of(&|round| round.beside_one.p99() / round.beside_many.p99());
        report.ratio("contention_p99", ratio, Goal::AtMost(2.0), &sides);
        let sides = [
            ("cloakroom", of(&|round| 1e6 / round.beside_one.visits())),
            ("beside 400 sessions", of(&|round| 1e6 / round.beside_many.visits())),
        ];
        let ratio = of(&|round| round.beside_one.visits() / round.beside_many.visits());
        report.ratio("contention_rate", ratio, Goal::AtLeast(0.5), &sides);
        let sides = [
            ("cloakroom", of(&|round| 1e6 / round.together.updates)),
            ("one thread", of(&|round| 1e6 / round.alone.updates)),
        ];
        let ratio = of(&|round| round.together.updates / round.alone.updates);
        report.ratio("contention_hot", ratio, Goal::AtLeast(0.5), &sides);
        let longest = [
            ("beside one session", of(&|round| round.beside_one.longest())),
            ("beside 400 sessions", of(&|round| round.beside_many.longest())),
        ];
        report.series("contention_longest", "ms", &longest);
        let refused = [("400 threads on one session", of(&|round| round.together.refused))];
        report.series("contention_refused", "requests a second", &refused);
    }

    /// One slice: a thread for each of the cookies updates its session, beside the visitor.
    fn slice<'b>(
        &'b self,
        visitor: Option<&Cookie>,
        threads: usize,
        cookie: impl Fn(usize) -> &'b Cookie,
    ) -> Slice {
        let stop = AtomicBool::new(false);
        let (updates, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        let barrier = Barrier::new(threads + 1);
        let (visits, time) = thread::scope(|scope| {
            for thread in 0..threads {
                let cookie = cookie(thread);
                let (stop, updates, refused, barrier) = (&stop, &updates, &refused, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    while !stop.load(Ordering::Relaxed) {
                        if count_up(&self.sessions, cookie) {
                            updates.fetch_add(1, Ordering::Relaxed);
                        } else {
                            refused.fetch_add(1, Ordering::Relaxed);
                            thread::sleep(PAUSE);
                        }
                    }
                });
            }
            barrier.wait();
            let began = Instant::now();
            let mut visits = Vec::new();
            match visitor {
                Some(visitor) => {
                    while began.elapsed() < self.slice {
                        let one = Instant::now();
                        assert!(count_up(&self.sessions, visitor), "the visitor was refused");
                        visits.push(one.elapsed().as_secs_f64() * 1e3);
                    }
                }
                None => thread::sleep(self.slice),
            }
            stop.store(true, Ordering::Relaxed);
            (visits, began.elapsed().as_secs_f64())
        });
        let per_second = |count: AtomicU64| count.into_inner() as f64 / time;
        Slice::new(visits, time, per_second(updates), per_second(refused))
    }
}
