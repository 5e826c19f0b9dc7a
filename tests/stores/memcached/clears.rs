//! Clearing, while others work.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::ErrorKind;
use cloakroom::backend::{
    Action, Cache, CacheKey, Commit, CommitAnswer, Delta, Loaded, Store, Unreadable,
};
use cloakroom::clock::Timestamp;
use cloakroom::id::SessionIdHash;
use cloakroom::stores::memcached::MemcachedStore;

use crate::common::memcached::{Memcached, on, shared};
use crate::common::proxy::{Plan, Proxy};
use crate::common::{HOUR, NOW, create, live, merge, new_id_hash, setting};
use crate::memcached::operations::{create_at, is_absent, is_live, renew};

#[test]
fn a_clear_holds_for_every_process_at_once() {
    let server = shared();
    let one = server.builder_in("cleared").open().unwrap();
    let other = server.builder_in("cleared").open().unwrap();
    let id_hash = create(&one, &setting("n", 1)).unwrap();
    assert!(is_live(&other, &id_hash));
    one.clear().unwrap();
    // The other one learns it by its next call, whichever that is.
    let new = create(&other, &setting("n", 2)).unwrap();
    assert!(is_live(&one, &new), "what begins after a clear is found by all");
    assert!(is_absent(&other, &id_hash));
    let answer = merge(&other, &id_hash, &setting("n", 3)).unwrap();
    assert!(matches!(answer, CommitAnswer::Unreadable(Unreadable::NotFound { .. })));
}

#[test]
fn a_clear_reaches_every_server() {
    let second = Memcached::start();
    let servers = [shared().address, second.address].map(|address| address.to_string());
    let open = || on(servers.clone()).namespace("all").open();
    let one = open().unwrap();
    let other = open().unwrap();
    let id_hashes: Vec<SessionIdHash> =
        (0..50).map(|n| create(&one, &setting("n", n)).unwrap()).collect();
    assert!(id_hashes.iter().all(|id_hash| is_live(&other, id_hash)));
    one.clear().unwrap();
    assert!(id_hashes.iter().all(|id_hash| is_absent(&one, id_hash) && is_absent(&other, id_hash)));
}

#[test]
fn a_nonce_that_was_lost_brings_nothing_back() {
    let server = shared();
    let one = server.builder_in("lost").open().unwrap();
    let other = server.builder_in("lost").open().unwrap();
    let id_hash = create(&one, &setting("n", 1)).unwrap();
    assert!(is_live(&other, &id_hash));
    one.clear().unwrap();
    for _ in 0..3 {
        server.raw().remove("lost:s:nonce");
        // One of them still knows the nonce from before the clear.
        assert!(is_absent(&other, &id_hash));
        assert!(is_absent(&one, &id_hash));
    }
    server.raw().set("lost:s:nonce", b"what is this?");
    assert!(is_absent(&other, &id_hash));
    let new = create(&other, &setting("n", 2)).unwrap();
    assert!(is_live(&one, &new));
}

#[test]
fn no_session_slips_from_server_to_server_through_a_clear() {
    let servers = [Memcached::start(), Memcached::start()];
    let addresses = servers.iter().map(|server| server.address.to_string());
    let store = on(addresses).open().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    for round in 0.. {
        if Instant::now() > deadline {
            break;
        }
        let stop = AtomicBool::new(false);
        let survivors = thread::scope(|scope| {
            let movers: Vec<_> = (0..6)
                .map(|_| {
                    let store = &store;
                    let stop = &stop;
                    // It lives before the clear begins.
                    let mut id_hash = create(store, &setting("n", 1)).unwrap();
                    scope.spawn(move || {
                        while !stop.load(Ordering::SeqCst) {
                            let to = new_id_hash();
                            let nothing = Delta::new();
                            let action = Action::Renew { to, grace_until: None };
                            match store
                                .commit(&Commit::new(&id_hash, action, nothing.clone(), NOW))
                                .unwrap()
                            {
                                CommitAnswer::Done { .. } => id_hash = to,
                                _ => break,
                            }
                        }
                        live(store, &id_hash).unwrap().is_some()
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
    let server = Memcached::start();
    let namespace = "cleared";
    let store = server.builder_in(namespace).open().unwrap();
    let proxy = Proxy::to(server.address);
    let through = on([proxy.address.to_string()]).namespace(namespace).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let to = new_id_hash();
    // It has learned the nonce before requests are counted.
    assert!(live(&through, &new_id_hash()).unwrap().is_none());
    let held = proxy.hold(number);
    let answer = thread::scope(|scope| {
        let (done, is_done) = channel();
        let through = &through;
        let request = scope.spawn(move || {
            let nothing = Delta::new();
            let action = Action::Renew { to, grace_until };
            let answer = through.commit(&Commit::new(&id_hash, action, nothing, NOW));
            done.send(()).unwrap();
            answer
        });
        // It may need fewer commands than that.
        let mut reached = false;
        while !reached && is_done.try_recv().is_err() {
            reached = held.is_reached_within(Duration::from_millis(1));
        }
        store.clear().unwrap();
        drop(held);
        request.join().unwrap()
    });
    proxy.plan(Plan::Pass);
    for asked in [id_hash, to] {
        let loaded = store.load(&asked, NOW).unwrap();
        let gone = !matches!(loaded, Loaded::Live(_));
        assert!(gone, "held before its command {number}: {answer:?}, and then {loaded:?}");
    }
}

#[test]
fn a_clear_between_any_two_commands_of_a_renewal_is_final() {
    for number in 0..6 {
        cleared_in_between(number, None);
    }
}

#[test]
fn a_clear_between_commands_of_a_renewal_with_grace_is_final() {
    for number in 0..6 {
        cleared_in_between(number, Some(NOW + HOUR));
    }
}

/// Two servers, a store on them, and another that clears them command by command.
struct Clearing {
    servers: [Memcached; 2],
    proxies: [Proxy; 2],
    store: MemcachedStore,
    clearer: MemcachedStore,
}

impl Clearing {
    const NONCE: &str = "clearing:s:nonce";

    fn new() -> Clearing {
        let servers = [Memcached::start(), Memcached::start()];
        let proxies = servers.each_ref().map(|server| Proxy::to(server.address));
        let open = |addresses: [SocketAddr; 2], timeout| {
            let builder = on(addresses.map(|address| address.to_string()));
            builder.namespace("clearing").io_timeout(timeout).open().unwrap()
        };
        let direct = servers.each_ref().map(|server| server.address);
        // It waits so long for a server that is closed.
        let store = open(direct, Duration::from_secs(2));
        let through = proxies.each_ref().map(|proxy| proxy.address);
        let clearer = open(through, Duration::from_secs(20));
        Clearing { servers, proxies, store, clearer }
    }

    fn id_hash_at(&self, server: usize) -> SessionIdHash {
        loop {
            let id_hash = new_id_hash();
            if self.store.shard_of(&CacheKey::from_bytes(*id_hash.as_bytes())) == server {
                return id_hash;
            }
        }
    }
}

#[test]
fn a_session_that_moves_does_not_escape_a_clear() {
    let clearing = Clearing::new();
    let mut id_hashes = vec![clearing.id_hash_at(1)];
    create_at(&clearing.store, &id_hashes[0]).unwrap();
    let mut held = clearing.proxies[1].hold(0);
    thread::scope(|scope| {
        let clear = scope.spawn(|| clearing.clearer.clear());
        // Each time one server has had its command, and the other one waits for its.
        for waits in [1, 0, 1] {
            held.wait_until_reached();
            let to = clearing.id_hash_at(1 - waits);
            if let Ok(CommitAnswer::Done { .. }) = renew(&clearing.store, &id_hashes[0], &to, None)
            {
                id_hashes.insert(0, to);
            }
            let next = clearing.proxies[1 - waits].hold(0);
            held = next;
        }
        drop(held);
        clear.join().unwrap().unwrap();
    });
    for id_hash in id_hashes {
        let loaded = clearing.store.load(&id_hash, NOW).unwrap();
        assert!(!matches!(loaded, Loaded::Live(_)), "{loaded:?}");
    }
}

#[test]
fn servers_after_an_aborted_clear_recover_by_themselves() {
    let clearing = Clearing::new();
    let id_hash = clearing.id_hash_at(0);
    create_at(&clearing.store, &id_hash).unwrap();
    clearing.proxies[1].plan(Plan::LoseRequest(0));
    // The servers that could be reached are cleared all the same.
    assert_eq!(clearing.clearer.clear().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(is_absent(&clearing.store, &id_hash));
    create_at(&clearing.store, &id_hash).unwrap();
    clearing.proxies[1].plan(Plan::Pass);
    let held = clearing.proxies[1].hold(0);
    thread::scope(|scope| {
        let clear = scope.spawn(|| clearing.clearer.clear());
        held.wait_until_reached();
        assert_eq!(clearing.store.load(&id_hash, NOW).unwrap_err().kind(), ErrorKind::Busy);
        let error = create_at(&clearing.store, &id_hash).unwrap_err();
        assert_eq!((error.kind(), error.has_unknown_outcome()), (ErrorKind::Busy, false));
        let mut raw = clearing.servers[0].raw();
        assert!((1..=10).contains(&raw.seconds_left(Clearing::NONCE).unwrap()));
        // As it is when the time is over.
        raw.remove(Clearing::NONCE);
        assert!(is_absent(&clearing.store, &id_hash));
        drop(held);
        clear.join().unwrap().unwrap();
    });
    create_at(&clearing.store, &id_hash).unwrap();
    assert!(is_live(&clearing.store, &id_hash));
}
