//! The values under a key, for how long they live, and values of other writers.

use std::num::NonZeroUsize;
use std::time::Duration;

use cloakroom::backend::{
    Action, Commit, CommitAnswer, Delta, Loaded, NewSession, ReplacedId, Store, Touch, Unreadable,
};
use cloakroom::clock::Timestamp;
use cloakroom::event::{EventKind, Events, LogSink};
use cloakroom::id::SessionIdHash;
use cloakroom::lifetime::AtMaximum;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::stores::memcached::{MemcachedStore, MemcachedStoreBuilder};
use cloakroom::{ErrorKind, Lifetime, SessionManager};

use crate::common::memcached::{Memcached, shared};
use crate::common::{
    HOUR, NOW, create, end, live, merge, new_id_hash, new_session, setting, value,
};
use crate::memcached::operations::{create_at, is_absent, is_live, renew, sign_in, user};

#[test]
fn a_limit_per_user_is_refused_when_the_manager_is_built() {
    let builder = SessionManager::builder(shared().store());
    let builder = builder.max_sessions_per_user(3.try_into().unwrap(), AtMaximum::EndOldest);
    assert_eq!(builder.build().unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn a_review_says_that_default_settings_are_shared() {
    let server = shared().address.to_string();
    let defaults = || MemcachedStore::builder().servers([&server]);
    let manager = |store: MemcachedStoreBuilder| SessionManager::builder(store.open().unwrap());
    let meets = |builder: SessionManagerBuilder| {
        let review = builder.build().unwrap().review();
        let finding = review.findings.iter().find(|finding| finding.requirement == "separation");
        finding.map(|finding| finding.met)
    };
    assert_eq!(meets(manager(defaults())), Some(false));
    assert_eq!(meets(manager(defaults()).realm("shop")), Some(true));
    assert_eq!(meets(manager(defaults().namespace("shop"))), None);
}

#[test]
fn a_review_says_that_nothing_bounds_anonymous_sessions() {
    let server = shared().address.to_string();
    let store = MemcachedStore::builder().servers([&server]).open().unwrap();
    let review = SessionManager::new(store).unwrap().review();
    let finding = review.unmet().find(|finding| finding.requirement == "anonymous").unwrap();
    assert!(finding.why.contains("choose a store that can list sessions"), "{review}");
}

#[test]
fn two_applications_on_one_server_do_not_meet() {
    let one = shared().store();
    let other = shared().store();
    let id_hash = create(&one, &setting("n", 1)).unwrap();
    assert!(is_absent(&other, &id_hash));
    create_at(&other, &id_hash).unwrap();
    one.clear().unwrap();
    assert!(is_absent(&one, &id_hash));
    assert!(is_live(&other, &id_hash), "a clear ends the sessions of its namespace only");
}

#[test]
fn garbage_counts_as_absent_and_raises_an_event() {
    let events = Events::new(LogSink::new());
    let store = shared().builder_in("garbage").events(events.clone()).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let mut raw = shared().raw();
    let name = raw.name("garbage", 's', id_hash.as_bytes());
    for garbage in [&b""[..], b"hello", b"\x01?", b"\0\0\0\0", b"\x01A", b"{\"format\":1}"] {
        raw.set(&name, garbage);
        let before = events.count(EventKind::ForeignItem);
        assert!(is_absent(&store, &id_hash), "{garbage:?}");
        assert_eq!(events.count(EventKind::ForeignItem), before + 1);
        // A concurrent write revives nothing; only an action that begins a session succeeds.
        let answer = merge(&store, &id_hash, &setting("n", 2)).unwrap();
        assert!(matches!(answer, CommitAnswer::Unreadable(Unreadable::NotFound { .. })));
        let answer = end(&store, &id_hash).unwrap();
        assert!(matches!(answer, CommitAnswer::Unreadable(Unreadable::NotFound { .. })));
        store.touch(&[(id_hash, Touch::at(NOW + HOUR))], NOW + HOUR).unwrap();
        assert_eq!(raw.get(&name).unwrap(), garbage);
        assert!(matches!(create_at(&store, &id_hash).unwrap(), CommitAnswer::Done { .. }));
        assert!(is_live(&store, &id_hash));
    }
}

#[test]
fn a_value_of_another_session_counts_as_absent() {
    let events = Events::new(LogSink::new());
    let store = shared().builder_in("copied").events(events.clone()).open().unwrap();
    let [ada, bob] = [1, 2].map(|n| create(&store, &setting("n", n)).unwrap());
    let mut raw = shared().raw();
    let [of_ada, of_bob] = [ada, bob].map(|id_hash| raw.name("copied", 's', id_hash.as_bytes()));
    let value = raw.get(&of_ada).unwrap();
    raw.set(&of_bob, &value);
    assert!(is_absent(&store, &bob), "it is not taken for the other user's");
    assert_eq!(events.count(EventKind::ForeignItem), 1);
    assert!(is_live(&store, &ada));
}

#[test]
fn a_value_of_a_newer_version_is_undecodable_and_stays_in_place() {
    let store = shared().builder_in("newer").open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let mut raw = shared().raw();
    let name = raw.name("newer", 's', id_hash.as_bytes());
    let newer_record = [b"\x01L", &id_hash.as_bytes()[..], b"{\"format\":2}"].concat();
    for newer in [b"\x02Lwho knows", &newer_record[..]] {
        raw.set(&name, newer);
        let found = store.load(&id_hash, NOW).unwrap();
        assert!(matches!(found, Loaded::Unreadable(Unreadable::Undecodable { .. })));
        let merged = merge(&store, &id_hash, &setting("n", 2)).unwrap();
        assert!(matches!(merged, CommitAnswer::Unreadable(Unreadable::Undecodable { .. })));
        let renewed = renew(&store, &id_hash, &new_id_hash(), None).unwrap();
        assert!(matches!(renewed, CommitAnswer::Unreadable(Unreadable::Undecodable { .. })));
        store.touch(&[(id_hash, Touch::at(NOW + HOUR))], NOW + HOUR).unwrap();
        assert_eq!(create_at(&store, &id_hash).unwrap_err().kind(), ErrorKind::Conflict);
        let to = new_id_hash();
        assert!(matches!(
            sign_in(&store, &id_hash, &to, "ada").unwrap(),
            CommitAnswer::Done { .. }
        ));
        assert!(is_live(&store, &to));
        assert_eq!(raw.get(&name).unwrap(), newer);
    }
    assert!(matches!(end(&store, &id_hash).unwrap(), CommitAnswer::Ended(_)));
    assert!(is_absent(&store, &id_hash));
}

#[test]
fn a_session_over_the_item_limit_is_too_large() {
    let server = Memcached::with(&["-I", "512k"]);
    let store = server.builder().item_limit(512 << 10).open().unwrap();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let large = setting("n", "x".repeat(512 << 10));
    assert_eq!(create(&store, &large).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(merge(&store, &id_hash, &large).unwrap_err().kind(), ErrorKind::TooLarge);
    let action = Action::Renew { to: new_id_hash(), grace_until: None };
    let renewal = store.commit(&Commit::new(&id_hash, action, large, NOW));
    assert_eq!(renewal.unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(value(&live(&store, &id_hash).unwrap().unwrap(), "n"), Some(1));
    let fits = setting("n", "x".repeat(500 << 10));
    assert!(matches!(merge(&store, &id_hash, &fits).unwrap(), CommitAnswer::Done { .. }));
    let answer = renew(&store, &id_hash, &new_id_hash(), None).unwrap();
    assert!(matches!(answer, CommitAnswer::Done { .. }));
}

#[test]
fn an_item_limit_beyond_the_servers_is_too_large_too() {
    let server = Memcached::with(&["-I", "512k"]);
    let store = server.store();
    let large = setting("n", "x".repeat(700 << 10));
    assert_eq!(create(&store, &large).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn an_item_is_kept_for_what_remains_and_a_minute() {
    let store = shared().builder_in("kept").open().unwrap();
    let mut raw = shared().raw();
    let day = HOUR * 24;
    let mut seconds_for = |lifetime: Lifetime| {
        let id_hash = new_id_hash();
        let new_session = NewSession::new(lifetime.limits_from(NOW)).unwrap();
        store
            .commit(&Commit::new(&id_hash, Action::Create(new_session), Delta::new(), NOW))
            .unwrap();
        let name = raw.name("kept", 's', id_hash.as_bytes());
        raw.seconds_left(&name).unwrap()
    };
    for (lifetime, wanted) in [
        (Lifetime::idle(HOUR), 3660),
        (Lifetime::absolute(day * 29), 2_505_660),
        // The most that memcached takes for a number of seconds.
        (Lifetime::absolute(day * 30), 2_592_000),
    ] {
        let seconds = seconds_for(lifetime);
        assert!((wanted - 5..=wanted + 1).contains(&seconds), "{seconds} s, not {wanted}");
    }
    // Above that it would take the number for a time of its clock, which ends in January 2038.
    for years in [1, 12, 200] {
        assert_eq!(seconds_for(Lifetime::absolute(day * 365 * years)), -1);
    }
    assert_eq!(seconds_for(Lifetime::absolute(Duration::MAX)), -1);
    // A touch keeps it longer, and what is left behind by a renewal goes soon.
    let id_hash = new_id_hash();
    let new_session = NewSession::new(Lifetime::idle(HOUR).limits_from(NOW)).unwrap();
    store.commit(&Commit::new(&id_hash, Action::Create(new_session), Delta::new(), NOW)).unwrap();
    let name = raw.name("kept", 's', id_hash.as_bytes());
    store.touch(&[(id_hash, Touch::at(NOW + HOUR / 2))], NOW).unwrap();
    assert!(raw.seconds_left(&name).unwrap() > 3660 + 1700);
    renew(&store, &id_hash, &new_id_hash(), None).unwrap();
    let remembered = i64::try_from(ReplacedId::REMEMBERED.as_secs()).unwrap() + 60;
    let seconds = raw.seconds_left(&name).unwrap();
    assert!((remembered - 5..=remembered).contains(&seconds), "{seconds} s");
}

#[test]
fn the_injected_clock_decides_about_the_deadline() {
    let store = shared().store();
    let id_hash = create(&store, &setting("n", 1)).unwrap();
    let deadline = live(&store, &id_hash).unwrap().unwrap().deadline();
    let found = store.load(&id_hash, deadline).unwrap();
    assert!(matches!(found, Loaded::Unreadable(Unreadable::NotFound { .. })));
    assert!(is_live(&store, &id_hash), "it is there all the same");
    assert_eq!(store.sweep(deadline, NonZeroUsize::MIN).unwrap().removed, 0);
}

#[test]
fn a_late_request_revives_no_session_that_has_expired() {
    let store = shared().store();
    let acts: [fn(&MemcachedStore, &SessionIdHash, Timestamp) -> CommitAnswer; 2] = [
        |store, id_hash, now| {
            store.commit(&Commit::new(id_hash, Action::End, Delta::new(), now)).unwrap()
        },
        |store, id_hash, now| {
            let to = new_id_hash();
            let ada = user("ada");
            let new_session = new_session();
            let action = Action::SignIn { to, user: ada, new_session, join_salt: None };
            store.commit(&Commit::new(id_hash, action, Delta::new(), now)).unwrap()
        },
    ];
    for (number, act) in acts.into_iter().enumerate() {
        for through_grace in [false, true] {
            let old = create(&store, &setting("n", 1)).unwrap();
            let end = live(&store, &old).unwrap().unwrap().deadline();
            let id_hash = new_id_hash();
            renew(&store, &old, &id_hash, Some(end + HOUR)).unwrap();
            let answer = act(&store, if through_grace { &old } else { &id_hash }, end);
            assert!(
                matches!(
                    answer,
                    CommitAnswer::Unreadable(Unreadable::NotFound { .. })
                        | CommitAnswer::Done { .. }
                ),
                "{answer:?}"
            );
            // Both have waited since before the deadline.
            let before = end - Duration::from_millis(1);
            store.touch(&[(id_hash, Touch::at(before)), (old, Touch::at(before))], before).unwrap();
            let delta = setting("late", 1);
            let late =
                store.commit(&Commit::new(&id_hash, Action::Merge, delta.clone(), before)).unwrap();
            assert!(
                matches!(late, CommitAnswer::Unreadable(Unreadable::NotFound { .. })),
                "act {number}: {late:?}"
            );
            assert!(is_absent(&store, &id_hash));
            assert!(!is_live(&store, &old));
        }
    }
}
