//! The connections that read: a pool, or the writer's own when the database is in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use r2d2::{NopErrorHandler, Pool, PooledConnection};
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::process::Process;
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::file::Access;
use crate::stores::sqlite::file_identity::Names;
use crate::stores::sqlite::write::Writer;

/// Statements that one connection keeps prepared: more than there are.
pub(super) const PREPARED: usize = 48;

/// How long the pool may try to open a connection before somebody looks why it takes so long.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
pub(super) enum Readers {
    Pool {
        process: Process,
        pool: Pool<SqliteConnectionManager>,
        access: Access,
        names: Arc<Names>,
        busy_timeout: Duration,
    },
    /// A database in memory has one connection: SQLite's shared cache answers with locks that no
    /// busy timeout covers.
    Shared(Arc<Writer>),
}

impl Readers {
    pub(super) fn pool(
        access: &Access,
        names: Arc<Names>,
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
            // What went wrong comes back with the error of the checkout.
            .error_handler(Box::new(NopErrorHandler))
            .build_unchecked(manager);
        Readers::Pool {
            process: Process::current(),
            pool,
            access: access.clone(),
            names,
            busy_timeout,
        }
    }

    pub(super) fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        match self {
            Readers::Shared(writer) => writer.read(work),
            Readers::Pool { process, pool, access, names, busy_timeout } => {
                process.check()?;
                if let Some(connection) = pool.try_get() {
                    return work(&connection);
                }
                let (connection, left) = check_out(pool, access, names, *busy_timeout, operation)?;
                // The wait for SQLite is part of the same deadline.
                connection.busy_timeout(left).map_err(while_doing(operation))?;
                let result = work(&connection);
                connection.busy_timeout(*busy_timeout).map_err(while_doing(operation))?;
                result
            }
        }
    }
}

/// Makes a new connection one that reads.
fn prepare(connection: &Connection, busy_timeout: Duration) -> rusqlite::Result<()> {
    connection.busy_timeout(busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(PREPARED);
    // Not opened read-only: after a kill the first reader has to recover the log.
    connection.execute_batch("PRAGMA query_only = ON")
}

/// A connection and what is left of the time.
fn check_out(
    pool: &Pool<SqliteConnectionManager>,
    access: &Access,
    names: &Names,
    busy_timeout: Duration,
    operation: &'static str,
) -> Result<(PooledConnection<SqliteConnectionManager>, Duration)> {
    let deadline = Instant::now() + busy_timeout;
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        if pool.state().connections < pool.max_size() {
            // The pool is about to open one more, and would try that until the time is over where
            // it cannot succeed. The reason is known at once by trying it here: all of it, because
            // a disk that opens the file need not read it.
            // A file that has taken the place of ours would be read with our log.
            names.check()?;
            access
                .connect()
                .and_then(|connection| prepare(&connection, left()))
                .map_err(while_doing(operation))?;
        }
        // What could be done a moment ago may fail from now on, so the pool is not left alone.
        match pool.get_timeout(left().min(LOOK_AGAIN)) {
            Ok(connection) => return Ok((connection, left())),
            Err(_) if !left().is_zero() => {}
            Err(error) => {
                // The pool tells a connection that could not be opened from one that was not free
                // only in words.
                let all_in_use = pool.state().connections >= pool.max_size();
                let kind = if all_in_use { ErrorKind::Busy } else { ErrorKind::Unavailable };
                return Err(Error::with_source(kind, operation, error));
            }
        }
    }
}
