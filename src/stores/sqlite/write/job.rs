//! One caller in the line, and its way to an answer.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::PoisonError;
use std::time::Instant;

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::record_cache::Transaction;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, instant, spin_until};

/// How a piece of work is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stores::sqlite) enum CommitMode {
    /// In a group, as durable as the store is.
    Normal,
    /// In a group that is on the disk before anyone in it gets an answer.
    Synced,
    /// Alone and outside a transaction.
    Alone,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic can leave behind is an open transaction, and `begin` heals that.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One caller in the line, with its work.
pub(super) trait Waiter: Send + Sync {
    fn commit_mode(&self) -> CommitMode;
    /// Tells the caller that it leads now.
    fn lead(&self);
    /// Runs the work and keeps its result; an error is given back as well.
    /// What it changes is put into `transaction`, also where it fails.
    fn run(&self, connection: &Connection, transaction: &mut Transaction<'_>) -> Result<()>;
    /// Gives the caller its result, or the group's failure in place of a good one.
    fn settle(&self, failure: Option<&Error>);
}

pub(super) struct Job<T, F> {
    commit_mode: CommitMode,
    operation: &'static str,
    seat: Mutex<Seat<T, F>>,
    changed: Condvar,
    /// Set when it is worth a look at the state.
    called: AtomicBool,
}

struct Seat<T, F> {
    state: State<T, F>,
    /// Somebody is to be woken. To wake nobody costs a call of the system too.
    asleep: bool,
}

enum State<T, F> {
    Waiting(F),
    Leading(F),
    Running,
    Ran(Result<T>),
    Panicked(Box<dyn Any + Send>),
    Settled(Result<T>),
}

/// What a caller in the line was woken for.
pub(super) enum Turn {
    Lead,
    Settled,
    TimedOut,
}

impl<T, F> Job<T, F> {
    pub(super) fn new(commit_mode: CommitMode, operation: &'static str, work: F) -> Self {
        Job {
            commit_mode,
            operation,
            seat: Mutex::new(Seat { state: State::Waiting(work), asleep: false }),
            changed: Condvar::new(),
            called: AtomicBool::new(false),
        }
    }

    /// For the next in line, whose turn is about to come.
    pub(super) fn look_out(&self) {
        spin_until(|| self.called.load(Ordering::Relaxed));
    }

    fn call(&self, seat: &mut Seat<T, F>) {
        self.called.store(true, Ordering::Relaxed);
        if std::mem::take(&mut seat.asleep) {
            self.changed.notify_one();
        }
    }

    pub(super) fn wait(&self, deadline: Option<Instant>) -> Turn {
        let mut seat = lock(&self.seat);
        loop {
            match seat.state {
                State::Leading(_) => return Turn::Lead,
                State::Settled(_) | State::Panicked(_) => return Turn::Settled,
                State::Waiting(_) | State::Running | State::Ran(_) => {}
            }
            seat.asleep = true;
            seat = match deadline.map(|deadline| deadline.saturating_duration_since(instant())) {
                None => self.changed.wait(seat).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return Turn::TimedOut,
                Some(left) => {
                    self.changed.wait_timeout(seat, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The error of a caller whose turn did not come in time.
    pub(super) fn busy(&self) -> Error {
        let why = "others in this process were still writing";
        Error::with_source(ErrorKind::Busy, self.operation, why)
    }

    pub(super) fn answer(&self) -> Result<T> {
        match std::mem::replace(&mut lock(&self.seat).state, State::Running) {
            State::Settled(answer) => answer,
            // A panic of the work is its caller's, whoever ran it.
            State::Panicked(panic) => resume_unwind(panic),
            _ => Err(panicked(self.operation)),
        }
    }
}

impl<T: Send, F: FnOnce(&Connection, &mut Transaction<'_>) -> Result<T> + Send> Waiter
    for Job<T, F>
{
    fn commit_mode(&self) -> CommitMode {
        self.commit_mode
    }

    fn lead(&self) {
        let mut seat = lock(&self.seat);
        seat.state = match std::mem::replace(&mut seat.state, State::Running) {
            State::Waiting(work) => State::Leading(work),
            other => other,
        };
        self.call(&mut seat);
    }

    fn run(&self, connection: &Connection, transaction: &mut Transaction<'_>) -> Result<()> {
        let state = std::mem::replace(&mut lock(&self.seat).state, State::Running);
        let (State::Waiting(work) | State::Leading(work)) = state else { return Ok(()) };
        let (state, failure) =
            match catch_unwind(AssertUnwindSafe(|| work(connection, transaction))) {
                Ok(Ok(answer)) => (State::Ran(Ok(answer)), None),
                Ok(Err(error)) => (State::Ran(Err(error.clone())), Some(error)),
                Err(panic) => (State::Panicked(panic), Some(panicked(self.operation))),
            };
        lock(&self.seat).state = state;
        failure.map_or(Ok(()), Err)
    }

    fn settle(&self, failure: Option<&Error>) {
        let mut seat = lock(&self.seat);
        seat.state = match (std::mem::replace(&mut seat.state, State::Running), failure) {
            (State::Settled(answer), _) => State::Settled(answer),
            (State::Panicked(panic), _) => State::Panicked(panic),
            (State::Ran(Err(own)), _) => State::Settled(Err(own)),
            (State::Ran(Ok(answer)), None) => State::Settled(Ok(answer)),
            (_, Some(failure)) => State::Settled(Err(failure.clone())),
            (unanswered, None) => unanswered,
        };
        self.call(&mut seat);
    }
}

pub(super) fn panicked(operation: &'static str) -> Error {
    let why = "the thread that wrote for this one panicked";
    Error::with_source(ErrorKind::Unexpected, operation, why)
}
