//! The database that the commands work on.

use cloakroom::SqliteStore;
use cloakroom::stores::sqlite::{Admin, SqliteStoreBuilder};

use crate::arguments::Arguments;
use crate::error::{CliError, CliResult};

/// The database that the commands work on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Target {
    /// The one that `--db` and `--table` name, or the environment variable `CLOAKROOM_DB`.
    Arguments,
    /// The application's own settings. Commands open the file when they need it, so that `setup`
    /// and `doctor` also work where the store would not open; only `setup` and `migrate` create or
    /// migrate anything.
    Builder(SqliteStoreBuilder),
    /// A store that is open.
    Sqlite(SqliteStore),
}

/// Returns the operator's calls on the database, if one was named.
pub(crate) fn admin(target: Target, arguments: &Arguments) -> CliResult<Option<Admin>> {
    Ok(match target {
        Target::Sqlite(store) => Some(store.admin()),
        Target::Builder(settings) => Some(Admin::new(settings)),
        Target::Arguments => match &arguments.db {
            None => None,
            Some(path) => {
                let mut settings = SqliteStore::builder(path);
                if let Some(table) = &arguments.table {
                    settings = settings.table(table);
                }
                // Here the arguments are wrong, not the file.
                settings.validate().map_err(|error| CliError::usage(error.to_string()))?;
                Some(Admin::new(settings))
            }
        },
    })
}

/// Returns the table's name for questions and answers.
pub(crate) fn name(store: &SqliteStore) -> String {
    match store.path() {
        Some(path) => format!("table {} in {}", store.table(), path.display()),
        None => format!("table {} in memory", store.table()),
    }
}
