//! Creates, checks and opens the database file.

pub(super) mod access;
pub(super) mod identity;
pub(super) mod mount;
pub(super) mod paths;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rusqlite::{Connection, OpenFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::process::Process;
use crate::stores::sqlite::error::{self, During, NotOpened, OpenFailure};
use crate::stores::sqlite::file::access::{describe_irregular, explain, why_denied};
use crate::stores::sqlite::file::paths::{folder, with_suffix};
use crate::sync::IgnorePoison;

/// The purpose of opening a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Writing; creates a missing file.
    Create,
    /// Writing.
    Write,
    /// Reading, even if neither the file nor its folder is writable.
    Read,
}

/// The name and flags with which SQLite opens a file.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// The path, or a URI that contains it.
    name: PathBuf,
    flags: OpenFlags,
}

impl Access {
    /// Makes the access to an existing file, opened for writing if permitted, for use by one thread
    /// at a time.
    pub(super) fn read_write(path: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Access { name: path.to_owned(), flags }
    }

    /// Makes the access to a file that does not change while it is read: SQLite takes no locks and
    /// creates no files beside it.
    fn immutable(path: &Path) -> Self {
        let mut uri = b"file:".to_vec();
        for byte in path.as_os_str().as_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    uri.push(*byte);
                }
                _ => uri.extend(format!("%{byte:02x}").into_bytes()),
            }
        }
        uri.extend(b"?immutable=1");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_URI
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Access { name: OsString::from_vec(uri).into(), flags }
    }

    pub(super) fn is_immutable(&self) -> bool {
        self.flags.contains(OpenFlags::SQLITE_OPEN_URI)
    }

    pub(super) fn name(&self) -> &Path {
        &self.name
    }

    pub(super) fn flags(&self) -> OpenFlags {
        self.flags
    }

    pub(super) fn connect(&self) -> rusqlite::Result<Connection> {
        Connection::open_with_flags(&self.name, self.flags)
    }
}

/// An open database file.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) access: Access,
    /// The absolute path, so that later connections open the same file even if the working
    /// directory changes.
    pub(super) path: PathBuf,
}

/// Rejects paths that cannot name a database file.
pub(super) fn check_path(path: &Path) -> Result<()> {
    let refuse = |why| Err(Error::with_source(ErrorKind::Invalid, operation(path), why));
    if path.as_os_str().is_empty() || path.as_os_str() == ":memory:" {
        return refuse("not a file; for a database in memory use SqliteStore::in_memory");
    }
    // Other libraries take a URI here, which as a path would silently name another file.
    for scheme in ["file:", "sqlite:"] {
        if path.as_os_str().as_bytes().starts_with(scheme.as_bytes()) {
            let why = format!(
                "a URI is not a path: leave `{scheme}` out; for a database in memory use \
                 SqliteStore::in_memory; a file of that name is ./{}",
                path.display()
            );
            return Err(Error::with_source(ErrorKind::Invalid, operation(path), why));
        }
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return refuse("a path has no NUL");
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> Error {
    explain(Error::with_source(kind_of_io(&source), operation(path), source), path)
}

fn operation(path: &Path) -> String {
    format!("open {}", path.display())
}

/// Registers that this process has a database open, until it is dropped.
#[derive(Debug)]
pub(super) struct InUse(Use);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    process: Process,
    /// Device and inode number.
    file: (u64, u64),
}

static IN_USE: Mutex<Vec<Use>> = Mutex::new(Vec::new());

impl InUse {
    pub(super) fn new(path: &Path) -> Result<Self> {
        let file = file_id(path).map_err(|source| io_error(path, source))?;
        let held = Use { process: Process::current(), file };
        in_use().push(held);
        Ok(InUse(held))
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        // An entry inherited by a fork stays for ever: the forked process cannot close the
        // database.
        if !self.0.process.is_current() {
            return;
        }
        let mut all = in_use();
        if let Some(this) = all.iter().position(|other| *other == self.0) {
            all.swap_remove(this);
        }
    }
}

fn in_use() -> MutexGuard<'static, Vec<Use>> {
    IN_USE.lock().ignore_poison()
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Rejects a database that was open in the process from which this one was forked. SQLite tracks
/// its locks per file and process, and would rely on inherited records of locks that the forked
/// process does not hold (<https://www.sqlite.org/howtocorrupt.html>, section 2.6).
pub(super) fn check_inherited(path: &Path) -> Result<()> {
    let file = file_id(path).map_err(|source| io_error(path, source))?;
    match in_use().iter().find(|held| held.file == file && !held.process.is_current()) {
        Some(held) => held.process.check(),
        None => Ok(()),
    }
}

pub(super) fn open(path: &Path, purpose: Purpose) -> Result<Opened> {
    check_path(path)?;
    if let Some(error) = dangling_link(path, purpose) {
        return Err(error);
    }
    if purpose == Purpose::Create {
        refuse_log_of_deleted(path, &operation(path))?;
        create_private(path).map_err(|source| io_error(path, source))?;
    } else if !fs::exists(path).unwrap_or(true) {
        let why = NotOpened::new(OpenFailure::Missing, "there is no such file");
        return Err(Error::with_source(ErrorKind::NotSetUp, operation(path), why));
    }
    let path = fs::canonicalize(path).map_err(|source| io_error(path, source))?;
    refuse_log_of_deleted(&path, &operation(&path))?;
    if purpose != Purpose::Create && is_empty(&path) {
        let why = NotOpened::new(OpenFailure::Empty, "the file is empty");
        return Err(Error::with_source(ErrorKind::NotSetUp, operation(&path), why));
    }
    open_at(&path, purpose).map_err(|error| explain(error, &path))
}

/// Rejects a file that is missing or empty although its write-ahead log has content. SQLite would
/// remove the log, which has the latest changes of the deleted database.
pub(super) fn refuse_log_of_deleted(path: &Path, operation: &str) -> Result<()> {
    // The log is looked at before the file: a process that makes a database begins with the file.
    let log = with_suffix(path, "-wal");
    let has_log = fs::metadata(&log).is_ok_and(|log| log.is_file() && log.len() > 0);
    let state = match fs::exists(path) {
        Ok(false) => "a deleted",
        _ if is_empty(path) => "an emptied",
        _ => return Ok(()),
    };
    if !has_log {
        return Ok(());
    }
    let why = format!(
        "{} exists, the log of {state} database; keep the -wal file; do not run `setup`: see \
         \"The rescue from the log\" in docs/rescue.md",
        log.display()
    );
    Err(Error::with_source(ErrorKind::Invalid, operation.to_owned(), why))
}

fn is_empty(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
}

/// Returns the error for a symbolic link to a file that does not exist. No file is created there,
/// because a link to an unmounted disk looks the same.
pub(super) fn dangling_link(path: &Path, purpose: Purpose) -> Option<Error> {
    let target = fs::read_link(path).ok()?;
    if fs::exists(path).unwrap_or(true) {
        return None;
    }
    let kind = match purpose {
        Purpose::Create => ErrorKind::Unavailable,
        Purpose::Write | Purpose::Read => ErrorKind::NotSetUp,
    };
    let message = format!("it is a link to {}, where there is no file", target.display());
    let why = NotOpened::new(OpenFailure::DanglingLink, message);
    Some(Error::with_source(kind, operation(path), why))
}

/// Opens the file at an absolute path without links.
fn open_at(path: &Path, purpose: Purpose) -> Result<Opened> {
    // SQLite would open some special files.
    if let Some(why) = describe_irregular(path) {
        return Err(Error::with_source(ErrorKind::Unavailable, operation(path), why));
    }
    check_inherited(path)?;
    let access = Access::read_write(path);
    let connection = access.connect().during(operation(path))?;
    // SQLite silently opens a file without write permission read-only.
    let read_only = connection.is_readonly("main").during(operation(path))?;
    if purpose == Purpose::Read {
        return open_to_read(path.to_owned(), connection, read_only);
    }
    if read_only {
        return Err(Error::new(ErrorKind::ReadOnly, operation(path)));
    }
    Ok(Opened { connection, access, path: path.to_owned() })
}

/// Chooses how to read a file that may not be writable, or whose folder may not.
///
/// With a write-ahead log SQLite reads through two files beside the database. If it may not create
/// them, it fails. If it may create them, but as another user than the owner of the database, the
/// files would remain and keep the owner from writing. In these cases the file is opened as
/// immutable if there is no log: then it is complete, and no process has it open. Whether a process
/// begins to write meanwhile is not checked: reading is short, and a process that cannot write the
/// file is not the service. A log without `-shm` is an error, because without the log an old state
/// would appear as the current one.
fn open_to_read(path: PathBuf, connection: Connection, read_only: bool) -> Result<Opened> {
    let access = Access::read_write(&path);
    let shared = sibling_size(&path, "-shm").is_some();
    let logged = sibling_size(&path, "-wal");
    let complete = logged.is_none() || (logged == Some(0) && !shared);
    let makes_files = read_only && !(shared && logged.is_some()) && has_log(&path);
    let read = if makes_files {
        Err(ErrorKind::ReadOnly)
    } else {
        // Only an attempt shows whether the folder is writable.
        let read = connection.query_row("PRAGMA schema_version", [], |_| Ok(()));
        read.map_err(|error| error::kind(&error))
    };
    match read {
        Err(ErrorKind::ReadOnly | ErrorKind::Unavailable) if complete => {
            let access = Access::immutable(&path);
            let connection = access.connect().during(operation(&path))?;
            Ok(Opened { connection, access, path })
        }
        Err(ErrorKind::ReadOnly | ErrorKind::Unavailable) => {
            let mut why = "its newest changes are in the log beside it (-wal), which SQLite can \
                           read only with the file -shm, and that cannot be made or used here"
                .to_owned();
            if let Some(denial) = why_denied(&path) {
                why = format!("{why}: {denial}");
            }
            Err(Error::with_source(ErrorKind::ReadOnly, operation(&path), why))
        }
        // The caller's first read reports any other error.
        Ok(()) | Err(_) => Ok(Opened { connection, access, path }),
    }
}

/// Returns the size of the file `path` with `suffix` added to its name, if it exists.
fn sibling_size(path: &Path, suffix: &str) -> Option<u64> {
    fs::metadata(with_suffix(path, suffix)).ok().map(|file| file.len())
}

/// Returns whether the header says that the database has a write-ahead log. Only for files that
/// this process cannot write, because closing a file drops all locks of the process on it.
fn has_log(path: &Path) -> bool {
    let mut header = [0; 20];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    read.is_ok() && header.get(18..) == Some(&[2, 2])
}

/// Creates a missing file, readable by its owner only. SQLite gives the files beside it the same
/// mode and owner.
fn create_private(path: &Path) -> io::Result<()> {
    // Closing a file drops all locks of the process on it, including SQLite's. So no thread of this
    // process may open the file between its creation and that close.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().ignore_poison();
    match create_new_private(path) {
        Ok(file) => {
            give_to_owner_of_folder(&file, path);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn create_new_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Gives a file that root has just created at `path` the owner of its folder, who is the service's
/// user and could not open it otherwise. Where that is impossible the file stays root's.
///
/// The call acts on the open file: the owner of the folder may have put another in its place.
pub(super) fn give_to_owner_of_folder(file: &File, path: &Path) {
    if let (Ok(folder), Ok(created)) = (fs::metadata(folder(path)), file.metadata())
        && created.uid() == 0
        && folder.uid() != 0
    {
        let _ = fchown(file, Some(folder.uid()), Some(folder.gid()));
    }
}

pub(super) fn kind_of_io(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        _ => ErrorKind::Unavailable,
    }
}
