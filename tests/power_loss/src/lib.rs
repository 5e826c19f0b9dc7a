//! A disk for SQLite that records its operations and can lose what it did not have to keep.
//!
//! [`install`] puts a file system of our own in front of SQLite's. Below a folder that a [`Tape`]
//! was made for, it records every write, truncation, sync and deletion, and fails those that the
//! test names to fail. A [`Disk`] plays a recording up to any moment, and gives the files as a
//! power cut could have left them then.

mod disk;
mod tape;
mod vfs;

pub use disk::{Disk, Files, Loss, put};
pub use tape::{Event, Fault, Operation, Tape};
pub use vfs::install;
