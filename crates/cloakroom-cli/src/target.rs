//! The database that the commands work on.

use std::path::Path;

use cloakroom::SqliteStore;
#[cfg(feature = "postgres")]
use cloakroom::stores::postgres::PostgresStoreBuilder;
use cloakroom::stores::sqlite::{SqliteFile, SqliteStoreBuilder};

use crate::arguments::{Arguments, Command, StoreOptions};
use crate::error::{CliError, CliResult};
use crate::location::Location;
use crate::postgres;

/// The database that the commands work on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Target {
    /// The database that the options `--store` or `--db`, and `--table`, name, or the environment
    /// variables `CLOAKROOM_STORE` and `CLOAKROOM_DB`.
    Arguments,
    /// A SQLite file, by the application's own settings. Commands open the file when they need it,
    /// so `setup` and `doctor` also work if the store would not open. Only `setup` and `migrate`
    /// create or migrate anything.
    SqliteBuilder(SqliteStoreBuilder),
    /// A store that is open.
    Sqlite(SqliteStore),
    /// A PostgreSQL database, by the application's own settings, opened as for
    /// [`SqliteBuilder`](Self::SqliteBuilder).
    #[cfg(feature = "postgres")]
    PostgresBuilder(Box<PostgresStoreBuilder>),
}

/// Returns the place of the database, if one was named.
pub(crate) fn location(target: Target, arguments: &Arguments) -> CliResult<Option<Location>> {
    Ok(Some(match target {
        Target::Sqlite(store) => Location::File(store.file()),
        Target::SqliteBuilder(settings) => Location::File(SqliteFile::new(settings)),
        #[cfg(feature = "postgres")]
        Target::PostgresBuilder(settings) => Location::Server(settings),
        Target::Arguments => match (&arguments.db, &arguments.store) {
            _ if matches!(arguments.command, Command::Copy(_)) => return Ok(None),
            (Some(path), _) => file(path, &arguments.options)?,
            (None, Some(name)) => named(name, &arguments.options)?,
            (None, None) => return Ok(None),
        },
    }))
}

/// Returns the place that `name` names: a URL of PostgreSQL, or a file.
pub(crate) fn named(name: &str, options: &StoreOptions) -> CliResult<Location> {
    if is_url(name) { postgres::location(name, options) } else { file(Path::new(name), options) }
}

fn is_url(name: &str) -> bool {
    ["postgres://", "postgresql://"].iter().any(|scheme| name.starts_with(scheme))
}

fn file(path: &Path, options: &StoreOptions) -> CliResult<Location> {
    if path.to_str().is_some_and(is_url) {
        return Err(CliError::usage("--db names a file; give a URL with --store"));
    }
    let mut settings = SqliteStore::builder(path);
    if let Some(table) = &options.table {
        settings = settings.table(table);
    }
    // Here the arguments are wrong, not the file.
    settings.validate().map_err(|error| CliError::usage(error.to_string()))?;
    Ok(Location::File(SqliteFile::new(settings)))
}
