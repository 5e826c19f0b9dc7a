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
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

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
    // Without a bound rouille starts a thread for each request, and argon2 takes 19 MiB on it. One
    // client could occupy all of these while the store does not answer, so the proxy limits its
    // connections (docs/deployment.md).
    let server = Server::new(address, move |request| app.handle(request))?.pool_size(32);
    let server = Arc::new(server);
    println!("listening on http://{}", server.server_addr());
    let (signal, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        // An error means that it is stopping already.
        let _ = signal.send(());
    })?;
    let accepting = server.clone();
    thread::spawn(move || {
        loop {
            accepting.poll_timeout(Duration::from_secs(60));
        }
    });
    stopped.recv()?;
    println!("stopping");
    // Requests that were begun are answered. `Server::stoppable` would not wait for them, and would
    // not stop while requests keep coming.
    server.join();
    sessions.flush()?;
    println!("stopped");
    Ok(())
}
