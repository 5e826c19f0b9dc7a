//! What a request is answered with that has failed.

use std::error;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rocket::catcher::Catcher;
use rocket::futures::FutureExt;
use rocket::http::{Cookie, Status};
use rocket::response::{self, Responder};
use rocket::{Request, Response};

use crate::error::{Error, ErrorKind, described};
use crate::http::Outcome;
use crate::manager::SessionManager;
use crate::web::rocket::guards;
use crate::web::rocket::panic_watch::Watched;

/// What is known of a request that may fail, and who is told of it.
#[derive(Default)]
struct Operator {
    sessions: OnceLock<SessionManager>,
    /// The status for which Rocket is to ask a catcher, because of an error or a panic; 0 for none.
    failed: AtomicU16,
    watched: OnceLock<Watched>,
    /// The answer is a catcher's.
    caught: OnceLock<bool>,
    /// The headers with ids that were added so far, by all managers of this request.
    kept: Mutex<Vec<(String, String)>>,
}

fn operator<'r>(request: &'r Request<'_>) -> &'r Operator {
    request.local_cache(Operator::default)
}

/// Notes the manager that an error of this request came from.
pub(super) fn used(request: &Request<'_>, sessions: &SessionManager) {
    operator(request).sessions.get_or_init(|| sessions.clone());
}

/// Watches for a panic of this request from now on.
pub(super) fn watch(request: &Request<'_>) {
    operator(request).watched.get_or_init(|| {
        request.cookies().add(Cookie::new(MARK, ""));
        Watched::new()
    });
}

/// What became of the handler, and what it said if it panicked.
///
/// A catcher can make any status of a failure, and a handler can catch its own panic and answer. The
/// two are told apart by the mark.
pub(super) fn outcome(
    request: &Request<'_>,
    response: &mut Response<'_>,
) -> (Outcome, Option<String>) {
    let operator = operator(request);
    let caught = *operator.caught.get_or_init(|| !take_mark(response));
    let status = response.status().code;
    if let Some(panic) = operator.watched.get().and_then(Watched::panic)
        && (status >= 500 || caught)
    {
        operator.failed.store(Status::InternalServerError.code, Ordering::Relaxed);
        return (Outcome::Panicked, Some(panic));
    }
    match operator.failed.load(Ordering::Relaxed) {
        0 => (Outcome::of_status(status), None),
        _ => (Outcome::ServerError, None),
    }
}

/// Whether the answer is one that a catcher has given to a failure with this status: it need not be
/// asked again.
pub(super) fn has_answered(request: &Request<'_>, code: u16) -> bool {
    let operator = operator(request);
    operator.caught.get() == Some(&true)
        && operator.failed.load(Ordering::Relaxed) == status(code).code
}

/// A cookie that is added to the jar when a session is opened, and never sent. Rocket empties the
/// jar before it runs a catcher, and does not say otherwise that it has run one.
const MARK: &str = "cloakroom-no-catcher";

/// Takes the mark out of a response, and says whether it was there.
fn take_mark(response: &mut Response<'_>) -> bool {
    let is_mark = |value: &str| value.split('=').next() == Some(MARK);
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

/// Adds a header, and keeps it for an answer that replaces this one: what a manager has told the
/// client is done, whatever becomes of another's session.
pub(super) fn add_kept(
    request: &Request<'_>,
    response: &mut Response<'_>,
    name: &str,
    value: &str,
) {
    response.adjoin_raw_header(name.to_owned(), value.to_owned());
    let mut kept = operator(request).kept.lock().unwrap_or_else(PoisonError::into_inner);
    kept.push((name.to_owned(), value.to_owned()));
}

/// Replaces the whole response by the catcher's for this status. What stays is what others have
/// added that is no part of the handler's answer: ids of other managers, and headers that a
/// server sends with every answer.
pub(super) async fn replace<'r>(
    request: &'r Request<'_>,
    response: &mut Response<'r>,
    status: u16,
) {
    let handlers = std::mem::replace(response, caught(status, request).await);
    for header in handlers.headers().iter() {
        let name = header.name().as_str();
        if is_of_every_answer(name) && !response.headers().contains(name) {
            response.set_raw_header(name.to_owned(), header.value().to_owned());
        }
    }
    let kept = operator(request).kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for (name, value) in kept {
        response.adjoin_raw_header(name, value);
    }
}

/// Whether a header of this name comes from the server or a fairing rather than from a handler.
fn is_of_every_answer(name: &str) -> bool {
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

/// Goes to the catcher of its status; the event tells all of it, the response nothing.
impl<'r> Responder<'r, 'static> for Error {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        Err(failed(request, &self))
    }
}

pub(super) fn failed(
    request: &Request<'_>,
    error: &(dyn error::Error + Send + Sync + 'static),
) -> Status {
    let operator = operator(request);
    // Where no guard of ours was used, the error came from a manager that the handler holds.
    let sessions = operator.sessions.get().or_else(|| guards::manager::<(), _>(request.rocket()));
    let status = status(match sessions {
        Some(sessions) => sessions.handler_failed(error),
        None => {
            let (words, kind) = described(error);
            log::error!(target: "cloakroom", "a request failed: {words}");
            kind.map_or(500, ErrorKind::default_status)
        }
    });
    operator.failed.store(status.code, Ordering::Relaxed);
    status
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
async fn caught<'r>(code: u16, request: &'r Request<'_>) -> Response<'r> {
    for status in [status(code), Status::InternalServerError] {
        let catcher = matching(status, request).unwrap_or_default();
        if let Some(answer) = by(&catcher, status, request).await {
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

/// The application's catcher that Rocket would choose: the deepest base counts first, then the
/// code.
fn matching(status: Status, request: &Request<'_>) -> Option<Catcher> {
    let path = request.uri().path();
    let covers = |catcher: &&Catcher| {
        catcher.code.is_none_or(|code| code == status.code)
            && catcher.base.path().segments().prefix_of(path.segments())
    };
    let depth = |catcher: &&Catcher| (catcher.base.path().segments().len(), catcher.code.is_some());
    request.rocket().catchers().filter(covers).max_by_key(depth).cloned()
}
