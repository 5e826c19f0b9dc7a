//! Sessions in a SQLite file: durable, shared by threads and processes, nothing else to run.
//!
//! The file may be the application's own database. Only the tables of the chosen name, and the
//! history `cloakroom_migrations`, are ever touched in it.

mod admin;
mod backup;
mod builder;
mod commit;
pub(crate) mod error;
mod file;
mod file_identity;
mod index;
mod inspect;
mod migrate;
mod read_pool;
mod record_cache;
mod row;
mod sql;
mod wal;
mod write;

use std::fmt::{self, Debug};
use std::mem;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use crate::backend::{
    Capabilities, Commit, Committed, LiveSession, Lookup, Maintenance, SessionIndex, Store,
    SweepReport,
};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::event::Events;
use crate::id::{Realm, SessionIdHash};
use crate::record::Touch;
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::file::{Access, InUse};
use crate::stores::sqlite::read_pool::Readers;
use crate::stores::sqlite::record_cache::RecordCache;
use crate::stores::sqlite::sql::{Sql, TableName};
use crate::stores::sqlite::write::{CommitMode, Writer};
use crate::sync::instant;

pub use admin::{CompactMode, DatabaseInfo, PendingMigration, Progress, ProgressFn, RestoreReport};
pub use builder::SqliteStoreBuilder;
pub use inspect::{DataSizes, ScanReport, SessionDetails};

/// What of an acknowledged change survives a power cut.
///
/// Whatever is chosen, everything acknowledged survives the death of the process, and everything
/// that ends a session (destroying, revoking, renewing, signing in) is on the disk before it is
/// acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// The newest ordinary changes may be lost, whole transactions at a time.
    #[default]
    Normal,
    /// Everything acknowledged survives. A lone change takes several times as long.
    Full,
}

/// How SQLite journals the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Journal {
    /// A write-ahead log: readers and the writer do not wait for each other. The setting stays
    /// with the file.
    #[default]
    Wal,
    /// As the file is now, for a host that needs it so. Under a rollback journal reads wait for
    /// commits, and commits for reads: a long read, such as a backup, makes changes
    /// [`Busy`](crate::ErrorKind::Busy).
    Keep,
}

/// Sessions in a SQLite database. Cloning gives another handle to the same store.
///
/// The newest commit is visible to every later load, in this process and in others. Reads go on
/// while a change is written. Changes of many threads are committed in groups.
///
/// It belongs to the process in which it was opened. In one that was forked from that every call is
/// [`Unavailable`](crate::ErrorKind::Unavailable), and so is opening the same file. To open another
/// one there can wait for ever for a thread that was left behind: fork first.
///
/// ```
/// # fn main() -> Result<(), cloakroom::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use cloakroom::SqliteStore;
///
/// let store = SqliteStore::builder(&path).table("session").open()?;
/// store.clear()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteStore(Arc<Inner>);

struct Inner {
    /// How the file is opened, and its path; `None` for a database in memory.
    file: Option<(Access, PathBuf)>,
    table: TableName,
    sql: Arc<Sql>,
    writer: Arc<Writer>,
    readers: Readers,
    events: Events,
    busy_timeout: Duration,
    /// Sessions that need not be read from the database. Here to be let go of when the connections
    /// are closed.
    record_cache: Option<Arc<RecordCache>>,
    /// Last, for the same reason.
    _in_use: Option<InUse>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.writer.process().is_current() {
            // To close a connection in a forked process can roll back what is under way in the
            // other one; and it takes locks of SQLite's, which nobody may be there to release.
            mem::forget((self.writer.clone(), self.readers.clone()));
        }
    }
}

impl Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { file, table, .. } = self;
        let path = file.as_ref().map(|(_, path)| path);
        f.debug_struct("Inner").field("path", &path).field("table", table).finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the database at `path` with all defaults, and creates file and tables if needed. A
    /// new file can be read by its owner only.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        SqliteStore::builder(path).open()
    }

    /// Opens a new database in memory, which ends with the last clone of the store. It has one
    /// connection: reads wait for writes, however long those take.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::open`].
    pub fn in_memory() -> Result<Self> {
        SqliteStore::builder_in_memory().open()
    }

    /// Starts with the default settings for a new database in memory. Readers, journal and
    /// durability do not matter there.
    pub fn builder_in_memory() -> SqliteStoreBuilder {
        SqliteStoreBuilder::memory()
    }

    /// Starts with the default settings for the database at `path`.
    pub fn builder(path: impl AsRef<Path>) -> SqliteStoreBuilder {
        SqliteStoreBuilder::file(path.as_ref())
    }

    /// Sets the tables up if they are not there. Opening has done so already, unless it was told
    /// not to; this is for after [`drop_tables`](Self::drop_tables).
    ///
    /// # Errors
    /// The kinds of [`SqliteStoreBuilder::open`].
    pub fn setup(&self) -> Result<()> {
        let (sql, table, events) =
            (self.0.sql.clone(), self.0.table.clone(), self.0.events.clone());
        let deadline = Instant::now() + self.0.busy_timeout;
        self.0.writer.write(CommitMode::Alone, "set up the tables", move |connection| {
            migrate::migrate(connection, &table, &sql, &events, deadline)
        })
    }

    /// Ends every session, and says how many there were, ended ones included. The tables stay;
    /// where there are none, nothing happens.
    ///
    /// # Errors
    /// Those of every write: [`Busy`](crate::ErrorKind::Busy),
    /// [`Unavailable`](crate::ErrorKind::Unavailable), [`Full`](crate::ErrorKind::Full) and so on.
    pub fn clear(&self) -> Result<u64> {
        const OPERATION: &str = "clear the table";
        let (sql, table) = (self.0.sql.clone(), self.0.table.clone());
        self.0.writer.write(CommitMode::Synced, OPERATION, move |connection| {
            match migrate::version(connection, &table)? {
                0 => Ok(0),
                // Every deadline is later than this moment, so every session counts.
                _ => delete_all(connection, &sql, Timestamp::from_millis(i64::MIN))
                    .map_err(while_doing(OPERATION)),
            }
        })
    }

    /// Removes our tables with all sessions; where there are none, nothing happens. From then on
    /// every call fails with [`NotSetUp`](crate::ErrorKind::NotSetUp) until
    /// [`setup`](Self::setup).
    ///
    /// # Errors
    /// As [`clear`](Self::clear).
    pub fn drop_tables(&self) -> Result<()> {
        let (sql, table) = (self.0.sql.clone(), self.0.table.clone());
        self.0.writer.write(CommitMode::Synced, "drop the tables", move |connection| {
            // What is not ours is refused here.
            migrate::version(connection, &table)?;
            migrate::remove(connection, &table, &sql).map_err(while_doing("drop the tables"))
        })
    }

    /// Copies the whole database, as it is at this moment, to a new file at `to`, while readers
    /// and writers go on. The name `to` appears only when the copy is complete.
    ///
    /// Sessions that are revoked later live on in the copy. Under a kept rollback journal
    /// ([`Journal::Keep`]) nobody can commit while it is made.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when `to` exists;
    /// [`Full`](crate::ErrorKind::Full), [`ReadOnly`](crate::ErrorKind::ReadOnly) or
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when it cannot be written.
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<()> {
        self.back_up(to.as_ref(), false, Box::new(|_| ControlFlow::Continue(()))).map(drop)
    }

    /// The same, with a look at how far it is, and a check that the copy is sound before its name
    /// appears. Ended early, it leaves nothing behind.
    ///
    /// # Errors
    /// As [`backup`](Self::backup), and [`Corrupt`](crate::ErrorKind::Corrupt) when the copy is
    /// not sound.
    pub fn backup_checked(
        &self,
        to: impl AsRef<Path>,
        watch: ProgressFn,
    ) -> Result<ControlFlow<()>> {
        self.back_up(to.as_ref(), true, watch)
    }

    fn back_up(&self, to: &Path, check: bool, mut watch: ProgressFn) -> Result<ControlFlow<()>> {
        match &self.0.file {
            Some((access, _)) => {
                self.0.writer.process().check()?;
                // A connection of its own: a long copy keeps no reader from a request.
                let source = access.connect().map_err(while_doing("back the database up"))?;
                source
                    .busy_timeout(self.0.busy_timeout)
                    .map_err(while_doing("back the database up"))?;
                backup::copy(&source, to, check, &mut watch)
            }
            None => self.0.writer.read(|source| backup::copy(source, to, check, &mut watch)),
        }
    }

    /// Copies the log into the database beside the writers, where this store's changes have made it
    /// longer than 16 MiB; for long work beside a service. Making the log start again, for which
    /// writers wait, is left to that service; where nobody else writes, this is all it needs.
    ///
    /// # Errors
    /// Those of every read.
    pub fn checkpoint_if_large(&self) -> Result<()> {
        self.0.readers.read(LOG, |connection| self.0.writer.log().copy_if_rung(connection))
    }

    /// The sessions table.
    #[must_use]
    pub fn table(&self) -> &str {
        self.0.table.as_str()
    }
}

const LOG: &str = "copy the log into the database";

/// Deletes all rows and raises the epoch; says how many of them lived at `now`.
fn delete_all(connection: &Connection, sql: &Sql, now: Timestamp) -> rusqlite::Result<u64> {
    let live: i64 = connection.query_row(&sql.count_live, [now.as_millis()], |row| row.get(0))?;
    connection.execute(&sql.delete_all, [])?;
    connection.execute(&sql.delete_all_replaced, [])?;
    connection.execute(&sql.raise_epoch, [])?;
    Ok(u64::try_from(live).unwrap_or(0))
}

/// Deletes all rows of a realm and raises the epoch; says how many of them lived at `now`.
fn delete_all_of(
    connection: &Connection,
    sql: &Sql,
    realm: &Realm,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    // Without a condition SQLite drops whole pages, a thousand times as fast.
    let others: bool =
        connection.query_row(&sql.has_other_realms, [realm.as_str()], |row| row.get(0))?;
    if !others {
        return delete_all(connection, sql, now);
    }
    let live = count_live_of(connection, sql, realm, now)?;
    connection.execute(&sql.delete_all_of, [realm.as_str()])?;
    connection.execute(&sql.raise_epoch, [])?;
    Ok(live)
}

fn count_live_of(
    connection: &Connection,
    sql: &Sql,
    realm: &Realm,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    let columns = params![now.as_millis(), realm.as_str()];
    let live: i64 = connection.query_row(&sql.count_live_of, columns, |row| row.get(0))?;
    Ok(u64::try_from(live).unwrap_or(0))
}

#[deny(clippy::missing_trait_methods)]
impl Store for SqliteStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Lookup> {
        self.0.writer.process().check()?;
        let record_cache = self.0.record_cache.as_deref();
        let missed = match record_cache.map(|record_cache| record_cache.find(id_hash, now)) {
            Some(Ok(record)) => {
                let session = LiveSession { record, id_hash: *id_hash };
                return Ok(Lookup::Live { session, at: () });
            }
            Some(Err(missed)) => Some(missed),
            None => None,
        };
        let found = self.0.readers.read("load a session", |connection| {
            row::find(connection, &self.0.sql, id_hash, now)
        })?;
        if let (Lookup::Live { session, at }, Some(record_cache), Some(missed)) =
            (&found, record_cache, missed)
            && at.agrees_with(&session.record)
        {
            record_cache.keep(missed, at.id_hash, at.id, &session.record);
        }
        Ok(found.without_position())
    }

    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Lookup> {
        self.0.writer.process().check().ok()?;
        let record = self.0.record_cache.as_deref()?.find(id_hash, now).ok()?;
        let session = LiveSession { record, id_hash: *id_hash };
        Some(Lookup::Live { session, at: () })
    }

    fn commit(&self, commit: &Commit) -> Result<Committed> {
        let (sql, commit) = (self.0.sql.clone(), commit.clone());
        let (mode, operation) = (commit::commit_mode(&commit), commit.action.operation());
        self.0.writer.write_known(mode, operation, move |connection, transaction| {
            commit::carry_out(&commit, connection, &sql, transaction)
        })
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let (sql, batch) = (self.0.sql.clone(), batch.to_vec());
        self.0.writer.write_known(
            CommitMode::Normal,
            "record activity",
            move |connection, transaction| {
                for (id_hash, touch) in batch {
                    row::touch(connection, &sql, &id_hash, touch, now, transaction)
                        .map_err(while_doing("record activity"))?;
                }
                Ok(())
            },
        )
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<SweepReport> {
        const OPERATION: &str = "sweep ended sessions";
        let sql = self.0.sql.clone();
        let limit = i64::try_from(limit.get()).unwrap_or(i64::MAX);
        let (removed, began) = self.0.writer.write_known(
            CommitMode::Normal,
            OPERATION,
            move |connection, transaction| {
                // By now the lock is held; it is given up by the commit.
                let began = instant();
                let mut sweep =
                    connection.prepare_cached(&sql.sweep).map_err(while_doing(OPERATION))?;
                let removed =
                    sweep.execute([now.as_millis(), limit]).map_err(while_doing(OPERATION))?;
                transaction.swept(now, removed);
                row::forget_replaced(connection, &sql, now, limit, transaction)
                    .map_err(while_doing(OPERATION))?;
                Ok((removed, began))
            },
        )?;
        Ok(SweepReport::new(removed, instant().saturating_duration_since(began)))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(&*self.0)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        match self.0.file {
            Some(_) if self.0.writer.log().is_ours() => Some(&*self.0),
            _ => None,
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_durable(self.0.file.is_some()).with_indexed(true)
    }
}

impl Maintenance for Inner {
    /// Copies the write-ahead log into the database beside the writers; what is left at the end is
    /// copied while nobody writes, so that the log starts again from its beginning.
    fn run(&self) -> Result<()> {
        let worth_a_restart =
            self.readers.read(LOG, |connection| self.writer.log().copy(connection))?;
        if !worth_a_restart {
            return Ok(());
        }
        let writer = self.writer.clone();
        self.writer
            .write(CommitMode::Alone, LOG, move |connection| writer.log().restart(connection))
    }

    fn on_due(&self, bell: Box<dyn Fn() + Send + Sync>) {
        // In a fork nobody writes, and the bell's lock may be held for ever.
        if self.writer.process().is_current() {
            self.writer.log().set_bell(bell);
        }
    }
}
