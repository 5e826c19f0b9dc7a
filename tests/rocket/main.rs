//! Behaviour of Rocket alone. The process is its own, since some warnings come once a process.

#[path = "../common/mod.rs"]
mod common;

mod cross_origin;
mod edges;
mod guards;
mod pages;
mod threads;

use cloakroom::testing::PausingStore;
use cloakroom::{MemoryStore, SessionManager};
use rocket::config::{Config, Ident, LogLevel};
use rocket::http::Header;
use rocket::local::blocking;
use rocket::{Build, Rocket};

fn memory() -> SessionManager {
    SessionManager::new(MemoryStore::new()).unwrap()
}

/// A manager, and its store that can fail and pause.
fn pausing() -> (PausingStore<MemoryStore>, SessionManager) {
    let store = PausingStore::new(MemoryStore::new());
    (store.clone(), SessionManager::new(store).unwrap())
}

fn bare() -> Rocket<Build> {
    rocket::custom(Config {
        log_level: LogLevel::Off,
        ident: Ident::none(),
        ..Config::debug_default()
    })
}

fn client(rocket: Rocket<Build>) -> blocking::Client {
    blocking::Client::untracked(rocket).unwrap()
}

fn cookie(value: &str) -> Header<'static> {
    Header::new("Cookie", value.to_owned())
}

/// The session cookie that a response sets, as a request sends it back.
fn given(response: &blocking::LocalResponse<'_>) -> Option<String> {
    let set = response.headers().get("Set-Cookie").find(|value| value.starts_with("__Host-"))?;
    Some(set.split(';').next().unwrap().to_owned())
}
