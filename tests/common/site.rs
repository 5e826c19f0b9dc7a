//! The application, served by each framework from each store, and a look behind the scenes.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::backend::{Commit, Committed, Lookup, Store, StoreWrapper};
use cloakroom::clock::{Clock, ManualClock, Timestamp};
use cloakroom::event::EventKind;
use cloakroom::id::SessionIdHash;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::record::Stats;
use cloakroom::{Error, ErrorKind, MemoryStore, Result, SessionManager, SqliteStore};

use crate::common::app::{App, FRAMEWORKS, Framework, Gate, Server};
use crate::common::client::{Browser, Exchange, Request, Response, send};
use crate::common::{Folder, NOW};

/// A store that is watched, and that fails when it is told to.
#[derive(Clone, Debug)]
pub struct Watched(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Box<dyn Store>,
    calls: AtomicUsize,
    failing_loads: Mutex<Option<ErrorKind>>,
    failing_commits: Mutex<Option<ErrorKind>>,
}

impl Watched {
    fn new(store: Box<dyn Store>) -> Self {
        Watched(Arc::new(Inner {
            store,
            calls: AtomicUsize::new(0),
            failing_loads: Mutex::default(),
            failing_commits: Mutex::default(),
        }))
    }

    /// How many calls have come that ask for a session or change one.
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    pub fn fail_loads(&self, kind: impl Into<Option<ErrorKind>>) {
        *self.0.failing_loads.lock().unwrap() = kind.into();
    }

    pub fn fail_commits(&self, kind: impl Into<Option<ErrorKind>>) {
        *self.0.failing_commits.lock().unwrap() = kind.into();
    }

    fn called(&self, failing: &Mutex<Option<ErrorKind>>) -> Result<()> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        match *failing.lock().unwrap() {
            Some(kind) => Err(Error::with_source(kind, "use the store", "the test wants it so")),
            None => Ok(()),
        }
    }
}

impl StoreWrapper for Watched {
    type Wrapped = dyn Store;

    fn wrapped(&self) -> &dyn Store {
        &*self.0.store
    }

    fn on_load(&self, key: &SessionIdHash, now: Timestamp) -> Result<Lookup> {
        self.called(&self.0.failing_loads)?;
        self.0.store.load(key, now)
    }

    fn on_commit(&self, commit: &Commit) -> Result<Committed> {
        self.called(&self.0.failing_commits)?;
        self.0.store.commit(commit)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    Memory,
    File,
}

/// How a site is set up.
#[derive(Clone, Copy)]
pub struct Plan {
    pub framework: Framework,
    pub storage: Storage,
    pub busy_timeout: Duration,
    pub configure: fn(SessionManagerBuilder) -> SessionManagerBuilder,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {:?}", self.framework.0, self.storage)
    }
}

/// The application, served.
pub struct Site {
    plan: Plan,
    server: Option<Server>,
    pub app: Arc<App>,
    pub store: Watched,
    pub clock: ManualClock,
    folder: Folder,
}

impl Site {
    pub fn start(plan: Plan) -> Self {
        let folder = Folder::new();
        let clock = ManualClock::new(NOW);
        let (app, store) = Site::application(&plan, &folder, &clock);
        let server = Site::serve(&plan, &app);
        Site { plan, server: Some(server), app, store, clock, folder }
    }

    fn application(plan: &Plan, folder: &Folder, clock: &ManualClock) -> (Arc<App>, Watched) {
        let store = Watched::new(match plan.storage {
            Storage::Memory => Box::new(MemoryStore::new()),
            Storage::File => {
                let store = SqliteStore::builder(folder.database());
                Box::new(store.busy_timeout(plan.busy_timeout).open().unwrap())
            }
        });
        let sessions = SessionManager::builder(store.clone()).clock(clock.clone());
        (App::new((plan.configure)(sessions).build().unwrap()), store)
    }

    fn serve(plan: &Plan, app: &Arc<App>) -> Server {
        plan.framework.1(app.clone(), SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Stops the server, gives up the store, and starts again on the same file.
    pub fn restart(&mut self) {
        assert_eq!(self.plan.storage, Storage::File, "memory does not outlive its process");
        self.server = None;
        (self.app, self.store) = Site::application(&self.plan, &self.folder, &self.clock);
        self.server = Some(Site::serve(&self.plan, &self.app));
    }

    pub fn framework(&self) -> &'static str {
        self.plan.framework.0
    }

    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address
    }

    pub fn browser(&self) -> Browser {
        Browser::new(self.address())
    }

    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        send(self.address(), request).unwrap()
    }

    pub fn connect(&self) -> Exchange {
        Exchange::connect(self.address()).unwrap()
    }

    pub fn gate(&self, name: &str) -> Gate {
        self.app.gate(name)
    }

    pub fn database(&self) -> PathBuf {
        self.folder.database()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn stats(&self) -> Stats {
        self.store.index().unwrap().stats(self.now()).unwrap()
    }

    /// How many sessions live.
    pub fn sessions(&self) -> u64 {
        self.stats().live
    }

    pub fn count(&self, kind: EventKind) -> u64 {
        self.app.sessions.events().count(kind)
    }
}

fn plans(
    configure: fn(SessionManagerBuilder) -> SessionManagerBuilder,
) -> impl Iterator<Item = Plan> {
    FRAMEWORKS.iter().flat_map(move |framework| {
        [Storage::Memory, Storage::File].into_iter().map(move |storage| Plan {
            framework: *framework,
            storage,
            busy_timeout: Duration::from_secs(30),
            configure,
        })
    })
}

/// Runs a test on every framework with every store.
pub fn everywhere(test: impl Fn(&mut Site)) {
    everywhere_with(|builder| builder, test);
}

/// The same with other settings than the defaults.
pub fn everywhere_with(
    configure: fn(SessionManagerBuilder) -> SessionManagerBuilder,
    test: impl Fn(&mut Site),
) {
    for plan in plans(configure) {
        println!("{plan}");
        test(&mut Site::start(plan));
    }
}

/// Runs a test on one framework, where they differ.
pub fn on(framework: &str, test: impl Fn(&mut Site)) {
    for plan in plans(|builder| builder).filter(|plan| plan.framework.0 == framework) {
        println!("{plan}");
        test(&mut Site::start(plan));
    }
}

/// Runs a test on every framework with the store in a file.
pub fn on_files(busy_timeout: Duration, test: impl Fn(&mut Site)) {
    for plan in plans(|builder| builder).filter(|plan| plan.storage == Storage::File) {
        println!("{plan}");
        test(&mut Site::start(Plan { busy_timeout, ..plan }));
    }
}
