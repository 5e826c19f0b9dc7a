//! A cached store for tests, and operations on it.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use cloakroom::SqliteStore;
use cloakroom::backend::{Action, CacheKey, Commit, CommitAnswer, Delta, MaxSessions, Store};
use cloakroom::clock::Timestamp;
use cloakroom::event::{EventKind, Events};
use cloakroom::id::{SessionIdHash, UserKey};
use cloakroom::list::SessionFilter;
use cloakroom::stores::cached::CachedStore;
use cloakroom::stores::memory::MemoryCache;

use crate::common::client::PATIENCE;
use crate::common::faulty::{Call, Faulty, FaultyCache};
use crate::common::memcached::shared;
use crate::common::{
    NOW, create, end, events, live, new_id_hash, new_session, setting, settled, value,
};

pub(crate) const ENTRY_LIFE: Duration = Duration::from_secs(60);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const RETRY_AFTER: Duration = Duration::from_millis(20);

pub(crate) type Backing = Faulty<SqliteStore>;

pub(crate) fn backing() -> Backing {
    Faulty::new(SqliteStore::in_memory().unwrap())
}

/// A cached store, with access to the cache and the backing store below it.
pub(crate) struct CachedFixture {
    pub(crate) store: CachedStore<FaultyCache, Backing>,
    pub(crate) cache: FaultyCache,
    pub(crate) backing: Backing,
    pub(crate) events: Events,
    pub(crate) event_kinds: Receiver<EventKind>,
}

impl CachedFixture {
    pub(crate) fn new(cache: FaultyCache, backing: Backing) -> CachedFixture {
        let (events, event_kinds) = events();
        let store = CachedStore::builder(cache.clone(), backing.clone());
        let store = store.retry_after(RETRY_AFTER).events(events.clone()).build().unwrap();
        let store = settled(store);
        CachedFixture { store, cache, backing, events, event_kinds }
    }

    /// Another process with the same cache and the same backing store.
    pub(crate) fn another(&self) -> CachedFixture {
        CachedFixture::new(self.cache.clone(), self.backing.clone())
    }

    pub(crate) fn on_each_cache(test: impl Fn(CachedFixture)) {
        eprintln!("with MemoryCache in front");
        test(CachedFixture::new(FaultyCache::cache(MemoryCache::new()), backing()));
        eprintln!("with MemcachedStore in front");
        test(CachedFixture::new(FaultyCache::cache(shared().store()), backing()));
    }

    /// Creates a session and reads it, so that it is in the cache.
    pub(crate) fn cached_session(&self) -> SessionIdHash {
        let id_hash = create(&self.store, &setting("n", 1)).unwrap();
        assert_eq!(stored_n(&self.store, &id_hash), Some(1));
        let loads = self.backing.calls(Call::Load);
        assert_eq!(stored_n(&self.store, &id_hash), Some(1));
        assert_eq!(self.backing.calls(Call::Load), loads, "the second read is a hit");
        id_hash
    }

    pub(crate) fn loads(&self) -> u64 {
        self.backing.calls(Call::Load)
    }

    /// Reads until the cache is used again. Each read can cause the next probe.
    pub(crate) fn wait_for_recovery(&self) {
        wait_for_recovery(&self.store, &self.event_kinds);
    }
}

pub(crate) fn wait_for_recovery(store: &impl Store, event_kinds: &Receiver<EventKind>) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        store.load(&new_id_hash(), NOW).unwrap();
        while let Ok(kind) = event_kinds.recv_timeout(Duration::from_millis(5)) {
            if kind == EventKind::CacheRecovered {
                return;
            }
        }
    }
    panic!("the cache was not used again");
}

/// The key of a session's entry in the cache.
pub(crate) fn key(store: &impl Store, id_hash: &SessionIdHash) -> CacheKey {
    store.index().unwrap().identity().unwrap().cache_key(id_hash)
}

pub(crate) fn new_key() -> CacheKey {
    CacheKey::from_bytes(*new_id_hash().as_bytes())
}

pub(crate) fn stored_n(store: &impl Store, id_hash: &SessionIdHash) -> Option<u32> {
    live(store, id_hash).unwrap().and_then(|record| value(&record, "n"))
}

pub(crate) fn user() -> UserKey {
    UserKey::new("ada").unwrap()
}

pub(crate) fn renew(
    store: &impl Store,
    id_hash: &SessionIdHash,
    grace: Option<Timestamp>,
) -> SessionIdHash {
    let to = new_id_hash();
    let action = Action::Renew { to, grace_until: grace };
    let answer = store.commit(&Commit::new(id_hash, action, Delta::new(), NOW)).unwrap();
    assert!(matches!(answer, CommitAnswer::Done { .. }), "{answer:?}");
    to
}

pub(crate) fn sign_in(
    store: &impl Store,
    id_hash: &SessionIdHash,
    max_sessions: Option<MaxSessions>,
) -> SessionIdHash {
    let to = new_id_hash();
    let user = user();
    let new_session = new_session();
    let delta = Delta::new();
    let action = Action::SignIn { to, user, new_session, join_salt: None };
    let mut commit = Commit::new(id_hash, action, delta, NOW);
    commit.max_sessions = max_sessions;
    let answer = store.commit(&commit).unwrap();
    assert!(matches!(answer, CommitAnswer::Done { .. }), "{answer:?}");
    to
}

/// One way to end a session or to change its id.
pub(crate) type Ending = (&'static str, fn(&CachedFixture, &SessionIdHash));

pub(crate) const ENDINGS: &[Ending] = &[
    ("a sign-out", |fixture, id_hash| {
        assert!(matches!(end(&fixture.store, id_hash).unwrap(), CommitAnswer::Ended(_)));
    }),
    ("a renewal", |fixture, id_hash| _ = renew(&fixture.store, id_hash, None)),
    ("a sign-in", |fixture, id_hash| _ = sign_in(&fixture.store, id_hash, None)),
    ("a revocation", |fixture, id_hash| {
        let public_id = live(&fixture.backing, id_hash).unwrap().unwrap().public_id;
        let index = fixture.store.index().unwrap();
        let revoked = index.revoke(&SessionFilter::PublicId(&public_id), None, NOW).unwrap();
        assert!(revoked.iter().map(|ended| ended.id_hash).eq([*id_hash]));
    }),
    ("revoking everyone", |fixture, _| {
        assert!(fixture.store.index().unwrap().revoke_everyone(None, NOW).unwrap() > 0);
    }),
];
