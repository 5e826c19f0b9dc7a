//! The file system on which a file is, from the operating system's list of mounts.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::stores::sqlite::file::paths::folder;

/// The mount of a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The kind of the file system, such as `ext4`.
    pub(crate) kind: String,
    pub(crate) is_read_only: bool,
    /// Whether the path itself is mounted.
    pub(crate) is_at_path: bool,
}

/// Returns the mount of an existing file, or of the folder of a missing one, where the operating
/// system lists its mounts.
pub(crate) fn mount(path: &Path) -> Option<Mount> {
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
