//! Checks that a sign-in gives the session a new id, binds the user and restarts both limits.

use crate::backend::Commit;
use crate::conformance::fixture::{
    Fixture, IDLE, Passed, SECOND, Sample, TOUCH_DUE, answered, done, ensure, external, holds,
    id_hash, lifetime, nothing, set, sign_in_to, user,
};
use crate::record::{Client, NewSession};

pub(super) fn a_sign_in_binds_the_user_and_restarts_both_clocks(fixture: &Fixture) -> Passed {
    let (session, to, owner) = (fixture.session()?, id_hash()?, user("søren 'ü'")?);
    let then = fixture.after(SECOND * 10);
    let longer = lifetime().with_absolute(IDLE * 20);
    let mut new_session = NewSession::new(longer.starting(then))?;
    new_session.auth_level = 2;
    new_session.idp_session_id = Some(external("sid-1")?);
    new_session.client = Some(Client::new("127.0.0.1".parse().ok(), None));
    new_session.persistent = false;
    let action = sign_in_to(to, &owner, &new_session);
    let answer = fixture.commit(&session.id_hash, action, &set("hat", 1)?, then)?;
    let signed_in = done(answer, "a sign-in")?;
    ensure!(signed_in.id_hash == to, "a sign-in returned another id than the new one");
    ensure!(signed_in.ended == [session.id_hash], "a sign-in did not name the id that it ended");
    let record = signed_in.record;
    ensure!(record.user.as_ref() == Some(&owner), "a sign-in did not bind the user");
    ensure!(record.authenticated == Some(then), "a sign-in did not record its time");
    ensure!(record.auth_level == 2, "a sign-in did not record the level");
    ensure!(
        record.idp_session_id == new_session.idp_session_id,
        "a sign-in did not record the IdP session id"
    );
    ensure!(record.limits == new_session.limits, "a sign-in did not restart the absolute limit");
    ensure!(record.seen == then, "a sign-in did not restart the idle limit");
    ensure!(record.client == new_session.client, "a sign-in did not record the client");
    ensure!(!record.persistent, "a sign-in did not record whether the cookie is persistent");
    ensure!(holds(&record, "hat", 1)?, "a sign-in lost the change that came with it");
    fixture.is_replaced(&session.id_hash, &to, then, "the replaced id of a sign-in")?;
    fixture.is_intact(&Sample { id_hash: to, record }, "a sign-in")
}

pub(super) fn a_sign_in_without_a_session_begins_one(fixture: &Fixture) -> Passed {
    let (absent, to, owner, new_session) =
        (id_hash()?, id_hash()?, user("u")?, fixture.new_session()?);
    let action = sign_in_to(to, &owner, &new_session);
    let answer = fixture.commit(&absent, action, &set("hat", 1)?, fixture.now)?;
    let begun = done(answer, "a sign-in without a session")?;
    ensure!(begun.ended.is_empty(), "a sign-in without a session ended one");
    ensure!(
        begun.record.public_id == new_session.public_id,
        "a sign-in lost the public id of the new session"
    );
    ensure!(begun.record.user == Some(owner), "a sign-in without a session bound no user");
    ensure!(holds(&begun.record, "hat", 1)?, "a sign-in without a session lost its change");
    fixture.is_absent(&absent, fixture.now, "a sign-in adopted an unknown id")?;
    fixture.is_intact(&Sample { id_hash: to, record: begun.record }, "a sign-in")
}

pub(super) fn a_sign_in_keeps_the_anonymous_session_and_its_data(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let (_, answer) = fixture.sign_in(&session.id_hash, &user("u")?, fixture.after(SECOND))?;
    let record = done(answer, "a sign-in")?.record;
    ensure!(record.public_id == session.public_id(), "a sign-in lost the public id of the session");
    ensure!(holds(&record, "coat", "blue")?, "a sign-in lost the data of the session");
    ensure!(record.created == fixture.now, "a sign-in moved when the session was created");
    let revision = session.record.revision + 1;
    ensure!(record.revision == revision, "a sign-in gave revision {}", record.revision);
    Ok(())
}

pub(super) fn a_sign_in_again_is_the_same_session(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let session = fixture.session_of(&owner, fixture.now)?;
    done(fixture.merge(&session.id_hash, &set("coat", "blue")?, fixture.now)?, "a merge")?;
    let then = fixture.after(TOUCH_DUE);
    let (to, answer) = fixture.sign_in(&session.id_hash, &owner, then)?;
    let again = done(answer, "a second sign-in")?;
    ensure!(again.record.public_id == session.public_id(), "signing in again lost the public id");
    ensure!(holds(&again.record, "coat", "blue")?, "signing in again lost the data");
    ensure!(again.record.authenticated == Some(then), "signing in again did not record its time");
    ensure!(again.record.deadline() == then + IDLE, "signing in again did not restart the limits");
    fixture.is_intact(&Sample { id_hash: to, record: again.record }, "a second sign-in")
}

pub(super) fn nothing_of_another_users_session_reaches_a_sign_in(fixture: &Fixture) -> Passed {
    let theirs = fixture.session_of(&user("u1")?, fixture.now)?;
    done(fixture.merge(&theirs.id_hash, &set("coat", "blue")?, fixture.now)?, "a merge")?;
    let (to, answer) = fixture.sign_in(&theirs.id_hash, &user("u")?, fixture.after(SECOND))?;
    let mine = done(answer, "a sign-in over another user's session")?;
    ensure!(mine.record.public_id != theirs.public_id(), "a sign-in took another user's public id");
    ensure!(mine.record.data.is_empty(), "a sign-in took another user's data");
    ensure!(mine.record.created == fixture.after(SECOND), "a sign-in took another user's session");
    ensure!(
        mine.ended == [theirs.id_hash],
        "a sign-in did not name another user's session it ended"
    );
    let still = fixture.is_live(&theirs.id_hash, fixture.now)?;
    ensure!(!still, "a sign-in left another user's session alive");
    let late = fixture.merge(&theirs.id_hash, &set("coat", "red")?, fixture.now)?;
    answered(&late, "Replaced", "a merge after another user's sign-in")?;
    fixture.is_intact(&Sample { id_hash: to, record: mine.record }, "a sign-in")
}

pub(super) fn a_sign_in_ends_the_grace(fixture: &Fixture) -> Passed {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.after(IDLE)))?;
    let (to, answer) = fixture.sign_in(&second.id_hash, &user("u")?, fixture.now)?;
    done(answer, "a sign-in")?;
    for id_hash in [first.id_hash, second.id_hash] {
        let still = fixture.is_live(&id_hash, fixture.now)?;
        ensure!(!still, "after a sign-in a replaced id still finds the session");
    }
    fixture.live(&to, fixture.now, "a signed-in session")?;
    Ok(())
}

pub(super) fn a_sign_in_through_the_grace_moves_the_session(fixture: &Fixture) -> Passed {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.after(IDLE)))?;
    let (to, answer) = fixture.sign_in(&first.id_hash, &user("u")?, fixture.now)?;
    let signed_in = done(answer, "a sign-in through the grace")?;
    ensure!(signed_in.id_hash == to, "a sign-in through the grace gave the session no new id");
    let same = signed_in.record.public_id == first.public_id();
    ensure!(same, "a sign-in through the grace began another session");
    for id_hash in [first.id_hash, second.id_hash] {
        let still = fixture.is_live(&id_hash, fixture.now)?;
        ensure!(!still, "after a sign-in through the grace a replaced id finds the session");
    }
    ensure!(
        signed_in.ended.contains(&second.id_hash),
        "a sign-in did not name the id that it ended"
    );
    Ok(())
}

pub(super) fn a_stale_sign_in_moves_nothing(fixture: &Fixture) -> Passed {
    let (session, to, owner) = (fixture.session()?, id_hash()?, user("u")?);
    let (new_session, delta) = (fixture.new_session()?, nothing());
    let action = sign_in_to(to, &owner, &new_session);
    let sign_in = Commit::new(&session.id_hash, action, delta, fixture.now);
    let answer = fixture.store.commit(&Commit { if_revision: Some(7), ..sign_in })?;
    answered(&answer, "RevisionMismatch", "a sign-in at a revision that is not stored")?;
    fixture.is_absent(&to, fixture.now, "a stale sign-in stored something")?;
    fixture.is_intact(&session, "a stale sign-in")
}
