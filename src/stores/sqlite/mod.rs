//! Sessions in a SQLite file: durable, shared by threads and processes, without a server.
//!
//! The file may be the application's own database. The store accesses only the tables of the chosen
//! name, and the history of migrations `cloakroom_migrations`.

// The modules import downwards only, as `tests/tidy.rs` checks:
//
// admin                                    operators' calls
// builder, index                           settings and opening; lists and revocations
// store                                    SqliteStore
// commit, migrate, read_pool
// write                                    group commit; all writes
// row, references                          reads and decodes rows; foreign keys of other tables
// record_cache, sql, wal, file, file_identity
// file_access
// mount
// columns, error, paths

mod admin;
mod builder;
mod columns;
mod commit;
mod error;
mod file;
mod file_access;
mod file_identity;
mod index;
mod migrate;
mod mount;
mod paths;
mod read_pool;
mod record_cache;
mod references;
mod row;
mod sql;
mod store;
mod wal;
mod write;

pub use admin::{CompactMode, DatabaseInfo, OpenFailure, RestoreReport, SqliteFile};
pub use builder::{Durability, Journal, SqliteStoreBuilder};
pub use rusqlite;
pub use store::SqliteStore;
