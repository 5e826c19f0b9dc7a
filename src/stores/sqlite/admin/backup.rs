//! Operators' calls that copy the database while it is in use.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::error::{Error, ErrorKind, Result};
use crate::id;
use crate::stores::admin::{Progress, ProgressFn};
use crate::stores::sqlite::admin::{SqliteFile, check};
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::file::access::explain;
use crate::stores::sqlite::file::paths::{SUFFIXES, with_suffix};
use crate::stores::sqlite::file::{self, Access};

const BACKING_UP: &str = "back the database up";

/// The number of pages copied between two progress reports.
const PAGES_PER_STEP: i32 = 1024;

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl SqliteFile {
    /// Copies a snapshot of the whole database to a new file at `to`. Other connections can read
    /// and write meanwhile. The file `to` appears when the copy is complete.
    ///
    /// Sessions that are revoked later are live in the copy. Under a rollback journal
    /// ([`Journal::Keep`](crate::stores::sqlite::Journal::Keep)) commits wait until the copy is
    /// complete.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `to` exists; [`ErrorKind::Full`], [`ErrorKind::ReadOnly`] or
    /// [`ErrorKind::Unavailable`] if it cannot be written.
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<()> {
        self.back_up(to.as_ref(), false, Box::new(|_| ControlFlow::Continue(()))).map(drop)
    }

    /// Copies as [`backup`](Self::backup) does, with progress, and checks the copy in full before
    /// its file appears. If cancelled, it leaves no file.
    ///
    /// # Errors
    /// As [`backup`](Self::backup), and [`ErrorKind::Corrupt`] if the copy is damaged.
    pub fn backup_checked(
        &self,
        to: impl AsRef<Path>,
        progress: ProgressFn,
    ) -> Result<ControlFlow<()>> {
        self.back_up(to.as_ref(), true, progress)
    }

    fn back_up(&self, to: &Path, check: bool, mut progress: ProgressFn) -> Result<ControlFlow<()>> {
        let store = self.store_for_reading()?;
        let shared = &*store.0;
        match &shared.file {
            Some((access, _)) => {
                shared.writer.process().check()?;
                // A separate connection, so that a long copy occupies no reader.
                let source = access.connect().during(BACKING_UP)?;
                source.busy_timeout(shared.busy_timeout).during(BACKING_UP)?;
                copy(&source, to, check, &mut progress).map_err(|error| explain(error, to))
            }
            None => shared.writer.read(|source| copy(source, to, check, &mut progress)),
        }
    }
}

/// Copies a snapshot of `source` into a new file. Writers are not blocked.
fn copy(
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
        let connection = Access::read_write(&partial.0).connect().during(BACKING_UP)?;
        if refuse_damaged(&connection, BACKING_UP, progress)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    partial.publish(to, BACKING_UP)?;
    Ok(ControlFlow::Continue(()))
}

/// An incomplete file. Dropping it deletes the file.
pub(super) struct Partial(pub(super) PathBuf);

impl Partial {
    pub(super) fn beside(to: &Path) -> Result<Self> {
        let number = u128::from_be_bytes(id::random("name a partial copy")?);
        Ok(Partial(with_suffix(to, &format!(".{number:032x}.partial"))))
    }

    /// Gives the complete file its final name, unless that exists meanwhile.
    pub(super) fn publish(self, to: &Path, operation: &'static str) -> Result<()> {
        let to_error = |source| failed_io(operation, source);
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(to_error)?;
        match fs::hard_link(&self.0, to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(already_exists(to, operation));
            }
            // Some file systems do not support hard links.
            Err(_) => fs::rename(&self.0, to).map_err(to_error)?,
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
        for suffix in SUFFIXES {
            let _ = fs::remove_file(with_suffix(&self.0, suffix));
        }
    }
}

/// Rejects an existing file. SQLite would also apply a journal left behind by another database to
/// the new file.
pub(super) fn refuse_existing(to: &Path, operation: &'static str) -> Result<()> {
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

pub(super) fn failed_io(operation: &'static str, source: io::Error) -> Error {
    Error::with_source(file::kind_of_io(&source), operation, source)
}

pub(super) fn copy_all(
    source: &Connection,
    to: &Path,
    progress: &mut ProgressFn,
    operation: &'static str,
) -> Result<ControlFlow<()>> {
    file::create_new_private(to).map(drop).map_err(|source| failed_io(operation, source))?;
    let mut target = Access::read_write(to).connect().during(operation)?;
    // A read transaction holds one snapshot. Without it the copy would restart at each commit of
    // another connection, and never finish under load.
    let snapshot = source.unchecked_transaction().during(operation)?;
    snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).during(operation)?;
    let copied = transfer(&snapshot, &mut target, Duration::ZERO, progress, operation)?;
    target.close().map_err(|(_, source)| source).during(operation)?;
    Ok(copied)
}

/// Copies `source` to `target` in one transaction of `target`.
pub(super) fn transfer(
    source: &Connection,
    target: &mut Connection,
    busy_timeout: Duration,
    progress: &mut ProgressFn,
    operation: &'static str,
) -> Result<ControlFlow<()>> {
    let deadline = Instant::now() + busy_timeout;
    let backup = Backup::new(source, target).during(operation)?;
    loop {
        match backup.step(PAGES_PER_STEP).during(operation)? {
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

pub(super) fn refuse_damaged(
    connection: &Connection,
    operation: &'static str,
    progress: &mut ProgressFn,
) -> Result<ControlFlow<()>> {
    match check::check(connection, false, progress, operation)? {
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
