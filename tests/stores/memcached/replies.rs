//! Replies that no memcached of today sends: of old versions, of other programs, through proxies
//! that mix them up. A real memcached stands behind the changed replies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::backend::{Cache, CacheKey, CacheLookup, Delta, Loaded, Store, Unreadable};
use cloakroom::id::SessionIdHash;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::{ErrorKind, Result};

use crate::common::memcached::{Memcached, Raw};
use crate::common::{NOW, create, new_id_hash, setting, value};
use crate::memcached::operations::{SOON, assert_all_fail, is_absent, is_live, renew};

/// Changes a reply. The second argument is the reply before it on the same connection.
type Change = Box<dyn FnMut(Vec<u8>, &[u8]) -> Vec<u8> + Send>;

/// A proxy that passes requests on and changes the replies.
struct Changing {
    address: SocketAddr,
    change: Arc<Mutex<Change>>,
}

impl Changing {
    fn before(server: &Memcached) -> Changing {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let change: Arc<Mutex<Change>> = Arc::new(Mutex::new(Box::new(|reply, _: &[u8]| reply)));
        let to = server.address;
        let changes = change.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(to).unwrap();
                let changes = changes.clone();
                thread::spawn(move || carry(client, server, &changes));
            }
        });
        Changing { address, change }
    }

    fn set(&self, change: impl FnMut(Vec<u8>, &[u8]) -> Vec<u8> + Send + 'static) {
        *self.change.lock().unwrap() = Box::new(change);
    }

    fn set_nothing(&self) {
        self.set(|reply, _| reply);
    }

    fn store(&self, namespace: &str) -> MemcachedStore {
        let builder = MemcachedStore::builder().servers([self.address.to_string()]);
        builder.namespace(namespace).io_timeout(Duration::from_secs(2)).open().unwrap()
    }
}

/// Requests and replies take turns, and each is small enough to come in one piece.
fn carry(mut client: TcpStream, mut server: TcpStream, change: &Mutex<Change>) {
    let mut bytes = [0; 1 << 16];
    let mut before = Vec::new();
    while let Ok(read @ 1..) = client.read(&mut bytes) {
        if server.write_all(&bytes[..read]).is_err() {
            return;
        }
        let Ok(read @ 1..) = server.read(&mut bytes) else { return };
        let reply = bytes[..read].to_vec();
        let changed = (change.lock().unwrap())(reply.clone(), &before);
        before = reply;
        if client.write_all(&changed).is_err() || changed.is_empty() {
            return;
        }
    }
}

#[test]
fn versions_before_1_6_18_are_refused_and_nothing_is_sent() {
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    for old in ["1.4.39", "1.5.22", "1.6.0", "1.6.12", "1.6.17"] {
        proxy.set(move |_, _| format!("VERSION {old}\r\n").into_bytes());
        let store = proxy.store("old");
        assert_all_fail(&store, &new_id_hash(), ErrorKind::Unsupported);
        let words = create(&store, &Delta::new()).unwrap_err().to_string();
        assert!(words.contains("1.6.18") && words.contains(old), "{words}");
    }
    assert_eq!(server.raw().statistic("total_items"), "0");
    for new in ["1.6.18", "1.6.45", "1.7.0"] {
        let version = server.raw().ask("version");
        proxy.set(move |reply, _| match reply.starts_with(version.as_bytes()) {
            true => format!("VERSION {new}\r\n").into_bytes(),
            false => reply,
        });
        let store = proxy.store("new");
        assert!(is_live(&store, &create(&store, &setting("n", 1)).unwrap()));
    }
}

#[test]
fn an_item_lost_from_the_servers_disk_is_absent() {
    // Such a miss has no token.
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    proxy.set(|reply, _| match reply.windows(4).position(|window| window == b"EN O") {
        Some(at) => [&reply[..at], b"EN\r\n"].concat(),
        None => reply,
    });
    let store = proxy.store("lost");
    assert!(is_absent(&store, &new_id_hash()));
    assert!(is_live(&store, &create(&store, &setting("n", 1)).unwrap()));
}

/// Loads two sessions in turn, and checks that each load finds the right one or fails.
fn alternate(store: &MemcachedStore, [ada, bob]: [SessionIdHash; 2]) -> (u32, u32) {
    let mut right = 0;
    let mut failed = 0;
    for (id_hash, number) in [(ada, 1), (bob, 2)].into_iter().cycle().take(80) {
        match store.load(&id_hash, NOW) {
            Ok(Loaded::Live(session)) => {
                assert_eq!(value(&session.record, "n"), Some(number), "the other user's session");
                right += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                failed += 1;
            }
        }
    }
    (right, failed)
}

#[test]
fn a_late_or_doubled_reply_is_never_another_users_session() {
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    let store = proxy.store("late");
    let both = [1, 2].map(|n| create(&store, &setting("n", n)).unwrap());
    assert_eq!(alternate(&store, both), (80, 0));

    // Each third reply is the one before it.
    let mut number = 0;
    proxy.set(move |reply, before| {
        number += 1;
        if number % 3 == 0 && !before.is_empty() { before.to_vec() } else { reply }
    });
    let (right, failed) = alternate(&store, both);
    assert!(right > 0 && failed > 0, "{right} {failed}");

    // Each reply comes twice.
    proxy.set(|reply, _| [&reply[..], &reply].concat());
    let (right, _) = alternate(&store, both);
    assert!(right > 0);

    // Each reply comes with the one before it in front.
    proxy.set(|reply, before| [before, &reply].concat());
    alternate(&store, both);
    proxy.set_nothing();
    assert_eq!(alternate(&store, both).1, 0, "it recovers");
}

#[test]
fn a_reply_that_ends_early_is_unavailable() {
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    let store = proxy.store("early");
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    for end in 1..200 {
        proxy.set(move |mut reply, _| {
            // The version is answered, so that the reply to the command is cut.
            if !reply.starts_with(b"VERSION") {
                reply.truncate(reply.len().saturating_sub(end));
                reply.push(b'\0');
            }
            reply
        });
        let began = Instant::now();
        let patience = Duration::from_millis(20);
        let hasty = MemcachedStore::builder().servers([proxy.address.to_string()]);
        let hasty = hasty.namespace("early").io_timeout(patience).open().unwrap();
        assert_eq!(hasty.load(&id_hash, NOW).unwrap_err().kind(), ErrorKind::Unavailable, "{end}");
        assert!(began.elapsed() < SOON);
    }
    proxy.set_nothing();
    assert!(is_live(&store, &id_hash));
}

#[test]
fn a_reply_without_an_end_is_refused_at_once() {
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    let store = proxy.store("endless");
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    for text in [
        "x".repeat(60_000),
        format!("VA {} c1 O1\r\n", usize::MAX),
        format!("VA {} c1 O1\r\n", 1_u64 << 40),
        "VA 99999999999999999999999 c1 O1\r\n".to_owned(),
        format!("VA 5 {}", "c1 ".repeat(10_000)),
    ] {
        let text = text.into_bytes();
        proxy.set(move |_, _| text.clone());
        let began = Instant::now();
        let failed = store.load(&id_hash, NOW).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
        assert!(began.elapsed() < Duration::from_secs(2), "it did not wait for the timeout");
    }
    // The right token with a length above the limit of an item.
    proxy.set(|reply, _| {
        let text = String::from_utf8_lossy(&reply).into_owned();
        match text.strip_prefix("VA ").and_then(|rest| rest.split_once(' ')) {
            Some((_, rest)) => format!("VA 1048577 {rest}").into_bytes(),
            None => reply,
        }
    });
    let failed = store.load(&id_hash, NOW).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Unavailable);
    assert!(failed.to_string().contains("1048577"), "{failed}");
}

#[test]
fn other_programs_on_the_port_are_unavailable() {
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    for (reply, expected) in [
        ("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "HTTP/1.1"),
        ("-ERR unknown command 'version', with args beginning with: \r\n", "-ERR"),
        ("220 smtp.example ESMTP\r\n", "220 smtp"),
        ("\x16\x03\x01\n", "x16"),
        ("\r\n", "not memcached"),
    ] {
        proxy.set(move |_, _| reply.as_bytes().to_vec());
        let store = proxy.store("other");
        assert_all_fail(&store, &new_id_hash(), ErrorKind::Unavailable);
        let words = create(&store, &Delta::new()).unwrap_err().to_string();
        assert!(words.contains("not memcached") && words.contains(expected), "{words}");
    }
}

#[test]
fn errors_of_the_server_have_their_kinds() {
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    let store = proxy.store("errors");
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    for (text, kind) in [
        ("ERROR Too many open connections\r\n", ErrorKind::Unavailable),
        ("SERVER_ERROR backend failure\r\n", ErrorKind::Unavailable),
        ("SERVER_ERROR out of memory writing get response\r\n", ErrorKind::Full),
        ("CLIENT_ERROR unauthenticated\r\n", ErrorKind::Unsupported),
    ] {
        proxy.set(move |_, _| text.as_bytes().repeat(2));
        assert_eq!(store.load(&id_hash, NOW).unwrap_err().kind(), kind, "{text}");
    }
    proxy.set_nothing();
    assert!(is_live(&store, &id_hash), "it recovers");
}

#[test]
fn a_server_with_too_many_connections_is_unavailable() {
    let server = Memcached::with(&["-c", "32"]);
    let store = server.hasty_store();
    let mut others: Vec<Raw> = Vec::new();
    // The server closes each connection above its limit after one line.
    while others.len() < 100 {
        let mut other = server.raw();
        if !other.ask("version").starts_with("VERSION") {
            break;
        }
        others.push(other);
    }
    assert!(others.len() < 100, "the limit was not reached");
    let error = create(&store, &setting("n", 1)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    drop(others);
    let began = Instant::now();
    // The server needs a moment to see that they are closed.
    while create(&store, &setting("n", 1)).is_err() {
        assert!(began.elapsed() < SOON);
        thread::yield_now();
    }
}

#[test]
fn no_more_connections_are_opened_than_the_settings_allow() {
    let server = Memcached::start();
    let store = server.builder().connections(2).open().unwrap();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for n in 0..50 {
                    let id_hash = create(&store, &setting("n", n)).unwrap();
                    assert!(is_live(&store, &id_hash));
                }
            });
        }
    });
    // The connection that the test's start made, that of this question, and the two.
    let opened: u32 = server.raw().statistic("total_connections").parse().unwrap();
    assert!(opened <= 5, "{opened} connections");
}

#[test]
fn a_call_that_gets_no_connection_in_time_fails() {
    let server = Memcached::start();
    let patience = Duration::from_millis(300);
    let store = server.builder().connections(1).io_timeout(patience).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    server.freeze();
    let failures: Vec<Result<Loaded>> = thread::scope(|scope| {
        let load = || store.load(&id_hash, NOW);
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(load)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    server.thaw();
    let words: Vec<String> =
        failures.into_iter().map(|failure| failure.unwrap_err().to_string()).collect();
    assert!(words.iter().any(|words| words.contains("all 1 connections are in use")), "{words:?}");
    assert!(is_live(&after_a_success(&store), &id_hash));
}

/// The same store after the server has gone on.
fn after_a_success(store: &MemcachedStore) -> MemcachedStore {
    let began = Instant::now();
    while store.load(&new_id_hash(), NOW).is_err() {
        assert!(began.elapsed() < SOON);
    }
    store.clone()
}

#[test]
fn a_server_that_demands_authentication_is_refused_in_words() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "user:secret\n").unwrap();
    let server = Memcached::with(&["-Y", file.path().to_str().unwrap()]);
    let store = server.store();
    assert_all_fail(&store, &new_id_hash(), ErrorKind::Unsupported);
    let words = create(&store, &Delta::new()).unwrap_err().to_string();
    assert!(words.contains("-Y"), "{words}");
}

#[test]
fn an_entry_of_another_session_is_a_miss() {
    let server = Memcached::start();
    let store = server.builder_in("entries").open().unwrap();
    let [ada, bob] = [1, 2].map(|n| CacheKey::from_bytes([n; 32]));
    let of_ada = create(&store, &setting("n", 1)).unwrap();
    let Loaded::Live(session) = store.load(&of_ada, NOW).unwrap() else { panic!() };
    let entry = cloakroom::backend::CacheEntry::new(session.record, NOW);
    let CacheLookup::Miss(Some(lease)) = store.fetch(&ada, NOW).unwrap() else { panic!() };
    assert!(store.fill(&ada, lease, &entry, NOW + SOON, NOW).unwrap());
    assert!(matches!(store.fetch(&ada, NOW).unwrap(), CacheLookup::Hit(_)));
    let mut raw = server.raw();
    let [from, to] = [ada, bob].map(|key| raw.name("entries", 'c', key.as_bytes()));
    let value = raw.get(&from).unwrap();
    raw.set(&to, &value);
    assert!(matches!(store.fetch(&bob, NOW).unwrap(), CacheLookup::Miss(_)));
    let missing = store.load(&SessionIdHash::from_bytes([2; 32]), NOW).unwrap();
    assert!(matches!(missing, Loaded::Unreadable(Unreadable::NotFound { .. })));
}

#[test]
fn replies_that_are_slow_together_exceed_the_deadline() {
    let server = Memcached::start();
    let proxy = Changing::before(&server);
    let id_hash = create(&proxy.store("slow"), &setting("n", 1)).unwrap();
    let timeout = Duration::from_millis(100);
    let builder = MemcachedStore::builder().servers([proxy.address.to_string()]).namespace("slow");
    let store = builder.connect_timeout(timeout).io_timeout(timeout).open().unwrap();
    // Each is in time. But a renewal needs six, and has 200 ms.
    proxy.set(|reply, _| {
        thread::park_timeout(Duration::from_millis(70));
        reply
    });
    let error = renew(&store, &id_hash, &new_id_hash(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    proxy.set_nothing();
    assert!(is_live(&proxy.store("slow"), &id_hash), "it was not moved");
}
