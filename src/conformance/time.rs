//! Checks that a session ends at its deadline, whether or not a sweep has run.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::conformance::fixture::*;
use crate::delta::Delta;
use crate::id::SessionIdHash;
use crate::lifetime::{Lifetime, Limits};
use crate::list::SessionFilter;
use crate::record::NewSession;

/// Fails unless the session is live until just before `deadline`, and not at it or after it.
fn ends_at(fixture: &Fixture, id_hash: &SessionIdHash, deadline: Timestamp, what: &str) -> Passed {
    let record =
        fixture.at(deadline - MILLI).live(id_hash, &format!("1 ms before its end {what}"))?.record;
    ensure!(record.deadline() == deadline, "{what} does not have the deadline it should have")?;
    for (late, when) in [(deadline, "at"), (deadline + MILLI, "1 ms after")] {
        ensure!(!fixture.at(late).is_live(id_hash)?, "{when} its deadline {what} is still live")?;
    }
    Ok(())
}

pub(super) fn an_idle_session_ends_at_its_deadline(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    ends_at(fixture, &session.id_hash, fixture.after(IDLE), "an idle session")?;
    let touched = fixture.session()?;
    let then = fixture.after(SECOND);
    fixture.at(then).touch(&touched.id_hash)?;
    ends_at(fixture, &touched.id_hash, then + IDLE, "a touched session")
}

pub(super) fn an_absolute_limit_ends_a_busy_session(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let mut now = fixture.now;
    while now + IDLE / 2 < fixture.after(ABSOLUTE) {
        now = now + IDLE / 2;
        fixture.at(now).touch(&session.id_hash)?;
        let touched = set("n", now.as_millis())?;
        done(fixture.at(now).merge(&session.id_hash, &touched)?, "a merge of a busy session")?;
    }
    ends_at(fixture, &session.id_hash, fixture.after(ABSOLUTE), "a busy session")
}

pub(super) fn activity_does_not_move_an_absolute_limit(fixture: &Fixture) -> Passed {
    let session = fixture.session_for(Lifetime::absolute(IDLE))?;
    let later = fixture.later(IDLE - SECOND);
    later.touch(&session.id_hash)?;
    let answer = later.merge_and_touch(&session.id_hash, &set("coat", "red")?)?;
    done(answer, "a merge of a session with an absolute limit only")?;
    ends_at(fixture, &session.id_hash, fixture.after(IDLE), "a session with an absolute limit only")
}

pub(super) fn activity_moves_the_idle_deadline_to_the_absolute_one_at_most(
    fixture: &Fixture,
) -> Passed {
    let session = fixture.session_for(Lifetime::idle(IDLE).with_absolute(IDLE + SECOND))?;
    let later = fixture.later(IDLE / 2);
    later.touch(&session.id_hash)?;
    later.touch_at(&session.id_hash, fixture.now)?;
    ends_at(fixture, &session.id_hash, fixture.after(IDLE + SECOND), "a session with both limits")
}

/// Returns a delta that changes the idle limit.
fn idle_limit(limit: Duration) -> Delta {
    let mut delta = nothing();
    delta.set_idle_limit(limit);
    delta
}

pub(super) fn a_changed_idle_limit_is_stored_and_counts_from_its_change(
    fixture: &Fixture,
) -> Passed {
    // The recorded activity is older than the first of these limits.
    let then = fixture.later(IDLE / 2);
    for limit in [IDLE / 4, IDLE * 2] {
        let session = fixture.session()?;
        let answer = then.merge(&session.id_hash, &idle_limit(limit))?;
        let record = done(answer, "a change of the idle limit")?.record;
        let wanted = Limits::new(Some(limit), session.record.limits.absolute_deadline);
        ensure!(record.limits == wanted, "a change of the idle limit stored {:?}", record.limits)?;
        let changed = Sample { record, ..session };
        then.is_intact(&changed, "a change of the idle limit")?;
        ends_at(&then, &changed.id_hash, then.after(limit), "a session with another idle limit")?;
        let again = then.merge(&changed.id_hash, &idle_limit(limit))?;
        answered(&again, "Unchanged", "the same change of the idle limit")?;
        let later = then.later(limit / 2);
        later.touch(&changed.id_hash)?;
        let what = "a touched session with another idle limit";
        ends_at(&later, &changed.id_hash, later.after(limit), what)?;
        let renewed = later.renewed(&changed, None)?;
        ensure!(renewed.record.limits == wanted, "a renewal changed the idle limit")?;
        let (signed_in, answer) = later.sign_in(&renewed.id_hash, &user("u")?)?;
        done(answer, "a sign-in to a session with another idle limit")?;
        let what = "a session signed in to, which had another idle limit,";
        ends_at(&later, &signed_in, later.after(IDLE), what)?;
    }
    Ok(())
}

pub(super) fn a_shorter_idle_limit_is_listed_and_swept(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let [shorter, other] = [fixture.session_of(&owner)?, fixture.session_of(&owner)?];
    let answer = fixture.merge(&shorter.id_hash, &idle_limit(IDLE / 4))?;
    done(answer, "a change of the idle limit")?;
    let mut listed = fixture.list(&SessionFilter::User(&owner))?;
    listed.retain(|summary| summary.public_id == shorter.public_id());
    let deadlines: Vec<_> = listed.iter().map(|summary| summary.deadline).collect();
    let end = fixture.later(IDLE / 4);
    ensure!(deadlines == [end.now], "a list has the deadlines {deadlines:?}, not {:?}", end.now)?;
    let swept = end.store.sweep(end.now, ALL)?.removed;
    ensure!(swept == 1, "a sweep at the end of a shorter idle limit removed {swept}")?;
    end.none_live(&[shorter.id_hash], "a sweep left a session with a shorter idle limit")?;
    end.is_intact(&other, "a sweep of another session")
}

pub(super) fn every_call_takes_an_expired_session_as_absent(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let at_end = fixture.later(IDLE);
    at_end.is_absent(&session.id_hash, "an expired session that was not swept is not absent")?;
    let merge = at_end.merge(&session.id_hash, &set("coat", "red")?)?;
    answered(&merge, "NotFound", "a merge of an expired session")?;
    let (to, renewal) = at_end.renew(&session.id_hash, Some(at_end.after(IDLE)))?;
    answered(&renewal, "NotFound", "a renewal of an expired session")?;
    answered(&at_end.end(&session.id_hash)?, "NotFound", "an ending of an expired session")?;
    at_end.is_absent(&to, "a renewal of an expired session stored something")
}

pub(super) fn a_touch_after_the_deadline_does_nothing(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let at_end = fixture.later(IDLE);
    // The activity is before the deadline, but the touch is written at the deadline.
    at_end.touch_at(&session.id_hash, at_end.now - MILLI)?;
    at_end.none_live(&[session.id_hash], "a touch brought an expired session back")?;
    let swept = at_end.sweep(ALL)?.unwrap_or(1);
    ensure!(swept == 1, "a touch after the deadline kept an expired session from the sweep")
}

pub(super) fn a_sign_in_over_an_expired_session_begins_a_new_one(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let at_end = fixture.later(IDLE);
    let (to, answer) = at_end.sign_in(&session.id_hash, &user("u")?)?;
    begun(answer, &session, "a sign-in over an expired session")?;
    at_end.is_absent(&session.id_hash, "a sign-in brought an expired session back")?;
    ends_at(fixture, &to, at_end.now + IDLE, "the session of a sign-in")
}

pub(super) fn a_session_without_an_end_lives_on(fixture: &Fixture) -> Passed {
    let far = fixture.after(Duration::from_secs(400 * 365 * 86_400));
    for limits in [
        Limits::new(None, None),
        Limits::new(None, Some(Timestamp::MAX)),
        Lifetime::idle(Duration::MAX).limits_from(fixture.now),
        lifetime().with_absolute(Duration::MAX).limits_from(far - SECOND),
    ] {
        let session = fixture.at(far - SECOND).session_from(&NewSession::new(limits)?)?;
        fixture.at(far).touch(&session.id_hash)?;
        fixture.at(far).merge(&session.id_hash, &nothing())?;
        fixture.at(far).live(&session.id_hash, "a session without an end")?;
        let swept = fixture.store.sweep(far, ALL)?.removed;
        ensure!(swept == 0, "a session without an end was swept")?;
    }
    Ok(())
}

pub(super) fn expired_sessions_are_not_listed(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let ended = fixture.session_of(&owner)?;
    let lives = fixture.later(SECOND).session_of(&owner)?;
    let public_id = ended.public_id();
    let at_end = fixture.later(IDLE);
    for filter in [SessionFilter::All, SessionFilter::User(&owner)] {
        let listed = public_ids(&at_end.list(&filter)?);
        ensure!(listed == [lives.public_id()], "an expired session is listed")?;
    }
    for filter in
        [SessionFilter::PublicId(&public_id), SessionFilter::PublicIdOfUser(&owner, &public_id)]
    {
        ensure!(at_end.list(&filter)?.is_empty(), "an expired session is listed by its public id")?;
        let revoked = at_end.index()?.revoke(&filter, None, at_end.now)?;
        ensure!(revoked.is_empty(), "an expired session was revoked")?;
    }
    Ok(())
}
