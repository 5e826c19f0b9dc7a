//! What the tests do to a store.

use std::time::{Duration, Instant};

use cloakroom::clock::Timestamp;
use cloakroom::delta::Delta;
use cloakroom::id::{Realm, SessionKey, UserKey};
use cloakroom::record::Touch;
use cloakroom::store::memcached::MemcachedStore;
use cloakroom::store::{Commit, Committed, Fate, Loaded, Store};
use cloakroom::{ErrorKind, Result};

use crate::common::{NOW, birth, create, delete, live, merge, new_key, setting};

/// Far more than the timeouts, far less than a client's own patience would be.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn user(name: &str) -> UserKey {
    UserKey::new(name).unwrap()
}

pub(crate) fn create_at(store: &MemcachedStore, key: &SessionKey) -> Result<Committed> {
    store.commit(&Commit::new(key, Fate::Create(&birth()), &Delta::new(), NOW))
}

pub(crate) fn renew(
    store: &MemcachedStore,
    key: &SessionKey,
    to: &SessionKey,
    grace_until: Option<Timestamp>,
) -> Result<Committed> {
    store.commit(&Commit::new(
        key,
        Fate::Renew { to, realm: &Realm::default(), grace_until },
        &Delta::new(),
        NOW,
    ))
}

pub(crate) fn sign_in(
    store: &MemcachedStore,
    key: &SessionKey,
    to: &SessionKey,
    name: &str,
) -> Result<Committed> {
    let fate = Fate::SignIn { to, user: &user(name), birth: &birth(), join_salt: None };
    store.commit(&Commit::new(key, fate, &Delta::new(), NOW))
}

pub(crate) fn is_absent(store: &MemcachedStore, key: &SessionKey) -> bool {
    matches!(store.load(key, NOW).unwrap(), Loaded::Absent)
}

pub(crate) fn is_live(store: &MemcachedStore, key: &SessionKey) -> bool {
    live(store, key).unwrap().is_some()
}

/// Every call fails with this kind, and soon.
pub(crate) fn all_fail(store: &MemcachedStore, key: &SessionKey, kind: ErrorKind) {
    let began = Instant::now();
    let failures = [
        store.load(key, NOW).map(drop),
        create(store, &Delta::new()).map(drop),
        merge(store, key, &setting("n", 1)).map(drop),
        delete(store, key).map(drop),
        renew(store, key, &new_key(), None).map(drop),
        sign_in(store, key, &new_key(), "ada").map(drop),
        store.touch(&[(*key, Touch::at(NOW))], NOW),
        store.clear(),
    ];
    for (call, failure) in failures.into_iter().enumerate() {
        assert_eq!(failure.expect_err("it fails").kind(), kind, "call {call}");
    }
    assert!(began.elapsed() < SOON * 4, "it took {:?}", began.elapsed());
}
