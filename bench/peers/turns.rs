//! The common part of the programs of the peers: fills the store, and measures on request.
//!
//! `PROGRAM FOLDER SESSIONS` prints `ready`. Then each line `WORKLOAD THREADS MILLISECONDS` on
//! standard input is answered with one line, the nanoseconds per operation. The end of the input
//! ends the program.

use std::future::Future;
use std::hint::black_box;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::Barrier;
use tower_sessions::session::{Id, Record};
use tower_sessions::{Session, SessionStore};

use crate::workload::{Random, session_json};

#[derive(Clone, Copy)]
enum Workload {
    /// Loads a session by its id, and reads one value.
    Load,
    /// Changes one value of a record that is at hand, and saves it.
    Save,
    /// Loads a session, reads one value, changes another, and saves it.
    Request,
}

struct Peer<S> {
    store: Arc<S>,
    ids: Vec<Id>,
    template: Record,
}

/// Runs the program on a multi-threaded runtime, as `#[tokio::main]` builds it.
pub fn serve<S, F>(open: impl FnOnce(PathBuf) -> F)
where
    S: SessionStore,
    F: Future<Output = S>,
{
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next().expect("a folder"));
    let sessions: u64 = words.next().and_then(|n| n.parse().ok()).expect("how many sessions");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("tokio");
    let peer = runtime.block_on(async { Peer::fill(open(folder).await, sessions).await });
    let peer = Arc::new(peer);
    answer("ready");
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split(' ').collect();
        let [workload, threads, milliseconds] = words[..] else { panic!("`{line}`") };
        let workload = match workload {
            "load" => Workload::Load,
            "save" => Workload::Save,
            "request" => Workload::Request,
            other => panic!("no workload `{other}`"),
        };
        let slice = Duration::from_millis(milliseconds.parse().expect("milliseconds"));
        let threads: usize = threads.parse().expect("threads");
        let time = runtime.block_on(per_operation(&peer, workload, threads, slice));
        answer(&format!("{time}"));
    }
}

fn answer(line: &str) {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).expect("the driver reads");
}

/// The wall time per operation in nanoseconds, while `threads` tasks each run operations one after
/// the other.
async fn per_operation<S: SessionStore>(
    peer: &Arc<Peer<S>>,
    workload: Workload,
    threads: usize,
    slice: Duration,
) -> f64 {
    let barrier = Arc::new(Barrier::new(threads));
    let tasks: Vec<_> = (0..threads)
        .map(|thread| {
            let (peer, barrier) = (Arc::clone(peer), Arc::clone(&barrier));
            tokio::spawn(async move {
                let mut random = Random::new(thread as u64 + 1);
                barrier.wait().await;
                let began = Instant::now();
                let mut operations = 0_u64;
                while began.elapsed() < slice {
                    for _ in 0..8 {
                        peer.one(workload, &mut random).await;
                    }
                    operations += 8;
                }
                (operations, began.elapsed())
            })
        })
        .collect();
    let (mut operations, mut longest) = (0, Duration::ZERO);
    for task in tasks {
        let (done, took) = task.await.expect("no task panics");
        operations += done;
        longest = longest.max(took);
    }
    longest.as_nanos() as f64 / operations as f64
}

impl<S: SessionStore> Peer<S> {
    async fn fill(store: S, sessions: u64) -> Self {
        let data = serde_json::from_str(&session_json(0)).expect("JSON");
        let expiry_date = OffsetDateTime::now_utc() + time::Duration::days(30);
        let template = Record { id: Id::default(), data, expiry_date };
        let mut ids = Vec::new();
        for _ in 0..sessions {
            let mut record = Record { id: Id::default(), ..template.clone() };
            store.create(&mut record).await.expect("it is stored");
            ids.push(record.id);
        }
        Peer { store: Arc::new(store), ids, template }
    }

    async fn one(&self, workload: Workload, random: &mut Random) {
        let id = *random.pick(&self.ids);
        if let Workload::Save = workload {
            let mut record = Record { id, ..self.template.clone() };
            record.data.insert("theme".to_owned(), theme(random).into());
            self.store.save(&record).await.expect("it is saved");
            return;
        }
        let session = Session::new(Some(id), Arc::clone(&self.store), None);
        let user: Option<u32> = session.get("user_id").await.expect("it loads");
        assert_eq!(black_box(user), Some(123_456), "the session is there");
        if let Workload::Request = workload {
            session.insert("theme", theme(random)).await.expect("it is set");
            session.save().await.expect("it is saved");
        }
    }
}

fn theme(random: &mut Random) -> String {
    format!("dark{:06}", random.next() % 1_000_000)
}
