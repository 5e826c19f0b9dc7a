//! Changes of a session's id, by requests that stop between any two of their commands.

use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom::backend::{
    Action, Commit, CommitAnswer, CsrfSecret, Delta, LiveSession, Loaded, ReplacedBy, Store, Touch,
    Unreadable,
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
use crate::memcached::operations::{create_at, is_absent, is_live, renew, sign_in, user};

/// What a request does to a session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Renew,
    RenewWithGrace,
    SignIn,
    SignInOverAnother,
    Merge,
    Delete,
}

impl Operation {
    const ALL: [Operation; 6] = [
        Operation::Renew,
        Operation::RenewWithGrace,
        Operation::SignIn,
        Operation::SignInOverAnother,
        Operation::Merge,
        Operation::Delete,
    ];

    fn changes_id(self) -> bool {
        !matches!(self, Operation::Merge | Operation::Delete)
    }

    fn run(
        self,
        store: &MemcachedStore,
        id_hash: &SessionIdHash,
        to: &SessionIdHash,
    ) -> Result<CommitAnswer> {
        match self {
            Operation::Renew => renew(store, id_hash, to, None),
            Operation::RenewWithGrace => renew(store, id_hash, to, Some(NOW + HOUR)),
            Operation::SignIn => sign_in(store, id_hash, to, "ada"),
            Operation::SignInOverAnother => sign_in(store, id_hash, to, "bob"),
            Operation::Merge => merge(store, id_hash, &setting("n", 2)),
            Operation::Delete => end(store, id_hash),
        }
    }
}

/// A store, and a second one on the same sessions behind a proxy that stops its commands.
struct StoppableRequests {
    store: MemcachedStore,
    proxy: Proxy,
    through: MemcachedStore,
}

impl StoppableRequests {
    fn new() -> StoppableRequests {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let namespace = format!("moves{number}");
        let store = shared().builder_in(&namespace).open().unwrap();
        let proxy = Proxy::to(shared().address);
        // Long timeouts: a request that the proxy holds must not give up.
        let through = on([proxy.address.to_string()]).namespace(namespace).open().unwrap();
        let requests = StoppableRequests { store, proxy, through };
        // It reads the nonce before commands are counted.
        assert!(is_absent(&requests.through, &new_id_hash()));
        requests
    }

    /// Begins the session that the operation needs: anonymous, or of the user ada.
    fn session(&self, operation: Operation) -> SessionIdHash {
        let id_hash = create(&self.store, &setting("n", 1)).unwrap();
        if operation != Operation::SignInOverAnother {
            return id_hash;
        }
        let to = new_id_hash();
        sign_in(&self.store, &id_hash, &to, "ada").unwrap();
        to
    }

    /// The current ids of the live sessions that these ids find.
    fn live_ids(&self, id_hashes: [&SessionIdHash; 2]) -> Vec<SessionIdHash> {
        let mut live_ids = Vec::new();
        for asked in id_hashes {
            if let Loaded::Live(LiveSession { id_hash, .. }) = self.store.load(asked, NOW).unwrap()
                && !live_ids.contains(&id_hash)
            {
                live_ids.push(id_hash);
            }
        }
        live_ids
    }
}

#[test]
fn a_request_that_stops_anywhere_leaves_one_live_id() {
    let requests = StoppableRequests::new();
    for operation in Operation::ALL {
        for number in 0..8 {
            let one = Plan::LoseOneAnswer(number);
            for lost in [Plan::LoseRequest(number), Plan::LoseAnswer(number), one] {
                let what = format!("{operation:?}, {lost:?}");
                let id_hash = requests.session(operation);
                let to = new_id_hash();
                requests.proxy.plan(lost);
                let answer = operation.run(&requests.through, &id_hash, &to);
                requests.proxy.plan(Plan::Pass);
                let live_ids = requests.live_ids([&id_hash, &to]);
                if operation == Operation::Delete {
                    assert!(live_ids.len() <= 1, "{what}: {live_ids:?}");
                    assert!(answer.is_err() || live_ids.is_empty(), "{what}: {answer:?}");
                    continue;
                }
                assert_eq!(live_ids.len(), 1, "{what}: {answer:?} left {live_ids:?}");
                match &answer {
                    Ok(CommitAnswer::Done {
                        session: LiveSession { id_hash: now, .. }, ..
                    }) => {
                        assert_eq!(live_ids, [*now], "{what}")
                    }
                    Ok(other) => panic!("{what}: {other:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}"),
                }
                if live_ids == [to]
                    && operation.changes_id()
                    && operation != Operation::RenewWithGrace
                {
                    let old = requests.store.load(&id_hash, NOW).unwrap();
                    assert!(
                        matches!(old, Loaded::Unreadable(Unreadable::Replaced { .. })),
                        "{what}: {old:?}"
                    );
                }
                // The live session can be ended.
                let outcome = end(&requests.store, &live_ids[0]).unwrap();
                assert!(matches!(outcome, CommitAnswer::Ended(_)));
                assert!(requests.live_ids([&id_hash, &to]).is_empty(), "{what}");
            }
        }
    }
}

/// The sign-in has reserved its new id for the session that it found, and must not move another one
/// there.
#[test]
fn a_sign_in_after_a_renewal_that_stops_leaves_one_live_id() {
    let requests = StoppableRequests::new();
    for operation in [Operation::SignIn, Operation::SignInOverAnother] {
        for number in 0..10 {
            let one = Plan::LoseOneAnswer(number);
            for lost in [Plan::LoseRequest(number), Plan::LoseAnswer(number), one] {
                let what = format!("{operation:?}, {lost:?}");
                let id_hash = requests.session(operation);
                let renewed = new_id_hash();
                let to = new_id_hash();
                // The request has found the session and reserved its new id.
                let hold = requests.proxy.hold(2);
                let answer = thread::scope(|scope| {
                    let request = scope.spawn(|| operation.run(&requests.through, &id_hash, &to));
                    assert!(hold.is_reached_within(PATIENCE), "{what}");
                    renew(&requests.store, &id_hash, &renewed, Some(NOW + HOUR)).unwrap();
                    requests.proxy.plan(lost);
                    drop(hold);
                    request.join().unwrap()
                });
                requests.proxy.plan(Plan::Pass);
                let live_ids = requests.live_ids([&renewed, &to]);
                assert_eq!(live_ids.len(), 1, "{what}: {answer:?} left {live_ids:?}");
                match &answer {
                    Ok(CommitAnswer::Done { .. }) => assert_eq!(live_ids, [to], "{what}"),
                    Ok(other) => panic!("{what}: {other:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}"),
                }
            }
        }
    }
}

#[test]
fn a_sign_out_between_any_two_commands_is_final() {
    let requests = StoppableRequests::new();
    for operation in Operation::ALL {
        for number in 0..6 {
            let id_hash = requests.session(operation);
            let to = new_id_hash();
            let what = format!("{operation:?} held before its command {number}");
            let hold = requests.proxy.hold(number);
            let (ended, answer) = thread::scope(|scope| {
                let (done, is_done) = std::sync::mpsc::channel();
                let through = &requests.through;
                let request = scope.spawn(move || {
                    let answer = operation.run(through, &id_hash, &to);
                    done.send(()).unwrap();
                    answer
                });
                // The request may need fewer commands.
                let mut reached = false;
                while !reached && is_done.try_recv().is_err() {
                    reached = hold.is_reached_within(Duration::from_millis(1));
                }
                let ended =
                    matches!(end(&requests.store, &id_hash).unwrap(), CommitAnswer::Ended(_));
                drop(hold);
                (ended, request.join().unwrap())
            });
            requests.proxy.plan(Plan::Pass);
            let live_ids = requests.live_ids([&id_hash, &to]);
            let context = format!("{what}: ended {ended}, {answer:?}, live ids {live_ids:?}");
            match operation {
                // A sign-in begins a session where it finds none. A sign-out after it ends that
                // session, through the replaced id too.
                Operation::SignIn | Operation::SignInOverAnother => {
                    assert!(matches!(answer, Ok(CommitAnswer::Done { .. })), "{context}");
                    if live_ids.is_empty() {
                        assert!(ended, "{context}");
                        continue;
                    }
                    assert_eq!(live_ids, [to], "{context}");
                    let record = live(&requests.store, &to).unwrap().unwrap();
                    let kept = value::<u32>(&record, "n").is_some();
                    assert!(!(ended && kept), "{context}: what was ended is back");
                }
                _ => assert_eq!(
                    live_ids.is_empty(),
                    ended || operation == Operation::Delete,
                    "{context}"
                ),
            }
        }
    }
}

#[test]
fn a_touch_during_a_change_is_recorded() {
    let requests = StoppableRequests::new();
    let id_hash = create(&requests.store, &setting("n", 1)).unwrap();
    let later = NOW + HOUR;
    // The touch has read the session and not written it yet.
    let hold = requests.proxy.hold(1);
    thread::scope(|scope| {
        let touch = scope.spawn(|| requests.through.touch(&[(id_hash, Touch::at(later))], later));
        hold.wait_until_reached();
        merge(&requests.store, &id_hash, &setting("n", 2)).unwrap();
        drop(hold);
        touch.join().unwrap().unwrap();
    });
    let record = live(&requests.store, &id_hash).unwrap().unwrap();
    assert_eq!(record.seen, later);
    assert_eq!(value(&record, "n"), Some(2));
}

/// Changes a session's id with a request that stops after its deciding write, and before it stores
/// the session under the new id. Returns the old and the new id.
fn interrupted_move(
    requests: &StoppableRequests,
    operation: Operation,
) -> (SessionIdHash, SessionIdHash) {
    let id_hash = requests.session(operation);
    let to = new_id_hash();
    // The first three commands: look up, reserve, and the deciding write.
    requests.proxy.plan(Plan::LoseRequest(3));
    operation.run(&requests.through, &id_hash, &to).unwrap();
    requests.proxy.plan(Plan::Pass);
    (id_hash, to)
}

#[test]
fn a_request_with_either_id_finishes_a_move() {
    let requests = StoppableRequests::new();
    for operation in [
        Operation::Renew,
        Operation::RenewWithGrace,
        Operation::SignIn,
        Operation::SignInOverAnother,
    ] {
        let (_, to) = interrupted_move(&requests, operation);
        assert!(is_live(&requests.store, &to), "{operation:?}: by the new id");

        let (id_hash, to) = interrupted_move(&requests, operation);
        let graced = operation == Operation::RenewWithGrace;
        match requests.store.load(&id_hash, NOW).unwrap() {
            Loaded::Live(LiveSession { id_hash, .. }) if graced => {
                assert_eq!(id_hash, to)
            }
            Loaded::Unreadable(Unreadable::Replaced { .. }) if !graced => {}
            other => panic!("{operation:?}: by the old id {other:?}"),
        }
        assert!(is_live(&requests.store, &to));

        let (id_hash, to) = interrupted_move(&requests, operation);
        let later = NOW + HOUR / 2;
        requests
            .store
            .touch(&[(to, Touch::at(later)), (id_hash, Touch::at(later))], later)
            .unwrap();
        assert_eq!(
            live(&requests.store, &to).unwrap().unwrap().seen,
            later,
            "{operation:?}: by a touch"
        );

        let (id_hash, to) = interrupted_move(&requests, operation);
        let answer = merge(&requests.store, &id_hash, &setting("late", 1)).unwrap();
        match answer {
            CommitAnswer::Done { session: LiveSession { id_hash, .. }, .. } if graced => {
                assert_eq!(id_hash, to)
            }
            CommitAnswer::Unreadable(Unreadable::Replaced { .. }) if !graced => {}
            other => panic!("{operation:?}: by a merge {other:?}"),
        }
    }
}

#[test]
fn a_move_to_a_lost_server_is_finished_when_it_is_back() {
    let one = Memcached::start();
    let other = Memcached::start();
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
    for operation in [Operation::Renew, Operation::RenewWithGrace, Operation::SignIn] {
        let (id_hash, to) = here_or_there();
        create_at(&store, &id_hash).unwrap();
        // The other server reserves the id, and is down when the session is stored.
        assert!(is_absent(&store, &to), "its nonce is known");
        proxy.plan(Plan::LoseRequest(1));
        let answer = operation.run(&store, &id_hash, &to).unwrap();
        assert!(
            matches!(answer, CommitAnswer::Done { session: LiveSession { id_hash, .. }, .. } if id_hash == to),
            "{answer:?}"
        );
        assert_eq!(store.load(&to, NOW).unwrap_err().kind(), ErrorKind::Unavailable);
        proxy.plan(Plan::Pass);
        assert!(is_live(&store, &to), "{operation:?}");
        assert!(matches!(end(&store, &to).unwrap(), CommitAnswer::Ended(_)));
        assert!(!is_live(&store, &id_hash), "{operation:?}");
    }
}

#[test]
fn a_slow_reader_that_finishes_a_move_revives_nothing() {
    let requests = StoppableRequests::new();
    for operation in [Operation::Renew, Operation::RenewWithGrace, Operation::SignIn] {
        for by_new_id in [false, true] {
            for number in 0..8 {
                let (id_hash, to) = interrupted_move(&requests, operation);
                let asked = if by_new_id { to } else { id_hash };
                let hold = requests.proxy.hold(number);
                thread::scope(|scope| {
                    let (done, is_done) = std::sync::mpsc::channel();
                    let through = &requests.through;
                    let late = scope.spawn(move || {
                        let _ = through.load(&asked, NOW);
                        done.send(()).unwrap();
                    });
                    let mut reached = false;
                    while !reached && is_done.try_recv().is_err() {
                        reached = hold.is_reached_within(Duration::from_millis(1));
                    }
                    let ended = end(&requests.store, &to).unwrap();
                    assert!(matches!(ended, CommitAnswer::Ended(_)), "{operation:?} {number}");
                    drop(hold);
                    late.join().unwrap();
                });
                requests.proxy.plan(Plan::Pass);
                let live_ids = requests.live_ids([&id_hash, &to]);
                assert!(live_ids.is_empty(), "{operation:?}, by the new id: {by_new_id}, {number}");
            }
        }
    }
}

#[test]
fn an_unused_reservation_finds_nothing_and_is_removed() {
    let requests = StoppableRequests::new();
    let id_hash = requests.session(Operation::Renew);
    let to = new_id_hash();
    // The request stops after it has reserved the new id.
    requests.proxy.plan(Plan::LoseRequest(2));
    assert_unavailable(Operation::Renew.run(&requests.through, &id_hash, &to));
    requests.proxy.plan(Plan::Pass);
    assert!(is_absent(&requests.store, &to));
    assert!(is_live(&requests.store, &id_hash), "the old id still works");
    let answer = merge(&requests.store, &to, &setting("n", 2)).unwrap();
    assert!(matches!(answer, CommitAnswer::Unreadable(Unreadable::NotFound { .. })));
    // A renewal during which the session is signed out leaves no item.
    let id_hash = requests.session(Operation::Renew);
    let to = new_id_hash();
    let hold = requests.proxy.hold(2);
    thread::scope(|scope| {
        let request =
            scope.spawn(|| Operation::Renew.run(&requests.through, &id_hash, &to).unwrap());
        hold.wait_until_reached();
        end(&requests.store, &id_hash).unwrap();
        drop(hold);
        assert!(matches!(
            request.join().unwrap(),
            CommitAnswer::Unreadable(Unreadable::NotFound { .. })
        ));
    });
    create_at(&requests.store, &to).expect("the id is free");
}

fn assert_unavailable(answer: Result<CommitAnswer>) {
    assert_eq!(answer.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn a_write_whose_answer_was_lost_is_neither_done_nor_undone() {
    let requests = StoppableRequests::new();
    let id_hash = create(&requests.store, &setting("n", 1)).unwrap();
    requests.proxy.plan(Plan::LoseAnswer(1));
    let error = merge(&requests.through, &id_hash, &setting("n", 2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("whether it was done is not known"), "{error:?}");
    assert_eq!(value(&live(&requests.store, &id_hash).unwrap().unwrap(), "n"), Some(2), "it was");
}

/// A sign-in that presents a replaced id records, in the same write as its move, that it has
/// replaced that id. Each id keeps its CSRF secret.
#[test]
fn a_sign_in_by_a_replaced_id_replaces_it_again_at_once() {
    let requests = StoppableRequests::new();
    let set_secret = |id_hash: &SessionIdHash, byte| {
        let secret = setting("cloakroom.csrf", URL_SAFE_NO_PAD.encode([byte; 32]));
        merge(&requests.store, id_hash, &secret).unwrap();
    };
    let secret = |byte| Some(CsrfSecret::from_bytes([byte; 32]));
    let [signed_in, loaded] = [590, 620].map(|seconds| NOW + Duration::from_secs(seconds));
    for over_another in [false, true] {
        let operation = if over_another { Operation::SignInOverAnother } else { Operation::SignIn };
        let id_hash = requests.session(operation);
        let renewed = new_id_hash();
        let to = new_id_hash();
        set_secret(&id_hash, 1);
        renew(&requests.store, &id_hash, &renewed, None).unwrap();
        set_secret(&renewed, 2);
        let action = Action::SignIn {
            to,
            user: user("bob"),
            new_session: new_session(),
            join_salt: Some(JoinSalt::from_bytes([7; 32])),
        };
        // The request reads both ids, reserves the new one, moves the session, stores it and the
        // redirect; its next command is lost.
        requests.proxy.plan(Plan::LoseRequest(6));
        let commit = Commit::new(&id_hash, action, Delta::new(), signed_in);
        assert!(matches!(requests.through.commit(&commit).unwrap(), CommitAnswer::Done { .. }));
        requests.proxy.plan(Plan::Pass);
        match requests.store.load(&id_hash, loaded).unwrap() {
            Loaded::Unreadable(Unreadable::Replaced { replaced, session }) => {
                assert_eq!(session.id_hash, to);
                assert_eq!((replaced.id_hash, replaced.replaced_at), (id_hash, signed_in));
                let salt = Some(JoinSalt::from_bytes([7; 32]));
                assert_eq!(replaced.by, ReplacedBy::SignIn { salt }, "a second click can join");
                assert_eq!(replaced.csrf_secret, secret(1));
            }
            other => panic!("{operation:?}: {other:?}"),
        }
        // The id between them was not presented.
        let between = requests.store.load(&renewed, loaded).unwrap();
        match (over_another, between) {
            (true, Loaded::Unreadable(Unreadable::NotFound { .. })) => {}
            (false, Loaded::Unreadable(Unreadable::Replaced { replaced, .. })) => {
                assert_eq!(replaced.by, ReplacedBy::SignIn { salt: None });
                assert_eq!(replaced.csrf_secret, secret(2));
            }
            (_, other) => panic!("{operation:?}: {other:?}"),
        }
    }
}

#[test]
fn sign_ins_through_one_replaced_id_are_not_limited() {
    let store = shared().builder_in("sign-ins-by-one-id").open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    for _ in 0..20 {
        let answer = sign_in(&store, &id_hash, &new_id_hash(), "ada").unwrap();
        assert!(matches!(answer, CommitAnswer::Done { .. }), "{answer:?}");
    }
}
