//! Many threads and several processes write one file: no write reports that it is locked, nothing
//! is lost, and the log stays short. Many requests update one session: no other visitor fails.

mod updates;

use std::fs;
use std::io::Read;
use std::num::NonZeroUsize;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::common::{
    Folder, HOUR, KillOnDrop, NOW, child, create, hex, id_hash_of, live, merge, on_threads, role,
    setting, sqlite, value,
};
use cloakroom::SqliteStore;
use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, Expected, LiveSession, Loaded, Store,
};
use cloakroom::id::SessionIdHash;
use cloakroom::stores::sqlite::rusqlite::Connection;

/// The time for which the two processes write. A minute by hand: `CLOAKROOM_SECONDS=60`.
fn seconds() -> Duration {
    let seconds = std::env::var("CLOAKROOM_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

#[test]
fn child_process() {
    match role().as_deref() {
        Some("write") => {
            let store = SqliteStore::open(std::env::var("DATABASE").unwrap()).unwrap();
            let written = write_as_fast_as_possible(&store, 8, seconds());
            println!("\nwritten {written}");
        }
        Some("increment") => {
            let store = SqliteStore::open(std::env::var("DATABASE").unwrap()).unwrap();
            increment(&store, &id_hash_of(&std::env::var("KEY").unwrap()), 8, 50);
        }
        _ => {}
    }
}

/// On every thread, changes one session and creates others for `time`. Returns the number of
/// changes.
fn write_as_fast_as_possible(store: &SqliteStore, threads: usize, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let written = AtomicU64::new(0);
    on_threads(threads, || {
        let id_hash = create(store, &Delta::new()).unwrap();
        let mut n = 0_u64;
        while Instant::now() < end {
            n += 1;
            let done = merge(store, &id_hash, &setting("n", n)).unwrap();
            assert!(matches!(done, CommitAnswer::Done { .. }));
            if n.is_multiple_of(10) {
                create(store, &setting("note", "x".repeat(200))).unwrap();
            }
        }
        let record = live(store, &id_hash).unwrap().unwrap();
        assert_eq!(value::<u64>(&record, "n"), Some(n));
        written.fetch_add(n, Ordering::Relaxed);
    });
    written.into_inner()
}

fn two_processes_write(maintenance: bool) {
    let (folder, store) = sqlite();
    let mut process = KillOnDrop(
        child(module_path!(), "write")
            .env("DATABASE", folder.database())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut output = process.0.stdout.take().unwrap();
    let stop = AtomicBool::new(false);
    let (longest, written) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut longest = 0;
            while !stop.load(Ordering::Relaxed) {
                if maintenance {
                    store.maintenance().unwrap().run().unwrap();
                }
                let log = fs::metadata(folder.path("app.db-wal")).map_or(0, |meta| meta.len());
                longest = longest.max(log);
                std::thread::yield_now();
            }
            longest
        });
        let written = write_as_fast_as_possible(&store, 32, seconds());
        stop.store(true, Ordering::Relaxed);
        (watch.join().unwrap(), written)
    });
    assert!(process.0.wait().unwrap().success(), "the other process never gets Busy");
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let others: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("written "))
        .and_then(|number| number.parse().ok())
        .unwrap();
    println!(
        "{written} merges here, {others} there, log at most {} KiB, maintenance {maintenance}",
        longest >> 10
    );
    assert!(written > 0 && others > 0);
    assert!(longest < 64 << 20, "the log grew to {longest} bytes");
}

#[test]
fn two_processes_that_write_without_a_pause_are_never_busy() {
    two_processes_write(true);
}

#[test]
fn the_log_stays_short_even_without_maintenance() {
    two_processes_write(false);
}

#[test]
fn a_sweep_does_not_report_its_wait_for_another_writer() {
    let (folder, store) = sqlite();
    create(&store, &Delta::new()).unwrap();
    let other = Connection::open(folder.database()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (begins, begun) = channel();
    let (swept, after) = std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            begins.send(()).unwrap();
            (store.sweep(NOW + HOUR * 24, NonZeroUsize::MIN).unwrap(), Instant::now())
        });
        begun.recv().unwrap();
        let waits = Instant::now();
        while waits.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
        let free = Instant::now();
        other.execute_batch("COMMIT").unwrap();
        let (swept, ended) = sweeper.join().unwrap();
        (swept, ended - free)
    });
    assert_eq!(swept.removed, 1);
    assert!(swept.blocked_for <= after, "{:?}, of {after:?} with the lock", swept.blocked_for);
}

/// Works as `update` does: reads, computes, commits, and repeats on a revision mismatch.
fn increment(store: &SqliteStore, id_hash: &SessionIdHash, threads: usize, times: u32) {
    on_threads(threads, || {
        for _ in 0..times {
            let found = store.load(id_hash, NOW).unwrap();
            let Loaded::Live(LiveSession { mut record, .. }) = found else {
                panic!("it lives");
            };
            loop {
                let next = value::<u32>(&record, "n").unwrap_or(0) + 1;
                let delta = setting("n", next);
                let mut commit = Commit::new(id_hash, Action::Merge, delta.clone(), NOW);
                commit.expected = Expected::Revision(record.revision);
                match store.commit(&commit).unwrap() {
                    CommitAnswer::RevisionMismatch(LiveSession { record: newer, .. }) => {
                        record = newer
                    }
                    CommitAnswer::Done { .. } => break,
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn increments_of_two_processes_are_all_counted() {
    let (folder, store) = sqlite();
    let id_hash = create(&store, &Delta::new()).unwrap();
    let mut other = KillOnDrop(
        child(module_path!(), "increment")
            .env("DATABASE", folder.database())
            .env("KEY", hex(&id_hash))
            .spawn()
            .unwrap(),
    );
    increment(&store, &id_hash, 8, 50);
    assert!(other.0.wait().unwrap().success());
    let record = live(&store, &id_hash).unwrap().unwrap();
    assert_eq!(value::<u32>(&record, "n"), Some(800));
    assert_eq!(record.revision, 801);
}

#[test]
fn a_log_left_to_another_program_is_not_restarted() {
    let length = |checkpoints: bool| {
        let folder = Folder::new();
        let builder = SqliteStore::builder(folder.database()).checkpoints(checkpoints);
        let store = builder.open().unwrap();
        assert_eq!(store.maintenance().is_some(), checkpoints);
        let note = "x".repeat(50_000);
        for _ in 0..1000 {
            create(&store, &setting("note", &note)).unwrap();
        }
        fs::metadata(folder.path("app.db-wal")).unwrap().len()
    };
    assert!(length(false) > 48 << 20);
    assert!(length(true) < 40 << 20);
}
