//! Examples that an operator stops.

use crate::common::Folder;
use crate::common::client::{Exchange, Request};
use crate::common::example::{CookieKind, Example};

/// Starts an example, and a request with a form of this length, for which the handler waits: the
/// server reads it when the handler asks for it, and not before.
fn begin_sign_in(name: &str, folder: &Folder, form: &str) -> (Example, Exchange) {
    let server = Example::start(name, folder, CookieKind::Default);
    let request = Request::new("POST", "/sign-in")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("Content-Length", form.len().to_string())
        .header("Expect", "100-continue");
    let mut exchange = Exchange::start(server.address, &request).unwrap();
    assert_eq!(exchange.head().unwrap().status, 100, "{name}: the handler waits for the form");
    (server, exchange)
}

#[test]
fn a_request_on_rouille_is_answered_after_sigterm() {
    let (folder, form) = (Folder::new(), format!("user=ada&password={}", "x".repeat(2000)));
    let (mut server, mut exchange) = begin_sign_in("rouille", &folder, &form);
    server.ask_to_stop();
    // A server that does not wait for its request would stop during these.
    for _ in 0..100 {
        let other = Exchange::start(server.address, &Request::get("/")).unwrap().answer();
        assert_eq!(other.unwrap().status, 200);
    }
    exchange.send_bytes(form.as_bytes()).unwrap();
    assert_eq!(exchange.answer().unwrap().status, 303);
    server.stop();
}

#[test]
fn a_request_on_rocket_is_answered_after_sigterm() {
    // An empty name needs no argon2, which is slow in a debug build.
    let (folder, form) = (Folder::new(), format!("name=&password={}", "x".repeat(2000)));
    let (mut server, mut exchange) = begin_sign_in("notes", &folder, &form);
    server.ask_to_stop();
    exchange.send_bytes(form.as_bytes()).unwrap();
    assert_eq!(exchange.answer().unwrap().status, 303);
    server.stop();
}
