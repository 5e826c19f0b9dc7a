//! Checks of the host: the file's permissions, free disk space, the kind of file system.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cloakroom::stores::sqlite::admin::DatabaseInfo;

/// Kinds of network file systems, which do not share locks reliably between machines.
const NETWORK: [&str; 19] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "fuse.ceph",
    "fuse.sshfs",
    "fuse.glusterfs",
    "glusterfs",
    "lustre",
    "beegfs",
    "gpfs",
    "ocfs2",
    "fuse.s3fs",
    "fuse.grpcfuse",
    "virtiofs",
];

/// Returns the free bytes of the file system of `path`, without those reserved for root, and its
/// size.
pub(crate) fn free_and_all_bytes(path: &Path) -> io::Result<(u64, u64)> {
    let folder = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(folder.f_frsize);
    Ok((bytes(folder.f_bavail), bytes(folder.f_blocks)))
}

/// Returns the kind of the file system of `path`, where the operating system lists its mounts.
pub(crate) fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    kind_of_mount(&mounts, path)
}

/// Returns whether this kind of file system is a network file system.
pub(crate) fn is_network(kind: &str) -> bool {
    NETWORK.contains(&kind)
}

fn kind_of_mount(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(PathBuf, &str)> = None;
    for line in mounts.lines() {
        // A lone dash ends the variable number of fields before the kind.
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4).map(unescape) else { continue };
        let Some(kind) = after.split(' ').next() else { continue };
        let deeper = best.as_ref().is_none_or(|(best, _)| {
            // A later mount on the same point hides the earlier one.
            point.components().count() >= best.components().count()
        });
        if path.starts_with(&point) && deeper {
            best = Some((point, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Undoes the octal escapes (`\040`) of spaces and the like in the list of mounts.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match (byte, code) {
            (b'\\', Some(code)) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

/// Returns whether this command runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns whether the file belongs to the user of this command.
pub(crate) fn is_owner(path: &Path) -> bool {
    let me = rustix::process::geteuid().as_raw();
    fs::metadata(path).is_ok_and(|file| file.uid() == me)
}

/// Returns the problems with the permissions of the database's files and their folder.
pub(crate) fn permissions(info: &DatabaseInfo) -> Vec<String> {
    let mut wrong = Vec::new();
    let Ok(database) = fs::metadata(&info.path) else { return wrong };
    for suffix in ["", "-wal", "-shm"] {
        let mut path = info.path.clone().into_os_string();
        path.push(suffix);
        let path = PathBuf::from(path);
        let Ok(file) = fs::metadata(&path) else { continue };
        if file.mode() & 0o077 != 0 {
            let mode = file.mode() & 0o777;
            wrong.push(format!("other users can access {} (mode {mode:03o})", path.display()));
        }
        // Root can write every file, which says nothing about the service.
        let me = rustix::process::geteuid();
        if !me.is_root() && file.uid() != me.as_raw() {
            wrong.push(format!("{} belongs to another user", path.display()));
        }
    }
    if database.mode() & 0o600 != 0o600 {
        let mode = database.mode() & 0o777;
        wrong.push(format!("its owner cannot use {} (mode {mode:03o})", info.path.display()));
    }
    let folder = info.path.parent().unwrap_or(Path::new("/"));
    let Ok(folder_info) = fs::metadata(folder) else { return wrong };
    // With the sticky bit only a file's owner can replace it.
    if folder_info.mode() & 0o002 != 0 && folder_info.mode() & 0o1000 == 0 {
        wrong.push(format!("any user can replace files in {}", folder.display()));
    }
    let (owner, folder_owner, folder) = (&info.owner, &info.folder_owner, folder.display());
    let is_another = folder_info.uid() != database.uid();
    if is_another && database.uid() == 0 {
        wrong.push(format!(
            "{} belongs to root and its folder to {folder_owner}: a service that runs as \
             {folder_owner} cannot open it",
            info.path.display()
        ));
    } else if is_another && folder_info.mode() & 0o022 == 0 {
        wrong.push(format!(
            "{owner} owns the file and cannot create its -wal and -shm in {folder}, which belongs \
             to {folder_owner}"
        ));
    } else if !is_another && database.uid() != 0 && folder_info.mode() & 0o300 != 0o300 {
        let mode = folder_info.mode() & 0o777;
        wrong.push(format!(
            "{owner} cannot create -wal and -shm in {folder}, which has mode {mode:03o}"
        ));
    }
    wrong
}

/// A process that has the database open, or had.
pub(crate) struct Process {
    pub(crate) id: u32,
    pub(crate) name: String,
    /// Whether it has the database or its log open, and another file is in its place now.
    pub(crate) is_outdated: bool,
    /// The size that its files may have, if there is a limit.
    pub(crate) max_file_bytes: Option<u64>,
}

/// Returns this process, and the others that have the database at `path` open, as far as this user
/// may see them.
pub(crate) fn processes(path: &Path) -> Vec<Process> {
    let files = ["", "-wal"].map(|suffix| {
        let mut path = path.to_owned().into_os_string();
        path.push(suffix);
        let file = fs::metadata(&path).ok().map(|file| (file.dev(), file.ino()));
        (path, file)
    });
    let database = files.first().and_then(|(_, file)| *file);
    let own = std::process::id();
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| {
        let folder = PathBuf::from(format!("/proc/{id}"));
        let (mut uses, mut has_database, mut is_outdated) = (id == own, id == own, false);
        for open in fs::read_dir(folder.join("fd")).into_iter().flatten().flatten() {
            let Ok(link) = fs::read_link(open.path()) else { continue };
            let link = link.as_os_str().as_bytes();
            let link = link.strip_suffix(b" (deleted)").unwrap_or(link);
            let opened = fs::metadata(open.path()).ok().map(|file| (file.dev(), file.ino()));
            has_database |= opened == database;
            if let Some((_, file)) = files.iter().find(|(path, _)| path.as_bytes() == link) {
                uses = true;
                is_outdated |= opened != *file;
            }
        }
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        uses.then(|| Process {
            id,
            name: name.trim_end().to_owned(),
            // With its log open a process has the database open too, maybe under a new name.
            is_outdated: is_outdated || !has_database,
            max_file_bytes: max_file_bytes(&folder),
        })
    })
    .collect()
}

fn max_file_bytes(process: &Path) -> Option<u64> {
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max file size"))?;
    // "unlimited", or the bytes.
    limit.split_whitespace().next()?.parse().ok()
}

/// Returns the files beside the database that a killed backup or restore has left behind.
pub(crate) fn unfinished(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let begins_and_ends = |entry: &fs::DirEntry| {
        let entry = entry.file_name();
        let rest = entry.as_bytes().strip_prefix(name.as_bytes());
        rest.is_some_and(|rest| rest.starts_with(b".") && rest.ends_with(b".partial"))
    };
    entries.flatten().filter(begins_and_ends).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_determines_the_kind() {
        let mounts = "\
22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /srv rw shared:2 - nfs4 host:/srv rw
31 30 0:31 / /srv/my\\040app rw shared:3 master:1 - xfs /dev/sdb rw
32 22 0:32 / /mnt rw - ext4 /dev/sdc rw
33 22 0:33 / /mnt rw - fuse.sshfs host:/ rw
garbage
";
        let kind = |path: &str| kind_of_mount(mounts, Path::new(path)).unwrap();
        assert_eq!(kind("/var/app.db"), "ext4");
        assert_eq!(kind("/srv/app.db"), "nfs4");
        assert_eq!(kind("/srvx/app.db"), "ext4");
        assert_eq!(kind("/srv/my app/app.db"), "xfs");
        assert_eq!(kind("/mnt/app.db"), "fuse.sshfs");
        assert!(is_network("nfs4") && is_network("fuse.sshfs") && !is_network("ext4"));
        assert_eq!(kind_of_mount("", Path::new("/")), None);
    }
}
