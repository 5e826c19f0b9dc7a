//! A cache in front of PostgreSQL, as several machines have it: what one machine ends or changes,
//! the others see at once, or within the life of an entry if no invalidation reaches them.

use std::time::Duration;

use cloakroom::backend::{Action, Commit, Loaded, Store};
use cloakroom::conformance::check;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memory::MemoryCache;

use crate::common::memcached;
use crate::common::postgres::{fresh_table, shared};
use crate::common::{NOW, cached_store, create, end, live_at, merge, setting, value};

const LIFE: Duration = Duration::from_secs(60);

#[test]
fn postgres_behind_memcached_conforms() {
    check(|| cached_store(memcached::shared().store(), shared().store())).unwrap();
}

/// Two machines on one table, each with a cache of its own: no invalidation reaches the other.
fn without_invalidations() -> [CachedStore<MemoryCache, impl Store + Clone>; 2] {
    let table = fresh_table();
    [(); 2].map(|()| cached_store(MemoryCache::new(), shared().builder_in(&table).open().unwrap()))
}

#[test]
fn without_invalidation_an_ending_is_seen_within_a_life() {
    let [here, there] = without_invalidations();
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    assert!(live_at(&there, &id_hash, NOW).unwrap().is_some());
    end(&here, &id_hash).unwrap();
    let is_live = |store, after| live_at(store, &id_hash, NOW + after).unwrap().is_some();
    assert!(!is_live(&here, Duration::ZERO));
    assert!(is_live(&there, LIFE - Duration::from_secs(1)), "its entry has a rest of its life");
    assert!(!is_live(&there, LIFE));
}

#[test]
fn a_merge_on_an_outdated_entry_loses_no_change() {
    let [here, there] = without_invalidations();
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    let outdated = there.load(&id_hash, NOW).unwrap();
    let Loaded::Live(session) = outdated else { panic!("it is live") };
    merge(&here, &id_hash, &setting("here", 1)).unwrap();
    let mut commit = Commit::new(&id_hash, Action::Merge, setting("there", 1), NOW);
    commit.basis = Some(session.into());
    there.commit(&commit).unwrap();
    let record = live_at(&here, &id_hash, NOW + LIFE).unwrap().unwrap();
    for name in ["n", "here", "there"] {
        assert_eq!(value(&record, name), Some(1), "{name}");
    }
}

#[test]
fn a_revocation_of_everyone_is_seen_within_a_second() {
    let [here, there] = without_invalidations();
    let id_hash = create(&here, &setting("n", 1)).unwrap();
    assert!(live_at(&there, &id_hash, NOW).unwrap().is_some());
    here.index().unwrap().revoke_everyone(None, NOW).unwrap();
    assert!(live_at(&there, &id_hash, NOW + Duration::from_secs(1)).unwrap().is_none());
}
