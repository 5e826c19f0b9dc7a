//! The operators' call that replaces the database by a copy.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::stores::admin::ProgressFn;
use crate::stores::sqlite::admin::SqliteFile;
use crate::stores::sqlite::admin::backup::{
    Partial, copy_all, failed_io, refuse_damaged, refuse_existing, transfer,
};
use crate::stores::sqlite::admin::report::RestoreReport;
use crate::stores::sqlite::error::{During, OpenFailure};
use crate::stores::sqlite::file::access::explain;
use crate::stores::sqlite::file::{self, Access, Opened, Purpose};
use crate::stores::sqlite::migrate;
use crate::stores::sqlite::sql::TableName;
use crate::stores::sqlite::sql::row;
use crate::stores::sqlite::write::{TableSql, WriteTx};

const RESTORING: &str = "restore the database";

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl SqliteFile {
    /// Replaces all tables of this database with those of the copy `from`, which was made by
    /// [`backup`](Self::backup) or is another database with the store's table. Unless
    /// `keep_sessions` is true, it ends all sessions, because some may have been revoked since the
    /// copy was made.
    ///
    /// The database may be in use: other connections see one transaction that rewrites it. They can
    /// read meanwhile, and wait to write. A missing file appears when it is complete. The copy is
    /// checked first, and not changed.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`]: there is no such copy; it has triggers on the store's tables
    ///   (those on other tables are copied); or the database does not exist, but a write-ahead log
    ///   for it does.
    /// - [`ErrorKind::NotSetUp`], [`ErrorKind::ForeignTable`], [`ErrorKind::NewerSchema`]: the copy
    ///   does not have the store's table.
    /// - [`ErrorKind::Corrupt`]: the copy is damaged, or the file to be replaced is not a database.
    /// - [`ErrorKind::Full`]: there is no space.
    pub fn restore(
        &self,
        from: impl AsRef<Path>,
        keep_sessions: bool,
        now: Timestamp,
        mut progress: ProgressFn,
    ) -> Result<ControlFlow<(), RestoreReport>> {
        let to = self.restore_target()?;
        let restore = Restore { from: from.as_ref(), to: &to, keep_sessions, now };
        restore.run(&mut progress).map_err(|error| explain(error, &to.path))
    }

    /// Checks whether [`restore`](Self::restore) can replace this database, whatever the copy.
    /// Changes nothing.
    ///
    /// # Errors
    /// Those of [`restore`](Self::restore) that are not about the copy.
    pub fn check_restore(&self) -> Result<()> {
        let to = self.restore_target()?;
        to.open().map(drop).map_err(|error| explain(error, &to.path))
    }

    fn restore_target(&self) -> Result<Target> {
        self.refuse_second_name()?;
        let settings = self.settings()?;
        let path = settings.path()?.to_owned();
        let table = settings.validated_table()?;
        Ok(Target { path, table, busy_timeout: settings.busy_timeout })
    }
}

/// The database that is to be replaced, which may not exist.
struct Target {
    path: PathBuf,
    table: TableName,
    busy_timeout: Duration,
}

impl Target {
    /// Opens the database to write over; returns `None` if it does not exist. Rejects a database
    /// that cannot be written over. Also rejects one that does not belong to this program, because
    /// the copy was not made of it.
    fn open(&self) -> Result<Option<Connection>> {
        if let Some(error) = file::dangling_link(&self.path, Purpose::Write) {
            return Err(error);
        }
        file::refuse_log_of_deleted(&self.path, RESTORING)?;
        if !fs::exists(&self.path).map_err(|source| failed_io(RESTORING, source))? {
            refuse_existing(&self.path, RESTORING)?;
            return Ok(None);
        }
        file::check_inherited(&self.path)?;
        let target = Access::read_write(&self.path).connect().during(RESTORING)?;
        target.busy_timeout(self.busy_timeout).during(RESTORING)?;
        if target.is_readonly("main").during(RESTORING)? {
            return Err(Error::new(ErrorKind::ReadOnly, format!("open {}", self.path.display())));
        }
        // Without a readable schema, on the first page, SQLite writes nothing to a file.
        let tables = row::count(&target, "SELECT count(*) FROM sqlite_schema", [])
            .during(RESTORING)
            .map_err(|error| self.explain_damage(error))?;
        match migrate::version_before(&target, &self.table) {
            Ok(0) if tables > 0 => {
                let table = self.table.as_str();
                let path = self.path.display();
                let why = format!("{path} holds other tables and no table {table}");
                Err(Error::with_source(ErrorKind::NotSetUp, RESTORING, why))
            }
            Err(error) if error.kind() == ErrorKind::ForeignTable => Err(error),
            // The table is ours, of any version, or too damaged to tell.
            _ => Ok(Some(target)),
        }
    }

    /// Adds the remedy to the error of a database that is too damaged to be written over.
    fn explain_damage(&self, error: Error) -> Error {
        if error.kind() != ErrorKind::Corrupt {
            return error;
        }
        let path = self.path.display();
        let cause = cause(&error);
        let why = format!(
            "{path} is too damaged to be written over ({cause}): stop the service, move it away \
             with its -wal and -shm, and `restore` again"
        );
        Error::with_source(ErrorKind::Corrupt, RESTORING, why)
    }
}

/// The parameters of a restore.
struct Restore<'r> {
    from: &'r Path,
    to: &'r Target,
    keep_sessions: bool,
    now: Timestamp,
}

impl Restore<'_> {
    fn run(&self, progress: &mut ProgressFn) -> Result<ControlFlow<(), RestoreReport>> {
        let target = self.to.open()?;
        self.refuse_same_file()?;
        // The copy is prepared in a separate file, so that other processes see one atomic change,
        // and never a moment with live sessions that should have ended.
        let partial = Partial::beside(&self.to.path)?;
        let copied =
            self.open_copy().and_then(|copy| copy_all(&copy, &partial.0, progress, RESTORING));
        if copied.map_err(explain_copy)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let prepared = Access::read_write(&partial.0).connect().during(RESTORING)?;
        distrust(&prepared).during(RESTORING)?;
        if refuse_damaged(&prepared, RESTORING, progress)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let mode = journal_mode(&prepared).during(RESTORING)?;
        set_journal_mode(&prepared, "DELETE").during(RESTORING)?;
        let report = self.prepare(&prepared, target.as_ref())?;
        let Some(mut target) = target else {
            // The new file gets the journal mode of the copy.
            set_journal_mode(&prepared, &mode).during(RESTORING)?;
            self.publish(prepared, partial)?;
            return Ok(ControlFlow::Continue(report));
        };
        let written = self.write_over(&prepared, &mut target, progress);
        Ok(match written.map_err(|error| self.to.explain_damage(error))? {
            ControlFlow::Continue(()) => ControlFlow::Continue(report),
            ControlFlow::Break(()) => ControlFlow::Break(()),
        })
    }

    fn refuse_same_file(&self) -> Result<()> {
        let path = |path: &Path| fs::canonicalize(path).ok();
        let from = path(self.from);
        if from.is_some() && from == path(&self.to.path) {
            let why = "a database cannot be restored from itself";
            return Err(Error::with_source(ErrorKind::Invalid, RESTORING, why));
        }
        Ok(())
    }

    /// Opens the copy. Refuses one that does not have our table, or has triggers on it.
    fn open_copy(&self) -> Result<Connection> {
        let refuse = |kind, why| Err(Error::with_source(kind, RESTORING, why));
        if !fs::exists(self.from).unwrap_or(true) {
            let why = match fs::read_link(self.from) {
                Ok(target) => format!("a link to {}, where there is none", target.display()),
                Err(_) => "there is none".to_owned(),
            };
            let why = format!("no file {}: {why}", self.from.display());
            return refuse(ErrorKind::Invalid, why);
        }
        let Opened { connection: copy, .. } = file::open(self.from, Purpose::Read)?;
        copy.busy_timeout(self.to.busy_timeout).during(RESTORING)?;
        distrust(&copy).during(RESTORING)?;
        let read = copy.query_row("PRAGMA schema_version", [], |_| Ok(()));
        if read.is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::NotADatabase)) {
            let why = format!("{} is not a database", self.from.display());
            return refuse(ErrorKind::Invalid, why);
        }
        if migrate::version_before(&copy, &self.to.table)? == 0 {
            let why = format!("the copy has no table {}", self.to.table.as_str());
            return refuse(ErrorKind::NotSetUp, why);
        }
        let triggers = migrate::triggers(&copy, &self.to.table).during(RESTORING)?;
        if let Some(trigger) = triggers.first() {
            let why = format!(
                "the copy has a trigger on the sessions, which can bring ended ones back: examine \
                 it, and remove it from the copy (DROP TRIGGER \"{trigger}\")"
            );
            return refuse(ErrorKind::Invalid, why);
        }
        Ok(copy)
    }

    /// Deletes the sessions of the copy unless they are kept, and raises the epoch above every
    /// epoch that a cache may have seen.
    fn prepare(&self, prepared: &Connection, target: Option<&Connection>) -> Result<RestoreReport> {
        let deadline = Instant::now() + self.to.busy_timeout;
        // Off by default in the system's SQLite; rows of the application go with their sessions.
        prepared.execute_batch("PRAGMA foreign_keys = ON").during(RESTORING)?;
        let sql = TableSql::new(&self.to.table);
        let mut tx = WriteTx::begin(prepared, &sql, None, None, RESTORING, deadline)?;
        // A damaged or empty target has no readable epoch.
        let target_epoch =
            target.and_then(|target| row::epoch(target, &sql.read).ok()).unwrap_or(0);
        let live =
            row::count(prepared, &sql.read.count_live, [self.now.as_millis()]).during(RESTORING)?;
        if !self.keep_sessions {
            tx.revoke_everyone(self.now)?;
        }
        tx.raise_epoch_above(target_epoch)?;
        tx.draw_identity()?;
        tx.commit(deadline)?;
        Ok(RestoreReport { live, ended: !self.keep_sessions })
    }

    /// Puts the prepared copy in the place of a missing database.
    fn publish(&self, prepared: Connection, partial: Partial) -> Result<()> {
        prepared.close().map_err(|(_, source)| source).during(RESTORING)?;
        if let Ok(file) = File::open(&partial.0) {
            file::give_to_owner_of_folder(&file, &partial.0);
        }
        partial.publish(&self.to.path, RESTORING)
    }

    /// Writes the prepared copy over the database in one transaction.
    fn write_over(
        &self,
        prepared: &Connection,
        target: &mut Connection,
        progress: &mut ProgressFn,
    ) -> Result<ControlFlow<()>> {
        self.match_page_size(prepared, target).during(RESTORING)?;
        // Revocations must be durable before they are acknowledged.
        let synced = "PRAGMA synchronous = EXTRA; PRAGMA fullfsync = ON";
        target.execute_batch(synced).during(RESTORING)?;
        transfer(prepared, target, self.to.busy_timeout, progress, RESTORING)
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

/// Keeps views, triggers and the like in a copy from calling functions with effects.
fn distrust(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA trusted_schema = OFF")
}

fn journal_mode(connection: &Connection) -> rusqlite::Result<String> {
    connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))
}

fn set_journal_mode(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(()))
}

/// Names the copy in the error of opening or reading it.
fn explain_copy(error: Error) -> Error {
    let why = match (error.kind(), OpenFailure::of(&error)) {
        (ErrorKind::Corrupt, _) => {
            format!("the copy is damaged: {}; `restore` an older one", cause(&error))
        }
        (_, Some(_)) => format!("the copy cannot be used: {}", cause(&error)),
        _ => return error,
    };
    Error::with_source(error.kind(), RESTORING, why)
}

fn cause(error: &Error) -> String {
    error.cause().map_or_else(|| error.to_string(), |cause| cause.to_string())
}
