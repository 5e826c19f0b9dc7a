//! The limits of sessions, and the activity that keeps them alive.

use std::time::Duration;

use crate::common::app::{
    App, Browser, complete, on_both_stores, set_cookie, sign_in, user, user_of,
};
use crate::common::every_store;
use crate::common::faulty::Call;
use crate::common::memcached::shared;
use crate::common::{Folder, HOUR, NOW, cached_store};
use cloakroom::backend::{
    Action, Commit, CommitAnswer, Loaded, Store, StoreWrapper, Touch, TouchError,
};
use cloakroom::clock::{Clock, ManualClock, Timestamp};
use cloakroom::event::EventKind;
use cloakroom::id::SessionIdHash;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{
    CommitOutcome, Error, ErrorKind, Lifetime, MemoryStore, Result, Session, SessionManager,
    SignIn, SqliteStore,
};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn idle(limit: Duration) -> impl Fn(SessionManagerBuilder) -> SessionManagerBuilder {
    // The system clock triggers nothing; a test asks for each sweep.
    move |builder| builder.lifetime(Lifetime::idle(limit)).sweep_every(HOUR)
}

fn idle_alone(limit: Duration) -> impl Fn(SessionManagerBuilder) -> SessionManagerBuilder {
    move |builder| builder.lifetime(Lifetime::idle(limit)).without_cleaner()
}

/// A request that reads.
fn read(app: &App, browser: &Browser) -> bool {
    let session = browser.open(&app.sessions);
    let live = session.get::<u32>("n").unwrap().is_some();
    complete(&app.sessions, &session);
    live
}

/// True if the session is live; records no activity.
fn lives(app: &App, browser: &Browser) -> bool {
    look(&app.sessions, browser)
}

fn look(sessions: &SessionManager, browser: &Browser) -> bool {
    let session = browser.open(sessions);
    session.ignore().unwrap();
    session.contains("n").unwrap()
}

#[test]
fn activity_extends_a_session_and_inactivity_ends_it() {
    on_both_stores(idle(HOUR), |app| {
        let mut browser = app.visitor(1);
        for _ in 0..5 {
            app.clock.advance(HOUR - MILLI);
            assert!(read(&app, &browser));
            app.sessions.flush().unwrap();
        }
        app.clock.advance(HOUR - MILLI);
        assert!(lives(&app, &browser));
        app.clock.advance(MILLI);
        assert!(!lives(&app, &browser), "at the deadline it has ended");
        assert_eq!((app.rows(), app.live()), (1, 0));
        let headers = browser.request(&app.sessions, |s| s.set("n", 2).unwrap());
        assert!(set_cookie(&headers).is_some(), "a new one");
        assert_eq!(app.live(), 1);
    });
}

#[test]
fn constant_activity_ends_at_the_absolute_limit() {
    let lifetime = Lifetime::idle(HOUR).with_absolute(HOUR * 3);
    let configure = |builder: SessionManagerBuilder| builder.lifetime(lifetime).sweep_every(HOUR);
    on_both_stores(configure, |app| {
        let browser = app.visitor(1);
        for minutes in 1..18 {
            app.clock.set(NOW + MINUTE * 10 * minutes);
            assert!(read(&app, &browser));
            app.sessions.flush().unwrap();
        }
        app.clock.set(NOW + HOUR * 3 - MILLI);
        assert!(read(&app, &browser));
        app.clock.set(NOW + HOUR * 3);
        assert!(!read(&app, &browser));
    });
}

#[test]
fn in_fixed_mode_neither_reads_nor_writes_move_the_end() {
    let configure = |builder: SessionManagerBuilder| builder.lifetime(Lifetime::absolute(HOUR));
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        for _ in 0..59 {
            app.clock.advance(MINUTE);
            assert!(read(&app, &browser));
            browser.request(&app.sessions, |session| {
                session.update("m", |m: Option<u32>| m.unwrap_or(0) + 1).unwrap();
            });
        }
        browser.request(&app.sessions, |session| session.renew().unwrap());
        app.sessions.flush().unwrap();
        assert_eq!(app.store.calls(Call::Touch), 0);
        app.clock.set(NOW + HOUR - MILLI);
        assert!(lives(&app, &browser));
        app.clock.set(NOW + HOUR);
        assert!(!lives(&app, &browser));
    });
}

#[test]
fn a_thousand_requests_in_one_window_write_activity_once() {
    on_both_stores(idle(HOUR * 24), |app| {
        let browser = app.visitor(1);
        // A fortieth of a day.
        app.clock.advance(MINUTE * 36 - MILLI);
        (0..1000).for_each(|_| assert!(read(&app, &browser)));
        app.sessions.flush().unwrap();
        assert_eq!(app.store.touched(), 0, "not due yet");

        app.clock.advance(MILLI);
        assert!(read(&app, &browser));
        app.sessions.flush().unwrap();
        for _ in 0..999 {
            app.clock.advance(SECOND);
            assert!(read(&app, &browser));
        }
        app.sessions.flush().unwrap();
        assert_eq!((app.store.touched(), app.store.calls(Call::Touch)), (1, 1));
    });
}

#[test]
fn requests_of_one_moment_are_written_as_one_touch() {
    on_both_stores(idle(HOUR * 24), |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR);
        // While the cleaner is held up elsewhere, touches come together.
        app.during_sweep(|| {
            (0..1000).for_each(|_| assert!(read(&app, &browser)));
            assert_eq!(app.store.calls(Call::Touch), 0);
        });
        app.sessions.flush().unwrap();
        assert_eq!((app.store.touched(), app.store.calls(Call::Touch)), (1, 1));
    });
}

#[test]
fn without_a_cleaner_each_request_writes_its_activity() {
    on_both_stores(idle_alone(HOUR * 24), |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR);
        (0..1000).for_each(|_| assert!(read(&app, &browser)));
        assert_eq!((app.store.touched(), app.store.calls(Call::Touch)), (1, 1));
        app.clock.set(NOW + HOUR * 25 - MILLI);
        assert!(lives(&app, &browser));
        app.clock.set(NOW + HOUR * 25);
        assert!(!lives(&app, &browser));
        let unsupported = cloakroom::ErrorKind::Unsupported;
        assert_eq!(app.sessions.sweep_now().unwrap_err().kind(), unsupported);
        assert_eq!(app.sessions.flush().unwrap_err().kind(), unsupported);
        assert_eq!(app.rows(), 1, "nothing is swept");
    });
}

#[test]
fn a_session_never_ends_late_and_at_most_a_fortieth_early() {
    let limit = MINUTE * 40;
    for cleaner in [true, false] {
        let configure = |builder: SessionManagerBuilder| match cleaner {
            true => idle(limit)(builder),
            false => idle_alone(limit)(builder),
        };
        // Steps around a fortieth (60 s) of the limit, and far from it.
        for step in [1, 999, 20_000, 59_999, 60_000, 60_001, 119_999, 120_001, 2_399_999] {
            on_both_stores(configure, |app| {
                let browser = app.visitor(1);
                for _ in 0..100 {
                    app.clock.advance(MILLI * step);
                    assert!(read(&app, &browser));
                    if cleaner {
                        app.sessions.flush().unwrap();
                    }
                }
                let last = app.clock.now();
                app.clock.set(last + limit - limit / 40);
                assert!(lives(&app, &browser), "too early, steps of {step} ms");
                app.clock.set(last + limit);
                assert!(!lives(&app, &browser), "too late, steps of {step} ms");
            });
        }
    }
}

#[test]
fn a_confirmation_in_an_ignored_request_is_no_activity() {
    on_both_stores(idle(HOUR), |app| {
        let mut browser = app.signed_in("ada");
        app.clock.advance(HOUR / 2);
        browser.request(&app.sessions, |session| {
            session.ignore().unwrap();
            assert_eq!(session.confirm_authentication(2).unwrap(), CommitOutcome::Stored);
        });
        app.sessions.flush().unwrap();
        app.clock.advance(HOUR / 2);
        assert_eq!(user_of(&app.sessions, &browser), None, "an hour after the sign-in");
    });
}

#[test]
fn a_write_extends_a_session_only_when_activity_is_due() {
    on_both_stores(idle(HOUR), |app| {
        let mut browser = app.visitor(0);
        let mut write = |n: u32| {
            browser.request(&app.sessions, |session| session.set("n", n).unwrap());
            browser.open(&app.sessions)
        };
        app.clock.advance(SECOND * 89);
        write(1);
        app.clock.set(NOW + HOUR);
        assert_eq!(app.live(), 0, "89 s are less than a fortieth");

        app.clock.set(NOW + SECOND * 90);
        write(2);
        app.clock.set(NOW + SECOND * 90 + HOUR - MILLI);
        assert_eq!(app.live(), 1);
        app.clock.advance(MILLI);
        assert_eq!(app.live(), 0);
        assert_eq!(app.store.calls(Call::Touch), 0, "the write carried it");
    });
}

#[test]
fn a_slow_request_that_only_writes_is_active_at_its_first_use() {
    on_both_stores(idle(MINUTE * 15), |app| {
        let browser = app.visitor(1);
        app.clock.advance(MINUTE * 6);
        let session = browser.open(&app.sessions);
        session.set("n", 2).unwrap();
        app.clock.advance(MINUTE * 5);
        complete(&app.sessions, &session);
        app.sessions.flush().unwrap();
        assert_eq!(app.store.calls(Call::Touch), 0, "the write carried it");
        app.clock.set(NOW + MINUTE * 21 - MILLI);
        assert_eq!(app.live(), 1);
        app.clock.advance(MILLI);
        assert_eq!(app.live(), 0);
    });
}

#[test]
fn a_write_that_changes_nothing_is_activity_too() {
    on_both_stores(idle_alone(HOUR), |app| {
        let mut browser = app.visitor(1);
        app.clock.advance(HOUR / 2);
        browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        app.clock.advance(HOUR - MILLI);
        assert_eq!(app.live(), 1);
    });
}

#[test]
fn a_short_idle_limit_lets_each_request_write_its_activity() {
    for (limit, by_the_request) in [(SECOND * 59, 1), (SECOND * 60, 0)] {
        on_both_stores(idle(limit), |app| {
            let browser = app.visitor(1);
            app.clock.advance(SECOND * 2);
            app.during_sweep(|| {
                assert!(read(&app, &browser));
                assert_eq!(app.store.calls(Call::Touch), by_the_request, "{limit:?}");
            });
            app.sessions.flush().unwrap();
            assert_eq!(app.store.calls(Call::Touch), 1);
            app.clock.set(NOW + SECOND * 2 + limit - MILLI);
            assert!(lives(&app, &browser));
        });
    }
}

#[test]
fn activity_that_cannot_be_written_is_an_event_and_no_failure() {
    on_both_stores(idle_alone(HOUR), |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR / 2);
        app.store.fail(Call::Touch, 1, cloakroom::ErrorKind::Busy);
        assert!(read(&app, &browser));
        assert_eq!(app.count(EventKind::TouchFailed), 1);
        assert!(read(&app, &browser), "and the next request writes it");
        assert_eq!((app.count(EventKind::TouchFailed), app.store.touched()), (1, 1));
    });
}

#[test]
fn activity_is_judged_when_it_is_written() {
    on_both_stores(idle(HOUR), |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR - SECOND * 3);
        app.during_sweep(|| {
            assert!(read(&app, &browser));
            app.clock.advance(SECOND * 3);
        });
        app.sessions.flush().unwrap();
        assert_eq!(app.store.touched(), 1);
        assert!(!lives(&app, &browser), "it had ended by then, and is not brought back");
    });
}

/// The store of each kind, with the sessions in memory where it keeps some.
fn on_every_store(test: impl Fn(&dyn Fn() -> SessionManagerBuilder)) {
    test(&|| SessionManager::builder(MemoryStore::new()));
    let folder = Folder::new();
    let file = || SqliteStore::open(folder.fresh()).unwrap();
    test(&|| SessionManager::builder(file()));
    test(&|| SessionManager::builder(cached_store(MemoryCache::new(), file())));
    test(&|| SessionManager::builder(shared().store()));
    test(&|| SessionManager::builder(cached_store(shared().store(), file())));
}

type Use = fn(&Session);

/// Uses a session at `used`, and ends the request at `ended`, after the idle limit of 900 s.
fn outlast(
    builder: SessionManagerBuilder,
    cleaner: bool,
    during: Use,
    [used, ended]: [Duration; 2],
) {
    let clock = ManualClock::new(NOW);
    let limit = SECOND * 900;
    let builder = match cleaner {
        true => idle(limit)(builder),
        false => idle_alone(limit)(builder),
    };
    let sessions = builder.clock(clock.clone()).build().unwrap();
    let browser = Browser::default().after_request(&sessions, |session| {
        assert_eq!(session.sign_in(user("ada")).unwrap(), SignIn::Done);
        session.set("n", 1).unwrap();
    });
    clock.set(NOW + used);
    let slow = browser.open(&sessions);
    during(&slow);
    if cleaner {
        sessions.flush().unwrap();
    }
    clock.set(NOW + ended);
    let headers = complete(&sessions, &slow);
    assert_eq!((set_cookie(&headers), headers.discarded), (None, false));
    clock.set(NOW + used + limit - MILLI);
    assert!(look(&sessions, &browser), "it counts from its first use");
    clock.set(NOW + used + limit);
    assert!(!look(&sessions, &browser), "and not from its end");
}

#[test]
fn a_request_that_outlasts_the_idle_limit_keeps_its_session() {
    let uses: [Use; 4] = [
        |session| drop(session.user().unwrap()),
        |session| {
            session.user().unwrap();
            session.set("m", 1).unwrap();
        },
        |session| {
            session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
        },
        |session| drop(session.csrf_token().unwrap()),
    ];
    on_every_store(|builder| {
        for during in uses {
            for times in [[100, 950], [800, 1000]] {
                let times = times.map(|seconds| SECOND * seconds);
                outlast(builder(), true, during, times);
                outlast(builder(), false, during, times);
            }
        }
    });
}

#[test]
fn a_request_that_uses_its_session_too_late_revives_nothing() {
    on_both_stores(idle_alone(SECOND * 900), |app| {
        let browser = app.visitor(1);
        app.clock.advance(SECOND * 800);
        let slow = browser.open(&app.sessions);
        app.clock.advance(SECOND * 100);
        assert_eq!(slow.get::<u32>("n").unwrap(), None);
        complete(&app.sessions, &slow);
        assert_eq!((app.live(), app.store.calls(Call::Touch)), (0, 0));
    });
}

#[test]
fn within_2_s_of_the_idle_limit_activity_is_written_at_once() {
    for (left, by_the_request) in [(SECOND * 2, 1), (SECOND * 2 + MILLI, 0)] {
        on_both_stores(idle(SECOND * 900), |app| {
            let browser = app.visitor(1);
            app.clock.advance(SECOND * 900 - left);
            app.during_sweep(|| {
                let session = browser.open(&app.sessions);
                assert_eq!(session.get("n").unwrap(), Some(1));
                assert_eq!(app.store.calls(Call::Touch), by_the_request, "before its end");
                complete(&app.sessions, &session);
            });
            app.sessions.flush().unwrap();
            assert_eq!(app.store.calls(Call::Touch), 1);
        });
    }
}

/// Checks that merges come with the session as it is stored. Its cleaner can write no activity.
#[derive(Debug, Default)]
struct ChecksLoaded {
    right: MemoryStore,
}

impl StoreWrapper for ChecksLoaded {
    type Wrapped = MemoryStore;

    fn wrapped(&self) -> &MemoryStore {
        &self.right
    }

    fn wrap_commit(&self, commit: &Commit) -> Result<CommitAnswer> {
        if let Action::Merge = commit.action {
            assert!(commit.merge_into_loaded().is_some(), "the session is loaded");
            let stored = self.right.load(&commit.id_hash, commit.now)?;
            let loaded = commit.loaded.as_deref();
            assert!(matches!(stored, Loaded::Live(stored) if Some(&stored) == loaded));
        }
        self.right.commit(commit)
    }

    fn wrap_touch(&self, _: &[(SessionIdHash, Touch)], _: Timestamp) -> Result<(), TouchError> {
        Err(Error::new(ErrorKind::Busy, "write activity").into())
    }
}

#[test]
fn a_merge_has_the_loaded_session_as_it_is_stored() {
    let clock = ManualClock::new(NOW);
    let builder = idle(MINUTE * 5)(SessionManager::builder(ChecksLoaded::default()));
    let sessions = builder.clock(clock.clone()).build().unwrap();
    let browser = Browser::default().after_request(&sessions, |session| {
        session.set("n", 0).unwrap();
    });
    // The activity is not due, and then due at each first read.
    for n in [7, 14, 30] {
        clock.set(NOW + SECOND * n);
        let session = browser.open(&sessions);
        assert!(session.contains("n").unwrap());
        session.set("n", n).unwrap();
        complete(&sessions, &session);
        assert_eq!(browser.open(&sessions).get("n").unwrap(), Some(n));
    }
}

#[test]
fn activity_is_written_at_the_first_read() {
    on_both_stores(idle_alone(HOUR), |app| {
        let browser = app.visitor(1);
        app.clock.advance(MINUTE * 30);
        let session = browser.open(&app.sessions);
        assert_eq!(session.get("n").unwrap(), Some(1));
        assert_eq!((app.store.touched(), app.store.calls(Call::Touch)), (1, 1));
        app.clock.advance(MINUTE * 5);
        assert_eq!(session.get("n").unwrap(), Some(1));
        complete(&app.sessions, &session);
        assert_eq!(app.store.calls(Call::Touch), 1);
        app.clock.set(NOW + MINUTE * 90 - MILLI);
        assert_eq!(app.live(), 1);
        app.clock.advance(MILLI);
        assert_eq!(app.live(), 0, "it counts from its first use");
    });
}

#[test]
fn a_touch_that_comes_after_its_requests_commit_does_nothing() {
    every_store::on_every_store(idle(HOUR), |app| {
        let changes: [Use; 4] = [
            |session| session.set("n", 2).unwrap(),
            |session| session.renew().unwrap(),
            |session| sign_in(session, "ada"),
            |session| session.destroy().unwrap(),
        ];
        let mut clients = changes.map(|change| (change, app.visitor(1)));
        app.clock.advance(HOUR / 2);
        let control = app.store.hold(Call::Touch);
        let open = clients.each_ref().map(|(_, client)| client.open(&app.sessions));
        open.iter().for_each(|session| assert_eq!(session.get("n").unwrap(), Some(1)));
        control.wait_until_reached();
        for (session, (change, client)) in open.iter().zip(&mut clients) {
            change(session);
            client.take(&complete(&app.sessions, session));
        }
        control.open();
        app.sessions.flush().unwrap();
        let failed = [EventKind::TouchFailed, EventKind::CleanerFailed].map(|kind| app.count(kind));
        assert_eq!(failed, [0, 0]);
        app.clock.advance(HOUR - MILLI);
        let live = clients.each_ref().map(|(_, client)| lives(&app, client));
        assert_eq!(live, [true, true, true, false]);
        app.clock.advance(MILLI);
        assert!(!clients.iter().any(|(_, client)| lives(&app, client)));
    });
}

#[test]
fn a_clock_that_steps_back_changes_no_lifetime() {
    for back in [MILLI, MINUTE, HOUR * 5, HOUR * 24 * 400] {
        on_both_stores(idle(HOUR), |app| {
            let mut browser = app.visitor(1);
            app.clock.advance(HOUR / 2);
            assert!(read(&app, &browser));
            app.sessions.flush().unwrap();
            let seen = NOW + HOUR / 2;

            app.clock.set(seen - back);
            assert!(read(&app, &browser));
            browser.request(&app.sessions, |session| {
                session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
                session.renew().unwrap();
            });
            browser.request(&app.sessions, |session| session.flash("info", "x").unwrap());
            app.sessions.flush().unwrap();
            assert_eq!(app.sessions.sweep_now().unwrap(), 0);
            let other = app.visitor_after(|session| session.set("n", 1).unwrap());
            assert!(lives(&app, &other));

            app.clock.set(seen + HOUR - MILLI);
            assert!(lives(&app, &browser), "back {back:?}");
            app.clock.set(seen + HOUR);
            assert!(!lives(&app, &browser), "back {back:?}");
        });
    }
}

#[test]
fn a_clock_that_steps_back_and_forth_breaks_nothing() {
    on_both_stores(idle(HOUR), |app| {
        let browser = app.visitor(0);
        for step in 0..200u32 {
            let jump = MILLI * ((step * 7919) % 600_000);
            app.clock.set(if step % 2 == 0 { NOW + jump } else { NOW - jump });
            assert!(read(&app, &browser), "never silent for an hour");
            let session = browser.open(&app.sessions);
            session.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
            assert!(!complete(&app.sessions, &session).discarded);
        }
        app.sessions.flush().unwrap();
        assert_eq!((app.stored_n(&browser), app.count(EventKind::CleanerFailed)), (Some(200), 0));
    });
}

#[test]
fn a_clock_set_back_over_a_restart_extends_a_session_by_as_much() {
    let folder = Folder::new();
    let start = |now| {
        let (store, clock) = (SqliteStore::open(folder.database()).unwrap(), ManualClock::new(now));
        let builder = SessionManager::builder(store).clock(clock.clone());
        (idle(HOUR)(builder).build().unwrap(), clock)
    };
    let (mut browser, mut left) = (Browser::default(), Browser::default());
    let (sessions, clock) = start(NOW);
    for browser in [&mut browser, &mut left] {
        browser.request(&sessions, |session| session.set("n", 1).unwrap());
    }
    clock.advance(HOUR / 2);
    left.clone().request(&sessions, |session| session.destroy().unwrap());
    clock.advance(HOUR / 2);
    assert!(!look(&sessions, &browser));
    drop(sessions);
    for back in [MILLI, MINUTE, HOUR * 5, HOUR * 24 * 400] {
        let (sessions, clock) = start(NOW + HOUR - back);
        assert_eq!(sessions.sweep_now().unwrap(), 0);
        assert!(look(&sessions, &browser), "back {back:?}: no record says that it had ended");
        assert!(!look(&sessions, &left), "back {back:?}: what was ended stays so");
        clock.advance(back - MILLI);
        assert!(look(&sessions, &browser), "back {back:?}");
        clock.advance(MILLI);
        assert!(!look(&sessions, &browser), "back {back:?}");
    }
}

#[test]
fn limits_that_end_never_or_at_once() {
    let endless = Lifetime::idle(Duration::MAX).with_absolute(Duration::MAX);
    let configure =
        |builder: SessionManagerBuilder| builder.lifetime(endless).anonymous_lifetime(endless);
    on_both_stores(configure, |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR * 24 * 365 * 1000);
        assert!(read(&app, &browser));
    });
    on_both_stores(idle(MILLI), |app| {
        let browser = app.visitor(1);
        assert!(lives(&app, &browser));
        app.clock.advance(MILLI);
        assert!(!read(&app, &browser));
    });
    for none in [Lifetime::idle(Duration::ZERO), Lifetime::absolute(Duration::from_micros(1))] {
        let builder = cloakroom::SessionManager::builder(cloakroom::MemoryStore::new());
        let kind = builder.lifetime(none).build().unwrap_err().kind();
        assert_eq!(kind, cloakroom::ErrorKind::Invalid);
    }
}
