//! Checks of the host: the file's permissions, free disk space, the kind of file system.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cloakroom::stores::sqlite::DatabaseInfo;
use cloakroom::stores::sqlite::shared::with_suffix;

use crate::processes::ProcessInfo;

/// Returns the free bytes of the file system of `path`, without those reserved for root, and its
/// size.
pub(crate) fn free_and_all_bytes(path: &Path) -> io::Result<(u64, u64)> {
    let folder = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(folder.f_frsize);
    Ok((bytes(folder.f_bavail), bytes(folder.f_blocks)))
}

/// Returns whether this kind of file system is a network file system, which does not share locks
/// reliably between machines.
pub(crate) fn is_network(kind: &str) -> bool {
    const KINDS: &str = "nfs nfs4 cifs smb3 smbfs 9p afs ceph fuse.ceph fuse.sshfs fuse.glusterfs \
                         glusterfs lustre beegfs gpfs ocfs2 fuse.s3fs fuse.grpcfuse virtiofs";
    KINDS.split(' ').any(|network| network == kind)
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
pub(crate) fn permissions(info: &DatabaseInfo, processes: &[ProcessInfo]) -> Vec<String> {
    let mut wrong = Vec::new();
    let Ok(database) = fs::metadata(&info.path) else { return wrong };
    let files = ["", "-wal", "-shm"].map(|suffix| with_suffix(&info.path, suffix));
    let with_metadata = |path| fs::metadata(&path).ok().map(|file| (path, file));
    let files: Vec<_> = files.into_iter().filter_map(with_metadata).collect();
    let mode = |file: &fs::Metadata| format!("mode {:03o}", file.mode() & 0o777);
    let me = rustix::process::geteuid();
    for (path, file) in &files {
        if file.mode() & 0o077 != 0 {
            wrong.push(format!("other users can access {} ({})", path.display(), mode(file)));
        }
        // Root can write every file, which says nothing about the service.
        if !me.is_root() && file.uid() != me.as_raw() {
            wrong.push(format!("{} belongs to another user", path.display()));
        }
    }
    if database.mode() & 0o600 != 0o600 {
        let mode = mode(&database);
        wrong.push(format!("its owner cannot use {} ({mode})", info.path.display()));
    }
    let folder = info.path.parent().unwrap_or(Path::new("/"));
    let Ok(folder_info) = fs::metadata(folder) else { return wrong };
    let only_owner_creates_files = folder_info.mode() & 0o022 == 0;
    // With the sticky bit only a file's owner can replace it.
    if folder_info.mode() & 0o002 != 0 && folder_info.mode() & 0o1000 == 0 {
        wrong.push(format!("any user can replace files in {}", folder.display()));
    }
    // Root may do everything.
    for process in processes.iter().filter(|process| !process.is_own()) {
        let Some(user) = process.user.filter(|user| *user != 0) else { continue };
        let of_another = files.iter().filter(|(_, file)| file.uid() != user);
        let mut paths: Vec<_> = of_another.map(|(path, _)| path.display().to_string()).collect();
        if folder_info.uid() != user && only_owner_creates_files {
            paths.push(folder.display().to_string());
        }
        if !paths.is_empty() {
            let verb = if paths.len() == 1 { "does" } else { "do" };
            let paths = paths.join(", ");
            wrong.push(format!("{paths} {verb} not belong to user {user}, who runs {process}"));
        }
    }
    let owner = &info.owner;
    let folder_owner = &info.folder_owner;
    let folder = folder.display();
    let is_another = folder_info.uid() != database.uid();
    if is_another && database.uid() == 0 {
        wrong.push(format!(
            "{} belongs to root and its folder to {folder_owner}: a service that runs as \
             {folder_owner} cannot open it",
            info.path.display()
        ));
    } else if is_another && only_owner_creates_files {
        wrong.push(format!(
            "{owner} owns the file and cannot create its -wal and -shm in {folder}, which belongs \
             to {folder_owner}"
        ));
    } else if !is_another && database.uid() != 0 && folder_info.mode() & 0o300 != 0o300 {
        let mode = mode(&folder_info);
        wrong.push(format!("{owner} cannot create -wal and -shm in {folder}, which has {mode}"));
    }
    wrong
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
