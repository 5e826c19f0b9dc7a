//! Calls from threads of an asynchronous runtime, and calls that wait.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use cloakroom::backend::{Delta, Store};
use cloakroom::event::EventKind;
use cloakroom::id::Realm;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::admin::Admin;
use cloakroom::stores::copy::{CopyBatch, CopyMark};
use cloakroom::{ErrorKind, PostgresStore};
use rocket::tokio::runtime::Builder;
use rocket::tokio::task::LocalSet;

use super::given::{HASTY, OpenTransaction, SOON, all_succeed, hasty, number};
use crate::common::client::PATIENCE;
use crate::common::postgres::{fresh_table, shared};
use crate::common::{HOUR, NOW, create, events, merge, on_threads, setting};

#[test]
fn a_store_works_on_a_thread_of_an_async_runtime() {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let store = shared().store();
            let id_hash = create(&store, &Delta::new()).unwrap();
            all_succeed(&store, &id_hash);
            // On a worker, and the last handle is dropped there.
            rocket::tokio::spawn(async move { all_succeed(&store, &id_hash) }).await.unwrap();
        });
        runtime.block_on(LocalSet::new().run_until(async {
            let store = shared().store();
            create(&store, &Delta::new()).unwrap();
        }));
    }
}

#[test]
fn a_call_without_a_free_connection_is_busy_at_its_timeout() {
    let (store, id_hash) = hasty(shared(), |builder| builder.connections(1));
    let lock =
        OpenTransaction::on(shared(), &format!("LOCK TABLE {} IN EXCLUSIVE MODE", store.table()));
    std::thread::scope(|scope| {
        let index = store.index().unwrap();
        // It may wait longer than other calls.
        let waits = scope.spawn(|| index.revoke(&SessionFilter::All, None, NOW));
        let deadline = Instant::now() + SOON;
        let busy = loop {
            match store.load(&id_hash, NOW) {
                Err(error) if error.kind() == ErrorKind::Busy => break error,
                _ => {}
            }
            assert!(Instant::now() < deadline, "the connection is free");
        };
        assert!(busy.to_string().contains("all 1 connections are in use"), "{busy}");
        assert!(!busy.has_unknown_outcome());
        drop(lock);
        waits.join().unwrap().unwrap();
    });
}

#[test]
fn a_change_that_waits_for_a_lock_is_busy_and_not_done() {
    let store = shared().builder().statement_timeout(HASTY).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let sql = format!("SELECT 1 FROM {} FOR UPDATE", store.table());
    let lock = OpenTransaction::on(shared(), &sql);
    let began = Instant::now();
    let error = merge(&store, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(began.elapsed() >= HASTY, "it took {:?}", began.elapsed());
    // Reads go on.
    assert_eq!(number(&store, &id_hash), 1);
    drop(lock);
    merge(&store, &id_hash, &setting("m", 2)).unwrap();
    assert_eq!(number(&store, &id_hash), 1);
}

#[test]
fn a_machine_whose_clock_is_ahead_does_not_sweep() {
    // A schema before that of the system hides its clock.
    let server_time = |offset| {
        shared().sql(&format!(
            "CREATE SCHEMA IF NOT EXISTS other_time; \
             CREATE OR REPLACE FUNCTION other_time.clock_timestamp() RETURNS timestamptz \
             LANGUAGE sql AS $$ SELECT pg_catalog.clock_timestamp() + '{offset}'::interval $$"
        ))
    };
    server_time("-10 s");
    let url = format!("{}?options=-c%20search_path%3Dother_time,pg_catalog", shared().url());
    let (events, raised) = events();
    let builder = PostgresStore::builder(&url).schema("public").table(fresh_table());
    let store = builder.events(events).open().unwrap();
    create(&store, &Delta::new()).unwrap();
    let maintenance = store.maintenance().unwrap();
    let later = NOW + HOUR * 24 * 400;
    let sweep = || store.sweep(later, NonZeroUsize::MIN).unwrap().removed;
    let skews = || raised.try_iter().filter(|kind| *kind == EventKind::ClockSkewed).count();
    maintenance.run().unwrap();
    maintenance.run().unwrap();
    assert_eq!((sweep(), skews()), (0, 1));
    // A machine that is behind removes no live session of others.
    server_time("10 s");
    maintenance.run().unwrap();
    create(&store, &Delta::new()).unwrap();
    assert_eq!(sweep(), 1);
    server_time("0 s");
    maintenance.run().unwrap();
    assert_eq!((sweep(), skews()), (1, 0));
}

#[test]
fn more_threads_than_connections_take_turns() {
    let store = shared().builder().connections(2).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    on_threads(16, || {
        for _ in 0..20 {
            merge(&store, &id_hash, &setting("n", 2)).unwrap();
        }
    });
    let sql = format!("SELECT revision FROM {}", store.table());
    assert_eq!(shared().sql(&sql), "2", "writing the same value is no change");
}

/// A policy makes the server fail the statements that read a session under another time limit.
#[test]
fn a_call_on_all_sessions_has_twelve_times_the_time_limit() {
    shared().sql("CREATE ROLE bulk LOGIN; CREATE SCHEMA bulk AUTHORIZATION bulk");
    let url = shared().url_of("bulk");
    let builder = PostgresStore::builder(&url).schema("bulk").call_timeout(PATIENCE);
    let statement_timeout = Duration::from_secs(10);
    for builder in [builder.clone(), builder.pooler(true)] {
        let store = builder.statement_timeout(statement_timeout).open().unwrap();
        create(&store, &Delta::new()).unwrap();
        shared().sql(&format!(
            "CREATE OR REPLACE FUNCTION bulk.has_long_limit() RETURNS boolean \
             LANGUAGE plpgsql AS $$ BEGIN \
             IF current_setting('statement_timeout')::interval <> '{} s' THEN \
             RAISE 'the limit is %', current_setting('statement_timeout'); END IF; \
             RETURN true; END $$; \
             ALTER TABLE bulk.{table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; \
             CREATE POLICY limited ON bulk.{table} USING (bulk.has_long_limit())",
            12 * statement_timeout.as_secs(),
            table = store.table(),
        ));
        let index = store.index().unwrap();
        let (all, page) = (SessionFilter::All, Page::first(NonZeroUsize::MIN));
        let failed = index.list(&all, page, NOW).unwrap_err();
        assert!(failed.to_string().contains("the limit is"), "{failed}");
        let realm = Realm::default();
        let much_later = NOW + HOUR * 10_000;
        assert_eq!(store.list_expired(&all, page, much_later).unwrap().len(), 1);
        assert_eq!(store.realms().unwrap(), std::slice::from_ref(&realm));
        assert_eq!(store.count_in_realm(&realm, NOW).unwrap(), 1);
        assert!(store.counts(&[], NOW).unwrap().largest > 0);
        assert_eq!(index.stats(NOW).unwrap().live, 1);
        assert_eq!(index.idle_anonymous(&realm, 0, NonZeroUsize::MIN).unwrap().len(), 1);
        let exported = store.export(0, 10).unwrap();
        let batch = CopyBatch { sessions: exported.sessions, ended: Vec::new() };
        let mark = CopyMark::new(index.identity().unwrap());
        store.import(&batch, None, mark).unwrap();
        assert_eq!(index.revoke(&all, None, NOW).unwrap().len(), 1);
        store.import(&batch, store.copy_mark().unwrap().as_ref(), mark).unwrap();
        assert_eq!(index.revoke_everyone(None, NOW).unwrap(), 1);
        store.drop_tables().unwrap();
    }
}
