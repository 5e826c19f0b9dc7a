//! A small application around a manager, on each of the stores, and the browsers that visit it.

use std::sync::Mutex;
use std::sync::mpsc::Receiver;

use cloakroom::adapter::{Outcome, RequestHead, ResponseHeaders};
use cloakroom::backend::{Action, Commit, Delta, Store};
use cloakroom::clock::ManualClock;
use cloakroom::event::{EventKind, Events};
use cloakroom::id::{Realm, SessionId};
use cloakroom::list::Stats;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{MemoryStore, Result, Session, SessionManager, SqliteStore, UserKey};

use super::faulty::{Call, Faulty};
use super::{Folder, NOW, Storage, events};

/// The last attributes of every cookie of the default configuration.
pub const ATTRIBUTES: &str = "Secure; HttpOnly; SameSite=Lax";

/// The lifetime of the cookie of an anonymous session that the default configuration begins at
/// [`NOW`].
pub const WEEK: &str = "Max-Age=604800; Expires=Tue, 21 Nov 2023 22:13:20 GMT";

/// The attributes of a removal.
pub const ENDED: &str = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT";

/// The removal of the default cookie.
pub const REMOVAL: &str = "__Host-id=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; \
                           Secure; HttpOnly; SameSite=Lax";

pub type Inner = Faulty<Box<dyn Store>>;

pub struct App {
    pub sessions: SessionManager,
    pub store: Inner,
    pub clock: ManualClock,
    pub events: Events,
    raised: Mutex<Receiver<EventKind>>,
    pub folder: Folder,
}

/// Runs `test` with an application on each store.
pub fn on_both_stores(
    configure: impl Fn(SessionManagerBuilder) -> SessionManagerBuilder,
    test: impl Fn(App),
) {
    for storage in [Storage::Memory, Storage::File] {
        eprintln!("on {storage:?}");
        test(App::new(storage, &configure));
    }
}

/// No setting but the defaults.
pub fn defaults(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder
}

impl App {
    pub fn new(
        storage: Storage,
        configure: impl Fn(SessionManagerBuilder) -> SessionManagerBuilder,
    ) -> App {
        let folder = Folder::new();
        let inner: Box<dyn Store> = match storage {
            Storage::Memory => Box::new(MemoryStore::new()),
            Storage::File => Box::new(SqliteStore::open(folder.database()).unwrap()),
        };
        App::on(inner, folder, configure)
    }

    pub fn on(
        inner: Box<dyn Store>,
        folder: Folder,
        configure: impl Fn(SessionManagerBuilder) -> SessionManagerBuilder,
    ) -> App {
        let store = Faulty::new(inner);
        let clock = ManualClock::new(NOW);
        let (events, raised) = events();
        let builder = SessionManager::builder(store.clone()).clock(clock.clone());
        let sessions = configure(builder.events(events.clone())).build().unwrap();
        App { sessions, store, clock, events, raised: Mutex::new(raised), folder }
    }

    /// One more manager in the same application, on the same store.
    pub fn another(
        &self,
        configure: impl Fn(SessionManagerBuilder) -> SessionManagerBuilder,
    ) -> SessionManager {
        let builder = SessionManager::builder(self.store.clone()).clock(self.clock.clone());
        configure(builder.events(self.events.clone())).build().unwrap()
    }

    /// Returns when the next event of this kind is raised, or was raised since the last wait.
    pub fn wait_for(&self, kind: EventKind) {
        let raised = self.raised.lock().unwrap();
        while raised.recv().unwrap() != kind {}
    }

    pub fn count(&self, kind: EventKind) -> u64 {
        self.events.count(kind)
    }

    pub fn stats(&self) -> Stats {
        use cloakroom::clock::Clock;
        self.store.inner().index().unwrap().stats(self.clock.now()).unwrap()
    }

    /// Live sessions.
    pub fn live(&self) -> u64 {
        self.stats().live
    }

    /// All sessions, also those that have ended and were not swept.
    pub fn rows(&self) -> u64 {
        let stats = self.stats();
        stats.live + stats.expired
    }

    /// A browser with a session of `n`.
    pub fn visitor(&self, n: u32) -> Browser {
        let browser = self.visitor_after(|session| session.set("n", n).unwrap());
        assert!(browser.cookie.is_some());
        browser
    }

    /// A browser with a session of `n`, and a request of it that is open.
    pub fn open_visitor(&self, n: u32) -> (Browser, Session) {
        let browser = self.visitor(n);
        let session = browser.open(&self.sessions);
        (browser, session)
    }

    /// A browser after its first request.
    pub fn visitor_after(&self, handler: impl FnOnce(&Session)) -> Browser {
        Browser::default().after_request(&self.sessions, handler)
    }

    /// Makes calls while a sweep waits for the store.
    pub fn during_sweep(&self, calls: impl FnOnce()) {
        let control = self.store.hold(Call::Sweep);
        std::thread::scope(|scope| {
            scope.spawn(|| self.sessions.sweep_now().unwrap());
            control.wait_until_reached();
            calls();
            control.open();
        });
    }

    /// A browser with a signed-in session.
    pub fn signed_in(&self, name: &str) -> Browser {
        self.visitor_after(|session| sign_in(session, name))
    }

    /// Removes the CSRF secret of a stored session, as if another program had stored it without
    /// one.
    pub fn remove_secret(&self, browser: &Browser) {
        let mut delta = Delta::new();
        delta.remove("cloakroom.csrf");
        let id_hash = browser.id().hash(Realm::default().tag());
        self.store.inner().commit(&Commit::new(&id_hash, Action::Merge, delta, NOW)).unwrap();
    }

    /// The value `n` of the session of this cookie.
    pub fn stored_n(&self, browser: &Browser) -> Option<u32> {
        get(&self.sessions, browser, "n")
    }
}

pub fn sign_in(session: &Session, name: &str) {
    let done = session.sign_in(user(name)).unwrap();
    assert_eq!(done, cloakroom::SignIn::Done);
}

pub fn user(name: &str) -> UserKey {
    UserKey::new(name).unwrap()
}

/// Runs a read with this cookie; the browser ignores the response.
pub fn get<T: serde::de::DeserializeOwned>(
    sessions: &SessionManager,
    browser: &Browser,
    name: &str,
) -> Option<T> {
    let session = browser.open(sessions);
    let value = session.get(name).unwrap();
    sessions.close(&session, Outcome::Completed).unwrap();
    value
}

pub fn user_of(sessions: &SessionManager, browser: &Browser) -> Option<String> {
    let session = browser.open(sessions);
    let user = session.user().unwrap();
    sessions.close(&session, Outcome::Completed).unwrap();
    user.map(|user| user.as_str().to_owned())
}

pub fn complete(sessions: &SessionManager, session: &Session) -> ResponseHeaders {
    sessions.close(session, Outcome::Completed).unwrap()
}

/// The values of all `Set-Cookie` fields, in order.
pub fn set_cookies(headers: &ResponseHeaders) -> Vec<&str> {
    headers.iter().filter(|(name, _)| *name == "Set-Cookie").map(|(_, value)| value).collect()
}

pub fn set_cookie(headers: &ResponseHeaders) -> Option<&str> {
    let values = set_cookies(headers);
    assert!(values.len() <= 1, "more than one Set-Cookie: {values:?}");
    values.first().copied()
}

/// The id that a response gives, and the attributes after it.
pub fn issued(headers: &ResponseHeaders) -> (SessionId, &str) {
    let header = set_cookie(headers).expect("a Set-Cookie");
    let (pair, attributes) = header.split_once("; ").unwrap();
    let (_, value) = pair.split_once('=').unwrap();
    (SessionId::parse(value).expect("an id"), attributes)
}

/// Asserts that a response gives an id.
pub fn assert_new_id(headers: &ResponseHeaders) {
    issued(headers);
}

/// A browser, as far as it concerns one site: it keeps one cookie.
#[derive(Clone, Debug, Default)]
pub struct Browser {
    /// Name and value, as it sends them.
    pub cookie: Option<String>,
}

impl Browser {
    pub fn with(cookie: impl Into<String>) -> Browser {
        Browser { cookie: Some(cookie.into()) }
    }

    pub fn open(&self, sessions: &SessionManager) -> Session {
        sessions.open(RequestHead::from(self.cookie.as_deref()))
    }

    /// Takes what a response brings.
    pub fn take(&mut self, headers: &ResponseHeaders) {
        for header in set_cookies(headers) {
            let pair = header.split(';').next().unwrap();
            self.cookie = (!header.contains("Max-Age=0")).then(|| pair.to_owned());
        }
    }

    /// A whole request, and what it adds to the response.
    pub fn try_request(
        &mut self,
        sessions: &SessionManager,
        outcome: Outcome,
        handler: impl FnOnce(&Session),
    ) -> Result<ResponseHeaders> {
        let session = self.open(sessions);
        handler(&session);
        let headers = sessions.close(&session, outcome)?;
        self.take(&headers);
        Ok(headers)
    }

    /// A whole request that goes well.
    pub fn request(
        &mut self,
        sessions: &SessionManager,
        handler: impl FnOnce(&Session),
    ) -> ResponseHeaders {
        self.try_request(sessions, Outcome::Completed, handler).unwrap()
    }

    /// This browser as it is after a request, while the browser itself stays as it is.
    pub fn after_request(
        &self,
        sessions: &SessionManager,
        handler: impl FnOnce(&Session),
    ) -> Browser {
        let mut browser = self.clone();
        browser.request(sessions, handler);
        browser
    }

    /// This browser as it is after a response.
    pub fn with_response(&self, headers: &ResponseHeaders) -> Browser {
        let mut browser = self.clone();
        browser.take(headers);
        browser
    }

    pub fn id(&self) -> SessionId {
        let (_, value) = self.cookie.as_deref().unwrap().split_once('=').unwrap();
        SessionId::parse(value).unwrap()
    }
}
