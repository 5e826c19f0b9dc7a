//! What a request is answered with that has failed.

use std::error;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rocket::catcher::Catcher;
use rocket::futures::FutureExt;
use rocket::http::Status;
use rocket::response::{self, Responder};
use rocket::{Request, Response};

use crate::error::{Chain, Error};
use crate::manager::SessionManager;

/// Who is told of a request's error, and whether there was one.
#[derive(Default)]
struct Operator {
    sessions: OnceLock<SessionManager>,
    was_told: AtomicBool,
}

fn operator<'r>(request: &'r Request<'_>) -> &'r Operator {
    request.local_cache(Operator::default)
}

/// Notes the manager that an error of this request came from.
pub(super) fn used(request: &Request<'_>, sessions: &SessionManager) {
    operator(request).sessions.get_or_init(|| sessions.clone());
}

/// Whether an error of ours was returned, whatever a catcher made of it.
pub(super) fn has_failed(request: &Request<'_>) -> bool {
    operator(request).was_told.load(Ordering::Relaxed)
}

/// Goes to the catcher of its status; the event tells all of it, the response nothing.
impl<'r> Responder<'r, 'static> for Error {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        Err(failed(request, &self))
    }
}

fn failed(request: &Request<'_>, error: &(dyn error::Error + Send + Sync + 'static)) -> Status {
    let operator = operator(request);
    operator.was_told.store(true, Ordering::Relaxed);
    match operator.sessions.get() {
        Some(sessions) => status(sessions.handler_failed(error)),
        // Nobody has used a guard of ours, so there are no events to tell.
        None => {
            log::error!(target: "cloakroom", "a request failed: {}", Chain(error));
            Status::InternalServerError
        }
    }
}

/// Any error of a handler, as [`Result`](super::Result) has it: the client gets the catcher's
/// answer, and the operator the event.
#[derive(Debug)]
pub struct Failure(Box<dyn error::Error + Send + Sync>);

impl Failure {
    /// For what `?` does not take: an error in a box, or words.
    pub fn new(error: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Failure(error.into())
    }
}

impl<E: error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(Box::new(error))
    }
}

impl<'r> Responder<'r, 'static> for Failure {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        Err(failed(request, &*self.0))
    }
}

fn status(code: u16) -> Status {
    Status::from_code(code).unwrap_or(Status::InternalServerError)
}

/// The answer of the catcher for this status; if that fails too, of the one for 500, as Rocket
/// does it.
pub(super) async fn caught<'r>(code: u16, request: &'r Request<'_>) -> Response<'r> {
    for status in [status(code), Status::InternalServerError] {
        if let Some(answer) = by(&matching(status, request), status, request).await {
            return answer;
        }
    }
    let default = by(&Catcher::default(), Status::InternalServerError, request).await;
    default.unwrap_or_else(|| Response::build().status(Status::InternalServerError).finalize())
}

async fn by<'r>(
    catcher: &Catcher,
    status: Status,
    request: &'r Request<'_>,
) -> Option<Response<'r>> {
    let answer = || catcher.handler.handle(status, request);
    // It may panic before there is a future, and in it.
    let answer = std::panic::catch_unwind(AssertUnwindSafe(answer)).ok()?;
    AssertUnwindSafe(answer).catch_unwind().await.ok()?.ok()
}

/// The catcher that Rocket would choose: the deepest base counts first, then the code.
fn matching(status: Status, request: &Request<'_>) -> Catcher {
    let path = request.uri().path();
    let covers = |catcher: &&Catcher| {
        catcher.code.is_none_or(|code| code == status.code)
            && catcher.base.path().segments().prefix_of(path.segments())
    };
    let depth = |catcher: &&Catcher| (catcher.base.path().segments().len(), catcher.code.is_some());
    let found = request.rocket().catchers().filter(covers).max_by_key(depth);
    found.cloned().unwrap_or_default()
}
