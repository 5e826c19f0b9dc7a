//! A private PostgreSQL and a private memcached, for trying things out on one machine. They run from
//! installed packages on free ports, and end and leave nothing behind with the value.

#![allow(unreachable_pub, reason = "a module of programs")]

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

/// A PostgreSQL cluster in a temporary folder.
pub struct Postgres {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Postgres {
    /// Creates the cluster and starts its server with these settings, such as `fsync=off`.
    pub fn start(settings: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        if is_root()? {
            // The server refuses to run as root.
            run(Command::new("chown").arg("postgres:").arg(folder.path()))?;
        }
        let data = folder.path().join("data");
        let mut initdb = server_program("initdb")?;
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        run(initdb.arg("-D").arg(&data))?;
        let port = free_port()?;
        let mut server = server_program("postgres")?;
        server.arg("-D").arg(&data).arg("-k").arg(folder.path()).args(["-p", &port.to_string()]);
        server.args(["-c", "listen_addresses=127.0.0.1"]);
        for setting in settings {
            server.args(["-c", setting]);
        }
        let process = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let postgres = Postgres { process: process.spawn()?, port, _folder: folder };
        let mut ready = server_program("pg_isready")?;
        ready.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
        wait_until("PostgreSQL", || Ok(ready.status()?.success()))?;
        Ok(postgres)
    }

    /// The URL of its database, as the superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // An immediate shutdown. After SIGKILL its other processes and its shared memory would stay.
        let quit = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        if quit.is_ok_and(|status| status.success()) {
            let _ = self.process.wait();
        }
    }
}

/// A memcached with the default 64 MB.
pub struct Memcached {
    process: Child,
    address: SocketAddr,
}

impl Memcached {
    /// Starts the server.
    pub fn start() -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut server = Command::new("memcached");
        server.args(["-l", "127.0.0.1", "-U", "0", "-p", &address.port().to_string()]);
        if is_root()? {
            server.args(["-u", "nobody"]);
        }
        let process = server.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let memcached = Memcached { process, address };
        wait_until("memcached", || Ok(TcpStream::connect(address).is_ok()))?;
        Ok(memcached)
    }

    /// Its host and port.
    pub fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn is_root() -> Result<bool> {
    Ok(Command::new("id").arg("-u").output()?.stdout.trim_ascii() == b"0")
}

/// A program of the server, of Debian's newest package or on the path, run as a user that the
/// server accepts.
fn server_program(name: &str) -> Result<Command> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let programs = versions.map(|version| version.path().join("bin").join(name));
    let program = programs.filter(|program| program.exists()).max();
    let program = program.unwrap_or_else(|| PathBuf::from(name));
    if !is_root()? {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
    Ok(command)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))))
}

/// Waits up to ten seconds for a server that was started.
fn wait_until(server: &str, mut answers: impl FnMut() -> Result<bool>) -> Result<()> {
    for _ in 0..500 {
        if answers()? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(Error::new(ErrorKind::TimedOut, format!("{server} does not answer")))
}
