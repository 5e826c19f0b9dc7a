//! Detects that the database file or its log was deleted, emptied or replaced while it is open, and
//! that the file has a second name.
//!
//! The builder records the files. Called before each write and when a read connection is
//! opened.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::stores::sqlite::file::access::explain;
use crate::stores::sqlite::file::mount::mount;

/// The paths of the database and its log, with the inode numbers that they had when they were
/// opened.
///
/// An open file can still be written after it was deleted or replaced, but acknowledged commits are
/// lost when it is closed. SQLite itself checks for this only under a rollback journal.
#[derive(Debug)]
pub(crate) struct FileIdentity {
    files: Vec<(PathBuf, u64)>,
    events: Events,
    /// Whether [`Event::FileLost`] was raised since the last [`Event::FileRecovered`].
    reported: AtomicBool,
}

impl FileIdentity {
    /// Records the inode numbers of these files, the database first. Files that do not exist are
    /// ignored. Raises [`Event::FileAliased`] for a database with a second name.
    pub(crate) fn of(paths: Vec<PathBuf>, events: Events) -> Self {
        if let Some(path) = paths.first()
            && let Some(reason) = second_name(path)
        {
            events.raise(&Event::FileAliased { path, reason: &reason });
        }
        let known = |path: PathBuf| Some((fs::metadata(&path).ok()?.ino(), path));
        let files = paths.into_iter().filter_map(known).map(|(number, path)| (path, number));
        FileIdentity { files: files.collect(), events, reported: AtomicBool::new(false) }
    }

    /// Adds to an error of opening the database what this process may not do there.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match self.files.first() {
            Some((path, _)) => explain(error, path),
            None => error,
        }
    }

    /// Fails with [`ErrorKind::Unavailable`] when a path names another file than the open one, or
    /// none.
    pub(crate) fn check(&self) -> Result<()> {
        // The database, the first, is never empty; the log can be.
        let is_moved = |(index, (path, inode)): &(usize, &(PathBuf, u64))| match fs::metadata(path)
        {
            // The inode number alone, as SQLite compares: that of the device can change while a
            // file stays.
            Ok(found) => found.ino() != *inode || (*index == 0 && found.len() == 0),
            // After any other error the file may still be there.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let moved = self.files.iter().enumerate().find(is_moved).map(|(_, file)| file);
        if moved.is_some() != self.reported.load(Ordering::Relaxed)
            && moved.is_some() != self.reported.swap(moved.is_some(), Ordering::Relaxed)
        {
            self.events.raise(&match moved {
                Some((path, _)) => Event::FileLost { path },
                None => Event::FileRecovered,
            });
        }
        let Some((path, _)) = moved else { return Ok(()) };
        let why = "it was deleted, emptied or replaced while it was open; do not stop the program \
                   yet, and keep -wal: see \"A deleted database\" in docs/rescue.md";
        Err(Error::with_source(ErrorKind::Unavailable, format!("find {}", path.display()), why))
    }
}

/// Returns why the file at an absolute path without links can have a second name.
pub(crate) fn second_name(path: &Path) -> Option<String> {
    let links = fs::metadata(path).ok().filter(Metadata::is_file)?.nlink();
    if links > 1 {
        return Some(format!("it has {links} hard links"));
    }
    let is_mounted = mount(path).is_some_and(|mount| mount.is_at_path);
    is_mounted.then(|| "it is a mount point: mount its folder instead".to_owned())
}
