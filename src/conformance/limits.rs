//! A sign-in obeys the limit of sessions per user.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use crate::clock::Timestamp;
use crate::conformance::given::{
    ALL, Given, IDLE, Outcome, SECOND, Session, answered, done, ensure, key, lifetime, nothing,
    user,
};
use crate::id::{SessionKey, UserKey};
use crate::record::Birth;
use crate::store::{Admit, AtLimit, Commit, Committed, Fate, Page, Which};

/// Signs in under a limit, to a new key that comes back with the answer.
pub(super) fn sign_in(
    given: &Given,
    from: &SessionKey,
    owner: &UserKey,
    (limit, at_limit): (u32, AtLimit),
    now: Timestamp,
) -> Outcome<(SessionKey, Committed)> {
    let (to, birth, delta) = (key()?, Birth::new(lifetime().starting(now))?, nothing());
    let limit = NonZeroU32::new(limit).unwrap_or(NonZeroU32::MIN);
    let fate = Fate::SignIn { to: &to, user: owner, birth: &birth, join_salt: None };
    let commit = Commit::new(from, fate, &delta, now);
    let admit = Some(Admit::new(limit, at_limit));
    Ok((to, given.store.commit(&Commit { admit, ..commit })?))
}

/// Three sessions of one user, signed in one second apart.
fn three(given: &Given, owner: &UserKey) -> Outcome<[Session; 3]> {
    let at = |seconds| given.session_of(owner, given.after(SECOND * seconds));
    Ok([at(0)?, at(1)?, at(2)?])
}

/// Demands that exactly these sessions of the user live.
fn live_are(given: &Given, owner: &UserKey, keys: &[SessionKey], what: &str) -> Outcome {
    let now = given.after(SECOND * 10);
    for key in keys {
        given.live(key, now, &format!("{what}, a session that should live"))?;
    }
    let listed = given.registry()?.list(&Which::User(owner), Page::first(ALL), now)?.len();
    ensure!(listed == keys.len(), "{what}, {listed} sessions live, not {}", keys.len());
    Ok(())
}

fn same_keys(some: &[SessionKey], others: &[SessionKey]) -> bool {
    some.len() == others.len()
        && some.iter().collect::<BTreeSet<_>>() == others.iter().collect::<BTreeSet<_>>()
}

pub(super) fn a_refused_sign_in_changes_nothing(given: &Given) -> Outcome {
    let owner = user("u")?;
    let [a, b, c] = three(given, &owner)?;
    let anonymous = given.session()?;
    let others = given.session_of(&user("other")?, given.now)?;
    for from in [key()?, anonymous.key, others.key] {
        let then = given.after(SECOND * 10);
        let (to, answer) = sign_in(given, &from, &owner, (3, AtLimit::Refuse), then)?;
        answered(&answer, "Full", "a sign-in at the limit that shall be refused")?;
        given.is_absent(&to, then, "a refused sign-in stored something")?;
    }
    given.is_intact(&anonymous, "a refused sign-in")?;
    given.is_intact(&others, "a refused sign-in")?;
    live_are(given, &owner, &[a.key, b.key, c.key], "after a refused sign-in")
}

pub(super) fn at_the_limit_the_longest_signed_in_ends(given: &Given) -> Outcome {
    let owner = user("u")?;
    let [a, b, c] = three(given, &owner)?;
    // The first to begin is the last to have signed in, so it is not the oldest any more.
    let (a_again, answer) = given.sign_in(&a.key, &owner, given.after(SECOND * 3))?;
    done(answer, "a second sign-in")?;
    let then = given.after(SECOND * 10);
    let (to, answer) = sign_in(given, &key()?, &owner, (3, AtLimit::EndOldest), then)?;
    let ended = done(answer, "a sign-in that ends the oldest")?.ended;
    ensure!(ended == [b.key], "a sign-in did not name exactly the oldest session as ended");
    live_are(given, &owner, &[a_again, c.key, to], "after a sign-in that ends the oldest")?;
    let (last, answer) = sign_in(given, &to, &owner, (1, AtLimit::EndOldest), then)?;
    let ended = done(answer, "a sign-in under a lowered limit")?.ended;
    let named = same_keys(&ended, &[a_again, c.key, to]);
    ensure!(named, "a sign-in under a lowered limit did not name all that it ended");
    live_are(given, &owner, &[last], "after a sign-in under a lowered limit")
}

pub(super) fn at_the_limit_all_others_end(given: &Given) -> Outcome {
    let owner = user("u")?;
    let [a, b, c] = three(given, &owner)?;
    let graced = given.renewed(&c, Some(given.after(IDLE)))?;
    let anonymous = given.session()?;
    let then = given.after(SECOND * 10);
    let limit = (3, AtLimit::EndOthers);
    let (to, answer) = sign_in(given, &anonymous.key, &owner, limit, then)?;
    let ended = done(answer, "a sign-in that ends the others")?.ended;
    let named = same_keys(&ended, &[a.key, b.key, graced.key, anonymous.key]);
    ensure!(named, "a sign-in that ends the others did not name all that it ended");
    let still = given.is_live(&c.key, then)?;
    ensure!(!still, "a session that a limit ended is still found through its grace");
    live_are(given, &owner, &[to], "after a sign-in that ends the others")
}

pub(super) fn below_the_limit_nothing_ends(given: &Given) -> Outcome {
    let owner = user("u")?;
    let [a, b, c] = three(given, &owner)?;
    let then = given.after(SECOND * 10);
    let mut keys = vec![a.key, b.key, c.key];
    for (limit, at_limit) in
        [(4, AtLimit::Refuse), (5, AtLimit::EndOldest), (6, AtLimit::EndOthers)]
    {
        let (to, answer) = sign_in(given, &key()?, &owner, (limit, at_limit), then)?;
        let ended = done(answer, "a sign-in below the limit")?.ended;
        ensure!(ended.is_empty(), "a sign-in below the limit ended sessions");
        keys.push(to);
    }
    live_are(given, &owner, &keys, "after sign-ins below the limit")
}

pub(super) fn sessions_that_ended_do_not_count(given: &Given) -> Outcome {
    let owner = user("u")?;
    three(given, &owner)?;
    let later = given.after(IDLE * 2);
    let (_, answer) = sign_in(given, &key()?, &owner, (1, AtLimit::Refuse), later)?;
    let ended = done(answer, "a sign-in when all others have expired")?.ended;
    ensure!(ended.is_empty(), "a sign-in ended sessions that had expired already");
    Ok(())
}

pub(super) fn signing_in_again_is_not_one_more(given: &Given) -> Outcome {
    let owner = user("u")?;
    let [a, b, c] = three(given, &owner)?;
    let then = given.after(SECOND * 10);
    let (to, answer) = sign_in(given, &a.key, &owner, (3, AtLimit::Refuse), then)?;
    let ended = done(answer, "a second sign-in of a session at the limit")?.ended;
    ensure!(ended == [a.key], "a second sign-in of a session did not end exactly its old key");
    live_are(given, &owner, &[to, b.key, c.key], "after a second sign-in")?;
    // Through the grace it is the same session as well.
    let graced = given.renewed(&b, Some(given.after(IDLE)))?;
    let (to_b, answer) = sign_in(given, &b.key, &owner, (3, AtLimit::EndOthers), then)?;
    done(answer, "a second sign-in through the grace at the limit")?;
    given.is_replaced(&graced.key, &to_b, then, "the key from before a sign-in")?;
    live_are(given, &owner, &[to, to_b, c.key], "after a second sign-in through the grace")
}

pub(super) fn another_users_session_does_not_count(given: &Given) -> Outcome {
    let (owner, other) = (user("u")?, user("u1")?);
    let theirs = given.session_of(&other, given.now)?;
    let untouched = given.session_of(&other, given.now)?;
    given.session()?;
    let then = given.after(SECOND * 10);
    let limit = (1, AtLimit::Refuse);
    let (to, answer) = sign_in(given, &theirs.key, &owner, limit, then)?;
    done(answer, "a first sign-in over another user's session")?;
    live_are(given, &owner, &[to], "after a first sign-in")?;
    live_are(given, &other, &[untouched.key], "after a sign-in over another user's session")
}
