//! The database of a command: a SQLite file, or tables in PostgreSQL.

use std::path::Path;

use cloakroom::clock::Timestamp;
use cloakroom::id::Realm;
use cloakroom::stores::admin::{Admin, PendingMigration};
#[cfg(feature = "postgres")]
use cloakroom::stores::postgres::PostgresStoreBuilder;
use cloakroom::stores::sqlite::{DatabaseInfo, SqliteFile};
use cloakroom::{Error, ErrorKind, SqliteStore};

use crate::arguments::{Arguments, Command, StoreOptions};
#[cfg(feature = "postgres")]
use crate::error::server_advice;
use crate::error::{CliError, CliResult, file_advice};
use crate::target::Target;
use crate::{postgres, processes};

/// The database that a [`Target`] and the arguments name, not opened yet. It may be missing or not
/// set up.
#[derive(Debug)]
pub(crate) enum Database {
    Sqlite(SqliteFile),
    #[cfg(feature = "postgres")]
    Postgres(Box<PostgresStoreBuilder>),
}

impl Database {
    /// Returns the database of a command; `None` if none was named, or for `copy`, which names two.
    pub(crate) fn of(target: Target, arguments: &Arguments) -> CliResult<Option<Self>> {
        Ok(Some(match target {
            Target::Sqlite(store) => Database::Sqlite(store.file()),
            Target::SqliteBuilder(builder) => Database::Sqlite(SqliteFile::new(builder)),
            #[cfg(feature = "postgres")]
            Target::PostgresBuilder(builder) => Database::Postgres(builder),
            Target::Arguments => match (&arguments.db, &arguments.store) {
                _ if matches!(arguments.command, Command::Copy(_)) => return Ok(None),
                (Some(path), _) => Database::at_path(path, &arguments.options)?,
                (None, Some(name)) => Database::named(name, &arguments.options)?,
                (None, None) => return Ok(None),
            },
        }))
    }

    /// Returns the database that `name` names: a URL of PostgreSQL, or a file.
    pub(crate) fn named(name: &str, options: &StoreOptions) -> CliResult<Self> {
        if is_url(name) {
            postgres::database(name, options)
        } else {
            Database::at_path(Path::new(name), options)
        }
    }

    fn at_path(path: &Path, options: &StoreOptions) -> CliResult<Self> {
        if path.to_str().is_some_and(is_url) {
            return Err(CliError::usage("--db names a file; give a URL with --store"));
        }
        let mut builder = SqliteStore::builder(path);
        if let Some(table) = &options.table {
            builder = builder.table(table);
        }
        // Here the arguments are wrong, not the file.
        builder.validate().map_err(|error| CliError::usage(error.to_string()))?;
        Ok(Database::Sqlite(SqliteFile::new(builder)))
    }

    /// Opens the store. Creates and migrates nothing.
    pub(crate) fn open(&self) -> CliResult<Box<dyn Admin>> {
        Ok(match self {
            Database::Sqlite(file) => Box::new(file.store()?),
            #[cfg(feature = "postgres")]
            Database::Postgres(builder) => Box::new(builder.clone().migrate(false).open()?),
        })
    }

    /// Opens the store for commands that only read, which also work where nothing can be written.
    pub(crate) fn open_for_reading(&self) -> CliResult<Box<dyn Admin>> {
        let Some(file) = self.file() else { return self.open() };
        Ok(Box::new(file.store_for_reading()?))
    }

    /// Creates what is missing, migrates what is older, and opens the store. `keep_journal` keeps
    /// the journal mode of a file.
    pub(crate) fn setup(&self, keep_journal: bool) -> CliResult<Box<dyn Admin>> {
        Ok(match self {
            Database::Sqlite(file) if keep_journal => Box::new(file.migrate()?),
            Database::Sqlite(file) => Box::new(file.setup()?),
            #[cfg(feature = "postgres")]
            Database::Postgres(builder) => Box::new(builder.clone().migrate(true).open()?),
        })
    }

    /// Returns the migrations that [`setup`](Self::setup) would apply.
    pub(crate) fn pending_migrations(&self) -> CliResult<Vec<PendingMigration>> {
        match self {
            Database::Sqlite(file) => Ok(file.pending_migrations()?),
            #[cfg(feature = "postgres")]
            Database::Postgres(builder) => {
                let info = builder.inspect()?;
                info.schema_version?;
                Ok(info.pending)
            }
        }
    }

    /// Returns the file, if the database is one.
    pub(crate) fn file(&self) -> Option<&SqliteFile> {
        match self {
            Database::Sqlite(file) => Some(file),
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => None,
        }
    }

    /// Returns the properties of the file; `None` for PostgreSQL and for a database in memory.
    pub(crate) fn file_info(&self) -> CliResult<Option<DatabaseInfo>> {
        let file = self.file().filter(|file| file.path().is_some());
        Ok(file.map(SqliteFile::info).transpose()?)
    }

    /// Returns advice to the operator about an error of this store.
    pub(crate) fn advice(&self, error: &Error) -> Option<&'static str> {
        match self {
            Database::Sqlite(_) => file_advice(error),
            #[cfg(feature = "postgres")]
            Database::Postgres(_) => server_advice(error.kind()),
        }
    }

    /// Rejects a file that is not what a running process uses. If it was deleted or replaced, a
    /// change would be written into the log that its rescue needs, and a reader would mix the new
    /// file with that log; by another name, a revocation would have no effect on the process.
    pub(crate) fn check_no_other_file_in_use(&self) -> CliResult {
        let Some(path) = self.file().and_then(SqliteFile::path) else { return Ok(()) };
        match processes::other_file_in_use(path, &processes::processes(path)) {
            Some((found, remedy)) => Err(CliError::new(format!("{found}: {remedy}"))),
            None => Ok(()),
        }
    }
}

/// Returns the number of live sessions, for questions, or `None` if the table is too damaged to
/// count; it can be emptied nevertheless.
pub(crate) fn count_live(
    store: &dyn Admin,
    realm: Option<&Realm>,
    now: Timestamp,
) -> CliResult<Option<u64>> {
    let live = match realm {
        Some(realm) => store.count_in_realm(realm, now),
        None => store.session_index().stats(now).map(|stats| stats.live),
    };
    match live {
        Ok(live) => Ok(Some(live)),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_url(name: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| name.starts_with(scheme))
}
