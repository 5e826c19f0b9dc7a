//! Checks of commits through a replaced id that the store remembers.

use std::time::Duration;

use crate::backend::{Action, Commit, Committed, LiveSession, Missing, ReplacedBy, ReplacedId};
use crate::clock::Timestamp;
use crate::conformance::fixture::{
    Fixture, MILLI, Passed, SECOND, Sample, answered, done, ensure, external, holds, id_hash,
    lifetime, name_of, nothing, set, sign_in_to, user,
};
use crate::id::{JoinSalt, SessionIdHash, UserKey};
use crate::record::NewSession;

const LATE: Duration = ReplacedId::UNDER_WAY;

/// A sign-in that later sign-ins through the same id can join.
pub(super) struct SignInReply {
    pub(super) to: SessionIdHash,
    pub(super) salt: JoinSalt,
    pub(super) answer: Committed,
}

pub(super) fn sign_in(
    fixture: &Fixture,
    from: &SessionIdHash,
    user: &UserKey,
    opened: Timestamp,
    now: Timestamp,
) -> Passed<SignInReply> {
    let (to, salt, delta) = (id_hash()?, JoinSalt::generate()?, nothing());
    let new_session = NewSession::new(lifetime().starting(now))?;
    let action = Action::SignIn { to, user: user.clone(), new_session, join_salt: Some(salt) };
    let commit = Commit { opened, ..Commit::new(from, action, delta, now) };
    Ok(SignInReply { to, salt, answer: fixture.store.commit(&commit)? })
}

/// Fails unless `answer` lets its sign-in join the earlier one that gave the session the id `to`.
pub(super) fn joins(answer: &Committed, to: &SessionIdHash, salt: &JoinSalt) -> Passed {
    match answer {
        Committed::Missing(Missing::Replaced { id, session, .. }) => {
            ensure!(session.id_hash == *to, "a sign-in that can join got another current id");
            let wanted = ReplacedBy::SignIn { salt: Some(*salt) };
            ensure!(
                id.by == wanted,
                "a sign-in that can join did not get the salt of the earlier one"
            );
            ensure!(id.successor == *to, "a sign-in that can join got another successor");
            Ok(())
        }
        other => answered(other, "Replaced", "a sign-in that can join"),
    }
}

/// Creates a session, signs `owner` in, and returns the replaced id, the session and the join salt.
fn signed_in(fixture: &Fixture, owner: &UserKey) -> Passed<(SessionIdHash, Sample, JoinSalt)> {
    let old = fixture.session()?;
    let SignInReply { to, salt, answer } =
        sign_in(fixture, &old.id_hash, owner, fixture.now, fixture.now)?;
    let record = done(answer, "a sign-in")?.record;
    Ok((old.id_hash, Sample { id_hash: to, record }, salt))
}

pub(super) fn the_latest_replaced_ids_are_remembered(fixture: &Fixture) -> Passed {
    let mut session = fixture.session()?;
    let mut id_hashes = Vec::new();
    for _ in 0..=ReplacedId::MAX {
        id_hashes.push(session.id_hash);
        session = fixture.renewed(&session, None)?;
    }
    let (first, rest) = id_hashes.split_first().unwrap_or((&session.id_hash, &[]));
    fixture.is_absent(first, fixture.now, "the ninth replaced id of a session is remembered")?;
    for id_hash in rest {
        let id =
            fixture.is_replaced(id_hash, &session.id_hash, fixture.now, "one of the latest ids")?;
        ensure!(
            id.at == fixture.now && !id.had_user,
            "a replaced id is remembered with another time or user"
        );
    }
    fixture.is_intact(&session, "nine renewals")?;
    for (later, id_hash) in rest.iter().enumerate() {
        let merge = fixture.merge(id_hash, &set("coat", "red")?, fixture.now)?;
        answered(&merge, "Replaced", &format!("a merge {later} renewals back"))?;
    }
    let oldest = rest.first().unwrap_or(first);
    answered(&fixture.delete(oldest, fixture.now)?, "Deleted", "a delete eight renewals back")?;
    fixture.is_absent(&session.id_hash, fixture.now, "a session deleted eight renewals back")
}

pub(super) fn a_delete_through_a_replaced_id_ends_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    for then in [fixture.now, fixture.after(LATE), fixture.after(ReplacedId::REMEMBERED) - MILLI] {
        let old = fixture.session()?;
        let new = fixture.renewed(&old, None)?;
        let (from, current, _) = signed_in(fixture, &owner)?;
        for (from, current) in [(old.id_hash, new), (from, current)] {
            match fixture.delete(&from, then)? {
                Committed::Deleted(id_hash) => {
                    ensure!(id_hash == current.id_hash, "a delete does not return the current id");
                }
                other => answered(&other, "Deleted", "a delete through a replaced id")?,
            }
            for id_hash in [from, current.id_hash] {
                fixture.is_absent(&id_hash, then, "a session deleted through a replaced id")?;
            }
        }
    }
    Ok(())
}

pub(super) fn a_delete_through_a_forgotten_id_ends_nothing(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, None)?;
    let then = fixture.after(ReplacedId::REMEMBERED);
    answered(&fixture.delete(&old.id_hash, then)?, "NotFound", "a delete through a forgotten id")?;
    fixture.is_intact(&new, "a delete through a forgotten id")
}

pub(super) fn a_sign_in_joins_one_through_the_same_id(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let (from, current, salt) = signed_in(fixture, &owner)?;
    for (opened, now) in [
        (fixture.now - SECOND, fixture.now),
        (fixture.after(LATE), fixture.after(LATE)),
        // For a slow request the time at which it was opened counts.
        (fixture.now, fixture.after(LATE * 10)),
    ] {
        let again = sign_in(fixture, &from, &owner, opened, now)?;
        joins(&again.answer, &current.id_hash, &salt)?;
        fixture.is_absent(&again.to, now, "a sign-in that can join stored something")?;
        fixture.is_intact(&current, "a sign-in that can join")?;
    }
    // Without a join salt a sign-in cannot join, so it gives the session another id.
    let (to, answer) = fixture.sign_in(&from, &owner, fixture.now)?;
    let moved = done(answer, "a sign-in that cannot join")?;
    ensure!(
        moved.id_hash == to && moved.ended == [current.id_hash],
        "a sign-in gave the session no new id"
    );
    Ok(())
}

pub(super) fn a_late_sign_in_moves_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let (from, current, _) = signed_in(fixture, &owner)?;
    let then = fixture.after(LATE) + MILLI;
    let again = sign_in(fixture, &from, &owner, then, then)?;
    let moved = done(again.answer, "a late sign-in through a replaced id")?;
    ensure!(moved.id_hash == again.to, "a late sign-in gave the session no new id");
    ensure!(moved.record.public_id == current.public_id(), "a late sign-in began another session");
    ensure!(moved.ended == [current.id_hash], "a late sign-in did not name the id that it ended");
    fixture.is_replaced(&current.id_hash, &again.to, then, "the replaced id of a late sign-in")?;
    // Another sign-in through the same id joins this one.
    let third = sign_in(fixture, &from, &owner, then, then)?;
    joins(&third.answer, &again.to, &again.salt)?;
    // No sign-in joins through the id in between, because the last sign-in did not present it.
    let other = sign_in(fixture, &current.id_hash, &owner, then, then)?;
    done(other.answer, "a sign-in through an id that the last sign-in did not present")?;
    Ok(())
}

pub(super) fn a_sign_in_joins_only_the_current_id(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let (from, current, _) = signed_in(fixture, &owner)?;
    let renewed = fixture.renewed(&current, Some(fixture.after(SECOND * 10)))?;
    let again = sign_in(fixture, &from, &owner, fixture.now, fixture.now)?;
    let moved = done(again.answer, "a sign-in through an id from before sign-in and renewal")?;
    ensure!(moved.id_hash == again.to, "a sign-in joined a session that was renewed since");
    ensure!(moved.record.public_id == current.public_id(), "a sign-in began another session");
    for id_hash in [current.id_hash, renewed.id_hash] {
        fixture.is_replaced(
            &id_hash,
            &again.to,
            fixture.now,
            "an id from before the last sign-in",
        )?;
    }
    Ok(())
}

pub(super) fn a_sign_in_joins_one_that_proved_as_much(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let changes: [fn(&mut NewSession) -> Passed; 4] = [
        |new_session| {
            new_session.auth_level = 1;
            Ok(())
        },
        |new_session| {
            new_session.idp_session_id = Some(external("sid-2")?);
            Ok(())
        },
        |new_session| {
            new_session.persistent = false;
            Ok(())
        },
        |new_session| {
            // Concurrent requests read the clock in either order, so a smaller difference is
            // allowed.
            let earlier = ReplacedId::UNDER_WAY + SECOND;
            new_session.limits.absolute = new_session.limits.absolute.map(|end| end - earlier);
            Ok(())
        },
    ];
    for change in changes {
        let (from, current, _) = signed_in(fixture, &owner)?;
        let (to, delta) = (id_hash()?, nothing());
        let mut new_session = NewSession::new(lifetime().starting(fixture.now))?;
        change(&mut new_session)?;
        let join_salt = Some(JoinSalt::generate()?);
        let action =
            Action::SignIn { to, user: owner.clone(), new_session: new_session.clone(), join_salt };
        let moved = done(fixture.commit(&from, action, &delta, fixture.now)?, "another sign-in")?;
        ensure!(
            moved.id_hash == to,
            "a sign-in joined one with another authentication or lifetime"
        );
        ensure!(moved.record.public_id == current.public_id(), "a sign-in began another session");
        ensure!(
            moved.record.auth_level == new_session.auth_level,
            "a sign-in recorded another level"
        );
        ensure!(moved.record.limits == new_session.limits, "a sign-in recorded other limits");
    }
    Ok(())
}

pub(super) fn a_sign_in_joins_one_through_the_same_id_in_its_grace(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let first = sign_in(fixture, &old.id_hash, &owner, fixture.now, fixture.now)?;
    let record = done(first.answer, "a sign-in through a grace")?.record;
    ensure!(record.public_id == new.public_id(), "a sign-in through a grace began another session");
    let again = sign_in(fixture, &old.id_hash, &owner, fixture.now, fixture.now)?;
    joins(&again.answer, &first.to, &first.salt)?;
    fixture.is_intact(&Sample { id_hash: first.to, record }, "a sign-in that can join")
}

pub(super) fn a_sign_in_through_a_renewed_id_moves_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    for then in [fixture.now, fixture.after(LATE * 2)] {
        for old in [fixture.session()?, fixture.session_of(&owner, fixture.now)?] {
            let new = fixture.renewed(&old, None)?;
            let again = sign_in(fixture, &old.id_hash, &owner, then, then)?;
            let moved = done(again.answer, "a sign-in through a renewed id")?;
            ensure!(moved.id_hash == again.to, "a sign-in through a renewed id gave no new id");
            ensure!(
                moved.record.public_id == new.public_id(),
                "a sign-in through a renewed id began another session"
            );
            ensure!(
                moved.record.user.as_ref() == Some(&owner),
                "a sign-in through a renewed id did not bind the user"
            );
            ensure!(
                moved.ended == [new.id_hash],
                "a sign-in through a renewed id did not name the id it ended"
            );
            fixture.is_replaced(&new.id_hash, &again.to, then, "the id that a sign-in ended")?;
        }
    }
    Ok(())
}

pub(super) fn another_user_takes_nothing_through_a_replaced_id(fixture: &Fixture) -> Passed {
    let (owner, other) = (user("u")?, user("other")?);
    let old = fixture.session_of(&owner, fixture.now)?;
    done(fixture.merge(&old.id_hash, &set("coat", "blue")?, fixture.now)?, "a merge")?;
    let new = fixture.renewed(&old, None)?;
    let theirs = sign_in(fixture, &old.id_hash, &other, fixture.now, fixture.now)?;
    let begun = done(theirs.answer, "another user's sign-in through a replaced id")?;
    ensure!(begun.record.public_id != new.public_id(), "a sign-in took another user's session");
    ensure!(begun.record.data.is_empty(), "a sign-in took another user's data");
    ensure!(begun.ended == [new.id_hash], "a sign-in did not name another user's session it ended");
    fixture.is_absent(&new.id_hash, fixture.now, "an id of a session that another user ended")?;
    fixture.is_replaced(
        &old.id_hash,
        &theirs.to,
        fixture.now,
        "the id of another user's sign-in",
    )?;
    let again = sign_in(fixture, &old.id_hash, &other, fixture.now, fixture.now)?;
    joins(&again.answer, &theirs.to, &theirs.salt)?;
    fixture.is_intact(&Sample { id_hash: theirs.to, record: begun.record }, "a sign-in")
}

pub(super) fn ids_of_an_ended_session_stay_unknown_when_the_next_moves(
    fixture: &Fixture,
) -> Passed {
    let (owner, other) = (user("u")?, user("other")?);
    let (first, current, _) = signed_in(fixture, &owner)?;
    let theirs = sign_in(fixture, &current.id_hash, &other, fixture.now, fixture.now)?;
    done(theirs.answer, "another user's sign-in")?;
    fixture.is_absent(&first, fixture.now, "an id of a session that another user ended")?;
    // This sign-in cannot join. It gives the session a new id and remembers the presented one anew.
    let (to, answer) = fixture.sign_in(&current.id_hash, &other, fixture.now)?;
    let record = done(answer, "another user's second sign-in")?.record;
    fixture.is_absent(&first, fixture.now, "an id of a session that another user ended")?;
    answered(&fixture.delete(&first, fixture.now)?, "NotFound", "a delete through such an id")?;
    fixture.is_intact(&Sample { id_hash: to, record }, "a delete through an id of another session")
}

pub(super) fn another_user_leaves_a_session_bound_since(fixture: &Fixture) -> Passed {
    let (owner, other) = (user("u")?, user("other")?);
    let (from, current, _) = signed_in(fixture, &owner)?;
    let theirs = sign_in(fixture, &from, &other, fixture.now, fixture.now)?;
    let begun = done(theirs.answer, "another user's sign-in through a replaced id")?;
    ensure!(
        begun.ended.is_empty(),
        "a sign-in ended a session that another client has signed in to"
    );
    ensure!(begun.record.data.is_empty(), "a sign-in took data of another user's session");
    fixture.is_intact(&current, "another user's sign-in")?;
    fixture.is_intact(&Sample { id_hash: theirs.to, record: begun.record }, "a sign-in")
}

pub(super) fn a_stale_sign_in_through_a_replaced_id_moves_nothing(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let old = fixture.session()?;
    let new = fixture.renewed(&old, None)?;
    let (to, delta, new_session) = (id_hash()?, nothing(), fixture.new_session()?);
    let action = sign_in_to(to, &owner, &new_session);
    let commit = Commit::new(&old.id_hash, action, delta, fixture.now);
    let answer = fixture.store.commit(&Commit { if_revision: Some(0), ..commit })?;
    match answer {
        Committed::RevisionMismatch(LiveSession { record, id_hash }) => {
            ensure!(id_hash == new.id_hash, "a stale sign-in returned another id");
            ensure!(holds(&record, "coat", "blue")?, "a stale sign-in returned other data");
        }
        other => ensure!(false, "a stale sign-in returned {}", name_of(&other)),
    }
    fixture.is_intact(&new, "a stale sign-in through a replaced id")
}

pub(super) fn a_sign_in_ends_the_id_that_a_thief_renewed(fixture: &Fixture) -> Passed {
    // A thief who has the id makes the application renew it, and keeps the new id.
    let owner = user("u")?;
    let old = fixture.session_of(&owner, fixture.now)?;
    let stolen = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let again = sign_in(fixture, &old.id_hash, &owner, fixture.now, fixture.now)?;
    done(again.answer, "the user's next sign-in")?;
    for id_hash in [stolen.id_hash, old.id_hash] {
        let lives = fixture.is_live(&id_hash, fixture.now)?;
        ensure!(!lives, "an id replaced by the user's sign-in still finds the session");
        let merge = fixture.merge(&id_hash, &set("coat", "red")?, fixture.now)?;
        answered(&merge, "Replaced", "a merge through a replaced id")?;
    }
    Ok(())
}
