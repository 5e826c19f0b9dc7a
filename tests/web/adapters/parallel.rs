//! Concurrent requests.

use std::sync::Barrier;
use std::time::Duration;

use cloakroom::backend::Store;
use cloakroom::event::EventKind;
use cloakroom::list::SessionFilter;

use crate::adapters::{REMOVAL, cookie, overtaken, start_gated};
use crate::common::client::{Request, send};
use crate::common::site::everywhere;

#[test]
fn a_writer_overtaken_by_a_sign_out_stores_nothing() {
    everywhere(|site| {
        for (path, text) in [
            ("/count/gate:slow", "2"),
            ("/visits/set:name:x/gate:slow", "1"),
            ("/visits/gate:slow/set:name:x", "1"),
            ("/who/clear/gate:slow", "ada"),
            ("/flash:hi/gate:slow", ""),
            ("/set:name:x/gate:slow", ""),
            ("/count/renew/gate:slow", "2"),
            ("/visits/renew/gate:slow", "1"),
            ("/count/gate:slow/commit", "2\nDiscarded"),
            ("/visits/gate:slow/commit/count", "1\nStored\n2"),
            ("/count/gate:slow/commit/set:again:1/commit", "2\nDiscarded\nDiscarded"),
        ] {
            let mut browser = site.visitor("/sign-in:ada/count");
            let recorded = cookie(browser.id());
            let (mut writer, gate) = start_gated(site, &browser, path);
            assert_eq!(browser.post("/destroy").one("Set-Cookie"), Some(REMOVAL));
            let events = site.count(EventKind::ChangesDiscarded);
            gate.open();
            let response = writer.answer().unwrap();
            assert_eq!((response.status, response.text()), (200, text), "{path}");
            assert_eq!(response.one("Set-Cookie"), None, "{path}");
            assert!(site.count(EventKind::ChangesDiscarded) > events, "{path}: no event");
            assert_eq!(site.sessions(), 0, "{path}");
            assert_eq!(site.read("/who/visits/get:name", recorded), "none\n0\nnone", "{path}");
        }
    });
}

#[test]
fn a_writer_after_the_sign_out_begins_an_anonymous_session() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada/count");
        let recorded = browser.id().to_owned();
        browser.post("/destroy");
        let response = site.send(&Request::post("/set:name:x").cookie(cookie(&recorded)));
        assert!(response.id().is_some_and(|id| id != recorded));
    });
}

#[test]
fn a_sign_in_that_is_overtaken_is_no_error() {
    everywhere(|site| {
        for overtaken_by in ["/sign-in:ada", "/sign-in:bob", "/destroy", "/renew"] {
            for path in ["/visits/gate:slow/sign-in:ada", "/gate:slow/sign-in:ada"] {
                let case = format!("{path} after {overtaken_by}");
                let mut browser = site.visitor("/count");
                let old = cookie(browser.id());
                let (mut slow, gate) = start_gated(site, &browser, path);
                let other = browser.post(overtaken_by);
                gate.open();
                let response = slow.answer().unwrap();
                assert_eq!(response.status, 200, "{case}");
                let id = response.id().unwrap();
                // Of two sign-ins of one user through one id the later joins the first.
                let joins = overtaken_by == "/sign-in:ada";
                assert_eq!(other.id().as_ref() == Some(&id), joins, "{case}");
                assert_eq!(site.read("/who", cookie(&id)), "ada", "{case}");
                assert_eq!(site.read("/who/visits", &old), "none\n0", "{case}");
            }
        }
    });
}

#[test]
fn a_reader_that_is_overtaken_by_a_sign_out_revives_nothing() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada");
        site.clock.advance(Duration::from_secs(43_200));
        let recorded = browser.id().to_owned();
        let response = overtaken(site, &mut browser, "/who/gate:slow", "/destroy");
        assert_eq!((response.text(), response.one("Set-Cookie")), ("ada", None));
        site.app.sessions.flush().unwrap();
        assert_eq!(site.sessions(), 0);
        assert_eq!(site.read("/who", cookie(&recorded)), "none");
    });
}

#[test]
fn a_response_in_flight_leaves_the_cookie_of_a_sign_in_alone() {
    everywhere(|site| {
        for path in [
            "/gate:slow/visits",
            "/visits/gate:slow",
            "/count/gate:slow",
            "/gate:slow/count",
            "/set:name:x/gate:slow",
            "/renew/gate:slow",
            "/visits/renew/gate:slow",
            "/count/gate:slow/panics",
            "/gate:slow/count/status:500",
        ] {
            let mut browser = site.visitor("/count");
            let response = overtaken(site, &mut browser, path, "/sign-in:ada");
            assert_eq!(response.one("Set-Cookie"), None, "{path}");
            let read = browser.get("/who/visits/get:name/flashes");
            assert_eq!(read.text(), "ada\n1\nnone\n", "{path}");
            assert_eq!(site.sessions(), 1, "{path}");
            browser.post("/destroy");
        }
    });
}

#[test]
fn a_sign_out_in_flight_by_a_replaced_id_ends_the_session() {
    everywhere(|site| {
        for (path, removes) in [
            ("/gate:slow/destroy", true),
            ("/visits/gate:slow/destroy", true),
            ("/destroy/gate:slow/flash:bye", false),
        ] {
            let mut browser = site.visitor("/count");
            let response = overtaken(site, &mut browser, path, "/sign-in:ada");
            match removes {
                true => assert_eq!(response.one("Set-Cookie"), Some(REMOVAL), "{path}"),
                false => assert!(response.id().is_some(), "{path}"),
            }
            assert_eq!(browser.get("/who/visits").text(), "none\n0", "{path}");
        }
    });
}

#[test]
fn a_writer_overtaken_by_a_revocation_stores_nothing() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada/count");
        let (mut writer, gate) = start_gated(site, &browser, "/count/gate:slow");
        let now = site.now();
        site.store.index().unwrap().revoke(&SessionFilter::All, None, now).unwrap();
        gate.open();
        assert_eq!(writer.answer().unwrap().one("Set-Cookie"), None);
        assert_eq!(site.sessions(), 0);
        let response = browser.get("/who");
        assert_eq!((response.text(), response.one("Set-Cookie")), ("none", None));
    });
}

#[test]
fn a_sign_in_after_a_lost_change_begins_anew() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada/count");
        let path = "/count/gate:slow/commit/sign-in:bob/count/commit";
        let response = overtaken(site, &mut browser, path, "/destroy");
        assert_eq!(response.text(), "2\nDiscarded\n1\nStored");
        browser.take(&response);
        assert_eq!(browser.get("/who/visits").text(), "bob\n1");
    });
}

#[test]
fn two_requests_with_different_names_both_keep_their_change() {
    everywhere(|site| {
        let mut browser = site.visitor("/set:a:0/set:b:0/set:c:0");
        let (mut slow, gate) = start_gated(site, &browser, "/get:a/set:a:1/set:c:1/gate:slow");
        browser.post("/set:b:2/set:c:2");
        gate.open();
        slow.answer().unwrap();
        assert_eq!(browser.get("/get:a/get:b/get:c").text(), "1\n2\n1", "the later commit wins");
    });
}

#[test]
fn an_update_that_was_overtaken_is_computed_again() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        let (mut slow, gate) = start_gated(site, &browser, "/count/gate:slow");
        for n in 2..5 {
            assert_eq!(browser.post("/count").text(), n.to_string());
        }
        gate.open();
        assert_eq!(slow.answer().unwrap().status, 200);
        assert_eq!(browser.get("/visits").text(), "5");
    });
}

#[test]
fn eight_tabs_that_count_at_once_are_all_counted() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        let start = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                let (mut tab, start) = (browser.clone(), &start);
                scope.spawn(move || {
                    start.wait();
                    for _ in 0..50 {
                        let response = tab.post("/count");
                        assert_eq!((response.status, response.one("Set-Cookie")), (200, None));
                    }
                });
            }
        });
        assert_eq!((browser.get("/visits").text(), site.sessions()), ("401", 1));
    });
}

#[test]
fn sign_outs_amid_many_writers_are_final() {
    everywhere(|site| {
        for _ in 0..20 {
            let mut browser = site.visitor("/sign-in:ada/count");
            let recorded = cookie(browser.id());
            let (start, address) = (Barrier::new(5), site.address());
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let (start, recorded) = (&start, &recorded);
                    scope.spawn(move || {
                        start.wait();
                        for _ in 0..5 {
                            let request = Request::post("/count").cookie(recorded);
                            assert_eq!(send(address, &request).unwrap().status, 200);
                        }
                    });
                }
                start.wait();
                assert_eq!(browser.post("/destroy").one("Set-Cookie"), Some(REMOVAL));
                assert_eq!(site.read("/who/visits", &recorded), "none\n0");
            });
            assert_eq!(site.read("/who/visits", &recorded), "none\n0");
        }
        assert_eq!(site.stats().signed_in, 0);
    });
}

#[test]
fn a_slow_handler_keeps_no_other_request_waiting() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        let (mut slow, gate) = start_gated(site, &browser, "/count/gate:slow");
        assert_eq!(browser.get("/visits").text(), "1");
        assert_eq!(browser.post("/set:name:x/get:name").text(), "x");
        assert_eq!(site.browser().post("/count").text(), "1");
        gate.open();
        slow.answer().unwrap();
        assert_eq!(browser.get("/visits/get:name").text(), "2\nx");
    });
}
