//! Sessions for rouille.
//!
//! ```no_run
//! use cloakroom::web::rouille::{Result, session};
//! use cloakroom::{MemoryStore, Session, SessionManager};
//! use rouille::Response;
//!
//! fn index(session: &Session) -> Result {
//!     let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
//!     Ok(Response::text(format!("visits: {visits}\n")))
//! }
//!
//! let sessions = SessionManager::new(MemoryStore::new())?;
//! rouille::start_server("localhost:8000", move |request| session(&sessions, request, index));
//! # Ok::<(), cloakroom::Error>(())
//! ```
//!
//! The guide has a [program with a sign-in](crate::guide::servers#rouille), and says which server
//! to choose. In production rouille needs a proxy with [two
//! settings](crate::guide::servers#rouille), because of two defects of its server:
//!
//! - On a connection that the client has kept open, it delays the body of most responses above
//!   1 KiB by some 40 ms. tiny_http with [`listen`](crate::web::tiny_http::listen) has no such
//!   delay.
//! - It closes the connection of a request whose cookie has a non-ASCII byte. Any script of the
//!   site can set such a cookie, and then this browser cannot reach the site.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::error::Error;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};

use rouille::{Request, Response, try_or_400};

use crate::adapter::{self, Adapter, HandlerError, Outcome};
use crate::manager::SessionManager;
use crate::session::Session;
use crate::web::error_page;

/// The result of a handler, and of functions that it calls with `?`, which converts any error.
pub type Result<T = Response> = std::result::Result<T, HandlerError<Response>>;

/// Answers a request with a session, as [every adapter](crate::web) does. The error page is a plain
/// text; [`session_with_error_page`] has another one.
///
/// A handler that is a function returns [`Result`]. If it has another result, such as
/// [`cloakroom::Result`](crate::Result), call it in a closure: `|session| Ok(handler(session)?)`. A
/// handler can return early with [`HandlerError::response`], or with [`bad_request`] in place of
/// [`try_or_400!`](rouille::try_or_400).
///
/// A handler can call this function again for the same request and manager. The inner handler then
/// gets the same session, which the outer call closes. If the inner handler fails or panics, that
/// is the [`Outcome`] of the request, even if the outer handler returns a success.
///
/// ```no_run
/// use cloakroom::adapter::HandlerError;
/// use cloakroom::web::rouille::{Result, bad_request, session};
/// use cloakroom::{MemoryStore, Session, SessionManager};
/// use rouille::{Request, Response, post_input};
///
/// fn rename(request: &Request, session: &Session) -> Result {
///     if session.user()?.is_none() {
///         return Err(HandlerError::response(Response::redirect_303("/sign-in")));
///     }
///     let form = post_input!(request, { name: String }).map_err(bad_request)?;
///     session.set("name", form.name)?;
///     Ok(Response::redirect_303("/"))
/// }
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// rouille::start_server("localhost:8000", move |request| {
///     session(&sessions, request, |session| rename(request, session))
/// });
/// # Ok::<(), cloakroom::Error>(())
/// ```
pub fn session(
    manager: &SessionManager,
    request: &Request,
    handler: impl FnOnce(&Session) -> Result,
) -> Response {
    let error_page = |status| Response::text(error_page::body(status));
    session_with_error_page(manager, request, handler, error_page)
}

/// Answers a request as [`session`] does, with error pages of the application: `error_page` gets
/// the status and returns the page. The function then sets the status of the page.
///
/// ```
/// use cloakroom::{MemoryStore, SessionManager, web};
/// use rouille::{Request, Response};
///
/// fn error_page(status: u16) -> Response {
///     Response::html(format!("<h1>Sorry</h1><p>This did not work ({status})."))
/// }
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let request = Request::fake_http("GET", "/", vec![], vec![]);
/// let handler = |_: &_| Err("the printer is on fire".into());
/// let response =
///     web::rouille::session_with_error_page(&sessions, &request, handler, error_page);
/// assert_eq!(response.status_code, 500);
/// # Ok::<(), cloakroom::Error>(())
/// ```
pub fn session_with_error_page(
    manager: &SessionManager,
    request: &Request,
    handler: impl FnOnce(&Session) -> Result,
    error_page: impl Fn(u16) -> Response,
) -> Response {
    let error_page = |status| error_page(status).with_status_code(status);
    let adapter = Adapter::new(manager);
    let peer = *request.remote_addr();
    // `Request::header` returns only the first of several fields of one name.
    let head = adapter.head(request.method(), request.raw_url(), request.headers());
    let head = head.secure_if(request.is_secure()).peer_addr(peer.ip());
    // The request of an inner call can be another value: an application removes a prefix from its
    // path, for example.
    let is_same = |outer: &Rc<OpenSession>| {
        outer.peer == peer && outer.session.is_of(&manager.context, &head)
    };
    let outer = OPEN.with_borrow(|open| open.iter().filter_map(Weak::upgrade).find(is_same));
    if let Some(outer) = outer {
        return outer.run_handler(adapter, handler, error_page);
    }
    let session = match adapter.open(&head) {
        Ok(session) => session,
        Err(status) => return error_page(status),
    };
    let own = Rc::new(OpenSession { session, peer, failure: Cell::new(None) });
    OPEN.with_borrow_mut(|open| {
        open.retain(|outer| outer.strong_count() > 0);
        open.push(Rc::downgrade(&own));
    });
    let response = own.run_handler(adapter, handler, error_page);
    adapter.close_and_respond(&own.session, response, own.failure.get(), error_page)
}

/// Makes an early response with status 400 and the error's text as JSON, as
/// [`try_or_400!`](rouille::try_or_400) does. Use it only for errors in the client's input, because
/// the client sees the text.
///
/// ```
/// use cloakroom::web::rouille::{Result, bad_request};
/// use rouille::{Request, post_input};
///
/// fn amount(request: &Request) -> Result<u32> {
///     Ok(post_input!(request, { amount: u32 }).map_err(bad_request)?.amount)
/// }
/// # let request = Request::fake_http("POST", "/", vec![], vec![]);
/// # let response = amount(&request).unwrap_err().into_response().unwrap();
/// # assert_eq!(response.status_code, 400);
/// ```
pub fn bad_request(error: impl Error) -> HandlerError<Response> {
    let response = |failed: std::result::Result<Response, _>| try_or_400!(failed);
    HandlerError::response(response(Err(error)))
}

impl adapter::Response for Response {
    fn status_code(&self) -> u16 {
        self.status_code
    }

    fn append_header(&mut self, name: &str, value: &str) {
        self.headers.push((Cow::Owned(name.to_owned()), Cow::Owned(value.to_owned())));
    }

    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        let is = |(have, _): &(Cow<'_, str>, Cow<'_, str>)| have.eq_ignore_ascii_case(name);
        let fields = self.headers.iter().filter(|field| is(field));
        let values: Vec<&str> = fields.map(|(_, value)| &**value).collect();
        if let Some(value) = merge(&values) {
            self.headers.retain(|field| !is(field));
            self.headers.push((Cow::Borrowed(name), Cow::Owned(value)));
        }
    }
}

/// The session of a request, owned by the outermost call.
struct OpenSession {
    session: Session,
    /// The address of the peer of the request's connection.
    peer: SocketAddr,
    /// The failure of an inner or outer handler.
    failure: Cell<Option<Outcome>>,
}

impl OpenSession {
    /// Runs a handler of the request, and records its failure.
    fn run_handler(
        &self,
        adapter: Adapter<'_>,
        handler: impl FnOnce(&Session) -> Result,
        error_page: impl Fn(u16) -> Response,
    ) -> Response {
        let (response, failure) = adapter.run_handler(&self.session, handler, error_page);
        if failure.is_some() && self.failure.get() != Some(Outcome::Panicked) {
            self.failure.set(failure);
        }
        response
    }
}

thread_local! {
    /// The sessions of the calls that run on this thread, one for each manager. Those of earlier
    /// calls, which may have panicked, no longer exist.
    static OPEN: RefCell<Vec<Weak<OpenSession>>> = const { RefCell::new(Vec::new()) };
}
