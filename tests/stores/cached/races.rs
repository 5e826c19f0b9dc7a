//! Stale answers that the cache must never give, with slow readers and writers.

use std::num::NonZeroUsize;
use std::thread;

use cloakroom::MemoryStore;
use cloakroom::backend::{
    Cache, CacheEntry, CacheLookup, CommitAnswer, Delta, FillLease, LiveSession, Loaded, Store,
    Touch, Unreadable,
};
use cloakroom::list::{Page, SessionFilter};
use cloakroom::stores::memcached::MemcachedStore;

use crate::cached::fixture::{
    CachedFixture, ENDINGS, ENTRY_LIFE, SECOND, backing, new_key, sign_in, stored_n, user,
};
use crate::common::faulty::{Call, FaultyCache};
use crate::common::memcached::{Memcached, shared};
use crate::common::{NOW, cached_store, create, end, live, merge, new_id_hash, setting, value};

#[test]
fn every_ending_removes_the_entry_from_the_cache() {
    CachedFixture::on_each_cache(|fixture| {
        for (what, end) in ENDINGS {
            let id_hash = fixture.cached_session();
            let other = fixture.another();
            assert_eq!(stored_n(&other.store, &id_hash), Some(1));
            end(&fixture, &id_hash);
            assert_eq!(stored_n(&fixture.store, &id_hash), None, "{what}");
            assert_eq!(
                stored_n(&other.store, &id_hash),
                None,
                "{what}, as another process sees it"
            );
        }
    });
}

#[test]
fn a_slow_reader_does_not_fill_in_an_ended_session() {
    CachedFixture::on_each_cache(|fixture| {
        for (what, end) in ENDINGS {
            let id_hash = create(&fixture.store, &setting("n", 1)).unwrap();
            let control = fixture.cache.hold(Call::Fill);
            thread::scope(|scope| {
                let slow = scope.spawn(|| stored_n(&fixture.store, &id_hash));
                // It has read the store, and has not filled the cache yet.
                control.wait_until_reached();
                end(&fixture, &id_hash);
                control.open();
                assert_eq!(slow.join().unwrap(), Some(1), "it began before the end");
            });
            assert_eq!(stored_n(&fixture.store, &id_hash), None, "{what}: the cache says it lives");
            assert_eq!(stored_n(&fixture.another().store, &id_hash), None, "{what}");
        }
        // A change is treated as an end is.
        let id_hash = create(&fixture.store, &setting("n", 1)).unwrap();
        let control = fixture.cache.hold(Call::Fill);
        thread::scope(|scope| {
            let slow = scope.spawn(|| stored_n(&fixture.store, &id_hash));
            control.wait_until_reached();
            merge(&fixture.store, &id_hash, &setting("n", 2)).unwrap();
            // Another reader takes a lease of its own.
            assert_eq!(stored_n(&fixture.store, &id_hash), Some(2));
            control.open();
            slow.join().unwrap();
        });
        assert_eq!(stored_n(&fixture.store, &id_hash), Some(2));
    });
}

#[test]
fn a_session_that_ends_during_a_sign_in_is_not_found() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        let control = fixture.cache.hold(Call::Invalidate);
        thread::scope(|scope| {
            let moves = scope.spawn(|| sign_in(&fixture.store, &id_hash, None));
            // It has a new id, and the old one is not invalidated yet.
            control.wait_until_reached();
            let index = fixture.store.index().unwrap();
            assert_eq!(index.revoke(&SessionFilter::User(&user()), None, NOW).unwrap().len(), 1);
            assert_eq!(stored_n(&fixture.store, &id_hash), None);
            control.open();
            moves.join().unwrap();
        });
        assert_eq!(stored_n(&fixture.store, &id_hash), None);
    });
}

#[test]
fn a_lease_from_before_a_restart_of_memcached_fills_nothing() {
    let server = Memcached::start();
    let fixture = CachedFixture::new(FaultyCache::cache(server.store()), backing());
    // Versions are numbered from the beginning after a restart, so numbers come again.
    for _ in 0..3 {
        let id_hash = create(&fixture.store, &setting("n", 1)).unwrap();
        let control = fixture.cache.hold(Call::Fill);
        thread::scope(|scope| {
            let slow = scope.spawn(|| stored_n(&fixture.store, &id_hash));
            control.wait_until_reached();
            server.kill();
            server.start_again();
            end(&fixture.backing, &id_hash).unwrap();
            for _ in 0..9 {
                assert_eq!(stored_n(&fixture.store, &new_id_hash()), None);
            }
            assert_eq!(stored_n(&fixture.store, &id_hash), None);
            control.open();
            slow.join().unwrap();
        });
        assert_eq!(stored_n(&fixture.store, &id_hash), None);
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
    assert!(!cache.fill(&key, old, &entry, NOW + ENTRY_LIFE, NOW).unwrap());
    assert_eq!(cache.fetch(&key, NOW).unwrap(), CacheLookup::Miss(None));
}

#[test]
fn a_lease_is_valid_for_one_nonce_and_one_fill() {
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
    assert!(!cache.fill(&key, old, &entry, NOW + ENTRY_LIFE, NOW).unwrap());
    let new = lease(&cache);
    assert!(!cache.fill(&key, old, &entry, NOW + ENTRY_LIFE, NOW).unwrap());
    assert!(cache.fill(&key, new, &entry, NOW + ENTRY_LIFE, NOW).unwrap());
    assert!(!cache.fill(&key, new, &entry, NOW + ENTRY_LIFE, NOW).unwrap(), "and for one fill");
}

#[test]
fn a_process_with_an_old_nonce_still_invalidates() {
    let backing = backing();
    let server = shared();
    let open = || server.builder_in("heard").open().unwrap();
    let mine = cached_store(open(), backing.clone());
    let theirs = cached_store(open(), backing);
    let id_hash = create(&mine, &setting("n", 1)).unwrap();
    assert_eq!(stored_n(&mine, &id_hash), Some(1));
    theirs.index().unwrap().revoke_everyone(None, NOW).unwrap();
    let id_hash = create(&theirs, &setting("n", 1)).unwrap();
    assert_eq!(stored_n(&theirs, &id_hash), Some(1));
    end(&mine, &id_hash).unwrap();
    assert_eq!(stored_n(&theirs, &id_hash), None);
}

#[test]
fn a_revocation_without_the_cache_is_seen_in_a_second() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hashes = [fixture.cached_session(), fixture.cached_session()];
        // By a program that has no connection to the cache.
        let index = fixture.backing.index().unwrap();
        assert_eq!(index.revoke_everyone(None, NOW).unwrap(), 2);
        assert_eq!(
            stored_n(&fixture.store, &id_hashes[0]),
            Some(1),
            "the entry lives for a minute"
        );
        for id_hash in id_hashes {
            let loaded = fixture.store.load(&id_hash, NOW + SECOND).unwrap();
            assert!(
                matches!(loaded, Loaded::Unreadable(Unreadable::NotFound { .. })),
                "{loaded:?}"
            );
        }
        // Later sessions are served from the cache again.
        let later = NOW + SECOND * 2;
        let id_hash = create(&fixture.store, &setting("n", 2)).unwrap();
        assert!(matches!(fixture.store.load(&id_hash, later).unwrap(), Loaded::Live(_)));
        let loads = fixture.loads();
        assert!(matches!(fixture.store.load(&id_hash, later).unwrap(), Loaded::Live(_)));
        assert_eq!(fixture.loads(), loads);
    });
}

#[test]
fn a_change_once_seen_stays_seen_during_its_invalidation() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        let control = fixture.cache.hold(Call::Invalidate);
        thread::scope(|scope| {
            let change = scope.spawn(|| merge(&fixture.store, &id_hash, &setting("n", 2)));
            // The store has it, and the invalidation is still due.
            control.wait_until_reached();
            match merge(&fixture.store, &id_hash, &Delta::new()).unwrap() {
                CommitAnswer::Unchanged(LiveSession { record, .. }) => {
                    assert_eq!(value(&record, "n"), Some(2))
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(stored_n(&fixture.store, &id_hash), Some(2));
            control.open();
            change.join().unwrap().unwrap();
        });
    });
}

#[test]
fn activity_once_seen_stays_seen_during_its_invalidation() {
    CachedFixture::on_each_cache(|fixture| {
        let id_hash = fixture.cached_session();
        let later = NOW + SECOND;
        let control = fixture.cache.hold(Call::Invalidate);
        thread::scope(|scope| {
            let touch = scope.spawn(|| fixture.store.touch(&[(id_hash, Touch::at(later))], later));
            control.wait_until_reached();
            let listed = fixture.store.index().unwrap();
            let listed =
                listed.list(&SessionFilter::All, Page::first(NonZeroUsize::MIN), later).unwrap();
            assert_eq!(listed[0].seen, later);
            match fixture.store.load(&id_hash, later).unwrap() {
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
