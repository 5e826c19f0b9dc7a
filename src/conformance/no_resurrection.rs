//! Checks that an ended session stays ended, for every kind of late call with every one of its ids.

use std::num::NonZeroU32;

use crate::backend::{AtLimit, Commit, Committed, Missing, SessionFilter, SessionLimit};
use crate::clock::Timestamp;
use crate::conformance::fixture::{
    ALL, Fixture, IDLE, MILLI, Passed, SECOND, Sample, answered, done, ensure, id_hash, name_of,
    nothing, set, sign_in_to, user,
};
use crate::id::SessionIdHash;

pub(super) fn a_late_merge_stores_nothing(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    answered(&fixture.delete(&session.id_hash, fixture.now)?, "Deleted", "a delete")?;
    let answer = fixture.merge(&session.id_hash, &set("coat", "red")?, fixture.now)?;
    let late = "a merge after a delete (a logout in between)";
    ensure!(!fixture.is_live(&session.id_hash, fixture.now)?, "{late} brought the session back");
    answered(&answer, "NotFound", late)?;
    if let Some(index) = fixture.store.index() {
        let stats = index.stats(fixture.now)?;
        ensure!(stats.live + stats.expired == 0, "{late} left a row");
    }
    Ok(())
}

/// Makes every kind of late call with these ids, of which none is live any more, and fails if one
/// brings the session back.
fn nothing_revives(
    fixture: &Fixture,
    id_hashes: &[SessionIdHash],
    now: Timestamp,
    end: &str,
) -> Passed {
    for id_hash in id_hashes {
        ensure!(!fixture.is_live(id_hash, now)?, "after {end} a load still finds the session");
    }
    for id_hash in id_hashes {
        let mut answers = Vec::new();
        answers.push(("a merge", fixture.merge(id_hash, &set("coat", "red")?, now)?));
        fixture.touch(id_hash, now, now)?;
        let (to, answer) = fixture.renew(id_hash, None, now)?;
        answers.push(("a renewal", answer));
        let (grace, answer) = fixture.renew(id_hash, Some(now + SECOND), now)?;
        answers.push(("a renewal with grace", answer));
        answers.push(("a second delete", fixture.delete(id_hash, now)?));
        for (late, answer) in answers {
            // The store may remember a replaced id. The result must report that nothing was stored.
            let is_missing = matches!(
                answer,
                Committed::Missing(Missing::NotFound { .. } | Missing::Replaced { .. })
            );
            ensure!(is_missing, "{late} after {end} returned {}", name_of(&answer));
        }
        for id_hash in id_hashes.iter().chain([&to, &grace]) {
            let back = fixture.is_live(id_hash, now)?;
            ensure!(!back, "a late merge, touch or renewal after {end} brought the session back");
        }
    }
    Ok(())
}

pub(super) fn nothing_brings_back_a_deleted_session(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    answered(&fixture.delete(&session.id_hash, fixture.now)?, "Deleted", "a delete")?;
    nothing_revives(fixture, &[session.id_hash], fixture.now, "a delete")
}

/// Creates and renews a session. Returns it with its current id and the replaced one, which is in
/// its grace period.
fn renewed_session(fixture: &Fixture) -> Passed<(Sample, [SessionIdHash; 2])> {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.now + IDLE * 2))?;
    let id_hashes = [second.id_hash, first.id_hash];
    Ok((second, id_hashes))
}

pub(super) fn nothing_brings_back_a_session_deleted_after_its_renewal(fixture: &Fixture) -> Passed {
    let (session, id_hashes) = renewed_session(fixture)?;
    answered(&fixture.delete(&session.id_hash, fixture.now)?, "Deleted", "a delete")?;
    nothing_revives(fixture, &id_hashes, fixture.now, "a delete")
}

pub(super) fn nothing_brings_back_a_session_deleted_through_its_grace(fixture: &Fixture) -> Passed {
    let (_, id_hashes) = renewed_session(fixture)?;
    let [_, old] = id_hashes;
    answered(&fixture.delete(&old, fixture.now)?, "Deleted", "a delete through the grace")?;
    nothing_revives(fixture, &id_hashes, fixture.now, "a delete through the grace")
}

pub(super) fn nothing_brings_back_a_swept_session(fixture: &Fixture) -> Passed {
    let (_, id_hashes) = renewed_session(fixture)?;
    let Some(swept) = fixture.sweep(fixture.after(IDLE), ALL)? else { return Ok(()) };
    ensure!(swept == 1, "a sweep of one expired session removed {swept}");
    // The time of the late calls is before the deadline, as of a writer that read the clock early.
    nothing_revives(fixture, &id_hashes, fixture.now, "a sweep")
}

pub(super) fn nothing_brings_back_an_expired_session(fixture: &Fixture) -> Passed {
    let (_, id_hashes) = renewed_session(fixture)?;
    nothing_revives(fixture, &id_hashes, fixture.after(IDLE), "the deadline")
}

pub(super) fn nothing_late_brings_back_a_session_ended_at_its_deadline(
    fixture: &Fixture,
) -> Passed {
    let end = fixture.after(IDLE);
    let (session, id_hashes) = renewed_session(fixture)?;
    answered(&fixture.delete(&session.id_hash, end)?, "NotFound", "a delete at the deadline")?;
    nothing_revives(fixture, &id_hashes, end - MILLI, "a delete at the deadline")?;

    let (_, id_hashes) = renewed_session(fixture)?;
    let [_, old] = id_hashes;
    answered(
        &fixture.delete(&old, end)?,
        "NotFound",
        "a delete through the grace at the deadline",
    )?;
    nothing_revives(
        fixture,
        &id_hashes,
        end - MILLI,
        "a delete through the grace at the deadline",
    )?;

    let (session, id_hashes) = renewed_session(fixture)?;
    fixture.sign_in(&session.id_hash, &user("u")?, end)?;
    nothing_revives(fixture, &id_hashes, end - MILLI, "a sign-in at the deadline")
}

pub(super) fn nothing_late_brings_back_a_session_revoked_at_its_deadline(
    fixture: &Fixture,
) -> Passed {
    let (owner, end) = (user("u")?, fixture.after(IDLE));
    for filter in 0..4 {
        let session = fixture.session_of(&owner, fixture.now)?;
        let public_id = session.public_id();
        let filter = match filter {
            0 => SessionFilter::All,
            1 => SessionFilter::User(&owner),
            2 => SessionFilter::PublicId(&public_id),
            _ => SessionFilter::OfUser(&owner, &public_id),
        };
        let revoked = fixture.index()?.revoke(&filter, None, end)?;
        ensure!(
            revoked.is_empty(),
            "a revocation at the deadline returned ids of expired sessions"
        );
        nothing_revives(fixture, &[session.id_hash], end - MILLI, "a revocation at the deadline")?;
    }
    Ok(())
}

pub(super) fn nothing_late_brings_back_a_session_expired_at_a_sign_in(fixture: &Fixture) -> Passed {
    let (owner, end) = (user("u")?, fixture.after(IDLE));
    let expired = fixture.session_of(&owner, fixture.now)?;
    let (new, to) = (id_hash()?, id_hash()?);
    let new_session = fixture.new_session()?;
    let delta = nothing();
    let action = sign_in_to(to, &owner, &new_session);
    let session_limit = SessionLimit::new(NonZeroU32::MIN, AtLimit::Refuse);
    let sign_in =
        Commit { session_limit: Some(session_limit), ..Commit::new(&new, action, delta, end) };
    done(fixture.store.commit(&sign_in)?, "a sign-in of a user whose other sessions have expired")?;
    nothing_revives(fixture, &[expired.id_hash], end - MILLI, "a sign-in with a limit")
}

pub(super) fn nothing_brings_back_a_revoked_session(fixture: &Fixture) -> Passed {
    let (session, id_hashes) = renewed_session(fixture)?;
    let public_id = session.public_id();
    let revoked =
        fixture.index()?.revoke(&SessionFilter::PublicId(&public_id), None, fixture.now)?;
    ensure!(revoked == [session.id_hash], "a revocation by public id returned {revoked:?}");
    nothing_revives(fixture, &id_hashes, fixture.now, "a revocation")
}

pub(super) fn nothing_brings_back_a_session_revoked_with_everyone(fixture: &Fixture) -> Passed {
    let (_, [new, old]) = renewed_session(fixture)?;
    let other = fixture.session_of(&user("u")?, fixture.now)?;
    fixture.index()?.revoke_everyone(None, fixture.now)?;
    nothing_revives(fixture, &[new, old, other.id_hash], fixture.now, "revoking everyone")
}
