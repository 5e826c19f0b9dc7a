//! What operators' calls on the file take and return.

use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::error::Result;

/// The properties of a database file and of the store's tables in it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DatabaseInfo {
    /// The path of the file.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The size of the write-ahead log in bytes.
    pub log_bytes: u64,
    /// The size of a page in bytes.
    pub page_size: u64,
    /// The number of pages, free ones included.
    pub pages: u64,
    /// The number of free pages, which SQLite uses before the file grows.
    pub free_pages: u64,
    /// SQLite's name of the journal mode, such as `wal` or `delete`.
    pub journal: String,
    /// Whether [`CompactMode::Incremental`] is possible (`auto_vacuum = INCREMENTAL`).
    pub incremental: bool,
    /// The schema version of the store's tables, 0 if they do not exist; or why it is unknown.
    pub schema: Result<u32>,
    /// The schema version of this program.
    pub newest_schema: u32,
    /// The time at which the store's tables were created; `None` if that is unknown.
    pub created: Option<Timestamp>,
    /// The number of other tables in the file.
    pub other_tables: u64,
    /// Whether this process cannot write the file.
    pub read_only: bool,
    /// The name of the user who owns the file, or its number if it has none; empty if unknown.
    pub owner: String,
    /// The same for the folder.
    pub folder_owner: String,
    /// The kind of the file system, such as `ext4`, where the operating system lists its mounts.
    pub file_system: Option<String>,
    /// Why other processes may use the file under a second name, if they may.
    pub second_name: Option<String>,
    /// The tables whose foreign keys keep sessions from being deleted or getting a new id: without
    /// `ON DELETE CASCADE`, or without `ON UPDATE CASCADE` on `id_hash`. Among them are tables that
    /// reference rows which would be deleted with a session.
    pub referencing_tables: Vec<String>,
    /// The triggers on the store's tables, which this crate did not make.
    pub triggers: Vec<String>,
}

/// How a file is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CompactMode {
    /// Releases free pages in batches, between which other connections can write. For files with
    /// `auto_vacuum = INCREMENTAL`.
    Incremental,
    /// Rewrites the file (`VACUUM`). Other writers wait until it is done. It needs free disk space
    /// up to twice the size of the file: for a temporary copy, in the folder of `TMPDIR` or
    /// `/var/tmp`, and for the write-ahead log. The row ids of other tables without an `INTEGER
    /// PRIMARY KEY` may change.
    Full,
}

/// The sessions of a restored copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The number of live sessions in the copy.
    pub live: u64,
    /// Whether these sessions were ended, so that the restored database has none.
    pub ended: bool,
}
