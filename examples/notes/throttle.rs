//! Limits attempts to guess passwords, by account and by address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloakroom::clock::{Clock, Timestamp};

/// The time after which attempts are no longer counted.
pub const WINDOW: Duration = Duration::from_secs(15 * 60);

/// The maximum number of counts in memory. Beyond it the oldest is forgotten.
const MAX_COUNTS: usize = 10_000;

/// Counts attempts in memory: a restart forgets them, and each process counts its own.
pub struct Throttle {
    clock: Box<dyn Clock>,
    counts: Mutex<HashMap<Key, Count>>,
}

/// An account, an address, or both.
type Key = (Option<String>, Option<IpAddr>);

struct Count {
    attempts: u32,
    since: Timestamp,
}

impl Throttle {
    pub fn new(clock: impl Clock) -> Self {
        Throttle { clock: Box::new(clock), counts: Mutex::default() }
    }

    /// Counts an attempt, before the password is verified, so that parallel attempts count too.
    /// Returns false if there were too many.
    #[must_use]
    pub fn admits(&self, account: &str, address: IpAddr) -> bool {
        self.count(&keys(account, address))
    }

    /// Counts another action of which an address has a limited number.
    #[must_use]
    pub fn admits_address(&self, address: IpAddr) -> bool {
        self.count(&[(None, Some(network(address)))])
    }

    fn count(&self, keys: &[Key]) -> bool {
        let (mut counts, now) = (self.counts(), self.clock.now());
        let is_full = |key: &Key| {
            let live = counts.get(key).filter(|count| now.since(count.since) < WINDOW);
            live.is_some_and(|count| count.attempts >= limit(key))
        };
        if keys.iter().any(is_full) {
            return false;
        }
        for key in keys {
            make_room(&mut counts, now);
            let count = counts.entry(key.clone()).or_insert(Count { attempts: 0, since: now });
            if now.since(count.since) >= WINDOW {
                *count = Count { attempts: 0, since: now };
            }
            count.attempts += 1;
        }
        true
    }

    /// Stops counting an attempt, which had the right password. Failed attempts stay counted: an
    /// attacker who signs in to an account of his own gets no more of them.
    pub fn succeeded(&self, account: &str, address: IpAddr) {
        let mut counts = self.counts();
        for key in keys(account, address) {
            if let Some(count) = counts.get_mut(&key) {
                count.attempts = count.attempts.saturating_sub(1);
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Key, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(counts: &mut HashMap<Key, Count>, now: Timestamp) {
    if counts.len() >= MAX_COUNTS {
        counts.retain(|_, count| now.since(count.since) < WINDOW);
    }
    if counts.len() >= MAX_COUNTS
        && let Some(oldest) = counts.iter().min_by_key(|(_, c)| c.since).map(|(k, _)| k.clone())
    {
        counts.remove(&oldest);
    }
}

fn keys(account: &str, address: IpAddr) -> [Key; 3] {
    let (account, network) = (Some(account.to_lowercase()), Some(network(address)));
    [(account.clone(), network), (None, network), (account, None)]
}

/// Returns the maximum of attempts within the window.
fn limit(key: &Key) -> u32 {
    match key {
        (Some(_), Some(_)) => 5,
        (None, _) => 50,
        // NIST SP 800-63B-4, 3.2.2, allows at most 100 on an account.
        (Some(_), None) => 100,
    }
}

/// Returns the address without the part that a customer of a provider can choose: the last 64 bits
/// of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use cloakroom::clock::ManualClock;

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn throttle() -> (Throttle, ManualClock) {
        let clock = ManualClock::new(Timestamp::from_millis(0));
        (Throttle::new(clock.clone()), clock)
    }

    fn address(n: u32) -> IpAddr {
        IpAddr::from(n.to_be_bytes())
    }

    #[test]
    fn an_address_may_fail_five_times_on_one_account() {
        let (throttle, clock) = throttle();
        for _ in 0..5 {
            assert!(throttle.admits("ada", ADDRESS));
        }
        assert!(!throttle.admits("Ada", ADDRESS), "names differ in case only");
        assert!(throttle.admits("ada", address(1)), "the user elsewhere");
        assert!(throttle.admits("bob", ADDRESS));
        clock.advance(WINDOW);
        assert!(throttle.admits("ada", ADDRESS));
    }

    #[test]
    fn attempts_that_succeed_do_not_count() {
        let (throttle, _) = throttle();
        for _ in 0..1000 {
            assert!(throttle.admits("ada", ADDRESS));
            throttle.succeeded("ada", ADDRESS);
        }
    }

    #[test]
    fn an_own_account_gives_no_further_guesses() {
        let (throttle, _) = throttle();
        let guesses = (0..1000).filter(|n| {
            if throttle.admits("own", ADDRESS) {
                throttle.succeeded("own", ADDRESS);
            }
            throttle.admits(&format!("victim{n}"), ADDRESS)
        });
        assert_eq!(guesses.count(), 50);
    }

    #[test]
    fn an_account_allows_a_hundred_guesses_from_everywhere() {
        let (throttle, _) = throttle();
        let guesses = (0..1000).filter(|n| throttle.admits("ada", address(*n)));
        assert_eq!(guesses.count(), 100);
    }

    #[test]
    fn addresses_of_one_customer_count_as_one() {
        let (throttle, _) = throttle();
        let addresses =
            (0..1000u128).map(|n| IpAddr::from((0x2001_0db8_u128 << 96 | n).to_be_bytes()));
        assert_eq!(addresses.filter(|address| throttle.admits("ada", *address)).count(), 5);
    }

    #[test]
    fn counts_in_memory_are_bounded() {
        let (throttle, clock) = throttle();
        for n in 0..4000 {
            clock.advance(Duration::from_millis(1));
            assert!(throttle.admits(&format!("user{n}"), address(n)));
        }
        assert!(throttle.counts().len() <= MAX_COUNTS);
    }
}
