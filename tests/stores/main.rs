//! The stores: conformance, failures, schema, caches.

#[path = "../common/mod.rs"]
mod common;

mod agreement;
mod application_schema;
mod cached;
mod conformance;
mod decide;
mod disk_failures;
mod memcached;
mod migrations;
mod own_tables;
mod record_cache;
mod second_names;
mod store_errors;
mod wrong_stores;
