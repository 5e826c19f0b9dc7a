//! Histories: what many threads and processes do to one store at once, recorded, and compared with
//! what one after the other could have done.

#![allow(unreachable_pub, reason = "the parts of one program")]

mod chance;
mod checker;
#[path = "../common/mod.rs"]
mod common;
mod known;
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
use processes::Several;
use search::search;
use subjects::{
    Before, BehindFailing, Failing, Fresh, InFailing, InMemcached, InPostgres, Sqlite, TwoInstances,
};

#[test]
fn child_process() {
    if role().as_deref() == Some(processes::ROLE) {
        processes::carry_out();
    }
}

#[test]
fn every_history_of_the_memory_store_has_an_order() {
    search("memory", &Fresh { make: MemoryStore::new }, 1000);
}

#[test]
fn every_history_of_the_sqlite_store_has_an_order() {
    search("sqlite", &Sqlite::new(), 250);
}

#[test]
fn every_history_of_several_processes_on_one_file_has_an_order() {
    search("processes", &Several::on_sqlite(None), 150);
}

#[test]
fn histories_of_processes_with_kills_have_an_order() {
    search("killed processes", &Several::of_which_one_is_killed(), 20);
}

#[test]
fn every_history_of_memcached_has_an_order() {
    search("memcached", &InMemcached::on(shared()), 300);
}

#[test]
fn histories_of_a_failing_memcached_have_an_order() {
    search("failing memcached", &InFailing::new(), 40);
}

#[test]
fn every_history_of_two_machines_on_postgres_has_an_order() {
    search("postgres", &InPostgres::on(postgres::shared(), false), 150);
}

#[test]
fn histories_of_postgres_with_lost_connections_have_an_order() {
    search("postgres connections", &InPostgres::on(&Postgres::start(), true), 20);
}

#[test]
fn every_history_of_processes_on_postgres_has_an_order() {
    search("postgres processes", &Several::on_postgres(postgres::shared(), None), 100);
}

#[test]
fn histories_of_postgres_with_kills_have_an_order() {
    let server = Postgres::start();
    let several = Several::of_which_one_or_the_server_is_killed(&server);
    search("killed postgres", &several, 20);
}

#[test]
fn processes_with_memcached_see_what_postgres_acknowledged() {
    let several = Several::on_postgres(postgres::shared(), Some(shared()));
    search("postgres behind memcached", &several, 40);
}

#[test]
fn every_history_of_a_memory_cache_before_sqlite_has_an_order() {
    search("memory before sqlite", &Before::sqlite(MemoryCache::new), 150);
}

#[test]
fn every_history_of_memcached_before_sqlite_has_an_order() {
    search("memcached before sqlite", &Before::sqlite(|| shared().store()), 200);
}

#[test]
fn histories_of_sqlite_behind_a_failing_memcached_have_an_order() {
    let failing = Failing::new();
    let before = Before::sqlite(|| failing.store());
    search("failing memcached before sqlite", &BehindFailing { failing: &failing, before }, 40);
}

#[test]
fn processes_behind_one_memcached_see_what_was_acknowledged() {
    search("processes behind memcached", &Several::on_sqlite(Some(shared())), 40);
}

#[test]
fn without_invalidation_a_change_is_seen_within_the_entry_life() {
    search("an outage for one of two", &TwoInstances::new(true), 30);
}

#[test]
fn instances_behind_one_cache_see_what_was_acknowledged() {
    search("two instances", &TwoInstances::new(false), 30);
}
