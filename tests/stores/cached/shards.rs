//! Several memcached servers, of which one fails.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use cloakroom::MemoryStore;
use cloakroom::backend::{Cache, CacheLookup, Store};
use cloakroom::event::EventKind;
use cloakroom::id::SessionIdHash;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memcached::MemcachedStore;

use crate::cached::fixture::{Backing, backing, key, new_key, stored_n};
use crate::common::client::PATIENCE;
use crate::common::faulty::{Call, FaultyCache};
use crate::common::memcached::{Memcached, on};
use crate::common::proxy::{Plan, Proxy};
use crate::common::{HOUR, NOW, cached_store, create, end, events, live, merge, setting, settled};

#[test]
fn an_outage_of_one_of_several_servers_costs_few_timeouts() {
    let servers: Vec<Memcached> = (0..8).map(|_| Memcached::start()).collect();
    let addresses = servers.iter().map(|server| server.address.to_string());
    let cache = FaultyCache::cache(MemcachedStore::builder().servers(addresses).open().unwrap());
    let store = CachedStore::builder(cache.clone(), MemoryStore::new());
    let store = settled(store.retry_after(Duration::from_secs(3600)).build().unwrap());
    let id_hashes: Vec<_> = (0..64).map(|n| create(&store, &setting("n", n)).unwrap()).collect();
    for id_hash in &id_hashes {
        assert!(live(&store, id_hash).unwrap().is_some());
    }
    let on_the_first = |id_hash: &&SessionIdHash| cache.shard_of(&key(&store, id_hash)) == 0;
    let sessions_on_the_first = id_hashes.iter().filter(on_the_first).count();
    assert!(sessions_on_the_first > 0);
    servers[0].freeze();
    let before = cache.calls(Call::Fetch);
    for id_hash in id_hashes.iter().cycle().take(5 * 64) {
        assert!(live(&store, id_hash).unwrap().is_some());
    }
    // Each fetch from the frozen server waits for a timeout.
    let of_the_others = 5 * (64 - sessions_on_the_first as u64);
    let waited = cache.calls(Call::Fetch) - before - of_the_others;
    assert!((1..=4).contains(&waited), "{waited} of 320 reads waited for a timeout");
}

/// A cached store on two memcached servers, of which the second is behind a proxy.
struct TwoServers {
    servers: [Memcached; 2],
    proxy: Proxy,
    cache: FaultyCache,
    backing: Backing,
    store: CachedStore<FaultyCache, Backing>,
    event_kinds: Receiver<EventKind>,
}

const NAMESPACE: &str = "two";

impl TwoServers {
    fn new(retry: Duration) -> TwoServers {
        let servers = [Memcached::start(), Memcached::start()];
        let proxy = Proxy::to(servers[1].address);
        let cache = FaultyCache::cache(TwoServers::cache(&servers, &proxy));
        let backing = backing();
        let (events, event_kinds) = events();
        let store = CachedStore::builder(cache.clone(), backing.clone());
        let store = settled(store.retry_after(retry).events(events).build().unwrap());
        TwoServers { servers, proxy, cache, backing, store, event_kinds }
    }

    fn cache(servers: &[Memcached; 2], proxy: &Proxy) -> MemcachedStore {
        let addresses = [servers[0].address, proxy.address].map(|address| address.to_string());
        on(addresses).namespace(NAMESPACE).open().unwrap()
    }

    /// Creates a session whose entry is in the cache, on this server.
    fn cached_on(&self, shard: usize) -> SessionIdHash {
        loop {
            let id_hash = create(&self.store, &setting("n", 1)).unwrap();
            if self.cache.shard_of(&key(&self.store, &id_hash)) == shard {
                assert_eq!(stored_n(&self.store, &id_hash), Some(1));
                assert!(self.is_hit(&id_hash));
                return id_hash;
            }
        }
    }

    fn is_hit(&self, id_hash: &SessionIdHash) -> bool {
        let loads = self.backing.calls(Call::Load);
        assert!(live(&self.store, id_hash).unwrap().is_some());
        self.backing.calls(Call::Load) == loads
    }

    fn nonce_of_the_first(&self) -> Vec<u8> {
        self.servers[0].raw().get(&format!("{NAMESPACE}:c:nonce")).unwrap()
    }
}

#[test]
fn the_loss_of_one_server_loses_only_its_share_of_the_cache() {
    let two = TwoServers::new(HOUR);
    let here = [two.cached_on(0), two.cached_on(0)];
    let there = [two.cached_on(1), two.cached_on(1)];
    two.proxy.plan(Plan::Down);
    end(&two.store, &there[0]).unwrap();
    assert_eq!(two.event_kinds.try_iter().collect::<Vec<_>>(), [EventKind::CacheDown]);
    assert_eq!(stored_n(&two.store, &there[0]), None);
    assert!(!two.is_hit(&there[1]), "its share is read from the store");
    assert!(two.is_hit(&here[0]), "the other one is used as ever");
    // And it is invalidated at once, as another process sees.
    let theirs = cached_store(TwoServers::cache(&two.servers, &two.proxy), two.backing.clone());
    assert_eq!(stored_n(&theirs, &here[0]), Some(1));
    merge(&two.store, &here[0], &setting("n", 2)).unwrap();
    end(&two.store, &here[1]).unwrap();
    assert_eq!(stored_n(&theirs, &here[0]), Some(2));
    assert_eq!(stored_n(&theirs, &here[1]), None);
    assert_eq!(two.event_kinds.try_iter().count(), 0);
}

#[test]
fn pending_invalidations_of_one_server_reach_no_other() {
    let two = TwoServers::new(Duration::from_millis(1));
    let id_hashes = [two.cached_on(0), two.cached_on(1)];
    two.proxy.plan(Plan::Down);
    two.store.index().unwrap().revoke_everyone(None, NOW).unwrap();
    let nonce = two.nonce_of_the_first();
    let here = two.cached_on(0);
    let calls = two.cache.cache_calls();
    let deadline = Instant::now() + PATIENCE;
    // Reads of its share bring on probes, and are no calls of the cache themselves.
    while two.cache.cache_calls() < calls + 3 && Instant::now() < deadline {
        assert_eq!(stored_n(&two.store, &id_hashes[1]), None);
    }
    assert!(two.cache.cache_calls() >= calls + 3, "it is not asked again");
    assert_eq!(two.nonce_of_the_first(), nonce);
    assert!(two.is_hit(&here));
    two.proxy.plan(Plan::Pass);
    let deadline = Instant::now() + PATIENCE;
    while !two.event_kinds.try_iter().any(|kind| kind == EventKind::CacheRecovered) {
        assert!(Instant::now() < deadline, "the server does not come back");
        assert_eq!(stored_n(&two.store, &id_hashes[1]), None);
    }
    assert_eq!(stored_n(&two.store, &id_hashes[1]), None);
    assert!(two.is_hit(&two.cached_on(1)));
    assert_eq!(two.nonce_of_the_first(), nonce);
    assert!(two.is_hit(&here));
}

#[test]
fn thousands_of_invalidations_cost_a_frozen_server_one_timeout() {
    let server = Memcached::start();
    let cache = server.hasty_store();
    let store = cached_store(cache.clone(), MemoryStore::new());
    let id_hashes: Vec<_> = (0..200).map(|n| create(&store, &setting("n", n)).unwrap()).collect();
    let is_cached = |key| matches!(cache.fetch(key, NOW).unwrap(), CacheLookup::Hit(_));
    let keys: Vec<_> = id_hashes.iter().map(|id_hash| key(&store, id_hash)).collect();
    for (id_hash, key) in id_hashes.iter().zip(&keys) {
        assert!(live(&store, id_hash).unwrap().is_some() && is_cached(key));
    }
    let others = (0..10_000).map(|_| new_key());
    let all: Vec<_> = keys.iter().copied().chain(others).collect();
    cache.invalidate(&all, NOW).unwrap();
    assert!(!keys.iter().any(is_cached));
    server.freeze();
    let began = Instant::now();
    cache.invalidate(&all, NOW).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
}
