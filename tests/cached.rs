//! A store with a cache in front of it: what the cache may never say, whoever is slow, and what
//! becomes of requests while it is down.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::clock::{ManualClock, Timestamp};
use cloakroom::delta::Delta;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::http::Outcome;
use cloakroom::id::{SessionKey, UserKey};
use cloakroom::record::Touch;
use cloakroom::store::cached::CachedStore;
use cloakroom::store::memcached::MemcachedStore;
use cloakroom::store::{
    Admit, AtLimit, Cache, Commit, Committed, Entry, Fate, Fetched, Lease, Loaded, Registry, Store,
    Traits, Upkeep, Which,
};
use cloakroom::{Error, ErrorKind, Lifetime, MemoryStore, Result, SessionManager, SqliteStore};
use common::faulty::{Call, Faulty};
use common::gated::{Gated, Shared};
use common::in_process::{Browser, get, sign_in as sign_in_to, who};
use common::memcached::{Memcached, shared};
use common::proxy::{Plan, Proxy};
use common::{HOUR, NOW, birth, create, delete, live, merge, new_key, setting, value};

const LIFE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(30);

type Truth = Arc<Faulty<SqliteStore>>;

fn truth() -> Truth {
    Arc::new(Faulty::new(SqliteStore::in_memory().unwrap()))
}

/// A cached store of a test, and what it stands on.
struct Stage {
    store: CachedStore<Shared, Truth>,
    cache: Arc<Gated>,
    truth: Truth,
    events: Events,
    told: Receiver<EventKind>,
}

#[derive(Debug)]
struct Tell(Mutex<std::sync::mpsc::Sender<EventKind>>);

impl Sink for Tell {
    fn record(&self, event: &Event<'_>) {
        let _ = self.0.lock().unwrap().send(event.kind());
    }
}

fn events() -> (Events, Receiver<EventKind>) {
    let (tell, told) = channel();
    (Events::new(Tell(Mutex::new(tell))), told)
}

impl Stage {
    fn over(cache: Arc<Gated>, truth: Truth) -> Stage {
        let (events, told) = events();
        let store = CachedStore::builder(Shared(cache.clone()), truth.clone());
        let store = store.retry_after(RETRY).events(events.clone()).build().unwrap();
        Stage { store, cache, truth, events, told }
    }

    /// One more process with the same cache and the same truth.
    fn another(&self) -> Stage {
        Stage::over(self.cache.clone(), self.truth.clone())
    }

    fn on_each_cache(test: impl Fn(Stage)) {
        eprintln!("with MemoryStore in front");
        test(Stage::over(Gated::new(MemoryStore::new()), truth()));
        eprintln!("with MemcachedStore in front");
        test(Stage::over(Gated::new(shared().store()), truth()));
    }

    /// A session that is in the cache.
    fn cached(&self) -> SessionKey {
        let key = create(&self.store, &setting("n", 1)).unwrap();
        assert_eq!(n(&self.store, &key), Some(1));
        let loads = self.truth.calls(Call::Load);
        assert_eq!(n(&self.store, &key), Some(1));
        assert_eq!(self.truth.calls(Call::Load), loads, "the second read is a hit");
        key
    }

    fn loads(&self) -> u64 {
        self.truth.calls(Call::Load)
    }

    /// Sends reads until the cache is back. Each may bring on the next probe.
    fn until_back(&self) {
        until_back(&self.store, &self.told);
    }
}

fn until_back(store: &impl Store, told: &Receiver<EventKind>) {
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

fn n(store: &impl Store, key: &SessionKey) -> Option<u32> {
    live(store, key).unwrap().and_then(|record| value(&record, "n"))
}

fn user() -> UserKey {
    UserKey::new("ada").unwrap()
}

fn renew(store: &impl Store, key: &SessionKey, grace: Option<Timestamp>) -> SessionKey {
    let to = new_key();
    let fate = Fate::Renew { to: &to, grace_until: grace };
    let answer = store.commit(&Commit::new(key, fate, &Delta::new(), NOW)).unwrap();
    assert!(matches!(answer, Committed::Done { .. }), "{answer:?}");
    to
}

fn sign_in(store: &impl Store, key: &SessionKey, admit: Option<Admit>) -> SessionKey {
    let (to, user, birth, delta) = (new_key(), user(), birth(), Delta::new());
    let fate = Fate::SignIn { to: &to, user: &user, birth: &birth };
    let mut commit = Commit::new(key, fate, &delta, NOW);
    commit.admit = admit;
    let answer = store.commit(&commit).unwrap();
    assert!(matches!(answer, Committed::Done { .. }), "{answer:?}");
    to
}

/// One way to end a session, or to change it.
type Ending = (&'static str, fn(&Stage, &SessionKey));

const ENDINGS: &[Ending] = &[
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
        assert!(stage.store.registry().unwrap().revoke_everyone(NOW).unwrap() > 0);
    }),
];

#[test]
fn what_is_in_the_cache_costs_the_store_nothing_until_it_changes() {
    Stage::on_each_cache(|stage| {
        let key = stage.cached();
        merge(&stage.store, &key, &setting("n", 2)).unwrap();
        assert_eq!(n(&stage.store, &key), Some(2));
        let loads = stage.loads();
        assert_eq!(n(&stage.store, &key), Some(2));
        assert_eq!(n(&stage.another().store, &key), Some(2), "another process has it too");
        assert_eq!(stage.loads(), loads);
    });
}

#[test]
fn whatever_ends_a_session_the_cache_does_not_have_it_any_more() {
    Stage::on_each_cache(|stage| {
        for (what, end) in ENDINGS {
            let key = stage.cached();
            let other = stage.another();
            assert_eq!(n(&other.store, &key), Some(1));
            end(&stage, &key);
            assert_eq!(n(&stage.store, &key), None, "{what}");
            assert_eq!(n(&other.store, &key), None, "{what}, as another process sees it");
        }
    });
}

#[test]
fn a_slow_reader_fills_in_nothing_that_was_ended_meanwhile() {
    Stage::on_each_cache(|stage| {
        for (what, end) in ENDINGS {
            let key = create(&stage.store, &setting("n", 1)).unwrap();
            let keeper = stage.cache.hold_fill();
            thread::scope(|scope| {
                let slow = scope.spawn(|| n(&stage.store, &key));
                // It has read the truth, and has not filled it in yet.
                keeper.wait_until_reached();
                end(&stage, &key);
                keeper.open();
                assert_eq!(slow.join().unwrap(), Some(1), "it began before the end");
            });
            assert_eq!(n(&stage.store, &key), None, "{what}: the cache says it lives");
            assert_eq!(n(&stage.another().store, &key), None, "{what}");
        }
        // A change is as good as an end.
        let key = create(&stage.store, &setting("n", 1)).unwrap();
        let keeper = stage.cache.hold_fill();
        thread::scope(|scope| {
            let slow = scope.spawn(|| n(&stage.store, &key));
            keeper.wait_until_reached();
            merge(&stage.store, &key, &setting("n", 2)).unwrap();
            // Somebody else takes a lease of his own, which is not the slow one's.
            assert_eq!(n(&stage.store, &key), Some(2));
            keeper.open();
            slow.join().unwrap();
        });
        assert_eq!(n(&stage.store, &key), Some(2));
    });
}

#[test]
fn a_session_that_is_ended_while_it_moves_is_not_found_by_its_old_key() {
    Stage::on_each_cache(|stage| {
        let key = stage.cached();
        let keeper = stage.cache.hold_forget();
        thread::scope(|scope| {
            let moves = scope.spawn(|| sign_in(&stage.store, &key, None));
            // It has a new key, and the cache has not been told to forget the old one.
            keeper.wait_until_reached();
            let registry = stage.store.registry().unwrap();
            assert_eq!(registry.revoke(&Which::User(&user()), None, NOW).unwrap().len(), 1);
            assert_eq!(n(&stage.store, &key), None);
            keeper.open();
            moves.join().unwrap();
        });
        assert_eq!(n(&stage.store, &key), None);
    });
}

#[test]
fn a_lease_from_before_a_restart_of_memcached_fills_nothing() {
    let server = Memcached::start();
    let stage = Stage::over(Gated::new(server.store()), truth());
    // Versions are numbered from the beginning after a restart, so numbers come again.
    for _ in 0..3 {
        let key = create(&stage.store, &setting("n", 1)).unwrap();
        let keeper = stage.cache.hold_fill();
        thread::scope(|scope| {
            let slow = scope.spawn(|| n(&stage.store, &key));
            keeper.wait_until_reached();
            server.kill();
            server.start_again();
            delete(&*stage.truth, &key).unwrap();
            for _ in 0..9 {
                assert_eq!(n(&stage.store, &new_key()), None);
            }
            assert_eq!(n(&stage.store, &key), None);
            keeper.open();
            slow.join().unwrap();
        });
        assert_eq!(n(&stage.store, &key), None);
    }
}

#[test]
fn a_version_whose_number_comes_again_after_a_restart_is_not_taken_for_the_old_one() {
    let server = Memcached::start();
    let cache = server.store();
    let key = new_key();
    let lease = || match cache.fetch(&key, NOW).unwrap() {
        Fetched::Miss(Some(lease)) => lease,
        other => panic!("{other:?}"),
    };
    for _ in 0..20 {
        cache.fetch(&new_key(), NOW).unwrap();
    }
    let old = lease();
    server.kill();
    server.start_again();
    let version = |lease: Lease| lease.number() & u128::from(u64::MAX);
    let same = (0..100).find(|_| {
        cache.forget(&[key], NOW).unwrap();
        version(lease()) == version(old)
    });
    assert!(same.is_some(), "memcached does not number its versions from the beginning");
    let store = MemoryStore::new();
    let session = create(&store, &setting("n", 1)).unwrap();
    let entry = Entry::new(live(&store, &session).unwrap().unwrap(), NOW);
    assert!(!cache.fill(&key, old, &entry, NOW + LIFE, NOW).unwrap());
    assert_eq!(cache.fetch(&key, NOW).unwrap(), Fetched::Miss(None));
}

#[test]
fn a_lease_is_good_for_one_epoch() {
    let cache = shared().store();
    let key = new_key();
    let lease = |cache: &MemcachedStore| match cache.fetch(&key, NOW).unwrap() {
        Fetched::Miss(Some(lease)) => lease,
        other => panic!("{other:?}"),
    };
    let old = lease(&cache);
    cache.forget_everything(NOW).unwrap();
    let record = {
        let store = MemoryStore::new();
        let key = create(&store, &setting("n", 1)).unwrap();
        live(&store, &key).unwrap().unwrap()
    };
    let entry = Entry::new(record, NOW);
    assert!(!cache.fill(&key, old, &entry, NOW + LIFE, NOW).unwrap());
    let new = lease(&cache);
    assert!(!cache.fill(&key, old, &entry, NOW + LIFE, NOW).unwrap());
    assert!(cache.fill(&key, new, &entry, NOW + LIFE, NOW).unwrap());
    assert!(!cache.fill(&key, new, &entry, NOW + LIFE, NOW).unwrap(), "and for one fill");
}

#[test]
fn who_has_not_heard_of_a_new_epoch_makes_the_cache_forget_all_the_same() {
    let (truth, server) = (truth(), shared());
    let open = || server.builder_in("heard").open().unwrap();
    let mine = CachedStore::new(open(), truth.clone());
    let theirs = CachedStore::new(open(), truth);
    let key = create(&mine, &setting("n", 1)).unwrap();
    assert_eq!(n(&mine, &key), Some(1));
    theirs.registry().unwrap().revoke_everyone(NOW).unwrap();
    let key = create(&theirs, &setting("n", 1)).unwrap();
    assert_eq!(n(&theirs, &key), Some(1));
    delete(&mine, &key).unwrap();
    assert_eq!(n(&theirs, &key), None);
}

#[test]
fn the_sessions_that_a_limit_ends_leave_the_cache() {
    Stage::on_each_cache(|stage| {
        let first = sign_in(&stage.store, &new_key(), None);
        assert!(live(&stage.store, &first).unwrap().is_some());
        assert!(live(&stage.store, &first).unwrap().is_some());
        let admit = Admit::new(1.try_into().unwrap(), AtLimit::EndOldest);
        let second = sign_in(&stage.store, &new_key(), Some(admit));
        assert!(live(&stage.store, &first).unwrap().is_none());
        assert!(live(&stage.store, &second).unwrap().is_some());
    });
}

#[test]
fn what_a_key_in_its_grace_leads_to_is_not_filed_under_it() {
    Stage::on_each_cache(|stage| {
        let old = stage.cached();
        let new = renew(&stage.store, &old, Some(NOW + HOUR));
        for _ in 0..3 {
            assert_eq!(n(&stage.store, &old), Some(1));
        }
        // Through the grace the session itself is changed, and so is what is cached of it.
        assert_eq!(n(&stage.store, &new), Some(1));
        merge(&stage.store, &old, &setting("n", 2)).unwrap();
        assert_eq!(n(&stage.store, &new), Some(2));
        assert_eq!(n(&stage.store, &old), Some(2));
        sign_in(&stage.store, &new, None);
        assert_eq!(n(&stage.store, &old), None);
        assert_eq!(n(&stage.store, &new), None);
    });
}

#[test]
fn what_the_cache_has_lost_is_read_from_the_store() {
    let server = Memcached::start();
    let stage = Stage::over(Gated::new(server.store()), truth());
    let key = stage.cached();
    assert_eq!(server.raw().ask("flush_all"), "OK");
    assert_eq!(n(&stage.store, &key), Some(1));
    let loads = stage.loads();
    assert_eq!(n(&stage.store, &key), Some(1));
    assert_eq!(stage.loads(), loads, "and is in the cache again");
}

#[test]
fn an_entry_is_kept_no_longer_than_it_lives_or_its_session() {
    let store = |lifetime: Lifetime| {
        let cache = shared().builder_in("lives").open().unwrap();
        let store = CachedStore::new(cache, MemoryStore::new());
        let (key, delta) = (new_key(), Delta::new());
        let birth = cloakroom::record::Birth::new(lifetime.starting(NOW)).unwrap();
        store.commit(&Commit::new(&key, Fate::Create(&birth), &delta, NOW)).unwrap();
        assert!(live(&store, &key).unwrap().is_some());
        let mut raw = shared().raw();
        let name = raw.name("lives", 'c', &key);
        raw.seconds_left(&name)
    };
    let most = |lifetime, most| {
        let seconds = store(lifetime).unwrap();
        assert!((most - 5..=most).contains(&seconds), "{seconds} s of at most {most}");
    };
    most(Lifetime::default(), 60);
    most(Lifetime::idle(HOUR * 24 * 40), 60);
    most(Lifetime::idle(SECOND * 20), 20);
}

#[test]
fn an_entry_is_not_believed_after_its_life_and_a_touch_does_not_make_it_longer() {
    Stage::on_each_cache(|stage| {
        let key = stage.cached();
        // Behind the back of everyone who could tell the cache.
        merge(&*stage.truth, &key, &setting("n", 2)).unwrap();
        assert_eq!(n(&stage.store, &key), Some(1), "the one bound");
        let half = NOW + LIFE / 2;
        assert!(matches!(stage.store.load(&key, half).unwrap(), Loaded::Live { .. }));
        stage.truth.touch(&[(key, Touch::at(half))], half).unwrap();
        let Loaded::Live { record, .. } = stage.store.load(&key, NOW + LIFE).unwrap() else {
            panic!("it lives");
        };
        assert_eq!(value(&record, "n"), Some(2));
    });
}

#[test]
fn a_session_that_looks_ended_in_the_cache_is_looked_up() {
    Stage::on_each_cache(|stage| {
        let (key, delta) = (new_key(), setting("n", 1));
        let birth = Lifetime::idle(SECOND * 40).starting(NOW);
        let birth = cloakroom::record::Birth::new(birth).unwrap();
        stage.store.commit(&Commit::new(&key, Fate::Create(&birth), &delta, NOW)).unwrap();
        assert_eq!(n(&stage.store, &key), Some(1));
        let later = NOW + SECOND * 30;
        stage.truth.touch(&[(key, Touch::at(later))], later).unwrap();
        let then = NOW + SECOND * 50;
        let Loaded::Live { record, .. } = stage.store.load(&key, then).unwrap() else {
            panic!("it ended early");
        };
        assert_eq!(record.seen, later);
    });
}

#[test]
fn a_touch_that_is_due_is_written_once_and_not_by_every_hit() {
    Stage::on_each_cache(|stage| {
        let clock = ManualClock::new(NOW);
        let sessions = SessionManager::builder(stage.store.clone()).clock(clock.clone());
        let sessions = sessions.lifetime(Lifetime::idle(HOUR)).build().unwrap();
        let mut browser = Browser::default();
        browser.request(&sessions, |session| session.set("n", 1).unwrap());
        assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
        clock.advance(HOUR / 40);
        for _ in 0..20 {
            assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
            sessions.flush().unwrap();
        }
        assert_eq!(stage.truth.touched(), 1);
        // With it came one read, and no more than that.
        let loads = stage.loads();
        assert_eq!(get::<u32>(&sessions, &browser, "n"), Some(1));
        assert_eq!(stage.loads(), loads);
    });
}

#[test]
fn a_touch_that_comes_with_a_commit_of_nothing_is_seen_at_once() {
    Stage::on_each_cache(|stage| {
        let (key, nothing, later) = (stage.cached(), Delta::new(), NOW + HOUR);
        let mut commit = Commit::new(&key, Fate::Merge, &nothing, later);
        commit.touch = Some(Touch::at(later));
        assert!(matches!(stage.store.commit(&commit).unwrap(), Committed::Unchanged { .. }));
        let Loaded::Live { record, .. } = stage.store.load(&key, NOW).unwrap() else {
            panic!("it lives");
        };
        assert_eq!(record.seen, later);
    });
}

#[test]
fn a_process_believes_nothing_that_was_read_before_it_began() {
    Stage::on_each_cache(|stage| {
        let key = stage.cached();
        // It signs somebody out, and dies before it can tell the cache.
        delete(&*stage.truth, &key).unwrap();
        let restarted = stage.another();
        let loaded = restarted.store.load(&key, NOW + Duration::from_millis(1)).unwrap();
        assert!(matches!(loaded, Loaded::Absent), "{loaded:?}");
    });
}

#[test]
fn what_changed_while_the_cache_was_down_is_never_served_as_it_was() {
    Stage::on_each_cache(|stage| {
        for (what, end) in ENDINGS {
            let (key, kept) = (stage.cached(), stage.cached());
            stage.cache.set_down(true);
            end(&stage, &key);
            let changed = merge(&stage.store, &kept, &setting("n", 2)).unwrap();
            assert_eq!(n(&stage.store, &key), None, "{what}, while it is down");
            stage.cache.set_down(false);
            assert_eq!(n(&stage.store, &key), None, "{what}, before it is repaired");
            stage.until_back();
            let loads = stage.loads();
            assert_eq!(n(&stage.store, &key), None, "{what}, after that");
            assert!(stage.loads() > loads);
            if matches!(changed, Committed::Done { .. }) {
                assert_eq!(n(&stage.store, &kept), Some(2), "{what}");
            }
            // Another process, whose connection never failed, sees it from now on as well.
            assert_eq!(n(&stage.another().store, &key), None, "{what}");
        }
        assert_eq!(stage.events.count(EventKind::CacheDown), ENDINGS.len() as u64);
        assert_eq!(stage.events.count(EventKind::CacheBack), ENDINGS.len() as u64);
    });
}

#[test]
fn what_changes_while_the_cache_is_being_repaired_is_told_as_well() {
    Stage::on_each_cache(|stage| {
        let (first, second, third) = (stage.cached(), stage.cached(), stage.cached());
        stage.cache.set_down(true);
        delete(&stage.store, &first).unwrap();
        stage.cache.set_down(false);
        let keeper = stage.cache.hold_forget();
        let (reached, is_reached) = channel();
        thread::scope(|scope| {
            let keeper = scope.spawn(move || {
                keeper.wait_until_reached();
                reached.send(()).unwrap();
                keeper
            });
            while is_reached.recv_timeout(Duration::from_millis(2)).is_err() {
                stage.store.load(&new_key(), NOW).unwrap();
            }
            // The repair is telling what it found; this comes after that.
            delete(&stage.store, &second).unwrap();
            keeper.join().unwrap().open();
        });
        stage.until_back();
        assert_eq!(n(&stage.store, &first), None);
        assert_eq!(n(&stage.store, &second), None);
        assert_eq!(n(&stage.store, &third), Some(1));
    });
}

#[test]
fn another_process_sees_what_this_one_could_not_tell_within_the_life_of_an_entry() {
    let server = shared();
    let proxy = Proxy::to(server.address);
    let truth = truth();
    let mine = MemcachedStore::builder().servers([proxy.address.to_string()]);
    let mine = mine.namespace("another").open().unwrap();
    let mine = CachedStore::builder(mine, truth.clone()).retry_after(HOUR).build().unwrap();
    let theirs = CachedStore::new(server.builder_in("another").open().unwrap(), truth);
    let key = create(&mine, &setting("n", 1)).unwrap();
    assert_eq!(n(&theirs, &key), Some(1));
    proxy.plan(Plan::Down);
    delete(&mine, &key).unwrap();
    assert_eq!(n(&mine, &key), None);
    let last = NOW + LIFE - Duration::from_millis(1);
    assert!(matches!(theirs.load(&key, last).unwrap(), Loaded::Live { .. }), "the one bound");
    assert!(matches!(theirs.load(&key, NOW + LIFE).unwrap(), Loaded::Absent));
}

#[test]
fn an_outage_is_told_once_and_costs_a_few_timeouts_at_most() {
    let server = Memcached::start();
    let (events, told) = events();
    let cache = server.hasty_store();
    let store = CachedStore::builder(cache, MemoryStore::new()).retry_after(HOUR);
    let store = store.events(events.clone()).build().unwrap();
    let key = create(&store, &setting("n", 1)).unwrap();
    assert_eq!(n(&store, &key), Some(1));
    server.freeze();
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(n(&store, &key), Some(1));
        merge(&store, &key, &setting("n", 1)).unwrap();
    }
    // Three reads wait for 200 ms each, and not two thousand calls.
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [EventKind::CacheDown]);
}

#[test]
fn while_the_cache_is_open_nobody_waits_for_it() {
    Stage::on_each_cache(|stage| {
        let key = stage.cached();
        stage.cache.set_down(true);
        for _ in 0..3 {
            assert_eq!(n(&stage.store, &key), Some(1));
        }
        let patient = CachedStore::builder(Shared(stage.cache.clone()), stage.truth.clone());
        let patient = patient.retry_after(HOUR).build().unwrap();
        for _ in 0..3 {
            assert_eq!(n(&patient, &key), Some(1));
        }
        let calls = stage.cache.calls();
        for n in 0..100 {
            merge(&patient, &key, &setting("n", n)).unwrap();
            assert!(live(&patient, &key).unwrap().is_some());
        }
        let probes_of_the_other = stage.cache.calls() - calls;
        assert!(probes_of_the_other < 50, "{probes_of_the_other} calls of a cache that is down");
    });
}

/// Does what it is told and says that it failed.
#[derive(Debug)]
struct Liar {
    truth: SqliteStore,
    lies: AtomicBool,
}

impl Store for Liar {
    fn load(&self, key: &SessionKey, now: Timestamp) -> Result<Loaded> {
        self.truth.load(key, now)
    }

    fn commit(&self, commit: &Commit<'_>) -> Result<Committed> {
        let answer = self.truth.commit(commit)?;
        match self.lies.load(Ordering::SeqCst) {
            true => Err(Error::new(ErrorKind::Unavailable, "answer")),
            false => Ok(answer),
        }
    }

    fn touch(&self, batch: &[(SessionKey, Touch)], now: Timestamp) -> Result<()> {
        self.truth.touch(batch, now)
    }

    fn sweep(&self, now: Timestamp, limit: std::num::NonZeroUsize) -> Result<usize> {
        self.truth.sweep(now, limit)
    }

    fn registry(&self) -> Option<&dyn Registry> {
        self.truth.registry()
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        self.truth.upkeep()
    }

    fn traits(&self) -> Traits {
        self.truth.traits()
    }
}

#[test]
fn what_failed_and_was_done_all_the_same_is_not_served_as_it_was() {
    let liar = Arc::new(Liar { truth: SqliteStore::in_memory().unwrap(), lies: false.into() });
    let store = CachedStore::new(MemoryStore::new(), liar.clone());
    let lie = |lies| liar.lies.store(lies, Ordering::SeqCst);
    let cached = || {
        let key = create(&store, &setting("n", 1)).unwrap();
        assert_eq!(n(&store, &key), Some(1));
        key
    };
    let (merged, ended, old) = (cached(), cached(), cached());
    let new = renew(&store, &old, Some(NOW + HOUR));
    assert_eq!(n(&store, &new), Some(1));
    lie(true);
    merge(&store, &merged, &setting("n", 2)).unwrap_err();
    assert_eq!(n(&store, &merged), Some(2));
    delete(&store, &ended).unwrap_err();
    assert_eq!(n(&store, &ended), None);
    // Through its grace: nobody has said which key the session has.
    delete(&store, &old).unwrap_err();
    assert_eq!(n(&store, &new), None);
}

#[test]
fn what_the_store_knows_better_is_forgotten() {
    Stage::on_each_cache(|stage| {
        let stale = |key: &SessionKey| {
            let delta = setting("m", 1);
            let mut merge = Commit::new(key, Fate::Merge, &delta, NOW);
            merge.if_revision = Some(1);
            stage.store.commit(&merge).unwrap()
        };
        let key = stage.cached();
        merge(&*stage.truth, &key, &setting("n", 2)).unwrap();
        assert!(matches!(stale(&key), Committed::Stale { .. }));
        assert_eq!(n(&stage.store, &key), Some(2));
        delete(&*stage.truth, &key).unwrap();
        assert!(matches!(stale(&key), Committed::Gone));
        assert_eq!(n(&stage.store, &key), None);
        let key = stage.cached();
        renew(&*stage.truth, &key, None);
        assert!(matches!(stale(&key), Committed::Renewed));
        assert_eq!(n(&stage.store, &key), None);
    });
}

#[test]
fn garbage_and_newer_versions_in_the_cache_are_a_miss() {
    let cache = shared().builder_in("odd").open().unwrap();
    let store = CachedStore::new(cache, MemoryStore::new());
    let key = create(&store, &setting("n", 1)).unwrap();
    assert_eq!(n(&store, &key), Some(1));
    let mut raw = shared().raw();
    let name = raw.name("odd", 'c', &key);
    for odd in [&b""[..], b"hello", b"\x01", b"\x01E123", b"\x01L{}", b"\x02E", b"\x01E12345678{}"]
    {
        raw.set(&name, odd);
        for _ in 0..3 {
            assert_eq!(n(&store, &key), Some(1), "{odd:?}");
        }
    }
    raw.set(&name, b"garbage");
    for _ in 0..3 {
        assert_eq!(n(&store, &key), Some(1));
    }
    assert_eq!(raw.get(&name).unwrap()[..2], *b"\x01E", "garbage gives way to an entry");
}

#[test]
fn under_load_a_kill_and_a_restart_of_memcached_fail_no_request_and_lose_no_sign_in() {
    let server = Memcached::start();
    let folder = common::Folder::new();
    let truth = SqliteStore::open(folder.database()).unwrap();
    let (events, told) = events();
    let store = CachedStore::builder(server.hasty_store(), truth).retry_after(RETRY);
    let store = store.events(events).build().unwrap();
    let sessions = SessionManager::new(store.clone()).unwrap();
    let (rounds, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let (sessions, rounds, stop) = (&sessions, &rounds, &stop);
                scope.spawn(move || {
                    let (mut browser, name) = (Browser::default(), format!("user {n}"));
                    browser.request(sessions, |session| sign_in_to(session, &name));
                    let mut visits = 0_u32;
                    while !stop.load(Ordering::SeqCst) {
                        assert_eq!(who(sessions, &browser).as_ref(), Some(&name));
                        visits += 1;
                        browser
                            .try_request(sessions, Outcome::Completed, |session| {
                                let counted = session
                                    .update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)
                                    .unwrap();
                                assert_eq!(counted, visits);
                            })
                            .unwrap();
                        assert_eq!(get::<u32>(sessions, &browser, "visits"), Some(visits));
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let more = || {
            let wanted = rounds.load(Ordering::SeqCst) + 200;
            let deadline = Instant::now() + PATIENCE;
            while rounds.load(Ordering::SeqCst) < wanted && Instant::now() < deadline {
                thread::park_timeout(Duration::from_millis(1));
            }
        };
        for _ in 0..2 {
            more();
            server.kill();
            more();
            server.start_again();
            until_back(&store, &told);
            more();
            server.freeze();
            more();
            server.thaw();
            until_back(&store, &told);
        }
        stop.store(true, Ordering::SeqCst);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
