//! The program `cloakroom`, run as a process.

mod backup;
mod bad_files;
mod cache;
#[path = "../../../../tests/common/mod.rs"]
mod common;
mod doctor;
mod embedded;
mod files;
mod fixture;
mod live;
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
