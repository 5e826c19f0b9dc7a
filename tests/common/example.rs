//! The example programs, run as processes of their own.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::env::{self, consts::EXE_SUFFIX};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;

use crate::common::client::PATIENCE;
use crate::common::{Folder, KillOnDrop};

/// The cookie that an example sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieKind {
    Default,
    InsecureHttp,
}

/// An example that listens.
pub struct Example {
    process: KillOnDrop,
    pub address: SocketAddr,
    out: BufReader<ChildStdout>,
    log: Receiver<String>,
}

impl Example {
    /// Starts it, with its database in this folder, and waits until it listens.
    pub fn start(name: &str, folder: &Folder, cookie: CookieKind) -> Self {
        let mut command = Command::new(program(name));
        command.env("CLOAKROOM_ADDR", "127.0.0.1:0").env("ROCKET_PORT", "0");
        command.env("CLOAKROOM_DB", folder.database());
        match cookie {
            CookieKind::Default => command.env_remove("CLOAKROOM_INSECURE_HTTP"),
            CookieKind::InsecureHttp => command.env("CLOAKROOM_INSECURE_HTTP", "1"),
        };
        command.env("RUST_LOG", "cloakroom=info").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = KillOnDrop(command.spawn().unwrap());

        let (heard, log) = mpsc::channel();
        let errors = BufReader::new(process.0.stderr.take().unwrap());
        // It ends with the process, which may write at any time and must not find the pipe full.
        thread::spawn(move || {
            errors.lines().map_while(Result::ok).try_for_each(|line| heard.send(line))
        });
        let mut out = BufReader::new(process.0.stdout.take().unwrap());
        let mut said = out.by_ref().lines().map_while(Result::ok);
        let address = said.find_map(|line| line.strip_prefix("listening on http://")?.parse().ok());
        let Some(address) = address else {
            let log: Vec<_> = log.iter().collect();
            panic!("{name} does not start:\n{}", log.join("\n"));
        };
        Example { process, address, out, log }
    }

    /// The address of a page under another name of this machine.
    pub fn url(&self, host: &str) -> String {
        format!("http://{host}:{}/", self.address.port())
    }

    /// Asks it to stop, as an operator does, and waits until it knows.
    pub fn ask_to_stop(&mut self) {
        terminate(self.process.0.id());
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert_eq!(line, "stopping\n");
    }

    /// Asks it to stop, waits until it has stopped, and returns its whole log.
    pub fn stop(mut self) -> Vec<String> {
        terminate(self.process.0.id());
        let mut log = vec![];
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => log.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it does not stop: {log:?}"),
            }
        }
        let status = self.process.0.wait().unwrap();
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        assert!(status.success(), "{status}: {log:?}");
        assert!(said.ends_with("stopped\n"), "{said}");
        log
    }

    /// Ends it without a word: SIGKILL.
    pub fn kill(mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }
}

/// The shell has `kill` built in, also where there is no such program.
pub fn terminate(process: u32) {
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill -s TERM \"$1\"", "sh"]).arg(process.to_string());
    assert!(kill.status().unwrap().success(), "SIGTERM cannot be sent");
}

/// The program, which cargo puts beside this one.
pub fn program(name: &str) -> PathBuf {
    let test = env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap().join("examples");
    let program = folder.join(format!("{name}{EXE_SUFFIX}"));
    let remedy = format!("run `cargo build --all-features --example {name}` first");
    let Ok(built) = fs::metadata(&program).and_then(|file| file.modified()) else {
        panic!("{} is not there: {remedy}", program.display());
    };
    // `cargo test --test browser` leaves the examples as they are, and this would then test a
    // program of yesterday. Cargo lists beside it what it is made from.
    let list = fs::read_to_string(folder.join(format!("{name}.d"))).unwrap();
    for file in list.split_whitespace() {
        let changed = fs::metadata(file).and_then(|file| file.modified());
        assert!(!changed.is_ok_and(|time| time > built), "{file} has changed since: {remedy}");
    }
    program
}
