//! The stores of this crate: one file or folder each. They implement [`backend`](crate::backend),
//! and none imports another.

pub mod cached;
#[cfg(feature = "memcached")]
pub mod memcached;
pub mod memory;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod migration;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod slots;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod sql;
#[cfg(all(feature = "sqlite", unix))]
pub mod sqlite;
