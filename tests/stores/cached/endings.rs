//! Revocations during other changes, and changes that were carried out although they failed.

use std::thread;
use std::time::Duration;

use cloakroom::backend::{Action, Commit, Delta, Loaded, MaxSessions, Store, Unreadable};
use cloakroom::id::SessionIdHash;
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::SessionFilter;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memory::MemoryCache;
use cloakroom::{ErrorKind, SqliteStore};

use crate::cached::fixture::{Backing, backing, renew, sign_in, stored_n, user};
use crate::common::faulty::{Call, FaultyCache};
use crate::common::{HOUR, NOW, cached_store, create, end, live, merge, new_id_hash, setting};

fn is_live(store: &impl Store, id_hash: &SessionIdHash) -> bool {
    live(store, id_hash).unwrap().is_some()
}

type Cached = CachedStore<FaultyCache, SqliteStore>;

/// A session has ended in the store and is not yet invalidated in the cache. Then a revocation of
/// all the user's sessions is acknowledged. From then on none of them must be served.
fn none_is_served_after_a_revocation(what: &str, end: impl Fn(&Cached, &SessionIdHash) + Sync) {
    let cache = FaultyCache::cache(MemoryCache::new());
    let store = cached_store(cache.clone(), SqliteStore::in_memory().unwrap());
    let id_hash = sign_in(&store, &new_id_hash(), None);
    assert!(is_live(&store, &id_hash), "this read fills the cache");
    let served = is_served_after_a_revocation(&cache, &store, &id_hash, || end(&store, &id_hash));
    assert!(!served, "{what}: served after a revocation was acknowledged");
    assert!(!is_live(&store, &id_hash));
}

/// Returns true if the session is served after a revocation of all sessions of the user that is
/// acknowledged while `end` waits for the cache.
fn is_served_after_a_revocation(
    cache: &FaultyCache,
    store: &Cached,
    id_hash: &SessionIdHash,
    end: impl FnOnce() + Send,
) -> bool {
    let control = cache.hold(Call::Invalidate);
    thread::scope(|scope| {
        let first = scope.spawn(end);
        control.wait_until_reached();
        store.index().unwrap().revoke(&SessionFilter::User(&user()), None, NOW).unwrap();
        let served = is_live(store, id_hash);
        control.open();
        first.join().unwrap();
        served
    })
}

#[test]
fn a_revocation_during_another_one_is_final() {
    none_is_served_after_a_revocation("a revocation", |store, _| {
        let index = store.index().unwrap();
        assert_eq!(index.revoke(&SessionFilter::User(&user()), None, NOW).unwrap().len(), 1);
    });
}

#[test]
fn a_revocation_during_one_of_everyone_is_final() {
    none_is_served_after_a_revocation("revoking everyone", |store, _| {
        assert_eq!(store.index().unwrap().revoke_everyone(None, NOW).unwrap(), 1);
    });
}

#[test]
fn a_revocation_during_a_sign_in_at_the_maximum_is_final() {
    none_is_served_after_a_revocation("a sign-in at the maximum", |store, _| {
        let max_sessions = MaxSessions::new(1.try_into().unwrap(), AtMaximum::EndOldest);
        sign_in(store, &new_id_hash(), Some(max_sessions));
    });
}

#[test]
fn a_revocation_during_a_sign_out_by_an_id_in_grace_is_final() {
    let cache = FaultyCache::cache(MemoryCache::new());
    let store = cached_store(cache.clone(), SqliteStore::in_memory().unwrap());
    let old = sign_in(&store, &new_id_hash(), None);
    let id_hash = new_id_hash();
    let nothing = Delta::new();
    let action = Action::Renew { to: id_hash, grace_until: Some(NOW + HOUR) };
    store.commit(&Commit::new(&old, action, nothing, NOW)).unwrap();
    assert!(is_live(&store, &id_hash));
    let end_old = || drop(end(&store, &old).unwrap());
    let served = is_served_after_a_revocation(&cache, &store, &id_hash, end_old);
    assert!(!served, "served after a revocation was acknowledged");
}

/// As `a_revocation_during_a_sign_out_by_an_id_in_grace_is_final`, but the grace begins after the
/// sign-in has looked for it.
#[test]
fn a_revocation_during_a_sign_in_by_an_id_in_grace_is_final() {
    let cache = FaultyCache::cache(MemoryCache::new());
    let backing = backing();
    let store = cached_store(cache.clone(), backing.clone());
    let old = sign_in(&store, &new_id_hash(), None);
    let id_hash = new_id_hash();
    let nothing = Delta::new();
    let at_commit = backing.hold(Call::Commit);
    let served = thread::scope(|scope| {
        let first = scope.spawn(|| sign_in(&store, &old, None));
        at_commit.wait_until_reached();
        let action = Action::Renew { to: id_hash, grace_until: Some(NOW + HOUR) };
        store.commit(&Commit::new(&old, action, nothing.clone(), NOW)).unwrap();
        assert!(is_live(&store, &id_hash), "this read fills the cache");
        let control = cache.hold(Call::Invalidate);
        at_commit.open();
        control.wait_until_reached();
        let revoked =
            store.index().unwrap().revoke(&SessionFilter::User(&user()), None, NOW).unwrap();
        assert_eq!(revoked.len(), 1);
        let served = is_live(&store, &id_hash);
        control.open();
        first.join().unwrap();
        served
    });
    assert!(!served, "served after a revocation was acknowledged");
}

/// An ending waits in the store while a reader fills the cache; then it is carried out, and its
/// answer is an error.
fn not_served_after_a_failure(call: Call, end: impl Fn(&CachedStore<MemoryCache, Backing>) + Sync) {
    let backing = backing();
    let store = cached_store(MemoryCache::new(), backing.clone());
    let id_hash = sign_in(&store, &new_id_hash(), None);
    let control = backing.hold(call);
    backing.set_hides_success(true);
    let later = NOW + Duration::from_secs(2);
    thread::scope(|scope| {
        let failing = scope.spawn(|| end(&store));
        control.wait_until_reached();
        assert!(matches!(store.load(&id_hash, later).unwrap(), Loaded::Live(_)));
        control.open();
        failing.join().unwrap();
    });
    assert!(
        matches!(
            backing.load(&id_hash, later).unwrap(),
            Loaded::Unreadable(Unreadable::NotFound { .. })
        ),
        "it was done"
    );
    let served = store.load(&id_hash, later + Duration::from_secs(1)).unwrap();
    assert!(matches!(served, Loaded::Unreadable(Unreadable::NotFound { .. })), "{served:?}");
}

#[test]
fn a_read_during_a_failing_revocation_is_not_cached() {
    not_served_after_a_failure(Call::Revoke, |store| {
        let index = store.index().unwrap();
        index.revoke(&SessionFilter::User(&user()), None, NOW).unwrap_err();
    });
}

#[test]
fn a_read_during_a_failing_revocation_of_all_is_not_cached() {
    not_served_after_a_failure(Call::RevokeEveryone, |store| {
        store.index().unwrap().revoke_everyone(None, NOW).unwrap_err();
    });
}

#[test]
fn a_change_whose_answer_failed_is_served() {
    let backing = backing();
    let store = cached_store(MemoryCache::new(), backing.clone());
    let cached = || {
        let id_hash = create(&store, &setting("n", 1)).unwrap();
        assert_eq!(stored_n(&store, &id_hash), Some(1));
        id_hash
    };
    let merged = cached();
    let ended = cached();
    let old = cached();
    let new = renew(&store, &old, Some(NOW + HOUR));
    assert_eq!(stored_n(&store, &new), Some(1));
    backing.set_hides_success(true);
    merge(&store, &merged, &setting("n", 2)).unwrap_err();
    assert_eq!(stored_n(&store, &merged), Some(2));
    end(&store, &ended).unwrap_err();
    assert_eq!(stored_n(&store, &ended), None);
    // Through an id in its grace: the answer, which has the current id, is lost.
    end(&store, &old).unwrap_err();
    assert_eq!(stored_n(&store, &new), None);
}

#[test]
fn a_merge_by_an_id_in_grace_whose_answer_failed_is_served() {
    for failing_loads in [0, 1] {
        let backing = backing();
        let store = cached_store(MemoryCache::new(), backing.clone());
        let old = create(&store, &setting("n", 1)).unwrap();
        let id_hash = renew(&store, &old, Some(NOW + HOUR));
        assert_eq!(stored_n(&store, &id_hash), Some(1), "this read fills the cache");
        backing.set_hides_success(true);
        // In the second round the id of the session cannot be looked up.
        backing.fail(Call::Load, failing_loads, ErrorKind::Unavailable);
        merge(&store, &old, &setting("n", 2)).unwrap_err();
        assert_eq!(stored_n(&store, &id_hash), Some(2));
    }
}
