//! The failure of a request: its report, and the outcome with which its sessions are closed.

use std::error;
use std::sync::{Mutex, MutexGuard};

use rocket::http::{Cookie, Status};
use rocket::response::{self, Responder};
use rocket::{Request, Response};

use crate::adapter::{Adapter, Outcome};
use crate::error::{Error, ErrorKind, described};
use crate::manager::SessionManager;
use crate::sync::IgnorePoison;
use crate::web::rocket::guards;
use crate::web::rocket::panic_watch::Watched;

/// A cookie that is added to the jar when the first session is opened, and never sent. Rocket
/// empties the jar before it calls a catcher, so a missing cookie shows that a catcher was called.
const NO_CATCHER_MARK: &str = "cloakroom-no-catcher";

/// How a failure of a request is detected and reported, for all managers that it uses.
#[derive(Default)]
struct FailureTracker {
    /// The manager that reports errors.
    reporter: Option<SessionManager>,
    /// The status of an error or a panic, for the catcher.
    status: Option<Status>,
    /// Records a panic, from the opening of the first session on.
    watched: Option<Watched>,
    /// Whether a catcher has made the response; known from the first response fairing on.
    is_from_catcher: Option<bool>,
}

fn tracker<'r>(request: &'r Request<'_>) -> MutexGuard<'r, FailureTracker> {
    request.local_cache(Mutex::<FailureTracker>::default).lock().ignore_poison()
}

/// Sets the manager that reports the errors of this request, if there is none yet.
pub(super) fn report_to(request: &Request<'_>, manager: &SessionManager) {
    tracker(request).reporter.get_or_insert_with(|| manager.clone());
}

/// Starts to record a panic of this request.
pub(super) fn watch_request(request: &Request<'_>) {
    let mut tracker = tracker(request);
    let has_failed = tracker.status.is_some();
    tracker.watched.get_or_insert_with(|| {
        // After a failure, a catcher may be what opens the session.
        if !has_failed {
            request.cookies().add(Cookie::new(NO_CATCHER_MARK, ""));
        }
        Watched::new()
    });
}

/// Returns the outcome of the request, and the message of the panic if the handler panicked.
///
/// A catcher can answer a failure with any status. A handler can also answer, after it has caught
/// its own panic or got the error of a guard as an `Option` or a `Result`. [`NO_CATCHER_MARK`]
/// shows which of the two has made the response. The first row that applies decides:
///
/// | response | outcome |
/// |---|---|
/// | of a handler, with a status below 500, unless an error was reported before the first session was opened | completed |
/// | after a panic | panicked |
/// | after an error that was reported | server error |
/// | any other | that of its status |
pub(super) fn outcome_of_response(
    request: &Request<'_>,
    response: &mut Response<'_>,
) -> (Outcome, Option<String>) {
    let mut tracker = tracker(request);
    let is_from_catcher = *tracker.is_from_catcher.get_or_insert_with(|| !remove_mark(response));
    let code = response.status().code;
    if !is_from_catcher && code < 500 {
        return (Outcome::Completed, None);
    }
    if let Some(panic) = tracker.watched.as_ref().and_then(Watched::panic) {
        tracker.status = Some(Status::InternalServerError);
        return (Outcome::Panicked, Some(panic));
    }
    let outcome = match tracker.status {
        Some(_) => Outcome::ServerError,
        None => Outcome::of_status(code),
    };
    (outcome, None)
}

/// Returns whether a catcher has already answered a failure with this status, and need not be
/// called again.
pub(super) fn has_answered(request: &Request<'_>, code: u16) -> bool {
    let tracker = tracker(request);
    tracker.is_from_catcher == Some(true) && tracker.status == Some(status(code))
}

/// Removes the mark from a response, and returns whether it was there.
fn remove_mark(response: &mut Response<'_>) -> bool {
    let is_mark = |cookie: &String| cookie.split('=').next() == Some(NO_CATCHER_MARK);
    let cookies = response.headers().get("Set-Cookie").map(ToOwned::to_owned);
    let (marks, others): (Vec<_>, Vec<_>) = cookies.partition(is_mark);
    if marks.is_empty() {
        return false;
    }
    response.remove_header("Set-Cookie");
    for cookie in others {
        response.adjoin_raw_header("Set-Cookie", cookie);
    }
    true
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
    let manager = tracker(request).reporter.clone();
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
    tracker(request).status = Some(status);
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
pub(super) fn status(code: u16) -> Status {
    Status::from_code(code).unwrap_or(Status::InternalServerError)
}
