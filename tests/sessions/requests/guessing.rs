//! A client that presents many unknown ids is reported.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::SessionId;
use cloakroom::{Session, SessionManager};

use crate::common::app::{App, Browser, complete, defaults, on_both_stores};

/// Keeps what is said of guessing.
#[derive(Clone, Debug, Default)]
struct Reported(Arc<Mutex<Vec<Suspicion>>>);

/// The address, the number of ids, and the event in words.
type Suspicion = (Option<IpAddr>, u64, String);

impl Sink for Reported {
    fn record(&self, event: &Event<'_>) {
        if let Event::IdGuessing { address, count } = event {
            self.0.lock().unwrap().push((*address, *count, event.to_string()));
        }
    }
}

fn head<'r>(cookie: &'r str, from: Option<&str>) -> RequestHead<'r> {
    let head = RequestHead::new().cookie(cookie);
    match from {
        Some(address) => head.peer_addr(address.parse().unwrap()),
        None => head,
    }
}

/// A request with an id that no session has.
fn guess(sessions: &SessionManager, from: Option<&str>, act: impl FnOnce(&Session)) {
    let cookie = format!("__Host-id={}", SessionId::generate().unwrap().reveal());
    let session = sessions.open(head(&cookie, from));
    act(&session);
    complete(sessions, &session);
}

fn read(session: &Session) {
    assert_eq!(session.get::<u32>("n").unwrap(), None);
}

#[test]
fn many_unknown_ids_are_reported_at_each_doubling() {
    on_both_stores(defaults, |app| {
        let reported = Reported::default();
        let sessions = app.another(|builder| builder.events(Events::new(reported.clone())));
        for n in 1..=85 {
            // Those who write without a look are found out at the end of the request.
            match n % 2 {
                0 => guess(&sessions, Some("192.0.2.7"), read),
                _ => guess(&sessions, Some("192.0.2.7"), |s| s.set("n", 1).unwrap()),
            }
            guess(&sessions, Some(&format!("198.51.100.{n}")), read);
        }
        let address = Some("192.0.2.7".parse().unwrap());
        let reported = reported.0.lock().unwrap();
        let counts: Vec<_> = reported.iter().map(|(from, count, _)| (*from, *count)).collect();
        assert_eq!(counts, [(address, 20), (address, 40), (address, 80)]);
        let text =
            "20 malformed or unknown ids within a minute came from 192.0.2.7: possible guessing";
        assert_eq!(reported[0].2, text);
        assert_eq!(sessions.events().count(EventKind::IdGuessing), 3);
    });
}

#[test]
fn malformed_ids_count_and_an_ipv6_network_is_one_client() {
    on_both_stores(defaults, |app| {
        let reported = Reported::default();
        let sessions = app.another(|builder| builder.events(Events::new(reported.clone())));
        for n in 0..10 {
            let address = format!("2001:db8::{n}:1");
            guess(&sessions, Some(&address), read);
            // It is not looked up, so a request that does not use its session is counted too.
            drop(sessions.open(head(&format!("__Host-id=garbage{n}"), Some(&address))));
        }
        let reported = reported.0.lock().unwrap();
        assert_eq!(reported.len(), 1);
        assert_eq!((reported[0].0, reported[0].1), (Some("2001:db8::".parse().unwrap()), 20));
        assert!(reported[0].2.contains("2001:db8::/64"), "{}", reported[0].2);
    });
}

#[test]
fn unknown_addresses_are_counted_together_for_a_minute() {
    on_both_stores(defaults, |app| {
        (0..19).for_each(|_| guess(&app.sessions, None, read));
        app.clock.advance(Duration::from_secs(60));
        (0..19).for_each(|_| guess(&app.sessions, None, read));
        assert_eq!(app.count(EventKind::IdGuessing), 0);
        guess(&app.sessions, None, read);
        assert_eq!(app.count(EventKind::IdGuessing), 1);
        assert_eq!(app.count(EventKind::UnknownId), 39);
    });
}

#[test]
fn repeated_use_of_one_ended_id_does_not_count_as_guessing() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let index = app.store.inner().index().unwrap();
        index.revoke(&cloakroom::list::SessionFilter::All, None, crate::common::NOW).unwrap();
        for _ in 0..100 {
            let session = browser.open(&app.sessions);
            read(&session);
            complete(&app.sessions, &session);
        }
        assert_eq!(app.count(EventKind::UnknownId), 100);
        assert_eq!(app.count(EventKind::IdGuessing), 0);
    });
}

#[test]
fn live_and_just_renewed_ids_are_not_counted() {
    on_both_stores(defaults, |app| {
        let App { sessions, .. } = &app;
        for _ in 0..30 {
            let mut old = app.visitor(1);
            let mut browser = old.after_request(sessions, |session| session.renew().unwrap());
            old.request(sessions, read);
            let session = browser.open(sessions);
            assert_eq!(session.get("n").unwrap(), Some(1));
            // The response of the one that ended it went out first.
            browser.request(sessions, |session| session.destroy().unwrap());
            sessions.close(&session, Outcome::Completed).unwrap();
            Browser::default().request(sessions, read);
        }
        assert_eq!(app.count(EventKind::IdGuessing), 0);
    });
}

#[test]
fn dead_cookies_of_one_address_in_turn_are_no_guesses() {
    on_both_stores(defaults, |app| {
        // As from an office whose people were all signed out.
        let dead: Vec<String> = (0..19)
            .map(|_| format!("__Host-id={}", SessionId::generate().unwrap().reveal()))
            .collect();
        for cookie in dead.iter().cycle().take(190) {
            let session = app.sessions.open(head(cookie, Some("192.0.2.7")));
            read(&session);
            complete(&app.sessions, &session);
        }
        assert_eq!(app.count(EventKind::UnknownId), 190);
        assert_eq!(app.count(EventKind::IdGuessing), 0);
        guess(&app.sessions, Some("192.0.2.7"), read);
        assert_eq!(app.count(EventKind::IdGuessing), 1, "one that is new");
    });
}

#[test]
fn a_malformed_cookie_that_stays_in_a_browser_is_no_guess() {
    on_both_stores(defaults, |app| {
        for _ in 0..100 {
            // As of another application that has the same name for its cookie.
            let cookie = "__Host-id=eyJhbGciOiJIUzI1NiJ9.e30.xyz";
            drop(app.sessions.open(head(cookie, Some("192.0.2.7"))));
        }
        assert_eq!(app.count(EventKind::MalformedId), 100);
        assert_eq!(app.count(EventKind::IdGuessing), 0);
    });
}
