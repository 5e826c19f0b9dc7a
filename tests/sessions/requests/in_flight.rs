//! Requests that find no session while deletions are in flight.

use std::sync::mpsc::channel;
use std::thread;

use cloakroom::event::EventKind;
use cloakroom::id::SessionId;
use cloakroom::{Session, SessionManager};

use crate::common::app::{Browser, complete, defaults, on_both_stores, set_cookie, sign_in};
use crate::common::client::PATIENCE;
use crate::common::faulty::Call;

fn unknown() -> Browser {
    Browser::with(format!("__Host-id={}", SessionId::generate().unwrap().reveal()))
}

fn read_and_close(sessions: &SessionManager, browser: &Browser) {
    let session = browser.open(sessions);
    assert_eq!(session.get::<u32>("n").unwrap(), None);
    assert!(!complete(sessions, &session).discarded);
}

#[test]
fn a_read_of_an_unknown_id_waits_for_no_deletion_in_flight() {
    let deletions: [fn(&Session); 2] =
        [|session| sign_in(session, "ada"), |session| session.destroy().unwrap()];
    on_both_stores(defaults, |app| {
        for delete in deletions {
            let mut other = app.visitor(1);
            let (sender, received) = channel();
            thread::scope(|scope| {
                let control = app.store.hold(Call::Commit);
                scope.spawn(|| other.request(&app.sessions, delete));
                control.wait_until_reached();
                scope.spawn(|| {
                    read_and_close(&app.sessions, &unknown());
                    sender.send(()).unwrap();
                });
                received.recv_timeout(PATIENCE).expect("it does not wait");
                control.open();
            });
        }
        assert_eq!(app.count(EventKind::UnknownId), 2);
    });
}

#[test]
fn a_write_after_a_read_of_an_unknown_id_begins_a_session() {
    on_both_stores(defaults, |app| {
        let mut other = app.visitor(1);
        thread::scope(|scope| {
            let control = app.store.hold(Call::Commit);
            scope.spawn(|| other.request(&app.sessions, |session| session.destroy().unwrap()));
            control.wait_until_reached();
            let session = unknown().open(&app.sessions);
            assert_eq!(session.get::<u32>("n").unwrap(), None);
            control.open();
            session.set("n", 1).unwrap();
            let headers = complete(&app.sessions, &session);
            assert!(set_cookie(&headers).is_some() && !headers.discarded);
        });
    });
}

#[test]
fn a_write_during_the_sign_out_of_its_session_is_discarded() {
    on_both_stores(defaults, |app| {
        for read_before in [true, false] {
            let (browser, late) = app.open_visitor(1);
            thread::scope(|scope| {
                let control = app.store.hold_commit_answer();
                let mut leaving = browser.clone();
                let (sessions, late) = (&app.sessions, &late);
                scope.spawn(move || leaving.request(sessions, |s| s.destroy().unwrap()));
                control.wait_until_reached();
                if read_before {
                    assert_eq!(late.get::<u32>("n").unwrap(), None, "it is gone in the store");
                }
                late.set("n", 2).unwrap();
                let late = scope.spawn(move || complete(sessions, late));
                control.open();
                let headers = late.join().unwrap();
                assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
            });
            assert_eq!(app.rows(), 0);
        }
    });
}

#[test]
fn a_write_after_a_sign_out_of_an_unknown_id_begins_a_session() {
    on_both_stores(defaults, |app| {
        let (browser, late) = app.open_visitor(1);
        thread::scope(|scope| {
            let control = app.store.hold_commit_answer();
            let (mut leaving, sessions) = (browser.clone(), &app.sessions);
            scope.spawn(move || leaving.request(sessions, |s| s.destroy().unwrap()));
            control.wait_until_reached();
            assert_eq!(late.get::<u32>("n").unwrap(), None);
            late.destroy().unwrap();
            late.set("n", 2).unwrap();
            control.open();
        });
        let headers = complete(&app.sessions, &late);
        assert!(set_cookie(&headers).is_some() && !headers.discarded);
        assert_eq!(app.rows(), 1);
    });
}
