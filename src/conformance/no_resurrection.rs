//! Checks that an ended session stays ended, whatever call follows with any of its ids.

use crate::conformance::fixture::*;
use crate::conformance::max_sessions;
use crate::id::{PublicId, SessionIdHash, UserKey};
use crate::lifetime::AtMaximum;
use crate::list::SessionFilter;

pub(super) fn a_late_merge_stores_nothing(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    answered(&fixture.end(&session.id_hash)?, "Ended", "an ending")?;
    let answer = fixture.merge(&session.id_hash, &set("coat", "red")?)?;
    let late = "a merge after an ending (a logout in between)";
    ensure!(!fixture.is_live(&session.id_hash)?, "{late} brought the session back")?;
    answered(&answer, "NotFound", late)?;
    if let Some(index) = fixture.store.index() {
        let stats = index.stats(fixture.now)?;
        ensure!(stats.live + stats.expired == 0, "{late} left a row")?;
    }
    Ok(())
}

pub(super) fn a_merge_into_an_ended_session_as_loaded_stores_nothing(fixture: &Fixture) -> Passed {
    let ended = fixture.session()?;
    answered(&fixture.end(&ended.id_hash)?, "Ended", "an ending")?;
    let renewed = fixture.session()?;
    fixture.renewed(&renewed, None)?;
    let expired = fixture.session()?;
    let at_deadline = fixture.later(IDLE);
    for (fixture, loaded, wanted, since) in [
        (fixture, &ended, "NotFound", "an ending"),
        (fixture, &renewed, "Replaced", "a renewal"),
        (&at_deadline, &expired, "NotFound", "its deadline"),
    ] {
        let answer = fixture.merge_loaded(loaded, &set("coat", "red")?)?;
        let late = format!("after {since} a merge of a request that had loaded the session");
        ensure!(!fixture.is_live(&loaded.id_hash)?, "{late} brought it back")?;
        answered(&answer, wanted, &late)?;
    }
    Ok(())
}

/// Makes every kind of call with these ids of an ended session, and fails if one of the calls
/// brings the session back.
fn nothing_revives(fixture: &Fixture, id_hashes: &[SessionIdHash], end: &str) -> Passed {
    fixture.none_live(id_hashes, &format!("after {end} a load still finds the session"))?;
    for id_hash in id_hashes {
        let merge = fixture.merge(id_hash, &set("coat", "red")?)?;
        fixture.touch(id_hash)?;
        let (to, renewal) = fixture.renew(id_hash, None)?;
        let (graced, with_grace) = fixture.renew(id_hash, Some(fixture.after(SECOND)))?;
        for (answer, late) in [
            (merge, "a merge"),
            (renewal, "a renewal"),
            (with_grace, "a renewal with grace"),
            (fixture.end(id_hash)?, "a second ending"),
        ] {
            // The store may remember a replaced id. The result must report that nothing was stored.
            let late = format!("{late} after {end}");
            answered_one_of(&answer, &["NotFound", "Replaced"], &late)?;
        }
        let back = format!("a late merge, touch or renewal after {end} brought the session back");
        fixture.none_live(id_hashes, &back)?;
        fixture.none_live(&[to, graced], &back)?;
    }
    Ok(())
}

pub(super) fn nothing_brings_back_an_ended_session(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    answered(&fixture.end(&session.id_hash)?, "Ended", "an ending")?;
    nothing_revives(fixture, &[session.id_hash], "an ending")
}

/// Creates and renews a session. Returns it with its current id and the replaced one, which is in
/// its grace.
fn renewed_session(fixture: &Fixture) -> Passed<(Sample, [SessionIdHash; 2])> {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.now + IDLE * 2))?;
    let id_hashes = [second.id_hash, first.id_hash];
    Ok((second, id_hashes))
}

pub(super) fn nothing_brings_back_a_session_ended_after_its_renewal(fixture: &Fixture) -> Passed {
    let (session, id_hashes) = renewed_session(fixture)?;
    answered(&fixture.end(&session.id_hash)?, "Ended", "an ending")?;
    nothing_revives(fixture, &id_hashes, "an ending")
}

pub(super) fn nothing_brings_back_a_session_ended_through_its_grace(fixture: &Fixture) -> Passed {
    let (_, id_hashes) = renewed_session(fixture)?;
    let [_, old] = id_hashes;
    answered(&fixture.end(&old)?, "Ended", "an ending through the grace")?;
    nothing_revives(fixture, &id_hashes, "an ending through the grace")
}

pub(super) fn nothing_brings_back_a_swept_session(fixture: &Fixture) -> Passed {
    let (_, id_hashes) = renewed_session(fixture)?;
    let Some(swept) = fixture.later(IDLE).sweep(ALL)? else { return Ok(()) };
    ensure!(swept == 1, "a sweep of one expired session removed {swept}")?;
    // These calls have a time before the deadline, as if the request read the clock early.
    nothing_revives(fixture, &id_hashes, "a sweep")
}

pub(super) fn nothing_brings_back_an_expired_session(fixture: &Fixture) -> Passed {
    let (_, id_hashes) = renewed_session(fixture)?;
    nothing_revives(&fixture.later(IDLE), &id_hashes, "the deadline")
}

pub(super) fn nothing_late_brings_back_a_session_ended_at_its_deadline(
    fixture: &Fixture,
) -> Passed {
    let at_end = fixture.later(IDLE);
    let (session, id_hashes) = renewed_session(fixture)?;
    answered(&at_end.end(&session.id_hash)?, "NotFound", "an ending at the deadline")?;
    nothing_revives(&fixture.at(at_end.now - MILLI), &id_hashes, "an ending at the deadline")?;

    let (_, id_hashes) = renewed_session(fixture)?;
    let [_, old] = id_hashes;
    let what = "an ending through the grace at the deadline";
    answered(&at_end.end(&old)?, "NotFound", what)?;
    nothing_revives(&fixture.at(at_end.now - MILLI), &id_hashes, what)?;

    let (session, id_hashes) = renewed_session(fixture)?;
    at_end.sign_in(&session.id_hash, &user("u")?)?;
    nothing_revives(&fixture.at(at_end.now - MILLI), &id_hashes, "a sign-in at the deadline")
}

pub(super) fn nothing_late_brings_back_a_session_revoked_at_its_deadline(
    fixture: &Fixture,
) -> Passed {
    let owner = user("u")?;
    let end = fixture.after(IDLE);
    let filters: [for<'a> fn(&'a UserKey, &'a PublicId) -> SessionFilter<'a>; 4] = [
        |_, _| SessionFilter::All,
        |owner, _| SessionFilter::User(owner),
        |_, public_id| SessionFilter::PublicId(public_id),
        |owner, public_id| SessionFilter::PublicIdOfUser(owner, public_id),
    ];
    for filter in filters {
        let Sample { id_hash, record } = fixture.session_of(&owner)?;
        let revoked = fixture.index()?.revoke(&filter(&owner, &record.public_id), None, end)?;
        ensure!(revoked.is_empty(), "a revocation at the deadline returned {revoked:?}")?;
        nothing_revives(&fixture.at(end - MILLI), &[id_hash], "a revocation at the deadline")?;
    }
    Ok(())
}

pub(super) fn nothing_late_brings_back_a_session_expired_at_a_sign_in(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let end = fixture.after(IDLE);
    let expired = fixture.session_of(&owner)?;
    let maximum = (1, AtMaximum::Refuse);
    let (_, answer) = max_sessions::sign_in(&fixture.at(end), &id_hash()?, &owner, maximum)?;
    done(answer, "a sign-in of a user whose other sessions have expired")?;
    nothing_revives(&fixture.at(end - MILLI), &[expired.id_hash], "a sign-in with a maximum")
}

pub(super) fn nothing_brings_back_a_revoked_session(fixture: &Fixture) -> Passed {
    let (session, id_hashes) = renewed_session(fixture)?;
    let filter = SessionFilter::PublicId(&session.record.public_id);
    let revoked = fixture.index()?.revoke(&filter, None, fixture.now)?;
    names_ended(&revoked, &[&session], "a revocation by public id")?;
    nothing_revives(fixture, &id_hashes, "a revocation")
}

pub(super) fn nothing_brings_back_a_session_revoked_with_everyone(fixture: &Fixture) -> Passed {
    let (_, [new, old]) = renewed_session(fixture)?;
    let other = fixture.session_of(&user("u")?)?;
    fixture.index()?.revoke_everyone(None, fixture.now)?;
    nothing_revives(fixture, &[new, old, other.id_hash], "revoking everyone")
}
