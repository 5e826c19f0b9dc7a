//! Anonymous sessions: their shorter lifetime, their limit, and the room that they leave to users.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::app::{App, Browser, complete, defaults, on_both_stores, sign_in};
use crate::common::dice::number;
use crate::common::{Folder, HOUR, NOW};
use cloakroom::backend::Store;
use cloakroom::clock::ManualClock;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{ErrorKind, Lifetime, MemoryStore, SessionManager, SqliteStore};

const DAY: Duration = Duration::from_secs(86_400);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Uses the session twice a day for `days` days. Returns whether it is live after that.
fn lives_for(app: &App, browser: &mut Browser, days: u32) -> bool {
    for _ in 0..days * 2 {
        app.clock.advance(DAY / 2);
        browser.request(&app.sessions, |session| {
            let _ = session.contains("n").unwrap();
        });
        app.sessions.flush().unwrap();
    }
    app.stored_n(browser).is_some()
}

#[test]
fn an_anonymous_session_in_use_ends_after_seven_days() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        assert!(lives_for(&app, &mut browser, 6));
        assert!(!lives_for(&app, &mut browser, 1));
        let browser = app.visitor(2);
        app.clock.advance(DAY);
        assert_eq!(app.stored_n(&browser), None, "idle for a day");
    });
}

#[test]
fn a_sign_in_restarts_both_clocks_of_an_anonymous_session() {
    on_both_stores(defaults, |app| {
        let mut browser = app.visitor(1);
        assert!(lives_for(&app, &mut browser, 6));
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        assert!(lives_for(&app, &mut browser, 29));
        assert!(!lives_for(&app, &mut browser, 1));
    });
}

#[test]
fn an_anonymous_lifetime_may_be_longer_or_shorter_than_a_users() {
    let limits = Lifetime::idle(HOUR).with_absolute(HOUR * 2);
    let configure = |builder: SessionManagerBuilder| builder.anonymous_lifetime(limits);
    on_both_stores(configure, |app| {
        let browser = app.visitor(1);
        app.clock.advance(HOUR - SECOND);
        assert_eq!(app.stored_n(&browser), Some(1));
        app.sessions.flush().unwrap();
        app.clock.advance(HOUR - SECOND);
        assert_eq!(app.stored_n(&browser), Some(1));
        app.sessions.flush().unwrap();
        app.clock.advance(SECOND * 2);
        assert_eq!(app.stored_n(&browser), None);
    });
    let configure = |builder: SessionManagerBuilder| {
        builder.lifetime(limits).anonymous_lifetime(Lifetime::absolute(DAY))
    };
    on_both_stores(configure, |app| {
        let mut browser = app.visitor(1);
        app.clock.advance(DAY - SECOND);
        browser.request(&app.sessions, |session| sign_in(session, "ada"));
        app.clock.advance(HOUR);
        assert_eq!(app.stored_n(&browser), None, "a user's limits");
    });
}

#[test]
fn by_default_an_anonymous_session_lives_no_longer_than_a_users() {
    let hour = |builder: SessionManagerBuilder| {
        builder
            .lifetime(Lifetime::absolute(HOUR))
            .browser_session_lifetime(Lifetime::absolute(HOUR / 2))
    };
    on_both_stores(hour, |app| {
        let kept = app.visitor(1);
        let dropped = app.visitor_after(|session| {
            session.set_persistent(false).unwrap();
            session.set("n", 1).unwrap();
        });
        app.clock.advance(HOUR / 2);
        assert_eq!((app.stored_n(&kept), app.stored_n(&dropped)), (Some(1), None));
        app.clock.advance(HOUR / 2);
        assert_eq!(app.stored_n(&kept), None);
    });
}

#[test]
fn a_form_without_a_token_stores_nothing() {
    on_both_stores(defaults, |app| {
        for _ in 0..100_000 {
            let session = app.sessions.open(None);
            assert_eq!(session.user().unwrap(), None);
            assert!(complete(&app.sessions, &session).iter().all(|(name, _)| name != "Set-Cookie"));
        }
        assert_eq!(app.rows(), 0);
    });
}

#[test]
fn a_limit_of_none_is_refused() {
    let build = |max| SessionManager::builder(MemoryStore::new()).max_anonymous(max).build();
    assert_eq!(build(0).unwrap_err().kind(), ErrorKind::Invalid);
    build(1).unwrap();
}

/// Waits until the cleaner has evicted what is above the limit.
fn wait_for_limit(app: &App, max: u64) {
    while app.stats().anonymous() > max {
        app.wait_for(EventKind::AnonymousEvicted);
    }
}

#[test]
fn above_the_limit_the_longest_idle_end() {
    let configure = |builder: SessionManagerBuilder| builder.max_anonymous(64).sweep_every(HOUR);
    on_both_stores(configure, |app| {
        let mut users = Vec::new();
        for name in ["ada", "bob"] {
            users.push(app.visitor_after(|session| {
                session.set("n", 0).unwrap();
                sign_in(session, name);
            }));
        }
        let mut visitors = Vec::new();
        for n in 1..=200 {
            app.clock.advance(SECOND);
            visitors.push(app.visitor(n));
        }
        wait_for_limit(&app, 64);
        let live: Vec<u32> = visitors.iter().filter_map(|browser| app.stored_n(browser)).collect();
        // All were idle since they began. As many as a check is apart are evicted at once.
        assert!((60..=64).contains(&live.len()), "{}", live.len());
        let newest = 201 - u32::try_from(live.len()).unwrap()..=200;
        assert_eq!(live, newest.collect::<Vec<_>>());
        assert!(users.iter().all(|browser| app.stored_n(browser) == Some(0)));
        assert!(app.count(EventKind::AnonymousEvicted) > 0);
    });
}

#[test]
fn each_realm_has_its_own_limit() {
    let configure =
        |builder: SessionManagerBuilder| builder.realm("shop").max_anonymous(64).sweep_every(HOUR);
    on_both_stores(configure, |app| {
        let news = app.another(|builder| builder.realm("news").max_anonymous(64));
        let begin =
            |n| Browser::default().after_request(&news, |session| session.set("n", n).unwrap());
        let others: Vec<_> = (0..60).map(begin).collect();
        for n in 0..100 {
            app.visitor(n);
        }
        wait_for_limit(&app, 64 + 60);
        let live = |browser: &&Browser| browser.open(&news).contains("n").unwrap();
        assert_eq!(others.iter().filter(live).count(), 60);
    });
}

#[test]
fn a_request_of_an_evicted_session_does_not_bring_it_back() {
    let configure = |builder: SessionManagerBuilder| builder.max_anonymous(1).sweep_every(HOUR);
    on_both_stores(configure, |app| {
        let (browser, reads) = app.open_visitor(1);
        let writes = browser.open(&app.sessions);
        assert!(reads.contains("n").unwrap());
        app.clock.advance(SECOND);
        app.visitor(2);
        wait_for_limit(&app, 1);
        assert_eq!(app.stored_n(&browser), None);
        reads.set("late", true).unwrap();
        complete(&app.sessions, &reads);
        assert_eq!(app.count(EventKind::ChangesDiscarded), 1, "it had read what ended");
        // One that had not read begins a session of its own, as after a sweep.
        writes.set("late", true).unwrap();
        let later = browser.with_response(&complete(&app.sessions, &writes));
        assert_eq!(app.stored_n(&later), None, "without the values from before");
        assert_eq!(app.stored_n(&browser), None);
    });
}

#[test]
fn a_request_of_a_session_that_a_sign_in_evicts_begins_anew() {
    let app = App::on(Box::new(MemoryStore::with_capacity(10)), Folder::new(), defaults);
    let browser = app.visitor(0);
    app.clock.advance(SECOND);
    (1..9).for_each(|n| drop(app.visitor(n)));
    let user =
        |name| Browser::default().after_request(&app.sessions, |session| sign_in(session, name));
    user("ada");
    let request = browser.open(&app.sessions);
    request.set("late", true).unwrap();
    // The store is full: this sign-in evicts the session that was idle longest.
    user("bob");
    assert_eq!(app.stored_n(&browser), None);
    let later = browser.with_response(&complete(&app.sessions, &request));
    assert!(later.open(&app.sessions).contains("late").unwrap());
    assert_eq!(app.count(EventKind::ChangesDiscarded), 0);
    app.sessions.sweep_now().unwrap();
    assert_eq!(app.count(EventKind::AnonymousEvicted), 1);
}

/// The numbers of evicted sessions, one for each event.
#[derive(Clone, Debug, Default)]
struct Evicted(Arc<Mutex<Vec<u64>>>);

impl Sink for Evicted {
    fn record(&self, event: &Event<'_>) {
        if let Event::AnonymousEvicted { sessions } = event {
            self.0.lock().unwrap().push(*sessions);
        }
    }
}

impl Evicted {
    /// An application without a cleaner, whose store has room for ten anonymous sessions.
    fn app_of_ten(&self) -> App {
        let configure = |builder: SessionManagerBuilder| {
            builder.without_cleaner().events(Events::new(self.clone()))
        };
        App::on(Box::new(MemoryStore::with_capacity(10)), Folder::new(), configure)
    }
}

#[test]
fn evictions_by_commits_are_reported_once_a_minute() {
    let evicted = Evicted::default();
    let app = evicted.app_of_ten();
    (0..9).for_each(|n| drop(app.visitor(n)));
    assert!(evicted.0.lock().unwrap().is_empty());
    (9..13).for_each(|n| drop(app.visitor(n)));
    assert_eq!(*evicted.0.lock().unwrap(), [1]);
    app.clock.advance(MINUTE);
    app.visitor(13);
    assert_eq!(*evicted.0.lock().unwrap(), [1, 4], "with those since the first event");
}

#[test]
fn evictions_are_reported_without_a_further_one() {
    let evicted = Evicted::default();
    let app = evicted.app_of_ten();
    (0..13).for_each(|n| drop(app.visitor(n)));
    assert_eq!(*evicted.0.lock().unwrap(), [1]);
    app.clock.advance(MINUTE);
    let reads = || Browser::default().request(&app.sessions, |session| drop(session.user()));
    reads();
    assert_eq!(*evicted.0.lock().unwrap(), [1, 3]);
    app.clock.advance(MINUTE);
    reads();
    assert_eq!(*evicted.0.lock().unwrap(), [1, 3], "all are reported");
}

#[test]
fn evictions_by_a_merge_are_reported() {
    const VISITORS: u64 = 150;
    let evicted = Evicted::default();
    let configure = |builder: SessionManagerBuilder| {
        builder.without_cleaner().events(Events::new(evicted.clone()))
    };
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database()).max_file_size(400_000).open().unwrap();
    let app = App::on(Box::new(store), folder, configure);
    let mut visitors: Vec<Browser> = (0..VISITORS).map(|_| app.visitor(0)).collect();
    assert!(evicted.0.lock().unwrap().is_empty());
    for browser in &mut visitors {
        browser.request(&app.sessions, |session| {
            assert!(session.contains("n").unwrap(), "no session begins");
            session.set("note", "x".repeat(3000)).unwrap();
        });
        if app.stats().anonymous() < VISITORS {
            break;
        }
    }
    let live = app.stats().anonymous();
    assert!(live < VISITORS);
    assert_eq!(*evicted.0.lock().unwrap(), [VISITORS - live]);
}

#[test]
fn two_processes_keep_the_limit_on_one_file() {
    let folder = Folder::new();
    let store = || SqliteStore::open(folder.database()).unwrap();
    let managers = [store(), store()].map(|store| {
        let builder = SessionManager::builder(store).max_anonymous(320).sweep_every(HOUR);
        builder.clock(ManualClock::new(NOW)).build().unwrap()
    });
    std::thread::scope(|scope| {
        for sessions in &managers {
            scope.spawn(|| {
                for n in 0..500 {
                    Browser::default().request(sessions, |session| session.set("n", n).unwrap());
                    // Waits for the check, which is between two flushes.
                    sessions.flush().unwrap();
                    sessions.flush().unwrap();
                }
            });
        }
    });
    managers.iter().for_each(|sessions| sessions.flush().unwrap());
    let anonymous = store().index().unwrap().stats(NOW).unwrap().anonymous();
    assert!((250..=350).contains(&anonymous), "{anonymous}");
}

/// Begins anonymous sessions, and a user's after each hundred. Returns the users.
fn flood(sessions: &SessionManager, clock: &ManualClock) -> Vec<Browser> {
    let count = number("CLOAKROOM_FLOOD").unwrap_or(20_000);
    let (mut users, began) = (Vec::new(), Instant::now());
    for n in 0..count {
        clock.advance(Duration::from_millis(1));
        Browser::default().request(sessions, |session| session.set("n", n).unwrap());
        if n % 100 == 0 && users.len() < 1000 {
            users.push(Browser::default().after_request(sessions, |session| {
                session.set("n", n).unwrap();
                sign_in(session, &format!("user {n}"));
            }));
        }
    }
    println!("{count} anonymous sessions, {} users in {:?}", users.len(), began.elapsed());
    users
}

fn are_signed_in(sessions: &SessionManager, users: &[Browser]) {
    for browser in users {
        assert!(browser.open(sessions).user().unwrap().is_some());
    }
}

#[test]
fn a_flood_in_memory_keeps_no_user_out() {
    let capacity = if number("CLOAKROOM_FLOOD").is_some() { 100_000 } else { 2000 };
    let app = App::on(Box::new(MemoryStore::with_capacity(capacity)), Folder::new(), defaults);
    let users = flood(&app.sessions, &app.clock);
    are_signed_in(&app.sessions, &users);
    let stats = app.stats();
    let (anonymous, capacity) = (stats.anonymous(), capacity as u64);
    assert_eq!(stats.signed_in, users.len() as u64);
    assert!(anonymous <= capacity - capacity / 10 && anonymous > capacity / 2, "{stats:?}");
    app.sessions.sweep_now().unwrap();
    assert!(app.count(EventKind::AnonymousEvicted) > 0);
}

#[test]
fn a_flood_of_a_bounded_file_keeps_no_user_out() {
    const BYTES: u64 = 4 << 20;
    let folder = Folder::new();
    let store = SqliteStore::builder(folder.database()).max_file_size(BYTES).open().unwrap();
    let app = App::on(Box::new(store), folder, defaults);
    let users = flood(&app.sessions, &app.clock);
    are_signed_in(&app.sessions, &users);
    let stats = app.stats();
    assert_eq!(stats.signed_in, users.len() as u64);
    assert!((1000..20_000).contains(&stats.anonymous()), "{stats:?}");
    let size = |name: &str| fs::metadata(app.folder.path(name)).unwrap().len();
    println!("{} bytes, {} of the log", size("app.db"), size("app.db-wal"));
    assert!(size("app.db") <= BYTES && size("app.db-wal") <= 64 << 20);
    app.sessions.sweep_now().unwrap();
    assert!(app.count(EventKind::AnonymousEvicted) > 0);
}
