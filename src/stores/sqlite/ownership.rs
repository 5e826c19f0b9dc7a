//! Says why this process may not use a file: its owner and mode, those of its folder, and the own
//! user. Gives a file that root creates the owner of its folder.
//!
//! Called by `file`, by the builder and by `admin`.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind};
use crate::stores::sqlite::error::{NotOpened, OpenFailure, SqliteError};

/// Adds to an error of opening the database at `path` what this process may not do there. An error
/// that has another reason stays as it is.
pub(super) fn explain(error: Error, path: &Path) -> Error {
    let is_unexplained =
        error.cause().is_none_or(|cause| cause.is::<io::Error>() || cause.is::<SqliteError>());
    if !matches!(error.kind(), ErrorKind::ReadOnly | ErrorKind::Unavailable) || !is_unexplained {
        return error;
    }
    if let Some(irregular) = irregular(path) {
        let operation = error.operation().to_owned();
        return Error::with_source(ErrorKind::Unavailable, operation, irregular);
    }
    if mount(path).is_some_and(|mount| mount.is_read_only) {
        let failure = OpenFailure::ReadOnlyFileSystem;
        let why = NotOpened::new(failure, "its file system is mounted read-only");
        return Error::with_source(ErrorKind::ReadOnly, error.operation().to_owned(), why);
    }
    let (kind, why) = if let Some(why) = denial(path) {
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
pub(super) fn denial(path: &Path) -> Option<String> {
    let user = Credentials::current()?;
    let denied = denied(&user, path);
    (!denied.is_empty())
        .then(|| format!("permission denied to {}: {}", user_name(user.uid), denied.join("; ")))
}

/// The mount of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The kind of the file system, such as `ext4`.
    pub(super) kind: String,
    pub(super) is_read_only: bool,
    /// Whether the path itself is mounted.
    pub(super) is_at_path: bool,
}

/// Returns the mount of an existing file, or of the folder of a missing one, where the operating
/// system lists its mounts.
pub(super) fn mount(path: &Path) -> Option<Mount> {
    let path = fs::canonicalize(path).or_else(|_| fs::canonicalize(folder(path))).ok()?;
    mount_in(&fs::read("/proc/self/mountinfo").ok()?, &path)
}

fn mount_in(mounts: &[u8], path: &Path) -> Option<Mount> {
    let mut escaped = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => escaped.extend(format!("\\{byte:03o}").into_bytes()),
            _ => escaped.push(*byte),
        }
    }
    let path = Path::new(OsStr::from_bytes(&escaped));
    let of_path = mounts.split(|byte| *byte == b'\n').filter_map(|line| {
        // …, point, options of the mount, …, "-", kind, source, options of the file system
        let mut fields = line.split(|byte| *byte == b' ');
        let point = Path::new(OsStr::from_bytes(fields.nth(4)?));
        let of_mount = fields.next()?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let options = [of_mount, line.rsplit(|byte| *byte == b' ').next()?];
        path.starts_with(point).then_some((point, kind, options))
    });
    // A later mount on the same point hides the earlier one.
    let (point, kind, options) = of_path.max_by_key(|(point, ..)| point.components().count())?;
    Some(Mount {
        kind: String::from_utf8_lossy(kind).into_owned(),
        is_read_only: options
            .iter()
            .any(|all| all.split(|byte| *byte == b',').any(|it| it == b"ro")),
        is_at_path: point == path,
    })
}

/// The suffixes of the database and the files that SQLite keeps beside it.
pub(super) const SUFFIXES: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Returns the path with `suffix` added to the name of the file.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Returns what is in the place of the database or of a file beside it, and is no file.
pub(super) fn irregular(path: &Path) -> Option<String> {
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
fn denied(user: &Credentials, path: &Path) -> Vec<String> {
    let mut denied = Vec::new();
    for name in SUFFIXES.map(|suffix| with_suffix(path, suffix)) {
        match fs::metadata(&name) {
            Ok(found) if !user.may(&found, 0o6) => denied.push(owned(&name, &found)),
            _ => {}
        }
    }
    // From the folder upwards to the first that can be searched.
    for (distance, folder) in path.ancestors().skip(1).enumerate() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let needed = if distance == 0 { 0o3 } else { 0o1 };
        match fs::metadata(folder) {
            Ok(found) if !user.may(&found, needed) => {
                denied.push(format!("the folder {}", owned(folder, &found)));
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            _ => {}
        }
        break;
    }
    denied
}

fn owned(path: &Path, found: &Metadata) -> String {
    let owner = user_name(found.uid());
    let mode = found.mode() & 0o7777;
    format!("{} belongs to {owner} and has mode {mode:03o}", path.display())
}

/// Returns the name of the user who owns a file or folder; empty if that is unknown.
pub(super) fn owner(path: &Path) -> String {
    fs::metadata(path).map(|found| user_name(found.uid())).unwrap_or_default()
}

/// Returns the folder that contains `path`.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_determines_the_kind() {
        let mounts = b"\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /srv rw shared:2 - nfs4 host:/srv rw
31 30 0:31 / /srv/my\\040app rw shared:3 master:1 - xfs /dev/sdb rw
32 22 0:32 / /mnt rw - ext4 /dev/sdc rw
33 22 0:33 / /mnt rw - fuse.sshfs host:/ rw
garbage
";
        let kind = |path: &str| mount_in(mounts, Path::new(path)).unwrap().kind;
        assert_eq!(kind("/var/app.db"), "ext4");
        assert_eq!(kind("/srv/app.db"), "nfs4");
        assert_eq!(kind("/srvx/app.db"), "ext4");
        assert_eq!(kind("/srv/my app/app.db"), "xfs");
        assert_eq!(kind("/mnt/app.db"), "fuse.sshfs");
        assert_eq!(mount_in(b"", Path::new("/")), None);
    }

    #[test]
    fn a_mount_is_read_only_by_its_options_or_its_file_system() {
        for (options, is_read_only) in [
            ("rw,relatime - ext4 /dev/sda1 rw,errors=remount-ro", false),
            ("ro,relatime - ext4 /dev/sda1 rw", true),
            ("rw shared:1 - ext4 /dev/sda1 ro,errors=remount-ro", true),
        ] {
            let mounts = format!("22 1 0:20 / /srv {options}\n");
            let mount = mount_in(mounts.as_bytes(), Path::new("/srv/app.db")).unwrap();
            assert_eq!((mount.is_read_only, mount.is_at_path), (is_read_only, false), "{options}");
        }
    }
}
