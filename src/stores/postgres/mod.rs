//! Sessions in a PostgreSQL database: durable, shared by several machines.
//!
//! The database may be the application's own. The store accesses only the tables of the chosen
//! name, and the history of migrations `cloakroom_migrations` in the same schema.

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
