//! The application, served by each framework from each store, with access to the store, its clock
//! and the events.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloakroom::backend::Store;
use cloakroom::clock::{Clock, ManualClock, Timestamp};
use cloakroom::event::EventKind;
use cloakroom::list::Stats;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{MemoryStore, SessionManager, SqliteStore};

use crate::common::client::{Exchange, HttpClient, Request, Response, send};
use crate::common::faulty::{Call, Faulty};
use crate::common::gate::GateControl;
use crate::common::scripted_app::{FRAMEWORKS, Framework, ScriptedApp, Server};
use crate::common::{Folder, NOW, Storage};

/// The settings of a site.
#[derive(Clone, Copy)]
pub struct SiteConfig {
    pub framework: Framework,
    pub storage: Storage,
    pub busy_timeout: Duration,
    pub configure: fn(SessionManagerBuilder) -> SessionManagerBuilder,
}

impl fmt::Display for SiteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {:?}", self.framework.name, self.storage)
    }
}

/// The application, served.
pub struct Site {
    config: SiteConfig,
    server: Option<Server>,
    pub app: Arc<ScriptedApp>,
    pub store: Faulty<Box<dyn Store>>,
    pub clock: ManualClock,
    folder: Folder,
}

impl Site {
    pub fn start(config: SiteConfig) -> Self {
        let folder = Folder::new();
        let clock = ManualClock::new(NOW);
        let (app, store) = Site::application(&config, &folder, &clock);
        let server = Site::serve(&config, &app);
        Site { config, server: Some(server), app, store, clock, folder }
    }

    fn application(
        config: &SiteConfig,
        folder: &Folder,
        clock: &ManualClock,
    ) -> (Arc<ScriptedApp>, Faulty<Box<dyn Store>>) {
        let store = Faulty::<Box<dyn Store>>::new(match config.storage {
            Storage::Memory => Box::new(MemoryStore::new()),
            Storage::File => {
                let store = SqliteStore::builder(folder.database());
                Box::new(store.busy_timeout(config.busy_timeout).open().unwrap())
            }
        });
        let sessions = SessionManager::builder(store.clone()).clock(clock.clone());
        (ScriptedApp::new((config.configure)(sessions).build().unwrap()), store)
    }

    fn serve(config: &SiteConfig, app: &Arc<ScriptedApp>) -> Server {
        (config.framework.serve)(app.clone(), SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Stops the server, gives up the store, and starts again on the same file.
    pub fn restart(&mut self) {
        assert_eq!(self.config.storage, Storage::File, "memory does not outlive its process");
        self.server = None;
        (self.app, self.store) = Site::application(&self.config, &self.folder, &self.clock);
        self.server = Some(Site::serve(&self.config, &self.app));
    }

    pub fn framework(&self) -> &'static str {
        self.config.framework.name
    }

    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address
    }

    pub fn browser(&self) -> HttpClient {
        HttpClient::new(self.address())
    }

    /// A browser that has posted to this path.
    #[track_caller]
    pub fn visitor(&self, path: &str) -> HttpClient {
        let mut browser = self.browser();
        browser.post(path);
        browser
    }

    /// The text of a page that is read with this `Cookie` header.
    #[track_caller]
    pub fn read(&self, path: &str, cookie: impl AsRef<[u8]>) -> String {
        self.send(&Request::get(path).cookie(cookie)).text().to_owned()
    }

    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        send(self.address(), request).unwrap()
    }

    pub fn connect(&self) -> Exchange {
        Exchange::connect(self.address()).unwrap()
    }

    pub fn gate(&self, name: &str) -> GateControl {
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

    /// The number of loads and commits that have begun.
    pub fn store_calls(&self) -> u64 {
        self.store.calls(Call::Load) + self.store.calls(Call::Commit)
    }

    /// The number of live sessions.
    pub fn sessions(&self) -> u64 {
        self.stats().live
    }

    pub fn count(&self, kind: EventKind) -> u64 {
        self.app.sessions.events().count(kind)
    }
}

fn configs(
    configure: fn(SessionManagerBuilder) -> SessionManagerBuilder,
) -> impl Iterator<Item = SiteConfig> {
    FRAMEWORKS.iter().flat_map(move |framework| {
        [Storage::Memory, Storage::File].into_iter().map(move |storage| SiteConfig {
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
    for config in configs(configure) {
        println!("{config}");
        test(&mut Site::start(config));
    }
}

/// Runs a test on one framework, where they differ.
pub fn on(framework: &str, test: impl Fn(&mut Site)) {
    for config in configs(|builder| builder).filter(|config| config.framework.name == framework) {
        println!("{config}");
        test(&mut Site::start(config));
    }
}

/// Runs a test on every framework with the store in a file.
pub fn on_files(busy_timeout: Duration, test: impl Fn(&mut Site)) {
    for config in configs(|builder| builder).filter(|config| config.storage == Storage::File) {
        println!("{config}");
        test(&mut Site::start(SiteConfig { busy_timeout, ..config }));
    }
}
