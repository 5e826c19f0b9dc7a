//! The PostgreSQL store beside hand-written SQL, which the same client sends to the same server.
//!
//! The server does not wait for its disk: both sides would wait for the same time, which would hide
//! the difference.

mod raw;

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, LiveSession, Loaded, NewSession, Store, Touch, Value,
};
use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::id::{Realm, SessionId, SessionIdHash};
use cloakroom::{Lifetime, PostgresStore, SessionManager, UserKey};

use self::raw::{RawConnection, RawPool};
use crate::ours::{self, Cookie, KnownSession};
use crate::report::{Goal, Report};
use crate::services::Postgres;
use crate::timing::{Pairs, interleaved, per_operation};
use crate::workload::{Random, session_json};

const NOW: Timestamp = Timestamp::from_millis(crate::raw::NOW);

/// The connections of the store, and of the pool beside it.
const CONNECTIONS: u32 = 8;

/// The number of touches in a batch: the cleaner's maximum.
const TOUCHES: usize = 256;

/// The cleaner's maximum number of sessions in a sweep.
const SWEEP: NonZeroUsize = NonZeroUsize::new(1000).expect("it is not zero");

struct Bench {
    url: String,
    store: PostgresStore,
    sessions: SessionManager,
    known: Vec<KnownSession>,
    raw: Mutex<RawConnection>,
    rounds: usize,
    slice: Duration,
}

pub fn run(quick: bool, report: &mut Report) {
    let settings = ["fsync=off", "full_page_writes=off", "shared_buffers=1GB", "max_wal_size=8GB"];
    let server = Postgres::start(&settings).expect("PostgreSQL is installed, and starts");
    let rows = if quick { 20_000 } else { 100_000 };
    let bench = Bench::new(server.url(), rows, quick);
    println!("{rows} sessions of {} bytes", session_json(0).len());
    bench.load(report);
    bench.merge(report);
    bench.request(report);
    bench.many_threads(report);
    bench.touch(report);
    bench.other_operations(report);
    if report.wants("postgres_sweep") || report.wants("postgres_size") {
        bench.sweep(report, if quick { 50_000 } else { 1_000_000 });
    }
}

impl Bench {
    fn new(url: String, rows: usize, quick: bool) -> Self {
        let store = PostgresStore::builder(&url).connections(CONNECTIONS).open().expect("open");
        let ids = (0..rows).map(|_| SessionId::generate().expect("randomness"));
        let known = ids.map(|id| KnownSession {
            cookie: Cookie::of(&id),
            id_hash: *id.hash(Realm::default().tag()).as_bytes(),
        });
        let known: Vec<_> = known.collect();
        let raw = RawConnection::open(&url);
        raw.fill(&known);
        let sessions = SessionManager::builder(store.clone()).clock(ManualClock::new(NOW)).build();
        let sessions = sessions.expect("a manager");
        let slice = Duration::from_millis(if quick { 40 } else { 100 });
        let rounds = if quick { 9 } else { 41 };
        Bench { url, store, sessions, known, raw: Mutex::new(raw), rounds, slice }
    }

    /// The time of one operation on one thread.
    fn alone(&self, operation: impl Fn(&mut Random) + Sync) -> f64 {
        per_operation(1, self.slice, |thread| Random::new(thread as u64 + 1), operation)
    }

    fn raw(&self, operation: impl Fn(&mut RawConnection, &mut Random) + Sync) -> f64 {
        self.alone(|random| operation(&mut self.raw.lock().expect("no thread panics"), random))
    }

    fn id_hash(&self, random: &mut Random) -> SessionIdHash {
        SessionIdHash::from_bytes(random.pick(&self.known).id_hash)
    }

    fn load(&self, report: &mut Report) {
        if report.wants("postgres_load") {
            let pairs = interleaved(
                self.rounds,
                || self.alone(|random| drop(load(&self.store, &self.id_hash(random)))),
                || self.raw(|raw, random| drop(black_box(raw.select(random.pick(&self.known))))),
            );
            add(report, "postgres_load", Goal::AtMost(1.2), &pairs);
        }
    }

    /// The commit of a session that the request has loaded, beside an `UPDATE` that makes the same
    /// change in the same table, and beside one of a small table that may undo other changes.
    fn merge(&self, report: &mut Report) {
        if !report.wants("postgres_merge") {
            return;
        }
        // Each side changes a few sessions, whose pages must be cleaned up all the time.
        let (known, rest) = self.known.split_at(5_000);
        let others: Vec<_> = rest[..5_000].iter().map(|known| (known, AtomicI64::new(1))).collect();
        let loaded: Vec<Mutex<LiveSession>> = known
            .iter()
            .map(|known| load(&self.store, &SessionIdHash::from_bytes(known.id_hash)))
            .map(Mutex::new)
            .collect();
        let ours = || {
            self.alone(|random| {
                let n = random.next();
                let mut session = random.pick(&loaded).lock().expect("no thread panics");
                *session = merge(&self.store, &session, n);
            })
        };
        let same = || {
            self.raw(|raw, random| {
                let json = session_json(random.next() % 1_000_000);
                let (known, revision) = random.pick(&others);
                black_box(raw.merge(known, &json, revision.fetch_add(1, Ordering::Relaxed)));
            })
        };
        let pairs = interleaved(self.rounds, ours, same);
        add(report, "postgres_merge", Goal::AtMost(1.2), &pairs);
        let small = || self.raw(|raw, random| raw_update(raw, known, random));
        let pairs = interleaved(self.rounds, ours, small);
        let times = [("cloakroom", pairs.a / 1e3), ("small table", pairs.b / 1e3)];
        report.series("postgres_merge_small_table", "us", &times);
    }

    /// A whole request that reads one value and sets another.
    fn request(&self, report: &mut Report) {
        if report.wants("postgres_request") {
            let pairs = interleaved(
                self.rounds,
                || {
                    self.alone(|random| {
                        let n = random.next();
                        ours::request(&self.sessions, &random.pick(&self.known).cookie, n);
                    })
                },
                || {
                    self.raw(|raw, random| {
                        black_box(raw.select(random.pick(&self.known)));
                        raw_update(raw, &self.known, random);
                    })
                },
            );
            add(report, "postgres_request", Goal::AtMost(1.2), &pairs);
        }
    }

    fn many_threads(&self, report: &mut Report) {
        if report.wants("postgres_32t") {
            let pool = RawPool::open(&self.url, CONNECTIONS);
            let random = |thread| Random::new(thread as u64 + 1);
            let pairs = interleaved(
                self.rounds,
                || {
                    per_operation(32, self.slice, random, |random| {
                        drop(load(&self.store, &self.id_hash(random)));
                    })
                },
                || {
                    per_operation(32, self.slice, random, |random| {
                        let known = random.pick(&self.known);
                        black_box(pool.with(|raw| raw.select(known)));
                    })
                },
            );
            // A throughput.
            let sides = [("cloakroom", pairs.a / 1e3), ("hand-written", pairs.b / 1e3)];
            report.ratio("postgres_32t", 1.0 / pairs.ratio, Goal::AtLeast(0.9), &sides);
        }
    }

    /// One touch of a full batch.
    fn touch(&self, report: &mut Report) {
        if report.wants("postgres_touch") {
            let seen = AtomicI64::new(NOW.as_millis());
            let pairs = interleaved(
                self.rounds,
                || {
                    let batches = self.alone(|random| {
                        let seen = seen.fetch_add(1, Ordering::Relaxed) + 1;
                        let touch = Touch::at(Timestamp::from_millis(seen));
                        let batch: Vec<_> =
                            (0..TOUCHES).map(|_| (self.id_hash(random), touch)).collect();
                        self.store.touch(&batch, NOW).expect("they are recorded");
                    });
                    batches / TOUCHES as f64
                },
                || self.raw(|raw, random| raw_update(raw, &self.known, random)),
            );
            add(report, "postgres_touch", Goal::AtMost(0.3), &pairs);
        }
    }

    /// Operations without a counterpart: the table in docs/scaling.md shows them.
    fn other_operations(&self, report: &mut Report) {
        if !report.wants("postgres_operations") {
            return;
        }
        let new_id = || SessionId::generate().expect("randomness").hash(Realm::default().tag());
        let new_session =
            || NewSession::new(Lifetime::default().limits_from(NOW)).expect("randomness");
        let mut ids: Vec<SessionIdHash> =
            (0..20 * self.slice.as_millis()).map(|_| new_id()).collect();
        let mut times = Vec::new();
        let mut measure = |name, action: &dyn Fn(&SessionIdHash) -> (Action, SessionIdHash)| {
            let began = Instant::now();
            for id_hash in &mut ids {
                let (action, next) = action(id_hash);
                let commit = Commit::new(id_hash, action, Delta::new(), NOW);
                let answer = self.store.commit(&commit).expect("it is stored");
                assert!(matches!(answer, CommitAnswer::Done { .. } | CommitAnswer::Ended(_)));
                *id_hash = next;
            }
            times.push((name, began.elapsed().as_secs_f64() * 1e6 / ids.len() as f64));
        };
        measure("create", &|id_hash| (Action::Create(new_session()), *id_hash));
        measure("sign_in", &|_| {
            let (to, user) = (new_id(), UserKey::new(format!("{:?}", new_id())).expect("a key"));
            (Action::SignIn { to, user, new_session: new_session(), join_salt: None }, to)
        });
        measure("renew", &|_| {
            let to = new_id();
            (Action::Renew { to, grace_until: None }, to)
        });
        measure("sign_out", &|id_hash| (Action::End, *id_hash));
        report.series("postgres_operations", "us", &times);
    }

    /// Two cleaners on one table of expired sessions, and the sizes of that table and its indexes.
    fn sweep(&self, report: &mut Report, rows: i64) {
        let stores = [0, 1].map(|_| {
            PostgresStore::builder(&self.url).table("swept").open().expect("another machine")
        });
        let raw = self.raw.lock().expect("no thread panics");
        raw.execute(&format!(
            "INSERT INTO swept (id_hash, public_id, realm, user_key, auth_level, created, seen,
                 id_issued, idle, absolute, deadline, sweep_at, persistent, revision, format, data)
             SELECT sha256(n::text::bytea), uuid_send(gen_random_uuid()), '__Host-id', n / 2, 0, n,
                 n, n, 86400000, n + 2592000000, n, n, true, 1, 1, '{json}'
             FROM generate_series(1, {rows}) AS n;
             CREATE TABLE raw_swept AS TABLE swept; CREATE INDEX ON raw_swept (sweep_at)",
            json = session_json(0),
        ));
        raw.execute("VACUUM ANALYZE swept");
        let per_row = |relation: &str| {
            raw.number(&format!("SELECT pg_relation_size('{relation}')")) as f64 / rows as f64
        };
        let sizes = [
            ("table", "swept"),
            ("id", "swept_pkey"),
            ("id_hash", "swept_id_hash_key"),
            ("public_id", "swept_public_id_key"),
            ("user", "swept_user"),
            ("sweep", "swept_sweep"),
        ];
        let sizes = sizes.map(|(name, relation)| (name, per_row(relation)));
        report.series("postgres_size", "bytes per session", &sizes);

        let began = Instant::now();
        raw.execute("DELETE FROM raw_swept WHERE sweep_at <= 1000000000");
        let raw_rate = rows as f64 / began.elapsed().as_secs_f64();
        let began = Instant::now();
        let removed = thread::scope(|scope| {
            let sweep = |store: &PostgresStore| {
                let sweeps = || store.sweep(NOW, SWEEP).expect("no error");
                let batches = std::iter::repeat_with(sweeps).map(|report| report.removed);
                batches.take_while(|removed| *removed > 0).sum::<usize>()
            };
            let cleaners = stores.each_ref().map(|store| scope.spawn(move || sweep(store)));
            cleaners.map(|cleaner| cleaner.join().expect("no thread panics"))
        });
        let rate = rows as f64 / began.elapsed().as_secs_f64();
        let all: usize = removed.iter().sum();
        assert_eq!(all as i64, rows, "each session is removed by one of them");
        let share = *removed.iter().min().expect("two") as f64 / all as f64;
        report.amount("postgres_sweep", share, "", Goal::AtLeast(0.3));
        let rates = [("two cleaners", rate), ("one DELETE", raw_rate)];
        report.series("postgres_sweep_rate", "rows a second", &rates);
    }
}

fn load(store: &PostgresStore, id_hash: &SessionIdHash) -> LiveSession {
    match store.load(id_hash, NOW) {
        Ok(Loaded::Live(session)) => black_box(session),
        other => panic!("{other:?}"),
    }
}

fn merge(store: &PostgresStore, loaded: &LiveSession, n: u64) -> LiveSession {
    let mut delta = Delta::new();
    let theme = Value::encode(&format!("dark{:06}", n % 1_000_000)).expect("it encodes");
    delta.set("theme", theme);
    let mut commit = Commit::new(&loaded.id_hash, Action::Merge, delta, NOW);
    commit.loaded = Some(loaded.clone().into());
    match store.commit(&commit) {
        Ok(CommitAnswer::Done { session, .. } | CommitAnswer::Unchanged(session)) => session,
        other => panic!("{other:?}"),
    }
}

fn raw_update(raw: &mut RawConnection, known: &[KnownSession], random: &mut Random) {
    let json = session_json(random.next() % 1_000_000);
    black_box(raw.update(random.pick(known), &json));
}

fn add(report: &mut Report, name: &str, goal: Goal, pairs: &Pairs) {
    let sides = [("cloakroom", pairs.a / 1e3), ("hand-written", pairs.b / 1e3)];
    report.ratio(name, pairs.ratio, goal, &sides);
}
