//! Checks of the host: the file's permissions, free disk space, the kind of file system.

use std::ffi::OsStr;
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

/// Returns whether this kind of file system is a network file system.
pub(crate) fn is_network(kind: &str) -> bool {
    NETWORK.contains(&kind)
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
        let path = with_suffix(&info.path, suffix);
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
        let path = with_suffix(path, suffix);
        (file_id(&path), path)
    });
    let database = file_id(path);
    let own = std::process::id();
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| {
        let folder = PathBuf::from(format!("/proc/{id}"));
        let (mut has_database, mut has_file, mut is_outdated) = (id == own, false, false);
        for open in fs::read_dir(folder.join("fd")).into_iter().flatten().flatten() {
            let Ok(link) = fs::read_link(open.path()) else { continue };
            let link = link.as_os_str().as_bytes();
            let link =
                Path::new(OsStr::from_bytes(link.strip_suffix(b" (deleted)").unwrap_or(link)));
            let opened = file_id(&open.path());
            has_database |= opened == database && database.is_some();
            if let Some((file, _)) = files.iter().find(|(_, path)| path == link) {
                has_file = true;
                is_outdated |= opened != *file;
            }
        }
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        (has_database || has_file).then(|| Process {
            id,
            name: name.trim_end().to_owned(),
            // With its log open a process has the database open too, maybe under a new name.
            is_outdated: is_outdated || !has_database,
            max_file_bytes: max_file_bytes(&folder),
        })
    })
    .collect()
}

/// Returns which other processes have the database at `path` or its log open, if there is no file
/// at the path.
pub(crate) fn deleted_while_open(path: &Path) -> Option<String> {
    if fs::exists(path).unwrap_or(true) {
        return None;
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or(Path::new("."))).ok()?;
    let path = folder.join(path.file_name()?);
    let own = std::process::id();
    let open = processes(&path).into_iter().filter(|process| process.id != own);
    let names: Vec<_> = open.map(|it| format!("{} (process {})", it.name, it.id)).collect();
    let named = || format!("{} is missing, and open in {}", path.display(), names.join(", "));
    (!names.is_empty()).then(named)
}

/// Returns the device and inode number of a file.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.to_owned().into_os_string();
    path.push(suffix);
    path.into()
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
    fn network_file_systems_are_known_by_their_kind() {
        assert!(is_network("nfs4") && is_network("fuse.sshfs") && !is_network("ext4"));
    }
}
