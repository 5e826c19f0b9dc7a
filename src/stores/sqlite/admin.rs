//! Operators' calls on the database: setup, information, checks, compaction, copies, sweeps.
//! `inspect` has the calls that read sessions; `backup` makes and restores copies.

use std::fs;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::backend::{SessionIndex, Store, SweepBatch, SweepReport};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::backup::{self, BACKING_UP, Restore};
use crate::stores::sqlite::builder::SqliteStoreBuilder;
use crate::stores::sqlite::error::{self, SqliteError, retry_while_busy, while_doing};
use crate::stores::sqlite::file::{Access, Opened, Purpose, with_suffix};
use crate::stores::sqlite::sql::{HISTORY, TableName};
use crate::stores::sqlite::write::JobKind;
use crate::stores::sqlite::{CHECKPOINT, Journal, Shared, SqliteStore, migrate, wal};
use crate::sync::IgnorePoison;

/// The progress of a long call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The number of pages or rows done.
    pub done: u64,
    /// The total number of pages or rows; 0 if unknown.
    pub total: u64,
}

/// A callback that a long call runs repeatedly. [`ControlFlow::Break`] cancels the call.
pub type ProgressFn = Box<dyn FnMut(Progress) -> ControlFlow<()> + Send>;

/// The properties of a database file and of the store's tables in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DatabaseInfo {
    /// The path of the file.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The size of the write-ahead log in bytes.
    pub log_bytes: u64,
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The number of pages, free ones included.
    pub pages: u64,
    /// The number of free pages, which SQLite uses before the file grows.
    pub free_pages: u64,
    /// SQLite's name of the journal mode, such as `wal` or `delete`.
    pub journal: String,
    /// Whether [`CompactMode::Incremental`] is possible (`auto_vacuum = INCREMENTAL`).
    pub incremental: bool,
    /// The schema version of the store's tables, 0 if they do not exist; or why it is unknown.
    pub schema: Result<u32>,
    /// The schema version of this program.
    pub newest_schema: u32,
    /// The number of other tables in the file.
    pub other_tables: u64,
    /// Whether this process cannot write the file.
    pub read_only: bool,
}

/// A migration that is not applied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingMigration {
    /// The schema version after it.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
}

/// How a file is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompactMode {
    /// Releases free pages in batches, between which other connections can write. For files with
    /// `auto_vacuum = INCREMENTAL`.
    Incremental,
    /// Rewrites the file (`VACUUM`). Other writers wait until it is done. It needs as much free
    /// disk space as the file has, most of it for the write-ahead log. The row ids of other tables
    /// without an `INTEGER PRIMARY KEY` may change.
    Full,
}

/// The sessions of a restored copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The number of live sessions in the copy.
    pub live: u64,
    /// Whether the restored database has them.
    pub kept: bool,
}

const READING: &str = "read the properties of the database";

/// Operators' calls on a database, for tools such as the command line `cloakroom`.
///
/// [`SqliteStore::admin`] has the calls on an open store. [`Admin::new`] takes settings instead, so
/// that a file can be examined and repaired if its store cannot be opened. Each call then opens the
/// file itself; only [`setup`](Self::setup), [`migrate`](Self::migrate) and
/// [`restore`](Self::restore) create or migrate anything.
///
/// # Errors
/// Every call fails with the kinds of [`SqliteStoreBuilder::open`]:
/// [`NotSetUp`](ErrorKind::NotSetUp) if the file does not exist, or for a call that reads sessions
/// the table; [`Busy`](ErrorKind::Busy), [`Unavailable`](ErrorKind::Unavailable),
/// [`Corrupt`](ErrorKind::Corrupt) and so on. Calls on the file ([`info`](Self::info),
/// [`check_file`](Self::check_file), [`compact`](Self::compact), [`restore`](Self::restore)) fail
/// with [`Invalid`](ErrorKind::Invalid) for a database in memory. Further kinds are documented at
/// the call.
///
/// ```
/// # fn main() -> Result<(), cloakroom::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use cloakroom::SqliteStore;
///
/// let store = SqliteStore::open(&path)?;
/// store.admin().backup(path.with_extension("copy"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin(Database);

#[derive(Clone, Debug)]
enum Database {
    Closed(SqliteStoreBuilder),
    Open(SqliteStore),
}

fn number(connection: &Connection, sql: &str) -> Result<u64> {
    let number: i64 =
        connection.query_row(sql, [], |row| row.get(0)).map_err(while_doing(READING))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn info(
    connection: &Connection,
    access: &Access,
    path: &Path,
    table: &TableName,
) -> Result<DatabaseInfo> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let journal = match access.is_immutable() {
        // Only a database with a write-ahead log is opened as immutable, which hides the log.
        true => "wal".to_owned(),
        false => connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .map_err(while_doing(READING))?,
    };
    let schema = migrate::version_before(connection, table);
    let tables = number(
        connection,
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' \
         ESCAPE '\\'",
    )?;
    let is_ours = match &schema {
        Ok(version) => *version > 0,
        // In a damaged file the version is unreadable; a foreign table would have been found first.
        Err(error) => error.kind() == ErrorKind::Corrupt,
    };
    let ours = match is_ours {
        true => number(
            connection,
            &format!(
                "SELECT count(*) FROM sqlite_schema WHERE type = 'table' \
                 AND name COLLATE NOCASE IN ('{0}', '{0}_replaced', '{0}_meta', '{HISTORY}')",
                table.as_str()
            ),
        )?,
        false => 0,
    };
    Ok(DatabaseInfo {
        path: path.to_owned(),
        bytes: size(path),
        log_bytes: size(&with_suffix(path, "-wal")),
        page_size: number(connection, "PRAGMA page_size")?,
        pages: number(connection, "PRAGMA page_count")?,
        free_pages: number(connection, "PRAGMA freelist_count")?,
        journal,
        incremental: number(connection, "PRAGMA auto_vacuum")? == 2,
        schema,
        newest_schema: migrate::newest(),
        other_tables: tables.saturating_sub(ours),
        read_only: connection.is_readonly("main").map_err(while_doing(READING))?,
    })
}

/// Runs `work` with `progress` as SQLite's progress handler.
fn with_progress<T>(
    connection: &Connection,
    progress: &mut ProgressFn,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    operation: &'static str,
) -> Result<ControlFlow<(), T>> {
    const STEPS: i32 = 20_000;
    let failed = || while_doing(operation);
    // SQLite owns the handler, so it owns the callback during the call.
    let callback = std::mem::replace(progress, Box::new(|_| ControlFlow::Continue(())));
    let shared = Arc::new(Mutex::new(callback));
    let handler = shared.clone();
    let is_cancelled = move || {
        let mut progress = handler.lock().ignore_poison();
        progress(Progress::default()).is_break()
    };
    connection.progress_handler(STEPS, Some(is_cancelled)).map_err(failed())?;
    let result = work(connection);
    connection.progress_handler(0, None::<fn() -> bool>).map_err(failed())?;
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
        Err(error) => Err(while_doing(operation)(error)),
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
        for line in statement.query_map([], |row| row.get(0))? {
            match line {
                Ok(line) => found.push(line),
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

impl SqliteStore {
    /// Operators' calls on this database.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin(Database::Open(self.clone()))
    }
}

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl Admin {
    /// The calls on the database with these settings. The database need not exist.
    #[must_use]
    pub fn new(settings: SqliteStoreBuilder) -> Self {
        Admin(Database::Closed(settings))
    }

    /// The store. If this was made from settings, opens it, and changes nothing.
    pub fn store(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(store) => Ok(store.clone()),
            Database::Closed(settings) => {
                settings.clone().migrate(false).journal(Journal::Keep).open()
            }
        }
    }

    /// The store. If this was made from settings, opens it with [`SqliteStoreBuilder::read_only`],
    /// which also works if nothing is writable.
    pub fn read_only_store(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(store) => Ok(store.clone()),
            Database::Closed(settings) => settings.clone().read_only().open(),
        }
    }

    /// Creates the tables, or migrates them to this version. If this was made from settings, opens
    /// the store, which creates a missing file. Returns the store.
    pub fn setup(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(store) => {
                let Shared { writer, table, events, busy_timeout, .. } = &*store.0;
                let deadline = Instant::now() + *busy_timeout;
                writer.exclusive("set up the tables", |connection| {
                    migrate::migrate(connection, table, events, deadline)
                })?;
                Ok(store.clone())
            }
            Database::Closed(settings) => settings.clone().migrate(true).open(),
        }
    }

    /// As [`setup`](Self::setup), but keeps the file's journal mode.
    pub fn migrate(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(_) => self.setup(),
            Database::Closed(settings) => {
                Admin::new(settings.clone().journal(Journal::Keep)).setup()
            }
        }
    }

    /// The migrations that [`migrate`](Self::migrate) would apply.
    pub fn pending_migrations(&self) -> Result<Vec<PendingMigration>> {
        let version = match &self.0 {
            Database::Open(store) => store.0.readers.read("read the schema", |connection| {
                migrate::version_before(connection, &store.0.table)
            })?,
            Database::Closed(settings) => {
                let (Opened { connection, .. }, table) = connect(settings, Purpose::Read)?;
                migrate::version_before(&connection, &table)?
            }
        };
        Ok(migrate::pending(version))
    }

    /// The properties of the file, which need not have the store's tables.
    pub fn info(&self) -> Result<DatabaseInfo> {
        let (Opened { connection, access, path }, table) =
            connect(&self.settings()?, Purpose::Read)?;
        info(&connection, &access, &path, &table)
    }

    /// Runs SQLite's integrity check, and returns the first problems. A quick check does not
    /// compare indexes with tables. Other connections can read and write meanwhile; the write-ahead
    /// log cannot be reset until the check ends.
    pub fn check_file(
        &self,
        quick: bool,
        mut progress: ProgressFn,
    ) -> Result<ControlFlow<(), Vec<String>>> {
        let (Opened { connection, .. }, _) = connect(&self.settings()?, Purpose::Read)?;
        check(&connection, quick, &mut progress, "check the database")
    }

    /// Compacts the file. If cancelled, [`CompactMode::Full`] has changed nothing, and
    /// [`CompactMode::Incremental`] has released some of the free pages.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file does not allow [`CompactMode::Incremental`].
    pub fn compact(&self, mode: CompactMode, mut progress: ProgressFn) -> Result<ControlFlow<()>> {
        const OPERATION: &str = "compact the database";
        let settings = self.settings()?;
        let (Opened { connection, access, path }, table) = connect(&settings, Purpose::Write)?;
        let deadline = Instant::now() + settings.busy_timeout;
        let info = info(&connection, &access, &path, &table)?;
        let done = match mode {
            CompactMode::Incremental if !info.incremental => {
                let why = "the file was not made with auto_vacuum = INCREMENTAL";
                return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
            }
            CompactMode::Incremental => release_pages(&connection, &info, &mut progress)?,
            CompactMode::Full => {
                let vacuum = |connection: &Connection| {
                    retry_while_busy(deadline, || connection.execute_batch("VACUUM"))
                };
                with_progress(&connection, &mut progress, vacuum, OPERATION)?
            }
        };
        truncate_log(&connection, settings.busy_timeout)?;
        Ok(done)
    }

    /// Copies a snapshot of the whole database to a new file at `to`. Other connections can read
    /// and write meanwhile. The file `to` appears when the copy is complete.
    ///
    /// Sessions that are revoked later are live in the copy. Under a rollback journal
    /// ([`Journal::Keep`]) commits wait until the copy is complete.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `to` exists; [`ErrorKind::Full`], [`ErrorKind::ReadOnly`] or
    /// [`ErrorKind::Unavailable`] if it cannot be written.
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<()> {
        self.back_up(to.as_ref(), false, Box::new(|_| ControlFlow::Continue(()))).map(drop)
    }

    /// As [`backup`](Self::backup), with progress, and with a full check of the copy before its
    /// file appears. If cancelled, it leaves no file.
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
        let store = self.read_only_store()?;
        let shared = &*store.0;
        match &shared.file {
            Some((access, _)) => {
                shared.writer.process().check()?;
                // A separate connection, so that a long copy occupies no reader.
                let source = access.connect().map_err(while_doing(BACKING_UP))?;
                source.busy_timeout(shared.busy_timeout).map_err(while_doing(BACKING_UP))?;
                backup::copy(&source, to, check, &mut progress)
            }
            None => shared.writer.read(|source| backup::copy(source, to, check, &mut progress)),
        }
    }

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
    /// [`ErrorKind::Invalid`] if there is no such copy, or if the database does not exist but a
    /// write-ahead log for it does; [`ErrorKind::NotSetUp`], [`ErrorKind::ForeignTable`] or
    /// [`ErrorKind::NewerSchema`] if the copy does not have the store's table;
    /// [`ErrorKind::Corrupt`] if the copy is damaged, or the file to be replaced is not a database;
    /// [`ErrorKind::Full`] and so on.
    pub fn restore(
        &self,
        from: impl AsRef<Path>,
        keep_sessions: bool,
        now: Timestamp,
        mut progress: ProgressFn,
    ) -> Result<ControlFlow<(), RestoreReport>> {
        let settings = self.settings()?;
        let (path, table) = (settings.path()?, settings.table_name()?);
        let restore = Restore {
            from: from.as_ref(),
            to: path,
            table: &table,
            keep_sessions,
            busy_timeout: settings.busy_timeout,
            now,
        };
        restore.run(&mut progress)
    }

    /// Ends all sessions, and returns the number of rows deleted, expired ones included. The tables
    /// stay. Without tables it does nothing.
    pub fn clear(&self) -> Result<u64> {
        let store = self.store()?;
        let table = store.0.table.clone();
        store.0.writer.write(JobKind::Synced, "clear the table", move |tx| {
            match tx.with_connection(|connection| migrate::version(connection, &table))? {
                0 => Ok(0),
                // Every deadline is later than this time, so every session counts.
                _ => tx.delete_all(Timestamp::from_millis(i64::MIN)),
            }
        })
    }

    /// Removes the store's tables with all sessions. Afterwards every call of the store fails with
    /// [`ErrorKind::NotSetUp`] until [`setup`](Self::setup). Without tables it does nothing.
    pub fn drop_tables(&self) -> Result<()> {
        const OPERATION: &str = "drop the tables";
        let store = self.store()?;
        let table = store.0.table.clone();
        store.0.writer.write(JobKind::Synced, OPERATION, move |tx| {
            tx.with_connection(|connection| {
                // Fails for a foreign table.
                migrate::version(connection, &table)?;
                migrate::remove(connection, &table).map_err(while_doing(OPERATION))
            })
        })
    }

    /// Removes at most `limit` sessions that had expired at `now`, and returns their number. It
    /// works in batches, as the background cleaner does, pauses after each for as long as it
    /// blocked other writers, and checkpoints the write-ahead log. `progress` runs after each
    /// batch.
    pub fn sweep_all(
        &self,
        now: Timestamp,
        limit: u64,
        mut progress: ProgressFn,
    ) -> Result<ControlFlow<(), u64>> {
        let store = self.store()?;
        let total = store.0.stats(now)?.expired.min(limit);
        let (mut batch, mut done) = (SweepBatch::LARGEST, 0);
        loop {
            let left = usize::try_from(limit.saturating_sub(done)).unwrap_or(usize::MAX);
            let Some(left) = NonZeroUsize::new(left) else { break };
            let batch_limit = batch.limit().min(left);
            let SweepReport { removed, blocked_for } = store.sweep(now, batch_limit)?;
            done += u64::try_from(removed).unwrap_or(0);
            let cancelled = progress(Progress { done, total }).is_break();
            if removed < batch_limit.get() {
                break;
            }
            if cancelled {
                return Ok(ControlFlow::Break(()));
            }
            batch = batch.after(blocked_for);
            let wal = store.0.writer.wal();
            store.0.readers.read(CHECKPOINT, |c| wal.checkpoint_if_requested(c))?;
            thread::sleep(blocked_for);
        }
        store.maintenance().map_or(Ok(()), |maintenance| maintenance.run())?;
        Ok(ControlFlow::Continue(done))
    }

    /// Whether `error` means that the file is not a SQLite database, which is one reason for
    /// [`ErrorKind::Corrupt`]. [`restore`](Self::restore) cannot replace such a file.
    #[must_use]
    pub fn is_not_a_database(error: &Error) -> bool {
        let cause = error.cause().and_then(|cause| cause.downcast_ref::<SqliteError>());
        let code = cause.and_then(|SqliteError(error)| error.sqlite_error_code());
        code == Some(ErrorCode::NotADatabase)
    }

    /// The settings of the file.
    fn settings(&self) -> Result<SqliteStoreBuilder> {
        match &self.0 {
            Database::Closed(settings) => Ok(settings.clone()),
            Database::Open(store) => match store.path() {
                Some(path) => Ok(SqliteStore::builder(path)
                    .table(store.table())
                    .busy_timeout(store.0.busy_timeout)),
                None => Ok(SqliteStore::builder_in_memory()),
            },
        }
    }
}

fn connect(settings: &SqliteStoreBuilder, purpose: Purpose) -> Result<(Opened, TableName)> {
    let table = settings.table_name()?;
    let opened = settings.open_existing(purpose)?;
    opened
        .connection
        .busy_timeout(settings.busy_timeout)
        .map_err(while_doing("configure the connection"))?;
    Ok((opened, table))
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
    connection.busy_timeout(WAIT).map_err(while_doing("configure the connection"))?;
    // If a long read prevents this until the deadline, a later checkpoint truncates the log.
    while wal::checkpoint(connection, "TRUNCATE")?.blocked && Instant::now() < deadline {
        thread::sleep(WAIT);
    }
    Ok(())
}

fn release_pages(
    connection: &Connection,
    info: &DatabaseInfo,
    progress: &mut ProgressFn,
) -> Result<ControlFlow<()>> {
    const PAGES: u64 = 256;
    let total = info.free_pages;
    let mut left = total;
    while left > 0 {
        let began = Instant::now();
        connection
            .execute_batch(&format!("PRAGMA incremental_vacuum({PAGES})"))
            .map_err(while_doing("release free pages"))?;
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
