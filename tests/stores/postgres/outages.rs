//! Servers that are killed, frozen or restarted, and connections that end.

use std::time::Instant;

use cloakroom::ErrorKind;
use cloakroom::backend::{Delta, Store};

use super::given::{
    HASTY, SOON, all_fail, all_succeed, all_succeed_after, hasty, killed_under_changes, number,
};
use crate::common::postgres::Postgres;
use crate::common::{NOW, create, live, merge, setting};

#[test]
fn a_killed_server_is_unavailable_until_it_is_back() {
    let server = Postgres::start();
    let store = server.store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    server.kill();
    all_fail(&store, &id_hash, ErrorKind::Unavailable);
    server.start_again();
    assert_eq!(number(&store, &id_hash), 1);
    all_succeed(&store, &id_hash);
}

#[test]
fn a_frozen_server_fails_calls_at_their_timeout() {
    let server = Postgres::start();
    let (store, id_hash) = hasty(&server, |builder| builder.connect_timeout(HASTY));
    server.freeze();
    for _ in 0..3 {
        let began = Instant::now();
        let error = store.load(&id_hash, NOW).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(began.elapsed() >= HASTY, "it took {:?}", began.elapsed());
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    }
    all_fail(&store, &id_hash, ErrorKind::Unavailable);
    // The drop does not wait either.
    let began = Instant::now();
    drop(store);
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    server.thaw();
}

#[test]
fn a_thawed_server_is_used_again() {
    let server = Postgres::start();
    let (store, id_hash) = hasty(&server, |builder| builder);
    server.freeze();
    store.load(&id_hash, NOW).unwrap_err();
    server.thaw();
    let deadline = Instant::now() + SOON * 6;
    while let Err(error) = live(&store, &id_hash) {
        assert!(Instant::now() < deadline, "{error}");
    }
    assert_eq!(number(&store, &id_hash), 1);
}

#[test]
fn opening_at_a_server_that_is_down_fails_at_once() {
    let server = Postgres::start();
    let builder = server.builder();
    server.kill();
    let began = Instant::now();
    let error = builder.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
}

#[test]
fn a_terminated_connection_fails_no_call() {
    let server = Postgres::start();
    let store = server.store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    all_succeed_after(|| server.terminate_connections(), &store, &id_hash);
}

#[test]
fn a_change_that_no_replica_has_is_not_acknowledged() {
    let server = Postgres::start();
    let (store, id_hash) = hasty(&server, |builder| builder.connect_timeout(HASTY));
    server.set("synchronous_standby_names", "absent");
    // A connection may read the new setting after its first commit.
    let failed = (2..50).any(|n| {
        let error = merge(&store, &id_hash, &setting("n", n)).err();
        error.is_some_and(|error| {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            error.to_string().contains("the change may have been made")
        })
    });
    assert!(failed, "changes are acknowledged");
    server.set("synchronous_standby_names", "");
}

#[test]
fn acknowledged_changes_survive_a_killed_server() {
    let server = Postgres::start();
    let store = server.store();
    let id_hash = create(&store, &Delta::new()).unwrap();
    let acknowledged = killed_under_changes(&server, &store, &id_hash);
    server.start_again();
    let stored = number(&store, &id_hash);
    // The last one may have been stored and not acknowledged.
    assert!([acknowledged, acknowledged + 1].contains(&stored), "{stored} of {acknowledged}");
}
