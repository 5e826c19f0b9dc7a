//! Memcached as the store.

mod clears;
mod fleet;
mod given;
mod moves;
mod names;
mod replies;
mod servers;
mod values;
