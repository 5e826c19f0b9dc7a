//! A recording of all operations on the files of one folder, and planned failures of them.

use std::collections::HashMap;
use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One operation. Files are numbered in the order in which they were created.
#[derive(Clone, Debug)]
pub enum Event {
    /// A name was created for a file, which is new or was there before with this content.
    Create { name: String, file: usize, content: Vec<u8> },
    /// Bytes were written to a file.
    Write { file: usize, offset: usize, bytes: Arc<[u8]> },
    /// A file was truncated to this length.
    Truncate { file: usize, length: usize },
    /// A sync of a file has ended. It covers the events before the number `covers`, at which it
    /// began.
    Sync { file: usize, covers: usize },
    /// A name was removed.
    Delete { name: String },
    /// The folder was synced: it covers the changes of names before the event `covers`.
    SyncFolder { covers: usize },
    /// A note of the test, such as an acknowledgement.
    Mark(String),
}

/// Operations that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Truncate,
    Sync,
    Delete,
    Open,
}

/// A planned failure.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub operation: Operation,
    /// The number of operations that succeed before it; 0 fails the next one.
    pub after: u64,
    /// The SQLite error code of the failure.
    pub code: c_int,
    /// Whether all later operations fail too, until [`Recording::stop_failing`].
    pub lasting: bool,
}

#[derive(Debug, Default)]
struct Recorded {
    events: Vec<Event>,
    names: HashMap<String, usize>,
    files: usize,
}

/// A recording of one folder.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
    recorded: Mutex<Recorded>,
    fault: Mutex<Option<Fault>>,
    failures: Mutex<u64>,
}

static RECORDINGS: Mutex<Vec<Arc<Recording>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    /// Begins to record SQLite's operations in `folder`.
    pub fn of(folder: &Path) -> Arc<Recording> {
        let recording = Arc::new(Recording {
            folder: fs::canonicalize(folder).expect("a folder"),
            recorded: Mutex::default(),
            fault: Mutex::default(),
            failures: Mutex::default(),
        });
        lock(&RECORDINGS).push(recording.clone());
        recording
    }

    /// Adds a note between the operations before and after this call.
    pub fn mark(&self, what: impl Into<String>) {
        lock(&self.recorded).events.push(Event::Mark(what.into()));
    }

    /// Ends the recording, and returns its events.
    pub fn finish(&self) -> Vec<Event> {
        lock(&RECORDINGS).retain(|recording| !std::ptr::eq(&**recording, self));
        std::mem::take(&mut lock(&self.recorded).events)
    }

    /// Plans a fault, which replaces the previous one.
    pub fn plan(&self, fault: Fault) {
        *lock(&self.failures) = 0;
        *lock(&self.fault) = Some(fault);
    }

    /// Ends the planned fault, and returns the number of operations that failed.
    pub fn stop_failing(&self) -> u64 {
        *lock(&self.fault) = None;
        *lock(&self.failures)
    }

    /// The recording of the folder that `path` is in.
    pub(crate) fn for_path(path: &Path) -> Option<Arc<Recording>> {
        let folder = path.parent()?;
        lock(&RECORDINGS).iter().find(|recording| recording.folder == folder).cloned()
    }

    /// Returns the error code with which this operation must fail, if it must.
    pub(crate) fn take_failure(&self, operation: Operation) -> Option<c_int> {
        let mut plan = lock(&self.fault);
        let fault = plan.as_mut().filter(|fault| fault.operation == operation)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        let code = fault.code;
        if !fault.lasting {
            *plan = None;
        }
        *lock(&self.failures) += 1;
        Some(code)
    }

    /// The number of the file that `path` names.
    pub(crate) fn file(&self, path: &Path) -> usize {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut recorded = lock(&self.recorded);
        if let Some(file) = recorded.names.get(&name) {
            return *file;
        }
        let file = recorded.files;
        recorded.files += 1;
        recorded.names.insert(name.clone(), file);
        let content = fs::read(path).unwrap_or_default();
        recorded.events.push(Event::Create { name, file, content });
        file
    }

    /// Executes an operation on a file, and records it if it succeeded. The lock keeps the order of
    /// events and operations the same.
    pub(crate) fn record(
        &self,
        event: impl FnOnce() -> Event,
        work: impl FnOnce() -> c_int,
    ) -> c_int {
        let mut recorded = lock(&self.recorded);
        let code = work();
        if code == 0 {
            recorded.events.push(event());
        }
        code
    }

    /// Syncs a file. What other threads write meanwhile is not covered.
    pub(crate) fn sync(&self, file: usize, work: impl FnOnce() -> c_int) -> c_int {
        let covers = lock(&self.recorded).events.len();
        let code = work();
        if code == 0 {
            lock(&self.recorded).events.push(Event::Sync { file, covers });
        }
        code
    }

    pub(crate) fn deleted(&self, path: &Path, work: impl FnOnce() -> c_int) -> c_int {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let mut recorded = lock(&self.recorded);
        let code = work();
        if code == 0 && recorded.names.remove(&name).is_some() {
            recorded.events.push(Event::Delete { name });
        }
        code
    }

    pub(crate) fn folder_synced(&self) {
        let mut recorded = lock(&self.recorded);
        let covers = recorded.events.len();
        recorded.events.push(Event::SyncFolder { covers });
    }
}
