//! A cached store of a test, and what is done to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloakroom::backend::{
    Action, Commit, Committed, Page, SessionFilter, SessionIndex, SessionLimit, Store, StoreWrapper,
};
use cloakroom::clock::Timestamp;
use cloakroom::delta::Delta;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::{PublicId, Realm, SessionIdHash, UserKey};
use cloakroom::record::{Stats, Summary};
use cloakroom::stores::cached::CachedStore;
use cloakroom::{Error, ErrorKind, MemoryStore, Result, SqliteStore};

use crate::common::faulty::{Call, Faulty, Gate};
use crate::common::gated::{Gated, Shared};
use crate::common::memcached::shared;
use crate::common::{NOW, create, delete, live, new_key, new_session, setting, value};

pub(crate) const LIFE: Duration = Duration::from_secs(60);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const RETRY: Duration = Duration::from_millis(20);
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Truth = Arc<Faulty<SqliteStore>>;

pub(crate) fn backing() -> Truth {
    Arc::new(Faulty::new(SqliteStore::in_memory().unwrap()))
}

/// A cached store of a test, and what it stands on.
pub(crate) struct Stage {
    pub(crate) store: CachedStore<Shared, Truth>,
    pub(crate) cache: Arc<Gated>,
    pub(crate) backing: Truth,
    pub(crate) events: Events,
    pub(crate) told: Receiver<EventKind>,
}

#[derive(Debug)]
struct Tell(Mutex<std::sync::mpsc::Sender<EventKind>>);

impl Sink for Tell {
    fn record(&self, event: &Event<'_>) {
        let _ = self.0.lock().unwrap().send(event.kind());
    }
}

pub(crate) fn events() -> (Events, Receiver<EventKind>) {
    let (tell, told) = channel();
    (Events::new(Tell(Mutex::new(tell))), told)
}

impl Stage {
    pub(crate) fn over(cache: Arc<Gated>, backing: Truth) -> Stage {
        let (events, told) = events();
        let store = CachedStore::builder(Shared(cache.clone()), backing.clone());
        let store = store.retry_after(RETRY).events(events.clone()).build().unwrap();
        Stage { store, cache, backing, events, told }
    }

    /// One more process with the same cache and the same truth.
    pub(crate) fn another(&self) -> Stage {
        Stage::over(self.cache.clone(), self.backing.clone())
    }

    pub(crate) fn on_each_cache(test: impl Fn(Stage)) {
        eprintln!("with MemoryStore in front");
        test(Stage::over(Gated::new(MemoryStore::new()), backing()));
        eprintln!("with MemcachedStore in front");
        test(Stage::over(Gated::new(shared().store()), backing()));
    }

    /// A session that is in the cache.
    pub(crate) fn cached(&self) -> SessionIdHash {
        let id_hash = create(&self.store, &setting("n", 1)).unwrap();
        assert_eq!(n(&self.store, &id_hash), Some(1));
        let loads = self.backing.calls(Call::Load);
        assert_eq!(n(&self.store, &id_hash), Some(1));
        assert_eq!(self.backing.calls(Call::Load), loads, "the second read is a hit");
        id_hash
    }

    pub(crate) fn loads(&self) -> u64 {
        self.backing.calls(Call::Load)
    }

    /// Sends reads until the cache is back. Each may bring on the next probe.
    pub(crate) fn until_back(&self) {
        until_back(&self.store, &self.told);
    }
}

pub(crate) fn until_back(store: &impl Store, told: &Receiver<EventKind>) {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        store.load(&new_key(), NOW).unwrap();
        while let Ok(kind) = told.recv_timeout(Duration::from_millis(5)) {
            if kind == EventKind::CacheRecovered {
                return;
            }
        }
    }
    panic!("the cache does not come back");
}

pub(crate) fn n(store: &impl Store, id_hash: &SessionIdHash) -> Option<u32> {
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
    let to = new_key();
    let action = Action::Renew { to, realm: Realm::default(), grace_until: grace };
    let answer = store.commit(&Commit::new(id_hash, action, Delta::new(), NOW)).unwrap();
    assert!(matches!(answer, Committed::Done { .. }), "{answer:?}");
    to
}

pub(crate) fn sign_in(
    store: &impl Store,
    id_hash: &SessionIdHash,
    session_limit: Option<SessionLimit>,
) -> SessionIdHash {
    let (to, user, new_session, delta) = (new_key(), user(), new_session(), Delta::new());
    let action = Action::SignIn { to, user, new_session, join_salt: None };
    let mut commit = Commit::new(id_hash, action, delta, NOW);
    commit.session_limit = session_limit;
    let answer = store.commit(&commit).unwrap();
    assert!(matches!(answer, Committed::Done { .. }), "{answer:?}");
    to
}

/// One way to end a session, or to change it.
pub(crate) type Ending = (&'static str, fn(&Stage, &SessionIdHash));

pub(crate) const ENDINGS: &[Ending] = &[
    ("a sign-out", |stage, id_hash| {
        assert!(matches!(delete(&stage.store, id_hash).unwrap(), Committed::Deleted(_)));
    }),
    ("a renewal", |stage, id_hash| _ = renew(&stage.store, id_hash, None)),
    ("a sign-in", |stage, id_hash| _ = sign_in(&stage.store, id_hash, None)),
    ("a revocation", |stage, id_hash| {
        let public_id = live(&*stage.backing, id_hash).unwrap().unwrap().public_id;
        let index = stage.store.index().unwrap();
        assert_eq!(
            index.revoke(&SessionFilter::PublicId(&public_id), None, NOW).unwrap(),
            [*id_hash]
        );
    }),
    ("revoking everyone", |stage, _| {
        assert!(stage.store.index().unwrap().revoke_everyone(None, NOW).unwrap() > 0);
    }),
];

/// Does what it is told; may wait before it does, and may say that it failed.
#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) backing: SqliteStore,
    pub(crate) lies: AtomicBool,
    pub(crate) gate: Mutex<Option<Gate>>,
}

impl Liar {
    pub(crate) fn new() -> Arc<Liar> {
        let backing = SqliteStore::in_memory().unwrap();
        Arc::new(Liar { backing, lies: false.into(), gate: Mutex::default() })
    }

    fn behind(&self) -> &dyn SessionIndex {
        self.backing.index().unwrap()
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

impl StoreWrapper for Liar {
    type Wrapped = SqliteStore;

    fn wrapped(&self) -> &SqliteStore {
        &self.backing
    }

    fn on_commit(&self, commit: &Commit) -> Result<Committed> {
        self.answer(|| self.backing.commit(commit))
    }

    fn on_index(&self) -> Option<&dyn SessionIndex> {
        Some(self)
    }
}

impl SessionIndex for Liar {
    fn list(&self, which: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.behind().list(which, page, now)
    }

    fn revoke(
        &self,
        which: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        self.answer(|| self.behind().revoke(which, except, now))
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        self.answer(|| self.behind().revoke_everyone(realm, now))
    }

    fn epoch(&self) -> Result<u64> {
        self.behind().epoch()
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.behind().stats(now)
    }
}
