//! Servers that are down, frozen, full, or not there at all.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::ErrorKind;
use cloakroom::backend::{
    CommitAnswer, Delta, LiveSession, Loaded, Store, Touch, TouchError, Unreadable,
};
use cloakroom::id::SessionIdHash;
use cloakroom::stores::memcached::MemcachedStore;

use crate::common::memcached::{LONG_TIMEOUT, Memcached, on};
use crate::common::{HOUR, NOW, create, live, merge, new_id_hash, setting, value};
use crate::memcached::operations::{SOON, assert_all_fail, is_absent, is_live};

#[test]
fn a_server_that_is_down_is_never_an_empty_session() {
    let server = Memcached::start();
    let store = server.store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    server.kill();
    assert_all_fail(&store, &id_hash, ErrorKind::Unavailable);
    server.start_again();
    assert!(is_absent(&store, &id_hash), "a restart loses the session as a whole");
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(is_live(&store, &id_hash), "and the store goes on");
}

#[test]
fn a_frozen_server_is_unavailable_and_loses_nothing() {
    let server = Memcached::start();
    let patient = server.builder_in("frozen").open().unwrap();
    let id_hash = create(&patient, &setting("n", 1)).unwrap();
    let timeout = Duration::from_millis(200);
    let store = server.builder_in("frozen").io_timeout(timeout).open().unwrap();
    server.freeze();
    let began = Instant::now();
    assert_eq!(store.load(&id_hash, NOW).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < SOON);
    assert_eq!(create(&store, &Delta::new()).unwrap_err().kind(), ErrorKind::Unavailable);
    let merged = merge(&store, &id_hash, &setting("n", 2));
    assert_eq!(merged.unwrap_err().kind(), ErrorKind::Unavailable);
    server.thaw();
    assert!(is_live(&patient, &id_hash), "it answers again");
}

#[test]
fn a_batch_of_touches_fails_as_a_whole_if_each_server_does() {
    let servers = [Memcached::start(), Memcached::start()];
    let addresses = servers.iter().map(|server| server.address.to_string());
    let timeout = Duration::from_millis(200);
    let store = on(addresses).io_timeout(timeout).connect_timeout(timeout).open().unwrap();
    let batch: Vec<_> =
        (0..100).map(|_| (create(&store, &Delta::new()).unwrap(), Touch::at(NOW + HOUR))).collect();
    let touch = || store.touch(&batch, NOW + HOUR);
    servers[0].freeze();
    assert!(matches!(touch(), Err(TouchError::Sessions(failed)) if failed.len() < 100));
    servers[1].freeze();
    let Err(TouchError::Store(error)) = touch() else { panic!("not each failed") };
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    servers.iter().for_each(Memcached::thaw);
    touch().unwrap();
}

#[test]
fn a_server_that_accepts_and_never_answers_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let timeout = Duration::from_millis(50);
    let builder = MemcachedStore::builder().servers([address]).io_timeout(timeout);
    assert_all_fail(&builder.open().unwrap(), &new_id_hash(), ErrorKind::Unavailable);
}

#[test]
fn a_server_that_is_not_memcached_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let store = MemcachedStore::builder().servers([address]).open().unwrap();
    assert_all_fail(&store, &new_id_hash(), ErrorKind::Unavailable);
}

#[test]
fn a_wrong_port_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = MemcachedStore::builder().servers([free.to_string()]).open().unwrap();
    assert_all_fail(&store, &new_id_hash(), ErrorKind::Unavailable);
}

#[test]
fn a_name_that_does_not_resolve_fails_each_call() {
    let builder = MemcachedStore::builder().servers(["no-such-host.invalid:11211"]);
    let store = builder.connect_timeout(LONG_TIMEOUT).open().unwrap();
    let error = store.load(&new_id_hash(), NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let words = error.to_string();
    assert!(words.contains("no-such-host.invalid:11211: its name has no address"), "{words}");
}

#[test]
fn a_full_server_drops_sessions_as_a_whole_and_fails_no_request() {
    let server = Memcached::with(&["-m", "8"]);
    let store = server.store();
    let data = setting("n", "x".repeat(20_000));
    let id_hashes: Vec<SessionIdHash> = (0..2000).map(|_| create(&store, &data).unwrap()).collect();
    let found: Vec<bool> = id_hashes.iter().map(|id_hash| is_live(&store, id_hash)).collect();
    assert!(!found[0], "40 MB do not fit into 8");
    assert!(found[1990..].iter().all(|found| *found), "the newest are there");
    let answer = merge(&store, &id_hashes[0], &data).unwrap();
    assert!(matches!(answer, CommitAnswer::Unreadable(Unreadable::NotFound { .. })));
}

#[test]
fn a_server_that_may_not_drop_anything_is_full() {
    let server = Memcached::with(&["-m", "8", "-M"]);
    let store = server.store();
    let data = setting("n", "x".repeat(20_000));
    let error = (0..2000).find_map(|_| create(&store, &data).err()).expect("it gets full");
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
}

#[test]
fn the_loss_of_one_server_loses_its_sessions_only() {
    let one = Memcached::start();
    let other = Memcached::start();
    let addresses = [one.address.to_string(), other.address.to_string()];
    let store = on(addresses.clone()).open().unwrap();
    let id_hashes: Vec<SessionIdHash> =
        (0..100).map(|n| create(&store, &setting("n", n)).unwrap()).collect();
    one.kill();
    let alive: Vec<bool> =
        id_hashes.iter().map(|id_hash| store.load(id_hash, NOW).is_ok()).collect();
    let found = alive.iter().filter(|alive| **alive).count();
    assert!((20..80).contains(&found), "{found} of 100 are on one of two servers");
    for (id_hash, alive) in id_hashes.iter().zip(&alive) {
        match store.load(id_hash, NOW) {
            Ok(loaded) => assert!(matches!(loaded, Loaded::Live(_))),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
        let written = merge(&store, id_hash, &setting("n", 0));
        assert_eq!(written.is_ok(), *alive, "nothing is written to the other server instead");
    }
    // The other sessions are touched, although one server fails the call.
    let later = NOW + HOUR;
    let batch: Vec<_> = id_hashes.iter().map(|id_hash| (*id_hash, Touch::at(later))).collect();
    let TouchError::Sessions(failed) = store.touch(&batch, later).unwrap_err() else { panic!() };
    let lost =
        id_hashes.iter().zip(&alive).filter(|(_, alive)| !**alive).map(|(id_hash, _)| id_hash);
    let named = failed.iter().map(|((id_hash, _), _)| id_hash);
    assert!(named.eq(lost), "each is named, and no other");
    assert!(failed.iter().all(|(_, error)| error.kind() == ErrorKind::Unavailable));
    for (id_hash, _) in id_hashes.iter().zip(&alive).filter(|(_, alive)| **alive) {
        assert_eq!(live(&store, id_hash).unwrap().unwrap().seen, later);
    }
    one.start_again();
    // In another order the servers are the same.
    let [a, b] = addresses;
    let reversed = on([b, a]).open().unwrap();
    for (id_hash, alive) in id_hashes.iter().zip(&alive) {
        assert_eq!(is_live(&store, id_hash), *alive);
        assert_eq!(is_live(&reversed, id_hash), *alive);
    }
}

#[test]
fn a_kill_under_load_fails_requests_and_answers_none() {
    let server = Arc::new(Memcached::start());
    let store = server.store();
    let began = Barrier::new(9);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    create(&store, &setting("n", 0)).unwrap();
                    began.wait();
                    let mut failures = 0;
                    for n in 0..400 {
                        match create(&store, &setting("n", n)) {
                            Ok(id_hash) => match store.load(&id_hash, NOW) {
                                // Lost as a whole by the restart, or there as a whole.
                                Ok(Loaded::Unreadable(Unreadable::NotFound { .. })) => {}
                                Ok(Loaded::Live(LiveSession { record, .. })) => {
                                    assert_eq!(value(&record, "n"), Some(n));
                                }
                                Ok(other) => panic!("{other:?}"),
                                Err(_) => failures += 1,
                            },
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Unavailable);
                                failures += 1;
                            }
                        }
                    }
                    failures
                })
            })
            .collect();
        began.wait();
        server.kill();
        server.start_again();
        let failures: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        eprintln!("{failures} of 3200 failed");
    });
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(is_live(&store, &id_hash));
}

#[test]
fn a_server_without_versions_is_refused_in_words() {
    let server = Memcached::with(&["-C"]);
    let store = server.store();
    for error in [
        store.load(&new_id_hash(), NOW).unwrap_err(),
        create(&store, &setting("n", 1)).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(format!("{error:?}").contains("-C"), "{error:?}");
    }
}

#[test]
fn a_failure_names_the_server() {
    let one = Memcached::start();
    let other = Memcached::start();
    let addresses = [&one, &other].map(|server| server.address.to_string());
    let store = on(addresses.clone()).open().unwrap();
    other.kill();
    let error = (0..100).find_map(|_| store.load(&new_id_hash(), NOW).err()).unwrap();
    let words = format!("{error:?}");
    assert!(words.contains(&addresses[1]) && !words.contains(&addresses[0]), "{words}");
}

#[test]
fn a_server_is_found_by_its_ipv6_address() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let server = Memcached::at("::1", &[]);
    let address = format!("[::1]:{}", server.address.port());
    let store = on([address]).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(is_live(&store, &id_hash));
}

#[test]
fn one_server_under_two_names_loses_nothing_and_can_be_cleared() {
    let server = Memcached::start();
    let port = server.address.port();
    let names = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let store = on(names).open().unwrap();
    let id_hashes: Vec<SessionIdHash> =
        (0..50).map(|n| create(&store, &setting("n", n)).unwrap()).collect();
    assert!(id_hashes.iter().all(|id_hash| is_live(&store, id_hash)));
    store.clear().unwrap();
    assert!(id_hashes.iter().all(|id_hash| is_absent(&store, id_hash)));
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(is_live(&store, &id_hash));
}
