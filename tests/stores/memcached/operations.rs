//! Operations of the tests on a memcached store.

use std::time::{Duration, Instant};

use cloakroom::backend::{Action, Commit, CommitAnswer, Delta, Loaded, Store, Touch, Unreadable};
use cloakroom::clock::Timestamp;
use cloakroom::id::{SessionIdHash, UserKey};
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::{Error, ErrorKind, Result};

use crate::common::{NOW, create, end, live, merge, new_id_hash, new_session, setting};

pub(crate) use crate::common::sign_in_to as sign_in;

/// An upper bound for a call: far more than the timeouts of the settings.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn user(name: &str) -> UserKey {
    UserKey::new(name).unwrap()
}

pub(crate) fn create_at(store: &MemcachedStore, id_hash: &SessionIdHash) -> Result<CommitAnswer> {
    store.commit(&Commit::new(id_hash, Action::Create(new_session()), Delta::new(), NOW))
}

pub(crate) fn renew(
    store: &MemcachedStore,
    id_hash: &SessionIdHash,
    to: &SessionIdHash,
    grace_until: Option<Timestamp>,
) -> Result<CommitAnswer> {
    let action = Action::Renew { to: *to, grace_until };
    store.commit(&Commit::new(id_hash, action, Delta::new(), NOW))
}

pub(crate) fn is_absent(store: &MemcachedStore, id_hash: &SessionIdHash) -> bool {
    matches!(store.load(id_hash, NOW).unwrap(), Loaded::Unreadable(Unreadable::NotFound { .. }))
}

pub(crate) fn is_live(store: &MemcachedStore, id_hash: &SessionIdHash) -> bool {
    live(store, id_hash).unwrap().is_some()
}

/// Asserts that every call fails with this kind, within a bounded time.
pub(crate) fn assert_all_fail(store: &MemcachedStore, id_hash: &SessionIdHash, kind: ErrorKind) {
    let began = Instant::now();
    let failures = [
        store.load(id_hash, NOW).map(drop),
        create(store, &Delta::new()).map(drop),
        merge(store, id_hash, &setting("n", 1)).map(drop),
        end(store, id_hash).map(drop),
        renew(store, id_hash, &new_id_hash(), None).map(drop),
        sign_in(store, id_hash, &new_id_hash(), "ada").map(drop),
        store.touch(&[(*id_hash, Touch::at(NOW))], NOW).map_err(Error::from),
        store.clear(),
    ];
    for (call, failure) in failures.into_iter().enumerate() {
        assert_eq!(failure.expect_err("it fails").kind(), kind, "call {call}");
    }
    assert!(began.elapsed() < SOON * 4, "it took {:?}", began.elapsed());
}
