//! A cached store of a test, and what is done to it.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloakroom::clock::Timestamp;
use cloakroom::delta::Delta;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::{Handle, Realm, SessionKey, UserKey};
use cloakroom::record::{Stats, Summary, Touch};
use cloakroom::store::cached::CachedStore;
use cloakroom::store::{
    Admit, Commit, Committed, Fate, Loaded, Page, Registry, Store, Swept, Traits, Upkeep, Which,
};
use cloakroom::{Error, ErrorKind, MemoryStore, Result, SqliteStore};

use crate::common::faulty::{Call, Faulty, Gate};
use crate::common::gated::{Gated, Shared};
use crate::common::memcached::shared;
use crate::common::{NOW, birth, create, delete, live, new_key, setting, value};

pub(crate) const LIFE: Duration = Duration::from_secs(60);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const RETRY: Duration = Duration::from_millis(20);
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) type Truth = Arc<Faulty<SqliteStore>>;

pub(crate) fn truth() -> Truth {
    Arc::new(Faulty::new(SqliteStore::in_memory().unwrap()))
}

/// A cached store of a test, and what it stands on.
pub(crate) struct Stage {
    pub(crate) store: CachedStore<Shared, Truth>,
    pub(crate) cache: Arc<Gated>,
    pub(crate) truth: Truth,
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
    pub(crate) fn over(cache: Arc<Gated>, truth: Truth) -> Stage {
        let (events, told) = events();
        let store = CachedStore::builder(Shared(cache.clone()), truth.clone());
        let store = store.retry_after(RETRY).events(events.clone()).build().unwrap();
        Stage { store, cache, truth, events, told }
    }

    /// One more process with the same cache and the same truth.
    pub(crate) fn another(&self) -> Stage {
        Stage::over(self.cache.clone(), self.truth.clone())
    }

    pub(crate) fn on_each_cache(test: impl Fn(Stage)) {
        eprintln!("with MemoryStore in front");
        test(Stage::over(Gated::new(MemoryStore::new()), truth()));
        eprintln!("with MemcachedStore in front");
        test(Stage::over(Gated::new(shared().store()), truth()));
    }

    /// A session that is in the cache.
    pub(crate) fn cached(&self) -> SessionKey {
        let key = create(&self.store, &setting("n", 1)).unwrap();
        assert_eq!(n(&self.store, &key), Some(1));
        let loads = self.truth.calls(Call::Load);
        assert_eq!(n(&self.store, &key), Some(1));
        assert_eq!(self.truth.calls(Call::Load), loads, "the second read is a hit");
        key
    }

    pub(crate) fn loads(&self) -> u64 {
        self.truth.calls(Call::Load)
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
            if kind == EventKind::CacheBack {
                return;
            }
        }
    }
    panic!("the cache does not come back");
}

pub(crate) fn n(store: &impl Store, key: &SessionKey) -> Option<u32> {
    live(store, key).unwrap().and_then(|record| value(&record, "n"))
}

pub(crate) fn user() -> UserKey {
    UserKey::new("ada").unwrap()
}

pub(crate) fn renew(store: &impl Store, key: &SessionKey, grace: Option<Timestamp>) -> SessionKey {
    let to = new_key();
    let fate = Fate::Renew { to: &to, realm: &Realm::default(), grace_until: grace };
    let answer = store.commit(&Commit::new(key, fate, &Delta::new(), NOW)).unwrap();
    assert!(matches!(answer, Committed::Done { .. }), "{answer:?}");
    to
}

pub(crate) fn sign_in(store: &impl Store, key: &SessionKey, admit: Option<Admit>) -> SessionKey {
    let (to, user, birth, delta) = (new_key(), user(), birth(), Delta::new());
    let fate = Fate::SignIn { to: &to, user: &user, birth: &birth, join_salt: None };
    let mut commit = Commit::new(key, fate, &delta, NOW);
    commit.admit = admit;
    let answer = store.commit(&commit).unwrap();
    assert!(matches!(answer, Committed::Done { .. }), "{answer:?}");
    to
}

/// One way to end a session, or to change it.
pub(crate) type Ending = (&'static str, fn(&Stage, &SessionKey));

pub(crate) const ENDINGS: &[Ending] = &[
    ("a sign-out", |stage, key| {
        assert!(matches!(delete(&stage.store, key).unwrap(), Committed::Deleted { .. }));
    }),
    ("a renewal", |stage, key| _ = renew(&stage.store, key, None)),
    ("a sign-in", |stage, key| _ = sign_in(&stage.store, key, None)),
    ("a revocation", |stage, key| {
        let handle = live(&*stage.truth, key).unwrap().unwrap().handle;
        let registry = stage.store.registry().unwrap();
        assert_eq!(registry.revoke(&Which::Handle(&handle), None, NOW).unwrap(), [*key]);
    }),
    ("revoking everyone", |stage, _| {
        assert!(stage.store.registry().unwrap().revoke_everyone(None, NOW).unwrap() > 0);
    }),
];

/// Does what it is told; may wait before it does, and may say that it failed.
#[derive(Debug)]
pub(crate) struct Liar {
    pub(crate) truth: SqliteStore,
    pub(crate) lies: AtomicBool,
    pub(crate) gate: Mutex<Option<Gate>>,
}

impl Liar {
    pub(crate) fn new() -> Arc<Liar> {
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

    fn try_load(&self, _: &SessionKey, _: Timestamp) -> Option<Loaded> {
        None
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        self.answer(|| self.truth.commit(commit))
    }

    fn touch(&self, batch: &[(SessionKey, Touch)], now: Timestamp) -> Result<()> {
        self.truth.touch(batch, now)
    }

    fn sweep(&self, now: Timestamp, limit: NonZeroUsize) -> Result<Swept> {
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
