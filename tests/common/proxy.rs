//! A way to a server on which a test stops one request: before it gets there, or its answer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::gate::{Gate, GateControl};

/// The plan for requests from now on. They are counted from 0.
#[derive(Debug, Default)]
pub enum Plan {
    #[default]
    Pass,
    /// The request of this number is lost, and the server is out of reach from then on.
    LoseRequest(usize),
    /// The answer to it is lost, and the server is out of reach from then on.
    LoseAnswer(usize),
    /// The answer to it is lost, with its connection. Another one works.
    LoseOneAnswer(usize),
    /// It waits until the gate is opened.
    Hold(usize, Gate),
    /// The server is out of reach.
    Down,
}

enum Act {
    Pass,
    Lose,
    LoseAnswer,
    Hold(Gate),
}

#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    /// The clients' sides of all connections.
    clients: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let planned = plan.clone();
        let clients: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let connected = clients.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if matches!(*planned.lock().unwrap(), Plan::Down) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                connected.lock().unwrap().push(client.try_clone().unwrap());
                let plan = planned.clone();
                thread::spawn(move || carry(client, server, &plan));
            }
        });
        Proxy { address, plan, clients }
    }

    /// Closes all connections, as a balancer does with those that are idle for long.
    pub fn close_connections(&self) {
        for client in self.clients.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    pub fn plan(&self, plan: Plan) {
        *self.plan.lock().unwrap() = plan;
    }

    /// The request of this number waits until the answer is dropped.
    pub fn hold(&self, number: usize) -> GateControl {
        let (gate, control) = Gate::new();
        self.plan(Plan::Hold(number, gate));
        control
    }
}

/// The planned act for the next request.
fn next(plan: &Mutex<Plan>) -> Act {
    let mut plan = plan.lock().unwrap();
    match &mut *plan {
        Plan::Pass => Act::Pass,
        Plan::Down => Act::Lose,
        Plan::LoseRequest(0) => {
            *plan = Plan::Down;
            Act::Lose
        }
        Plan::LoseAnswer(0) => {
            *plan = Plan::Down;
            Act::LoseAnswer
        }
        Plan::LoseOneAnswer(0) => {
            *plan = Plan::Pass;
            Act::LoseAnswer
        }
        Plan::Hold(0, _) => match std::mem::take(&mut *plan) {
            Plan::Hold(_, gate) => Act::Hold(gate),
            _ => Act::Pass,
        },
        Plan::LoseRequest(number)
        | Plan::LoseAnswer(number)
        | Plan::LoseOneAnswer(number)
        | Plan::Hold(number, _) => {
            *number -= 1;
            Act::Pass
        }
    }
}

fn carry(mut client: TcpStream, mut server: TcpStream, plan: &Mutex<Plan>) {
    let mut answers = server.try_clone().unwrap();
    let mut back = client.try_clone().unwrap();
    let lose_answer = Arc::new(Mutex::new(false));
    let loses = lose_answer.clone();
    let pump = thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(read @ 1..) = answers.read(&mut bytes) {
            // A client that hung up reads no answer.
            if *loses.lock().unwrap() || back.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = answers.shutdown(Shutdown::Both);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut bytes = [0; 1 << 16];
    while let Ok(read @ 1..) = client.read(&mut bytes) {
        // A new connection asks for the version first; that is no request of the test's.
        let act = if bytes[..read] == *b"version\r\n" { Act::Pass } else { next(plan) };
        match act {
            Act::Pass => {}
            Act::Lose => break,
            Act::LoseAnswer => *lose_answer.lock().unwrap() = true,
            Act::Hold(gate) => gate.pass(),
        }
        if server.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    if !*lose_answer.lock().unwrap() {
        let _ = server.shutdown(Shutdown::Both);
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = pump.join();
}
