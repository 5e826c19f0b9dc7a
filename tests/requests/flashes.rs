//! Messages for the next page.

use cloakroom::Session;

use crate::common::faulty::Call;
use crate::common::in_process::{Browser, complete, defaults, on_both_stores, set_cookie};

fn texts(session: &Session) -> Vec<String> {
    session.flashes().unwrap().into_iter().map(|flash| flash.text).collect()
}

#[test]
fn a_flash_is_read_in_the_second_request_and_gone_in_the_third() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        browser.request(&app.sessions, |session| {
            session.flash("info", "saved").unwrap();
            session.flash("error", "or not").unwrap();
        });
        browser.request(&app.sessions, |session| {
            let flashes = session.flashes().unwrap();
            let seen: Vec<_> = flashes.iter().map(|f| (f.kind.as_str(), f.text.as_str())).collect();
            assert_eq!(seen, [("info", "saved"), ("error", "or not")]);
            assert!(session.flashes().unwrap().is_empty(), "once");
            assert!(session.keys().unwrap().is_empty(), "the application's names only");
        });
        browser.request(&app.sessions, |session| assert!(texts(session).is_empty()));
    });
}

#[test]
fn a_request_that_does_not_read_flashes_does_not_eat_them() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        browser.request(&app.sessions, |session| session.flash("info", "saved").unwrap());
        browser.request(&app.sessions, |session| assert!(!session.contains("n").unwrap()));
        browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["saved"]));
    });
}

#[test]
fn flashes_that_are_kept_come_once_more() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        browser.request(&app.sessions, |session| session.flash("info", "saved").unwrap());
        browser.request(&app.sessions, |session| {
            let flashes = session.flashes().unwrap();
            session.keep_flashes(&flashes).unwrap();
        });
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["saved"]));
        browser.request(&app.sessions, |session| assert!(texts(session).is_empty()));
    });
}

#[test]
fn a_page_that_fails_leaves_the_flashes_it_read() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        browser.request(&app.sessions, |session| session.flash("info", "saved").unwrap());
        let read = |session: &Session| assert_eq!(texts(session), ["saved"]);
        browser.try_request(&app.sessions, cloakroom::http::Outcome::Panicked, read).unwrap();
        browser.request(&app.sessions, read);
    });
}

#[test]
fn reading_takes_away_what_was_read_and_no_message_of_a_parallel_request() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        browser.request(&app.sessions, |session| session.flash("info", "same").unwrap());
        let reader = browser.open(&app.sessions);
        assert_eq!(texts(&reader), ["same"]);
        // An equal text is another message all the same.
        browser.request(&app.sessions, |session| session.flash("info", "same").unwrap());
        browser.request(&app.sessions, |session| session.flash("info", "new").unwrap());
        complete(&app.sessions, &reader);
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["same", "new"]));
    });
}

#[test]
fn messages_of_parallel_requests_are_all_kept() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let writers: Vec<_> = (0..5)
            .map(|number| {
                let session = browser.open(&app.sessions);
                session.flash("info", format!("{number}")).unwrap();
                session
            })
            .collect();
        for session in &writers {
            complete(&app.sessions, session);
        }
        let session = browser.open(&app.sessions);
        assert_eq!(texts(&session), ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn no_flashes_are_read_without_a_write() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let commits = app.store.calls(Call::Commit);
        let headers = browser.request(&app.sessions, |session| assert!(texts(session).is_empty()));
        assert_eq!((set_cookie(&headers), app.store.calls(Call::Commit)), (None, commits));
    });
}
