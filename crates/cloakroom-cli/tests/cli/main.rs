//! The program `cloakroom`, run as a process. With the feature `postgres` also on PostgreSQL.

mod backup;
mod bad_files;
mod cache;
#[path = "../../../../tests/common/mod.rs"]
mod common;
#[cfg(feature = "postgres")]
mod copy;
mod doctor;
mod embedded;
#[cfg(feature = "postgres-rustls")]
mod encryption;
mod files;
mod fixture;
mod live;
#[cfg(feature = "postgres")]
mod postgres;
mod reading;
mod realms;
mod replaced;
mod revoke;
mod schema;
mod sweep;

#[test]
fn child_process() {
    embedded::play();
}
