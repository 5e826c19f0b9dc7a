//! The settings of a manager, and the check that they hold together.

use std::fmt::{self, Debug};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::cleaner::Cleaner;
use crate::clock::{Clock, SystemClock};
use crate::cookie::{self, CookieConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::http::RequestHead;
use crate::lifetime::Lifetime;
use crate::manager::SessionManager;
use crate::policy::Policy;
use crate::process::Process;
use crate::session::{Endings, Guessing, OnLoadFailure, Settings, Shared, Transport, UpdateQueues};
use crate::store::{Admit, AtLimit, Store};

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
    pub(super) fn new(store: impl Store) -> Self {
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

    /// The limits and the persistence of a named policy.
    pub fn policy(self, policy: Policy) -> Self {
        self.lifetime(policy.lifetime()).persistent(policy.is_persistent())
    }

    /// How long sessions live whose cookie the browser forgets when it is closed. Defaults to
    /// [`lifetime`](Self::lifetime).
    pub fn browser_session_lifetime(self, lifetime: Lifetime) -> Self {
        self.with(|settings| settings.browser_session = Some(lifetime))
    }

    /// Whether browsers keep the cookie when they are closed, unless
    /// [`Session::set_persistent`](crate::Session::set_persistent) says otherwise. Defaults to true.
    pub fn persistent(self, persistent: bool) -> Self {
        self.with(|settings| settings.persistent = persistent)
    }

    /// The most bytes of JSON that one session may hold. Defaults to 65,536.
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_bytes = bytes)
    }

    /// For how long the old id works on after [`Session::renew`](crate::Session::renew), for requests that were under
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
    /// request must come through all of them. At most 8.
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
        if usize::from(settings.proxies) > RequestHead::MAX_COOKIE_HEADERS {
            return Err(invalid("the addresses of at most 8 proxies are looked at"));
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
        let endless = |lifetime: &Lifetime| lifetime.absolute_limit().is_none();
        if endless(&settings.lifetime) || settings.browser_session.as_ref().is_some_and(endless) {
            self.events.raise(&Event::NoAbsoluteLimit);
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
            process: Process::current(),
            store: self.store,
            clock: self.clock,
            events: self.events,
            cleaner,
            settings: self.settings,
            endings: Endings::default(),
            guessing: Guessing::default(),
            updates: UpdateQueues::default(),
        });
        Ok(SessionManager { shared, crossing: None })
    }
}
