//! Ids that are renewed by their age.

use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::csrf::CsrfCheck;
use cloakroom::event::EventKind;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{CommitOutcome, ErrorKind, Lifetime, MemoryStore, Session, SessionManager};

use crate::common::HOUR;
use crate::common::app::{
    App, Browser, assert_new_id, complete, defaults, get, issued, on_both_stores, set_cookie,
    sign_in, user_of,
};
use crate::common::every_store::on_every_store;
use crate::common::faulty::Call;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn hourly(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.renew_every(HOUR)
}

fn read(session: &Session) {
    assert_eq!(session.get("n").unwrap(), Some(1));
}

fn write(session: &Session) {
    session.set("m", 2).unwrap();
}

/// A visitor whose id is due.
fn due(app: &App) -> Browser {
    let browser = app.visitor(1);
    app.clock.advance(HOUR);
    browser
}

#[test]
fn an_id_is_renewed_at_its_age_by_a_read_or_a_write() {
    on_every_store(hourly, |app| {
        let use_it: [fn(&Session); 2] = [read, write];
        for handler in use_it {
            let mut browser = app.visitor(1);
            app.clock.advance(HOUR - MILLI);
            let early = browser.request(&app.sessions, handler);
            assert_eq!(set_cookie(&early), None);
            app.clock.advance(MILLI);
            let old = browser.id();
            let headers = browser.request(&app.sessions, handler);
            assert_ne!(issued(&headers).0, old);
            assert_eq!(app.stored_n(&browser), Some(1));
            app.clock.advance(HOUR - MILLI);
            assert_eq!(set_cookie(&browser.request(&app.sessions, handler)), None);
            app.clock.advance(MILLI);
            assert_new_id(&browser.request(&app.sessions, handler));
        }
        assert_eq!(app.count(EventKind::Renewed), 4);
        assert_eq!(app.count(EventKind::ChangesDiscarded), 0);
    });
}

#[test]
fn no_id_is_renewed_by_age_by_default() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        for _ in 0..100 {
            app.clock.advance(HOUR);
            assert_eq!(set_cookie(&browser.request(&app.sessions, read)), None);
            app.sessions.flush().unwrap();
        }
    });
}

#[test]
fn a_renewal_by_age_keeps_data_user_limits_and_tokens() {
    on_both_stores(hourly, |app| {
        let mut browser = app.signed_in("ada");
        browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        let session = browser.open(&app.sessions);
        let token = session.csrf_token().unwrap();
        complete(&app.sessions, &session);
        let facts = |browser: &Browser| {
            let session = browser.open(&app.sessions);
            session.ignore().unwrap();
            (
                session.public_id().unwrap(),
                session.user().unwrap(),
                session.authenticated_at().unwrap(),
            )
        };
        let before = facts(&browser);
        app.clock.advance(HOUR);
        assert_new_id(&browser.request(&app.sessions, read));
        assert_eq!(facts(&browser), before);
        let session = browser.open(&app.sessions);
        assert_ne!(session.verify_csrf(&token).unwrap(), CsrfCheck::Invalid);
    });
}

#[test]
fn requests_that_are_no_activity_renew_nothing() {
    on_both_stores(hourly, |app| {
        let browser = due(&app);
        let commits = app.store.calls(Call::Commit);
        let no_use = browser.open(&app.sessions);
        let ignored = browser.open(&app.sessions);
        read(&ignored);
        ignored.ignore().unwrap();
        let head = RequestHead::from(browser.cookie.as_deref()).purpose("prefetch");
        let prefetch = app.sessions.open(head);
        read(&prefetch);
        for session in [no_use, ignored, prefetch] {
            assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
        }
        for outcome in [Outcome::ServerError, Outcome::Panicked] {
            let session = browser.open(&app.sessions);
            read(&session);
            assert_eq!(set_cookie(&app.sessions.close(&session, outcome).unwrap()), None);
        }
        assert_eq!(app.store.calls(Call::Commit), commits);
    });
}

#[test]
fn a_read_that_renews_makes_one_commit_and_the_next_makes_none() {
    on_both_stores(hourly, |app| {
        let mut browser = due(&app);
        let commits = app.store.calls(Call::Commit);
        browser.request(&app.sessions, read);
        assert_eq!(app.store.calls(Call::Commit), commits + 1);
        browser.request(&app.sessions, read);
        assert_eq!(app.store.calls(Call::Commit), commits + 1);
    });
}

#[test]
fn concurrent_requests_keep_the_session_and_one_renews_it() {
    on_every_store(hourly, |app| {
        let browser = due(&app);
        let open = [(); 3].map(|()| browser.open(&app.sessions));
        open[..2].iter().for_each(read);
        let issued: Vec<_> = open
            .iter()
            .map(|session| {
                // The third has not read before the first renews.
                read(session);
                session.update("hits", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
                complete(&app.sessions, session)
            })
            .collect();
        let new_ids: Vec<_> = issued.iter().map(|headers| set_cookie(headers).is_some()).collect();
        assert_eq!(new_ids, [true, false, false]);
        assert!(!issued.iter().any(|headers| headers.discarded));
        let renewed = browser.with_response(&issued[0]);
        assert_eq!(get(&app.sessions, &renewed, "hits"), Some(3));
        // Sent before the new id arrived.
        app.clock.advance(SECOND * 10);
        let late = browser.open(&app.sessions);
        read(&late);
        assert_eq!(set_cookie(&complete(&app.sessions, &late)), None);
        assert_eq!(app.count(EventKind::Renewed), 1);
        assert_eq!(app.count(EventKind::ReplacedIdUsed), 0);
    });
}

#[test]
fn of_two_threads_that_race_to_renew_neither_loses_the_session() {
    on_every_store(hourly, |app| {
        for _ in 0..20 {
            let browser = due(&app);
            let barrier = Barrier::new(2);
            let answers = thread::scope(|scope| {
                let one = || {
                    let session = browser.open(&app.sessions);
                    barrier.wait();
                    read(&session);
                    barrier.wait();
                    complete(&app.sessions, &session)
                };
                [scope.spawn(one), scope.spawn(one)].map(|thread| thread.join().unwrap())
            });
            let issued = answers.iter().filter(|headers| set_cookie(headers).is_some()).count();
            assert_eq!(issued, 1);
            assert!(!answers.iter().any(|headers| headers.discarded));
            let [first, second] = answers.each_ref().map(|headers| browser.with_response(headers));
            assert_eq!((app.stored_n(&first), app.stored_n(&second)), (Some(1), Some(1)));
        }
    });
}

#[test]
fn the_replaced_id_finds_the_session_for_a_minute() {
    on_every_store(hourly, |app| {
        let old = due(&app);
        let browser = old.after_request(&app.sessions, read);
        app.clock.advance(MINUTE - MILLI);
        let session = old.open(&app.sessions);
        session.ignore().unwrap();
        read(&session);
        app.clock.advance(MILLI);
        assert_eq!((app.stored_n(&old), app.stored_n(&browser)), (None, Some(1)));
    });
}

#[test]
fn a_client_that_lost_the_new_id_gets_another_one() {
    on_every_store(hourly, |app| {
        let mut browser = due(&app);
        let lost = browser.after_request(&app.sessions, read);
        app.clock.advance(SECOND * 10 + MILLI);
        let headers = browser.request(&app.sessions, read);
        assert_new_id(&headers);
        app.clock.advance(MINUTE);
        assert_eq!((app.stored_n(&browser), app.stored_n(&lost)), (Some(1), None));
        assert_eq!(app.count(EventKind::Renewed), 2);
    });
}

/// After the renewal the session ends before the new cookie does, so no age is reached any more.
#[test]
fn a_lost_id_is_sent_again_although_no_age_is_reached() {
    const DAY: Duration = Duration::from_secs(86_400);
    let long =
        |builder: SessionManagerBuilder| builder.anonymous_lifetime(Lifetime::absolute(DAY * 500));
    on_every_store(long, |app| {
        let mut browser = app.visitor(1);
        app.clock.advance(DAY * 200);
        browser.after_request(&app.sessions, read);
        assert_eq!(app.count(EventKind::Renewed), 1);
        app.clock.advance(SECOND * 30);
        assert_new_id(&browser.request(&app.sessions, read));
    });
}

#[test]
fn a_client_gets_a_lost_id_after_the_grace_of_handlers() {
    let grace = |builder: SessionManagerBuilder| hourly(builder).renewal_grace(SECOND * 30);
    on_both_stores(grace, |app| {
        let mut browser = due(&app);
        browser.after_request(&app.sessions, read);
        app.clock.advance(SECOND * 30);
        assert_eq!(set_cookie(&browser.request(&app.sessions, read)), None);
        app.clock.advance(MILLI);
        assert_new_id(&browser.request(&app.sessions, read));
        assert_eq!(app.count(EventKind::Renewed), 2);
    });
}

#[test]
fn an_id_in_the_grace_of_the_handlers_renewal_gets_no_new_one() {
    let grace = |builder: SessionManagerBuilder| hourly(builder).renewal_grace(MINUTE);
    on_both_stores(grace, |app| {
        let mut stolen = app.visitor(1);
        let browser = stolen.after_request(&app.sessions, |session| session.renew().unwrap());
        app.clock.advance(SECOND * 11);
        assert_eq!(set_cookie(&stolen.request(&app.sessions, read)), None);
        app.clock.advance(MINUTE);
        assert_eq!((app.stored_n(&stolen), app.stored_n(&browser)), (None, Some(1)));
    });
}

#[test]
fn a_handlers_renewal_ends_the_graces_of_renewals_by_age() {
    let renewals: [fn(&Session); 2] = [
        |session| session.renew().unwrap(),
        |session| {
            let outcome = session.confirm_authentication(1).unwrap();
            assert_eq!(outcome, CommitOutcome::Stored);
        },
    ];
    on_every_store(hourly, |app| {
        for renew in renewals {
            let mut browser = app.signed_in("ada");
            app.clock.advance(HOUR);
            let mut stolen = browser.clone();
            browser.request(&app.sessions, |session| drop(session.user().unwrap()));
            app.clock.advance(SECOND);
            assert_eq!(user_of(&app.sessions, &stolen).as_deref(), Some("ada"));
            browser.request(&app.sessions, renew);
            // The second request is no overlapping one.
            for after in [Duration::ZERO, SECOND * 10 + MILLI] {
                app.clock.advance(after);
                let headers = stolen.request(&app.sessions, |session| {
                    assert_eq!(session.user().unwrap(), None);
                });
                assert_eq!(set_cookie(&headers), None);
            }
            assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
        }
    });
}

#[test]
fn a_handlers_grace_shortens_that_of_a_renewal_by_age() {
    let grace = |builder: SessionManagerBuilder| hourly(builder).renewal_grace(SECOND * 20);
    on_every_store(grace, |app| {
        let mut browser = due(&app);
        let mut stolen = browser.clone();
        browser.request(&app.sessions, read);
        browser.request(&app.sessions, |session| session.renew().unwrap());
        app.clock.advance(SECOND * 20 - MILLI);
        assert_eq!(set_cookie(&stolen.request(&app.sessions, read)), None);
        app.clock.advance(MILLI);
        assert_eq!((app.stored_n(&stolen), app.stored_n(&browser)), (None, Some(1)));
    });
}

#[test]
fn a_renewal_by_the_handler_has_the_grace_of_its_setting() {
    on_both_stores(hourly, |app| {
        let old = due(&app);
        let browser = old.after_request(&app.sessions, |session| session.renew().unwrap());
        assert_eq!((app.stored_n(&old), app.stored_n(&browser)), (None, Some(1)));
        assert_eq!(app.count(EventKind::Renewed), 1);
    });
}

#[test]
fn a_sign_in_needs_no_renewal_by_age() {
    on_both_stores(hourly, |app| {
        let mut browser = due(&app);
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!(app.count(EventKind::Renewed), 0);
        app.clock.advance(HOUR - MILLI);
        assert_eq!(set_cookie(&browser.request(&app.sessions, read)), None);
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
    });
}

#[test]
fn a_read_succeeds_if_its_renewal_fails_and_the_next_renews() {
    on_both_stores(hourly, |app| {
        let mut browser = due(&app);
        app.store.fail(Call::Commit, 1, ErrorKind::Busy);
        let headers = browser.request(&app.sessions, read);
        assert_eq!((set_cookie(&headers), app.count(EventKind::RenewalFailed)), (None, 1));
        assert_new_id(&browser.request(&app.sessions, read));
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn a_renewal_of_a_session_that_has_ended_meanwhile_does_nothing() {
    on_both_stores(hourly, |app| {
        let mut browser = due(&app);
        let session = browser.open(&app.sessions);
        read(&session);
        browser.request(&app.sessions, |session| session.destroy().unwrap());
        let headers = complete(&app.sessions, &session);
        assert_eq!((set_cookie(&headers), headers.discarded, app.rows()), (None, false, 0));
        assert_eq!(app.count(EventKind::ChangesDiscarded), 0);
    });
}

#[test]
fn an_id_in_a_header_is_renewed_too() {
    on_both_stores(
        |builder| hourly(builder).header("X-Session"),
        |app| {
            let session = app.sessions.open(RequestHead::new());
            session.set("n", 1).unwrap();
            let headers = complete(&app.sessions, &session);
            let id_of = |headers: &cloakroom::adapter::ResponseHeaders| {
                let field = headers.iter().find(|(name, _)| *name == "X-Session");
                field.map(|(_, value)| value.to_owned())
            };
            let old = id_of(&headers).unwrap();
            app.clock.advance(HOUR);
            let session = app.sessions.open(RequestHead::new().id(&old));
            read(&session);
            let new = id_of(&complete(&app.sessions, &session)).unwrap();
            assert_ne!(new, old);
            read(&app.sessions.open(RequestHead::new().id(&new)));
        },
    );
}

#[test]
fn a_renewal_age_below_a_minute_is_refused_when_built() {
    let built =
        |age| SessionManager::builder(MemoryStore::new()).renew_every(age).build().map(drop);
    assert!(built(MINUTE).is_ok() && built(Duration::MAX).is_ok());
    for age in [Duration::ZERO, MINUTE - MILLI] {
        assert_eq!(built(age).unwrap_err().kind(), ErrorKind::Invalid, "{age:?}");
    }
}
