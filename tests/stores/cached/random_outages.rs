//! Random outages of two memcached servers, while readers fill the cache and sessions change and
//! end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::SqliteStore;
use cloakroom::backend::Store;
use cloakroom::id::SessionIdHash;
use cloakroom::list::SessionFilter;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memcached::MemcachedStore;

use crate::cached::fixture::{renew, sign_in, stored_n};
use crate::common::client::PATIENCE;
use crate::common::memcached::Memcached;
use crate::common::proxy::{Plan, Proxy};
use crate::common::{HOUR, NOW, create, end, live, merge, setting, settled};

/// The number of sessions that begin and end.
const SESSIONS: u64 = 300;

/// The minimum number of changes between a reachable and an unreachable server.
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

/// Begins, changes and ends one session. Returns the ids that must find nothing from then on, and
/// the one that must find the session, if it has not ended.
fn use_one_session(
    store: &impl Store,
    known: &KnownIds,
    round: u32,
) -> (Vec<SessionIdHash>, Option<SessionIdHash>) {
    let id_hash = create(store, &setting("n", round)).unwrap();
    known.add(id_hash);
    assert_eq!(stored_n(store, &id_hash), Some(round));
    merge(store, &id_hash, &setting("n", round + 1)).unwrap();
    for _ in 0..3 {
        assert_eq!(stored_n(store, &id_hash), Some(round + 1), "a change is lost");
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
            assert_eq!(stored_n(store, &to), Some(round + 1));
            merge(store, &id_hash, &setting("n", round + 2)).unwrap();
            assert_eq!(stored_n(store, &to), Some(round + 2), "a change through a grace is lost");
            if through_a_grace == 4 {
                end(store, &id_hash).unwrap();
                return (vec![id_hash, to], None);
            }
            (vec![id_hash, to], Some(sign_in(store, &id_hash, None)))
        }
    }
}

#[test]
fn random_outages_revive_nothing_and_lose_no_change() {
    let servers = [Memcached::start(), Memcached::start()];
    let proxies = servers.each_ref().map(|server| Proxy::to(server.address));
    let addresses = proxies.each_ref().map(|proxy| proxy.address.to_string());
    let cache = MemcachedStore::builder().servers(addresses).open().unwrap();
    let store = CachedStore::builder(cache, SqliteStore::in_memory().unwrap());
    let store = settled(store.retry_after(Duration::from_millis(2)).build().unwrap());
    let known = KnownIds(Mutex::default());
    let sessions = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3 {
            let known = &known;
            let store = &store;
            let done = &done;
            scope.spawn(move || {
                for number in (reader..).step_by(7) {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    if let Some(id_hash) = known.some(number) {
                        store.load(&id_hash, NOW).unwrap();
                    }
                }
            });
        }
        for writer in 0..4 {
            let known = &known;
            let store = &store;
            let sessions = &sessions;
            let done = &done;
            scope.spawn(move || {
                for round in writer.. {
                    if done.load(Ordering::SeqCst) {
                        break;
                    }
                    let (ended, current) = use_one_session(store, known, round);
                    for _ in 0..20 {
                        for id_hash in &ended {
                            let actual = stored_n(store, id_hash);
                            assert_eq!(actual, None, "in round {round} a session is back");
                        }
                        let is_live = |id_hash| live(store, id_hash).unwrap().is_some();
                        assert!(current.as_ref().is_none_or(is_live), "in round {round}");
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
        done.store(true, Ordering::SeqCst);
    });
    assert!(sessions.load(Ordering::SeqCst) >= SESSIONS, "too few sessions in the time");
}
