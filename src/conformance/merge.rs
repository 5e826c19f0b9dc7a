//! Checks that a delta is merged into the session as it is stored at the commit.

use crate::backend::{Action, Commit, CommitAnswer, Expected};
use crate::clock::Timestamp;
use crate::conformance::fixture::*;
use crate::data::Value;
use crate::delta::Delta;

pub(super) fn two_requests_on_different_names_both_keep_their_change(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    // Both have read the session before either commits.
    fixture.live(&session.id_hash, "a new session")?;
    fixture.live(&session.id_hash, "a new session")?;
    done(fixture.merge(&session.id_hash, &set("hat", 1)?)?, "a merge")?;
    done(fixture.merge(&session.id_hash, &set("scarf", 2)?)?, "a merge")?;
    let record = fixture.live(&session.id_hash, "a merged session")?.record;
    for (name, value) in [("hat", 1), ("scarf", 2)] {
        ensure!(holds(&record, name, value)?, "of two merges on different names one was lost")?;
    }
    ensure!(holds(&record, "coat", "blue")?, "a merge lost a name that it does not mention")
}

pub(super) fn on_the_same_name_the_later_commit_wins(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    for coat in ["red", "green"] {
        done(fixture.merge(&session.id_hash, &set("coat", coat)?)?, "a merge")?;
    }
    let record = fixture.live(&session.id_hash, "a merged session")?.record;
    ensure!(holds(&record, "coat", "green")?, "of two merges on one name the earlier one won")
}

pub(super) fn writing_the_stored_value_is_no_change(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let mut absent = Delta::new();
    absent.remove("hat");
    for (delta, what) in [
        (set("coat", "blue")?, "a merge of the stored value"),
        (absent, "a merge that removes a name that is not stored"),
        (nothing(), "a merge of an empty delta"),
    ] {
        returned(&fixture.merge(&session.id_hash, &delta)?, "Unchanged", &session, what)?;
        fixture.is_intact(&session, what)?;
    }
    Ok(())
}

pub(super) fn a_clear_removes_what_it_does_not_set(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    done(fixture.merge(&session.id_hash, &set("hat", 1)?)?, "a merge")?;
    let mut delta = Delta::new();
    delta.clear();
    delta.set("scarf", Value::encode(&2)?);
    done(fixture.merge(&session.id_hash, &delta)?, "a merge that clears")?;
    let record = fixture.live(&session.id_hash, "a cleared session")?.record;
    ensure!(record.data.len() == 1, "a clear left {} names, not 1", record.data.len())?;
    ensure!(holds(&record, "scarf", 2)?, "a clear removed what was set after it")
}

pub(super) fn a_condition_on_the_revision_holds(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let merge = |coat: &str, revision| -> Passed<CommitAnswer> {
        let delta = set("coat", coat)?;
        let commit = Commit::new(&session.id_hash, Action::Merge, delta, fixture.now);
        Ok(fixture.store.commit(&Commit { expected: Expected::Revision(revision), ..commit })?)
    };
    let seen = session.record.revision;
    let merged = done(merge("red", seen)?, "a merge at the revision it saw")?;
    let current = Sample { record: merged.record, id_hash: merged.id_hash };
    for revision in [seen, current.record.revision + 1, 0] {
        let what = "a merge at a revision that is not stored";
        returned(&merge("green", revision)?, "RevisionMismatch", &current, what)?;
    }
    fixture.is_intact(&current, "a stale merge")
}

pub(super) fn a_merge_into_the_session_as_loaded_is_stored(fixture: &Fixture) -> Passed {
    let mut session = fixture.session()?;
    for n in 0..5 {
        let mut wanted = session.record.clone();
        set("n", n)?.apply(&mut wanted);
        wanted.revision += 1;
        let merged = done(fixture.merge_loaded(&session, &set("n", n)?)?, "a merge")?;
        ensure!(
            merged.record == wanted,
            "a merge into the session as loaded changed other fields"
        )?;
        ensure!(merged.id_hash == session.id_hash, "a merge returned another id")?;
        session = Sample { record: merged.record, id_hash: merged.id_hash };
        fixture.is_intact(&session, "a merge into the session as loaded")?;
        returned(
            &fixture.merge_loaded(&session, &set("n", n)?)?,
            "Unchanged",
            &session,
            "it again",
        )?;
    }
    Ok(())
}

pub(super) fn a_merge_keeps_what_changed_since_the_load(fixture: &Fixture) -> Passed {
    let loaded = fixture.session()?;
    done(fixture.merge(&loaded.id_hash, &set("hat", 1)?)?, "a merge")?;
    done(fixture.merge_loaded(&loaded, &set("scarf", 2)?)?, "a merge after a load")?;
    let record = fixture.live(&loaded.id_hash, "a merged session")?.record;
    let both = holds(&record, "hat", 1)? && holds(&record, "scarf", 2)?;
    ensure!(both, "a merge lost what had changed since its request loaded the session")?;
    let revision = loaded.record.revision + 2;
    ensure!(record.revision == revision, "two merges raised the revision by one")
}

pub(super) fn a_merge_keeps_activity_since_the_load(fixture: &Fixture) -> Passed {
    let loaded = fixture.session()?;
    let later = fixture.later(IDLE / 2);
    later.touch(&loaded.id_hash)?;
    let touched = later.live(&loaded.id_hash, "a touched session")?.record;
    let merged = done(fixture.merge_loaded(&loaded, &set("hat", 1)?)?, "a merge after a load")?;
    ensure!(merged.record.seen == touched.seen, "a merge returned an earlier activity")?;
    let stored = later.live(&loaded.id_hash, "a merged session")?.record;
    ensure!(stored == merged.record, "a merge moved the activity back")
}

pub(super) fn the_revision_grows_by_one_with_each_change(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    for revision in 2..10 {
        let merged = done(fixture.merge(&session.id_hash, &set("n", revision)?)?, "a merge")?;
        let answered = merged.record.revision;
        ensure!(answered == revision, "revision {answered} follows revision {}", revision - 1)?;
        fixture.merge(&session.id_hash, &nothing())?;
    }
    let before = fixture.live(&session.id_hash, "a merged session")?;
    let renewed = fixture.renewed(&before, None)?.record.revision;
    let wanted = before.record.revision + 1;
    ensure!(renewed == wanted, "a renewal gave revision {renewed}, not {wanted}")
}

/// Compares the effects of deltas with those of [`Delta::apply`]. A store that keeps names or times
/// in another form must have the same effect.
pub(super) fn many_deltas_do_what_they_do_to_a_record(fixture: &Fixture) -> Passed {
    let session = fixture.session_of(&user("u")?)?;
    let mut model = session.record.clone();
    let mut random = PseudoRandom(4);
    for step in 0..300 {
        let delta = random_delta(&mut random)?;
        let before = model.clone();
        let changed = delta.apply(&mut model);
        model.revision += u64::from(changed);
        let answer = fixture.merge(&session.id_hash, &delta)?;
        let wanted = if changed { "Done" } else { "Unchanged" };
        answered(&answer, wanted, &format!("delta {step} of a random sequence"))?;
        let stored = fixture.live(&session.id_hash, "a merged session")?.record;
        ensure!(stored == model, "delta {step}, {delta:?}, on {before:?} gave {stored:?}")?;
    }
    Ok(())
}

fn random_delta(random: &mut PseudoRandom) -> Passed<Delta> {
    let mut delta = Delta::new();
    for _ in 0..=random.below(3) {
        let name = ["coat", "hat", "", "é \"'"].get(random.below(4)).copied().unwrap_or_default();
        match random.below(10) {
            0..=4 => delta.set(name, Value::encode(&random.below(3))?),
            5..=7 => delta.remove(name),
            8 => delta.clear(),
            _ => {
                let level = u16::try_from(random.below(3)).unwrap_or_default();
                delta.confirm_authentication(Timestamp::from_millis(level.into()), level);
            }
        }
    }
    Ok(delta)
}
