//! Stale answers that the cache must never give, with slow readers and writers.

use std::num::NonZeroUsize;
use std::thread;

use cloakroom::MemoryStore;
use cloakroom::backend::{
    Cache, CacheEntry, CacheLookup, Committed, Delta, FillLease, LiveSession, Loaded, Missing,
    Store, Touch,
};
use cloakroom::manager::{Page, SessionFilter};
use cloakroom::stores::memcached::MemcachedStore;

use crate::cached::stage::{ENDINGS, LIFE, SECOND, Stage, backing, n, new_key, sign_in, user};
use crate::common::faulty::{Call, FaultyCache};
use crate::common::memcached::{Memcached, shared};
use crate::common::{NOW, cached_store, create, end, live, merge, new_id_hash, setting, value};

#[test]
fn whatever_ends_a_session_the_cache_does_not_have_it_any_more() {
    Stage::on_each_cache(|stage| {
        for (what, end) in ENDINGS {
            let id_hash = stage.cached();
            let other = stage.another();
            assert_eq!(n(&other.store, &id_hash), Some(1));
            end(&stage, &id_hash);
            assert_eq!(n(&stage.store, &id_hash), None, "{what}");
            assert_eq!(n(&other.store, &id_hash), None, "{what}, as another process sees it");
        }
    });
}

#[test]
fn a_slow_reader_fills_in_nothing_that_was_ended_meanwhile() {
    Stage::on_each_cache(|stage| {
        for (what, end) in ENDINGS {
            let id_hash = create(&stage.store, &setting("n", 1)).unwrap();
            let control = stage.cache.hold(Call::Fill);
            thread::scope(|scope| {
                let slow = scope.spawn(|| n(&stage.store, &id_hash));
                // It has read the store, and has not filled the cache yet.
                control.wait_until_reached();
                end(&stage, &id_hash);
                control.open();
                assert_eq!(slow.join().unwrap(), Some(1), "it began before the end");
            });
            assert_eq!(n(&stage.store, &id_hash), None, "{what}: the cache says it lives");
            assert_eq!(n(&stage.another().store, &id_hash), None, "{what}");
        }
        // A change is as good as an end.
        let id_hash = create(&stage.store, &setting("n", 1)).unwrap();
        let control = stage.cache.hold(Call::Fill);
        thread::scope(|scope| {
            let slow = scope.spawn(|| n(&stage.store, &id_hash));
            control.wait_until_reached();
            merge(&stage.store, &id_hash, &setting("n", 2)).unwrap();
            // Another reader takes a lease of its own.
            assert_eq!(n(&stage.store, &id_hash), Some(2));
            control.open();
            slow.join().unwrap();
        });
        assert_eq!(n(&stage.store, &id_hash), Some(2));
    });
}

#[test]
fn a_session_that_ends_while_it_moves_is_not_found() {
    Stage::on_each_cache(|stage| {
        let id_hash = stage.cached();
        let control = stage.cache.hold(Call::Invalidate);
        thread::scope(|scope| {
            let moves = scope.spawn(|| sign_in(&stage.store, &id_hash, None));
            // It has a new id, and the old one is not invalidated yet.
            control.wait_until_reached();
            let index = stage.store.index().unwrap();
            assert_eq!(index.revoke(&SessionFilter::User(&user()), None, NOW).unwrap().len(), 1);
            assert_eq!(n(&stage.store, &id_hash), None);
            control.open();
            moves.join().unwrap();
        });
        assert_eq!(n(&stage.store, &id_hash), None);
    });
}

#[test]
fn a_lease_from_before_a_restart_of_memcached_fills_nothing() {
    let server = Memcached::start();
    let stage = Stage::over(FaultyCache::cache(server.store()), backing());
    // Versions are numbered from the beginning after a restart, so numbers come again.
    for _ in 0..3 {
        let id_hash = create(&stage.store, &setting("n", 1)).unwrap();
        let control = stage.cache.hold(Call::Fill);
        thread::scope(|scope| {
            let slow = scope.spawn(|| n(&stage.store, &id_hash));
            control.wait_until_reached();
            server.kill();
            server.start_again();
            end(&stage.backing, &id_hash).unwrap();
            for _ in 0..9 {
                assert_eq!(n(&stage.store, &new_id_hash()), None);
            }
            assert_eq!(n(&stage.store, &id_hash), None);
            control.open();
            slow.join().unwrap();
        });
        assert_eq!(n(&stage.store, &id_hash), None);
    }
}

#[test]
fn a_version_number_reused_after_a_restart_is_not_confused() {
    let server = Memcached::start();
    let cache = server.store();
    let key = new_key();
    let lease = || match cache.fetch(&key, NOW).unwrap() {
        CacheLookup::Miss(Some(lease)) => lease,
        other => panic!("{other:?}"),
    };
    for _ in 0..20 {
        cache.fetch(&new_key(), NOW).unwrap();
    }
    let old = lease();
    server.kill();
    server.start_again();
    let version = |lease: FillLease| lease.number() & u128::from(u64::MAX);
    let same = (0..100).find(|_| {
        cache.invalidate(&[key], NOW).unwrap();
        version(lease()) == version(old)
    });
    assert!(same.is_some(), "memcached does not number its versions from the beginning");
    let store = MemoryStore::new();
    let session = create(&store, &setting("n", 1)).unwrap();
    let entry = CacheEntry::new(live(&store, &session).unwrap().unwrap(), NOW);
    assert!(!cache.fill(&key, old, &entry, NOW + LIFE, NOW).unwrap());
    assert_eq!(cache.fetch(&key, NOW).unwrap(), CacheLookup::Miss(None));
}

#[test]
fn a_lease_is_good_for_one_epoch() {
    let cache = shared().store();
    let key = new_key();
    let lease = |cache: &MemcachedStore| match cache.fetch(&key, NOW).unwrap() {
        CacheLookup::Miss(Some(lease)) => lease,
        other => panic!("{other:?}"),
    };
    let old = lease(&cache);
    cache.invalidate_shard(0, NOW).unwrap();
    let record = {
        let store = MemoryStore::new();
        let id_hash = create(&store, &setting("n", 1)).unwrap();
        live(&store, &id_hash).unwrap().unwrap()
    };
    let entry = CacheEntry::new(record, NOW);
    assert!(!cache.fill(&key, old, &entry, NOW + LIFE, NOW).unwrap());
    let new = lease(&cache);
    assert!(!cache.fill(&key, old, &entry, NOW + LIFE, NOW).unwrap());
    assert!(cache.fill(&key, new, &entry, NOW + LIFE, NOW).unwrap());
    assert!(!cache.fill(&key, new, &entry, NOW + LIFE, NOW).unwrap(), "and for one fill");
}

#[test]
fn a_process_with_an_old_epoch_still_invalidates() {
    let (backing, server) = (backing(), shared());
    let open = || server.builder_in("heard").open().unwrap();
    let mine = cached_store(open(), backing.clone());
    let theirs = cached_store(open(), backing);
    let id_hash = create(&mine, &setting("n", 1)).unwrap();
    assert_eq!(n(&mine, &id_hash), Some(1));
    theirs.index().unwrap().revoke_everyone(None, NOW).unwrap();
    let id_hash = create(&theirs, &setting("n", 1)).unwrap();
    assert_eq!(n(&theirs, &id_hash), Some(1));
    end(&mine, &id_hash).unwrap();
    assert_eq!(n(&theirs, &id_hash), None);
}

#[test]
fn a_revocation_of_all_past_the_cache_is_seen_in_a_second() {
    Stage::on_each_cache(|stage| {
        let id_hashes = [stage.cached(), stage.cached()];
        // By a program that has no connection to the cache.
        let index = stage.backing.index().unwrap();
        assert_eq!(index.revoke_everyone(None, NOW).unwrap(), 2);
        assert_eq!(n(&stage.store, &id_hashes[0]), Some(1), "the entry lives for a minute");
        for id_hash in id_hashes {
            let loaded = stage.store.load(&id_hash, NOW + SECOND).unwrap();
            assert!(matches!(loaded, Loaded::Missing(Missing::NotFound { .. })), "{loaded:?}");
        }
        // And what begins from then on is served from the cache again.
        let later = NOW + SECOND * 2;
        let id_hash = create(&stage.store, &setting("n", 2)).unwrap();
        assert!(matches!(stage.store.load(&id_hash, later).unwrap(), Loaded::Live(_)));
        let loads = stage.loads();
        assert!(matches!(stage.store.load(&id_hash, later).unwrap(), Loaded::Live(_)));
        assert_eq!(stage.loads(), loads);
    });
}

#[test]
fn a_change_once_seen_stays_seen_during_its_invalidation() {
    Stage::on_each_cache(|stage| {
        let id_hash = stage.cached();
        let control = stage.cache.hold(Call::Invalidate);
        thread::scope(|scope| {
            let change = scope.spawn(|| merge(&stage.store, &id_hash, &setting("n", 2)));
            // The store has it, and the invalidation is still due.
            control.wait_until_reached();
            match merge(&stage.store, &id_hash, &Delta::new()).unwrap() {
                Committed::Unchanged(LiveSession { record, .. }) => {
                    assert_eq!(value(&record, "n"), Some(2))
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(n(&stage.store, &id_hash), Some(2));
            control.open();
            change.join().unwrap().unwrap();
        });
    });
}

#[test]
fn activity_once_seen_stays_seen_during_its_invalidation() {
    Stage::on_each_cache(|stage| {
        let (id_hash, later) = (stage.cached(), NOW + SECOND);
        let control = stage.cache.hold(Call::Invalidate);
        thread::scope(|scope| {
            let touch = scope.spawn(|| stage.store.touch(&[(id_hash, Touch::at(later))], later));
            control.wait_until_reached();
            let listed = stage.store.index().unwrap();
            let listed =
                listed.list(&SessionFilter::All, Page::first(NonZeroUsize::MIN), later).unwrap();
            assert_eq!(listed[0].seen, later);
            match stage.store.load(&id_hash, later).unwrap() {
                Loaded::Live(LiveSession { record, .. }) => {
                    assert_eq!(record.seen, later)
                }
                other => panic!("{other:?}"),
            }
            control.open();
            touch.join().unwrap().unwrap();
        });
    });
}
