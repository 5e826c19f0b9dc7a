//! Which addresses present ids that are none of ours, and how many.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::SessionIdHash;

/// So many within a window are told of.
const MANY: u64 = 20;

/// The length of a window, from the first odd id of an address.
const WINDOW: Duration = Duration::from_secs(60);

/// The most addresses that are counted at a time.
const MOST: usize = 1_024;

/// The most ids of one address that are told from new ones. Each further one counts as new.
const MOST_SEEN: usize = 256;

/// Locked only for a request that presents something odd.
#[derive(Debug, Default)]
pub(crate) struct GuessDetector(Mutex<Windows>);

#[derive(Debug, Default)]
struct Windows {
    /// How many windows were begun.
    begun: u64,
    of: HashMap<Option<IpAddr>, Window>,
}

#[derive(Debug)]
struct Window {
    /// Higher for windows that began later.
    number: u64,
    began: Timestamp,
    count: u64,
    tell_at: u64,
    /// The first hashes that were counted.
    seen: Vec<u64>,
}

/// Whom one client can pose as: an IPv6 client has 64 bits of its address to itself.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 => v4,
    }
}

impl GuessDetector {
    /// The hash under which an unknown id is counted.
    pub(crate) fn hash_of(id_hash: &SessionIdHash) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = *id_hash.as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }

    /// Counts an odd id, by a hash of it, unless it was counted in this window before. Gives whom
    /// to tell of and with what number, when that is due.
    pub(crate) fn note(
        &self,
        address: Option<IpAddr>,
        hash: u64,
        now: Timestamp,
    ) -> Option<(Option<IpAddr>, u64)> {
        let address = address.map(client);
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = windows.of(address, now);
        // Clients that do not know that their sessions have ended guess nothing.
        if window.seen.contains(&hash) {
            return None;
        }
        if window.seen.len() < MOST_SEEN {
            window.seen.push(hash);
        }
        window.count += 1;
        let due = window.count >= window.tell_at;
        if due {
            window.tell_at *= 2;
        }
        due.then_some((address, window.count))
    }
}

impl Windows {
    fn of(&mut self, address: Option<IpAddr>, now: Timestamp) -> &mut Window {
        if self.of.len() >= MOST && !self.of.contains_key(&address) {
            // By halves, so that making room costs little per address.
            let newer = self.begun - (MOST / 2) as u64;
            self.of.retain(|_, window| window.number > newer);
        }
        let fresh = |begun: &mut u64| {
            *begun += 1;
            Window { number: *begun, began: now, count: 0, tell_at: MANY, seen: Vec::new() }
        };
        let begun = &mut self.begun;
        let window = self.of.entry(address).or_insert_with(|| fresh(begun));
        if now.since(window.began) >= WINDOW {
            *window = fresh(begun);
        }
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    /// Presents these ids and gives the numbers that were told.
    fn told(
        guess_detector: &GuessDetector,
        address: Option<&str>,
        ids: std::ops::Range<u64>,
        now: Timestamp,
    ) -> Vec<u64> {
        let address = address.map(|text| text.parse().unwrap());
        let counts = ids.filter_map(|id| guess_detector.note(address, id, now));
        counts.map(|(_, count)| count).collect()
    }

    #[test]
    fn many_ids_are_told_of_at_the_threshold_and_whenever_they_double() {
        let guess_detector = GuessDetector::default();
        assert_eq!(told(&guess_detector, Some("192.0.2.7"), 0..19, NOW), [0; 0]);
        assert_eq!(told(&guess_detector, Some("192.0.2.7"), 19..20, NOW), [20]);
        assert_eq!(told(&guess_detector, Some("192.0.2.7"), 20..220, NOW), [40, 80, 160]);
        assert_eq!(told(&guess_detector, Some("192.0.2.8"), 0..19, NOW), [0; 0]);
        assert_eq!(told(&guess_detector, None, 0..21, NOW), [20]);
    }

    #[test]
    fn a_window_is_a_minute_long() {
        let guess_detector = GuessDetector::default();
        assert_eq!(told(&guess_detector, None, 0..19, NOW), [0; 0]);
        let last = NOW + (WINDOW - Duration::from_millis(1));
        assert_eq!(told(&guess_detector, None, 19..20, last), [20]);
        assert_eq!(told(&guess_detector, None, 0..19, NOW + WINDOW), [0; 0]);
        assert_eq!(told(&guess_detector, None, 19..20, NOW + WINDOW), [20]);
    }

    #[test]
    fn ids_that_come_again_and_again_in_turn_are_no_guesses() {
        let guess_detector = GuessDetector::default();
        for _ in 0..100 {
            assert_eq!(told(&guess_detector, None, 0..19, NOW), [0; 0]);
        }
        assert_eq!(guess_detector.0.lock().unwrap().of[&None].count, 19);
        assert_eq!(told(&guess_detector, None, 19..20, NOW), [20], "one that is new");
    }

    #[test]
    fn what_is_remembered_of_one_address_is_bounded() {
        let guess_detector = GuessDetector::default();
        assert_eq!(told(&guess_detector, None, 0..1000, NOW), [20, 40, 80, 160, 320, 640]);
        assert_eq!(guess_detector.0.lock().unwrap().of[&None].seen.len(), MOST_SEEN);
    }

    #[test]
    fn keys_of_different_ids_have_different_hashes() {
        let of = |byte| GuessDetector::hash_of(&SessionIdHash::from_bytes([byte; 32]));
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn one_client_is_one_whatever_it_writes_into_its_half_of_an_ipv6_address() {
        let of = |text: &str| client(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:2:ffff::1"), "2001:db8:1:2::");
        assert_eq!(of("2001:db8:1:3::1"), "2001:db8:1:3::");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn the_memory_is_bounded_and_the_newest_are_remembered() {
        let guess_detector = GuessDetector::default();
        let address = |n: u32| Some(IpAddr::V4(n.into()));
        let note = |n: u32, id| guess_detector.note(address(n), id, NOW);
        for n in 0..10_000 {
            assert_eq!(note(n, 0), None);
            let windows = guess_detector.0.lock().unwrap();
            assert!(windows.of.len() <= MOST);
            assert!(windows.of.contains_key(&address(n.saturating_sub(MOST as u32 / 2))));
        }
        (1..19).for_each(|id| assert_eq!(note(9_999, id), None));
        assert_eq!(note(9_999, 19), Some((address(9_999), 20)));
    }
}
