//! The manager: what an application holds, and what it opens and closes sessions with.

use std::any::Any;
use std::error;
use std::fmt::{self, Debug};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::cleaner::Cleaner;
use crate::clock::{Clock, SystemClock};
use crate::cookie::{self, CookieConfig};
use crate::error::{Chain, Error, ErrorKind, Result, panic_words};
use crate::event::{Event, Events};
use crate::http::{Outcome, RequestHead, ResponseHeaders};
use crate::lifetime::Lifetime;
use crate::session::{
    Endings, Guessing, OnLoadFailure, Session, Settings, Shared, Transport, cross, straight,
};
use crate::store::{Admit, AtLimit, Store};

pub use crate::session::Crossing;

/// Sessions of one application, or of one part of it. Cloning gives another handle to the same.
///
/// When the last clone and the last [`Session`] are dropped, pending activity is written and the
/// cleaner's thread is stopped.
///
/// ```
/// use cloakroom::http::Outcome;
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
///
/// // What an adapter does for each request: open, let the handler work, close, add the headers.
/// let session = sessions.open(Some("theme=dark"));
/// session.set("cart", [1, 2, 3])?;
/// let headers = sessions.close(&session, Outcome::Completed)?;
/// assert!(headers.iter().any(|(name, value)| {
///     name == "Set-Cookie" && value.starts_with("__Host-id=")
/// }));
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone)]
pub struct SessionManager {
    shared: Arc<Shared>,
    crossing: Crossing,
}

impl Debug for SessionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionManager").field(&self.shared.store).finish()
    }
}

impl SessionManager {
    /// Sessions in `store`, with all defaults.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn new(store: impl Store) -> Result<Self> {
        SessionManager::builder(store).build()
    }

    /// Starts with the defaults.
    pub fn builder(store: impl Store) -> Builder {
        Builder {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            events: Events::default(),
            sweep_every: Some(Duration::from_secs(60)),
            settings: Settings {
                transport: Transport::Cookie(CookieConfig::new()),
                lifetime: Lifetime::default(),
                browser_session: None,
                persistent: true,
                max_bytes: 64 << 10,
                grace: None,
                on_load_failure: OnLoadFailure::Fail,
                keep_on_server_error: false,
                admit: None,
                status_of: default_status,
                proxies: 0,
                record_address: false,
                record_user_agent: false,
                no_store_when_signed_in: false,
                clear_site_data: false,
            },
        }
    }

    /// Another handle to the same sessions, for threads that must not block: it makes every call
    /// that may block through `crossing`, and so do the sessions that it opens. This is for
    /// adapters of frameworks that run handlers on such threads.
    #[must_use]
    pub fn crossing(&self, crossing: Crossing) -> Self {
        SessionManager { shared: self.shared.clone(), crossing }
    }

    /// The session of a request. No I/O.
    #[must_use]
    pub fn open<'r>(&self, head: impl Into<RequestHead<'r>>) -> Session {
        Session::new(self.shared.clone(), self.crossing, &head.into())
    }

    /// Ends the request: stores what the session has changed and says what the response needs.
    /// Call it before the first byte of the response goes out.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] at a second call. Any other error means that the changes since the
    /// last [`Session::commit`] or [`Session::sign_in`] were not stored: answer with
    /// [`status_of`](Self::status_of) it, and with the [headers](Self::headers_after_failure) of
    /// what was done before.
    pub fn close(&self, session: &Session, outcome: Outcome) -> Result<ResponseHeaders> {
        session.close(outcome)
    }

    /// What the response needs although [`close`](Self::close) failed: the new id, if a sign-in or
    /// a commit in this request has brought one, because that stands. Else there is no id in it.
    #[must_use]
    pub fn headers_after_failure(&self, session: &Session) -> ResponseHeaders {
        session.standing()
    }

    /// Removes every session that has ended, and says how many those were. The cleaner does so
    /// regularly; this is for commands and tests.
    ///
    /// # Errors
    /// The store's errors; [`ErrorKind::Unsupported`] without a cleaner.
    pub fn sweep_now(&self) -> Result<usize> {
        let cleaner = self.cleaner("sweep ended sessions")?;
        cross(self.crossing, || cleaner.sweep_now())
    }

    /// Returns when all activity that requests have handed to the cleaner is written.
    ///
    /// # Errors
    /// The store's errors; [`ErrorKind::Unsupported`] without a cleaner.
    pub fn flush(&self) -> Result<()> {
        let cleaner = self.cleaner("write pending activity")?;
        cross(self.crossing, || cleaner.flush())
    }

    fn cleaner(&self, doing: &'static str) -> Result<&Cleaner> {
        let none = || Error::with_source(ErrorKind::Unsupported, doing, "there is no cleaner");
        self.shared.cleaner.as_ref().ok_or_else(none)
    }

    /// The events of this manager, with their counters.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.shared.events
    }

    /// What sessions need to know of a request with these headers. An adapter for which the
    /// framework lists headers needs nothing else, but for the client's
    /// [address](RequestHead::peer) and whether the connection is [encrypted](RequestHead::secure).
    pub fn head<'r>(
        &self,
        headers: impl IntoIterator<Item = (&'r str, &'r str)>,
    ) -> RequestHead<'r> {
        let mut head = RequestHead::new();
        for (name, value) in headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if is("Cookie") {
                head = head.cookie(value);
            } else if is("Host") {
                head = head.host(value);
            } else if is("X-Forwarded-Proto") {
                // Of several proxies the first one speaks of the client's connection.
                let first = value.split(',').next().unwrap_or_default();
                head = head.secure(first.trim().eq_ignore_ascii_case("https"));
            } else if is("X-Forwarded-For") {
                head = head.forwarded_for(value);
            } else if is("User-Agent") {
                head = head.user_agent(value);
            }
            if self.id_header().is_some_and(is) {
                head = head.id(value);
            }
        }
        head
    }

    /// The names of all headers that [`head`](Self::head) looks at, for frameworks in which headers
    /// are asked for by name.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let names = ["Cookie", "Host", "X-Forwarded-Proto", "X-Forwarded-For", "User-Agent"];
        names.into_iter().chain(self.id_header())
    }

    /// The request header that carries the id, where that is not a cookie: an adapter that does
    /// not use [`head`](Self::head) passes its value to [`RequestHead::id`].
    #[must_use]
    pub fn id_header(&self) -> Option<&str> {
        match &self.shared.settings.transport {
            Transport::Cookie(_) => None,
            Transport::Header(name) => Some(name),
        }
    }

    /// The HTTP status to answer a request with that failed with `error`.
    #[must_use]
    pub fn status_of(&self, error: &Error) -> u16 {
        (self.shared.settings.status_of)(error.kind())
    }

    /// Raises the event that a request failed with `error`, and gives the status to answer it with.
    pub fn failed(&self, error: &Error) -> u16 {
        self.shared.events.raise(&Event::RequestFailed { error });
        self.status_of(error)
    }

    /// The same for whatever a handler returned: [`failed`](Self::failed) for an error of ours,
    /// else an event of its own, and 500.
    pub fn handler_failed(&self, error: &(dyn error::Error + Send + Sync + 'static)) -> u16 {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return self.failed(ours);
        }
        let words = Chain(error).to_string();
        self.shared.events.raise(&Event::HandlerFailed { error: &words });
        500
    }

    /// The same for a panic.
    pub fn handler_panicked(&self, panic: &(dyn Any + Send)) -> u16 {
        let error = panic_words(panic).unwrap_or("it panicked");
        self.shared.events.raise(&Event::HandlerFailed { error });
        500
    }
}

/// Headers that cannot carry an id, because they carry something else.
const TAKEN: [&str; 10] = [
    "Cookie",
    "Set-Cookie",
    "Host",
    "Content-Length",
    "Content-Type",
    "Transfer-Encoding",
    "Connection",
    "Vary",
    "Cache-Control",
    "Location",
];

/// 503 when trying again can help, else 500.
fn default_status(kind: ErrorKind) -> u16 {
    match kind {
        ErrorKind::Busy | ErrorKind::Unavailable => 503,
        _ => 500,
    }
}

/// The settings of a [`SessionManager`]. Start with [`SessionManager::builder`].
#[derive(Clone)]
#[must_use]
pub struct Builder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    events: Events,
    sweep_every: Option<Duration>,
    settings: Settings,
}

impl Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Builder {
    /// The session cookie. Defaults to [`CookieConfig::new`]. It ends the mode of
    /// [`header`](Self::header).
    pub fn cookie(self, cookie: CookieConfig) -> Self {
        self.with(|settings| settings.transport = Transport::Cookie(cookie))
    }

    /// Lets the id travel in a header of this name, in requests and responses, instead of a
    /// cookie: for clients that are no browsers. Cookies are not looked at then. A client whose
    /// session was destroyed is not told; its id is dead.
    pub fn header(self, name: impl Into<String>) -> Self {
        self.with(|settings| settings.transport = Transport::Header(name.into()))
    }

    /// How long sessions live. Defaults to 1 day idle and 30 days absolute.
    pub fn lifetime(self, lifetime: Lifetime) -> Self {
        self.with(|settings| settings.lifetime = lifetime)
    }

    /// How long sessions live whose cookie the browser forgets when it is closed. Defaults to
    /// [`lifetime`](Self::lifetime).
    pub fn browser_session_lifetime(self, lifetime: Lifetime) -> Self {
        self.with(|settings| settings.browser_session = Some(lifetime))
    }

    /// Whether browsers keep the cookie when they are closed, unless
    /// [`Session::set_persistent`] says otherwise. Defaults to true.
    pub fn persistent(self, persistent: bool) -> Self {
        self.with(|settings| settings.persistent = persistent)
    }

    /// The most bytes of JSON that one session may hold. Defaults to 65,536.
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_bytes = bytes)
    }

    /// For how long the old id works on after [`Session::renew`], for requests that were under
    /// way. A sign-in has no grace. Defaults to none.
    pub fn renewal_grace(self, grace: Duration) -> Self {
        self.with(|settings| settings.grace = Some(grace))
    }

    /// What a request gets when the store cannot be read. Defaults to the error.
    pub fn on_load_failure(self, policy: OnLoadFailure) -> Self {
        self.with(|settings| settings.on_load_failure = policy)
    }

    /// Whether the changes of a handler that answers with a 5xx status are stored. Defaults to
    /// false.
    pub fn keep_on_server_error(self, keep: bool) -> Self {
        self.with(|settings| settings.keep_on_server_error = keep)
    }

    /// The most sessions that one user may have, and what a sign-in does that would exceed it.
    /// Defaults to no limit.
    pub fn max_sessions_per_user(self, limit: NonZeroU32, at_limit: AtLimit) -> Self {
        self.with(|settings| settings.admit = Some(Admit::new(limit, at_limit)))
    }

    /// The HTTP status for a request that failed because of the store. Defaults to 503 for
    /// [`Busy`](ErrorKind::Busy) and [`Unavailable`](ErrorKind::Unavailable), and 500 for all
    /// else.
    pub fn error_status(self, status_of: fn(ErrorKind) -> u16) -> Self {
        self.with(|settings| settings.status_of = status_of)
    }

    /// How many proxies stand in front of the application that each add to `X-Forwarded-For`: the
    /// client's address is the one that the farthest of them has added. Defaults to 0: the header,
    /// which any client can send, is not believed, and the address is the connection's own. Every
    /// request must come through all of them.
    pub fn behind_proxies(self, proxies: u8) -> Self {
        self.with(|settings| settings.proxies = proxies)
    }

    /// Whether a session keeps the address of the client that began it or signed in, for lists of
    /// a user's sessions. Defaults to false: it is personal data.
    pub fn record_address(self, record: bool) -> Self {
        self.with(|settings| settings.record_address = record)
    }

    /// The same for the client's user agent, of which 256 bytes are kept. Defaults to false.
    pub fn record_user_agent(self, record: bool) -> Self {
        self.with(|settings| settings.record_user_agent = record)
    }

    /// Whether responses of requests that looked at their session and found somebody signed in say
    /// `Cache-Control: no-store`: neither a proxy nor the browser keeps them, so the back button
    /// does not show them after a sign-out. Defaults to false. OWASP ASVS 5.0 asks for it in 14.3.2
    /// where the response is sensitive; a handler can say the same for its own response alone.
    pub fn no_store_when_signed_in(self, no_store: bool) -> Self {
        self.with(|settings| settings.no_store_when_signed_in = no_store)
    }

    /// Whether the response of a request that destroyed a session says
    /// `Clear-Site-Data: "cache", "storage"`: the browser forgets what this site's pages have
    /// stored in it and what it has cached of them. Defaults to false. OWASP ASVS 5.0 names it in
    /// 14.3.1. Browsers heed it over TLS only.
    ///
    /// `"cookies"` is not among it. It removes every cookie of the whole registered domain, those
    /// of sibling hosts too; and it is carried out after `Set-Cookie`, so it would remove the cookie
    /// of a session that the same response begins ([W3C Clear Site Data], Fetch Integration). Our
    /// own cookie is removed by name in any case.
    ///
    /// Chromium can take some seconds to clear a large cache. Where that is too long, leave this
    /// off, use [`no_store_when_signed_in`](Self::no_store_when_signed_in), and let the page that
    /// signs out send `Clear-Site-Data: "storage"` itself.
    ///
    /// [W3C Clear Site Data]: https://w3c.github.io/webappsec-clear-site-data/#fetch-integration
    pub fn clear_site_data(self, clear: bool) -> Self {
        self.with(|settings| settings.clear_site_data = clear)
    }

    /// How often ended sessions are swept; from one millisecond to one day. Defaults to 60 seconds.
    pub fn sweep_every(self, interval: Duration) -> Self {
        Builder { sweep_every: Some(interval), ..self }
    }

    /// Starts no cleaner: nothing is swept, and each request writes its own activity. For a
    /// program beside the one that serves.
    pub fn without_cleaner(self) -> Self {
        Builder { sweep_every: None, ..self }
    }

    /// Where the time comes from. Defaults to [`SystemClock`].
    pub fn clock(self, clock: impl Clock) -> Self {
        Builder { clock: Arc::new(clock), ..self }
    }

    /// Where events go. Defaults to the [`log`] crate.
    pub fn events(self, events: Events) -> Self {
        Builder { events, ..self }
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Checks the settings and starts the cleaner.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`]: a setting is not acceptable; the text says which and why.
    /// - [`ErrorKind::Unsupported`]: there is a limit per user, and the store cannot list sessions
    ///   by user.
    /// - [`ErrorKind::Unavailable`]: the operating system gives no thread for the cleaner.
    pub fn build(self) -> Result<SessionManager> {
        let invalid = |why| Error::with_source(ErrorKind::Invalid, "configure sessions", why);
        let settings = &self.settings;
        settings.lifetime.check()?;
        if let Some(lifetime) = &settings.browser_session {
            lifetime.check()?;
        }
        match &settings.transport {
            Transport::Cookie(cookie) => cookie.check()?,
            Transport::Header(name) => {
                if name.is_empty() || !name.bytes().all(cookie::is_token) {
                    return Err(invalid(
                        "a header's name has only letters, digits, !#$%&'*+-.^_`|~",
                    ));
                }
                if TAKEN.iter().any(|taken| name.eq_ignore_ascii_case(taken)) {
                    return Err(invalid("that header has a meaning of its own"));
                }
            }
        }
        let possible = Duration::from_millis(1)..=Duration::from_secs(86_400);
        if self.sweep_every.is_some_and(|interval| !possible.contains(&interval)) {
            return Err(invalid("sweeps are from one millisecond to one day apart"));
        }
        if settings.admit.is_some() && !self.store.traits().lists {
            let why = "this store cannot count the sessions of a user";
            let doing = "limit the sessions of a user";
            return Err(Error::with_source(ErrorKind::Unsupported, doing, why));
        }
        let cleaner = match self.sweep_every {
            Some(interval) => Some(Cleaner::start(
                self.store.clone(),
                self.clock.clone(),
                self.events.clone(),
                interval,
            )?),
            None => None,
        };
        let shared = Arc::new(Shared {
            store: self.store,
            clock: self.clock,
            events: self.events,
            cleaner,
            settings: self.settings,
            endings: Endings::default(),
            guessing: Guessing::default(),
            stripes: [const { Mutex::new(()) }; 64],
        });
        Ok(SessionManager { shared, crossing: straight })
    }
}
