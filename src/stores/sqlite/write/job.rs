//! A queued job: its work, its phase, and the thread that waits for its result.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::write::tx::WriteTx;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, IgnorePoison, Mutex, instant, spin_until};

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

/// A job in the queue, and the thread that waits for it.
pub(super) trait QueuedJob: Send + Sync {
    fn job_kind(&self) -> JobKind;
    fn operation(&self) -> &'static str;
    /// Makes the waiting thread the leader.
    fn promote(&self);
    /// Runs the work and keeps its result; an error is also returned.
    fn run(&self, tx: &mut WriteTx<'_>) -> Result<()>;
    /// Answers the waiting thread: with the result of the work, or with the failure of the group
    /// if the work succeeded.
    fn complete(&self, failure: Option<&Error>);
}

pub(super) struct Job<T, F> {
    job_kind: JobKind,
    operation: &'static str,
    state: Mutex<JobState<T, F>>,
    changed: Condvar,
    /// Whether the waiting thread was promoted or answered.
    is_notified: AtomicBool,
}

struct JobState<T, F> {
    phase: Phase<T, F>,
    /// Whether the waiting thread sleeps. To notify no thread costs a system call too.
    is_sleeping: bool,
}

enum Phase<T, F> {
    Waiting(F),
    Leading(F),
    Running,
    Ran(Result<T>),
    Panicked(Box<dyn Any + Send>),
    Completed(Result<T>),
}

/// Why a wait ended.
pub(super) enum WaitResult {
    Leader,
    Completed,
    TimedOut,
}

impl<T, F> Job<T, F> {
    pub(super) fn new(job_kind: JobKind, operation: &'static str, work: F) -> Self {
        Job {
            job_kind,
            operation,
            state: Mutex::new(JobState { phase: Phase::Waiting(work), is_sleeping: false }),
            changed: Condvar::new(),
            is_notified: AtomicBool::new(false),
        }
    }

    /// Spins for the first job of the queue, which is likely to be notified soon.
    pub(super) fn spin(&self) {
        spin_until(|| self.is_notified.load(Ordering::Relaxed));
    }

    fn notify(&self, state: &mut JobState<T, F>) {
        self.is_notified.store(true, Ordering::Relaxed);
        if std::mem::take(&mut state.is_sleeping) {
            self.changed.notify_one();
        }
    }

    pub(super) fn wait(&self, deadline: Option<Instant>) -> WaitResult {
        let mut state = self.state.lock().ignore_poison();
        loop {
            match state.phase {
                Phase::Leading(_) => return WaitResult::Leader,
                Phase::Completed(_) | Phase::Panicked(_) => return WaitResult::Completed,
                Phase::Waiting(_) | Phase::Running | Phase::Ran(_) => {}
            }
            state.is_sleeping = true;
            state = match deadline.map(|deadline| deadline.saturating_duration_since(instant())) {
                None => self.changed.wait(state).ignore_poison(),
                Some(left) if left.is_zero() => return WaitResult::TimedOut,
                Some(left) => self.changed.wait_timeout(state, left).ignore_poison().0,
            };
        }
    }

    /// The error of a job that was not begun in time.
    pub(super) fn busy(&self) -> Error {
        let why = "other threads of this process were still writing";
        Error::with_source(ErrorKind::Busy, self.operation, why)
    }

    pub(super) fn answer(&self) -> Result<T> {
        match std::mem::replace(&mut self.state.lock().ignore_poison().phase, Phase::Running) {
            Phase::Completed(answer) => answer,
            // A panic of the work continues on the thread of its caller, whichever ran it.
            Phase::Panicked(panic) => resume_unwind(panic),
            _ => Err(panicked(self.operation)),
        }
    }
}

impl<T: Send, F: FnOnce(&mut WriteTx<'_>) -> Result<T> + Send> QueuedJob for Job<T, F> {
    fn job_kind(&self) -> JobKind {
        self.job_kind
    }

    fn operation(&self) -> &'static str {
        self.operation
    }

    fn promote(&self) {
        let mut state = self.state.lock().ignore_poison();
        state.phase = match std::mem::replace(&mut state.phase, Phase::Running) {
            Phase::Waiting(work) => Phase::Leading(work),
            other => other,
        };
        self.notify(&mut state);
    }

    fn run(&self, tx: &mut WriteTx<'_>) -> Result<()> {
        let phase = std::mem::replace(&mut self.state.lock().ignore_poison().phase, Phase::Running);
        let (Phase::Waiting(work) | Phase::Leading(work)) = phase else { return Ok(()) };
        let (phase, failure) = match catch_unwind(AssertUnwindSafe(|| work(tx))) {
            Ok(Ok(answer)) => (Phase::Ran(Ok(answer)), None),
            Ok(Err(error)) => (Phase::Ran(Err(error.clone())), Some(error)),
            Err(panic) => (Phase::Panicked(panic), Some(panicked(self.operation))),
        };
        self.state.lock().ignore_poison().phase = phase;
        failure.map_or(Ok(()), Err)
    }

    fn complete(&self, failure: Option<&Error>) {
        let mut state = self.state.lock().ignore_poison();
        state.phase = match (std::mem::replace(&mut state.phase, Phase::Running), failure) {
            (Phase::Completed(answer), _) => Phase::Completed(answer),
            (Phase::Panicked(panic), _) => Phase::Panicked(panic),
            (Phase::Ran(Err(own)), _) => Phase::Completed(Err(own)),
            (Phase::Ran(Ok(answer)), None) => Phase::Completed(Ok(answer)),
            (_, Some(failure)) => Phase::Completed(Err(failure.clone())),
            (unanswered, None) => unanswered,
        };
        self.notify(&mut state);
    }
}

pub(super) fn panicked(operation: &'static str) -> Error {
    let why = "the thread that wrote for this one panicked";
    Error::with_source(ErrorKind::Unexpected, operation, why)
}
