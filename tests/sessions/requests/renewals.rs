//! New ids: renewal, its grace, and signing in.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use cloakroom::clock::Clock;
use cloakroom::event::EventKind;
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{ErrorKind, Lifetime, SignIn, UserKey};

use crate::common::app::{
    App, Browser, assert_new_id, complete, defaults, get, issued, on_both_stores, set_cookie,
    sign_in, user, user_of,
};
use crate::common::faulty::Call;
use crate::common::{HOUR, NOW};

const SECOND: Duration = Duration::from_secs(1);

fn with_grace(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.renewal_grace(SECOND * 10)
}

fn public_ids_of(app: &App, name: &str) -> Vec<cloakroom::id::PublicId> {
    let (user, many) = (user(name), Page::first(NonZeroUsize::new(100).unwrap()));
    let index = app.store.inner().index().unwrap();
    let listed = index.list(&SessionFilter::User(&user), many, app.clock.now()).unwrap();
    listed.into_iter().map(|summary| summary.public_id).collect()
}

#[test]
fn a_renewal_gives_the_session_a_new_id() {
    on_both_stores(defaults, |app| {
        for read_before in [true, false] {
            let mut browser = app.signed_in("ada");
            browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
            let old = browser.clone();
            let before = public_ids_of(&app, "ada");
            let headers = browser.request(&app.sessions, |session| {
                if read_before {
                    assert_eq!(session.get("n").unwrap(), Some(1));
                }
                session.renew().unwrap();
                session.set("m", 2).unwrap();
            });
            assert_ne!(issued(&headers).0, old.id());
            assert_eq!((app.stored_n(&browser), app.stored_n(&old)), (Some(1), None));
            assert_eq!(get(&app.sessions, &browser, "m"), Some(2));
            assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
            assert_eq!(public_ids_of(&app, "ada"), before, "one entry, the same public id");
            browser.request(&app.sessions, |session| session.destroy().unwrap());
        }
        assert_eq!((app.count(EventKind::Renewed), app.rows()), (2, 0));
    });
}

#[test]
fn a_renewal_without_a_session_begins_one_only_for_a_write() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        let headers = browser.request(&app.sessions, |session| session.renew().unwrap());
        assert_eq!((set_cookie(&headers), app.rows()), (None, 0));
        let headers = browser.request(&app.sessions, |session| {
            session.renew().unwrap();
            session.set("n", 1).unwrap();
        });
        assert_new_id(&headers);
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(1), 1));
    });
}

#[test]
fn the_old_id_works_within_the_grace_and_not_after_it() {
    on_both_stores(with_grace, |app| {
        let mut old = app.visitor(1);
        let browser = old.after_request(&app.sessions, |session| session.renew().unwrap());
        app.clock.advance(SECOND * 9);
        let headers = old.request(&app.sessions, |session| {
            assert_eq!(session.get("n").unwrap(), Some(1));
            session.set("n", 2).unwrap();
        });
        assert_eq!(set_cookie(&headers), None);
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(2), 1));
        app.clock.advance(SECOND);
        assert_eq!((app.stored_n(&old), app.stored_n(&browser)), (None, Some(2)));
        let headers = old.request(&app.sessions, |session| session.set("n", 3).unwrap());
        assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(2), 1));
    });
}

#[test]
fn a_renewal_through_an_id_in_its_grace_only_merges() {
    on_both_stores(with_grace, |app| {
        for read_before in [false, true] {
            let mut old = app.visitor(1);
            let browser = old.after_request(&app.sessions, |session| session.renew().unwrap());
            let headers = old.request(&app.sessions, |session| {
                if read_before {
                    assert_eq!(session.get("n").unwrap(), Some(1));
                }
                session.set("n", 2).unwrap();
                session.renew().unwrap();
            });
            assert_eq!(set_cookie(&headers), None, "read before: {read_before}");
            app.clock.advance(SECOND * 11);
            assert_eq!((app.stored_n(&browser), app.stored_n(&old)), (Some(2), None));
        }
    });
}

#[test]
fn a_sign_in_and_a_destroy_end_the_grace() {
    on_both_stores(with_grace, |app| {
        let ends: [fn(&cloakroom::Session); 2] =
            [|session| sign_in(session, "ada"), |session| session.destroy().unwrap()];
        for end in ends {
            let first = app.visitor(1);
            let mut browser =
                first.after_request(&app.sessions, |session| session.renew().unwrap());
            assert_eq!(app.stored_n(&first), Some(1));
            browser.request(&app.sessions, end);
            assert_eq!(app.stored_n(&first), None);
        }
    });
}

#[test]
fn of_three_renewals_each_old_id_has_its_grace() {
    on_both_stores(with_grace, |app| {
        let mut browser = app.visitor(1);
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(browser.clone());
            browser.request(&app.sessions, |session| session.renew().unwrap());
            app.clock.advance(SECOND * 4);
        }
        // Replaced twelve, eight and four seconds ago.
        let lives: Vec<_> = ids.iter().map(|old| app.stored_n(old)).collect();
        assert_eq!(lives, [None, Some(1), Some(1)]);
        let headers = ids[1].request(&app.sessions, |session| session.set("n", 2).unwrap());
        assert_eq!((set_cookie(&headers), app.stored_n(&browser), app.rows()), (None, Some(2), 1));
    });
}

#[test]
fn an_id_in_its_grace_may_sign_out_and_sign_in() {
    on_both_stores(with_grace, |app| {
        let mut old = app.visitor(1);
        let browser = old.after_request(&app.sessions, |session| session.renew().unwrap());
        let headers = old.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_new_id(&headers);
        assert_eq!((app.stored_n(&old), app.stored_n(&browser), app.rows()), (Some(1), None, 1));

        let mut old = app.visitor(1);
        let browser = old.after_request(&app.sessions, |session| session.renew().unwrap());
        let headers = old.request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!(set_cookie(&headers), Some(crate::common::app::REMOVAL));
        assert_eq!(app.stored_n(&browser), None);
    });
}

#[test]
fn only_a_sign_in_restarts_the_absolute_limit() {
    let lifetime = Lifetime::idle(HOUR).with_absolute(HOUR * 2);
    let configure = |builder: SessionManagerBuilder| builder.lifetime(lifetime).without_cleaner();
    on_both_stores(configure, |app| {
        let half = HOUR / 2;
        let mut renewed = app.visitor(1);
        let mut signed_in = renewed.clone();
        signed_in.cookie = app.visitor(1).cookie;
        for _ in 0..3 {
            app.clock.advance(half);
            renewed.request(&app.sessions, |session| session.renew().unwrap());
            signed_in.request(&app.sessions, |session| sign_in(session, "ada"));
            let at = signed_in.open(&app.sessions).authenticated_at().unwrap();
            assert_eq!(at, Some(app.clock.now()));
        }
        app.clock.set(NOW + HOUR * 2 - Duration::from_millis(1));
        assert_eq!((app.stored_n(&renewed), app.stored_n(&signed_in)), (Some(1), Some(1)));
        app.clock.set(NOW + HOUR * 2);
        assert_eq!((app.stored_n(&renewed), app.stored_n(&signed_in)), (None, Some(1)));
        app.clock.advance(half);
        assert_eq!(
            app.stored_n(&signed_in),
            Some(1),
            "idle limits are counted from the sign-in too"
        );
    });
}

#[test]
fn a_sign_in_renews_binds_and_stores_the_changes_so_far() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let old = browser.clone();
        let headers = browser.request(&app.sessions, |session| {
            session.set("m", 2).unwrap();
            sign_in(session, "ada");
            assert_eq!(session.user().unwrap(), Some(user("ada")));
            assert_eq!(session.get("n").unwrap(), Some(1));
            assert_eq!(session.get("m").unwrap(), Some(2));
        });
        assert_ne!(issued(&headers).0, old.id());
        assert_eq!((app.stored_n(&old), app.stored_n(&browser), app.rows()), (None, Some(1), 1));
        assert_eq!(get(&app.sessions, &browser, "m"), Some(2));
        assert_eq!(public_ids_of(&app, "ada").len(), 1);

        // Again as the same user: the same session, another id.
        let before = (public_ids_of(&app, "ada"), browser.id());
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!(public_ids_of(&app, "ada"), before.0);
        assert_ne!(browser.id(), before.1);
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn a_refused_sign_in_is_an_answer_and_changes_nothing() {
    let limit = NonZeroU32::new(1).unwrap();
    let configure = move |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(limit, AtMaximum::Refuse)
    };
    on_both_stores(configure, |app| {
        let ada = app.signed_in("ada");
        let mut browser = app.visitor(1);
        let before = browser.clone();
        let headers = browser.request(&app.sessions, |session| {
            session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
            assert_eq!(session.sign_in(user("ada")).unwrap(), SignIn::Refused);
            assert_eq!(session.user().unwrap(), None);
        });
        assert_eq!(set_cookie(&headers), None);
        assert_eq!((app.stored_n(&before), app.rows()), (Some(2), 2), "other changes are stored");
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada"));

        // Nor does a refusal as another user spoil the changes to the session that goes on.
        let mut ben = app.signed_in("ben");
        ben.request(&app.sessions, |session| session.set("n", 1).unwrap());
        ben.request(&app.sessions, |session| {
            session.update("n", |n: Option<u32>| n.unwrap_or(100) + 1).unwrap();
            assert_eq!(session.sign_in(user("ada")).unwrap(), SignIn::Refused);
            assert_eq!(session.get("n").unwrap(), Some(2));
        });
        assert_eq!(
            (app.stored_n(&ben), user_of(&app.sessions, &ben).as_deref()),
            (Some(2), Some("ben"))
        );
        assert_eq!(app.count(EventKind::SignInRefused), 2);
    });
}

#[test]
fn at_the_maximum_the_oldest_sign_in_ends() {
    let limit = NonZeroU32::new(2).unwrap();
    let configure = move |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(limit, AtMaximum::EndOldest)
    };
    on_both_stores(configure, |app| {
        let browsers: Vec<Browser> = (0..3)
            .map(|_| {
                app.clock.advance(SECOND);
                app.signed_in("ada")
            })
            .collect();
        let signed_in: Vec<bool> =
            browsers.iter().map(|browser| user_of(&app.sessions, browser).is_some()).collect();
        assert_eq!(signed_in, [false, true, true]);
    });
}

#[test]
fn a_failed_renewal_leaves_the_old_id_working() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        app.store.fail(Call::Commit, 1, ErrorKind::Busy);
        let failed =
            browser.try_request(&app.sessions, cloakroom::adapter::Outcome::Completed, |session| {
                session.renew().unwrap()
            });
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(app.stored_n(&browser), Some(1));
        app.store.fail(Call::Commit, 1, ErrorKind::Busy);
        let headers = browser.request(&app.sessions, |session| {
            let error = session.sign_in(UserKey::new("ada").unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy);
        });
        assert_eq!((set_cookie(&headers), app.stored_n(&browser)), (None, Some(1)));
        assert_eq!(user_of(&app.sessions, &browser), None);
    });
}

#[test]
fn two_first_requests_without_a_cookie_get_two_sessions() {
    on_both_stores(defaults, |app| {
        let sessions = [app.sessions.open(None), app.sessions.open(None)];
        for (n, session) in sessions.iter().enumerate() {
            session.set("n", n).unwrap();
        }
        let ids = sessions.map(|session| issued(&complete(&app.sessions, &session)).0);
        assert_ne!(ids[0], ids[1]);
        assert_eq!(app.rows(), 2);
    });
}

#[test]
fn a_clock_set_back_does_not_bring_an_old_id_back() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let old = browser.clone();
        app.clock.advance(HOUR);
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        app.clock.set(NOW);
        assert_eq!(user_of(&app.sessions, &old), None);
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
    });
}
