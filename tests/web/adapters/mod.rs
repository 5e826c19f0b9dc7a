//! Sessions as a client sees them: over real sockets, on every framework and store.
//!
//! A case says in its path what the handler does; tests/common/scripted_app.rs has the steps.

mod age_renewals;
mod alike;
mod clients;
mod cookies;
mod cross_origin;
mod endings;
mod error_pages;
mod handlers;
mod nested;
mod parallel;
mod prefetch;
mod proxies;
mod responses;
mod stores;

use std::time::Duration;

use crate::common::client::{COOKIE, Exchange, HttpClient, Request, Response};
use crate::common::gate::GateControl;
use crate::common::site::Site;
use cloakroom::id::SessionId;

const REMOVAL: &str = "__Host-id=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; \
                       Secure; HttpOnly; SameSite=Lax";
const GUARD: &str = "private, no-cache=\"Set-Cookie\"";
const LONG: Duration = Duration::from_secs(30);

/// A well-formed id of no session.
fn unknown_id() -> String {
    SessionId::generate().unwrap().reveal()
}

fn cookie(id: &str) -> String {
    format!("{COOKIE}={id}")
}

/// Sends the request of a path that stops at the gate `slow`, and returns when it is there.
fn start_gated(site: &Site, browser: &HttpClient, path: &str) -> (Exchange, GateControl) {
    let gate = site.gate("slow");
    let exchange = browser.start(Request::post(path));
    gate.wait_until_reached();
    (exchange, gate)
}

/// Sends the request of a path that stops at the gate `slow`, posts to `by` from the same browser,
/// and returns the answer to the first request.
#[track_caller]
fn overtaken(site: &Site, browser: &mut HttpClient, path: &str, by: &str) -> Response {
    let (mut slow, gate) = start_gated(site, browser, path);
    browser.post(by);
    gate.open();
    slow.answer().unwrap()
}

/// An answer that says nothing but that something failed, without any cookie.
#[track_caller]
fn assert_plain_failure(response: &Response, status: u16) {
    assert_eq!(response.status, status);
    assert!(response.all("Set-Cookie").is_empty(), "{response:?}");
    assert!(response.all("Location").is_empty(), "{response:?}");
    assert_eq!(response.one("Content-Type"), Some("text/plain; charset=utf-8"));
    let text = match status {
        503 => "The service is not available right now. Please try again.",
        _ => "Something went wrong.",
    };
    assert_eq!(response.text(), text);
}
