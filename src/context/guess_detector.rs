//! The detection of id guessing: counts the malformed and unknown ids that each client address
//! presents.
//!
//! Locked only by requests that present such an id. The session's context calls it and raises the
//! event.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::SessionIdHash;
use crate::sync::{IgnorePoison, Mutex};

/// The number of ids within a window that raises the first event. Each doubling raises another.
const EVENT_THRESHOLD: u64 = 20;

/// The length of a window. It begins with the first id after the end of the last one.
const WINDOW_LENGTH: Duration = Duration::from_secs(60);

/// The maximum number of addresses in a window. One more begins the next window.
const MAX_ADDRESSES: usize = 1_024;

/// The maximum number of ids of one address that are remembered. An id beyond that counts as new
/// each time.
const MAX_KNOWN_IDS: usize = 256;

/// Counts the ids of all addresses in one window.
///
/// Each id counts once for its address, because ordinary visitors must not raise the event: a
/// browser whose session has ended requests a page and its twenty images with the same unknown id.
/// The memory is bounded, so that a client cannot use it up.
#[derive(Debug, Default)]
pub(crate) struct GuessDetector(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    began_at: Option<Timestamp>,
    by_address: HashMap<Option<IpAddr>, IdCount>,
}

#[derive(Debug, Default)]
struct IdCount {
    count: u64,
    /// The hashes of the first ids.
    known_ids: Vec<u64>,
}

/// Returns the address under which a client is counted. An IPv6 client can use all addresses of its
/// /64 network, so those count as one.
fn client_network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 => v4,
    }
}

impl GuessDetector {
    /// Returns the hash under which an unknown id is counted.
    pub(crate) fn hash_of(id_hash: &SessionIdHash) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *id_hash.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Counts a malformed or unknown id by its hash, once in a window. Returns the address and its
    /// count if an event is due.
    pub(crate) fn count(
        &self,
        address: Option<IpAddr>,
        hash: u64,
        now: Timestamp,
    ) -> Option<(Option<IpAddr>, u64)> {
        let address = address.map(client_network);
        let mut window = self.0.lock().ignore_poison();
        let is_over = window.began_at.is_none_or(|began_at| now.since(began_at) >= WINDOW_LENGTH);
        let is_full = window.by_address.len() >= MAX_ADDRESSES;
        if is_over || is_full && !window.by_address.contains_key(&address) {
            *window = Window { began_at: Some(now), by_address: HashMap::new() };
        }
        let ids = window.by_address.entry(address).or_default();
        // A repeated id comes from a client that has not noticed the end of its session.
        if ids.known_ids.contains(&hash) {
            return None;
        }
        if ids.known_ids.len() < MAX_KNOWN_IDS {
            ids.known_ids.push(hash);
        }
        ids.count += 1;
        let is_due = ids.count.is_multiple_of(EVENT_THRESHOLD)
            && (ids.count / EVENT_THRESHOLD).is_power_of_two();
        is_due.then_some((address, ids.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// Counts these ids and returns the counts of the events.
    fn reported(
        guess_detector: &GuessDetector,
        address: Option<&str>,
        ids: std::ops::Range<u64>,
        now: Timestamp,
    ) -> Vec<u64> {
        let address = address.map(|text| text.parse().unwrap());
        let counts = ids.filter_map(|id| guess_detector.count(address, id, now));
        counts.map(|(_, count)| count).collect()
    }

    #[test]
    fn ids_are_reported_at_the_threshold_and_each_doubling() {
        let guess_detector = GuessDetector::default();
        assert_eq!(reported(&guess_detector, Some("192.0.2.7"), 0..19, NOW), [0; 0]);
        assert_eq!(reported(&guess_detector, Some("192.0.2.7"), 19..20, NOW), [20]);
        assert_eq!(reported(&guess_detector, Some("192.0.2.7"), 20..220, NOW), [40, 80, 160]);
        assert_eq!(reported(&guess_detector, Some("192.0.2.8"), 0..19, NOW), [0; 0]);
        assert_eq!(reported(&guess_detector, None, 0..21, NOW), [20]);
    }

    #[test]
    fn a_window_is_a_minute_long() {
        let guess_detector = GuessDetector::default();
        assert_eq!(reported(&guess_detector, None, 0..19, NOW), [0; 0]);
        let last = NOW + (WINDOW_LENGTH - Duration::from_millis(1));
        assert_eq!(reported(&guess_detector, None, 19..20, last), [20]);
        assert_eq!(reported(&guess_detector, None, 0..19, NOW + WINDOW_LENGTH), [0; 0]);
        assert_eq!(reported(&guess_detector, None, 19..20, NOW + WINDOW_LENGTH), [20]);
    }

    #[test]
    fn repeated_ids_are_counted_once() {
        let guess_detector = GuessDetector::default();
        for _ in 0..100 {
            assert_eq!(reported(&guess_detector, None, 0..19, NOW), [0; 0]);
        }
        assert_eq!(guess_detector.0.lock().unwrap().by_address[&None].count, 19);
        assert_eq!(reported(&guess_detector, None, 19..20, NOW), [20], "a new id");
    }

    #[test]
    fn the_memory_per_address_is_bounded() {
        let guess_detector = GuessDetector::default();
        assert_eq!(reported(&guess_detector, None, 0..1000, NOW), [20, 40, 80, 160, 320, 640]);
        assert_eq!(
            guess_detector.0.lock().unwrap().by_address[&None].known_ids.len(),
            MAX_KNOWN_IDS
        );
    }

    #[test]
    fn different_ids_have_different_hashes() {
        let hash = |byte| GuessDetector::hash_of(&SessionIdHash::from_bytes([byte; 32]));
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let network = |text: &str| client_network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:2:ffff::1"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:3::1"), "2001:db8:1:3::");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn the_memory_is_bounded_and_each_address_is_counted() {
        let guess_detector = GuessDetector::default();
        let address = |n: u32| Some(IpAddr::V4(n.into()));
        let count = |n: u32, id| guess_detector.count(address(n), id, NOW);
        for n in 0..10_000 {
            assert_eq!(count(n, 0), None);
            assert!(guess_detector.0.lock().unwrap().by_address.len() <= MAX_ADDRESSES);
        }
        (1..19).for_each(|id| assert_eq!(count(9_999, id), None));
        assert_eq!(count(9_999, 19), Some((address(9_999), 20)));
    }
}
