//! An application on several machines: sessions in PostgreSQL, memcached in front of it. Two
//! processes stand for two machines. A user who signs in at one is signed in at the other, and stays
//! it when one of them, the cache or the database is killed and started again.
//!
//! `cargo run --release --features rouille,memcached,postgres --example several_machines`, then open
//! both addresses that it prints. Kill one of the processes whose numbers it prints, and use the
//! other one.
//!
//! `CLOAKROOM_POSTGRES` is the URL of a database and `CLOAKROOM_MEMCACHED` names servers, separated
//! by commas; without them the example starts a private server of each, from installed packages.
//! `CLOAKROOM_ADDRS` has the addresses of the machines; `127.0.0.1:8001,127.0.0.1:8002` by default.

#[allow(dead_code, reason = "it is a program too")]
#[path = "../rouille.rs"]
mod application;
mod services;

use std::env;
use std::error::Error;
use std::io::{Read, stdin};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use cloakroom::SessionManager;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::stores::postgres::PostgresStore;
use services::{Memcached, Postgres};

const POSTGRES: &str = "CLOAKROOM_POSTGRES";
const MEMCACHED: &str = "CLOAKROOM_MEMCACHED";

type AnyError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), AnyError> {
    env_logger::init();
    match env::args().nth(1).as_deref() {
        Some("machine") => machine(),
        _ => all_machines(),
    }
}

/// Serves as one machine.
fn machine() -> Result<(), AnyError> {
    let postgres = PostgresStore::open(&env::var(POSTGRES)?)?;
    let servers = env::var(MEMCACHED)?;
    let cache = MemcachedStore::builder().servers(servers.split(',').map(str::trim)).open()?;
    let store = CachedStore::new(cache, postgres);
    let sessions = SessionManager::new(store)?;
    thread::spawn(|| {
        // The input is a pipe, which ends when the process that started this one has ended.
        let _ = stdin().read(&mut [0]);
        std::process::exit(1);
    });
    application::serve(sessions)
}

/// Starts the services that no variable names, and two machines, and waits for a signal.
fn all_machines() -> Result<(), AnyError> {
    let (postgres, memcached) = (env::var(POSTGRES), env::var(MEMCACHED));
    let own_postgres = postgres.is_err().then(|| Postgres::start(&[])).transpose()?;
    let own_memcached = memcached.is_err().then(Memcached::start).transpose()?;
    let postgres = own_postgres.as_ref().map_or(postgres, |server| Ok(server.url()))?;
    let memcached = own_memcached.as_ref().map_or(memcached, |server| Ok(server.address()))?;
    let addresses = env::var("CLOAKROOM_ADDRS");
    let addresses = addresses.as_deref().unwrap_or("127.0.0.1:8001,127.0.0.1:8002");

    let (signal, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        let _ = signal.send(());
    })?;
    let start = |address: &str| -> Result<Child, AnyError> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("machine").env("CLOAKROOM_ADDR", address).stdin(Stdio::piped());
        let machine = command.env(POSTGRES, &postgres).env(MEMCACHED, &memcached).spawn()?;
        println!("process {} is the machine at {address}", machine.id());
        Ok(machine)
    };
    let mut machines = addresses.split(',').map(start).collect::<Result<Vec<_>, _>>()?;
    let _ = stopped.recv();
    for machine in &mut machines {
        let id = machine.id().to_string();
        // One that was killed is no more.
        let _ = Command::new("kill").args(["-TERM", &id]).stderr(Stdio::null()).status();
        machine.wait()?;
    }
    Ok(())
}
