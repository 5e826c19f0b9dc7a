//! What the commands work on.

use crate::cli::arguments::Arguments;
use crate::cli::failure::Failure;
use crate::stores::sqlite::{Journal, SqliteStore, SqliteStoreBuilder};

/// What the commands work on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Target {
    /// What `--db` and `--table` say, or the environment variable `CLOAKROOM_DB`.
    Arguments,
    /// The application's own settings. The file is opened by the commands that need it, so that
    /// `setup` and `doctor` also work where the store would not open; only `setup` and `migrate`
    /// set up or migrate.
    Builder(SqliteStoreBuilder),
    /// A store that is open.
    Sqlite(SqliteStore),
}

/// The database of one run.
#[derive(Debug)]
pub(super) enum Place {
    Nowhere,
    File(SqliteStoreBuilder),
    Open(SqliteStore),
}

impl Place {
    pub(super) fn new(target: Target, arguments: &Arguments) -> Result<Self, Failure> {
        match target {
            Target::Arguments => Ok(match &arguments.db {
                None => Place::Nowhere,
                Some(path) => {
                    let builder = SqliteStore::builder(path);
                    let builder = match &arguments.table {
                        Some(table) => builder.table(table),
                        None => builder,
                    };
                    // What was typed is wrong, not the file.
                    builder.validate().map_err(|error| Failure::usage(error.to_string()))?;
                    Place::File(builder)
                }
            }),
            Target::Builder(builder) => Ok(Place::File(builder)),
            Target::Sqlite(store) => Ok(Place::Open(store)),
        }
    }

    /// The file, for what does not need our tables.
    pub(super) fn file(&self) -> Result<SqliteStoreBuilder, Failure> {
        match self {
            Place::Nowhere => {
                Err(Failure::usage("which database? Give --db PATH, or set CLOAKROOM_DB"))
            }
            Place::File(builder) => Ok(builder.clone()),
            Place::Open(store) => match store.path() {
                Some(path) => Ok(SqliteStore::builder(path).table(store.table())),
                None => Err(Failure::new("this store is in memory: there is no file")),
            },
        }
    }

    /// The store, if it is set up. Nothing is created, migrated or switched.
    pub(super) fn store(&self) -> Result<SqliteStore, Failure> {
        match self {
            Place::Open(store) => Ok(store.clone()),
            _ => Ok(self.file()?.migrate(false).journal(Journal::Keep).open()?),
        }
    }

    /// The same, to be read only: also where nothing can be written.
    pub(super) fn store_to_read(&self) -> Result<SqliteStore, Failure> {
        match self {
            Place::Open(store) => Ok(store.clone()),
            _ => Ok(self.file()?.read_only().open()?),
        }
    }

    pub(super) fn is_set_up(&self) -> bool {
        match self {
            Place::Open(store) if store.path().is_none() => true,
            _ => self.file().is_ok_and(|file| file.pending().is_ok_and(|some| some.is_empty())),
        }
    }

    /// The store, set up if it is not.
    pub(super) fn set_up(&self, keep_journal: bool) -> Result<SqliteStore, Failure> {
        if let Place::Open(store) = self {
            store.setup()?;
            return Ok(store.clone());
        }
        let builder = self.file()?.migrate(true);
        let builder = if keep_journal { builder.journal(Journal::Keep) } else { builder };
        Ok(builder.open()?)
    }

    /// Its name in questions and answers.
    pub(super) fn name(store: &SqliteStore) -> String {
        match store.path() {
            Some(path) => format!("table {} in {}", store.table(), path.display()),
            None => format!("table {} in memory", store.table()),
        }
    }
}
