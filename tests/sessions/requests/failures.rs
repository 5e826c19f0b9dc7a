//! A store that fails, data that is too large, a row that does not decode.

use cloakroom::adapter::{Adapter, Outcome};
use cloakroom::event::EventKind;
use cloakroom::manager::{OnLoadFailure, SessionManagerBuilder};
use cloakroom::{CommitOutcome, ErrorKind, Session};

use crate::common::Storage;
use crate::common::app::{
    App, Browser, REMOVAL, complete, defaults, get, issued, on_both_stores, set_cookie, sign_in,
    user, user_of,
};
use crate::common::faulty::{Call, Fault};

#[test]
fn a_store_that_fails_at_the_end_is_an_error_and_no_cookie() {
    on_both_stores(defaults, |app| {
        let kinds = [
            (ErrorKind::Busy, 503),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::Full, 500),
            (ErrorKind::Corrupt, 500),
            (ErrorKind::ReadOnly, 500),
        ];
        for (index, (kind, status)) in kinds.into_iter().enumerate() {
            let session = app.sessions.open(None);
            session.set("n", 1).unwrap();
            app.store.fail(Call::Commit, 1, kind);
            let error = app.sessions.close(&session, Outcome::Completed).unwrap_err();
            let reported = (error.kind(), Adapter::new(&app.sessions).report_error(&error));
            assert_eq!(reported, (kind, status));
            assert_eq!(app.count(EventKind::RequestFailed), index as u64 + 1);
            let again = app.sessions.close(&session, Outcome::Completed).unwrap_err();
            assert_eq!(again.kind(), ErrorKind::Closed);
            assert_eq!(app.rows(), 0);
        }
        // An old session keeps what it had.
        let mut browser = app.visitor(1);
        app.store.fail(Call::Commit, 1, ErrorKind::Full);
        let set = |session: &Session| session.set("n", 2).unwrap();
        browser.try_request(&app.sessions, Outcome::Completed, set).unwrap_err();
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn the_status_of_an_error_can_be_chosen() {
    let configure = |builder: SessionManagerBuilder| builder.error_status(|_| 507);
    on_both_stores(configure, |app| {
        let error = cloakroom::Error::new(ErrorKind::Full, "test");
        assert_eq!(Adapter::new(&app.sessions).report_error(&error), 507);
    });
}

#[test]
fn a_destroy_that_fails_is_an_error_and_keeps_the_cookie() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
        let destroy = |session: &Session| session.destroy().unwrap();
        let error = browser.try_request(&app.sessions, Outcome::Panicked, destroy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn a_commit_that_fails_is_tried_again_at_the_end() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        app.store.fail(Call::Commit, 1, ErrorKind::Busy);
        browser.request(&app.sessions, |session| {
            session.set("n", 2).unwrap();
            assert_eq!(session.commit().unwrap_err().kind(), ErrorKind::Busy);
            assert_eq!(session.get("n").unwrap(), Some(2));
        });
        assert_eq!(app.stored_n(&browser), Some(2));
        // And a destroy.
        app.store.fail(Call::Commit, 1, ErrorKind::Busy);
        let headers = browser.request(&app.sessions, |session| {
            session.destroy().unwrap();
            assert_eq!(session.commit().unwrap_err().kind(), ErrorKind::Busy);
        });
        assert_eq!((set_cookie(&headers), app.rows()), (Some(REMOVAL), 0));
    });
}

#[test]
fn a_store_that_panics_in_a_request_breaks_nothing_for_the_next() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        for call in [Call::Load, Call::Commit] {
            app.store.plan(call, Fault::Panic);
            let session = browser.open(&app.sessions);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
                complete(&app.sessions, &session);
            }));
            assert!(caught.is_err());
            assert_eq!(app.stored_n(&browser), Some(1));
        }
    });
}

#[test]
fn a_failed_load_is_an_error_and_never_a_cookie() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let reads: [fn(&Session) -> cloakroom::Result<()>; 8] = [
            |session| session.get::<u32>("n").map(drop),
            |session| session.contains("n").map(drop),
            |session| session.names().map(drop),
            |session| session.take::<u32>("n").map(drop),
            |session| session.user().map(drop),
            |session| session.flashes().map(drop),
            |session| session.update("n", |_: Option<u32>| 2).map(drop),
            |session| session.sign_in(user("ada")).map(drop),
        ];
        for read in reads {
            app.store.fail(Call::Load, 1, ErrorKind::Unavailable);
            let session = browser.open(&app.sessions);
            let error = read(&session).unwrap_err();
            let reported = (error.kind(), app.sessions.status_of(&error));
            assert_eq!(reported, (ErrorKind::Unavailable, 503));
            // A handler may swallow it.
            let headers = complete(&app.sessions, &session);
            assert_eq!((set_cookie(&headers), headers.vary_on.as_deref()), (None, Some("Cookie")));
        }
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(1), 1));
        assert_eq!(user_of(&app.sessions, &browser), None);
    });
}

fn reading_as_empty(
    builder: cloakroom::manager::SessionManagerBuilder,
) -> cloakroom::manager::SessionManagerBuilder {
    builder.on_load_failure(OnLoadFailure::TreatAsAnonymous)
}

#[test]
fn treat_as_anonymous_sees_nothing_and_refuses_every_change() {
    on_both_stores(reading_as_empty, |app| {
        let browser = app.signed_in("ada");
        let commits = app.store.calls(Call::Commit);
        app.store.fail(Call::Load, 1, ErrorKind::Busy);
        let session = browser.open(&app.sessions);
        assert_eq!(session.user().unwrap(), None);
        assert_eq!(session.get::<u32>("n").unwrap(), None);
        assert!(session.names().unwrap().is_empty() && session.flashes().unwrap().is_empty());
        let unavailable = |result: cloakroom::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
        };
        unavailable(session.set("n", 1));
        unavailable(session.remove("n"));
        unavailable(session.clear());
        unavailable(session.update("n", |_: Option<u32>| 1).map(drop));
        unavailable(session.flash("info", "x"));
        unavailable(session.renew());
        unavailable(session.sign_in(user("ben")).map(drop));
        unavailable(session.commit().map(drop));
        let headers = complete(&app.sessions, &session);
        assert_eq!(set_cookie(&headers), None);
        assert_eq!(app.count(EventKind::TreatedAsAnonymous), 1, "once a request");
        assert_eq!(app.store.calls(Call::Commit), commits);
        assert_eq!(
            user_of(&app.sessions, &browser).as_deref(),
            Some("ada"),
            "the next one is fine"
        );
    });
}

#[test]
fn treat_as_anonymous_refuses_a_change_as_the_first_load() {
    on_both_stores(reading_as_empty, |app| {
        let browser = app.visitor(1);
        let changes: [fn(&Session) -> cloakroom::Result<()>; 3] = [
            |session| session.update("n", |_: Option<u32>| 2).map(drop),
            |session| session.sign_in(user("ada")).map(drop),
            |session| session.flash("info", "x"),
        ];
        for change in changes {
            app.store.fail(Call::Load, 1, ErrorKind::Busy);
            let session = browser.open(&app.sessions);
            let error = change(&session).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(!error.has_unknown_outcome());
            assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
        }
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(1), 1));
    });
}

#[test]
fn treat_as_anonymous_repeats_the_failed_load_of_a_commit() {
    on_both_stores(reading_as_empty, |app| {
        let browser = app.visitor(1);
        let session = browser.open(&app.sessions);
        session.set("n", 2).unwrap();
        app.store.fail(Call::Load, 1, ErrorKind::Busy);
        assert_eq!(session.commit().unwrap_err().kind(), ErrorKind::Busy);
        session.set("m", 3).unwrap();
        complete(&app.sessions, &session);
        assert_eq!(app.stored_n(&browser), Some(2));
        assert_eq!(get(&app.sessions, &browser, "m"), Some(3));
        assert_eq!(app.count(EventKind::TreatedAsAnonymous), 0);
    });
}

#[test]
fn treat_as_anonymous_does_not_drop_an_earlier_change() {
    on_both_stores(reading_as_empty, |app| {
        let mut browser = app.visitor(1);
        let set_then_read = |session: &Session| {
            session.set("m", 2).unwrap();
            assert_eq!(session.get::<u32>("n").unwrap(), None);
        };
        app.store.fail(Call::Load, 1, ErrorKind::Busy);
        let closed = browser.try_request(&app.sessions, Outcome::Completed, set_then_read);
        let error = closed.unwrap_err();
        assert_eq!((error.kind(), error.has_unknown_outcome()), (ErrorKind::Unavailable, false));
        assert_eq!(get::<u32>(&app.sessions, &browser, "m"), None);
        // Changes that would be discarded anyway are no loss.
        app.store.fail(Call::Load, 1, ErrorKind::Busy);
        let closed = browser.try_request(&app.sessions, Outcome::ServerError, set_then_read);
        assert_eq!(set_cookie(&closed.unwrap()), None);
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn data_that_would_be_too_large_is_refused_and_the_old_stays() {
    let configure = |builder: SessionManagerBuilder| builder.max_bytes(1000);
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            let error = session.set("big", "x".repeat(10 << 20)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            session.set("n", 2).unwrap();
        });
        assert_eq!(app.stored_n(&browser), Some(2));

        // Each value is small enough, all of them are not: in an old session and in a new one.
        for mut browser in [browser.clone(), Browser::default()] {
            let fill = |session: &Session| {
                (0..20).for_each(|i| session.set(&format!("k{i}"), "x".repeat(90)).unwrap());
            };
            let error = browser.try_request(&app.sessions, Outcome::Completed, fill).unwrap_err();
            assert_eq!((error.kind(), app.sessions.status_of(&error)), (ErrorKind::TooLarge, 500));
            let updates = |session: &Session| {
                let too_large = session.update("u", |_: Option<String>| "x".repeat(2000));
                assert_eq!(too_large.unwrap_err().kind(), ErrorKind::TooLarge);
                (0..20).for_each(|i| {
                    session.update(&format!("k{i}"), |_: Option<String>| "x".repeat(90)).unwrap();
                });
            };
            let error =
                browser.try_request(&app.sessions, Outcome::Completed, updates).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
        }
        assert_eq!((app.stored_n(&browser), app.rows()), (Some(2), 1));

        // One byte decides: {"a":"…"} has 8 besides the value.
        let fits = |len: usize| {
            let set = |session: &Session| session.set("a", "x".repeat(len)).unwrap();
            Browser::default().try_request(&app.sessions, Outcome::Completed, set)
        };
        fits(1000 - 8).unwrap();
        assert_eq!(fits(1000 - 7).unwrap_err().kind(), ErrorKind::TooLarge);
    });
}

#[test]
fn the_default_limit_is_64_kilobytes() {
    on_both_stores(defaults, |app| {
        let fits = |len: usize| {
            let session = app.sessions.open(None);
            session.set("a", "x".repeat(len)).unwrap();
            app.sessions.close(&session, Outcome::Completed)
        };
        fits(65_536 - 8).unwrap();
        assert_eq!(fits(65_536 - 7).unwrap_err().kind(), ErrorKind::TooLarge);
    });
}

/// The stored row, as another program sees it.
fn row(app: &App) -> (String, i64, i64) {
    let other =
        cloakroom::stores::sqlite::rusqlite::Connection::open(app.folder.database()).unwrap();
    let sql = "SELECT data, revision, seen FROM cloakroom_sessions WHERE data = 'no JSON'";
    other.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

fn spoil(app: &App) {
    let other =
        cloakroom::stores::sqlite::rusqlite::Connection::open(app.folder.database()).unwrap();
    other.execute("UPDATE cloakroom_sessions SET data = 'no JSON'", []).unwrap();
}

#[test]
fn an_undecodable_row_stays_beside_a_new_session() {
    for read_before in [true, false] {
        let app = App::new(Storage::File, defaults);
        let mut browser = app.signed_in("ada");
        let old = browser.clone();
        spoil(&app);
        let before = row(&app);
        app.clock.advance(crate::common::HOUR);

        let headers = browser.request(&app.sessions, |session| {
            assert_eq!(session.get::<u32>("n").unwrap(), None);
            assert_eq!(session.user().unwrap(), None);
        });
        assert_eq!(set_cookie(&headers), None, "a roll-back may find it again");
        assert_eq!(app.count(EventKind::Undecodable), 1, "once a request");

        let headers = browser.request(&app.sessions, |session| {
            if read_before {
                assert_eq!(session.get::<u32>("n").unwrap(), None);
            }
            session.set("n", 1).unwrap();
        });
        assert_ne!(issued(&headers).0, old.id());
        assert!(!headers.discarded);
        assert_eq!((app.stored_n(&browser), app.count(EventKind::Undecodable)), (Some(1), 2));
        app.sessions.flush().unwrap();
        assert_eq!(app.sessions.sweep_now().unwrap(), 0);
        assert_eq!(row(&app), before);

        // The next request is clean; at its deadline the old row goes.
        browser.request(&app.sessions, |session| assert_eq!(session.get("n").unwrap(), Some(1)));
        assert_eq!(app.count(EventKind::Undecodable), 2);
        app.clock.advance(crate::common::HOUR * 23);
        assert_eq!(app.sessions.sweep_now().unwrap(), 1);
        assert_eq!(app.stored_n(&browser), Some(1));
    }
}

#[test]
fn a_sign_in_spares_an_undecodable_row_and_a_destroy_ends_it() {
    let app = App::new(Storage::File, defaults);
    let mut browser = app.visitor(1);
    let old = browser.clone();
    spoil(&app);
    browser.request(&app.sessions, |session| sign_in(session, "ada"));
    assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
    assert_eq!(row(&app).0, "no JSON");
    let headers = old.clone().request(&app.sessions, |session| session.destroy().unwrap());
    assert_eq!((set_cookie(&headers), app.rows()), (Some(REMOVAL), 1));
}

#[test]
fn a_session_that_stops_decoding_in_a_request_takes_no_changes() {
    let app = App::new(Storage::File, defaults);
    let (_, session) = app.open_visitor(1);
    session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
    spoil(&app);
    assert_eq!(session.commit().unwrap(), CommitOutcome::Discarded);
    let headers = complete(&app.sessions, &session);
    assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
    assert_eq!(app.rows(), 1);
}
