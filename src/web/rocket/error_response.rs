//! The response to a failed request. If necessary, Rocket's catchers are called again to make it.

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard};

use rocket::catcher::Catcher;
use rocket::futures::FutureExt;
use rocket::http::Status;
use rocket::{Request, Response};

use crate::adapter::ResponseHeaders;
use crate::sync::IgnorePoison;
use crate::web::rocket::failure::status;

/// The header fields that all managers of a request have appended so far.
#[derive(Default)]
struct AppendedFields(Mutex<Vec<(String, String)>>);

fn appended_fields<'r>(request: &'r Request<'_>) -> MutexGuard<'r, Vec<(String, String)>> {
    request.local_cache(AppendedFields::default).0.lock().ignore_poison()
}

/// Keeps the fields that a manager has appended, for a response that replaces this one: an
/// id that one manager has issued is valid even if the session of another manager fails.
pub(super) fn keep_fields(request: &Request<'_>, headers: &ResponseHeaders) {
    let fields = headers.appended_fields().map(|(name, value)| (name.to_owned(), value.to_owned()));
    appended_fields(request).extend(fields);
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
    for (name, value) in appended_fields(request).iter() {
        response.adjoin_raw_header(name.clone(), value.clone());
    }
}

/// Returns whether a header of this name probably comes from the server or a fairing, not from a
/// handler. Rocket does not say where a header comes from, so this is a guess by the usual names:
/// an application's own header for every response is lost, and a handler's header of such a name,
/// like the content security policy of its page, stays on the error page.
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
