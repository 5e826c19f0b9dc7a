//! Activity is recorded without writing the session.

use crate::clock::Timestamp;
use crate::conformance::given::{
    Given, MILLI, Outcome, SECOND, Session, TOUCH_DUE, answered, done, ensure, holds, key, nothing,
    set,
};
use crate::delta::Delta;
use crate::record::{Record, Touch};
use crate::store::{Commit, Committed, Fate};

pub(super) fn a_touch_changes_neither_data_nor_revision(given: &Given) -> Outcome {
    let session = given.session()?;
    let then = given.after(SECOND);
    given.touch(&session.key, then, then)?;
    let touched = given.live(&session.key, then, "a touched session")?.record;
    ensure!(touched.seen == then, "a touch did not record the activity");
    ensure!(touched.revision == session.record.revision, "a touch changed the revision");
    ensure!(touched.data == session.record.data, "a touch changed the data");
    ensure!(touched == Record { seen: then, ..session.record }, "a touch changed more than a time");
    Ok(())
}

pub(super) fn a_touch_does_not_undo_what_was_written_since_the_read(given: &Given) -> Outcome {
    let session = given.session()?;
    given.live(&session.key, given.now, "a new session")?;
    done(given.merge(&session.key, &set("coat", "red")?, given.now)?, "a merge")?;
    let then = given.after(SECOND);
    given.touch(&session.key, then, then)?;
    let record = given.live(&session.key, then, "a touched session")?.record;
    ensure!(holds(&record, "coat", "red")?, "a touch undid the write of another request");
    Ok(())
}

pub(super) fn a_touch_never_moves_time_back(given: &Given) -> Outcome {
    let session = given.session()?;
    let then = given.after(SECOND * 10);
    given.touch(&session.key, then, then)?;
    given.touch(&session.key, then - SECOND, then)?;
    let seen = given.live(&session.key, then, "a touched session")?.record.seen;
    ensure!(seen == then, "a late touch moved the time back");
    Ok(())
}

pub(super) fn a_batch_touches_those_that_live(given: &Given) -> Outcome {
    let (deleted, one, two) = (given.session()?, given.session()?, given.session()?);
    given.delete(&deleted.key, given.now)?;
    let (soon, later) = (given.after(SECOND), given.after(SECOND * 2));
    let batch = [
        (key()?, Touch::at(soon)),
        (one.key, Touch::at(later)),
        (deleted.key, Touch::at(soon)),
        (two.key, Touch::at(soon)),
        (one.key, Touch::at(soon)),
    ];
    given.store.touch(&batch, later)?;
    given.store.touch(&[], later)?;
    for (session, seen) in [(one, later), (two, soon)] {
        let stored = given.live(&session.key, later, "a session of a batch")?.record.seen;
        ensure!(stored == seen, "a batch did not record the latest activity of each session");
    }
    given.is_absent(&deleted.key, later, "a batch brought a deleted session back")
}

fn merge_with_touch(
    given: &Given,
    session: &Session,
    delta: &Delta,
    now: Timestamp,
) -> Outcome<Committed> {
    let commit = Commit::new(&session.key, Fate::Merge, delta, now);
    Ok(given.store.commit(&Commit { touch: Some(Touch::at(now)), ..commit })?)
}

pub(super) fn a_merge_with_a_touch_that_is_not_due_leaves_the_time(given: &Given) -> Outcome {
    let session = given.session()?;
    let soon = given.after(TOUCH_DUE - MILLI);
    let answer = merge_with_touch(given, &session, &set("coat", "red")?, soon)?;
    done(answer, "a merge with a touch")?;
    let stored = given.live(&session.key, soon, "a merged session")?.record;
    ensure!(stored.seen == given.now, "a merge moved the deadline though no touch was due");
    Ok(())
}

pub(super) fn a_merge_with_a_touch_that_is_due_moves_the_time(given: &Given) -> Outcome {
    let session = given.session()?;
    let then = given.after(TOUCH_DUE);
    let answer = merge_with_touch(given, &session, &set("coat", "red")?, then)?;
    let answered = done(answer, "a merge with a touch")?.record;
    let stored = given.live(&session.key, then, "a merged session")?.record;
    ensure!(stored == answered, "a merge with a touch is not stored as it was answered");
    ensure!(stored.seen == then, "a merge did not record the touch that was due");
    done(given.merge(&session.key, &set("coat", "green")?, then + TOUCH_DUE)?, "a merge")?;
    let stored = given.live(&session.key, then, "a merged session")?.record;
    ensure!(stored.seen == then, "a merge without a touch moved the deadline");
    Ok(())
}

pub(super) fn an_unchanged_merge_records_a_due_touch_only(given: &Given) -> Outcome {
    for (then, seen) in [
        (given.after(TOUCH_DUE - MILLI), given.now),
        (given.after(TOUCH_DUE), given.after(TOUCH_DUE)),
    ] {
        let session = given.session()?;
        let answer = merge_with_touch(given, &session, &nothing(), then)?;
        answered(&answer, "Unchanged", "a merge of nothing with a touch")?;
        let stored = given.live(&session.key, then, "a touched session")?.record;
        ensure!(stored.seen == seen, "a merge of nothing did not record exactly the touch due");
        let expected = Record { seen, ..session.record };
        ensure!(stored == expected, "a merge of nothing with a touch changed more than a time");
        if let Committed::Unchanged { record, .. } = answer {
            ensure!(record == stored, "Unchanged did not come with the session as it is stored");
        }
    }
    Ok(())
}
