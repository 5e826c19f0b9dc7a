//! What has ended stays ended, whatever comes late and by whichever key.

use std::num::NonZeroU32;

use crate::clock::Timestamp;
use crate::conformance::given::{
    ALL, Given, IDLE, MILLI, Outcome, SECOND, Session, answered, done, ensure, key, nothing, said,
    set, user,
};
use crate::id::SessionKey;
use crate::store::{Admit, AtLimit, Commit, Committed, Fate, Which};

pub(super) fn a_late_merge_stores_nothing(given: &Given) -> Outcome {
    let session = given.session()?;
    answered(&given.delete(&session.key, given.now)?, "Deleted", "a delete")?;
    let answer = given.merge(&session.key, &set("coat", "red")?, given.now)?;
    let late = "a merge after a delete (a logout in between)";
    ensure!(!given.is_live(&session.key, given.now)?, "{late} brought the session back");
    answered(&answer, "Gone", late)?;
    if let Some(registry) = given.store.registry() {
        let stats = registry.stats(given.now)?;
        ensure!(stats.live + stats.expired == 0, "{late} left a row");
    }
    Ok(())
}

/// Everything that may come late for these keys, of which none is live any more.
fn nothing_revives(given: &Given, keys: &[SessionKey], now: Timestamp, end: &str) -> Outcome {
    for key in keys {
        ensure!(!given.is_live(key, now)?, "after {end} a load still finds the session");
    }
    for key in keys {
        let mut answers = Vec::new();
        answers.push(("a merge", given.merge(key, &set("coat", "red")?, now)?));
        given.touch(key, now, now)?;
        let (to, answer) = given.renew(key, None, now)?;
        answers.push(("a renewal", answer));
        let (grace, answer) = given.renew(key, Some(now + SECOND), now)?;
        answers.push(("a renewal with grace", answer));
        answers.push(("a second delete", given.delete(key, now)?));
        for (late, answer) in answers {
            // A key from before a renewal may be remembered as that; what counts is that the
            // writer learns that nothing was stored.
            let told = matches!(answer, Committed::Gone | Committed::Replaced { .. });
            ensure!(told, "{late} after {end} was answered {}", said(&answer));
        }
        for key in keys.iter().chain([&to, &grace]) {
            let back = given.is_live(key, now)?;
            ensure!(!back, "a late merge, touch or renewal after {end} brought the session back");
        }
    }
    Ok(())
}

pub(super) fn nothing_brings_back_a_deleted_session(given: &Given) -> Outcome {
    let session = given.session()?;
    answered(&given.delete(&session.key, given.now)?, "Deleted", "a delete")?;
    nothing_revives(given, &[session.key], given.now, "a delete")
}

/// A session with the keys it has and had; the one from before is within its grace.
fn renewed_session(given: &Given) -> Outcome<(Session, [SessionKey; 2])> {
    let first = given.session()?;
    let second = given.renewed(&first, Some(given.now + IDLE * 2))?;
    let keys = [second.key, first.key];
    Ok((second, keys))
}

pub(super) fn nothing_brings_back_a_session_deleted_after_its_renewal(given: &Given) -> Outcome {
    let (session, keys) = renewed_session(given)?;
    answered(&given.delete(&session.key, given.now)?, "Deleted", "a delete")?;
    nothing_revives(given, &keys, given.now, "a delete")
}

pub(super) fn nothing_brings_back_a_session_deleted_through_its_grace(given: &Given) -> Outcome {
    let (_, keys) = renewed_session(given)?;
    let [_, old] = keys;
    answered(&given.delete(&old, given.now)?, "Deleted", "a delete through the grace")?;
    nothing_revives(given, &keys, given.now, "a delete through the grace")
}

pub(super) fn nothing_brings_back_a_swept_session(given: &Given) -> Outcome {
    let (_, keys) = renewed_session(given)?;
    let Some(swept) = given.sweep(given.after(IDLE), ALL)? else { return Ok(()) };
    ensure!(swept == 1, "a sweep of one expired session removed {swept}");
    // A writer that took its time before the sweep must fare no better.
    nothing_revives(given, &keys, given.now, "a sweep")
}

pub(super) fn nothing_brings_back_an_expired_session(given: &Given) -> Outcome {
    let (_, keys) = renewed_session(given)?;
    nothing_revives(given, &keys, given.after(IDLE), "the deadline")
}

pub(super) fn nothing_late_brings_back_a_session_ended_at_its_deadline(given: &Given) -> Outcome {
    let end = given.after(IDLE);
    let (session, keys) = renewed_session(given)?;
    answered(&given.delete(&session.key, end)?, "Gone", "a delete at the deadline")?;
    nothing_revives(given, &keys, end - MILLI, "a delete at the deadline")?;

    let (_, keys) = renewed_session(given)?;
    let [_, old] = keys;
    answered(&given.delete(&old, end)?, "Gone", "a delete through the grace at the deadline")?;
    nothing_revives(given, &keys, end - MILLI, "a delete through the grace at the deadline")?;

    let (session, keys) = renewed_session(given)?;
    given.sign_in(&session.key, &user("u")?, end)?;
    nothing_revives(given, &keys, end - MILLI, "a sign-in at the deadline")
}

pub(super) fn nothing_late_brings_back_a_session_revoked_at_its_deadline(given: &Given) -> Outcome {
    let (owner, end) = (user("u")?, given.after(IDLE));
    for which in 0..4 {
        let session = given.session_of(&owner, given.now)?;
        let handle = session.handle();
        let which = match which {
            0 => Which::All,
            1 => Which::User(&owner),
            2 => Which::Handle(&handle),
            _ => Which::OfUser(&owner, &handle),
        };
        let revoked = given.registry()?.revoke(&which, None, end)?;
        ensure!(revoked.is_empty(), "a revocation at the deadline gave keys of no live session");
        nothing_revives(given, &[session.key], end - MILLI, "a revocation at the deadline")?;
    }
    Ok(())
}

pub(super) fn nothing_late_brings_back_a_session_that_made_room_for_a_sign_in(
    given: &Given,
) -> Outcome {
    let (owner, end) = (user("u")?, given.after(IDLE));
    let expired = given.session_of(&owner, given.now)?;
    let (new, to) = (key()?, key()?);
    let birth = given.birth()?;
    let delta = nothing();
    let fate = Fate::SignIn { to: &to, user: &owner, birth: &birth, join_salt: None };
    let admit = Admit::new(NonZeroU32::MIN, AtLimit::Refuse);
    let sign_in = Commit { admit: Some(admit), ..Commit::new(&new, fate, &delta, end) };
    done(given.store.commit(&sign_in)?, "a sign-in where all of the user's sessions had expired")?;
    nothing_revives(given, &[expired.key], end - MILLI, "a sign-in with a limit")
}

pub(super) fn nothing_brings_back_a_revoked_session(given: &Given) -> Outcome {
    let (session, keys) = renewed_session(given)?;
    let handle = session.handle();
    let revoked = given.registry()?.revoke(&Which::Handle(&handle), None, given.now)?;
    ensure!(revoked == [session.key], "a revocation by handle gave {revoked:?}");
    nothing_revives(given, &keys, given.now, "a revocation")
}

pub(super) fn nothing_brings_back_a_session_revoked_with_everyone(given: &Given) -> Outcome {
    let (_, [new, old]) = renewed_session(given)?;
    let other = given.session_of(&user("u")?, given.now)?;
    given.registry()?.revoke_everyone(None, given.now)?;
    nothing_revives(given, &[new, old, other.key], given.now, "everyone was revoked")
}
