//! A notebook with accounts. The sessions and the application's own tables are in one SQLite file;
//! docs/own-tables.md explains how, docs/deployment.md how to run this program behind a proxy.
//!
//! `cargo run --release --features rouille --example notes`, then open the address it prints.
//! Settings come from the environment:
//!
//! - `CLOAKROOM_ADDR`: the address to listen on; `127.0.0.1:8000` by default.
//! - `CLOAKROOM_DB`: the database file; `notes.db` by default.
//! - `CLOAKROOM_PROXIES`: the number of proxies in front of the program; 0 by default.
//! - `CLOAKROOM_INSECURE_HTTP=1`: a cookie that browsers accept over plain HTTP, for a trusted
//!   network, and for Safari on localhost.

#![allow(unreachable_pub, reason = "an example is a program, and its tests include it")]

pub(crate) mod accounts;
pub(crate) mod app;
pub(crate) mod database;
pub(crate) mod pages;
pub(crate) mod throttle;

use std::env;
use std::error::Error;

use app::App;
use argon2::Argon2;
use cloakroom::clock::SystemClock;
use cloakroom::{CookieConfig, SqliteStore};
use rouille::Server;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let setting = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let store = SqliteStore::open(setting("CLOAKROOM_DB", "notes.db"))?;
    let cookie = match &*setting("CLOAKROOM_INSECURE_HTTP", "0") {
        "1" => CookieConfig::insecure_http().name("notes"),
        _ => CookieConfig::new().name("__Host-notes"),
    };
    let proxies = setting("CLOAKROOM_PROXIES", "0").parse()?;
    let app = App::new(store, cookie, proxies, Argon2::default(), SystemClock)?;
    let sessions = app.sessions.clone();

    let address = setting("CLOAKROOM_ADDR", "127.0.0.1:8000");
    let server = Server::new(address, move |request| app.handle(request))?;
    println!("listening on http://{}", server.server_addr());
    let (serving, stop) = server.stoppable();
    ctrlc::set_handler(move || {
        // An error means that it has stopped already.
        let _ = stop.send(());
    })?;
    let _ = serving.join();
    sessions.flush()?;
    println!("stopped");
    Ok(())
}
