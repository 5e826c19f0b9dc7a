//! PostgreSQL as the store.

mod cached;
mod calls;
mod encryption;
mod failover;
mod given;
mod handles;
mod outages;
mod pooler;
mod schema;
mod server_errors;
mod settings;
mod trips;
