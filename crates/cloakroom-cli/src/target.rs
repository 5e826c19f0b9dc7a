//! The choice of a database by the program that runs the commands.

use cloakroom::SqliteStore;
#[cfg(feature = "postgres")]
use cloakroom::stores::postgres::PostgresStoreBuilder;
use cloakroom::stores::sqlite::SqliteStoreBuilder;

/// The choice of the database that the commands work on: by their arguments, or by the program that
/// runs them.
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
