//! A request that does not use its session costs nothing: no call of the store, no allocation.
//!
//! The crate that counts allocations replaces the allocator of this whole program.

#[cfg(all(feature = "http", feature = "rocket", feature = "rouille", feature = "tiny_http"))]
mod adapters;
#[path = "../common/mod.rs"]
mod common;

use crate::common::app::{App, Browser, defaults, on_both_stores};
use cloakroom::adapter::{Adapter, Outcome, RequestHead};

/// The allocations and store calls of a request that does not use its session.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    allocations: u64,
    store_calls: u64,
}

const NOTHING: Cost = Cost { allocations: 0, store_calls: 0 };

/// Opens and closes a session, and returns the cost.
fn cost(app: &App, head: RequestHead<'_>) -> Cost {
    let before = app.store.all_calls();
    let allocations = allocation_counter::measure(|| {
        let session = app.sessions.open(head);
        let headers = app.sessions.close(&session, Outcome::Completed).unwrap();
        assert!(headers.iter().next().is_none());
        drop((session, headers));
    });
    let (allocations, store_calls) = (allocations.count_total, app.store.all_calls() - before);
    Cost { allocations, store_calls }
}

#[test]
fn an_ignored_request_without_our_cookie_costs_nothing() {
    on_both_stores(defaults, |app| {
        let none = RequestHead::new;
        let others = "theme=dark; __Host-id2=x; id=y; _Host-id=z; __host-id=w; broken; =; ;;";
        let peer = "192.0.2.7".parse().unwrap();
        for head in [
            none(),
            none().cookie(""),
            none().cookie(others),
            (0..100).fold(none(), |head, _| head.cookie(others)),
            none().cookie("__Host-id=").peer_addr(peer),
            none().cookie(others).host("example.org").secure_if(true).peer_addr(peer),
            none().id("not looked at"),
        ] {
            assert_eq!(cost(&app, head.clone()), NOTHING, "{head:?}");
        }
    });
}

/// Cookies of other applications: 40 fields, as HTTP/2 sends them, and one field of 8 KiB, as
/// HTTP/1.1 does.
fn other_cookies() -> [Vec<String>; 2] {
    let cookie = |n: usize| format!("_ga_{n}=GS1.1.1700000000.{n}.1.1700000000.0.0.0");
    let many: Vec<String> = (0..40).map(cookie).collect();
    let long = (0..200).map(cookie).collect::<Vec<_>>().join("; ");
    assert!(long.len() > 8 << 10);
    [many, vec![long]]
}

#[test]
fn any_number_of_other_cookies_costs_nothing() {
    on_both_stores(defaults, |app| {
        for fields in other_cookies() {
            let pairs = || fields.iter().map(|field| ("cookie", field.as_str()));
            let before = app.store.all_calls();
            let allocations = allocation_counter::measure(|| {
                let session =
                    app.sessions.open(Adapter::new(&app.sessions).head("GET", "/", pairs()));
                let headers = app.sessions.close(&session, Outcome::Completed).unwrap();
                assert!(headers.iter().next().is_none());
            });
            assert_eq!(allocations.count_total, 0);
            assert_eq!(app.store.all_calls(), before);
        }
    });
}

#[test]
fn an_ignored_live_session_behind_other_cookies_costs_nothing() {
    on_both_stores(defaults, |app| {
        let ours = app.visitor(1).cookie.unwrap();
        for mut fields in other_cookies() {
            fields.push(ours.clone());
            let pairs = || fields.iter().map(|field| ("cookie", field.as_str()));
            let allocations = allocation_counter::measure(|| {
                let session =
                    app.sessions.open(Adapter::new(&app.sessions).head("GET", "/", pairs()));
                app.sessions.close(&session, Outcome::Completed).unwrap();
            });
            assert_eq!(allocations.count_total, 0);
        }
    });
}

#[test]
fn a_request_over_plain_http_costs_nothing() {
    on_both_stores(defaults, |app| {
        for host in ["localhost:8000", "LOCALHOST", "127.0.0.1", "[::1]:80", "a.localhost"] {
            let head = RequestHead::new().host(host);
            assert_eq!(cost(&app, head), NOTHING, "{host}");
        }
        // Browsers drop the cookie there, and the response has none.
        for host in ["example.org", "10.0.0.1:8000", &"a".repeat(10_000), "é.example"] {
            let head = RequestHead::new().cookie("theme=dark").host(host);
            assert_eq!(cost(&app, head), NOTHING, "{host}");
        }
    });
}

#[test]
fn the_cross_origin_check_of_a_change_allocates_nothing() {
    on_both_stores(defaults, |app| {
        let post = || RequestHead::new().method("POST").target("/pay?a=b").host("localhost:80");
        for head in [
            post().sec_fetch_site("same-origin").origin("http://localhost"),
            post().origin("http://localhost"),
            post(),
        ] {
            assert_eq!(cost(&app, head.clone()), NOTHING, "{head:?}");
        }
    });
}

#[test]
fn a_request_with_a_live_session_that_it_ignores_asks_no_store() {
    on_both_stores(defaults, |app| {
        let browser: Browser = app.visitor(1);
        let head = RequestHead::from(browser.cookie.as_deref());
        assert_eq!(cost(&app, head), NOTHING);
    });
}

#[test]
fn the_counters_count() {
    let allocations = allocation_counter::measure(|| drop(std::hint::black_box(Box::new(1))));
    assert_eq!(allocations.count_total, 1);
    on_both_stores(defaults, |app| {
        let before = app.store.all_calls();
        app.visitor(1);
        assert!(app.store.all_calls() > before);
    });
}
