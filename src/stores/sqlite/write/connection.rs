//! The write connection, outside transactions: it rolls back what a failure left open, and sets
//! whether commits are synced.

use std::time::Instant;

use rusqlite::Connection;

use crate::error::Result;
use crate::stores::sqlite::error::{During, retry_while_busy};

/// The only connection of a store that writes.
pub(super) struct WriteConnection {
    connection: Connection,
    /// Whether its commits are synced now, if that is known.
    is_synced: Option<bool>,
    has_wal: bool,
}

impl WriteConnection {
    pub(super) fn new(connection: Connection, has_wal: bool) -> Self {
        WriteConnection { connection, is_synced: None, has_wal }
    }

    /// Returns the connection as it is, for reads and checkpoints.
    pub(super) fn get(&self) -> &Connection {
        &self.connection
    }

    /// Returns the connection outside a transaction: rolls back one that a failed rollback has left
    /// open.
    pub(super) fn outside_transaction(&self) -> Result<&Connection> {
        if !self.connection.is_autocommit() {
            self.connection.execute_batch("ROLLBACK").during("undo a failed change")?;
        }
        Ok(&self.connection)
    }

    /// Returns the connection for a transaction whose commit is synced or not. SQLite ignores a
    /// change of this setting within a transaction.
    ///
    /// With a write-ahead log EXTRA syncs each commit before it returns, and NORMAL leaves that to
    /// the next checkpoint or synced commit. With a rollback journal only EXTRA also prevents a
    /// power cut from restoring the journal of a commit; and less than FULL could damage the
    /// database, by a journal that was written in part.
    pub(super) fn with_sync(
        &mut self,
        is_synced: bool,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<&Connection> {
        self.outside_transaction()?;
        if self.is_synced != Some(is_synced) {
            let pragma = match (is_synced, self.has_wal) {
                (true, _) => "PRAGMA synchronous = EXTRA",
                (false, true) => "PRAGMA synchronous = NORMAL",
                (false, false) => "PRAGMA synchronous = FULL",
            };
            // Not from the statement cache: SQLite executes this pragma when it prepares it.
            retry_while_busy(deadline, || self.connection.execute_batch(pragma))
                .during(operation)?;
            self.is_synced = Some(is_synced);
        }
        Ok(&self.connection)
    }
}
