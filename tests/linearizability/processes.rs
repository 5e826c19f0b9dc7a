//! Several processes on one store. Each is this test program again; its threads carry out what the
//! threads of the history hand them over a socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use cloakroom::SqliteStore;
use cloakroom::backend::Store;
use serde::{Deserialize, Serialize};

use super::chance::Chance;
use super::common::memcached::{LONG_TIMEOUT, Memcached};
use super::common::{Folder, KillOnDrop, cached_store, child, on_threads};
use super::model::{Reads, Sessions};
use super::operations::{Answer, Operation};
use super::pausing::pausing;
use super::plan::Abilities;
use super::search::{Caller, Subject};
use super::subjects::wait;
use super::target::Names;

const PROCESSES: usize = 2;
const THREADS: usize = 2;

/// The role of the processes.
pub const ROLE: &str = "carry out";

#[derive(Serialize, Deserialize)]
struct Order {
    history: u64,
    operation: Operation,
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn over(stream: TcpStream) -> Connection {
        stream.set_nodelay(true).unwrap();
        Connection(BufReader::new(stream))
    }

    fn send(&mut self, what: &impl Serialize) -> std::io::Result<()> {
        let line = serde_json::to_string(what)? + "\n";
        self.0.get_mut().write_all(line.as_bytes())
    }

    /// None at the end.
    fn receive<T: for<'d> Deserialize<'d>>(&mut self) -> Option<T> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}

/// A process at work until its parent is gone.
pub fn carry_out() {
    let given = |name: &str| std::env::var(name).unwrap();
    let backing = SqliteStore::open(given("DATABASE")).unwrap();
    let store: Box<dyn Store> = match std::env::var("MEMCACHED") {
        Ok(address) => {
            let cache = cloakroom::stores::memcached::MemcachedStore::builder()
                .servers([address])
                .connect_timeout(LONG_TIMEOUT)
                .io_timeout(LONG_TIMEOUT)
                .open()
                .unwrap();
            Box::new(cached_store(pausing(cache), pausing(backing)))
        }
        Err(_) => Box::new(backing),
    };
    let parent: SocketAddr = given("PARENT").parse().unwrap();
    on_threads(THREADS, || {
        let mut connection = Connection::over(TcpStream::connect(parent).unwrap());
        while let Some(Order { history, operation }) = connection.receive() {
            let answer = Names { history }.call(&store, &operation);
            connection.send(&answer).unwrap();
        }
    });
}

/// Processes on one file, with one memcached in front of it or none.
pub struct Several<'m> {
    backing: SqliteStore,
    folder: Folder,
    memcached: Option<&'m Memcached>,
    listener: TcpListener,
    children: Mutex<Vec<KillOnDrop>>,
    /// Those of each thread; none while its process is dead.
    connections: Vec<Mutex<Option<Connection>>>,
    /// In every history one is killed.
    kills: bool,
}

impl<'m> Several<'m> {
    pub fn on_sqlite(memcached: Option<&'m Memcached>) -> Self {
        let folder = Folder::new();
        let several = Several {
            backing: SqliteStore::open(folder.database()).unwrap(),
            folder,
            memcached,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            children: Mutex::default(),
            connections: (0..PROCESSES * THREADS).map(|_| Mutex::default()).collect(),
            kills: false,
        };
        for process in 0..PROCESSES {
            let child = several.start(process);
            several.children.lock().unwrap().push(child);
        }
        several
    }

    pub fn of_which_one_is_killed() -> Self {
        Several { kills: true, ..Several::on_sqlite(None) }
    }

    fn start(&self, process: usize) -> KillOnDrop {
        let mut command = child("linearizability", ROLE);
        command.env("PARENT", self.listener.local_addr().unwrap().to_string());
        command.env("DATABASE", self.folder.database());
        if let Some(memcached) = self.memcached {
            command.env("MEMCACHED", memcached.address.to_string());
        }
        command.stdout(std::process::Stdio::null());
        let child = KillOnDrop(command.spawn().unwrap());
        for thread in 0..THREADS {
            let (stream, _) = self.listener.accept().unwrap();
            let connection = Connection::over(stream);
            *self.connections[process * THREADS + thread].lock().unwrap() = Some(connection);
        }
        child
    }

    fn call(&self, thread: usize, names: Names, operation: &Operation) -> Answer {
        let mut slot = self.connections[thread].lock().unwrap();
        let order = Order { history: names.history, operation: operation.clone() };
        let answer = slot.as_mut().and_then(|connection| {
            connection.send(&order).ok()?;
            connection.receive()
        });
        answer.unwrap_or_else(|| {
            *slot = None;
            Answer::Unknown("the process is dead".to_owned())
        })
    }
}

impl Subject for Several<'_> {
    fn abilities(&self) -> Abilities {
        Abilities { lists: true, threads: PROCESSES * THREADS, slow: self.kills }
    }

    fn model(&self) -> Sessions {
        let reads = match self.memcached {
            Some(_) => Reads::LatestAcknowledged,
            None => Reads::Latest,
        };
        Sessions { reads, ..Sessions::PLAIN }
    }

    fn threads_per_process(&self) -> usize {
        THREADS
    }

    fn may_fail(&self) -> bool {
        self.kills
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.backing.admin().clear().unwrap();
        let caller = |thread| -> Caller<'_> {
            Box::new(move |operation| self.call(thread, names, operation))
        };
        (0..PROCESSES * THREADS).map(caller).collect()
    }

    fn disturb(&self, chance: &mut Chance) -> bool {
        if self.kills {
            wait(chance.below(3000));
            let process = chance.below(PROCESSES);
            let mut children = self.children.lock().unwrap();
            children[process].0.kill().unwrap();
            children[process].0.wait().unwrap();
            children[process] = self.start(process);
        }
        false
    }
}
