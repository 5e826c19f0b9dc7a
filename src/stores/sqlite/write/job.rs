//! A queued job: its work, and what the thread that queued it waits for.
//!
//! Uses a `Handoff` to wake that thread. Called by the writer only.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::write::tx::WriteTx;
use crate::sync::{Handoff, IgnorePoison, Mutex};

/// How a job is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JobKind {
    /// In a group, as durable as the store is.
    Normal,
    /// In a group that is synced to the disk before any of its jobs is answered.
    Synced,
    /// Alone, and outside a transaction.
    Exclusive,
}

/// What a job does in the transaction.
type Work = Box<dyn FnOnce(&mut WriteTx<'_>) -> Result<Answer> + Send>;

/// The result of the work, of any type. Only the thread that waits knows the type.
pub(super) type Answer = Box<dyn Any + Send>;

/// How the work of a job ended.
pub(super) enum JobEnd {
    NotRun,
    Done(Answer),
    Failed(Error),
    Panicked(Box<dyn Any + Send>),
}

/// Why a wait in the queue ended.
pub(super) enum WaitResult {
    /// The thread is the leader now.
    Leader,
    /// Another leader has run its job.
    Completed(JobEnd),
}

/// Work in the queue, and the thread that waits for it.
pub(super) struct Job {
    pub(super) kind: JobKind,
    pub(super) operation: &'static str,
    pub(super) waiter: Handoff<WaitResult>,
    /// `None` once it runs, and for an exclusive job, whose thread runs it itself.
    work: Mutex<Option<Work>>,
}

impl Job {
    pub(super) fn new(kind: JobKind, operation: &'static str, work: Option<Work>) -> Self {
        Job { kind, operation, waiter: Handoff::default(), work: Mutex::new(work) }
    }

    /// Runs the work and sets how it ended; an error is also returned.
    pub(super) fn run(&self, tx: &mut WriteTx<'_>, end: &mut JobEnd) -> Result<()> {
        let Some(work) = self.work.lock().ignore_poison().take() else { return Ok(()) };
        match catch_unwind(AssertUnwindSafe(|| work(tx))) {
            Ok(Ok(answer)) => {
                *end = JobEnd::Done(answer);
                Ok(())
            }
            Ok(Err(error)) => {
                *end = JobEnd::Failed(error.clone());
                Err(error)
            }
            Err(panic) => {
                *end = JobEnd::Panicked(panic);
                Err(panicked(self.operation))
            }
        }
    }
}

/// Returns the error of a job whose work did not end because its leader panicked.
pub(super) fn panicked(operation: &'static str) -> Error {
    let why = "the thread that wrote for this one panicked";
    Error::with_source(ErrorKind::Unexpected, operation, why)
}
