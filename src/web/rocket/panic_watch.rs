//! Distinguishes a panic of the handler from a returned 500. A panic stores only a sign-out; a 500
//! also stores a renewal and, with `keep_on_server_error`, data. Rocket answers both alike, and a
//! guard that is a reference is not dropped when the handler unwinds. A panic hook therefore
//! records which request has panicked: by its task or, for Rocket's local client, by its thread.

use std::collections::HashMap;
use std::panic;
use std::sync::{LazyLock, Mutex, MutexGuard, Once};
use std::thread::{self, ThreadId};

use rocket::tokio::task;

use crate::error::panic_message;
use crate::sync::IgnorePoison;
use crate::web::rocket::blocking;

/// The task or thread that runs a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Executor {
    Task(task::Id),
    Thread(ThreadId),
}

impl Executor {
    fn current() -> Self {
        task::try_id().map_or_else(|| Executor::Thread(thread::current().id()), Executor::Task)
    }
}

/// The watched requests, each with the message of its last panic.
fn requests() -> MutexGuard<'static, HashMap<Executor, Option<String>>> {
    static REQUESTS: LazyLock<Mutex<HashMap<Executor, Option<String>>>> =
        LazyLock::new(Mutex::default);
    REQUESTS.lock().ignore_poison()
}

/// A request whose panics are recorded until this is dropped.
pub(super) struct Watched(Executor);

impl Watched {
    /// Watches the request that runs here.
    pub(super) fn new() -> Self {
        let executor = Executor::current();
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

/// Installs the hook that records panics of watched requests, once per process.
pub(super) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if blocking::is_entering() {
                return;
            }
            if let Some(last) = requests().get_mut(&Executor::current()) {
                let message = panic_message(info.payload()).unwrap_or("it panicked");
                *last = Some(message.to_owned());
            }
            before(info);
        }));
    });
}
