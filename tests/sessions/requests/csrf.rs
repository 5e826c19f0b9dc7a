//! Tokens for forms: whom they convince.

use std::collections::HashSet;

use cloakroom::csrf::CsrfCheck;
use cloakroom::lifetime::AtMaximum;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{ErrorKind, Session, SignIn};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::common::Storage;
use crate::common::app::{
    App, Browser, assert_new_id, complete, defaults, issued, on_both_stores, sign_in, user, user_of,
};
use crate::common::faulty::Call;

/// The token on a page of this browser.
pub(super) fn token(app: &App, browser: &mut Browser) -> String {
    let mut token = String::new();
    browser.request(&app.sessions, |session| token = session.csrf_token().unwrap());
    token
}

/// Returns true if this browser may send `token`; changes nothing.
pub(super) fn holds(app: &App, browser: &Browser, token: &str) -> bool {
    let (session, commits) = (browser.open(&app.sessions), app.store.calls(Call::Commit));
    let holds = session.verify_csrf(token).unwrap() == CsrfCheck::Valid;
    let headers = complete(&app.sessions, &session);
    assert_eq!(app.store.calls(Call::Commit), commits, "checking writes nothing");
    assert!(!headers.discarded);
    holds
}

/// A browser whose session has a secret, and a token of it.
pub(super) fn visitor_with_token(app: &App) -> (Browser, String) {
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
            let verified = session.verify_csrf(&token).unwrap();
            assert_eq!(verified, CsrfCheck::Valid, "in the same request too");
            assert_eq!(app.store.all_calls(), 0, "it is stored at the end");
            assert!(session.names().unwrap().is_empty(), "the application's names only");
        });
        assert_new_id(&headers);
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
        // Both halves change, so no part of a page reveals another.
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
fn a_token_of_a_session_writes_nothing() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let (loads, commits) = (app.store.calls(Call::Load), app.store.calls(Call::Commit));
        let headers = browser.request(&app.sessions, |session| {
            let token = session.csrf_token().unwrap();
            session.csrf_field().unwrap();
            assert_eq!(session.verify_csrf(&token).unwrap(), CsrfCheck::Valid);
            assert!(!session.is_changed());
        });
        assert_eq!(app.store.calls(Call::Commit), commits);
        assert_eq!(app.store.calls(Call::Load), loads + 1, "it is read once");
        let fields = headers.iter().collect::<Vec<_>>();
        assert_eq!(fields, [("Cache-Control", "no-store"), ("Vary", "Cookie")]);
    });
}

#[test]
fn tokens_of_other_sessions_and_malformed_ones_are_refused() {
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
            let valid = session.verify_csrf(&text).unwrap() == CsrfCheck::Valid;
            prop_assert_eq!(valid, text == token);
            Ok(())
        };
        runner.run(&any, check).unwrap();
    });
}

#[test]
fn a_token_holds_through_changes_and_renewals() {
    let configure =
        |builder: SessionManagerBuilder| builder.renewal_grace(std::time::Duration::from_secs(10));
    on_both_stores(configure, |app| {
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
    });
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
                assert_eq!(session.verify_csrf(&within).unwrap(), CsrfCheck::Invalid);
                after = session.csrf_token().unwrap();
            });
            assert!(!holds(&app, &browser, &before) && !holds(&app, &browser, &within));
            assert!(holds(&app, &browser, &after));
            assert!(holds(&app, &browser, &token(&app, &mut browser.clone())));
        }
    });
}

#[test]
fn a_sign_in_replaces_the_secret_in_its_own_commit() {
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
fn every_session_is_stored_with_a_secret() {
    let app = App::new(Storage::File, defaults);
    let database =
        cloakroom::stores::sqlite::rusqlite::Connection::open(app.folder.database()).unwrap();
    let without_secret = || -> u32 {
        let sql = "SELECT count(*) FROM cloakroom_sessions WHERE data NOT LIKE '%cloakroom.csrf%'";
        database.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let mut ada = app.signed_in("ada");
    let visitor = app.visitor(1);
    let imported = app.visitor(1);
    assert_eq!((app.rows(), without_secret()), (3, 0));
    app.remove_secret(&imported);
    assert_eq!(without_secret(), 1);
    // A sign-in to an anonymous session, and one in place of another user.
    for browser in [&mut imported.clone(), &mut visitor.clone(), &mut ada] {
        browser.request(&app.sessions, |session| sign_in(session, "ben"));
        assert_eq!(without_secret(), 0);
    }
    assert_eq!(app.rows(), 3);
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
            if pending {
                app.remove_secret(&browser);
            }
            browser.request(&app.sessions, |session| {
                if pending {
                    session.clear().unwrap();
                    session.csrf_token().unwrap();
                }
                sign_in(session, "ben");
                after = session.csrf_token().unwrap();
            });
            assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ben"));
            assert!(!holds(&app, &browser, &of_ada) && holds(&app, &browser, &after));
        }
    });
}

#[test]
fn a_refused_or_failed_sign_in_leaves_the_tokens_as_they_were() {
    let limit = 1.try_into().unwrap();
    let configure = move |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(limit, AtMaximum::Refuse)
    };
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
        assert_eq!(app.stored_n(&browser), Some(3));
        assert!(holds(&app, &browser, &token));
    });
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
            assert_eq!(session.verify_csrf(&before).unwrap(), CsrfCheck::Invalid);
            after = session.csrf_token().unwrap();
        });
        assert_ne!(issued(&headers).0, old.id());
        assert!(holds(&app, &browser, &after) && !holds(&app, &browser, &before));
        assert_eq!((user_of(&app.sessions, &browser), app.rows()), (None, 1));
    });
}

#[test]
fn a_stored_secret_of_another_form_counts_as_none() {
    for stored in ["5", "\"short\"", "null", "\"AAAA\"", "{}"] {
        let app = App::new(Storage::File, defaults);
        let (mut browser, before) = visitor_with_token(&app);
        let database =
            cloakroom::stores::sqlite::rusqlite::Connection::open(app.folder.database()).unwrap();
        let data = format!("{{\"cloakroom.csrf\":{stored}}}");
        database.execute("UPDATE cloakroom_sessions SET data = ?1", [data]).unwrap();
        assert!(!holds(&app, &browser, &before));
        let after = token(&app, &mut browser);
        assert!(holds(&app, &browser, &after));
    }
}
