//! Paths of the database and of the files beside it.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the folder of a file.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path of a file beside this one, such as its `-wal`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
}

/// Returns the path without links, also of a missing file.
pub(crate) fn resolved(path: &Path) -> Option<PathBuf> {
    if let Ok(path) = fs::canonicalize(path) {
        return Some(path);
    }
    // The target of a link to nothing.
    let path = fs::read_link(path).map_or(path.to_owned(), |target| folder(path).join(target));
    Some(fs::canonicalize(folder(&path)).ok()?.join(path.file_name()?))
}
