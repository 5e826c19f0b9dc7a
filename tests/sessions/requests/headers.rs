//! Headers that are sent when asked for: what is not to be stored, what is to be forgotten.

use cloakroom::adapter::{Adapter, Outcome, ResponseHeaders};
use cloakroom::event::EventKind;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{CommitOutcome, ErrorKind, Session};

use crate::common::app::{
    App, Browser, REMOVAL, assert_new_id, complete, defaults, on_both_stores, set_cookie,
    set_cookies, sign_in, user, user_of,
};
use crate::common::faulty::Call;

fn asked_for(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.clear_site_data(true).no_store_when_signed_in(true)
}

/// The cookie before a removal where pages of users are not to be stored.
const OVERWRITE: &str = "__Host-id=signed-out; Path=/; Secure; HttpOnly; SameSite=Lax";

fn value<'h>(headers: &'h ResponseHeaders, name: &str) -> Option<&'h str> {
    let values: Vec<&str> =
        headers.iter().filter(|(have, _)| *have == name).map(|(_, value)| value).collect();
    assert!(values.len() <= 1, "{values:?}");
    values.first().copied()
}

fn clears(headers: &ResponseHeaders) -> bool {
    let value = value(headers, "Clear-Site-Data");
    assert!(matches!(value, None | Some("\"cache\", \"storage\"")), "{value:?}");
    value.is_some()
}

fn not_stored(headers: &ResponseHeaders) -> bool {
    value(headers, "Cache-Control") == Some("no-store")
}

#[test]
fn neither_header_is_sent_unless_it_is_asked_for() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        let headers = browser.request(&app.sessions, |s| drop(s.user().unwrap()));
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [("Cache-Control", "private"), ("Vary", "Cookie")]
        );
        let headers = browser.request(&app.sessions, |session| session.destroy().unwrap());
        assert!(!clears(&headers) && !not_stored(&headers));
    });
}

#[test]
fn an_ignore_after_the_end_of_the_session_keeps_the_sign_out() {
    type End = fn(&App, &Session);
    let endings: [End; 3] = [
        |_, session| {
            session.destroy().unwrap();
            assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
        },
        |app, session| {
            let ended = app.sessions.revoke_for_user(&user("ada"), Some(session));
            assert_eq!(ended.unwrap(), 1);
        },
        |app, session| assert_eq!(app.sessions.sign_out_everywhere(session).unwrap(), 1),
    ];
    on_both_stores(asked_for, |app| {
        for end in endings {
            let mut browser = app.signed_in("ada");
            let headers = browser.request(&app.sessions, |session| {
                end(&app, session);
                session.ignore().unwrap();
            });
            assert_eq!(set_cookies(&headers), [OVERWRITE, REMOVAL]);
            assert!(clears(&headers));
        }
        // A commit has carried out this sign-out too, although there was nothing to end.
        let old = app.visitor(1);
        old.clone().request(&app.sessions, |session| session.destroy().unwrap());
        let headers = old.clone().request(&app.sessions, |session| {
            session.destroy().unwrap();
            assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
            session.ignore().unwrap();
        });
        assert_eq!(set_cookies(&headers), [OVERWRITE, REMOVAL]);
        assert!(!clears(&headers));
    });
}

#[test]
fn an_ignore_cancels_a_second_destroy() {
    on_both_stores(asked_for, |app| {
        let mut browser = app.signed_in("ada");
        browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            let signed_in = session.sign_in(user("bob"));
            assert_eq!(signed_in.unwrap(), cloakroom::SignIn::Done);
            assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
            session.destroy().unwrap();
            assert_eq!(session.user().unwrap(), None);
            session.ignore().unwrap();
            assert_eq!(session.user().unwrap(), Some(user("bob")));
        });
        assert_eq!(app.rows(), 1, "ada's session has ended, bob's stays");
        assert_eq!(browser.open(&app.sessions).user().unwrap(), Some(user("bob")));
    });
}

#[test]
fn an_ignore_does_not_cancel_a_destroy_that_is_partly_done() {
    on_both_stores(asked_for, |app| {
        let visitors = [app.visitor(1), app.visitor(2)];
        let cookies = visitors.each_ref().map(|visitor| visitor.cookie.clone().unwrap());
        let mut browser = Browser::with(cookies.join("; "));
        let headers = browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            // The first of two calls succeeds.
            app.store.hold(Call::Commit).open();
            app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
            assert_eq!(session.commit().unwrap_err().kind(), ErrorKind::Unavailable);
            assert_eq!(app.rows(), 1);
            session.ignore().unwrap();
        });
        assert_eq!(set_cookies(&headers), [OVERWRITE, REMOVAL]);
        assert!(clears(&headers));
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn a_sign_out_clears_what_the_browser_keeps() {
    on_both_stores(asked_for, |app| {
        let mut browser = app.visitor(1);
        let old = browser.clone();
        let headers = browser.request(&app.sessions, |session| session.destroy().unwrap());
        assert!(clears(&headers));
        assert_eq!(set_cookies(&headers), [OVERWRITE, REMOVAL]);

        // There is nothing to destroy any more, and nothing was.
        let headers = old.clone().request(&app.sessions, |session| session.destroy().unwrap());
        assert!(!clears(&headers));
        let headers = Browser::default().request(&app.sessions, |s| s.destroy().unwrap());
        assert!(!clears(&headers));

        // One that begins in the same response keeps its cookie.
        let mut browser = app.visitor(1);
        let headers = browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            session.flash("info", "bye").unwrap();
        });
        assert_new_id(&headers);
        assert!(clears(&headers) && !value(&headers, "Clear-Site-Data").unwrap().contains("cook"));

        // A panic does not undo it.
        let mut browser = app.visitor(1);
        let destroy = |session: &Session| session.destroy().unwrap();
        let headers = browser.try_request(&app.sessions, Outcome::Panicked, destroy).unwrap();
        assert!(clears(&headers));
    });
}

#[test]
fn a_request_that_destroyed_nothing_clears_nothing() {
    on_both_stores(asked_for, |app| {
        let acts: [fn(&Session); 6] = [
            |_| {},
            |session| assert_eq!(session.get("n").unwrap(), Some(1)),
            |session| session.set("n", 1).unwrap(),
            |session| session.clear().unwrap(),
            |session| session.renew().unwrap(),
            |session| sign_in(session, "ada"),
        ];
        for act in acts {
            assert!(!clears(&app.visitor(1).request(&app.sessions, act)));
        }
        // Nor does a sign-out without a session, or of one that has ended meanwhile.
        let destroy: fn(&Session) = |session| session.destroy().unwrap();
        assert!(!clears(&Browser::default().request(&app.sessions, destroy)));
        let (mut browser, late) = app.open_visitor(1);
        late.destroy().unwrap();
        assert!(clears(&browser.request(&app.sessions, destroy)));
        assert!(!clears(&complete(&app.sessions, &late)));
        // Nor a sign-in that ends what else was presented.
        let (first, other) = (app.visitor(1), app.signed_in("zoe"));
        let both = format!("{}; {}", first.cookie.unwrap(), other.cookie.clone().unwrap());
        let mut browser = Browser::with(both);
        let headers = browser.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!(user_of(&app.sessions, &other), None);
        assert!(!clears(&headers));
    });
}

#[test]
fn only_a_destroy_that_was_done_clears_browser_data() {
    on_both_stores(asked_for, |app| {
        let (browser, session) = app.open_visitor(1);
        session.destroy().unwrap();
        app.store.fail(Call::Commit, 1, ErrorKind::Busy);
        app.sessions.close(&session, Outcome::Completed).unwrap_err();
        assert!(!clears(&Adapter::new(&app.sessions).headers_on_error(&session)));

        let session = browser.open(&app.sessions);
        session.destroy().unwrap();
        assert_eq!(session.commit().unwrap(), cloakroom::CommitOutcome::Stored);
        session.set("n", 1).unwrap();
        app.store.fail(Call::Commit, 1, ErrorKind::Busy);
        app.sessions.close(&session, Outcome::Completed).unwrap_err();
        let headers = Adapter::new(&app.sessions).headers_on_error(&session);
        assert_eq!(set_cookie(&headers), None);
        assert!(clears(&headers));
    });
}

#[test]
fn a_page_of_a_signed_in_user_is_not_stored() {
    on_both_stores(asked_for, |app| {
        let acts: [fn(&Session); 8] = [
            |session| drop(session.user().unwrap()),
            |session| assert_eq!(session.get::<u32>("n").unwrap(), None),
            |session| session.set("n", 1).unwrap(),
            |session| session.renew().unwrap(),
            |session| drop(session.csrf_token().unwrap()),
            |session| {
                session.user().unwrap();
                session.ignore().unwrap();
            },
            |session| sign_in(session, "ben"),
            |session| {
                session.user().unwrap();
                session.destroy().unwrap();
            },
        ];
        for (index, act) in acts.into_iter().enumerate() {
            let mut browser = app.signed_in("ada");
            assert!(not_stored(&browser.request(&app.sessions, act)), "{index}");
        }
        let headers = app.visitor(1).request(&app.sessions, |session| sign_in(session, "ada"));
        assert!(not_stored(&headers));
        let public = headers.cache_control(Some("public, max-age=60")).unwrap();
        assert_eq!(public, "max-age=60, private, no-store");
    });
}

#[test]
fn a_page_of_a_user_is_not_cached_though_the_session_ended() {
    on_both_stores(asked_for, |app| {
        let mut browser = app.signed_in("ada");
        let late = browser.open(&app.sessions);
        assert!(late.user().unwrap().is_some());
        late.set("n", 2).unwrap();
        browser.request(&app.sessions, |session| session.destroy().unwrap());
        let headers = complete(&app.sessions, &late);
        assert!(headers.discarded && not_stored(&headers));
    });
}

#[test]
fn a_page_without_a_user_may_be_stored() {
    on_both_stores(asked_for, |app| {
        let browser = app.signed_in("ada");
        let headers = complete(&app.sessions, &browser.open(&app.sessions));
        assert_eq!(headers, ResponseHeaders::default(), "the session was not looked at");
        let headers = app.visitor(1).request(&app.sessions, |s| drop(s.user().unwrap()));
        assert!(!not_stored(&headers) && !headers.no_store);
        assert_eq!(headers.cache_control(Some("public")).as_deref(), Some("private"));
        let headers = Browser::default().request(&app.sessions, |s| s.set("n", 1).unwrap());
        assert!(!not_stored(&headers));
    });
}

#[test]
fn a_sign_out_overwrites_the_cookie_before_it_removes_it() {
    on_both_stores(asked_for, |app| {
        let mut browser = app.signed_in("ada");
        let headers = browser.request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!(set_cookies(&headers), [OVERWRITE, REMOVAL]);
        assert_eq!(headers.appended_fields().filter(|(name, _)| *name == "Set-Cookie").count(), 2);
        assert_eq!(browser.cookie, None);
    });
}

#[test]
fn a_sign_out_sends_one_cookie_where_nothing_is_asked_for() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        let headers = browser.request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!(set_cookies(&headers), [REMOVAL]);
    });
}

#[test]
fn a_sign_out_with_a_new_session_sends_the_new_id_alone() {
    on_both_stores(asked_for, |app| {
        let mut browser = app.signed_in("ada");
        let headers = browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            session.flash("info", "bye").unwrap();
        });
        assert_eq!(set_cookies(&headers).len(), 1);
        assert_new_id(&headers);
    });
}

#[test]
fn the_value_that_overwrites_is_ignored_without_an_event() {
    on_both_stores(asked_for, |app| {
        // As from a browser behind a proxy that passes on the first of several fields only.
        let mut browser = Browser::with(OVERWRITE.split(';').next().unwrap());
        let headers = browser.request(&app.sessions, |session| {
            assert_eq!(session.user().unwrap(), None);
        });
        assert_eq!(
            headers.iter().collect::<Vec<_>>(),
            [("Cache-Control", "private"), ("Vary", "Cookie")]
        );
        assert_eq!(app.store.all_calls(), 0);
        let odd = [EventKind::MalformedId, EventKind::UnknownId, EventKind::IdGuessing];
        assert!(odd.into_iter().all(|kind| app.count(kind) == 0));
        browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        assert_eq!(app.stored_n(&browser), Some(1), "a session can begin");
    });
}

#[test]
fn a_page_with_a_csrf_token_is_not_cached_by_default() {
    let pages: [fn(&Session); 2] = [
        |session| drop(session.csrf_token().unwrap()),
        |session| drop(session.csrf_field().unwrap()),
    ];
    for (is_asked, configure) in [
        (true, defaults as fn(SessionManagerBuilder) -> SessionManagerBuilder),
        (false, |b| b.no_store_with_csrf_token(false)),
    ] {
        on_both_stores(configure, |app| {
            for page in pages {
                let mut browser = Browser::default();
                // The first begins the session, the second shows what is there.
                for _ in 0..2 {
                    let headers = browser.request(&app.sessions, page);
                    assert_eq!(not_stored(&headers), is_asked);
                    let cache = value(&headers, "Cache-Control").unwrap();
                    assert!(cache == "no-store" || cache.starts_with("private"), "{cache}");
                }
                // To look at a token that came back shows none.
                let headers = browser.request(&app.sessions, |session| {
                    let _ = session.verify_csrf(&"A".repeat(86)).unwrap();
                    assert!(session.user().unwrap().is_none());
                });
                assert!(!not_stored(&headers));
            }
        });
    }
}

#[test]
fn an_answer_that_depends_on_the_session_is_private() {
    on_both_stores(
        |b| b.no_store_with_csrf_token(false),
        |app| {
            let public = |headers: &ResponseHeaders| {
                headers.cache_control(Some("public, max-age=60")).is_none()
            };
            let uses: [fn(&Session); 4] = [
                |session| drop(session.user().unwrap()),
                |session| assert_eq!(session.get::<u32>("other").unwrap(), None),
                |session| assert!(session.flashes().unwrap().is_empty()),
                |session| session.remove("other").unwrap(),
            ];
            for (index, uses) in uses.into_iter().enumerate() {
                let unknown = Browser::with(app.visitor(1).cookie.unwrap().replace('=', "=A"));
                for mut presents in [app.visitor(1), unknown] {
                    let headers = presents.request(&app.sessions, uses);
                    assert!(!public(&headers), "{index}");
                    assert_eq!(value(&headers, "Cache-Control"), Some("private"), "{index}");
                }
                let headers = Browser::default().request(&app.sessions, uses);
                assert!(public(&headers), "{index}: an explicit `public` stays");
                assert_eq!(value(&headers, "Cache-Control"), Some("private"), "{index}");
            }
            // An id, a token or a message goes out.
            let gives: [fn(&Session); 3] = [
                |session| session.set("n", 1).unwrap(),
                |session| {
                    session.csrf_token().unwrap();
                    session.ignore().unwrap();
                },
                |session| {
                    session.flash("info", "hello").unwrap();
                    assert_eq!(session.flashes().unwrap().len(), 1);
                    session.ignore().unwrap();
                },
            ];
            for (index, gives) in gives.into_iter().enumerate() {
                let headers = Browser::default().request(&app.sessions, gives);
                assert!(!public(&headers), "{index}");
            }
            let headers = app.visitor(1).request(&app.sessions, |_| ());
            assert_eq!(headers, ResponseHeaders::default(), "the session was not used");
        },
    );
}
