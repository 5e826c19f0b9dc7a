//! What an operator asks of the file: facts, checks, room, a copy put in its place.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::backup::Restore;
use crate::stores::sqlite::builder::SqliteStoreBuilder;
use crate::stores::sqlite::error::{self, while_doing};
use crate::stores::sqlite::file::{Access, Opened, Purpose, with_suffix};
use crate::stores::sqlite::sql::{HISTORY, Sql, TableName};
use crate::stores::sqlite::write::patiently;
use crate::stores::sqlite::{migrate, wal};

/// How far long work is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Pages or rows that are done.
    pub done: u64,
    /// Of so many; 0 where that is not known.
    pub total: u64,
}

/// Is told now and then how far long work is; to answer [`ControlFlow::Break`] ends it early.
pub type ProgressFn = Box<dyn FnMut(Progress) -> ControlFlow<()> + Send>;

/// Facts about a database file and our tables in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DatabaseInfo {
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The size of the write-ahead log beside it.
    pub log_bytes: u64,
    /// The size of a page in bytes.
    pub page_size: u64,
    /// Pages in use or free.
    pub pages: u64,
    /// Pages that hold nothing: room that is used again before the file grows.
    pub free_pages: u64,
    /// The journal mode as SQLite names it: `wal`, `delete` and so on.
    pub journal: String,
    /// Whether SQLite notes which pages can be given back a few at a time
    /// (`auto_vacuum = INCREMENTAL`).
    pub incremental: bool,
    /// The schema version of our tables, 0 where they are not set up; or why it is not known.
    pub schema: Result<u32>,
    /// The schema version of this program.
    pub newest_schema: u32,
    /// How many tables in the file are somebody else's.
    pub other_tables: u64,
    /// Whether this process can only read it.
    pub read_only: bool,
}

/// A migration that was not applied yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PendingMigration {
    /// The schema version it leads to.
    pub version: u32,
    /// Its name.
    pub name: &'static str,
}

/// How a file is made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompactMode {
    /// Free pages are given back, some at a time; others write in between. For files with
    /// `auto_vacuum = INCREMENTAL`.
    Incremental,
    /// The file is written anew (`VACUUM`): nobody else can write meanwhile, and as much room as
    /// the file takes is needed once more, most of it in the log. In tables of others without an
    /// `INTEGER PRIMARY KEY` the row numbers may change.
    Full,
}

/// What a restored copy held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Sessions of the copy that had not expired.
    pub live: u64,
    /// Whether they live on.
    pub kept: bool,
}

const READING: &str = "read facts about the database";

fn number(connection: &Connection, sql: &str) -> Result<u64> {
    let number: i64 =
        connection.query_row(sql, [], |row| row.get(0)).map_err(while_doing(READING))?;
    Ok(u64::try_from(number).unwrap_or(0))
}

fn facts(
    connection: &Connection,
    access: &Access,
    path: &Path,
    table: &TableName,
) -> Result<DatabaseInfo> {
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    let journal = match access.is_frozen() {
        // Only a database with a log is opened so, and SQLite then knows nothing of the log.
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
        // Too damaged to be asked, but not somebody else's.
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

/// Has SQLite ask the watch every so many of its own steps.
fn attended<T>(
    connection: &Connection,
    watch: &mut ProgressFn,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    operation: &'static str,
) -> Result<ControlFlow<(), T>> {
    const STEPS: i32 = 20_000;
    let failed = || while_doing(operation);
    // SQLite keeps the handler, so the watch is lent to it for this while.
    let lent = std::mem::replace(watch, Box::new(|_| ControlFlow::Continue(())));
    let shared = Arc::new(Mutex::new(lent));
    let asked = shared.clone();
    let ask = move || {
        let mut watch = asked.lock().unwrap_or_else(PoisonError::into_inner);
        watch(Progress::default()).is_break()
    };
    connection.progress_handler(STEPS, Some(ask)).map_err(failed())?;
    let result = work(connection);
    connection.progress_handler(0, None::<fn() -> bool>).map_err(failed())?;
    if let Some(lent) = Arc::into_inner(shared) {
        *watch = lent.into_inner().unwrap_or_else(PoisonError::into_inner);
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

/// What SQLite finds wrong, at most twenty things.
pub(super) fn check(
    connection: &Connection,
    quick: bool,
    watch: &mut ProgressFn,
    operation: &'static str,
) -> Result<ControlFlow<(), Vec<String>>> {
    let sql = if quick { "PRAGMA quick_check(20)" } else { "PRAGMA integrity_check(20)" };
    let run = |connection: &Connection| {
        let mut statement = connection.prepare(sql)?;
        let mut found: Vec<String> = Vec::new();
        for line in statement.query_map([], |row| row.get(0))? {
            match line {
                Ok(line) => found.push(line),
                // It gives up where it can go no further; what it has found by then says more.
                Err(error) if !found.is_empty() && error::kind(&error) == ErrorKind::Corrupt => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        found.retain(|line| line != "ok");
        Ok(found)
    };
    attended(connection, watch, run, operation)
}

/// For operators: the database file as it is, whether our tables are set up in it or not. Nothing
/// but [`compact`](Self::compact) and [`restore`](Self::restore) changes anything, and the others
/// also read a file that cannot be written.
///
/// All of these fail with [`ErrorKind::Invalid`] for a database in memory, and all but
/// [`restore`](Self::restore) with [`ErrorKind::NotSetUp`] where there is no file.
impl SqliteStoreBuilder {
    /// Facts about the file.
    ///
    /// # Errors
    /// The kinds of [`open`](Self::open).
    pub fn facts(&self) -> Result<DatabaseInfo> {
        let (Opened { connection, access, path }, table) = self.connect(Purpose::Read)?;
        facts(&connection, &access, &path, &table)
    }

    /// The migrations that [`open`](Self::open) would apply.
    ///
    /// # Errors
    /// The kinds of [`open`](Self::open).
    pub fn pending(&self) -> Result<Vec<PendingMigration>> {
        let (Opened { connection, .. }, table) = self.connect(Purpose::Read)?;
        let version = migrate::version_before(&connection, &table)?;
        Ok(migrate::pending(version))
    }

    /// Has SQLite check the whole file, and says what it finds wrong: nothing, or some of it. A
    /// quick check does not compare the indexes with their tables. Others can read and write
    /// meanwhile; the log cannot start again until it is over.
    ///
    /// # Errors
    /// The kinds of [`open`](Self::open).
    pub fn check_file(
        &self,
        quick: bool,
        mut watch: ProgressFn,
    ) -> Result<ControlFlow<(), Vec<String>>> {
        let (Opened { connection, .. }, _) = self.connect(Purpose::Read)?;
        check(&connection, quick, &mut watch, "check the database")
    }

    /// Makes the file smaller. Ended early, a full one has changed nothing, an incremental one
    /// has given back what it had by then.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the file does not allow incremental work; else the kinds of
    /// [`open`](Self::open).
    pub fn compact(&self, how: CompactMode, mut watch: ProgressFn) -> Result<ControlFlow<()>> {
        const OPERATION: &str = "compact the database";
        let (Opened { connection, access, path }, table) = self.connect(Purpose::Write)?;
        let deadline = Instant::now() + self.busy_timeout;
        let facts = facts(&connection, &access, &path, &table)?;
        let done = match how {
            CompactMode::Incremental if !facts.incremental => {
                let why = "the file was not made with auto_vacuum = INCREMENTAL";
                return Err(Error::with_source(ErrorKind::Invalid, OPERATION, why));
            }
            CompactMode::Incremental => give_back(&connection, &facts, &mut watch)?,
            CompactMode::Full => {
                let vacuum = |connection: &Connection| {
                    patiently(deadline, || connection.execute_batch("VACUUM"))
                };
                attended(&connection, &mut watch, vacuum, OPERATION)?
            }
        };
        empty_log(&connection, self.busy_timeout)?;
        Ok(done)
    }

    /// Puts the copy `from` (made by [`SqliteStore::backup`](crate::SqliteStore::backup), or any
    /// database with our table) in the place of this database, all tables of it, and ends every
    /// session in it unless they are to be kept: what was revoked since the copy was made would
    /// live again.
    ///
    /// The database may be in use: for everyone else it changes in one transaction, as if
    /// somebody had written all of it. They can read meanwhile, but not write. Where there is no
    /// file, it appears when it is complete. The copy is checked before, and stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when there is no such copy, or a log without its database stands
    /// where the file is to appear; [`ErrorKind::NotSetUp`], [`ErrorKind::ForeignTable`],
    /// [`ErrorKind::NewerSchema`] when our table is not in the copy; [`ErrorKind::Corrupt`] when
    /// it is damaged, or what stands in its place is no database; [`ErrorKind::Full`] and so on.
    pub fn restore(
        &self,
        from: impl AsRef<Path>,
        keep_sessions: bool,
        now: Timestamp,
        mut watch: ProgressFn,
    ) -> Result<ControlFlow<(), RestoreReport>> {
        let (path, table) = (self.path()?, self.table_name()?);
        let restore = Restore {
            from: from.as_ref(),
            to: path,
            table: &table,
            sql: &Sql::new(&table),
            keep_sessions,
            busy_timeout: self.busy_timeout,
            now,
        };
        restore.run(&mut watch)
    }

    fn connect(&self, purpose: Purpose) -> Result<(Opened, TableName)> {
        let table = self.table_name()?;
        let opened = self.open_existing(purpose)?;
        opened
            .connection
            .busy_timeout(self.busy_timeout)
            .map_err(while_doing("configure the connection"))?;
        Ok((opened, table))
    }
}

/// Copies the log into the database, which is smaller once that is done, and makes it empty.
///
/// All but the last of it is copied beside the writers. What empties the log keeps them waiting,
/// also while it waits for readers: so it waits shortly, and comes again.
fn empty_log(connection: &Connection, busy_timeout: Duration) -> Result<()> {
    const SHORTLY: Duration = Duration::from_millis(25);
    let deadline = Instant::now() + busy_timeout;
    wal::checkpoint(connection, "PASSIVE")?;
    connection.busy_timeout(SHORTLY).map_err(while_doing("configure the connection"))?;
    // A reader that does not end holds this up for now; whoever comes next does it.
    while wal::checkpoint(connection, "TRUNCATE")?.blocked && Instant::now() < deadline {
        thread::sleep(SHORTLY);
    }
    Ok(())
}

fn give_back(
    connection: &Connection,
    facts: &DatabaseInfo,
    watch: &mut ProgressFn,
) -> Result<ControlFlow<()>> {
    const SOME: u64 = 256;
    let total = facts.free_pages;
    let mut left = total;
    while left > 0 {
        let began = Instant::now();
        connection
            .execute_batch(&format!("PRAGMA incremental_vacuum({SOME})"))
            .map_err(while_doing("give free pages back"))?;
        let now = number(connection, "PRAGMA freelist_count")?;
        if now >= left {
            // Others free pages faster than this gives them back.
            break;
        }
        left = now;
        if watch(Progress { done: total.saturating_sub(left), total }).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        // As long as it worked, it leaves the file to the others.
        thread::sleep(began.elapsed());
    }
    Ok(ControlFlow::Continue(()))
}

/// The facts of a store that is open.
pub(super) fn facts_of(access: &Access, path: &Path, table: &TableName) -> Result<DatabaseInfo> {
    let connection = access.connect().map_err(while_doing(READING))?;
    facts(&connection, access, path, table)
}
