//! A way to a server on which a test stops one request: before it gets there, or its answer.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of requests from now on. They are counted from 0.
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
    Hold(usize, Sender<()>, Receiver<()>),
    /// The server is out of reach.
    Down,
}

enum Act {
    Pass,
    Lose,
    LoseAnswer,
    Hold(Sender<()>, Receiver<()>),
}

#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

/// Who lets the request that was held go on. Dropped, it does so too.
pub struct Held {
    reached: Receiver<()>,
    _open: Sender<()>,
}

impl Held {
    /// False if no request of that number came.
    pub fn is_reached(&self) -> bool {
        self.reached.recv_timeout(PATIENCE).is_ok()
    }
}

impl Held {
    /// Whether it has come so far; waits a moment for it.
    pub fn is_reached_now(&self) -> bool {
        self.reached.recv_timeout(Duration::from_millis(1)).is_ok()
    }
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let planned = plan.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if matches!(*planned.lock().unwrap(), Plan::Down) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                let plan = planned.clone();
                thread::spawn(move || carry(client, server, &plan));
            }
        });
        Proxy { address, plan }
    }

    pub fn plan(&self, plan: Plan) {
        *self.plan.lock().unwrap() = plan;
    }

    /// The request of this number waits until the answer is dropped.
    pub fn hold(&self, number: usize) -> Held {
        let ((at_gate, reached), (open, opened)) = (channel(), channel());
        self.plan(Plan::Hold(number, at_gate, opened));
        Held { reached, _open: open }
    }
}

/// What the plan says about the next request.
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
        Plan::Hold(0, ..) => match std::mem::take(&mut *plan) {
            Plan::Hold(_, at_gate, opened) => Act::Hold(at_gate, opened),
            _ => Act::Pass,
        },
        Plan::LoseRequest(number)
        | Plan::LoseAnswer(number)
        | Plan::LoseOneAnswer(number)
        | Plan::Hold(number, ..) => {
            *number -= 1;
            Act::Pass
        }
    }
}

fn carry(mut client: TcpStream, mut server: TcpStream, plan: &Mutex<Plan>) {
    let (mut answers, mut back) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    let lose_answer = Arc::new(Mutex::new(false));
    let loses = lose_answer.clone();
    let pump = thread::spawn(move || {
        let mut bytes = [0; 1 << 16];
        while let Ok(read @ 1..) = answers.read(&mut bytes) {
            // Who hung up reads no answer.
            if *loses.lock().unwrap() || back.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        let _ = answers.shutdown(Shutdown::Both);
        let _ = back.shutdown(Shutdown::Both);
    });
    let mut bytes = [0; 1 << 16];
    while let Ok(read @ 1..) = client.read(&mut bytes) {
        match next(plan) {
            Act::Pass => {}
            Act::Lose => break,
            Act::LoseAnswer => *lose_answer.lock().unwrap() = true,
            Act::Hold(at_gate, opened) => {
                let _ = at_gate.send(());
                let _ = opened.recv();
            }
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
