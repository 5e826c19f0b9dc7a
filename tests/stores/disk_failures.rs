//! A disk that is full or read-only, a file that is moved away, locks that must not be lost.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use crate::common::integrity::assert_integrity;
use crate::common::{
    Folder, KillOnDrop, NOW, child, create, end, hex, id_hash_of, live, merge, on_threads, role,
    setting, value,
};
use cloakroom::backend::{CommitAnswer, SessionIndex, Store};
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::SessionIdHash;
use cloakroom::stores::admin::{Admin, ProgressFn};
use cloakroom::stores::sqlite::Journal;
use cloakroom::stores::sqlite::SqliteFile;
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{ErrorKind, Result, SqliteStore};

#[derive(Debug)]
struct Silent;

impl Sink for Silent {
    fn record(&self, _: &Event<'_>) {}
}

fn open(path: &Path) -> (SqliteStore, Events) {
    let events = Events::new(Silent);
    (SqliteStore::builder(path).events(events.clone()).open().unwrap(), events)
}

fn watch() -> ProgressFn {
    Box::new(|_| std::ops::ControlFlow::Continue(()))
}

fn assert_unavailable<T: std::fmt::Debug>(result: Result<T>) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
}

#[test]
fn child_process() {
    let Some(role) = role() else { return };
    let path = std::env::var("DATABASE").unwrap();
    match role.as_str() {
        "fill" => {
            let store = SqliteStore::open(path).unwrap();
            fill_and_go_on(&store, || {
                let ours = std::process::id().to_string();
                let raised =
                    Command::new("prlimit").args(["--pid", &ours, "--fsize=unlimited"]).status();
                assert!(raised.unwrap().success());
            });
        }
        "serve while the disk fails" => {
            let id_hashes = std::env::var("ID_HASHES").unwrap();
            let (ended, id_hash) = id_hashes.split_once(' ').unwrap();
            let store = SqliteStore::open(path).unwrap();
            serve_while_the_disk_fails(&store, &id_hash_of(ended), &id_hash_of(id_hash));
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_replaced_file_is_not_written_to_until_it_is_back() {
    let folder = Folder::new();
    let (store, events) = open(&folder.database());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(live(&store, &id_hash).unwrap().is_some());
    store.file().backup(folder.path("copy.db")).unwrap();
    let copy = fs::read(folder.path("copy.db")).unwrap();

    fs::rename(folder.database(), folder.path("away.db")).unwrap();
    fs::rename(folder.path("copy.db"), folder.database()).unwrap();
    let lost = merge(&store, &id_hash, &setting("n", 2)).unwrap_err().to_string();
    let warning = Event::FileLost { path: &folder.database() }.to_string();
    for words in [
        "was deleted, emptied or replaced while it was open",
        "; do not stop the program yet, and keep -wal: ",
        "see \"A deleted database\" in docs/rescue.md",
    ] {
        assert!(lost.contains(words) && warning.contains(words), "{lost}\n{warning}");
    }
    for _ in 0..3 {
        assert_unavailable(merge(&store, &id_hash, &setting("n", 2)));
        assert_unavailable(end(&store, &id_hash));
        assert_unavailable(store.clear());
    }
    assert!(live(&store, &id_hash).unwrap().is_some(), "reads of what was open go on");
    // No process reads the new file with the old one's log, or copies that log into it.
    let barrier = Barrier::new(4);
    on_threads(4, || {
        barrier.wait();
        for _ in 0..50 {
            let _ = live(&store, &id_hash);
            let _ = store.maintenance().unwrap().run();
        }
    });
    assert_eq!(fs::read(folder.database()).unwrap(), copy, "the new file is as it was");
    assert_eq!(events.count(EventKind::FileLost), 1);

    fs::rename(folder.database(), folder.path("copy.db")).unwrap();
    fs::rename(folder.path("away.db"), folder.database()).unwrap();
    assert!(matches!(
        merge(&store, &id_hash, &setting("n", 3)).unwrap(),
        CommitAnswer::Done { .. }
    ));
    let counts = (events.count(EventKind::FileLost), events.count(EventKind::FileRecovered));
    assert_eq!(counts, (1, 1));
    drop(store);
    let (store, _) = open(&folder.database());
    let record = live(&store, &id_hash).unwrap().unwrap();
    assert_eq!(value::<u32>(&record, "n"), Some(3));
}

#[test]
fn a_file_or_log_that_was_deleted_is_written_to_no_more() {
    for name in ["app.db", "app.db-wal"] {
        let folder = Folder::new();
        let (store, events) = open(&folder.database());
        let id_hash = create(&store, &setting("n", 1)).unwrap();
        fs::remove_file(folder.path(name)).unwrap();
        assert_unavailable(merge(&store, &id_hash, &setting("n", 2)));
        assert_unavailable(create(&store, &setting("n", 2)));
        assert_eq!(events.count(EventKind::FileLost), 1, "{name}");
    }
}

#[test]
fn a_file_that_was_emptied_is_written_to_no_more() {
    let folder = Folder::new();
    let (store, events) = open(&folder.database());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    fs::write(folder.database(), "").unwrap();
    assert_unavailable(merge(&store, &id_hash, &setting("n", 2)));
    assert_eq!(events.count(EventKind::FileLost), 1);
}

/// Nothing has happened in the folder for an hour, by its own account.
fn let_it_rest(folder: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
}

#[test]
fn a_removed_file_in_a_quiet_folder_is_noticed_at_once() {
    for name in ["app.db", "app.db-wal"] {
        let folder = Folder::new();
        let (store, events) = open(&folder.database());
        let id_hash = create(&store, &setting("n", 1)).unwrap();
        let_it_rest(&folder.path(""));
        for n in 0..3 {
            merge(&store, &id_hash, &setting("n", n)).unwrap();
        }
        fs::rename(folder.path(name), folder.path("away")).unwrap();
        assert_unavailable(merge(&store, &id_hash, &setting("n", 4)));
        // However long ago that was.
        let_it_rest(&folder.path(""));
        assert_unavailable(merge(&store, &id_hash, &setting("n", 5)));
        fs::rename(folder.path("away"), folder.path(name)).unwrap();
        merge(&store, &id_hash, &setting("n", 6)).unwrap();
        assert_eq!(events.count(EventKind::FileLost), 1, "{name}");
        assert_eq!(events.count(EventKind::FileRecovered), 1, "{name}");
    }
}

#[test]
fn a_revocation_in_a_moved_folder_is_an_error_at_once() {
    let folder = Folder::new();
    fs::create_dir(folder.path("data")).unwrap();
    let (store, _) = open(&folder.path("data/app.db"));
    let id_hashes = [(); 3].map(|()| create(&store, &setting("n", 1)).unwrap());
    let_it_rest(&folder.path("data"));
    merge(&store, &id_hashes[0], &setting("n", 2)).unwrap();
    fs::rename(folder.path("data"), folder.path("elsewhere")).unwrap();
    assert_unavailable(end(&store, &id_hashes[1]));
    assert_unavailable(store.index().unwrap().revoke_everyone(None, NOW));
    fs::rename(folder.path("elsewhere"), folder.path("data")).unwrap();
    end(&store, &id_hashes[1]).unwrap();
}

#[test]
fn a_program_that_is_started_inherits_no_file_of_the_store() {
    let folder = Folder::new();
    let (store, _) = open(&folder.database());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(live(&store, &id_hash).unwrap().is_some());
    let open_files = |of: &str| -> String {
        let listed = Command::new("ls").args(["-l", of]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap()
    };
    let ours = open_files(&format!("/proc/{}/fd", std::process::id()));
    if ours.is_empty() {
        println!("SKIPPED: no /proc");
        return;
    }
    let name = folder.database().display().to_string();
    assert!(ours.contains(&name), "{ours}");
    let theirs = open_files("/proc/self/fd");
    assert!(!theirs.is_empty() && !theirs.contains(&name), "{theirs}");
}

#[test]
fn no_operator_call_drops_the_locks_of_an_open_store() {
    let folder = Folder::new();
    let (store, _) = open(&folder.database());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    // POSIX drops all locks that a process has on a file when it closes that file anywhere.
    let build = || SqliteStore::builder(folder.database());
    let calls: [(&str, &dyn Fn()); 8] = [
        ("nothing", &|| {}),
        ("open", &|| drop(build().open().unwrap())),
        ("facts", &|| drop(SqliteFile::new(build()).info().unwrap())),
        ("pending", &|| drop(SqliteFile::new(build()).pending_migrations().unwrap())),
        ("check_file", &|| drop(SqliteFile::new(build()).check_file(false, watch()).unwrap())),
        ("backup", &|| {
            let _ = fs::remove_file(folder.path("copy.db"));
            store.file().backup_checked(folder.path("copy.db"), watch()).map(drop).unwrap();
        }),
        ("restore", &|| {
            let restored = SqliteFile::new(build())
                .restore(folder.path("copy.db"), true, NOW, watch())
                .unwrap();
            assert!(restored.is_continue());
        }),
        ("a backup to its own name", &|| drop(store.file().backup(folder.database()).unwrap_err())),
    ];
    let path = fs::canonicalize(folder.database()).unwrap();
    let Ok(_) = fs::read_dir("/proc/self/fdinfo") else {
        println!("SKIPPED: no /proc");
        return;
    };
    let is_locked = || {
        let files = fs::read_dir("/proc/self/fd").unwrap().map(|file| file.unwrap().path());
        let mut ours = files.filter(|file| fs::read_link(file).is_ok_and(|file| file == path));
        ours.any(|file| {
            let number = file.file_name().unwrap().to_str().unwrap();
            let about = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            about.is_ok_and(|about| about.contains("lock:"))
        })
    };
    for (name, call) in calls {
        call();
        assert!(is_locked(), "{name}");
        assert!(live(&store, &id_hash).unwrap().is_some(), "{name}");
    }
    // Closing another descriptor of the file ends the lock, which the calls above avoid.
    drop(fs::File::open(folder.database()).unwrap());
    assert!(!is_locked());
}

/// Fills the disk, makes room, and goes on.
fn fill_and_go_on(store: &SqliteStore, make_room: impl FnOnce()) {
    let note = "x".repeat(2000);
    let mut id_hashes = vec![];
    let error = loop {
        match create(store, &setting("n", &note)) {
            Ok(id_hash) => id_hashes.push(id_hash),
            Err(error) => break error,
        }
        let _ = store.maintenance().unwrap().run();
    };
    // SQLite cannot distinguish a limit on file sizes from a broken disk.
    assert!(matches!(error.kind(), ErrorKind::Full | ErrorKind::Unavailable), "{error:?}");
    assert!(id_hashes.len() > 20, "{}", id_hashes.len());
    for id_hash in &id_hashes {
        assert!(live(store, id_hash).unwrap().is_some(), "nothing acknowledged is lost");
    }
    make_room();
    for id_hash in id_hashes.drain(..10) {
        assert!(matches!(end(store, &id_hash).unwrap(), CommitAnswer::Ended(_)));
        assert!(live(store, &id_hash).unwrap().is_none());
    }
    for id_hash in &id_hashes {
        assert!(live(store, id_hash).unwrap().is_some());
    }
}

#[test]
fn a_file_size_limit_loses_nothing_and_can_be_raised() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("SKIPPED: no prlimit");
        return;
    }
    let folder = Folder::new();
    let program = std::env::current_exe().unwrap();
    // The signal that would end the process is ignored, and that is inherited.
    let script = "trap '' XFSZ; ulimit -S -f 400; exec \"$@\"";
    let mut limited = Command::new("sh");
    limited.args(["-c", script, "sh"]).arg(program);
    limited.args(child(module_path!(), "fill").get_args());
    for (name, value) in child(module_path!(), "fill").get_envs() {
        limited.env(name, value.unwrap());
    }
    let done = limited.env("DATABASE", folder.database()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_integrity(folder.database());
}

/// A small disk of its own, where we may have one.
struct SmallDisk(Folder);

impl SmallDisk {
    fn new() -> Option<Self> {
        let disk = SmallDisk(Folder::new());
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
            .arg(disk.0.path(""))
            .output()
            .is_ok_and(|done| done.status.success());
        if !mounted {
            println!("SKIPPED: mounting a small disk takes root");
        }
        mounted.then_some(disk)
    }

    fn again(&self, how: &str) -> bool {
        let options = format!("remount,{how}");
        let again = Command::new("mount").args(["-o", &options]).arg(self.0.path("")).output();
        again.unwrap().status.success()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path("")).output();
    }
}

#[test]
fn a_full_disk_loses_nothing_and_is_used_again_later() {
    let Some(disk) = SmallDisk::new() else { return };
    let (store, _) = open(&disk.0.database());
    fill_and_go_on(&store, || assert!(disk.again("size=4m")));
    let id_hash = create(&store, &setting("n", "x".repeat(2000))).unwrap();
    drop(store);
    let (store, _) = open(&disk.0.database());
    assert!(live(&store, &id_hash).unwrap().is_some());
    assert_integrity(disk.0.database());
}

#[test]
fn a_disk_that_is_read_only_refuses_to_open_and_nothing_else() {
    let Some(disk) = SmallDisk::new() else { return };
    let (store, _) = open(&disk.0.database());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    drop(store);
    assert!(disk.again("ro"));
    let error = SqliteStore::open(disk.0.database()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error:?}");
    assert!(disk.again("rw"));
    let (store, _) = open(&disk.0.database());
    assert!(live(&store, &id_hash).unwrap().is_some());
}

/// A disk with a file system that goes read-only under its open files once it has met an error.
struct FailingDisk {
    image: Folder,
    mount_point: Folder,
}

impl FailingDisk {
    fn new() -> Option<Self> {
        let disk = FailingDisk { image: Folder::new(), mount_point: Folder::new() };
        let image = disk.image.path("disk");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let made = run(Command::new("mkfs.ext4").arg("-q").arg(image)) && disk.mount();
        let made = made && disk.switch().is_some_and(|switch| switch.exists());
        if !made {
            println!("SKIPPED: a file system of its own takes root, mkfs.ext4 and a loop device");
        }
        made.then_some(disk)
    }

    fn mount(&self) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,errors=remount-ro"]).arg(self.image.path("disk"));
        run(mount.arg(self.mount_point.path("")))
    }

    /// Makes the system report an error on this disk.
    fn switch(&self) -> Option<PathBuf> {
        let mut find = Command::new("findmnt");
        let found = find.args(["-no", "SOURCE"]).arg(self.mount_point.path("")).output().ok()?;
        let device = String::from_utf8(found.stdout).ok()?;
        let name = Path::new(device.trim()).file_name()?.to_owned();
        Some(Path::new("/sys/fs/ext4").join(name).join("trigger_fs_error"))
    }

    /// Returns true if the system refuses writes to open files from here on.
    fn fail(&self) -> bool {
        let mut file = fs::File::create(self.mount_point.path("open")).unwrap();
        fs::write(self.switch().unwrap(), "test").unwrap();
        file.write_all(b"late").is_err()
    }

    fn repair(&self) {
        assert!(
            run(Command::new("umount").arg(self.mount_point.path(""))),
            "no process has a file open"
        );
        // It says 1 when it has mended something.
        let _ = run(Command::new("e2fsck").arg("-p").arg(self.image.path("disk")));
        assert!(self.mount());
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(self.mount_point.path("")));
    }
}

fn run(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}

#[test]
fn a_disk_that_becomes_read_only_keeps_what_must_survive() {
    let Some(disk) = FailingDisk::new() else { return };
    let path = disk.mount_point.database();
    let (store, _) = open(&path);
    let ended = create(&store, &setting("n", 0)).unwrap();
    let id_hash = create(&store, &setting("n", 0)).unwrap();
    drop(store);
    // In a process that ends: a disk with open files cannot be taken away to be repaired.
    let mut serving = child(module_path!(), "serve while the disk fails");
    serving.env("DATABASE", &path).env("ID_HASHES", format!("{} {}", hex(&ended), hex(&id_hash)));
    serving.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut serving = KillOnDrop(serving.spawn().unwrap());
    let mut words = BufReader::new(serving.0.stdout.take().unwrap()).lines();
    words.find(|line| line.as_ref().unwrap().contains("revoked")).expect("it says so").unwrap();
    if !disk.fail() {
        println!("SKIPPED: this system takes what is written to a disk that it gave up");
        return;
    }
    serving.0.stdin.take().unwrap().write_all(b"failed\n").unwrap();
    let rest: Vec<_> = words.map(io::Result::unwrap).collect();
    assert!(serving.0.wait().unwrap().success(), "{rest:?}");
    disk.repair();

    let (store, _) = open(&path);
    let record = live(&store, &id_hash).unwrap().unwrap();
    assert_eq!(value::<u32>(&record, "n"), Some(1), "acknowledged before something ended");
    assert!(live(&store, &ended).unwrap().is_none());
    assert!(matches!(
        merge(&store, &id_hash, &setting("n", 3)).unwrap(),
        CommitAnswer::Done { .. }
    ));
    drop(store);
    assert_integrity(path);
}

/// The process whose disk becomes read-only.
fn serve_while_the_disk_fails(store: &SqliteStore, ended: &SessionIdHash, id_hash: &SessionIdHash) {
    merge(store, id_hash, &setting("n", 1)).unwrap();
    assert!(matches!(end(store, ended).unwrap(), CommitAnswer::Ended(_)));
    println!("revoked");
    io::stdin().read_line(&mut String::new()).unwrap();
    for _ in 0..3 {
        assert_unavailable(merge(store, id_hash, &setting("n", 2)));
        assert_unavailable(end(store, id_hash));
        let record = live(store, id_hash).unwrap().unwrap();
        assert_eq!(value::<u32>(&record, "n"), Some(1));
        assert!(live(store, ended).unwrap().is_none());
    }
}

#[test]
fn a_long_reader_lets_the_log_grow_and_two_events_say_so() {
    let folder = Folder::new();
    let (store, events) = open(&folder.database());
    let note = setting("note", "x".repeat(60_000));
    let length = || fs::metadata(folder.path("app.db-wal")).unwrap().len();
    let id_hash = create(&store, &note).unwrap();
    let reader = Connection::open(folder.database()).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = "SELECT count(*) FROM cloakroom_sessions";
    reader.query_row(count, [], |_| Ok(())).unwrap();
    for _ in 0..400 {
        create(&store, &note).unwrap();
        store.maintenance().unwrap().run().unwrap();
    }
    assert!(length() > 20 << 20, "{}", length());
    assert_eq!(
        (events.count(EventKind::CheckpointBlocked), events.count(EventKind::CheckpointUnblocked)),
        (1, 0)
    );
    assert!(live(&store, &id_hash).unwrap().is_some());

    reader.execute_batch("COMMIT").unwrap();
    // All of it can be copied now, so the next commit begins it again, and that is noticed.
    for _ in 0..3 {
        store.maintenance().unwrap().run().unwrap();
        create(&store, &note).unwrap();
    }
    assert_eq!(
        (events.count(EventKind::CheckpointBlocked), events.count(EventKind::CheckpointUnblocked)),
        (1, 1)
    );
    let grown = length();
    for _ in 0..20 {
        create(&store, &note).unwrap();
    }
    assert_eq!(length(), grown, "it is written from its beginning again");
}

#[test]
fn while_all_readers_are_in_use_the_next_one_is_busy() {
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database())
        .journal(Journal::Keep)
        .readers(1)
        .busy_timeout(Duration::from_millis(300))
        .open()
        .unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let other = Connection::open(folder.database()).unwrap();
    // Under a rollback journal this keeps readers out.
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let barrier = Barrier::new(4);
    on_threads(4, || {
        barrier.wait();
        let error = live(&store, &id_hash).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    });
    other.execute_batch("COMMIT").unwrap();
    assert!(live(&store, &id_hash).unwrap().is_some());
    assert_eq!(store.index().map(SessionIndex::epoch).unwrap().unwrap(), 0);
}
