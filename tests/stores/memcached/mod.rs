//! Memcached as the store.

mod clears;
mod given;
mod moves;
mod names;
mod replies;
mod servers;
mod values;
