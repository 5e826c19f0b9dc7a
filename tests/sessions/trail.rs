//! The trail of events: each begin and end of a user's session, with public id, user, address and
//! reason; and what a request can learn of an ended session.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};

use crate::common::HOUR;
use crate::common::app::{App, Browser, complete, defaults, on_both_stores, user};
use crate::common::every_store::on_every_store;
use cloakroom::adapter::RequestHead;
use cloakroom::event::{Event, Events, Sink};
use cloakroom::id::IdpSessionId;
use cloakroom::lifetime::{AtMaximum, EndReason};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{Authentication, Lifetime, Session, SignIn};

/// What the events say of sessions of users, in their order.
#[derive(Clone, Debug, Default)]
struct Trail(Arc<Mutex<Vec<String>>>);

impl Sink for Trail {
    fn record(&self, event: &Event<'_>) {
        let is_of_user = matches!(
            event,
            Event::SignedIn { .. } | Event::Ended { user: Some(_), .. } | Event::Revoked { .. }
        );
        if is_of_user {
            self.0.lock().unwrap().push(event.to_string());
        }
    }
}

impl Trail {
    fn install(&self, builder: SessionManagerBuilder) -> SessionManagerBuilder {
        builder.events(Events::new(self.clone()))
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn address() -> IpAddr {
    "192.0.2.7".parse().unwrap()
}

/// A whole request from that address.
fn request(app: &App, browser: &mut Browser, handler: impl FnOnce(&Session)) {
    let head = RequestHead::from(browser.cookie.as_deref()).peer_addr(address());
    let session = app.sessions.open(head);
    handler(&session);
    browser.take(&complete(&app.sessions, &session));
}

fn sign_in(app: &App, browser: &mut Browser, name: &str) {
    request(app, browser, |session| {
        assert_eq!(session.sign_in(user(name)).unwrap(), SignIn::Done);
    });
}

fn signed_in(app: &App, name: &str) -> Browser {
    let mut browser = Browser::default();
    sign_in(app, &mut browser, name);
    browser
}

fn public_id(app: &App, browser: &Browser) -> String {
    browser.open(&app.sessions).public_id().unwrap().unwrap().to_string()
}

fn ended(app: &App, browser: &Browser) -> Option<EndReason> {
    browser.open(&app.sessions).end_reason().unwrap()
}

#[test]
fn a_sign_in_and_a_sign_out_leave_a_trail() {
    let trail = Trail::default();
    on_every_store(
        |builder| trail.install(builder),
        |app| {
            trail.take();
            let mut browser = signed_in(&app, "ada");
            let (copy, id) = (browser.clone(), public_id(&app, &browser));
            assert_eq!(ended(&app, &browser), None);
            request(&app, &mut browser, |session| {
                session.destroy().unwrap();
                assert_eq!(session.end_reason().unwrap(), None, "it was live");
            });
            assert_eq!(
                trail.take(),
                [
                    format!("user \"ada\" signed in to session {id} from 192.0.2.7"),
                    format!("session {id} of user \"ada\" ended: signed out from 192.0.2.7"),
                ]
            );
            assert_eq!(ended(&app, &copy), Some(EndReason::SignedOut));
            // Also after the request has begun another session, and not in that one.
            let mut again = copy.clone();
            request(&app, &mut again, |session| {
                session.set("n", 1).unwrap();
                assert_eq!(session.end_reason().unwrap(), Some(EndReason::SignedOut));
            });
            assert_eq!(ended(&app, &again), None);
        },
    );
}

#[test]
fn an_anonymous_session_that_ends_gives_no_reason() {
    let trail = Trail::default();
    on_every_store(
        |builder| trail.install(builder),
        |app| {
            let mut browser = app.visitor(1);
            let expired = app.visitor(2);
            let copy = browser.clone();
            browser.request(&app.sessions, |session| session.destroy().unwrap());
            app.clock.advance(HOUR * 24);
            assert_eq!((ended(&app, &copy), ended(&app, &expired)), (None, None));
            app.sessions.sweep_now().unwrap();
            assert_eq!(ended(&app, &expired), None);
            assert_eq!(trail.take(), [""; 0]);
        },
    );
}

#[test]
fn another_user_in_the_same_browser_supersedes_the_session() {
    let trail = Trail::default();
    on_every_store(
        |builder| trail.install(builder),
        |app| {
            trail.take();
            let mut browser = signed_in(&app, "ada");
            let (copy, id) = (browser.clone(), public_id(&app, &browser));
            trail.take();
            sign_in(&app, &mut browser, "bob");
            let own = public_id(&app, &browser);
            let why = "a sign-in of the same client took its place";
            assert_eq!(
                trail.take(),
                [
                    format!("session {id} of user \"ada\" ended: {why} from 192.0.2.7"),
                    format!("user \"bob\" signed in to session {own} from 192.0.2.7"),
                ]
            );
            // Its id is remembered as replaced.
            assert_eq!(ended(&app, &copy), None);
            // A second session that the request presents.
            let second = signed_in(&app, "ada");
            let id = public_id(&app, &second);
            trail.take();
            let both = format!("{}; {}", browser.cookie.unwrap(), second.cookie.clone().unwrap());
            sign_in(&app, &mut Browser::with(both), "bob");
            let said = trail.take();
            let last = format!("session {id} of user \"ada\" ended: {why} from 192.0.2.7");
            assert_eq!(said.last(), Some(&last), "{said:?}");
            assert_eq!(ended(&app, &second), Some(EndReason::Superseded));
        },
    );
}

#[test]
fn the_limit_per_user_leaves_a_trail() {
    let trail = Trail::default();
    let two = NonZeroU32::new(2).unwrap();
    on_both_stores(
        |builder| trail.install(builder).max_sessions_per_user(two, AtMaximum::EndOldest),
        |app| {
            trail.take();
            let first = signed_in(&app, "ada");
            let id = public_id(&app, &first);
            signed_in(&app, "ada");
            trail.take();
            signed_in(&app, "ada");
            let why = "the user signed in to more sessions than allowed";
            let said = trail.take();
            assert_eq!(
                said[0],
                format!("session {id} of user \"ada\" ended: {why} from 192.0.2.7")
            );
            assert_eq!(said.len(), 2, "{said:?}");
            assert_eq!(ended(&app, &first), Some(EndReason::TooManySessions));
        },
    );
}

#[test]
fn a_revocation_says_by_whom() {
    let trail = Trail::default();
    on_both_stores(
        |builder| trail.install(builder),
        |app| {
            trail.take();
            let phone = signed_in(&app, "ada");
            let mut laptop = signed_in(&app, "ada");
            let id = public_id(&app, &phone);
            trail.take();
            request(&app, &mut laptop, |session| {
                assert_eq!(app.sessions.revoke_others(session).unwrap(), 1);
            });
            let by = "by user \"ada\" from 192.0.2.7";
            assert_eq!(
                trail.take(),
                [
                    format!("1 sessions were revoked {by}"),
                    format!("session {id} of user \"ada\" ended: revoked {by}"),
                ]
            );
            assert_eq!(ended(&app, &phone), Some(EndReason::Revoked));
            // By a call outside a request.
            let mut provider = Browser::default();
            let sid = IdpSessionId::new("sid").unwrap();
            request(&app, &mut provider, |session| {
                let how = Authentication::new().idp_session_id(sid.clone());
                assert_eq!(session.sign_in_with(user("ada"), &how).unwrap(), SignIn::Done);
            });
            let id = public_id(&app, &provider);
            trail.take();
            assert_eq!(app.sessions.revoke_by_idp_session(&sid, None).unwrap(), 1);
            let from = "from an unknown address";
            assert_eq!(
                trail.take()[1],
                format!("session {id} of user \"ada\" ended: revoked {from}")
            );
            assert_eq!(app.sessions.revoke_everyone(None).unwrap(), 1);
            assert_eq!(trail.take(), [format!("1 sessions were revoked {from}")]);
            assert_eq!(ended(&app, &laptop), None, "that is not known");
        },
    );
}

#[test]
fn an_expired_session_says_which_limit_it_reached() {
    let trail = Trail::default();
    let lifetime = Lifetime::idle(HOUR * 24).with_absolute(HOUR * 30);
    on_every_store(
        |builder| trail.install(builder).lifetime(lifetime).sweep_every(HOUR),
        |app| {
            trail.take();
            let idle = signed_in(&app, "ada");
            let idle_id = public_id(&app, &idle);
            app.clock.advance(HOUR * 24);
            assert_eq!(ended(&app, &idle), Some(EndReason::Idle(HOUR * 24)), "it is unswept");
            let mut used = signed_in(&app, "bob");
            let used_id = public_id(&app, &used);
            app.clock.advance(HOUR * 23);
            request(&app, &mut used, |session| assert!(session.user().unwrap().is_some()));
            app.sessions.flush().unwrap();
            app.clock.advance(HOUR * 7);
            assert_eq!(ended(&app, &used), Some(EndReason::Absolute));
            trail.take();
            if app.sessions.sweep_now().unwrap() == 0 {
                return; // memcached removes expired items itself
            }
            let mut said = trail.take();
            said.sort();
            let mut wanted = [
                format!("session {idle_id} of user \"ada\" ended: no activity for 86400 s"),
                format!("session {used_id} of user \"bob\" ended: the absolute limit was reached"),
            ];
            wanted.sort();
            assert_eq!(said, wanted);
            assert_eq!(ended(&app, &idle), Some(EndReason::Idle(HOUR * 24)), "it was swept here");
            assert_eq!(ended(&app, &used), Some(EndReason::Absolute));
        },
    );
}

#[test]
fn a_request_that_loses_its_session_learns_why() {
    on_both_stores(defaults, |app| {
        let browser = app.signed_in("ada");
        let session = browser.open(&app.sessions);
        assert!(session.user().unwrap().is_some());
        app.sessions.revoke_for_user(&user("ada"), None).unwrap();
        session.set("n", 1).unwrap();
        let _ = session.commit().unwrap();
        assert_eq!(session.end_reason().unwrap(), Some(EndReason::Revoked));
    });
}

#[test]
fn a_live_session_beside_an_ended_one_gives_no_reason() {
    on_every_store(defaults, |app| {
        let (mut left, live) = (app.signed_in("ada"), app.signed_in("ada"));
        let ended_cookie = left.cookie.clone().unwrap();
        left.request(&app.sessions, |session| session.destroy().unwrap());
        let both = Browser::with(format!("{ended_cookie}; {}", live.cookie.unwrap()));
        assert_eq!(ended(&app, &both), None);
        assert_eq!(ended(&app, &Browser::default()), None);
    });
}
