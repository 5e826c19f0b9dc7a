//! The idle limit of one session, which its handler changes.

use std::time::Duration;

use cloakroom::adapter::{Adapter, Outcome, RequestHead};
use cloakroom::clock::{Clock, Timestamp};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{
    Authentication, ErrorKind, Lifetime, MemoryStore, Session, SessionManager, SignIn,
};

use crate::common::NOW;
use crate::common::app::{
    App, Browser, complete, defaults, issued, on_both_stores, set_cookie, sign_in, user, user_of,
};
use crate::common::every_store::on_every_store;
use crate::common::faulty::Call;

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Idle one hour and absolute one day, for all; a handler may set up to eight hours.
fn up_to_eight_hours(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    let lifetime = Lifetime::idle(HOUR).with_absolute(DAY);
    builder
        .lifetime(lifetime)
        .anonymous_lifetime(lifetime)
        .max_idle_limit(HOUR * 8)
        .sweep_every(HOUR)
}

fn limit(app: &App, browser: &mut Browser, limit: Duration) {
    browser.request(&app.sessions, |session| session.set_idle_limit(limit).unwrap());
}

/// True if the session of `n` is live; records no activity.
fn lives(app: &App, browser: &Browser) -> bool {
    let session = browser.open(&app.sessions);
    session.ignore().unwrap();
    session.contains("n").unwrap()
}

/// Fails unless the session ends exactly so much later.
#[track_caller]
fn assert_ends_after(app: &App, browser: &Browser, left: Duration) {
    app.clock.advance(left - MILLI);
    assert!(lives(app, browser), "it has ended early");
    app.clock.advance(MILLI);
    assert!(!lives(app, browser), "it lives on");
}

fn read(app: &App, browser: &Browser) {
    let session = browser.open(&app.sessions);
    assert!(session.contains("n").unwrap());
    complete(&app.sessions, &session);
    app.sessions.flush().unwrap();
}

fn deadline(session: &Session) -> Timestamp {
    session.deadline().unwrap().unwrap()
}

#[test]
fn a_session_ends_at_its_own_idle_limit() {
    on_every_store(up_to_eight_hours, |app| {
        for own in [MINUTE * 5, HOUR * 8] {
            let mut browser = app.visitor(1);
            // The activity from before the change is older than the shorter limit, and not
            // recorded yet.
            app.clock.advance(MINUTE);
            limit(&app, &mut browser, own);
            assert_ends_after(&app, &browser, own);
        }
    });
}

#[test]
fn activity_extends_a_session_by_its_own_idle_limit() {
    on_every_store(up_to_eight_hours, |app| {
        for own in [MINUTE * 5, HOUR * 3] {
            let mut browser = app.visitor(1);
            limit(&app, &mut browser, own);
            for _ in 0..3 {
                app.clock.advance(own - SECOND);
                read(&app, &browser);
            }
            assert_ends_after(&app, &browser, own);
        }
    });
}

#[test]
fn the_absolute_limit_holds_beside_an_own_idle_limit() {
    on_every_store(up_to_eight_hours, |app| {
        let mut browser = app.visitor(1);
        limit(&app, &mut browser, HOUR * 8);
        for _ in 0..3 {
            app.clock.advance(HOUR * 7);
            read(&app, &browser);
        }
        assert_ends_after(&app, &browser, HOUR * 3);
    });
}

#[test]
fn a_renewal_keeps_the_own_idle_limit() {
    on_every_store(up_to_eight_hours, |app| {
        let mut browser = app.visitor(1);
        limit(&app, &mut browser, HOUR * 4);
        browser.request(&app.sessions, |session| session.renew().unwrap());
        assert_ends_after(&app, &browser, HOUR * 4);
    });
}

#[test]
fn a_sign_in_restarts_the_limits_of_the_manager() {
    on_every_store(up_to_eight_hours, |app| {
        for own in [MINUTE * 5, HOUR * 8] {
            let mut browser = app.visitor(1);
            limit(&app, &mut browser, own);
            browser.request(&app.sessions, |session| sign_in(session, "ada"));
            assert_ends_after(&app, &browser, HOUR);
        }
    });
}

#[test]
fn a_limit_set_beside_a_sign_in_is_that_of_its_session() {
    on_every_store(up_to_eight_hours, |app| {
        for own in [MINUTE * 5, HOUR * 8] {
            let mut browser = app.visitor(1);
            browser.request(&app.sessions, |session| {
                session.set_idle_limit(own).unwrap();
                sign_in(session, "ada");
                assert_eq!(deadline(session), app.clock.now() + own);
            });
            assert_ends_after(&app, &browser, own);
            let mut browser = app.visitor(1);
            browser.request(&app.sessions, |session| {
                sign_in(session, "ada");
                session.set_idle_limit(own).unwrap();
            });
            assert_ends_after(&app, &browser, own);
        }
    });
}

#[test]
fn a_limit_set_before_a_first_sign_in_holds_too() {
    on_both_stores(up_to_eight_hours, |app| {
        let browser = app.visitor_after(|session| {
            session.set("n", 1).unwrap();
            session.set_idle_limit(MINUTE).unwrap();
            sign_in(session, "ada");
        });
        assert_ends_after(&app, &browser, MINUTE);
    });
}

fn sign_in_for(session: &Session, limit: Duration) {
    let how = Authentication::new().idle_limit(limit);
    assert_eq!(session.sign_in_with(user("ada"), &how).unwrap(), SignIn::Done);
}

#[test]
fn a_sign_in_has_the_limit_of_its_authentication() {
    on_every_store(up_to_eight_hours, |app| {
        for own in [MINUTE * 5, HOUR * 8] {
            // Of a visitor with a session, without one, and of another user; it comes before a
            // limit of the request.
            for before in [app.visitor(1), Browser::default(), app.signed_in("bob")] {
                let browser = before.after_request(&app.sessions, |session| {
                    session.set_idle_limit(MINUTE).unwrap();
                    session.set("n", 1).unwrap();
                    sign_in_for(session, own);
                });
                assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
                assert_ends_after(&app, &browser, own);
            }
        }
    });
}

#[test]
fn a_failed_end_of_the_request_leaves_no_longer_limit() {
    on_every_store(up_to_eight_hours, |app| {
        let ways: [fn(&Session); 2] = [
            |session| sign_in_for(session, MINUTE * 5),
            |session| {
                session.set_idle_limit(MINUTE * 5).unwrap();
                sign_in(session, "ada");
            },
        ];
        for sign_in in ways {
            let mut browser = app.visitor(1);
            let session = browser.open(&app.sessions);
            sign_in(&session);
            session.set("theme", "dark").unwrap();
            app.store.fail(Call::Commit, 1, ErrorKind::Busy);
            app.sessions.close(&session, Outcome::Completed).unwrap_err();
            browser.take(&Adapter::new(&app.sessions).headers_on_error(&session));
            assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
            assert_ends_after(&app, &browser, MINUTE * 5);
        }
    });
}

#[test]
fn a_failed_sign_in_with_a_limit_changes_nothing() {
    on_both_stores(up_to_eight_hours, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            app.store.fail(Call::Commit, 1, ErrorKind::Busy);
            let how = Authentication::new().idle_limit(MINUTE);
            let error = session.sign_in_with(user("ada"), &how).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy);
        });
        assert_eq!(user_of(&app.sessions, &browser), None);
        assert_ends_after(&app, &browser, HOUR);
    });
}

#[test]
fn a_joined_sign_in_gets_the_limit_that_the_later_one_asks_for() {
    on_every_store(up_to_eight_hours, |app| {
        let before = app.visitor(1);
        let second = before.open(&app.sessions);
        let browser = before.after_request(&app.sessions, |session| sign_in(session, "ada"));
        sign_in_for(&second, MINUTE * 5);
        let joined = before.with_response(&complete(&app.sessions, &second));
        assert_eq!(joined.cookie, browser.cookie);
        assert_ends_after(&app, &browser, MINUTE * 5);
    });
}

#[test]
fn a_limit_of_a_sign_in_is_at_most_that_of_the_users_lifetime() {
    let lifetimes = |builder: SessionManagerBuilder| {
        let user = Lifetime::idle(HOUR).with_absolute(DAY);
        builder.lifetime(user).anonymous_lifetime(Lifetime::idle(HOUR * 4).with_absolute(DAY))
    };
    on_both_stores(lifetimes, |app| {
        let browser = app.visitor(1).after_request(&app.sessions, |session| {
            for bad in [Duration::ZERO, Duration::from_nanos(999_999), HOUR + MILLI, Duration::MAX]
            {
                let how = Authentication::new().idle_limit(bad);
                let error = session.sign_in_with(user("ada"), &how).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid, "{bad:?}");
                assert!(error.to_string().contains("max_idle_limit"), "{error}");
            }
            // Allowed for the visitor, but not for the user.
            session.set_idle_limit(HOUR * 4).unwrap();
            assert_eq!(session.sign_in(user("ada")).unwrap_err().kind(), ErrorKind::Invalid);
            assert_eq!(session.user().unwrap(), None);
            sign_in_for(session, HOUR);
        });
        assert_ends_after(&app, &browser, HOUR);
    });
}

#[test]
fn a_double_click_on_a_sign_in_with_an_own_limit_is_one_sign_in() {
    on_every_store(up_to_eight_hours, |app| {
        let before = app.visitor(1);
        let sign_in_at_a_terminal = |session: &Session| {
            sign_in(session, "ada");
            session.set_idle_limit(MINUTE * 5).unwrap();
        };
        let second = before.open(&app.sessions);
        let mut browser = before.clone();
        let first = browser.request(&app.sessions, sign_in_at_a_terminal);
        sign_in_at_a_terminal(&second);
        let second = complete(&app.sessions, &second);
        assert_eq!(issued(&first).0, issued(&second).0);
        assert_ends_after(&app, &browser, MINUTE * 5);
    });
}

#[test]
fn a_limit_alone_begins_no_session_but_holds_for_a_new_one() {
    on_both_stores(up_to_eight_hours, |app| {
        let mut browser = Browser::default();
        let headers = browser.request(&app.sessions, |session| {
            session.set_idle_limit(MINUTE * 5).unwrap();
            assert_eq!(session.deadline().unwrap(), None);
        });
        assert_eq!((set_cookie(&headers), app.rows()), (None, 0));
        browser.request(&app.sessions, |session| {
            session.set_idle_limit(MINUTE * 5).unwrap();
            session.set("n", 1).unwrap();
        });
        assert_ends_after(&app, &browser, MINUTE * 5);
    });
}

#[test]
fn a_change_is_committed_once_and_the_same_one_not_again() {
    on_both_stores(up_to_eight_hours, |app| {
        let mut browser = app.visitor(1);
        let revisions = |app: &App| app.store.calls(Call::Commit);
        let before = revisions(&app);
        limit(&app, &mut browser, MINUTE * 5);
        assert_eq!(revisions(&app), before + 1);
        let headers =
            browser.request(&app.sessions, |session| session.set_idle_limit(MINUTE * 5).unwrap());
        assert_eq!(set_cookie(&headers), None);
        let session = browser.open(&app.sessions);
        assert!(session.contains("n").unwrap());
        complete(&app.sessions, &session);
        assert_eq!(revisions(&app), before + 2, "a read commits nothing");
    });
}

#[test]
fn a_request_that_fails_or_ignores_its_session_changes_no_limit() {
    on_both_stores(up_to_eight_hours, |app| {
        let mut browser = app.visitor(1);
        for outcome in [Outcome::ServerError, Outcome::Panicked] {
            let change = |session: &Session| session.set_idle_limit(MINUTE).unwrap();
            browser.try_request(&app.sessions, outcome, change).unwrap();
        }
        browser.request(&app.sessions, |session| {
            session.set_idle_limit(MINUTE).unwrap();
            session.ignore().unwrap();
            assert_eq!(deadline(session), NOW + HOUR);
        });
        assert_ends_after(&app, &browser, HOUR);
    });
}

#[test]
fn a_prefetch_that_changes_the_limit_does_not_end_the_session() {
    on_both_stores(up_to_eight_hours, |app| {
        let browser = app.visitor(1);
        app.clock.advance(MINUTE * 30);
        let head = RequestHead::from(browser.cookie.as_deref()).purpose("prefetch");
        let session = app.sessions.open(head);
        session.set_idle_limit(MINUTE).unwrap();
        complete(&app.sessions, &session);
        assert_ends_after(&app, &browser, MINUTE);
    });
}

#[test]
fn the_deadline_of_a_request_knows_the_new_limit() {
    on_both_stores(up_to_eight_hours, |app| {
        let mut browser = app.visitor(1);
        app.clock.advance(SECOND);
        let now = app.clock.now();
        browser.request(&app.sessions, |session| {
            assert_eq!(deadline(session), NOW + HOUR, "the activity is not due");
            for own in [MINUTE * 5, HOUR * 8] {
                session.set_idle_limit(own).unwrap();
                assert_eq!(deadline(session), now + own);
            }
        });
        let session = browser.open(&app.sessions);
        assert_eq!(deadline(&session), now + HOUR * 8);
    });
}

/// So short that the first read of a session records its activity.
fn five_minutes(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.lifetime(Lifetime::idle(MINUTE * 5)).sweep_every(HOUR)
}

#[test]
fn a_deadline_counts_only_activity_that_is_due() {
    on_both_stores(five_minutes, |app| {
        let browser = app.visitor(1);
        // A fortieth is 7.5 s.
        for (used, counted) in [(SECOND * 7, Duration::ZERO), (SECOND * 8, SECOND * 8)] {
            app.clock.set(NOW + used);
            let session = browser.open(&app.sessions);
            assert_eq!(deadline(&session), NOW + counted + MINUTE * 5);
            // This takes back no activity that the read has recorded.
            session.ignore().unwrap();
            assert_eq!(deadline(&session), NOW + counted + MINUTE * 5);
        }
    });
}

#[test]
fn a_deadline_counts_from_a_write_before_the_first_read() {
    on_both_stores(five_minutes, |app| {
        let browser = app.visitor(1);
        app.clock.advance(MINUTE);
        let session = browser.open(&app.sessions);
        session.set("m", 1).unwrap();
        app.clock.advance(SECOND);
        assert_eq!(deadline(&session), NOW + MINUTE * 6);
        complete(&app.sessions, &session);
        app.sessions.flush().unwrap();
        app.clock.set(NOW + MINUTE * 6 - MILLI);
        assert!(lives(&app, &browser));
        app.clock.advance(MILLI);
        assert!(!lives(&app, &browser));
    });
}

#[test]
fn a_list_shows_the_deadline_by_the_own_limit() {
    on_both_stores(up_to_eight_hours, |app| {
        let mut browser = app.signed_in("ada");
        limit(&app, &mut browser, MINUTE * 5);
        let list = app.sessions.list_for_user(&user("ada"), None).unwrap().sessions;
        assert_eq!(list[0].summary.deadline, NOW + MINUTE * 5);
    });
}

#[test]
fn a_sweep_removes_a_session_at_its_own_limit() {
    on_both_stores(up_to_eight_hours, |app| {
        let [mut shorter, mut longer] = [app.visitor(1), app.visitor(1)];
        app.visitor(1);
        limit(&app, &mut shorter, MINUTE * 5);
        limit(&app, &mut longer, HOUR * 8);
        for (left, rows) in [(MINUTE * 5, 2), (HOUR, 1), (HOUR * 8, 0)] {
            app.clock.set(NOW + left);
            app.sessions.sweep_now().unwrap();
            assert_eq!(app.rows(), rows, "{left:?}");
        }
    });
}

#[test]
fn the_cookie_lives_for_the_rest_of_the_absolute_limit() {
    on_both_stores(up_to_eight_hours, |app| {
        let mut browser = app.visitor(1);
        limit(&app, &mut browser, MINUTE * 5);
        let headers = browser.request(&app.sessions, |session| session.renew().unwrap());
        assert!(issued(&headers).1.contains("Max-Age=86400;"), "{headers:?}");
    });
}

#[test]
fn two_requests_change_value_and_limit_at_once() {
    on_every_store(up_to_eight_hours, |app| {
        let browser = app.visitor(1);
        let [first, second] = [browser.open(&app.sessions), browser.open(&app.sessions)];
        first.set_idle_limit(MINUTE * 5).unwrap();
        second.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
        complete(&app.sessions, &first);
        complete(&app.sessions, &second);
        assert_eq!(app.stored_n(&browser), Some(2));
        assert_ends_after(&app, &browser, MINUTE * 5);
    });
}

#[track_caller]
fn assert_invalid(session: &Session, limit: Duration) {
    let error = session.set_idle_limit(limit).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{limit:?}");
    assert!(error.to_string().contains("max_idle_limit"), "{error}");
}

#[test]
fn a_limit_is_at_most_that_of_the_lifetime_by_default() {
    let lifetimes = |builder: SessionManagerBuilder| {
        let user = Lifetime::idle(HOUR * 4).with_absolute(DAY);
        builder.lifetime(user).anonymous_lifetime(Lifetime::idle(HOUR).with_absolute(DAY))
    };
    on_both_stores(lifetimes, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            for bad in [Duration::ZERO, Duration::from_nanos(999_999), HOUR + MILLI, Duration::MAX]
            {
                assert_invalid(session, bad);
            }
            session.set_idle_limit(HOUR).unwrap();
            session.set_idle_limit(MILLI).unwrap();
            session.set_idle_limit(HOUR).unwrap();
            sign_in(session, "ada");
            session.set_idle_limit(HOUR * 4).unwrap();
            assert_invalid(session, HOUR * 4 + MILLI);
        });
        assert_ends_after(&app, &browser, HOUR * 4);
    });
}

#[test]
fn a_limit_of_a_new_session_is_at_most_that_of_its_persistence() {
    let configure = |builder: SessionManagerBuilder| {
        builder.browser_session_lifetime(Lifetime::idle(HOUR).with_absolute(DAY))
    };
    on_both_stores(configure, |app| {
        for (persistent, is_allowed) in [(true, true), (false, false)] {
            let session = app.sessions.open(None);
            session.set_persistent(persistent).unwrap();
            assert_eq!(session.set_idle_limit(HOUR * 5).is_ok(), is_allowed);
        }
    });
}

#[test]
fn without_an_idle_limit_the_absolute_one_bounds_it() {
    on_both_stores(
        |builder| builder.lifetime(Lifetime::absolute(DAY)),
        |app| {
            let mut browser = app.signed_in("ada");
            browser.request(&app.sessions, |session| {
                assert_invalid(session, DAY + MILLI);
                session.set_idle_limit(HOUR).unwrap();
            });
            app.clock.advance(HOUR);
            assert_eq!(user_of(&app.sessions, &browser), None);
        },
    );
    on_both_stores(
        |builder| builder.lifetime(Lifetime::idle(HOUR)).max_idle_limit(DAY * 365),
        |app| {
            let mut browser = app.signed_in("ada");
            limit(&app, &mut browser, DAY * 365);
            app.clock.advance(DAY * 365 - MILLI);
            assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
        },
    );
}

#[test]
fn a_maximum_below_a_lifetime_is_refused_when_built() {
    let built =
        |max| SessionManager::builder(MemoryStore::new()).max_idle_limit(max).build().map(drop);
    assert!(built(DAY).is_ok(), "the idle limit of the defaults");
    for max in [Duration::ZERO, MILLI, DAY - MILLI] {
        assert_eq!(built(max).unwrap_err().kind(), ErrorKind::Invalid, "{max:?}");
    }
}

#[test]
fn a_limit_after_the_end_of_the_request_is_refused() {
    on_both_stores(defaults, |app| {
        let (_, session) = app.open_visitor(1);
        complete(&app.sessions, &session);
        assert_eq!(session.set_idle_limit(MINUTE).unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn a_limit_of_an_unreadable_session_is_an_error() {
    on_both_stores(defaults, |app| {
        let (_, session) = app.open_visitor(1);
        app.store.fail(Call::Load, 1, ErrorKind::Busy);
        assert_eq!(session.set_idle_limit(MINUTE).unwrap_err().kind(), ErrorKind::Busy);
        session.set_idle_limit(MINUTE).unwrap();
    });
}
