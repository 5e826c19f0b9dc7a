//! Requests that pages of other origins send: refused before the handler, on every framework.

use cloakroom::CrossOrigin;
use cloakroom::cross_origin::REFUSED;
use cloakroom::event::EventKind;
use cloakroom::manager::SessionManagerBuilder;

use crate::common::client::{Request, Response};
use crate::common::cross_origin::{HOST, cases};
use crate::common::site::{Site, everywhere, everywhere_with};

fn with(request: Request, name: &str, value: Option<&str>) -> Request {
    value.into_iter().fold(request, |request, value| request.header(name, value))
}

/// Sends a request, and returns whether it was refused. A refusal says why, and does nothing else.
#[track_caller]
fn is_refused(site: &Site, request: &Request) -> bool {
    let state = || (site.count(EventKind::CrossOrigin), site.store_calls());
    let (events, calls) = state();
    let response = site.send(request);
    if response.status != 403 {
        assert_eq!(site.count(EventKind::CrossOrigin), events, "{request:?}");
        return false;
    }
    assert_refusal(&response);
    assert_eq!(state(), (events + 1, calls), "{request:?}");
    true
}

#[track_caller]
fn assert_refusal(response: &Response) {
    assert_eq!((response.status, response.text()), (403, REFUSED));
    assert_eq!(response.one("Content-Type"), Some("text/plain; charset=utf-8"));
    for name in ["Set-Cookie", "Vary", "Cache-Control", "Location"] {
        assert_eq!(response.one(name), None, "{name}");
    }
}

#[test]
fn the_method_the_site_and_the_origin_decide() {
    everywhere(|site| {
        for case in cases() {
            let request = Request::new(case.method, "/count").header("Host", HOST);
            let request = request.header("Content-Length", "0");
            let request = with(request, "Sec-Fetch-Site", case.sec_fetch_site);
            let request = with(request, "Origin", case.origin);
            // A proxy has ended TLS.
            let request = with(request, "X-Forwarded-Proto", case.encrypted.then_some("https"));
            assert_eq!(is_refused(site, &request), !case.passes, "{case:?}");
        }
    });
}

fn post() -> Request {
    Request::post("/count").header("Host", HOST)
}

#[test]
fn a_refused_request_leaves_the_visitors_session_alone() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada");
        for path in ["/destroy", "/sign-in:eve", "/set:name:eve", "/panics", "/fails"] {
            let request = Request::post(path).header("Sec-Fetch-Site", "cross-site");
            assert!(is_refused(site, &browser.with_cookie(request)));
        }
        assert_eq!(browser.get("/who/get:name").text(), "ada\nnone");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn a_handshake_of_a_websocket_is_checked() {
    everywhere(|site| {
        let handshake =
            || Request::get("/hello").header("Host", HOST).header("Upgrade", "WebSocket");
        assert!(is_refused(site, &handshake().header("Origin", "https://evil.example")));
        assert!(is_refused(site, &handshake().header("Sec-Fetch-Site", "same-site")));
        assert!(!is_refused(site, &handshake().header("Origin", "https://app.localhost")));
        assert!(!is_refused(site, &handshake()), "not of a browser");
    });
}

#[test]
fn odd_fields_are_refused_as_repeated_or_other_ones() {
    everywhere(|site| {
        let own = "https://app.localhost";
        assert!(is_refused(site, &post().header("Origin", own).header("Origin", own)));
        let same = |request: Request| request.header("Sec-Fetch-Site", "same-origin");
        assert!(is_refused(site, &same(same(post()))));
        assert!(is_refused(site, &post().header("Sec-Fetch-Site", "Same-Origin")));
        assert!(!is_refused(site, &post().header("Sec-Fetch-Site", "  same-origin ")));
        assert!(!is_refused(site, &post().header("ORIGIN", own)));
        assert!(!is_refused(site, &post().header("Origin", "https://app.localhost:443")));
        assert!(is_refused(site, &post().header("Origin", "https://app.localhost.")));
        let twice = post().header("Host", HOST).header("Origin", own);
        // A server may answer such a request itself.
        assert!(site.send(&twice).status >= 400);
        let address = Request::post("/count").header("Host", "[::1]:8000");
        assert!(!is_refused(site, &address.clone().header("Origin", "http://[::1]:8000")));
        assert!(is_refused(site, &address.header("Origin", "http://[::1]:8001")));
    });
}

#[test]
fn a_request_of_http_1_0_has_no_host_to_compare() {
    everywhere(|site| {
        for (fields, status) in [("", "200"), ("Origin: https://app.localhost\r\n", "403")] {
            let mut exchange = site.connect();
            let request = format!("POST /count HTTP/1.0\r\nContent-Length: 0\r\n{fields}\r\n");
            exchange.send_bytes(request.as_bytes()).unwrap();
            assert_eq!(exchange.head().unwrap().status.to_string(), status, "{fields:?}");
        }
    });
}

#[test]
fn the_forwarded_host_counts_behind_proxies_only() {
    let request = || {
        let request = Request::post("/count").header("Host", "127.0.0.1:8000");
        request
            .header("Origin", "https://app.localhost")
            .header("X-Forwarded-Host", "app.localhost")
    };
    everywhere(|site| assert!(is_refused(site, &request())));
    everywhere_with(
        |builder| builder.behind_proxies(1),
        |site| {
            assert!(!is_refused(site, &request()));
            // nginx without a setting for it.
            let changed = Request::post("/count").header("Host", "127.0.0.1:8000");
            let changed = changed.header("Origin", "https://app.localhost");
            assert!(is_refused(site, &changed));
            assert!(!is_refused(site, &changed.header("Sec-Fetch-Site", "same-origin")));
        },
    );
}

#[test]
fn trusted_origins_and_exempt_paths_pass() {
    let configure = |builder: SessionManagerBuilder| {
        let cross_origin = CrossOrigin::refuse().trust("https://shop.app.localhost");
        builder.cross_origin(cross_origin.exempt("/hello").exempt("/visits"))
    };
    everywhere_with(configure, |site| {
        let foreign = |path: &str| Request::post(path).header("Sec-Fetch-Site", "same-site");
        let shop = foreign("/count").header("Origin", "https://shop.app.localhost");
        assert!(!is_refused(site, &shop));
        assert!(is_refused(site, &foreign("/count").header("Origin", "https://app.localhost")));
        for path in ["/hello", "/hello?a=b"] {
            assert!(!is_refused(site, &foreign(path)), "{path}");
        }
        for path in ["/hello/", "//hello", "/hello/count", "/%68ello", "/count?/hello"] {
            assert!(is_refused(site, &foreign(path)), "{path}");
        }
    });
}

#[test]
fn a_check_that_is_off_or_only_reports_lets_requests_pass() {
    let foreign = || post().header("Sec-Fetch-Site", "cross-site");
    let off = |builder: SessionManagerBuilder| builder.cross_origin(CrossOrigin::off());
    everywhere_with(off, |site| assert!(!is_refused(site, &foreign())));
    let report = |builder: SessionManagerBuilder| builder.cross_origin(CrossOrigin::report_only());
    everywhere_with(report, |site| {
        assert_eq!(site.send(&foreign()).status, 200);
        assert_eq!(site.count(EventKind::CrossOrigin), 1);
    });
}
