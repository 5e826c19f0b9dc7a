//! Reads the header of SQLite's wal-index, the memory shared by all processes that have the
//! database open. Invariants: equal headers mean the same state of the database, because each
//! commit of any process changes the header. A file is opened at most once per process, and closed
//! only when it was deleted and no [`WalIndex`] refers to it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::sync::IgnorePoison;

/// The size of the header, of which there are two copies.
const HEADER_BYTES: usize = 48;

/// The version of the format that is known.
const FORMAT_VERSION: u32 = 3_007_000;

/// A copy of the header, which identifies the state of the database: as long as there is a log, no
/// two states have the same header.
///
/// The layout is SQLite's "WAL-index header" (<https://www.sqlite.org/walformat.html>, section
/// 2.1): two copies of 48 bytes each, in native byte order; writers write the second copy first. A
/// copy is kept here as its twelve numbers. Those with a method are used; the others, such as the
/// running checksum of the log, only distinguish states.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Header([u32; HEADER_BYTES / 4]);

impl Header {
    /// Reads a header; `None` during an update by a writer, and for invalid content.
    fn read_from(bytes: &[u8; 2 * HEADER_BYTES]) -> Option<Self> {
        let (first, second) = bytes.split_at(HEADER_BYTES);
        let (numbers, _) = first.as_chunks::<4>();
        let header = Header(<[[u8; 4]; _]>::try_from(numbers).ok()?.map(u32::from_ne_bytes));
        // The salts are zero before the first write to the log.
        let has_log = header.salts() != (0, 0);
        (first == second && header.is_known() && has_log).then_some(header)
    }

    fn is_known(&self) -> bool {
        let [is_initialised, ..] = self.0[3].to_ne_bytes();
        self.0[0] == FORMAT_VERSION && is_initialised == 1
    }

    /// Returns the number of transactions.
    fn commits(&self) -> u32 {
        self.0[2]
    }

    /// Returns the number of frames in the log.
    fn frames(&self) -> u32 {
        self.0[4]
    }

    /// Returns the two salts of the log. Each restart of the log increments the first; the second
    /// is random.
    fn salts(&self) -> (u32, u32) {
        // Big-endian on every machine, as in the log itself.
        (self.0[8].to_be(), self.0[9].to_be())
    }

    /// Returns whether exactly one commit leads from `before` to `self`, after which the log has
    /// `frames` frames.
    fn follows(&self, before: &Header, frames: u32) -> bool {
        let (old, new) = (before.salts(), self.salts());
        let appended = new == old && before.frames() < frames;
        let restarted = new.0 == old.0.wrapping_add(1);
        self.commits() == before.commits().wrapping_add(1)
            && self.frames() == frames
            && (appended || restarted)
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header(commit {}, {} frames)", self.commits(), self.frames())
    }
}

/// What the header says about a transaction of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderChange {
    /// The transaction wrote nothing, and no other one did.
    NothingWritten,
    /// The transaction's commit was the only one.
    OurCommit,
    /// The transaction wrote to the log, but the header seems unchanged: what is read is not what
    /// SQLite writes through its memory map.
    Incoherent,
    /// There may have been other commits.
    Unknown,
}

impl HeaderChange {
    /// Compares the headers before and after a transaction, after which the log has `frames`
    /// frames; `None` if it wrote none.
    pub(super) fn between(
        before: Option<Header>,
        after: Option<Header>,
        frames: Option<u32>,
    ) -> Self {
        match (before, after, frames) {
            (Some(before), Some(after), None) if before == after => HeaderChange::NothingWritten,
            (Some(before), Some(after), Some(_)) if before == after => HeaderChange::Incoherent,
            (Some(before), Some(after), Some(frames)) if after.follows(&before, frames) => {
                HeaderChange::OurCommit
            }
            _ => HeaderChange::Unknown,
        }
    }
}

/// The wal-index of one database, opened for reading.
#[derive(Debug)]
pub(super) struct WalIndex(Arc<File>);

impl WalIndex {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        open_once(path).map(WalIndex)
    }

    pub(super) fn read(&self) -> Option<Header> {
        let mut bytes = [0; 2 * HEADER_BYTES];
        self.0.read_exact_at(&mut bytes, 0).ok()?;
        Header::read_from(&bytes)
    }
}

impl Drop for WalIndex {
    fn drop(&mut self) {
        let mut open = OPEN.lock().ignore_poison();
        // `self.0` is dropped after this, so it still counts as a handle.
        open.retain(|file| {
            Arc::strong_count(file) > 1 + usize::from(Arc::ptr_eq(file, &self.0)) || has_name(file)
        });
    }
}

/// wal-index files, each opened at most once per process.
///
/// Closing a file drops all locks of the process on it, even those taken through other handles. So
/// a file is not closed while SQLite may use it, for another store or for the application. SQLite
/// deletes the file when no process uses it any more.
static OPEN: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());

fn has_name(file: &File) -> bool {
    // If the check fails, the file may be in use.
    file.metadata().map_or(true, |file| file.nlink() > 0)
}

fn open_once(path: &Path) -> io::Result<Arc<File>> {
    let mut open = OPEN.lock().ignore_poison();
    let wanted = fs::metadata(path)?;
    let is_wanted = |file: &&Arc<File>| {
        let same = |have: fs::Metadata| (have.dev(), have.ino()) == (wanted.dev(), wanted.ino());
        file.metadata().is_ok_and(same)
    };
    if let Some(file) = open.iter().find(is_wanted) {
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
        fn index(&self) -> WalIndex {
            WalIndex::open(&self.folder.path().join("a.db-shm")).unwrap()
        }
    }

    #[test]
    fn every_commit_and_no_read_changes_the_header() {
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
    fn the_change_of_the_header_tells_whose_commits_there_were() {
        let header = |commits: u32, frames: u32| {
            Some(Header([0, 0, commits, 0, frames, 0, 0, 0, 0, 0, 0, 0]))
        };
        let before = header(7, 20);
        for (before, after, frames, expected) in [
            (before, before, None, HeaderChange::NothingWritten),
            (before, before, Some(22), HeaderChange::Incoherent),
            (before, header(8, 22), Some(22), HeaderChange::OurCommit),
            (before, header(8, 22), None, HeaderChange::Unknown),
            (before, header(8, 23), Some(22), HeaderChange::Unknown),
            (before, header(9, 22), Some(22), HeaderChange::Unknown),
            (before, None, Some(22), HeaderChange::Unknown),
            (None, before, Some(22), HeaderChange::Unknown),
            (None, None, None, HeaderChange::Unknown),
            (None, None, Some(22), HeaderChange::Unknown),
        ] {
            let change = HeaderChange::between(before, after, frames);
            assert_eq!(change, expected, "{before:?} {after:?} {frames:?}");
        }
    }

    #[test]
    fn one_commit_follows_and_two_do_not_even_after_a_restart() {
        let database = database();
        let index = database.index();
        let frames = |index: &WalIndex| index.read().unwrap().frames();
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
    fn a_half_written_or_invalid_header_is_not_read() {
        let database = database();
        let good = fs::read(database.folder.path().join("a.db-shm")).unwrap();
        let good: [u8; 2 * HEADER_BYTES] = *good.first_chunk().unwrap();
        assert!(Header::read_from(&good).is_some());
        for (offset, byte) in [(20, 0xff), (70, 0xff), (0, 0), (12, 0)] {
            let mut bad = good;
            bad[offset] = byte;
            assert_eq!(Header::read_from(&bad), None, "{offset}");
        }
        let mut newer = good;
        for copy in [0, HEADER_BYTES] {
            newer[copy] = newer[copy].wrapping_add(1);
        }
        assert_eq!(Header::read_from(&newer), None);
    }

    #[test]
    fn dropping_the_index_drops_no_lock_of_sqlite() {
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
        assert!(!is_open(), "a deleted file has no locks");
    }
}
