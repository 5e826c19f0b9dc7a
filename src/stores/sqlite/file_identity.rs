//! Detects that the database file or its log was deleted or replaced while it is open.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};

/// The paths of the database and its log, with the inode numbers that they had when they were
/// opened.
///
/// An open file can still be written after it was deleted or replaced, but acknowledged commits are
/// lost when it is closed. SQLite itself checks for this only under a rollback journal.
#[derive(Debug)]
pub(super) struct FileIdentity {
    files: Vec<(PathBuf, u64)>,
    /// The folder of the files. It changes with every name in it, and reading its timestamps takes
    /// a fifth of the time of looking the names up.
    folder: Option<File>,
    /// The last successful check of the names.
    last_check: Mutex<Option<Checked>>,
    events: Events,
    /// Whether [`Event::FileMoved`] was raised since the last [`Event::FileRecovered`].
    reported: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Checked {
    at: Instant,
    folder: Stamps,
}

/// The folder's modification time, which programs can set, and its change time (seconds,
/// nanoseconds), which they cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamps {
    modified: SystemTime,
    changed: (i64, i64),
}

/// How old a folder's timestamp must be to be trusted. Timestamps have the resolution of the
/// kernel's tick, a few milliseconds, so a folder that changed just now may change again without a
/// new timestamp.
const TICK: Duration = Duration::from_secs(1);

/// How often the names are checked even if the folder has not changed: a parent folder may be
/// moved.
const RECHECK: Duration = Duration::from_secs(1);

impl FileIdentity {
    /// Records the inode numbers of these files. Files that do not exist are ignored.
    pub(super) fn of(paths: Vec<PathBuf>, events: Events) -> Self {
        let known = |path: PathBuf| Some((fs::metadata(&path).ok()?.ino(), path));
        let folder = paths.first().and_then(|path| File::open(path.parent()?).ok());
        let files = paths.into_iter().filter_map(known).map(|(number, path)| (path, number));
        let (files, reported) = (files.collect(), AtomicBool::new(false));
        FileIdentity { files, folder, last_check: Mutex::default(), events, reported }
    }

    fn stamps(&self) -> Option<Stamps> {
        let folder = self.folder.as_ref()?.metadata().ok()?;
        let changed = (folder.ctime(), folder.ctime_nsec());
        Some(Stamps { modified: folder.modified().ok()?, changed })
    }

    /// Like [`check`](Self::check), but skips the check for at most a second while the folder has
    /// not changed.
    pub(super) fn check_if_changed(&self) -> Result<()> {
        let before = self.stamps();
        let last_check = *self.last_check.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = |checked: &Checked| before == Some(checked.folder);
        if last_check.filter(unchanged).is_some_and(|last| last.at.elapsed() < RECHECK) {
            return Ok(());
        }
        let found = self.check();
        let settled = |folder: &Stamps| folder.modified.elapsed().is_ok_and(|since| since >= TICK);
        let checked = before.filter(|folder| found.is_ok() && settled(folder));
        *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) =
            checked.map(|folder| Checked { at: Instant::now(), folder });
        found
    }

    /// Fails with [`ErrorKind::Unavailable`] when a path names another file than the open one, or
    /// none.
    pub(super) fn check(&self) -> Result<()> {
        let moved = self.files.iter().find(|(path, number)| is_moved(path, *number));
        if moved.is_some() != self.reported.load(Ordering::Relaxed)
            && moved.is_some() != self.reported.swap(moved.is_some(), Ordering::Relaxed)
        {
            self.events.raise(&match moved {
                Some((path, _)) => Event::FileMoved { path },
                None => Event::FileRecovered,
            });
        }
        let Some((path, _)) = moved else { return Ok(()) };
        let why = "it was deleted or replaced while it was open; put it back, or stop the program, \
                   remove what -wal and -shm are left beside the new file, and start it again";
        Err(Error::with_source(ErrorKind::Unavailable, format!("find {}", path.display()), why))
    }
}

/// Compares the inode number alone, as SQLite does: the device number can change while a file
/// stays.
fn is_moved(path: &Path, number: u64) -> bool {
    match fs::metadata(path) {
        Ok(found) => found.ino() != number,
        // After any other error the file may still be there.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
