//! The cleaner of a manager sweeps, writes touches, recovers from failures, and stops.

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::app::{App, Browser, complete, on_both_stores};
use crate::common::faulty::{Call, Fault};
use crate::common::{HOUR, NOW, Storage};
use cloakroom::clock::Clock;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{ErrorKind, Lifetime};

const MILLI: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

/// The system clock triggers only the writing of touches.
fn on_demand(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.sweep_every(HOUR)
}

fn all_the_time(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.lifetime(Lifetime::idle(HOUR / 2)).sweep_every(MILLI)
}

fn read(app: &App, browser: &Browser) {
    let session = browser.open(&app.sessions);
    assert!(session.contains("n").unwrap());
    complete(&app.sessions, &session);
}

/// Fails the test when `work` does not end at all; how fast it ends is not judged.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = channel();
    let thread = thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    is_done.recv_timeout(MINUTE).expect("it did not end");
    thread.join().unwrap();
}

#[test]
fn a_sweep_removes_exactly_what_has_ended_and_says_how_much() {
    on_both_stores(on_demand, |app| {
        let old: Vec<Browser> = (0..5).map(|n| app.visitor(n)).collect();
        app.clock.advance(HOUR);
        let young: Vec<Browser> = (0..3).map(|n| app.visitor(n)).collect();
        assert_eq!(app.sessions.sweep_now().unwrap(), 0);
        app.clock.set(NOW + HOUR * 24 - MILLI);
        assert_eq!(app.sessions.sweep_now().unwrap(), 0);
        app.clock.set(NOW + HOUR * 24);
        assert_eq!((app.rows(), app.live()), (8, 3));
        assert_eq!(app.sessions.sweep_now().unwrap(), 5);
        assert_eq!((app.rows(), app.live()), (3, 3));
        assert_eq!(app.sessions.sweep_now().unwrap(), 0);
        assert_eq!(app.count(EventKind::Swept), 1, "none for nothing");
        assert!(old.iter().all(|browser| app.stored_n(browser).is_none()));
        assert!((0..3).all(|n| app.stored_n(&young[n as usize]) == Some(n)));
    });
}

#[test]
fn a_large_sweep_goes_in_batches_and_counts_all_of_them() {
    on_both_stores(on_demand, |app| {
        (0..2500).for_each(|n| drop(app.visitor(n)));
        app.clock.advance(HOUR * 24);
        assert_eq!(app.sessions.sweep_now().unwrap(), 2500);
        assert_eq!(app.rows(), 0);
        assert!(app.store.calls(Call::Sweep) >= 3);
        assert!(app.store.limits().iter().all(|limit| *limit <= 1000));
    });
}

#[test]
fn a_sweep_that_waits_but_blocks_briefly_keeps_its_batch_size() {
    on_both_stores(on_demand, |app| {
        let browser = app.visitor(1);
        app.store.sweep_fully(4, Duration::ZERO);
        let control = app.store.hold(Call::Sweep);
        let swept = thread::scope(|scope| {
            let sweeper = scope.spawn(|| app.sessions.sweep_now().unwrap());
            control.wait_until_reached();
            // For longer than a batch should hold others up.
            let waits = Instant::now();
            while waits.elapsed() < MILLI * 50 {
                read(&app, &browser);
            }
            control.open();
            sweeper.join().unwrap()
        });
        assert_eq!((swept, app.store.limits()), (4000, vec![1000; 5]));
    });
}

#[test]
fn a_sweep_continues_though_its_store_overstates_its_blocking() {
    on_both_stores(on_demand, |app| {
        app.store.sweep_fully(4, Duration::MAX);
        let swept = app.sessions.sweep_now().unwrap();
        assert_eq!(swept, app.store.limits()[..4].iter().sum::<usize>());
    });
}

#[test]
fn sessions_are_swept_without_being_asked_for_it() {
    on_both_stores(all_the_time, |app| {
        app.visitor(1);
        app.clock.advance(HOUR / 2);
        app.wait_for(EventKind::Swept);
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn a_session_is_not_swept_while_its_activity_is_on_the_way() {
    on_both_stores(on_demand, |app| {
        let browser = app.visitor(1);
        app.during_sweep(|| {
            app.clock.set(NOW + HOUR * 24 - MINUTE);
            read(&app, &browser);
        });
        // The touch waits in the channel, or in the cleaner.
        assert_eq!(app.sessions.sweep_now().unwrap(), 0);
        app.clock.advance(HOUR);
        assert_eq!(app.sessions.sweep_now().unwrap(), 0);
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn a_clock_that_steps_far_forward_suspends_sweeps() {
    on_both_stores(all_the_time, |app| {
        app.visitor(1);
        // The step comes at the worst moment: a regular sweep has been decided on.
        let control = app.store.hold(Call::Maintenance);
        control.wait_until_reached();
        app.clock.advance(HOUR * 2);
        control.open();
        app.wait_for(EventKind::ClockStepped);
        // Sweeps that were decided on before are done by the second run from here.
        app.store.wait_for(Call::Maintenance, app.store.calls(Call::Maintenance) + 2);
        let sweeps = app.store.calls(Call::Sweep);
        app.store.wait_for(Call::Maintenance, app.store.calls(Call::Maintenance) + 3);
        assert_eq!((app.rows(), app.store.calls(Call::Sweep)), (1, sweeps));
        assert_eq!(app.count(EventKind::ClockStepped), 1);
        // A call that asks for it gets it.
        assert_eq!(app.sessions.sweep_now().unwrap(), 1);
    });
}

#[test]
fn activity_outlives_a_store_that_fails_or_panics() {
    on_both_stores(on_demand, |app| {
        let (first, second) = (app.visitor(1), app.visitor(2));
        app.clock.advance(HOUR);
        app.store.fail(Call::Touch, 2, ErrorKind::Busy);
        app.store.plan(Call::Touch, Fault::Panic);
        app.store.fail(Call::Touch, 1, ErrorKind::Unavailable);
        read(&app, &first);
        while app.sessions.flush().is_err() {
            assert!(app.store.calls(Call::Touch) <= 4);
            read(&app, &second);
        }
        assert_eq!(app.store.calls(Call::Touch), 5);
        assert_eq!(app.count(EventKind::CleanerFailed), 1);
        assert_eq!(app.count(EventKind::CleanerRecovered), 1);
        assert_eq!(app.store.touched(), 2);
        app.clock.set(NOW + HOUR * 25 - MILLI);
        assert_eq!(app.live(), 2, "both count from their last activity");

        // And once more for the next failure, where there is time to leave it to the cleaner.
        app.clock.set(NOW + HOUR * 24);
        app.store.fail(Call::Touch, 1, ErrorKind::Busy);
        read(&app, &first);
        while app.sessions.flush().is_err() {}
        assert_eq!(app.count(EventKind::CleanerFailed), 2);
        assert_eq!(app.count(EventKind::CleanerRecovered), 2);
    });
}

#[test]
fn a_sweep_that_fails_or_panics_is_reported_to_its_caller() {
    on_both_stores(on_demand, |app| {
        app.visitor(1);
        app.clock.advance(HOUR * 24);
        app.store.fail(Call::Sweep, 1, ErrorKind::Busy);
        app.store.plan(Call::Sweep, Fault::Panic);
        assert_eq!(app.sessions.sweep_now().unwrap_err().kind(), ErrorKind::Busy);
        let error = app.sessions.sweep_now().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unexpected);
        assert!(format!("{error:?}").contains("as planned"), "{error:?}");
        assert_eq!(app.sessions.sweep_now().unwrap(), 1);
        assert_eq!(app.count(EventKind::CleanerFailed), 1);
        assert_eq!(app.count(EventKind::CleanerRecovered), 1);
    });
}

#[test]
fn a_lasting_failure_is_reported_once() {
    on_both_stores(all_the_time, |app| {
        let browser = app.visitor(1);
        app.clock.advance(MINUTE);
        app.store.fail(Call::Touch, 1_000_000, ErrorKind::Full);
        read(&app, &browser);
        app.store.wait_for(Call::Touch, 3);
        app.store.wait_for(Call::Maintenance, app.store.calls(Call::Maintenance) + 5);
        assert_eq!(app.count(EventKind::CleanerFailed), 1);
        assert_eq!(app.count(EventKind::CleanerRecovered), 0);
    });
}

#[test]
fn dropping_the_manager_writes_the_activity_that_is_pending() {
    on_both_stores(on_demand, |app| {
        let browsers: Vec<Browser> = (0..10).map(|n| app.visitor(n)).collect();
        app.clock.advance(HOUR);
        browsers.iter().for_each(|browser| read(&app, browser));
        let App { sessions, store, clock, folder, .. } = app;
        let clone = sessions.clone();
        drop(sessions);
        drop(clone);
        assert_eq!(store.touched(), 10);
        clock.set(NOW + HOUR * 25 - MILLI);
        assert_eq!(store.inner().index().unwrap().stats(clock.now()).unwrap().live, 10);
        drop((store, folder));
    });
}

#[test]
fn dropping_the_manager_in_mid_sweep_ends_the_sweep() {
    on_both_stores(all_the_time, |app| {
        let browser = app.visitor(1);
        app.store.sweep_fully(u64::MAX, Duration::ZERO);
        app.store.wait_for(Call::Sweep, app.store.calls(Call::Sweep) + 5);
        app.clock.advance(MINUTE);
        read(&app, &browser);
        let App { sessions, store, folder, .. } = app;
        ends(move || drop(sessions));
        let sweeps = store.calls(Call::Sweep);
        assert_eq!(store.touched(), 1, "pending activity is written all the same");
        assert_eq!(store.calls(Call::Sweep), sweeps);
        drop(folder);
    });
}

#[test]
fn dropping_the_manager_while_the_store_fails_ends_all_the_same() {
    on_both_stores(on_demand, |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR);
        app.store.fail(Call::Touch, 1_000_000, ErrorKind::Unavailable);
        read(&app, &browser);
        let App { sessions, .. } = app;
        ends(move || drop(sessions));
    });
}

#[test]
fn a_session_that_outlives_its_manager_is_closed() {
    on_both_stores(on_demand, |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR);
        let session = browser.open(&app.sessions);
        assert!(session.contains("n").unwrap());
        complete(&app.sessions, &session);
        let App { sessions, store, .. } = app;
        drop(sessions);
        ends(move || drop(session));
        assert_eq!(store.touched(), 1);
    });
}

#[test]
fn a_touch_that_finds_no_room_is_written_by_its_own_request() {
    on_both_stores(on_demand, |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR);
        app.during_sweep(|| {
            (0..4096).for_each(|_| read(&app, &browser));
            assert_eq!(app.store.calls(Call::Touch), 0, "all are waiting");
            read(&app, &browser);
            assert_eq!(app.store.calls(Call::Touch), 1);
            app.clock.set(NOW + HOUR * 25 - MILLI);
            assert_eq!(app.live(), 1);
        });
        app.sessions.flush().unwrap();
        assert_eq!(app.count(EventKind::TouchFailed), 0);
    });
}

#[test]
fn a_running_sweep_holds_up_no_request() {
    on_both_stores(on_demand, |app| {
        let mut browser = app.visitor(1);
        app.during_sweep(|| {
            read(&app, &browser);
            browser.request(&app.sessions, |session| session.set("n", 2).unwrap());
            browser.request(&app.sessions, |session| session.destroy().unwrap());
        });
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn sweeps_less_than_a_millisecond_apart_are_refused() {
    for wrong in [Duration::ZERO, Duration::from_micros(999)] {
        let builder = cloakroom::SessionManager::builder(cloakroom::MemoryStore::new());
        assert_eq!(builder.sweep_every(wrong).build().unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn two_managers_on_one_store_sweep_side_by_side() {
    on_both_stores(all_the_time, |app| {
        let other = app.another(all_the_time);
        (0..50).for_each(|n| drop(app.visitor(n)));
        app.clock.advance(HOUR / 2);
        while app.rows() > 0 {
            app.wait_for(EventKind::Swept);
        }
        assert_eq!(other.sweep_now().unwrap() + app.sessions.sweep_now().unwrap(), 0);
        drop(other);
        app.visitor(1);
        assert_eq!(app.live(), 1);
    });
}

#[test]
fn a_session_whose_activity_cannot_be_written_holds_up_no_other() {
    let app = App::new(Storage::File, on_demand);
    let (first, second) = (app.visitor(1), app.visitor(2));
    let database = Connection::open(app.folder.database()).unwrap();
    let trigger = "CREATE TRIGGER damaged BEFORE UPDATE ON cloakroom_sessions
                   WHEN old.id = (SELECT min(id) FROM cloakroom_sessions)
                   BEGIN SELECT RAISE(ABORT, 'as planned'); END";
    database.execute_batch(trigger).unwrap();
    app.clock.advance(HOUR);
    read(&app, &first);
    read(&app, &second);
    let error = app.sessions.flush().unwrap_err();
    assert!(error.to_string().contains("as planned"), "{error}");
    app.clock.advance(HOUR * 23);
    assert_eq!(app.sessions.sweep_now().unwrap(), 1, "the one that was not written");
    app.sessions.flush().unwrap();
}

#[test]
fn activity_is_written_when_the_store_works_again() {
    on_both_stores(on_demand, |app| {
        let (first, second) = (app.visitor(1), app.visitor(2));
        app.clock.advance(HOUR);
        app.store.set_failing(Call::Touch, ErrorKind::Unavailable);
        read(&app, &first);
        assert!(app.sessions.flush().is_err());
        read(&app, &second);
        assert!(app.sessions.flush().is_err());
        app.store.set_failing(Call::Touch, None);
        app.sessions.flush().unwrap();
        assert_eq!((app.store.touched(), app.count(EventKind::TouchFailed)), (2, 0));
        assert_eq!(app.count(EventKind::CleanerFailed), 1);
        assert_eq!(app.count(EventKind::CleanerRecovered), 1);
        app.clock.advance(HOUR * 23);
        assert_eq!(app.sessions.sweep_now().unwrap(), 0);
    });
}

/// Panics at every event of this kind.
#[derive(Debug)]
struct PanicsAt(EventKind);

impl Sink for PanicsAt {
    fn record(&self, event: &Event<'_>) {
        assert_ne!(event.kind(), self.0, "as planned");
    }
}

#[test]
fn an_event_sink_that_panics_does_not_stop_the_cleaner() {
    let configure = |builder: SessionManagerBuilder| {
        on_demand(builder).events(Events::new(PanicsAt(EventKind::Swept)))
    };
    on_both_stores(configure, |app| {
        app.visitor(1);
        app.clock.advance(HOUR * 24);
        assert_eq!(app.sessions.sweep_now().unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(app.sessions.sweep_now().unwrap(), 0, "it has removed the session");
    });
}

#[test]
fn a_failed_sweep_is_answered_though_the_sink_panics() {
    let configure = |builder: SessionManagerBuilder| {
        on_demand(builder).events(Events::new(PanicsAt(EventKind::CleanerFailed)))
    };
    on_both_stores(configure, |app| {
        app.store.set_failing(Call::Sweep, ErrorKind::Busy);
        ends(move || assert_eq!(app.sessions.sweep_now().unwrap_err().kind(), ErrorKind::Busy));
    });
}

#[test]
fn a_sink_that_panics_delays_no_check_of_the_maximum() {
    const MAX: u64 = 64;
    let configure = |builder: SessionManagerBuilder| {
        let events = Events::new(PanicsAt(EventKind::AnonymousEvicted));
        on_demand(builder).max_anonymous(MAX).events(events)
    };
    on_both_stores(configure, |app| {
        let list = app.store.hold(Call::List);
        let end = app.store.hold(Call::Sweep);
        (0..80).for_each(|n| drop(app.visitor(n)));
        list.wait_until_reached();
        // They make another check due, and wake the thread, in which the eviction still runs.
        (80..90).for_each(|n| drop(app.visitor(n)));
        list.open();
        end.wait_until_reached();
        (90..120).for_each(|n| drop(app.visitor(n)));
        end.open();
        ends(move || {
            while app.stats().anonymous() > MAX {
                thread::yield_now();
            }
        });
    });
}
