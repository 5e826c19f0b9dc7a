//! Checks that a sign-in gives the session a new id, binds the user and restarts both limits.

use crate::conformance::fixture::*;
use crate::record::{Client, NewSession, Record};

pub(super) fn a_sign_in_binds_the_user_and_restarts_both_clocks(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let to = id_hash()?;
    let owner = user("søren 'ü'")?;
    let later = fixture.later(SECOND * 10);
    let longer = lifetime().with_absolute(IDLE * 20);
    let mut new_session = NewSession::new(longer.limits_from(later.now))?;
    new_session.auth_level = 2;
    new_session.idp_session_id = Some(idp_session_id("sid-1")?);
    new_session.client = Some(Client::new("127.0.0.1".parse().ok(), None));
    new_session.persistent = false;
    let action = sign_in_to(to, &owner, &new_session);
    let answer = later.commit(&session.id_hash, action, &set("hat", 1)?)?;
    let signed_in = moved(answer, &session, &to, "a sign-in")?;
    let mut expected = Record {
        user: Some(owner),
        idp_session_id: new_session.idp_session_id,
        auth_level: 2,
        authenticated: Some(later.now),
        seen: later.now,
        id_issued: later.now,
        limits: new_session.limits,
        persistent: false,
        revision: session.record.revision + 1,
        client: new_session.client,
        ..session.record
    };
    set("hat", 1)?.apply(&mut expected);
    same_record(&signed_in.record, &expected, "a sign-in")?;
    later.is_replaced(&session.id_hash, &to, "the replaced id of a sign-in")?;
    fixture.is_intact(&Sample { id_hash: to, record: expected }, "a sign-in")
}

pub(super) fn a_sign_in_without_a_session_begins_one(fixture: &Fixture) -> Passed {
    let absent = id_hash()?;
    let to = id_hash()?;
    let owner = user("u")?;
    let new_session = fixture.new_session()?;
    let action = sign_in_to(to, &owner, &new_session);
    let answer = fixture.commit(&absent, action, &set("hat", 1)?)?;
    let begun = done(answer, "a sign-in without a session")?;
    ensure!(begun.ids_to_invalidate.is_empty(), "a sign-in without a session ended one")?;
    let kept = begun.record.public_id == new_session.public_id;
    ensure!(kept, "a sign-in lost the public id of the new session")?;
    ensure!(begun.record.user == Some(owner), "a sign-in without a session bound no user")?;
    ensure!(holds(&begun.record, "hat", 1)?, "a sign-in without a session lost its change")?;
    fixture.is_absent(&absent, "a sign-in adopted an unknown id")?;
    fixture.is_intact(&Sample { id_hash: to, record: begun.record }, "a sign-in")
}

pub(super) fn a_sign_in_keeps_the_anonymous_session_and_its_data(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let (to, answer) = fixture.later(SECOND).sign_in(&session.id_hash, &user("u")?)?;
    let record = moved(answer, &session, &to, "a sign-in")?.record;
    ensure!(holds(&record, "coat", "blue")?, "a sign-in lost the data of the session")?;
    ensure!(record.created == fixture.now, "a sign-in moved when the session was created")?;
    let revision = session.record.revision + 1;
    ensure!(record.revision == revision, "a sign-in gave revision {}", record.revision)
}

pub(super) fn a_sign_in_again_is_the_same_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let session = fixture.session_of(&owner)?;
    done(fixture.merge(&session.id_hash, &set("coat", "blue")?)?, "a merge")?;
    let then = fixture.after(TOUCH_DUE);
    let (to, answer) = fixture.at(then).sign_in(&session.id_hash, &owner)?;
    let again = moved(answer, &session, &to, "a second sign-in")?;
    ensure!(holds(&again.record, "coat", "blue")?, "signing in again lost the data")?;
    ensure!(again.record.authenticated == Some(then), "signing in again did not record its time")?;
    ensure!(again.record.deadline() == then + IDLE, "signing in again did not restart the limits")?;
    fixture.is_intact(&again, "a second sign-in")
}

pub(super) fn nothing_of_another_users_session_reaches_a_sign_in(fixture: &Fixture) -> Passed {
    let theirs = fixture.session_of(&user("u1")?)?;
    done(fixture.merge(&theirs.id_hash, &set("coat", "blue")?)?, "a merge")?;
    let (to, answer) = fixture.later(SECOND).sign_in(&theirs.id_hash, &user("u")?)?;
    let what = "a sign-in over another user's session";
    let mine = begun(answer, &theirs, what)?;
    ensure!(mine.record.created == fixture.after(SECOND), "{what} took its time of creation")?;
    ensure!(
        mine.ids_to_invalidate == [theirs.id_hash],
        "{what} did not name the session that it ended"
    )?;
    names_ended(&mine.ended, &[&theirs], what)?;
    fixture.none_live(&[theirs.id_hash], "a sign-in left another user's session alive")?;
    let late = fixture.merge(&theirs.id_hash, &set("coat", "red")?)?;
    answered(&late, "Replaced", "a merge after another user's sign-in")?;
    fixture.is_intact(&Sample { id_hash: to, record: mine.record }, "a sign-in")
}

pub(super) fn a_sign_in_ends_the_grace(fixture: &Fixture) -> Passed {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.after(IDLE)))?;
    let (to, answer) = fixture.sign_in(&second.id_hash, &user("u")?)?;
    let signed_in = moved(answer, &second, &to, "a sign-in")?;
    let found = "after a sign-in a replaced id still finds the session";
    fixture.none_live(&[first.id_hash, second.id_hash], found)?;
    fixture.is_intact(&signed_in, "a sign-in")
}

pub(super) fn a_sign_in_through_the_grace_moves_the_session(fixture: &Fixture) -> Passed {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.after(IDLE)))?;
    let (to, answer) = fixture.sign_in(&first.id_hash, &user("u")?)?;
    moved(answer, &second, &to, "a sign-in through the grace")?;
    let found = "after a sign-in through the grace a replaced id finds the session";
    fixture.none_live(&[first.id_hash, second.id_hash], found)
}

pub(super) fn a_sign_in_at_another_revision_moves_nothing(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let to = id_hash()?;
    let action = sign_in_to(to, &user("u")?, &fixture.new_session()?);
    fixture.is_revision_mismatch(&session.id_hash, &to, action, &session)
}
