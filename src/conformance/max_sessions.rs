//! Checks that a sign-in applies the maximum number of sessions per user.

use std::num::NonZeroU32;

use crate::backend::{Commit, CommitAnswer, MaxSessions};
use crate::conformance::fixture::*;
use crate::id::{SessionIdHash, UserKey};
use crate::lifetime::AtMaximum;
use crate::list::SessionFilter;

/// Signs in under a maximum to a new id. Returns its hash and the result.
pub(super) fn sign_in(
    fixture: &Fixture,
    from: &SessionIdHash,
    owner: &UserKey,
    (maximum, at_maximum): (u32, AtMaximum),
) -> Passed<(SessionIdHash, CommitAnswer)> {
    let to = id_hash()?;
    let maximum = NonZeroU32::new(maximum).unwrap_or(NonZeroU32::MIN);
    let action = sign_in_to(to, owner, &fixture.new_session()?);
    let commit = Commit::new(from, action, nothing(), fixture.now);
    let max_sessions = Some(MaxSessions::new(maximum, at_maximum));
    Ok((to, fixture.store.commit(&Commit { max_sessions, ..commit })?))
}

/// Creates three sessions of one user, signed in one second apart.
fn three(fixture: &Fixture, owner: &UserKey) -> Passed<[Sample; 3]> {
    let begin = |seconds| fixture.later(SECOND * seconds).session_of(owner);
    Ok([begin(0)?, begin(1)?, begin(2)?])
}

/// Fails unless exactly these sessions of the user are live.
fn live_are(fixture: &Fixture, owner: &UserKey, id_hashes: &[SessionIdHash], what: &str) -> Passed {
    let later = fixture.later(SECOND * 10);
    for id_hash in id_hashes {
        later.live(id_hash, &format!("{what}, a session that should be live"))?;
    }
    let listed = later.list(&SessionFilter::User(owner))?.len();
    let wanted = id_hashes.len();
    ensure!(listed == wanted, "{what}, {listed} sessions are live, not {wanted}")
}

pub(super) fn a_refused_sign_in_changes_nothing(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let [a, b, c] = three(fixture, &owner)?;
    let anonymous = fixture.session()?;
    let others = fixture.session_of(&user("other")?)?;
    for from in [id_hash()?, anonymous.id_hash, others.id_hash] {
        let later = fixture.later(SECOND * 10);
        let (to, answer) = sign_in(&later, &from, &owner, (3, AtMaximum::Refuse))?;
        answered(&answer, "SignInRefused", "a sign-in that exceeds the maximum")?;
        later.is_absent(&to, "a refused sign-in stored something")?;
    }
    fixture.is_intact(&anonymous, "a refused sign-in")?;
    fixture.is_intact(&others, "a refused sign-in")?;
    live_are(fixture, &owner, &[a.id_hash, b.id_hash, c.id_hash], "after a refused sign-in")
}

pub(super) fn at_the_maximum_the_longest_signed_in_ends(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let [a, b, c] = three(fixture, &owner)?;
    // The maximum orders sessions by their last sign-in. That of `a` is now the latest.
    let (a_again, answer) = fixture.later(SECOND * 3).sign_in(&a.id_hash, &owner)?;
    done(answer, "a second sign-in")?;
    let later = fixture.later(SECOND * 10);
    let (to, answer) = sign_in(&later, &id_hash()?, &owner, (3, AtMaximum::EndOldest))?;
    let signed_in = done(answer, "a sign-in that ends the oldest")?;
    let former = signed_in.ids_to_invalidate;
    ensure!(former == [b.id_hash], "a sign-in did not name exactly the oldest session as ended")?;
    names_ended(&signed_in.ended, &[&b], "a sign-in that ends the oldest")?;
    live_are(fixture, &owner, &[a_again, c.id_hash, to], "after a sign-in that ends the oldest")?;
    let (last, answer) = sign_in(&later, &to, &owner, (1, AtMaximum::EndOldest))?;
    let former = done(answer, "a sign-in under a lowered maximum")?.ids_to_invalidate;
    let named = same_ids(&former, &[a_again, c.id_hash, to]);
    ensure!(named, "a sign-in under a lowered maximum did not name all that it ended")?;
    live_are(fixture, &owner, &[last], "after a sign-in under a lowered maximum")
}

pub(super) fn at_the_maximum_all_others_end(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let [a, b, c] = three(fixture, &owner)?;
    let graced = fixture.renewed(&c, Some(fixture.after(IDLE)))?;
    let anonymous = fixture.session()?;
    let then = fixture.after(SECOND * 10);
    let maximum = (3, AtMaximum::EndOthers);
    let (to, answer) = sign_in(&fixture.at(then), &anonymous.id_hash, &owner, maximum)?;
    let former = done(answer, "a sign-in that ends the others")?.ids_to_invalidate;
    let named = same_ids(&former, &[a.id_hash, b.id_hash, graced.id_hash, anonymous.id_hash]);
    ensure!(named, "a sign-in that ends the others did not name all that it ended")?;
    fixture.at(then).none_live(
        &[c.id_hash],
        "a session that a maximum ended is still found through its grace",
    )?;
    live_are(fixture, &owner, &[to], "after a sign-in that ends the others")
}

pub(super) fn below_the_maximum_nothing_ends(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let [a, b, c] = three(fixture, &owner)?;
    let then = fixture.after(SECOND * 10);
    let mut id_hashes = vec![a.id_hash, b.id_hash, c.id_hash];
    for (maximum, at_maximum) in
        [(4, AtMaximum::Refuse), (5, AtMaximum::EndOldest), (6, AtMaximum::EndOthers)]
    {
        let (to, answer) = sign_in(&fixture.at(then), &id_hash()?, &owner, (maximum, at_maximum))?;
        let former = done(answer, "a sign-in below the maximum")?.ids_to_invalidate;
        ensure!(former.is_empty(), "a sign-in below the maximum ended sessions")?;
        id_hashes.push(to);
    }
    live_are(fixture, &owner, &id_hashes, "after sign-ins below the maximum")
}

pub(super) fn sessions_that_ended_do_not_count(fixture: &Fixture) -> Passed {
    let [owner, other] = [user("u")?, user("u1")?];
    three(fixture, &owner)?;
    let [expired, ..] = three(fixture, &other)?;
    let later = fixture.after(IDLE * 2);
    // The other user's browser presents the id of one of the expired sessions.
    for (presented, user) in [(id_hash()?, &owner), (expired.id_hash, &other)] {
        let (_, answer) = sign_in(&fixture.at(later), &presented, user, (1, AtMaximum::Refuse))?;
        let former = done(answer, "a sign-in when all others have expired")?.ids_to_invalidate;
        ensure!(former.is_empty(), "a sign-in ended sessions that had expired already")?;
    }
    Ok(())
}

pub(super) fn signing_in_again_is_not_one_more(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let [a, b, c] = three(fixture, &owner)?;
    let later = fixture.later(SECOND * 10);
    let (to, answer) = sign_in(&later, &a.id_hash, &owner, (3, AtMaximum::Refuse))?;
    let former = done(answer, "a second sign-in of a session at the maximum")?.ids_to_invalidate;
    ensure!(former == [a.id_hash], "a second sign-in of a session did not end exactly its old id")?;
    live_are(fixture, &owner, &[to, b.id_hash, c.id_hash], "after a second sign-in")?;
    // An id in its grace leads to the same session, so this is no further session either.
    let graced = fixture.renewed(&b, Some(fixture.after(IDLE)))?;
    let (to_b, answer) = sign_in(&later, &b.id_hash, &owner, (3, AtMaximum::EndOthers))?;
    done(answer, "a second sign-in through the grace at the maximum")?;
    later.is_replaced(&graced.id_hash, &to_b, "the replaced id of a sign-in")?;
    live_are(fixture, &owner, &[to, to_b, c.id_hash], "after a second sign-in through the grace")
}

pub(super) fn another_users_session_does_not_count(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let other = user("u1")?;
    let theirs = fixture.session_of(&other)?;
    let untouched = fixture.session_of(&other)?;
    fixture.session()?;
    let then = fixture.after(SECOND * 10);
    let maximum = (1, AtMaximum::Refuse);
    let (to, answer) = sign_in(&fixture.at(then), &theirs.id_hash, &owner, maximum)?;
    done(answer, "a first sign-in over another user's session")?;
    live_are(fixture, &owner, &[to], "after a first sign-in")?;
    live_are(fixture, &other, &[untouched.id_hash], "after a sign-in over another user's session")
}
