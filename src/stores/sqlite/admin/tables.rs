//! Operators' calls that create, migrate, clear and remove the tables.

use std::time::Instant;

use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::PublicId;
use crate::list::SessionFilter;
use crate::stores::sqlite::admin::{Admin, Database, connect};
use crate::stores::sqlite::builder::Journal;
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::file::{Opened, Purpose};
use crate::stores::sqlite::index;
use crate::stores::sqlite::migrate::{self, PendingMigration};
use crate::stores::sqlite::store::{SqliteInner, SqliteStore};
use crate::stores::sqlite::write::JobKind;

const SETTING_UP: &str = "set up the tables";

#[allow(clippy::missing_errors_doc)] // documented once, at the type
impl Admin {
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
                Admin::new(settings.clone().journal(Journal::Keep)).setup()
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

    /// Ends all sessions, and returns the number of rows deleted, expired ones included. The tables
    /// stay. Without tables it does nothing.
    pub fn clear(&self) -> Result<u64> {
        let store = self.store()?;
        let table = store.0.table.clone();
        store.0.writer.write(JobKind::Synced, "clear the table", move |tx| {
            match tx.with_connection(|connection| migrate::version(connection, &table))? {
                0 => Ok(0),
                // Every deadline is later than this time, so every session counts.
                _ => tx.delete_all(Timestamp::from_millis(i64::MIN)),
            }
        })
    }

    /// Ends sessions, except the one of the public id `except`, and returns the number of live
    /// ones. Unlike [`SessionIndex::revoke`](crate::backend::SessionIndex::revoke) it raises the
    /// store's epoch, because it knows no cache: a service with a [`CachedStore`] stops using its
    /// entries within a second.
    ///
    /// [`CachedStore`]: crate::stores::cached::CachedStore
    pub fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<u64> {
        let store = self.store()?;
        let except = except.copied();
        let (condition, args) = index::condition(&store.0.sql, filter);
        let revoked = store.0.writer.write(JobKind::Synced, "revoke sessions", move |tx| {
            let revoked = tx.revoke(&condition, args, except.as_ref(), now)?;
            // Even if none was live here: a cache may have an entry of one that ended before.
            tx.raise_epoch()?;
            Ok(revoked)
        })?;
        Ok(u64::try_from(revoked.len()).unwrap_or(u64::MAX))
    }

    /// Removes the store's tables with all sessions. Afterwards every call of the store fails with
    /// [`NotSetUp`](crate::ErrorKind::NotSetUp) until [`setup`](Self::setup). Without tables it
    /// does nothing.
    pub fn drop_tables(&self) -> Result<()> {
        const OPERATION: &str = "drop the tables";
        let store = self.store()?;
        let table = store.0.table.clone();
        store.0.writer.write(JobKind::Synced, OPERATION, move |tx| {
            tx.with_connection(|connection| {
                // Fails for a foreign table.
                migrate::version(connection, &table)?;
                migrate::remove(connection, &table).map_err(while_doing(OPERATION))
            })
        })
    }
}
