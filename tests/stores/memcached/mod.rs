//! Memcached as the store.

mod clears;
mod fleet;
mod moves;
mod names;
mod operations;
mod replies;
mod servers;
mod values;
