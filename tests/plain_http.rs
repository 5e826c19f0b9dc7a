//! Warnings that come once in a process, each with one test: about a Secure cookie that a browser
//! drops, and about a proxy of which the application says nothing.

mod common;

use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::cookie::CookieConfig;
use cloakroom::event::EventKind;
use cloakroom::{MemoryStore, SessionManager};
use common::app::{complete, defaults, on_both_stores, set_cookie};
use common::child;

#[test]
fn a_secure_cookie_over_plain_http_is_reported_once() {
    let far = || RequestHead::new().host("example.org");
    // Nothing is sent that a browser rejects.
    on_both_stores(defaults, |app| {
        let insecure = app.another(|builder| builder.cookie(CookieConfig::insecure_http()));
        let header = app.another(|builder| builder.header("X-Session"));
        let fine = [
            (&app.sessions, far().secure_if(true)),
            (&app.sessions, RequestHead::new().host("localhost:8000")),
            (&app.sessions, RequestHead::new().host("127.0.0.1")),
            (&app.sessions, RequestHead::new()),
            (&insecure, far()),
            (&header, far()),
        ];
        for (sessions, head) in fine {
            let session = sessions.open(head);
            session.set("n", 1).unwrap();
            assert!(!complete(sessions, &session).id_fields.is_empty());
        }
        let session = app.sessions.open(far());
        assert_eq!(session.get::<u32>("n").unwrap(), None);
        assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
        assert_eq!(app.count(EventKind::InsecureConnection), 0);
    });
    let webkit = "Mozilla/5.0 (Macintosh) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1.15";
    let chromium = "Mozilla/5.0 (X11) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0";
    let local = |agent| RequestHead::new().host("localhost:8000").user_agent(agent);
    let reported = std::cell::Cell::new(0);
    on_both_stores(defaults, |app| {
        for head in [local(chromium), local(webkit).secure_if(true)] {
            let session = app.sessions.open(head);
            session.set("n", 1).unwrap();
            complete(&app.sessions, &session);
        }
        assert_eq!(app.count(EventKind::InsecureConnection), 0);
        for _ in 0..3 {
            let session = app.sessions.open(local(webkit));
            session.set("n", 1).unwrap();
            complete(&app.sessions, &session);
        }
        reported.set(reported.get() + app.count(EventKind::InsecureConnection));
    });
    assert_eq!(reported.get(), 1, "Safari drops it on loopback names too");
    let reported = std::cell::Cell::new(0);
    on_both_stores(defaults, |app| {
        for _ in 0..3 {
            let session = app.sessions.open(far());
            session.set("n", 1).unwrap();
            assert!(set_cookie(&complete(&app.sessions, &session)).is_some(), "it is sent");
        }
        reported.set(reported.get() + app.count(EventKind::InsecureConnection));
    });
    assert_eq!(reported.get(), 1);
}

#[test]
fn an_unknown_proxy_is_reported_once() {
    let forwarded =
        || RequestHead::new().peer_addr([127, 0, 0, 1].into()).forwarded_for("192.0.2.7");
    on_both_stores(defaults, |app| {
        let behind = app.another(|builder| builder.behind_proxies(1));
        let _ = (behind.open(forwarded()), app.sessions.open(RequestHead::new()));
        assert_eq!(app.count(EventKind::UnknownProxy), 0);
    });
    let reported = std::cell::Cell::new(0);
    on_both_stores(defaults, |app| {
        for _ in 0..3 {
            let _ = app.sessions.open(forwarded());
        }
        reported.set(reported.get() + app.count(EventKind::UnknownProxy));
    });
    assert_eq!(reported.get(), 1);
}

#[test]
fn child_process() {
    if common::role().is_none() {
        return;
    }
    let sessions = SessionManager::new(MemoryStore::new()).unwrap();
    for _ in 0..3 {
        let session = sessions.open(RequestHead::new().host("192.168.1.5:8000"));
        session.set("n", 1).unwrap();
        sessions.close(&session, Outcome::Completed).unwrap();
    }
}

#[test]
fn without_a_logger_the_warning_is_on_standard_error() {
    let output = child(module_path!(), "no logger").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches("cloakroom: a browser rejects the Secure").count(), 1, "{text}");
    assert!(text.contains("X-Forwarded-Proto") && text.trim_end().lines().count() == 1, "{text}");
}
