//! Sessions for rouille.

use std::borrow::Cow;
use std::cell::{Cell, Ref, RefCell};
use std::error;
use std::net::SocketAddr;

use rouille::{Request, Response};

use crate::cross_origin::REFUSED;
use crate::http::{self, Adapter, Outcome};
use crate::manager::SessionManager;
use crate::session::Session;

/// The result of a handler: `?` converts any error.
pub type Result = std::result::Result<Response, Box<dyn error::Error + Send + Sync>>;

/// Answers a request with a session.
///
/// A request that a page of another origin sent is answered with 403, and the handler does not run
/// ([`CrossOrigin`](crate::CrossOrigin)).
///
/// The session's changes are stored before this returns. Where the handler returns an error, it is
/// answered with the [status](SessionManager::status_of) of the [`Error`](crate::Error) of this
/// crate that it is or contains, else with 500; a failure to store the changes likewise. A panic of
/// the handler is answered with 500. These responses have a plain body; an event has the details.
/// In all these cases changes of data are discarded, and a sign-out or revocation is kept.
///
/// A handler can call this again, for the same request and manager: the inner handler gets the same
/// session, which the outer call closes. If the inner handler fails or panics, the request's
/// changes of data are discarded, even if the outer one returns a success.
///
/// ```no_run
/// use cloakroom::{MemoryStore, SessionManager, web};
/// use rouille::Response;
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// rouille::start_server("localhost:8000", move |request| {
///     web::rouille::session(&sessions, request, |session| {
///         let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
///         Ok(Response::text(format!("visits: {visits}")))
///     })
/// });
/// # Ok::<(), cloakroom::Error>(())
/// ```
pub fn session(
    sessions: &SessionManager,
    request: &Request,
    handler: impl FnOnce(&Session) -> Result,
) -> Response {
    let adapter = Adapter::new(sessions);
    let peer = *request.remote_addr();
    // `Request::header` returns only the first of several fields of one name.
    let head = adapter.head(request.method(), request.raw_url(), request.headers());
    let head = head.secure(request.is_secure()).peer_addr(peer.ip());
    OPEN.with(|slots| {
        // The request of an inner call can be another value: an application removes a prefix from
        // its path, for example.
        let is_same = |outer: &OpenSession| {
            outer.peer == peer && adapter.is_session_of(&outer.session, &head)
        };
        if let Some(outer) = open_sessions(slots).find(|outer| is_same(outer)) {
            return outer.call(adapter, handler);
        }
        let Ok(session) = adapter.open(&head) else {
            return Response::text(REFUSED).with_status_code(403);
        };
        let open = OpenSession { session, peer, failure: Cell::new(None) };
        let is_free =
            |slot: &&RefCell<Option<OpenSession>>| slot.try_borrow().is_ok_and(|s| s.is_none());
        let Some(slot) = slots.iter().find(is_free) else { return open.answer(adapter, handler) };
        slot.replace(Some(open));
        let _emptied = EmptyOnDrop(slot);
        match &*slot.borrow() {
            Some(open) => open.answer(adapter, handler),
            None => error_page(500),
        }
    })
}

fn error_page(status: u16) -> Response {
    let body = match status {
        503 => "The service is not available right now. Please try again.",
        _ => "Something went wrong.",
    };
    Response::text(body).with_status_code(status)
}

impl http::Response for Response {
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

/// The session of a request, made by the outermost call.
struct OpenSession {
    session: Session,
    /// The address of the peer of the request's connection.
    peer: SocketAddr,
    /// The failure of an inner or outer handler.
    failure: Cell<Option<Outcome>>,
}

impl OpenSession {
    /// Runs a handler of the request.
    fn call(&self, adapter: Adapter<'_>, handler: impl FnOnce(&Session) -> Result) -> Response {
        let (response, failure) = adapter.run_handler(&self.session, handler, error_page);
        if failure.is_some() && self.failure.get() != Some(Outcome::Panicked) {
            self.failure.set(failure);
        }
        response
    }

    /// Runs the outermost handler, and finishes the request.
    fn answer(&self, adapter: Adapter<'_>, handler: impl FnOnce(&Session) -> Result) -> Response {
        let response = self.call(adapter, handler);
        adapter.close_and_respond(&self.session, response, self.failure.get(), error_page)
    }
}

/// The open sessions of the request that this thread answers. They are stored in place, so that a
/// request that does not use its session allocates nothing. If a request uses more managers than
/// there are slots, inner calls for the surplus managers open separate sessions.
type OpenSessions = [RefCell<Option<OpenSession>>; 4];

thread_local! {
    static OPEN: OpenSessions = const { [const { RefCell::new(None) }; 4] };
}

fn open_sessions(slots: &OpenSessions) -> impl Iterator<Item = Ref<'_, OpenSession>> {
    slots.iter().filter_map(|slot| Ref::filter_map(slot.try_borrow().ok()?, Option::as_ref).ok())
}

struct EmptyOnDrop<'s>(&'s RefCell<Option<OpenSession>>);

impl Drop for EmptyOnDrop<'_> {
    fn drop(&mut self) {
        if let Ok(mut slot) = self.0.try_borrow_mut() {
            *slot = None;
        }
    }
}
