//! The file system in front of SQLite's own. It forwards and records every operation.

#![allow(non_snake_case, reason = "the names are SQLite's")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Once, OnceLock};

use cloakroom::stores::sqlite::rusqlite::ffi;

use crate::recording::{Event, Operation, Recording};

/// One open file, as SQLite sees it. That of its own file system follows it in the same memory.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    /// Null for a file that is not recorded.
    recorded: *mut Recorded,
}

struct Recorded {
    recording: Arc<Recording>,
    file: usize,
}

/// SQLite's own file system, and the call of the operating system with which it opens a folder in
/// order to sync it.
struct Real {
    vfs: *mut ffi::sqlite3_vfs,
    open_directory: OpenDirectory,
}

type OpenDirectory = unsafe extern "C" fn(*const c_char, *mut c_int) -> c_int;

// SAFETY: the pointer is to a static of SQLite's, which never changes once it is registered.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

fn real() -> &'static Real {
    REAL.get().expect("installed")
}

/// Makes it the file system of every database that this process opens from here on. Files outside
/// of recorded folders are not synced at all: they are images of a disk, and gone with the test.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the file systems are statics of SQLite's or leaked by us; the copy differs from
        // the original in what is ours, and the original's functions use of it only what they
        // use of the original. Nothing has opened a database yet.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let original = ffi::sqlite3_vfs_find(ptr::null());
            assert!(!original.is_null());
            let get = (*original).xGetSystemCall.expect("a Unix file system");
            let open_directory = get(original, c"openDirectory".as_ptr()).expect("its call");
            let open_directory: OpenDirectory = std::mem::transmute(open_directory);
            assert!(REAL.set(Real { vfs: original, open_directory }).is_ok());
            let ours: unsafe extern "C" fn() =
                std::mem::transmute(notice_directory as OpenDirectory);
            let set = (*original).xSetSystemCall.expect("a Unix file system");
            assert_eq!(set(original, c"openDirectory".as_ptr(), Some(ours)), ffi::SQLITE_OK);
            let vfs = ffi::sqlite3_vfs {
                szOsFile: (*original).szOsFile + c_int::try_from(size_of::<File>()).unwrap(),
                pNext: ptr::null_mut(),
                zName: c"power".as_ptr(),
                xOpen: Some(open),
                xDelete: Some(delete),
                ..*original
            };
            let registered = ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 1);
            assert_eq!(registered, ffi::SQLITE_OK);
        }
    });
}

/// SQLite opens a folder for one reason only: to sync it.
unsafe extern "C" fn notice_directory(path: *const c_char, out: *mut c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    let code = unsafe { (real().open_directory)(path, out) };
    if code == ffi::SQLITE_OK {
        // SAFETY: a path that ends with a NUL.
        if let Some(recording) = unsafe { tape_of(path) } {
            recording.folder_synced();
        }
    }
    code
}

unsafe fn path_of<'p>(name: *const c_char) -> &'p Path {
    // SAFETY: the caller's; the path is used while SQLite's call lasts.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

unsafe fn tape_of(name: *const c_char) -> Option<Arc<Recording>> {
    if name.is_null() {
        return None;
    }
    // SAFETY: not null, so it is a path.
    Recording::for_path(unsafe { path_of(name) })
}

/// The real file, in the memory behind ours.
unsafe fn behind(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite has allocated `szOsFile` bytes, which is ours and the real one's.
    unsafe { file.cast::<File>().add(1).cast() }
}

unsafe fn recorded<'f>(file: *mut ffi::sqlite3_file) -> Option<&'f Recorded> {
    // SAFETY: null, or ours until the file is closed.
    unsafe { (*file.cast::<File>()).recorded.as_ref() }
}

/// Calls a method of the real file.
macro_rules! forward {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        let real = behind($file);
        ((*(*real).pMethods).$method.expect("a method"))(real $(, $argument)*)
    }};
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's own arguments; ours is the first part of the memory, the real file's the
    // rest.
    unsafe {
        let ours = file.cast::<File>();
        (*ours).base.pMethods = ptr::null();
        (*ours).recorded = ptr::null_mut();
        let kept = ffi::SQLITE_OPEN_MAIN_DB
            | ffi::SQLITE_OPEN_MAIN_JOURNAL
            | ffi::SQLITE_OPEN_WAL
            | ffi::SQLITE_OPEN_SUPER_JOURNAL;
        let recording = if flags & kept == 0 { None } else { tape_of(name) };
        if let Some(code) =
            recording.as_ref().and_then(|recording| recording.take_failure(Operation::Open))
        {
            return code;
        }
        let real = behind(file);
        (*real).pMethods = ptr::null();
        let open = (*self::real().vfs).xOpen.expect("a method");
        let code = open(self::real().vfs, name, real, flags, out);
        if code != ffi::SQLITE_OK {
            if !(*real).pMethods.is_null() {
                forward!(file, xClose);
            }
            return code;
        }
        if let Some(recording) = recording {
            let number = recording.file(path_of(name));
            (*ours).recorded = Box::into_raw(Box::new(Recorded { recording, file: number }));
        }
        (*ours).base.pMethods = &METHODS;
        code
    }
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite's own arguments.
    unsafe {
        let vfs = real().vfs;
        let delete = (*vfs).xDelete.expect("a method");
        let Some(recording) = tape_of(name) else { return delete(vfs, name, 0) };
        if let Some(code) = recording.take_failure(Operation::Delete) {
            return code;
        }
        let code = recording.deleted(path_of(name), || delete(vfs, name, 0));
        if code == ffi::SQLITE_OK && sync != 0 {
            recording.folder_synced();
        }
        code
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    // Without memory maps, which the store does not use.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

// SAFETY of all that follow: SQLite calls them with a file that `open` has filled in, and with
// arguments that are valid for the real file's method of the same name.

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe {
        let recorded = (*file.cast::<File>()).recorded;
        if !recorded.is_null() {
            drop(Box::from_raw(recorded));
        }
        forward!(file, xClose)
    }
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    unsafe {
        if let Some(code) = recorded(file).and_then(|r| r.recording.take_failure(Operation::Read)) {
            // As SQLite's own does it: what is not there reads as zeros.
            if code == ffi::SQLITE_IOERR_SHORT_READ {
                ptr::write_bytes(to.cast::<u8>(), 0, usize::try_from(length).unwrap());
            }
            return code;
        }
        forward!(file, xRead, to, length, offset)
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    offset: i64,
) -> c_int {
    unsafe {
        let Some(recorded) = recorded(file) else {
            return forward!(file, xWrite, from, length, offset);
        };
        let event = |length: c_int| {
            let bytes = std::slice::from_raw_parts(from.cast(), usize::try_from(length).unwrap());
            let offset = usize::try_from(offset).unwrap();
            Event::Write { file: recorded.file, offset, bytes: bytes.into() }
        };
        if let Some(code) = recorded.recording.take_failure(Operation::Write) {
            // A write that fails has written one half.
            let half = length / 2;
            let done = || forward!(file, xWrite, from, half, offset);
            recorded.recording.record(|| event(half), done);
            return code;
        }
        recorded.recording.record(|| event(length), || forward!(file, xWrite, from, length, offset))
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, length: i64) -> c_int {
    unsafe {
        let Some(recorded) = recorded(file) else { return forward!(file, xTruncate, length) };
        if let Some(code) = recorded.recording.take_failure(Operation::Truncate) {
            return code;
        }
        let event =
            || Event::Truncate { file: recorded.file, length: usize::try_from(length).unwrap() };
        recorded.recording.record(event, || forward!(file, xTruncate, length))
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    unsafe {
        let Some(recorded) = recorded(file) else { return ffi::SQLITE_OK };
        if let Some(code) = recorded.recording.take_failure(Operation::Sync) {
            return code;
        }
        recorded.recording.sync(recorded.file, || forward!(file, xSync, flags))
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    unsafe { forward!(file, xFileSize, size) }
}

unsafe extern "C" fn lock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    unsafe { forward!(file, xLock, level) }
}

unsafe extern "C" fn unlock(file: *mut ffi::sqlite3_file, level: c_int) -> c_int {
    unsafe { forward!(file, xUnlock, level) }
}

unsafe extern "C" fn check_reserved_lock(file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    unsafe { forward!(file, xCheckReservedLock, out) }
}

unsafe extern "C" fn file_control(
    file: *mut ffi::sqlite3_file,
    operation: c_int,
    argument: *mut c_void,
) -> c_int {
    unsafe { forward!(file, xFileControl, operation, argument) }
}

unsafe extern "C" fn sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { forward!(file, xSectorSize) }
}

unsafe extern "C" fn device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    unsafe { forward!(file, xDeviceCharacteristics) }
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    unsafe { forward!(file, xShmMap, region, size, extend, out) }
}

unsafe extern "C" fn shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    unsafe { forward!(file, xShmLock, offset, count, flags) }
}

unsafe extern "C" fn shm_barrier(file: *mut ffi::sqlite3_file) {
    unsafe { forward!(file, xShmBarrier) }
}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    unsafe { forward!(file, xShmUnmap, delete) }
}
