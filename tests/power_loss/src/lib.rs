//! A disk for SQLite that records its operations and can lose what it did not have to keep.
//!
//! [`install`] puts a file system of our own in front of SQLite's. Below the folder of a
//! [`Recording`], it records every write, truncation, sync and deletion, and fails those that the
//! test has planned to fail. A [`Disk`] plays a recording up to any event, and returns the files as
//! a power cut could have left them then.

mod disk;
mod recording;
mod vfs;

pub use disk::{Disk, Files, Loss, put};
pub use recording::{Event, Fault, Operation, Recording};
pub use vfs::install;
