//! Load over HTTP, with sign-ins, revocations, sweeps, another program and a new version of the
//! service: no request fails, and neither memory nor files grow without bound.
//!
//! `CLOAKROOM_SECONDS=n` loads each framework for n seconds, in place of a bounded share.

use std::fs;
use std::net::SocketAddr;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::client::{HttpClient, Request, Response};
use crate::common::scripted_app::{FRAMEWORKS, Framework};
use crate::common::server_process::{serve, start};
use crate::common::{Folder, KillOnDrop, role};
use cloakroom::stores::sqlite::rusqlite::Connection;
use cloakroom::{SessionManager, SqliteStore};

const CLIENTS: usize = 8;
/// The number of expired sessions that another program inserts at once.
const EXPIRED: u64 = 500;
/// The maximum number of expired sessions with which it inserts more.
const MOST_EXPIRED: u64 = 4 * EXPIRED;
/// The pause between two inserts of the other program.
const PACE: Duration = Duration::from_millis(20);
/// The maximum length of the log, somewhat more than `docs/operating.md` says.
const MAX_LOG: u64 = 80 << 20;
const MIB: u64 = 1 << 20;

#[test]
fn child_process() {
    let Some(role) = role() else { return };
    let store = SqliteStore::open(std::env::var("DATABASE").unwrap()).unwrap();
    let sessions = SessionManager::builder(store).sweep_every(Duration::from_secs(1));
    serve(&role, sessions.build().unwrap());
}

struct Service {
    address: RwLock<SocketAddr>,
    is_over: AtomicBool,
}

struct Client<'s> {
    service: &'s Service,
    response_times: Vec<Duration>,
}

impl Client<'_> {
    /// Sends a request, which must succeed. Locks the address meanwhile, because the old service is
    /// stopped when no request uses it.
    fn request(&mut self, browser: &mut HttpClient, path: &str) -> Response {
        let address = self.service.address.read().unwrap();
        browser.address = *address;
        let began = Instant::now();
        let response = browser.try_send(Request::post(path)).expect("it is answered");
        self.response_times.push(began.elapsed());
        assert_eq!(response.status, 200, "{path}: {response:?}");
        response
    }

    fn assert_signed_out(&mut self, id: &str) {
        let mut thief = HttpClient::new(*self.service.address.read().unwrap());
        thief.id = Some(id.to_owned());
        let answer = self.request(&mut thief, "/who/visits");
        assert_eq!(answer.text(), "none\n0", "an ended session is back");
    }

    /// Sends requests of a regular visitor, and of users who sign in and out, until the test is
    /// over. Returns the response times.
    fn run(mut self, number: usize) -> Vec<Duration> {
        let address = *self.service.address.read().unwrap();
        let (mut regular, mut visits) = (HttpClient::new(address), 0_u64);
        let user = format!("user-{number}");
        while !self.service.is_over.load(Ordering::Relaxed) {
            for _ in 0..4 {
                visits += 1;
                let counted = self.request(&mut regular, "/count");
                assert_eq!(counted.text(), visits.to_string(), "a visit is lost");
            }
            self.request(&mut regular, "/renew");
            let mut here = HttpClient::new(address);
            let mut there = HttpClient::new(address);
            for browser in [&mut here, &mut there] {
                self.request(browser, "/count");
                self.request(browser, &format!("/sign-in:{user}"));
            }
            assert_eq!(self.request(&mut here, "/who/visits").text(), format!("{user}\n1"));
            let ended = there.id().to_owned();
            assert_eq!(self.request(&mut here, "/revoke-others").text(), "1");
            self.assert_signed_out(&ended);
            let ended = here.id().to_owned();
            match visits % 3 {
                0 => self.request(&mut here, "/destroy"),
                1 => self.request(&mut regular, &format!("/revoke-user:{user}")),
                _ => self.request(&mut here, &format!("/revoke-user:{user}")),
            };
            self.assert_signed_out(&ended);
        }
        self.response_times
    }
}

/// Inserts expired sessions, as another program, and returns their number.
fn insert_expired(connection: &Connection) -> u64 {
    let count = "SELECT count(*) FROM cloakroom_sessions WHERE deadline = 1";
    let there: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
    if there as u64 >= MOST_EXPIRED {
        return 0;
    }
    let sql = "INSERT INTO cloakroom_sessions (id_hash, public_id, realm, created, seen, id_issued, idle, deadline,
               persistent, revision, format, data)
               VALUES (randomblob(32), randomblob(16), '__Host-id', 0, 0, 0, 1, 1, 1, 1, 1, '{}')";
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..EXPIRED {
        connection.execute(sql, []).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    EXPIRED
}

fn memory_of(process: &KillOnDrop) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Measurements of the service under load.
#[derive(Clone, Copy, Debug, Default)]
struct Measurements {
    memory: u64,
    file: u64,
    log: u64,
    /// The number of expired sessions that were inserted.
    expired: u64,
}

/// Inserts expired sessions until `until`. Returns their number, and the maxima of the other
/// measurements.
fn watch(
    until: Instant,
    process: &KillOnDrop,
    folder: &Folder,
    other: &Connection,
) -> Measurements {
    let mut most = Measurements::default();
    let size = |name: &str| fs::metadata(folder.path(name)).map_or(0, |file| file.len());
    while Instant::now() < until {
        most.expired += insert_expired(other);
        thread::park_timeout(PACE);
        most.memory = most.memory.max(memory_of(process));
        most.file = most.file.max(size("app.db"));
        most.log = most.log.max(size("app.db-wal"));
    }
    most
}

fn soak(framework: &str, seconds: u64) {
    let folder = Folder::new();
    let (mut process, address) = start(module_path!(), framework, &folder);
    let service = Service { address: RwLock::new(address), is_over: AtomicBool::new(false) };
    let other = Connection::open(folder.database()).unwrap();
    other.busy_timeout(Duration::from_secs(10)).unwrap();
    let part = Duration::from_secs(seconds) / 4;
    let (mut sizes, mut response_times) = (vec![], vec![]);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = Client { service: &service, response_times: vec![] };
                scope.spawn(move || client.run(number))
            })
            .collect();
        let stop = StopOnDrop(&service.is_over);
        sizes.push(watch(Instant::now() + part, &process, &folder, &other));
        // A new version starts beside the old one, and takes over between two requests.
        let (new, address) = start(module_path!(), framework, &folder);
        *service.address.write().unwrap() = address;
        process.0.kill().unwrap();
        process = new;
        for _ in 0..3 {
            sizes.push(watch(Instant::now() + part, &process, &folder, &other));
        }
        drop(stop);
        response_times = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    });
    response_times.sort();
    let percentile = |percent: usize| response_times[(response_times.len() - 1) * percent / 100];
    let last = sizes[3];
    let expired: u64 = sizes.iter().map(|sizes| sizes.expired).sum();
    println!(
        "{framework}: {} requests in {seconds} s, 0 failed, {expired} expired ones swept; median {:?}, p99 {:?}, longest {:?}; \
         memory {} MiB, file {} MiB, log {} MiB at most",
        response_times.len(),
        percentile(50),
        percentile(99),
        percentile(100),
        last.memory / MIB,
        last.file / MIB,
        sizes.iter().map(|sizes| sizes.log).max().unwrap() / MIB,
    );
    assert!(expired > MOST_EXPIRED, "nothing was swept");
    // Caches are full after the second quarter.
    assert!(last.memory < sizes[1].memory * 5 / 4 + 8 * MIB, "memory grows: {sizes:?}");
    assert!(last.file < sizes[1].file * 3 / 2 + 8 * MIB, "the file grows: {sizes:?}");
    assert!(sizes.iter().all(|sizes| sizes.log < MAX_LOG), "the log grows: {sizes:?}");
    let check: String = other.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

/// Stops the clients, also when the test fails.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn under_load_no_request_fails_and_nothing_grows_without_end() {
    let seconds = std::env::var("CLOAKROOM_SECONDS").map_or(6, |text| text.parse().unwrap());
    for Framework { name: framework, .. } in FRAMEWORKS {
        soak(framework, seconds);
    }
}
