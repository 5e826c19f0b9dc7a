//! The address of a server: found by its name once, and kept until connections to it fail.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::stores::memcached::client::{CommandFailure, CommandResult, unavailable};
use crate::sync::IgnorePoison;

/// Asks the system for the addresses of a name.
type LookUp = fn(&str) -> io::Result<Vec<SocketAddr>>;

/// Finds the one address of a server. The system's resolver has no timeout of ours, so it runs on a
/// thread of its own: one for each server, however many callers wait.
#[derive(Debug)]
pub(super) struct Resolver {
    name: String,
    look_up: LookUp,
    lookups: Arc<(Mutex<Lookups>, Condvar)>,
}

#[derive(Debug, Default)]
struct Lookups {
    is_running: bool,
    /// The number of finished lookups.
    finished: u64,
    /// The result of the last lookup.
    last: Option<CommandResult<SocketAddr>>,
}

impl Resolver {
    pub(super) fn new(name: &str) -> Self {
        Resolver::with(name, |name| name.to_socket_addrs().map(Iterator::collect))
    }

    fn with(name: &str, look_up: LookUp) -> Self {
        Resolver { name: name.to_owned(), look_up, lookups: Arc::default() }
    }

    /// Returns the address. Waits for a lookup that is running, or starts one.
    ///
    /// # Errors
    /// - [`ErrorKind::Unavailable`]: the name has no address now, or the answer takes longer than
    ///   `timeout`.
    /// - [`ErrorKind::Invalid`]: it has several addresses, which may be several servers. A session
    ///   that was ended in one of them would be alive in another.
    pub(super) fn resolve(&self, timeout: Duration) -> CommandResult<SocketAddr> {
        if let Ok(address) = self.name.parse() {
            return Ok(address);
        }
        let (lookups, ended) = &*self.lookups;
        let mut lookups = lookups.lock().ignore_poison();
        if !lookups.is_running {
            self.start()
                .map_err(|error| unavailable(format!("its name cannot be looked up: {error}")))?;
            lookups.is_running = true;
        }
        let before = lookups.finished;
        let is_running = |lookups: &mut Lookups| lookups.finished == before;
        let (lookups, waited) =
            ended.wait_timeout_while(lookups, timeout, is_running).ignore_poison();
        let found = lookups.last.clone().filter(|_| !waited.timed_out());
        found.unwrap_or_else(|| Err(unavailable("its name was not looked up in time")))
    }

    fn start(&self) -> io::Result<()> {
        let name = self.name.clone();
        let look_up = self.look_up;
        let shared = self.lookups.clone();
        let run = move || {
            let found = match look_up(&name) {
                Ok(addresses) => only_one(addresses),
                Err(error) => Err(unavailable(format!("its name has no address: {error}"))),
            };
            let (lookups, ended) = &*shared;
            let mut lookups = lookups.lock().ignore_poison();
            let finished = lookups.finished + 1;
            *lookups = Lookups { is_running: false, finished, last: Some(found) };
            ended.notify_all();
        };
        thread::Builder::new().name("cloakroom-resolver".to_owned()).spawn(run).map(drop)
    }
}

/// Returns the only address. Of one address of each IP version it is the IPv4 address, always,
/// because another program may listen at the other one.
fn only_one(mut addresses: Vec<SocketAddr>) -> CommandResult<SocketAddr> {
    addresses.sort();
    addresses.dedup();
    let of_version = |v4: bool| addresses.iter().filter(move |a| a.is_ipv4() == v4);
    if of_version(true).count() > 1 || of_version(false).count() > 1 {
        let all: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let why = format!(
            "its name has several addresses ({}); give each server by an address of its own",
            all.join(", ")
        );
        return Err(CommandFailure::new(ErrorKind::Invalid, why));
    }
    let first = of_version(true).chain(of_version(false)).next().copied();
    first.ok_or_else(|| unavailable("its name has no address"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn only(addresses: &[&str]) -> CommandResult<SocketAddr> {
        only_one(addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    #[test]
    fn a_name_with_several_addresses_is_refused() {
        let [one, other, six] = ["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1"];
        assert_eq!(only(&[one]).unwrap().to_string(), one);
        assert_eq!(only(&[one, one]).unwrap().to_string(), one);
        assert_eq!(only(&[six]).unwrap().to_string(), six);
        assert_eq!(only(&[six, one]).unwrap().to_string(), one);
        assert_eq!(only(&[]).unwrap_err().kind, ErrorKind::Unavailable);
        for several in [&[one, other][..], &[one, six, other], &[six, "[2001:db8::2]:1"]] {
            let CommandFailure { kind, why, .. } = only(several).unwrap_err();
            assert_eq!(kind, ErrorKind::Invalid);
            assert!(several.iter().all(|address| why.contains(address)), "{why}");
        }
    }

    #[test]
    fn an_address_needs_no_resolver() {
        for address in ["127.0.0.1:11211", "[::1]:11211"] {
            let resolver = Resolver::with(address, |_| panic!("it is asked"));
            assert_eq!(resolver.resolve(Duration::ZERO).unwrap().to_string(), address);
        }
    }

    #[test]
    fn a_name_without_an_address_is_unavailable() {
        let resolver = Resolver::new("no-such-host.invalid:1");
        let CommandFailure { kind, why, .. } =
            resolver.resolve(Duration::from_secs(30)).unwrap_err();
        assert_eq!(kind, ErrorKind::Unavailable, "{why}");
        assert_eq!(resolver.resolve(Duration::ZERO).unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn a_resolver_that_hangs_occupies_one_thread() {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        static HANGS: Mutex<()> = Mutex::new(());
        let look_up: LookUp = |_| {
            STARTED.fetch_add(1, Ordering::SeqCst);
            drop(HANGS.lock());
            Ok(vec!["192.0.2.1:1".parse().unwrap()])
        };
        let resolver = Resolver::with("memcached.test:1", look_up);
        let hangs = HANGS.lock().unwrap();
        for _ in 0..80 {
            let failure = resolver.resolve(Duration::from_micros(100)).unwrap_err();
            assert!(failure.why.contains("not looked up in time"), "{}", failure.why);
        }
        drop(hangs);
        let found = resolver.resolve(Duration::from_secs(30)).unwrap();
        assert_eq!(found.to_string(), "192.0.2.1:1");
        // Either that was the result of the first lookup, or a second one was started after it.
        assert!(STARTED.load(Ordering::SeqCst) <= 2);
    }
}
