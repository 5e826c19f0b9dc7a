//! The response.

use std::sync::atomic::{AtomicU64, Ordering};

use cloakroom::event::EventKind;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::adapters::{GUARD, LONG, REMOVAL, cookie};
use crate::common::client::Request;
use crate::common::site::{everywhere, everywhere_with, on_files};

#[test]
fn the_handlers_own_cookie_stays_beside_ours() {
    everywhere(|site| {
        let mut browser = site.browser();
        let response = browser.post("/own-cookie/count");
        let id = response.id().unwrap();
        assert_eq!(response.all("Set-Cookie").len(), 2);
        assert!(response.all("Set-Cookie").contains(&"theme=dark; Path=/"));
        let both = Request::get("/visits").cookie(format!("theme=dark; {}", cookie(&id)));
        assert_eq!(site.send(&both).text(), "1");
        assert_eq!(browser.get("/visits/own-cookie").all("Set-Cookie"), ["theme=dark; Path=/"]);
        assert_eq!(browser.post("/destroy/own-cookie").all("Set-Cookie").len(), 2);
    });
}

#[test]
fn vary_names_the_cookie_once_and_keeps_what_the_handler_said() {
    everywhere(|site| {
        let vary = |path: &str| site.browser().get(path).one("Vary").map(str::to_owned);
        assert_eq!(vary("/hello/vary:Accept-Encoding").as_deref(), Some("Accept-Encoding"));
        for read in ["visits", "count", "names", "who", "get:name", "public-id", "flashes"] {
            let path = format!("/{read}/vary:Accept-Encoding");
            assert_eq!(vary(&path).as_deref(), Some("Accept-Encoding, Cookie"), "{read}");
        }
        for (said, vary_is) in
            [("cookie", "cookie"), ("*", "*"), ("Accept,Cookie", "Accept,Cookie")]
        {
            assert_eq!(vary(&format!("/visits/vary:{said}")).as_deref(), Some(vary_is));
        }
        let twice = vary("/visits/vary:Accept/vary:Origin");
        assert_eq!(twice.as_deref(), Some("Accept, Origin, Cookie"));
    });
}

#[test]
fn optional_headers_come_beside_all_others() {
    let asked_for = |builder: SessionManagerBuilder| {
        builder.no_store_when_signed_in(true).clear_site_data(true)
    };
    everywhere_with(asked_for, |site| {
        let mut browser = site.browser();
        let response = browser.post("/sign-in:ada/own-cookie/public");
        let not_stored = Some("max-age=60, private, no-store");
        assert_eq!(response.one("Cache-Control"), not_stored);
        assert_eq!(response.all("Set-Cookie").len(), 2);
        assert_eq!(browser.get("/who/public").one("Cache-Control"), not_stored);
        assert_eq!(browser.get("/who").one("Cache-Control"), Some("no-store"));
        assert_eq!(browser.get("/who/status:500").one("Cache-Control"), Some("no-store"));
        assert_eq!(browser.get("/hello").one("Cache-Control"), None);
        let response = browser.post("/destroy/own-cookie");
        assert_eq!(response.one("Clear-Site-Data"), Some("\"cache\", \"storage\""));
        assert_eq!(response.all("Set-Cookie").len(), 3);
        let ours = response.session_cookies();
        assert!(ours[0].starts_with("__Host-id=signed-out; "), "an overwrite first: {ours:?}");
        assert_eq!(ours[1..], [REMOVAL]);
        assert_eq!(site.browser().get("/who").one("Clear-Site-Data"), None);
    });
}

#[test]
fn a_response_that_carries_an_id_is_not_publicly_cacheable() {
    everywhere(|site| {
        let mut browser = site.browser();
        let guarded = format!("max-age=60, {GUARD}");
        let response = browser.post("/count/public");
        assert_eq!(response.one("Cache-Control"), Some(guarded.as_str()));
        let response = browser.get("/visits/public");
        assert_eq!(response.one("Cache-Control"), Some("max-age=60, private"), "presented one");
        let response = site.browser().get("/visits/public");
        assert_eq!(response.one("Cache-Control"), Some("public, max-age=60"), "neither");
        let response = browser.get("/hello/public");
        assert_eq!(response.one("Cache-Control"), Some("public, max-age=60"), "unused");
        let response = browser.post("/destroy/public");
        assert_eq!(response.one("Cache-Control"), Some(guarded.as_str()), "takes one away");
    });
}

#[test]
fn answers_without_a_body_carry_the_cookie_too() {
    everywhere(|site| {
        for status in [204, 304] {
            let mut browser = site.browser();
            let response = browser.post(&format!("/count/status:{status}"));
            assert_eq!((response.status, response.body.len()), (status, 0));
            assert!(response.id().is_some());
            assert_eq!(browser.get("/visits").text(), "1");
        }
        let mut browser = site.browser();
        let response = browser.try_send(Request::new("HEAD", "/count")).unwrap();
        assert_eq!((response.status, response.body.len()), (200, 0));
        assert!(response.id().is_some());
        assert_eq!(browser.get("/visits").text(), "1");
    });
}

#[test]
fn a_long_body_comes_whole_and_after_the_commit() {
    everywhere(|site| {
        let gate = site.gate("half");
        let mut browser = site.browser();
        let mut exchange = browser.start(Request::post("/count/stream:8000000:half"));
        let head = exchange.head().unwrap();
        browser.take(&head);
        assert_eq!(browser.get("/visits").text(), "1", "before the body is complete");
        gate.open();
        let response = exchange.body_of(head).unwrap();
        assert_eq!(response.body.len(), 8_000_000);
        assert!(response.body.iter().all(|byte| *byte == b'x'));
    });
}

#[test]
fn client_errors_and_redirects_keep_the_changes() {
    everywhere(|site| {
        for status in [301, 303, 400, 404, 422, 499] {
            let mut browser = site.browser();
            let response = browser.post(&format!("/count/status:{status}"));
            assert_eq!(response.status, status);
            assert!(response.id().is_some());
            assert_eq!(browser.get("/visits").text(), "1");
        }
    });
}

#[test]
fn a_sign_in_is_stored_before_its_redirect_can_be_read() {
    on_files(LONG, |site| {
        let other = Connection::open(site.database()).unwrap();
        let sql = "SELECT count(*) FROM cloakroom_sessions WHERE user_key = ?1";
        for n in 0..50 {
            let user = format!("user{n}");
            let browser = site.browser();
            let mut exchange = browser.start(Request::post(format!("/sign-in:{user}/redirect")));
            let head = exchange.head().unwrap();
            let rows: i64 = other.query_row(sql, [&user], |row| row.get(0)).unwrap();
            assert_eq!((head.status, rows), (303, 1));
            assert_eq!(head.one("Location"), Some("/who"));
        }
    });
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        let before = browser.id().to_owned();
        let mut exchange = browser.start(Request::post("/count/sign-in:ada/redirect"));
        // A second connection follows the redirect while the first is still open.
        browser.take(&exchange.head().unwrap());
        assert_ne!(browser.id(), before);
        assert_eq!(browser.get("/who/visits").text(), "ada\n2");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn the_id_travels_in_a_header_where_that_is_configured() {
    let configure = |builder: SessionManagerBuilder| builder.header("X-Session");
    everywhere_with(configure, |site| {
        let response = site.send(&Request::post("/count"));
        assert_eq!(response.one("Set-Cookie"), None);
        assert_eq!(response.one("Vary"), Some("X-Session"));
        assert_eq!(response.one("Cache-Control"), Some("no-store"));
        let id = response.one("X-Session").unwrap();
        let response = site.send(&Request::post("/count").header("x-session", id));
        assert_eq!((response.text(), response.one("X-Session")), ("2", None));
        let response = site.send(&Request::post("/count").cookie(cookie(id)));
        assert_eq!(response.text(), "1", "a cookie is not looked at");
        let response = site.send(&Request::post("/destroy").header("X-Session", id));
        assert_eq!((response.status, response.one("X-Session")), (200, None));
        let response = site.send(&Request::get("/visits").header("X-Session", id));
        assert_eq!((response.text(), response.one("X-Session")), ("0", None));
    });
}

#[test]
fn a_cookie_that_browsers_drop_is_reported_once_a_process() {
    let reported = AtomicU64::new(0);
    everywhere(|site| {
        let count = |host: &str| Request::post("/count").header("Host", host);
        let forwarded = |by: &str| count("example.org").header("X-Forwarded-Proto", by);
        for fine in [count("localhost:80"), count("[::1]:80"), forwarded("https")] {
            let before = site.count(EventKind::InsecureConnection);
            site.send(&fine);
            assert_eq!(site.count(EventKind::InsecureConnection), before, "{fine:?}");
        }
        site.send(&Request::get("/visits").header("Host", "example.org"));
        assert_eq!(site.count(EventKind::InsecureConnection), 0, "no cookie, no warning");
        site.send(&forwarded("http"));
        site.send(&count("example.org"));
        reported.fetch_add(site.count(EventKind::InsecureConnection), Ordering::Relaxed);
    });
    assert_eq!(reported.into_inner(), 1);
}
