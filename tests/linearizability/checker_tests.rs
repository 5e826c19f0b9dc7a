//! The checker and the model, on histories that are easy to check_history.

use std::collections::BTreeMap;

use super::model::{Reads, SessionModel};
use super::operations::{
    Answer, AtMaximum, Call, Change, Filter, InitialFields, Millis, Number, Operation,
    RecordedOperation, Session,
};

const IDLE: Millis = 1000;
const INITIAL: InitialFields = InitialFields {
    public_id: 1,
    idp_session_id: None,
    level: 0,
    idle: Some(IDLE),
    absolute: None,
};

/// A history, written by hand.
#[derive(Default)]
struct History(Vec<RecordedOperation>);

impl History {
    /// One session under id 1.
    fn of_one_session() -> History {
        let mut history = History::default();
        let create = Call::Create { id_hash: 1, initial: INITIAL, changes: Vec::new() };
        history.add(0..1, create, done(session(1, &[]), 1, &[]));
        history
    }

    fn add(&mut self, time: std::ops::Range<u64>, call: Call, answer: Answer) {
        self.add_at(0, time, call, answer);
    }

    fn add_at(&mut self, now: Millis, time: std::ops::Range<u64>, call: Call, answer: Answer) {
        let (thread, latest) = (self.0.len(), now);
        let operation = Operation { call, now };
        let (start, end, process) = (time.start, time.end, thread);
        self.0.push(RecordedOperation { thread, process, operation, answer, start, end, latest });
    }

    fn has_an_order_by(&self, model: SessionModel) -> bool {
        model.check_history(&self.0).is_ok()
    }

    fn has_an_order(&self) -> bool {
        self.has_an_order_by(SessionModel::PLAIN)
    }
}

fn session(revision: u64, data: &[(Number, Number)]) -> Session {
    Session {
        public_id: 1,
        user: None,
        idp_session_id: None,
        level: 0,
        created: 0,
        authenticated: None,
        seen: 0,
        idle: Some(IDLE),
        absolute: None,
        revision,
        data: data.iter().copied().collect::<BTreeMap<_, _>>(),
    }
}

fn set(name: Number, value: Number, if_revision: Option<u64>) -> Call {
    Call::Merge { id_hash: 1, changes: vec![Change::Set(name, value)], if_revision, seen: None }
}

fn renew(to: Number) -> Call {
    Call::Renew { id_hash: 1, to, grace_until: None, changes: Vec::new() }
}

const LOAD: Call = Call::Load { id_hash: 1 };

fn live(session: Session, id_hash: Number) -> Answer {
    Answer::Live { session, id_hash }
}

fn done(session: Session, id_hash: Number, retired_ids: &[Number]) -> Answer {
    Answer::Done { session, id_hash, retired_ids: retired_ids.to_vec() }
}

fn unknown() -> Answer {
    Answer::Unknown("test".to_owned())
}

#[test]
fn changes_of_two_names_at_once_are_both_kept() {
    for kept in [true, false] {
        let mut history = History::of_one_session();
        history.add(2..5, set(1, 7, None), done(session(2, &[(1, 7)]), 1, &[]));
        let second = if kept { session(3, &[(1, 7), (2, 8)]) } else { session(2, &[(2, 8)]) };
        history.add(3..4, set(2, 8, None), done(second, 1, &[]));
        assert_eq!(history.has_an_order(), kept);
    }
}

#[test]
fn of_two_updates_on_one_revision_the_second_is_stale() {
    for is_stale in [true, false] {
        let mut history = History::of_one_session();
        history.add(2..5, set(1, 1, Some(1)), done(session(2, &[(1, 1)]), 1, &[]));
        let second = match is_stale {
            true => Answer::Stale { session: session(2, &[(1, 1)]), id_hash: 1 },
            false => done(session(2, &[(1, 1)]), 1, &[]),
        };
        history.add(3..4, set(1, 1, Some(1)), second);
        assert_eq!(history.has_an_order(), is_stale, "a lost update");
    }
}

#[test]
fn a_read_during_a_change_sees_either_value() {
    let (old, new) = (session(1, &[]), session(2, &[(1, 7)]));
    for (read, time, fine) in
        [(&old, 3..4, true), (&new, 3..4, true), (&new, 6..7, true), (&old, 6..7, false)]
    {
        let mut history = History::of_one_session();
        history.add(2..5, set(1, 7, None), done(new.clone(), 1, &[]));
        history.add(time, LOAD, live(read.clone(), 1));
        assert_eq!(history.has_an_order(), fine, "{read:?}");
    }
}

#[test]
fn a_change_in_flight_that_was_seen_stays_seen() {
    let (old, new) = (session(1, &[]), session(2, &[(1, 7)]));
    let mut history = History::of_one_session();
    history.add(2..9, set(1, 7, None), done(new.clone(), 1, &[]));
    history.add(3..4, LOAD, live(new.clone(), 1));
    history.add(5..6, LOAD, live(old.clone(), 1));
    assert!(!history.has_an_order());
    let acknowledged = SessionModel { reads: Reads::LatestAcknowledged, ..SessionModel::PLAIN };
    assert!(history.has_an_order_by(acknowledged), "by another process, until acknowledged");
    history.add(10..11, LOAD, live(old, 1));
    assert!(!history.has_an_order_by(acknowledged));
    let within = |life| SessionModel { reads: Reads::Within(life), ..SessionModel::PLAIN };
    assert!(history.has_an_order_by(within(1)));
    assert!(!history.has_an_order_by(within(0)), "the life of an entry is over");
}

#[test]
fn an_ended_session_stays_ended() {
    let gone = [
        (Call::Delete { id_hash: 1 }, Answer::Deleted { id_hash: 1 }),
        (Call::Revoke(Filter::PublicId(1)), Answer::Revoked(vec![1])),
        (Call::RevokeEveryone, Answer::RevokedEveryone(Some(1))),
    ];
    for (end, answer) in gone {
        for revived in [false, true] {
            let mut history = History::of_one_session();
            history.add(2..3, end.clone(), answer.clone());
            let late = if revived { done(session(2, &[(1, 7)]), 1, &[]) } else { Answer::NotFound };
            history.add(4..5, set(1, 7, None), late);
            assert_eq!(history.has_an_order(), !revived, "{end:?}");
        }
    }
}

#[test]
fn a_session_that_has_expired_is_read_and_touched_no_more() {
    for (now, lives) in [(IDLE - 1, true), (IDLE, false)] {
        let mut history = History::of_one_session();
        history.add_at(now, 2..3, Call::Touch { id_hash: 1, seen: now }, Answer::Ok);
        let seen = Session { seen: now, ..session(1, &[]) };
        history.add_at(now, 4..5, LOAD, live(seen, 1));
        assert_eq!(history.has_an_order(), lives);
    }
}

/// A user signs in at the deadline of the session under id 1, and gets id 2.
fn sign_in_at_the_deadline() -> (Call, Answer) {
    let (initial, changes) = (InitialFields { public_id: 2, ..INITIAL }, Vec::new());
    let call = Call::SignIn { id_hash: 1, to: 2, user: 1, initial, changes, limit: None };
    let born = Session { public_id: 2, created: IDLE, seen: IDLE, ..session(1, &[]) };
    let begun = Session { user: Some(1), authenticated: Some(IDLE), ..born };
    (call, done(begun, 2, &[]))
}

#[test]
fn an_expired_session_is_gone_for_operations_of_earlier_times() {
    let ends = [
        (Call::Delete { id_hash: 1 }, Answer::NotFound),
        (Call::Revoke(Filter::PublicId(1)), Answer::Revoked(vec![])),
        sign_in_at_the_deadline(),
    ];
    for (end, answer) in ends {
        for revived in [false, true] {
            let mut history = History::of_one_session();
            history.add_at(IDLE, 2..3, end.clone(), answer.clone());
            let late = if revived { done(session(2, &[(1, 7)]), 1, &[]) } else { Answer::NotFound };
            history.add_at(IDLE - 1, 4..5, set(1, 7, None), late);
            assert_eq!(history.has_an_order(), !revived, "{end:?}");
        }
    }
}

#[test]
fn a_late_read_may_see_both_steps_of_a_sign_in() {
    let mut history = History::of_one_session();
    let (sign_in, signed_in) = sign_in_at_the_deadline();
    history.add_at(IDLE, 2..9, sign_in, signed_in);
    history.add_at(IDLE - 1, 3..4, LOAD, Answer::NotFound);
    history.0[2].latest = IDLE;
    history.add_at(IDLE, 5..6, Call::Load { id_hash: 2 }, Answer::NotFound);
    assert!(!history.has_an_order());
    assert!(history.has_an_order_by(SessionModel { moves_in_steps: true, ..SessionModel::PLAIN }));
    history.0[2].latest = IDLE - 1;
    assert!(!history.has_an_order_by(SessionModel { moves_in_steps: true, ..SessionModel::PLAIN }));
}

#[test]
fn of_two_renewals_of_one_id_one_gets_renewed() {
    for both in [false, true] {
        let mut history = History::of_one_session();
        history.add(2..5, renew(2), done(session(2, &[]), 2, &[1]));
        let second =
            if both { done(session(3, &[]), 3, &[1]) } else { Answer::Replaced { id_hash: 2 } };
        history.add(3..4, renew(3), second);
        assert_eq!(history.has_an_order(), !both);
        if !both {
            history.add(6..7, LOAD, live(session(2, &[]), 1));
            assert!(!history.has_an_order(), "the old id is dead");
        }
    }
}

#[test]
fn a_limit_is_never_passed_by_two_sign_ins_at_once() {
    for ends in [true, false] {
        let mut history = History::default();
        for (id_hash, time) in [(2, 0..5), (3, 1..4)] {
            let call = Call::SignIn {
                id_hash: 1,
                to: id_hash,
                user: 1,
                initial: InitialFields { public_id: id_hash, ..INITIAL },
                changes: Vec::new(),
                limit: Some((1, AtMaximum::EndOldest)),
            };
            let born = session(1, &[]);
            let (user, authenticated) = (Some(1), Some(0));
            let signed_in = Session { public_id: id_hash, user, authenticated, ..born };
            let retired_ids: &[Number] = if ends && id_hash == 3 { &[2] } else { &[] };
            history.add(time, call, done(signed_in, id_hash, retired_ids));
        }
        assert_eq!(history.has_an_order(), ends);
    }
}

#[test]
fn an_unknown_outcome_may_be_late_or_never_but_not_twice() {
    let seven = session(2, &[(1, 7)]);
    let mut history = History::of_one_session();
    history.add(2..3, set(1, 7, None), unknown());
    history.add(4..5, LOAD, live(session(1, &[]), 1));
    assert!(history.has_an_order(), "never, or not yet");
    history.add(6..7, LOAD, live(seven.clone(), 1));
    assert!(history.has_an_order(), "late");
    history.add(
        8..9,
        Call::Merge { id_hash: 1, changes: vec![Change::Remove(1)], if_revision: None, seen: None },
        done(session(3, &[]), 1, &[]),
    );
    history.add(10..11, LOAD, live(session(4, &[(1, 7)]), 1));
    assert!(!history.has_an_order(), "twice");
}

#[test]
fn a_change_that_was_not_made_is_never_seen() {
    let mut history = History::of_one_session();
    history.add(2..3, set(1, 7, None), Answer::NothingDone("test".to_owned()));
    history.add(4..5, LOAD, live(session(1, &[]), 1));
    assert!(history.has_an_order());
    history.add(6..7, LOAD, live(session(2, &[(1, 7)]), 1));
    assert!(!history.has_an_order());
}

#[test]
fn a_server_that_was_started_again_has_nothing_from_before() {
    for (time, fine) in [(2..3, true), (6..7, false)] {
        let mut history = History::of_one_session();
        history.add(4..5, Call::LoseAll, Answer::Ok);
        history.add(time, LOAD, live(session(1, &[]), 1));
        assert_eq!(history.has_an_order(), fine);
    }
}

#[test]
fn a_renewal_that_says_its_session_has_ended_leaves_none_behind() {
    let memcached = SessionModel { moves_in_steps: true, ..SessionModel::PLAIN };
    for (answer, fine) in [(Answer::NotFound, false), (unknown(), true)] {
        let mut history = History::of_one_session();
        history.add(2..3, renew(2), answer);
        history.add(4..5, LOAD, Answer::Replaced { id_hash: 2 });
        assert_eq!(history.has_an_order_by(memcached), fine);
    }
    let mut history = History::of_one_session();
    history.add(2..5, renew(2), Answer::NotFound);
    history.add(3..4, Call::Delete { id_hash: 2 }, Answer::Deleted { id_hash: 2 });
    assert!(history.has_an_order_by(memcached));
}
