//! The stores of sessions. A [manager](crate::SessionManager) keeps its sessions in one of them.
//!
//! | store | survives a restart of the program | a power cut loses | shared by | lists by user | for |
//! |---|---|---|---|---|---|
//! | [`SqliteStore`](sqlite::SqliteStore) | yes | [the newest values and anonymous sessions](crate::guide::guarantees#syncs); with [`Durability::Full`](sqlite::Durability::Full) nothing | processes of one machine | yes | most applications |
//! | [`PostgresStore`](postgres::PostgresStore) | yes | nothing; [a failover](crate::guide::scaling#what-a-failover-may-lose) may | several machines | yes | several machines; an application that has a PostgreSQL |
//! | [`MemcachedStore`](memcached::MemcachedStore) | yes | all sessions of that server, as a restart of memcached does | several machines | no | sessions that may be lost |
//! | [`MemoryStore`](memory::MemoryStore) | no | all | not shared | yes | tests; sessions that may end with the process |
//! | [`SqliteStore::in_memory`](sqlite::SqliteStore::in_memory) | no | all | not shared | yes | tests of code that needs SQLite |
//!
//! A [`CachedStore`](cached::CachedStore) puts a cache in front of a store that is slow to read.
//! With it, an ended session can be [read for up to a minute](cached::CachedStore#consistency) in
//! some cases. [`admin`] has the calls for operators' tools.
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
