//! Sessions in a PostgreSQL database: durable, shared by several machines.
//!
//! The database may be the application's own. The store accesses only the tables of the chosen
//! name, and the history of migrations `cloakroom_migrations` in the same schema.
//!
//! | to | call |
//! |---|---|
//! | connect with the default settings, and make the tables if they are missing | [`PostgresStore::open`] |
//! | change a setting, such as encryption or a timeout | [`PostgresStore::builder`] |
//! | examine the server, the tables and the user's rights | [`PostgresStoreBuilder::inspect`] |
//! | find, count, sweep or end sessions as an operator | [`Admin`](crate::stores::admin::Admin) |
//!
//! [`tokio_postgres`] is the version of the crate whose URL parameters `builder` takes.

// The modules import downwards only, as `tests/tidy.rs` checks:
//
// admin                  operators' calls
// builder, index         settings and opening; lists and revocations
// store                  PostgresStore
// commit, migrate
// sql, pool              statements; connections, deadlines, retries
// row                    columns: values and decoding
// connection             one connection, and the round trips of a call
// error, hosts, tls

mod admin;
mod builder;
mod commit;
mod connection;
mod error;
mod hosts;
mod index;
mod migrate;
mod pool;
mod row;
mod sql;
mod store;
#[cfg(not(feature = "postgres-rustls"))]
#[path = "no_tls.rs"]
mod tls;
#[cfg(feature = "postgres-rustls")]
mod tls;

pub use admin::DatabaseServer;
pub use builder::PostgresStoreBuilder;
pub use store::PostgresStore;
pub use tokio_postgres;
