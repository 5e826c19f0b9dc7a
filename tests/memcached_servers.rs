//! Memcached servers that are cleared while sessions move, and several of which one stands still.

#![cfg(all(feature = "memcached", feature = "sqlite"))]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::MemoryStore;
use cloakroom::clock::Timestamp;
use cloakroom::delta::Delta;
use cloakroom::store::cached::CachedStore;
use cloakroom::store::memcached::MemcachedStore;
use cloakroom::store::{Commit, Committed, Fate, Loaded, Store};
use common::memcached::Memcached;
use common::proxy::{Plan, Proxy};
use common::{HOUR, NOW, create, live, new_key, setting};

#[test]
fn an_outage_of_one_of_several_servers_costs_a_few_timeouts_at_most() {
    let servers: Vec<Memcached> = (0..8).map(|_| Memcached::start()).collect();
    let addresses = servers.iter().map(|server| server.address.to_string());
    let cache = MemcachedStore::builder().servers(addresses).open().unwrap();
    let store = CachedStore::builder(cache, MemoryStore::new());
    let store = store.retry_after(Duration::from_secs(3600)).build().unwrap();
    let keys: Vec<_> = (0..64).map(|n| create(&store, &setting("n", n)).unwrap()).collect();
    for key in &keys {
        assert!(live(&store, key).unwrap().is_some());
    }
    servers[0].freeze();
    let (mut slow, began) = (0, Instant::now());
    for key in keys.iter().cycle().take(320) {
        let began = Instant::now();
        assert!(live(&store, key).unwrap().is_some());
        slow += u32::from(began.elapsed() >= Duration::from_millis(150));
    }
    assert!(slow <= 4, "{slow} of 320 reads waited for a timeout, {:?}", began.elapsed());
}

#[test]
fn no_session_slips_from_server_to_server_through_a_clear() {
    let servers = [Memcached::start(), Memcached::start()];
    let addresses = servers.iter().map(|server| server.address.to_string());
    let store = MemcachedStore::builder().servers(addresses).open().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    for round in 0.. {
        if Instant::now() > deadline {
            break;
        }
        let stop = AtomicBool::new(false);
        let survivors = thread::scope(|scope| {
            let movers: Vec<_> = (0..6)
                .map(|_| {
                    let (store, stop) = (&store, &stop);
                    // It lives before the clear begins.
                    let mut key = create(store, &setting("n", 1)).unwrap();
                    scope.spawn(move || {
                        while !stop.load(Ordering::SeqCst) {
                            let (to, nothing) = (new_key(), Delta::new());
                            let fate = Fate::Renew { to: &to, grace_until: None };
                            match store.commit(&Commit::new(&key, fate, &nothing, NOW)).unwrap() {
                                Committed::Done { .. } => key = to,
                                _ => break,
                            }
                        }
                        live(store, &key).unwrap().is_some()
                    })
                })
                .collect();
            store.clear().unwrap();
            stop.store(true, Ordering::SeqCst);
            movers.into_iter().filter_map(|mover| mover.join().unwrap().then_some(())).count()
        });
        assert_eq!(survivors, 0, "in round {round} sessions from before the clear live on");
    }
}

/// A request is held before one of its commands while everything is cleared, and goes on then.
fn cleared_in_between(number: usize, grace_until: Option<Timestamp>) {
    let (server, namespace) = (Memcached::start(), "cleared");
    let store = server.builder_in(namespace).open().unwrap();
    let proxy = Proxy::to(server.address);
    let through = MemcachedStore::builder().servers([proxy.address.to_string()]);
    let patient = Duration::from_secs(20);
    let through = through.namespace(namespace).io_timeout(patient).open().unwrap();
    let (key, to) = (create(&store, &setting("n", 1)).unwrap(), new_key());
    // It has learned the epoch before requests are counted.
    assert!(live(&through, &new_key()).unwrap().is_none());
    let held = proxy.hold(number);
    let answer = thread::scope(|scope| {
        let (done, is_done) = channel();
        let through = &through;
        let request = scope.spawn(move || {
            let nothing = Delta::new();
            let fate = Fate::Renew { to: &to, grace_until };
            let answer = through.commit(&Commit::new(&key, fate, &nothing, NOW));
            done.send(()).unwrap();
            answer
        });
        // It may need fewer commands than that.
        let mut reached = false;
        while !reached && is_done.try_recv().is_err() {
            reached = held.is_reached_now();
        }
        store.clear().unwrap();
        drop(held);
        request.join().unwrap()
    });
    proxy.plan(Plan::Pass);
    for asked in [key, to] {
        let loaded = store.load(&asked, NOW).unwrap();
        let gone = !matches!(loaded, Loaded::Live { .. });
        assert!(gone, "held before its command {number}: {answer:?}, and then {loaded:?}");
    }
}

#[test]
fn a_clear_while_a_renewal_stands_between_any_two_commands_is_final() {
    for number in 0..6 {
        cleared_in_between(number, None);
    }
}

#[test]
fn a_clear_while_a_renewal_with_grace_stands_between_any_two_commands_is_final() {
    for number in 0..6 {
        cleared_in_between(number, Some(NOW + HOUR));
    }
}
