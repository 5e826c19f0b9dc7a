//! A store with a cache in front of it: revocations that meet others, and ones that fail.

mod common;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cloakroom::clock::Timestamp;
use cloakroom::delta::Delta;
use cloakroom::id::{Handle, SessionKey, UserKey};
use cloakroom::record::{Stats, Summary, Touch};
use cloakroom::store::cached::CachedStore;
use cloakroom::store::{
    Admit, AtLimit, Commit, Committed, Fate, Loaded, Page, Registry, Store, Traits, Upkeep, Which,
};
use cloakroom::{Error, ErrorKind, MemoryStore, Result, SqliteStore};
use common::faulty::{Call, Faulty, Gate};
use common::gated::{Gated, Shared};
use common::{HOUR, NOW, birth, delete, live, new_key};

/// Does what it is told; may wait before it does, and may say that it failed.
#[derive(Debug)]
struct Liar {
    truth: SqliteStore,
    lies: AtomicBool,
    gate: Mutex<Option<Gate>>,
}

impl Liar {
    fn new() -> Arc<Liar> {
        let truth = SqliteStore::in_memory().unwrap();
        Arc::new(Liar { truth, lies: false.into(), gate: Mutex::default() })
    }

    fn behind(&self) -> &dyn Registry {
        self.truth.registry().unwrap()
    }

    fn answer<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let gate = self.gate.lock().unwrap().take();
        if let Some(gate) = gate {
            gate.pass();
        }
        let answer = work()?;
        match self.lies.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "answer")),
            false => Ok(answer),
        }
    }
}

impl Store for Liar {
    fn load(&self, key: &SessionKey, now: Timestamp) -> Result<Loaded> {
        self.truth.load(key, now)
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        self.answer(|| self.truth.commit(commit))
    }

    fn touch(&self, batch: &[(SessionKey, Touch)], now: Timestamp) -> Result<()> {
        self.truth.touch(batch, now)
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<usize> {
        self.truth.sweep(now, limit)
    }

    fn registry(&self) -> Option<&dyn Registry> {
        Some(self)
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        self.truth.upkeep()
    }

    fn traits(&self) -> Traits {
        self.truth.traits()
    }
}

impl Registry for Liar {
    fn list(&self, which: &Which<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.behind().list(which, page, now)
    }

    fn revoke(
        &self,
        which: &Which<'_>,
        except: Option<&Handle>,
        now: Timestamp,
    ) -> Result<Vec<SessionKey>> {
        self.answer(|| self.behind().revoke(which, except, now))
    }

    fn revoke_everyone(&self, now: Timestamp) -> Result<u64> {
        self.answer(|| self.behind().revoke_everyone(now))
    }

    fn epoch(&self) -> Result<u64> {
        self.behind().epoch()
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.behind().stats(now)
    }
}

fn user() -> UserKey {
    UserKey::new("ada").unwrap()
}

fn sign_in(store: &impl Store, key: &SessionKey, admit: Option<Admit>) -> SessionKey {
    let (to, user, birth, delta) = (new_key(), user(), birth(), Delta::new());
    let fate = Fate::SignIn { to: &to, user: &user, birth: &birth };
    let mut commit = Commit::new(key, fate, &delta, NOW);
    commit.admit = admit;
    assert!(matches!(store.commit(&commit).unwrap(), Committed::Done { .. }));
    to
}

fn lives(store: &impl Store, key: &SessionKey) -> bool {
    live(store, key).unwrap().is_some()
}

type Cached = CachedStore<Shared, SqliteStore>;

/// Somebody ends a session, in the store, and has not told the cache yet. Then a revocation of all
/// the user's sessions is acknowledged: after that none of them is served.
fn none_is_served_after_a_revocation(what: &str, end: impl Fn(&Cached, &SessionKey) + Sync) {
    let cache = Gated::new(MemoryStore::new());
    let store = CachedStore::new(Shared(cache.clone()), SqliteStore::in_memory().unwrap());
    let key = sign_in(&store, &new_key(), None);
    assert!(lives(&store, &key), "it is in the cache from now on");
    let served = is_served_after_a_revocation(&cache, &store, &key, || end(&store, &key));
    assert!(!served, "{what}: served after a revocation was acknowledged");
    assert!(!lives(&store, &key));
}

/// Whether the session is served after a revocation of all the user's, acknowledged while `end`
/// stands before the cache.
fn is_served_after_a_revocation(
    cache: &Gated,
    store: &Cached,
    key: &SessionKey,
    end: impl FnOnce() + Send,
) -> bool {
    let keeper = cache.hold_forget();
    thread::scope(|scope| {
        let first = scope.spawn(end);
        keeper.wait_until_reached();
        store.registry().unwrap().revoke(&Which::User(&user()), None, NOW).unwrap();
        let served = lives(store, key);
        keeper.open();
        first.join().unwrap();
        served
    })
}

#[test]
fn a_revocation_that_meets_another_one() {
    none_is_served_after_a_revocation("a revocation", |store, _| {
        let registry = store.registry().unwrap();
        assert_eq!(registry.revoke(&Which::User(&user()), None, NOW).unwrap().len(), 1);
    });
}

#[test]
fn a_revocation_that_meets_the_end_of_everyone() {
    none_is_served_after_a_revocation("revoking everyone", |store, _| {
        assert_eq!(store.registry().unwrap().revoke_everyone(NOW).unwrap(), 1);
    });
}

#[test]
fn a_revocation_that_meets_a_sign_in_at_the_limit() {
    none_is_served_after_a_revocation("a sign-in at the limit", |store, _| {
        let admit = Admit::new(1.try_into().unwrap(), AtLimit::EndOldest);
        sign_in(store, &new_key(), Some(admit));
    });
}

#[test]
fn a_revocation_that_meets_a_sign_out_through_a_grace() {
    let cache = Gated::new(MemoryStore::new());
    let store = CachedStore::new(Shared(cache.clone()), SqliteStore::in_memory().unwrap());
    let old = sign_in(&store, &new_key(), None);
    let (key, nothing) = (new_key(), Delta::new());
    let fate = Fate::Renew { to: &key, grace_until: Some(NOW + HOUR) };
    store.commit(&Commit::new(&old, fate, &nothing, NOW)).unwrap();
    assert!(lives(&store, &key));
    let end = || drop(delete(&store, &old).unwrap());
    let served = is_served_after_a_revocation(&cache, &store, &key, end);
    assert!(!served, "served after a revocation was acknowledged");
}

/// As `a_revocation_that_meets_a_sign_out_through_a_grace`, but the grace begins after the sign-in
/// has looked for it.
#[test]
fn a_revocation_that_meets_a_sign_in_whose_key_was_just_renewed() {
    let (cache, truth) = (Gated::new(MemoryStore::new()), SqliteStore::in_memory().unwrap());
    let truth = Arc::new(Faulty::new(truth));
    let store = CachedStore::new(Shared(cache.clone()), truth.clone());
    let old = sign_in(&store, &new_key(), None);
    let (key, nothing) = (new_key(), Delta::new());
    let at_commit = truth.hold(Call::Commit);
    let served = thread::scope(|scope| {
        let first = scope.spawn(|| sign_in(&store, &old, None));
        at_commit.wait_until_reached();
        let fate = Fate::Renew { to: &key, grace_until: Some(NOW + HOUR) };
        store.commit(&Commit::new(&old, fate, &nothing, NOW)).unwrap();
        assert!(lives(&store, &key), "it is in the cache from now on");
        let keeper = cache.hold_forget();
        at_commit.open();
        keeper.wait_until_reached();
        let revoked = store.registry().unwrap().revoke(&Which::User(&user()), None, NOW).unwrap();
        assert_eq!(revoked.len(), 1);
        let served = lives(&store, &key);
        keeper.open();
        first.join().unwrap();
        served
    });
    assert!(!served, "served after a revocation was acknowledged");
}

/// It waits for the store while a reader fills the cache, is done then, and says that it failed.
fn not_served_after_a_failure(end: impl Fn(&CachedStore<MemoryStore, Arc<Liar>>) + Sync) {
    let liar = Liar::new();
    let store = CachedStore::new(MemoryStore::new(), liar.clone());
    let key = sign_in(&store, &new_key(), None);
    let (gate, keeper) = Gate::new();
    *liar.gate.lock().unwrap() = Some(gate);
    liar.lies.store(true, Ordering::SeqCst);
    let later = NOW + Duration::from_secs(2);
    thread::scope(|scope| {
        let failing = scope.spawn(|| end(&store));
        keeper.wait_until_reached();
        assert!(matches!(store.load(&key, later).unwrap(), Loaded::Live { .. }));
        keeper.open();
        failing.join().unwrap();
    });
    assert!(matches!(liar.load(&key, later).unwrap(), Loaded::Absent), "it was done");
    let served = store.load(&key, later + Duration::from_secs(1)).unwrap();
    assert!(matches!(served, Loaded::Absent), "{served:?}");
}

#[test]
fn what_was_read_while_a_revocation_was_failing_is_not_believed() {
    not_served_after_a_failure(|store| {
        let registry = store.registry().unwrap();
        registry.revoke(&Which::User(&user()), None, NOW).unwrap_err();
    });
}

#[test]
fn what_was_read_while_the_end_of_everyone_was_failing_is_not_believed() {
    not_served_after_a_failure(|store| {
        store.registry().unwrap().revoke_everyone(NOW).unwrap_err();
    });
}
