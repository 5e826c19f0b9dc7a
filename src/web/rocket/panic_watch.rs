//! Distinguishes a panic of the handler from a returned 500. A panic stores only a sign-out; a 500
//! also stores a renewal and, with `keep_on_server_error`, data. Rocket answers both alike, and a
//! guard that is a reference is not dropped when the handler unwinds. A panic hook therefore
//! records which request has panicked: by its task or, for Rocket's local client, by its thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::{LazyLock, Mutex, MutexGuard, Once};
use std::thread::{self, ThreadId};

use rocket::tokio::task::{self, block_in_place};

use crate::error::panic_message;
use crate::sync::IgnorePoison;

/// The task or thread that runs a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Executor {
    Task(task::Id),
    Thread(ThreadId),
}

fn current() -> Executor {
    task::try_id().map_or_else(|| Executor::Thread(thread::current().id()), Executor::Task)
}

/// The requests with an open session, each with the message of its last panic. Other panics are not
/// recorded.
static REQUESTS: LazyLock<Mutex<HashMap<Executor, Option<String>>>> = LazyLock::new(Mutex::default);

fn requests() -> MutexGuard<'static, HashMap<Executor, Option<String>>> {
    REQUESTS.lock().ignore_poison()
}

thread_local! {
    /// Whether a panic of this thread is that of [`block_for`], which the hook ignores.
    static TOKIO_MAY_PANIC: Cell<bool> = const { Cell::new(false) };
}

/// Installs the hook, once per process.
pub(super) fn install_hook() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !TOKIO_MAY_PANIC.get() {
                record(info);
                before(info);
            }
        }));
    });
}

/// Makes a call in Tokio's `block_in_place`, and returns true. Where this thread must not block, as
/// in a task of a `LocalSet`, makes no call and returns false: `block_in_place` panics there before
/// the call, and Tokio has no function that says so without a panic.
pub(super) fn block_for(call: &mut dyn FnMut()) -> bool {
    let mut made = false;
    TOKIO_MAY_PANIC.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        block_in_place(|| {
            TOKIO_MAY_PANIC.set(false);
            made = true;
            call();
        });
    }));
    TOKIO_MAY_PANIC.set(false);
    match outcome {
        Err(panic) if made => resume_unwind(panic),
        Ok(()) | Err(_) => made,
    }
}

fn record(info: &PanicHookInfo<'_>) {
    let executor = current();
    if let Some(message) = requests().get_mut(&executor) {
        *message = Some(panic_message(info.payload()).unwrap_or("it panicked").to_owned());
    }
}

/// A request whose panics are recorded until this is dropped.
pub(super) struct Watched(Executor);

impl Watched {
    /// Watches the request that runs here.
    pub(super) fn new() -> Self {
        let executor = current();
        requests().insert(executor, None);
        Watched(executor)
    }

    /// Returns the message of the request's last panic, if it panicked.
    pub(super) fn panic(&self) -> Option<String> {
        requests().get(&self.0)?.clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        requests().remove(&self.0);
    }
}
