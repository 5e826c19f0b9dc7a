//! A session ends at its deadline, not when somebody sweeps.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::conformance::given::{
    ABSOLUTE, ALL, Given, IDLE, MILLI, Outcome, SECOND, answered, done, ensure, lifetime, nothing,
    set, user,
};
use crate::id::SessionKey;
use crate::lifetime::{Lifetime, Limits};
use crate::record::{Birth, Touch};
use crate::store::{Commit, Fate, Page, Which};

/// Demands that the session lives until just before `deadline`, and not at it or after it.
fn ends_at(given: &Given, key: &SessionKey, deadline: Timestamp, what: &str) -> Outcome {
    let record = given.live(key, deadline - MILLI, &format!("1 ms before its end {what}"))?.record;
    ensure!(record.deadline() == deadline, "{what} does not have the deadline it should have");
    for (late, when) in [(deadline, "at"), (deadline + MILLI, "1 ms after")] {
        ensure!(!given.is_live(key, late)?, "{when} its deadline {what} is still live");
    }
    Ok(())
}

pub(super) fn an_idle_session_ends_at_its_deadline(given: &Given) -> Outcome {
    let session = given.session()?;
    ends_at(given, &session.key, given.after(IDLE), "an idle session")?;
    let touched = given.session()?;
    let then = given.after(SECOND);
    given.touch(&touched.key, then, then)?;
    ends_at(given, &touched.key, then + IDLE, "a touched session")
}

pub(super) fn an_absolute_limit_ends_a_busy_session(given: &Given) -> Outcome {
    let session = given.session()?;
    let mut now = given.now;
    while now + IDLE / 2 < given.after(ABSOLUTE) {
        now = now + IDLE / 2;
        given.touch(&session.key, now, now)?;
        let touched = set("n", now.as_millis())?;
        done(given.merge(&session.key, &touched, now)?, "a merge of a busy session")?;
    }
    ends_at(given, &session.key, given.after(ABSOLUTE), "a busy session")
}

pub(super) fn activity_does_not_move_a_fixed_lifetime(given: &Given) -> Outcome {
    let session = given.session_for(Lifetime::fixed(IDLE))?;
    let then = given.after(IDLE - SECOND);
    given.touch(&session.key, then, then)?;
    let delta = set("coat", "red")?;
    let merge = Commit::new(&session.key, Fate::Merge, &delta, then);
    let answer = given.store.commit(&Commit { touch: Some(Touch::at(then)), ..merge })?;
    done(answer, "a merge of a session with a fixed lifetime")?;
    ends_at(given, &session.key, given.after(IDLE), "a session with a fixed lifetime")
}

pub(super) fn activity_moves_the_idle_deadline_to_the_absolute_one_at_most(
    given: &Given,
) -> Outcome {
    let session = given.session_for(Lifetime::idle(IDLE).with_absolute(IDLE + SECOND))?;
    let then = given.after(IDLE / 2);
    given.touch(&session.key, then, then)?;
    given.touch(&session.key, given.now, then)?;
    ends_at(given, &session.key, given.after(IDLE + SECOND), "a session with both limits")
}

pub(super) fn every_call_takes_an_expired_session_as_absent(given: &Given) -> Outcome {
    let session = given.session()?;
    let end = given.after(IDLE);
    given.is_absent(&session.key, end, "an expired session that was not swept is not absent")?;
    let merge = given.merge(&session.key, &set("coat", "red")?, end)?;
    answered(&merge, "Gone", "a merge of an expired session")?;
    let (to, renewal) = given.renew(&session.key, Some(end + IDLE), end)?;
    answered(&renewal, "Gone", "a renewal of an expired session")?;
    answered(&given.delete(&session.key, end)?, "Gone", "a delete of an expired session")?;
    given.is_absent(&to, end, "a renewal of an expired session stored something")
}

pub(super) fn a_touch_after_the_deadline_does_nothing(given: &Given) -> Outcome {
    let session = given.session()?;
    let end = given.after(IDLE);
    // The activity was in time, but it is written too late.
    given.touch(&session.key, end - MILLI, end)?;
    ensure!(!given.is_live(&session.key, end)?, "a touch brought an expired session back");
    let swept = given.sweep(end, ALL)?.unwrap_or(1);
    ensure!(swept == 1, "a touch after the deadline kept an expired session from the sweep");
    Ok(())
}

pub(super) fn a_sign_in_over_an_expired_session_begins_a_new_one(given: &Given) -> Outcome {
    let session = given.session()?;
    let end = given.after(IDLE);
    let (to, answer) = given.sign_in(&session.key, &user("u")?, end)?;
    let begun = done(answer, "a sign-in over an expired session")?.record;
    ensure!(begun.handle != session.handle(), "a sign-in brought an expired session back");
    ensure!(begun.data.is_empty(), "a sign-in brought the data of an expired session back");
    given.is_absent(&session.key, end, "a sign-in brought an expired session back")?;
    ends_at(given, &to, end + IDLE, "the session of a sign-in")
}

pub(super) fn a_session_without_an_end_lives_on(given: &Given) -> Outcome {
    let far = given.after(Duration::from_secs(400 * 365 * 86_400));
    for limits in [
        Limits::new(None, None),
        Limits::new(None, Some(Timestamp::MAX)),
        Lifetime::idle(Duration::MAX).starting(given.now),
        lifetime().with_absolute(Duration::MAX).starting(far - SECOND),
    ] {
        let session = given.session_from(far - SECOND, &Birth::new(limits)?)?;
        given.touch(&session.key, far, far)?;
        given.merge(&session.key, &nothing(), far)?;
        given.live(&session.key, far, "a session without an end")?;
        let swept = given.store.sweep(far, ALL)?.removed;
        ensure!(swept == 0, "a session without an end was swept");
    }
    Ok(())
}

pub(super) fn expired_sessions_are_not_listed(given: &Given) -> Outcome {
    let owner = user("u")?;
    let ended = given.session_of(&owner, given.now)?;
    let lives = given.session_of(&owner, given.after(SECOND))?;
    let handle = ended.handle();
    let end = given.after(IDLE);
    let registry = given.registry()?;
    for which in [Which::All, Which::User(&owner)] {
        let listed = registry.list(&which, Page::first(ALL), end)?;
        let handles: Vec<_> = listed.iter().map(|summary| summary.handle).collect();
        ensure!(handles == [lives.handle()], "an expired session is listed");
    }
    for which in [Which::Handle(&handle), Which::OfUser(&owner, &handle)] {
        let listed = registry.list(&which, Page::first(ALL), end)?;
        ensure!(listed.is_empty(), "an expired session is listed by its handle");
        let revoked = registry.revoke(&which, None, end)?;
        ensure!(revoked.is_empty(), "an expired session was revoked");
    }
    Ok(())
}
