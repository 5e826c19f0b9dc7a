//! Histories: the concurrent operations of threads and processes on one store are recorded, and must
//! be explained by some order in which the operations were executed one after the other.

#![allow(unreachable_pub, reason = "the parts of one program")]

mod checker;
mod checker_tests;
#[path = "../common/mod.rs"]
mod common;
mod model;
mod operations;
mod pause;
mod pausing;
mod plan;
mod processes;
mod search;
mod subjects;
mod target;

use crate::common::memcached::shared;
use crate::common::postgres::{self, Postgres};
use crate::common::role;
use cloakroom::MemoryStore;
use cloakroom::stores::memory::MemoryCache;
use processes::Processes;
use search::search;
use subjects::{
    CachedInFailingMemcached, CachedSqlite, FailingMemcached, FailingMemcachedSubject,
    MemcachedSubject, NewStores, PostgresSubject, Sqlite, TwoInstances,
};

#[test]
fn child_process() {
    if role().as_deref() == Some(processes::ROLE) {
        processes::run_operations();
    }
}

#[test]
fn every_history_of_the_memory_store_has_an_order() {
    search("memory", &NewStores { make: MemoryStore::new }, 1000);
}

#[test]
fn every_history_of_the_sqlite_store_has_an_order() {
    search("sqlite", &Sqlite::new(), 250);
}

#[test]
fn every_history_of_several_processes_on_one_file_has_an_order() {
    search("processes", &Processes::on_sqlite(None), 150);
}

#[test]
fn histories_of_processes_with_kills_have_an_order() {
    search("killed processes", &Processes::with_kills(), 20);
}

#[test]
fn every_history_of_memcached_has_an_order() {
    search("memcached", &MemcachedSubject::on(shared()), 300);
}

#[test]
fn histories_of_a_failing_memcached_have_an_order() {
    search("failing memcached", &FailingMemcachedSubject::new(), 40);
}

#[test]
fn every_history_of_two_machines_on_postgres_has_an_order() {
    search("postgres", &PostgresSubject::on(postgres::shared(), false), 150);
}

#[test]
fn histories_of_postgres_with_lost_connections_have_an_order() {
    search("postgres connections", &PostgresSubject::on(&Postgres::start(), true), 20);
}

#[test]
fn every_history_of_processes_on_postgres_has_an_order() {
    search("postgres processes", &Processes::on_postgres(postgres::shared(), None), 100);
}

#[test]
fn histories_of_postgres_with_kills_have_an_order() {
    let server = Postgres::start();
    let processes = Processes::with_kills_and_server_kills(&server);
    search("killed postgres", &processes, 20);
}

#[test]
fn processes_with_memcached_see_what_postgres_acknowledged() {
    let processes = Processes::on_postgres(postgres::shared(), Some(shared()));
    search("postgres behind memcached", &processes, 40);
}

#[test]
fn every_history_of_a_memory_cache_before_sqlite_has_an_order() {
    search("memory before sqlite", &CachedSqlite::new(MemoryCache::new), 150);
}

#[test]
fn every_history_of_memcached_before_sqlite_has_an_order() {
    search("memcached before sqlite", &CachedSqlite::new(|| shared().store()), 200);
}

#[test]
fn histories_of_sqlite_behind_a_failing_memcached_have_an_order() {
    let failing = FailingMemcached::new();
    let cached = CachedSqlite::new(|| failing.store());
    search(
        "failing memcached before sqlite",
        &CachedInFailingMemcached { failing: &failing, cached },
        40,
    );
}

#[test]
fn processes_behind_one_memcached_see_what_was_acknowledged() {
    search("processes behind memcached", &Processes::on_sqlite(Some(shared())), 40);
}

#[test]
fn without_invalidation_a_change_is_seen_within_the_entry_life() {
    search("an outage for one of two", &TwoInstances::new(true), 30);
}

#[test]
fn instances_behind_one_cache_see_what_was_acknowledged() {
    search("two instances", &TwoInstances::new(false), 30);
}
