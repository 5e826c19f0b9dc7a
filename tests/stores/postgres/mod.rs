//! PostgreSQL as the store.

mod calls;
mod encryption;
mod given;
mod handles;
mod outages;
mod schema;
mod server_errors;
mod settings;
mod trips;
