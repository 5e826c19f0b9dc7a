//! The header of the index that SQLite keeps in memory shared by all processes on a file: it
//! changes with every commit, whoever commits.
//!
//! The layout is SQLite's "WAL-index header", documented with its file format
//! (<https://www.sqlite.org/walformat.html>, section 2.1): two copies of 48 bytes each, in the
//! machine's byte order, of which the second is written first. Of each: the version of the format
//! at 0, the count of transactions at 8, whether it is initialised at 12, the frames in the log at
//! 16, the running checksum of the log's content at 24, and at 32 the log's two salts, of which the
//! first counts how often it has begun again and the second is random.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

const COPY: usize = 48;
const VERSION: u32 = 3_007_000;

/// What the database contained at one moment, by the header that stood there then. No two states
/// have the same, as long as there was a log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u8; COPY]);

impl Header {
    /// `None` while somebody writes it, and for what is no such header.
    fn read_from(bytes: &[u8; 2 * COPY]) -> Option<Self> {
        let (first, second) = bytes.split_first_chunk::<COPY>()?;
        let header = Header(*first);
        let known = header.number(0) == Some(VERSION) && header.0.get(12) == Some(&1);
        // A log that was never written to has no salts.
        let has_log = header.salts() != Some((0, 0));
        (known && has_log && second == first).then_some(header)
    }

    fn salts(&self) -> Option<(u32, u32)> {
        // These two are big-endian on every machine, as they are in the log.
        Some((self.number(32)?.to_be(), self.number(36)?.to_be()))
    }

    fn number(&self, at: usize) -> Option<u32> {
        let (bytes, _) = self.0.get(at..)?.split_first_chunk::<4>()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    /// Whether `self` is what one commit made of `before`, after which the log had `frames`.
    pub(super) fn follows(&self, before: &Header, frames: u32) -> bool {
        let count = before.number(8).map(|count| count.wrapping_add(1));
        let (Some(old), Some(new)) = (before.salts(), self.salts()) else { return false };
        let goes_on = new == old && before.number(16).is_some_and(|before| before < frames);
        let began_again = new.0 == old.0.wrapping_add(1);
        self.number(8) == count && self.number(16) == Some(frames) && (goes_on || began_again)
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header(commit {:?}, {:?} frames)", self.number(8), self.number(16))
    }
}

/// The shared memory beside one database, open to be read.
#[derive(Debug)]
pub(super) struct Index(Arc<File>);

impl Index {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        kept_open(path).map(Index)
    }

    pub(super) fn read(&self) -> Option<Header> {
        let mut bytes = [0; 2 * COPY];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        Header::read_from(&bytes)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        // This handle is still one.
        open.retain(|file| {
            Arc::strong_count(file) > 1 + usize::from(Arc::ptr_eq(file, &self.0)) || has_name(file)
        });
    }
}

/// Files that SQLite may have locks on, each opened once in the life of the process.
///
/// Closing a file drops all locks that the process has on it, by whichever handle. So none is
/// closed while it may be in use, by another store or by the application itself: SQLite deletes
/// this file when it is not any more, in any process.
static OPEN: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());

fn has_name(file: &File) -> bool {
    // What cannot be looked at may be in use.
    file.metadata().map_or(true, |file| file.nlink() > 0)
}

fn kept_open(path: &Path) -> io::Result<Arc<File>> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|file| Arc::strong_count(file) > 1 || has_name(file));
    let wanted = fs::metadata(path)?;
    let is_it = |file: &&Arc<File>| {
        let same = |have: fs::Metadata| (have.dev(), have.ino()) == (wanted.dev(), wanted.ino());
        file.metadata().is_ok_and(same)
    };
    if let Some(file) = open.iter().find(is_it) {
        return Ok(file.clone());
    }
    let file = Arc::new(File::open(path)?);
    open.push(file.clone());
    Ok(file)
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    struct Database {
        folder: tempfile::TempDir,
        ours: Connection,
    }

    fn database() -> Database {
        let folder = tempfile::tempdir().unwrap();
        let ours = Connection::open(folder.path().join("a.db")).unwrap();
        ours.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (n)").unwrap();
        Database { folder, ours }
    }

    impl Database {
        fn index(&self) -> Index {
            Index::open(&self.folder.path().join("a.db-shm")).unwrap()
        }
    }

    #[test]
    fn every_commit_of_any_connection_changes_the_header_and_reading_does_not() {
        let database = database();
        let index = database.index();
        let other = Connection::open(database.folder.path().join("a.db")).unwrap();
        let mut seen = vec![index.read().unwrap()];
        for connection in [&database.ours, &other, &other, &database.ours] {
            connection.execute_batch("INSERT INTO t VALUES (1)").unwrap();
            let now = index.read().unwrap();
            assert!(!seen.contains(&now));
            connection.query_row("SELECT count(*) FROM t", [], |_| Ok(())).unwrap();
            connection.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
            connection.execute_batch("BEGIN IMMEDIATE; DELETE FROM t; ROLLBACK").unwrap();
            assert_eq!(index.read().unwrap(), now);
            seen.push(now);
        }
    }

    #[test]
    fn one_commit_follows_and_two_do_not_also_when_the_log_begins_again() {
        let database = database();
        let index = database.index();
        let frames = |index: &Index| index.read().unwrap().number(16).unwrap();
        for restart in [false, true] {
            if restart {
                database.ours.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
            }
            let before = index.read().unwrap();
            database.ours.execute_batch("INSERT INTO t VALUES (1)").unwrap();
            let after = index.read().unwrap();
            assert!(after.follows(&before, frames(&index)));
            assert!(!after.follows(&before, frames(&index) + 1));
            database.ours.execute_batch("INSERT INTO t VALUES (1)").unwrap();
            assert!(!index.read().unwrap().follows(&before, frames(&index)));
        }
    }

    #[test]
    fn a_header_that_is_being_written_or_is_none_is_not_read() {
        let database = database();
        let good = fs::read(database.folder.path().join("a.db-shm")).unwrap();
        let good: [u8; 2 * COPY] = *good.first_chunk().unwrap();
        assert!(Header::read_from(&good).is_some());
        for (at, byte) in [(20, 0xff), (70, 0xff), (0, 0), (12, 0)] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(Header::read_from(&bad), None, "{at}");
        }
        let mut newer = good;
        for copy in [0, COPY] {
            newer[copy] = newer[copy].wrapping_add(1);
        }
        assert_eq!(Header::read_from(&newer), None);
    }

    #[test]
    fn letting_go_of_the_index_drops_no_lock_that_sqlite_has() {
        let database = database();
        drop(database.index());
        let again = database.index();
        assert_eq!(Arc::strong_count(&again.0), 2, "it was never closed");
        let path = database.folder.path().join("a.db-shm");
        let is_open = || {
            let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            let mut targets = open.flat_map(|entry| fs::read_link(entry.path()));
            targets.any(|target| target.to_string_lossy().starts_with(&*path.to_string_lossy()))
        };
        drop(database);
        assert!(!path.exists());
        assert!(is_open());
        drop(again);
        assert!(!is_open(), "nobody can have a lock on what has no name");
    }
}
