//! The paths of the files beside a database, and of its folder.

use std::path::{Path, PathBuf};

/// The suffixes of the database and the files that SQLite keeps beside it.
pub(crate) const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Returns the path with `suffix` added to the name of the file.
#[must_use]
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns the folder that contains `path`.
#[must_use]
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
