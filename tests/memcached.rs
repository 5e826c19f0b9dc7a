//! Memcached as the store: servers that are down, frozen, full, or not there at all, values that
//! nobody of ours wrote, and requests that stop between any two of their commands.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cloakroom::clock::Timestamp;
use cloakroom::delta::Delta;
use cloakroom::event::{EventKind, Events, LogSink};
use cloakroom::id::{SessionKey, UserKey};
use cloakroom::record::{Birth, Touch};
use cloakroom::store::memcached::MemcachedStore;
use cloakroom::store::{AtLimit, Commit, Committed, Fate, Former, Loaded, Store};
use cloakroom::{ErrorKind, Lifetime, Result, SessionManager};
use common::memcached::{Memcached, shared};
use common::proxy::{Plan, Proxy};
use common::{HOUR, NOW, birth, create, delete, live, merge, new_key, setting, value};

/// Far more than the timeouts, far less than a client's own patience would be.
const SOON: Duration = Duration::from_secs(10);

fn user(name: &str) -> UserKey {
    UserKey::new(name).unwrap()
}

fn create_at(store: &MemcachedStore, key: &SessionKey) -> Result<Committed> {
    store.commit(&Commit::new(key, Fate::Create(&birth()), &Delta::new(), NOW))
}

fn renew(
    store: &MemcachedStore,
    key: &SessionKey,
    to: &SessionKey,
    grace_until: Option<Timestamp>,
) -> Result<Committed> {
    store.commit(&Commit::new(key, Fate::Renew { to, grace_until }, &Delta::new(), NOW))
}

fn sign_in(
    store: &MemcachedStore,
    key: &SessionKey,
    to: &SessionKey,
    name: &str,
) -> Result<Committed> {
    let fate = Fate::SignIn { to, user: &user(name), birth: &birth() };
    store.commit(&Commit::new(key, fate, &Delta::new(), NOW))
}

fn is_absent(store: &MemcachedStore, key: &SessionKey) -> bool {
    matches!(store.load(key, NOW).unwrap(), Loaded::Absent)
}

fn is_live(store: &MemcachedStore, key: &SessionKey) -> bool {
    live(store, key).unwrap().is_some()
}

/// Every call fails with this kind, and soon.
fn all_fail(store: &MemcachedStore, key: &SessionKey, kind: ErrorKind) {
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

#[test]
fn a_server_that_is_down_is_unavailable_and_never_an_empty_session() {
    let server = Memcached::start();
    let store = server.store();
    let key = create(&store, &setting("n", 1)).unwrap();
    server.kill();
    all_fail(&store, &key, ErrorKind::Unavailable);
    server.start_again();
    assert!(is_absent(&store, &key), "a restart loses the session as a whole");
    let key = create(&store, &setting("n", 1)).unwrap();
    assert!(is_live(&store, &key), "and the store goes on");
}

#[test]
fn a_frozen_server_is_unavailable_after_the_timeout_and_has_lost_nothing() {
    let server = Memcached::start();
    let patient = server.builder_in("frozen").open().unwrap();
    let key = create(&patient, &setting("n", 1)).unwrap();
    let timeout = Duration::from_millis(200);
    let store = server.builder_in("frozen").io_timeout(timeout).open().unwrap();
    server.freeze();
    let began = Instant::now();
    assert_eq!(store.load(&key, NOW).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() < SOON);
    assert_eq!(create(&store, &Delta::new()).unwrap_err().kind(), ErrorKind::Unavailable);
    let merged = merge(&store, &key, &setting("n", 2));
    assert_eq!(merged.unwrap_err().kind(), ErrorKind::Unavailable);
    server.thaw();
    assert!(is_live(&patient, &key), "it answers again");
}

#[test]
fn a_server_that_accepts_and_never_answers_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let timeout = Duration::from_millis(50);
    let builder = MemcachedStore::builder().servers([address]).io_timeout(timeout);
    all_fail(&builder.open().unwrap(), &new_key(), ErrorKind::Unavailable);
}

#[test]
fn what_is_no_memcached_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let store = MemcachedStore::builder().servers([address]).open().unwrap();
    all_fail(&store, &new_key(), ErrorKind::Unavailable);
}

#[test]
fn a_wrong_port_is_unavailable() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let store = MemcachedStore::builder().servers([free.to_string()]).open().unwrap();
    all_fail(&store, &new_key(), ErrorKind::Unavailable);
}

#[test]
fn a_name_that_does_not_resolve_is_told_when_the_store_is_opened() {
    let error = MemcachedStore::builder().servers(["no-such-host.invalid:11211"]).open();
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("no-such-host.invalid:11211"), "{error:?}");
}

#[test]
fn a_limit_per_user_is_refused_when_the_manager_is_built() {
    let builder = SessionManager::builder(shared().store());
    let builder = builder.max_sessions_per_user(3.try_into().unwrap(), AtLimit::EndOldest);
    assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn two_applications_on_one_server_do_not_meet() {
    let (one, other) = (shared().store(), shared().store());
    let key = create(&one, &setting("n", 1)).unwrap();
    assert!(is_absent(&other, &key));
    create_at(&other, &key).unwrap();
    one.clear().unwrap();
    assert!(is_absent(&one, &key));
    assert!(is_live(&other, &key), "a clear ends the sessions of its namespace only");
}

#[test]
fn a_clear_holds_for_every_process_at_once() {
    let server = shared();
    let one = server.builder_in("cleared").open().unwrap();
    let other = server.builder_in("cleared").open().unwrap();
    let key = create(&one, &setting("n", 1)).unwrap();
    assert!(is_live(&other, &key));
    one.clear().unwrap();
    // The other one learns it by its next call, whichever that is.
    let new = create(&other, &setting("n", 2)).unwrap();
    assert!(is_live(&one, &new), "what begins after a clear is found by all");
    assert!(is_absent(&other, &key));
    assert!(matches!(merge(&other, &key, &setting("n", 3)).unwrap(), Committed::Gone));
}

#[test]
fn a_clear_reaches_every_server() {
    let second = Memcached::start();
    let servers = [shared().address, second.address].map(|address| address.to_string());
    let open = || MemcachedStore::builder().servers(servers.clone()).namespace("all").open();
    let (one, other) = (open().unwrap(), open().unwrap());
    let keys: Vec<SessionKey> = (0..50).map(|n| create(&one, &setting("n", n)).unwrap()).collect();
    assert!(keys.iter().all(|key| is_live(&other, key)));
    one.clear().unwrap();
    assert!(keys.iter().all(|key| is_absent(&one, key) && is_absent(&other, key)));
}

#[test]
fn an_epoch_that_was_lost_brings_nothing_back() {
    let server = shared();
    let one = server.builder_in("lost").open().unwrap();
    let other = server.builder_in("lost").open().unwrap();
    let key = create(&one, &setting("n", 1)).unwrap();
    assert!(is_live(&other, &key));
    one.clear().unwrap();
    for _ in 0..3 {
        server.raw().remove("lost:s:epoch");
        // One of them still knows the epoch from before the clear.
        assert!(is_absent(&other, &key));
        assert!(is_absent(&one, &key));
    }
    server.raw().set("lost:s:epoch", b"what is this?");
    assert!(is_absent(&other, &key));
    let new = create(&other, &setting("n", 2)).unwrap();
    assert!(is_live(&one, &new));
}

#[test]
fn garbage_under_a_key_counts_as_absent_is_told_and_is_overwritten() {
    let events = Events::new(LogSink::new());
    let store = shared().builder_in("garbage").events(events.clone()).open().unwrap();
    let key = create(&store, &setting("n", 1)).unwrap();
    let mut raw = shared().raw();
    let name = raw.name("garbage", 's', &key);
    for garbage in [&b""[..], b"hello", b"\x01?", b"\0\0\0\0", b"\x01A", b"{\"format\":1}"] {
        raw.set(&name, garbage);
        let before = events.count(EventKind::Garbage);
        assert!(is_absent(&store, &key), "{garbage:?}");
        assert_eq!(events.count(EventKind::Garbage), before + 1);
        // A late writer brings nothing back; only what begins a session may take the place.
        assert!(matches!(merge(&store, &key, &setting("n", 2)).unwrap(), Committed::Gone));
        assert!(matches!(delete(&store, &key).unwrap(), Committed::Gone));
        store.touch(&[(key, Touch::at(NOW + HOUR))], NOW + HOUR).unwrap();
        assert_eq!(raw.get(&name).unwrap(), garbage);
        assert!(matches!(create_at(&store, &key).unwrap(), Committed::Done { .. }));
        assert!(is_live(&store, &key));
    }
}

#[test]
fn a_value_of_a_newer_version_is_undecodable_and_stays_in_place() {
    let store = shared().builder_in("newer").open().unwrap();
    let key = create(&store, &setting("n", 1)).unwrap();
    let mut raw = shared().raw();
    let name = raw.name("newer", 's', &key);
    for newer in [&b"\x02Lwho knows"[..], b"\x01L{\"format\":2}"] {
        raw.set(&name, newer);
        assert!(matches!(store.load(&key, NOW).unwrap(), Loaded::Undecodable { .. }));
        let merged = merge(&store, &key, &setting("n", 2)).unwrap();
        assert!(matches!(merged, Committed::Undecodable { .. }));
        let renewed = renew(&store, &key, &new_key(), None).unwrap();
        assert!(matches!(renewed, Committed::Undecodable { .. }));
        store.touch(&[(key, Touch::at(NOW + HOUR))], NOW + HOUR).unwrap();
        assert_eq!(create_at(&store, &key).unwrap_err().kind(), ErrorKind::Conflict);
        let to = new_key();
        assert!(matches!(sign_in(&store, &key, &to, "ada").unwrap(), Committed::Done { .. }));
        assert!(is_live(&store, &to));
        assert_eq!(raw.get(&name).unwrap(), newer);
    }
    assert!(matches!(delete(&store, &key).unwrap(), Committed::Deleted { .. }));
    assert!(is_absent(&store, &key));
}

#[test]
fn a_session_over_the_limit_of_an_item_is_too_large_and_the_old_one_is_intact() {
    let server = Memcached::with(&["-I", "512k"]);
    let store = server.builder().item_limit(512 << 10).open().unwrap();
    let key = create(&store, &setting("n", 1)).unwrap();
    let large = setting("n", "x".repeat(512 << 10));
    assert_eq!(create(&store, &large).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(merge(&store, &key, &large).unwrap_err().kind(), ErrorKind::TooLarge);
    let fate = Fate::Renew { to: &new_key(), grace_until: None };
    let renewal = store.commit(&Commit::new(&key, fate, &large, NOW));
    assert_eq!(renewal.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(value(&live(&store, &key).unwrap().unwrap(), "n"), Some(1));
    let fits = setting("n", "x".repeat(500 << 10));
    assert!(matches!(merge(&store, &key, &fits).unwrap(), Committed::Done { .. }));
    assert!(matches!(renew(&store, &key, &new_key(), None).unwrap(), Committed::Done { .. }));
}

#[test]
fn a_limit_that_the_server_does_not_have_is_an_error_of_the_same_kind() {
    let server = Memcached::with(&["-I", "512k"]);
    let store = server.store();
    let large = setting("n", "x".repeat(700 << 10));
    assert_eq!(create(&store, &large).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn a_full_server_drops_sessions_as_a_whole_and_fails_no_request() {
    let server = Memcached::with(&["-m", "8"]);
    let store = server.store();
    let data = setting("n", "x".repeat(20_000));
    let keys: Vec<SessionKey> = (0..2000).map(|_| create(&store, &data).unwrap()).collect();
    let found: Vec<bool> = keys.iter().map(|key| is_live(&store, key)).collect();
    assert!(!found[0], "40 MB do not fit into 8");
    assert!(found[1990..].iter().all(|found| *found), "the newest are there");
    assert!(matches!(merge(&store, &keys[0], &data).unwrap(), Committed::Gone));
}

#[test]
fn a_server_that_may_not_drop_anything_is_full() {
    let server = Memcached::with(&["-m", "8", "-M"]);
    let store = server.store();
    let data = setting("n", "x".repeat(20_000));
    let error = (0..2000).find_map(|_| create(&store, &data).err()).expect("it gets full");
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
}

#[test]
fn an_item_is_kept_for_what_remains_and_a_minute() {
    let store = shared().builder_in("kept").open().unwrap();
    let mut raw = shared().raw();
    let day = HOUR * 24;
    let mut seconds_for = |lifetime: Lifetime| {
        let (key, birth) = (new_key(), Birth::new(lifetime.starting(NOW)).unwrap());
        store.commit(&Commit::new(&key, Fate::Create(&birth), &Delta::new(), NOW)).unwrap();
        let name = raw.name("kept", 's', &key);
        raw.seconds_left(&name).unwrap()
    };
    for (lifetime, wanted) in [
        (Lifetime::idle(HOUR), 3660),
        (Lifetime::fixed(day * 30), 2_592_060),
        // More than memcached takes for a number of seconds: it is sent as a moment.
        (Lifetime::fixed(day * 400), 34_560_060),
    ] {
        let seconds = seconds_for(lifetime);
        assert!((wanted - 5..=wanted + 1).contains(&seconds), "{seconds} s, not {wanted}");
    }
    assert_eq!(seconds_for(Lifetime::fixed(Duration::MAX)), -1);
    // A touch keeps it longer, and what is left behind by a renewal goes soon.
    let (key, birth) = (new_key(), Birth::new(Lifetime::idle(HOUR).starting(NOW)).unwrap());
    store.commit(&Commit::new(&key, Fate::Create(&birth), &Delta::new(), NOW)).unwrap();
    let name = raw.name("kept", 's', &key);
    store.touch(&[(key, Touch::at(NOW + HOUR / 2))], NOW).unwrap();
    assert!(raw.seconds_left(&name).unwrap() > 3660 + 1700);
    renew(&store, &key, &new_key(), None).unwrap();
    let remembered = i64::try_from(Former::REMEMBERED.as_secs()).unwrap() + 60;
    let seconds = raw.seconds_left(&name).unwrap();
    assert!((remembered - 5..=remembered).contains(&seconds), "{seconds} s");
}

#[test]
fn the_injected_clock_decides_about_the_deadline() {
    let store = shared().store();
    let key = create(&store, &setting("n", 1)).unwrap();
    let deadline = live(&store, &key).unwrap().unwrap().deadline();
    assert!(matches!(store.load(&key, deadline).unwrap(), Loaded::Absent));
    assert!(is_live(&store, &key), "it is there all the same");
    assert_eq!(store.sweep(deadline, NonZeroUsize::MIN).unwrap(), 0);
}

#[test]
fn the_loss_of_one_server_loses_its_share_only_and_nothing_moves_over() {
    let (one, other) = (Memcached::start(), Memcached::start());
    let addresses = [one.address.to_string(), other.address.to_string()];
    let store = MemcachedStore::builder().servers(addresses.clone()).open().unwrap();
    let keys: Vec<SessionKey> =
        (0..100).map(|n| create(&store, &setting("n", n)).unwrap()).collect();
    one.kill();
    let alive: Vec<bool> = keys.iter().map(|key| store.load(key, NOW).is_ok()).collect();
    let share = alive.iter().filter(|alive| **alive).count();
    assert!((20..80).contains(&share), "{share} of 100 are on one of two servers");
    for (key, alive) in keys.iter().zip(&alive) {
        match store.load(key, NOW) {
            Ok(loaded) => assert!(matches!(loaded, Loaded::Live { .. })),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable),
        }
        let written = merge(&store, key, &setting("n", 0));
        assert_eq!(written.is_ok(), *alive, "nothing is written to the other server instead");
    }
    // What can be touched is, although one server fails the call.
    let later = NOW + HOUR;
    let batch: Vec<_> = keys.iter().map(|key| (*key, Touch::at(later))).collect();
    assert_eq!(store.touch(&batch, later).unwrap_err().kind(), ErrorKind::Unavailable);
    for (key, _) in keys.iter().zip(&alive).filter(|(_, alive)| **alive) {
        assert_eq!(live(&store, key).unwrap().unwrap().seen, later);
    }
    one.start_again();
    // In another order the servers are the same.
    let [a, b] = addresses;
    let reversed = MemcachedStore::builder().servers([b, a]).open().unwrap();
    for (key, alive) in keys.iter().zip(&alive) {
        assert_eq!(is_live(&store, key), *alive);
        assert_eq!(is_live(&reversed, key), *alive);
    }
}

/// What a request does to a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Renew,
    RenewWithGrace,
    SignIn,
    SignInOverAnother,
    Merge,
    Delete,
}

impl Act {
    const ALL: [Act; 6] = [
        Act::Renew,
        Act::RenewWithGrace,
        Act::SignIn,
        Act::SignInOverAnother,
        Act::Merge,
        Act::Delete,
    ];

    fn moves(self) -> bool {
        !matches!(self, Act::Merge | Act::Delete)
    }

    fn run(self, store: &MemcachedStore, key: &SessionKey, to: &SessionKey) -> Result<Committed> {
        match self {
            Act::Renew => renew(store, key, to, None),
            Act::RenewWithGrace => renew(store, key, to, Some(NOW + HOUR)),
            Act::SignIn => sign_in(store, key, to, "ada"),
            Act::SignInOverAnother => sign_in(store, key, to, "bob"),
            Act::Merge => merge(store, key, &setting("n", 2)),
            Act::Delete => delete(store, key),
        }
    }
}

/// A store, and another on the same sessions whose commands a test can stop.
struct Stopped {
    store: MemcachedStore,
    proxy: Proxy,
    through: MemcachedStore,
}

impl Stopped {
    fn new() -> Stopped {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let namespace = format!("stopped{number}");
        let store = shared().builder_in(&namespace).open().unwrap();
        let proxy = Proxy::to(shared().address);
        let through = MemcachedStore::builder().servers([proxy.address.to_string()]);
        // A request that is held must not give up.
        let patient = Duration::from_secs(20);
        let through = through.namespace(namespace).io_timeout(patient).open().unwrap();
        let stopped = Stopped { store, proxy, through };
        // It has learned the epoch before requests are counted.
        assert!(is_absent(&stopped.through, &new_key()));
        stopped
    }

    /// A session of somebody, of ada, or of nobody, as the act needs it.
    fn session(&self, act: Act) -> SessionKey {
        let key = create(&self.store, &setting("n", 1)).unwrap();
        if act != Act::SignInOverAnother {
            return key;
        }
        let to = new_key();
        sign_in(&self.store, &key, &to, "ada").unwrap();
        to
    }

    /// The keys under which something lives, by its own key.
    fn alive(&self, keys: [&SessionKey; 2]) -> Vec<SessionKey> {
        let mut alive = Vec::new();
        for asked in keys {
            if let Loaded::Live { key, .. } = self.store.load(asked, NOW).unwrap()
                && !alive.contains(&key)
            {
                alive.push(key);
            }
        }
        alive
    }
}

#[test]
fn a_request_that_stops_between_any_two_commands_leaves_one_living_id() {
    let stopped = Stopped::new();
    for act in Act::ALL {
        for number in 0..8 {
            let one = Plan::LoseOneAnswer(number);
            for lost in [Plan::LoseRequest(number), Plan::LoseAnswer(number), one] {
                let what = format!("{act:?}, {lost:?}");
                let (key, to) = (stopped.session(act), new_key());
                stopped.proxy.plan(lost);
                let answer = act.run(&stopped.through, &key, &to);
                stopped.proxy.plan(Plan::Pass);
                let alive = stopped.alive([&key, &to]);
                if act == Act::Delete {
                    assert!(alive.len() <= 1, "{what}: {alive:?}");
                    assert!(answer.is_err() || alive.is_empty(), "{what}: {answer:?}");
                    continue;
                }
                assert_eq!(alive.len(), 1, "{what}: {answer:?} left {alive:?}");
                match &answer {
                    Ok(Committed::Done { key: now, .. }) => assert_eq!(alive, [*now], "{what}"),
                    Ok(other) => panic!("{what}: {other:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}"),
                }
                if alive == [to] && act.moves() && act != Act::RenewWithGrace {
                    let old = stopped.store.load(&key, NOW).unwrap();
                    assert!(matches!(old, Loaded::Renewed), "{what}: {old:?}");
                }
                // And what lives can be ended, for good.
                assert!(matches!(
                    delete(&stopped.store, &alive[0]).unwrap(),
                    Committed::Deleted { .. }
                ));
                assert!(stopped.alive([&key, &to]).is_empty(), "{what}");
            }
        }
    }
}

#[test]
fn a_sign_out_while_a_request_stands_between_any_two_commands_is_final() {
    let stopped = Stopped::new();
    for act in Act::ALL {
        for number in 0..6 {
            let (key, to) = (stopped.session(act), new_key());
            let what = format!("{act:?} held before its command {number}");
            let held = stopped.proxy.hold(number);
            let (ended, answer) = thread::scope(|scope| {
                let (done, is_done) = std::sync::mpsc::channel();
                let through = &stopped.through;
                let request = scope.spawn(move || {
                    let answer = act.run(through, &key, &to);
                    done.send(()).unwrap();
                    answer
                });
                // It may need fewer commands than that.
                let mut reached = false;
                while !reached && is_done.try_recv().is_err() {
                    reached = held.is_reached_now();
                }
                let ended =
                    matches!(delete(&stopped.store, &key).unwrap(), Committed::Deleted { .. });
                drop(held);
                (ended, request.join().unwrap())
            });
            stopped.proxy.plan(Plan::Pass);
            let alive = stopped.alive([&key, &to]);
            let said = format!("{what}: ended {ended}, {answer:?}, alive {alive:?}");
            match act {
                // A sign-in is an act of its own: it begins a session where it finds none.
                Act::SignIn | Act::SignInOverAnother => {
                    assert_eq!(alive, [to], "{said}");
                    assert!(matches!(answer, Ok(Committed::Done { .. })), "{said}");
                    let record = live(&stopped.store, &to).unwrap().unwrap();
                    let kept = value::<u32>(&record, "n").is_some();
                    assert!(!(ended && kept), "{said}: what was ended is back");
                }
                _ => assert_eq!(alive.is_empty(), ended || act == Act::Delete, "{said}"),
            }
        }
    }
}

#[test]
fn a_touch_that_a_change_came_before_is_recorded_all_the_same() {
    let stopped = Stopped::new();
    let key = create(&stopped.store, &setting("n", 1)).unwrap();
    let later = NOW + HOUR;
    // It has read the session, and is about to write.
    let held = stopped.proxy.hold(1);
    thread::scope(|scope| {
        let touch = scope.spawn(|| stopped.through.touch(&[(key, Touch::at(later))], later));
        assert!(held.is_reached());
        merge(&stopped.store, &key, &setting("n", 2)).unwrap();
        drop(held);
        touch.join().unwrap().unwrap();
    });
    let record = live(&stopped.store, &key).unwrap().unwrap();
    assert_eq!(record.seen, later);
    assert_eq!(value(&record, "n"), Some(2));
}

/// A session that is on its way, as it is when the request dies right after the moment of its
/// commit; the key it leaves, and the one to which it goes.
fn on_its_way(stopped: &Stopped, act: Act) -> (SessionKey, SessionKey) {
    let (key, to) = (stopped.session(act), new_key());
    // It looks, reserves, and moves.
    stopped.proxy.plan(Plan::LoseRequest(3));
    act.run(&stopped.through, &key, &to).unwrap();
    stopped.proxy.plan(Plan::Pass);
    (key, to)
}

#[test]
fn whoever_comes_by_either_key_finishes_a_move() {
    let stopped = Stopped::new();
    for act in [Act::Renew, Act::RenewWithGrace, Act::SignIn, Act::SignInOverAnother] {
        let (_, to) = on_its_way(&stopped, act);
        assert!(is_live(&stopped.store, &to), "{act:?}: by the new key");

        let (key, to) = on_its_way(&stopped, act);
        let graced = act == Act::RenewWithGrace;
        match stopped.store.load(&key, NOW).unwrap() {
            Loaded::Live { key, .. } if graced => assert_eq!(key, to),
            Loaded::Renewed if !graced => {}
            other => panic!("{act:?}: by the old key {other:?}"),
        }
        assert!(is_live(&stopped.store, &to));

        let (key, to) = on_its_way(&stopped, act);
        let later = NOW + HOUR / 2;
        stopped.store.touch(&[(to, Touch::at(later)), (key, Touch::at(later))], later).unwrap();
        assert_eq!(live(&stopped.store, &to).unwrap().unwrap().seen, later, "{act:?}: by a touch");

        let (key, to) = on_its_way(&stopped, act);
        let answer = merge(&stopped.store, &key, &setting("late", 1)).unwrap();
        match answer {
            Committed::Done { key, .. } if graced => assert_eq!(key, to),
            Committed::Renewed if !graced => {}
            other => panic!("{act:?}: by a merge {other:?}"),
        }
    }
}

#[test]
fn a_move_to_a_server_that_goes_away_is_finished_when_it_is_back() {
    let (one, other) = (Memcached::start(), Memcached::start());
    let proxy = Proxy::to(other.address);
    let servers = [one.address, proxy.address].map(|address| address.to_string());
    let store = MemcachedStore::builder().servers(servers).open().unwrap();
    let here_or_there = || {
        proxy.plan(Plan::Down);
        let (there, here): (Vec<_>, Vec<_>) =
            (0..100).map(|_| new_key()).partition(|key| store.load(key, NOW).is_err());
        proxy.plan(Plan::Pass);
        (here[0], there[0])
    };
    for act in [Act::Renew, Act::RenewWithGrace, Act::SignIn] {
        let (key, to) = here_or_there();
        create_at(&store, &key).unwrap();
        // The other server reserves the key, and is gone when the session shall arrive.
        assert!(is_absent(&store, &to), "its epoch is known");
        proxy.plan(Plan::LoseRequest(1));
        let answer = act.run(&store, &key, &to).unwrap();
        assert!(matches!(answer, Committed::Done { key, .. } if key == to), "{answer:?}");
        assert_eq!(store.load(&to, NOW).unwrap_err().kind(), ErrorKind::Unavailable);
        proxy.plan(Plan::Pass);
        assert!(is_live(&store, &to), "{act:?}");
        assert!(matches!(delete(&store, &to).unwrap(), Committed::Deleted { .. }));
        assert!(!is_live(&store, &key), "{act:?}");
    }
}

#[test]
fn who_finishes_a_move_late_brings_nothing_back() {
    let stopped = Stopped::new();
    for act in [Act::Renew, Act::RenewWithGrace, Act::SignIn] {
        for by_new_key in [false, true] {
            for number in 0..8 {
                let (key, to) = on_its_way(&stopped, act);
                let asked = if by_new_key { to } else { key };
                let held = stopped.proxy.hold(number);
                thread::scope(|scope| {
                    let (done, is_done) = std::sync::mpsc::channel();
                    let through = &stopped.through;
                    let late = scope.spawn(move || {
                        let _ = through.load(&asked, NOW);
                        done.send(()).unwrap();
                    });
                    let mut reached = false;
                    while !reached && is_done.try_recv().is_err() {
                        reached = held.is_reached_now();
                    }
                    let ended = delete(&stopped.store, &to).unwrap();
                    assert!(matches!(ended, Committed::Deleted { .. }), "{act:?} {number}");
                    drop(held);
                    late.join().unwrap();
                });
                stopped.proxy.plan(Plan::Pass);
                let alive = stopped.alive([&key, &to]);
                assert!(alive.is_empty(), "{act:?}, by the new key: {by_new_key}, {number}");
            }
        }
    }
}

#[test]
fn what_is_reserved_does_not_live_and_goes_when_it_is_not_used() {
    let stopped = Stopped::new();
    let (key, to) = (stopped.session(Act::Renew), new_key());
    // The request dies after it has reserved.
    stopped.proxy.plan(Plan::LoseRequest(2));
    act_fails(Act::Renew.run(&stopped.through, &key, &to));
    stopped.proxy.plan(Plan::Pass);
    assert!(is_absent(&stopped.store, &to));
    assert!(is_live(&stopped.store, &key), "the old id works as if nothing had been");
    assert!(matches!(merge(&stopped.store, &to, &setting("n", 2)).unwrap(), Committed::Gone));
    // A renewal that is overtaken by a sign-out leaves nothing behind.
    let (key, to) = (stopped.session(Act::Renew), new_key());
    let held = stopped.proxy.hold(2);
    thread::scope(|scope| {
        let request = scope.spawn(|| Act::Renew.run(&stopped.through, &key, &to).unwrap());
        assert!(held.is_reached());
        delete(&stopped.store, &key).unwrap();
        drop(held);
        assert!(matches!(request.join().unwrap(), Committed::Gone));
    });
    create_at(&stopped.store, &to).expect("the key is free");
}

fn act_fails(answer: Result<Committed>) {
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn a_write_whose_answer_was_lost_is_neither_done_nor_undone() {
    let stopped = Stopped::new();
    let key = create(&stopped.store, &setting("n", 1)).unwrap();
    stopped.proxy.plan(Plan::LoseAnswer(1));
    let error = merge(&stopped.through, &key, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("whether it was done is not known"), "{error:?}");
    assert_eq!(value(&live(&stopped.store, &key).unwrap().unwrap(), "n"), Some(2), "it was");
}

#[test]
fn under_load_a_kill_fails_requests_but_is_never_an_answer_of_its_own() {
    let server = Arc::new(Memcached::start());
    let store = server.store();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = 0;
                    for n in 0..400 {
                        match create(&store, &setting("n", n)) {
                            Ok(key) => match store.load(&key, NOW) {
                                // Lost as a whole by the restart, or there as a whole.
                                Ok(Loaded::Absent) => {}
                                Ok(Loaded::Live { record, .. }) => {
                                    assert_eq!(value(&record, "n"), Some(n));
                                }
                                Ok(other) => panic!("{other:?}"),
                                Err(_) => failures += 1,
                            },
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Unavailable);
                                failures += 1;
                            }
                        }
                    }
                    failures
                })
            })
            .collect();
        server.kill();
        server.start_again();
        let failures: u32 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(failures < 3200);
    });
    let key = create(&store, &setting("n", 1)).unwrap();
    assert!(is_live(&store, &key));
}
