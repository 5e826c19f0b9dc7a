//! Tokens for forms: whom they convince, and what giving them out stores.

use std::collections::HashSet;
use std::thread;

use cloakroom::csrf::CsrfToken;
use cloakroom::event::EventKind;
use cloakroom::http::Outcome;
use cloakroom::manager::Builder;
use cloakroom::manager::OnLoadFailure;
use cloakroom::session::Saved;
use cloakroom::store::{AtLimit, Which};
use cloakroom::{ErrorKind, Session, SignIn};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::common::faulty::{Call, Fault};
use crate::common::in_process::{
    App, Browser, complete, defaults, get, issued, on_both_stores, set_cookie, sign_in, user, who,
};

/// What a page of this browser shows.
fn token(app: &App, browser: &mut Browser) -> String {
    let mut token = String::new();
    browser.request(&app.sessions, |session| token = session.csrf_token().unwrap());
    token
}

/// Whether this browser may send `token`, without a trace.
fn holds(app: &App, browser: &Browser, token: &str) -> bool {
    let (session, commits) = (browser.open(&app.sessions), app.store.calls(Call::Commit));
    let holds = session.verify_csrf(token).unwrap() == CsrfToken::Valid;
    let headers = complete(&app.sessions, &session);
    assert_eq!(app.store.calls(Call::Commit), commits, "checking writes nothing");
    assert!(!headers.discarded);
    holds
}

/// A browser whose session has a secret, and a token of it.
fn visitor_with_token(app: &App) -> (Browser, String) {
    let mut browser = app.visitor(1);
    let token = token(app, &mut browser);
    (browser, token)
}

#[test]
fn a_page_without_a_session_begins_one_and_its_form_is_accepted() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        let mut token = String::new();
        let headers = browser.request(&app.sessions, |session| {
            token = session.csrf_token().unwrap();
            assert_eq!(
                session.verify_csrf(&token).unwrap(),
                CsrfToken::Valid,
                "in the same request too"
            );
            assert_eq!(app.store.all_calls(), 0, "it is stored at the end");
            assert!(session.keys().unwrap().is_empty(), "the application's names only");
        });
        issued(&headers);
        assert_eq!((app.rows(), app.store.calls(Call::Commit)), (1, 1));
        assert!(holds(&app, &browser, &token));
        assert!(!holds(&app, &Browser::default(), &token), "without the cookie");
        assert_eq!(app.rows(), 1);
    });
}

#[test]
fn every_token_is_masked_differently_and_all_of_them_hold() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let mut tokens = HashSet::new();
        for _ in 0..3 {
            browser.request(&app.sessions, |session| {
                tokens.insert(session.csrf_token().unwrap());
                tokens.insert(session.csrf_token().unwrap());
            });
        }
        assert_eq!(tokens.len(), 6);
        assert!(tokens.iter().all(|token| token.len() == 86 && holds(&app, &browser, token)));
        // Neither half stands still, so no part of a page tells of another.
        for half in [0..43, 43..86] {
            let halves: HashSet<&str> = tokens.iter().map(|token| &token[half.clone()]).collect();
            assert_eq!(halves.len(), 6);
        }
    });
}

#[test]
fn the_field_is_html_with_a_token() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let mut field = String::new();
        browser.request(&app.sessions, |session| field = session.csrf_field().unwrap());
        let value = field.strip_prefix("<input type=\"hidden\" name=\"csrf\" value=\"").unwrap();
        let token = value.strip_suffix("\">").unwrap();
        assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert!(holds(&app, &browser, token));
    });
}

#[test]
fn a_page_of_a_session_that_has_a_secret_writes_nothing() {
    on_both_stores(defaults, |app| {
        let (mut browser, old) = visitor_with_token(&app);
        let (loads, commits) = (app.store.calls(Call::Load), app.store.calls(Call::Commit));
        let headers = browser.request(&app.sessions, |session| {
            session.csrf_token().unwrap();
            session.csrf_field().unwrap();
            assert_eq!(session.verify_csrf(&old).unwrap(), CsrfToken::Valid);
        });
        assert_eq!(app.store.calls(Call::Commit), commits);
        assert_eq!(app.store.calls(Call::Load), loads + 1, "it is read once");
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("Vary", "Cookie")]);
    });
}

#[test]
fn what_is_no_token_of_this_session_is_refused() {
    on_both_stores(defaults, |app| {
        let (browser, token) = visitor_with_token(&app);
        let (_, foreign) = visitor_with_token(&app);
        assert!(holds(&app, &browser, &token));
        let swapped = format!("{}{}", &token[43..], &token[..43]);
        let wrongs = [
            String::new(),
            foreign,
            token[..85].to_owned(),
            format!("{token}A"),
            format!("{token}="),
            format!(" {token}"),
            format!("{}\n", &token[..85]),
            token[..43].to_owned(),
            swapped,
            token.replace(&token[..1], "!"),
            "A".repeat(86),
            "é".repeat(43),
            "\0".repeat(86),
            "x".repeat(1 << 20),
            browser.id().reveal(),
        ];
        for wrong in &wrongs {
            assert!(!holds(&app, &browser, wrong), "{:?}", wrong.chars().take(100));
        }
        // One changed character anywhere.
        for at in 0..86 {
            let mut wrong = token.clone().into_bytes();
            wrong[at] = if wrong[at] == b'A' { b'Q' } else { b'A' };
            assert!(!holds(&app, &browser, str::from_utf8(&wrong).unwrap()), "{at}");
        }
    });
}

#[test]
fn no_bytes_make_the_check_panic_or_pass() {
    on_both_stores(defaults, |app| {
        let (browser, token) = visitor_with_token(&app);
        let session = browser.open(&app.sessions);
        let alphabet = "[A-Za-z0-9_-]{86}";
        let any = prop_oneof![
            any::<String>(),
            any::<Vec<u8>>().prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
            alphabet.prop_map(|text| text),
            (0..86_usize, any::<char>())
                .prop_map(|(at, c)| { format!("{}{c}{}", &token[..at], &token[at + 1..]) }),
        ];
        let mut runner = TestRunner::deterministic();
        let check = |text: String| {
            let valid = session.verify_csrf(&text).unwrap() == CsrfToken::Valid;
            prop_assert_eq!(valid, text == token);
            Ok(())
        };
        runner.run(&any, check).unwrap();
    });
}

#[test]
fn a_token_holds_through_changes_and_renewals() {
    on_both_stores(
        |builder| builder.renewal_grace(std::time::Duration::from_secs(10)),
        |app| {
            let (mut browser, token) = visitor_with_token(&app);
            let before = browser.clone();
            let acts: [fn(&Session); 4] = [
                |session| session.set("n", 2).unwrap(),
                |session| session.renew().unwrap(),
                |session| session.flash("info", "hello").unwrap(),
                |session| {
                    session.renew().unwrap();
                    session.csrf_token().unwrap();
                },
            ];
            for act in acts {
                browser.request(&app.sessions, act);
                assert!(holds(&app, &browser, &token));
            }
            assert_ne!(browser.id(), before.id());
            assert!(holds(&app, &browser, &self::token(&app, &mut browser.clone())));
        },
    );
}

#[test]
fn a_token_from_before_a_sign_in_is_refused_after_it() {
    on_both_stores(defaults, |app| {
        for again in [false, true] {
            let mut browser = match again {
                false => app.visitor(1),
                true => app.signed_in("ada"),
            };
            let before = token(&app, &mut browser);
            let (mut within, mut after) = (String::new(), String::new());
            browser.request(&app.sessions, |session| {
                within = session.csrf_token().unwrap();
                sign_in(session, "ada");
                assert_eq!(session.verify_csrf(&within).unwrap(), CsrfToken::Invalid);
                after = session.csrf_token().unwrap();
            });
            assert!(!holds(&app, &browser, &before) && !holds(&app, &browser, &within));
            assert!(holds(&app, &browser, &after));
            assert!(holds(&app, &browser, &token(&app, &mut browser.clone())));
        }
    });
}

#[test]
fn a_sign_in_replaces_the_secret_with_itself_and_no_page_after_it_writes_one() {
    on_both_stores(defaults, |app| {
        let (mut browser, _) = visitor_with_token(&app);
        let commits = app.store.calls(Call::Commit);
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!(app.store.calls(Call::Commit), commits + 1);
        token(&app, &mut browser);
        assert_eq!(app.store.calls(Call::Commit), commits + 1);
    });
}

#[test]
fn a_session_that_never_had_a_secret_gets_none_by_a_sign_in() {
    let app = App::new(true, defaults);
    app.signed_in("ada");
    let database = cloakroom::rusqlite::Connection::open(app.folder.database()).unwrap();
    let data = || -> String {
        let sql = "SELECT group_concat(data) FROM cloakroom_sessions";
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(data(), "{}");
    token(&app, &mut app.signed_in("ben"));
    assert!(data().contains("cloakroom.csrf"));
}

#[test]
fn a_first_page_that_also_signs_in_leaves_no_token_from_before() {
    on_both_stores(defaults, |app| {
        let (mut browser, mut before) = (Browser::default(), String::new());
        browser.request(&app.sessions, |session| {
            before = session.csrf_token().unwrap();
            sign_in(session, "ada");
        });
        assert!(!holds(&app, &browser, &before));
        let commits = app.store.calls(Call::Commit);
        assert!(holds(&app, &browser, &token(&app, &mut browser.clone())));
        assert_eq!(app.store.calls(Call::Commit), commits, "the sign-in has brought a new one");
    });
}

#[test]
fn a_token_is_not_carried_to_another_user() {
    on_both_stores(defaults, |app| {
        for pending in [false, true] {
            let mut browser = app.signed_in("ada");
            let of_ada = token(&app, &mut browser);
            let mut after = String::new();
            browser.request(&app.sessions, |session| {
                if pending {
                    session.clear().unwrap();
                    session.csrf_token().unwrap();
                }
                sign_in(session, "ben");
                after = session.csrf_token().unwrap();
            });
            assert_eq!(who(&app.sessions, &browser).as_deref(), Some("ben"));
            assert!(!holds(&app, &browser, &of_ada) && holds(&app, &browser, &after));
        }
    });
}

#[test]
fn a_refused_or_failed_sign_in_leaves_the_tokens_as_they_were() {
    let limit = 1.try_into().unwrap();
    let configure = move |builder: Builder| builder.max_sessions_per_user(limit, AtLimit::Refuse);
    on_both_stores(configure, |app| {
        app.signed_in("ada");
        let (mut browser, token) = visitor_with_token(&app);
        browser.request(&app.sessions, |session| {
            assert_eq!(session.sign_in(user("ada")).unwrap(), SignIn::Refused);
            session.set("n", 2).unwrap();
        });
        browser.request(&app.sessions, |session| {
            app.store.fail(Call::Commit, 1, ErrorKind::Busy);
            session.sign_in(user("ben")).unwrap_err();
            session.set("n", 3).unwrap();
        });
        assert_eq!(app.n(&browser), Some(3));
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn a_secret_made_while_a_sign_in_is_under_way_does_not_outlive_it() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let session = browser.open(&app.sessions);
        assert_eq!(session.user().unwrap(), None);
        // Neither the stored session nor this request knows of a secret yet.
        let page = token(&app, &mut browser.clone());
        sign_in(&session, "ada");
        let mut ada = browser.clone();
        ada.take(&complete(&app.sessions, &session));
        assert_eq!(who(&app.sessions, &ada).as_deref(), Some("ada"));
        assert!(!holds(&app, &ada, &page));
    });
}

#[test]
fn two_parallel_pages_of_a_session_without_a_secret_both_show_tokens_that_hold() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let pages = [browser.open(&app.sessions), browser.open(&app.sessions)];
        pages.iter().for_each(|page| assert_eq!(page.get("n").unwrap(), Some(1)));
        let tokens = pages.each_ref().map(|page| page.csrf_token().unwrap());
        pages.iter().rev().for_each(|page| drop(complete(&app.sessions, page)));
        assert!(tokens.iter().all(|token| holds(&app, &browser, token)));
    });
}

#[test]
fn a_page_whose_secret_is_overtaken_on_its_way_shows_a_token_of_the_other() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let slow = browser.open(&app.sessions);
        let gate = app.store.hold(Call::Commit);
        let tokens = thread::scope(|scope| {
            let waiting = scope.spawn(|| slow.csrf_token().unwrap());
            gate.wait_until_reached();
            let fast = token(&app, &mut browser.clone());
            gate.open();
            [waiting.join().unwrap(), fast]
        });
        complete(&app.sessions, &slow);
        assert!(tokens.iter().all(|token| holds(&app, &browser, token)));
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
fn a_secret_stored_at_once_carries_no_other_change_of_the_request() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let session = browser.open(&app.sessions);
        session.set("m", 2).unwrap();
        session.remove("n").unwrap();
        session.renew().unwrap();
        let token = session.csrf_token().unwrap();
        assert_eq!(session.get("m").unwrap(), Some(2));
        assert_eq!(session.get::<u32>("n").unwrap(), None);
        let other = browser.open(&app.sessions);
        assert_eq!(
            other.verify_csrf(&token).unwrap(),
            CsrfToken::Valid,
            "already, under the id from before"
        );
        assert_eq!((other.get("n").unwrap(), other.get::<u32>("m").unwrap()), (Some(1), None));
        browser.take(&complete(&app.sessions, &session));
        assert_eq!((app.n(&browser), get(&app.sessions, &browser, "m")), (None, Some(2)));
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn a_secret_stored_at_once_stands_when_the_request_fails_and_the_rest_does_not() {
    on_both_stores(defaults, |app| {
        for outcome in [Outcome::ServerError, Outcome::Panicked] {
            let (mut browser, mut token) = (app.visitor(1), String::new());
            let act = |session: &Session| {
                session.set("n", 2).unwrap();
                token = session.csrf_token().unwrap();
            };
            browser.try_request(&app.sessions, outcome, act).unwrap();
            assert_eq!(app.n(&browser), Some(1));
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
fn an_update_from_before_the_secret_is_computed_again_on_what_is_stored_then() {
    on_both_stores(defaults, |app| {
        // The other request changes the session before the secret is made, or while that is on its
        // way, which then is stale.
        for on_its_way in [false, true] {
            let mut browser = app.visitor(1);
            let session = browser.open(&app.sessions);
            assert_eq!(add(&session, 10), 11);
            let gate = on_its_way.then(|| app.store.hold(Call::Commit));
            thread::scope(|scope| {
                let other = || {
                    browser.clone().request(&app.sessions, |session| {
                        add(session, 100);
                    });
                };
                match gate {
                    None => {
                        other();
                        session.csrf_token().unwrap();
                    }
                    Some(gate) => {
                        let page = scope.spawn(|| session.csrf_token().unwrap());
                        gate.wait_until_reached();
                        other();
                        gate.open();
                        page.join().unwrap();
                    }
                }
            });
            add(&session, 1000);
            browser.take(&complete(&app.sessions, &session));
            assert_eq!(app.n(&browser), Some(1111));
        }
    });
}

#[test]
fn an_update_from_before_a_secret_that_could_not_be_stored_is_not_lost_either() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let session = browser.open(&app.sessions);
        assert_eq!(add(&session, 10), 11);
        browser.clone().request(&app.sessions, |session| {
            add(session, 100);
        });
        // The first try is stale, the second one fails.
        let gate = app.store.hold(Call::Commit);
        thread::scope(|scope| {
            let page = scope.spawn(|| session.csrf_token());
            gate.wait_until_reached();
            app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
            gate.open();
            assert_eq!(page.join().unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        });
        complete(&app.sessions, &session);
        assert_eq!(app.n(&browser), Some(111));
    });
}

#[test]
fn an_update_after_the_secret_needs_no_second_try() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let session = browser.open(&app.sessions);
        session.csrf_token().unwrap();
        add(&session, 10);
        let commits = app.store.calls(Call::Commit);
        complete(&app.sessions, &session);
        assert_eq!(app.store.calls(Call::Commit), commits + 1);
        assert_eq!(app.n(&browser), Some(11));
    });
}

#[test]
fn a_page_whose_session_is_ended_meanwhile_brings_nothing_back() {
    let ends: [fn(&App, &mut Browser); 3] = [
        |app, browser| drop(browser.request(&app.sessions, |s| s.destroy().unwrap())),
        |app, _| {
            let registry = app.store.inner().registry().unwrap();
            registry.revoke(&Which::All, None, crate::common::NOW).unwrap();
        },
        |app, browser| drop(browser.request(&app.sessions, |s| sign_in(s, "ada"))),
    ];
    on_both_stores(defaults, |app| {
        for (index, end) in ends.into_iter().enumerate() {
            for changes in [false, true] {
                let mut browser = app.visitor(1);
                let session = browser.open(&app.sessions);
                assert_eq!(session.get("n").unwrap(), Some(1));
                if changes {
                    add(&session, 1);
                }
                end(&app, &mut browser);
                let (rows, told) = (app.rows(), app.count(EventKind::Discarded));
                let token = session.csrf_token().unwrap();
                assert_eq!(app.count(EventKind::Discarded), told + 1);
                assert_eq!(session.get::<u32>("n").unwrap(), None);
                session.csrf_token().unwrap();
                assert_eq!(session.commit().unwrap(), Saved::Discarded);
                let headers = complete(&app.sessions, &session);
                assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
                assert_eq!((app.rows(), app.count(EventKind::Discarded)), (rows, told + 1));
                assert!(!holds(&app, &browser, &token), "{index} {changes}");
            }
        }
    });
}

#[test]
fn a_page_that_comes_late_for_an_id_that_was_renewed_leaves_the_new_one_alone() {
    on_both_stores(defaults, |app| {
        let (mut browser, token) = visitor_with_token(&app);
        let mut late = browser.clone();
        browser.request(&app.sessions, |session| session.renew().unwrap());
        let headers = late.request(&app.sessions, |session| drop(session.csrf_token().unwrap()));
        assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
        assert!(holds(&app, &browser, &token));
        assert_eq!(app.rows(), 1);
    });
}

#[test]
fn within_its_grace_an_old_id_makes_the_secret_of_the_renewed_session() {
    on_both_stores(
        |builder| builder.renewal_grace(std::time::Duration::from_secs(10)),
        |app| {
            let mut browser = app.visitor(1);
            let old = browser.open(&app.sessions);
            assert_eq!(add(&old, 1), 2);
            browser.request(&app.sessions, |session| session.renew().unwrap());
            let token = old.csrf_token().unwrap();
            assert_eq!(set_cookie(&complete(&app.sessions, &old)), None);
            assert!(holds(&app, &browser, &token));
            assert_eq!(app.n(&browser), Some(2));
        },
    );
}

#[test]
fn after_a_destroy_a_token_belongs_to_the_new_anonymous_session() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        let (before, old) = (token(&app, &mut browser), browser.clone());
        let mut after = String::new();
        let headers = browser.request(&app.sessions, |session| {
            session.csrf_token().unwrap();
            session.destroy().unwrap();
            assert_eq!(session.verify_csrf(&before).unwrap(), CsrfToken::Invalid);
            after = session.csrf_token().unwrap();
        });
        assert_ne!(issued(&headers).0, old.id());
        assert!(holds(&app, &browser, &after) && !holds(&app, &browser, &before));
        assert_eq!((who(&app.sessions, &browser), app.rows()), (None, 1));
    });
}

#[test]
fn a_clear_removes_the_secret_unless_a_token_is_asked_for_after_it() {
    on_both_stores(defaults, |app| {
        let (mut browser, first) = visitor_with_token(&app);
        let mut second = String::new();
        browser.request(&app.sessions, |session| {
            session.clear().unwrap();
            second = session.csrf_token().unwrap();
            assert_eq!(session.verify_csrf(&second).unwrap(), CsrfToken::Valid);
        });
        assert_eq!(app.n(&browser), None);
        assert!(holds(&app, &browser, &first) && holds(&app, &browser, &second));
        // Where there was none before, two that clear in parallel still agree.
        let cleared = app.visitor(1);
        let pages = [cleared.open(&app.sessions), cleared.open(&app.sessions)];
        pages.iter().for_each(|page| page.clear().unwrap());
        let tokens = pages.each_ref().map(|page| page.csrf_token().unwrap());
        pages.iter().for_each(|page| drop(complete(&app.sessions, page)));
        assert!(tokens.iter().all(|token| holds(&app, &cleared, token)));
        assert_eq!(app.n(&cleared), None);
        // And without a token it goes with the rest.
        browser.request(&app.sessions, |session| session.clear().unwrap());
        assert!(!holds(&app, &browser, &first));
    });
}

#[test]
fn an_ignored_request_stores_no_secret() {
    on_both_stores(defaults, |app| {
        for mut browser in [Browser::default(), app.visitor(1)] {
            let (commits, mut token) = (app.store.calls(Call::Commit), String::new());
            let headers = browser.request(&app.sessions, |session| {
                session.ignore().unwrap();
                token = session.csrf_token().unwrap();
            });
            assert_eq!((set_cookie(&headers), headers.discarded), (None, false));
            assert_eq!(app.store.calls(Call::Commit), commits);
            assert!(!holds(&app, &browser, &token));
        }
        // A secret that is there serves ignored pages too.
        let (mut browser, _) = visitor_with_token(&app);
        let mut token = String::new();
        browser.request(&app.sessions, |session| {
            session.ignore().unwrap();
            token = session.csrf_token().unwrap();
        });
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn after_the_end_of_a_request_tokens_are_given_only_of_a_secret_that_is_there() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let session = browser.open(&app.sessions);
        complete(&app.sessions, &session);
        assert_eq!(session.csrf_token().unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(session.verify_csrf(&"A".repeat(86)).unwrap(), CsrfToken::Invalid);
        // The page may be written while the response is under way.
        let session = browser.open(&app.sessions);
        session.csrf_token().unwrap();
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
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            session.set("m", 2).unwrap();
            app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
            assert_eq!(session.csrf_token().unwrap_err().kind(), ErrorKind::Unavailable);
        });
        assert_eq!(get(&app.sessions, &browser, "m"), Some(2), "the other change is kept");
        app.store.plan(Call::Commit, Fault::Panic);
        let page = browser.open(&app.sessions);
        let shown = std::panic::AssertUnwindSafe(|| page.csrf_token());
        assert!(std::panic::catch_unwind(shown).is_err());
        app.sessions.close(&page, Outcome::Panicked).unwrap();
        let token = self::token(&app, &mut browser);
        assert!(holds(&app, &browser, &token));
    });
}

#[test]
fn where_the_session_is_read_as_empty_no_token_is_given_and_none_holds() {
    on_both_stores(
        |builder| builder.on_load_failure(OnLoadFailure::ReadAsEmpty),
        |app| {
            let (browser, token) = visitor_with_token(&app);
            app.store.fail(Call::Load, 1, ErrorKind::Busy);
            let session = browser.open(&app.sessions);
            assert_eq!(session.verify_csrf(&token).unwrap(), CsrfToken::Invalid);
            assert_eq!(session.csrf_token().unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
            assert!(holds(&app, &browser, &token));
        },
    );
}

#[test]
fn a_session_that_is_full_says_so() {
    on_both_stores(
        |builder| builder.max_bytes(40),
        |app| {
            let mut browser = app.visitor(1);
            browser.request(&app.sessions, |session| {
                assert_eq!(session.csrf_token().unwrap_err().kind(), ErrorKind::TooLarge);
            });
            assert_eq!(app.n(&browser), Some(1));
        },
    );
}

#[test]
fn a_stored_secret_of_another_form_counts_as_none() {
    for stored in ["5", "\"short\"", "null", "\"AAAA\"", "{}"] {
        let app = App::new(true, defaults);
        let (mut browser, before) = visitor_with_token(&app);
        let database = cloakroom::rusqlite::Connection::open(app.folder.database()).unwrap();
        let data = format!("{{\"cloakroom.csrf\":{stored}}}");
        database.execute("UPDATE cloakroom_sessions SET data = ?1", [data]).unwrap();
        assert!(!holds(&app, &browser, &before));
        let after = token(&app, &mut browser);
        assert!(holds(&app, &browser, &after));
    }
}
