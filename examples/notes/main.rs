//! A notebook with accounts, on Rocket. The sessions and the application's own tables are in one
//! SQLite file; docs/own-tables.md explains how, docs/deployment.md how to run this program behind
//! a proxy.
//!
//! `cargo run --release --features rocket --example notes`, then open the address it prints.
//! Settings come from the environment:
//!
//! - `ROCKET_ADDRESS`, `ROCKET_PORT` and the other settings of Rocket; it listens on
//!   `127.0.0.1:8000` by default.
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
use std::net::SocketAddr;
use std::pin::pin;

use app::App;
use argon2::Argon2;
use cloakroom::clock::SystemClock;
use cloakroom::{CookieConfig, SqliteStore};
use rocket::Config;
use rocket::fairing::AdHoc;
use rocket::tokio::select;
use rocket::tokio::signal::unix::{SignalKind, signal};

#[rocket::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
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

    let config = Config::figment().merge(("shutdown.signals", Vec::<String>::new()));
    let rocket = app.rocket(config).attach(AdHoc::on_liftoff("print the address", |rocket| {
        let (ip, port) = (rocket.config().address, rocket.config().port);
        Box::pin(async move { println!("listening on http://{}", SocketAddr::new(ip, port)) })
    }));
    let rocket = rocket.ignite().await?;

    // At SIGTERM Rocket accepts no more connections, and answers the requests that it has begun.
    // The signal is handled here, in the task of the server: Rocket 0.5.2 handles it in another
    // one, and ends without these answers if it arrives while the server accepts a connection.
    let (shutdown, mut terminate) = (rocket.shutdown(), signal(SignalKind::terminate())?);
    let mut server = pin!(rocket.launch());
    select! {
        ended = &mut server => ended?,
        _ = terminate.recv() => {
            println!("stopping");
            shutdown.notify();
            server.await?
        }
    };

    // Dropping the last manager records pending activity too, but returns no error.
    sessions.flush()?;
    println!("stopped");
    Ok(())
}
