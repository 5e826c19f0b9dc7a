//! One writer a process: a connection, not a thread.
//!
//! Whoever finds nobody writing leads: it begins a transaction, takes everyone who queued
//! meanwhile into it, commits once, and hands leadership to the next in line. A lone writer
//! therefore works on its own thread and waits for nobody. The groups are small enough that a
//! leader is not kept long by the others.

mod job;

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::process::Process;
use crate::stores::sqlite::error::{self, while_doing};
use crate::stores::sqlite::file_identity::Names;
use crate::stores::sqlite::record_cache::{RecordCache, Transaction};
use crate::stores::sqlite::wal::Log;
use crate::sync::{Mutex, instant, thread};
use job::{Job, Turn, Waiter, lock, panicked};

pub(super) use job::CommitMode;

const LARGEST_GROUP: usize = 64;

pub(super) struct Writer {
    process: Process,
    write_connection: Mutex<WriteConnection>,
    queue: Mutex<WriteQueue>,
    busy_timeout: Duration,
    /// Sync every group.
    full: bool,
    log: Log,
    names: Arc<Names>,
    record_cache: Option<Arc<RecordCache>>,
}

struct WriteConnection {
    connection: Connection,
    /// Whether its commits are synced now, if that is known.
    synced: Option<bool>,
    /// Whether there is a write-ahead log.
    wal: bool,
}

#[derive(Default)]
struct WriteQueue {
    led: bool,
    waiting: VecDeque<Arc<dyn Waiter>>,
}

impl Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("patience", &self.busy_timeout).finish_non_exhaustive()
    }
}

/// Leadership, and everyone who is answered by it. However it ends, the next in line leads and
/// nobody is left waiting.
struct Leader<'w> {
    writer: &'w Writer,
    operation: &'static str,
    group: Vec<Arc<dyn Waiter>>,
    /// Why nobody's work stands.
    failure: Option<Error>,
}

impl Leader<'_> {
    fn settle(&mut self) {
        let failure = match self.failure.take() {
            None if thread::panicking() => Some(panicked(self.operation)),
            failure => failure,
        };
        for waiter in self.group.drain(..) {
            waiter.settle(failure.as_ref());
        }
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        // First the next leader: it begins while this thread still wakes the others.
        {
            let mut queue = lock(&self.writer.queue);
            match queue.waiting.pop_front() {
                Some(next) => next.lead(),
                None => queue.led = false,
            }
        }
        self.settle();
    }
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        wal: bool,
        busy_timeout: Duration,
        full: bool,
        log: Log,
        names: Arc<Names>,
        record_cache: Option<Arc<RecordCache>>,
    ) -> Self {
        Writer {
            process: Process::current(),
            write_connection: Mutex::new(WriteConnection { connection, synced: None, wal }),
            queue: Mutex::default(),
            busy_timeout,
            full,
            log,
            names,
            record_cache,
        }
    }

    /// The one in which the database was opened.
    pub(super) fn process(&self) -> Process {
        self.process
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// Runs `work` on the writing connection, in a transaction unless it is to be alone, and
    /// returns once that is committed.
    ///
    /// Fails with [`ErrorKind::Busy`] when its turn does not come in time.
    pub(super) fn write<T, F>(
        &self,
        commit_mode: CommitMode,
        operation: &'static str,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.write_known(commit_mode, operation, |connection, transaction| {
            transaction.everything();
            work(connection)
        })
    }

    /// The same for work that tells which sessions it changes.
    pub(super) fn write_known<T, F>(
        &self,
        commit_mode: CommitMode,
        operation: &'static str,
        work: F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Transaction<'_>) -> Result<T> + Send + 'static,
    {
        self.process.check()?;
        let deadline = instant() + self.busy_timeout;
        let job = Arc::new(Job::new(commit_mode, operation, work));
        if self.take_turn(&job, deadline)? {
            self.lead(job.clone(), operation, deadline);
        }
        job.answer()
    }

    /// For a read on the writing connection, when there is no other.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.process.check()?;
        work(&lock(&self.write_connection).connection)
    }

    /// Waits in line. True: lead. False: someone else did the work.
    fn take_turn<T, F>(&self, job: &Arc<Job<T, F>>, deadline: Instant) -> Result<bool>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &mut Transaction<'_>) -> Result<T> + Send + 'static,
    {
        let is_next = {
            let mut queue = lock(&self.queue);
            if !queue.led {
                queue.led = true;
                return Ok(true);
            }
            queue.waiting.push_back(job.clone());
            queue.waiting.len() == 1
        };
        // A commit that is synced takes much longer than to be woken.
        if is_next && !self.full {
            job.look_out();
        }
        let mut turn = job.wait(Some(deadline));
        if matches!(turn, Turn::TimedOut) {
            let mut queue = lock(&self.queue);
            let own = Arc::as_ptr(job).cast::<()>();
            let place = queue.waiting.iter().position(|w| Arc::as_ptr(w).cast::<()>() == own);
            if let Some(place) = place {
                queue.waiting.remove(place);
                return Err(job.busy());
            }
            drop(queue);
            // Out of the line: in a transaction that is under way, or called to lead.
            turn = job.wait(None);
        }
        Ok(matches!(turn, Turn::Lead))
    }

    fn lead(&self, own: Arc<dyn Waiter>, operation: &'static str, deadline: Instant) {
        let commit_mode = own.commit_mode();
        let mut leader = Leader { writer: self, operation, group: vec![own], failure: None };
        let mut write_connection = lock(&self.write_connection);
        let written = match (commit_mode, leader.group.as_slice()) {
            // Its error is its own; nobody shares it.
            (CommitMode::Alone, [own]) => {
                self.names.check().and_then(|()| write_connection.reset_connection()).map(|()| {
                    own.run(&write_connection.connection, &mut Transaction::begin(None))
                        .unwrap_or(());
                })
            }
            _ => self.write_group(&mut write_connection, &mut leader, deadline),
        };
        leader.failure = written.err();
        if let Some(pages) = self.log.is_due() {
            // What is committed is answered before the log is looked after.
            leader.settle();
            self.log.look_after(&write_connection.connection, pages);
        }
        drop(write_connection);
    }

    fn write_group(
        &self,
        write_connection: &mut WriteConnection,
        leader: &mut Leader<'_>,
        deadline: Instant,
    ) -> Result<()> {
        let failed = || while_doing(leader.operation);
        let synced = self.full
            || self.next_group(&leader.group).any(|commit_mode| commit_mode == CommitMode::Synced);
        self.names.check()?;
        write_connection.reset_connection()?;
        write_connection.set_synced(synced, deadline).map_err(failed())?;
        let connection = &write_connection.connection;
        patiently(deadline, || execute(connection, "BEGIN IMMEDIATE")).map_err(failed())?;
        Log::begin_commit();
        let mut transaction = Transaction::begin(self.record_cache.as_deref());
        self.fill_group(&mut leader.group, synced);
        let result =
            run_group(connection, &leader.group, &mut transaction, leader.operation, deadline);
        if result.is_ok() {
            transaction.committed(Log::frames());
        }
        if result.is_err() && !connection.is_autocommit() {
            // If even this fails, the next leader heals it.
            let _ = connection.execute_batch("ROLLBACK");
        }
        result
    }

    /// How those who could be written together now are to be written.
    fn next_group(&self, group: &[Arc<dyn Waiter>]) -> impl Iterator<Item = CommitMode> {
        let queue = lock(&self.queue);
        let waiting = queue.waiting.iter().map(|waiter| waiter.commit_mode());
        let paces: Vec<CommitMode> = group
            .iter()
            .map(|waiter| waiter.commit_mode())
            .chain(waiting.take_while(|commit_mode| *commit_mode != CommitMode::Alone))
            .take(LARGEST_GROUP)
            .collect();
        paces.into_iter()
    }

    /// Takes those who queued until now, in their order, up to the first who needs something else.
    fn fill_group(&self, group: &mut Vec<Arc<dyn Waiter>>, synced: bool) {
        let mut queue = lock(&self.queue);
        while group.len() < LARGEST_GROUP {
            let fits = |waiter: &Arc<dyn Waiter>| match waiter.commit_mode() {
                CommitMode::Normal => true,
                CommitMode::Synced => synced,
                CommitMode::Alone => false,
            };
            match queue.waiting.front() {
                Some(first) if fits(first) => group.extend(queue.waiting.pop_front()),
                _ => return,
            }
        }
    }
}

/// Runs everyone's work, each undone on its own if it fails, and commits.
fn run_group(
    connection: &Connection,
    group: &[Arc<dyn Waiter>],
    transaction: &mut Transaction<'_>,
    operation: &'static str,
    deadline: Instant,
) -> Result<()> {
    let step = |sql| execute(connection, sql).map_err(while_doing(operation));
    let together = group.len() > 1;
    for waiter in group {
        if together {
            step("SAVEPOINT job")?;
        }
        let (mark, rows) = (transaction.mark(), connection.total_changes());
        match waiter.run(connection, transaction) {
            Ok(()) => transaction.compare(mark, connection.total_changes().saturating_sub(rows)),
            // SQLite has rolled everything back, the work of those before included.
            Err(error) if connection.is_autocommit() => return Err(error),
            Err(error) => {
                step(if together { "ROLLBACK TO job" } else { "ROLLBACK" })?;
                transaction.undo(mark);
                if error.kind() == ErrorKind::Unexpected {
                    // A row was not what it was known to be.
                    transaction.everything();
                }
            }
        }
        if together {
            step("RELEASE job")?;
        }
    }
    if connection.is_autocommit() {
        // Alone, and its work was undone: there is nothing to commit. Or it was ended by work that
        // did not say so.
        return match group {
            [_] => Ok(()),
            _ => Err(Error::new(ErrorKind::Unexpected, operation)),
        };
    }
    // In WAL mode nothing can hold a commit up. In a kept rollback mode readers can.
    patiently(deadline, || execute(connection, "COMMIT")).map_err(while_doing(operation))
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

impl WriteConnection {
    /// Ends a transaction that a failed roll-back has left open.
    fn reset_connection(&self) -> Result<()> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        self.connection.execute_batch("ROLLBACK").map_err(while_doing("undo a failed change"))
    }

    /// Under WAL, EXTRA and FULL have each commit on the disk before it returns, and NORMAL leaves
    /// that to the next checkpoint or the next synced commit. In a kept rollback mode only EXTRA
    /// also keeps a power cut from bringing the journal back; and less than FULL could damage the
    /// database, by a journal of which only a part had reached the disk. It cannot change within a
    /// transaction.
    fn set_synced(&mut self, synced: bool, deadline: Instant) -> rusqlite::Result<()> {
        if self.synced == Some(synced) {
            return Ok(());
        }
        // Never from the statement cache: this pragma acts when it is prepared.
        patiently(deadline, || {
            self.connection.execute_batch(match (synced, self.wal) {
                (true, _) => "PRAGMA synchronous = EXTRA",
                (false, true) => "PRAGMA synchronous = NORMAL",
                (false, false) => "PRAGMA synchronous = FULL",
            })
        })?;
        self.synced = Some(synced);
        Ok(())
    }
}

/// Tries until it is not busy or the deadline has passed, at least once.
///
/// SQLite's own busy handler sleeps up to 100 ms at a time: against another process that writes
/// without a pause it can miss every gap. This asks again within two milliseconds.
pub(super) fn patiently<T>(
    deadline: Instant,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let mut pause = Duration::from_micros(50);
    loop {
        match attempt() {
            Err(error) if error::kind(&error) == ErrorKind::Busy && instant() < deadline => {
                let left = deadline.saturating_duration_since(instant());
                thread::sleep(pause.min(left));
                pause = (pause * 2).min(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::event::Events;

    const LONG: Duration = Duration::from_secs(60);

    struct Bench {
        writer: Arc<Writer>,
        other: Connection,
        folder: tempfile::TempDir,
    }

    type WriteJob = Box<dyn FnOnce(&Connection) -> Result<i64> + Send>;

    fn bench(journal: &str, busy_timeout: Duration) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let connection = Connection::open(folder.path().join("a.db")).unwrap();
            connection.busy_timeout(Duration::ZERO).unwrap();
            connection
        };
        let connection = open();
        let set_up = format!("PRAGMA journal_mode = {journal}; CREATE TABLE t (n)");
        connection.execute_batch(&set_up).unwrap();
        let log = Log::new(4096, true, Events::default());
        let names = Arc::new(Names::of(vec![], Events::default()));
        let writer = Arc::new(Writer::new(
            connection,
            journal == "WAL",
            busy_timeout,
            false,
            log,
            names,
            None,
        ));
        Bench { writer, other: open(), folder }
    }

    impl Bench {
        /// Runs these as one group, in this order: another connection's lock holds the first one
        /// up until the others have queued.
        fn group(&self, jobs: Vec<(CommitMode, WriteJob)>) -> Vec<thread::Result<Result<i64>>> {
            self.other.execute_batch("BEGIN IMMEDIATE").unwrap();
            let mut threads = vec![];
            for (queued, (commit_mode, work)) in jobs.into_iter().enumerate() {
                let writer = self.writer.clone();
                threads.push(thread::spawn(move || writer.write(commit_mode, "test", work)));
                let is_in_line = || {
                    let queue = lock(&self.writer.queue);
                    queue.led && queue.waiting.len() == queued
                };
                while !is_in_line() {
                    thread::yield_now();
                }
            }
            self.other.execute_batch("ROLLBACK").unwrap();
            threads.into_iter().map(thread::JoinHandle::join).collect()
        }

        fn stored(&self) -> i64 {
            self.other.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
        }
    }

    fn insert() -> WriteJob {
        Box::new(|c| Ok(i64::try_from(c.execute("INSERT INTO t VALUES (1)", []).unwrap()).unwrap()))
    }

    fn level() -> WriteJob {
        Box::new(|c| Ok(c.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()))
    }

    #[test]
    fn what_must_be_synced_never_runs_in_a_group_that_is_not() {
        let bench = bench("WAL", LONG);
        assert_eq!(bench.writer.write(CommitMode::Normal, "test", level()).unwrap(), 1);
        assert_eq!(bench.writer.write(CommitMode::Synced, "test", level()).unwrap(), 3);
        let jobs = vec![
            (CommitMode::Normal, level()),
            (CommitMode::Synced, level()),
            (CommitMode::Normal, level()),
        ];
        let levels: Vec<_> = bench.group(jobs).into_iter().map(|l| l.unwrap().unwrap()).collect();
        assert_eq!(levels[1..], [3, 3], "the third joins the second");
    }

    #[test]
    fn nobody_is_told_yes_when_sqlite_has_rolled_the_group_back() {
        let bench = bench("WAL", LONG);
        let fail: WriteJob = Box::new(|c| {
            c.execute_batch("ROLLBACK").unwrap();
            Err(Error::new(ErrorKind::Full, "test"))
        });
        let jobs = vec![
            (CommitMode::Normal, insert()),
            (CommitMode::Normal, fail),
            (CommitMode::Normal, insert()),
        ];
        let answers = bench.group(jobs);
        let kinds: Vec<_> =
            answers.into_iter().map(|answer| answer.unwrap().map_err(|e| e.kind())).collect();
        assert_eq!(kinds, [Err(ErrorKind::Full); 3]);
        assert_eq!(bench.stored(), 0);
        bench.writer.write(CommitMode::Normal, "test", insert()).unwrap();
        assert_eq!(bench.stored(), 1);
    }

    #[test]
    fn work_that_panics_is_undone_and_panics_its_own_caller_only() {
        let bench = bench("WAL", LONG);
        let panic: WriteJob = Box::new(|c| {
            c.execute("INSERT INTO t VALUES (1)", []).unwrap();
            panic!("test")
        });
        let jobs = vec![
            (CommitMode::Normal, insert()),
            (CommitMode::Normal, panic),
            (CommitMode::Normal, insert()),
        ];
        let answers = bench.group(jobs);
        let panicked: Vec<_> = answers.iter().map(Result::is_err).collect();
        assert_eq!(panicked, [false, true, false]);
        assert_eq!(bench.stored(), 2);
        let alone: WriteJob = Box::new(|_| panic!("test"));
        let writer = bench.writer.clone();
        thread::spawn(move || writer.write(CommitMode::Normal, "test", alone)).join().unwrap_err();
        bench.writer.write(CommitMode::Normal, "test", insert()).unwrap();
        assert_eq!(bench.stored(), 3);
    }

    #[test]
    fn a_commit_that_a_reader_holds_up_fails_for_all_and_leaves_nothing_behind() {
        let bench = bench("DELETE", Duration::from_millis(100));
        let reader = Connection::open(bench.folder.path().join("a.db")).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        for answer in
            bench.group(vec![(CommitMode::Normal, insert()), (CommitMode::Normal, insert())])
        {
            assert_eq!(answer.unwrap().unwrap_err().kind(), ErrorKind::Busy);
        }
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(bench.stored(), 0);
        bench.writer.write(CommitMode::Normal, "test", insert()).unwrap();
        assert_eq!(bench.stored(), 1);
    }

    #[test]
    fn a_commit_waits_for_a_reader_that_ends_in_time() {
        let bench = bench("DELETE", LONG);
        let reader = Connection::open(bench.folder.path().join("a.db")).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        let writer = bench.writer.clone();
        let waiting = thread::spawn(move || writer.write(CommitMode::Normal, "test", insert()));
        // Once it is at its COMMIT, nobody can begin to read.
        while bench.other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_ok() {
            thread::yield_now();
        }
        reader.execute_batch("COMMIT").unwrap();
        waiting.join().unwrap().unwrap();
        assert_eq!(bench.stored(), 1);
    }

    #[test]
    fn who_waits_behind_long_work_is_busy_when_the_time_is_over() {
        let bench = bench("WAL", Duration::from_millis(50));
        let (began, has_begun) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let writer = bench.writer.clone();
        let long = thread::spawn(move || {
            writer.write(CommitMode::Normal, "test", move |_| {
                began.send(()).unwrap();
                ended.recv().unwrap();
                Ok(())
            })
        });
        has_begun.recv().unwrap();
        let error = bench.writer.write(CommitMode::Normal, "test", insert()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        end.send(()).unwrap();
        long.join().unwrap().unwrap();
        assert!(lock(&bench.writer.queue).waiting.is_empty(), "it has left the line");
        bench.writer.write(CommitMode::Normal, "test", insert()).unwrap();
    }
}
