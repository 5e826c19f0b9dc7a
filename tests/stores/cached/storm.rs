//! Everything at once: servers that come and go, readers that fill the cache, and sessions that
//! change and end under them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::SqliteStore;
use cloakroom::backend::Store;
use cloakroom::id::SessionIdHash;
use cloakroom::manager::SessionFilter;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memcached::MemcachedStore;

use crate::cached::stage::{n, renew, sign_in};
use crate::common::client::PATIENCE;
use crate::common::memcached::Memcached;
use crate::common::proxy::{Plan, Proxy};
use crate::common::{HOUR, NOW, create, end, live, merge, setting, settled};

/// So many sessions live and end in the storm, and at least so many times the weather changes.
const SESSIONS: u64 = 300;
const CHANGES: usize = 100;

/// The ids that readers look for.
struct KnownIds(Mutex<Vec<SessionIdHash>>);

impl KnownIds {
    fn add(&self, id_hash: SessionIdHash) {
        let mut id_hashes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if id_hashes.len() > 16 {
            id_hashes.clear();
        }
        id_hashes.push(id_hash);
    }

    fn some(&self, number: usize) -> Option<SessionIdHash> {
        let id_hashes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        id_hashes.get(number % id_hashes.len().max(1)).copied()
    }
}

/// The life of one session. The ids that lead nowhere after it, and the one that leads to it.
fn live_and_end(
    store: &impl Store,
    known: &KnownIds,
    round: u32,
) -> (Vec<SessionIdHash>, Option<SessionIdHash>) {
    let id_hash = create(store, &setting("n", round)).unwrap();
    known.add(id_hash);
    assert_eq!(n(store, &id_hash), Some(round));
    merge(store, &id_hash, &setting("n", round + 1)).unwrap();
    for _ in 0..3 {
        assert_eq!(n(store, &id_hash), Some(round + 1), "a change is lost");
    }
    match round % 6 {
        0 => {
            end(store, &id_hash).unwrap();
            (vec![id_hash], None)
        }
        1 => (vec![id_hash], Some(renew(store, &id_hash, None))),
        2 => (vec![id_hash], Some(sign_in(store, &id_hash, None))),
        3 => {
            let public_id = live(store, &id_hash).unwrap().unwrap().public_id;
            store.index().unwrap().revoke(&SessionFilter::PublicId(&public_id), None, NOW).unwrap();
            (vec![id_hash], None)
        }
        through_a_grace => {
            let to = renew(store, &id_hash, Some(NOW + HOUR));
            known.add(to);
            assert_eq!(n(store, &to), Some(round + 1));
            merge(store, &id_hash, &setting("n", round + 2)).unwrap();
            assert_eq!(n(store, &to), Some(round + 2), "a change through a grace is lost");
            if through_a_grace == 4 {
                end(store, &id_hash).unwrap();
                return (vec![id_hash, to], None);
            }
            (vec![id_hash, to], Some(sign_in(store, &id_hash, None)))
        }
    }
}

#[test]
fn a_storm_revives_nothing_and_loses_no_change() {
    let servers = [Memcached::start(), Memcached::start()];
    let proxies = servers.each_ref().map(|server| Proxy::to(server.address));
    let addresses = proxies.each_ref().map(|proxy| proxy.address.to_string());
    let cache = MemcachedStore::builder().servers(addresses).open().unwrap();
    let store = CachedStore::builder(cache, SqliteStore::in_memory().unwrap());
    let store = settled(store.retry_after(Duration::from_millis(2)).build().unwrap());
    let known = KnownIds(Mutex::default());
    let (sessions, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for reader in 0..3 {
            let (known, store, over) = (&known, &store, &over);
            scope.spawn(move || {
                for number in (reader..).step_by(7) {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    if let Some(id_hash) = known.some(number) {
                        store.load(&id_hash, NOW).unwrap();
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
                        for id_hash in &ended {
                            let actual = n(store, id_hash);
                            assert_eq!(actual, None, "in round {round} a session is back");
                        }
                        let is_live = |id_hash| live(store, id_hash).unwrap().is_some();
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
