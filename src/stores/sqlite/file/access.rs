//! Says why this process may not use a file: its owner and mode, those of its folder, and the own
//! user.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::stores::sqlite::error::{NotOpened, OpenFailure, SqliteError};
use crate::stores::sqlite::file::mount::mount;
use crate::stores::sqlite::file::paths::{SUFFIXES, folder, with_suffix};

/// Adds to an error of opening the database at `path` what this process may not do there. An error
/// that has another reason stays as it is.
pub(crate) fn explain(error: Error, path: &Path) -> Error {
    let is_unexplained =
        error.cause().is_none_or(|cause| cause.is::<io::Error>() || cause.is::<SqliteError>());
    if !matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::Unavailable) || !is_unexplained {
        return error;
    }
    if let Some(why) = describe_irregular(path) {
        let operation = error.operation().to_owned();
        return Error::with_source(ErrorKind::Unavailable, operation, why);
    }
    if mount(path).is_some_and(|mount| mount.is_read_only) {
        let failure = OpenFailure::ReadOnlyFileSystem;
        let why = NotOpened::new(failure, "its file system is mounted read-only");
        return Error::with_source(ErrorKind::ReadOnly, error.operation().to_owned(), why);
    }
    let (kind, why) = if let Some(why) = why_denied(path) {
        (ErrorKind::ReadOnly, why)
    } else if error.kind() == ErrorKind::Unavailable {
        // A folder can be opened without an effect on the locks of the database. Its error can be
        // a limit of this process.
        let folder = folder(path);
        match File::open(folder) {
            Err(source) => {
                (ErrorKind::Unavailable, format!("the folder {}: {source}", folder.display()))
            }
            Ok(_) => return error,
        }
    } else {
        return error;
    };
    Error::with_source(kind, error.operation().to_owned(), why)
}

/// Returns why this process may not use the database at `path`, if it may not.
pub(crate) fn why_denied(path: &Path) -> Option<String> {
    let user = Credentials::current()?;
    let denied = list_denied(&user, path);
    (!denied.is_empty())
        .then(|| format!("permission denied to {}: {}", user_name(user.uid), denied.join("; ")))
}

/// Returns what is in the place of the database or of a file beside it, and is no file.
pub(crate) fn describe_irregular(path: &Path) -> Option<String> {
    SUFFIXES.iter().find_map(|suffix| {
        let name = with_suffix(path, suffix);
        let found = fs::metadata(&name).ok().filter(|found| !found.is_file())?;
        let what = if found.is_dir() { "a folder" } else { "not a regular file" };
        Some(match *suffix {
            "" => format!("it is {what}"),
            _ => format!("{} is {what}", name.display()),
        })
    })
}

/// Returns what is in the way of this user, one entry for each file or folder.
fn list_denied(user: &Credentials, path: &Path) -> Vec<String> {
    let mut denied = Vec::new();
    for name in SUFFIXES.map(|suffix| with_suffix(path, suffix)) {
        match fs::metadata(&name) {
            Ok(found) if !user.may(&found, 0o6) => denied.push(describe_owner(&name, &found)),
            _ => {}
        }
    }
    // From the folder upwards to the first that can be searched.
    for (distance, folder) in path.ancestors().skip(1).enumerate() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let needed = if distance == 0 { 0o3 } else { 0o1 };
        match fs::metadata(folder) {
            Ok(found) if !user.may(&found, needed) => {
                denied.push(format!("the folder {}", describe_owner(folder, &found)));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            _ => {}
        }
        break;
    }
    denied
}

fn describe_owner(path: &Path, found: &Metadata) -> String {
    let owner = user_name(found.uid());
    let mode = found.mode() & 0o7777;
    format!("{} belongs to {owner} and has mode {mode:03o}", path.display())
}

/// Returns the name of the user who owns a file or folder; empty if that is unknown.
pub(crate) fn owner_name(path: &Path) -> String {
    fs::metadata(path).map(|found| user_name(found.uid())).unwrap_or_default()
}

/// The effective user and the groups of this process.
struct Credentials {
    uid: u32,
    groups: Vec<u32>,
}

impl Credentials {
    /// Returns `None` where the operating system has no `/proc`.
    fn current() -> Option<Self> {
        let status = fs::read_to_string("/proc/thread-self/status").ok()?;
        let numbers = |name: &str| -> Option<Vec<u32>> {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
        };
        // The second number is the effective one.
        let effective = |name| numbers(name)?.get(1).copied();
        let mut groups = numbers("Groups:")?;
        groups.push(effective("Gid:")?);
        Some(Credentials { uid: effective("Uid:")?, groups })
    }

    /// Returns whether the mode grants this user all bits of `needed`, as in one digit of a mode.
    fn may(&self, found: &Metadata, needed: u32) -> bool {
        let shift = match self.uid {
            0 => return true,
            uid if uid == found.uid() => 6,
            _ if self.groups.contains(&found.gid()) => 3,
            _ => 0,
        };
        (found.mode() >> shift) & needed == needed
    }
}

/// Returns the name of a user of this machine, or its number.
fn user_name(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let number = uid.to_string();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    name.unwrap_or(format!("user {number}"))
}
