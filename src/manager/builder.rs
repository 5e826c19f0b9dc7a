//! The settings of a manager, and the check that they hold together.

use std::fmt::{self, Debug};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{AtLimit, SessionLimit, Store};
use crate::cleaner::Cleaner;
use crate::clock::{Clock, SystemClock};
use crate::cookie::{self, CookieConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::Realm;
use crate::lifetime::Lifetime;
use crate::manager::SessionManager;
use crate::message::MAX_PROXIES;
use crate::policy::Policy;
use crate::process::Process;
use crate::session::{
    Context, FormerCookie, GuessDetector, OnLoadFailure, RecentlyEnded, Settings, Transport,
    UpdateQueues,
};
use crate::sync::Mutex;

/// Headers that cannot carry an id, because they carry something else, in requests or in responses.
const TAKEN: [&str; 37] = [
    "Age",
    "Allow",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Cookie",
    "Date",
    "ETag",
    "Expect",
    "Expires",
    "Forwarded",
    "From",
    "Host",
    "Keep-Alive",
    "Last-Modified",
    "Link",
    "Location",
    "Max-Forwards",
    "Origin",
    "Pragma",
    "Range",
    "Referer",
    "Refresh",
    "Retry-After",
    "Server",
    "Set-Cookie",
    "Strict-Transport-Security",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "User-Agent",
    "Vary",
    "Via",
    "Warning",
    "WWW-Authenticate",
    "X-Real-IP",
];

/// What the names of other such headers begin with.
const TAKEN_STARTS: [&str; 8] = [
    "Accept",
    "Access-Control-",
    "Clear-Site-",
    "Content-",
    "If-",
    "Proxy-",
    "Sec-",
    "X-Forwarded-",
];

/// How long an id that was replaced can go on at most: a request takes no longer, and a stolen id
/// is to end with the renewal.
const LONGEST_GRACE: Duration = Duration::from_secs(60);

fn is_taken(header: &str) -> bool {
    let begins_with = |start: &&str| {
        header.get(..start.len()).is_some_and(|have| have.eq_ignore_ascii_case(start))
    };
    TAKEN.iter().any(|taken| header.eq_ignore_ascii_case(taken))
        || TAKEN_STARTS.iter().any(begins_with)
}

/// The settings of a [`SessionManager`]. Start with [`SessionManager::builder`].
#[derive(Clone)]
#[must_use]
pub struct SessionManagerBuilder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    events: Events,
    sweep_every: Option<Duration>,
    realm: Option<String>,
    also_read: Vec<String>,
    settings: Settings,
}

impl Debug for SessionManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionManagerBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl SessionManagerBuilder {
    pub(super) fn new(store: impl Store) -> Self {
        SessionManagerBuilder {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            events: Events::default(),
            sweep_every: Some(Duration::from_secs(60)),
            realm: None,
            also_read: Vec::new(),
            settings: Settings {
                transport: Transport::Cookie(CookieConfig::new()),
                realm: Realm::default(),
                realm_tag: Realm::default().tag(),
                former: Vec::new(),
                lifetime: Lifetime::default(),
                browser_session: None,
                persistent: true,
                max_bytes: 64 << 10,
                grace: None,
                on_load_failure: OnLoadFailure::Fail,
                keep_on_server_error: false,
                session_limit: None,
                status_of: ErrorKind::default_status,
                proxies: 0,
                record_address: false,
                record_user_agent: false,
                no_store_when_signed_in: false,
                form_pages_no_store: true,
                end_session_on_replaced_id: false,
                clear_site_data: false,
            },
        }
    }

    /// The session cookie. Defaults to [`CookieConfig::new`]. It ends the mode of
    /// [`header`](Self::header). A cookie of another name is another session: renaming it signs out
    /// all users, unless [`also_read`](Self::also_read) names the old one. Applications on one host need different names, because cookies do not tell ports
    /// apart.
    pub fn cookie(self, cookie: CookieConfig) -> Self {
        self.with(|settings| settings.transport = Transport::Cookie(cookie))
    }

    /// Lets the id travel in a header of this name, in requests and responses, instead of a
    /// cookie: for clients that are no browsers. Cookies are not looked at then. A client whose
    /// session was destroyed is not told; its id is dead. Headers that carry something else, such
    /// as `Authorization`, are refused when the manager is built.
    pub fn header(self, name: impl Into<String>) -> Self {
        self.with(|settings| settings.transport = Transport::Header(name.into()))
    }

    /// The realm of this manager: it takes no id of another, and lists, limits and revokes the
    /// sessions of this one alone, be the store the same. Managers with one realm share their
    /// sessions, such as one with a cookie for browsers and one with a header for other clients.
    /// A name of 1 to 255 bytes; defaults to the name of the cookie or header.
    ///
    /// A new realm ends nothing, but nobody finds the sessions of the old one any more.
    pub fn realm(self, name: impl Into<String>) -> Self {
        SessionManagerBuilder { realm: Some(name.into()), ..self }
    }

    /// Reads the cookie of this name too, which it had before: a visitor whose browser has only
    /// that one keeps the session, which moves to today's name, with a new id, at the next change
    /// that is stored. A sign-out removes both. The sessions are those of the former name's default
    /// realm, and of this manager's if it has a [`realm`](Self::realm) of its own; the attributes
    /// and keys are today's. For cookies only; can be called for several
    /// names.
    ///
    /// Keep it for as long as sessions last: with the default lifetime, 30 days.
    pub fn also_read(mut self, name: impl Into<String>) -> Self {
        self.also_read.push(name.into());
        self
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
    ///
    /// With false, the cookie has neither Max-Age nor Expires. A browser that restores its windows
    /// at start keeps it all the same; the idle limit is what ends such a session.
    pub fn persistent(self, persistent: bool) -> Self {
        self.with(|settings| settings.persistent = persistent)
    }

    /// The most bytes of JSON that one session may hold. Defaults to 65,536. Flash messages do not
    /// count: they have a [limit of their own](crate::Flash).
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_bytes = bytes)
    }

    /// For how long the old id works on after [`Session::renew`](crate::Session::renew), for
    /// requests that were under way; at most one minute, because the id may be the one that a
    /// renewal is to end for a thief. A sign-in has no grace. Defaults to none.
    pub fn renewal_grace(self, grace: Duration) -> Self {
        self.with(|settings| settings.grace = Some(grace))
    }

    /// Whether a session ends when an id comes that was replaced more than ten seconds before, by
    /// a renewal or a sign-in, and is remembered still: a thief and the user would then both be
    /// signed out (OWASP calls it reuse detection). Defaults to false, because a client that lost
    /// the answer with its new id presents the old one too, and would be signed out everywhere. In
    /// either case it is an event, [`ReplacedIdUsed`](crate::event::Event::ReplacedIdUsed).
    pub fn end_session_on_replaced_id(self, end: bool) -> Self {
        self.with(|settings| settings.end_session_on_replaced_id = end)
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
        self.with(|settings| settings.session_limit = Some(SessionLimit::new(limit, at_limit)))
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
    ///
    /// Chromium keeps such pages in its back/forward cache until an HttpOnly cookie of the site
    /// changes, and may miss a removal. So under this setting a sign-out sends two `Set-Cookie`
    /// fields, the first of which overwrites the cookie by a constant that is no id, and the second
    /// removes it. RFC 6265, section 4.1.1, advises against two of one name; both are sent in
    /// order, and a server that sees the constant ignores it. A sign-out whose response begins a new
    /// session sends one field.
    pub fn no_store_when_signed_in(self, no_store: bool) -> Self {
        self.with(|settings| settings.no_store_when_signed_in = no_store)
    }

    /// Whether pages with a form token say `Cache-Control: no-store`. Defaults to true: browsers
    /// restore a page that they may keep without asking, after a restart or by the Back button,
    /// with a token that counts no more and the name of a user who has signed out. Without it, Back
    /// keeps the text that was typed into a form.
    ///
    /// Chromium's back/forward cache is not covered in one case: the page that followed a sign-in may
    /// be restored after a sign-out whose response begins no new session. That takes
    /// [`no_store_when_signed_in`](Self::no_store_when_signed_in) too.
    pub fn form_pages_no_store(self, no_store: bool) -> Self {
        self.with(|settings| settings.form_pages_no_store = no_store)
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
        SessionManagerBuilder { sweep_every: Some(interval), ..self }
    }

    /// Starts no cleaner: nothing is swept, and each request writes its own activity. For a
    /// program beside the one that serves.
    pub fn without_cleaner(self) -> Self {
        SessionManagerBuilder { sweep_every: None, ..self }
    }

    /// Where the time comes from. Defaults to [`SystemClock`].
    pub fn clock(self, clock: impl Clock) -> Self {
        SessionManagerBuilder { clock: Arc::new(clock), ..self }
    }

    /// Where events go. Defaults to the [`log`] crate.
    pub fn events(self, events: Events) -> Self {
        SessionManagerBuilder { events, ..self }
    }

    /// Works the realm out, of today's cookie and of those of former names.
    fn find_realm(&mut self) -> Result<()> {
        let settings = &mut self.settings;
        let default = match &settings.transport {
            Transport::Cookie(cookie) => cookie.name_text().to_owned(),
            Transport::Header(name) => name.to_ascii_lowercase(),
        };
        let named = self.realm.take().map(Realm::new).transpose()?;
        settings.realm = named.clone().map_or_else(|| Realm::new(default), Ok)?;
        settings.realm_tag = settings.realm.tag();
        let Transport::Cookie(cookie) = &settings.transport else {
            if self.also_read.is_empty() {
                return Ok(());
            }
            let why = "only a cookie can be read under another name, not a header";
            return Err(Error::with_source(ErrorKind::Invalid, "read a former cookie", why));
        };
        for name in self.also_read.drain(..) {
            if name == cookie.name_text() {
                let why = "that is the name which the cookie has";
                return Err(Error::with_source(ErrorKind::Invalid, "read a former cookie", why));
            }
            let former = cookie.clone().name(name);
            former.check()?;
            // What a cookie of a manager with a realm of its own was before it got one is not known.
            for realm in [Some(Realm::new(former.name_text())?), named.clone()] {
                let Some(realm) = realm.map(|realm| realm.tag()) else { continue };
                let cookie = former.clone().of_realm(realm)?;
                settings.former.push(FormerCookie { cookie, realm });
            }
        }
        settings.transport = Transport::Cookie(cookie.clone().of_realm(settings.realm_tag)?);
        Ok(())
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
    pub fn build(mut self) -> Result<SessionManager> {
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
                if is_taken(name) {
                    return Err(invalid("that header has a meaning of its own"));
                }
            }
        }
        if settings.grace.is_some_and(|grace| grace > LONGEST_GRACE) {
            return Err(invalid("a replaced id goes on for at most one minute"));
        }
        if settings.proxies > MAX_PROXIES {
            return Err(invalid("the addresses of at most 8 proxies are looked at"));
        }
        let possible = Duration::from_millis(1)..=Duration::from_secs(86_400);
        if self.sweep_every.is_some_and(|interval| !possible.contains(&interval)) {
            return Err(invalid("sweeps are from one millisecond to one day apart"));
        }
        if settings.session_limit.is_some() && !self.store.capabilities().indexed {
            let why = "this store cannot count the sessions of a user";
            let operation = "limit the sessions of a user";
            return Err(Error::with_source(ErrorKind::Unsupported, operation, why));
        }
        let endless = |lifetime: &Lifetime| lifetime.absolute_limit().is_none();
        if endless(&settings.lifetime) || settings.browser_session.as_ref().is_some_and(endless) {
            self.events.raise(&Event::NoAbsoluteLimit);
        }
        self.find_realm()?;
        let cleaner = match self.sweep_every {
            Some(interval) => Some(Cleaner::start(
                self.store.clone(),
                self.clock.clone(),
                self.events.clone(),
                interval,
            )?),
            None => None,
        };
        let context = Arc::new(Context {
            process: Process::current(),
            store: self.store,
            clock: self.clock,
            events: self.events,
            cleaner,
            settings: self.settings,
            recently_ended: RecentlyEnded::default(),
            guess_detector: GuessDetector::default(),
            dropped: Mutex::default(),
            updates: UpdateQueues::default(),
        });
        Ok(SessionManager { context, blocking_hook: None })
    }
}
