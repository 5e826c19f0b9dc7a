//! Examples that an operator stops.

use crate::common::Folder;
use crate::common::client::{Exchange, Request};
use crate::common::example::{CookieKind, Example};

#[test]
fn a_request_that_was_begun_is_answered_after_sigterm() {
    for name in ["rouille", "notes"] {
        let folder = Folder::new();
        let mut server = Example::start(name, &folder, CookieKind::Default);
        // The server reads a form of this length when the handler asks for it, and not before.
        let form = format!("user=ada&password={}", "x".repeat(2000));
        let request = Request::new("POST", "/sign-in")
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Content-Length", form.len().to_string())
            .header("Expect", "100-continue");
        let mut exchange = Exchange::start(server.address, &request).unwrap();
        assert_eq!(exchange.head().unwrap().status, 100, "{name}: the handler waits for the form");
        server.ask_to_stop();
        // A server that does not wait for its request would stop during these.
        for _ in 0..100 {
            let other = Exchange::start(server.address, &Request::get("/")).unwrap().answer();
            assert_eq!(other.unwrap().status, 200, "{name}");
        }
        exchange.send_bytes(form.as_bytes()).unwrap();
        assert_eq!(exchange.answer().unwrap().status, 303, "{name}");
        server.stop();
    }
}
