//! The stores of sessions.
//!
//! | store | survives: program restarts | survives: server restarts | shared by processes | lists a user's sessions | for |
//! |---|---|---|---|---|---|
//! | [`SqliteStore`](sqlite::SqliteStore) | yes | – | yes, on one machine | yes | most applications |
//! | [`PostgresStore`](postgres::PostgresStore) | yes | yes | yes, on several machines | yes | several machines |
//! | [`MemcachedStore`](memcached::MemcachedStore) | yes | no | yes, on several machines | no | several machines, sessions that may be lost |
//! | [`CachedStore`](cached::CachedStore) | as the store behind it | as the store behind it | as the store behind it | as the store behind it | a store that is slow to read |
//! | [`MemoryStore`](memory::MemoryStore) | no | – | no | yes | tests; sessions that may end with the process |
//!
//! A store of your own implements [`backend::Store`](crate::backend::Store).

// One file or folder for each store. They implement `backend`, and none imports another.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod admin;
pub mod cached;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub mod copy;
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
