//! Checks of the maximum of anonymous sessions: those that were idle longest end, and no others.

use std::num::NonZeroUsize;

use crate::conformance::fixture::*;
use crate::id::{Realm, SessionIdHash};

/// Creates sessions one second apart.
fn sessions(fixture: &Fixture, count: u32) -> Passed<Vec<Sample>> {
    (0..count).map(|n| fixture.later(SECOND * n).session()).collect()
}

fn lists(fixture: &Fixture, keep: u64, limit: NonZeroUsize, wanted: &[&Sample]) -> Passed {
    let listed = fixture.index()?.idle_anonymous(&Realm::default(), keep, limit)?;
    let wanted: Vec<_> = wanted.iter().map(|session| session.id_hash).collect();
    ensure!(
        listed == wanted,
        "the anonymous sessions idle longest but for {keep} are {listed:?}, not {wanted:?}"
    )
}

pub(super) fn the_longest_idle_are_listed_first(fixture: &Fixture) -> Passed {
    let all = sessions(fixture, 5)?;
    let [a, b, c, d, e] = &*all else { return Ok(()) };
    lists(fixture, 0, ALL, &[a, b, c, d, e])?;
    fixture.later(SECOND * 9).touch(&a.id_hash)?;
    lists(fixture, 0, ALL, &[b, c, d, e, a])?;
    lists(fixture, 2, ALL, &[b, c, d])?;
    lists(fixture, 2, NonZeroUsize::MIN, &[b])?;
    lists(fixture, 5, ALL, &[])?;
    lists(fixture, u64::MAX, ALL, &[])
}

pub(super) fn sessions_of_other_realms_and_of_users_are_not_listed(fixture: &Fixture) -> Passed {
    let mut in_other = fixture.new_session()?;
    in_other.realm = Realm::new("other")?;
    let other = fixture.session_from(&in_other)?;
    fixture.session_of(&user("u")?)?;
    let mine = fixture.session()?;
    let signed_in = fixture.later(SECOND).session()?;
    lists(fixture, 0, ALL, &[&mine, &signed_in])?;
    lists(fixture, 1, ALL, &[&mine])?;
    done(fixture.sign_in(&signed_in.id_hash, &user("v")?)?.1, "a sign-in")?;
    lists(fixture, 0, ALL, &[&mine])?;
    lists(fixture, 1, ALL, &[])?;
    let listed = fixture.index()?.idle_anonymous(&in_other.realm, 0, ALL)?;
    ensure!(listed == [other.id_hash], "the list of another realm is {listed:?}")
}

pub(super) fn an_eviction_ends_exactly_the_anonymous_ones(fixture: &Fixture) -> Passed {
    let all = sessions(fixture, 5)?;
    let [idle, signs_in, renews, expires, stays] = &*all else { return Ok(()) };
    let owner = fixture.session_of(&user("u")?)?;
    let (to, answer) = fixture.sign_in(&signs_in.id_hash, &user("v")?)?;
    let signed_in = Sample { id_hash: to, record: done(answer, "a sign-in")?.record };
    let renewed = fixture.renewed(renews, Some(fixture.after(IDLE)))?;
    let listed: Vec<SessionIdHash> =
        [idle, signs_in, renews, expires, &owner].map(|session| session.id_hash).to_vec();
    let removed = fixture.index()?.evict_anonymous(&listed, fixture.now)?.removed;
    ensure!(removed == 2, "an eviction of 2 anonymous sessions removed {removed}")?;
    let ended = [idle.id_hash, expires.id_hash];
    fixture.none_live(&ended, "an evicted session is still found")?;
    fixture.is_intact(stays, "an eviction of other sessions")?;
    fixture.is_intact(&owner, "an eviction of a user's session")?;
    fixture.is_intact(&signed_in, "an eviction by the id from before the sign-in")?;
    fixture.is_intact(&renewed, "an eviction by the id from before the renewal")?;
    let removed = fixture.index()?.evict_anonymous(&listed, fixture.now)?.removed;
    ensure!(removed == 0, "a second eviction removed {removed}")
}

pub(super) fn nothing_brings_back_an_evicted_session(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    fixture.index()?.evict_anonymous(&[session.id_hash], fixture.now)?;
    fixture.touch(&session.id_hash)?;
    answered(&fixture.merge(&session.id_hash, &set("coat", "red")?)?, "NotFound", "a late merge")?;
    fixture.none_live(&[session.id_hash], "an evicted session is found again")
}
