//! The address of a server: found by its name once, and kept until connections to it fail.
//!
//! Called by `pool` only.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::error::ErrorKind;
use crate::stores::memcached::client::{CommandFailure, CommandResult, unavailable};

/// Finds the one address of a server.
///
/// # Errors
/// - [`ErrorKind::Unavailable`]: the name has no address now, or the answer takes longer than
///   `timeout`.
/// - [`ErrorKind::Invalid`]: it has several addresses, which may be several servers. A session that
///   was ended in one of them would be alive in another.
pub(super) fn resolve(name: &str, timeout: Duration) -> CommandResult<SocketAddr> {
    if let Ok(address) = name.parse() {
        return Ok(address);
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    let owned = name.to_owned();
    // The system's resolver has no timeout of ours.
    let look_up = move || {
        let found = owned.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let _ = sender.send(found);
    };
    let started = thread::Builder::new().name("cloakroom-resolver".to_owned()).spawn(look_up);
    started.map_err(|error| unavailable(format!("its name cannot be looked up: {error}")))?;
    match receiver.recv_timeout(timeout) {
        Ok(Ok(addresses)) => only_one(addresses),
        Ok(Err(error)) => Err(unavailable(format!("its name has no address: {error}"))),
        Err(_) => Err(unavailable("its name was not looked up in time")),
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
            assert_eq!(resolve(address, Duration::ZERO).unwrap().to_string(), address);
        }
    }

    #[test]
    fn a_name_without_an_address_is_unavailable() {
        let CommandFailure { kind, why, .. } =
            resolve("no-such-host.invalid:1", Duration::from_secs(30)).unwrap_err();
        assert_eq!(kind, ErrorKind::Unavailable, "{why}");
        let failure = resolve("no-such-host.invalid:1", Duration::ZERO).unwrap_err();
        assert_eq!(failure.kind, ErrorKind::Unavailable);
    }
}
