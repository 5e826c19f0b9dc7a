//! Operators' calls that create and migrate the tables.

use std::time::Instant;

use crate::error::Result;
use crate::stores::admin::PendingMigration;
use crate::stores::sqlite::admin::{Database, SqliteFile, connect};
use crate::stores::sqlite::builder::Journal;
use crate::stores::sqlite::file::{Opened, Purpose};
use crate::stores::sqlite::migrate;
use crate::stores::sqlite::store::{SqliteInner, SqliteStore};

const SETTING_UP: &str = "set up the tables";

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl SqliteFile {
    /// Creates the tables, or migrates them to this version. If this was made from settings, opens
    /// the store, which creates a missing file. Returns the store.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) if the file does not exist or is empty, but a
    /// write-ahead log for it has content, which SQLite would remove.
    pub fn setup(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(store) => {
                let SqliteInner { writer, table, events, busy_timeout, .. } = &*store.0;
                let deadline = Instant::now() + *busy_timeout;
                writer.exclusive(SETTING_UP, |connection| {
                    migrate::migrate(connection, table, events, deadline)
                })?;
                Ok(store.clone())
            }
            Database::Closed(settings) => {
                self.refuse_second_name()?;
                settings.clone().migrate(true).open()
            }
        }
    }

    /// Sets up as [`setup`](Self::setup) does, but keeps the file's journal mode.
    pub fn migrate(&self) -> Result<SqliteStore> {
        match &self.0 {
            Database::Open(_) => self.setup(),
            Database::Closed(settings) => {
                SqliteFile::new(settings.clone().journal(Journal::Keep)).setup()
            }
        }
    }

    /// Returns the migrations that [`migrate`](Self::migrate) would apply.
    pub fn pending_migrations(&self) -> Result<Vec<PendingMigration>> {
        let version = match &self.0 {
            Database::Open(store) => store.0.read("read the schema", |connection| {
                migrate::version_before(connection, &store.0.table)
            })?,
            Database::Closed(settings) => {
                let (Opened { connection, .. }, table) = connect(settings, Purpose::Read)?;
                migrate::version_before(&connection, &table)?
            }
        };
        Ok(migrate::pending(version))
    }
}
