//! Whether the names still stand for the files that are open.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};

/// The database and its log, by what they were when they were opened.
///
/// A file that was deleted or replaced can be written to all the same, as long as it is open: what
/// is acknowledged then is lost when it is closed. SQLite looks for that only under a rollback
/// journal.
#[derive(Debug)]
pub(super) struct Names {
    files: Vec<(PathBuf, u64)>,
    /// The folder they are in. It changes with every name in it, and to ask for that takes a
    /// fifth of the time that it takes to look the names up.
    folder: Option<File>,
    /// The last look at the names, when they were where they should be.
    looked: Mutex<Option<Look>>,
    events: Events,
    /// The operator was told.
    moved: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    folder: Stamps,
}

/// When the folder's content changed, which can be set at will, and when anything of it did
/// (seconds, nanoseconds), which cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamps {
    modified: SystemTime,
    changed: (i64, i64),
}

/// A folder that changed less than this ago may change again without showing it: its clock ticks
/// some hundred times a second.
const TICK: Duration = Duration::from_secs(1);

/// Folders above may be moved too, which nothing but a look at the names shows.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Names {
    /// The names of files that are open now; those that stand for nothing are not looked after.
    pub(super) fn of(paths: Vec<PathBuf>, events: Events) -> Self {
        let known = |path: PathBuf| Some((fs::metadata(&path).ok()?.ino(), path));
        let folder = paths.first().and_then(|path| File::open(path.parent()?).ok());
        let files = paths.into_iter().filter_map(known).map(|(number, path)| (path, number));
        let (files, moved) = (files.collect(), AtomicBool::new(false));
        Names { files, folder, looked: Mutex::default(), events, moved }
    }

    fn stamps(&self) -> Option<Stamps> {
        let folder = self.folder.as_ref()?.metadata().ok()?;
        let changed = (folder.ctime(), folder.ctime_nsec());
        Some(Stamps { modified: folder.modified().ok()?, changed })
    }

    /// Fails as [`check`](Self::check) does, which it spares itself where nothing in the folder has
    /// changed since, for at most a second.
    pub(super) fn check_if_changed(&self) -> Result<()> {
        let before = self.stamps();
        let looked = *self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let unchanged = |look: &Look| before == Some(look.folder);
        if looked.filter(unchanged).is_some_and(|look| look.at.elapsed() < LOOK_AGAIN) {
            return Ok(());
        }
        let found = self.check();
        let settled = |folder: &Stamps| folder.modified.elapsed().is_ok_and(|since| since >= TICK);
        let look = before.filter(|folder| found.is_ok() && settled(folder));
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) =
            look.map(|folder| Look { at: Instant::now(), folder });
        found
    }

    /// Fails with [`ErrorKind::Unavailable`] when a name stands for another file, or for none.
    pub(super) fn check(&self) -> Result<()> {
        let moved = self.files.iter().find(|(path, number)| is_moved(path, *number));
        if moved.is_some() != self.moved.load(Ordering::Relaxed)
            && moved.is_some() != self.moved.swap(moved.is_some(), Ordering::Relaxed)
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

/// By its number alone, as SQLite does it: the device's can change while a file stays.
fn is_moved(path: &Path, number: u64) -> bool {
    match fs::metadata(path) {
        Ok(found) => found.ino() != number,
        // What cannot be looked at may be there.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
