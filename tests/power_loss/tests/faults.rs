//! A disk that fails at any one operation, or from there on: a typed error, and the store goes on.

#[path = "../../common/mod.rs"]
mod common;
#[path = "../../common/integrity.rs"]
mod integrity;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cloakroom::backend::Store;
use cloakroom::stores::sqlite::rusqlite::ffi;
use cloakroom::stores::sqlite::{Durability, Journal};
use cloakroom::{ErrorKind, Result, SqliteStore};
use cloakroom_power_loss::{Fault, Operation, Recording, install};
use common::dice::Dice;
use common::ledger::{Ledger, WorkerMessage};
use common::workload::Worker;
use common::{Folder, HOUR, NOW, create, setting};
use integrity::assert_integrity;

/// The number of tries of each kind of fault.
fn tries() -> usize {
    usize::try_from(common::dice::number("CLOAKROOM_FAULTS").unwrap_or(12)).unwrap()
}

/// A store on a disk that can fail, and what it has promised.
struct Bench {
    folder: Folder,
    recording: Arc<Recording>,
    ledger: Mutex<Ledger>,
}

impl Bench {
    fn new() -> Self {
        install();
        let folder = Folder::in_memory();
        let recording = Recording::of(&folder.path(""));
        Bench { folder, recording, ledger: Mutex::default() }
    }

    fn open(&self, durability: Durability, journal: Journal) -> Result<SqliteStore> {
        // No operation waits for another one here: what waits for its time to be over does not end.
        let build = SqliteStore::builder(self.folder.database());
        build.durability(durability).journal(journal).busy_timeout(HOUR).open()
    }

    fn check(&self, store: &SqliteStore) {
        self.ledger.lock().unwrap().check(store);
    }

    fn recorder(&self) -> impl Fn(&str, &WorkerMessage) + Sync {
        |worker, said| self.ledger.lock().unwrap().record(worker, said)
    }
}

/// Returns true for the kinds of errors that a failing disk may have.
fn is_typed(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Full | ErrorKind::Corrupt | ErrorKind::Busy)
}

/// Tries this fault at one place after another of the same work.
fn fail_everywhere(
    operation: Operation,
    code: i32,
    lasting: bool,
    durability: Durability,
    journal: Journal,
) {
    let mut dice = Dice::new(common::dice::seed());
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut failures = 0;
    for number in 0..tries() {
        // Reads are few: most pages are in memory.
        let most = if operation == Operation::Read { 12 } else { 90 };
        let after = if number < 4 { number } else { dice.roll(most) };
        let bench = Bench::new();
        let store = bench.open(durability, journal).unwrap();
        let report = bench.recorder();
        let mut worker = Worker::new("w", &store, dice.fork(), &report);
        worker.ends_everyone = true;
        (0..12).for_each(|_| worker.step().unwrap());
        let witness = create(&store, &setting("n", 1)).unwrap();

        let after = u64::try_from(after).unwrap();
        bench.recording.plan(Fault { operation, after, code, lasting });
        let mut count = |error: &cloakroom::Error| {
            assert!(is_typed(error.kind()), "{operation:?} {after}: {error:?}");
            *kinds.entry(format!("{:?}", error.kind())).or_default() += 1;
        };
        for step in 0..12 {
            let result = worker.step();
            result.as_ref().map_err(&mut count).unwrap_or(&());
            if step % 4 == 3
                && let Some(maintenance) = store.maintenance()
            {
                maintenance.run().as_ref().map_err(&mut count).unwrap_or(&());
            }
            if !matches!(operation, Operation::Read | Operation::Open) && journal == Journal::Wal {
                let loaded = store.load(&witness, NOW).unwrap();
                drop(loaded);
            }
        }
        failures += bench.recording.stop_failing().min(1);

        // It goes on by itself, and what was not known is one or the other.
        bench.check(&store);
        (0..8).for_each(|_| worker.step().unwrap());
        bench.check(&store);
        drop(store);
        let store = bench.open(durability, journal).unwrap();
        bench.check(&store);
        assert_integrity(bench.folder.database());
        bench.recording.finish();
    }
    println!(
        "{operation:?} {code} lasting={lasting} {durability:?} {journal:?}: {failures} of {} failures, {kinds:?}",
        tries()
    );
    assert!(failures > 0, "nothing failed");
}

fn fail_in_all_ways(operation: Operation, codes: &[i32]) {
    for code in codes {
        for lasting in [false, true] {
            for (durability, journal) in [
                (Durability::Normal, Journal::Wal),
                (Durability::Full, Journal::Wal),
                (Durability::Normal, Journal::Keep),
            ] {
                fail_everywhere(operation, *code, lasting, durability, journal);
            }
        }
    }
}

#[test]
fn a_failed_write_loses_nothing_acknowledged() {
    fail_in_all_ways(Operation::Write, &[ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_FULL]);
}

#[test]
fn a_failed_sync_loses_nothing_acknowledged() {
    fail_in_all_ways(Operation::Sync, &[ffi::SQLITE_IOERR_FSYNC]);
}

#[test]
fn a_failed_read_loses_nothing_acknowledged() {
    fail_in_all_ways(Operation::Read, &[ffi::SQLITE_IOERR_READ, ffi::SQLITE_IOERR_SHORT_READ]);
}

#[test]
fn a_failed_opening_is_a_typed_error_and_loses_nothing() {
    let mut dice = Dice::new(common::dice::seed());
    let faults = [
        (Operation::Open, ffi::SQLITE_CANTOPEN),
        (Operation::Read, ffi::SQLITE_IOERR_READ),
        (Operation::Write, ffi::SQLITE_IOERR_WRITE),
        (Operation::Write, ffi::SQLITE_FULL),
        (Operation::Sync, ffi::SQLITE_IOERR_FSYNC),
        (Operation::Truncate, ffi::SQLITE_IOERR_TRUNCATE),
        (Operation::Delete, ffi::SQLITE_IOERR_DELETE),
    ];
    let mut refused = 0;
    for (operation, code) in faults {
        for (after, lasting) in (0..12).flat_map(|after| [(after, false), (after, true)]) {
            let bench = Bench::new();
            // Of a new file, and of one that has sessions and, as after a kill, a log.
            for is_new in [true, false] {
                bench.recording.plan(Fault { operation, after, code, lasting });
                match bench.open(Durability::Normal, Journal::Wal) {
                    Ok(store) => drop(store),
                    Err(error) => {
                        refused += 1;
                        assert!(
                            is_typed(error.kind()),
                            "{operation:?} {after} {is_new}: {error:?}"
                        );
                    }
                }
                bench.recording.stop_failing();
                let store = bench.open(Durability::Normal, Journal::Wal).unwrap();
                bench.check(&store);
                let report = bench.recorder();
                let mut worker = Worker::new(format!("{is_new}"), &store, dice.fork(), &report);
                (0..6).for_each(|_| worker.step().unwrap());
                // Never closed, so that its log is left as it is.
                std::mem::forget(store);
            }
            bench.recording.finish();
        }
    }
    println!("{refused} openings refused");
    assert!(refused > 30, "{refused}");
}
