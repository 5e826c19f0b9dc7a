//! Sessions in a SQLite file: durable, shared by threads and processes, without a server.
//!
//! The file may be the application's own database. The store accesses only the tables of the chosen
//! name, and the history of migrations `cloakroom_migrations`.
//!
//! | to | call |
//! |---|---|
//! | open the file with the default settings, and make its tables if they are missing | [`SqliteStore::open`] |
//! | change a setting, such as the durability or the name of the tables | [`SqliteStore::builder`] |
//! | read and write the application's own tables in the file | [`SqliteStore::connect`] |
//! | back up, check, inspect or compact the file | [`SqliteStore::file`] |
//! | restore a copy, or examine a file that cannot be opened | [`SqliteFile::new`] |
//! | find, count, sweep or end sessions as an operator | [`Admin`](crate::stores::admin::Admin) |
//!
//! [`rusqlite`] is the version of the crate whose connections `connect` returns.

// The modules import downwards only, as `tests/tidy.rs` checks:
//
// admin                                    operators' calls
// builder, index                           settings and opening; lists and revocations
// store                                    SqliteStore
// commit, migrate, read_pool
// write                                    group commit; all writes
// references                               foreign keys and triggers of the application
// file, record_cache, sql, wal             sql: names, columns, reading statements, rows
// error

mod admin;
mod builder;
mod commit;
mod error;
mod file;
mod index;
mod migrate;
mod read_pool;
mod record_cache;
mod references;
mod sql;
mod store;
mod wal;
mod write;

/// What the command line shares with the store. It is not part of the API, and may change in any
/// version: the package `cloakroom-cli` requires the exact one.
#[doc(hidden)]
pub mod shared {
    pub use crate::stores::sqlite::file::paths::{folder, with_suffix};
    pub use crate::stores::sqlite::wal::{LOG_RESTART_BYTES, MAX_LOG_BYTES};
}

pub use admin::{CompactMode, DatabaseInfo, OpenFailure, RestoreReport, SqliteFile};
pub use builder::{Durability, Journal, SqliteStoreBuilder};
pub use rusqlite;
pub use store::SqliteStore;
