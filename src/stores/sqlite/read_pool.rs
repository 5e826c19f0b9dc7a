//! The read connections: a pool, or the write connection if the database is in memory.
//!
//! Uses `file` to open connections. Called by `store` for every read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use r2d2::{NopErrorHandler, Pool, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::process::Process;
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::file::Access;
use crate::stores::sqlite::file_identity::FileIdentity;
use crate::stores::sqlite::write::Writer;

/// The maximum number of prepared statements per connection; larger than the number of statements.
pub(super) const PREPARED: usize = 48;

/// How long to wait for the pool before checking again whether a connection can be opened.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(super) enum Readers {
    Pool {
        process: Process,
        pool: Pool<SqliteConnectionManager>,
        access: Access,
        file_identity: Arc<FileIdentity>,
        busy_timeout: Duration,
    },
    /// A database in memory has a single connection: locks of SQLite's shared cache ignore the busy
    /// timeout.
    SharedWriter(Arc<Writer>),
}

impl Readers {
    pub(super) fn pool(
        access: &Access,
        file_identity: Arc<FileIdentity>,
        readers: u32,
        busy_timeout: Duration,
    ) -> Self {
        let manager = SqliteConnectionManager::file(access.name())
            .with_flags(access.flags())
            .with_init(move |connection| prepare(connection, busy_timeout));
        let pool = Pool::builder()
            .max_size(readers)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connection_timeout(busy_timeout)
            // The error of the checkout contains the cause.
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(manager);
        Readers::Pool {
            process: Process::current(),
            pool,
            access: access.clone(),
            file_identity,
            busy_timeout,
        }
    }

    pub(super) fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        match self {
            Readers::SharedWriter(writer) => writer.read(work),
            Readers::Pool { process, pool, access, file_identity, busy_timeout } => {
                process.check()?;
                if let Some(connection) = pool.try_get() {
                    return work(&connection);
                }
                let (connection, left) =
                    check_out(pool, access, file_identity, *busy_timeout, operation)?;
                // The wait for the pool and the wait for SQLite share one deadline.
                connection.busy_timeout(left).map_err(while_doing(operation))?;
                let result = work(&connection);
                connection.busy_timeout(*busy_timeout).map_err(while_doing(operation))?;
                result
            }
        }
    }
}

/// Configures a new read connection.
fn prepare(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    // It is not opened read-only, because the first reader after a crash must recover the log.
    connection.execute_batch("PRAGMA query_only = ON")
}

/// Checks a connection out of the pool; returns it with the remaining time.
fn check_out(
    pool: &Pool<SqliteConnectionManager>,
    access: &Access,
    file_identity: &FileIdentity,
    busy_timeout: Duration,
    operation: &'static str,
) -> Result<(PooledConnection<SqliteConnectionManager>, Duration)> {
    let deadline = Instant::now() + busy_timeout;
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        if pool.state().connections < pool.max_size() {
            // The pool is about to open a connection. If that cannot succeed, the pool would retry
            // until the timeout; a trial here yields the error at once. The trial includes the
            // configuration, because a disk that opens a file may still fail to read it. If another
            // file has replaced the database, it must not be read with our log.
            file_identity.check()?;
            access
                .connect()
                .and_then(|connection| prepare(&connection, left()))
                .map_err(while_doing(operation))?;
        }
        // Opening may start to fail after the trial, so the wait is cut into short pieces.
        match pool.get_timeout(left().min(RECHECK_INTERVAL)) {
            Ok(connection) => return Ok((connection, left())),
            Err(_) if !left().is_zero() => {}
            Err(error) => {
                // The pool distinguishes a failure to open from a lack of free connections only in
                // its message.
                let all_in_use = pool.state().connections >= pool.max_size();
                let kind = if all_in_use { ErrorKind::Busy } else { ErrorKind::Unavailable };
                return Err(Error::with_source(kind, operation, error));
            }
        }
    }
}
