//! A primary that is lost, and a replica that is promoted in its place.

use std::time::Duration;

use cloakroom::backend::{CommitAnswer, Delta, Store};
use cloakroom::{ErrorKind, PostgresStore};

use super::given::{all_fail, all_succeed, killed_under_changes, number};
use crate::common::client::PATIENCE;
use crate::common::postgres::{Postgres, fresh_table};
use crate::common::{NOW, create, end, live, merge, setting};

/// A store that uses the one of these servers that accepts changes.
fn store_on([first, second]: [&Postgres; 2]) -> PostgresStore {
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        first.port(),
        second.port()
    );
    let builder = PostgresStore::builder(&url).table(fresh_table());
    builder.connect_timeout(PATIENCE).call_timeout(PATIENCE).open().unwrap()
}

#[test]
fn a_promoted_synchronous_replica_has_all_that_was_answered() {
    let primary = Postgres::start();
    let replica = primary.start_replica();
    primary.set("synchronous_standby_names", "*");
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    while primary.sql(synchronous) != "1" {}
    // The order of the hosts does not matter.
    let store = store_on([&replica, &primary]);
    let [id_hash, ended] = [(); 2].map(|()| create(&store, &Delta::new()).unwrap());
    let acknowledged = {
        assert!(matches!(end(&store, &ended).unwrap(), CommitAnswer::Ended(_)));
        killed_under_changes(&primary, &store, &id_hash)
    };

    // No server accepts changes, and a store that is connected to the replica says so.
    all_fail(&store, &id_hash, ErrorKind::Unavailable);
    let read_only = replica.builder_in(store.table()).open().unwrap();
    let error = merge(&read_only, &id_hash, &setting("n", 0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");

    let before = read_only.index().unwrap().identity().unwrap();
    replica.promote();
    assert_eq!(store.index().unwrap().identity().unwrap(), before);
    let stored = number(&store, &id_hash);
    // The last one may have been stored and not acknowledged.
    assert!([acknowledged, acknowledged + 1].contains(&stored), "{stored} of {acknowledged}");
    assert!(live(&store, &ended).unwrap().is_none());
    let merged = merge(&store, &ended, &setting("n", 1)).unwrap();
    assert!(matches!(merged, CommitAnswer::Unreadable(_)), "{merged:?}");
    all_succeed(&store, &id_hash);
    // The connection to it, from before its promotion, is used on.
    merge(&read_only, &id_hash, &setting("n", -1)).unwrap();
    assert_eq!(number(&store, &id_hash), -1);
}

#[test]
fn a_silent_first_host_does_not_hide_the_second() {
    let [frozen, other] = [Postgres::start(), Postgres::start()];
    frozen.freeze();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres",
        frozen.port(),
        other.port()
    );
    let builder = PostgresStore::builder(&url).connect_timeout(Duration::from_secs(4));
    let store = builder.call_timeout(PATIENCE).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    assert_eq!(number(&store, &id_hash), 1);
    frozen.thaw();
}

#[test]
fn an_asynchronous_replica_can_bring_an_ended_session_back() {
    let primary = Postgres::start();
    let replica = primary.start_replica();
    let store = store_on([&primary, &replica]);
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let tables = "SELECT count(*) FROM pg_class WHERE relname";
    while replica.sql(&format!("{tables} = '{}'", store.table())) != "1" {}
    while replica.sql(&format!("SELECT count(*) FROM {}", store.table())) != "1" {}
    // The replica is behind from here on.
    replica.set("primary_conninfo", "");
    while primary.sql("SELECT count(*) FROM pg_stat_replication") != "0" {}
    assert!(matches!(end(&store, &id_hash).unwrap(), CommitAnswer::Ended(_)));
    assert!(live(&store, &id_hash).unwrap().is_none());
    primary.kill();
    replica.promote();
    // docs/scaling.md says so, and how to end it again.
    assert!(live(&store, &id_hash).unwrap().is_some());
    assert_eq!(store.index().unwrap().revoke_everyone(None, NOW).unwrap(), 1);
    assert!(live(&store, &id_hash).unwrap().is_none());
}
