//! Sessions as a client sees them: over real sockets, on every framework and store.
//!
//! A case says in its path what the handler does; tests/common/app.rs has the steps.

#[path = "common/app.rs"]
mod app;
#[path = "common/client.rs"]
mod client;
mod common;
#[path = "common/site.rs"]
mod site;

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::{Browser, COOKIE, Exchange, Request, Response};
use cloakroom::event::EventKind;
use cloakroom::id::SessionId;
use cloakroom::manager::Builder;
use cloakroom::rusqlite::Connection;
use cloakroom::store::{AtLimit, Page, Store, Which};
use cloakroom::{ErrorKind, OnLoadFailure, UserKey};
use site::{Site, everywhere, everywhere_with, on_files};

const REMOVAL: &str = "__Host-id=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax";
const GUARD: &str = "no-cache=\"Set-Cookie\"";
const LONG: Duration = Duration::from_secs(30);

/// A well-formed id of no session.
fn unknown_id() -> String {
    SessionId::generate().unwrap().reveal()
}

fn cookie(id: &str) -> String {
    format!("{COOKIE}={id}")
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

// The request and its cookie.

#[test]
fn a_request_that_ignores_its_session_costs_no_store_call_and_gets_no_header() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let calls = site.store.calls();
        for request in [
            Request::get("/hello"),
            Request::get("/hello").cookie(cookie(browser.id())),
            Request::get("/hello").cookie(cookie(&unknown_id())),
        ] {
            let response = site.send(&request);
            assert_eq!((response.status, response.text()), (200, "hello"));
            for name in ["Set-Cookie", "Vary", "Cache-Control"] {
                assert_eq!(response.one(name), None, "{request:?}");
            }
        }
        assert_eq!(site.store.calls(), calls);
    });
}

#[test]
fn reading_without_a_session_creates_none_and_sets_no_cookie() {
    everywhere(|site| {
        let response = site.browser().get("/visits/get:name/who/keys/flashes/handle");
        assert_eq!(response.text(), "0\nnone\nnone\n\n\nnone");
        assert_eq!(response.one("Set-Cookie"), None);
        assert_eq!(response.one("Vary"), Some("Cookie"));
        assert_eq!(response.one("Cache-Control"), None);
        assert_eq!((site.sessions(), site.store.calls()), (0, 0));
    });
}

#[test]
fn the_first_write_sets_exactly_one_cookie_with_exactly_the_documented_attributes() {
    everywhere(|site| {
        let response = site.browser().post("/count");
        assert_eq!((response.status, response.text()), (200, "1"));
        let header = response.one("Set-Cookie").unwrap();
        let id = response.id().unwrap();
        assert_eq!(id.len(), 43);
        assert!(SessionId::parse(&id).is_some());
        let attributes = "Path=/; Max-Age=2592000; Secure; HttpOnly; SameSite=Lax";
        assert_eq!(header, format!("__Host-id={id}; {attributes}"));
        assert_eq!(response.one("Vary"), Some("Cookie"));
        assert_eq!(response.one("Cache-Control"), Some(GUARD));
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn an_existing_session_is_read_and_written_without_another_cookie() {
    everywhere(|site| {
        let mut browser = site.browser();
        let first = browser.post("/count").id();
        for n in 2..5 {
            let response = browser.post("/count");
            assert_eq!(response.text(), n.to_string());
            assert_eq!((response.one("Set-Cookie"), response.one("Cache-Control")), (None, None));
            let response = browser.get("/visits");
            assert_eq!(response.text(), n.to_string());
            assert_eq!((response.one("Set-Cookie"), response.one("Vary")), (None, Some("Cookie")));
        }
        assert_eq!((browser.id, site.sessions()), (first, 1));
    });
}

#[test]
fn writing_what_is_there_already_changes_nothing() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/set:name:ada");
        let handle = browser.get("/handle").text().to_owned();
        assert_eq!(browser.post("/set:name:ada").one("Set-Cookie"), None);
        assert_eq!(browser.get("/handle/get:name").text(), format!("{handle}\nada"));
        // And what comes to nothing begins no session.
        assert_eq!(site.browser().post("/set:name:ada/remove:name").one("Set-Cookie"), None);
        assert_eq!(site.browser().post("/remove:name/clear").one("Set-Cookie"), None);
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn an_unknown_id_is_not_adopted_and_a_write_gives_another() {
    everywhere(|site| {
        let unknown = unknown_id();
        let response = site.send(&Request::post("/count").cookie(cookie(&unknown)));
        assert_eq!(response.text(), "1");
        assert_ne!(response.id().unwrap(), unknown);
        let again = site.send(&Request::get("/visits").cookie(cookie(&unknown)));
        assert_eq!(again.text(), "0");
        assert_eq!(again.one("Set-Cookie"), Some(REMOVAL), "a dead cookie may go");
        assert_eq!(site.sessions(), 1);
        assert!(site.count(EventKind::Unknown) >= 2);
    });
}

#[test]
fn a_malformed_cookie_never_reaches_the_store_and_a_write_begins_a_new_session() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let live = browser.id().to_owned();
        let mut other_spelling = live.clone();
        // The last character carries four bits of the id; the two others must be zero.
        let last = other_spelling.pop().unwrap();
        other_spelling.push(char::from(last as u8 + 1));
        for malformed in [
            "x".to_owned(),
            live[1..].to_owned(),
            format!("{live}A"),
            format!("{live}="),
            format!("\"{live}\""),
            format!("{live} {live}"),
            format!("{live}\0"),
            format!("\0{}", &live[1..]),
            live.replace(&live[..1], "!"),
            other_spelling,
            "A".repeat(10_000),
            format!("{live}{}", "A".repeat(10_000)),
        ] {
            let (calls, events) = (site.store.calls(), site.count(EventKind::Malformed));
            let response = site.send(&Request::get("/visits").cookie(cookie(&malformed)));
            assert_eq!((response.status, response.text()), (200, "0"), "{malformed:?}");
            assert_eq!(response.one("Set-Cookie"), Some(REMOVAL), "{malformed:?}");
            assert_eq!(site.store.calls(), calls, "{malformed:?} reached the store");
            assert_eq!(site.count(EventKind::Malformed), events + 1);

            let response = site.send(&Request::post("/count").cookie(cookie(&malformed)));
            assert_eq!(response.text(), "1", "{malformed:?}");
            assert_ne!(response.id().unwrap(), live);
        }
        assert_eq!(browser.get("/visits").text(), "1", "the session is as it was");
    });
}

#[test]
fn cookie_headers_that_are_hardly_any_are_read_as_far_as_they_go() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let (ours, id) = (cookie(browser.id()), browser.id());
        for (header, visits) in [
            (String::new(), "0"),
            (";;; ; =; a; =b; ,".to_owned(), "0"),
            (COOKIE.to_owned(), "0"),
            (format!("{COOKIE}="), "0"),
            (format!("x{ours}"), "0"),
            (format!("__host-id={id}"), "0"),
            (format!("theme=dark, {ours}"), "0"),
            (format!("theme={ours}"), "0"),
            (format!(";;; ;\t {ours} ;;\t"), "1"),
            (format!(" {COOKIE} = {id} "), "1"),
            (format!("theme=dark;{ours};lang=en"), "1"),
            (format!("a=\"x; {ours}; b=y\""), "1"),
        ] {
            let response = site.send(&Request::get("/visits").cookie(&header));
            assert_eq!((response.status, response.text()), (200, visits), "{header:?}");
        }
        let lower = Request::get("/visits").header("cookie", &ours);
        assert_eq!(site.send(&lower).text(), "1", "the name of a header has no case");
    });
}

#[test]
fn the_first_live_one_of_several_cookies_wins_in_one_header_or_in_several() {
    everywhere(|site| {
        let (mut a, mut b) = (site.browser(), site.browser());
        a.post("/set:name:a");
        b.post("/set:name:b");
        let (a, b, dead) = (cookie(a.id()), cookie(b.id()), cookie(&unknown_id()));
        let (dead2, dead3) = (cookie(&unknown_id()), cookie(&unknown_id()));
        let bad = cookie("malformed");
        for (cookies, name) in [
            (vec![&a, &b], "a"),
            (vec![&b, &a], "b"),
            (vec![&dead, &b, &a], "b"),
            (vec![&bad, &bad, &bad, &bad, &bad, &a], "a"),
            (vec![&dead, &dead, &dead, &dead, &a], "a"),
            (vec![&dead, &dead2, &dead3, &a, &b], "a"),
        ] {
            let joined = cookies.iter().map(|cookie| cookie.as_str()).collect::<Vec<_>>();
            let response = site.send(&Request::get("/get:name").cookie(joined.join("; ")));
            assert_eq!((response.text(), response.one("Set-Cookie")), (name, None), "{joined:?}");
            // A write finds the same one without a look before.
            let write = format!("/set:written:{name}");
            let response = site.send(&Request::post(write).cookie(joined.join("; ")));
            assert_eq!(response.one("Set-Cookie"), None, "{joined:?}");

            let separate = cookies.iter().fold(Request::get("/get:name"), |r, c| r.cookie(c));
            assert_eq!(site.send(&separate).text(), name, "{joined:?} in several headers");
        }
        let read = |cookie: &str| {
            site.send(&Request::get("/get:name/get:written").cookie(cookie)).text().to_owned()
        };
        assert_eq!((read(&a).as_str(), read(&b).as_str()), ("a\na", "b\nb"));
    });
}

#[test]
fn of_a_hundred_cookies_four_are_tried() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let ours = cookie(browser.id());
        let dead: Vec<_> = (0..99).map(|_| cookie(&unknown_id())).collect();
        for (place, visits) in [(0, "1"), (3, "1"), (4, "0"), (99, "0")] {
            let mut cookies = dead.clone();
            cookies.insert(place, ours.clone());
            let calls = site.store.calls();
            let response = site.send(&Request::get("/visits").cookie(cookies.join("; ")));
            assert_eq!(response.text(), visits, "in place {place}");
            assert!(site.store.calls() - calls <= 4);
        }
        let headers = dead.iter().fold(Request::post("/count"), |r, c| r.cookie(c));
        let calls = site.store.calls();
        let response = site.send(&headers);
        assert_eq!(response.text(), "1", "a hundred headers");
        assert!(response.id().is_some());
        // Four are looked for, and one is created.
        assert!(site.store.calls() - calls <= 5);
        assert_eq!(site.sessions(), 2);
    });
}

#[test]
fn rouille_closes_the_connection_on_a_byte_beyond_ascii_and_serves_the_next() {
    everywhere(|site| {
        let calls = site.store.calls();
        for value in [&b"__Host-id=\xff"[..], "theme=d\u{fc}ster".as_bytes(), b"\x80"] {
            let request = Request::get("/visits").cookie(value);
            let mut exchange = Exchange::start(site.address(), &request).unwrap();
            assert!(exchange.closes_without_an_answer(), "{value:?}");
        }
        assert_eq!(site.store.calls(), calls);
        assert_eq!(site.browser().post("/count").text(), "1");
    });
}

#[test]
fn rouille_answers_400_to_a_header_without_a_colon_and_serves_the_next() {
    everywhere(|site| {
        let mut exchange = site.connect();
        exchange.send_bytes(b"GET /visits HTTP/1.1\r\nCookie\r\n\r\n").unwrap();
        assert_eq!(exchange.head().unwrap().status, 400);
        assert_eq!(site.browser().post("/count").text(), "1");
    });
}

#[test]
fn an_id_anywhere_but_in_the_cookie_is_ignored() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let id = browser.id();
        for request in [
            Request::get(format!("/visits?{COOKIE}={id}")),
            Request::get("/visits").header(COOKIE, id),
            Request::get("/visits").header("Authorization", format!("Bearer {id}")),
            Request::get("/visits").header("X-Session", id),
            Request::get("/visits").header("Set-Cookie", cookie(id)),
        ] {
            assert_eq!(site.send(&request).text(), "0", "{request:?}");
        }
    });
}

#[test]
fn what_is_stored_cannot_be_presented_as_a_cookie() {
    on_files(LONG, |site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada");
        let database = Connection::open(site.database()).unwrap();
        let key: Vec<u8> =
            database.query_row("SELECT key FROM cloakroom_sessions", [], |row| row.get(0)).unwrap();
        let stolen = URL_SAFE_NO_PAD.encode(&key);
        assert_ne!(stolen, browser.id());
        let response = site.send(&Request::get("/who").cookie(cookie(&stolen)));
        assert_eq!(response.text(), "none");
        assert_eq!(browser.get("/who").text(), "ada");
    });
}

#[test]
fn two_first_requests_without_a_cookie_get_two_sessions() {
    everywhere(|site| {
        let gate = site.gate("both");
        let mut a = site.browser();
        let mut b = site.browser();
        let slow = a.start(Request::post("/set:name:a/gate:both"));
        gate.wait_for_arrival();
        b.post("/set:name:b");
        gate.open();
        a.take(&{ slow }.answer().unwrap());
        assert_ne!(a.id(), b.id());
        assert_eq!((a.get("/get:name").text(), b.get("/get:name").text()), ("a", "b"));
        assert_eq!(site.sessions(), 2);
    });
}

#[test]
fn two_requests_on_one_connection_have_a_session_each() {
    everywhere(|site| {
        let mut connection = site.connect();
        connection.send(&Request::post("/count").keep_alive()).unwrap();
        let first = connection.answer().unwrap();
        connection.send(&Request::post("/count").keep_alive()).unwrap();
        let second = connection.answer().unwrap();
        assert_eq!((first.text(), second.text()), ("1", "1"));
        assert_ne!(first.id(), second.id());
        let known = Request::post("/count").cookie(cookie(&first.id().unwrap()));
        connection.send(&known).unwrap();
        let third = connection.answer().unwrap();
        assert_eq!((third.text(), third.one("Set-Cookie")), ("2", None));
    });
}

// The response.

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
        for read in ["visits", "count", "keys", "who", "get:name", "handle", "flashes"] {
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
fn a_response_that_carries_an_id_is_not_publicly_cacheable() {
    everywhere(|site| {
        let mut browser = site.browser();
        let guarded = format!("max-age=60, private, {GUARD}");
        let response = browser.post("/count/public");
        assert_eq!(response.one("Cache-Control"), Some(guarded.as_str()));
        let response = browser.get("/visits/public");
        assert_eq!(response.one("Cache-Control"), Some("public, max-age=60"), "carries none");
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
        let mut browser = site.browser();
        browser.post("/count");
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
    let configure = |builder: Builder| builder.header("X-Session");
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
fn once_a_process_the_operator_is_told_that_browsers_drop_the_cookie_on_plain_http() {
    let told = AtomicU64::new(0);
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
        told.fetch_add(site.count(EventKind::InsecureConnection), Ordering::Relaxed);
    });
    assert_eq!(told.into_inner(), 1);
}

// Signing in and out, renewal.

#[test]
fn signing_in_replaces_the_id_and_keeps_the_data() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let anonymous = browser.id().to_owned();
        let response = browser.post("/sign-in:ada/redirect");
        assert_eq!((response.status, response.one("Location")), (303, Some("/who")));
        assert_ne!(browser.id(), anonymous);
        assert_eq!(browser.get("/who/visits").text(), "ada\n1");
        let replayed = site.send(&Request::get("/who/visits").cookie(cookie(&anonymous)));
        assert_eq!(replayed.text(), "none\n0");
        assert_eq!(replayed.one("Set-Cookie"), None, "the browser keeps the new one");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn a_cookie_recorded_before_the_sign_out_is_not_signed_in_after_it() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada/count");
        let recorded = browser.id().to_owned();
        let response = browser.post("/destroy/redirect");
        assert_eq!(response.one("Set-Cookie"), Some(REMOVAL));
        assert_eq!((browser.id.as_ref(), site.sessions()), (None, 0));
        for _ in 0..2 {
            let replayed = site.send(&Request::get("/who/visits").cookie(cookie(&recorded)));
            assert_eq!(replayed.text(), "none\n0");
        }
        let replayed = site.send(&Request::post("/count/who").cookie(cookie(&recorded)));
        assert_eq!(replayed.text(), "1\nnone");
        assert_ne!(replayed.id().unwrap(), recorded);
    });
}

#[test]
fn a_flash_after_sign_out_begins_a_new_session_that_is_not_signed_in() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada/count");
        let before = browser.id().to_owned();
        let response = browser.post("/destroy/flash:bye/redirect");
        assert_eq!(response.all("Set-Cookie").len(), 1);
        assert_ne!(browser.id(), before);
        assert_eq!(browser.get("/who/visits/flashes").text(), "none\n0\nbye");
        assert_eq!(browser.get("/flashes").text(), "", "read once");
        let replayed = site.send(&Request::get("/who").cookie(cookie(&before)));
        assert_eq!(replayed.text(), "none");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn signing_out_ends_the_sessions_of_all_cookies_presented() {
    everywhere(|site| {
        let (mut a, mut b) = (site.browser(), site.browser());
        a.post("/sign-in:ada");
        b.post("/sign-in:bob");
        let both = format!("{}; {}", cookie(a.id()), cookie(b.id()));
        let response = site.send(&Request::post("/destroy").cookie(both));
        assert_eq!((response.one("Set-Cookie"), site.sessions()), (Some(REMOVAL), 0));

        a.post("/count");
        let old = cookie(a.id());
        a.post("/sign-in:ada");
        b.post("/sign-in:bob");
        let both = format!("{old}; {}", cookie(b.id()));
        let response = site.send(&Request::post("/destroy").cookie(both));
        assert_eq!(response.one("Set-Cookie"), Some(REMOVAL), "one of them was ended");
        assert_eq!((a.get("/who").text(), b.get("/who").text()), ("ada", "none"));
    });
}

#[test]
fn signing_out_without_a_session_is_no_error() {
    everywhere(|site| {
        let response = site.browser().post("/destroy/redirect");
        assert_eq!((response.status, response.one("Set-Cookie")), (303, None));
        let response = site.send(&Request::post("/destroy").cookie(cookie(&unknown_id())));
        assert_eq!((response.status, response.one("Set-Cookie")), (200, Some(REMOVAL)));
        assert_eq!(site.sessions(), 0);
    });
}

#[test]
fn at_the_limit_of_sessions_a_sign_in_is_refused_unless_the_request_has_ended_one_before() {
    let configure =
        |builder: Builder| builder.max_sessions_per_user(NonZeroU32::MIN, AtLimit::Refuse);
    everywhere_with(configure, |site| {
        let (mut a, mut b) = (site.browser(), site.browser());
        a.post("/sign-in:ada");
        let response = b.post("/count/sign-in:ada");
        assert_eq!((response.status, response.text()), (200, "1\nRefused"));
        assert_eq!(b.get("/who/visits").text(), "none\n1");
        assert_eq!(a.post("/destroy/sign-in:ada").text(), "");
        assert_eq!((a.get("/who").text(), site.stats().signed_in), ("ada", 1));
    });
}

#[test]
fn renewal_gives_a_new_id_to_the_same_session_and_the_old_one_is_dead() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count/sign-in:ada");
        let (old, handle) = (browser.id().to_owned(), browser.get("/handle").text().to_owned());
        site.clock.advance(Duration::from_secs(3600));
        let response = browser.post("/renew");
        assert!(
            response.one("Set-Cookie").unwrap().contains("; Max-Age=2588400;"),
            "the absolute deadline stays"
        );
        assert_ne!(browser.id(), old);
        assert_eq!(browser.get("/handle/who/visits").text(), format!("{handle}\nada\n1"));
        let late = site.send(&Request::post("/count/who").cookie(cookie(&old)));
        assert_eq!((late.text(), late.one("Set-Cookie")), ("1\nnone", None));
        assert_eq!(browser.get("/visits").text(), "1");
        let user = UserKey::new("ada").unwrap();
        let page = Page::first(NonZeroUsize::MAX);
        let now = site.now();
        let list = site.store.registry().unwrap().list(&Which::User(&user), page, now).unwrap();
        assert_eq!(list.len(), 1);
    });
}

#[test]
fn signing_in_again_restarts_the_absolute_deadline() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada");
        site.clock.advance(Duration::from_secs(3600));
        let response = browser.post("/sign-in:ada");
        assert!(response.one("Set-Cookie").unwrap().contains("; Max-Age=2592000;"));
    });
}

#[test]
fn renewal_without_a_session_begins_none_unless_something_is_written() {
    everywhere(|site| {
        assert_eq!(site.browser().post("/renew").one("Set-Cookie"), None);
        assert_eq!(site.sessions(), 0);
        let mut browser = site.browser();
        browser.post("/renew/count");
        assert_eq!(browser.get("/visits").text(), "1");
    });
}

#[test]
fn with_a_grace_the_old_id_finds_the_same_session_until_it_ends() {
    let configure = |builder: Builder| builder.renewal_grace(Duration::from_secs(10));
    everywhere_with(configure, |site| {
        let mut browser = site.browser();
        browser.post("/count");
        let old = browser.id().to_owned();
        browser.post("/renew");
        site.clock.advance(Duration::from_secs(9));
        let late = site.send(&Request::post("/count").cookie(cookie(&old)));
        assert_eq!((late.text(), late.one("Set-Cookie")), ("2", None));
        assert_eq!(browser.get("/visits").text(), "2", "on the same row");
        let late = site.send(&Request::post("/renew").cookie(cookie(&old)));
        assert_eq!((late.status, late.one("Set-Cookie")), (200, None), "it rotates nothing");
        site.clock.advance(Duration::from_secs(2));
        let late = site.send(&Request::get("/visits").cookie(cookie(&old)));
        assert_eq!((late.text(), late.one("Set-Cookie")), ("0", None));
        assert_eq!((browser.get("/visits").text(), site.sessions()), ("2", 1));
    });
}

#[test]
fn a_session_past_its_idle_limit_is_gone_and_its_cookie_is_removed() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada");
        site.clock.advance(Duration::from_secs(86_400 - 1));
        assert_eq!(browser.get("/who").text(), "ada");
        site.app.sessions.flush().unwrap();
        site.clock.advance(Duration::from_secs(86_400 - 1));
        assert_eq!(browser.get("/who").text(), "ada", "reading is activity");
        let id = browser.id().to_owned();
        site.app.sessions.flush().unwrap();
        site.clock.advance(Duration::from_secs(86_400));
        let response = browser.get("/who");
        assert_eq!((response.text(), response.one("Set-Cookie")), ("none", Some(REMOVAL)));
        let write = site.send(&Request::post("/count/who").cookie(cookie(&id)));
        assert_eq!(write.text(), "1\nnone");
        assert_ne!(write.id().unwrap(), id);
    });
}

#[test]
fn a_session_for_the_browsers_life_has_no_max_age() {
    everywhere(|site| {
        let response = site.browser().post("/browser-session/count");
        let header = response.one("Set-Cookie").unwrap();
        assert!(header.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{header}");
        assert!(!header.contains("Max-Age") && !header.contains("Expires"), "{header}");
    });
}

#[test]
fn an_ignored_session_stays_as_it_was_and_none_begins() {
    everywhere(|site| {
        let response = site.browser().post("/count/ignore");
        assert_eq!((response.text(), response.one("Set-Cookie")), ("1", None));
        assert_eq!(site.sessions(), 0);
        let mut browser = site.browser();
        browser.post("/count");
        for path in ["/count/ignore", "/ignore/count", "/renew/ignore", "/destroy/ignore"] {
            assert_eq!(browser.post(path).one("Set-Cookie"), None, "{path}");
            assert_eq!(browser.get("/visits").text(), "1", "{path}");
        }
    });
}

// Handlers that fail.

/// The ways a handler can fail, the status of the answer, and whether it is the handler's own.
const FAILURES: [(&str, u16, bool); 7] = [
    ("status:500", 500, true),
    ("status:503", 503, true),
    ("status:599", 599, true),
    ("fails", 500, false),
    ("fails-of-ours:Busy", 503, false),
    ("fails-of-ours:TooLarge", 500, false),
    ("panics", 500, false),
];

#[test]
fn a_handler_that_fails_discards_its_changes_and_the_next_request_is_fine() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count/set:name:ada");
        for (fails, status, own) in FAILURES {
            let path = format!("/count/set:name:eve/clear/remove:name/set:more:1/{fails}");
            let response = browser.post(&path);
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(response.one("Set-Cookie"), None, "{fails}");
            if !own {
                assert_plain_failure(&response, status);
            }
            let read = browser.get("/visits/get:name/get:more");
            assert_eq!(read.text(), "1\nada\nnone", "{fails}");

            let stranger = site.browser().post(&path);
            assert_eq!((stranger.status, stranger.one("Set-Cookie")), (status, None), "{fails}");
        }
        assert_eq!(site.sessions(), 1);
        assert_eq!(browser.post("/count").text(), "2");
    });
}

#[test]
fn nothing_of_an_error_or_a_panic_is_told_to_the_client_and_the_operator_learns_it() {
    everywhere(|site| {
        for (fails, status, own) in FAILURES {
            let count =
                || [EventKind::RequestFailed, EventKind::HandlerFailed].map(|k| site.count(k));
            let before = count();
            let response = site.browser().post(&format!("/own-cookie/public/count/{fails}"));
            let told = [count()[0] - before[0], count()[1] - before[1]];
            if own {
                assert_eq!(told, [0, 0], "{fails}");
                continue;
            }
            assert_plain_failure(&response, status);
            let ours = fails.starts_with("fails-of-ours");
            assert_eq!(told, if ours { [1, 0] } else { [0, 1] }, "{fails}");
            assert_eq!(response.one("Cache-Control"), None, "nothing of the handler's answer");
        }
    });
}

#[test]
fn a_handler_that_fails_after_a_destroy_has_still_destroyed() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.browser();
            browser.post("/sign-in:ada");
            let id = browser.id().to_owned();
            let response = browser.post(&format!("/destroy/flash:bye/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(response.one("Set-Cookie"), Some(REMOVAL), "{fails}");
            let replayed = site.send(&Request::get("/who").cookie(cookie(&id)));
            assert_eq!(replayed.text(), "none", "{fails}");
            assert_eq!(site.sessions(), 0, "{fails}: the flash was discarded");
        }
    });
}

#[test]
fn a_handler_that_fails_after_a_renewal_has_still_renewed_but_for_a_panic() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.browser();
            browser.post("/count");
            let id = browser.id().to_owned();
            let response = browser.post(&format!("/count/renew/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(response.id().is_none(), fails == "panics", "{fails}");
            assert_eq!(browser.id() == id, fails == "panics", "{fails}");
            assert_eq!(browser.get("/visits").text(), "1", "{fails}");
        }
    });
}

#[test]
fn a_sign_in_stands_and_its_cookie_is_sent_however_the_handler_fails() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.browser();
            let response = browser.post(&format!("/count/sign-in:ada/count/set:name:x/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert!(response.id().is_some_and(|id| !id.is_empty()), "{fails}");
            let read = browser.get("/who/visits/get:name");
            assert_eq!(read.text(), "ada\n1\nnone", "{fails}: what came later is discarded");
        }
    });
}

#[test]
fn what_a_handler_committed_stands_however_it_fails() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.browser();
            let response = browser.post(&format!("/count/commit/count/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(browser.get("/visits").text(), "1", "{fails}");
        }
    });
}

#[test]
fn where_it_is_configured_so_a_5xx_answer_keeps_its_changes() {
    let configure = |builder: Builder| builder.keep_on_server_error(true);
    everywhere_with(configure, |site| {
        let mut browser = site.browser();
        assert_eq!(browser.post("/count/status:503").status, 503);
        assert_eq!(browser.post("/count/panics").status, 500);
        assert_eq!(browser.get("/visits").text(), "1", "all but the panic");
    });
}

// Stores that fail.

#[test]
fn a_failed_commit_is_a_plain_error_without_any_cookie_not_the_handlers_either() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        for (kind, status) in [
            (ErrorKind::Busy, 503),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::Full, 500),
            (ErrorKind::ReadOnly, 500),
            (ErrorKind::Corrupt, 500),
        ] {
            site.store.fail_commits(kind);
            for path in ["/own-cookie/count/redirect", "/own-cookie/renew", "/own-cookie/destroy"] {
                let events = site.count(EventKind::RequestFailed);
                assert_plain_failure(&browser.post(path), status);
                assert_eq!(site.count(EventKind::RequestFailed), events + 1);
            }
            assert_plain_failure(&site.browser().post("/own-cookie/count"), status);
            assert_plain_failure(&browser.post("/own-cookie/sign-in:ada/redirect"), status);
            let dead = Request::post("/count").cookie(cookie(&unknown_id()));
            assert_plain_failure(&site.send(&dead), status);
            let read = browser.get("/visits");
            assert_eq!((read.status, read.text()), (200, "1"), "reads go on");
            site.store.fail_commits(None);
        }
        assert_eq!(site.sessions(), 1);
        assert_eq!(browser.post("/count").text(), "2");
    });
}

#[test]
fn a_failed_load_is_a_plain_error_without_any_cookie() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        site.store.fail_loads(ErrorKind::Unavailable);
        for path in ["/visits", "/own-cookie/count", "/who", "/own-cookie/sign-in:ada/redirect"] {
            assert_plain_failure(&browser.post(path), 503);
        }
        let stranger = Request::get("/visits").cookie(cookie(&unknown_id()));
        assert_plain_failure(&site.send(&stranger), 503);
        assert_eq!(browser.get("/hello").text(), "hello");
        site.store.fail_loads(None);
        assert_eq!(browser.get("/visits").text(), "1");
    });
}

#[test]
fn where_it_is_configured_so_a_failed_load_reads_as_empty_and_sets_and_removes_no_cookie() {
    let configure = |builder: Builder| builder.on_load_failure(OnLoadFailure::ReadAsEmpty);
    everywhere_with(configure, |site| {
        let mut browser = site.browser();
        browser.post("/count/sign-in:ada");
        let id = browser.id().to_owned();
        site.store.fail_loads(ErrorKind::Unavailable);
        let response = browser.get("/visits/who");
        assert_eq!((response.status, response.text()), (200, "0\nnone"));
        assert_eq!(response.one("Set-Cookie"), None);
        for path in ["/visits/count", "/count", "/who/sign-in:bob", "/who/set:name:x"] {
            assert_plain_failure(&browser.post(path), 503);
        }
        // Written before it was known that nothing can be: not lost in silence.
        for path in ["/own-cookie/set:name:x/visits", "/own-cookie/renew/visits"] {
            assert_plain_failure(&browser.post(path), 503);
        }
        assert_eq!(browser.post("/set:name:x/visits/ignore").status, 200);
        assert_eq!(site.sessions(), 1);
        site.store.fail_loads(None);
        assert_eq!(browser.get("/visits/who").text(), "1\nada");
        assert_eq!(browser.id(), id);
    });
}

#[test]
fn while_another_process_holds_the_lock_writes_are_answered_503_and_reads_go_on() {
    on_files(Duration::from_millis(100), |site| {
        let mut browser = site.browser();
        browser.post("/count");
        let other = Connection::open(site.database()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE; CREATE TABLE others (a)").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (writer, reader) = (browser.clone(), browser.clone());
                scope.spawn(move || {
                    let mut writer = writer;
                    assert_plain_failure(&writer.post("/own-cookie/count"), 503);
                    assert_plain_failure(&writer.post("/own-cookie/sign-in:eve"), 503);
                    assert_plain_failure(&writer.post("/own-cookie/destroy"), 503);
                });
                scope.spawn(move || {
                    let mut reader = reader;
                    for _ in 0..20 {
                        let response = reader.get("/visits/who");
                        assert_eq!((response.status, response.text()), (200, "1\nnone"));
                    }
                });
            }
        });
        assert_plain_failure(&site.browser().post("/own-cookie/count"), 503);
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(browser.post("/count").text(), "2");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn a_session_that_is_too_large_is_refused_and_what_was_stored_stays() {
    let configure = |builder: Builder| builder.max_bytes(1000);
    everywhere_with(configure, |site| {
        let mut browser = site.browser();
        browser.post("/count");
        assert_plain_failure(&browser.post(&format!("/set:note:{}", "x".repeat(1000))), 500);
        let half = "x".repeat(600);
        assert_eq!(browser.post(&format!("/set:a:{half}")).status, 200);
        assert_plain_failure(&browser.post(&format!("/own-cookie/set:b:{half}")), 500);
        assert_eq!(browser.get("/visits/keys").text(), "1\na,visits");
    });
}

#[test]
fn an_undecodable_row_is_a_new_session_for_its_visitor_and_stays_in_place() {
    on_files(LONG, |site| {
        let mut browser = site.browser();
        browser.post("/count");
        let old = browser.id().to_owned();
        let other = Connection::open(site.database()).unwrap();
        other.execute("UPDATE cloakroom_sessions SET data = 'no JSON'", []).unwrap();
        let response = browser.get("/visits");
        assert_eq!((response.status, response.text()), (200, "0"));
        assert_eq!(response.one("Set-Cookie"), None);
        assert_eq!(browser.post("/count").text(), "1");
        assert_ne!(browser.id(), old);
        assert_eq!(browser.post("/count").text(), "2");
        let sql = "SELECT count(*) FROM cloakroom_sessions WHERE data = 'no JSON'";
        let rows: i64 = other.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
        assert!(site.count(EventKind::Undecodable) >= 1);
    });
}

// Several at once.

/// Sends the request of a path that stops at the gate `late`; says when it has come there.
fn late(site: &Site, browser: &Browser, path: &str) -> (Exchange, app::Gate) {
    let gate = site.gate("late");
    let exchange = browser.start(Request::post(path));
    gate.wait_for_arrival();
    (exchange, gate)
}

#[test]
fn a_writer_that_is_overtaken_by_a_sign_out_stores_nothing_and_sends_no_cookie() {
    everywhere(|site| {
        for (path, text) in [
            ("/count/gate:late", "2"),
            ("/visits/set:name:x/gate:late", "1"),
            ("/visits/gate:late/set:name:x", "1"),
            ("/who/clear/gate:late", "ada"),
            ("/flash:hi/gate:late", ""),
            ("/count/renew/gate:late", "2"),
            ("/visits/renew/gate:late", "1"),
            ("/count/gate:late/commit", "2\nDiscarded"),
            ("/visits/gate:late/commit/count", "1\nKept\n2"),
            ("/count/gate:late/commit/set:again:1/commit", "2\nDiscarded\nDiscarded"),
        ] {
            let mut browser = site.browser();
            browser.post("/sign-in:ada/count");
            let recorded = cookie(browser.id());
            let (mut writer, gate) = late(site, &browser, path);
            assert_eq!(browser.post("/destroy").one("Set-Cookie"), Some(REMOVAL));
            let events = site.count(EventKind::Discarded);
            gate.open();
            let response = writer.answer().unwrap();
            assert_eq!((response.status, response.text()), (200, text), "{path}");
            assert_eq!(response.one("Set-Cookie"), None, "{path}");
            assert!(site.count(EventKind::Discarded) > events, "{path}: nobody was told");
            assert_eq!(site.sessions(), 0, "{path}");
            let replayed = site.send(&Request::get("/who/visits").cookie(recorded));
            assert_eq!(replayed.text(), "none\n0", "{path}");
        }
    });
}

#[test]
fn a_writer_that_had_not_read_is_late_too_when_its_session_was_signed_out_meanwhile() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada/count");
        let recorded = browser.id().to_owned();
        let (mut writer, gate) = late(site, &browser, "/set:name:x/gate:late");
        browser.post("/destroy");
        gate.open();
        let response = writer.answer().unwrap();
        assert_eq!((response.status, response.id()), (200, None));
        let replayed = site.send(&Request::get("/who/get:name").cookie(cookie(&recorded)));
        assert_eq!(replayed.text(), "none\nnone");
    });
}

#[test]
fn a_writer_that_comes_after_the_sign_out_begins_an_anonymous_session() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada/count");
        let recorded = browser.id().to_owned();
        browser.post("/destroy");
        let response = site.send(&Request::post("/set:name:x").cookie(cookie(&recorded)));
        assert!(response.id().is_some_and(|id| id != recorded));
    });
}

#[test]
fn a_sign_in_that_is_overtaken_by_another_or_by_a_sign_out_is_no_error() {
    everywhere(|site| {
        for overtaken_by in ["/sign-in:ada", "/sign-in:bob", "/destroy", "/renew"] {
            for path in ["/visits/gate:late/sign-in:ada", "/gate:late/sign-in:ada"] {
                let mut browser = site.browser();
                browser.post("/count");
                let old = cookie(browser.id());
                let (mut slow, gate) = late(site, &browser, path);
                let other = browser.post(overtaken_by);
                gate.open();
                let response = slow.answer().unwrap();
                assert_eq!(response.status, 200, "{path} after {overtaken_by}");
                let id = response.id().unwrap();
                assert_ne!(other.id().as_ref(), Some(&id));
                let who = site.send(&Request::get("/who").cookie(cookie(&id)));
                assert_eq!(who.text(), "ada", "{path} after {overtaken_by}");
                let replayed = site.send(&Request::get("/who/visits").cookie(&old));
                assert_eq!(replayed.text(), "none\n0", "{path} after {overtaken_by}");
            }
        }
    });
}

#[test]
fn a_reader_that_is_overtaken_by_a_sign_out_revives_nothing() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada");
        site.clock.advance(Duration::from_secs(43_200));
        let (mut reader, gate) = late(site, &browser, "/who/gate:late");
        let recorded = browser.id().to_owned();
        browser.post("/destroy");
        gate.open();
        let response = reader.answer().unwrap();
        assert_eq!((response.text(), response.one("Set-Cookie")), ("ada", None));
        site.app.sessions.flush().unwrap();
        assert_eq!(site.sessions(), 0);
        let replayed = site.send(&Request::get("/who").cookie(cookie(&recorded)));
        assert_eq!(replayed.text(), "none");
    });
}

#[test]
fn a_late_answer_for_the_id_from_before_a_sign_in_leaves_the_new_cookie_alone() {
    everywhere(|site| {
        for path in [
            "/gate:late/visits",
            "/visits/gate:late",
            "/count/gate:late",
            "/gate:late/count",
            "/set:name:x/gate:late",
            "/renew/gate:late",
            "/visits/renew/gate:late",
            "/gate:late/destroy",
            "/visits/gate:late/destroy",
            "/destroy/gate:late/flash:bye",
            "/count/gate:late/panics",
            "/gate:late/count/status:500",
        ] {
            let mut browser = site.browser();
            browser.post("/count");
            let (mut older, gate) = late(site, &browser, path);
            browser.post("/sign-in:ada");
            gate.open();
            let response = older.answer().unwrap();
            assert_eq!(response.one("Set-Cookie"), None, "{path}");
            let read = browser.get("/who/visits/get:name/flashes");
            assert_eq!(read.text(), "ada\n1\nnone\n", "{path}");
            assert_eq!(site.sessions(), 1, "{path}");
            browser.post("/destroy");
        }
    });
}

#[test]
fn a_writer_that_is_overtaken_by_a_revocation_stores_nothing_and_sends_no_cookie() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada/count");
        let (mut writer, gate) = late(site, &browser, "/count/gate:late");
        let now = site.now();
        site.store.registry().unwrap().revoke(&Which::All, None, now).unwrap();
        gate.open();
        assert_eq!(writer.answer().unwrap().one("Set-Cookie"), None);
        assert_eq!(site.sessions(), 0);
        let response = browser.get("/who");
        assert_eq!((response.text(), response.one("Set-Cookie")), ("none", Some(REMOVAL)));
    });
}

#[test]
fn a_sign_in_after_a_lost_change_begins_anew() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/sign-in:ada/count");
        let path = "/count/gate:late/commit/sign-in:bob/count/commit";
        let (mut slow, gate) = late(site, &browser, path);
        browser.post("/destroy");
        gate.open();
        let response = slow.answer().unwrap();
        assert_eq!(response.text(), "2\nDiscarded\n1\nKept");
        browser.take(&response);
        assert_eq!(browser.get("/who/visits").text(), "bob\n1");
    });
}

#[test]
fn two_requests_that_change_different_names_both_keep_their_change() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/set:a:0/set:b:0/set:c:0");
        let (mut slow, gate) = late(site, &browser, "/get:a/set:a:1/set:c:1/gate:late");
        browser.post("/set:b:2/set:c:2");
        gate.open();
        slow.answer().unwrap();
        assert_eq!(browser.get("/get:a/get:b/get:c").text(), "1\n2\n1", "the later commit wins");
    });
}

#[test]
fn an_update_that_was_overtaken_is_computed_again() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let (mut slow, gate) = late(site, &browser, "/count/gate:late");
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
        let mut browser = site.browser();
        browser.post("/count");
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
            let mut browser = site.browser();
            browser.post("/sign-in:ada/count");
            let recorded = cookie(browser.id());
            let (start, address) = (Barrier::new(5), site.address());
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let (start, recorded) = (&start, &recorded);
                    scope.spawn(move || {
                        start.wait();
                        for _ in 0..5 {
                            let request = Request::post("/count").cookie(recorded);
                            let response = client::send(address, &request).unwrap();
                            assert_eq!(response.status, 200);
                        }
                    });
                }
                start.wait();
                assert_eq!(browser.post("/destroy").one("Set-Cookie"), Some(REMOVAL));
                let replayed = site.send(&Request::get("/who/visits").cookie(&recorded));
                assert_eq!(replayed.text(), "none\n0");
            });
            let replayed = site.send(&Request::get("/who/visits").cookie(&recorded));
            assert_eq!(replayed.text(), "none\n0");
        }
        assert_eq!(site.stats().signed_in, 0);
    });
}

#[test]
fn a_slow_handler_keeps_nobody_waiting() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let (mut slow, gate) = late(site, &browser, "/count/gate:late");
        assert_eq!(browser.get("/visits").text(), "1");
        assert_eq!(browser.post("/set:name:x/get:name").text(), "x");
        assert_eq!(site.browser().post("/count").text(), "1");
        gate.open();
        slow.answer().unwrap();
        assert_eq!(browser.get("/visits/get:name").text(), "2\nx");
    });
}

// Clients that hang up, and servers that stop.

#[test]
fn a_client_that_hangs_up_in_mid_response_has_its_change_kept_and_harms_nobody() {
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
fn a_client_that_hangs_up_before_the_response_has_its_change_kept() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
        let (exchange, gate) = late(site, &browser, "/count/gate:late");
        drop(exchange);
        assert_eq!(browser.get("/visits").text(), "1");
        gate.open();
        let started = std::time::Instant::now();
        while browser.get("/visits").text() != "2" {
            assert!(started.elapsed() < client::PATIENCE, "the change is lost");
        }
        assert_eq!(browser.post("/count").text(), "3");
    });
}

#[test]
fn a_client_that_hangs_up_in_mid_request_harms_nobody() {
    everywhere(|site| {
        let mut browser = site.browser();
        browser.post("/count");
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
fn sessions_outlive_a_restart_of_the_server_and_signed_out_ones_do_not_come_back() {
    on_files(LONG, |site| {
        let (mut ada, mut bob) = (site.browser(), site.browser());
        ada.post("/count/sign-in:ada");
        bob.post("/sign-in:bob");
        let bobs = bob.id().to_owned();
        bob.post("/destroy");
        for n in 1..4 {
            site.restart();
            ada.address = site.address();
            assert_eq!(ada.get("/who/visits").text(), format!("ada\n{n}"));
            assert_eq!(ada.post("/count").one("Set-Cookie"), None);
            let replayed = site.send(&Request::get("/who").cookie(cookie(&bobs)));
            assert_eq!(replayed.text(), "none");
        }
    });
}
