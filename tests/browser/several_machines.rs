//! The example `several_machines`: no sign-in is lost and no ended session comes back, whatever is
//! killed. By HTTP, and in Chromium.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use crate::common::KillOnDrop;
use crate::common::chromium::{Chromium, Page, Programs};
use crate::common::client::{HttpClient, PATIENCE, Request};
use crate::common::example::{program, terminate};
use crate::common::memcached::Memcached;
use crate::common::postgres::Postgres;

/// Two machines with servers of the test's own.
struct Site {
    postgres: Postgres,
    memcached: Memcached,
    launcher: KillOnDrop,
    /// What the launcher and the machines print.
    _lines: Receiver<String>,
    addresses: [SocketAddr; 2],
}

impl Site {
    fn start() -> Site {
        let (postgres, memcached) = (Postgres::start(), Memcached::start());
        // Another process may take a free port before the start.
        for _ in 0..20 {
            let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
            let addresses = listeners.map(|listener| listener.local_addr().unwrap());
            let mut command = Command::new(program("several_machines"));
            let [one, other] = addresses;
            command.env("CLOAKROOM_ADDRS", format!("{one},{other}"));
            let (launcher, lines) = launch(with_services(&mut command, &postgres, &memcached));
            if listening(&lines, 2) {
                return Site { postgres, memcached, launcher, _lines: lines, addresses };
            }
        }
        panic!("the example does not start");
    }

    /// Waits until both machines use the cache, two seconds after their start.
    fn until_cached(&self, browser: &HttpClient) {
        let hits = || self.memcached.raw().statistic("get_hits").parse::<u64>().unwrap();
        let is_hit = |address| {
            let before = hits();
            reads_as_signed_in(browser, address) && hits() > before
        };
        let deadline = Instant::now() + PATIENCE;
        for address in self.addresses {
            // Not every hit is that of a session.
            while !(0..5).all(|_| is_hit(address)) {
                assert!(Instant::now() < deadline, "the cache is not used");
            }
        }
    }

    /// The process of a machine.
    fn process(&self, machine: usize) -> u32 {
        let children = children(self.launcher.0.id());
        let is_it = |process: &u32| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            let wanted = format!("CLOAKROOM_ADDR={}", self.addresses[machine]);
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        children.into_iter().find(is_it).expect("the machine runs")
    }

    fn kill_machine(&self, machine: usize) {
        let id = self.process(machine).to_string();
        assert!(Command::new("kill").args(["-KILL", &id]).status().unwrap().success());
        while HttpClient::new(self.addresses[machine]).try_send(Request::get("/")).is_ok() {}
    }

    /// Starts a machine again, at its address.
    fn start_machine(&self, machine: usize) -> KillOnDrop {
        let mut command = Command::new(program("several_machines"));
        command.arg("machine").env("CLOAKROOM_ADDR", self.addresses[machine].to_string());
        let (machine, lines) = launch(with_services(&mut command, &self.postgres, &self.memcached));
        assert!(listening(&lines, 1), "the machine does not start again");
        machine
    }
}

fn with_services<'c>(
    command: &'c mut Command,
    postgres: &Postgres,
    memcached: &Memcached,
) -> &'c mut Command {
    command.env("CLOAKROOM_POSTGRES", postgres.url());
    command.env("CLOAKROOM_MEMCACHED", memcached.address.to_string())
}

/// Starts a program. The receiver gets the lines that it prints, and ends with it.
fn launch(command: &mut Command) -> (KillOnDrop, Receiver<String>) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = KillOnDrop(command.spawn().unwrap());
    let (sender, lines) = channel();
    let out = BufReader::new(process.0.stdout.take().unwrap());
    thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    (process, lines)
}

/// Waits until so many machines listen.
fn listening(lines: &Receiver<String>, machines: usize) -> bool {
    let lines = std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok());
    lines.filter(|line| line.starts_with("listening on ")).take(machines).count() == machines
}

fn children(parent: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).unwrap().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")));
    let ids = lists.map_while(Result::ok).flat_map(|list| {
        list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<u32>>()
    });
    ids.collect()
}

/// Submits the form of the first page to this path.
fn submit(browser: &mut HttpClient, path: &str, fields: &str) {
    let page = browser.get("/");
    assert!(page.text().contains(&format!("<form method=\"post\" action=\"{path}\">")));
    let form = "application/x-www-form-urlencoded";
    let request = Request::new("POST", path).header("Content-Type", form);
    let response = browser.try_send(request.body(fields)).unwrap();
    assert_eq!(response.status, 303);
}

fn sign_in(address: SocketAddr) -> HttpClient {
    let mut browser = HttpClient::new(address);
    submit(&mut browser, "/sign-in", "user=ada&password=demo");
    browser
}

/// Signs in at the first machine and out at the second, when both have read the session. Returns
/// the cookie as it was recorded.
fn signed_out([first, second]: [SocketAddr; 2]) -> HttpClient {
    let mut browser = sign_in(first);
    let recorded = browser.clone();
    browser.address = second;
    // The first read takes the message of the sign-in out of the session.
    for address in [first, first, second] {
        assert!(reads_as_signed_in(&browser, address));
    }
    submit(&mut browser, "/sign-out", "");
    recorded
}

/// Asks for a page that only reads the session, perhaps from the cache.
fn reads_as_signed_in(browser: &HttpClient, address: SocketAddr) -> bool {
    let mut browser = HttpClient { address, ..browser.clone() };
    let response = browser.get("/sessions");
    assert!([200, 303].contains(&response.status), "{}", response.text());
    response.status == 200
}

/// Asks for a page that only reads the session, and for one that changes it.
fn is_signed_in(browser: &HttpClient, address: SocketAddr) -> bool {
    let reads = reads_as_signed_in(browser, address);
    let mut browser = HttpClient { address, ..browser.clone() };
    let response = browser.get("/");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.text().contains("Signed in as <strong>ada</strong>"), reads);
    reads
}

#[track_caller]
fn assert_is_signed_in(browser: &HttpClient, address: SocketAddr) {
    assert!(is_signed_in(browser, address), "a sign-in is lost");
}

/// Fails unless all of the first are signed in at these machines, and none of the others.
#[track_caller]
fn assert_all(addresses: &[SocketAddr], signed_in: &[HttpClient], ended: &[HttpClient]) {
    for address in addresses {
        for browser in signed_in {
            assert_is_signed_in(browser, *address);
        }
        for browser in ended {
            assert!(!is_signed_in(browser, *address), "an ended session is alive");
        }
    }
}

#[test]
fn no_outage_loses_a_sign_in_or_revives_a_session() {
    let site = Site::start();
    let both @ [one, other] = site.addresses;
    let mut signed_in = vec![sign_in(one), sign_in(other)];
    site.until_cached(&signed_in[0]);
    let mut ended = vec![signed_out([one, other]), signed_out([other, one])];
    assert_all(&both, &signed_in, &ended);

    site.memcached.kill();
    signed_in.push(sign_in(other));
    ended.push(signed_out([other, one]));
    assert_all(&both, &signed_in, &ended);
    site.memcached.start_again();
    assert_all(&both, &signed_in, &ended);

    site.postgres.kill();
    let mut without_database = HttpClient::new(one);
    assert_eq!(without_database.get("/").status, 503);
    assert_eq!(without_database.id, None);
    site.postgres.start_again();
    assert_all(&both, &signed_in, &ended);

    site.kill_machine(0);
    signed_in.push(sign_in(other));
    ended.push(signed_out([other, other]));
    assert_all(&[other], &signed_in, &ended);
    let _machine = site.start_machine(0);
    assert_all(&both, &signed_in, &ended);
}

#[test]
fn a_browser_stays_signed_in_when_its_machine_is_killed() {
    let Some(programs) = Programs::find() else { return };
    let (chromium, site) = (Chromium::start(&programs), Site::start());
    let url = |machine: usize| format!("http://localhost:{}/", site.addresses[machine].port());
    let tab = chromium.tab();
    tab.open(&url(0));
    tab.sign_in("ada", "demo");
    site.kill_machine(0);
    tab.open(&url(1));
    assert_eq!(tab.page(), Page::new(3, "ada", &[]));
    site.memcached.kill();
    tab.reload();
    assert_eq!(tab.page(), Page::new(4, "ada", &[]));
    let recorded = tab.cookie();
    tab.sign_out();
    let _machine = site.start_machine(0);
    tab.take_cookie(&recorded);
    tab.open(&url(0));
    assert_eq!(tab.page(), Page::new(1, None, &[]));
}

#[test]
fn one_command_starts_the_services_and_stops_them() {
    let mut command = Command::new(program("several_machines"));
    command.env_remove("CLOAKROOM_POSTGRES").env_remove("CLOAKROOM_MEMCACHED");
    command.env("CLOAKROOM_ADDRS", "127.0.0.1:0,127.0.0.1:0");
    let (mut launcher, lines) = launch(&mut command);
    assert!(listening(&lines, 2), "it does not start");
    let started = children(launcher.0.id());
    assert_eq!(started.len(), 4, "two machines and two servers");
    terminate(launcher.0.id());
    assert!(launcher.0.wait().unwrap().success());
    let left: Vec<_> =
        started.iter().filter(|id| fs::exists(format!("/proc/{id}")).unwrap()).collect();
    assert!(left.is_empty(), "{left:?} run on");
}
