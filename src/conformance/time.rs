//! Checks that a session ends at its deadline, whether or not a sweep has run.

use std::time::Duration;

use crate::backend::{Action, Commit, Page, SessionFilter};
use crate::clock::Timestamp;
use crate::conformance::fixture::{
    ABSOLUTE, ALL, Fixture, IDLE, MILLI, Passed, SECOND, answered, done, ensure, lifetime, nothing,
    set, user,
};
use crate::id::SessionIdHash;
use crate::lifetime::{Lifetime, Limits};
use crate::record::{NewSession, Touch};

/// Fails unless the session is live until just before `deadline`, and not at it or after it.
fn ends_at(fixture: &Fixture, id_hash: &SessionIdHash, deadline: Timestamp, what: &str) -> Passed {
    let record =
        fixture.live(id_hash, deadline - MILLI, &format!("1 ms before its end {what}"))?.record;
    ensure!(record.deadline() == deadline, "{what} does not have the deadline it should have");
    for (late, when) in [(deadline, "at"), (deadline + MILLI, "1 ms after")] {
        ensure!(!fixture.is_live(id_hash, late)?, "{when} its deadline {what} is still live");
    }
    Ok(())
}

pub(super) fn an_idle_session_ends_at_its_deadline(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    ends_at(fixture, &session.id_hash, fixture.after(IDLE), "an idle session")?;
    let touched = fixture.session()?;
    let then = fixture.after(SECOND);
    fixture.touch(&touched.id_hash, then, then)?;
    ends_at(fixture, &touched.id_hash, then + IDLE, "a touched session")
}

pub(super) fn an_absolute_limit_ends_a_busy_session(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let mut now = fixture.now;
    while now + IDLE / 2 < fixture.after(ABSOLUTE) {
        now = now + IDLE / 2;
        fixture.touch(&session.id_hash, now, now)?;
        let touched = set("n", now.as_millis())?;
        done(fixture.merge(&session.id_hash, &touched, now)?, "a merge of a busy session")?;
    }
    ends_at(fixture, &session.id_hash, fixture.after(ABSOLUTE), "a busy session")
}

pub(super) fn activity_does_not_move_a_fixed_lifetime(fixture: &Fixture) -> Passed {
    let session = fixture.session_for(Lifetime::fixed(IDLE))?;
    let then = fixture.after(IDLE - SECOND);
    fixture.touch(&session.id_hash, then, then)?;
    let delta = set("coat", "red")?;
    let merge = Commit::new(&session.id_hash, Action::Merge, delta, then);
    let answer = fixture.store.commit(&Commit { touch: Some(Touch::at(then)), ..merge })?;
    done(answer, "a merge of a session with a fixed lifetime")?;
    ends_at(fixture, &session.id_hash, fixture.after(IDLE), "a session with a fixed lifetime")
}

pub(super) fn activity_moves_the_idle_deadline_to_the_absolute_one_at_most(
    fixture: &Fixture,
) -> Passed {
    let session = fixture.session_for(Lifetime::idle(IDLE).with_absolute(IDLE + SECOND))?;
    let then = fixture.after(IDLE / 2);
    fixture.touch(&session.id_hash, then, then)?;
    fixture.touch(&session.id_hash, fixture.now, then)?;
    ends_at(fixture, &session.id_hash, fixture.after(IDLE + SECOND), "a session with both limits")
}

pub(super) fn every_call_takes_an_expired_session_as_absent(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let end = fixture.after(IDLE);
    fixture.is_absent(
        &session.id_hash,
        end,
        "an expired session that was not swept is not absent",
    )?;
    let merge = fixture.merge(&session.id_hash, &set("coat", "red")?, end)?;
    answered(&merge, "NotFound", "a merge of an expired session")?;
    let (to, renewal) = fixture.renew(&session.id_hash, Some(end + IDLE), end)?;
    answered(&renewal, "NotFound", "a renewal of an expired session")?;
    answered(
        &fixture.delete(&session.id_hash, end)?,
        "NotFound",
        "a delete of an expired session",
    )?;
    fixture.is_absent(&to, end, "a renewal of an expired session stored something")
}

pub(super) fn a_touch_after_the_deadline_does_nothing(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let end = fixture.after(IDLE);
    // The activity is before the deadline, but the touch is written at the deadline.
    fixture.touch(&session.id_hash, end - MILLI, end)?;
    ensure!(!fixture.is_live(&session.id_hash, end)?, "a touch brought an expired session back");
    let swept = fixture.sweep(end, ALL)?.unwrap_or(1);
    ensure!(swept == 1, "a touch after the deadline kept an expired session from the sweep");
    Ok(())
}

pub(super) fn a_sign_in_over_an_expired_session_begins_a_new_one(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let end = fixture.after(IDLE);
    let (to, answer) = fixture.sign_in(&session.id_hash, &user("u")?, end)?;
    let begun = done(answer, "a sign-in over an expired session")?.record;
    ensure!(begun.public_id != session.public_id(), "a sign-in brought an expired session back");
    ensure!(begun.data.is_empty(), "a sign-in brought the data of an expired session back");
    fixture.is_absent(&session.id_hash, end, "a sign-in brought an expired session back")?;
    ends_at(fixture, &to, end + IDLE, "the session of a sign-in")
}

pub(super) fn a_session_without_an_end_lives_on(fixture: &Fixture) -> Passed {
    let far = fixture.after(Duration::from_secs(400 * 365 * 86_400));
    for limits in [
        Limits::new(None, None),
        Limits::new(None, Some(Timestamp::MAX)),
        Lifetime::idle(Duration::MAX).starting(fixture.now),
        lifetime().with_absolute(Duration::MAX).starting(far - SECOND),
    ] {
        let session = fixture.session_from(far - SECOND, &NewSession::new(limits)?)?;
        fixture.touch(&session.id_hash, far, far)?;
        fixture.merge(&session.id_hash, &nothing(), far)?;
        fixture.live(&session.id_hash, far, "a session without an end")?;
        let swept = fixture.store.sweep(far, ALL)?.removed;
        ensure!(swept == 0, "a session without an end was swept");
    }
    Ok(())
}

pub(super) fn expired_sessions_are_not_listed(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let ended = fixture.session_of(&owner, fixture.now)?;
    let lives = fixture.session_of(&owner, fixture.after(SECOND))?;
    let public_id = ended.public_id();
    let end = fixture.after(IDLE);
    let index = fixture.index()?;
    for filter in [SessionFilter::All, SessionFilter::User(&owner)] {
        let listed = index.list(&filter, Page::first(ALL), end)?;
        let public_ids: Vec<_> = listed.iter().map(|summary| summary.public_id).collect();
        ensure!(public_ids == [lives.public_id()], "an expired session is listed");
    }
    for filter in [SessionFilter::PublicId(&public_id), SessionFilter::OfUser(&owner, &public_id)] {
        let listed = index.list(&filter, Page::first(ALL), end)?;
        ensure!(listed.is_empty(), "an expired session is listed by its public id");
        let revoked = index.revoke(&filter, None, end)?;
        ensure!(revoked.is_empty(), "an expired session was revoked");
    }
    Ok(())
}
