//! The store: loads by the record cache or a read connection, and writes by the queue.
//!
//! Invariant: a load returns what the newest commit of any process has stored.

use std::fmt::{self, Debug};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use crate::backend::{
    Capabilities, Commit, CommitAnswer, Found, LiveSession, Loaded, Maintenance, RemovalReport,
    SessionIndex, Store, TouchError,
};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::SessionIdHash;
use crate::record::Touch;
use crate::stores::sql::{self, saturating_i64};
use crate::stores::sqlite::commit;
use crate::stores::sqlite::error::{During, wait_while_busy};
use crate::stores::sqlite::file::{Access, InUse};
use crate::stores::sqlite::read_pool::ReadPool;
use crate::stores::sqlite::record_cache::RecordCache;
use crate::stores::sqlite::references;
use crate::stores::sqlite::sql::row;
use crate::stores::sqlite::sql::{ReadSql, TableName};
use crate::stores::sqlite::wal::CHECKPOINT;
use crate::stores::sqlite::write::{WriteTx, Writer};
use crate::sync::monotonic_now;

/// Sessions in a SQLite database. A clone refers to the same store.
///
/// The newest commit is visible to every later load, in this process and in others. With the
/// write-ahead log, which is the default, writes do not block reads. Changes of several threads are
/// committed in groups.
///
/// ```
/// # fn main() -> Result<(), cloakroom::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use cloakroom::{SessionManager, SqliteStore};
///
/// // Makes the file and its tables if they are missing. The file may hold tables of the
/// // application too, and several processes may open it.
/// let store = SqliteStore::open(&path)?;
/// let sessions = SessionManager::new(store)?;
/// # Ok(())
/// # }
/// ```
///
/// **Forks.** A store belongs to the process that opened it. In a process forked from that, every
/// call fails with [`Unavailable`](crate::ErrorKind::Unavailable), and so does opening the same
/// file. Opening another file there can block forever, because a lock may belong to a thread that
/// the fork did not copy. Fork before opening a store.
#[derive(Clone, Debug)]
pub struct SqliteStore(pub(super) Arc<SqliteInner>);

pub(super) struct SqliteInner {
    /// How the file is opened, and its path; `None` for a database in memory.
    pub(super) file: Option<(Access, PathBuf)>,
    pub(super) table: TableName,
    pub(super) sql: Arc<ReadSql>,
    pub(super) writer: Arc<Writer>,
    /// `None` for a database in memory. It has a single connection: locks of SQLite's shared cache
    /// ignore the busy timeout.
    pub(super) read_pool: Option<ReadPool>,
    pub(super) events: Events,
    pub(super) busy_timeout: Duration,
    /// The number of expired sessions that rows of other tables referenced at the last sweep, which
    /// keeps them.
    pub(super) referenced_sessions: AtomicU64,
    /// Declared after the connections, so that they are closed before the wal-index file.
    pub(super) record_cache: Option<Arc<RecordCache>>,
    /// Declared last, so that all connections are closed before the file counts as unused.
    pub(super) _in_use: Option<InUse>,
}

impl Drop for SqliteInner {
    fn drop(&mut self) {
        // Closing a connection in a forked process can roll back a transaction of the other one. It
        // also takes locks of SQLite, which a thread that the fork did not copy may hold.
        self.writer.process().leak_in_fork(|| (self.writer.clone(), self.read_pool.clone()));
    }
}

impl SqliteInner {
    /// Runs `work` on a read connection, or on the write connection if there is no other.
    pub(super) fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T>,
    ) -> Result<T> {
        match &self.read_pool {
            Some(read_pool) => read_pool.read(operation, work),
            None => self.writer.read(work),
        }
    }

    /// Writes touches in one transaction.
    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<()> {
        let batch = batch.to_vec();
        self.writer.write_unsynced("record activity", move |tx| {
            batch.iter().try_for_each(|(id_hash, touch)| tx.touch(*id_hash, *touch, now))
        })
    }

    /// Raises an event if rows of other tables reference another number of expired sessions than at
    /// the last sweep.
    fn report_referenced(&self, sessions: u64) {
        let reported = self.referenced_sessions.swap(sessions, Ordering::Relaxed);
        if sessions == reported || sessions == 0 {
            return;
        }
        match self.query("name the tables that keep sessions", references::keeping_tables) {
            Ok(tables) => {
                let tables = Vec::from_iter(tables).join(", ");
                self.events.raise(&Event::EndedSessionsKept { sessions, tables: &tables });
            }
            // The next sweep tries again.
            Err(_) => self.referenced_sessions.store(reported, Ordering::Relaxed),
        }
    }

    /// Runs a query on a read connection.
    pub(super) fn query<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&Connection, &ReadSql) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.read(operation, |connection| query(connection, &self.sql).during(operation))
    }
}

impl Debug for SqliteInner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SqliteInner { file, table, .. } = self;
        let path = file.as_ref().map(|(_, path)| path);
        f.debug_struct("SqliteInner")
            .field("path", &path)
            .field("table", table)
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Returns the path of the file; `None` for a database in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.0.file.as_ref().map(|(_, path)| path.as_path())
    }

    /// Returns the name of the sessions table.
    #[must_use]
    pub fn table(&self) -> &str {
        self.0.table.as_str()
    }

    /// Opens another connection to the file, for the application's
    /// [own tables](crate::guide::own_tables).
    ///
    /// This call and the connection can block. In an async handler, and in each handler of Rocket,
    /// use them inside Tokio's `block_in_place`. A connection belongs to one thread at a time, so
    /// keep some in a pool.
    ///
    /// The connection waits some five seconds for a lock before it fails with `database is locked`,
    /// whatever the store's busy timeout is; [`Connection::busy_timeout`] sets another time. It
    /// enforces foreign keys, and syncs each commit to the disk before it returns (with
    /// `fullfsync`, as macOS needs). Its [`transaction`](Connection::transaction) begins with
    /// `BEGIN IMMEDIATE`. [`max_file_size`] does not bound it. With
    /// [`checkpoints(false)`](crate::stores::sqlite::SqliteStoreBuilder::checkpoints) it runs no
    /// checkpoints either.
    ///
    /// A write transaction of this connection holds the lock of the whole file. Until it ends, no
    /// session is stored: a sign-in within it waits for the busy timeout and fails with
    /// [`ErrorKind::Busy`].
    ///
    /// [`max_file_size`]: crate::stores::sqlite::SqliteStoreBuilder::max_file_size
    ///
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// use cloakroom::SqliteStore;
    ///
    /// let store = SqliteStore::open(&path)?;
    /// let mut db = store.connect()?;
    /// let tx = db.transaction()?;
    /// tx.execute_batch("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)")?;
    /// tx.execute("INSERT INTO notes (text) VALUES (?1)", ["Buy milk"])?;
    /// tx.commit()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::Unsupported`]: the database is in memory, where only the store has a
    ///   connection.
    /// - [`ErrorKind::Unavailable`]: the file cannot be opened, or another one has replaced it; or
    ///   this process was forked from the one that opened the store.
    pub fn connect(&self) -> Result<Connection> {
        const OPERATION: &str = "open a connection for the application";
        let (Some((access, _)), Some(read_pool)) = (&self.0.file, &self.0.read_pool) else {
            let why = "a database in memory has only the connection of the store";
            return Err(Error::with_source(ErrorKind::Unsupported, OPERATION, why));
        };
        read_pool.check_file()?;
        let runs_checkpoints = self.0.writer.wal().runs_checkpoints();
        let open = || -> rusqlite::Result<Connection> {
            let mut connection = access.connect()?;
            connection.busy_handler(Some(wait_while_busy))?;
            connection.execute_batch(
                "PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL;
                 PRAGMA fullfsync = ON; PRAGMA secure_delete = FAST",
            )?;
            if !runs_checkpoints {
                connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
            }
            connection.set_transaction_behavior(TransactionBehavior::Immediate);
            Ok(connection)
        };
        open().during(OPERATION)
    }
}

impl Store for SqliteStore {
    fn load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Result<Loaded> {
        self.0.writer.process().check()?;
        let mut missed = None;
        if let Some(record_cache) = &self.0.record_cache {
            match record_cache.find(id_hash, now) {
                Ok(record) => return Ok(Loaded::Live(LiveSession { record, id_hash: *id_hash })),
                Err(miss) => missed = Some((record_cache, miss)),
            }
        }
        let found = self.0.read("load a session", |connection| {
            row::find(connection, &self.0.sql, id_hash, now)
        })?;
        if let (Found::Live { session, key }, Some((record_cache, miss))) = (&found, missed)
            && key.agrees_with(&session.record)
        {
            record_cache.add(miss, key.id_hash, key.id, &session.record);
        }
        Ok(found.into())
    }

    fn try_load(&self, id_hash: &SessionIdHash, now: Timestamp) -> Option<Loaded> {
        self.0.writer.process().check().ok()?;
        let record = self.0.record_cache.as_deref()?.find(id_hash, now).ok()?;
        let session = LiveSession { record, id_hash: *id_hash };
        Some(Loaded::Live(session))
    }

    fn commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        let commit = commit.clone();
        let operation = commit.action.operation();
        let is_synced = commit.must_survive_power_cut();
        let work = move |tx: &mut WriteTx<'_>| commit::apply(&commit, tx);
        if is_synced {
            self.0.writer.write(operation, work)
        } else {
            self.0.writer.write_unsynced(operation, work)
        }
    }

    fn touch(&self, batch: &[(SessionIdHash, Touch)], now: Timestamp) -> Result<(), TouchError> {
        sql::touch(batch, |batch| self.0.touch(batch, now))
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<RemovalReport> {
        const OPERATION: &str = "sweep expired sessions";
        let limit = saturating_i64(limit.get());
        let (removed, began, referenced) = self.0.writer.write_unsynced(OPERATION, move |tx| {
            // The transaction holds the write lock by now, and releases it by the commit.
            let began = monotonic_now();
            Ok((tx.sweep(now, limit)?, began, tx.count_referenced(now)?))
        })?;
        self.0.report_referenced(referenced);
        Ok(RemovalReport::since(began, removed.len()).with_user_sessions(removed))
    }

    fn index(&self) -> Option<&dyn SessionIndex> {
        Some(&*self.0)
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        match self.0.file {
            Some(_) if self.0.writer.wal().runs_checkpoints() => Some(&*self.0),
            _ => None,
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new().with_durable(self.0.file.is_some())
    }
}

impl Maintenance for SqliteInner {
    /// Runs passive checkpoints beside the writers; what is left then is copied while writers wait,
    /// so that the log starts again from its beginning.
    fn run(&self) -> Result<()> {
        let wal = self.writer.wal();
        if self.read(CHECKPOINT, |connection| wal.checkpoint_passive(connection))? {
            return self.writer.exclusive(CHECKPOINT, |connection| wal.restart(connection));
        }
        Ok(())
    }

    fn on_due(&self, callback: Box<dyn Fn() + Send + Sync>) {
        // A forked process never writes, and the lock of the callback may stay locked there.
        if self.writer.process().is_current() {
            self.writer.wal().set_on_due(callback);
        }
    }
}
