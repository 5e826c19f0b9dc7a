//! Connections that are lost at a certain trip of a call.

use std::net::{Ipv4Addr, SocketAddr};

use cloakroom::backend::{CommitAnswer, Delta, Store};
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{ErrorKind, PostgresStore};

use super::given::{all_succeed_after, number};
use crate::common::postgres::{fresh_table, shared};
use crate::common::proxy::{Plan, Proxy};
use crate::common::{NOW, cached_store, create, end, live, merge, setting, value};

/// A text that an error has if the change may have been made.
const MAY_BE_DONE: &str = "the change may have been made";

/// A store behind a proxy, one on the server itself, and a session with `n` = 1 that both know. The
/// proxied store has prepared its statements, so that each trip is one request.
fn proxied() -> (Proxy, PostgresStore, PostgresStore, cloakroom::id::SessionIdHash) {
    let proxy = Proxy::to(SocketAddr::from((Ipv4Addr::LOCALHOST, shared().port())));
    let table = fresh_table();
    let url = format!("postgres://postgres@{}/postgres", proxy.address);
    let timeout = crate::common::client::PATIENCE;
    let builder = PostgresStore::builder(&url).table(&table);
    let store = builder.call_timeout(timeout).connect_timeout(timeout).open().unwrap();
    let id_hash = create(&store, &setting("n", 0)).unwrap();
    merge(&store, &id_hash, &setting("n", 1)).unwrap();
    live(&store, &id_hash).unwrap();
    let direct = shared().builder_in(&table).open().unwrap();
    (proxy, store, direct, id_hash)
}

#[test]
fn a_merge_whose_commit_is_lost_is_unavailable_and_not_done() {
    let (proxy, store, direct, id_hash) = proxied();
    proxy.plan(Plan::LoseRequest(1));
    let error = merge(&store, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(MAY_BE_DONE), "{error}");
    assert_eq!(number(&direct, &id_hash), 1);
}

#[test]
fn a_merge_whose_answer_is_lost_says_that_it_may_be_done() {
    let (proxy, store, direct, id_hash) = proxied();
    proxy.plan(Plan::LoseOneAnswer(1));
    let error = merge(&store, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(MAY_BE_DONE), "{error}");
    // The answer to its first statement is lost; the server may not have read the commit yet.
    assert!([1, 2].contains(&number(&direct, &id_hash)));
    merge(&store, &id_hash, &setting("n", 3)).unwrap();
}

#[test]
fn an_ending_whose_answer_is_lost_makes_the_cache_stale() {
    let (proxy, store, direct, id_hash) = proxied();
    let store = cached_store(MemoryCache::new(), store);
    // The statements of an ending are prepared.
    end(&store, &create(&store, &Delta::new()).unwrap()).unwrap();
    let cached = create(&store, &setting("n", 1)).unwrap();
    let cached_number = || value::<u32>(&live(&store, &cached).unwrap().unwrap(), "n");
    assert_eq!(cached_number(), Some(1));
    merge(&direct, &cached, &setting("n", 2)).unwrap();
    assert_eq!(cached_number(), Some(1), "from the cache");
    proxy.plan(Plan::LoseOneAnswer(1));
    let error = end(&store, &id_hash).unwrap_err();
    assert!(error.has_unknown_outcome(), "{error}");
    assert_eq!(cached_number(), Some(2));
}

#[test]
fn a_connection_lost_before_a_commit_is_replaced() {
    let (proxy, store, direct, id_hash) = proxied();
    proxy.plan(Plan::LoseOneAnswer(0));
    let merged = merge(&store, &id_hash, &setting("n", 2)).unwrap();
    assert!(matches!(merged, CommitAnswer::Done { session, .. } if session.record.revision == 3));
    assert_eq!(number(&direct, &id_hash), 2);
    proxy.plan(Plan::LoseOneAnswer(0));
    assert_eq!(number(&store, &id_hash), 2);
}

#[test]
fn a_connection_closed_without_a_message_fails_no_call() {
    let (proxy, store, _, id_hash) = proxied();
    all_succeed_after(|| proxy.close_connections(), &store, &id_hash);
}

#[test]
fn a_creation_without_an_answer_says_that_it_may_be_done() {
    let (proxy, store, _, _) = proxied();
    proxy.plan(Plan::LoseOneAnswer(0));
    let error = create(&store, &Delta::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(MAY_BE_DONE), "{error}");
}

#[test]
fn a_server_out_of_reach_before_a_commit_has_done_nothing() {
    let (proxy, store, direct, id_hash) = proxied();
    proxy.plan(Plan::LoseAnswer(0));
    let error = merge(&store, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.to_string().contains(MAY_BE_DONE), "{error}");
    assert!(!error.has_unknown_outcome());
    assert_eq!(number(&direct, &id_hash), 1);
    assert_eq!(store.load(&id_hash, NOW).unwrap_err().kind(), ErrorKind::Unavailable);
}
