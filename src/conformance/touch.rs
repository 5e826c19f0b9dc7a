//! Checks that a touch records activity and changes nothing else of the session.

use crate::conformance::fixture::*;
use crate::error::Error;
use crate::record::{Record, Touch};

pub(super) fn a_touch_changes_neither_data_nor_revision(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let later = fixture.later(SECOND);
    later.touch(&session.id_hash)?;
    let touched = later.live(&session.id_hash, "a touched session")?.record;
    same_record(&touched, &Record { seen: later.now, ..session.record }, "a load after a touch")
}

pub(super) fn a_touch_does_not_undo_what_was_written_since_the_read(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    fixture.live(&session.id_hash, "a new session")?;
    done(fixture.merge(&session.id_hash, &set("coat", "red")?)?, "a merge")?;
    let later = fixture.later(SECOND);
    later.touch(&session.id_hash)?;
    let record = later.live(&session.id_hash, "a touched session")?.record;
    ensure!(holds(&record, "coat", "red")?, "a touch undid the write of another request")
}

pub(super) fn a_touch_never_moves_time_back(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let later = fixture.later(SECOND * 10);
    later.touch(&session.id_hash)?;
    later.touch_at(&session.id_hash, later.now - SECOND)?;
    let seen = later.live(&session.id_hash, "a touched session")?.record.seen;
    ensure!(seen == later.now, "a late touch moved the time back")
}

pub(super) fn a_batch_touches_those_that_live(fixture: &Fixture) -> Passed {
    let ended = fixture.session()?;
    let one = fixture.session()?;
    let two = fixture.session()?;
    fixture.end(&ended.id_hash)?;
    let soon = fixture.after(SECOND);
    let later = fixture.after(SECOND * 2);
    let batch = [
        (id_hash()?, Touch::at(soon)),
        (one.id_hash, Touch::at(later)),
        (ended.id_hash, Touch::at(soon)),
        (two.id_hash, Touch::at(soon)),
        (one.id_hash, Touch::at(soon)),
    ];
    fixture.store.touch(&batch, later).map_err(Error::from)?;
    fixture.store.touch(&[], later).map_err(Error::from)?;
    for (session, seen) in [(one, later), (two, soon)] {
        let stored = fixture.at(later).live(&session.id_hash, "a session of a batch")?.record.seen;
        ensure!(stored == seen, "a batch did not record the latest activity of each session")?;
    }
    fixture.at(later).is_absent(&ended.id_hash, "a batch brought an ended session back")
}

pub(super) fn a_merge_with_a_touch_that_is_not_due_leaves_the_time(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let soon = fixture.later(TOUCH_DUE - MILLI);
    let answer = soon.merge_and_touch(&session.id_hash, &set("coat", "red")?)?;
    done(answer, "a merge with a touch")?;
    let stored = soon.live(&session.id_hash, "a merged session")?.record;
    ensure!(stored.seen == fixture.now, "a merge moved the deadline though no touch was due")
}

pub(super) fn a_merge_with_a_touch_that_is_due_moves_the_time(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let later = fixture.later(TOUCH_DUE);
    let answer = later.merge_and_touch(&session.id_hash, &set("coat", "red")?)?;
    let answered = done(answer, "a merge with a touch")?.record;
    let stored = later.live(&session.id_hash, "a merged session")?.record;
    ensure!(stored == answered, "a merge with a touch is not stored as it was returned")?;
    ensure!(stored.seen == later.now, "a merge did not record the touch that was due")?;
    let much_later = later.later(TOUCH_DUE);
    done(much_later.merge(&session.id_hash, &set("coat", "green")?)?, "a merge")?;
    let stored = later.live(&session.id_hash, "a merged session")?.record;
    ensure!(stored.seen == later.now, "a merge without a touch moved the deadline")
}

pub(super) fn an_unchanged_merge_records_a_due_touch_only(fixture: &Fixture) -> Passed {
    for (then, seen) in [
        (fixture.after(TOUCH_DUE - MILLI), fixture.now),
        (fixture.after(TOUCH_DUE), fixture.after(TOUCH_DUE)),
    ] {
        let session = fixture.session()?;
        let answer = fixture.at(then).merge_and_touch(&session.id_hash, &nothing())?;
        let stored = fixture.at(then).live(&session.id_hash, "a touched session")?;
        let what = "a merge of an empty delta with a touch";
        same_record(&stored.record, &Record { seen, ..session.record }, what)?;
        returned(&answer, "Unchanged", &stored, what)?;
    }
    Ok(())
}
