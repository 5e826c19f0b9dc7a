//! Several processes on one store. Each is this test program again. Its threads execute the
//! operations that the threads of the history send over a socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use cloakroom::backend::Store;
use cloakroom::stores::admin::Admin;
use cloakroom::{PostgresStore, SqliteStore};
use serde::{Deserialize, Serialize};

use super::common::client::PATIENCE;
use super::common::dice::Dice;
use super::common::memcached::{LONG_TIMEOUT, Memcached};
use super::common::postgres::{Postgres, fresh_table};
use super::common::{Folder, KillOnDrop, NOW, cached_store, child, on_threads};
use super::model::{Reads, SessionModel};
use super::operations::{Answer, Operation};
use super::pausing::pausing;
use super::plan::Capabilities;
use super::search::{Caller, Subject};
use super::subjects::yield_for;
use super::target::Names;

const PROCESSES: usize = 2;
const THREADS: usize = 2;

/// The role of the processes.
pub const ROLE: &str = "operations of a history";

#[derive(Serialize, Deserialize)]
struct Request {
    history: u64,
    operation: Operation,
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn new(stream: TcpStream) -> Connection {
        stream.set_nodelay(true).unwrap();
        Connection(BufReader::new(stream))
    }

    fn send(&mut self, what: &impl Serialize) -> std::io::Result<()> {
        let line = serde_json::to_string(what)? + "\n";
        self.0.get_mut().write_all(line.as_bytes())
    }

    /// Returns `None` when the connection has ended.
    fn receive<T: for<'d> Deserialize<'d>>(&mut self) -> Option<T> {
        let mut line = String::new();
        self.0.read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }
}

/// Executes operations until the parent process ends.
pub fn run_operations() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let backing: Box<dyn Store> = match std::env::var("TABLE") {
        Ok(table) => {
            let builder = PostgresStore::builder(&variable("DATABASE")).table(table);
            Box::new(builder.connect_timeout(PATIENCE).call_timeout(PATIENCE).open().unwrap())
        }
        Err(_) => Box::new(SqliteStore::open(variable("DATABASE")).unwrap()),
    };
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
        Err(_) => backing,
    };
    let parent: SocketAddr = variable("PARENT").parse().unwrap();
    on_threads(THREADS, || {
        let mut connection = Connection::new(TcpStream::connect(parent).unwrap());
        while let Some(Request { history, operation }) = connection.receive() {
            let answer = Names { history }.call(&store, &operation);
            connection.send(&answer).unwrap();
        }
    });
}

/// The store of the processes, as this process has it.
enum Backing<'s> {
    Sqlite(Folder, SqliteStore),
    Postgres(&'s Postgres, String, PostgresStore),
}

impl Backing<'_> {
    fn clear(&self) {
        match self {
            Backing::Sqlite(_, store) => drop(store.clear().unwrap()),
            Backing::Postgres(_, _, store) => {
                store.index().unwrap().revoke_everyone(None, NOW).unwrap();
            }
        }
    }
}

/// What is killed once in every history.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kills {
    Nothing,
    AProcess,
    AProcessOrTheServer,
}

/// Two processes on one store, with or without one memcached in front of it.
pub struct Processes<'m> {
    backing: Backing<'m>,
    memcached: Option<&'m Memcached>,
    listener: TcpListener,
    children: Mutex<Vec<KillOnDrop>>,
    /// The connection of each thread; none while its process is dead.
    connections: Vec<Mutex<Option<Connection>>>,
    kills: Kills,
}

impl<'m> Processes<'m> {
    pub fn on_sqlite(memcached: Option<&'m Memcached>) -> Self {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        Processes::on(Backing::Sqlite(folder, store), memcached)
    }

    pub fn on_postgres(server: &'m Postgres, memcached: Option<&'m Memcached>) -> Self {
        let table = fresh_table();
        let store = server.builder_in(&table).open().unwrap();
        Processes::on(Backing::Postgres(server, table, store), memcached)
    }

    fn on(backing: Backing<'m>, memcached: Option<&'m Memcached>) -> Self {
        let processes = Processes {
            backing,
            memcached,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            children: Mutex::default(),
            connections: (0..PROCESSES * THREADS).map(|_| Mutex::default()).collect(),
            kills: Kills::Nothing,
        };
        for process in 0..PROCESSES {
            let child = processes.start(process);
            processes.children.lock().unwrap().push(child);
        }
        processes
    }

    pub fn with_kills() -> Self {
        Processes { kills: Kills::AProcess, ..Processes::on_sqlite(None) }
    }

    pub fn with_kills_and_server_kills(server: &'m Postgres) -> Self {
        Processes { kills: Kills::AProcessOrTheServer, ..Processes::on_postgres(server, None) }
    }

    fn start(&self, process: usize) -> KillOnDrop {
        let mut command = child("linearizability", ROLE);
        command.env("PARENT", self.listener.local_addr().unwrap().to_string());
        match &self.backing {
            Backing::Sqlite(folder, _) => command.env("DATABASE", folder.database()),
            Backing::Postgres(server, table, _) => {
                command.env("DATABASE", server.url()).env("TABLE", table)
            }
        };
        if let Some(memcached) = self.memcached {
            command.env("MEMCACHED", memcached.address.to_string());
        }
        command.stdout(std::process::Stdio::null());
        let child = KillOnDrop(command.spawn().unwrap());
        for thread in 0..THREADS {
            let (stream, _) = self.listener.accept().unwrap();
            let connection = Connection::new(stream);
            *self.connections[process * THREADS + thread].lock().unwrap() = Some(connection);
        }
        child
    }

    fn call(&self, thread: usize, names: Names, operation: &Operation) -> Answer {
        let mut slot = self.connections[thread].lock().unwrap();
        let request = Request { history: names.history, operation: operation.clone() };
        let answer = slot.as_mut().and_then(|connection| {
            connection.send(&request).ok()?;
            connection.receive()
        });
        answer.unwrap_or_else(|| {
            *slot = None;
            Answer::Unknown("the process was killed".to_owned())
        })
    }
}

impl Subject for Processes<'_> {
    fn capabilities(&self) -> Capabilities {
        Capabilities { lists: true, threads: PROCESSES * THREADS, slow: self.may_fail() }
    }

    fn model(&self) -> SessionModel {
        let reads = match self.memcached {
            Some(_) => Reads::LatestAcknowledged,
            None => Reads::Latest,
        };
        let sweeps_in_two_steps = matches!(self.backing, Backing::Postgres(..));
        SessionModel { reads, sweeps_in_two_steps, ..SessionModel::PLAIN }
    }

    fn threads_per_process(&self) -> usize {
        THREADS
    }

    fn may_fail(&self) -> bool {
        self.kills != Kills::Nothing
    }

    fn locks_found_sessions_only(&self) -> bool {
        matches!(self.backing, Backing::Postgres(..))
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.backing.clear();
        let caller = |thread| -> Caller<'_> {
            Box::new(move |operation| self.call(thread, names, operation))
        };
        (0..PROCESSES * THREADS).map(caller).collect()
    }

    fn disturb(&self, dice: &mut Dice) -> bool {
        if self.kills != Kills::Nothing {
            yield_for(dice.roll(3000));
            if let (Kills::AProcessOrTheServer, Backing::Postgres(server, ..)) =
                (self.kills, &self.backing)
                && dice.one_in(2)
            {
                server.kill();
                server.start_again();
                return false;
            }
            let process = dice.roll(PROCESSES);
            let mut children = self.children.lock().unwrap();
            children[process].0.kill().unwrap();
            children[process].0.wait().unwrap();
            children[process] = self.start(process);
        }
        false
    }
}
