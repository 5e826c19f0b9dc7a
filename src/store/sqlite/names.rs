//! Whether the names still stand for the files that are open.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

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
    events: Events,
    /// The operator was told.
    moved: AtomicBool,
}

impl Names {
    /// The names of files that are open now; those that stand for nothing are not looked after.
    pub(super) fn of(paths: Vec<PathBuf>, events: Events) -> Self {
        let known = |path: PathBuf| Some((fs::metadata(&path).ok()?.ino(), path));
        let files = paths.into_iter().filter_map(known).map(|(number, path)| (path, number));
        Names { files: files.collect(), events, moved: AtomicBool::new(false) }
    }

    /// Fails with [`ErrorKind::Unavailable`] when a name stands for another file, or for none.
    pub(super) fn check(&self) -> Result<()> {
        let moved = self.files.iter().find(|(path, number)| is_moved(path, *number));
        if moved.is_some() != self.moved.load(Ordering::Relaxed)
            && moved.is_some() != self.moved.swap(moved.is_some(), Ordering::Relaxed)
        {
            self.events.raise(&match moved {
                Some((path, _)) => Event::FileMoved { path },
                None => Event::FileBack,
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
