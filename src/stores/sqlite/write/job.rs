//! A queued job: its work, and what the thread that queued it waits for.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::write::tx::WriteTx;
use crate::sync::{Handoff, IgnorePoison, Mutex};

/// The groups that a job may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobKind {
    /// Any group. The job is as durable as the store is.
    Ordinary,
    /// Those that are synced to the disk before any of their jobs is answered.
    Synced,
    /// No group: the thread waits to be the leader, and then works outside a transaction.
    Exclusive,
}

/// What a job does in the transaction. It keeps its result for the thread that queued it.
type Work = Box<dyn FnOnce(&mut WriteTx<'_>) -> Result<()> + Send>;

/// Why a job has changed nothing.
pub(super) enum JobFailure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

/// Why a wait in the queue ended.
pub(super) enum WaitResult {
    /// The thread is the leader now.
    Leader,
    /// Another thread, as the leader, has run the job.
    Completed(Result<(), JobFailure>),
}

/// Work in the queue, and the thread that waits for it.
pub(super) struct Job {
    pub(super) kind: JobKind,
    pub(super) operation: &'static str,
    pub(super) waiter: Handoff<WaitResult>,
    /// `None` once it runs, and for an exclusive job.
    work: Mutex<Option<Work>>,
}

impl Job {
    pub(super) fn new(kind: JobKind, operation: &'static str, work: Work) -> Self {
        let work = Mutex::new(Some(work));
        Job { kind, operation, waiter: Handoff::default(), work }
    }

    pub(super) fn exclusive(operation: &'static str) -> Self {
        let kind = JobKind::Exclusive;
        Job { kind, operation, waiter: Handoff::default(), work: Mutex::default() }
    }

    /// Runs the work.
    pub(super) fn run(&self, tx: &mut WriteTx<'_>) -> Result<(), JobFailure> {
        let Some(work) = self.work.lock().ignore_poison().take() else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| work(tx))) {
            Ok(result) => result.map_err(JobFailure::Error),
            Err(panic) => Err(JobFailure::Panic(panic)),
        }
    }
}

/// Returns the error of a job whose work did not end because its leader panicked.
pub(super) fn panicked(operation: &'static str) -> Error {
    let why = "the thread that wrote for this one panicked";
    Error::with_source(ErrorKind::Unexpected, operation, why)
}
