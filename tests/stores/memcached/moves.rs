//! Requests that stop between any two of their commands.

use std::thread;
use std::time::Duration;

use cloakroom::backend::{
    Action, Commit, Committed, Delta, LiveSession, Loaded, Missing, ReplacedBy, Store, Touch,
};
use cloakroom::id::{JoinSalt, SessionIdHash};
use cloakroom::stores::memcached::MemcachedStore;
use cloakroom::{ErrorKind, Result};

use crate::common::client::PATIENCE;
use crate::common::memcached::{Memcached, on, shared};
use crate::common::proxy::{Plan, Proxy};
use crate::common::{
    HOUR, NOW, create, end, live, merge, new_id_hash, new_session, setting, value,
};
use crate::memcached::given::{create_at, is_absent, is_live, renew, sign_in, user};

/// An action of a request on a session.
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

    fn run(
        self,
        store: &MemcachedStore,
        id_hash: &SessionIdHash,
        to: &SessionIdHash,
    ) -> Result<Committed> {
        match self {
            Act::Renew => renew(store, id_hash, to, None),
            Act::RenewWithGrace => renew(store, id_hash, to, Some(NOW + HOUR)),
            Act::SignIn => sign_in(store, id_hash, to, "ada"),
            Act::SignInOverAnother => sign_in(store, id_hash, to, "bob"),
            Act::Merge => merge(store, id_hash, &setting("n", 2)),
            Act::Delete => end(store, id_hash),
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
        // A request that is held must not give up.
        let through = on([proxy.address.to_string()]).namespace(namespace).open().unwrap();
        let stopped = Stopped { store, proxy, through };
        // It has learned the epoch before requests are counted.
        assert!(is_absent(&stopped.through, &new_id_hash()));
        stopped
    }

    /// A session of a user, of ada, or anonymous, as the act needs it.
    fn session(&self, act: Act) -> SessionIdHash {
        let id_hash = create(&self.store, &setting("n", 1)).unwrap();
        if act != Act::SignInOverAnother {
            return id_hash;
        }
        let to = new_id_hash();
        sign_in(&self.store, &id_hash, &to, "ada").unwrap();
        to
    }

    /// The ids under which something lives, by its own id.
    fn alive(&self, id_hashes: [&SessionIdHash; 2]) -> Vec<SessionIdHash> {
        let mut alive = Vec::new();
        for asked in id_hashes {
            if let Loaded::Live(LiveSession { id_hash, .. }) = self.store.load(asked, NOW).unwrap()
                && !alive.contains(&id_hash)
            {
                alive.push(id_hash);
            }
        }
        alive
    }
}

#[test]
fn a_request_that_stops_anywhere_leaves_one_live_id() {
    let stopped = Stopped::new();
    for act in Act::ALL {
        for number in 0..8 {
            let one = Plan::LoseOneAnswer(number);
            for lost in [Plan::LoseRequest(number), Plan::LoseAnswer(number), one] {
                let what = format!("{act:?}, {lost:?}");
                let (id_hash, to) = (stopped.session(act), new_id_hash());
                stopped.proxy.plan(lost);
                let answer = act.run(&stopped.through, &id_hash, &to);
                stopped.proxy.plan(Plan::Pass);
                let alive = stopped.alive([&id_hash, &to]);
                if act == Act::Delete {
                    assert!(alive.len() <= 1, "{what}: {alive:?}");
                    assert!(answer.is_err() || alive.is_empty(), "{what}: {answer:?}");
                    continue;
                }
                assert_eq!(alive.len(), 1, "{what}: {answer:?} left {alive:?}");
                match &answer {
                    Ok(Committed::Done { session: LiveSession { id_hash: now, .. }, .. }) => {
                        assert_eq!(alive, [*now], "{what}")
                    }
                    Ok(other) => panic!("{what}: {other:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}"),
                }
                if alive == [to] && act.moves() && act != Act::RenewWithGrace {
                    let old = stopped.store.load(&id_hash, NOW).unwrap();
                    assert!(
                        matches!(old, Loaded::Missing(Missing::Replaced { .. })),
                        "{what}: {old:?}"
                    );
                }
                // And what lives can be ended, for good.
                let outcome = end(&stopped.store, &alive[0]).unwrap();
                assert!(matches!(outcome, Committed::Ended(_)));
                assert!(stopped.alive([&id_hash, &to]).is_empty(), "{what}");
            }
        }
    }
}

/// It has reserved its new id for the session as it was found, and must not move another one there.
#[test]
fn a_sign_in_after_a_renewal_that_stops_leaves_one_live_id() {
    let stopped = Stopped::new();
    for act in [Act::SignIn, Act::SignInOverAnother] {
        for number in 0..10 {
            let one = Plan::LoseOneAnswer(number);
            for lost in [Plan::LoseRequest(number), Plan::LoseAnswer(number), one] {
                let what = format!("{act:?}, {lost:?}");
                let (id_hash, renewed, to) = (stopped.session(act), new_id_hash(), new_id_hash());
                // It has found the session and reserved, and is about to move it.
                let held = stopped.proxy.hold(2);
                let answer = thread::scope(|scope| {
                    let request = scope.spawn(|| act.run(&stopped.through, &id_hash, &to));
                    assert!(held.is_reached_within(PATIENCE), "{what}");
                    renew(&stopped.store, &id_hash, &renewed, Some(NOW + HOUR)).unwrap();
                    stopped.proxy.plan(lost);
                    drop(held);
                    request.join().unwrap()
                });
                stopped.proxy.plan(Plan::Pass);
                let alive = stopped.alive([&renewed, &to]);
                assert_eq!(alive.len(), 1, "{what}: {answer:?} left {alive:?}");
                match &answer {
                    Ok(Committed::Done { .. }) => assert_eq!(alive, [to], "{what}"),
                    Ok(other) => panic!("{what}: {other:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}"),
                }
            }
        }
    }
}

#[test]
fn a_sign_out_between_any_two_commands_is_final() {
    let stopped = Stopped::new();
    for act in Act::ALL {
        for number in 0..6 {
            let (id_hash, to) = (stopped.session(act), new_id_hash());
            let what = format!("{act:?} held before its command {number}");
            let held = stopped.proxy.hold(number);
            let (ended, answer) = thread::scope(|scope| {
                let (done, is_done) = std::sync::mpsc::channel();
                let through = &stopped.through;
                let request = scope.spawn(move || {
                    let answer = act.run(through, &id_hash, &to);
                    done.send(()).unwrap();
                    answer
                });
                // It may need fewer commands than that.
                let mut reached = false;
                while !reached && is_done.try_recv().is_err() {
                    reached = held.is_reached_within(Duration::from_millis(1));
                }
                let ended = matches!(end(&stopped.store, &id_hash).unwrap(), Committed::Ended(_));
                drop(held);
                (ended, request.join().unwrap())
            });
            stopped.proxy.plan(Plan::Pass);
            let alive = stopped.alive([&id_hash, &to]);
            let said = format!("{what}: ended {ended}, {answer:?}, alive {alive:?}");
            match act {
                // A sign-in is an act of its own: it begins a session where it finds none. A
                // sign-out that comes after it ends its session, through the replaced id too.
                Act::SignIn | Act::SignInOverAnother => {
                    assert!(matches!(answer, Ok(Committed::Done { .. })), "{said}");
                    if alive.is_empty() {
                        assert!(ended, "{said}");
                        continue;
                    }
                    assert_eq!(alive, [to], "{said}");
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
    let id_hash = create(&stopped.store, &setting("n", 1)).unwrap();
    let later = NOW + HOUR;
    // It has read the session, and is about to write.
    let held = stopped.proxy.hold(1);
    thread::scope(|scope| {
        let touch = scope.spawn(|| stopped.through.touch(&[(id_hash, Touch::at(later))], later));
        held.wait_until_reached();
        merge(&stopped.store, &id_hash, &setting("n", 2)).unwrap();
        drop(held);
        touch.join().unwrap().unwrap();
    });
    let record = live(&stopped.store, &id_hash).unwrap().unwrap();
    assert_eq!(record.seen, later);
    assert_eq!(value(&record, "n"), Some(2));
}

/// A session that is on its way, as it is when the request dies right after the moment of its
/// commit; the id it leaves, and the one to which it goes.
fn on_its_way(stopped: &Stopped, act: Act) -> (SessionIdHash, SessionIdHash) {
    let (id_hash, to) = (stopped.session(act), new_id_hash());
    // It looks, reserves, and moves.
    stopped.proxy.plan(Plan::LoseRequest(3));
    act.run(&stopped.through, &id_hash, &to).unwrap();
    stopped.proxy.plan(Plan::Pass);
    (id_hash, to)
}

#[test]
fn a_request_with_either_id_finishes_a_move() {
    let stopped = Stopped::new();
    for act in [Act::Renew, Act::RenewWithGrace, Act::SignIn, Act::SignInOverAnother] {
        let (_, to) = on_its_way(&stopped, act);
        assert!(is_live(&stopped.store, &to), "{act:?}: by the new id");

        let (id_hash, to) = on_its_way(&stopped, act);
        let graced = act == Act::RenewWithGrace;
        match stopped.store.load(&id_hash, NOW).unwrap() {
            Loaded::Live(LiveSession { id_hash, .. }) if graced => {
                assert_eq!(id_hash, to)
            }
            Loaded::Missing(Missing::Replaced { .. }) if !graced => {}
            other => panic!("{act:?}: by the old id {other:?}"),
        }
        assert!(is_live(&stopped.store, &to));

        let (id_hash, to) = on_its_way(&stopped, act);
        let later = NOW + HOUR / 2;
        stopped.store.touch(&[(to, Touch::at(later)), (id_hash, Touch::at(later))], later).unwrap();
        assert_eq!(live(&stopped.store, &to).unwrap().unwrap().seen, later, "{act:?}: by a touch");

        let (id_hash, to) = on_its_way(&stopped, act);
        let answer = merge(&stopped.store, &id_hash, &setting("late", 1)).unwrap();
        match answer {
            Committed::Done { session: LiveSession { id_hash, .. }, .. } if graced => {
                assert_eq!(id_hash, to)
            }
            Committed::Missing(Missing::Replaced { .. }) if !graced => {}
            other => panic!("{act:?}: by a merge {other:?}"),
        }
    }
}

#[test]
fn a_move_to_a_lost_server_is_finished_when_it_is_back() {
    let (one, other) = (Memcached::start(), Memcached::start());
    let proxy = Proxy::to(other.address);
    let servers = [one.address, proxy.address].map(|address| address.to_string());
    let store = on(servers).open().unwrap();
    let here_or_there = || {
        proxy.plan(Plan::Down);
        let (there, here): (Vec<_>, Vec<_>) =
            (0..100).map(|_| new_id_hash()).partition(|id_hash| store.load(id_hash, NOW).is_err());
        proxy.plan(Plan::Pass);
        (here[0], there[0])
    };
    for act in [Act::Renew, Act::RenewWithGrace, Act::SignIn] {
        let (id_hash, to) = here_or_there();
        create_at(&store, &id_hash).unwrap();
        // The other server reserves the id, and is gone when the session shall arrive.
        assert!(is_absent(&store, &to), "its epoch is known");
        proxy.plan(Plan::LoseRequest(1));
        let answer = act.run(&store, &id_hash, &to).unwrap();
        assert!(
            matches!(answer, Committed::Done { session: LiveSession { id_hash, .. }, .. } if id_hash == to),
            "{answer:?}"
        );
        assert_eq!(store.load(&to, NOW).unwrap_err().kind(), ErrorKind::Unavailable);
        proxy.plan(Plan::Pass);
        assert!(is_live(&store, &to), "{act:?}");
        assert!(matches!(end(&store, &to).unwrap(), Committed::Ended(_)));
        assert!(!is_live(&store, &id_hash), "{act:?}");
    }
}

#[test]
fn a_reader_held_while_it_finishes_a_move_brings_nothing_back() {
    let stopped = Stopped::new();
    for act in [Act::Renew, Act::RenewWithGrace, Act::SignIn] {
        for by_new_id_hash in [false, true] {
            for number in 0..8 {
                let (id_hash, to) = on_its_way(&stopped, act);
                let asked = if by_new_id_hash { to } else { id_hash };
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
                        reached = held.is_reached_within(Duration::from_millis(1));
                    }
                    let ended = end(&stopped.store, &to).unwrap();
                    assert!(matches!(ended, Committed::Ended(_)), "{act:?} {number}");
                    drop(held);
                    late.join().unwrap();
                });
                stopped.proxy.plan(Plan::Pass);
                let alive = stopped.alive([&id_hash, &to]);
                assert!(alive.is_empty(), "{act:?}, by the new id: {by_new_id_hash}, {number}");
            }
        }
    }
}

#[test]
fn an_unused_reservation_finds_nothing_and_is_removed() {
    let stopped = Stopped::new();
    let (id_hash, to) = (stopped.session(Act::Renew), new_id_hash());
    // The request dies after it has reserved.
    stopped.proxy.plan(Plan::LoseRequest(2));
    act_fails(Act::Renew.run(&stopped.through, &id_hash, &to));
    stopped.proxy.plan(Plan::Pass);
    assert!(is_absent(&stopped.store, &to));
    assert!(is_live(&stopped.store, &id_hash), "the old id works as if nothing had been");
    let answer = merge(&stopped.store, &to, &setting("n", 2)).unwrap();
    assert!(matches!(answer, Committed::Missing(Missing::NotFound { .. })));
    // A renewal that is overtaken by a sign-out leaves nothing behind.
    let (id_hash, to) = (stopped.session(Act::Renew), new_id_hash());
    let held = stopped.proxy.hold(2);
    thread::scope(|scope| {
        let request = scope.spawn(|| Act::Renew.run(&stopped.through, &id_hash, &to).unwrap());
        held.wait_until_reached();
        end(&stopped.store, &id_hash).unwrap();
        drop(held);
        assert!(matches!(request.join().unwrap(), Committed::Missing(Missing::NotFound { .. })));
    });
    create_at(&stopped.store, &to).expect("the id is free");
}

fn act_fails(answer: Result<Committed>) {
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn a_write_whose_answer_was_lost_is_neither_done_nor_undone() {
    let stopped = Stopped::new();
    let id_hash = create(&stopped.store, &setting("n", 1)).unwrap();
    stopped.proxy.plan(Plan::LoseAnswer(1));
    let error = merge(&stopped.through, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("whether it was done is not known"), "{error:?}");
    assert_eq!(value(&live(&stopped.store, &id_hash).unwrap().unwrap(), "n"), Some(2), "it was");
}

/// A sign-in through an id that was replaced before makes that id replaced by the sign-in, in the
/// same step as its move.
#[test]
fn a_sign_in_by_a_replaced_id_replaces_it_again_at_once() {
    let stopped = Stopped::new();
    let [signed_in, loaded] = [590, 620].map(|seconds| NOW + Duration::from_secs(seconds));
    for over_another in [false, true] {
        let act = if over_another { Act::SignInOverAnother } else { Act::SignIn };
        let (id_hash, renewed, to) = (stopped.session(act), new_id_hash(), new_id_hash());
        renew(&stopped.store, &id_hash, &renewed, None).unwrap();
        let action = Action::SignIn {
            to,
            user: user("bob"),
            new_session: new_session(),
            join_salt: Some(JoinSalt::from_bytes([7; 32])),
        };
        // It reads both ids, reserves the new one, moves, stores the session and the redirect; then
        // it is lost.
        stopped.proxy.plan(Plan::LoseRequest(6));
        let commit = Commit::new(&id_hash, action, Delta::new(), signed_in);
        assert!(matches!(stopped.through.commit(&commit).unwrap(), Committed::Done { .. }));
        stopped.proxy.plan(Plan::Pass);
        match stopped.store.load(&id_hash, loaded).unwrap() {
            Loaded::Missing(Missing::Replaced { id, session }) => {
                assert_eq!(session.id_hash, to);
                assert_eq!((id.id_hash, id.replaced_at), (id_hash, signed_in));
                let salt = Some(JoinSalt::from_bytes([7; 32]));
                assert_eq!(id.by, ReplacedBy::SignIn { salt }, "a second click can join");
            }
            other => panic!("{act:?}: {other:?}"),
        }
        // The id between them was not presented.
        let between = stopped.store.load(&renewed, loaded).unwrap();
        match (over_another, between) {
            (true, Loaded::Missing(Missing::NotFound { .. })) => {}
            (false, Loaded::Missing(Missing::Replaced { id, .. })) => {
                assert_eq!(id.by, ReplacedBy::SignIn { salt: None });
            }
            (_, other) => panic!("{act:?}: {other:?}"),
        }
    }
}
