//! Sessions as a client sees them: over real sockets, on every framework and store.
//!
//! A case says in its path what the handler does; tests/common/app.rs has the steps.

#[path = "web/alike.rs"]
mod alike;
#[path = "common/app.rs"]
mod app;
#[path = "common/client.rs"]
mod client;
#[path = "web/clients.rs"]
mod clients;
mod common;
#[path = "web/cookies.rs"]
mod cookies;
#[path = "web/endings.rs"]
mod endings;
#[path = "web/handlers.rs"]
mod handlers;
#[path = "web/nested.rs"]
mod nested;
#[path = "web/parallel.rs"]
mod parallel;
#[path = "web/prefetch.rs"]
mod prefetch;
#[path = "web/proxies.rs"]
mod proxies;
#[path = "web/responses.rs"]
mod responses;
#[path = "common/site.rs"]
mod site;
#[path = "web/stores.rs"]
mod stores;

use std::time::Duration;

use app::Gate;
use client::{Browser, COOKIE, Exchange, Request, Response};
use cloakroom::id::SessionId;
use site::Site;

const REMOVAL: &str = "__Host-id=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; \
                       Secure; HttpOnly; SameSite=Lax";
const GUARD: &str = "no-cache=\"Set-Cookie\"";
const LONG: Duration = Duration::from_secs(30);

/// A well-formed id of no session.
fn unknown_id() -> String {
    SessionId::generate().unwrap().reveal()
}

fn cookie(id: &str) -> String {
    format!("{COOKIE}={id}")
}

/// Sends the request of a path that stops at the gate `late`; says when it has come there.
fn late(site: &Site, browser: &Browser, path: &str) -> (Exchange, Gate) {
    let gate = site.gate("late");
    let exchange = browser.start(Request::post(path));
    gate.wait_for_arrival();
    (exchange, gate)
}

/// An answer that says nothing but that something failed, with no cookie of anybody's.
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
