//! A session that has ended stays ended, and late responses do no harm.

use std::num::NonZeroU32;

use cloakroom::adapter::{Adapter, Outcome};
use cloakroom::event::EventKind;
use cloakroom::id::PublicId;
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::SessionFilter;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{CommitOutcome, ErrorKind, Session, SignIn};

use crate::common::app::{
    App, Browser, REMOVAL, assert_new_id, complete, defaults, get, issued, on_both_stores,
    set_cookie, sign_in, user, user_of,
};
use crate::common::faulty::Call;
use crate::requests::BEGINNINGS;

#[test]
fn a_destroyed_session_is_gone_and_its_cookie_removed() {
    on_both_stores(defaults, |app| {
        for read_before in [false, true] {
            let mut browser = app.visitor(1);
            let recorded = browser.clone();
            let headers = browser.request(&app.sessions, |session| {
                if read_before {
                    assert_eq!(session.get("n").unwrap(), Some(1));
                }
                session.set("m", 2).unwrap();
                session.destroy().unwrap();
                assert_eq!(session.get::<u32>("n").unwrap(), None);
                assert_eq!(session.get::<u32>("m").unwrap(), None);
                assert!(session.names().unwrap().is_empty());
                assert_eq!((session.user().unwrap(), session.public_id().unwrap()), (None, None));
            });
            assert_eq!(set_cookie(&headers), Some(REMOVAL));
            let guard = ("Cache-Control", "private, no-cache=\"Set-Cookie\"");
            assert!(headers.iter().any(|header| header == guard));
            assert_eq!((browser.cookie, app.stored_n(&recorded), app.rows()), (None, None, 0));
        }
        assert_eq!(app.count(EventKind::Ended), 2);
        assert_eq!(app.count(EventKind::ChangesDiscarded), 0);
    });
}

#[test]
fn a_destroy_without_a_session_sends_nothing() {
    on_both_stores(defaults, |app| {
        let headers = Browser::default().request(&app.sessions, |s| s.destroy().unwrap());
        assert_eq!((set_cookie(&headers), app.store.all_calls()), (None, 0));
    });
}

#[test]
fn a_destroy_ends_every_session_that_the_request_presented() {
    on_both_stores(defaults, |app| {
        let cookies: Vec<String> = (0..3).map(|n| app.visitor(n).cookie.unwrap()).collect();
        let headers = Browser::with(cookies.join("; "))
            .request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!((set_cookie(&headers), app.rows()), (Some(REMOVAL), 0));
    });
}

#[test]
fn a_cookie_from_before_a_sign_out_is_signed_in_nowhere() {
    on_both_stores(defaults, |app| {
        let recorded = app.signed_in("ada");
        recorded.clone().request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!(user_of(&app.sessions, &recorded), None);
        let headers = recorded.clone().request(&app.sessions, |s| s.set("n", 1).unwrap());
        assert_ne!(issued(&headers).0, recorded.id());
        assert_eq!(user_of(&app.sessions, &recorded), None);
        assert_eq!(get::<u32>(&app.sessions, &recorded, "n"), None);
    });
}

#[test]
fn a_flash_after_a_sign_out_is_read_anonymously() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        let old = browser.clone();
        let headers = browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            session.flash("info", "See you soon").unwrap();
        });
        assert_ne!(issued(&headers).0, old.id());
        assert_eq!((user_of(&app.sessions, &old), app.rows()), (None, 1));
        browser.request(&app.sessions, |session| {
            assert_eq!(session.user().unwrap(), None);
            let flashes = session.flashes().unwrap();
            assert_eq!(flashes[0].text, "See you soon");
            assert_eq!(flashes.len(), 1);
        });
    });
}

#[test]
fn a_flash_after_a_committed_destroy_begins_a_session() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        let headers = browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
            assert_eq!(app.rows(), 0);
            session.flash("info", "bye").unwrap();
        });
        assert_new_id(&headers);
        assert_eq!((user_of(&app.sessions, &browser), app.rows()), (None, 1));
    });
}

#[test]
fn a_sign_in_after_a_destroy_in_one_request_begins_anew() {
    on_both_stores(defaults, |app| {
        let old = app.signed_in("ada");
        let mut browser = old.after_request(&app.sessions, |session| session.set("n", 1).unwrap());
        browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            sign_in(session, "ben");
        });
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ben"));
        assert_eq!((app.stored_n(&browser), app.stored_n(&old), app.rows()), (None, None, 1));
    });
}

#[test]
fn a_destroy_after_a_sign_in_ends_the_new_session_too() {
    on_both_stores(defaults, |app| {
        for mut browser in [app.visitor(1), Browser::default()] {
            let had_cookie = browser.cookie.is_some();
            let headers = browser.request(&app.sessions, |session| {
                sign_in(session, "ada");
                session.destroy().unwrap();
            });
            assert_eq!(set_cookie(&headers), had_cookie.then_some(REMOVAL));
            assert_eq!(app.rows(), 0);
        }
    });
}

#[test]
fn signing_in_as_another_user_leaks_nothing_of_the_first() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        let ada = browser.clone();
        browser.request(&app.sessions, |session| {
            session.set("secret", "of Ada").unwrap();
            session.flash("info", "Ada has mail").unwrap();
            session.set("n", 41).unwrap();
        });
        let public_id = |browser: &Browser| -> PublicId {
            browser.open(&app.sessions).public_id().unwrap().unwrap()
        };
        let first = public_id(&ada);
        browser.request(&app.sessions, |session| {
            session.flash("info", "Welcome, Ben").unwrap();
            session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
            session.set("own", 5).unwrap();
            sign_in(session, "ben");
        });
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ben"));
        assert_ne!(public_id(&browser), first);
        browser.request(&app.sessions, |session| {
            assert_eq!(session.get::<String>("secret").unwrap(), None);
            assert_eq!(session.get::<u32>("own").unwrap(), Some(5), "of this request itself");
            assert_eq!(session.get::<u32>("n").unwrap(), Some(1), "computed without Ada's");
            let texts: Vec<String> =
                session.flashes().unwrap().into_iter().map(|flash| flash.text).collect();
            assert_eq!(texts, ["Welcome, Ben"]);
        });
        assert_eq!((user_of(&app.sessions, &ada), app.rows()), (None, 1));
    });
}

#[test]
fn a_session_with_another_user_meanwhile_leaks_nothing() {
    on_both_stores(defaults, |app| {
        // Anonymous, as this request sees it, and Ada's under another id by the time it signs in.
        let (mut browser, session) = app.open_visitor(41);
        session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        sign_in(&session, "ben");
        let late = Browser::default().with_response(&complete(&app.sessions, &session));
        assert_eq!(user_of(&app.sessions, &late).as_deref(), Some("ben"));
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
        assert_eq!(app.stored_n(&browser), Some(41));
    });
}

/// Opens a request with the browser's cookie that has read its session.
fn in_flight(app: &App, browser: &Browser) -> Session {
    let session = browser.open(&app.sessions);
    assert_eq!(session.get("n").unwrap(), Some(1));
    session
}

#[test]
fn a_writer_in_flight_whose_session_ended_stores_nothing() {
    on_both_stores(defaults, |app| {
        let writes: [fn(&Session); 4] = [
            |session| session.set("n", 2).unwrap(),
            |session| session.update("n", |n: Option<u32>| n.unwrap() + 1).map(drop).unwrap(),
            |session| session.renew().unwrap(),
            |session| session.flash("info", "late").unwrap(),
        ];
        for (index, write) in writes.into_iter().enumerate() {
            let mut browser = app.visitor(1);
            let session = in_flight(&app, &browser);
            write(&session);
            browser.request(&app.sessions, |session| session.destroy().unwrap());
            let headers = complete(&app.sessions, &session);
            assert!(headers.discarded);
            assert_eq!((set_cookie(&headers), app.rows()), (None, 0));
            assert_eq!(app.count(EventKind::ChangesDiscarded), index as u64 + 1);
        }
    });
}

#[test]
fn a_renewal_learns_that_its_session_has_ended() {
    on_both_stores(defaults, |app| {
        for reads in [true, false] {
            let browser = app.signed_in("ada");
            let session = browser.open(&app.sessions);
            if reads {
                assert!(session.user().unwrap().is_some());
            }
            session.renew().unwrap();
            app.sessions.revoke_for_user(&user("ada"), None).unwrap();
            assert_eq!(session.commit().unwrap(), CommitOutcome::Discarded, "reads: {reads}");
            let headers = complete(&app.sessions, &session);
            assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
        }
    });
}

#[test]
fn a_commit_whose_session_ended_begins_nothing() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let session = in_flight(&app, &browser);
        browser.request(&app.sessions, |session| session.destroy().unwrap());
        session.set("n", 2).unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Discarded);
        session.set("n", 3).unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Discarded);
        session.flash("info", "late").unwrap();
        let headers = complete(&app.sessions, &session);
        assert!(headers.discarded);
        assert_eq!((set_cookie(&headers), app.rows()), (None, 0));
    });
}

#[test]
fn a_writer_in_flight_revives_no_ended_session() {
    on_both_stores(defaults, |app| {
        let ends: [fn(&App); 3] = [
            |app| {
                let index = app.store.inner().index().unwrap();
                let all = index.revoke(&SessionFilter::All, None, crate::common::NOW).unwrap();
                assert_eq!(all.len(), 1);
            },
            |app| app.clock.advance(crate::common::HOUR * 24),
            |app| {
                app.clock.advance(crate::common::HOUR * 24);
                assert!(app.sessions.sweep_now().unwrap() > 0);
            },
        ];
        for end in ends {
            let browser = app.visitor(1);
            let session = in_flight(&app, &browser);
            session.set("n", 2).unwrap();
            end(&app);
            let headers = complete(&app.sessions, &session);
            assert!(headers.discarded);
            assert_eq!((set_cookie(&headers), app.live()), (None, 0));
            assert_eq!(app.stored_n(&browser), None);
        }
    });
}

#[test]
fn a_reader_in_flight_revives_no_ended_session() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        app.clock.advance(crate::common::HOUR);
        let session = in_flight(&app, &browser);
        browser.request(&app.sessions, |session| session.destroy().unwrap());
        let headers = complete(&app.sessions, &session);
        assert_eq!((set_cookie(&headers), headers.discarded), (None, false));
        app.sessions.flush().unwrap();
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn a_write_without_a_read_is_discarded_once_the_session_ended() {
    type End = fn(&App, &mut Browser);
    let ends: [(&str, End); 6] = [
        ("a sign-out", |app, browser| {
            browser.request(&app.sessions, |session| session.destroy().unwrap());
        }),
        ("a revocation of the user's", |app, _| {
            assert_eq!(app.sessions.revoke_for_user(&user("ada"), None).unwrap(), 1);
        }),
        ("a revocation by public id", |app, browser| {
            let public_id = browser.open(&app.sessions).public_id().unwrap().unwrap();
            assert!(app.sessions.revoke(&user("ada"), &public_id, None).unwrap());
        }),
        ("a revocation of everyone", |app, _| {
            assert_eq!(app.sessions.revoke_everyone(None).unwrap(), 1);
        }),
        ("a sign-in at the maximum", |app, _| drop(app.signed_in("ada"))),
        ("a sign-in as another user", |app, browser| {
            browser.request(&app.sessions, |session| sign_in(session, "zoe"));
        }),
    ];
    let one = NonZeroU32::MIN;
    let configure =
        |builder: SessionManagerBuilder| builder.max_sessions_per_user(one, AtMaximum::EndOldest);
    for (how, end) in ends {
        on_both_stores(configure, |app| {
            let mut browser = app.signed_in("ada");
            let session = browser.open(&app.sessions);
            session.set("m", 2).unwrap();
            end(&app, &mut browser);
            let rows = app.rows();
            let headers = complete(&app.sessions, &session);
            assert_eq!((set_cookie(&headers), headers.discarded), (None, true), "{how}");
            assert_eq!(app.rows(), rows, "{how}: nothing is begun");
        });
    }
}

#[test]
fn a_write_after_the_end_begins_an_empty_session() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        let old = browser.clone();
        browser.request(&app.sessions, |session| session.destroy().unwrap());
        let late = old.after_request(&app.sessions, |session| session.set("m", 2).unwrap());
        assert_ne!(late.id(), old.id());
        assert_eq!((user_of(&app.sessions, &late), app.stored_n(&late)), (None, None));
        assert_eq!(get(&app.sessions, &late, "m"), Some(2));
        assert_eq!(app.rows(), 1);
    });
}

#[test]
fn a_revocation_after_a_read_without_a_session_discards_nothing() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        let old = browser.clone();
        browser.request(&app.sessions, |session| session.destroy().unwrap());
        let late = old.after_request(&app.sessions, |session| {
            assert_eq!(session.user().unwrap(), None);
            app.sessions.revoke_everyone(Some(session)).unwrap();
            session.set("m", 2).unwrap();
        });
        assert_eq!(get(&app.sessions, &late, "m"), Some(2));
        assert_eq!(app.count(EventKind::ChangesDiscarded), 0);
    });
}

type Act = fn(&Session);

/// The calls that requests in flight with the old id may have made before it is replaced, and
/// whether they change values.
const CALLS_IN_FLIGHT: [(bool, Act); 6] = [
    (false, |_| {}),
    (false, |session| assert!(!session.contains("x").unwrap())),
    (true, |session| session.set("n", 2).unwrap()),
    (true, |session| session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).map(drop).unwrap()),
    (true, |session| session.remove("n").unwrap()),
    (false, |session| session.renew().unwrap()),
];

#[test]
fn responses_in_flight_for_a_replaced_id_carry_no_cookie() {
    let replacements: [fn(&Session); 2] =
        [|session| sign_in(session, "ada"), |session| session.renew().unwrap()];
    on_both_stores(defaults, |app| {
        for replace in replacements {
            for (index, (changes_values, late)) in CALLS_IN_FLIGHT.into_iter().enumerate() {
                for read_before in [true, false] {
                    for act_before in [true, false] {
                        let (mut browser, session) = app.open_visitor(1);
                        if read_before {
                            assert_eq!(session.get("n").unwrap(), Some(1));
                        }
                        if act_before {
                            late(&session);
                        }
                        let rows = app.rows();
                        browser.request(&app.sessions, replace);
                        if !act_before {
                            late(&session);
                        }
                        let headers = complete(&app.sessions, &session);
                        let case = format!("{index} {read_before} {act_before}");
                        assert_eq!(set_cookie(&headers), None, "{case}");
                        assert_eq!(app.rows(), rows, "{case}");
                        assert_eq!(app.stored_n(&browser), Some(1), "the new id lives on: {case}");
                        // A request with changes learns that they were not stored.
                        assert!(headers.discarded || !changes_values, "{case}");
                    }
                }
            }
        }
    });
}

#[test]
fn a_sign_out_through_an_id_replaced_meanwhile_ends_the_session() {
    let replacements: [fn(&Session); 2] =
        [|session| sign_in(session, "ada"), |session| session.renew().unwrap()];
    let sign_outs: [fn(&Session); 2] = [
        |session| session.destroy().unwrap(),
        |session| {
            session.destroy().unwrap();
            session.flash("info", "bye").unwrap();
        },
    ];
    on_both_stores(defaults, |app| {
        for replace in replacements {
            for (index, sign_out) in sign_outs.into_iter().enumerate() {
                for (read_before, act_before) in
                    [(true, true), (true, false), (false, true), (false, false)]
                {
                    let case = format!("{index} {read_before} {act_before}");
                    let mut browser = app.visitor(1);
                    let (late, rows) = (browser.open(&app.sessions), app.rows());
                    if read_before {
                        assert_eq!(late.get("n").unwrap(), Some(1));
                    }
                    if act_before {
                        sign_out(&late);
                    }
                    browser.request(&app.sessions, replace);
                    if !act_before {
                        sign_out(&late);
                    }
                    let headers = complete(&app.sessions, &late);
                    assert_eq!(app.stored_n(&browser), None, "{case}");
                    assert!(!headers.discarded, "{case}");
                    match index {
                        0 => {
                            assert_eq!(set_cookie(&headers), Some(REMOVAL), "{case}");
                            assert_eq!(app.rows(), rows - 1, "{case}");
                        }
                        _ => {
                            assert_new_id(&headers);
                            assert_eq!(app.rows(), rows, "with the message for the next: {case}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_dead_id_beside_a_renewed_one_removes_no_cookie() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let old = browser.cookie.clone().unwrap();
        browser.request(&app.sessions, |session| session.renew().unwrap());
        let dead = format!("__Host-id={}", cloakroom::id::SessionId::generate().unwrap().reveal());
        for both in [format!("{dead}; {old}"), format!("{old}; {dead}; __Host-id=garbage")] {
            let headers = Browser::with(both).request(&app.sessions, |session| {
                assert_eq!(session.get::<u32>("n").unwrap(), None);
            });
            assert_eq!(set_cookie(&headers), None);
        }
    });
}

#[test]
fn a_request_in_flight_never_removes_a_newer_id() {
    let late: [fn(&Session); 4] = [
        |session| assert!(!session.contains("n").unwrap()),
        |session| session.set("n", 2).unwrap(),
        |session| session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).map(drop).unwrap(),
        |session| session.flash("info", "late").unwrap(),
    ];
    let endings: [fn(&Session); 2] = [
        |session| session.destroy().unwrap(),
        |session| {
            session.renew().unwrap();
            assert_eq!(session.commit().unwrap(), CommitOutcome::Stored);
            session.destroy().unwrap();
        },
    ];
    on_both_stores(defaults, |app| {
        for end in endings {
            for act in late {
                let (mut browser, session) = app.open_visitor(1);
                browser.request(&app.sessions, end);
                browser.request(&app.sessions, |session| sign_in(session, "ada"));
                act(&session);
                let headers = complete(&app.sessions, &session);
                assert_eq!(set_cookie(&headers), None);
                assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
                browser.request(&app.sessions, |session| session.destroy().unwrap());
                assert_eq!(app.rows(), 0, "nothing was begun");
            }
        }
    });
}

#[test]
fn the_id_of_a_sign_in_is_sent_although_the_close_fails() {
    on_both_stores(defaults, |app| {
        let (mut browser, session) = app.open_visitor(1);
        sign_in(&session, "ada");
        session.set("a", "x".repeat(40_000)).unwrap();
        session.set("b", "x".repeat(40_000)).unwrap();
        let error = app.sessions.close(&session, Outcome::Completed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        browser.take(&Adapter::new(&app.sessions).headers_on_error(&session));
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));

        // Where nothing was done before, no cookie of either kind goes out.
        let session = browser.open(&app.sessions);
        session.set("a", "x".repeat(40_000)).unwrap();
        session.set("b", "x".repeat(40_000)).unwrap();
        app.sessions.close(&session, Outcome::Completed).unwrap_err();
        assert_eq!(set_cookie(&Adapter::new(&app.sessions).headers_on_error(&session)), None);
    });
}

#[test]
fn a_destroy_after_an_ignore_counts() {
    on_both_stores(defaults, |app| {
        let mut browser = app.signed_in("ada");
        browser.request(&app.sessions, |session| {
            session.ignore().unwrap();
            session.destroy().unwrap();
        });
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn a_second_destroy_after_an_ignore_ends_the_issued_session() {
    for begin in BEGINNINGS {
        on_both_stores(defaults, |app| {
            let headers = Browser::default().request(&app.sessions, |session| {
                begin(session);
                session.destroy().unwrap();
                session.ignore().unwrap();
                session.destroy().unwrap();
            });
            assert_eq!((app.rows(), set_cookie(&headers)), (0, None));
        });
    }
}

#[test]
fn a_sign_in_after_an_ignore_carries_out_no_earlier_destroy() {
    let configure = |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(NonZeroU32::MIN, AtMaximum::Refuse)
    };
    on_both_stores(configure, |app| {
        let (_ada, mut browser) = (app.signed_in("ada"), app.signed_in("zoe"));
        let headers = browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            session.ignore().unwrap();
            assert_eq!(session.sign_in(user("ada")).unwrap(), SignIn::Refused);
        });
        assert_eq!(set_cookie(&headers), None);
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("zoe"));
        assert_eq!(app.count(EventKind::Ended), 0);
    });
}

#[test]
fn a_sign_in_ends_the_other_live_sessions_that_came_with_it() {
    type Way = fn(&App, &Session);
    let ways: [(&str, Way); 3] = [
        ("alone", |_, session| sign_in(session, "ada")),
        ("ignored afterwards", |_, session| {
            sign_in(session, "ada");
            session.ignore().unwrap();
        }),
        ("where the look for others fails", |app, session| {
            assert_eq!(session.get("n").unwrap(), Some(1));
            app.store.fail(Call::Load, 1, ErrorKind::Busy);
            let failed = session.sign_in(user("ada")).unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Busy, "one of them could be found first");
            assert_eq!(session.user().unwrap(), None);
            sign_in(session, "ada");
        }),
    ];
    for (how, way) in ways {
        on_both_stores(defaults, |app| {
            let (first, other) = (app.visitor(1), app.signed_in("zoe"));
            let ids = [first.id().reveal(), other.id().reveal()];
            let mut browser = Browser::with(ids.map(|id| format!("__Host-id={id}")).join("; "));
            browser.request(&app.sessions, |session| way(&app, session));
            assert_eq!(user_of(&app.sessions, &other), None, "{how}");
            assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"), "{how}");
            assert_eq!(app.rows(), 1, "{how}");
        });
    }
}

#[test]
fn reserved_names_cannot_be_changed() {
    on_both_stores(defaults, |app| {
        let session = app.sessions.open(None);
        let name = "cloakroom.flash";
        for error in [
            session.set(name, 1).unwrap_err(),
            session.remove(name).unwrap_err(),
            session.update(name, |n: Option<u32>| n.unwrap_or(0)).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
    });
}
