//! What a commit may do through a key that was replaced and is remembered.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::conformance::given::{
    Given, MILLI, Outcome, SECOND, Session, answered, done, ensure, external, holds, key, lifetime,
    nothing, said, set, user,
};
use crate::id::{JoinSalt, SessionKey, UserKey};
use crate::record::Birth;
use crate::store::{Commit, Committed, Fate, ReplacedBy, ReplacedId};

const LATE: Duration = ReplacedId::UNDER_WAY;

/// A sign-in by which others through the same key can join.
pub(super) struct SignIn {
    pub(super) to: SessionKey,
    pub(super) salt: JoinSalt,
    pub(super) answer: Committed,
}

pub(super) fn sign_in(
    given: &Given,
    from: &SessionKey,
    user: &UserKey,
    opened: Timestamp,
    now: Timestamp,
) -> Outcome<SignIn> {
    let (to, salt, delta) = (key()?, JoinSalt::generate()?, nothing());
    let birth = Birth::new(lifetime().starting(now))?;
    let fate = Fate::SignIn { to: &to, user, birth: &birth, join_salt: Some(salt) };
    let commit = Commit { opened, ..Commit::new(from, fate, &delta, now) };
    Ok(SignIn { to, salt, answer: given.store.commit(&commit)? })
}

/// Demands that `answer` lets its sign-in join the one that moved the session to `to`.
pub(super) fn joins(answer: &Committed, to: &SessionKey, salt: &JoinSalt) -> Outcome {
    match answer {
        Committed::Replaced { id, key, .. } => {
            ensure!(key == to, "a sign-in that can join was told another key");
            let wanted = ReplacedBy::SignIn { salt: Some(*salt) };
            ensure!(id.by == wanted, "a sign-in that can join was not given the other's salt");
            ensure!(id.successor == *to, "a sign-in that can join was told another successor");
            Ok(())
        }
        other => answered(other, "Replaced", "a sign-in that can join"),
    }
}

/// A session of `owner` with a replaced key: the key, and the session as it is.
fn signed_in(given: &Given, owner: &UserKey) -> Outcome<(SessionKey, Session, JoinSalt)> {
    let old = given.session()?;
    let SignIn { to, salt, answer } = sign_in(given, &old.key, owner, given.now, given.now)?;
    let record = done(answer, "a sign-in")?.record;
    Ok((old.key, Session { key: to, record }, salt))
}

pub(super) fn the_latest_replaced_keys_are_remembered(given: &Given) -> Outcome {
    let mut session = given.session()?;
    let mut keys = Vec::new();
    for _ in 0..=ReplacedId::MAX {
        keys.push(session.key);
        session = given.renewed(&session, None)?;
    }
    let (first, rest) = keys.split_first().unwrap_or((&session.key, &[]));
    given.is_absent(first, given.now, "the ninth replaced key of a session is remembered")?;
    for key in rest {
        let id = given.is_replaced(key, &session.key, given.now, "one of the latest keys")?;
        ensure!(id.at == given.now && !id.had_user, "a replaced key is remembered otherwise");
    }
    given.is_intact(&session, "nine renewals")?;
    for (later, key) in rest.iter().enumerate() {
        let merge = given.merge(key, &set("coat", "red")?, given.now)?;
        answered(&merge, "Replaced", &format!("a merge {later} renewals back"))?;
    }
    let oldest = rest.first().unwrap_or(first);
    answered(&given.delete(oldest, given.now)?, "Deleted", "a delete eight renewals back")?;
    given.is_absent(&session.key, given.now, "a session deleted eight renewals back")
}

pub(super) fn a_delete_through_a_replaced_key_ends_the_session(given: &Given) -> Outcome {
    let owner = user("u")?;
    for then in [given.now, given.after(LATE), given.after(ReplacedId::REMEMBERED) - MILLI] {
        let old = given.session()?;
        let new = given.renewed(&old, None)?;
        let (from, current, _) = signed_in(given, &owner)?;
        for (from, current) in [(old.key, new), (from, current)] {
            match given.delete(&from, then)? {
                Committed::Deleted { key } => {
                    ensure!(key == current.key, "a delete does not say the current key");
                }
                other => answered(&other, "Deleted", "a delete through a replaced key")?,
            }
            for key in [from, current.key] {
                given.is_absent(&key, then, "a session deleted through a replaced key")?;
            }
        }
    }
    Ok(())
}

pub(super) fn a_delete_through_a_forgotten_key_ends_nothing(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, None)?;
    let then = given.after(ReplacedId::REMEMBERED);
    answered(&given.delete(&old.key, then)?, "Gone", "a delete through a forgotten key")?;
    given.is_intact(&new, "a delete through a forgotten key")
}

pub(super) fn a_sign_in_joins_one_through_the_same_key(given: &Given) -> Outcome {
    let owner = user("u")?;
    let (from, current, salt) = signed_in(given, &owner)?;
    for (opened, now) in [
        (given.now - SECOND, given.now),
        (given.after(LATE), given.after(LATE)),
        // A request that takes long counts from when it was opened.
        (given.now, given.after(LATE * 10)),
    ] {
        let again = sign_in(given, &from, &owner, opened, now)?;
        joins(&again.answer, &current.key, &salt)?;
        given.is_absent(&again.to, now, "a sign-in that can join stored something")?;
        given.is_intact(&current, "a sign-in that can join")?;
    }
    // Whoever cannot know the id behind the key cannot join: the session moves.
    let (to, answer) = given.sign_in(&from, &owner, given.now)?;
    let moved = done(answer, "a sign-in that cannot join")?;
    ensure!(moved.key == to && moved.ended == [current.key], "a sign-in did not move the session");
    Ok(())
}

pub(super) fn a_late_sign_in_moves_the_session(given: &Given) -> Outcome {
    let owner = user("u")?;
    let (from, current, _) = signed_in(given, &owner)?;
    let then = given.after(LATE) + MILLI;
    let again = sign_in(given, &from, &owner, then, then)?;
    let moved = done(again.answer, "a late sign-in through a replaced key")?;
    ensure!(moved.key == again.to, "a late sign-in did not move the session");
    ensure!(moved.record.handle == current.handle(), "a late sign-in began another session");
    ensure!(moved.ended == [current.key], "a late sign-in did not name the key that it ended");
    given.is_replaced(&current.key, &again.to, then, "the key from before a late sign-in")?;
    // Another sign-in through the same key joins this one.
    let third = sign_in(given, &from, &owner, then, then)?;
    joins(&third.answer, &again.to, &again.salt)?;
    // Through the key that the session had in between none can: nobody presented it.
    let other = sign_in(given, &current.key, &owner, then, then)?;
    done(other.answer, "a sign-in through a key that nobody presented for the last one")?;
    Ok(())
}

pub(super) fn a_sign_in_joins_only_the_current_key(given: &Given) -> Outcome {
    let owner = user("u")?;
    let (from, current, _) = signed_in(given, &owner)?;
    let renewed = given.renewed(&current, Some(given.after(SECOND * 10)))?;
    let again = sign_in(given, &from, &owner, given.now, given.now)?;
    let moved = done(again.answer, "a sign-in through a key from before sign-in and renewal")?;
    ensure!(moved.key == again.to, "a sign-in joined a session that has moved since");
    ensure!(moved.record.handle == current.handle(), "a sign-in began another session");
    for key in [current.key, renewed.key] {
        given.is_replaced(&key, &again.to, given.now, "a key from before the last sign-in")?;
    }
    Ok(())
}

pub(super) fn a_sign_in_joins_one_that_proved_as_much(given: &Given) -> Outcome {
    let owner = user("u")?;
    let changes: [fn(&mut Birth) -> Outcome; 4] = [
        |birth| {
            birth.auth_level = 1;
            Ok(())
        },
        |birth| {
            birth.external_key = Some(external("sid-2")?);
            Ok(())
        },
        |birth| {
            birth.persistent = false;
            Ok(())
        },
        |birth| {
            birth.limits.absolute = birth.limits.absolute.map(|end| end - SECOND);
            Ok(())
        },
    ];
    for change in changes {
        let (from, current, _) = signed_in(given, &owner)?;
        let (to, delta) = (key()?, nothing());
        let mut birth = Birth::new(lifetime().starting(given.now))?;
        change(&mut birth)?;
        let join_salt = Some(JoinSalt::generate()?);
        let fate = Fate::SignIn { to: &to, user: &owner, birth: &birth, join_salt };
        let moved = done(given.commit(&from, fate, &delta, given.now)?, "another sign-in")?;
        ensure!(moved.key == to, "a sign-in joined one that said something else of its user");
        ensure!(moved.record.handle == current.handle(), "a sign-in began another session");
        ensure!(moved.record.auth_level == birth.auth_level, "a sign-in gave another level");
        ensure!(moved.record.limits == birth.limits, "a sign-in gave other limits");
    }
    Ok(())
}

pub(super) fn a_sign_in_joins_one_through_the_same_key_in_its_grace(given: &Given) -> Outcome {
    let owner = user("u")?;
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(SECOND * 10)))?;
    let first = sign_in(given, &old.key, &owner, given.now, given.now)?;
    let record = done(first.answer, "a sign-in through a grace")?.record;
    ensure!(record.handle == new.handle(), "a sign-in through a grace began another session");
    let again = sign_in(given, &old.key, &owner, given.now, given.now)?;
    joins(&again.answer, &first.to, &first.salt)?;
    given.is_intact(&Session { key: first.to, record }, "a sign-in that can join")
}

pub(super) fn a_sign_in_through_a_renewed_key_moves_the_session(given: &Given) -> Outcome {
    let owner = user("u")?;
    for then in [given.now, given.after(LATE * 2)] {
        for old in [given.session()?, given.session_of(&owner, given.now)?] {
            let new = given.renewed(&old, None)?;
            let again = sign_in(given, &old.key, &owner, then, then)?;
            let moved = done(again.answer, "a sign-in through a renewed key")?;
            ensure!(moved.key == again.to, "a sign-in through a renewed key did not move");
            ensure!(moved.record.handle == new.handle(), "it began another session");
            ensure!(moved.record.user.as_ref() == Some(&owner), "it did not bind the user");
            ensure!(moved.ended == [new.key], "it did not name the key that it ended");
            given.is_replaced(&new.key, &again.to, then, "the key that a sign-in ended")?;
        }
    }
    Ok(())
}

pub(super) fn another_user_takes_nothing_through_a_replaced_key(given: &Given) -> Outcome {
    let (owner, other) = (user("u")?, user("other")?);
    let old = given.session_of(&owner, given.now)?;
    done(given.merge(&old.key, &set("coat", "blue")?, given.now)?, "a merge")?;
    let new = given.renewed(&old, None)?;
    let theirs = sign_in(given, &old.key, &other, given.now, given.now)?;
    let begun = done(theirs.answer, "another user's sign-in through a replaced key")?;
    ensure!(begun.record.handle != new.handle(), "a sign-in took another user's session");
    ensure!(begun.record.data.is_empty(), "a sign-in took another user's data");
    ensure!(begun.ended == [new.key], "a sign-in did not name another user's session it ended");
    given.is_absent(&new.key, given.now, "a key of a session that another user ended")?;
    given.is_replaced(&old.key, &theirs.to, given.now, "the key of another user's sign-in")?;
    let again = sign_in(given, &old.key, &other, given.now, given.now)?;
    joins(&again.answer, &theirs.to, &theirs.salt)?;
    given.is_intact(&Session { key: theirs.to, record: begun.record }, "a sign-in")
}

pub(super) fn keys_of_an_ended_session_stay_dead_when_the_next_moves(given: &Given) -> Outcome {
    let (owner, other) = (user("u")?, user("other")?);
    let (first, current, _) = signed_in(given, &owner)?;
    let theirs = sign_in(given, &current.key, &other, given.now, given.now)?;
    done(theirs.answer, "another user's sign-in")?;
    given.is_absent(&first, given.now, "a key of a session that another user ended")?;
    // It cannot join, so it moves the session, and the key presented is remembered anew.
    let (to, answer) = given.sign_in(&current.key, &other, given.now)?;
    let record = done(answer, "another user's second sign-in")?.record;
    given.is_absent(&first, given.now, "a key of a session that another user ended")?;
    answered(&given.delete(&first, given.now)?, "Gone", "a delete through such a key")?;
    given.is_intact(&Session { key: to, record }, "a delete through a key of another session")
}

pub(super) fn another_user_leaves_what_was_bound_since(given: &Given) -> Outcome {
    let (owner, other) = (user("u")?, user("other")?);
    let (from, current, _) = signed_in(given, &owner)?;
    let theirs = sign_in(given, &from, &other, given.now, given.now)?;
    let begun = done(theirs.answer, "another user's sign-in through a replaced key")?;
    ensure!(begun.ended.is_empty(), "a sign-in ended what another client has signed in to");
    ensure!(begun.record.data.is_empty(), "a sign-in took data of another user's session");
    given.is_intact(&current, "another user's sign-in")?;
    given.is_intact(&Session { key: theirs.to, record: begun.record }, "a sign-in")
}

pub(super) fn a_stale_sign_in_through_a_replaced_key_moves_nothing(given: &Given) -> Outcome {
    let owner = user("u")?;
    let old = given.session()?;
    let new = given.renewed(&old, None)?;
    let (to, delta, birth) = (key()?, nothing(), given.birth()?);
    let fate = Fate::SignIn { to: &to, user: &owner, birth: &birth, join_salt: None };
    let commit = Commit::new(&old.key, fate, &delta, given.now);
    let answer = given.store.commit(&Commit { if_revision: Some(0), ..commit })?;
    match answer {
        Committed::Stale { record, key } => {
            ensure!(key == new.key, "a stale sign-in was told another key");
            ensure!(holds(&record, "coat", "blue")?, "a stale sign-in was told other data");
        }
        other => ensure!(false, "a stale sign-in was answered {}", said(&other)),
    }
    given.is_intact(&new, "a stale sign-in through a replaced key")
}

pub(super) fn a_move_of_the_session_ends_its_key_for_a_thief(given: &Given) -> Outcome {
    // Somebody who has the id makes the application renew it, and keeps what he gets.
    let owner = user("u")?;
    let old = given.session_of(&owner, given.now)?;
    let stolen = given.renewed(&old, Some(given.after(SECOND * 10)))?;
    let again = sign_in(given, &old.key, &owner, given.now, given.now)?;
    done(again.answer, "the user's next sign-in")?;
    for key in [stolen.key, old.key] {
        let lives = given.is_live(&key, given.now)?;
        ensure!(!lives, "a key from before the user's sign-in still finds the session");
        let merge = given.merge(&key, &set("coat", "red")?, given.now)?;
        answered(&merge, "Replaced", "a merge through a key from before")?;
    }
    Ok(())
}
