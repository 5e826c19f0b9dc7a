//! What the operating system knows of the file: permissions, room, the file system.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Kinds of file systems on which another machine's locks are not, or not surely, seen.
const NETWORK: [&str; 17] = [
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
];

/// Bytes that this user can still write beside `path`.
pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    let folder = rustix::fs::statvfs(path)?;
    Ok(folder.f_bavail.saturating_mul(folder.f_frsize))
}

/// The kind of file system that `path` is on, where the operating system lists what is mounted.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    kind_of_mount(&mounts, path)
}

/// Whether that kind is a network's.
pub(super) fn is_network(kind: &str) -> bool {
    NETWORK.contains(&kind)
}

fn kind_of_mount(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(PathBuf, &str)> = None;
    for line in mounts.lines() {
        // Fields up to a lone dash are many; the kind follows it.
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let Some(point) = before.split(' ').nth(4).map(unescape) else { continue };
        let Some(kind) = after.split(' ').next() else { continue };
        let deeper = best.as_ref().is_none_or(|(best, _)| {
            // What was mounted later on the same place hides what was there.
            point.components().count() >= best.components().count()
        });
        if path.starts_with(&point) && deeper {
            best = Some((point, kind));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

/// Spaces and the like stand in the list as a backslash and three octal digits.
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

/// What is wrong with who may do what, for the file, what stands beside it, and its folder.
pub(super) fn permissions(path: &Path) -> Vec<String> {
    let mut wrong = Vec::new();
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let path = PathBuf::from(name);
        let Ok(file) = fs::metadata(&path) else { continue };
        if file.mode() & 0o077 != 0 {
            let mode = file.mode() & 0o777;
            wrong.push(format!("others may use {} (mode {mode:03o})", path.display()));
        }
        // Root may write everything, which says nothing about the service.
        let me = rustix::process::geteuid();
        if !me.is_root() && file.uid() != me.as_raw() {
            wrong.push(format!("{} belongs to another user", path.display()));
        }
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    if let Ok(facts) = fs::metadata(folder) {
        // With the sticky bit nobody can replace a file of somebody else.
        if facts.mode() & 0o002 != 0 && facts.mode() & 0o1000 == 0 {
            wrong.push(format!("anyone may replace files in {}", folder.display()));
        }
    }
    wrong
}

/// Files beside the database that a restore had not finished when it was killed.
pub(super) fn unfinished(path: &Path) -> Vec<PathBuf> {
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
    fn the_deepest_mount_tells_the_kind_of_file_system() {
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
