//! The request and its cookie.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom::event::EventKind;
use cloakroom::id::SessionId;
use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::adapters::{GUARD, LONG, REMOVAL, cookie, unknown_id};
use crate::common::client::{COOKIE, Exchange, Request};
use crate::common::site::{everywhere, on, on_files};

#[test]
fn an_ignored_session_costs_no_store_call_and_no_header() {
    everywhere(|site| {
        let browser = site.visitor("/count");
        let calls = site.store_calls();
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
        assert_eq!(site.store_calls(), calls);
    });
}

#[test]
fn reading_without_a_session_creates_none_and_sets_no_cookie() {
    everywhere(|site| {
        let response = site.browser().get("/visits/get:name/who/names/flashes/public-id");
        assert_eq!(response.text(), "0\nnone\nnone\n\n\nnone");
        assert_eq!(response.one("Set-Cookie"), None);
        assert_eq!(response.one("Vary"), Some("Cookie"));
        assert_eq!(response.one("Cache-Control"), Some("private"));
        assert_eq!((site.sessions(), site.store_calls()), (0, 0));
    });
}

#[test]
fn the_first_write_sets_one_cookie_as_documented() {
    everywhere(|site| {
        let response = site.browser().post("/count");
        assert_eq!((response.status, response.text()), (200, "1"));
        let header = response.one("Set-Cookie").unwrap();
        let id = response.id().unwrap();
        assert_eq!(id.len(), 43);
        assert!(SessionId::parse(&id).is_some());
        let attributes = "Path=/; Max-Age=604800; Expires=Tue, 21 Nov 2023 22:13:20 GMT; Secure; \
                          HttpOnly; SameSite=Lax";
        assert_eq!(header, format!("__Host-id={id}; {attributes}"));
        assert_eq!(response.one("Vary"), Some("Cookie"));
        assert_eq!(response.one("Cache-Control"), Some(GUARD));
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn an_existing_session_gets_no_second_cookie() {
    everywhere(|site| {
        let mut browser = site.browser();
        let first = browser.post("/count").id();
        for n in 2..5 {
            let response = browser.post("/count");
            assert_eq!(response.text(), n.to_string());
            let cache = response.one("Cache-Control");
            assert_eq!((response.one("Set-Cookie"), cache), (None, Some("private")));
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
        let mut browser = site.visitor("/set:name:ada");
        let public_id = browser.get("/public-id").text().to_owned();
        assert_eq!(browser.post("/set:name:ada").one("Set-Cookie"), None);
        assert_eq!(browser.get("/public-id/get:name").text(), format!("{public_id}\nada"));
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
        assert_eq!(again.one("Set-Cookie"), None, "a newer one may be on its way");
        assert_eq!(site.sessions(), 1);
        assert!(site.count(EventKind::UnknownId) >= 2);
    });
}

#[test]
fn a_malformed_cookie_never_reaches_the_store() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
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
            format!("\"{live}"),
            format!("\"\"{live}\"\""),
            format!("{live} {live}"),
            format!("{live}\0"),
            format!("\0{}", &live[1..]),
            live.replace(&live[..1], "!"),
            other_spelling,
            "A".repeat(10_000),
            format!("{live}{}", "A".repeat(10_000)),
        ] {
            let (calls, events) = (site.store_calls(), site.count(EventKind::MalformedId));
            let response = site.send(&Request::get("/visits").cookie(cookie(&malformed)));
            if matches!(site.framework(), "Rocket" | "http") && malformed.contains('\0') {
                // A header with such a byte is no HTTP, which tiny_http lets pass.
                assert_eq!((response.status, site.store_calls()), (400, calls));
                continue;
            }
            assert_eq!((response.status, response.text()), (200, "0"), "{malformed:?}");
            assert_eq!(response.one("Set-Cookie"), None, "{malformed:?}");
            assert_eq!(site.store_calls(), calls, "{malformed:?} reached the store");
            assert_eq!(site.count(EventKind::MalformedId), events + 1);

            let response = site.send(&Request::post("/count").cookie(cookie(&malformed)));
            assert_eq!(response.text(), "1", "{malformed:?}");
            assert_ne!(response.id().unwrap(), live);
        }
        assert_eq!(browser.get("/visits").text(), "1", "the session is as it was");
    });
}

#[test]
fn odd_cookie_headers_are_read_as_far_as_possible() {
    everywhere(|site| {
        let browser = site.visitor("/count");
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
fn the_first_live_one_of_several_cookies_wins() {
    everywhere(|site| {
        let a = site.visitor("/set:name:a");
        let b = site.visitor("/set:name:b");
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
fn a_session_goes_on_behind_forty_other_cookie_headers() {
    everywhere(|site| {
        let browser = site.visitor("/count");
        let ours = cookie(browser.id());
        let behind = |request: Request| {
            let others = (0..40).map(|n| format!("_ga_{n}=GS1.1.1700000000.{n}.1.1700000000"));
            others.fold(request, |request, other| request.cookie(other)).cookie(&ours)
        };
        assert_eq!(site.send(&behind(Request::get("/visits"))).text(), "1");
        let response = site.send(&behind(Request::post("/count")));
        assert_eq!((response.text(), response.one("Set-Cookie")), ("2", None));
        assert_eq!(site.send(&behind(Request::post("/destroy"))).one("Set-Cookie"), Some(REMOVAL));
        assert_eq!(site.sessions(), 0);
    });
}

#[test]
fn a_cookie_in_quotes_is_read_as_without() {
    everywhere(|site| {
        let browser = site.visitor("/count");
        // As Java's CookieManager writes a cookie of RFC 2965.
        let header = format!("$Version=\"1\"; {COOKIE}=\"{}\";$Path=\"/\"", browser.id());
        let response = site.send(&Request::post("/count").cookie(header));
        assert_eq!((response.text(), response.one("Set-Cookie")), ("2", None));
    });
}

#[test]
fn of_a_hundred_cookies_sixteen_are_tried() {
    everywhere(|site| {
        let browser = site.visitor("/count");
        let ours = cookie(browser.id());
        let dead: Vec<_> = (0..99).map(|_| cookie(&unknown_id())).collect();
        for (place, visits) in [(0, "1"), (15, "1"), (16, "0"), (99, "0")] {
            let mut cookies = dead.clone();
            cookies.insert(place, ours.clone());
            let calls = site.store_calls();
            assert_eq!(site.read("/visits", cookies.join("; ")), visits, "in place {place}");
            assert!(site.store_calls() - calls <= 16);
        }
        let all = dead.iter().fold(Request::post("/count"), |r, c| r.cookie(c));
        if site.framework() == "Rocket" {
            assert_eq!(site.send(&all).status, 431, "its server takes a hundred headers");
        }
        let headers = dead.iter().take(90).fold(Request::post("/count"), |r, c| r.cookie(c));
        let calls = site.store_calls();
        let response = site.send(&headers);
        assert_eq!(response.text(), "1", "ninety headers");
        assert!(response.id().is_some());
        // Sixteen are looked for, and one is created.
        assert!(site.store_calls() - calls <= 17);
        assert_eq!(site.sessions(), 2);
    });
}

#[test]
fn a_byte_beyond_ascii_closes_the_connection_on_tiny_http() {
    everywhere(|site| {
        if site.framework() == "Rocket" {
            return;
        }
        let calls = site.store_calls();
        for value in [&b"__Host-id=\xff"[..], "theme=d\u{fc}ster".as_bytes(), b"\x80"] {
            let request = Request::get("/visits").cookie(value);
            let mut exchange = Exchange::start(site.address(), &request).unwrap();
            assert!(exchange.closes_without_an_answer(), "{value:?}");
        }
        assert_eq!(site.store_calls(), calls);
        assert_eq!(site.browser().post("/count").text(), "1");
    });
}

#[test]
fn rocket_drops_a_header_that_is_not_utf_8_and_reads_the_rest() {
    on("Rocket", |site| {
        let browser = site.visitor("/count");
        let calls = site.store_calls();
        for value in [&b"__Host-id=\xff"[..], b"\x80"] {
            let response = site.send(&Request::get("/visits").cookie(value));
            assert_eq!((response.text(), response.one("Set-Cookie")), ("0", None), "{value:?}");
        }
        assert_eq!(site.store_calls(), calls);
        let ours = format!("theme=d\u{fc}ster; {}", cookie(browser.id()));
        assert_eq!(site.send(&Request::get("/visits").cookie(ours)).text(), "1");
        let malformed = site.send(&Request::get("/visits").cookie("__Host-id=d\u{fc}ster"));
        assert_eq!((malformed.text(), malformed.one("Set-Cookie")), ("0", None));
        assert_eq!(site.count(EventKind::MalformedId), 1);
    });
}

#[test]
fn a_header_without_a_colon_is_answered_400() {
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
        let browser = site.visitor("/count");
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
fn a_stored_value_cannot_be_presented_as_a_cookie() {
    on_files(LONG, |site| {
        let mut browser = site.visitor("/sign-in:ada");
        let database = Connection::open(site.database()).unwrap();
        let id_hash: Vec<u8> = database
            .query_row("SELECT id_hash FROM cloakroom_sessions", [], |row| row.get(0))
            .unwrap();
        let stolen = URL_SAFE_NO_PAD.encode(&id_hash);
        assert_ne!(stolen, browser.id());
        assert_eq!(site.read("/who", cookie(&stolen)), "none");
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
        gate.wait_until_reached();
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
