//! PgBouncer in front of the server, in transaction mode: each transaction gets the connection that
//! has not been used for longest. Without the program, which is Debian's package `pgbouncer`, the
//! tests say that they are skipped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use cloakroom::conformance::check;
use cloakroom::stores::postgres::PostgresStoreBuilder;
use cloakroom::{ErrorKind, PostgresStore};

use super::given::number;
use crate::common::client::PATIENCE;
use crate::common::postgres::{as_accepted_user, fresh_table, new_folder, shared};
use crate::common::proxy::{Plan, Proxy};
use crate::common::{
    Folder, KillOnDrop, create, end, live, merge, new_id_hash, on_threads, setting,
};

/// Far fewer connections to the server than the tests have to the pooler.
const SERVER_CONNECTIONS: usize = 3;

struct PgBouncer {
    address: SocketAddr,
    _process: KillOnDrop,
    _folder: Folder,
}

impl PgBouncer {
    /// A pooler in front of the shared server; `None` if the program is not installed.
    fn start() -> Option<PgBouncer> {
        PgBouncer::before(shared().port())
    }

    /// A pooler in front of the server at this port.
    fn before(port: u16) -> Option<PgBouncer> {
        let program = Path::new("/usr/sbin/pgbouncer");
        if !program.exists() {
            println!("skipped: pgbouncer is not installed");
            return None;
        }
        // Another process may take a free port before the start.
        (0..20).find_map(|_| PgBouncer::try_start(program, port))
    }

    fn try_start(program: &Path, port: u16) -> Option<PgBouncer> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let folder = new_folder();
        fs::write(folder.path("users"), "\"postgres\" \"\"\n").unwrap();
        let settings = format!(
            "[databases]\npostgres = host=127.0.0.1 port={} dbname=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\n\
             default_pool_size = {SERVER_CONNECTIONS}\nmax_client_conn = 1000\n\
             server_round_robin = 1\n",
            port,
            address.port(),
            folder.path("users").display(),
        );
        fs::write(folder.path("settings"), settings).unwrap();
        let mut command = as_accepted_user(program);
        command.arg("-q").arg(folder.path("settings"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = KillOnDrop(command.spawn().unwrap());
        while TcpStream::connect(address).is_err() {
            if process.0.try_wait().unwrap().is_some() {
                return None;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        Some(PgBouncer { address, _process: process, _folder: folder })
    }

    fn builder(&self) -> PostgresStoreBuilder {
        let url = format!("postgres://postgres@{}/postgres", self.address);
        let builder = PostgresStore::builder(&url).table(fresh_table());
        builder.connect_timeout(PATIENCE).call_timeout(PATIENCE)
    }
}

#[test]
fn a_store_behind_a_pooler_conforms() {
    let Some(pooler) = PgBouncer::start() else { return };
    check(|| pooler.builder().pooler(true).open().unwrap()).unwrap();
}

/// PgBouncer answers for the server that it has lost, also after the server has committed.
#[test]
fn a_commit_whose_answer_the_pooler_loses_has_unknown_outcome() {
    let proxy = Proxy::to((Ipv4Addr::LOCALHOST, shared().port()).into());
    let Some(pooler) = PgBouncer::before(proxy.address.port()) else { return };
    let store = pooler.builder().pooler(true).open().unwrap();
    let mut done = 0;
    // Which answer is that to the commit depends on how the answers arrive.
    for number in (0..6).cycle().take(30) {
        if number == 0 && done > 0 {
            break;
        }
        let id_hash = create(&store, &setting("n", 1)).unwrap();
        proxy.plan(Plan::LoseOneAnswer(number));
        let ended = end(&store, &id_hash);
        proxy.plan(Plan::Pass);
        if live(&store, &id_hash).unwrap().is_none()
            && let Err(error) = ended
        {
            assert!(error.has_unknown_outcome(), "{error}");
            done += 1;
        }
    }
    assert!(done > 0, "no answer to a commit was lost");
}

#[test]
fn more_connections_than_the_pooler_has_take_turns() {
    let Some(pooler) = PgBouncer::start() else { return };
    let store = pooler.builder().pooler(true).connections(16).open().unwrap();
    let id_hash = create(&store, &setting("n", 0)).unwrap();
    on_threads(16, || {
        for _ in 0..20 {
            assert!(live(&store, &id_hash).unwrap().is_some());
            merge(&store, &id_hash, &setting("n", 1)).unwrap();
        }
    });
    assert_eq!(number(&store, &id_hash), 1);
}

#[test]
fn without_the_setting_the_error_names_it() {
    let Some(pooler) = PgBouncer::start() else { return };
    let failed = Mutex::new(None);
    let store = pooler.builder().connections(16).open();
    // Opening may succeed by chance: the pooler has given it one connection.
    if let Ok(store) = &store {
        on_threads(16, || {
            for _ in 0..50 {
                if let Err(error) = live(store, &new_id_hash()) {
                    *failed.lock().unwrap() = Some(error);
                }
            }
        });
    }
    let error = failed.into_inner().unwrap().or(store.err()).expect("prepared statements fail");
    assert_ne!(error.kind(), ErrorKind::NotSetUp);
    assert!(error.to_string().contains("pooler(true)"), "{error}");
}
