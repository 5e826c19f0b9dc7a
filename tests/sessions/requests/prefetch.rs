//! Flashes on pages that a browser fetches in advance.

use std::time::Duration;

use cloakroom::adapter::{Adapter, RequestHead};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{Lifetime, Session, SessionManager};

use super::flashes::texts;
use crate::common::app::{Browser, complete, defaults, on_both_stores};

fn in_advance(sessions: &SessionManager, browser: &Browser) -> Session {
    let head = RequestHead::from(browser.cookie.as_deref());
    sessions.open(head.purpose("prefetch;prerender"))
}

#[test]
fn a_page_fetched_in_advance_reads_flashes_and_leaves_them() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| session.flash("info", "saved").unwrap());
        for _ in 0..2 {
            let session = in_advance(&app.sessions, &browser);
            assert_eq!(texts(&session), ["saved"]);
            assert!(!session.is_changed());
            complete(&app.sessions, &session);
        }
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["saved"]));
        browser.request(&app.sessions, |session| assert!(texts(session).is_empty()));
    });
}

#[test]
fn flashes_kept_on_a_page_fetched_in_advance_stay_once() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| session.flash("info", "saved").unwrap());
        let session = in_advance(&app.sessions, &browser);
        let flashes = session.flashes().unwrap();
        session.keep_flashes(&flashes).unwrap();
        session.flash("info", "more").unwrap();
        complete(&app.sessions, &session);
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["saved", "more"]));
    });
}

#[test]
fn a_framework_that_gives_headers_by_name_gives_both_purposes() {
    on_both_stores(defaults, |app| {
        let names: Vec<_> = Adapter::new(&app.sessions).header_names().collect();
        for name in ["Sec-Purpose", "Purpose"] {
            assert!(names.contains(&name), "{names:?}");
        }
    });
}

#[test]
fn a_page_fetched_in_advance_does_not_count_as_activity() {
    let hour = Duration::from_secs(3600);
    let idle = |builder: SessionManagerBuilder| builder.lifetime(Lifetime::idle(hour));
    on_both_stores(idle, |app| {
        let visitor = app.visitor(1);
        for part in [0.5, 0.4] {
            app.clock.advance(hour.mul_f64(part));
            let reader = in_advance(&app.sessions, &visitor);
            assert_eq!(reader.get::<u32>("n").unwrap(), Some(1));
            complete(&app.sessions, &reader);
            let writer = in_advance(&app.sessions, &visitor);
            writer.set("theme", "dark").unwrap();
            complete(&app.sessions, &writer);
        }
        app.sessions.flush().unwrap();
        app.clock.advance(hour.mul_f64(0.1));
        assert_eq!(app.stored_n(&visitor), None, "an hour after the visit");
    });
}

#[test]
fn a_page_fetched_in_advance_does_not_extend_the_session() {
    let hour = Duration::from_secs(3600);
    let idle = |builder: SessionManagerBuilder| builder.lifetime(Lifetime::idle(hour));
    on_both_stores(idle, |app| {
        let visitor = app.visitor(1);
        let ends = visitor.open(&app.sessions).deadline().unwrap();
        app.clock.advance(hour / 2);
        assert_eq!(in_advance(&app.sessions, &visitor).deadline().unwrap(), ends);
        assert!(visitor.open(&app.sessions).deadline().unwrap() > ends);
    });
}
