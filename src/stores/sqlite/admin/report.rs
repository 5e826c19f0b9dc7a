//! What operators' calls take and return.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{PublicId, Realm};
use crate::list::Summary;
use crate::record::Record;

/// The progress of a long call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The number of pages or rows done.
    pub done: u64,
    /// The total number of pages or rows; 0 if unknown.
    pub total: u64,
}

/// A callback that a long call runs repeatedly. [`ControlFlow::Break`] cancels the call.
pub type ProgressFn = Box<dyn FnMut(Progress) -> ControlFlow<()> + Send>;

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
    /// Rewrites the file (`VACUUM`). Other writers wait until it is done. It needs as much free
    /// disk space as the file has, most of it for the write-ahead log. The row ids of other tables
    /// without an `INTEGER PRIMARY KEY` may change.
    Full,
}

/// The sessions of a restored copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The number of live sessions in the copy.
    pub live: u64,
    /// Whether they were ended, so that the restored database has none.
    pub ended: bool,
}

/// A session found by its public id.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionDetails {
    /// The summary, as in a list.
    pub summary: Summary,
    /// The whole session with its data, if it is decodable.
    pub record: Result<Record>,
}

/// The result of a scan of all sessions.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ScanReport {
    /// The number of sessions, expired ones included.
    pub sessions: u64,
    /// The number of decodable sessions of each realm.
    pub realms: BTreeMap<Realm, u64>,
    /// The number of undecodable sessions.
    pub undecodable: u64,
    /// The first undecodable sessions, with their errors.
    pub examples: Vec<(PublicId, Error)>,
    /// The latest time at which a session was created or used.
    pub latest: Option<Timestamp>,
}

/// The sizes of sessions' data, estimated from a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataSizes {
    /// The size of the sample, which is spread evenly over all sessions.
    pub sampled: u64,
    /// The average in bytes.
    pub average: u64,
    /// The maximum in bytes.
    pub largest: u64,
}
