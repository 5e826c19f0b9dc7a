//! The application's own tables, in the file of the sessions.

use std::error::Error;
use std::sync::{Mutex, PoisonError};

use cloakroom::stores::sqlite::rusqlite::{self, Connection, ErrorCode, Transaction};
use cloakroom::{ErrorKind, Result, SqliteStore};
use rocket::tokio::task::block_in_place;

type BoxedError = Box<dyn Error + Send + Sync>;

/// The versions of the schema. A version that was released does not change; a new one is added.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE users (
        -- AUTOINCREMENT: the number of a deleted user never becomes that of another one.
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        password_hash TEXT NOT NULL,
        -- Grows with each change of the password. Sessions of an earlier generation are refused.
        generation INTEGER NOT NULL DEFAULT 1
    ) STRICT;
    CREATE TABLE notes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
        text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX notes_of_user ON notes (user_id);
"];

/// Connections to the file, opened when they are needed and used again.
pub struct Database {
    store: SqliteStore,
    idle: Mutex<Vec<Connection>>,
}

impl Database {
    /// Creates the application's tables, or brings them to this version. The store comes first: it
    /// has created the file, readable by its owner only, and switched it to a write-ahead log.
    pub fn new(store: SqliteStore) -> Result<Self> {
        let database = Database { store, idle: Mutex::default() };
        // One transaction with the write lock, so that several processes may start at once.
        database.write(|tx| {
            let version: u32 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            let newest = u32::try_from(MIGRATIONS.len())?;
            if version > newest {
                return Err("the tables have a newer schema than this program".into());
            }
            for migration in MIGRATIONS.iter().skip(version.try_into()?) {
                tx.execute_batch(migration)?;
            }
            Ok(tx.pragma_update(None, "user_version", newest)?)
        })?;
        Ok(database)
    }

    /// Runs a query.
    pub fn read<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        self.with_connection(|connection| Ok(query(connection)?))
    }

    /// Runs `work` in a transaction with the write lock (`BEGIN IMMEDIATE`), and commits it if
    /// `work` succeeds.
    ///
    /// No session can be stored meanwhile: `work` does only SQL, and neither hashes a password nor
    /// calls a method of a session.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> std::result::Result<T, BoxedError>,
    ) -> Result<T> {
        self.with_connection(|connection| {
            let tx = connection.transaction()?;
            let result = work(&tx)?;
            tx.commit()?;
            Ok(result)
        })
    }

    fn with_connection<T>(
        &self,
        work: impl FnOnce(&mut Connection) -> std::result::Result<T, BoxedError>,
    ) -> Result<T> {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = idle().pop();
        // It may wait for the disk, or for the lock of another program. Meanwhile Rocket's thread
        // does nothing else, so its other requests move to another thread.
        block_in_place(|| {
            let mut connection = connection.map_or_else(|| self.store.connect(), Ok)?;
            let result = work(&mut connection);
            // After a panic it is closed instead, and its transaction rolled back.
            idle().push(connection);
            result.map_err(with_kind)
        })
    }
}

/// Gives an error of a locked database the kind of a busy store. Then the response is 503, as if
/// the session could not be stored, and not 500.
fn with_kind(error: BoxedError) -> cloakroom::Error {
    let kind = match error.downcast_ref().and_then(rusqlite::Error::sqlite_error_code) {
        Some(ErrorCode::DatabaseBusy) => ErrorKind::Busy,
        _ => ErrorKind::Unexpected,
    };
    cloakroom::Error::with_source(kind, "use the application's tables", error)
}
