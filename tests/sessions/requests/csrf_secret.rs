//! The CSRF secret in the store, with concurrent changes of the session.

use std::thread;

use cloakroom::adapter::Outcome;
use cloakroom::csrf::CsrfCheck;
use cloakroom::event::EventKind;
use cloakroom::list::SessionFilter;
use cloakroom::manager::{OnLoadFailure, SessionManagerBuilder};
use cloakroom::{CommitOutcome, ErrorKind, Session};

use crate::common::app::{
    App, Browser, complete, defaults, get, on_both_stores, set_cookie, sign_in, user_of,
};
use crate::common::faulty::Call;
use crate::requests::csrf::{holds, token, visitor_with_token};

#[test]
fn a_token_from_during_a_sign_in_does_not_outlive_it() {
    on_both_stores(defaults, |app| {
        let (browser, session) = app.open_visitor(1);
        assert_eq!(session.user().unwrap(), None);
        let page = token(&app, &mut browser.clone());
        sign_in(&session, "ada");
        let ada = browser.with_response(&complete(&app.sessions, &session));
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada"));
        assert!(!holds(&app, &ada, &page));
    });
}

#[test]
fn two_overlapping_first_pages_both_show_valid_tokens() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let pages = [browser.open(&app.sessions), browser.open(&app.sessions)];
        pages.iter().for_each(|page| assert_eq!(page.get("n").unwrap(), Some(1)));
        let commits = app.store.calls(Call::Commit);
        let tokens = pages.each_ref().map(|page| page.csrf_token().unwrap());
        pages.iter().rev().for_each(|page| drop(complete(&app.sessions, page)));
        assert_eq!(app.store.calls(Call::Commit), commits);
        assert!(tokens.iter().all(|token| holds(&app, &browser, token)));
    });
}

#[test]
fn a_session_without_a_secret_gets_one_with_the_next_token() {
    on_both_stores(defaults, |app| {
        let (mut browser, token) = visitor_with_token(&app);
        app.remove_secret(&browser);
        assert!(!holds(&app, &browser, &token));
        let page = browser.open(&app.sessions);
        let commits = app.store.calls(Call::Commit);
        let tokens = [page.csrf_token().unwrap(), page.csrf_token().unwrap()];
        assert_eq!(app.store.calls(Call::Commit), commits);
        complete(&app.sessions, &page);
        assert!(tokens.iter().all(|token| holds(&app, &browser, token)));
        assert!(!holds(&app, &browser, &token));
        // With the other changes of the request, in one commit.
        app.remove_secret(&browser);
        let commits = app.store.calls(Call::Commit);
        let mut shown = String::new();
        browser.request(&app.sessions, |session| {
            session.set("n", 2).unwrap();
            shown = session.csrf_token().unwrap();
        });
        assert_eq!(app.store.calls(Call::Commit), commits + 1);
        assert!(holds(&app, &browser, &shown));
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn many_pages_at_once_agree_on_one_secret() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let tokens: Vec<String> = thread::scope(|scope| {
            let show = || token(&app, &mut browser.clone());
            let pages: Vec<_> = (0..8).map(|_| scope.spawn(show)).collect();
            pages.into_iter().map(|page| page.join().unwrap()).collect()
        });
        assert!(tokens.iter().all(|token| holds(&app, &browser, token)));
    });
}

#[test]
fn a_token_stores_no_other_change() {
    on_both_stores(defaults, |app| {
        let (mut browser, session) = app.open_visitor(1);
        session.set("m", 2).unwrap();
        session.remove("n").unwrap();
        session.renew().unwrap();
        let token = session.csrf_token().unwrap();
        assert_eq!(session.get("m").unwrap(), Some(2));
        assert_eq!(session.get::<u32>("n").unwrap(), None);
        let other = browser.open(&app.sessions);
        let verified = other.verify_csrf(&token).unwrap();
        assert_eq!(verified, CsrfCheck::Valid, "under the id from before");
        assert_eq!((other.get("n").unwrap(), other.get::<u32>("m").unwrap()), (Some(1), None));
        browser.take(&complete(&app.sessions, &session));
        assert_eq!((app.stored_n(&browser), get(&app.sessions, &browser, "m")), (None, Some(2)));
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn a_token_of_a_session_survives_a_failed_request() {
    on_both_stores(defaults, |app| {
        for outcome in [Outcome::ServerError, Outcome::Panicked] {
            let (mut browser, mut token) = (app.visitor(1), String::new());
            let act = |session: &Session| {
                session.set("n", 2).unwrap();
                token = session.csrf_token().unwrap();
            };
            browser.try_request(&app.sessions, outcome, act).unwrap();
            assert_eq!(app.stored_n(&browser), Some(1));
            assert!(holds(&app, &browser, &token));
            // Where no session was, none begins.
            let mut new = Browser::default();
            let show = |session: &Session| drop(session.csrf_token().unwrap());
            let headers = new.try_request(&app.sessions, outcome, show).unwrap();
            assert_eq!(set_cookie(&headers), None);
        }
        assert_eq!(app.rows(), 2);
    });
}

/// Adds `by` to `n`.
fn add(session: &Session, by: u32) -> u32 {
    session.update("n", move |n: Option<u32>| n.unwrap_or(0) + by).unwrap()
}

#[test]
fn an_update_before_a_new_secret_is_recomputed() {
    on_both_stores(defaults, |app| {
        let (mut browser, _) = visitor_with_token(&app);
        app.remove_secret(&browser);
        let session = browser.open(&app.sessions);
        assert_eq!(add(&session, 10), 11);
        browser.clone().request(&app.sessions, |session| {
            add(session, 100);
        });
        let token = session.csrf_token().unwrap();
        add(&session, 1000);
        browser.take(&complete(&app.sessions, &session));
        assert_eq!(app.stored_n(&browser), Some(1111));
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn a_token_stays_valid_if_the_first_commit_fails() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        let mut token = String::new();
        browser.request(&app.sessions, |session| {
            token = session.csrf_token().unwrap();
            app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
            assert_eq!(session.commit().unwrap_err().kind(), ErrorKind::Unavailable);
        });
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn a_page_whose_session_is_ended_meanwhile_brings_nothing_back() {
    let ends: [fn(&App, &mut Browser); 3] = [
        |app, browser| drop(browser.request(&app.sessions, |s| s.destroy().unwrap())),
        |app, _| {
            let index = app.store.inner().index().unwrap();
            index.revoke(&SessionFilter::All, None, crate::common::NOW).unwrap();
        },
        |app, browser| drop(browser.request(&app.sessions, |s| sign_in(s, "ada"))),
    ];
    on_both_stores(defaults, |app| {
        for (index, end) in ends.into_iter().enumerate() {
            for changes in [false, true] {
                let (mut browser, session) = app.open_visitor(1);
                assert_eq!(session.get("n").unwrap(), Some(1));
                if changes {
                    add(&session, 1);
                }
                end(&app, &mut browser);
                let (rows, discarded) = (app.rows(), app.count(EventKind::ChangesDiscarded));
                let mut tokens = vec![session.csrf_token().unwrap()];
                let saved = if changes { CommitOutcome::Discarded } else { CommitOutcome::Stored };
                assert_eq!(session.commit().unwrap(), saved);
                let discarded = discarded + u64::from(changes);
                assert_eq!(app.count(EventKind::ChangesDiscarded), discarded);
                assert_eq!(session.get::<u32>("n").unwrap(), (!changes).then_some(1));
                tokens.push(session.csrf_token().unwrap());
                let headers = complete(&app.sessions, &session);
                assert_eq!((set_cookie(&headers), headers.discarded), (None, changes));
                assert_eq!((app.rows(), app.count(EventKind::ChangesDiscarded)), (rows, discarded));
                let held = tokens.iter().any(|token| holds(&app, &browser, token));
                assert!(!held, "{index} {changes}");
            }
        }
    });
}

/// Returns a token of a page, whose request stores nothing.
fn token_without_a_change(app: &App, browser: &mut Browser) -> String {
    let mut shown = String::new();
    let headers = browser.request(&app.sessions, |session| {
        shown = session.csrf_token().unwrap();
    });
    assert_eq!((set_cookie(&headers), headers.discarded), (None, false), "nothing is stored");
    shown
}

#[test]
fn a_page_of_a_renewed_id_leaves_the_new_one_alone() {
    on_both_stores(defaults, |app| {
        let (mut browser, token) = visitor_with_token(&app);
        let mut late = browser.clone();
        browser.request(&app.sessions, |session| session.renew().unwrap());
        let shown = token_without_a_change(&app, &mut late);
        assert!(holds(&app, &browser, &token));
        for (browser, token) in [(&late, &shown), (&late, &token), (&browser, &shown)] {
            assert!(holds(&app, browser, token), "the renewal keeps the secret");
        }
        assert_eq!(app.rows(), 1);
    });
}

#[test]
fn a_replaced_id_without_a_secret_has_no_valid_token() {
    on_both_stores(defaults, |app| {
        let (mut browser, token) = visitor_with_token(&app);
        app.remove_secret(&browser);
        let mut late = browser.clone();
        browser.request(&app.sessions, |session| session.renew().unwrap());
        let shown = token_without_a_change(&app, &mut late);
        for token in [&token, &shown] {
            assert!(!holds(&app, &late, token) && !holds(&app, &browser, token));
        }
    });
}

#[test]
fn a_token_from_before_a_sign_out_is_not_valid_after_it() {
    on_both_stores(defaults, |app| {
        for mut browser in [Browser::default(), app.visitor(1), app.signed_in("ada")] {
            let mut tokens = Vec::new();
            browser.request(&app.sessions, |session| {
                tokens.push(session.csrf_token().unwrap());
                session.destroy().unwrap();
                tokens.push(session.csrf_token().unwrap());
            });
            let held: Vec<bool> = tokens.iter().map(|token| holds(&app, &browser, token)).collect();
            assert_eq!(held, [false, true]);
        }
    });
}

#[test]
fn a_token_of_an_old_id_in_its_grace_is_the_sessions() {
    let configure =
        |builder: SessionManagerBuilder| builder.renewal_grace(std::time::Duration::from_secs(10));
    on_both_stores(configure, |app| {
        let (mut browser, old) = app.open_visitor(1);
        assert_eq!(add(&old, 1), 2);
        browser.request(&app.sessions, |session| session.renew().unwrap());
        let token = old.csrf_token().unwrap();
        assert_eq!(set_cookie(&complete(&app.sessions, &old)), None);
        assert!(holds(&app, &browser, &token));
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn a_clear_keeps_the_secret() {
    on_both_stores(defaults, |app| {
        let (mut browser, first) = visitor_with_token(&app);
        let mut tokens = vec![first];
        browser.request(&app.sessions, |session| {
            tokens.push(session.csrf_token().unwrap());
            session.clear().unwrap();
            tokens.push(session.csrf_token().unwrap());
            let valid = |token: &String| session.verify_csrf(token).unwrap() == CsrfCheck::Valid;
            assert!(tokens.iter().all(valid));
        });
        assert_eq!(app.stored_n(&browser), None);
        browser.request(&app.sessions, |session| session.renew().unwrap());
        browser.request(&app.sessions, |session| session.clear().unwrap());
        assert!(tokens.iter().all(|token| holds(&app, &browser, token)));
        // A page of a visitor without a session has shown the token before the clear.
        let mut shown = String::new();
        let first_visit = app.visitor_after(|session| {
            session.set("n", 1).unwrap();
            shown = session.csrf_token().unwrap();
            session.clear().unwrap();
        });
        assert!(holds(&app, &first_visit, &shown));
        assert_eq!(app.stored_n(&first_visit), None);
    });
}

#[test]
fn an_ignored_request_begins_no_session_for_its_token() {
    on_both_stores(defaults, |app| {
        for (mut browser, is_valid) in [(Browser::default(), false), (app.visitor(1), true)] {
            let (commits, mut token) = (app.store.calls(Call::Commit), String::new());
            let headers = browser.request(&app.sessions, |session| {
                session.ignore().unwrap();
                token = session.csrf_token().unwrap();
            });
            assert_eq!((set_cookie(&headers), headers.discarded), (None, false));
            assert_eq!(app.store.calls(Call::Commit), commits);
            assert_eq!(holds(&app, &browser, &token), is_valid);
        }
    });
}

#[test]
fn a_closed_session_gives_tokens_only_of_a_stored_secret() {
    on_both_stores(defaults, |app| {
        let session = app.sessions.open(None);
        complete(&app.sessions, &session);
        assert_eq!(session.csrf_token().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(session.verify_csrf(&"A".repeat(86)).unwrap(), CsrfCheck::Invalid);
        // The page may be written while the response is in flight.
        let (browser, session) = app.open_visitor(1);
        complete(&app.sessions, &session);
        assert!(holds(&app, &browser, &session.csrf_token().unwrap()));
    });
}

#[test]
fn a_store_that_fails_is_an_error_and_the_next_request_is_fine() {
    on_both_stores(defaults, |app| {
        let (browser, token) = visitor_with_token(&app);
        for check in [false, true] {
            app.store.fail(Call::Load, 1, ErrorKind::Busy);
            let session = browser.open(&app.sessions);
            let error = match check {
                true => session.verify_csrf(&token).unwrap_err(),
                false => session.csrf_token().unwrap_err(),
            };
            assert_eq!(error.kind(), ErrorKind::Busy);
            assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
        }
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn a_session_treated_as_anonymous_has_no_valid_token() {
    let configure =
        |builder: SessionManagerBuilder| builder.on_load_failure(OnLoadFailure::TreatAsAnonymous);
    on_both_stores(configure, |app| {
        let (browser, token) = visitor_with_token(&app);
        app.store.fail(Call::Load, 1, ErrorKind::Busy);
        let session = browser.open(&app.sessions);
        assert_eq!(session.verify_csrf(&token).unwrap(), CsrfCheck::Invalid);
        assert_eq!(session.csrf_token().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn a_full_session_has_room_for_its_secret() {
    let configure = |builder: SessionManagerBuilder| builder.max_bytes("{\"n\":1}".len());
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        let token = token(&app, &mut browser);
        browser.request(&app.sessions, |session| session.set("n", 2).unwrap());
        assert_eq!(app.stored_n(&browser), Some(2));
        assert!(holds(&app, &browser, &token));
        app.remove_secret(&browser);
        let token = self::token(&app, &mut browser);
        assert!(holds(&app, &browser, &token));
        app.remove_secret(&browser);
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        let grow = |session: &Session| session.set("m", 1).unwrap();
        let closed = browser.try_request(&app.sessions, Outcome::Completed, grow);
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::TooLarge);
    });
}
