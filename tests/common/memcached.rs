//! Real memcached processes: started on free ports, killed, stopped for a while, started again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::stores::memcached::{MemcachedStore, MemcachedStoreBuilder};

use super::KillOnDrop;
use super::client::PATIENCE;

/// A store waits so long for a busy machine: the most that it can be set to.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(30);

/// A memcached of the test's own. It goes with the test, however that ends.
#[derive(Debug)]
pub struct Memcached {
    pub address: SocketAddr,
    options: Vec<String>,
    child: Mutex<Option<KillOnDrop>>,
}

impl Memcached {
    pub fn start() -> Memcached {
        Memcached::with(&[])
    }

    /// With options of memcached's command line.
    pub fn with(options: &[&str]) -> Memcached {
        Memcached::at("127.0.0.1", options)
    }

    /// At this address of the machine, on a free port.
    pub fn at(address: &str, options: &[&str]) -> Memcached {
        // Another process may take a free port before the start.
        for _ in 0..20 {
            let free = TcpListener::bind((address, 0)).unwrap().local_addr().unwrap();
            if let Some(server) = Memcached::try_at(free, options) {
                return server;
            }
        }
        panic!("memcached does not start; tests/run.sh installs it");
    }

    /// At this address and port, if they are free.
    pub fn try_at(address: SocketAddr, options: &[&str]) -> Option<Memcached> {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let server = Memcached { address, options, child: Mutex::default() };
        server.run().then_some(server)
    }

    /// Starts the process, and returns when it answers. False if it ends instead.
    fn run(&self) -> bool {
        let mut command = Command::new("memcached");
        let address = self.address.ip().to_string();
        let port = self.address.port().to_string();
        command.args(["-l", &address, "-U", "0", "-p", &port]);
        // Memcached runs as root only with this option.
        command.args(["-u", &user()]).args(&self.options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("memcached is installed; tests/run.sh does it");
        let mut child = KillOnDrop(child);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.0.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(stream) = TcpStream::connect(self.address) {
                let mut raw = Raw::over(stream);
                // One with `-Y` answers no question without a password.
                if !raw.ask("version").is_empty() {
                    *self.child.lock().unwrap() = Some(child);
                    return true;
                }
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        false
    }

    /// Ends the process as a power cut would.
    pub fn kill(&self) {
        drop(self.child.lock().unwrap().take());
    }

    /// Starts it again, empty, at the same address.
    pub fn start_again(&self) {
        assert!(self.run(), "memcached does not start again on its port");
    }

    /// Lets the process stand still: it accepts connections and answers nothing.
    pub fn freeze(&self) {
        let id = self.signal("-STOP");
        // The signal was sent; its threads stop one after the other.
        let deadline = Instant::now() + PATIENCE;
        while !all_stopped(&id) && Instant::now() < deadline {
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) -> String {
        let child = self.child.lock().unwrap();
        let id = child.as_ref().expect("it runs").0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        id
    }

    pub fn raw(&self) -> Raw {
        Raw::over(TcpStream::connect(self.address).unwrap())
    }

    /// A store on it, in a fresh namespace.
    pub fn store(&self) -> MemcachedStore {
        self.builder().open().unwrap()
    }

    /// One with the timeouts of the defaults, for servers that do not answer.
    pub fn hasty_store(&self) -> MemcachedStore {
        let timeout = Duration::from_millis(200);
        self.builder().connect_timeout(timeout).io_timeout(timeout).open().unwrap()
    }

    pub fn builder(&self) -> MemcachedStoreBuilder {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let namespace = format!("test{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.builder_in(&namespace)
    }

    pub fn builder_in(&self, namespace: &str) -> MemcachedStoreBuilder {
        on([self.address.to_string()]).namespace(namespace)
    }
}

/// A store on these servers, with time: a busy machine is no server that is down.
pub fn on(servers: impl IntoIterator<Item = String>) -> MemcachedStoreBuilder {
    let builder = MemcachedStore::builder().servers(servers);
    builder.connect_timeout(LONG_TIMEOUT).io_timeout(LONG_TIMEOUT)
}

/// Returns true if all threads of a process are stopped, by Linux's `/proc`.
fn all_stopped(id: &str) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{id}/task")) else { return true };
    threads.flatten().all(|thread| {
        let state = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    })
}

/// The user to run as: the one we are, by name.
fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// One memcached for all tests of a program that do it no harm. A process that outlives its tests
/// is ended by the one after: a static is never dropped.
pub fn shared() -> &'static Memcached {
    static SHARED: LazyLock<Memcached> = LazyLock::new(|| {
        let server = Memcached::with(&["-m", "256"]);
        watch(&server);
        server
    });
    &SHARED
}

/// A shell that waits for this process to end, and then ends that one.
fn watch(server: &Memcached) {
    let child = server.child.lock().unwrap();
    let id = child.as_ref().expect("it runs").0.id();
    let script = format!("read -r _; kill -9 {id}");
    let mut watcher = Command::new("sh");
    // Its standard input is a pipe from us: it reads its end when we are gone.
    watcher.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Neither it nor the pipe is let go before this process ends.
    std::mem::forget(KillOnDrop(watcher.spawn().unwrap()));
}

/// A connection on which a test says what it likes.
#[derive(Debug)]
pub struct Raw(BufReader<TcpStream>);

impl Raw {
    fn over(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw(BufReader::new(stream))
    }

    /// Sends a line and reads the first line of the answer; empty if there is none.
    pub fn ask(&mut self, line: &str) -> String {
        if self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).is_err() {
            return String::new();
        }
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.0.read_line(&mut line);
        line.trim_end().to_owned()
    }

    /// A number that the server counts.
    pub fn statistic(&mut self, name: &str) -> String {
        let mut line = self.ask("stats");
        let mut found = None;
        while line != "END" {
            let value = line.strip_prefix("STAT ").and_then(|line| line.split_once(' '));
            found = found.or(value.filter(|(has, _)| *has == name).map(|(_, is)| is.to_owned()));
            line = self.line();
        }
        found.expect("memcached counts it")
    }

    pub fn set(&mut self, name: &str, value: &[u8]) {
        let head = format!("ms {name} {}\r\n", value.len());
        self.0.get_mut().write_all(&[head.as_bytes(), value, b"\r\n"].concat()).unwrap();
        assert_eq!(self.line(), "HD");
    }

    pub fn get(&mut self, name: &str) -> Option<Vec<u8>> {
        let head = self.ask(&format!("mg {name} v"));
        let length = head.strip_prefix("VA ")?.split(' ').next().unwrap().parse().unwrap();
        let mut value: Vec<u8> = vec![0; length];
        self.0.read_exact(&mut value).unwrap();
        assert_eq!(self.line(), "");
        Some(value)
    }

    pub fn remove(&mut self, name: &str) {
        self.ask(&format!("md {name}"));
    }

    /// The seconds that an item still has; -1 for no end.
    pub fn seconds_left(&mut self, name: &str) -> Option<i64> {
        let answer = self.ask(&format!("mg {name} t"));
        Some(answer.strip_prefix("HD t")?.parse().unwrap())
    }

    /// The name of an item: `s` and the id hash of a session, or `c` and the key of a cache entry.
    pub fn name(&mut self, namespace: &str, letter: char, id: &[u8; 32]) -> String {
        let nonce = self.get(&format!("{namespace}:{letter}:nonce")).expect("there is a nonce");
        let nonce = String::from_utf8(nonce).unwrap();
        format!("{namespace}:{letter}:{nonce}:{}", base64url(id))
    }
}

/// As memcached's names have it: base64url without padding.
fn base64url(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = (0..3).fold(0, |n, index| n << 8 | u32::from(*group.get(index).unwrap_or(&0)));
        for index in 0..=group.len() {
            text.push(char::from(LETTERS[(number >> (18 - 6 * index) & 63) as usize]));
        }
    }
    text
}
