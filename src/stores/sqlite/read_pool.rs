//! The read connections to a file, opened on demand.
//!
//! The page cache keeps SQLite's default size, because a larger one would only be a second copy of
//! pages in the system's cache. Memory-mapped reads stay at the default too: with them a read error
//! is a signal that ends the program.

use std::sync::Arc;
use std::time::{Duration, Instant};

use r2d2::ManageConnection;
use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::Connection;

use crate::error::Result;
use crate::process::Process;
use crate::stores::slots::{self, SlotPool};
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::file::Access;
use crate::stores::sqlite::file::identity::FileIdentity;

/// The maximum number of prepared statements per connection; larger than the number of statements.
pub(super) const MAX_PREPARED_STATEMENTS: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct ReadPool {
    process: Process,
    slots: SlotPool<Connection>,
    manager: Arc<SqliteConnectionManager>,
    file_identity: Arc<FileIdentity>,
    busy_timeout: Duration,
}

impl ReadPool {
    pub(super) fn new(
        access: &Access,
        file_identity: Arc<FileIdentity>,
        readers: u32,
        busy_timeout: Duration,
    ) -> Self {
        let manager = SqliteConnectionManager::file(access.name())
            .with_flags(access.flags())
            .with_init(|connection| {
                connection.set_prepared_statement_cache_capacity(MAX_PREPARED_STATEMENTS);
                // It is not opened read-only, because the first reader after a crash must recover
                // the log. The cleaner checkpoints on these connections, and on macOS a plain fsync
                // stops at the drive's cache.
                connection.execute_batch("PRAGMA query_only = ON; PRAGMA checkpoint_fullfsync = ON")
            });
        ReadPool {
            process: Process::current(),
            slots: slots::pool(readers, None, None),
            manager: Arc::new(manager),
            file_identity,
            busy_timeout,
        }
    }

    /// Runs `work` on a connection, and waits for one if all are in use.
    pub(super) fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        self.process.check()?;
        if let Some(slot) = self.slots.try_get()
            && let Some(connection) = &*slot
        {
            return work(connection);
        }
        // The wait for a slot and the wait for SQLite share one deadline.
        let deadline = Instant::now() + self.busy_timeout;
        let mut slot = slots::take(&self.slots, operation, deadline)?;
        let connection = match &mut *slot {
            Some(connection) => connection,
            empty => empty.insert(self.open(operation)?),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        connection.busy_timeout(left).during(operation)?;
        let result = work(connection);
        connection.busy_timeout(self.busy_timeout).during(operation)?;
        result
    }

    /// Fails if this process is a fork of the one that opened the file, or if another file has
    /// replaced the database, which must not be read with our log.
    pub(super) fn check_file(&self) -> Result<()> {
        self.process.check()?;
        self.file_identity.check()
    }

    fn open(&self, operation: &'static str) -> Result<Connection> {
        self.check_file()?;
        let connected = self.manager.connect().during(operation);
        connected.map_err(|error| self.file_identity.explain(error))
    }
}
