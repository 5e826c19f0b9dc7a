//! The processes that have the database open, and whether they use another file than the commands.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cloakroom::stores::sqlite::shared::{folder, with_suffix};

/// The remedy for a SQLite database that was deleted or replaced while a process has it open.
const DELETED: &str = "do not stop the program yet, and keep -wal: see \"A deleted database\" in \
                       docs/rescue.md";

/// The remedy for a SQLite database that a process has open by another name.
const OTHER_NAME: &str = "use that name, in its container if it has one, or stop the program and \
                          leave one name: see \"A second name\" in docs/rescue.md";

/// A process that has the database open, or had.
pub(crate) struct ProcessInfo {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// The number of its effective user, if it is known.
    pub(crate) user: Option<u32>,
    /// Whether it has the database or its log open, and another file is in its place now.
    has_replaced_file: bool,
    /// Another name by which it has the database open, with a log of its own.
    other_name: Option<PathBuf>,
    /// The size that its files may have, if there is a limit.
    pub(crate) max_file_bytes: Option<u64>,
}

/// A file that a process has open.
struct OpenFile {
    /// The path by which it was opened. Another file may be there now.
    opened_as: PathBuf,
    id: Option<(u64, u64)>,
}

impl ProcessInfo {
    /// Returns whether it is this process.
    pub(crate) fn is_own(&self) -> bool {
        self.id == std::process::id()
    }
}

impl fmt::Display for ProcessInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.id)
    }
}

/// Returns this process, and the others that have the database at `path` open, as far as this user
/// may see them.
pub(crate) fn processes(path: &Path) -> Vec<ProcessInfo> {
    let path = &resolved(path).unwrap_or(path.to_owned());
    // A process can look outdated for a moment: while it opens or closes the database, and as the
    // child of another one, whose files it has open until it executes its program.
    for pause in [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(200)] {
        let found = list(path);
        if !found.iter().any(|process| process.has_replaced_file || process.other_name.is_some()) {
            return found;
        }
        thread::sleep(pause);
    }
    list(path)
}

fn list(path: &Path) -> Vec<ProcessInfo> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter_map(|id| process(id, path)).collect()
}

fn process(id: u32, path: &Path) -> Option<ProcessInfo> {
    let folder = PathBuf::from(format!("/proc/{id}"));
    let database = file_id(path);
    let log = with_suffix(path, "-wal");
    // In a container the same path can be in another folder.
    let parent_in_process = path.parent().and_then(|parent| {
        file_id(&folder.join("root").join(parent.strip_prefix("/").unwrap_or(parent)))
    });
    let has_same_paths =
        parent_in_process.is_none() || parent_in_process == path.parent().and_then(file_id);
    let descriptors = fs::read_dir(folder.join("fd")).into_iter().flatten().flatten();
    let open_files: Vec<_> = descriptors
        .filter_map(|descriptor| {
            let link = fs::read_link(descriptor.path()).ok()?.into_os_string();
            let link = link.as_bytes();
            let path = OsStr::from_bytes(link.strip_suffix(b" (deleted)").unwrap_or(link));
            Some(OpenFile { opened_as: path.into(), id: file_id(&descriptor.path()) })
        })
        .collect();
    let has_our_path =
        |open: &&OpenFile| has_same_paths && (open.opened_as == path || open.opened_as == log);
    let is_database = |open: &OpenFile| open.id.is_some() && open.id == database;
    let has_database = id == std::process::id() || open_files.iter().any(is_database);
    if !has_database && !open_files.iter().any(|open| has_our_path(&open)) {
        return None;
    }
    // With its log open a process has the database open too, maybe under a new name.
    let has_replaced_file = !has_database
        || open_files.iter().filter(has_our_path).any(|open| open.id != file_id(&open.opened_as));
    let has_own_log = |path: &Path| {
        let own_log = with_suffix(path, "-wal");
        open_files.iter().any(|open| open.opened_as == own_log && open.id != file_id(&log))
    };
    let others = open_files.iter().filter(|open| is_database(open) && !has_our_path(open));
    let other_name = others.map(|open| open.opened_as.clone()).find(|path| has_own_log(path));
    let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
    let name = name.trim_end().to_owned();
    let user = user(&folder);
    let max_file_bytes = max_file_bytes(&folder);
    Some(ProcessInfo { id, name, user, has_replaced_file, other_name, max_file_bytes })
}

/// Returns why the file at `path` is not what one of these processes uses, and the remedy: it was
/// deleted, moved or replaced, or the process has it open by another name.
pub(crate) fn other_file_in_use(
    path: &Path,
    processes: &[ProcessInfo],
) -> Option<(String, &'static str)> {
    let path = resolved(path)?;
    let holders = processes.iter().filter(|process| process.has_replaced_file);
    let names: Vec<_> = holders.map(|process| process.to_string()).collect();
    let exists = fs::exists(&path).unwrap_or(true);
    let path = path.display();
    if !names.is_empty() {
        let verb = if names.len() == 1 { "has" } else { "have" };
        let names = names.join(", ");
        let found = if exists {
            format!("{path}: {names} {verb} a file open that was deleted, moved or replaced")
        } else {
            format!("{path} is missing, and open in {names}")
        };
        return Some((found, DELETED));
    }
    let (process, other) =
        processes.iter().find_map(|process| Some((process, process.other_name.as_ref()?)))?;
    let other = other.display();
    let found = format!(
        "{path}: {process} uses it by another name or mount, {other}, with a log of its own"
    );
    Some((found, OTHER_NAME))
}

/// Returns the device and inode number of a file.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn user(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    // The second is the effective one.
    ids.split_whitespace().nth(1)?.parse().ok()
}

fn max_file_bytes(process: &Path) -> Option<u64> {
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max file size"))?;
    // "unlimited", or the bytes.
    limit.split_whitespace().next()?.parse().ok()
}

/// Returns the path without links, also of a missing file.
fn resolved(path: &Path) -> Option<PathBuf> {
    if let Ok(path) = fs::canonicalize(path) {
        return Some(path);
    }
    // The target of a link to nothing.
    let path = fs::read_link(path).map_or(path.to_owned(), |target| folder(path).join(target));
    Some(fs::canonicalize(folder(&path)).ok()?.join(path.file_name()?))
}
