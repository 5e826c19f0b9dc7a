//! The operator's program, run as a process.

mod common;

#[path = "cli/bad_files.rs"]
mod bad_files;
#[cfg(feature = "memcached")]
#[path = "cli/cache.rs"]
mod cache;
#[path = "cli/copies.rs"]
mod copies;
#[path = "cli/doctor.rs"]
mod doctor;
#[path = "cli/embedded.rs"]
mod embedded;
#[path = "cli/ending.rs"]
mod ending;
#[path = "cli/given.rs"]
mod given;
#[path = "cli/live.rs"]
mod live;
#[path = "cli/reading.rs"]
mod reading;
#[path = "cli/realms.rs"]
mod realms;
#[path = "cli/replaced.rs"]
mod replaced;
#[path = "cli/room.rs"]
mod room;
#[path = "cli/tables.rs"]
mod tables;

#[test]
fn child_process() {
    embedded::play();
}
