//! The session manager, its settings and their [review](Review), and lists of sessions.

mod builder;
mod index;
mod review;

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::backend::Store;
use crate::cleaner::Cleaner;
use crate::context::{BlockingCalls, Context};
use crate::cross_origin::OriginDecision;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::Realm;
use crate::message::{Outcome, RequestHead, ResponseHeaders};
use crate::session::Session;

pub use crate::context::BlockingHook;
pub use crate::settings::OnLoadFailure;
pub use builder::SessionManagerBuilder;
pub use index::{SessionPage, UserSession};
pub use review::{Area, Finding, Review};

/// The sessions of one application, or of one part of it. A clone is another handle to the same
/// sessions.
///
/// A manager opens and closes the session of each request, lists and ends sessions, and runs a
/// background thread, the *cleaner*, which records activity and removes expired sessions. Dropping
/// the last clone and the last [`Session`] writes pending activity and stops the cleaner.
///
/// | to | call |
/// |---|---|
/// | make a manager | [`new`](Self::new); [`builder`](Self::builder), for other settings than the defaults |
/// | serve a request without an adapter | [`check_origin`](Self::check_origin), [`open`](Self::open), [`close`](Self::close), [`status_of`](Self::status_of), [`with_blocking_hook`](Self::with_blocking_hook) |
/// | list or count a user's sessions | [`list_for_user`](Self::list_for_user), [`count_for_user`](Self::count_for_user) |
/// | end sessions of a user | [`revoke`](Self::revoke) for one, [`revoke_others`](Self::revoke_others) for all but one, [`revoke_for_user`](Self::revoke_for_user) and [`sign_out_everywhere`](Self::sign_out_everywhere) for all |
/// | end what an identity provider ends | [`revoke_by_idp_session`](Self::revoke_by_idp_session) |
/// | give a user another key | [`rename_user`](Self::rename_user) |
/// | list or end all sessions of the realm | [`list_page`](Self::list_page), [`revoke_everyone`](Self::revoke_everyone) |
/// | count those of all realms | [`stats`](Self::stats) |
/// | make the cleaner work now | [`flush`](Self::flush) at the end of the program, [`sweep_now`](Self::sweep_now) in tests |
/// | inspect the manager | [`review`](Self::review) of its settings, [`events`](Self::events) with their counters, [`realm`](Self::realm) |
///
/// ```
/// use cloakroom::{CookieConfig, MemoryStore, Result, Session, SessionManager};
///
/// fn sessions() -> Result<SessionManager> {
///     SessionManager::builder(MemoryStore::new())
///         .cookie(CookieConfig::new().name("__Host-shop"))
///         .build()
/// }
///
/// /// Signs the user out everywhere but here. Returns the number of sessions that have ended.
/// fn sign_out_elsewhere(sessions: &SessionManager, session: &Session) -> Result<usize> {
///     sessions.revoke_others(session)
/// }
/// # let sessions = sessions()?;
/// # let session = sessions.open(None);
/// # assert_eq!(session.sign_in(cloakroom::UserKey::new("7")?)?, cloakroom::SignIn::Done);
/// # assert_eq!(sign_out_elsewhere(&sessions, &session)?, 0);
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone)]
pub struct SessionManager {
    pub(crate) context: Arc<Context>,
    blocking: BlockingCalls,
}

impl Debug for SessionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionManager").field(&self.context).finish()
    }
}

impl SessionManager {
    /// Makes a manager of the sessions in `store`, with the default settings.
    ///
    /// # Errors
    /// As [`SessionManagerBuilder::build`].
    pub fn new(store: impl Store) -> Result<Self> {
        SessionManager::builder(store).build()
    }

    /// Starts a builder with the default settings.
    pub fn builder(store: impl Store) -> SessionManagerBuilder {
        SessionManagerBuilder::new(store)
    }

    /// Returns a clone that runs every call that may block inside `blocking_hook`. The sessions
    /// that it opens do the same. This is for adapters of frameworks that run handlers on threads
    /// that must not block.
    ///
    /// ```
    /// fn blocking_hook(call: &mut dyn FnMut()) {
    ///     // On Tokio: tokio::task::block_in_place(call)
    ///     call();
    /// }
    ///
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// let sessions = sessions.with_blocking_hook(blocking_hook);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    #[must_use]
    pub fn with_blocking_hook(&self, blocking_hook: BlockingHook) -> Self {
        let blocking = BlockingCalls { hook: Some(blocking_hook) };
        SessionManager { context: self.context.clone(), blocking }
    }

    /// Opens the session of a request. Does no I/O.
    ///
    /// `head` is a [`RequestHead`], or the value of the `Cookie` field as an `Option<&str>`. Pass a
    /// `RequestHead` for a request. The short form has neither `Origin` nor `Sec-Fetch-Site`, so it
    /// always passes the [cross-origin check](Self::check_origin): it is for tests, and for a
    /// second look during a WebSocket.
    ///
    /// The first read loads the session, and later reads do not load it again. So a long response
    /// or a WebSocket does not see a revocation that comes after the first read. The guide says
    /// [how to check for one](crate::guide::devices#websockets-and-streams), by another session
    /// from the same `Cookie` field.
    ///
    /// If [`check_origin`](Self::check_origin) refuses the request, every use of the session fails
    /// with [`ErrorKind::CrossOrigin`], and so does [`close`](Self::close): nothing is read or
    /// stored, and the response carries no id.
    ///
    /// ```
    /// use cloakroom::adapter::Outcome;
    /// use cloakroom::{MemoryStore, SessionManager};
    ///
    /// let sessions = SessionManager::new(MemoryStore::new())?;
    ///
    /// // Adapters do this for each request: open, call the handler, close, add the header fields.
    /// let session = sessions.open(None); // a first visit, without a cookie
    /// session.set("theme", "dark")?;
    /// let headers = sessions.close(&session, Outcome::Completed)?;
    ///
    /// // The response sets the cookie: `__Host-id=…; Path=/; …`. The browser sends it back.
    /// let set_cookie = headers.iter().find(|(name, _)| *name == "Set-Cookie");
    /// let cookie = set_cookie.and_then(|(_, value)| value.split(';').next());
    /// let session = sessions.open(cookie);
    /// assert_eq!(session.get::<String>("theme")?.as_deref(), Some("dark"));
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    #[must_use]
    pub fn open<'r>(&self, head: impl Into<RequestHead<'r>>) -> Session {
        let head = head.into();
        let decision = self.decide_and_report_origin(&head);
        self.open_decided(&head, decision)
    }

    /// Opens the session of a request whose origin was decided.
    pub(crate) fn open_decided(&self, head: &RequestHead<'_>, decision: OriginDecision) -> Session {
        // A refused request presents nothing.
        let nothing = RequestHead::new();
        let head = if decision.is_refusal() { &nothing } else { head };
        Session::new(self.context.clone(), self.blocking, head, decision)
    }

    /// Returns an error if a page of another origin caused the request and the
    /// [settings](crate::CrossOrigin) refuse it. Call this before [`open`](Self::open). Answer a
    /// refused request with status 403 and the text [`REFUSED`](crate::cross_origin::REFUSED),
    /// without opening it. If the call is forgotten, `open` refuses the request too: every use of
    /// its session fails.
    ///
    /// The call raises the event [`CrossOrigin`](Event::CrossOrigin) for a refused request. If a
    /// request is only [reported](crate::CrossOrigin::report_only), `open` raises that event.
    ///
    /// ```
    /// use cloakroom::ErrorKind;
    /// use cloakroom::adapter::RequestHead;
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    ///
    /// let post = || RequestHead::new().method("POST").host("example.org");
    /// sessions.check_origin(&post().sec_fetch_site("same-origin"))?;
    /// let refused = sessions.check_origin(&post().sec_fetch_site("cross-site"));
    /// assert_eq!(refused.unwrap_err().kind(), ErrorKind::CrossOrigin);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::CrossOrigin`] if the request is refused; the event has the reason.
    pub fn check_origin(&self, head: &RequestHead<'_>) -> Result<()> {
        let decision = self.context.origin_decision(head);
        if decision.is_refusal() {
            self.report_origin(head, decision);
            return Err(Error::new(ErrorKind::CrossOrigin, "answer the request"));
        }
        Ok(())
    }

    /// Decides about the origin of a request, and raises the event if it is cross-origin.
    pub(crate) fn decide_and_report_origin(&self, head: &RequestHead<'_>) -> OriginDecision {
        let decision = self.context.origin_decision(head);
        self.report_origin(head, decision);
        decision
    }

    fn report_origin(&self, head: &RequestHead<'_>, decision: OriginDecision) {
        let (OriginDecision::Report(reason) | OriginDecision::Refuse(reason)) = decision else {
            return;
        };
        let proxies = self.context.settings.proxies;
        self.context.events.raise(&Event::CrossOrigin {
            address: head.client_address(proxies),
            path: head.path,
            origin: head.origin.once(),
            host: head.public_host(proxies),
            refused: decision.is_refusal(),
            reason: reason.message(),
        });
    }

    /// Closes the session of a request: stores its changes, and returns the header fields of the
    /// response. Call it before the first byte of the response is sent. It is a method of the
    /// manager, because handlers have the session, and must not close it.
    ///
    /// # Errors
    /// - [`ErrorKind::Closed`]: the session is already closed.
    /// - [`ErrorKind::CrossOrigin`]: the request was refused; nothing was stored.
    /// - Any other kind: the changes since the last [`Session::commit`] or [`Session::sign_in`]
    ///   were not acknowledged. They were not stored, unless [`Error::has_unknown_outcome`] returns
    ///   true. A `destroy` may have been carried out in either case. Answer with the
    ///   [status](Self::status_of) of the error, and with the header fields that
    ///   [`Adapter::headers_on_error`](crate::adapter::Adapter::headers_on_error) returns.
    pub fn close(&self, session: &Session, outcome: Outcome) -> Result<ResponseHeaders> {
        session.close(outcome)
    }

    /// Deletes all expired sessions, and returns their number. The cleaner does so at intervals;
    /// this is for tests, and for a program that must not wait for the next interval. Without a
    /// cleaner it fails; use [`Admin::sweep_all`](crate::stores::admin::Admin::sweep_all).
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors); [`ErrorKind::Unsupported`] without a
    /// cleaner.
    pub fn sweep_now(&self) -> Result<usize> {
        let cleaner = self.cleaner("sweep expired sessions")?;
        self.blocking.run(|| cleaner.sweep_now())
    }

    /// Waits until the cleaner has written all activity that requests have recorded so far. The
    /// cleaner does so within a second.
    ///
    /// Call it when the server has stopped: dropping the last manager writes pending activity too,
    /// but cannot return an error. Call it also before a list that must be exact, and in tests.
    ///
    /// ```
    /// # use cloakroom::adapter::Outcome;
    /// # use cloakroom::clock::{Clock, ManualClock};
    /// # use cloakroom::{MemoryStore, SessionManager, SignIn, UserKey};
    /// # use std::time::Duration;
    /// # let clock = ManualClock::default();
    /// # let sessions = SessionManager::builder(MemoryStore::new()).clock(clock.clone()).build()?;
    /// # let ada = UserKey::new("1")?;
    /// # let session = sessions.open(None);
    /// # assert_eq!(session.sign_in(ada.clone())?, SignIn::Done);
    /// # let headers = sessions.close(&session, Outcome::Completed)?;
    /// # let cookie = headers.iter().find_map(|(name, value)| {
    /// #     (name == "Set-Cookie").then(|| value.split(';').next()).flatten()
    /// # });
    /// clock.advance(Duration::from_secs(60 * 60));
    /// let session = sessions.open(cookie); // a request that only reads
    /// assert_eq!(session.user()?, Some(ada.clone()));
    /// sessions.close(&session, Outcome::Completed)?;
    ///
    /// sessions.flush()?;
    /// let list = sessions.list_for_user(&ada, None)?.sessions;
    /// assert_eq!(list[0].summary.seen, clock.now());
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// The [store's errors](ErrorKind#the-stores-errors); [`ErrorKind::Unsupported`] without a
    /// cleaner.
    pub fn flush(&self) -> Result<()> {
        let cleaner = self.cleaner("write pending activity")?;
        self.blocking.run(|| cleaner.flush())
    }

    fn cleaner(&self, operation: &'static str) -> Result<&Cleaner> {
        let no_cleaner =
            || Error::with_source(ErrorKind::Unsupported, operation, "there is no cleaner");
        self.context.cleaner.as_ref().ok_or_else(no_cleaner)
    }

    /// Returns the events of this manager, with their counters.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.context.events
    }

    /// Returns the realm of this manager.
    #[must_use]
    pub fn realm(&self) -> &Realm {
        &self.context.id_settings.realm
    }

    /// Returns the HTTP status for a request that failed with `error`, for a handler with its own
    /// error page. It is 503, 403 or 500 unless
    /// [`error_status`](SessionManagerBuilder::error_status) is set.
    ///
    /// ```
    /// use cloakroom::{Session, SessionManager};
    ///
    /// fn page(sessions: &SessionManager, session: &Session) -> (u16, String) {
    ///     match session.get::<u32>("visits") {
    ///         Ok(visits) => (200, format!("visits: {}", visits.unwrap_or(0))),
    ///         Err(error) => (sessions.status_of(&error), "Please try again later.".to_owned()),
    ///     }
    /// }
    /// # let sessions = SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # assert_eq!(page(&sessions, &sessions.open(None)).0, 200);
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    #[must_use]
    pub fn status_of(&self, error: &Error) -> u16 {
        (self.context.settings.status_of)(error.kind())
    }
}
