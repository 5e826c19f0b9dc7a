//! Operators' calls: on the sessions of an open store, and on its file.

// `sessions` and `copy` implement the calls on sessions. The others are on the file: `tables`
// creates the tables, `info` and `check` read the file, `backup` and `restore` make and use copies,
// `compact` makes it smaller. `report` has what they return.

mod backup;
mod check;
mod compact;
mod copy;
mod info;
mod report;
mod restore;
mod sessions;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::stores::sqlite::builder::{Journal, SqliteStoreBuilder};
use crate::stores::sqlite::error::{During, NotOpened};
use crate::stores::sqlite::file::identity::second_name;
use crate::stores::sqlite::file::paths::with_suffix;
use crate::stores::sqlite::file::{Opened, Purpose};
use crate::stores::sqlite::sql::TableName;
use crate::stores::sqlite::store::SqliteStore;

pub use crate::stores::sqlite::error::OpenFailure;
pub use report::{CompactMode, DatabaseInfo, RestoreReport};

/// A database file, for operators' tools such as the command line `cloakroom`. The calls on its
/// sessions are those of [`Admin`](crate::stores::admin::Admin).
///
/// [`SqliteStore::file`] has the calls on the file of an open store. [`SqliteFile::new`] takes
/// settings instead, so that a file can be examined and repaired if its store cannot be opened.
/// Each call then opens the file itself; only [`setup`](Self::setup), [`migrate`](Self::migrate)
/// and [`restore`](Self::restore) create or migrate anything.
///
/// # Errors
/// Further kinds are documented at the call.
/// - Those of [`SqliteStoreBuilder::open`], such as [`Busy`](crate::ErrorKind::Busy).
/// - [`NotSetUp`](crate::ErrorKind::NotSetUp): the file does not exist, or for a call that opens
///   the store the table does not.
/// - [`Invalid`](crate::ErrorKind::Invalid): [`info`](Self::info),
///   [`check_file`](Self::check_file), [`compact`](Self::compact) or [`restore`](Self::restore) was
///   called on a database in memory. Or a handle made by [`new`](Self::new) changes a file that has
///   a second name, and no log shows that this name is in use.
///
/// ```
/// # fn main() -> Result<(), cloakroom::Error> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("app.db");
/// use cloakroom::SqliteStore;
///
/// let store = SqliteStore::open(&path)?;
/// store.file().backup(path.with_extension("copy"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SqliteFile(Database);

#[derive(Clone, Debug)]
enum Database {
    Closed(SqliteStoreBuilder),
    Open(SqliteStore),
}

impl SqliteStore {
    /// Returns a handle for the operations on the file of this database.
    #[must_use]
    pub fn file(&self) -> SqliteFile {
        SqliteFile(Database::Open(self.clone()))
    }
}

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl SqliteFile {
    /// Makes a handle from settings; opens nothing. The database need not exist.
    #[must_use]
    pub fn new(settings: SqliteStoreBuilder) -> Self {
        SqliteFile(Database::Closed(settings))
    }

    /// Returns the path of the file; `None` for a database in memory.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.0 {
            Database::Open(store) => store.path(),
            Database::Closed(settings) => settings.path().ok(),
        }
    }

    /// Returns the store. If this was made from settings, opens it, and changes nothing.
    pub fn store(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(store) => Ok(store.clone()),
            Database::Closed(settings) => {
                self.refuse_second_name()?;
                settings.clone().migrate(false).journal(Journal::Keep).open()
            }
        }
    }

    /// Returns the store. If this was made from settings, opens it with
    /// [`SqliteStoreBuilder::read_only`], which also works if nothing is writable.
    pub fn store_for_reading(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(store) => Ok(store.clone()),
            Database::Closed(settings) => {
                settings.clone().read_only().open().map_err(|error| self.explain_second_name(error))
            }
        }
    }

    /// Returns the reason for which the database could not be opened, if `error` has one that an
    /// operator can remedy. For [`Missing`](OpenFailure::Missing) the remedy is
    /// [`restore`](Self::restore) or [`setup`](Self::setup). A file that is
    /// [`NotADatabase`](OpenFailure::NotADatabase) must be moved away, because `restore` does not
    /// replace it.
    #[must_use]
    pub fn open_failure(error: &Error) -> Option<OpenFailure> {
        OpenFailure::of(error)
    }

    /// Names the second name of a file in whose log, under the other name, its tables are.
    fn explain_second_name(&self, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::NotSetUp | ErrorKind::Corrupt) {
            return error;
        }
        let Some((_, why)) = self.unused_second_name() else { return error };
        let why = NotOpened::new(OpenFailure::SecondName, why);
        Error::with_source(error.kind(), error.operation().to_owned(), why)
    }

    /// Returns the path and what is wrong, if the file has a second name and no log under this one.
    fn unused_second_name(&self) -> Option<(PathBuf, String)> {
        let path = fs::canonicalize(self.path()?).ok()?;
        let reason = second_name(&path)?;
        let log = with_suffix(&path, "-wal");
        let is_in_use = fs::metadata(&log).is_ok_and(|log| log.len() > 0);
        let why = format!(
            "it has a second name ({reason}), and no log under this one: use the name beside which \
             there is a `-wal` with content, or stop the service and remove the other name"
        );
        (!is_in_use).then_some((path, why))
    }

    /// Rejects changes of a file that has a second name, unless a log shows that this name is the
    /// one in use. Another process may have the file open under the other name, with a log there:
    /// it would not see the changes, and its log would be applied to a file that does not fit it.
    fn refuse_second_name(&self) -> Result<()> {
        let Database::Closed(_) = self.0 else { return Ok(()) };
        let Some((path, why)) = self.unused_second_name() else { return Ok(()) };
        Err(Error::with_source(ErrorKind::Invalid, format!("change {}", path.display()), why))
    }

    /// Returns the settings of the file.
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
    let table = settings.validated_table()?;
    let opened = settings.open_existing(purpose)?;
    opened.connection.busy_timeout(settings.busy_timeout).during("configure the connection")?;
    Ok((opened, table))
}
