//! Memcached as the store.

mod clears;
mod given;
mod moves;
mod servers;
mod values;
