//! The builder of a [`SqliteStore`]: settings, and opening the file, its journal mode and its
//! tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::stores::sqlite::error::{During, retry_while_busy};
use crate::stores::sqlite::file::access::explain;
use crate::stores::sqlite::file::identity::FileIdentity;
use crate::stores::sqlite::file::paths::with_suffix;
use crate::stores::sqlite::file::{self, Access, InUse, Opened, Purpose};
use crate::stores::sqlite::migrate;
use crate::stores::sqlite::read_pool::{self, ReadPool};
use crate::stores::sqlite::record_cache::RecordCache;
use crate::stores::sqlite::sql::TableName;
use crate::stores::sqlite::store::{SqliteInner, SqliteStore};
use crate::stores::sqlite::wal::Wal;
use crate::stores::sqlite::write::{SignInReserve, TableSql, Writer, WriterSettings};

/// Whether changes of values survive a power cut.
///
/// The setting is about values, and about the beginning of sessions without a user. A sign-in, a
/// sign-out, a revocation, a renewal of an id and
/// [`rename_user`](crate::SessionManager::rename_user) survive a power cut in any case. Every
/// acknowledged change survives a crash of the process. The guide has [the
/// details](crate::guide::guarantees#durability).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A power cut can undo the changes since the last sync of the file to the disk. As a rule
    /// these are those of the last minute or less; the guide says [what syncs the
    /// file](crate::guide::guarantees#syncs), and when more can be lost.
    #[default]
    Normal,
    /// A power cut undoes no acknowledged change. Choose it if a lost cart costs money. Each change
    /// then waits for a sync, which concurrent changes share. A change that shares its sync with no
    /// other takes several times as long as with `Normal`.
    Full,
}

/// The journal mode of the SQLite file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Journal {
    /// A write-ahead log (WAL): readers and the writer do not wait for each other. Opening switches
    /// the file to this mode, which SQLite stores in the file.
    #[default]
    Wal,
    /// The present mode of the file, unchanged. With a rollback journal, reads and commits wait for
    /// each other: during a long read, such as a backup, changes fail with
    /// [`Busy`](crate::ErrorKind::Busy).
    Keep,
}

const DEFAULT_CACHE_BYTES: usize = 80 << 20;

/// The first SQLite with STRICT tables, 3.37.0.
const MIN_SQLITE_VERSION: i32 = 3_037_000;

/// The settings of a [`SqliteStore`]. Start with [`SqliteStore::builder`].
///
/// ```
/// # fn main() -> Result<(), cloakroom::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use cloakroom::SqliteStore;
/// use cloakroom::stores::sqlite::Durability;
/// use std::time::Duration;
///
/// let store = SqliteStore::builder(&path)
///     .table("shop_sessions")
///     .durability(Durability::Full) // carts survive a power cut
///     .busy_timeout(Duration::from_secs(2))
///     .max_file_size(1 << 30)
///     .cache_bytes(16 << 20)
///     .open()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SqliteStoreBuilder {
    location: Location,
    table: String,
    readers: u32,
    pub(super) busy_timeout: Duration,
    durability: Durability,
    journal: Journal,
    migrate: bool,
    read_only: bool,
    checkpoints: bool,
    max_file_size: Option<u64>,
    cache_bytes: usize,
    events: Events,
}

#[derive(Clone, Debug)]
enum Location {
    File(PathBuf),
    Memory,
}

impl SqliteStore {
    /// Opens the database at `path` with the default settings. Creates the file, readable by its
    /// owner only, and the tables if they do not exist.
    ///
    /// In a service pass an absolute path. A relative one depends on the working directory: after a
    /// deployment into another folder it opens a new, empty database, and all users are signed out.
    ///
    /// The file must be on a disk of this machine, and every process must open it by the same name:
    /// otherwise [changes can be lost, or the database be
    /// damaged](crate::guide::stores#rules-for-the-file).
    ///
    /// Switches the file to a write-ahead log, also a file that exists already. From then on a copy
    /// of the file alone is no backup. [`journal`](SqliteStoreBuilder::journal) can keep its mode.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        SqliteStore::builder(path).open()
    }

    /// Opens a new database in memory, which is deleted with the last clone of the store. It has
    /// one connection, so reads wait for writes. The busy timeout does not limit this wait.
    ///
    /// # Errors
    /// As [`SqliteStoreBuilder::open`].
    pub fn in_memory() -> Result<Self> {
        SqliteStore::builder_in_memory().open()
    }

    /// Makes the default settings for a new database in memory. `readers`, `journal` and
    /// `durability` have no effect there.
    pub fn builder_in_memory() -> SqliteStoreBuilder {
        SqliteStoreBuilder::new(Location::Memory)
    }

    /// Makes the default settings for the database at `path`.
    pub fn builder(path: impl AsRef<Path>) -> SqliteStoreBuilder {
        SqliteStoreBuilder::new(Location::File(path.as_ref().to_owned()))
    }
}

impl SqliteStoreBuilder {
    fn new(location: Location) -> Self {
        SqliteStoreBuilder {
            location,
            table: TableName::DEFAULT.to_owned(),
            readers: 8,
            busy_timeout: Duration::from_secs(5),
            durability: Durability::Normal,
            journal: Journal::Wal,
            migrate: true,
            read_only: false,
            checkpoints: true,
            max_file_size: None,
            cache_bytes: DEFAULT_CACHE_BYTES,
            events: Events::default(),
        }
    }

    /// Sets the name of the sessions table: 1 to 64 ASCII letters, digits and underscores, not
    /// starting with a digit. Stores with different tables can share a file. Defaults to
    /// `cloakroom_sessions`.
    pub fn table(self, name: impl Into<String>) -> Self {
        SqliteStoreBuilder { table: name.into(), ..self }
    }

    /// Sets the maximum number of concurrent read connections, opened on demand; 1 to 1,000.
    /// Defaults to 8. Loads from the [cache](Self::cache_bytes) need none. Reads above the maximum
    /// wait, at most for the [busy timeout](Self::busy_timeout).
    pub fn readers(self, readers: u32) -> Self {
        SqliteStoreBuilder { readers, ..self }
    }

    /// Sets how long a call may wait in total, for connections and locks, before it fails with
    /// [`ErrorKind::Busy`]; 1 millisecond to 1 day. Defaults to 5 seconds.
    pub fn busy_timeout(self, timeout: Duration) -> Self {
        SqliteStoreBuilder { busy_timeout: timeout, ..self }
    }

    /// Sets whether changes of values survive a power cut. Defaults to [`Durability::Normal`], with
    /// which the newest ones can be lost; with [`Durability::Full`] each change waits for the disk.
    pub fn durability(self, durability: Durability) -> Self {
        SqliteStoreBuilder { durability, ..self }
    }

    /// Sets the journal mode of the file. Defaults to [`Journal::Wal`].
    pub fn journal(self, journal: Journal) -> Self {
        SqliteStoreBuilder { journal, ..self }
    }

    /// Sets whether opening creates the tables and migrates older ones to this version. If false,
    /// opening changes nothing, and fails with [`ErrorKind::NotSetUp`] unless the tables have this
    /// version. Defaults to true.
    pub fn migrate(self, migrate: bool) -> Self {
        SqliteStoreBuilder { migrate, ..self }
    }

    /// Opens an existing store without creating, migrating or switching anything, also if the file
    /// or its folder is not writable. This setting does not forbid changes: in a writable file
    /// sessions can be changed.
    ///
    /// If the file is not writable, changes fail with [`ErrorKind::ReadOnly`]. So does opening if
    /// the file has a write-ahead log that SQLite cannot read without writing.
    pub fn read_only(self) -> Self {
        SqliteStoreBuilder { migrate: false, journal: Journal::Keep, read_only: true, ..self }
    }

    /// Sets whether this store checkpoints the write-ahead log. Defaults to true. With false, the
    /// log grows until another program runs a checkpoint. Litestream may need this under a heavy
    /// write load.
    pub fn checkpoints(self, checkpoints: bool) -> Self {
        SqliteStoreBuilder { checkpoints, ..self }
    }

    /// Sets the maximum size of the database file in bytes, rounded down to pages, without the
    /// write-ahead log. Other tables in the file count. Defaults to no limit.
    ///
    /// Anonymous sessions cannot fill the file. While less than a tenth of it is free, each new one
    /// first evicts others, of any realm, those with the earliest deadlines first. The last
    /// twentieth is kept for sessions of users, which are never evicted: while it is in use, a new
    /// anonymous session fails with [`ErrorKind::Full`]. So does any change that does not fit.
    pub fn max_file_size(self, bytes: u64) -> Self {
        SqliteStoreBuilder { max_file_size: Some(bytes), ..self }
    }

    /// Sets the approximate size in bytes of the cache of recently used sessions, whose loads need
    /// no query; 0 disables it. Defaults to 80 MiB, enough for about 100,000 small sessions.
    ///
    /// The cache is always consistent with the database: a commit of another process, or of the
    /// application's own connections, clears it. It needs a write-ahead log.
    pub fn cache_bytes(self, bytes: usize) -> Self {
        SqliteStoreBuilder { cache_bytes: bytes, ..self }
    }

    /// Sets the receiver of events. Defaults to the [`log`](https://docs.rs/log) crate.
    pub fn events(self, events: Events) -> Self {
        SqliteStoreBuilder { events, ..self }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`]: a setting is out of range or malformed; or the file is missing or
    ///   empty, and the write-ahead log beside it has changes of a deleted database.
    /// - [`ErrorKind::Unavailable`]: the folder does not exist, the file cannot be opened, or its
    ///   file system does not allow a write-ahead log.
    /// - [`ErrorKind::ReadOnly`]: the file or its folder is not writable.
    /// - [`ErrorKind::Corrupt`]: the file is not a SQLite database.
    /// - [`ErrorKind::ForeignTable`], [`ErrorKind::NewerSchema`]: the table belongs to another
    ///   program or to a newer version; nothing was changed.
    /// - [`ErrorKind::NotSetUp`]: with `migrate(false)` or `read_only`, the file or the tables are
    ///   missing, or the tables are older.
    /// - [`ErrorKind::Full`]: there is no space for the file or its tables.
    /// - [`ErrorKind::Busy`]: other connections kept the file locked for the whole busy timeout.
    /// - [`ErrorKind::Unsupported`]: the system's SQLite is linked and older than 3.37.
    pub fn open(self) -> Result<SqliteStore> {
        let table = self.validated_table()?;
        let (connection, file) = self.open_database()?;
        let in_use = file.as_ref().map(|(_, path)| InUse::new(path)).transpose()?;
        let reserve = self.configure(&connection, &table).map_err(|error| match &file {
            Some((_, path)) => explain(error, path),
            None => error,
        })?;
        self.assemble(connection, file, in_use, table, reserve)
    }

    /// Opens the write connection. Returns it, and the file if the database is in one.
    fn open_database(&self) -> Result<(Connection, Option<(Access, PathBuf)>)> {
        let Location::File(path) = &self.location else {
            let memory = Connection::open_in_memory().during("open a database")?;
            return Ok((memory, None));
        };
        let purpose = match (self.read_only, self.migrate) {
            (true, _) => Purpose::Read,
            (false, true) => Purpose::Create,
            (false, false) => Purpose::Write,
        };
        let Opened { connection, access, path } = file::open(path, purpose)?;
        Ok((connection, Some((access, path))))
    }

    /// Sets the write connection up, and prepares the database. Returns the reserve of its file if
    /// the size is bounded.
    fn configure(
        &self,
        connection: &Connection,
        table: &TableName,
    ) -> Result<Option<SignInReserve>> {
        let deadline = Instant::now() + self.busy_timeout;
        connection.set_prepared_statement_cache_capacity(read_pool::MAX_PREPARED_STATEMENTS);
        // On macOS a plain fsync stops at the drive's cache; on other systems `fullfsync` has no
        // effect. `secure_delete` overwrites deleted content where that writes no additional page,
        // so that a copy of the file does not contain data and salts of ended sessions. Rows of the
        // application that reference a session go with it, whatever SQLite's default is.
        connection
            .execute_batch(
                "PRAGMA fullfsync = ON; PRAGMA secure_delete = FAST; PRAGMA foreign_keys = ON",
            )
            .during("configure the connection")?;
        self.prepare(connection, table, deadline)?;
        Wal::register_hook(connection);
        let Some(bytes) = self.max_file_size else { return Ok(None) };
        let pages = bytes.checked_div(page_size(connection)?).unwrap_or(bytes).max(1);
        let bound = format!("PRAGMA max_page_count = {pages}");
        // The answer is larger if the file is.
        let pages = connection
            .query_row(&bound, [], |row| row.get(0))
            .during("bound the size of the database")?;
        Ok(Some(SignInReserve::new(pages)))
    }

    /// Makes the store over the configured write connection.
    fn assemble(
        self,
        connection: Connection,
        file: Option<(Access, PathBuf)>,
        in_use: Option<InUse>,
        table: TableName,
        reserve: Option<SignInReserve>,
    ) -> Result<SqliteStore> {
        let mode: String = connection
            .query_row("PRAGMA journal_mode", [], |row| row.get(0))
            .during("read a setting of the database")?;
        let has_wal = mode.eq_ignore_ascii_case("wal");
        let files = file.iter().flat_map(|(_, path)| {
            // Under a rollback journal there is no log, and a missing file is ignored.
            [path.clone(), with_suffix(path, "-wal")]
        });
        let file_identity = Arc::new(FileIdentity::of(files.collect(), self.events.clone()));
        let record_cache = match &file {
            Some((_, path)) if has_wal && self.cache_bytes > 0 && !self.read_only => {
                RecordCache::new(&with_suffix(path, "-shm"), self.cache_bytes).map(Arc::new)
            }
            _ => None,
        };
        let settings = WriterSettings {
            sql: TableSql::new(&table),
            busy_timeout: self.busy_timeout,
            syncs_every_commit: self.durability == Durability::Full,
            wal: Wal::new(page_size(&connection)?, self.checkpoints, self.events.clone()),
            file_identity: file_identity.clone(),
            record_cache: record_cache.clone(),
            reserve,
        };
        let sql = settings.sql.read.clone();
        let writer = Arc::new(Writer::new(connection, has_wal, settings));
        let (read_pool, name) = match &file {
            None => (None, "a database in memory".to_owned()),
            Some((access, path)) => {
                let pool = ReadPool::new(access, file_identity, self.readers, self.busy_timeout);
                (Some(pool), format!("table {} in {}", table.as_str(), path.display()))
            }
        };
        self.events.raise(&Event::StoreOpened { store: &name });
        Ok(SqliteStore(Arc::new(SqliteInner {
            file,
            table,
            sql,
            writer,
            read_pool,
            events: self.events,
            busy_timeout: self.busy_timeout,
            referenced_sessions: AtomicU64::default(),
            record_cache,
            _in_use: in_use,
        })))
    }

    /// Validates the settings without accessing the file.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a setting is out of range or malformed;
    /// [`ErrorKind::Unsupported`] when the system's SQLite is linked and too old.
    pub fn validate(&self) -> Result<()> {
        self.validated_table().map(drop)
    }

    pub(super) fn path(&self) -> Result<&Path> {
        match &self.location {
            Location::File(path) => Ok(path),
            Location::Memory => {
                let why = "a database in memory has no file";
                Err(Error::with_source(ErrorKind::Invalid, "find the database file", why))
            }
        }
    }

    /// Opens the file without preparing it.
    pub(super) fn open_existing(&self, purpose: Purpose) -> Result<Opened> {
        file::open(self.path()?, purpose)
    }

    /// Validates all settings and the linked library, and returns the name of the table.
    pub(super) fn validated_table(&self) -> Result<TableName> {
        check_library(rusqlite::version_number(), rusqlite::version())?;
        let table = TableName::new(&self.table)?;
        if let Location::File(path) = &self.location {
            file::check_path(path)?;
        }
        let longest = Duration::from_secs(86_400);
        let why = if !(Duration::from_millis(1)..=longest).contains(&self.busy_timeout) {
            "the busy timeout is from one millisecond to one day"
        } else if !(1..=1000).contains(&self.readers) {
            "there are from 1 to 1,000 readers"
        } else {
            return Ok(table);
        };
        Err(Error::with_source(ErrorKind::Invalid, "open the store", why))
    }

    /// Rejects foreign and newer tables before anything changes. Then sets the journal mode, then
    /// migrates the tables.
    fn prepare(&self, connection: &Connection, table: &TableName, deadline: Instant) -> Result<()> {
        connection.busy_timeout(self.busy_timeout).during("configure the connection")?;
        let version = migrate::version_before(connection, table)?;
        if !self.migrate && version != migrate::newest() {
            return Err(migrate::not_set_up(version, table));
        }
        // From here on `retry_while_busy` does all waiting: it retries at shorter intervals than
        // SQLite does.
        connection.busy_timeout(Duration::ZERO).during("configure the connection")?;
        if self.journal == Journal::Wal && matches!(self.location, Location::File(_)) {
            switch_to_wal(connection, deadline)?;
        }
        if version != migrate::newest() {
            migrate::migrate(connection, table, &self.events, deadline)?;
        }
        Ok(())
    }
}

/// Rejects a SQLite library that is too old. Without the feature `bundled` it is the system's.
fn check_library(version: i32, name: &str) -> Result<()> {
    if version >= MIN_SQLITE_VERSION {
        return Ok(());
    }
    let why = format!("SQLite {name} is linked; 3.37 or newer is needed, or the feature `bundled`");
    Err(Error::with_source(ErrorKind::Unsupported, "open the store", why))
}

/// Returns the size of the database's pages, in bytes.
fn page_size(connection: &Connection) -> Result<u64> {
    connection
        .query_row("PRAGMA page_size", [], |row| row.get::<_, i64>(0))
        .map(|bytes| u64::try_from(bytes).unwrap_or(0))
        .during("read a setting of the database")
}

/// Switches to a write-ahead log. SQLite's busy timeout does not cover the switch, so it is retried
/// until the deadline.
fn switch_to_wal(connection: &Connection, deadline: Instant) -> Result<()> {
    let switch = || -> rusqlite::Result<String> {
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
    };
    let operation = "switch to a write-ahead log";
    let mode = retry_while_busy(deadline, switch).during(operation)?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    let why = format!("the file system allows only the journal mode {mode}");
    Err(Error::with_source(ErrorKind::Unavailable, operation, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_without_strict_tables_is_refused() {
        assert!(check_library(3_037_000, "3.37.0").is_ok());
        let error = check_library(3_036_001, "3.36.1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("SQLite 3.36.1 is linked; 3.37 or newer"), "{error}");
    }
}
