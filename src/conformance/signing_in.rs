//! A sign-in moves the session, binds the user, and restarts both clocks.

use crate::conformance::given::{
    Given, IDLE, Outcome, SECOND, Session, TOUCH_DUE, answered, done, ensure, external, holds, key,
    lifetime, nothing, set, user,
};
use crate::record::{Birth, Client};
use crate::store::{Commit, Fate};

pub(super) fn a_sign_in_binds_the_user_and_restarts_both_clocks(given: &Given) -> Outcome {
    let (session, to, owner) = (given.session()?, key()?, user("søren 'ü'")?);
    let then = given.after(SECOND * 10);
    let longer = lifetime().with_absolute(IDLE * 20);
    let mut birth = Birth::new(longer.starting(then))?;
    birth.auth_level = 2;
    birth.external_key = Some(external("sid-1")?);
    birth.client = Some(Client::new("127.0.0.1".parse().ok(), None));
    birth.persistent = false;
    let fate = Fate::SignIn { to: &to, user: &owner, birth: &birth, join_salt: None };
    let answer = given.commit(&session.key, fate, &set("hat", 1)?, then)?;
    let signed_in = done(answer, "a sign-in")?;
    ensure!(signed_in.key == to, "a sign-in was answered with another key than the new one");
    ensure!(signed_in.ended == [session.key], "a sign-in did not name the key that it ended");
    let record = signed_in.record;
    ensure!(record.user.as_ref() == Some(&owner), "a sign-in did not bind the user");
    ensure!(record.authenticated == Some(then), "a sign-in did not stamp its time");
    ensure!(record.auth_level == 2, "a sign-in did not stamp the level");
    ensure!(record.external_key == birth.external_key, "a sign-in did not stamp the external key");
    ensure!(record.limits == birth.limits, "a sign-in did not restart the absolute limit");
    ensure!(record.seen == then, "a sign-in did not restart the idle limit");
    ensure!(record.client == birth.client, "a sign-in did not stamp the client");
    ensure!(!record.persistent, "a sign-in did not stamp whether the cookie is kept");
    ensure!(holds(&record, "hat", 1)?, "a sign-in lost the change that came with it");
    given.is_replaced(&session.key, &to, then, "the key from before a sign-in")?;
    given.is_intact(&Session { key: to, record }, "a sign-in")
}

pub(super) fn a_sign_in_without_a_session_begins_one(given: &Given) -> Outcome {
    let (absent, to, owner, birth) = (key()?, key()?, user("u")?, given.birth()?);
    let fate = Fate::SignIn { to: &to, user: &owner, birth: &birth, join_salt: None };
    let answer = given.commit(&absent, fate, &set("hat", 1)?, given.now)?;
    let begun = done(answer, "a sign-in without a session")?;
    ensure!(begun.ended.is_empty(), "a sign-in without a session ended one");
    ensure!(begun.record.handle == birth.handle, "a sign-in lost the handle it was given");
    ensure!(begun.record.user == Some(owner), "a sign-in without a session bound no user");
    ensure!(holds(&begun.record, "hat", 1)?, "a sign-in without a session lost its change");
    given.is_absent(&absent, given.now, "a sign-in adopted an unknown key")?;
    given.is_intact(&Session { key: to, record: begun.record }, "a sign-in")
}

pub(super) fn a_sign_in_keeps_the_anonymous_session_and_its_data(given: &Given) -> Outcome {
    let session = given.session()?;
    let (_, answer) = given.sign_in(&session.key, &user("u")?, given.after(SECOND))?;
    let record = done(answer, "a sign-in")?.record;
    ensure!(record.handle == session.handle(), "a sign-in lost the handle of the session");
    ensure!(holds(&record, "coat", "blue")?, "a sign-in lost the data of the session");
    ensure!(record.created == given.now, "a sign-in moved when the session was created");
    let revision = session.record.revision + 1;
    ensure!(record.revision == revision, "a sign-in gave revision {}", record.revision);
    Ok(())
}

pub(super) fn a_sign_in_again_is_the_same_session(given: &Given) -> Outcome {
    let owner = user("u")?;
    let session = given.session_of(&owner, given.now)?;
    done(given.merge(&session.key, &set("coat", "blue")?, given.now)?, "a merge")?;
    let then = given.after(TOUCH_DUE);
    let (to, answer) = given.sign_in(&session.key, &owner, then)?;
    let again = done(answer, "a second sign-in")?;
    ensure!(again.record.handle == session.handle(), "signing in again lost the handle");
    ensure!(holds(&again.record, "coat", "blue")?, "signing in again lost the data");
    ensure!(again.record.authenticated == Some(then), "signing in again did not stamp its time");
    ensure!(again.record.deadline() == then + IDLE, "signing in again did not restart the clocks");
    given.is_intact(&Session { key: to, record: again.record }, "a second sign-in")
}

pub(super) fn nothing_of_another_users_session_reaches_a_sign_in(given: &Given) -> Outcome {
    let theirs = given.session_of(&user("u1")?, given.now)?;
    done(given.merge(&theirs.key, &set("coat", "blue")?, given.now)?, "a merge")?;
    let (to, answer) = given.sign_in(&theirs.key, &user("u")?, given.after(SECOND))?;
    let mine = done(answer, "a sign-in over another user's session")?;
    ensure!(mine.record.handle != theirs.handle(), "a sign-in took another user's handle");
    ensure!(mine.record.data.is_empty(), "a sign-in took another user's data");
    ensure!(mine.record.created == given.after(SECOND), "a sign-in took another user's session");
    ensure!(mine.ended == [theirs.key], "a sign-in did not name another user's session it ended");
    let still = given.is_live(&theirs.key, given.now)?;
    ensure!(!still, "a sign-in left another user's session alive");
    let late = given.merge(&theirs.key, &set("coat", "red")?, given.now)?;
    answered(&late, "Replaced", "a merge after another user's sign-in")?;
    given.is_intact(&Session { key: to, record: mine.record }, "a sign-in")
}

pub(super) fn a_sign_in_ends_the_grace(given: &Given) -> Outcome {
    let first = given.session()?;
    let second = given.renewed(&first, Some(given.after(IDLE)))?;
    let (to, answer) = given.sign_in(&second.key, &user("u")?, given.now)?;
    done(answer, "a sign-in")?;
    for key in [first.key, second.key] {
        let still = given.is_live(&key, given.now)?;
        ensure!(!still, "after a sign-in a key from before still finds the session");
    }
    given.live(&to, given.now, "a signed-in session")?;
    Ok(())
}

pub(super) fn a_sign_in_through_the_grace_moves_the_session(given: &Given) -> Outcome {
    let first = given.session()?;
    let second = given.renewed(&first, Some(given.after(IDLE)))?;
    let (to, answer) = given.sign_in(&first.key, &user("u")?, given.now)?;
    let signed_in = done(answer, "a sign-in through the grace")?;
    ensure!(signed_in.key == to, "a sign-in through the grace did not move the session");
    let same = signed_in.record.handle == first.handle();
    ensure!(same, "a sign-in through the grace left the session behind and began another");
    for key in [first.key, second.key] {
        let still = given.is_live(&key, given.now)?;
        ensure!(!still, "after a sign-in through the grace a key from before finds the session");
    }
    ensure!(signed_in.ended.contains(&second.key), "a sign-in did not name the key that it ended");
    Ok(())
}

pub(super) fn a_stale_sign_in_moves_nothing(given: &Given) -> Outcome {
    let (session, to, owner) = (given.session()?, key()?, user("u")?);
    let (birth, delta) = (given.birth()?, nothing());
    let fate = Fate::SignIn { to: &to, user: &owner, birth: &birth, join_salt: None };
    let sign_in = Commit::new(&session.key, fate, &delta, given.now);
    let answer = given.store.commit(&Commit { if_revision: Some(7), ..sign_in })?;
    answered(&answer, "Stale", "a sign-in at a revision that is not stored")?;
    given.is_absent(&to, given.now, "a stale sign-in stored something")?;
    given.is_intact(&session, "a stale sign-in")
}
