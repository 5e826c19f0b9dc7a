//! Sessions that are dropped without being closed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cloakroom::Session;
use cloakroom::adapter::Outcome;
use cloakroom::event::EventKind;

use crate::common::app::{App, Browser, defaults, on_both_stores, sign_in};

/// The number of events of a request that is dropped.
fn after(app: &App, browser: &Browser, handler: impl FnOnce(&Session)) -> u64 {
    let before = app.count(EventKind::SessionNotClosed);
    let session = browser.open(&app.sessions);
    handler(&session);
    drop(session);
    app.count(EventKind::SessionNotClosed) - before
}

#[test]
fn a_session_with_changes_that_is_dropped_raises_an_event() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let changes: [fn(&Session); 7] = [
            |session| session.set("n", 2).unwrap(),
            |session| session.remove("n").unwrap(),
            |session| assert_eq!(session.update("n", |_: Option<u32>| 2).unwrap(), 2),
            |session| session.flash("info", "saved").unwrap(),
            |session| session.renew().unwrap(),
            |session| session.destroy().unwrap(),
            // It is stored, and the client never gets its id.
            |session| sign_in(session, "ada"),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert_eq!(after(&app, &browser, change), 1, "{at}");
        }
        assert_eq!(after(&app, &Browser::default(), |session| session.set("n", 2).unwrap()), 1);
    });
}

#[test]
fn a_dropped_session_that_changed_nothing_is_silent() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        assert_eq!(after(&app, &browser, |_| {}), 0);
        assert_eq!(after(&app, &browser, |session| assert!(session.contains("n").unwrap())), 0);
        assert_eq!(after(&app, &browser, |session| assert!(session.user().unwrap().is_none())), 0);
    });
}

#[test]
fn a_dropped_session_after_ignore_reports_only_a_lost_id() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let ignored = |session: &Session| {
            session.set("n", 2).unwrap();
            session.ignore().unwrap();
        };
        assert_eq!(after(&app, &browser, ignored), 0);
        let ended = |session: &Session| {
            session.destroy().unwrap();
            session.ignore().unwrap();
        };
        assert_eq!(after(&app, &browser, ended), 0);
        // The sign-in stays, and the client never gets its id.
        let signed_in = |session: &Session| {
            sign_in(session, "ada");
            session.ignore().unwrap();
        };
        assert_eq!(after(&app, &browser, signed_in), 1);
    });
}

#[test]
fn a_session_that_was_closed_or_committed_is_silent() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let closed = |session: &Session| {
            session.set("n", 2).unwrap();
            app.sessions.close(session, Outcome::ServerError).unwrap();
        };
        assert_eq!(after(&app, &browser, closed), 0);
        let committed = |session: &Session| {
            session.set("n", 3).unwrap();
            assert!(session.commit().is_ok());
        };
        assert_eq!(after(&app, &browser, committed), 0);
    });
}

#[test]
fn a_session_that_a_panic_drops_raises_an_event() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let request = || {
            let session = browser.open(&app.sessions);
            session.destroy().unwrap();
            panic!("as planned");
        };
        assert!(catch_unwind(AssertUnwindSafe(request)).is_err());
        assert_eq!(app.count(EventKind::SessionNotClosed), 1);
        assert_eq!(app.stored_n(&browser), Some(1), "nothing was ended");
    });
}
