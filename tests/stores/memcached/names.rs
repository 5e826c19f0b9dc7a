//! Servers under names of which the addresses change. Each test runs again as a process of its own,
//! with its own `/etc/hosts`; that needs root.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use cloakroom::backend::Store;
use cloakroom::event::{EventKind, Events, LogSink};
use cloakroom::{ErrorKind, MemoryStore};

use crate::common::memcached::{Memcached, on};
use crate::common::{NOW, cached_store, create, end, live, new_id_hash, setting};
use crate::memcached::operations::{is_absent, is_live};

/// The environment variable with the path of the file that is mounted as `/etc/hosts`.
const HOSTS: &str = "CLOAKROOM_TEST_HOSTS";

/// The name of the servers.
const NAME: &str = "sessions.test";

/// Sets the addresses of [`NAME`].
fn set_addresses(addresses: &[&str]) {
    let lines = addresses.iter().map(|address| format!("{address} {NAME}\n"));
    let file = PathBuf::from(env::var_os(HOSTS).unwrap());
    // In place: the file is mounted.
    fs::write(file, lines.collect::<String>() + "127.0.0.1 localhost\n").unwrap();
}

/// Returns true in a process that has its own `/etc/hosts`. Elsewhere it runs the test there.
fn has_own_hosts(test: &str) -> bool {
    if env::var_os(HOSTS).is_some() {
        return true;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "127.0.0.1 localhost\n").unwrap();
    let inside = |command: &str| {
        let mount = format!("mount --bind \"${HOSTS}\" /etc/hosts && {command}");
        let mut shell = Command::new("unshare");
        shell.args(["--mount", "sh", "-c", &mount]).env(HOSTS, file.path());
        shell
    };
    if !inside("true").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: it needs root, for an /etc/hosts of its own");
        return false;
    }
    let mut run = inside("exec \"$0\" \"$@\"");
    run.arg(env::current_exe().unwrap()).args(["--exact", "--nocapture"]);
    let output = run.arg(format!("memcached::names::{test}")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
    false
}

/// Two servers on one port of two addresses.
fn two_servers() -> (Memcached, Memcached) {
    servers_at(["127.0.0.2", "127.0.0.3"])
}

fn servers_at([one, other]: [&str; 2]) -> (Memcached, Memcached) {
    for _ in 0..20 {
        let one = Memcached::at(one, &[]);
        let address = SocketAddr::new(other.parse().unwrap(), one.address.port());
        if let Some(other) = Memcached::try_at(address, &[]) {
            return (one, other);
        }
    }
    panic!("no port is free at both addresses");
}

#[test]
fn a_name_with_several_addresses_is_refused() {
    if !has_own_hosts("a_name_with_several_addresses_is_refused") {
        return;
    }
    set_addresses(&["127.0.0.2", "127.0.0.3"]);
    let error = on([format!("{NAME}:11211")]).open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let words = error.to_string();
    assert!(words.contains("127.0.0.2:11211, 127.0.0.3:11211"), "{words}");
}

#[test]
fn a_name_is_found_when_it_gets_an_address() {
    if !has_own_hosts("a_name_is_found_when_it_gets_an_address") {
        return;
    }
    let server = Memcached::at("127.0.0.2", &[]);
    let name = format!("{NAME}:{}", server.address.port());
    let store = on([name.clone()]).open().unwrap();
    assert_eq!(create(&store, &setting("n", 1)).unwrap_err().kind(), ErrorKind::Unavailable);
    let cached = cached_store(on([name]).open().unwrap(), MemoryStore::new());
    let behind = create(&cached, &setting("n", 1)).unwrap();
    set_addresses(&["127.0.0.2"]);
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert!(is_live(&store, &id_hash));
    assert!(live(&cached, &behind).unwrap().is_some());
}

#[test]
fn a_server_that_moves_brings_no_ended_session_back() {
    if !has_own_hosts("a_server_that_moves_brings_no_ended_session_back") {
        return;
    }
    let (one, other) = two_servers();
    set_addresses(&["127.0.0.2"]);
    let events = Events::new(LogSink::new());
    let name = format!("{NAME}:{}", one.address.port());
    let patience = Duration::from_millis(500);
    let store = on([name]).io_timeout(patience).events(events.clone()).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();

    // Another address counts when the old one fails, and not before.
    set_addresses(&["127.0.0.3"]);
    assert!(is_live(&store, &id_hash));
    one.freeze();
    assert!(store.load(&id_hash, NOW).is_err(), "on the connection that was open");
    let elsewhere = create(&store, &setting("n", 2)).unwrap();
    assert_eq!(events.count(EventKind::MemcachedMoved), 1);
    assert!(is_absent(&store, &id_hash));
    end(&store, &elsewhere).unwrap();

    // Back to the first server, which still has the session.
    one.thaw();
    set_addresses(&["127.0.0.2"]);
    other.kill();
    assert!(is_absent(&store, &id_hash), "an older state is not served");
    assert_eq!(events.count(EventKind::MemcachedMoved), 2);
    assert!(is_live(&store, &create(&store, &setting("n", 3)).unwrap()));
    assert!(is_absent(&store, &new_id_hash()));
}

#[test]
fn a_server_that_moves_before_its_first_use_is_emptied() {
    if !has_own_hosts("a_server_that_moves_before_its_first_use_is_emptied") {
        return;
    }
    let (one, other) = two_servers();
    let name = format!("{NAME}:{}", one.address.port());
    let builder = || on([name.clone()]).namespace("moved");
    set_addresses(&["127.0.0.3"]);
    let id_hash = create(&builder().open().unwrap(), &setting("n", 1)).unwrap();
    set_addresses(&["127.0.0.2"]);
    let store = builder().open().unwrap();
    // It learns the nonce by the request that finds the new address.
    one.kill();
    set_addresses(&["127.0.0.3"]);
    assert!(is_absent(&store, &id_hash), "it may have ended at the other server");
    assert!(is_live(&store, &create(&store, &setting("n", 2)).unwrap()));
    drop(other);
}

#[test]
fn a_name_that_loses_its_ipv4_address_moves_to_ipv6() {
    if !has_own_hosts("a_name_that_loses_its_ipv4_address_moves_to_ipv6") {
        return;
    }
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let (four, six) = servers_at(["127.0.0.2", "::1"]);
    let name = format!("{NAME}:{}", four.address.port());
    set_addresses(&["127.0.0.2", "::1"]);
    let events = Events::new(LogSink::new());
    let store = on([name]).events(events.clone()).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();

    // The other address may be another program's.
    four.kill();
    assert_eq!(store.load(&id_hash, NOW).unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(events.count(EventKind::MemcachedMoved), 0);
    set_addresses(&["::1"]);
    assert!(is_absent(&store, &id_hash));
    assert_eq!(events.count(EventKind::MemcachedMoved), 1);
    assert!(is_live(&store, &create(&store, &setting("n", 2)).unwrap()));
    drop(six);
}
