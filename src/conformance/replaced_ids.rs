//! Checks of commits through a replaced id that the store remembers.

use std::time::Duration;

use crate::backend::{Action, Commit, CommitAnswer, ReplacedId};
use crate::clock::Timestamp;
use crate::conformance::fixture::*;
use crate::data::{CSRF_SECRET, CsrfSecret};
use crate::delta::Delta;
use crate::id::{JoinSalt, SessionIdHash, UserKey};
use crate::record::NewSession;

const LATE: Duration = ReplacedId::OVERLAPS_FOR;

/// A sign-in that later sign-ins through the same id can join.
pub(super) struct SignInReply {
    pub(super) to: SessionIdHash,
    pub(super) salt: JoinSalt,
    pub(super) answer: CommitAnswer,
}

pub(super) fn sign_in(
    fixture: &Fixture,
    from: &SessionIdHash,
    user: &UserKey,
) -> Passed<SignInReply> {
    sign_in_opened(fixture, from, user, fixture.now)
}

/// Returns a sign-in as [`sign_in`] does, by a request that was opened at another time.
fn sign_in_opened(
    fixture: &Fixture,
    from: &SessionIdHash,
    user: &UserKey,
    opened_at: Timestamp,
) -> Passed<SignInReply> {
    let to = id_hash()?;
    let salt = JoinSalt::generate()?;
    let new_session = fixture.new_session()?;
    let action = Action::SignIn { to, user: user.clone(), new_session, join_salt: Some(salt) };
    let commit = Commit { opened_at, ..Commit::new(from, action, nothing(), fixture.now) };
    Ok(SignInReply { to, salt, answer: fixture.store.commit(&commit)? })
}

/// Fails unless `answer` lets its sign-in join the earlier one with this salt.
pub(super) fn joins(answer: &CommitAnswer, its_salt: &JoinSalt) -> Passed {
    match answer {
        CommitAnswer::CanJoin { salt } => {
            ensure!(salt == its_salt, "a sign-in that can join got another salt")
        }
        other => answered(other, "CanJoin", "a sign-in that can join"),
    }
}

/// Creates a session, signs `owner` in, and returns the replaced id, the session and the join salt.
fn signed_in(fixture: &Fixture, owner: &UserKey) -> Passed<(SessionIdHash, Sample, JoinSalt)> {
    let old = fixture.session()?;
    let SignInReply { to, salt, answer } = sign_in(fixture, &old.id_hash, owner)?;
    Ok((old.id_hash, moved(answer, &old, &to, "a sign-in")?, salt))
}

pub(super) fn the_latest_replaced_ids_are_remembered(fixture: &Fixture) -> Passed {
    let mut session = fixture.session()?;
    let mut id_hashes = Vec::new();
    for _ in 0..=ReplacedId::MAX {
        id_hashes.push(session.id_hash);
        session = fixture.renewed(&session, None)?;
    }
    let (first, rest) = id_hashes.split_first().unwrap_or((&session.id_hash, &[]));
    fixture.is_absent(first, "the ninth replaced id of a session is remembered")?;
    for id_hash in rest {
        let id = fixture.is_replaced(id_hash, &session.id_hash, "one of the latest ids")?;
        let same = id.replaced_at == fixture.now && !id.had_user;
        ensure!(same, "a replaced id is remembered with another time or user")?;
    }
    fixture.is_intact(&session, "nine renewals")?;
    for (later, id_hash) in rest.iter().enumerate() {
        let merge = fixture.merge(id_hash, &set("coat", "red")?)?;
        answered(&merge, "Replaced", &format!("a merge {later} renewals back"))?;
    }
    let oldest = rest.first().unwrap_or(first);
    answered(&fixture.end(oldest)?, "Ended", "an ending eight renewals back")?;
    fixture.is_absent(&session.id_hash, "a session ended eight renewals back")
}

/// Returns a new secret, and a delta that sets it.
fn secret() -> Passed<(CsrfSecret, Delta)> {
    let secret = CsrfSecret::generate()?;
    let mut delta = Delta::new();
    delta.set(CSRF_SECRET, secret.to_value()?);
    Ok((secret, delta))
}

pub(super) fn each_replaced_id_keeps_its_csrf_secret(fixture: &Fixture) -> Passed {
    let keep = |expected: &[(SessionIdHash, Option<CsrfSecret>)], current: &SessionIdHash| {
        expected.iter().try_for_each(|(id_hash, secret)| {
            let id = fixture.is_replaced(id_hash, current, "an id with a CSRF secret")?;
            let same = id.csrf_secret == *secret;
            ensure!(same, "a replaced id is remembered with another CSRF secret")
        })
    };
    let owner = user("u")?;
    let new_session = fixture.new_session()?;
    let (none, first, second) = (id_hash()?, id_hash()?, id_hash()?);
    let (renewed, last) = (id_hash()?, id_hash()?);
    let (before, its_delta) = secret()?;
    let (after, next_delta) = secret()?;
    let sign_in = |to| sign_in_to(to, &owner, &new_session);
    for (id_hash, action, delta) in [
        (none, Action::Create(new_session.clone()), nothing()),
        // The secret of a replaced id is the one from before the change of this commit.
        (none, renew_to(first, None), its_delta),
        (first, renew_to(renewed, None), nothing()),
        (renewed, sign_in(second), next_delta),
    ] {
        done(fixture.commit(&id_hash, action, &delta)?, "a commit with a CSRF secret")?;
    }
    let (before, after) = (Some(before), Some(after));
    keep(&[(none, None), (first, before), (renewed, before)], &second)?;
    // A sign-in through a replaced id replaces the current id too.
    let (_, delta) = secret()?;
    done(fixture.commit(&first, sign_in(last), &delta)?, "a sign-in through a replaced id")?;
    keep(&[(first, before), (renewed, before), (second, after)], &last)?;
    let (theirs, answer) = fixture.sign_in(&second, &user("other")?)?;
    done(answer, "another user's sign-in through a replaced id")?;
    keep(&[(second, after)], &theirs)
}

pub(super) fn an_ending_through_a_replaced_id_ends_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    for then in [fixture.now, fixture.after(LATE), fixture.after(ReplacedId::REMEMBERED) - MILLI] {
        let old = fixture.session()?;
        let new = fixture.renewed(&old, None)?;
        let (from, current, _) = signed_in(fixture, &owner)?;
        for (from, current) in [(old.id_hash, new), (from, current)] {
            let what = "an ending through a replaced id";
            fixture.at(then).ends(&from, &current.id_hash, what)?;
            fixture.at(then).is_absent(&from, what)?;
            fixture.at(then).is_absent(&current.id_hash, what)?;
        }
    }
    Ok(())
}

pub(super) fn an_ending_through_a_forgotten_id_ends_nothing(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, None)?;
    let answer = fixture.later(ReplacedId::REMEMBERED).end(&old.id_hash)?;
    answered(&answer, "NotFound", "an ending through a forgotten id")?;
    fixture.is_intact(&new, "an ending through a forgotten id")
}

pub(super) fn a_sign_in_joins_one_through_the_same_id(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let (from, current, salt) = signed_in(fixture, &owner)?;
    for (opened_at, now) in [
        (fixture.now - SECOND, fixture.now),
        (fixture.after(LATE), fixture.after(LATE)),
        // For a slow request the time at which it was opened counts.
        (fixture.now, fixture.after(LATE * 10)),
    ] {
        let again = sign_in_opened(&fixture.at(now), &from, &owner, opened_at)?;
        joins(&again.answer, &salt)?;
        fixture.at(now).is_absent(&again.to, "a sign-in that can join stored something")?;
        fixture.is_intact(&current, "a sign-in that can join")?;
    }
    // Without a join salt a sign-in cannot join, so it gives the session another id.
    let (to, answer) = fixture.sign_in(&from, &owner)?;
    moved(answer, &current, &to, "a sign-in that cannot join").map(drop)
}

pub(super) fn a_late_sign_in_moves_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let (from, current, _) = signed_in(fixture, &owner)?;
    let late = fixture.later(LATE + MILLI);
    let again = sign_in(&late, &from, &owner)?;
    moved(again.answer, &current, &again.to, "a late sign-in through a replaced id")?;
    late.is_replaced(&current.id_hash, &again.to, "the replaced id of a late sign-in")?;
    // Another sign-in through the same id joins this one.
    let third = sign_in(&late, &from, &owner)?;
    joins(&third.answer, &again.salt)?;
    // No sign-in joins through the id in between, because the last sign-in did not present it.
    let other = sign_in(&late, &current.id_hash, &owner)?.answer;
    answered(&other, "Done", "a sign-in through an id that the last sign-in did not present")
}

pub(super) fn a_sign_in_joins_only_the_current_id(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let (from, current, _) = signed_in(fixture, &owner)?;
    let renewed = fixture.renewed(&current, Some(fixture.after(SECOND * 10)))?;
    let again = sign_in(fixture, &from, &owner)?;
    let what = "a sign-in through an id from before sign-in and renewal";
    moved(again.answer, &renewed, &again.to, what)?;
    for id_hash in [current.id_hash, renewed.id_hash] {
        fixture.is_replaced(&id_hash, &again.to, "an id from before the last sign-in")?;
    }
    Ok(())
}

pub(super) fn a_sign_in_that_differs_does_not_join(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let changes: [fn(&mut NewSession) -> Passed; 4] = [
        |new_session| {
            new_session.auth_level = 1;
            Ok(())
        },
        |new_session| {
            new_session.idp_session_id = Some(idp_session_id("sid-2")?);
            Ok(())
        },
        |new_session| {
            new_session.persistent = false;
            Ok(())
        },
        |new_session| {
            // Overlapping requests read the clock in either order, so a smaller difference is
            // allowed.
            let earlier = ReplacedId::OVERLAPS_FOR + SECOND;
            new_session.limits.absolute_deadline =
                new_session.limits.absolute_deadline.map(|end| end - earlier);
            Ok(())
        },
    ];
    for change in changes {
        let (from, current, _) = signed_in(fixture, &owner)?;
        let to = id_hash()?;
        let mut new_session = fixture.new_session()?;
        change(&mut new_session)?;
        let NewSession { auth_level, limits, .. } = new_session;
        let join_salt = Some(JoinSalt::generate()?);
        let action = Action::SignIn { to, user: owner.clone(), new_session, join_salt };
        let answer = fixture.commit(&from, action, &nothing())?;
        let what = "a sign-in with another authentication or lifetime";
        let moved = moved(answer, &current, &to, what)?.record;
        ensure!(moved.auth_level == auth_level, "{what} recorded another level")?;
        ensure!(moved.limits == limits, "{what} recorded other limits")?;
    }
    Ok(())
}

pub(super) fn a_sign_in_joins_one_through_the_same_id_in_its_grace(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let first = sign_in(fixture, &old.id_hash, &owner)?;
    let signed_in = moved(first.answer, &new, &first.to, "a sign-in through a grace")?;
    let again = sign_in(fixture, &old.id_hash, &owner)?;
    joins(&again.answer, &first.salt)?;
    fixture.is_intact(&signed_in, "a sign-in that can join")
}

pub(super) fn a_sign_in_through_a_renewed_id_moves_the_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    for then in [fixture.now, fixture.after(LATE * 2)] {
        for old in [fixture.session()?, fixture.session_of(&owner)?] {
            let new = fixture.renewed(&old, None)?;
            let again = sign_in(&fixture.at(then), &old.id_hash, &owner)?;
            let what = "a sign-in through a renewed id";
            let moved = moved(again.answer, &new, &again.to, what)?.record;
            ensure!(moved.user.as_ref() == Some(&owner), "{what} did not bind the user")?;
            fixture.at(then).is_replaced(&new.id_hash, &again.to, "the id that a sign-in ended")?;
        }
    }
    Ok(())
}

pub(super) fn another_user_takes_nothing_through_a_replaced_id(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let other = user("other")?;
    let old = fixture.session_of(&owner)?;
    done(fixture.merge(&old.id_hash, &set("coat", "blue")?)?, "a merge")?;
    let new = fixture.renewed(&old, None)?;
    let theirs = sign_in(fixture, &old.id_hash, &other)?;
    let what = "another user's sign-in through a replaced id";
    let begun = begun(theirs.answer, &new, what)?;
    ensure!(
        begun.ids_to_invalidate == [new.id_hash],
        "{what} did not name the session that it ended"
    )?;
    names_ended(&begun.ended, &[&new], what)?;
    fixture.is_absent(&new.id_hash, "an id of a session that another user ended")?;
    fixture.is_replaced(&old.id_hash, &theirs.to, "the id of another user's sign-in")?;
    let again = sign_in(fixture, &old.id_hash, &other)?;
    joins(&again.answer, &theirs.salt)?;
    fixture.is_intact(&Sample { id_hash: theirs.to, record: begun.record }, "a sign-in")
}

pub(super) fn ids_of_an_ended_session_stay_unknown_when_the_next_moves(
    fixture: &Fixture,
) -> Passed {
    let owner = user("u")?;
    let other = user("other")?;
    let (first, current, _) = signed_in(fixture, &owner)?;
    let theirs = sign_in(fixture, &current.id_hash, &other)?;
    done(theirs.answer, "another user's sign-in")?;
    fixture.is_absent(&first, "an id of a session that another user ended")?;
    // This sign-in cannot join. It gives the session a new id and remembers the presented one anew.
    let (to, answer) = fixture.sign_in(&current.id_hash, &other)?;
    let record = done(answer, "another user's second sign-in")?.record;
    fixture.is_absent(&first, "an id of a session that another user ended")?;
    answered(&fixture.end(&first)?, "NotFound", "an ending through such an id")?;
    fixture.is_intact(&Sample { id_hash: to, record }, "an ending through an id of another session")
}

pub(super) fn another_users_sign_in_spares_one_signed_in_since(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let other = user("other")?;
    let (from, current, _) = signed_in(fixture, &owner)?;
    let theirs = sign_in(fixture, &from, &other)?;
    let what = "another user's sign-in through a replaced id";
    let begun = begun(theirs.answer, &current, what)?;
    let ended_none = begun.ids_to_invalidate.is_empty();
    ensure!(ended_none, "{what} ended a session that another client signed in to")?;
    fixture.is_intact(&current, "another user's sign-in")?;
    fixture.is_intact(&Sample { id_hash: theirs.to, record: begun.record }, "a sign-in")
}

pub(super) fn a_sign_in_by_a_replaced_id_at_another_revision_moves_nothing(
    fixture: &Fixture,
) -> Passed {
    let owner = user("u")?;
    let old = fixture.session()?;
    let new = fixture.renewed(&old, None)?;
    let to = id_hash()?;
    let action = sign_in_to(to, &owner, &fixture.new_session()?);
    fixture.is_revision_mismatch(&old.id_hash, &to, action, &new)
}

pub(super) fn a_sign_in_ends_the_id_that_a_thief_renewed(fixture: &Fixture) -> Passed {
    // A thief who has the id makes the application renew it, and keeps the new id.
    let owner = user("u")?;
    let old = fixture.session_of(&owner)?;
    let stolen = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let again = sign_in(fixture, &old.id_hash, &owner)?;
    done(again.answer, "the user's next sign-in")?;
    let found = "an id replaced by the user's sign-in still finds the session";
    fixture.none_live(&[stolen.id_hash, old.id_hash], found)?;
    for id_hash in [stolen.id_hash, old.id_hash] {
        let merge = fixture.merge(&id_hash, &set("coat", "red")?)?;
        answered(&merge, "Replaced", "a merge through a replaced id")?;
    }
    Ok(())
}
