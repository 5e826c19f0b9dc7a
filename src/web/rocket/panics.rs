//! Tells a handler's panic from a 500, which Rocket does not.
//!
//! Rocket answers both in the same way, and a guard that is a reference is not dropped when the
//! handler unwinds. So a hook before the program's own notes which request has panicked: Rocket
//! runs each request in a task of its own, or, for its local client, on the caller's thread.

use std::collections::VecDeque;
use std::panic::{self, PanicHookInfo};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread::{self, ThreadId};

use rocket::Request;
use rocket::tokio::task;

use crate::error::panic_words;

/// Where a request is worked on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Task(task::Id),
    Thread(ThreadId),
}

fn here() -> Place {
    task::try_id().map_or_else(|| Place::Thread(thread::current().id()), Place::Task)
}

/// So many panics are remembered, in case they are no request's and nobody asks.
const REMEMBERED: usize = 64;

static PANICS: Mutex<VecDeque<(Place, String)>> = Mutex::new(VecDeque::new());

/// How many those are, so that nobody has to wait to learn that there is none.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn panics() -> MutexGuard<'static, VecDeque<(Place, String)>> {
    PANICS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins to note panics, once a process.
pub(super) fn watch() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note(info);
            before(info);
        }));
    });
}

fn note(info: &PanicHookInfo<'_>) {
    let words = panic_words(info.payload()).unwrap_or("it panicked").to_owned();
    let mut panics = panics();
    if panics.len() == REMEMBERED {
        panics.pop_front();
    }
    panics.push_back((here(), words));
    COUNT.store(panics.len(), Ordering::Release);
}

/// Forgets what panicked here before this request: a local client's requests follow each other on
/// one thread.
pub(super) fn begin() {
    while take().is_some() {}
}

/// What the handler of this request said when it panicked, if it did. The first one who asks
/// takes it out; the request remembers it for the others.
pub(super) fn of_this_request<'r>(request: &'r Request<'_>) -> Option<&'r String> {
    struct Panic(OnceLock<Option<String>>);
    let Panic(panic) = request.local_cache(|| Panic(OnceLock::new()));
    panic.get_or_init(take).as_ref()
}

fn take() -> Option<String> {
    if COUNT.load(Ordering::Acquire) == 0 {
        return None;
    }
    let mut panics = panics();
    let at = panics.iter().position(|(place, _)| *place == here())?;
    let (_, words) = panics.remove(at)?;
    COUNT.store(panics.len(), Ordering::Release);
    Some(words)
}
