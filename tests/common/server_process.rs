//! The application of `app.rs` as a process of its own, which can be killed.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::Stdio;

use cloakroom::SessionManager;

use crate::common::scripted_app::{FRAMEWORKS, ScriptedApp};
use crate::common::{Folder, KillOnDrop, child};

/// In a child: serves on the framework of this name, until the process is killed.
pub fn serve(framework: &str, sessions: SessionManager) -> ! {
    let framework = FRAMEWORKS.iter().find(|known| known.name == framework).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = (framework.serve)(ScriptedApp::new(sessions), address);
    io::stdout().write_all(format!("\nserving {}\n", server.address).as_bytes()).unwrap();
    loop {
        std::thread::park();
    }
}

/// Starts a child that serves in this role of `module`, and waits until it listens.
pub fn start(module: &str, role: &str, folder: &Folder) -> (KillOnDrop, SocketAddr) {
    let mut child = child(module, role);
    child.env("DATABASE", folder.database()).stdout(Stdio::piped());
    let mut process = KillOnDrop(child.spawn().unwrap());
    let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
    let address = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("serving ").map(|address| address.parse().unwrap()));
    (process, address.expect("the server starts"))
}
