//! Operators' calls that check the file: SQLite's own check, and whether a change is possible.

use std::io::Write;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::error::{ErrorKind, Result};
use crate::stores::admin::{Progress, ProgressFn};
use crate::stores::sqlite::admin::backup::{Partial, failed_io};
use crate::stores::sqlite::admin::{SqliteFile, connect};
use crate::stores::sqlite::error::{self, During, retry_while_busy};
use crate::stores::sqlite::file::access::explain;
use crate::stores::sqlite::file::{Opened, Purpose, create_new_private};
use crate::sync::IgnorePoison;

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl SqliteFile {
    /// Runs SQLite's integrity check, and returns the first problems, at most twenty. A quick check
    /// does not compare indexes with tables. Other connections can read and write meanwhile; the
    /// write-ahead log cannot be reset until the check ends.
    pub fn check_file(
        &self,
        quick: bool,
        mut progress: ProgressFn,
    ) -> Result<ControlFlow<(), Vec<String>>> {
        let (Opened { connection, .. }, _) = connect(&self.settings()?, Purpose::Read)?;
        check(&connection, quick, &mut progress, "check the database")
    }

    /// Checks whether a change is possible, and changes nothing: takes the write lock, for which it
    /// waits for the busy timeout, and writes a file of 128 KiB beside the database, which it
    /// removes. As root it does not show what the service's user may do.
    ///
    /// # Errors
    /// The reason for which no change is possible: [`Busy`](crate::ErrorKind::Busy),
    /// [`ReadOnly`](crate::ErrorKind::ReadOnly), [`Full`](crate::ErrorKind::Full) or
    /// [`Unavailable`](crate::ErrorKind::Unavailable), among others.
    pub fn try_write(&self) -> Result<()> {
        let settings = self.settings()?;
        let (Opened { connection, path, .. }, _) = connect(&settings, Purpose::Write)?;
        let deadline = Instant::now() + settings.busy_timeout;
        let lock = || {
            connection.busy_timeout(Duration::ZERO)?;
            retry_while_busy(deadline, || connection.execute_batch("BEGIN IMMEDIATE"))?;
            connection.execute_batch("ROLLBACK")
        };
        let operation = "take the lock for a change";
        lock().during(operation).map_err(|error| explain(error, &path))?;
        let partial = Partial::beside(&path)?;
        let write = || {
            let mut file = create_new_private(&partial.0)?;
            file.write_all(&[0; 128 << 10])?;
            file.sync_all()
        };
        write().map_err(|source| explain(failed_io("write beside the database", source), &path))
    }
}

/// Runs SQLite's check, and returns the first problems, at most twenty.
pub(super) fn check(
    connection: &Connection,
    quick: bool,
    progress: &mut ProgressFn,
    operation: &'static str,
) -> Result<ControlFlow<(), Vec<String>>> {
    let sql = if quick { "PRAGMA quick_check(20)" } else { "PRAGMA integrity_check(20)" };
    let run = |connection: &Connection| {
        let mut statement = connection.prepare(sql)?;
        let mut found: Vec<String> = Vec::new();
        for line in statement.query_map([], |row| row.get::<_, String>(0))? {
            match line {
                // One row can have several lines, the first of which names the database.
                Ok(line) => found.extend(
                    line.lines().filter(|line| !line.starts_with("***")).map(str::to_owned),
                ),
                // SQLite could not continue; the earlier problems explain more than this error.
                Err(error) if !found.is_empty() && error::kind(&error) == ErrorKind::Corrupt => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        found.retain(|line| line != "ok");
        Ok(found)
    };
    with_progress(connection, progress, run, operation)
}

/// Runs `work` with `progress` as SQLite's progress handler.
pub(super) fn with_progress<T>(
    connection: &Connection,
    progress: &mut ProgressFn,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    operation: &'static str,
) -> Result<ControlFlow<(), T>> {
    const INSTRUCTIONS_PER_CALL: i32 = 20_000;
    // SQLite owns the handler, so it owns the callback during the call.
    let callback = std::mem::replace(progress, Box::new(|_| ControlFlow::Continue(())));
    let shared = Arc::new(Mutex::new(callback));
    let handler = shared.clone();
    let is_cancelled = move || {
        let mut progress = handler.lock().ignore_poison();
        progress(Progress::default()).is_break()
    };
    // `()` in rusqlite 0.37; since then an error for connections that rusqlite has not opened.
    let _ = connection.progress_handler(INSTRUCTIONS_PER_CALL, Some(is_cancelled));
    let result = work(connection);
    let _ = connection.progress_handler(0, None::<fn() -> bool>);
    if let Some(callback) = Arc::into_inner(shared) {
        *progress = callback.into_inner().ignore_poison();
    }
    match result {
        Ok(answer) => Ok(ControlFlow::Continue(answer)),
        Err(rusqlite::Error::SqliteFailure(failure, _))
            if failure.code == ErrorCode::OperationInterrupted =>
        {
            Ok(ControlFlow::Break(()))
        }
        Err(error) => Err(error).during(operation),
    }
}
