//! The example programs in a real Chromium: what a person sees, and the cookie as a browser
//! treats it.
//!
//! Debian's packages are `chromium` and `chromium-driver`. Without them the tests say that they
//! are skipped, or fail if `CLOAKROOM_REQUIRE_BROWSER=1`.

#[path = "../common/mod.rs"]
mod common;
mod cross_origin;
mod history;
mod http2;
mod notes;
mod several_machines;
mod sign_in;
mod sign_in_postgres;
mod site;
mod tokens;
mod visits;

use std::env;
use std::time::SystemTime;

use crate::common::Folder;
use crate::common::chromium::{Chromium, ELSEWHERE, Page, Programs, Tab};
use crate::common::example::{CookieKind, Example};

/// All that are the same application; `cargo test` builds them.
const EXAMPLES: &[&str] = &["rouille", "rocket", "tiny_http"];

/// The number of repetitions of a test on each server: `CLOAKROOM_BROWSER_ROUNDS`, or `few` without
/// it.
fn rounds(few: usize) -> usize {
    env::var("CLOAKROOM_BROWSER_ROUNDS").map_or(few, |rounds| rounds.parse().unwrap())
}

/// The server that tests start as a process of its own.
#[test]
fn child_process() {
    if let Some(server) = crate::common::role() {
        site::serve(&server);
    }
}

const WARNING: &str = "a browser rejects the Secure session cookie";

/// Runs a test on every example with an empty database, in a browser that knows nothing yet.
fn everywhere(test: impl Fn(&Chromium, &str, &Folder)) {
    let Some(programs) = Programs::find() else { return };
    // Its start takes longer than most tests.
    let chromium = Chromium::start(&programs);
    for name in EXAMPLES {
        println!("{name}");
        chromium.forget_cookies();
        test(&chromium, name, &Folder::new());
    }
}

fn start(name: &str, folder: &Folder) -> Example {
    Example::start(name, folder, CookieKind::Default)
}

/// An example, and a tab that shows its first page.
fn visit<'c>(chromium: &'c Chromium, name: &str, folder: &Folder) -> (Example, Tab<'c>) {
    let server = start(name, folder);
    let tab = chromium.tab();
    tab.open(&server.url("localhost"));
    (server, tab)
}

#[track_caller]
fn assert_without_warning(server: Example) {
    let log = server.stop();
    assert!(!log.iter().any(|line| line.contains(WARNING)), "{log:#?}");
}

#[test]
fn a_sign_in_is_confirmed_once_and_gives_another_id() {
    everywhere(|chromium, name, folder| {
        let (_server, tab) = visit(chromium, name, folder);
        assert_eq!(tab.page(), Page::new(1, None, &[]));
        tab.look(&format!("{name}-anonymous"));
        tab.reload();
        assert_eq!(tab.page(), Page::new(2, None, &[]));
        let before = tab.cookie();

        tab.sign_in("ada", "guess");
        let refused = "That did not work. The password is “demo”.";
        assert_eq!(tab.page(), Page::new(3, None, &[refused]));
        tab.look(&format!("{name}-refused"));
        assert_eq!(tab.cookie().value, before.value);

        tab.sign_in("ada", "demo");
        assert_eq!(tab.page(), Page::new(4, "ada", &["You are signed in."]));
        tab.look(&format!("{name}-signed-in"));
        let after = tab.cookie();
        assert_ne!(after.value, before.value);
        tab.reload();
        assert_eq!(tab.page(), Page::new(5, "ada", &[]));
        assert_eq!(tab.cookie().value, after.value);

        // The id from before the sign-in is of no use now.
        tab.take_cookie(&before);
        tab.reload();
        assert_eq!(tab.page(), Page::new(1, None, &[]));
    });
}

#[test]
fn a_sign_out_in_one_tab_signs_out_the_other() {
    everywhere(|chromium, name, folder| {
        let server = start(name, folder);
        let (one, other) = (chromium.tab(), chromium.tab());
        one.open(&server.url("localhost"));
        one.sign_in("ada", "demo");
        other.open(&server.url("localhost"));
        assert_eq!(other.page(), Page::new(3, "ada", &[]));
        let recorded = other.cookie();

        one.sign_out();
        assert_eq!(one.page(), Page::new(1, None, &["You are signed out."]));
        assert_eq!(other.page(), Page::new(3, "ada", &[]), "it has asked for nothing yet");
        other.reload();
        assert_eq!(other.page(), Page::new(2, None, &[]));

        // The cookie from before is of no use to who recorded it.
        other.take_cookie(&recorded);
        assert_eq!(other.cookie().value, recorded.value);
        other.reload();
        assert_eq!(other.page(), Page::new(1, None, &[]));
    });
}

#[test]
fn back_after_a_sign_out_shows_no_page_of_the_user() {
    everywhere(|chromium, name, folder| {
        let (server, tab) = visit(chromium, name, folder);
        tab.sign_in("ada", "demo");
        tab.open(&format!("{}?again", server.url("localhost")));
        assert_eq!(tab.page().user.as_deref(), Some("ada"));
        tab.sign_out();
        tab.back();
        assert_eq!(tab.script("return location.search"), "?again");
        assert_eq!(tab.page().user, None);
    });
}

#[test]
fn a_page_that_the_browser_prefetches_takes_no_message_away() {
    everywhere(|chromium, name, folder| {
        let (server, tab) = visit(chromium, name, folder);
        assert_eq!(tab.page(), Page::new(1, None, &[]));
        tab.type_into("input[name=user]", "ada");
        tab.type_into("input[name=password]", "demo");
        // Nothing follows the redirect to the page that shows the message.
        tab.script(
            "const form = document.querySelector('form[action=\"/sign-in\"]');
             const body = new URLSearchParams(new FormData(form));
             return fetch(form.action, { method: 'POST', body, redirect: 'manual' }).then(() => 1)",
        );
        let fetched = tab.script(
            "return new Promise(done => {
                 const link = document.createElement('link');
                 link.rel = 'prefetch';
                 link.href = '/?in-advance';
                 link.onload = () => done('fetched');
                 link.onerror = () => done('not fetched');
                 document.head.append(link);
             })",
        );
        assert_eq!(fetched, "fetched");
        tab.open(&server.url("localhost"));
        assert_eq!(tab.page(), Page::new(3, "ada", &["You are signed in."]));
        tab.reload();
        assert_eq!(tab.page(), Page::new(4, "ada", &[]));
    });
}

/// The user's sessions on the page: true for the one of this tab.
#[track_caller]
fn places(tab: &Tab<'_>) -> Vec<bool> {
    let script = "return [...document.querySelectorAll('li')].map(
        item => item.querySelector('form') === null)";
    serde_json::from_value(tab.script(script)).unwrap()
}

#[test]
fn a_user_sees_all_sessions_and_ends_one_of_them_or_all_others() {
    let Some(programs) = Programs::find() else { return };
    let others = [Chromium::start(&programs), Chromium::start(&programs)];
    everywhere(|chromium, name, folder| {
        let server = start(name, folder);
        others.iter().for_each(Chromium::forget_cookies);
        let [phone, laptop] = others.each_ref().map(|other| {
            let tab = other.tab();
            tab.open(&server.url("localhost"));
            tab.sign_in("ada", "demo");
            tab
        });
        let desk = chromium.tab();
        desk.open(&server.url("localhost"));
        desk.sign_in("ada", "demo");
        desk.follow("a[href='/sessions']");
        assert_eq!(places(&desk), [true, false, false], "the newest first");
        desk.look(&format!("{name}-sessions"));

        // The first one with a button is the laptop, which signed in second.
        desk.follow("form[action='/sessions/revoke'] button");
        assert_eq!(places(&desk), [true, false]);
        laptop.reload();
        assert_eq!(laptop.page(), Page::new(1, None, &[]));
        phone.reload();
        assert_eq!(phone.page().user.as_deref(), Some("ada"));

        laptop.sign_in("ada", "demo");
        desk.follow("form[action='/sessions/revoke-others'] button");
        assert_eq!(places(&desk), [true]);
        for out in [&laptop, &phone] {
            out.reload();
            assert_eq!(out.page().user, None);
        }
        desk.open(&server.url("localhost"));
        assert_eq!(desk.page().user.as_deref(), Some("ada"));
    });
}

#[test]
fn a_user_stays_signed_in_over_restarts_and_kills() {
    everywhere(|chromium, name, folder| {
        let (server, tab) = visit(chromium, name, folder);
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page().visits, 2);
        server.stop();
        // On another port, which cookies do not see.
        let server = start(name, folder);
        tab.open(&server.url("localhost"));
        assert_eq!(tab.page(), Page::new(3, "ada", &[]));
        server.kill();
        let server = start(name, folder);
        tab.open(&server.url("localhost"));
        assert_eq!(tab.page(), Page::new(4, "ada", &[]));
    });
}

/// The days for which a browser keeps the cookie of a visitor, and that of a user.
const ANONYMOUS: f64 = 7.0;
const SIGNED_IN: f64 = 30.0;

/// The cookie is as the default says, but for its name, for this host, and the page cannot read it.
#[track_caller]
fn assert_default_cookie(tab: &Tab<'_>, host: &str, example: &str, days: f64) {
    let cookie = tab.cookie();
    assert_eq!(cookie.name, format!("__Host-{example}"));
    assert!(cookie.secure);
    assert_as_every_cookie(tab, host, days);
}

/// Checks the properties that the default cookie and that for plain HTTP share.
#[track_caller]
fn assert_as_every_cookie(tab: &Tab<'_>, host: &str, days: f64) {
    let cookie = tab.cookie();
    assert!(cookie.http_only);
    assert_eq!(cookie.same_site, "Lax");
    assert_eq!(cookie.path, "/");
    assert_eq!(cookie.domain, host, "a dot in front would mean subdomains too");
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let kept = (cookie.expiry.unwrap() - now) as f64 / 86_400.0;
    assert!((kept - days).abs() < 0.1, "it lives for {kept} days");
    assert_eq!(tab.script("return document.cookie"), "");
}

#[track_caller]
fn assert_default_cookie_over_a_sign_in(tab: &Tab<'_>, url: &str, host: &str, example: &str) {
    tab.open(url);
    assert_default_cookie(tab, host, example, ANONYMOUS);
    tab.sign_in("ada", "demo");
    assert_eq!(tab.page(), Page::new(2, "ada", &["You are signed in."]));
    assert_default_cookie(tab, host, example, SIGNED_IN);
}

#[test]
fn the_default_cookie_works_over_plain_http_to_this_machine() {
    everywhere(|chromium, name, folder| {
        let server = start(name, folder);
        let tab = chromium.tab();
        for host in ["localhost", "127.0.0.1"] {
            assert_default_cookie_over_a_sign_in(&tab, &server.url(host), host, name);
        }
        assert_without_warning(server);
    });
}

#[test]
fn the_default_cookie_works_behind_a_proxy_that_ends_tls() {
    everywhere(|chromium, name, folder| {
        let server = start(name, folder);
        let proxy = crate::common::tls::proxy(ELSEWHERE, server.address);
        let tab = chromium.tab();
        let url = format!("https://{ELSEWHERE}:{}/", proxy.port());
        assert_default_cookie_over_a_sign_in(&tab, &url, ELSEWHERE, name);
        assert_without_warning(server);
    });
}

#[test]
fn the_default_cookie_is_dropped_over_plain_http_elsewhere() {
    everywhere(|chromium, name, folder| {
        let server = start(name, folder);
        let tab = chromium.tab();
        tab.open(&server.url(ELSEWHERE));
        tab.reload();
        assert_eq!(tab.page(), Page::new(1, None, &[]));
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page(), Page::new(1, None, &[]), "the answer's cookie is dropped too");
        assert!(tab.cookies().is_empty());
        let log = server.stop();
        let warnings: Vec<_> = log.iter().filter(|line| line.contains(WARNING)).collect();
        assert_eq!(warnings.len(), 1, "{log:#?}");
        for word in ["WARN", "X-Forwarded-Proto", "insecure_http"] {
            assert!(warnings[0].contains(word), "{word} is not in {warnings:?}");
        }
    });
}

#[test]
fn the_cookie_for_insecure_http_works_over_plain_http_elsewhere() {
    everywhere(|chromium, name, folder| {
        let server = Example::start(name, folder, CookieKind::InsecureHttp);
        let tab = chromium.tab();
        tab.open(&server.url(ELSEWHERE));
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page(), Page::new(2, "ada", &["You are signed in."]));
        tab.reload();
        assert_eq!(tab.page(), Page::new(3, "ada", &[]));
        let cookie = tab.cookie();
        assert_eq!(cookie.name, name);
        assert!(!cookie.secure);
        assert_as_every_cookie(&tab, ELSEWHERE, SIGNED_IN);
        assert_without_warning(server);
    });
}
