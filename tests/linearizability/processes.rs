//! Several processes on one store. Each is this test program again; its threads carry out what the
//! threads of the history hand them over a socket.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;

use cloakroom::backend::Store;
use cloakroom::{PostgresStore, SqliteStore};
use serde::{Deserialize, Serialize};

use super::chance::Chance;
use super::common::client::PATIENCE;
use super::common::memcached::{LONG_TIMEOUT, Memcached};
use super::common::postgres::{Postgres, fresh_table};
use super::common::{Folder, KillOnDrop, NOW, cached_store, child, on_threads};
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
    let backing: Box<dyn Store> = match std::env::var("TABLE") {
        Ok(table) => {
            let builder = PostgresStore::builder(&given("DATABASE")).table(table);
            Box::new(builder.connect_timeout(PATIENCE).call_timeout(PATIENCE).open().unwrap())
        }
        Err(_) => Box::new(SqliteStore::open(given("DATABASE")).unwrap()),
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
    let parent: SocketAddr = given("PARENT").parse().unwrap();
    on_threads(THREADS, || {
        let mut connection = Connection::over(TcpStream::connect(parent).unwrap());
        while let Some(Order { history, operation }) = connection.receive() {
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
            Backing::Sqlite(_, store) => drop(store.admin().clear().unwrap()),
            Backing::Postgres(_, _, store) => {
                store.index().unwrap().revoke_everyone(None, NOW).unwrap();
            }
        }
    }
}

/// What ends in every history.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kills {
    Nothing,
    AProcess,
    AProcessOrTheServer,
}

/// Processes on one store, with one memcached in front of it or none.
pub struct Several<'m> {
    backing: Backing<'m>,
    memcached: Option<&'m Memcached>,
    listener: TcpListener,
    children: Mutex<Vec<KillOnDrop>>,
    /// Those of each thread; none while its process is dead.
    connections: Vec<Mutex<Option<Connection>>>,
    kills: Kills,
}

impl<'m> Several<'m> {
    pub fn on_sqlite(memcached: Option<&'m Memcached>) -> Self {
        let folder = Folder::new();
        let store = SqliteStore::open(folder.database()).unwrap();
        Several::on(Backing::Sqlite(folder, store), memcached)
    }

    pub fn on_postgres(server: &'m Postgres, memcached: Option<&'m Memcached>) -> Self {
        let table = fresh_table();
        let store = server.builder_in(&table).open().unwrap();
        Several::on(Backing::Postgres(server, table, store), memcached)
    }

    fn on(backing: Backing<'m>, memcached: Option<&'m Memcached>) -> Self {
        let several = Several {
            backing,
            memcached,
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            children: Mutex::default(),
            connections: (0..PROCESSES * THREADS).map(|_| Mutex::default()).collect(),
            kills: Kills::Nothing,
        };
        for process in 0..PROCESSES {
            let child = several.start(process);
            several.children.lock().unwrap().push(child);
        }
        several
    }

    pub fn of_which_one_is_killed() -> Self {
        Several { kills: Kills::AProcess, ..Several::on_sqlite(None) }
    }

    pub fn of_which_one_or_the_server_is_killed(server: &'m Postgres) -> Self {
        Several { kills: Kills::AProcessOrTheServer, ..Several::on_postgres(server, None) }
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
        Abilities { lists: true, threads: PROCESSES * THREADS, slow: self.may_fail() }
    }

    fn model(&self) -> Sessions {
        let reads = match self.memcached {
            Some(_) => Reads::LatestAcknowledged,
            None => Reads::Latest,
        };
        let sweeps_in_two_steps = matches!(self.backing, Backing::Postgres(..));
        Sessions { reads, sweeps_in_two_steps, ..Sessions::PLAIN }
    }

    fn threads_per_process(&self) -> usize {
        THREADS
    }

    fn may_fail(&self) -> bool {
        self.kills != Kills::Nothing
    }

    fn begin(&self, names: Names) -> Vec<Caller<'_>> {
        self.backing.clear();
        let caller = |thread| -> Caller<'_> {
            Box::new(move |operation| self.call(thread, names, operation))
        };
        (0..PROCESSES * THREADS).map(caller).collect()
    }

    fn disturb(&self, chance: &mut Chance) -> bool {
        if self.kills != Kills::Nothing {
            wait(chance.below(3000));
            if let (Kills::AProcessOrTheServer, Backing::Postgres(server, ..)) =
                (self.kills, &self.backing)
                && chance.one_in(2)
            {
                server.kill();
                server.start_again();
                return false;
            }
            let process = chance.below(PROCESSES);
            let mut children = self.children.lock().unwrap();
            children[process].0.kill().unwrap();
            children[process].0.wait().unwrap();
            children[process] = self.start(process);
        }
        false
    }
}
