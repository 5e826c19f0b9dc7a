//! The operators' call that compacts the file.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::stores::admin::{Progress, ProgressFn};
use crate::stores::sqlite::admin::check::with_progress;
use crate::stores::sqlite::admin::info::{info, number};
use crate::stores::sqlite::admin::report::{CompactMode, DatabaseInfo};
use crate::stores::sqlite::admin::{SqliteFile, connect};
use crate::stores::sqlite::error::{During, retry_while_busy};
use crate::stores::sqlite::file::Purpose;
use crate::stores::sqlite::wal;

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl SqliteFile {
    /// Compacts the file. If cancelled, [`CompactMode::Full`] has changed nothing, and
    /// [`CompactMode::Incremental`] has released some of the free pages.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file does not allow [`CompactMode::Incremental`].
    pub fn compact(&self, mode: CompactMode, mut progress: ProgressFn) -> Result<ControlFlow<()>> {
        const OPERATION: &str = "compact the database";
        let settings = self.settings()?;
        let (opened, table) = connect(&settings, Purpose::Write)?;
        let deadline = Instant::now() + settings.busy_timeout;
        let info = info(&opened, &table)?;
        let connection = &opened.connection;
        let done = match mode {
            CompactMode::Incremental if !info.incremental => {
                let why = "the file was not made with auto_vacuum = INCREMENTAL";
                return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
            }
            CompactMode::Incremental => release_pages(connection, &info, &mut progress)?,
            CompactMode::Full => {
                let vacuum = |connection: &Connection| {
                    retry_while_busy(deadline, || connection.execute_batch("VACUUM"))
                };
                with_progress(connection, &mut progress, vacuum, OPERATION)?
            }
        };
        truncate_log(connection, settings.busy_timeout)?;
        Ok(done)
    }
}

/// Checkpoints the whole write-ahead log and truncates it, so that the database file becomes
/// smaller.
///
/// The passive checkpoint copies most of the log without blocking writers. The truncating one
/// blocks them while it waits for readers, so it waits briefly and is retried.
fn truncate_log(connection: &Connection, busy_timeout: Duration) -> Result<()> {
    const WAIT: Duration = Duration::from_millis(25);
    let deadline = Instant::now() + busy_timeout;
    wal::checkpoint(connection, "PASSIVE")?;
    connection.busy_timeout(WAIT).during("configure the connection")?;
    // If a long read prevents this until the deadline, a later checkpoint truncates the log.
    while wal::checkpoint(connection, "TRUNCATE")?.is_incomplete && Instant::now() < deadline {
        thread::sleep(WAIT);
    }
    Ok(())
}

fn release_pages(
    connection: &Connection,
    info: &DatabaseInfo,
    progress: &mut ProgressFn,
) -> Result<ControlFlow<()>> {
    const PAGES_PER_STEP: u64 = 256;
    let total = info.free_pages;
    let mut left = total;
    while left > 0 {
        let began = Instant::now();
        connection
            .execute_batch(&format!("PRAGMA incremental_vacuum({PAGES_PER_STEP})"))
            .during("release free pages")?;
        let now = number(connection, "PRAGMA freelist_count")?;
        if now >= left {
            // Other writers free pages faster than this releases them.
            break;
        }
        left = now;
        if progress(Progress { done: total.saturating_sub(left), total }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // Leaves other writers as much time as this took.
        thread::sleep(began.elapsed());
    }
    Ok(ControlFlow::Continue(()))
}
