//! Online backup and restore.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id;
use crate::stores::sqlite::admin::{self, Progress, ProgressFn};
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::file::{self, Access, Opened, Purpose, with_suffix};
use crate::stores::sqlite::sql::TableName;
use crate::stores::sqlite::write::{Statements, WriteTx};
use crate::stores::sqlite::{RestoreReport, migrate, row};

pub(super) const BACKING_UP: &str = "back the database up";
const RESTORING: &str = "restore the database";

/// The number of pages copied between two progress reports.
const STEP: i32 = 1024;

/// Copies a snapshot of `source` into a new file. Writers are not blocked.
pub(super) fn copy(
    source: &Connection,
    to: &Path,
    check: bool,
    progress: &mut ProgressFn,
) -> Result<ControlFlow<()>> {
    refuse_existing(to, BACKING_UP)?;
    // Only a complete copy gets the name `to`. Until then the copy has a unique name, so that
    // concurrent backups do not write into one file.
    let partial = Partial::beside(to)?;
    let copied = copy_all(source, &partial.0, progress, BACKING_UP)?;
    if copied.is_break() {
        return Ok(copied);
    }
    if check {
        let connection =
            Access::read_write(&partial.0).connect().map_err(while_doing(BACKING_UP))?;
        if refuse_damaged(&connection, BACKING_UP, progress)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    partial.publish(to, BACKING_UP)?;
    Ok(ControlFlow::Continue(()))
}

/// An incomplete file. Dropping it deletes the file.
struct Partial(PathBuf);

impl Partial {
    fn beside(to: &Path) -> Result<Self> {
        let number = u128::from_be_bytes(id::random("name a partial copy")?);
        Ok(Partial(with_suffix(to, &format!(".{number:032x}.partial"))))
    }

    /// Gives the complete file its final name, unless that exists meanwhile.
    fn publish(self, to: &Path, operation: &'static str) -> Result<()> {
        let failed = |source| failed_io(operation, source);
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(failed)?;
        match fs::hard_link(&self.0, to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(already_exists(to, operation));
            }
            // Some file systems do not support hard links.
            Err(_) => fs::rename(&self.0, to).map_err(failed)?,
        }
        // Some file systems cannot sync a folder; the copy exists nevertheless.
        if let Some(folder) = to.parent() {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After a link this is the second name of the file; after a failure it is the incomplete
        // copy.
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(with_suffix(&self.0, suffix));
        }
    }
}

/// Rejects an existing file. SQLite would also apply a journal left behind by another database to
/// the new file.
fn refuse_existing(to: &Path, operation: &'static str) -> Result<()> {
    for suffix in ["", "-wal", "-journal"] {
        let path = with_suffix(to, suffix);
        if fs::symlink_metadata(&path).is_ok() {
            return Err(already_exists(&path, operation));
        }
    }
    Ok(())
}

fn already_exists(path: &Path, operation: &'static str) -> Error {
    Error::with_source(
        ErrorKind::Invalid,
        operation,
        format!("{} exists: choose another name, or move it away", path.display()),
    )
}

fn failed_io(operation: &'static str, source: io::Error) -> Error {
    Error::with_source(file::kind_of_io(&source), operation, source)
}

fn copy_all(
    source: &Connection,
    to: &Path,
    progress: &mut ProgressFn,
    operation: &'static str,
) -> Result<ControlFlow<()>> {
    let failed = || while_doing(operation);
    file::create_new_private(to).map_err(|source| failed_io(operation, source))?;
    let mut target = Access::read_write(to).connect().map_err(failed())?;
    // A read transaction holds one snapshot. Without it the copy would restart at each commit of
    // another connection, and never finish under load.
    let snapshot = source.unchecked_transaction().map_err(failed())?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(failed())?;
    let copied = transfer(&snapshot, &mut target, Duration::ZERO, progress, operation)?;
    target.close().map_err(|(_, source)| while_doing(operation)(source))?;
    Ok(copied)
}

/// Copies `source` to `target` in one transaction of `target`.
fn transfer(
    source: &Connection,
    target: &mut Connection,
    busy_timeout: Duration,
    progress: &mut ProgressFn,
    operation: &'static str,
) -> Result<ControlFlow<()>> {
    let failed = || while_doing(operation);
    let deadline = Instant::now() + busy_timeout;
    let backup = Backup::new(source, target).map_err(failed())?;
    loop {
        match backup.step(STEP).map_err(failed())? {
            StepResult::Done => return Ok(ControlFlow::Continue(())),
            StepResult::Busy | StepResult::Locked if Instant::now() >= deadline => {
                let why = "other connections kept the database locked";
                return Err(Error::with_source(ErrorKind::Busy, operation, why));
            }
            StepResult::Busy | StepResult::Locked => thread::sleep(Duration::from_millis(1)),
            _ => {}
        }
        let copied = backup.progress();
        let pages = |count: i32| u64::try_from(count).unwrap_or(0);
        let total = pages(copied.pagecount);
        let done = total.saturating_sub(pages(copied.remaining));
        // An unfinished backup is rolled back when it is dropped.
        if progress(Progress { done, total }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

fn refuse_damaged(
    connection: &Connection,
    operation: &'static str,
    progress: &mut ProgressFn,
) -> Result<ControlFlow<()>> {
    match admin::check(connection, false, progress, operation)? {
        ControlFlow::Break(()) => Ok(ControlFlow::Break(())),
        ControlFlow::Continue(problems) => match problems.into_iter().next() {
            None => Ok(ControlFlow::Continue(())),
            Some(problem) => {
                let why = format!("the copy is damaged: {problem}");
                Err(Error::with_source(ErrorKind::Corrupt, operation, why))
            }
        },
    }
}

/// The parameters of a restore.
pub(super) struct Restore<'r> {
    pub(super) from: &'r Path,
    pub(super) to: &'r Path,
    pub(super) table: &'r TableName,
    pub(super) keep_sessions: bool,
    pub(super) busy_timeout: Duration,
    pub(super) now: Timestamp,
}

impl Restore<'_> {
    pub(super) fn run(&self, progress: &mut ProgressFn) -> Result<ControlFlow<(), RestoreReport>> {
        let failed = || while_doing(RESTORING);
        let exists = fs::exists(self.to).map_err(|source| failed_io(RESTORING, source))?;
        let mut target = None;
        if exists {
            file::check_inherited(self.to)?;
            let connection = Access::read_write(self.to).connect().map_err(failed())?;
            connection.busy_timeout(self.busy_timeout).map_err(failed())?;
            if connection.is_readonly("main").map_err(failed())? {
                return Err(Error::new(ErrorKind::ReadOnly, RESTORING));
            }
            self.refuse_foreign(&connection)?;
            target = Some(connection);
        } else {
            refuse_existing(self.to, RESTORING)?;
        }
        if !fs::exists(self.from).unwrap_or(true) {
            let why = format!("there is no file {}", self.from.display());
            return Err(Error::with_source(ErrorKind::Invalid, RESTORING, why));
        }
        let same =
            |a: &Path, b: &Path| Some(fs::canonicalize(a).ok()? == fs::canonicalize(b).ok()?);
        if same(self.from, self.to) == Some(true) {
            let why = "a database cannot be restored from itself";
            return Err(Error::with_source(ErrorKind::Invalid, RESTORING, why));
        }

        // The copy is prepared in a separate file, so that other processes see one atomic change,
        // and never a moment with live sessions that should have ended.
        let partial = Partial::beside(self.to)?;
        let source = self.open_copy()?;
        if migrate::version_before(&source, self.table)? == 0 {
            let why = format!("the copy has no table {}", self.table.as_str());
            return Err(Error::with_source(ErrorKind::NotSetUp, RESTORING, why));
        }
        if copy_all(&source, &partial.0, progress, RESTORING)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        drop(source);
        let prepared = Access::read_write(&partial.0).connect().map_err(failed())?;
        if refuse_damaged(&prepared, RESTORING, progress)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mode: String =
            prepared.query_row("PRAGMA journal_mode", [], |row| row.get(0)).map_err(failed())?;
        journal(&prepared, "DELETE").map_err(failed())?;
        let restored = self.prepare(&prepared, target.as_ref())?;

        let Some(mut target) = target else {
            // The new file gets the journal mode of the copy.
            journal(&prepared, &mode).map_err(failed())?;
            prepared.close().map_err(|(_, source)| while_doing(RESTORING)(source))?;
            partial.publish(self.to, RESTORING)?;
            return Ok(ControlFlow::Continue(restored));
        };
        self.match_page_size(&prepared, &target).map_err(failed())?;
        // Revocations must be durable before they are acknowledged.
        let synced = "PRAGMA synchronous = EXTRA; PRAGMA fullfsync = ON";
        target.execute_batch(synced).map_err(failed())?;
        let moved = transfer(&prepared, &mut target, self.busy_timeout, progress, RESTORING)?;
        Ok(match moved {
            ControlFlow::Continue(()) => ControlFlow::Continue(restored),
            ControlFlow::Break(()) => ControlFlow::Break(()),
        })
    }

    fn open_copy(&self) -> Result<Connection> {
        let Opened { connection, .. } = file::open(self.from, Purpose::Read)?;
        connection.busy_timeout(self.busy_timeout).map_err(while_doing(RESTORING))?;
        let read = connection.query_row("PRAGMA schema_version", [], |_| Ok(()));
        match read.as_ref().map_err(rusqlite::Error::sqlite_error_code) {
            Err(Some(ErrorCode::NotADatabase)) => {
                let why = format!("{} is not a database", self.from.display());
                Err(Error::with_source(ErrorKind::Invalid, RESTORING, why))
            }
            _ => Ok(connection),
        }
    }

    /// Rejects a target that does not belong to this program, because the copy was not made of it.
    fn refuse_foreign(&self, target: &Connection) -> Result<()> {
        let failed = || while_doing(RESTORING);
        // A file that is not a database cannot be written to.
        target.query_row("PRAGMA schema_version", [], |_| Ok(())).map_err(failed())?;
        match migrate::version_before(target, self.table) {
            Ok(0) => {
                let tables = "SELECT count(*) FROM sqlite_schema";
                let tables: i64 = target.query_row(tables, [], |r| r.get(0)).map_err(failed())?;
                if tables == 0 {
                    return Ok(());
                }
                let (table, path) = (self.table.as_str(), self.to.display());
                let why = format!("{path} holds other tables and no table {table}");
                Err(Error::with_source(ErrorKind::NotSetUp, RESTORING, why))
            }
            Err(error) if error.kind() == ErrorKind::ForeignTable => Err(error),
            // The table is ours, of any version, or too damaged to tell.
            _ => Ok(()),
        }
    }

    /// Deletes the sessions of the copy unless they are kept, and raises the epoch above every
    /// epoch that a cache may have seen.
    fn prepare(&self, prepared: &Connection, target: Option<&Connection>) -> Result<RestoreReport> {
        let deadline = Instant::now() + self.busy_timeout;
        let statements = Statements::new(self.table);
        let mut tx = WriteTx::begin(prepared, &statements, None, RESTORING, deadline)?;
        // A damaged or empty target has no readable epoch.
        let seen = target.and_then(|target| row::epoch(target, &statements.read).ok()).unwrap_or(0);
        let live = row::count_live(prepared, &statements.read, self.now)
            .map_err(while_doing(RESTORING))?;
        if !self.keep_sessions {
            tx.delete_all(self.now)?;
        }
        tx.raise_epoch_above(seen)?;
        tx.commit(deadline)?;
        Ok(RestoreReport { live, kept: self.keep_sessions })
    }

    /// Gives the copy the page size of the target: SQLite cannot change the page size of a file
    /// with a write-ahead log.
    fn match_page_size(&self, prepared: &Connection, target: &Connection) -> rusqlite::Result<()> {
        let size = |connection: &Connection| -> rusqlite::Result<i64> {
            connection.query_row("PRAGMA page_size", [], |row| row.get(0))
        };
        let wanted = size(target)?;
        if size(prepared)? != wanted {
            prepared.execute_batch(&format!("PRAGMA page_size = {wanted}; VACUUM"))?;
        }
        Ok(())
    }
}

fn journal(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()))
}
