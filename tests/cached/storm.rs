//! Everything at once: servers that come and go, readers that fill the cache, and sessions that
//! change and end under them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::SqliteStore;
use cloakroom::id::SessionKey;
use cloakroom::store::cached::CachedStore;
use cloakroom::store::memcached::MemcachedStore;
use cloakroom::store::{Store, Which};

use crate::common::memcached::Memcached;
use crate::common::proxy::{Plan, Proxy};
use crate::common::{HOUR, NOW, create, delete, live, merge, setting};
use crate::stage::{PATIENCE, n, renew, sign_in};

/// So many sessions live and end in the storm, and at least so many times the weather changes.
const SESSIONS: u64 = 300;
const CHANGES: usize = 100;

/// The keys that readers look for.
struct Known(Mutex<Vec<SessionKey>>);

impl Known {
    fn add(&self, key: SessionKey) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() > 16 {
            keys.clear();
        }
        keys.push(key);
    }

    fn some(&self, number: usize) -> Option<SessionKey> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(number % keys.len().max(1)).copied()
    }
}

/// The life of one session. The keys that lead nowhere after it, and the one that leads to it.
fn live_and_end(
    store: &impl Store,
    known: &Known,
    round: u32,
) -> (Vec<SessionKey>, Option<SessionKey>) {
    let key = create(store, &setting("n", round)).unwrap();
    known.add(key);
    assert_eq!(n(store, &key), Some(round));
    merge(store, &key, &setting("n", round + 1)).unwrap();
    for _ in 0..3 {
        assert_eq!(n(store, &key), Some(round + 1), "a change is lost");
    }
    match round % 6 {
        0 => {
            delete(store, &key).unwrap();
            (vec![key], None)
        }
        1 => (vec![key], Some(renew(store, &key, None))),
        2 => (vec![key], Some(sign_in(store, &key, None))),
        3 => {
            let handle = live(store, &key).unwrap().unwrap().handle;
            store.registry().unwrap().revoke(&Which::Handle(&handle), None, NOW).unwrap();
            (vec![key], None)
        }
        through_a_grace => {
            let to = renew(store, &key, Some(NOW + HOUR));
            known.add(to);
            assert_eq!(n(store, &to), Some(round + 1));
            merge(store, &key, &setting("n", round + 2)).unwrap();
            assert_eq!(n(store, &to), Some(round + 2), "a change through a grace is lost");
            if through_a_grace == 4 {
                delete(store, &key).unwrap();
                return (vec![key, to], None);
            }
            (vec![key, to], Some(sign_in(store, &key, None)))
        }
    }
}

#[test]
fn in_a_storm_nothing_that_was_ended_is_served_and_nothing_that_was_changed_is_lost() {
    let servers = [Memcached::start(), Memcached::start()];
    let proxies = servers.each_ref().map(|server| Proxy::to(server.address));
    let addresses = proxies.each_ref().map(|proxy| proxy.address.to_string());
    let cache = MemcachedStore::builder().servers(addresses).open().unwrap();
    let store = CachedStore::builder(cache, SqliteStore::in_memory().unwrap());
    let store = store.retry_after(Duration::from_millis(2)).build().unwrap();
    let known = Known(Mutex::default());
    let (sessions, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for reader in 0..3 {
            let (known, store, over) = (&known, &store, &over);
            scope.spawn(move || {
                for number in (reader..).step_by(7) {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    if let Some(key) = known.some(number) {
                        store.load(&key, NOW).unwrap();
                    }
                }
            });
        }
        for writer in 0..4 {
            let (known, store, sessions, over) = (&known, &store, &sessions, &over);
            scope.spawn(move || {
                for round in writer.. {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let (ended, lives) = live_and_end(store, known, round);
                    for _ in 0..20 {
                        for key in &ended {
                            assert_eq!(n(store, key), None, "in round {round} a session is back");
                        }
                        let is_live = |key| live(store, key).unwrap().is_some();
                        assert!(lives.as_ref().is_none_or(is_live), "in round {round}");
                    }
                    sessions.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let deadline = Instant::now() + PATIENCE;
        for change in 0.. {
            let enough = sessions.load(Ordering::SeqCst) >= SESSIONS && change >= CHANGES;
            if enough || Instant::now() > deadline {
                break;
            }
            let proxy = &proxies[change % 2];
            proxy.plan(match change % 3 {
                0 => Plan::Down,
                1 => Plan::LoseOneAnswer(change % 5),
                _ => Plan::Pass,
            });
            thread::park_timeout(Duration::from_millis(3) * (change % 7) as u32);
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(sessions.load(Ordering::SeqCst) >= SESSIONS, "the storm stood still");
}
