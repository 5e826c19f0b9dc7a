//! Requests that run at the same time with the same session.

use std::sync::{Arc, Barrier};
use std::thread;

use crate::common::app::{App, Browser, complete, defaults, get, on_both_stores, set_cookie};
use crate::common::faulty::Call;
use cloakroom::adapter::Outcome;
use cloakroom::id::Realm;
use cloakroom::{CommitOutcome, Session};

/// Runs a request of the same browser on each of `threads` threads. None ends before all have made
/// their changes.
fn at_once(app: &App, browser: &Browser, threads: usize, handler: impl Fn(&Session, usize) + Sync) {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for number in 0..threads {
            let (barrier, handler) = (&barrier, &handler);
            scope.spawn(move || {
                let session = browser.open(&app.sessions);
                handler(&session, number);
                barrier.wait();
                let headers = complete(&app.sessions, &session);
                assert_eq!((set_cookie(&headers), headers.discarded), (None, false));
            });
        }
    });
}

#[test]
fn writers_of_different_names_all_keep_their_changes() {
    on_both_stores(defaults, |app| {
        for read_before in [true, false] {
            let browser = app.visitor(1);
            at_once(&app, &browser, 16, |session, number| {
                if read_before {
                    assert_eq!(session.get("n").unwrap(), Some(1));
                }
                session.set(&format!("k{number}"), number).unwrap();
                if number == 0 {
                    session.remove("n").unwrap();
                }
            });
            for number in 0..16 {
                assert_eq!(get(&app.sessions, &browser, &format!("k{number}")), Some(number));
            }
            assert_eq!(app.stored_n(&browser), None);
        }
    });
}

#[test]
fn of_writers_of_the_same_name_the_last_wins() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        at_once(&app, &browser, 16, |session, number| {
            assert_eq!(session.get("n").unwrap(), Some(1));
            session.set("n", 100 + number).unwrap();
            session.set(&format!("k{number}"), number).unwrap();
        });
        assert!((100..116).contains(&app.stored_n(&browser).unwrap()));
        for number in 0..16 {
            assert_eq!(get(&app.sessions, &browser, &format!("k{number}")), Some(number));
        }
        // In a known order.
        let (first, last) = (browser.open(&app.sessions), browser.open(&app.sessions));
        last.set("n", 2).unwrap();
        first.set("n", 1).unwrap();
        complete(&app.sessions, &first);
        complete(&app.sessions, &last);
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn concurrent_increments_lose_none() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(0);
        let barrier = Barrier::new(32);
        thread::scope(|scope| {
            for _ in 0..32 {
                let (app, browser, barrier) = (&app, &browser, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for _ in 0..100 {
                        let session = browser.open(&app.sessions);
                        session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
                        assert!(!complete(&app.sessions, &session).discarded);
                    }
                });
            }
        });
        assert_eq!(app.stored_n(&browser), Some(3200));
    });
}

#[test]
fn increments_that_all_saw_the_same_number_all_count() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(0);
        at_once(&app, &browser, 32, |session, _| {
            session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
        });
        assert_eq!(app.stored_n(&browser), Some(32));
    });
}

#[test]
fn an_overtaken_update_is_recomputed_with_the_steps_around_it() {
    on_both_stores(defaults, |app| {
        let (mut browser, late) = app.open_visitor(1);
        late.set("base", 10).unwrap();
        assert_eq!(late.update("n", |n: Option<u32>| n.unwrap_or(0) * 2).unwrap(), 2);
        late.update("base", |n: Option<u32>| n.unwrap() + 1).unwrap();
        late.remove("gone").unwrap();
        browser.request(&app.sessions, |session| {
            session.set("n", 50).unwrap();
            session.set("base", 1000).unwrap();
            session.set("gone", 1).unwrap();
            session.set("other", 1).unwrap();
        });
        assert_eq!(late.commit().unwrap(), CommitOutcome::Stored);
        assert_eq!(late.get("n").unwrap(), Some(100), "what is stored now");
        complete(&app.sessions, &late);
        browser.request(&app.sessions, |session| {
            assert_eq!(session.names().unwrap(), ["base", "n", "other"]);
            assert_eq!(session.get("n").unwrap(), Some(100));
            assert_eq!(session.get("base").unwrap(), Some(11));
        });
    });
}

#[test]
fn an_update_of_a_value_whose_type_has_changed_is_discarded() {
    on_both_stores(defaults, |app| {
        let (mut browser, late) = app.open_visitor(1);
        late.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
        browser.request(&app.sessions, |session| session.set("n", "text").unwrap());
        let error = app.sessions.close(&late, Outcome::Completed).unwrap_err();
        assert_eq!(error.kind(), cloakroom::ErrorKind::WrongType);
        assert_eq!(get(&app.sessions, &browser, "n"), Some("text".to_owned()));
    });
}

#[test]
fn a_write_of_the_stored_value_does_not_raise_the_revision() {
    on_both_stores(defaults, |app| {
        let (mut browser, late) = app.open_visitor(1);
        late.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
        browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        let commits = app.store.calls(Call::Commit);
        complete(&app.sessions, &late);
        assert_eq!(app.store.calls(Call::Commit), commits + 1, "it was not overtaken");
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn a_sign_in_recomputes_its_update_on_a_newer_write() {
    on_both_stores(defaults, |app| {
        let (mut browser, late) = app.open_visitor(1);
        late.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
        browser.request(&app.sessions, |session| session.set("n", 10).unwrap());
        crate::common::app::sign_in(&late, "ada");
        browser.take(&complete(&app.sessions, &late));
        assert_eq!(app.stored_n(&browser), Some(11));
    });
}

#[test]
fn of_concurrent_renewals_one_wins() {
    on_both_stores(defaults, |app| {
        for grace in [false, true] {
            let sessions = app.another(|builder| match grace {
                true => builder.renewal_grace(std::time::Duration::from_secs(60)),
                false => builder,
            });
            let browser = app.visitor(1);
            let barrier = Barrier::new(8);
            let answers: Vec<Browser> = thread::scope(|scope| {
                let threads: Vec<_> = (0..8)
                    .map(|number| {
                        let (sessions, barrier, mut browser) =
                            (&sessions, &barrier, browser.clone());
                        scope.spawn(move || {
                            let session = browser.open(sessions);
                            if number % 2 == 0 {
                                assert_eq!(session.get("n").unwrap(), Some(1));
                            }
                            session.renew().unwrap();
                            barrier.wait();
                            browser.take(&complete(sessions, &session));
                            browser
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let renewed: Vec<_> =
                answers.iter().filter(|answer| answer.cookie != browser.cookie).collect();
            assert_eq!(renewed.len(), 1, "grace: {grace}");
            assert_eq!(get(&sessions, renewed[0], "n"), Some(1));
            assert_eq!(get::<u32>(&sessions, &browser, "n"), grace.then_some(1));
        }
    });
}

#[test]
fn first_requests_at_once_get_sessions_of_their_own() {
    on_both_stores(defaults, |app| {
        let barrier = Arc::new(Barrier::new(16));
        let ids: std::collections::HashSet<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|number| {
                    let (app, barrier) = (&app, &barrier);
                    scope.spawn(move || {
                        let session = app.sessions.open(None);
                        session.set("n", number).unwrap();
                        barrier.wait();
                        crate::common::app::issued(&complete(&app.sessions, &session))
                            .0
                            .hash(Realm::default().tag())
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((ids.len(), app.rows()), (16, 16));
    });
}

#[test]
fn a_destroy_among_writers_ends_the_session_in_any_order() {
    on_both_stores(defaults, |app| {
        for _ in 0..20 {
            let browser = app.visitor(1);
            let barrier = Barrier::new(9);
            thread::scope(|scope| {
                for number in 0..9 {
                    let (app, browser, barrier) = (&app, &browser, &barrier);
                    scope.spawn(move || {
                        let session = browser.open(&app.sessions);
                        assert_eq!(session.get("n").unwrap(), Some(1));
                        match number {
                            0 => session.destroy().unwrap(),
                            1..=4 => session.set("n", number).unwrap(),
                            _ => drop(session.update("n", |n: Option<u32>| n.unwrap() + 1)),
                        }
                        barrier.wait();
                        let headers = complete(&app.sessions, &session);
                        let removal = (number == 0).then_some(crate::common::app::REMOVAL);
                        assert_eq!(set_cookie(&headers), removal);
                    });
                }
            });
            assert_eq!((app.stored_n(&browser), app.rows()), (None, 0));
        }
    });
}
