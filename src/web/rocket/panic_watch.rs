//! Tells a handler's panic from a 500, which Rocket does not.
//!
//! Rocket answers both in the same way, and a guard that is a reference is not dropped when the
//! handler unwinds. So a hook before the program's own notes which request has panicked: Rocket
//! runs each request in a task of its own, or, for its local client, on the caller's thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};
use std::thread::{self, ThreadId};

use rocket::tokio::task::{self, block_in_place};

use crate::error::panic_words;

/// Where a request is worked on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Place {
    Task(task::Id),
    Thread(ThreadId),
}

fn here() -> Place {
    task::try_id().map_or_else(|| Place::Thread(thread::current().id()), Place::Task)
}

/// The places of requests that have opened a session and not ended, and what they said when they
/// panicked. What panics elsewhere is not noted.
static REQUESTS: LazyLock<Mutex<HashMap<Place, Option<String>>>> = LazyLock::new(Mutex::default);

fn requests() -> MutexGuard<'static, HashMap<Place, Option<String>>> {
    REQUESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to note panics, once a process.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !ASKING.get() {
                note(info);
                before(info);
            }
        }));
    });
}

thread_local! {
    /// This thread asks whether it may block, and a panic is the answer.
    static ASKING: Cell<bool> = const { Cell::new(false) };
}

/// Makes a call for which the runtime lets this thread block. Where it does not, as in a task of a
/// `LocalSet`, no call is made, and false returned: Tokio says so with a panic and has no other way
/// to ask.
pub(super) fn block_for(call: &mut dyn FnMut()) -> bool {
    let mut made = false;
    ASKING.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        block_in_place(|| {
            ASKING.set(false);
            made = true;
            call();
        });
    }));
    ASKING.set(false);
    match outcome {
        Err(panic) if made => resume_unwind(panic),
        Ok(()) | Err(_) => made,
    }
}

fn note(info: &PanicHookInfo<'_>) {
    let place = here();
    if let Some(words) = requests().get_mut(&place) {
        *words = Some(panic_words(info.payload()).unwrap_or("it panicked").to_owned());
    }
}

/// A request that is watched until this is dropped.
pub(super) struct Watched(Place);

impl Watched {
    /// Watches the request that is worked on here.
    pub(super) fn new() -> Self {
        let place = here();
        requests().insert(place, None);
        Watched(place)
    }

    /// What the request said when it panicked last, if it did.
    pub(super) fn panic(&self) -> Option<String> {
        requests().get(&self.0)?.clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        requests().remove(&self.0);
    }
}
