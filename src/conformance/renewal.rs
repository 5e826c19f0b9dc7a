//! Checks that a renewal gives a session a new id and changes nothing else of it, and that the
//! replaced id works until the end of its grace period.

use crate::backend::{
    Action, Commit, Committed, LiveSession, Lookup, Missing, ReplacedId, SessionFilter,
};
use crate::clock::Timestamp;
use crate::conformance::fixture::{
    ABSOLUTE, Fixture, IDLE, MILLI, Passed, SECOND, Sample, TOUCH_DUE, answered, done, ensure,
    holds, id_hash, nothing, set, sign_in_to, user,
};
use crate::error::ErrorKind;
use crate::id::{Realm, SessionIdHash};
use crate::record::{Record, Touch};

pub(super) fn a_renewal_changes_the_id_and_nothing_else(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let session = fixture.session_of(&owner, fixture.now)?;
    done(fixture.merge(&session.id_hash, &set("coat", "blue")?, fixture.now)?, "a merge")?;
    let before = fixture.live(&session.id_hash, fixture.now, "a new session")?.record;
    let then = fixture.after(SECOND);
    let (to, answer) = fixture.renew(&session.id_hash, None, then)?;
    let renewed = done(answer, "a renewal")?;
    ensure!(renewed.id_hash == to, "a renewal returned another id than the new one");
    ensure!(renewed.ended == [session.id_hash], "a renewal did not name the id that it ended");
    ensure!(renewed.record.public_id == before.public_id, "a renewal lost the public id");
    ensure!(renewed.record.data == before.data, "a renewal lost data");
    let expected = Record { revision: before.revision + 1, id_issued: then, ..before };
    ensure!(
        renewed.record == expected,
        "a renewal changed more than the id, its time and the revision"
    );
    fixture.is_intact(&Sample { id_hash: to, record: expected }, "a renewal")
}

pub(super) fn a_renewal_carries_its_change_along(fixture: &Fixture) -> Passed {
    let (session, to) = (fixture.session()?, id_hash()?);
    let then = fixture.after(TOUCH_DUE);
    let (action, delta) =
        (Action::Renew { to, realm: Realm::default(), grace_until: None }, set("coat", "red")?);
    let renewal = Commit::new(&session.id_hash, action, delta, then);
    let answer = fixture.store.commit(&Commit { touch: Some(Touch::at(then)), ..renewal })?;
    let renewed = done(answer, "a renewal with a change")?.record;
    ensure!(holds(&renewed, "coat", "red")?, "a renewal lost the change that came with it");
    ensure!(renewed.seen == then, "a renewal did not record the touch that was due");
    fixture.is_intact(&Sample { id_hash: to, record: renewed }, "a renewal with a change")
}

pub(super) fn a_renewal_does_not_move_the_absolute_deadline(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let mut id_hash = session.id_hash;
    let mut now = fixture.now;
    while now + IDLE / 2 < fixture.after(ABSOLUTE) {
        now = now + IDLE / 2;
        fixture.touch(&id_hash, now, now)?;
        let (to, answer) = fixture.renew(&id_hash, None, now)?;
        let renewed = done(answer, "a renewal of a busy session")?.record;
        ensure!(
            renewed.limits == session.record.limits,
            "a renewal changed the idle limit or moved the absolute deadline"
        );
        ensure!(renewed.created == fixture.now, "a renewal moved when the session was created");
        id_hash = to;
    }
    fixture.live(
        &id_hash,
        fixture.after(ABSOLUTE) - MILLI,
        "before its end a session renewed often",
    )?;
    let late = fixture.is_live(&id_hash, fixture.after(ABSOLUTE))?;
    ensure!(!late, "renewals moved the absolute deadline");
    Ok(())
}

/// Fails unless a load, a merge and a renewal through `old` return `Replaced` at `now`, and neither
/// they nor a touch change `current`.
fn is_only_remembered(
    fixture: &Fixture,
    old: &SessionIdHash,
    current: &Sample,
    now: Timestamp,
) -> Passed {
    fixture.is_replaced(old, &current.id_hash, now, "the replaced id of a renewal")?;
    let through = "through a replaced id";
    let merge = fixture.merge(old, &set("coat", "red")?, now)?;
    answered(&merge, "Replaced", &format!("a merge {through}"))?;
    let (to, renewal) = fixture.renew(old, Some(now + SECOND), now)?;
    answered(&renewal, "Replaced", &format!("a renewal {through}"))?;
    fixture.touch(old, now, now)?;
    fixture.is_absent(&to, now, "a renewal through a replaced id stored something")?;
    fixture.is_replaced(old, &current.id_hash, now, "the replaced id of a renewal")?;
    fixture.is_intact(current, &format!("calls {through}"))
}

pub(super) fn the_id_from_before_a_renewal_is_unknown_after_a_while(fixture: &Fixture) -> Passed {
    for grace in [None, Some(SECOND)] {
        let old = fixture.session()?;
        let new = fixture.renewed(&old, grace.map(|grace| fixture.after(grace)))?;
        let end = fixture.after(grace.unwrap_or_default() + ReplacedId::REMEMBERED);
        let just_before = fixture.store.load(&old.id_hash, end - MILLI)?;
        ensure!(
            matches!(just_before, Lookup::Missing(Missing::Replaced { .. })),
            "a replaced id was forgotten too early"
        );
        let then = fixture.store.load(&old.id_hash, end)?;
        ensure!(
            matches!(then, Lookup::Missing(Missing::NotFound { .. })),
            "a replaced id was remembered for too long"
        );
        fixture.live(&new.id_hash, end, "a session whose old id is forgotten")?;
    }
    Ok(())
}

pub(super) fn the_id_from_before_a_renewal_is_answered_replaced(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, None)?;
    is_only_remembered(fixture, &old.id_hash, &new, fixture.after(SECOND))
}

pub(super) fn the_id_from_before_works_until_the_end_of_the_grace(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let last = fixture.after(SECOND * 10) - MILLI;
    fixture.touch(&old.id_hash, last, last)?;
    let found = fixture.live(&old.id_hash, last, "before the end of the grace the session")?;
    ensure!(
        found.id_hash == new.id_hash,
        "a load through the grace does not return the current id"
    );
    ensure!(found.record.seen == last, "a touch through the grace was not recorded");
    let answer = fixture.merge(&old.id_hash, &set("coat", "red")?, last)?;
    let merged = done(answer, "a merge through the grace")?;
    ensure!(
        merged.id_hash == new.id_hash,
        "a merge through the grace does not return the current id"
    );
    ensure!(merged.record.public_id == new.public_id(), "the grace leads to another session");
    for id_hash in [old.id_hash, new.id_hash] {
        let found = fixture.live(&id_hash, last, "a session merged through the grace")?;
        ensure!(found.record == merged.record, "a merge through the grace is not stored");
    }
    match fixture.merge(&old.id_hash, &nothing(), last)? {
        Committed::Unchanged(LiveSession { id_hash, .. }) if id_hash == new.id_hash => Ok(()),
        other => answered(&other, "Unchanged with the current id", "a merge of an empty delta"),
    }
}

pub(super) fn the_id_from_before_does_not_work_at_the_end_of_the_grace(
    fixture: &Fixture,
) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    is_only_remembered(fixture, &old.id_hash, &new, fixture.after(SECOND * 10))
}

pub(super) fn a_delete_through_the_grace_ends_the_session(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND)))?;
    match fixture.delete(&old.id_hash, fixture.now)? {
        Committed::Deleted(id_hash) => {
            ensure!(
                id_hash == new.id_hash,
                "a delete through the grace does not return the current id"
            );
        }
        other => answered(&other, "Deleted", "a delete through the grace")?,
    }
    for id_hash in [old.id_hash, new.id_hash] {
        let back = fixture.is_live(&id_hash, fixture.now)?;
        ensure!(!back, "a session deleted through the grace is still found");
    }
    Ok(())
}

pub(super) fn a_renewal_through_the_grace_merges_and_rotates_nothing(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND)))?;
    let (unused, answer) = fixture.renew(&old.id_hash, Some(fixture.after(IDLE)), fixture.now)?;
    answered(&answer, "Unchanged", "a renewal through the grace without a change")?;
    let (action, red) = (
        Action::Renew { to: unused, realm: Realm::default(), grace_until: None },
        set("coat", "red")?,
    );
    let answer = fixture.commit(&old.id_hash, action, &red, fixture.now)?;
    let merged = done(answer, "a renewal through the grace")?;
    ensure!(merged.id_hash == new.id_hash, "a renewal through the grace renewed the session");
    ensure!(merged.ended.is_empty(), "a renewal through the grace ended an id");
    fixture.is_absent(&unused, fixture.now, "a renewal through the grace used its new id")?;
    fixture.is_intact(&Sample { record: merged.record, ..new }, "a renewal through the grace")?;
    let found = fixture.live(&old.id_hash, fixture.now, "after a renewal through it the grace")?;
    ensure!(
        found.id_hash == new.id_hash,
        "a renewal through the grace changed what the grace leads to"
    );
    let late = fixture.is_live(&old.id_hash, fixture.after(SECOND))?;
    ensure!(!late, "a renewal through the grace extended it");
    Ok(())
}

pub(super) fn each_replaced_id_has_a_grace_of_its_own(fixture: &Fixture) -> Passed {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.after(SECOND * 10)))?;
    let third = fixture.renewed(&second, None)?;
    let fourth = fixture.renewed(&third, Some(fixture.after(SECOND * 20)))?;
    for id_hash in [first.id_hash, third.id_hash] {
        let found =
            fixture.live(&id_hash, fixture.after(SECOND * 10) - MILLI, "within its grace an id")?;
        ensure!(
            found.id_hash == fourth.id_hash,
            "a replaced id in its grace does not lead to the current id"
        );
        let merged = fixture.merge(&id_hash, &nothing(), fixture.now)?;
        answered(&merged, "Unchanged", "a merge through a grace from before the last renewal")?;
    }
    fixture.is_replaced(
        &second.id_hash,
        &fourth.id_hash,
        fixture.now,
        "an id replaced without grace",
    )?;
    let then = fixture.after(SECOND * 10);
    fixture.is_replaced(&first.id_hash, &fourth.id_hash, then, "an id whose grace is over")?;
    fixture.live(&third.id_hash, then, "an id whose grace is longer")?;
    fixture.is_intact(&fourth, "a chain of renewals")
}

pub(super) fn a_merge_leaves_the_grace_as_it_is(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let then = fixture.after(SECOND);
    done(fixture.merge(&new.id_hash, &set("coat", "red")?, then)?, "a merge after a renewal")?;
    fixture.touch(&new.id_hash, then, then)?;
    let found = fixture.live(&old.id_hash, then, "after a merge the id within its grace")?;
    ensure!(found.id_hash == new.id_hash, "a merge changed what the grace leads to");
    fixture.is_replaced(
        &old.id_hash,
        &new.id_hash,
        fixture.after(SECOND * 10),
        "after a merge an id past its grace",
    )?;
    Ok(())
}

pub(super) fn a_stale_renewal_moves_nothing(fixture: &Fixture) -> Passed {
    let (session, to, delta) = (fixture.session()?, id_hash()?, nothing());
    let action = Action::Renew { to, realm: Realm::default(), grace_until: None };
    let renewal = Commit::new(&session.id_hash, action, delta, fixture.now);
    let answer = fixture.store.commit(&Commit { if_revision: Some(7), ..renewal })?;
    answered(&answer, "RevisionMismatch", "a renewal at a revision that is not stored")?;
    fixture.is_absent(&to, fixture.now, "a stale renewal stored something")?;
    fixture.is_intact(&session, "a stale renewal")
}

/// One id of each kind that a new id may not equal, and the sessions of these ids.
struct Taken {
    id_hashes: Vec<(SessionIdHash, &'static str)>,
    all: Vec<Sample>,
}

fn taken(fixture: &Fixture) -> Passed<Taken> {
    let other = fixture.session()?;
    let before = fixture.session()?;
    let after = fixture.renewed(&before, None)?;
    let within = fixture.session()?;
    let graced = fixture.renewed(&within, Some(fixture.after(IDLE)))?;
    let id_hashes = vec![
        (other.id_hash, "the id of another session"),
        (before.id_hash, "the previous id of a session"),
        (within.id_hash, "an id within its grace"),
    ];
    Ok(Taken { id_hashes, all: vec![other, after, graced] })
}

fn conflicts(fixture: &Fixture, commit: &Commit, all: &[Sample], what: &str) -> Passed {
    fixture.fails(commit, ErrorKind::Conflict, what)?;
    all.iter().try_for_each(|session| fixture.is_intact(session, what))
}

pub(super) fn a_taken_id_is_a_conflict_at_creation(fixture: &Fixture) -> Passed {
    let Taken { id_hashes, all } = taken(fixture)?;
    let (new_session, delta) = (fixture.new_session()?, set("coat", "red")?);
    for (id_hash, whose) in id_hashes {
        let create =
            Commit::new(&id_hash, Action::Create(new_session.clone()), delta.clone(), fixture.now);
        conflicts(fixture, &create, &all, &format!("a create under {whose}"))?;
    }
    Ok(())
}

pub(super) fn a_taken_id_is_a_conflict_at_renewal(fixture: &Fixture) -> Passed {
    let Taken { mut id_hashes, mut all } = taken(fixture)?;
    let previous = fixture.session()?;
    let session = fixture.renewed(&previous, None)?;
    id_hashes.push((session.id_hash, "the id that the session has"));
    id_hashes.push((previous.id_hash, "the id that the session had"));
    all.push(session.clone());
    let delta = set("coat", "red")?;
    for (id_hash, whose) in id_hashes {
        let action = Action::Renew {
            to: id_hash,
            realm: Realm::default(),
            grace_until: Some(fixture.after(SECOND)),
        };
        let renewal = Commit::new(&session.id_hash, action, delta.clone(), fixture.now);
        conflicts(fixture, &renewal, &all, &format!("a renewal to {whose}"))?;
    }
    fixture.is_replaced(
        &previous.id_hash,
        &session.id_hash,
        fixture.now,
        "after a conflict the old id",
    )?;
    Ok(())
}

pub(super) fn a_taken_id_is_a_conflict_at_sign_in(fixture: &Fixture) -> Passed {
    let Taken { mut id_hashes, mut all } = taken(fixture)?;
    let session = fixture.session()?;
    id_hashes.push((session.id_hash, "the id that the session has"));
    all.push(session.clone());
    let others = fixture.session_of(&user("other")?, fixture.now)?;
    all.push(others.clone());
    let (owner, new_session, delta) = (user("u")?, fixture.new_session()?, nothing());
    for from in [session.id_hash, others.id_hash, id_hash()?] {
        for (id_hash, whose) in &id_hashes {
            let action = sign_in_to(*id_hash, &owner, &new_session);
            let sign_in = Commit::new(&from, action, delta.clone(), fixture.now);
            conflicts(fixture, &sign_in, &all, &format!("a sign-in to {whose}"))?;
        }
    }
    Ok(())
}

pub(super) fn a_revocation_ends_the_grace(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    fixture.index()?.revoke(&SessionFilter::PublicId(&new.public_id()), None, fixture.now)?;
    let still = fixture.is_live(&old.id_hash, fixture.now)?;
    ensure!(!still, "a revoked session is still found through its grace");
    Ok(())
}
