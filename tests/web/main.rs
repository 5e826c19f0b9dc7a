//! The adapters over real sockets.

#[path = "../common/mod.rs"]
mod common;

mod adapters;
mod memcached;
