//! Memcached as the store.

#[path = "memcached/clears.rs"]
mod clears;
mod common;
#[path = "memcached/given.rs"]
mod given;
#[path = "memcached/moves.rs"]
mod moves;
#[path = "memcached/servers.rs"]
mod servers;
#[path = "memcached/values.rs"]
mod values;
