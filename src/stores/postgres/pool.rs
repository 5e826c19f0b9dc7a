//! The connections of a store: at most a fixed number, opened when they are first used.
//!
//! The pool hands out slots. The caller that gets an empty slot connects on its own thread, within
//! its deadline. If the server is down, the caller therefore gets the error immediately.

use std::fmt::{self, Debug};
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_postgres::Config;

use crate::error::{Error, ErrorKind, Result};
use crate::in_place::is_in_place;
use crate::process::Process;
use crate::stores::postgres::connection::{
    CallTime, FailedAttempt, PostgresConnection, SqlSettings, Trips,
};
use crate::stores::postgres::error::{CallFailure, error_of};
use crate::stores::postgres::tls::TlsConnector;
use crate::stores::slots::{self, SlotPool};

/// A connection that was idle for longer is closed.
const MAX_IDLE: Duration = Duration::from_secs(10 * 60);

/// A connection that was opened longer ago is closed when it is not in use.
const MAX_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// The settings of the connections of a store.
pub(super) struct PoolSettings {
    pub(super) config: Config,
    pub(super) tls: TlsConnector,
    pub(super) sql: SqlSettings,
    pub(super) connections: u32,
    pub(super) connect_timeout: Duration,
    pub(super) call_timeout: Duration,
}

pub(super) struct ConnectionPool {
    process: Process,
    slots: SlotPool<PostgresConnection>,
    settings: PoolSettings,
}

impl Debug for ConnectionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool")
            .field("config", &self.settings.config)
            .finish_non_exhaustive()
    }
}

impl Drop for ConnectionPool {
    fn drop(&mut self) {
        // Dropping a runtime in a forked process would take the sockets of the other process out of
        // an epoll instance that both share.
        self.process.leak_in_fork(|| self.slots.clone());
    }
}

impl ConnectionPool {
    pub(super) fn new(settings: PoolSettings) -> Self {
        let slots = slots::pool(settings.connections, Some(MAX_IDLE), Some(MAX_LIFETIME));
        ConnectionPool { process: Process::current(), slots, settings }
    }

    /// Executes a call within the call timeout.
    pub(super) fn call<T: Send>(
        &self,
        operation: &'static str,
        work: impl AsyncFn(&mut Trips<'_>) -> Result<T, CallFailure> + Sync,
    ) -> Result<T> {
        self.call_within(CallTime::Normal, operation, work)
    }

    /// Executes a call within this time.
    pub(super) fn call_within<T: Send>(
        &self,
        time: CallTime,
        operation: &'static str,
        work: impl AsyncFn(&mut Trips<'_>) -> Result<T, CallFailure> + Sync,
    ) -> Result<T> {
        self.process.check()?;
        let deadline = Instant::now() + self.settings.call_timeout * time.factor();
        where_a_runtime_may_run(operation, || self.call_here(operation, time, deadline, &work))
    }

    /// Executes a call on this thread, and repeats an attempt that failed for a reason that has
    /// passed by then.
    fn call_here<T>(
        &self,
        operation: &'static str,
        time: CallTime,
        deadline: Instant,
        work: &impl AsyncFn(&mut Trips<'_>) -> Result<T, CallFailure>,
    ) -> Result<T> {
        let mut slot = slots::take(&self.slots, operation, deadline)?;
        loop {
            let (mut connection, is_new) = match slot.take() {
                Some(connection) => (connection, false),
                None => (self.connect(operation, deadline)?, true),
            };
            let (result, can_be_used) =
                connection.attempt(&self.settings.sql, time, deadline, is_new, work);
            *slot = can_be_used.then_some(connection);
            let (failure, may_be_done) = match result {
                Ok(answer) => return Ok(answer),
                Err(FailedAttempt { failure, may_be_done }) => (failure, may_be_done),
            };
            let is_lost = !is_new && failure.is_of_this_connection();
            let can_succeed = is_lost || failure.is_transient() && Instant::now() < deadline;
            if may_be_done || !can_succeed {
                return Err(error_of(operation, failure, may_be_done));
            }
            if is_lost {
                *slot = None;
            }
        }
    }

    fn connect(&self, operation: &'static str, deadline: Instant) -> Result<PostgresConnection> {
        let PoolSettings { config, tls, sql, connect_timeout, .. } = &self.settings;
        let deadline = deadline.min(Instant::now() + *connect_timeout);
        PostgresConnection::open(config, tls, sql, operation, deadline)
    }
}

/// Makes a call on this thread. On a thread of another runtime that is not [in
/// place](crate::in_place) it starts a thread for the call, and waits for it, as the caller of a
/// blocking store expects.
fn where_a_runtime_may_run<T: Send>(
    operation: &'static str,
    call: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    if Handle::try_current().is_err() || is_in_place() {
        return call();
    }
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, call) {
        Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
        Err(source) => Err(Error::with_source(ErrorKind::Unavailable, operation, source)),
    })
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;
    use crate::in_place;

    /// Returns whether a call is made on this thread. The call runs a runtime.
    fn is_made_here() -> bool {
        let caller = thread::current().id();
        let call = || {
            Builder::new_current_thread().build().unwrap().block_on(async {});
            Ok(thread::current().id() == caller)
        };
        where_a_runtime_may_run("try it", call).unwrap()
    }

    #[test]
    fn a_call_in_an_asynchronous_task_has_a_thread_of_its_own() {
        assert!(is_made_here());
        let runtime = Builder::new_current_thread().build().unwrap();
        assert!(!runtime.block_on(async { is_made_here() }));
        // As within `block_in_place`, where the thread does not run the runtime.
        let _entered = runtime.enter();
        assert!(!is_made_here());
        assert!(in_place::mark(is_made_here));
    }
}
