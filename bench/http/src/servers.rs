//! The same routes on each framework.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use cloakroom::web::rocket::Sessions;
use cloakroom::{Session, SessionManager, web};
use rocket::config::{Config, LogLevel};
use rocket::fairing::AdHoc;
use rocket::{get, routes};

fn read(session: &Session) -> cloakroom::Result<String> {
    Ok(session.get::<u64>("visits")?.unwrap_or(0).to_string())
}

fn write(session: &Session) -> cloakroom::Result<String> {
    Ok(session.update("visits", |n: Option<u64>| n.unwrap_or(0) + 1)?.to_string())
}

/// How long a slow handler waits, as one that queries a database does.
const WORK: Duration = Duration::from_millis(1);

pub fn rouille(sessions: SessionManager) -> SocketAddr {
    let handler = move |request: &rouille::Request| {
        let path = request.raw_url();
        if path.starts_with("/slow") {
            thread::sleep(WORK);
        }
        let handle = match path {
            "/none" | "/slow" => return rouille::Response::text("0"),
            "/read" | "/slow-read" => read,
            _ => write,
        };
        web::rouille::session(&sessions, request, |session| {
            Ok(rouille::Response::text(handle(session)?))
        })
    };
    let server = rouille::Server::new("127.0.0.1:0", handler).expect("a server");
    let address = server.server_addr();
    thread::spawn(move || server.run());
    address
}

#[get("/none")]
fn none() -> &'static str {
    "0"
}

#[get("/read")]
fn on_read(session: &Session) -> cloakroom::Result<String> {
    read(session)
}

#[get("/write")]
fn on_write(session: &Session) -> cloakroom::Result<String> {
    write(session)
}

async fn work() {
    rocket::tokio::time::sleep(WORK).await;
}

#[get("/slow")]
async fn slow() -> &'static str {
    work().await;
    "0"
}

#[get("/slow-read")]
async fn slow_read(session: &Session) -> cloakroom::Result<String> {
    work().await;
    read(session)
}

#[get("/slow-write")]
async fn slow_write(session: &Session) -> cloakroom::Result<String> {
    work().await;
    write(session)
}

pub fn rocket(sessions: SessionManager, inline: bool) -> SocketAddr {
    let (listening, listens) = mpsc::channel();
    thread::spawn(move || {
        let config = Config { port: 0, log_level: LogLevel::Off, ..Config::release_default() };
        let rocket = rocket::custom(config)
            .attach(Sessions::<()>::of(sessions).inline(inline))
            .attach(AdHoc::on_liftoff("say where", move |rocket| {
                let address = SocketAddr::from((rocket.config().address, rocket.config().port));
                Box::pin(async move { listening.send(address).expect("somebody waits") })
            }))
            .mount("/", routes![none, on_read, on_write, slow, slow_read, slow_write]);
        rocket::execute(rocket.launch()).map(drop).expect("Rocket launches")
    });
    listens.recv().expect("Rocket launches")
}
