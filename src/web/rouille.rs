//! Sessions for rouille.

use std::borrow::Cow;
use std::error;
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
/// returns, or that storing the changes meets, is answered with
/// [`SessionManager::status_of`] it, any other error of the handler with 500; both with a plain
/// body that says no more, and the details in an event. A panic of the handler is answered with
/// 500. In all these cases data changes are discarded, and what the session was told to end is
/// ended.
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
    let session = sessions.open(head(sessions, request));
    // The handler's own state is as safe here as in rouille, which catches panics likewise; the
    // session's is made for it.
    let (response, outcome) = match catch_unwind(AssertUnwindSafe(|| handler(&session))) {
        Ok(Ok(response)) => {
            let outcome = Outcome::of_status(response.status_code);
            (response, outcome)
        }
        Ok(Err(error)) => (plain(sessions.handler_failed(&*error)), Outcome::ServerError),
        Err(panic) => (plain(sessions.handler_panicked(&*panic)), Outcome::Panicked),
    };
    // Closing can run the handler's `update` functions again.
    let status = match catch_unwind(AssertUnwindSafe(|| sessions.close(&session, outcome))) {
        Ok(Ok(headers)) => return add(response, &headers),
        Ok(Err(error)) => sessions.failed(&error),
        Err(panic) => sessions.handler_panicked(&*panic),
    };
    add(plain(status), &sessions.headers_after_failure(&session))
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
