//! Processes that share their sessions through memcached: a user who signs in at one is signed in
//! at the other. The application is that of `examples/rouille.rs`.
//!
//! `cargo run --release --features rouille,memcached --example memcached`, twice, the second time
//! with `CLOAKROOM_ADDR=127.0.0.1:8001`; then open both addresses. `CLOAKROOM_MEMCACHED` names the
//! servers, separated by commas; the default is `127.0.0.1:11211`.

#[allow(dead_code, reason = "it is a program too")]
#[path = "rouille.rs"]
mod application;

use std::env;
use std::error::Error;

use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::{CookieConfig, SessionManager};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let servers = env::var("CLOAKROOM_MEMCACHED").unwrap_or_else(|_| "127.0.0.1:11211".to_owned());
    let store = MemcachedStore::builder().servers(servers.split(',').map(str::trim)).open()?;
    let cookie = CookieConfig::new().name("__Host-memcached");
    application::serve(SessionManager::builder(store).cookie(cookie).build()?)
}
