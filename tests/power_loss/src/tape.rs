//! A record of all operations on the files of one folder, and the planned failures.

use std::collections::HashMap;
use std::ffi::c_int;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that happened, to a file that is known by a number from its creation on.
#[derive(Clone, Debug)]
pub enum Event {
    /// A name came to stand for a file, which was there before with this content, or is new.
    Create { name: String, file: usize, content: Vec<u8> },
    /// Bytes were written.
    Write { file: usize, offset: usize, bytes: Arc<[u8]> },
    /// The file was cut to this length.
    Truncate { file: usize, length: usize },
    /// A sync has ended. It covers what had happened when it began, before this event.
    Sync { file: usize, covers: usize },
    /// A name was removed.
    Delete { name: String },
    /// The folder was synced: what had become of names before this event.
    SyncFolder { covers: usize },
    /// The one who records says so.
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
    /// So many are done before it; 0 fails the next one.
    pub after: u64,
    /// SQLite's code for it.
    pub code: c_int,
    /// From then on all fail, until [`Tape::heal`].
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
pub struct Tape {
    folder: PathBuf,
    recorded: Mutex<Recorded>,
    fault: Mutex<Option<Fault>>,
    struck: Mutex<u64>,
}

static TAPES: Mutex<Vec<Arc<Tape>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tape {
    /// Begins to record what SQLite does in `folder`.
    pub fn of(folder: &Path) -> Arc<Tape> {
        let tape = Arc::new(Tape {
            folder: fs::canonicalize(folder).expect("a folder"),
            recorded: Mutex::default(),
            fault: Mutex::default(),
            struck: Mutex::default(),
        });
        lock(&TAPES).push(tape.clone());
        tape
    }

    /// Says something that shall stand between what happened before and after.
    pub fn mark(&self, what: impl Into<String>) {
        lock(&self.recorded).events.push(Event::Mark(what.into()));
    }

    /// Ends the recording. What happens from here on happens without it.
    pub fn take(&self) -> Vec<Event> {
        lock(&TAPES).retain(|tape| !std::ptr::eq(&**tape, self));
        std::mem::take(&mut lock(&self.recorded).events)
    }

    /// Plans a fault, in place of the one before.
    pub fn plan(&self, fault: Fault) {
        *lock(&self.struck) = 0;
        *lock(&self.fault) = Some(fault);
    }

    /// Ends all faults, and says how often one struck.
    pub fn heal(&self) -> u64 {
        *lock(&self.fault) = None;
        *lock(&self.struck)
    }

    /// The tape of the folder that `path` is in.
    pub(crate) fn for_path(path: &Path) -> Option<Arc<Tape>> {
        let folder = path.parent()?;
        lock(&TAPES).iter().find(|tape| tape.folder == folder).cloned()
    }

    /// The code with which this operation shall fail, if it shall.
    pub(crate) fn strike(&self, operation: Operation) -> Option<c_int> {
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
        *lock(&self.struck) += 1;
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

    /// Does something to a file, and records it if it was done. Everything is in the order in which
    /// it was recorded.
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

    /// Syncs a file. Others go on meanwhile, and what they write then is not covered.
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
