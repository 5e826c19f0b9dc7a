//! The response to a failed request. If necessary, Rocket's catchers are called again to make it.

use std::error;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard};

use rocket::catcher::Catcher;
use rocket::futures::FutureExt;
use rocket::http::{Cookie, Status};
use rocket::response::{self, Responder};
use rocket::{Request, Response};

use crate::adapter::{Adapter, Outcome, ResponseHeaders};
use crate::error::{Error, ErrorKind, described};
use crate::manager::SessionManager;
use crate::sync::IgnorePoison;
use crate::web::rocket::guards;
use crate::web::rocket::panic_watch::Watched;

/// The failure of a request, for all managers that it uses.
#[derive(Default)]
struct FailureState {
    /// The manager that reports errors.
    manager: Option<SessionManager>,
    /// The status for the catcher after an error or a panic.
    status: Option<Status>,
    watched: Option<Watched>,
    /// Whether a catcher has made the response; known from the first response fairing on.
    is_from_catcher: Option<bool>,
    /// The header fields that all managers of the request have appended so far.
    kept_fields: Vec<(String, String)>,
}

fn failure_state<'r>(request: &'r Request<'_>) -> MutexGuard<'r, FailureState> {
    request.local_cache(Mutex::<FailureState>::default).lock().ignore_poison()
}

/// Sets the manager that reports the errors of this request, if there is none yet.
pub(super) fn report_to(request: &Request<'_>, manager: &SessionManager) {
    failure_state(request).manager.get_or_insert_with(|| manager.clone());
}

/// Starts to record a panic of this request.
pub(super) fn watch_request(request: &Request<'_>) {
    failure_state(request).watched.get_or_insert_with(|| {
        request.cookies().add(Cookie::new(NO_CATCHER_MARK, ""));
        Watched::new()
    });
}

/// Returns the outcome of the request, and the message of the panic if the handler panicked.
///
/// A catcher can answer a failure with any status, and a handler can catch its own panic and
/// answer. The mark distinguishes them.
pub(super) fn outcome_of_response(
    request: &Request<'_>,
    response: &mut Response<'_>,
) -> (Outcome, Option<String>) {
    let mut failure = failure_state(request);
    let is_from_catcher = *failure.is_from_catcher.get_or_insert_with(|| !remove_mark(response));
    let status = response.status().code;
    if let Some(panic) = failure.watched.as_ref().and_then(Watched::panic)
        && (status >= 500 || is_from_catcher)
    {
        failure.status = Some(Status::InternalServerError);
        return (Outcome::Panicked, Some(panic));
    }
    match failure.status {
        None => (Outcome::of_status(status), None),
        Some(_) => (Outcome::ServerError, None),
    }
}

/// Returns whether a catcher has already answered a failure with this status, and need not be
/// called again.
pub(super) fn has_answered(request: &Request<'_>, code: u16) -> bool {
    let failure = failure_state(request);
    failure.is_from_catcher == Some(true) && failure.status == Some(status(code))
}

/// A cookie that is added to the jar when a session is opened, and never sent. Rocket empties the
/// jar before it calls a catcher, so a missing cookie shows that a catcher was called.
const NO_CATCHER_MARK: &str = "cloakroom-no-catcher";

/// Removes the mark from a response, and returns whether it was there.
fn remove_mark(response: &mut Response<'_>) -> bool {
    let is_mark = |value: &str| value.split('=').next() == Some(NO_CATCHER_MARK);
    let cookies: Vec<String> =
        response.headers().get("Set-Cookie").map(ToOwned::to_owned).collect();
    let has_mark = cookies.iter().any(|value| is_mark(value));
    if has_mark {
        response.remove_header("Set-Cookie");
        for cookie in cookies.into_iter().filter(|value| !is_mark(value)) {
            response.adjoin_raw_header("Set-Cookie", cookie);
        }
    }
    has_mark
}

/// Keeps the fields that a manager has appended, for a response that replaces this one: an
/// id that one manager has issued is valid even if the session of another manager fails.
pub(super) fn keep_fields(request: &Request<'_>, headers: &ResponseHeaders) {
    let fields = headers.appended_fields().map(|(name, value)| (name.to_owned(), value.to_owned()));
    failure_state(request).kept_fields.extend(fields);
}

/// Replaces the whole response by that of the catcher for this status. It keeps the ids of other
/// managers, and the headers that a server adds to every response.
pub(super) async fn replace<'r>(
    request: &'r Request<'_>,
    response: &mut Response<'r>,
    status: u16,
) {
    let handlers = std::mem::replace(response, catcher_response(status, request).await);
    for header in handlers.headers().iter() {
        let name = header.name().as_str();
        if is_of_every_response(name) && !response.headers().contains(name) {
            response.set_raw_header(name.to_owned(), header.value().to_owned());
        }
    }
    let kept_fields = failure_state(request).kept_fields.clone();
    for (name, value) in kept_fields {
        response.adjoin_raw_header(name, value);
    }
}

/// Returns whether a header of this name comes from the server or a fairing, not from a handler.
fn is_of_every_response(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "server",
        "x-content-type-options",
        "x-frame-options",
        "x-xss-protection",
        "permissions-policy",
        "strict-transport-security",
        "referrer-policy",
        "content-security-policy",
        "expect-ct",
    ];
    let name = name.to_ascii_lowercase();
    NAMES.contains(&name.as_str())
        || ["access-control-", "cross-origin-"].iter().any(|start| name.starts_with(start))
}

/// The response is that of the catcher for the status. An event has the details.
impl<'r> Responder<'r, 'static> for Error {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        Err(report_failure(request, &self))
    }
}

/// Reports the error of a request, and returns the status for the catcher.
pub(super) fn report_failure(
    request: &Request<'_>,
    error: &(dyn error::Error + Send + Sync + 'static),
) -> Status {
    let manager = failure_state(request).manager.clone();
    // A request without a session guard got the error from a manager that the handler holds.
    let manager = manager.or_else(|| guards::manager::<(), _>(request.rocket()).cloned());
    let status = status(match manager {
        Some(manager) => Adapter::new(&manager).report_error(error),
        None => {
            let (message, kind) = described(error);
            log::error!(target: "cloakroom", "a request failed: {message}");
            kind.map_or(500, ErrorKind::default_status)
        }
    });
    failure_state(request).status = Some(status);
    status
}

/// The error of a handler that returns [`Result`](super::Result): any error. `?` converts errors of
/// every type, `anyhow::Error` and texts included. The client gets the catcher's response, and an
/// event has the details.
#[derive(Debug)]
pub struct Failure(Box<dyn error::Error + Send + Sync>);

impl<E: Into<Box<dyn error::Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.into())
    }
}

impl<'r> Responder<'r, 'static> for Failure {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        Err(report_failure(request, &*self.0))
    }
}

/// Returns the status of this code, or 500 if Rocket has none.
fn status(code: u16) -> Status {
    Status::from_code(code).unwrap_or(Status::InternalServerError)
}

/// Returns the response of the catcher for this status; if that fails, of the one for 500, as
/// Rocket does.
async fn catcher_response<'r>(code: u16, request: &'r Request<'_>) -> Response<'r> {
    for status in [status(code), Status::InternalServerError] {
        let catcher = matching_catcher(status, request).unwrap_or_default();
        if let Some(response) = call_catcher(&catcher, status, request).await {
            return response;
        }
    }
    let default = call_catcher(&Catcher::default(), Status::InternalServerError, request).await;
    default.unwrap_or_else(|| Response::build().status(Status::InternalServerError).finalize())
}

/// Calls a catcher; returns `None` if it fails or panics.
async fn call_catcher<'r>(
    catcher: &Catcher,
    status: Status,
    request: &'r Request<'_>,
) -> Option<Response<'r>> {
    let handle = || catcher.handler.handle(status, request);
    // The catcher can panic before it returns its future, and in the future.
    let future = std::panic::catch_unwind(AssertUnwindSafe(handle)).ok()?;
    AssertUnwindSafe(future).catch_unwind().await.ok()?.ok()
}

/// Returns the application's catcher that Rocket would choose: by the deepest base, then by the
/// code.
fn matching_catcher(status: Status, request: &Request<'_>) -> Option<Catcher> {
    let path = request.uri().path();
    let covers = |catcher: &&Catcher| {
        catcher.code.is_none_or(|code| code == status.code)
            && catcher.base.path().segments().prefix_of(path.segments())
    };
    let depth = |catcher: &&Catcher| (catcher.base.path().segments().len(), catcher.code.is_some());
    request.rocket().catchers().filter(covers).max_by_key(depth).cloned()
}
