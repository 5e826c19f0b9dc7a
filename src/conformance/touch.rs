//! Checks that a touch records activity and changes nothing else of the session.

use crate::backend::{Action, Commit, Committed, LiveSession};
use crate::clock::Timestamp;
use crate::conformance::fixture::{
    Fixture, MILLI, Passed, SECOND, Sample, TOUCH_DUE, answered, done, ensure, holds, id_hash,
    nothing, set,
};
use crate::delta::Delta;
use crate::record::{Record, Touch};

pub(super) fn a_touch_changes_neither_data_nor_revision(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let then = fixture.after(SECOND);
    fixture.touch(&session.id_hash, then, then)?;
    let touched = fixture.live(&session.id_hash, then, "a touched session")?.record;
    ensure!(touched.seen == then, "a touch did not record the activity");
    ensure!(touched.revision == session.record.revision, "a touch changed the revision");
    ensure!(touched.data == session.record.data, "a touch changed the data");
    ensure!(touched == Record { seen: then, ..session.record }, "a touch changed more than a time");
    Ok(())
}

pub(super) fn a_touch_does_not_undo_what_was_written_since_the_read(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    fixture.live(&session.id_hash, fixture.now, "a new session")?;
    done(fixture.merge(&session.id_hash, &set("coat", "red")?, fixture.now)?, "a merge")?;
    let then = fixture.after(SECOND);
    fixture.touch(&session.id_hash, then, then)?;
    let record = fixture.live(&session.id_hash, then, "a touched session")?.record;
    ensure!(holds(&record, "coat", "red")?, "a touch undid the write of another request");
    Ok(())
}

pub(super) fn a_touch_never_moves_time_back(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let then = fixture.after(SECOND * 10);
    fixture.touch(&session.id_hash, then, then)?;
    fixture.touch(&session.id_hash, then - SECOND, then)?;
    let seen = fixture.live(&session.id_hash, then, "a touched session")?.record.seen;
    ensure!(seen == then, "a late touch moved the time back");
    Ok(())
}

pub(super) fn a_batch_touches_those_that_live(fixture: &Fixture) -> Passed {
    let (deleted, one, two) = (fixture.session()?, fixture.session()?, fixture.session()?);
    fixture.delete(&deleted.id_hash, fixture.now)?;
    let (soon, later) = (fixture.after(SECOND), fixture.after(SECOND * 2));
    let batch = [
        (id_hash()?, Touch::at(soon)),
        (one.id_hash, Touch::at(later)),
        (deleted.id_hash, Touch::at(soon)),
        (two.id_hash, Touch::at(soon)),
        (one.id_hash, Touch::at(soon)),
    ];
    fixture.store.touch(&batch, later)?;
    fixture.store.touch(&[], later)?;
    for (session, seen) in [(one, later), (two, soon)] {
        let stored = fixture.live(&session.id_hash, later, "a session of a batch")?.record.seen;
        ensure!(stored == seen, "a batch did not record the latest activity of each session");
    }
    fixture.is_absent(&deleted.id_hash, later, "a batch brought a deleted session back")
}

fn merge_with_touch(
    fixture: &Fixture,
    session: &Sample,
    delta: &Delta,
    now: Timestamp,
) -> Passed<Committed> {
    let commit = Commit::new(&session.id_hash, Action::Merge, delta.clone(), now);
    Ok(fixture.store.commit(&Commit { touch: Some(Touch::at(now)), ..commit })?)
}

pub(super) fn a_merge_with_a_touch_that_is_not_due_leaves_the_time(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let soon = fixture.after(TOUCH_DUE - MILLI);
    let answer = merge_with_touch(fixture, &session, &set("coat", "red")?, soon)?;
    done(answer, "a merge with a touch")?;
    let stored = fixture.live(&session.id_hash, soon, "a merged session")?.record;
    ensure!(stored.seen == fixture.now, "a merge moved the deadline though no touch was due");
    Ok(())
}

pub(super) fn a_merge_with_a_touch_that_is_due_moves_the_time(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let then = fixture.after(TOUCH_DUE);
    let answer = merge_with_touch(fixture, &session, &set("coat", "red")?, then)?;
    let answered = done(answer, "a merge with a touch")?.record;
    let stored = fixture.live(&session.id_hash, then, "a merged session")?.record;
    ensure!(stored == answered, "a merge with a touch is not stored as it was returned");
    ensure!(stored.seen == then, "a merge did not record the touch that was due");
    done(fixture.merge(&session.id_hash, &set("coat", "green")?, then + TOUCH_DUE)?, "a merge")?;
    let stored = fixture.live(&session.id_hash, then, "a merged session")?.record;
    ensure!(stored.seen == then, "a merge without a touch moved the deadline");
    Ok(())
}

pub(super) fn an_unchanged_merge_records_a_due_touch_only(fixture: &Fixture) -> Passed {
    for (then, seen) in [
        (fixture.after(TOUCH_DUE - MILLI), fixture.now),
        (fixture.after(TOUCH_DUE), fixture.after(TOUCH_DUE)),
    ] {
        let session = fixture.session()?;
        let answer = merge_with_touch(fixture, &session, &nothing(), then)?;
        answered(&answer, "Unchanged", "a merge of an empty delta with a touch")?;
        let stored = fixture.live(&session.id_hash, then, "a touched session")?.record;
        ensure!(
            stored.seen == seen,
            "a merge of an empty delta did not record exactly the touch due"
        );
        let expected = Record { seen, ..session.record };
        ensure!(
            stored == expected,
            "a merge of an empty delta with a touch changed more than a time"
        );
        if let Committed::Unchanged(LiveSession { record, .. }) = answer {
            ensure!(record == stored, "Unchanged does not carry the session as it is stored");
        }
    }
    Ok(())
}
