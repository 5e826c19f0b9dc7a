//! The builder of a manager: every setting with its default, and the validation of all of them.
//!
//! Applications call it through [`SessionManager::builder`].

use std::error;
use std::fmt::{self, Debug};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{MaxSessions, Store};
use crate::cleaner::{Cleaner, MaxAnonymous};
use crate::clock::{Clock, SystemClock};
use crate::context::{BlockingCalls, Context, EndTrail};
use crate::cookie::{self, CookieConfig};
use crate::cross_origin::CrossOrigin;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::Realm;
use crate::lifetime::{AtMaximum, Lifetime};
use crate::manager::SessionManager;
use crate::message::MAX_PROXIES;
use crate::policy::Policy;
use crate::record::EndedSession;
use crate::session::AGE_RENEWAL_GRACE;
use crate::settings::{IdCarrier, IdSettings, OnLoadFailure, Settings};

/// The names of headers that cannot carry an id, because they have another meaning in requests or
/// responses.
const RESERVED_HEADERS: &str = "\
    Age Allow Authorization Cache-Control Connection Cookie Date ETag Expect Expires Forwarded \
    From Host Keep-Alive Last-Modified Link Location Max-Forwards Origin Pragma Range Referer \
    Refresh Retry-After Server Set-Cookie Strict-Transport-Security TE Trailer \
    Transfer-Encoding Upgrade User-Agent Vary Via Warning WWW-Authenticate X-Real-IP";

/// The prefixes of further such names.
const RESERVED_HEADER_PREFIXES: &str =
    "Accept Access-Control- Clear-Site- Content- If- Proxy- Sec- X-Forwarded-";

/// The maximum grace of a replaced id. A longer one would keep a stolen id valid after a renewal
/// that is meant to invalidate it. Overlapping requests may take longer: they need the grace only
/// until they have read the session.
const MAX_GRACE: Duration = Duration::from_secs(60);

const DEFAULT_MAX_ANONYMOUS: u64 = 1_000_000;

/// The builder of a [`SessionManager`]. Start with [`SessionManager::builder`].
///
/// The defaults are meant for production. Behind a proxy, set
/// [`behind_proxies`](Self::behind_proxies). Stored sessions keep their limits and what was
/// recorded, so [decide](crate::guide::getting_started#in-production) the
/// [`cookie`](Self::cookie), the [`lifetime`](Self::lifetime) and what sessions record before the
/// first users sign in.
///
/// | to choose | call |
/// |---|---|
/// | how long sessions live | [`lifetime`](Self::lifetime), [`anonymous_lifetime`](Self::anonymous_lifetime), [`browser_session_lifetime`](Self::browser_session_lifetime), [`persistent`](Self::persistent), [`max_idle_limit`](Self::max_idle_limit); [`policy`](Self::policy) for a standard |
/// | how many there are, and how large | [`max_sessions_per_user`](Self::max_sessions_per_user), [`max_anonymous`](Self::max_anonymous), [`max_bytes`](Self::max_bytes) |
/// | what carries the id | [`cookie`](Self::cookie), [`header`](Self::header), [`realm`](Self::realm), [`former_cookie_name`](Self::former_cookie_name) |
/// | when the id is renewed, and what an old one does | [`renew_every`](Self::renew_every), [`renewal_grace`](Self::renewal_grace), [`end_session_on_replaced_id`](Self::end_session_on_replaced_id) |
/// | which requests are trusted, and what is recorded of clients | [`behind_proxies`](Self::behind_proxies), [`cross_origin`](Self::cross_origin), [`record_address`](Self::record_address), [`record_user_agent`](Self::record_user_agent) |
/// | what happens after an error | [`on_load_failure`](Self::on_load_failure), [`keep_on_server_error`](Self::keep_on_server_error), [`error_status`](Self::error_status) |
/// | what browsers may store | [`no_store_when_signed_in`](Self::no_store_when_signed_in), [`no_store_with_csrf_token`](Self::no_store_with_csrf_token), [`clear_site_data`](Self::clear_site_data) |
/// | the work in the background, time, events | [`sweep_every`](Self::sweep_every), [`without_cleaner`](Self::without_cleaner), [`clock`](Self::clock), [`events`](Self::events) |
///
/// ```
/// use cloakroom::{CookieConfig, Lifetime, SessionManager};
/// # use cloakroom::MemoryStore;
/// use std::time::Duration;
///
/// let hour = Duration::from_secs(60 * 60);
/// # let store = MemoryStore::new();
/// let sessions = SessionManager::builder(store)
///     .cookie(CookieConfig::new().name("__Host-shop"))
///     .lifetime(Lifetime::idle(hour).with_absolute(12 * hour))
///     // The number of proxies. If it is too high, clients can forge their address.
///     .behind_proxies(1)
///     .build()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct SessionManagerBuilder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    events: Events,
    sweep_every: Option<Duration>,
    carrier: IdCarrier,
    /// `None` for the name of the cookie or header.
    realm: Option<String>,
    former_cookie_names: Vec<String>,
    /// `None` for the default of the carrier.
    cross_origin: Option<CrossOrigin>,
    settings: Settings,
}

impl Debug for SessionManagerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionManagerBuilder")
            .field("carrier", &self.carrier)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl SessionManagerBuilder {
    pub(super) fn new(store: impl Store) -> Self {
        let needs_maximum = store.index().is_some() && !store.capabilities().bounds_anonymous;
        SessionManagerBuilder {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            events: Events::default(),
            sweep_every: Some(Duration::from_secs(60)),
            carrier: IdCarrier::Cookie(CookieConfig::new()),
            realm: None,
            former_cookie_names: Vec::new(),
            cross_origin: None,
            settings: Settings {
                lifetime: Lifetime::default(),
                browser_session_lifetime: None,
                anonymous_lifetime: None,
                max_anonymous: needs_maximum.then_some(DEFAULT_MAX_ANONYMOUS),
                persistent: true,
                max_bytes: 64 << 10,
                renewal_grace: Duration::ZERO,
                renew_every: None,
                max_idle_limit: None,
                on_load_failure: OnLoadFailure::Fail,
                keep_on_server_error: false,
                max_sessions: None,
                status_of: ErrorKind::default_status,
                proxies: 0,
                record_address: false,
                record_user_agent: false,
                no_store_when_signed_in: false,
                no_store_with_csrf_token: true,
                end_session_on_replaced_id: false,
                clear_site_data: false,
            },
        }
    }

    /// Sets the session cookie. Defaults to [`CookieConfig::new`], with the name `__Host-id`.
    /// Replaces a [`header`](Self::header).
    ///
    /// Applications on one host, such as localhost, need cookies of different names. Renaming the
    /// cookie signs out all users, unless [`former_cookie_name`](Self::former_cookie_name) names
    /// the old one.
    pub fn cookie(self, cookie: CookieConfig) -> Self {
        SessionManagerBuilder { carrier: IdCarrier::Cookie(cookie), ..self }
    }

    /// Carries the id in the header `name`, in requests and responses, instead of a cookie. This is
    /// for [clients that are not browsers](crate::guide::api_clients). The manager then ignores
    /// cookies.
    ///
    /// Building the manager fails for a header with another meaning, such as `Authorization`: use
    /// one of your own, such as `X-Session-Id`. The [cross-origin check](Self::cross_origin) is off
    /// by default. A sign-out cannot remove the id from such a client, but the id then finds no
    /// session.
    ///
    /// Two managers share their sessions if they have the same store and realm:
    ///
    /// ```
    /// # use cloakroom::{SessionManager, SqliteStore};
    /// # let store = SqliteStore::in_memory()?;
    /// // For browsers, with a cookie, and for programs, with a header.
    /// let web = SessionManager::builder(store.clone()).realm("shop").build()?;
    /// let api = SessionManager::builder(store).realm("shop").header("X-Session-Id").build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn header(self, name: impl Into<String>) -> Self {
        SessionManagerBuilder { carrier: IdCarrier::Header(name.into()), ..self }
    }

    /// Sets the realm of this manager, a name of 1 to 255 bytes. Defaults to the name of the cookie
    /// or header.
    ///
    /// A realm separates the sessions of several managers on one store: a manager finds, limits,
    /// lists and revokes only the sessions of its realm, but [`stats`](SessionManager::stats)
    /// counts those of all realms. Managers with the same realm share their sessions.
    ///
    /// After a change of the realm, the sessions of the old one stay in the store until they
    /// expire, but their users are signed out.
    pub fn realm(self, name: impl Into<String>) -> Self {
        SessionManagerBuilder { realm: Some(name.into()), ..self }
    }

    /// Adds a former name of the session cookie, so that a visitor whose browser has only that
    /// cookie keeps the session. Can be called several times, for several names. Defaults to none.
    /// Building the manager fails with a [`header`](Self::header), and without a
    /// [`realm`](Self::realm).
    ///
    /// The next stored change moves the session to the current name, with a new id, and removes the
    /// former cookie. A program with the former name then finds no session.
    ///
    /// Sessions stay in their realm, which is the name of the cookie if none is set. So when you
    /// rename the cookie, set `realm` to the former name, and never change it; clients do not see
    /// it. Keep the former name for the absolute limit of sessions, 30 days by default.
    ///
    /// ```
    /// # use cloakroom::{CookieConfig, MemoryStore, SessionManager};
    /// // The cookie was `__Host-id` until now, and no realm was set.
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .cookie(CookieConfig::new().name("__Host-shop"))
    ///     .realm("__Host-id") // stays
    ///     .former_cookie_name("__Host-id") // for 30 days
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// See [the guide](crate::guide::cookies#renaming-the-cookie) before you deploy this on several
    /// machines, and if the application has had several realms.
    pub fn former_cookie_name(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if !self.former_cookie_names.contains(&name) {
            self.former_cookie_names.push(name);
        }
        self
    }

    /// Sets the lifetime of sessions with a user. Each limit is at least one millisecond. Defaults
    /// to 1 day idle and 30 days absolute.
    ///
    /// A session that reaches a limit has expired, and its user must sign in again. Without an
    /// absolute limit a thief can use a session for ever, so building the manager then raises
    /// [`NoAbsoluteLimit`](Event::NoAbsoluteLimit).
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, SessionManager};
    /// # use std::time::Duration;
    /// let day = Duration::from_secs(24 * 3600);
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .lifetime(Lifetime::idle(14 * day).with_absolute(60 * day))
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn lifetime(self, lifetime: Lifetime) -> Self {
        self.with(|settings| settings.lifetime = lifetime)
    }

    /// Sets [`lifetime`](Self::lifetime) and [`persistent`](Self::persistent) by a standard, such
    /// as NIST's assurance level 2 with [`Policy::aal2`]. A later call of either of them replaces
    /// its value.
    pub fn policy(self, policy: Policy) -> Self {
        self.lifetime(policy.lifetime()).persistent(policy.is_persistent())
    }

    /// Sets the lifetime of sessions with a user whose cookie is not
    /// [persistent](Self::persistent). Defaults to [`lifetime`](Self::lifetime).
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, SessionManager};
    /// # use std::time::Duration;
    /// let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(24 * 3600));
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .persistent(false) // the browser deletes the cookie, unless a handler says otherwise
    ///     .browser_session_lifetime(Lifetime::idle(hour).with_absolute(12 * hour))
    ///     .lifetime(Lifetime::idle(14 * day).with_absolute(60 * day)) // with "remember me"
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn browser_session_lifetime(self, lifetime: Lifetime) -> Self {
        self.with(|settings| settings.browser_session_lifetime = Some(lifetime))
    }

    /// Sets the lifetime of anonymous sessions. A sign-in restarts both limits, with those of
    /// [`lifetime`](Self::lifetime).
    ///
    /// Defaults to 1 day idle and 7 days absolute, or to the limits of `lifetime` where those are
    /// shorter. If the cookie is not [persistent](Self::persistent),
    /// [`browser_session_lifetime`](Self::browser_session_lifetime) takes the place of `lifetime`.
    /// A lifetime that is set here is not shortened.
    ///
    /// Set a longer one if visitors fill a cart without an account. Anyone can begin an anonymous
    /// session, so a longer lifetime means more stored sessions.
    pub fn anonymous_lifetime(self, lifetime: Lifetime) -> Self {
        self.with(|settings| settings.anonymous_lifetime = Some(lifetime))
    }

    /// Sets the longest idle limit that a handler can give a session with
    /// [`Session::set_idle_limit`](crate::Session::set_idle_limit) or
    /// [`Authentication::idle_limit`](crate::Authentication::idle_limit). The absolute limit
    /// applies in any case. Defaults to the idle limit of the session's lifetime, so that a handler
    /// can only shorten it; if that lifetime has no idle limit, to its absolute limit.
    ///
    /// Building the manager fails if this is less than the idle limit of one of its lifetimes.
    ///
    /// ```
    /// # use cloakroom::{Lifetime, MemoryStore, SessionManager};
    /// # use std::time::Duration;
    /// let hour = Duration::from_secs(3600);
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .lifetime(Lifetime::idle(hour).with_absolute(24 * hour))
    ///     .max_idle_limit(8 * hour) // a handler may call `session.set_idle_limit(8 * hour)`
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn max_idle_limit(self, limit: Duration) -> Self {
        self.with(|settings| settings.max_idle_limit = Some(limit))
    }

    /// Sets whether browsers keep the cookie when they are closed. Defaults to true. A handler can
    /// choose otherwise with [`Session::set_persistent`](crate::Session::set_persistent).
    ///
    /// With false, which suits shared computers, the cookie has neither Max-Age nor Expires, and
    /// the browser deletes it when it is closed. A browser that restores its windows at start keeps
    /// the cookie even then, so such a session needs an idle limit.
    pub fn persistent(self, persistent: bool) -> Self {
        self.with(|settings| settings.persistent = persistent)
    }

    /// Sets the maximum size of one session's data, in bytes of JSON. Defaults to 65,536. The CSRF
    /// secret does not count, nor do flash messages, which have a [separate limit](crate::Flash).
    ///
    /// A change that exceeds the maximum fails with [`ErrorKind::TooLarge`], and the stored session
    /// stays as it is. A session that is larger, because the maximum was lowered, can be read, and
    /// changed if it does not grow.
    pub fn max_bytes(self, bytes: usize) -> Self {
        self.with(|settings| settings.max_bytes = bytes)
    }

    /// Sets how long the replaced id still finds the session after
    /// [`Session::renew`](crate::Session::renew) and
    /// [`confirm_authentication`](crate::Session::confirm_authentication). At most one minute,
    /// because a renewal may be meant to invalidate a stolen id. Defaults to zero: requests that
    /// are in flight when a handler calls `renew` then find no session and store nothing. The guide
    /// says [when to set it](crate::guide::ids#renewal_grace).
    ///
    /// A sign-in has no grace. A renewal by age ([`renew_every`](Self::renew_every)) always has one
    /// of one minute.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionManager};
    /// # use std::time::Duration;
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .renewal_grace(Duration::from_secs(10)) // for requests that are in flight
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn renewal_grace(self, grace: Duration) -> Self {
        self.with(|settings| settings.renewal_grace = grace)
    }

    /// Sets the age at which the id of a session is renewed (the *renewal timeout* of OWASP's
    /// Session Management Cheat Sheet). The first request that uses the session at that age or
    /// later renews the id at its end. Defaults to none. The minimum is one minute; an hour is
    /// common. The session keeps its limits and its CSRF tokens, and the replaced id still finds it
    /// for one minute.
    ///
    /// Leave it off, unless a rule requires it. It stops only a thief who pauses, and it can sign a
    /// user out whose client loses the response with the new id. [The
    /// guide](crate::guide::ids#renew_every) has examples.
    ///
    /// No id is renewed by a prefetch, by a request that [ignores](crate::Session::ignore) its
    /// session, or by one whose handler fails. If the renewal itself fails, the request succeeds,
    /// [`RenewalFailed`](Event::RenewalFailed) is raised, and the next request tries again.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionManager};
    /// # use std::time::Duration;
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .renew_every(Duration::from_secs(60 * 60)) // if a rule requires it
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn renew_every(self, age: Duration) -> Self {
        self.with(|settings| settings.renew_every = Some(age))
    }

    /// Sets whether a request that presents only a replaced id ends the session, because the id may
    /// be stolen. Both the user and a thief are then signed out. Defaults to false: a client that
    /// lost the response with its new id presents the replaced one too.
    ///
    /// The setting applies to a request that raises [`ReplacedIdUsed`](Event::ReplacedIdUsed): one
    /// that is opened more than ten seconds after the replacement and after the end of the id's
    /// grace. With false, the event is all that happens. The guide has [the exact
    /// times](crate::guide::ids#what-an-old-id-does).
    ///
    /// Do not set it if the application [checks long
    /// connections](crate::guide::devices#websockets-and-streams) by their old `Cookie` field:
    /// after a new id such a check ends the session.
    pub fn end_session_on_replaced_id(self, end: bool) -> Self {
        self.with(|settings| settings.end_session_on_replaced_id = end)
    }

    /// Sets what a request receives when the store cannot be read. Defaults to
    /// [`OnLoadFailure::Fail`].
    ///
    /// ```
    /// use cloakroom::manager::OnLoadFailure;
    /// # use cloakroom::{MemoryStore, SessionManager};
    ///
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     // While the store fails, pages are shown as to a visitor without a session.
    ///     .on_load_failure(OnLoadFailure::TreatAsAnonymous)
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn on_load_failure(self, policy: OnLoadFailure) -> Self {
        self.with(|settings| settings.on_load_failure = policy)
    }

    /// Sets whether the changes of a handler that responds with a 5xx status or returns an error
    /// are stored. Defaults to false. With true, all changes that the handler had made before the
    /// error are stored; those of a handler that panicked never are.
    /// [`Outcome`](crate::adapter::Outcome) has a table.
    pub fn keep_on_server_error(self, keep: bool) -> Self {
        self.with(|settings| settings.keep_on_server_error = keep)
    }

    /// Sets the maximum number of live sessions per user in this manager's realm, and what a
    /// sign-in does beyond it. Defaults to no maximum. Building the manager fails with
    /// [`ErrorKind::Unsupported`] if the store cannot list sessions, such as memcached.
    ///
    /// ```
    /// use cloakroom::lifetime::AtMaximum;
    /// # use cloakroom::{MemoryStore, SessionManager};
    /// use std::num::NonZeroU32;
    ///
    /// let five = const { NonZeroU32::new(5).unwrap() };
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .max_sessions_per_user(five, AtMaximum::EndOldest)
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn max_sessions_per_user(self, max: NonZeroU32, at_maximum: AtMaximum) -> Self {
        self.with(|settings| settings.max_sessions = Some(MaxSessions::new(max, at_maximum)))
    }

    /// Sets the maximum number of anonymous sessions of this manager's realm; at least 1. Beyond
    /// it, the cleaner evicts those that were idle longest, down to a 32nd below the maximum, and
    /// [`AnonymousEvicted`](Event::AnonymousEvicted) is raised. Their visitors get new sessions. A
    /// signed-in session is never evicted.
    ///
    /// Defaults to 1,000,000 in SQLite and PostgreSQL. Defaults to none in [`MemoryStore`], where
    /// they take at most nine tenths of the capacity, and in memcached, which evicts by itself and
    /// does not support this setting.
    ///
    /// The number can exceed the maximum for a time: by about a 32nd for each process after the
    /// first, by up to 999 after a restart, and by the sessions that begin during the eviction. A
    /// process [without a cleaner](Self::without_cleaner) does not apply the maximum.
    ///
    /// [`MemoryStore`]: crate::MemoryStore
    pub fn max_anonymous(self, sessions: u64) -> Self {
        self.with(|settings| settings.max_anonymous = Some(sessions))
    }

    /// Sets the HTTP status of a response to a request that failed with an error of this crate.
    /// Defaults to 503 for [`Busy`](ErrorKind::Busy) and [`Unavailable`](ErrorKind::Unavailable),
    /// 403 for [`CrossOrigin`](ErrorKind::CrossOrigin), and 500 for all other kinds.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionManager};
    /// use cloakroom::ErrorKind;
    ///
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .error_status(|kind| match kind {
    ///         // The clients try again after a 503, even if the disk was full.
    ///         ErrorKind::Busy | ErrorKind::Unavailable | ErrorKind::Full => 503,
    ///         ErrorKind::CrossOrigin => 403,
    ///         _ => 500,
    ///     })
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn error_status(self, status_of: fn(ErrorKind) -> u16) -> Self {
        self.with(|settings| settings.status_of = status_of)
    }

    /// Sets the number of proxies in front of the application; at most 8. Each of them must add an
    /// entry to `X-Forwarded-For`, and every request must pass through all of them. Defaults to 0.
    ///
    /// The client's address is then the entry that the outermost proxy added. If there are fewer
    /// entries than proxies, the request has bypassed one, and the address is that of the
    /// connection. The host of the application is the first entry of `X-Forwarded-Host`, if a proxy
    /// sends that.
    ///
    /// With a number that is too high, a client can choose its address, by sending
    /// `X-Forwarded-For` itself. With one that is too low, all clients have the address of a proxy.
    /// With 0 both headers are ignored, because any client can send them; the guide says [what
    /// works](crate::guide::deployment#proxies) behind a proxy.
    pub fn behind_proxies(self, proxies: u8) -> Self {
        self.with(|settings| settings.proxies = proxies)
    }

    /// Sets whether a session stores the address of the client that began it or last signed in, for
    /// lists of a user's sessions. Defaults to false, because it is personal data.
    pub fn record_address(self, record: bool) -> Self {
        self.with(|settings| settings.record_address = record)
    }

    /// Sets whether a session stores the client's user agent, cut to 256 bytes. Defaults to false,
    /// because it is personal data. Set it some time before you publish a list of a user's devices,
    /// because sessions that began or signed in earlier have none.
    pub fn record_user_agent(self, record: bool) -> Self {
        self.with(|settings| settings.record_user_agent = record)
    }

    /// Sets whether the response carries `Cache-Control: no-store` if its request used the session
    /// of a signed-in user. Neither a proxy nor the browser then stores the page, and the back
    /// button does not show it after a sign-out. Defaults to false. OWASP ASVS 5.0, 14.3.2,
    /// requires the header for sensitive responses; a handler can also set it for one response.
    ///
    /// A sign-out then sends two `Set-Cookie` fields, so that [Chromium
    /// notices](crate::guide::cookies#pages-after-a-sign-out) that the cookie has changed.
    ///
    /// ```
    /// # use cloakroom::{MemoryStore, SessionManager};
    /// let sessions = SessionManager::builder(MemoryStore::new())
    ///     .no_store_when_signed_in(true)
    ///     .clear_site_data(true) // for what was stored before
    ///     .build()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn no_store_when_signed_in(self, no_store: bool) -> Self {
        self.with(|settings| settings.no_store_when_signed_in = no_store)
    }

    /// Sets whether a response with a CSRF token carries `Cache-Control: no-store`. Defaults to
    /// true, because a browser can show a stored page without a request, after a restart or by the
    /// back button. After a sign-out that page would have an invalid token, and the name of the
    /// user who has signed out. With false, the back button keeps the text that was typed into a
    /// form.
    ///
    /// [Chromium can still restore](crate::guide::cookies#pages-after-a-sign-out) the page that
    /// followed a sign-in, unless [`no_store_when_signed_in`](Self::no_store_when_signed_in) is set
    /// too.
    pub fn no_store_with_csrf_token(self, no_store: bool) -> Self {
        self.with(|settings| settings.no_store_with_csrf_token = no_store)
    }

    /// Sets whether the response to a sign-out carries `Clear-Site-Data: "cache", "storage"`, as
    /// OWASP ASVS 5.0, 14.3.1, suggests. The browser then deletes what pages of this site have
    /// stored, and its cached copies of them. Browsers obey the header over TLS only. Defaults to
    /// false.
    ///
    /// The session cookie is removed by its name, and not by this header. The guide says
    /// [why](crate::guide::cookies#pages-after-a-sign-out), and what to do if clearing takes long.
    pub fn clear_site_data(self, clear: bool) -> Self {
        self.with(|settings| settings.clear_site_data = clear)
    }

    /// Sets what happens to requests that pages of other origins send. Defaults to
    /// [`CrossOrigin::refuse`], or with a [`header`](Self::header) to [`CrossOrigin::off`], because
    /// no browser sends that header by itself.
    pub fn cross_origin(self, cross_origin: CrossOrigin) -> Self {
        SessionManagerBuilder { cross_origin: Some(cross_origin), ..self }
    }

    /// Sets the interval between sweeps of expired sessions, from one millisecond to one day.
    /// Defaults to 60 seconds. No request finds an expired session: the interval decides when its
    /// space is free, and when [`Ended`](Event::Ended) is raised for it.
    ///
    /// At the same interval the cleaner runs the store's
    /// [maintenance](crate::backend::Maintenance). For a SQLite file that is a checkpoint: with a
    /// longer interval a [power cut can lose more](crate::guide::guarantees#syncs).
    pub fn sweep_every(self, interval: Duration) -> Self {
        SessionManagerBuilder { sweep_every: Some(interval), ..self }
    }

    /// Starts no cleaner. Use it in a second program on the same store, such as a job, while the
    /// server's own cleaner removes expired sessions. Each request then writes its own activity,
    /// and [`sweep_now`](SessionManager::sweep_now) and [`flush`](SessionManager::flush) fail with
    /// [`ErrorKind::Unsupported`].
    pub fn without_cleaner(self) -> Self {
        SessionManagerBuilder { sweep_every: None, ..self }
    }

    /// Sets the clock. Defaults to [`SystemClock`]; tests use
    /// [`ManualClock`](crate::clock::ManualClock).
    pub fn clock(self, clock: impl Clock) -> Self {
        SessionManagerBuilder { clock: Arc::new(clock), ..self }
    }

    /// Sets the receiver of events. Defaults to the [`log`](https://docs.rs/log) crate. A store has
    /// a setting of its own; pass the same [`Events`] to both. The module
    /// [`event`](crate::event) has an example.
    pub fn events(self, events: Events) -> Self {
        SessionManagerBuilder { events, ..self }
    }

    fn with(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Validates the settings, starts the cleaner, and returns the manager.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`]: a setting is invalid, or two contradict each other; the text of
    ///   the error names the setting and the reason.
    /// - [`ErrorKind::Unsupported`]: there is a maximum per user or of anonymous sessions, and the
    ///   store cannot list sessions.
    /// - [`ErrorKind::Unavailable`]: the operating system provides no thread for the cleaner.
    pub fn build(self) -> Result<SessionManager> {
        let id_settings = self.check_settings()?;
        let end_trail = Arc::new(EndTrail::new(self.events.clone()));
        let start_cleaner = |interval| {
            let store = self.store.clone();
            let clock = self.clock.clone();
            let trail = end_trail.clone();
            let realm = id_settings.realm.clone();
            let maximum = self.settings.max_anonymous.map(|max| MaxAnonymous { realm, max });
            let on_expired = Box::new(move |ended: &EndedSession, limit| {
                trail.report(ended, limit, None, None);
            });
            Cleaner::start(store, clock, self.events.clone(), interval, maximum, on_expired)
        };
        let cleaner = self.sweep_every.map(start_cleaner).transpose()?;
        let SessionManagerBuilder { store, clock, events, settings, .. } = self;
        let context = Context::new(store, clock, events, cleaner, id_settings, settings, end_trail);
        let settings = &context.settings;
        let is_unlimited = |lifetime: &Lifetime| lifetime.absolute_limit().is_none();
        if is_unlimited(&settings.lifetime)
            || settings.browser_session_lifetime.as_ref().is_some_and(is_unlimited)
        {
            context.events.raise(&Event::NoAbsoluteLimit);
        }
        Ok(SessionManager { context: Arc::new(context), blocking: BlockingCalls::default() })
    }

    /// Checks the settings, in the order of the table of this type, and resolves those of
    /// [`IdSettings`].
    fn check_settings(&self) -> Result<IdSettings> {
        self.check_lifetimes()?;
        self.check_numbers()?;
        let id_settings = self.id_settings()?;
        let settings = &self.settings;
        if settings.renew_every.is_some_and(|age| age < AGE_RENEWAL_GRACE) {
            return Err(invalid("renew_every", "the minimum is one minute"));
        }
        if settings.renewal_grace > MAX_GRACE {
            return Err(invalid("renewal_grace", "the maximum is one minute"));
        }
        if settings.proxies > MAX_PROXIES {
            return Err(invalid("behind_proxies", format!("the maximum is {MAX_PROXIES}")));
        }
        id_settings.cross_origin.validate()?;
        let possible = Duration::from_millis(1)..=Duration::from_secs(86_400);
        if self.sweep_every.is_some_and(|interval| !possible.contains(&interval)) {
            return Err(invalid("sweep_every", "an interval is from one millisecond to one day"));
        }
        Ok(id_settings)
    }

    fn check_lifetimes(&self) -> Result<()> {
        let settings = &self.settings;
        for (setting, lifetime) in [
            ("lifetime", Some(&settings.lifetime)),
            ("anonymous_lifetime", settings.anonymous_lifetime.as_ref()),
            ("browser_session_lifetime", settings.browser_session_lifetime.as_ref()),
        ] {
            let validated = lifetime.map_or(Ok(()), Lifetime::validate);
            validated.map_err(|error| invalid(setting, error))?;
        }
        let longest_idle_limit = |persistent| {
            let lifetimes =
                [settings.signed_in_lifetime(persistent), settings.anonymous_lifetime(persistent)];
            lifetimes.iter().filter_map(Lifetime::idle_limit).max()
        };
        let longest = longest_idle_limit(true).max(longest_idle_limit(false));
        if let Some(max) = settings.max_idle_limit
            && (max < Duration::from_millis(1) || longest > Some(max))
        {
            let why = "the minimum is 1 ms, and the idle limit of each lifetime";
            return Err(invalid("max_idle_limit", why));
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<()> {
        let Settings { max_sessions, max_anonymous, .. } = &self.settings;
        if *max_anonymous == Some(0) {
            return Err(invalid("max_anonymous", "the minimum is 1"));
        }
        if self.store.index().is_none() {
            let maximum = max_sessions.map(|_| "max_sessions_per_user");
            if let Some(setting) = maximum.or(max_anonymous.map(|_| "max_anonymous")) {
                let why = "this store cannot count sessions";
                return Err(Error::with_source(ErrorKind::Unsupported, set(setting), why));
            }
        }
        Ok(())
    }

    /// Checks and resolves the settings of the id, and resolves the default of `cross_origin`.
    fn id_settings(&self) -> Result<IdSettings> {
        let (cross_origin, realm) = match &self.carrier {
            IdCarrier::Cookie(cookie) => {
                cookie.validate().map_err(|error| invalid("cookie", error))?;
                (CrossOrigin::refuse(), cookie.name.clone())
            }
            IdCarrier::Header(name) => {
                check_header(name)?;
                (CrossOrigin::off(), name.to_ascii_lowercase())
            }
        };
        let cross_origin = self.cross_origin.clone().unwrap_or(cross_origin);
        let realm = Realm::new(self.realm.clone().unwrap_or(realm));
        let realm = realm.map_err(|error| invalid("realm", error))?;
        let realm_tag = realm.tag();
        let former = |name: &String| {
            let cookie = self.former_cookie(name);
            cookie.map_err(|why| invalid("former_cookie_name", why))?.of_realm(realm_tag)
        };
        let former_cookies = self.former_cookie_names.iter().map(former).collect::<Result<_>>()?;
        let carrier = match self.carrier.clone() {
            IdCarrier::Cookie(cookie) => IdCarrier::Cookie(cookie.of_realm(realm_tag)?),
            header => header,
        };
        Ok(IdSettings { carrier, former_cookies, realm, realm_tag, cross_origin })
    }

    /// Returns the cookie under a former name, or the reason why there can be none.
    fn former_cookie(
        &self,
        name: &str,
    ) -> Result<CookieConfig, Box<dyn error::Error + Send + Sync>> {
        let IdCarrier::Cookie(cookie) = &self.carrier else {
            return Err("a header has no former names".into());
        };
        if name == cookie.name {
            return Err(format!("{name} is the current name").into());
        }
        let former = cookie.clone().name(name);
        former.validate()?;
        if self.realm.is_none() {
            let why = format!(
                "sessions stay in their realm, so name it: add .realm({name:?}), and keep it for \
                 good"
            );
            return Err(why.into());
        }
        Ok(former)
    }
}

fn check_header(name: &str) -> Result<()> {
    if name.is_empty() || !name.bytes().all(cookie::is_token) {
        let why = "a name contains only letters, digits and !#$%&'*+-.^_`|~";
        return Err(invalid("header", why));
    }
    if is_reserved(name) {
        return Err(invalid("header", format!("{name} has another meaning in HTTP")));
    }
    Ok(())
}

fn is_reserved(header: &str) -> bool {
    let has_prefix = |prefix: &str| {
        header.get(..prefix.len()).is_some_and(|have| have.eq_ignore_ascii_case(prefix))
    };
    RESERVED_HEADERS.split(' ').any(|reserved| header.eq_ignore_ascii_case(reserved))
        || RESERVED_HEADER_PREFIXES.split(' ').any(has_prefix)
}

/// Returns the operation of an error about a setting.
fn set(setting: &str) -> String {
    format!("set `{setting}`")
}

fn invalid(setting: &str, why: impl Into<Box<dyn error::Error + Send + Sync>>) -> Error {
    Error::with_source(ErrorKind::Invalid, set(setting), why)
}
