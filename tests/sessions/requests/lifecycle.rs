//! Nothing, a read, a write; the outcomes; ignoring; several managers.

use std::time::Duration;

use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::cookie::CookieConfig;
use cloakroom::event::EventKind;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{CommitOutcome, ErrorKind, Lifetime, Session};

use crate::common::app::{
    ATTRIBUTES, App, Browser, ENDED, WEEK, assert_new_id, complete, defaults, get, issued,
    on_both_stores, set_cookie, sign_in, user_of,
};
use crate::common::faulty::Call;
use crate::common::{HOUR, NOW};
use crate::requests::BEGINNINGS;

#[test]
fn a_handler_that_does_not_use_the_session_leaves_no_trace() {
    on_both_stores(defaults, |app| {
        for cookie in [None, Some("theme=dark; lang=de")] {
            let session = app.sessions.open(cookie);
            let headers = complete(&app.sessions, &session);
            assert_eq!(headers, Default::default());
            assert_eq!(headers.iter().count(), 0);
        }
        assert_eq!((app.rows(), app.store.all_calls()), (0, 0));
    });
}

#[test]
fn a_handler_that_only_reads_gets_no_cookie_and_no_row() {
    on_both_stores(defaults, |app| {
        let headers = Browser::default().request(&app.sessions, |session| {
            assert_eq!(session.get::<u32>("n").unwrap(), None);
            assert!(!session.contains("n").unwrap());
            assert!(session.names().unwrap().is_empty());
            assert_eq!(session.take::<u32>("n").unwrap(), None);
            assert_eq!(session.user().unwrap(), None);
            assert_eq!(session.authenticated_at().unwrap(), None);
            assert_eq!(session.public_id().unwrap(), None);
            assert!(session.flashes().unwrap().is_empty());
        });
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [("Cache-Control", "private"), ("Vary", "Cookie")]
        );
        assert_eq!((app.rows(), app.store.all_calls()), (0, 0));
    });
}

#[test]
fn a_write_makes_one_row_and_sends_one_cookie() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        let headers = browser.request(&app.sessions, |session| {
            session.set("a", 1).unwrap();
            session.set("b", "two").unwrap();
        });
        let (id, attributes) = issued(&headers);
        assert_eq!(attributes, format!("Path=/; {WEEK}; {ATTRIBUTES}"));
        let cookie = format!("__Host-id={}; {attributes}", id.reveal());
        let expected = [
            ("Set-Cookie", cookie.as_str()),
            ("Cache-Control", "private, no-cache=\"Set-Cookie\""),
            ("Vary", "Cookie"),
        ];
        assert_eq!(headers.iter().collect::<Vec<_>>(), expected);
        assert!(!headers.discarded);
        assert_eq!((app.rows(), app.store.calls(Call::Load)), (1, 0), "a write loads nothing");
        assert_eq!(app.store.calls(Call::Commit), 1);
        assert_eq!(app.count(EventKind::Created), 1);
        assert_eq!(get(&app.sessions, &browser, "b"), Some("two".to_owned()));
    });
}

#[test]
fn an_existing_session_that_is_only_read_is_not_written() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let commits = app.store.calls(Call::Commit);
        let headers = browser.request(&app.sessions, |session| {
            assert_eq!(session.get("n").unwrap(), Some(1));
            assert_eq!(session.get("n").unwrap(), Some(1));
        });
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [("Cache-Control", "private"), ("Vary", "Cookie")]
        );
        assert_eq!(app.store.calls(Call::Commit), commits);
        assert_eq!(app.store.calls(Call::Load), 1, "once a request");
    });
}

#[test]
fn a_change_of_an_existing_session_keeps_its_id() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let before = browser.cookie.clone();
        let headers = browser.request(&app.sessions, |session| session.set("n", 2).unwrap());
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [("Cache-Control", "private"), ("Vary", "Cookie")]
        );
        assert_eq!(
            (browser.cookie.clone(), app.stored_n(&browser), app.rows()),
            (before, Some(2), 1)
        );
    });
}

#[test]
fn a_written_value_is_read_back_in_the_same_request() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            session.set("m", 5).unwrap();
            assert_eq!(session.names().unwrap(), ["m", "n"]);
            assert_eq!(session.take::<u32>("n").unwrap(), Some(1));
            assert_eq!(session.get::<u32>("n").unwrap(), None);
            assert!(!session.contains("n").unwrap() && session.contains("m").unwrap());
            assert_eq!(session.update("m", |m: Option<u32>| m.unwrap() + 1).unwrap(), 6);
            session.clear().unwrap();
            assert!(session.names().unwrap().is_empty());
            session.set("k", 7).unwrap();
            assert_eq!(session.names().unwrap(), ["k"]);
        });
        browser.request(&app.sessions, |session| assert_eq!(session.names().unwrap(), ["k"]));
    });
}

#[test]
fn changes_without_effect_begin_no_session() {
    on_both_stores(defaults, |app| {
        let without_effect: [fn(&cloakroom::Session); 4] = [
            |session| session.remove("n").unwrap(),
            |session| session.clear().unwrap(),
            |session| {
                session.set("n", 1).unwrap();
                session.remove("n").unwrap();
            },
            |session| session.set_persistent(false).unwrap(),
        ];
        for change in without_effect {
            let headers = Browser::default().request(&app.sessions, change);
            assert_eq!(set_cookie(&headers), None);
        }
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn the_wrong_type_is_an_error_and_absent_is_none() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| session.set("name", "Ada").unwrap());
        browser.request(&app.sessions, |session| {
            let kind = session.get::<u32>("name").unwrap_err().kind();
            assert_eq!(kind, ErrorKind::WrongType);
            assert_eq!(session.get::<u32>("other").unwrap(), None);
            let kind = session.take::<u32>("name").unwrap_err().kind();
            assert_eq!(kind, ErrorKind::WrongType);
            let kind = session.update("name", |n: Option<u32>| n.unwrap_or(0)).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::WrongType);
            let no_text = std::collections::BTreeMap::from([((1, 2), 3)]);
            assert_eq!(session.set("map", no_text).unwrap_err().kind(), ErrorKind::WrongType);
        });
        assert_eq!(get(&app.sessions, &browser, "name"), Some("Ada".to_owned()), "it stays");
    });
}

#[test]
fn a_second_close_is_an_error_and_so_is_a_later_change() {
    on_both_stores(defaults, |app| {
        let (mut browser, session) = app.open_visitor(1);
        session.set("n", 2).unwrap();
        browser.take(&complete(&app.sessions, &session));
        let closed = |result: cloakroom::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Closed);
        };
        closed(app.sessions.close(&session, Outcome::Completed).map(drop));
        closed(session.set("n", 3));
        closed(session.remove("n"));
        closed(session.clear());
        closed(session.update("n", |_: Option<u32>| 4).map(drop));
        closed(session.flash("info", "late"));
        closed(session.renew());
        closed(session.destroy());
        closed(session.ignore());
        closed(session.set_persistent(true));
        closed(session.commit().map(drop));
        closed(session.sign_in(crate::common::app::user("ada")).map(drop));
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(2), 1));
    });
}

#[test]
fn a_session_dropped_unclosed_stores_nothing() {
    on_both_stores(defaults, |app| {
        let (browser, session) = app.open_visitor(1);
        session.set("n", 2).unwrap();
        session.renew().unwrap();
        drop(session);
        let session = browser.open(&app.sessions);
        session.destroy().unwrap();
        drop(session);
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(1), 1));
    });
}

#[test]
fn an_ignored_request_leaves_everything_as_it_was() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let cookie = browser.cookie.clone();
        let ways: [fn(&cloakroom::Session); 4] = [
            |session| session.set("n", 2).unwrap(),
            |session| session.destroy().unwrap(),
            |session| session.renew().unwrap(),
            |session| session.update("n", |n: Option<u32>| n.unwrap() + 1).map(drop).unwrap(),
        ];
        let commits = app.store.calls(Call::Commit);
        for way in ways {
            for first in [true, false] {
                let headers = browser.request(&app.sessions, |session| {
                    if first {
                        session.ignore().unwrap();
                    }
                    way(session);
                    session.ignore().unwrap();
                });
                assert_eq!(set_cookie(&headers), None);
            }
        }
        assert_eq!(app.store.calls(Call::Commit), commits);
        assert_eq!((browser.cookie.clone(), app.stored_n(&browser)), (cookie, Some(1)));

        let mut stranger = Browser::default();
        let headers = stranger.request(&app.sessions, |session| {
            session.ignore().unwrap();
            session.set("n", 2).unwrap();
        });
        assert_eq!((set_cookie(&headers), app.rows()), (None, 1));
    });
}

#[test]
fn an_ignored_request_is_no_activity() {
    let configure = |builder: SessionManagerBuilder| builder.without_cleaner();
    on_both_stores(configure, |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR);
        let before: [fn(&Session); 2] = [|_| (), |session| session.set("n", 2).unwrap()];
        for first in before {
            let session = browser.open(&app.sessions);
            first(&session);
            session.ignore().unwrap();
            assert!(session.contains("n").unwrap());
            assert_eq!(session.deadline().unwrap(), Some(NOW + HOUR * 24));
            complete(&app.sessions, &session);
        }
        assert_eq!(app.store.calls(Call::Touch), 0);
    });
}

#[test]
fn an_ignore_after_a_read_leaves_its_activity() {
    let configure = |builder: SessionManagerBuilder| builder.without_cleaner();
    on_both_stores(configure, |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR);
        let session = browser.open(&app.sessions);
        assert_eq!(session.get("n").unwrap(), Some(1));
        session.ignore().unwrap();
        let ends = NOW + HOUR * 25;
        assert_eq!(session.deadline().unwrap(), Some(ends));
        complete(&app.sessions, &session);
        assert_eq!(app.store.calls(Call::Touch), 1);
        assert_eq!(browser.open(&app.sessions).deadline().unwrap(), Some(ends));
    });
}

#[test]
fn an_ignore_does_not_undo_commits_and_sign_ins() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        let headers = browser.request(&app.sessions, |session| {
            session.set("n", 1).unwrap();
            assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
            session.set("n", 2).unwrap();
            session.ignore().unwrap();
        });
        assert!(set_cookie(&headers).is_some(), "the browser needs the id of what was stored");
        assert_eq!(app.stored_n(&browser), Some(1));
        let headers = browser.request(&app.sessions, |session| {
            sign_in(session, "ada");
            session.set("n", 3).unwrap();
            session.ignore().unwrap();
        });
        assert!(set_cookie(&headers).is_some());
        assert_eq!(app.stored_n(&browser), Some(1));
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
    });
}

#[test]
fn a_commit_of_changes_to_an_ignored_session_is_discarded() {
    on_both_stores(defaults, |app| {
        let (browser, session) = app.open_visitor(1);
        session.ignore().unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Stored, "there is no change");
        session.set("n", 2).unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Discarded);
        complete(&app.sessions, &session);
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn ignore_keeps_a_failed_deletion_that_a_sign_in_requires() {
    on_both_stores(defaults, |app| {
        let (first, other) = (app.visitor(1), app.visitor(2));
        let cookies = [&first, &other].map(|browser| browser.cookie.clone().unwrap());
        let session = app.sessions.open(RequestHead::new().cookie(&cookies[0]).cookie(&cookies[1]));
        sign_in(&session, "ada");
        app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
        assert_eq!(session.commit().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(app.stored_n(&other), Some(2));
        session.ignore().unwrap();
        complete(&app.sessions, &session);
        assert_eq!(app.stored_n(&other), None);
    });
}

#[test]
fn a_commit_is_visible_before_the_request_ends() {
    on_both_stores(defaults, |app| {
        let (mut browser, session) = app.open_visitor(1);
        session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
        assert_eq!(app.stored_n(&browser), Some(2));
        let commits = app.store.calls(Call::Commit);
        assert_eq!(session.commit().unwrap(), CommitOutcome::Stored, "nothing is left to do");
        browser.take(&complete(&app.sessions, &session));
        assert_eq!((app.store.calls(Call::Commit), app.stored_n(&browser)), (commits, Some(2)));
    });
}

#[test]
fn a_sign_in_is_stored_before_the_response_is_sent() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        let session = browser.open(&app.sessions);
        session.set("cart", 3).unwrap();
        sign_in(&session, "ada");
        assert_eq!(app.stats().signed_in, 1);
        let headers = complete(&app.sessions, &session);
        browser.take(&headers);
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
        assert_eq!(get(&app.sessions, &browser, "cart"), Some(3));
    });
}

/// Checks which changes of a handler are kept although it failed.
fn changes_kept_after(app: &App, outcome: Outcome) {
    // Data changes are discarded, in a new session and in an old one.
    let headers = Browser::default()
        .try_request(&app.sessions, outcome, |session| session.set("n", 1).unwrap())
        .unwrap();
    assert_eq!((set_cookie(&headers), app.rows()), (None, 0));
    let mut browser = app.visitor(1);
    let change = |session: &cloakroom::Session| {
        session.set("n", 2).unwrap();
        session.update("m", |m: Option<u32>| m.unwrap_or(7)).unwrap();
    };
    browser.try_request(&app.sessions, outcome, change).unwrap();
    assert_eq!(app.stored_n(&browser), Some(1));
    assert_eq!(get::<u32>(&app.sessions, &browser, "m"), None);

    // Committed changes are kept.
    let commit = |session: &cloakroom::Session| {
        session.set("n", 3).unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
        session.set("n", 4).unwrap();
    };
    browser.try_request(&app.sessions, outcome, commit).unwrap();
    assert_eq!(app.stored_n(&browser), Some(3));

    // So does a sign-in, and the browser learns the id.
    let headers = browser
        .try_request(&app.sessions, outcome, |session| {
            sign_in(session, "ada");
            session.set("n", 5).unwrap();
        })
        .unwrap();
    assert_new_id(&headers);
    assert_eq!(
        (app.stored_n(&browser), user_of(&app.sessions, &browser).as_deref()),
        (Some(3), Some("ada"))
    );

    // A destroy is done, and what comes after it discarded.
    let headers = browser
        .try_request(&app.sessions, outcome, |session| {
            session.destroy().unwrap();
            session.flash("info", "bye").unwrap();
        })
        .unwrap();
    assert_eq!(set_cookie(&headers), Some(crate::common::app::REMOVAL));
    assert_eq!(app.rows(), 0);
}

#[test]
fn a_server_error_discards_data_but_not_what_was_made_final() {
    on_both_stores(defaults, |app| changes_kept_after(&app, Outcome::of_status(500)));
}

#[test]
fn a_panic_discards_data_but_not_what_was_made_final() {
    on_both_stores(defaults, |app| changes_kept_after(&app, Outcome::Panicked));
}

#[test]
fn a_renewal_is_done_after_a_server_error_and_not_after_a_panic() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let old = browser.clone();
        let renew = |session: &cloakroom::Session| {
            session.set("n", 2).unwrap();
            session.renew().unwrap();
        };
        let headers = browser.try_request(&app.sessions, Outcome::Panicked, renew).unwrap();
        assert_eq!(set_cookie(&headers), None);
        assert_eq!(app.stored_n(&old), Some(1));
        let headers = browser.try_request(&app.sessions, Outcome::ServerError, renew).unwrap();
        assert_ne!(issued(&headers).0, old.id());
        assert_eq!((app.stored_n(&old), app.stored_n(&browser), app.rows()), (None, Some(1), 1));
    });
}

#[test]
fn changes_of_a_server_error_can_be_kept_but_not_of_a_panic() {
    let configure = |builder: SessionManagerBuilder| builder.keep_on_server_error(true);
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        let set = |n| move |session: &cloakroom::Session| session.set("n", n).unwrap();
        browser.try_request(&app.sessions, Outcome::ServerError, set(2)).unwrap();
        assert_eq!(app.stored_n(&browser), Some(2));
        browser.try_request(&app.sessions, Outcome::Panicked, set(3)).unwrap();
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn a_status_below_500_is_no_failure() {
    for status in [100, 200, 302, 404, 499] {
        assert_eq!(Outcome::of_status(status), Outcome::Completed);
    }
    for status in [500, 503, 599, 999] {
        assert_eq!(Outcome::of_status(status), Outcome::ServerError);
    }
}

#[test]
fn a_handler_that_panics_breaks_nothing_for_the_next_request() {
    on_both_stores(defaults, |app| {
        let (mut browser, session) = app.open_visitor(1);
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            session.set("n", 2).unwrap();
            session.update("n", |_: Option<u32>| -> u32 { panic!("as planned") })
        }));
        assert!(panic.is_err());
        assert_eq!(session.get("n").unwrap(), Some(2), "as before the call that panicked");
        browser.take(&app.sessions.close(&session, Outcome::Panicked).unwrap());
        assert_eq!(app.stored_n(&browser), Some(1));
        browser.request(&app.sessions, |session| session.set("n", 3).unwrap());
        assert_eq!(app.stored_n(&browser), Some(3));
    });
}

#[test]
fn several_managers_keep_to_their_own_cookies() {
    on_both_stores(defaults, |app| {
        let admin = app.another(|builder| {
            builder.cookie(CookieConfig::new().name("__Secure-admin").path("/admin"))
        });
        let mut visitor = app.visitor(1);
        let mut clerk = Browser::default();
        let headers = clerk.request(&admin, |session| session.set("n", 2).unwrap());
        let (id, attributes) = issued(&headers);
        assert_eq!(attributes, format!("Path=/admin; {WEEK}; {ATTRIBUTES}"));
        assert_eq!(clerk.cookie, Some(format!("__Secure-admin={}", id.reveal())));

        // One browser with both cookies.
        let both =
            format!("{}; {}", clerk.cookie.as_deref().unwrap(), visitor.cookie.as_deref().unwrap());
        let read = |sessions| get::<u32>(sessions, &Browser::with(both.clone()), "n");
        assert_eq!((read(&app.sessions), read(&admin)), (Some(1), Some(2)));
        let session = admin.open(RequestHead::new().cookie(&both));
        session.destroy().unwrap();
        let headers = complete(&admin, &session);
        let removal = format!("__Secure-admin=; Path=/admin; {ENDED}; {ATTRIBUTES}");
        assert_eq!(set_cookie(&headers), Some(removal.as_str()));
        assert_eq!((read(&app.sessions), read(&admin)), (Some(1), None));
        visitor.request(&app.sessions, |session| session.set("n", 3).unwrap());
        assert_eq!(read(&app.sessions), Some(3));
    });
}

#[test]
fn managers_are_cloned_and_shared_by_threads() {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn threads<T: Send + Sync>(_: &T) {}
    on_both_stores(defaults, |app| {
        shared(&app.sessions);
        let session = app.sessions.clone().open(None);
        threads(&session);
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                let session = &session;
                scope.spawn(move || session.set(name, 1).unwrap());
            }
        });
        let mut browser = Browser::default().with_response(&complete(&app.sessions, &session));
        browser.request(&app.sessions, |session| {
            assert_eq!(session.names().unwrap(), ["a", "b", "c"]);
        });
    });
}

#[test]
fn the_choice_of_persistence_is_refused_once_it_comes_too_late() {
    on_both_stores(defaults, |app| {
        for begin in BEGINNINGS {
            let mut browser = Browser::default();
            let headers = browser.request(&app.sessions, |session| {
                session.set_persistent(true).unwrap();
                begin(session);
                let error = session.set_persistent(false).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid);
            });
            assert!(set_cookie(&headers).unwrap().contains("Max-Age="), "as was chosen in time");
        }
    });
}

const DAY: Duration = Duration::from_secs(86_400);

/// The day on which the id of a session that is used each day is renewed; `None` if it is not, in
/// 600 days.
fn renewed_after(app: &App) -> Option<u32> {
    let mut browser = app.visitor(1);
    for day in 1..=600 {
        app.clock.advance(DAY);
        let old = browser.cookie.clone();
        browser.request(&app.sessions, |session| {
            if session.get::<u32>("n").unwrap().is_none() {
                session.set("n", 1).unwrap();
            }
        });
        app.sessions.flush().unwrap();
        if browser.cookie != old {
            return Some(day);
        }
    }
    None
}

#[test]
fn an_id_is_renewed_before_its_cookie_expires() {
    let idle = Lifetime::idle(DAY * 2);
    let configure = |builder: SessionManagerBuilder| builder.anonymous_lifetime(idle);
    on_both_stores(configure, |app| {
        assert_eq!(renewed_after(&app), Some(200));
        assert_eq!(app.count(EventKind::Renewed), 1);
        // The next time it is 200 days after that.
        let mut browser = app.visitor(1);
        let mut days = Vec::new();
        for day in 1..=600 {
            app.clock.advance(DAY);
            let old = browser.cookie.clone();
            browser.request(&app.sessions, |session| assert!(session.contains("n").unwrap()));
            app.sessions.flush().unwrap();
            if browser.cookie != old {
                days.push(day);
            }
        }
        assert_eq!(days, [200, 400, 600]);
    });
    let configure =
        |builder: SessionManagerBuilder| builder.anonymous_lifetime(idle.with_absolute(DAY * 401));
    on_both_stores(configure, |app| assert_eq!(renewed_after(&app), Some(200)));
    // Where the cookie lasts as long as the session there is nothing to do: the next id is that of
    // the next session.
    let configure =
        |builder: SessionManagerBuilder| builder.anonymous_lifetime(idle.with_absolute(DAY * 400));
    on_both_stores(configure, |app| {
        assert_eq!(renewed_after(&app), Some(400));
        assert_eq!(app.count(EventKind::Renewed), 0);
    });
    let configure =
        |builder: SessionManagerBuilder| builder.anonymous_lifetime(idle).persistent(false);
    on_both_stores(configure, |app| assert_eq!(renewed_after(&app), None));
}

#[test]
fn a_request_without_its_session_renews_no_id() {
    let configure =
        |builder: SessionManagerBuilder| builder.anonymous_lifetime(Lifetime::idle(DAY * 400));
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        app.clock.advance(DAY * 300);
        let headers = browser.request(&app.sessions, |_| {});
        assert_eq!(set_cookie(&headers), None);
        let headers = browser.request(&app.sessions, |session| session.ignore().unwrap());
        assert_eq!(set_cookie(&headers), None);
        let headers = browser.request(&app.sessions, |session| {
            assert!(session.contains("n").unwrap());
        });
        assert_new_id(&headers);
    });
}
