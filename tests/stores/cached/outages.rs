//! Requests while the cache is down, and invalidations that fail.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::adapter::Outcome;
use cloakroom::backend::{CommitAnswer, Loaded, Store, Unreadable};
use cloakroom::event::EventKind;
use cloakroom::stores::cached::CachedStore;
use cloakroom::{MemoryStore, SessionManager, SqliteStore};

use crate::cached::fixture::{
    CachedFixture, ENDINGS, ENTRY_LIFE, RETRY_AFTER, backing, stored_n, wait_for_recovery,
};
use crate::common::app::{Browser, get, sign_in, user_of};
use crate::common::client::PATIENCE;
use crate::common::faulty::Call;
use crate::common::memcached::{Memcached, on, shared};
use crate::common::proxy::{Plan, Proxy};
use crate::common::{
    Folder, HOUR, NOW, cached_store, create, end, events, live, merge, new_id_hash, setting,
    settled,
};

#[test]
fn changes_during_an_outage_of_the_cache_are_never_missed() {
    CachedFixture::on_each_cache(|fixture| {
        for (what, end) in ENDINGS {
            let id_hash = fixture.cached_session();
            let kept = fixture.cached_session();
            fixture.cache.set_down(true);
            end(&fixture, &id_hash);
            let changed = merge(&fixture.store, &kept, &setting("n", 2)).unwrap();
            assert_eq!(stored_n(&fixture.store, &id_hash), None, "{what}, while it is down");
            fixture.cache.set_down(false);
            assert_eq!(stored_n(&fixture.store, &id_hash), None, "{what}, before it is repaired");
            fixture.wait_for_recovery();
            let loads = fixture.loads();
            assert_eq!(stored_n(&fixture.store, &id_hash), None, "{what}, after that");
            assert!(fixture.loads() > loads);
            if matches!(changed, CommitAnswer::Done { .. }) {
                assert_eq!(stored_n(&fixture.store, &kept), Some(2), "{what}");
            }
            // Another process, whose connection never failed, sees it from now on as well.
            assert_eq!(stored_n(&fixture.another().store, &id_hash), None, "{what}");
        }
        assert_eq!(fixture.events.count(EventKind::CacheDown), ENDINGS.len() as u64);
        assert_eq!(fixture.events.count(EventKind::CacheRecovered), ENDINGS.len() as u64);
    });
}

#[test]
fn a_session_without_room_in_the_cache_is_no_outage() {
    let full = Memcached::with(&["-m", "2", "-M"]);
    let large = setting("n", "x".repeat(1 << 20));
    let small = setting("n", "x".repeat(20_000));
    for (server, delta, sessions) in [(shared(), large, 1), (&full, small, 500)] {
        let (events, _raised) = events();
        let cache = server.store();
        let store = CachedStore::builder(cache, MemoryStore::new()).events(events.clone());
        let store = settled(store.build().unwrap());
        let id_hashes: Vec<_> = (0..sessions).map(|_| create(&store, &delta).unwrap()).collect();
        for id_hash in id_hashes.iter().cycle().take(500) {
            assert!(live(&store, id_hash).unwrap().is_some());
        }
        assert_eq!(events.count(EventKind::CacheDown), 0);
    }
}

#[test]
fn changes_during_the_repair_of_the_cache_are_invalidated() {
    CachedFixture::on_each_cache(|fixture| {
        let first = fixture.cached_session();
        let second = fixture.cached_session();
        let third = fixture.cached_session();
        fixture.cache.set_down(true);
        end(&fixture.store, &first).unwrap();
        fixture.cache.set_down(false);
        let control = fixture.cache.hold(Call::Invalidate);
        let (reached, is_reached) = channel();
        thread::scope(|scope| {
            let control = scope.spawn(move || {
                control.wait_until_reached();
                reached.send(()).unwrap();
                control
            });
            while is_reached.recv_timeout(Duration::from_millis(2)).is_err() {
                fixture.store.load(&new_id_hash(), NOW).unwrap();
            }
            // The repair invalidates what it found; this comes after that.
            end(&fixture.store, &second).unwrap();
            control.join().unwrap().open();
        });
        fixture.wait_for_recovery();
        assert_eq!(stored_n(&fixture.store, &first), None);
        assert_eq!(stored_n(&fixture.store, &second), None);
        assert_eq!(stored_n(&fixture.store, &third), Some(1));
    });
}

#[test]
fn another_process_sees_a_change_within_the_life_of_an_entry() {
    let server = shared();
    let proxy = Proxy::to(server.address);
    let backing = backing();
    let mine = on([proxy.address.to_string()]).namespace("another").open().unwrap();
    let mine = CachedStore::builder(mine, backing.clone()).retry_after(HOUR);
    let mine = settled(mine.build().unwrap());
    let theirs = cached_store(server.builder_in("another").open().unwrap(), backing);
    let id_hash = create(&mine, &setting("n", 1)).unwrap();
    assert_eq!(stored_n(&theirs, &id_hash), Some(1));
    proxy.plan(Plan::Down);
    end(&mine, &id_hash).unwrap();
    assert_eq!(stored_n(&mine, &id_hash), None);
    let last = NOW + ENTRY_LIFE - Duration::from_millis(1);
    assert!(
        matches!(theirs.load(&id_hash, last).unwrap(), Loaded::Live(_)),
        "stale, within the life of an entry"
    );
    let found = theirs.load(&id_hash, NOW + ENTRY_LIFE).unwrap();
    assert!(matches!(found, Loaded::Unreadable(Unreadable::NotFound { .. })));
}

#[test]
fn an_outage_is_reported_once_and_costs_few_timeouts() {
    let server = Memcached::start();
    let (events, event_kinds) = events();
    let cache = server.hasty_store();
    let store = CachedStore::builder(cache, MemoryStore::new()).retry_after(HOUR);
    let store = settled(store.events(events).build().unwrap());
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert_eq!(stored_n(&store, &id_hash), Some(1));
    server.freeze();
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(stored_n(&store, &id_hash), Some(1));
        merge(&store, &id_hash, &setting("n", 1)).unwrap();
    }
    // Three reads wait for 200 ms each, and not two thousand calls.
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(event_kinds.try_iter().collect::<Vec<_>>(), [EventKind::CacheDown]);
}

#[test]
fn while_the_breaker_is_open_no_request_waits_for_the_cache() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        fixture.cache.set_down(true);
        for _ in 0..3 {
            assert_eq!(stored_n(&fixture.store, &id_hash), Some(1));
        }
        let patient = CachedStore::builder(fixture.cache.clone(), fixture.backing.clone());
        let patient = settled(patient.retry_after(HOUR).build().unwrap());
        for _ in 0..3 {
            assert_eq!(stored_n(&patient, &id_hash), Some(1));
        }
        let calls = fixture.cache.cache_calls();
        for n in 0..100 {
            merge(&patient, &id_hash, &setting("n", n)).unwrap();
            assert!(live(&patient, &id_hash).unwrap().is_some());
        }
        let probes_of_the_other = fixture.cache.cache_calls() - calls;
        assert!(probes_of_the_other < 50, "{probes_of_the_other} calls of a cache that is down");
    });
}

#[test]
fn a_restart_of_memcached_under_load_fails_no_request() {
    let server = Memcached::start();
    let folder = Folder::new();
    let backing = SqliteStore::open(folder.database()).unwrap();
    let (events, event_kinds) = events();
    let store = CachedStore::builder(server.hasty_store(), backing).retry_after(RETRY_AFTER);
    let store = settled(store.events(events).build().unwrap());
    let sessions = SessionManager::new(store.clone()).unwrap();
    let rounds = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let sessions = &sessions;
                let rounds = &rounds;
                let stop = &stop;
                scope.spawn(move || {
                    let mut browser = Browser::default();
                    let name = format!("user {n}");
                    browser.request(sessions, |session| sign_in(session, &name));
                    let mut visits = 0_u32;
                    while !stop.load(Ordering::SeqCst) {
                        assert_eq!(user_of(sessions, &browser).as_ref(), Some(&name));
                        visits += 1;
                        browser
                            .try_request(sessions, Outcome::Completed, |session| {
                                let counted = session
                                    .update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)
                                    .unwrap();
                                assert_eq!(counted, visits);
                            })
                            .unwrap();
                        assert_eq!(get::<u32>(sessions, &browser, "visits"), Some(visits));
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let more = || {
            let wanted = rounds.load(Ordering::SeqCst) + 200;
            let deadline = Instant::now() + PATIENCE;
            while rounds.load(Ordering::SeqCst) < wanted && Instant::now() < deadline {
                thread::park_timeout(Duration::from_millis(1));
            }
        };
        for _ in 0..2 {
            more();
            server.kill();
            more();
            server.start_again();
            wait_for_recovery(&store, &event_kinds);
            more();
            server.freeze();
            more();
            server.thaw();
            wait_for_recovery(&store, &event_kinds);
        }
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
