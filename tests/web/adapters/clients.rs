//! Clients that hang up, and servers that stop.

use crate::adapters::{LONG, cookie, start_gated};
use crate::common::client::{PATIENCE, Request};
use crate::common::site::{everywhere, on_files};

#[test]
fn a_client_that_hangs_up_in_mid_response_keeps_its_change() {
    everywhere(|site| {
        let mut browser = site.browser();
        for n in 1..10 {
            let mut exchange = browser.start(Request::post("/count/stream:50000000"));
            browser.take(&exchange.head().unwrap());
            drop(exchange);
            assert_eq!(browser.get("/visits").text(), n.to_string());
        }
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn a_client_that_hangs_up_early_keeps_its_change() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        let (exchange, gate) = start_gated(site, &browser, "/count/gate:slow");
        drop(exchange);
        assert_eq!(browser.get("/visits").text(), "1");
        gate.open();
        let started = std::time::Instant::now();
        while browser.get("/visits").text() != "2" {
            assert!(started.elapsed() < PATIENCE, "the change is lost");
        }
        assert_eq!(browser.post("/count").text(), "3");
    });
}

#[test]
fn a_client_that_hangs_up_in_mid_request_does_no_harm() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        let request = browser.with_cookie(Request::post("/count")).bytes();
        for length in [0, 1, 20, request.len() / 2, request.len() - 1] {
            let mut exchange = site.connect();
            exchange.send_bytes(&request[..length]).unwrap();
            drop(exchange);
        }
        assert_eq!(browser.post("/count").text(), "2");
    });
}

#[test]
fn only_live_sessions_outlive_a_restart_of_the_server() {
    on_files(LONG, |site| {
        let mut ada = site.visitor("/count/sign-in:ada");
        let mut bob = site.visitor("/sign-in:bob");
        let bobs = bob.id().to_owned();
        bob.post("/destroy");
        for n in 1..4 {
            site.restart();
            ada.address = site.address();
            assert_eq!(ada.get("/who/visits").text(), format!("ada\n{n}"));
            assert_eq!(ada.post("/count").one("Set-Cookie"), None);
            assert_eq!(site.read("/who", cookie(&bobs)), "none");
        }
    });
}
