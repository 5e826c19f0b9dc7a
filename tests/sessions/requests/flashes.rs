//! Messages for the next page.

use cloakroom::adapter::Outcome;
use cloakroom::backend::CommitAnswer;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{ErrorKind, Flash, Session};

use crate::common::app::{App, Browser, complete, defaults, get, on_both_stores, set_cookie};
use crate::common::faulty::Call;
use crate::common::{Storage, merge, setting};

pub(super) fn texts(session: &Session) -> Vec<String> {
    session.flashes().unwrap().into_iter().map(|flash| flash.text).collect()
}

#[test]
fn a_flash_is_read_in_the_second_request_and_gone_in_the_third() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| {
            session.flash("info", "saved").unwrap();
            session.flash("error", "or not").unwrap();
        });
        browser.request(&app.sessions, |session| {
            let flashes = session.flashes().unwrap();
            let seen: Vec<_> = flashes.iter().map(|f| (f.kind.as_str(), f.text.as_str())).collect();
            assert_eq!(seen, [("info", "saved"), ("error", "or not")]);
            assert!(session.flashes().unwrap().is_empty(), "once");
            assert!(session.names().unwrap().is_empty(), "the application's names only");
        });
        browser.request(&app.sessions, |session| assert!(texts(session).is_empty()));
    });
}

#[test]
fn a_request_that_does_not_read_flashes_does_not_eat_them() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| session.flash("info", "saved").unwrap());
        browser.request(&app.sessions, |session| assert!(!session.contains("n").unwrap()));
        browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["saved"]));
    });
}

#[test]
fn flashes_that_are_kept_come_once_more() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| session.flash("info", "saved").unwrap());
        browser.request(&app.sessions, |session| {
            let flashes = session.flashes().unwrap();
            session.keep_flashes(&flashes).unwrap();
        });
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["saved"]));
        browser.request(&app.sessions, |session| assert!(texts(session).is_empty()));
    });
}

#[test]
fn a_page_that_fails_leaves_the_flashes_it_read() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| session.flash("info", "saved").unwrap());
        let read = |session: &Session| assert_eq!(texts(session), ["saved"]);
        browser.try_request(&app.sessions, cloakroom::adapter::Outcome::Panicked, read).unwrap();
        browser.request(&app.sessions, read);
    });
}

#[test]
fn reading_flashes_removes_only_what_was_read() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| session.flash("info", "same").unwrap());
        let reader = browser.open(&app.sessions);
        assert_eq!(texts(&reader), ["same"]);
        // An equal text is another message all the same.
        browser.request(&app.sessions, |session| session.flash("info", "same").unwrap());
        browser.request(&app.sessions, |session| session.flash("info", "new").unwrap());
        complete(&app.sessions, &reader);
        browser.request(&app.sessions, |session| assert_eq!(texts(session), ["same", "new"]));
    });
}

#[test]
fn messages_of_parallel_requests_are_all_kept() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let writers: Vec<_> = (0..5)
            .map(|number| {
                let session = browser.open(&app.sessions);
                session.flash("info", format!("{number}")).unwrap();
                session
            })
            .collect();
        for session in &writers {
            complete(&app.sessions, session);
        }
        let session = browser.open(&app.sessions);
        assert_eq!(texts(&session), ["0", "1", "2", "3", "4"]);
    });
}

#[test]
fn no_flashes_are_read_without_a_write() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let commits = app.store.calls(Call::Commit);
        let headers = browser.request(&app.sessions, |session| assert!(texts(session).is_empty()));
        assert_eq!((set_cookie(&headers), app.store.calls(Call::Commit)), (None, commits));
    });
}

/// A session that others have filled with messages, as it could be stored before they had a limit.
fn with_stored_flashes(app: &App, count: usize) -> Browser {
    let flash = |n: usize| {
        let mark = format!("{n:032x}");
        serde_json::json!({ "kind": "info", "text": format!("{n:090}"), "mark": mark })
    };
    let flashes: Vec<_> = (0..count).map(flash).collect();
    let browser = app.visitor(1);
    let delta = setting("cloakroom.flash", flashes);
    let merged =
        merge(&app.store, &browser.id().hash(cloakroom::id::Realm::default().tag()), &delta)
            .unwrap();
    assert!(matches!(merged, CommitAnswer::Done { .. }));
    browser
}

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| n.to_string()).collect()
}

#[test]
fn the_newest_flashes_of_one_request_are_kept() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| {
            (0..10_000).for_each(|n| session.flash("info", n.to_string()).unwrap());
        });
        let newest = numbers(10_000 - Flash::MAX, 10_000);
        browser.request(&app.sessions, |session| assert_eq!(texts(session), newest));
    });
}

#[test]
fn the_newest_flashes_of_many_requests_are_kept() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        for n in 0..1000 {
            let flash = |session: &Session| session.flash("info", n.to_string()).unwrap();
            browser.request(&app.sessions, flash);
        }
        let newest = numbers(1000 - Flash::MAX, 1000);
        browser.request(&app.sessions, |session| assert_eq!(texts(session), newest));
    });
}

#[test]
fn large_flashes_make_room_for_newer_ones() {
    on_both_stores(defaults, |app| {
        let mut browser = Browser::default();
        let text = |n: usize| format!("{n:05}").repeat(600);
        browser.request(&app.sessions, |session| {
            (0..20).for_each(|n| session.flash("info", text(n)).unwrap());
        });
        browser.request(&app.sessions, |session| {
            assert_eq!(texts(session), (15..20).map(text).collect::<Vec<_>>());
        });
    });
}

#[test]
fn a_flash_above_the_limit_is_refused() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| {
            session.flash("info", "small").unwrap();
            let error = session.flash("info", "x".repeat(Flash::MAX_BYTES)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
            // The JSON around a text: [{"kind":"info","text":"","mark":"…"},]
            session.flash("info", "x".repeat(Flash::MAX_BYTES - 70)).unwrap();
            let error = session.flash("info", "x".repeat(Flash::MAX_BYTES - 69)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge);
        });
        browser.request(&app.sessions, |session| {
            assert_eq!(texts(session), ["x".repeat(Flash::MAX_BYTES - 70)]);
        });
    });
}

#[test]
fn unread_flashes_leave_room_for_everything_else() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor_after(|session| {
            (0..5).for_each(|_| session.flash("info", "x".repeat(3000)).unwrap());
            // {"a":"…"} has 8 bytes besides the value.
            session.set("a", "x".repeat(65_536 - 1000)).unwrap();
        });
        browser.request(&app.sessions, |session| {
            session.csrf_token().unwrap();
            session.set("small", 1).unwrap();
            session.flash("info", "y".repeat(3000)).unwrap();
        });
        browser.request(&app.sessions, |session| assert_eq!(texts(session).len(), 5));
        assert_eq!(get(&app.sessions, &browser, "small"), Some(1));
    });
}

#[test]
fn flashes_need_no_room_of_a_small_session() {
    let configure = |builder: SessionManagerBuilder| builder.max_bytes(100);
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            session.flash("info", "x".repeat(1000)).unwrap();
            session.set("a", "x".repeat(80)).unwrap();
        });
        browser.request(&app.sessions, |session| assert_eq!(texts(session).len(), 1));
        let too_large = |session: &Session| session.set("b", "x".repeat(80)).unwrap();
        let closed = browser.try_request(&app.sessions, Outcome::Completed, too_large);
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::TooLarge);
    });
}

#[test]
fn a_session_full_of_flashes_from_before_goes_on() {
    on_both_stores(defaults, |app| {
        let mut browser = with_stored_flashes(&app, 700);
        browser.request(&app.sessions, |session| {
            session.csrf_token().unwrap();
            session.set("small", 1).unwrap();
        });
        browser.request(&app.sessions, |session| session.flash("info", "new").unwrap());
        browser.request(&app.sessions, |session| {
            let texts = texts(session);
            assert_eq!((texts.len(), texts.last().unwrap().as_str()), (Flash::MAX, "new"));
        });
    });
}

#[test]
fn kept_flashes_obey_the_limit() {
    on_both_stores(defaults, |app| {
        let mut browser = with_stored_flashes(&app, 100);
        browser.request(&app.sessions, |session| {
            let flashes = session.flashes().unwrap();
            assert_eq!(flashes.len(), 100);
            session.keep_flashes(&flashes).unwrap();
        });
        browser.request(&app.sessions, |session| {
            assert_eq!(texts(session).len(), Flash::MAX);
        });
    });
}

#[test]
fn the_debug_output_of_a_flash_hides_its_text() {
    let app = App::new(Storage::Memory, defaults);
    let session = app.sessions.open(None);
    session.flash("info", "secret").unwrap();
    let flashes = session.flashes().unwrap();
    assert_eq!(format!("{flashes:?}"), "[Flash { kind: \"info\", text: 6 bytes, .. }]");
}

#[test]
fn flashes_left_by_a_reader_may_exceed_the_session_limit() {
    let configure = |builder: SessionManagerBuilder| builder.max_bytes(100);
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| session.flash("info", "old").unwrap());
        let reader = browser.open(&app.sessions);
        assert_eq!(texts(&reader), ["old"]);
        let long = "x".repeat(1000);
        browser.request(&app.sessions, |session| session.flash("info", &*long).unwrap());
        complete(&app.sessions, &reader);
        browser.request(&app.sessions, |session| assert_eq!(texts(session), [&*long]));
    });
}
