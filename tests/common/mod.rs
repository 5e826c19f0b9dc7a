//! Helpers of several test programs.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

#[cfg(feature = "sqlite")]
pub mod app;
#[cfg(all(feature = "rocket", feature = "rouille", feature = "sqlite"))]
pub mod chromium;
pub mod client;
#[cfg(all(feature = "cookie-keys", feature = "sqlite"))]
pub mod credentials;
pub mod cross_origin;
pub mod dice;
#[cfg(all(feature = "memcached", feature = "sqlite"))]
pub mod every_store;
#[cfg(all(feature = "rocket", feature = "rouille", feature = "sqlite"))]
pub mod example;
pub mod faulty;
pub mod gate;
pub mod hooked;
#[cfg(feature = "sqlite")]
pub mod integrity;
pub mod ledger;
#[cfg(feature = "memcached")]
pub mod memcached;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "memcached")]
pub mod proxy;
#[cfg(all(feature = "rocket", feature = "testing"))]
pub mod rocket_server;
#[cfg(all(
    feature = "http",
    feature = "rocket",
    feature = "rouille",
    feature = "sqlite",
    feature = "tiny_http"
))]
pub mod scripted_app;
#[cfg(all(
    feature = "http",
    feature = "rocket",
    feature = "rouille",
    feature = "sqlite",
    feature = "tiny_http"
))]
pub mod server_process;
#[cfg(all(
    feature = "http",
    feature = "rocket",
    feature = "rouille",
    feature = "sqlite",
    feature = "tiny_http"
))]
pub mod site;
#[cfg(all(feature = "rocket", feature = "rouille", feature = "sqlite"))]
pub mod tls;
pub mod workload;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cloakroom::backend::{
    Action, Cache, Commit, CommitAnswer, Delta, LiveSession, Loaded, NewSession, Record, Store,
    Value,
};
use cloakroom::clock::Timestamp;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::{Realm, SessionId, SessionIdHash};
use cloakroom::stores::cached::CachedStore;
use cloakroom::{Lifetime, Result, UserKey};
use tempfile::TempDir;

pub const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub const HOUR: Duration = Duration::from_secs(3600);

/// The storage of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A `MemoryStore`.
    Memory,
    /// A `SqliteStore`.
    File,
}

/// A folder that goes with the test, and a database path in it.
pub struct Folder(TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    /// A folder in memory (/dev/shm), if the machine has one.
    pub fn in_memory() -> Self {
        Folder(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A path that was not given out before.
    pub fn fresh(&self) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        self.path(&format!("{}.db", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn database(&self) -> PathBuf {
        self.path("app.db")
    }
}

/// A store on a new file.
#[cfg(feature = "sqlite")]
pub fn sqlite() -> (Folder, cloakroom::SqliteStore) {
    let folder = Folder::new();
    let store = cloakroom::SqliteStore::open(folder.database()).unwrap();
    (folder, store)
}

/// Runs `work` on `threads` threads at once.
pub fn on_threads(threads: usize, work: impl Fn() + Sync) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

pub fn new_id_hash() -> SessionIdHash {
    SessionId::generate().unwrap().hash(Realm::default().tag())
}

/// An id hash as text, for another process.
pub fn hex(id_hash: &SessionIdHash) -> String {
    id_hash.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Parses the text of [`hex`].
pub fn id_hash_of(hex: &str) -> SessionIdHash {
    let byte = |index| u8::from_str_radix(&hex[index..index + 2], 16).unwrap();
    SessionIdHash::from_bytes(std::array::from_fn(|n| byte(n * 2)))
}

pub fn new_session() -> NewSession {
    NewSession::new(Lifetime::default().limits_from(NOW)).unwrap()
}

pub fn setting(name: &str, value: impl serde::Serialize) -> Delta {
    let mut delta = Delta::new();
    delta.set(name, Value::encode(&value).unwrap());
    delta
}

/// A cached store that uses its cache from `NOW` on.
pub fn cached_store<C: Cache, S: Store>(cache: C, backing: S) -> CachedStore<C, S> {
    settled(CachedStore::new(cache, backing))
}

/// The store, after the two seconds in which a new process does not use the cache.
pub fn settled<C: Cache, S: Store>(store: CachedStore<C, S>) -> CachedStore<C, S> {
    store.load(&new_id_hash(), NOW - Duration::from_secs(2)).unwrap();
    store
}

pub fn create(store: &impl Store, delta: &Delta) -> Result<SessionIdHash> {
    let id_hash = new_id_hash();
    store.commit(&Commit::new(&id_hash, Action::Create(new_session()), delta.clone(), NOW))?;
    Ok(id_hash)
}

pub fn merge(store: &impl Store, id_hash: &SessionIdHash, delta: &Delta) -> Result<CommitAnswer> {
    store.commit(&Commit::new(id_hash, Action::Merge, delta.clone(), NOW))
}

/// Signs the user `name` in on the session of `id_hash`, which gets the id hash `to`.
pub fn sign_in_to(
    store: &impl Store,
    id_hash: &SessionIdHash,
    to: &SessionIdHash,
    name: &str,
) -> Result<CommitAnswer> {
    let to = *to;
    let user = UserKey::new(name).unwrap();
    let new_session = new_session();
    let action = Action::SignIn { to, user, new_session, join_salt: None };
    store.commit(&Commit::new(id_hash, action, Delta::new(), NOW))
}

pub fn end(store: &impl Store, id_hash: &SessionIdHash) -> Result<CommitAnswer> {
    store.commit(&Commit::new(id_hash, Action::End, Delta::new(), NOW))
}

pub fn live(store: &impl Store, id_hash: &SessionIdHash) -> Result<Option<Record>> {
    live_at(store, id_hash, NOW)
}

pub fn live_at(
    store: &impl Store,
    id_hash: &SessionIdHash,
    now: Timestamp,
) -> Result<Option<Record>> {
    Ok(match store.load(id_hash, now)? {
        Loaded::Live(LiveSession { record, .. }) => Some(record),
        _ => None,
    })
}

pub fn value<T: serde::de::DeserializeOwned>(record: &Record, name: &str) -> Option<T> {
    record.data.get(name).map(|value| value.decode().unwrap())
}

#[derive(Debug)]
struct SendKind(Mutex<Sender<EventKind>>);

impl Sink for SendKind {
    fn record(&self, event: &Event<'_>) {
        // At the end of a test the receiver is gone.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(event.kind());
    }
}

/// Events whose kinds arrive at the receiver.
pub fn events() -> (Events, Receiver<EventKind>) {
    let (sender, raised) = channel();
    (Events::new(SendKind(Mutex::new(sender))), raised)
}

const ROLE: &str = "CLOAKROOM_TEST_ROLE";

/// This test program as a process of its own. It runs the test `child_process` of `module`, which
/// is a `module_path!()`, in this role.
pub fn child(module: &str, role: &str) -> Command {
    let test = match module.split_once("::") {
        Some((_, module)) => format!("{module}::child_process"),
        None => "child_process".to_owned(),
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([&*test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).stdin(Stdio::null());
    command
}

/// In a child, its role. A module that starts children has a test `child_process`, which carries
/// out the role and does nothing where there is none.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A child process that is killed when this is dropped.
#[derive(Debug)]
pub struct KillOnDrop(pub Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
