//! The manager: what an application holds, and what it opens and closes sessions with.

mod builder;
mod review;
mod users;

use std::any::Any;
use std::error;
use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::backend::Store;
use crate::cleaner::Cleaner;
use crate::cookie::CookieConfig;
use crate::error::{Error, ErrorKind, Result, described, panic_words};
use crate::event::{Event, Events};
use crate::http::{Outcome, RequestHead, ResponseHeaders};
use crate::id::Realm;
use crate::session::{Context, Session, Transport, run_blocking};

pub use crate::session::{BlockingHook, OnLoadFailure};
pub use builder::SessionManagerBuilder;
pub use review::{Finding, Review};
pub use users::{SessionPage, UserSession};

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
    context: Arc<Context>,
    blocking_hook: Option<BlockingHook>,
}

impl Debug for SessionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionManager").field(&self.context.store).finish()
    }
}

impl SessionManager {
    /// Sessions in `store`, with all defaults.
    ///
    /// # Errors
    /// As [`SessionManagerBuilder::build`].
    pub fn new(store: impl Store) -> Result<Self> {
        SessionManager::builder(store).build()
    }

    /// Starts with the defaults.
    pub fn builder(store: impl Store) -> SessionManagerBuilder {
        SessionManagerBuilder::new(store)
    }

    /// Another handle to the same sessions, for threads that must not block: it makes every call
    /// that may block through `blocking_hook`, and so do the sessions that it opens. This is for
    /// adapters of frameworks that run handlers on such threads.
    #[must_use]
    pub fn blocking_hook(&self, blocking_hook: BlockingHook) -> Self {
        SessionManager { context: self.context.clone(), blocking_hook: Some(blocking_hook) }
    }

    /// The session of a request. No I/O.
    ///
    /// It is what it was when it was first read. A response that goes on for long, or a WebSocket,
    /// does not notice that it was revoked meanwhile: open another one from the same `Cookie`
    /// header to look.
    #[must_use]
    pub fn open<'r>(&self, head: impl Into<RequestHead<'r>>) -> Session {
        Session::new(self.context.clone(), self.blocking_hook, &head.into())
    }

    /// Ends the request: stores what the session has changed and says what the response needs.
    /// Call it before the first byte of the response goes out.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] at a second call. Any other error means that the changes since the
    /// last [`Session::commit`] or [`Session::sign_in`] were not stored: answer with
    /// [`status_of`](Self::status_of) it, and with the [headers](Self::headers_on_error) of
    /// what was done before.
    pub fn close(&self, session: &Session, outcome: Outcome) -> Result<ResponseHeaders> {
        session.check_not_updating("close a session")?;
        session.close(outcome)
    }

    /// What the response needs although [`close`](Self::close) failed: the new id, if a sign-in or
    /// a commit in this request has brought one, because that stands. Else there is no id in it.
    #[must_use]
    pub fn headers_on_error(&self, session: &Session) -> ResponseHeaders {
        match session.check_not_updating("close a session") {
            Ok(()) => session.headers_for_stored(),
            Err(_) => ResponseHeaders::default(),
        }
    }

    /// Removes every session that has ended, and says how many those were. The cleaner does so
    /// regularly; this is for commands and tests.
    ///
    /// # Errors
    /// The store's errors; [`ErrorKind::Unsupported`] without a cleaner.
    pub fn sweep_now(&self) -> Result<usize> {
        let cleaner = self.cleaner("sweep ended sessions")?;
        run_blocking(self.blocking_hook, || cleaner.sweep_now())
    }

    /// Returns when all activity that requests have handed to the cleaner is written.
    ///
    /// # Errors
    /// The store's errors; [`ErrorKind::Unsupported`] without a cleaner.
    pub fn flush(&self) -> Result<()> {
        let cleaner = self.cleaner("write pending activity")?;
        run_blocking(self.blocking_hook, || cleaner.flush())
    }

    fn cleaner(&self, operation: &'static str) -> Result<&Cleaner> {
        let none = || Error::with_source(ErrorKind::Unsupported, operation, "there is no cleaner");
        self.context.cleaner.as_ref().ok_or_else(none)
    }

    /// The events of this manager, with their counters.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.context.events
    }

    /// What sessions need to know of a request with these headers. An adapter for which the
    /// framework lists headers needs nothing else, but for the client's
    /// [address](RequestHead::peer) and whether the connection is [encrypted](RequestHead::secure).
    pub fn head<'r>(
        &self,
        headers: impl IntoIterator<Item = (&'r str, &'r str)>,
    ) -> RequestHead<'r> {
        let settings = &self.context.settings;
        let mut head = RequestHead::new();
        let mut protocol = None;
        for (name, value) in headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if is("Cookie") {
                if settings.is_in_cookie(value) {
                    head = head.cookie(value);
                }
            } else if is("Host") {
                head = head.host(value);
            } else if is("X-Forwarded-Proto") {
                // Of several proxies the first one speaks of the client's connection, in one field
                // or in several.
                protocol = protocol.or_else(|| value.split(',').next());
            } else if is("X-Forwarded-For") {
                head = head.forwarded_for(value);
            } else if is("User-Agent") {
                head = head.user_agent(value);
            } else if is("Sec-Purpose") || is("Purpose") {
                head = head.purpose(value);
            }
            if self.id_header().is_some_and(is) {
                head = head.id(value);
            }
        }
        head.secure(protocol.is_some_and(|first| first.trim().eq_ignore_ascii_case("https")))
    }

    /// The names of all headers that [`head`](Self::head) looks at, for frameworks in which headers
    /// are asked for by name.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let names = ["Cookie", "Host", "X-Forwarded-Proto", "X-Forwarded-For", "User-Agent"];
        names.into_iter().chain(["Sec-Purpose", "Purpose"]).chain(self.id_header())
    }

    /// The request header that carries the id, where that is not a cookie: an adapter that does
    /// not use [`head`](Self::head) passes its value to [`RequestHead::id`].
    #[must_use]
    pub fn id_header(&self) -> Option<&str> {
        match &self.context.settings.transport {
            Transport::Cookie(_) => None,
            Transport::Header(name) => Some(name),
        }
    }

    /// The realm in which this manager's ids count.
    #[must_use]
    pub fn realm(&self) -> &Realm {
        &self.context.settings.realm
    }

    /// The cookie or header that carries the id, in words. Two managers of one application must not
    /// have the same: each would overwrite what the other gives.
    #[must_use]
    pub fn id_transport(&self) -> String {
        match &self.context.settings.transport {
            Transport::Cookie(cookie) => format!("the cookie {}", cookie.name_text()),
            Transport::Header(name) => format!("the header {}", name.to_ascii_lowercase()),
        }
    }

    /// The names of the cookies that can carry an id: today's, and those it had before.
    #[allow(dead_code)] // only the adapter for Rocket asks, and that is a feature
    pub(crate) fn cookie_names(&self) -> impl Iterator<Item = &str> {
        let settings = &self.context.settings;
        let own = match &settings.transport {
            Transport::Cookie(cookie) => Some(cookie.name_text()),
            Transport::Header(_) => None,
        };
        own.into_iter().chain(settings.former_cookies().map(CookieConfig::name_text))
    }

    /// Whether a request with this head would open this session of ours once more.
    #[allow(dead_code)] // only the adapter for rouille asks, and that is a feature
    pub(crate) fn would_open(&self, session: &Session, head: &RequestHead<'_>) -> bool {
        session.is_of(&self.context, head)
    }

    /// The HTTP status to answer a request with that failed with `error`.
    #[must_use]
    pub fn status_of(&self, error: &Error) -> u16 {
        (self.context.settings.status_of)(error.kind())
    }

    /// Raises the event that a request failed with `error`, and gives the status to answer it with.
    pub fn failed(&self, error: &Error) -> u16 {
        self.context.events.raise(&Event::RequestFailed { error });
        self.status_of(error)
    }

    /// The same for whatever a handler returned: [`failed`](Self::failed) for an error of ours. For
    /// any other there is an event of its own, and the status of the error of ours that it holds
    /// or has among its sources; 500 if there is none.
    pub fn handler_failed(&self, error: &(dyn error::Error + Send + Sync + 'static)) -> u16 {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return self.failed(ours);
        }
        let (words, kind) = described(error);
        self.context.events.raise(&Event::HandlerFailed { error: &words });
        kind.map_or(500, self.context.settings.status_of)
    }

    /// The same for a panic.
    pub fn handler_panicked(&self, panic: &(dyn Any + Send)) -> u16 {
        let error = panic_words(panic).unwrap_or("it panicked");
        self.context.events.raise(&Event::HandlerFailed { error });
        500
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::memory::MemoryStore;

    #[test]
    fn the_first_of_several_forwarded_protocols_counts() {
        let sessions = SessionManager::new(MemoryStore::new()).unwrap();
        for (fields, secure) in [
            (&["https"][..], true),
            (&["https, http"], true),
            (&["https", "http"], true),
            (&["http", "https"], false),
            (&["http, https"], false),
            (&["", "https"], false),
            (&[], false),
        ] {
            let head = sessions.head(fields.iter().map(|value| ("x-forwarded-proto", *value)));
            assert_eq!(head.secure, secure, "{fields:?}");
        }
    }
}
