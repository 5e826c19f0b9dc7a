//! A Rocket on a socket, with two threads for all requests.

#![allow(unreachable_pub, reason = "it is part of several test programs")]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rocket::config::{Config, LogLevel, Shutdown};
use rocket::fairing::AdHoc;
use rocket::tokio::runtime;
use rocket::{Build, Rocket};

/// Stops when it is dropped.
pub struct RocketServer {
    pub address: SocketAddr,
    stop: Option<(rocket::Shutdown, JoinHandle<()>)>,
}

impl RocketServer {
    pub fn start(rocket: Rocket<Build>) -> Self {
        let (listening, listens) = mpsc::channel();
        let shutdown = Shutdown { ctrlc: false, grace: 0, mercy: 0, ..Shutdown::default() };
        let config =
            Config { port: 0, shutdown, log_level: LogLevel::Off, ..Config::debug_default() };
        let rocket =
            rocket.configure(config).attach(AdHoc::on_liftoff("send the address", |rocket| {
                Box::pin(async move {
                    let address = SocketAddr::from((rocket.config().address, rocket.config().port));
                    listening.send((address, rocket.shutdown())).unwrap();
                })
            }));
        let thread = thread::spawn(move || {
            let runtime =
                runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            // Clients may keep their connections.
            let _ = runtime
                .unwrap()
                .block_on(rocket.launch())
                .map_err(|error| error.kind().to_string());
        });
        let (address, shutdown) = listens.recv().unwrap();
        RocketServer { address, stop: Some((shutdown, thread)) }
    }
}

impl Drop for RocketServer {
    fn drop(&mut self) {
        if let Some((shutdown, thread)) = self.stop.take() {
            shutdown.notify();
            let _ = thread.join();
        }
    }
}
