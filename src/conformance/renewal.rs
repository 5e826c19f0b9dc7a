//! Checks that a renewal gives a session a new id and changes nothing else of it, and that the
//! replaced id works until the end of its grace.

use crate::backend::{Action, Commit, ReplacedId};
use crate::conformance::fixture::*;
use crate::error::ErrorKind;
use crate::id::SessionIdHash;
use crate::list::SessionFilter;
use crate::record::{Record, Touch};

pub(super) fn a_renewal_changes_the_id_and_nothing_else(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let session = fixture.session_of(&owner)?;
    done(fixture.merge(&session.id_hash, &set("coat", "blue")?)?, "a merge")?;
    let before = fixture.live(&session.id_hash, "a new session")?.record;
    let then = fixture.after(SECOND);
    let (to, answer) = fixture.at(then).renew(&session.id_hash, None)?;
    let renewed = moved(answer, &session, &to, "a renewal")?;
    let expected = Record { revision: before.revision + 1, id_issued: then, ..before };
    same_record(&renewed.record, &expected, "a renewal")?;
    fixture.is_intact(&renewed, "a renewal")
}

pub(super) fn a_renewal_carries_its_change_along(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let to = id_hash()?;
    let then = fixture.after(TOUCH_DUE);
    let renewal = Commit::new(&session.id_hash, renew_to(to, None), set("coat", "red")?, then);
    let answer = fixture.store.commit(&Commit { touch: Some(Touch::at(then)), ..renewal })?;
    let renewed = done(answer, "a renewal with a change")?.record;
    ensure!(holds(&renewed, "coat", "red")?, "a renewal lost the change that came with it")?;
    ensure!(renewed.seen == then, "a renewal did not record the touch that was due")?;
    fixture.is_intact(&Sample { id_hash: to, record: renewed }, "a renewal with a change")
}

pub(super) fn a_renewal_does_not_move_the_absolute_deadline(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let mut id_hash = session.id_hash;
    let mut now = fixture.now;
    while now + IDLE / 2 < fixture.after(ABSOLUTE) {
        now = now + IDLE / 2;
        fixture.at(now).touch(&id_hash)?;
        let (to, answer) = fixture.at(now).renew(&id_hash, None)?;
        let renewed = done(answer, "a renewal of a busy session")?.record;
        let same = renewed.limits == session.record.limits;
        ensure!(same, "a renewal changed the idle limit or moved the absolute deadline")?;
        ensure!(renewed.created == fixture.now, "a renewal moved when the session was created")?;
        id_hash = to;
    }
    let last = fixture.later(ABSOLUTE - MILLI);
    last.live(&id_hash, "before its end a session renewed often")?;
    fixture.later(ABSOLUTE).none_live(&[id_hash], "renewals moved the absolute deadline")
}

/// Fails unless a load, a merge and a renewal through `old` return `Replaced`, and neither they nor
/// a touch change `current`.
fn is_only_remembered(fixture: &Fixture, old: &SessionIdHash, current: &Sample) -> Passed {
    fixture.is_replaced(old, &current.id_hash, "the replaced id of a renewal")?;
    let merge = fixture.merge(old, &set("coat", "red")?)?;
    answered(&merge, "Replaced", "a merge through a replaced id")?;
    let (to, renewal) = fixture.renew(old, Some(fixture.after(SECOND)))?;
    answered(&renewal, "Replaced", "a renewal through a replaced id")?;
    fixture.touch(old)?;
    fixture.is_absent(&to, "a renewal through a replaced id stored something")?;
    fixture.is_replaced(old, &current.id_hash, "the replaced id of a renewal")?;
    fixture.is_intact(current, "calls through a replaced id")
}

pub(super) fn a_replaced_id_is_forgotten_after_ten_minutes(fixture: &Fixture) -> Passed {
    for grace in [None, Some(SECOND)] {
        let old = fixture.session()?;
        let new = fixture.renewed(&old, grace.map(|grace| fixture.after(grace)))?;
        let end = fixture.later(grace.unwrap_or_default() + ReplacedId::REMEMBERED);
        let last = fixture.at(end.now - MILLI);
        last.is_replaced(&old.id_hash, &new.id_hash, "a replaced id until it is forgotten")?;
        end.is_absent(&old.id_hash, "a replaced id was remembered for too long")?;
        end.live(&new.id_hash, "a session whose old id is forgotten")?;
    }
    Ok(())
}

pub(super) fn a_renewed_id_is_answered_as_replaced(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, None)?;
    is_only_remembered(&fixture.later(SECOND), &old.id_hash, &new)
}

pub(super) fn a_replaced_id_finds_the_session_within_its_grace(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let last = fixture.later(SECOND * 10 - MILLI);
    last.touch(&old.id_hash)?;
    let found = last.live(&old.id_hash, "before the end of the grace the session")?;
    ensure!(found.id_hash == new.id_hash, "a load through the grace returns another id")?;
    ensure!(found.record.seen == last.now, "a touch through the grace was not recorded")?;
    let merged =
        done(last.merge(&old.id_hash, &set("coat", "red")?)?, "a merge through the grace")?;
    ensure!(merged.id_hash == new.id_hash, "a merge through the grace returns another id")?;
    ensure!(merged.record.public_id == new.public_id(), "the grace leads to another session")?;
    let merged = Sample { record: merged.record, ..new };
    for id_hash in [old.id_hash, merged.id_hash] {
        let found = last.live(&id_hash, "a session merged through the grace")?.record;
        ensure!(found == merged.record, "a merge through the grace is not stored")?;
    }
    let answer = last.merge(&old.id_hash, &nothing())?;
    returned(&answer, "Unchanged", &merged, "a merge of an empty delta")
}

pub(super) fn a_replaced_id_finds_no_session_at_the_end_of_its_grace(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    is_only_remembered(&fixture.later(SECOND * 10), &old.id_hash, &new)
}

pub(super) fn an_ending_through_the_grace_ends_the_session(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND)))?;
    fixture.ends(&old.id_hash, &new.id_hash, "an ending through the grace")?;
    let found = "a session ended through the grace is still found";
    fixture.none_live(&[old.id_hash, new.id_hash], found)
}

pub(super) fn a_renewal_through_the_grace_merges_and_renews_nothing(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND)))?;
    let (unused, answer) = fixture.renew(&old.id_hash, Some(fixture.after(IDLE)))?;
    answered(&answer, "Unchanged", "a renewal through the grace without a change")?;
    let answer = fixture.commit(&old.id_hash, renew_to(unused, None), &set("coat", "red")?)?;
    let merged = done(answer, "a renewal through the grace")?;
    ensure!(merged.id_hash == new.id_hash, "a renewal through the grace renewed the session")?;
    ensure!(merged.ids_to_invalidate.is_empty(), "a renewal through the grace ended an id")?;
    fixture.is_absent(&unused, "a renewal through the grace used its new id")?;
    fixture.is_intact(&Sample { record: merged.record, ..new }, "a renewal through the grace")?;
    let found = fixture.live(&old.id_hash, "after a renewal through it the grace")?;
    ensure!(found.id_hash == new.id_hash, "a renewal changed what the grace leads to")?;
    fixture.later(SECOND).none_live(&[old.id_hash], "a renewal through the grace extended it")
}

pub(super) fn a_renewal_limits_the_graces_of_earlier_ids(fixture: &Fixture) -> Passed {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.after(SECOND * 20)))?;
    let third = fixture.renewed(&second, Some(fixture.after(SECOND * 10)))?;
    let fourth = fixture.renewed(&third, Some(fixture.after(SECOND * 20)))?;
    let last = fixture.later(SECOND * 10 - MILLI);
    for id_hash in [first.id_hash, second.id_hash, third.id_hash] {
        let found = last.live(&id_hash, "within its grace an id")?.id_hash;
        ensure!(found == fourth.id_hash, "an id in its grace does not lead to the current id")?;
        let merged = fixture.merge(&id_hash, &nothing())?;
        answered(&merged, "Unchanged", "a merge through a grace from before the last renewal")?;
    }
    let later = fixture.later(SECOND * 10);
    let shortened = "an id whose grace a later renewal has shortened";
    later.is_replaced(&first.id_hash, &fourth.id_hash, shortened)?;
    later.is_replaced(&second.id_hash, &fourth.id_hash, "an id whose grace is over")?;
    later.live(&third.id_hash, "an id whose grace is longer")?;
    fixture.is_intact(&fourth, "a chain of renewals")
}

pub(super) fn a_renewal_without_grace_ends_the_graces_of_earlier_ids(fixture: &Fixture) -> Passed {
    let first = fixture.session()?;
    let second = fixture.renewed(&first, Some(fixture.after(SECOND * 20)))?;
    let third = fixture.renewed(&second, None)?;
    for id_hash in [first.id_hash, second.id_hash] {
        fixture.is_replaced(&id_hash, &third.id_hash, "after a renewal without grace an id")?;
    }
    let fourth = fixture.renewed(&third, Some(fixture.after(SECOND * 20)))?;
    for id_hash in [first.id_hash, second.id_hash] {
        fixture.is_replaced(&id_hash, &fourth.id_hash, "after another renewal with grace an id")?;
    }
    fixture.live(&third.id_hash, "an id in its grace")?;
    fixture.is_intact(&fourth, "a chain of renewals")
}

pub(super) fn a_merge_leaves_the_grace_as_it_is(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    let later = fixture.later(SECOND);
    done(later.merge(&new.id_hash, &set("coat", "red")?)?, "a merge after a renewal")?;
    later.touch(&new.id_hash)?;
    let found = later.live(&old.id_hash, "after a merge the id within its grace")?;
    ensure!(found.id_hash == new.id_hash, "a merge changed what the grace leads to")?;
    let over = fixture.later(SECOND * 10);
    over.is_replaced(&old.id_hash, &new.id_hash, "after a merge an id past its grace").map(drop)
}

pub(super) fn a_renewal_at_another_revision_moves_nothing(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let to = id_hash()?;
    fixture.is_revision_mismatch(&session.id_hash, &to, renew_to(to, None), &session)
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

impl Taken {
    /// Fails unless the commit conflicts and changes none of the sessions.
    fn conflicts(
        &self,
        fixture: &Fixture,
        id_hash: &SessionIdHash,
        action: Action,
        what: &str,
    ) -> Passed {
        let commit = Commit::new(id_hash, action, set("coat", "red")?, fixture.now);
        fixture.fails(&commit, ErrorKind::Conflict, what)?;
        self.all.iter().try_for_each(|session| fixture.is_intact(session, what))
    }
}

pub(super) fn a_taken_id_is_a_conflict_at_creation(fixture: &Fixture) -> Passed {
    let taken = taken(fixture)?;
    for (id_hash, whose) in &taken.id_hashes {
        let create = Action::Create(fixture.new_session()?);
        taken.conflicts(fixture, id_hash, create, &format!("a create under {whose}"))?;
    }
    Ok(())
}

pub(super) fn a_taken_id_is_a_conflict_at_renewal(fixture: &Fixture) -> Passed {
    let mut taken = taken(fixture)?;
    let previous = fixture.session()?;
    let session = fixture.renewed(&previous, None)?;
    let previous = previous.id_hash;
    let current = session.id_hash;
    taken.id_hashes.push((current, "the id that the session has"));
    taken.id_hashes.push((previous, "the id that the session had"));
    taken.all.push(session);
    for (id_hash, whose) in &taken.id_hashes {
        let renewal = renew_to(*id_hash, Some(fixture.after(SECOND)));
        taken.conflicts(fixture, &current, renewal, &format!("a renewal to {whose}"))?;
    }
    fixture.is_replaced(&previous, &current, "after a conflict the old id").map(drop)
}

pub(super) fn a_taken_id_is_a_conflict_at_sign_in(fixture: &Fixture) -> Passed {
    let mut taken = taken(fixture)?;
    let session = fixture.session()?;
    let others = fixture.session_of(&user("other")?)?;
    taken.id_hashes.push((session.id_hash, "the id that the session has"));
    let presented = [session.id_hash, others.id_hash, id_hash()?];
    taken.all.extend([session, others]);
    for from in presented {
        for (id_hash, whose) in &taken.id_hashes {
            let sign_in = sign_in_to(*id_hash, &user("u")?, &fixture.new_session()?);
            taken.conflicts(fixture, &from, sign_in, &format!("a sign-in to {whose}"))?;
        }
    }
    Ok(())
}

pub(super) fn a_revocation_ends_the_grace(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(SECOND * 10)))?;
    fixture.index()?.revoke(&SessionFilter::PublicId(&new.public_id()), None, fixture.now)?;
    fixture.none_live(&[old.id_hash], "a revoked session is still found through its grace")
}
