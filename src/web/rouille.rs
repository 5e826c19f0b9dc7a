//! Sessions for rouille.

use std::borrow::Cow;
use std::cell::{Cell, Ref, RefCell};
use std::error;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rouille::{Request, Response};

use crate::http::{Outcome, RequestHead, ResponseHeaders};
use crate::manager::SessionManager;
use crate::session::Session;

/// What a handler returns: `?` works on any error.
pub type Result = std::result::Result<Response, Box<dyn error::Error + Send + Sync>>;

/// Answers a request with a session.
///
/// The session's changes are stored before this returns. An [`Error`](crate::Error) of ours that the handler
/// returns, as it is or within an error of the application's, or that storing the changes meets, is
/// answered with [`SessionManager::status_of`] it, any other error of the handler with 500; both
/// with a plain body that says no more, and the details in an event. A panic of the handler is
/// answered with 500. In all these cases data changes are discarded, and what the session was told
/// to end is ended.
///
/// A handler can call this again, for the same request and manager: the inner handler gets the same
/// session, which is closed once, by the outer call. Where the inner handler fails or panics, the
/// request's data changes are discarded, whatever the outer one makes of the inner answer.
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
    let head = head(sessions, request);
    let remote = *request.remote_addr();
    OPENED.with(|slots| {
        if let Some(outer) = opened(slots).find(|outer| outer.is_of(sessions, remote, &head)) {
            return outer.answer(sessions, handler);
        }
        let opened = Opened { session: sessions.open(head), remote, failed: Cell::new(None) };
        let Some(slot) = slots.iter().find(|slot| slot.try_borrow().is_ok_and(|s| s.is_none()))
        else {
            return whole(&opened, sessions, handler);
        };
        slot.replace(Some(opened));
        let _emptied = Emptied(slot);
        match &*slot.borrow() {
            Some(opened) => whole(opened, sessions, handler),
            None => plain(500),
        }
    })
}

/// The sessions of the request that this thread answers. More managers than this in one request
/// are answered alike, but for calls within calls.
type Slots = [RefCell<Option<Opened>>; 4];

thread_local! {
    static OPENED: Slots = const { [const { RefCell::new(None) }; 4] };
}

fn opened(slots: &Slots) -> impl Iterator<Item = Ref<'_, Opened>> {
    slots.iter().filter_map(|slot| Ref::filter_map(slot.try_borrow().ok()?, Option::as_ref).ok())
}

/// A request's session, from the outermost call on.
struct Opened {
    session: Session,
    /// The other end of the request's connection.
    remote: SocketAddr,
    /// How a handler has failed.
    failed: Cell<Option<Outcome>>,
}

/// Empties its slot, however the call ends.
struct Emptied<'s>(&'s RefCell<Option<Opened>>);

impl Drop for Emptied<'_> {
    fn drop(&mut self) {
        if let Ok(mut slot) = self.0.try_borrow_mut() {
            *slot = None;
        }
    }
}

impl Opened {
    /// Whether a call with this request is one within the call that has opened the session. The
    /// request itself can be another: an application takes a prefix off, for example.
    fn is_of(&self, sessions: &SessionManager, remote: SocketAddr, head: &RequestHead<'_>) -> bool {
        self.remote == remote && sessions.would_open(&self.session, head)
    }

    fn answer(
        &self,
        sessions: &SessionManager,
        handler: impl FnOnce(&Session) -> Result,
    ) -> Response {
        // The handler's own state is as safe here as in rouille, which catches panics likewise; the
        // session's is made for it.
        let (outcome, status) = match catch_unwind(AssertUnwindSafe(|| handler(&self.session))) {
            Ok(Ok(response)) => return response,
            Ok(Err(error)) => (Outcome::ServerError, sessions.handler_failed(&*error)),
            Err(panic) => (Outcome::Panicked, sessions.handler_panicked(&*panic)),
        };
        if self.failed.get() != Some(Outcome::Panicked) {
            self.failed.set(Some(outcome));
        }
        plain(status)
    }
}

/// The outermost call: answers, closes the session, and adds the headers.
fn whole(
    opened: &Opened,
    sessions: &SessionManager,
    handler: impl FnOnce(&Session) -> Result,
) -> Response {
    let (session, response) = (&opened.session, opened.answer(sessions, handler));
    let outcome = opened.failed.get().unwrap_or(Outcome::of_status(response.status_code));
    // Closing can run the handler's `update` functions again.
    let status = match catch_unwind(AssertUnwindSafe(|| sessions.close(session, outcome))) {
        Ok(Ok(headers)) => return add(response, &headers),
        Ok(Err(error)) => sessions.failed(&error),
        Err(panic) => sessions.handler_panicked(&*panic),
    };
    add(plain(status), &sessions.headers_on_error(session))
}

fn head<'r>(sessions: &SessionManager, request: &'r Request) -> RequestHead<'r> {
    // `Request::header` gives the first of several headers of a name only.
    let head = sessions.head(request.headers());
    head.secure(request.is_secure()).peer(request.remote_addr().ip())
}

/// The answer to a failure, which is told in full to the operator only.
fn plain(status: u16) -> Response {
    let body = match status {
        503 => "The service is not available right now. Please try again.",
        _ => "Something went wrong.",
    };
    Response::text(body).with_status_code(status)
}

fn add(mut response: Response, headers: &ResponseHeaders) -> Response {
    set(&mut response, "Vary", |now| headers.vary(now));
    set(&mut response, "Cache-Control", |now| headers.cache_control(now));
    for (name, value) in headers.rest() {
        response.headers.push((Cow::Owned(name.to_owned()), Cow::Owned(value.to_owned())));
    }
    response
}

/// Replaces all headers of this name by one with the value that `merge` makes of theirs.
fn set(
    response: &mut Response,
    name: &'static str,
    merge: impl FnOnce(Option<&str>) -> Option<String>,
) {
    let is = |(have, _): &(Cow<'_, str>, Cow<'_, str>)| have.eq_ignore_ascii_case(name);
    let values: Vec<&str> =
        response.headers.iter().filter(|header| is(header)).map(|(_, value)| &**value).collect();
    let now = (!values.is_empty()).then(|| values.join(", "));
    if let Some(value) = merge(now.as_deref()) {
        response.headers.retain(|header| !is(header));
        response.headers.push((Cow::Borrowed(name), Cow::Owned(value)));
    }
}
