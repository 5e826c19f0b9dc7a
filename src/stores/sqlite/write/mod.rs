//! Group commit: the writes of one process on one connection, without a thread of their own. The
//! first writer becomes the leader. It begins a transaction, runs all jobs that were queued
//! meanwhile in it, commits once, and promotes the next job in the queue. Without contention a
//! writer therefore works on its own thread and waits for no other. Groups are bounded, so that a
//! leader is not delayed for long by other jobs.

mod connection;
mod job;
mod sql;
mod tx;

use std::collections::VecDeque;
use std::fmt::{self, Debug};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::process::Process;
use crate::stores::sqlite::file::identity::FileIdentity;
use crate::stores::sqlite::record_cache::RecordCache;
use crate::stores::sqlite::wal::Wal;
use crate::sync::{IgnorePoison, Mutex, monotonic_now, thread};
use connection::WriteConnection;
use job::{Job, JobFailure, JobKind, WaitResult, panicked};

pub(super) use sql::TableSql;
pub(super) use tx::{SignInReserve, WriteTx};

/// The maximum number of jobs in one transaction.
const MAX_JOBS: usize = 64;

/// The write connection of a store, and the queue of jobs for it.
pub(super) struct Writer {
    process: Process,
    write_connection: Mutex<WriteConnection>,
    queue: Mutex<WriteQueue>,
    settings: WriterSettings,
}

/// What a writer needs beside its connection.
pub(super) struct WriterSettings {
    pub(super) sql: TableSql,
    pub(super) busy_timeout: Duration,
    pub(super) syncs_every_commit: bool,
    pub(super) wal: Wal,
    pub(super) file_identity: Arc<FileIdentity>,
    pub(super) record_cache: Option<Arc<RecordCache>>,
    /// `None` if the size of the file is not bounded.
    pub(super) reserve: Option<SignInReserve>,
}

/// The jobs that wait for a leader, in the order of their arrival.
#[derive(Default)]
struct WriteQueue {
    has_leader: bool,
    waiting: VecDeque<Arc<Job>>,
}

impl Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let busy_timeout = &self.settings.busy_timeout;
        f.debug_struct("Writer").field("busy_timeout", busy_timeout).finish_non_exhaustive()
    }
}

/// Leadership, and the jobs of the group. Dropping it, even by a panic, promotes the next job and
/// leaves no job unanswered.
struct Leader<'w> {
    writer: &'w Writer,
    operation: &'static str,
    /// Each job with its result, which is `Ok` until the job or the group fails. The leader's own
    /// is the first, until its result is taken.
    jobs: Vec<(Arc<Job>, Result<(), JobFailure>)>,
    /// Whether the thread unwinds already, as when a session is closed by a drop. It then does not
    /// unwind because of the group.
    was_panicking: bool,
}

impl<'w> Leader<'w> {
    fn new(
        writer: &'w Writer,
        operation: &'static str,
        jobs: Vec<(Arc<Job>, Result<(), JobFailure>)>,
    ) -> Self {
        Leader { writer, operation, jobs, was_panicking: thread::panicking() }
    }

    /// Fails the jobs that have not failed themselves, because nothing of the group is stored.
    fn fail(&mut self, error: &Error) {
        for (_, result) in self.jobs.iter_mut().filter(|(_, result)| result.is_ok()) {
            *result = Err(JobFailure::Error(error.clone()));
        }
    }

    /// Answers the jobs with their results.
    fn complete(&mut self) {
        if thread::panicking() && !self.was_panicking {
            self.fail(&panicked(self.operation));
        }
        for (job, result) in self.jobs.drain(..) {
            job.waiter.send(WaitResult::Completed(result));
        }
    }
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        // The next leader comes first: it begins while this thread still wakes the others.
        let mut queue = self.writer.queue.lock().ignore_poison();
        let next = queue.waiting.pop_front();
        queue.has_leader = next.is_some();
        drop(queue);
        if let Some(next) = next {
            next.waiter.send(WaitResult::Leader);
        }
        self.complete();
    }
}

impl Writer {
    pub(super) fn new(connection: Connection, has_wal: bool, settings: WriterSettings) -> Self {
        Writer {
            process: Process::current(),
            write_connection: Mutex::new(WriteConnection::new(connection, has_wal)),
            queue: Mutex::default(),
            settings,
        }
    }

    /// Returns the process in which the database was opened.
    pub(super) fn process(&self) -> Process {
        self.process
    }

    pub(super) fn wal(&self) -> &Wal {
        &self.settings.wal
    }

    /// Runs `work` in a write transaction, and returns its result when that is synced to the disk.
    ///
    /// Fails with [`ErrorKind::Busy`] if the job does not begin in time.
    pub(super) fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> Result<T> + Send + 'static,
    {
        self.run(JobKind::Synced, operation, work)
    }

    /// As [`write`](Self::write), for a change that a power cut may undo: returns when it is
    /// committed, which is faster unless the store syncs every commit.
    pub(super) fn write_unsynced<T, F>(&self, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> Result<T> + Send + 'static,
    {
        self.run(JobKind::Ordinary, operation, work)
    }

    fn run<T, F>(&self, job_kind: JobKind, operation: &'static str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut WriteTx<'_>) -> Result<T> + Send + 'static,
    {
        self.process.check()?;
        let deadline = monotonic_now() + self.settings.busy_timeout;
        let result = Arc::new(Mutex::new(None));
        let result_of_work = result.clone();
        let work = move |tx: &mut WriteTx<'_>| {
            *result_of_work.lock().ignore_poison() = Some(work(tx)?);
            Ok(())
        };
        let job = Arc::new(Job::new(job_kind, operation, Box::new(work)));
        let completed = match self.await_leadership(&job, deadline)? {
            WaitResult::Leader => self.lead(job, deadline),
            WaitResult::Completed(completed) => completed,
        };
        match completed {
            Ok(()) => result.lock().ignore_poison().take().ok_or_else(|| panicked(operation)),
            Err(JobFailure::Error(error)) => Err(error),
            // A panic of the work continues on the thread of its caller, whichever ran it.
            Err(JobFailure::Panic(panic)) => resume_unwind(panic),
        }
    }

    /// Runs `work` alone on the write connection, outside a transaction. The record cache sees this
    /// as a commit of another process, by the changed header.
    ///
    /// Fails with [`ErrorKind::Busy`] if the caller does not become the leader in time.
    pub(super) fn exclusive<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.process.check()?;
        let deadline = monotonic_now() + self.settings.busy_timeout;
        let job = Arc::new(Job::exclusive(operation));
        let WaitResult::Leader = self.await_leadership(&job, deadline)? else {
            let why = "an exclusive job was put into a group";
            return Err(Error::with_source(ErrorKind::Unexpected, operation, why));
        };
        let _leader = Leader::new(self, operation, Vec::new());
        let write_connection = self.write_connection.lock().ignore_poison();
        self.settings.file_identity.check()?;
        work(write_connection.outside_transaction()?)
    }

    /// Runs a read on the write connection, if there is no other.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.process.check()?;
        work(self.write_connection.lock().ignore_poison().get())
    }

    /// Waits in the queue until the caller is the leader, or another leader has run its job.
    fn await_leadership(&self, job: &Arc<Job>, deadline: Instant) -> Result<WaitResult> {
        let is_next = {
            let mut queue = self.queue.lock().ignore_poison();
            if !queue.has_leader {
                queue.has_leader = true;
                return Ok(WaitResult::Leader);
            }
            queue.waiting.push_back(job.clone());
            queue.waiting.len() == 1
        };
        // A synced commit takes much longer than waking a thread.
        if is_next && !self.settings.syncs_every_commit {
            job.waiter.spin();
        }
        if let Some(waited) = job.waiter.receive_until(deadline) {
            return Ok(waited);
        }
        let mut queue = self.queue.lock().ignore_poison();
        if let Some(index) = queue.waiting.iter().position(|other| Arc::ptr_eq(other, job)) {
            queue.waiting.remove(index);
            let why = "other threads of this process were still writing";
            return Err(Error::with_source(ErrorKind::Busy, job.operation, why));
        }
        drop(queue);
        // No longer queued: in an open transaction, or the leader.
        Ok(job.waiter.receive())
    }

    /// Runs a group with the caller's job first, and returns the result of that job.
    fn lead(&self, own: Arc<Job>, deadline: Instant) -> Result<(), JobFailure> {
        // Dropped after the lock of the connection is released.
        let mut leader = Leader::new(self, own.operation, vec![(own, Ok(()))]);
        let mut write_connection = self.write_connection.lock().ignore_poison();
        let frames = match self.write_group(&mut write_connection, &mut leader, deadline) {
            Ok(frames) => frames,
            Err(error) => {
                leader.fail(&error);
                None
            }
        };
        let (_, own_result) = leader.jobs.remove(0);
        if let Some(frames) = frames.filter(|frames| self.settings.wal.should_checkpoint(*frames)) {
            // Committed jobs are answered before any checkpoint.
            leader.complete();
            self.settings.wal.request_checkpoint();
            self.settings.wal.restart_if_too_large(write_connection.get(), frames);
        }
        own_result
    }

    /// Runs the jobs of a group, and commits. Returns the number of frames in the log, as
    /// [`WriteTx::commit`] does.
    fn write_group(
        &self,
        write_connection: &mut WriteConnection,
        leader: &mut Leader<'_>,
        deadline: Instant,
    ) -> Result<Option<u32>> {
        let WriterSettings { sql, file_identity, record_cache, reserve, .. } = &self.settings;
        let is_synced = self.settings.syncs_every_commit || self.needs_sync(leader);
        file_identity.check()?;
        let operation = leader.operation;
        let connection = write_connection.with_sync(is_synced, operation, deadline)?;
        let record_cache = record_cache.as_deref();
        let reserve = reserve.as_ref();
        let mut tx = WriteTx::begin(connection, sql, record_cache, reserve, operation, deadline)?;
        // Only now: while another process has held the lock of the file, the other jobs have waited
        // in the queue, each with its own deadline.
        self.fill_group(leader, is_synced);
        let is_grouped = leader.jobs.len() > 1;
        for (job, result) in &mut leader.jobs {
            tx.run_job(is_grouped, job, result)?;
        }
        tx.commit(deadline)
    }

    /// Returns whether a job that could be in the next group must be synced.
    fn needs_sync(&self, leader: &Leader<'_>) -> bool {
        let queue = self.queue.lock().ignore_poison();
        let jobs = leader.jobs.iter().map(|(job, _)| job).chain(&queue.waiting).take(MAX_JOBS);
        let mut kinds = jobs.map(|job| job.kind).take_while(|kind| *kind != JobKind::Exclusive);
        kinds.any(|kind| kind == JobKind::Synced)
    }

    /// Adds the jobs that are queued now, in their order, up to the first that needs another mode.
    fn fill_group(&self, leader: &mut Leader<'_>, is_synced: bool) {
        let may_join = |job: &Arc<Job>| match job.kind {
            JobKind::Ordinary => true,
            JobKind::Synced => is_synced,
            JobKind::Exclusive => false,
        };
        let mut queue = self.queue.lock().ignore_poison();
        while leader.jobs.len() < MAX_JOBS && queue.waiting.front().is_some_and(may_join) {
            leader.jobs.extend(queue.waiting.pop_front().map(|job| (job, Ok(()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::event::Events;
    use crate::stores::sqlite::sql::TableName;

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
        let wal = Wal::new(4096, true, Events::default());
        let file_identity = Arc::new(FileIdentity::of(vec![], Events::default()));
        let sql = TableSql::new(&TableName::new("t").unwrap());
        let settings = WriterSettings {
            sql,
            busy_timeout,
            syncs_every_commit: false,
            wal,
            file_identity,
            record_cache: None,
            reserve: None,
        };
        let writer = Arc::new(Writer::new(connection, journal == "WAL", settings));
        Bench { writer, other: open(), folder }
    }

    impl Bench {
        /// Runs these as one group, in this order: another connection's lock blocks the first one
        /// until the others are queued.
        fn group(&self, jobs: Vec<(JobKind, WriteJob)>) -> Vec<thread::Result<Result<i64>>> {
            self.other.execute_batch("BEGIN IMMEDIATE").unwrap();
            let mut threads = vec![];
            for (queued, (job_kind, work)) in jobs.into_iter().enumerate() {
                let writer = self.writer.clone();
                threads.push(thread::spawn(move || write(&writer, job_kind, work)));
                self.wait_for_queued(queued);
            }
            self.other.execute_batch("ROLLBACK").unwrap();
            threads.into_iter().map(thread::JoinHandle::join).collect()
        }

        /// Waits until there is a leader, and this number of jobs in the queue.
        fn wait_for_queued(&self, jobs: usize) {
            let is_queued = || {
                let queue = self.writer.queue.lock().ignore_poison();
                queue.has_leader && queue.waiting.len() == jobs
            };
            while !is_queued() {
                thread::yield_now();
            }
        }

        fn stored(&self) -> i64 {
            self.other.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
        }
    }

    fn write(writer: &Writer, job_kind: JobKind, work: WriteJob) -> Result<i64> {
        writer.run(job_kind, "test", |tx| tx.with_connection(work))
    }

    fn insert() -> WriteJob {
        Box::new(|c| Ok(i64::try_from(c.execute("INSERT INTO t VALUES (1)", []).unwrap()).unwrap()))
    }

    fn level() -> WriteJob {
        Box::new(|c| Ok(c.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()))
    }

    #[test]
    fn a_leader_that_unwinds_already_fails_no_other_job() {
        struct WritesOnDrop(Arc<Writer>);

        impl Drop for WritesOnDrop {
            fn drop(&mut self) {
                write(&self.0, JobKind::Ordinary, insert()).unwrap();
            }
        }

        let bench = bench("WAL", LONG);
        bench.other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let writer = bench.writer.clone();
        let leader = thread::spawn(move || {
            let _writes_on_drop = WritesOnDrop(writer);
            panic!("of the handler");
        });
        bench.wait_for_queued(0);
        let writer = bench.writer.clone();
        let follower = thread::spawn(move || write(&writer, JobKind::Ordinary, insert()));
        bench.wait_for_queued(1);
        bench.other.execute_batch("ROLLBACK").unwrap();
        assert!(leader.join().is_err());
        follower.join().unwrap().unwrap();
        assert_eq!(bench.stored(), 2);
    }

    #[test]
    fn a_synced_job_never_runs_in_an_unsynced_group() {
        let bench = bench("WAL", LONG);
        assert_eq!(write(&bench.writer, JobKind::Ordinary, level()).unwrap(), 1);
        assert_eq!(write(&bench.writer, JobKind::Synced, level()).unwrap(), 3);
        let jobs = vec![
            (JobKind::Ordinary, level()),
            (JobKind::Synced, level()),
            (JobKind::Ordinary, level()),
        ];
        let levels: Vec<_> = bench.group(jobs).into_iter().map(|l| l.unwrap().unwrap()).collect();
        assert_eq!(levels[1..], [3, 3], "the third joins the second");
    }

    #[test]
    fn a_rollback_by_sqlite_fails_the_whole_group() {
        let bench = bench("WAL", LONG);
        let fail: WriteJob = Box::new(|c| {
            c.execute_batch("ROLLBACK").unwrap();
            Err(Error::new(ErrorKind::Full, "test"))
        });
        let jobs = vec![
            (JobKind::Ordinary, insert()),
            (JobKind::Ordinary, fail),
            (JobKind::Ordinary, insert()),
        ];
        let answers = bench.group(jobs);
        let kinds: Vec<_> =
            answers.into_iter().map(|answer| answer.unwrap().map_err(|e| e.kind())).collect();
        assert_eq!(kinds, [Err(ErrorKind::Full); 3]);
        assert_eq!(bench.stored(), 0);
        write(&bench.writer, JobKind::Ordinary, insert()).unwrap();
        assert_eq!(bench.stored(), 1);
    }

    #[test]
    fn a_panic_undoes_its_job_and_reaches_its_caller_only() {
        let bench = bench("WAL", LONG);
        let panic: WriteJob = Box::new(|c| {
            c.execute("INSERT INTO t VALUES (1)", []).unwrap();
            panic!("test")
        });
        let jobs = vec![
            (JobKind::Ordinary, insert()),
            (JobKind::Ordinary, panic),
            (JobKind::Ordinary, insert()),
        ];
        let answers = bench.group(jobs);
        let panicked: Vec<_> = answers.iter().map(Result::is_err).collect();
        assert_eq!(panicked, [false, true, false]);
        assert_eq!(bench.stored(), 2);
        let alone: WriteJob = Box::new(|_| panic!("test"));
        let writer = bench.writer.clone();
        thread::spawn(move || write(&writer, JobKind::Ordinary, alone)).join().unwrap_err();
        write(&bench.writer, JobKind::Ordinary, insert()).unwrap();
        assert_eq!(bench.stored(), 3);
    }

    #[test]
    fn success_or_a_panic_after_a_rollback_fails_the_whole_group() {
        let bench = bench("WAL", LONG);
        let ignore: WriteJob = Box::new(|c| {
            c.execute_batch("ROLLBACK").unwrap();
            Ok(0)
        });
        let panic: WriteJob = Box::new(|c| {
            c.execute_batch("ROLLBACK").unwrap();
            panic!("test")
        });
        for answer in bench.group(vec![(JobKind::Ordinary, insert()), (JobKind::Ordinary, ignore)])
        {
            assert_eq!(answer.unwrap().unwrap_err().kind(), ErrorKind::Unexpected);
        }
        let answers = bench.group(vec![(JobKind::Ordinary, insert()), (JobKind::Ordinary, panic)]);
        let [first, second] = answers.try_into().unwrap();
        assert_eq!(first.unwrap().unwrap_err().kind(), ErrorKind::Unexpected);
        assert_eq!(*second.unwrap_err().downcast::<&str>().unwrap(), "test");
        assert_eq!(bench.stored(), 0);
    }

    #[test]
    fn a_commit_that_a_reader_blocks_fails_for_the_whole_group() {
        let bench = bench("DELETE", Duration::from_millis(100));
        let reader = Connection::open(bench.folder.path().join("a.db")).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        for answer in
            bench.group(vec![(JobKind::Ordinary, insert()), (JobKind::Ordinary, insert())])
        {
            let error = answer.unwrap().unwrap_err();
            assert_eq!((error.kind(), error.has_unknown_outcome()), (ErrorKind::Busy, false));
        }
        reader.execute_batch("COMMIT").unwrap();
        assert_eq!(bench.stored(), 0);
        write(&bench.writer, JobKind::Ordinary, insert()).unwrap();
        assert_eq!(bench.stored(), 1);
    }

    #[test]
    fn a_commit_waits_for_a_reader_that_ends_in_time() {
        let bench = bench("DELETE", LONG);
        let reader = Connection::open(bench.folder.path().join("a.db")).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        reader.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
        let writer = bench.writer.clone();
        let waiting = thread::spawn(move || write(&writer, JobKind::Ordinary, insert()));
        // From its COMMIT on, no other connection can begin to read.
        while bench.other.query_row("SELECT count(*) FROM t", [], |_| Ok(())).is_ok() {
            thread::yield_now();
        }
        reader.execute_batch("COMMIT").unwrap();
        waiting.join().unwrap().unwrap();
        assert_eq!(bench.stored(), 1);
    }

    #[test]
    fn a_job_behind_a_long_one_is_busy_at_its_deadline() {
        let bench = bench("WAL", Duration::from_millis(50));
        let (began, has_begun) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let writer = bench.writer.clone();
        let long = thread::spawn(move || {
            writer.write_unsynced("test", move |_| {
                began.send(()).unwrap();
                ended.recv().unwrap();
                Ok(())
            })
        });
        has_begun.recv().unwrap();
        let error = write(&bench.writer, JobKind::Ordinary, insert()).unwrap_err();
        assert_eq!((error.kind(), error.has_unknown_outcome()), (ErrorKind::Busy, false));
        end.send(()).unwrap();
        long.join().unwrap().unwrap();
        assert!(
            bench.writer.queue.lock().ignore_poison().waiting.is_empty(),
            "it has left the queue"
        );
        write(&bench.writer, JobKind::Ordinary, insert()).unwrap();
    }
}
