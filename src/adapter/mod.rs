//! The interface for authors of adapters for web frameworks.
//!
//! Applications need only [`HandlerError`] from here, and their tests at most [`Outcome`] and
//! [`RequestHead`]. [`web`](crate::web) has a table of the existing adapters.
//!
//! An adapter has three parts:
//!
//! 1. It makes a [`RequestHead`] of the framework's request, by [`Adapter::head`].
//! 2. It implements [`Response`] for the framework's response.
//! 3. It calls [`Adapter::run`], which does the rest: it checks the origin of the request, opens
//!    the session, runs the handler, catches its panics, closes the session and adds the header
//!    fields to the response.
//!
//! The example at [`Adapter`] has all three; `src/web/tiny_http.rs` is a short adapter.

mod handler_error;

use std::any::Any;
use std::error::Error as StdError;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, described, panic_message};
use crate::event::Event;
use crate::manager::SessionManager;
use crate::session::Session;
use crate::settings::IdCarrier;

pub use crate::message::{Outcome, RequestHead, Response, ResponseHeaders, SharedCaching};
pub use handler_error::HandlerError;

const COOKIE: &str = "Cookie";
const FORWARDED_PROTO: &str = "X-Forwarded-Proto";

/// The connection between a web framework and the sessions of one manager.
///
/// [`run`](Self::run) is for a framework that calls a function for each request. For other
/// frameworks, its parts are methods too: [`head`](Self::head), [`open`](Self::open) and
/// [`answer`](Self::answer); the parts of `answer` are [`report_error`](Self::report_error),
/// [`report_panic`](Self::report_panic) and [`close`](Self::close).
///
/// ```
/// use cloakroom::adapter::{Adapter, Response};
/// use cloakroom::{MemoryStore, SessionManager};
///
/// struct Page {
///     status: u16,
///     headers: Vec<(String, String)>,
///     body: String,
/// }
///
/// impl Response for Page {
///     fn status_code(&self) -> u16 {
///         self.status
///     }
///     fn append_header(&mut self, name: &str, value: &str) {
///         self.headers.push((name.to_owned(), value.to_owned()));
///     }
/// }
///
/// fn page(status: u16, body: &str) -> Page {
///     Page { status, headers: Vec::new(), body: body.to_owned() }
/// }
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let adapter = Adapter::new(&sessions);
/// let headers = [("Host", "localhost"), ("Cookie", "theme=dark")];
/// let head = adapter.head("POST", "/theme", headers);
/// let answer = adapter.run(
///     head,
///     |session| {
///         session.set("theme", "light")?;
///         Ok(page(200, "done"))
///     },
///     |status| page(status, "Something went wrong."),
/// );
/// assert_eq!((answer.status, answer.body.as_str()), (200, "done"));
/// assert!(answer.headers.iter().any(|(name, value)| {
///     name == "Set-Cookie" && value.starts_with("__Host-id=")
/// }));
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Adapter<'m> {
    manager: &'m SessionManager,
}

impl<'m> Adapter<'m> {
    /// Makes the adapter for sessions of this manager. This costs nothing: make one for each
    /// request.
    pub fn new(manager: &'m SessionManager) -> Self {
        Adapter { manager }
    }

    /// Answers one request: opens its session, runs the handler, stores the changes, and returns
    /// the response with all header fields, ready to be sent.
    ///
    /// - **Refused.** For a [cross-origin](crate::CrossOrigin) request, `error_page` is called with
    ///   403 and nothing else happens. Its text can be [`REFUSED`](crate::cross_origin::REFUSED).
    /// - **Early response.** The handler can return a response as a [`HandlerError`].
    /// - **Failed.** If the handler returns an error or panics, or if the changes cannot be stored,
    ///   an event is raised and `error_page` makes the response. Its status is the
    ///   [status](SessionManager::status_of) of the [`Error`] of this crate that the handler's
    ///   error is or contains, else 500. [`Outcome`] says what is stored.
    ///
    /// A streamed body is read after the session is closed: it can read the session, but not change
    /// it.
    pub fn run<R: Response>(
        self,
        head: RequestHead<'_>,
        handler: impl FnOnce(&Session) -> Result<R, HandlerError<R>>,
        error_page: impl Fn(u16) -> R,
    ) -> R {
        match self.open(&head) {
            Ok(session) => self.answer(&session, handler, error_page),
            Err(status) => error_page(status),
        }
    }

    /// Does the part of [`run`](Self::run) after a successful [`open`](Self::open). It borrows no
    /// request head, so the handler can own the request, for example to read its body.
    pub fn answer<R: Response>(
        self,
        session: &Session,
        handler: impl FnOnce(&Session) -> Result<R, HandlerError<R>>,
        error_page: impl Fn(u16) -> R,
    ) -> R {
        let (response, failure) = self.run_handler(session, handler, &error_page);
        self.close_and_respond(session, response, failure, error_page)
    }

    /// Opens the session of a request, unless it is [cross-origin](crate::CrossOrigin).
    ///
    /// # Errors
    /// 403, the status of the response to a refused request. The handler must not run. An event has
    /// the reason.
    pub fn open(self, head: &RequestHead<'_>) -> Result<Session, u16> {
        let decision = self.manager.decide_and_report_origin(head);
        if decision.is_refusal() {
            return Err(403);
        }
        Ok(self.manager.open_decided(head, decision))
    }

    /// Runs the handler. If it fails, reports the reason, and returns the error page and the
    /// outcome.
    pub(crate) fn run_handler<R>(
        self,
        session: &Session,
        handler: impl FnOnce(&Session) -> Result<R, HandlerError<R>>,
        error_page: impl Fn(u16) -> R,
    ) -> (R, Option<Outcome>) {
        // A server that survives a panic relies on the handler's state in the same way. The
        // session's own state is consistent after a panic.
        let handle = || handler(session).or_else(HandlerError::into_response);
        let (status, outcome) = match catch_unwind(AssertUnwindSafe(handle)) {
            Ok(Ok(response)) => return (response, None),
            Ok(Err(error)) => (self.report_error(&*error), Outcome::ServerError),
            Err(panic) => (self.report_panic(&*panic), Outcome::Panicked),
        };
        (error_page(status), Some(outcome))
    }

    /// Closes the session, and returns the response with its header fields, or the error page.
    pub(crate) fn close_and_respond<R: Response>(
        self,
        session: &Session,
        response: R,
        failure: Option<Outcome>,
        error_page: impl Fn(u16) -> R,
    ) -> R {
        let outcome = failure.unwrap_or_else(|| Outcome::of_status(response.status_code()));
        let (mut response, headers) = match self.close(session, outcome) {
            Ok(headers) => (response, headers),
            Err(status) => (error_page(status), self.headers_on_error(session)),
        };
        headers.apply_to(&mut response);
        response
    }

    /// Closes the session: stores its changes, and returns the header fields of the response. Call
    /// it once, before the first byte of the response is sent.
    ///
    /// # Errors
    /// The status of the error page, if the changes could not be stored. The page replaces the
    /// handler's whole response, with the header fields of
    /// [`headers_on_error`](Self::headers_on_error). An event has the reason.
    pub fn close(self, session: &Session, outcome: Outcome) -> Result<ResponseHeaders, u16> {
        // Closing can run the closures of `Session::update` again, which can panic.
        match catch_unwind(AssertUnwindSafe(|| self.manager.close(session, outcome))) {
            Ok(closed) => closed.map_err(|error| self.report_error(&error)),
            Err(panic) => Err(self.report_panic(&*panic)),
        }
    }

    /// Records that the body of the response, such as a stream, may read the session after the
    /// close. If the request presented an id, the session then counts as used. Call it before
    /// [`close`](Self::close).
    pub fn body_may_read(self, session: &Session) {
        session.mark_read_later();
    }

    /// Returns the header fields of the response after a failed [`close`](Self::close) or
    /// [`SessionManager::close`]. They contain an id only if a sign-in or a commit of this request
    /// has stored a new one. Call it when the error page is complete, because the page can still
    /// read the session.
    #[must_use]
    pub fn headers_on_error(self, session: &Session) -> ResponseHeaders {
        session.headers_on_error()
    }

    /// Raises an event for an error that the handler has returned, and returns the status of the
    /// response: the [status](SessionManager::status_of) of the [`Error`] of this crate that
    /// `error` is, contains or has among its sources; 500 if there is none.
    pub fn report_error(self, error: &(dyn StdError + Send + Sync + 'static)) -> u16 {
        let events = self.manager.events();
        if let Some(error) = error.downcast_ref::<Error>() {
            events.raise(&Event::RequestFailed { error });
            return self.manager.status_of(error);
        }
        let (message, kind) = described(error);
        events.raise(&Event::HandlerFailed { error: &message });
        kind.map_or(500, self.manager.context.settings.status_of)
    }

    /// Raises an event for a panic of the handler, and returns the status of the response.
    pub fn report_panic(self, panic: &(dyn Any + Send)) -> u16 {
        let error = panic_message(panic).unwrap_or("it panicked");
        self.manager.events().raise(&Event::HandlerFailed { error });
        500
    }

    /// Makes the request head from the method, the target (path and query), and the names and
    /// values of all header fields. The caller adds the client's
    /// [address](RequestHead::peer_addr), whether the connection is
    /// [encrypted](RequestHead::secure_if) and, for HTTP/2, the [host](RequestHead::host): `head`
    /// cannot see them.
    pub fn head<'r>(
        self,
        method: &'r str,
        target: &'r str,
        headers: impl IntoIterator<Item = (&'r str, &'r str)>,
    ) -> RequestHead<'r> {
        let mut head = RequestHead::new().method(method).target(target);
        let mut protocol = None;
        for (name, value) in headers {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            if is(COOKIE) {
                if self.manager.context.id_settings.may_contain_id(value) {
                    head = head.cookie(value);
                }
            } else if is(FORWARDED_PROTO) {
                // The first of several proxies describes the client's connection, in one field or
                // in several.
                protocol = protocol.or_else(|| value.split(',').next());
            } else if let Some((_, add)) = RequestHead::FIELDS.iter().find(|(name, _)| is(name)) {
                head = add(head, value);
            }
            if self.id_header().is_some_and(is) {
                head = head.id(value);
            }
        }
        head.secure_if(protocol.is_some_and(|first| first.trim().eq_ignore_ascii_case("https")))
    }

    /// Returns the names of all header fields that [`head`](Self::head) reads, for frameworks that
    /// look fields up by name.
    pub fn header_names(self) -> impl Iterator<Item = &'m str> {
        let fields = RequestHead::FIELDS.map(|(name, _)| name);
        [COOKIE, FORWARDED_PROTO].into_iter().chain(fields).chain(self.id_header())
    }

    /// Returns the request header that carries the id, if that is not a cookie.
    fn id_header(self) -> Option<&'m str> {
        match &self.manager.context.id_settings.carrier {
            IdCarrier::Cookie(_) => None,
            IdCarrier::Header(name) => Some(name),
        }
    }

    /// Describes the cookie or header that carries the id. An adapter for several managers refuses
    /// two with the same text, because each would overwrite the other's ids.
    #[must_use]
    pub fn id_carrier(self) -> String {
        match &self.manager.context.id_settings.carrier {
            IdCarrier::Cookie(cookie) => format!("the cookie {}", cookie.name),
            IdCarrier::Header(name) => format!("the header {}", name.to_ascii_lowercase()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::memory::MemoryStore;

    #[test]
    fn a_head_has_every_field_that_is_named() {
        let sessions = SessionManager::new(MemoryStore::new()).unwrap();
        let adapter = Adapter::new(&sessions);
        let head = |field| format!("{:?}", adapter.head("GET", "/", field));
        for name in adapter.header_names() {
            // It has a meaning in every field.
            let value = "https, websocket, prefetch; __Host-id=x";
            assert_ne!(head(Some((name, value))), head(None), "{name}");
        }
    }

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
            let pairs = fields.iter().map(|value| ("x-forwarded-proto", *value));
            let head = Adapter::new(&sessions).head("GET", "/", pairs);
            assert_eq!(head.secure, secure, "{fields:?}");
        }
    }
}
