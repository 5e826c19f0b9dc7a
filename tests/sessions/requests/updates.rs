//! Updates that use their own session, and those that are stored at once.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use cloakroom::adapter::{Adapter, Outcome};
use cloakroom::{ErrorKind, Session};

use crate::common::app::{complete, defaults, get, on_both_stores, user};
use crate::common::faulty::Call;

fn add_one(n: Option<u32>) -> u32 {
    n.unwrap_or(0) + 1
}

/// Calls `use_it` from within an update of the session, and says what that returned.
fn from_within<T: Send + 'static>(
    session: &Arc<Session>,
    use_it: impl Fn(&Session) -> T + Send + 'static,
) -> T {
    let (sender, received) = channel();
    let own = session.clone();
    let updated = session.update("n", move |n: Option<u32>| {
        // When it is computed again, the receiver is gone.
        drop(sender.send(use_it(&own)));
        add_one(n)
    });
    assert_eq!(updated.unwrap(), 2);
    session.remove("n").unwrap();
    session.set("n", 1).unwrap();
    received.recv().unwrap()
}

fn assert_refused<T: Debug + Send + 'static>(
    session: &Arc<Session>,
    use_it: impl Fn(&Session) -> cloakroom::Result<T> + Send + 'static,
) {
    assert_eq!(from_within(session, use_it).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn an_update_that_uses_its_own_session_gets_an_error() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let session = Arc::new(browser.open(&app.sessions));
        assert_refused(&session, |own| own.get::<u32>("n"));
        assert_refused(&session, |own| own.contains("n"));
        assert_refused(&session, |own| own.names());
        assert_refused(&session, |own| own.set("n", 1));
        assert_refused(&session, |own| own.remove("n"));
        assert_refused(&session, |own| own.take::<u32>("n"));
        assert_refused(&session, |own| own.clear());
        assert_refused(&session, |own| own.update("n", add_one));
        assert_refused(&session, |own| own.update_now("n", add_one));
        assert_refused(&session, |own| own.user());
        assert_refused(&session, |own| own.authenticated_at());
        assert_refused(&session, |own| own.public_id());
        assert_refused(&session, |own| own.auth_level());
        assert_refused(&session, |own| own.recent_auth(Duration::ZERO));
        assert_refused(&session, |own| own.set_persistent(true));
        assert_refused(&session, |own| own.renew());
        assert_refused(&session, |own| own.destroy());
        assert_refused(&session, |own| own.ignore());
        assert_refused(&session, |own| own.commit());
        assert_refused(&session, |own| own.sign_in(user("ada")));
        assert_refused(&session, |own| own.csrf_token());
        assert_refused(&session, |own| own.csrf_field());
        assert_refused(&session, |own| own.flash("info", "text"));
        assert_refused(&session, |own| own.flashes());
        assert_refused(&session, |own| own.keep_flashes(&[]));
        let token = session.csrf_token().unwrap();
        assert_refused(&session, move |own| own.verify_csrf(&token));
        let sessions = app.sessions.clone();
        assert_refused(&session, move |own| sessions.close(own, Outcome::Completed));
        assert!(from_within(&session, |own| own.is_changed()));
        assert!(from_within(&session, |own| format!("{own:?}")).starts_with("Session"));
        let sessions = app.sessions.clone();
        assert_eq!(
            from_within(&session, move |own| Adapter::new(&sessions).headers_on_error(own))
                .id_fields,
            []
        );
        complete(&app.sessions, &session);
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn an_update_computed_again_gets_an_error_of_its_own_session() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        let session = Arc::new(browser.open(&app.sessions));
        let (sender, received) = channel();
        let own = session.clone();
        let update = move |n: Option<u32>| {
            sender.send(own.get::<u32>("n").unwrap_err().kind()).unwrap();
            add_one(n)
        };
        session.update("n", update).unwrap();
        browser.request(&app.sessions, |parallel| parallel.set("n", 10).unwrap());
        complete(&app.sessions, &session);
        let errors: Vec<_> = received.try_iter().collect();
        assert_eq!(errors, [ErrorKind::Invalid; 2], "once at once, and once at the end");
        assert_eq!(app.stored_n(&browser), Some(11));
    });
}

#[test]
fn an_update_waits_for_one_on_another_thread() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let session = Arc::new(browser.open(&app.sessions));
        let (begun, is_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        let may_go_on = std::sync::Mutex::new(may_go_on);
        thread::scope(|scope| {
            let own = session.clone();
            scope.spawn(move || {
                let slow = move |n: Option<u32>| {
                    begun.send(()).unwrap();
                    may_go_on.lock().unwrap().recv().unwrap();
                    add_one(n)
                };
                assert_eq!(own.update("n", slow).unwrap(), 2);
            });
            is_begun.recv().unwrap();
            let own = session.clone();
            let other = scope.spawn(move || own.update("n", add_one));
            go_on.send(()).unwrap();
            assert_eq!(other.join().unwrap().unwrap(), 3);
        });
    });
}

#[test]
fn an_update_may_use_another_session() {
    on_both_stores(defaults, |app| {
        let (browser, other) = (app.visitor(1), app.visitor(10));
        let session = browser.open(&app.sessions);
        let other = Arc::new(other.open(&app.sessions));
        let theirs = other.clone();
        let sum = move |n: Option<u32>| n.unwrap() + theirs.update("n", add_one).unwrap();
        assert_eq!(session.update("n", sum).unwrap(), 12);
        assert_eq!(other.get("n").unwrap(), Some(11));
    });
}

thread_local! {
    /// The session that code uses that cannot receive it as an argument.
    static CURRENT: RefCell<Option<Arc<Session>>> = const { RefCell::new(None) };
}

fn current() -> Arc<Session> {
    CURRENT.with_borrow(|session| session.clone().unwrap())
}

/// A value whose own code counts in the session how often it is written and read.
#[derive(Debug)]
struct Counted;

impl serde::Serialize for Counted {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        current().update("written", add_one).map_err(serde::ser::Error::custom)?;
        serializer.serialize_u32(7)
    }
}

impl<'de> serde::Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        current().update("read", add_one).map_err(serde::de::Error::custom)?;
        u32::deserialize(deserializer).map(|_| Counted)
    }
}

#[test]
fn a_value_may_use_the_session_when_it_is_set_or_read() {
    on_both_stores(defaults, |app| {
        let session = Arc::new(app.sessions.open(None));
        CURRENT.set(Some(session.clone()));
        session.set("x", Counted).unwrap();
        assert!(session.get::<Counted>("x").unwrap().is_some());
        let numbers = ["written", "read"].map(|name| session.get::<u32>(name).unwrap());
        assert_eq!(numbers, [Some(1); 2]);
        // In an update it is as in the closure.
        let error = session.update("x", |_: Option<Counted>| Counted).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongType);
        CURRENT.set(None);
    });
}

#[test]
fn a_session_is_usable_after_an_update_that_panicked() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let session = Arc::new(browser.open(&app.sessions));
        let own = session.clone();
        let panicking = move |_: Option<u32>| own.get::<u32>("n").unwrap().unwrap();
        let update = std::panic::AssertUnwindSafe(|| session.update("n", panicking));
        std::panic::catch_unwind(update).unwrap_err();
        assert_eq!(session.update("n", add_one).unwrap(), 2);
        complete(&app.sessions, &session);
        assert_eq!(app.stored_n(&browser), Some(2));
    });
}

#[test]
fn of_parallel_updates_stored_at_once_one_is_the_first() {
    on_both_stores(defaults, |app| {
        for _ in 0..20 {
            let browser = app.visitor(0);
            let barrier = Barrier::new(4);
            let mut uses: Vec<u32> = thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| {
                            let session = browser.open(&app.sessions);
                            assert_eq!(session.get("n").unwrap(), Some(0));
                            barrier.wait();
                            let uses = session.update_now("uses", add_one).unwrap();
                            complete(&app.sessions, &session);
                            uses.unwrap()
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            uses.sort_unstable();
            assert_eq!(uses, [1, 2, 3, 4]);
        }
    });
}

#[test]
fn threads_of_one_request_get_a_result_each_from_update_now() {
    on_both_stores(defaults, |app| {
        let (_, session) = app.open_visitor(0);
        let mut uses: Vec<u32> = thread::scope(|scope| {
            let update = || session.update_now("uses", add_one).unwrap().unwrap();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(update)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        uses.sort_unstable();
        assert_eq!(uses, [1, 2, 3, 4]);
    });
}

#[test]
fn update_now_returns_what_it_stored_over_a_parallel_change() {
    on_both_stores(defaults, |app| {
        let (mut browser, session) = app.open_visitor(1);
        assert_eq!(session.get("n").unwrap(), Some(1));
        session.set("before", 1).unwrap();
        browser.request(&app.sessions, |parallel| parallel.set("n", 10).unwrap());
        assert_eq!(session.update_now("n", add_one).unwrap(), Some(11));
        assert!(!session.is_changed());
        assert_eq!(get(&app.sessions, &browser, "before"), Some(1), "it is stored with it");
        app.sessions.close(&session, Outcome::Panicked).unwrap();
        assert_eq!(app.stored_n(&browser), Some(11));
    });
}

#[test]
fn update_now_begins_a_session_where_there_is_none() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor_after(|session| {
            assert_eq!(session.update_now("n", add_one).unwrap(), Some(1));
            assert_eq!(app.rows(), 1);
        });
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn update_now_of_a_session_that_has_ended_returns_none() {
    on_both_stores(defaults, |app| {
        let (mut browser, late) = app.open_visitor(1);
        assert_eq!(late.get("n").unwrap(), Some(1));
        browser.request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!(late.update_now("n", add_one).unwrap(), None);
        assert_eq!(late.update_now("n", add_one).unwrap(), None, "nor the next one");
        assert!(complete(&app.sessions, &late).discarded);
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn update_now_of_a_session_that_was_renewed_returns_none() {
    on_both_stores(defaults, |app| {
        let (mut browser, late) = app.open_visitor(1);
        assert_eq!(late.get("n").unwrap(), Some(1));
        browser.request(&app.sessions, |session| session.renew().unwrap());
        assert_eq!(late.update_now("n", add_one).unwrap(), None);
        complete(&app.sessions, &late);
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn update_now_of_an_ignored_session_returns_none() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            session.ignore().unwrap();
            assert_eq!(session.update_now("n", add_one).unwrap(), None);
        });
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn update_now_that_is_not_stored_is_not_stored_later() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            session.update("n", |n: Option<u32>| n.unwrap() + 10).unwrap();
            session.set("other", 1).unwrap();
            app.store.fail(Call::Commit, 1, ErrorKind::Busy);
            assert_eq!(session.update_now("n", add_one).unwrap_err().kind(), ErrorKind::Busy);
            assert_eq!(session.get("n").unwrap(), Some(11), "the update before it goes on");
        });
        assert_eq!(app.stored_n(&browser), Some(11));
        assert_eq!(get(&app.sessions, &browser, "other"), Some(1));
    });
}

#[test]
fn update_now_alone_that_is_not_stored_leaves_no_change() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            app.store.fail(Call::Commit, 1, ErrorKind::Busy);
            session.update_now("n", add_one).unwrap_err();
            assert!(!session.is_changed());
        });
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn update_now_that_is_not_stored_runs_no_earlier_update() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            let runs = AtomicU32::new(0);
            let only_once = move |_: Option<f64>| match runs.fetch_add(1, Ordering::Relaxed) {
                0 => 1.5,
                _ => f64::NAN, // which cannot be stored
            };
            session.update("other", only_once).unwrap();
            app.store.fail(Call::Commit, 1, ErrorKind::Busy);
            assert_eq!(session.update_now("n", add_one).unwrap_err().kind(), ErrorKind::Busy);
            assert_eq!(session.get("n").unwrap(), Some(1));
        });
        assert_eq!(app.stored_n(&browser), Some(1));
        assert_eq!(browser.open(&app.sessions).get("other").unwrap(), Some(1.5));
    });
}

#[test]
fn update_now_of_a_value_that_cannot_be_stored_is_refused() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        browser.request(&app.sessions, |session| {
            let error = session.update_now("x", |_: Option<f64>| f64::NAN).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongType);
            let error = session.update_now("cloakroom.flash", add_one).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(!session.is_changed());
        });
        let session = browser.open(&app.sessions);
        complete(&app.sessions, &session);
        assert_eq!(session.update_now("n", add_one).unwrap_err().kind(), ErrorKind::Closed);
    });
}
