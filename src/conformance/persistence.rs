//! Checks that a store keeps what was committed and nothing else, and refuses data that is too
//! large.

use crate::backend::{Action, Commit};
use crate::conformance::fixture::*;
use crate::data::Value;
use crate::delta::Delta;
use crate::error::ErrorKind;
use crate::id::SessionIdHash;
use crate::record::{Client, Record};

pub(super) fn an_unknown_id_is_absent(fixture: &Fixture) -> Passed {
    let unknown = id_hash()?;
    fixture.is_absent(&unknown, "an unknown id is not absent")?;
    let answer = fixture.merge(&unknown, &set("coat", "red")?)?;
    answered(&answer, "NotFound", "a merge under an unknown id")?;
    let (to, answer) = fixture.renew(&unknown, None)?;
    answered(&answer, "NotFound", "a renewal of an unknown id")?;
    fixture.touch(&unknown)?;
    fixture.is_absent(&unknown, "an unknown id was adopted")?;
    fixture.is_absent(&to, "an unknown id was adopted")
}

pub(super) fn loading_stores_nothing(fixture: &Fixture) -> Passed {
    let unknown = id_hash()?;
    fixture.store.load(&unknown, fixture.now)?;
    fixture.merge(&unknown, &set("coat", "red")?)?;
    let stats = fixture.index()?.stats(fixture.now)?;
    ensure!(stats.live + stats.expired == 0, "an unknown id left rows behind: {stats:?}")?;
    let session = fixture.session()?;
    for _ in 0..10 {
        fixture.is_intact(&session, "a load")?;
    }
    Ok(())
}

pub(super) fn a_session_is_loaded_as_it_was_created(fixture: &Fixture) -> Passed {
    let mut new_session = fixture.new_session()?;
    new_session.persistent = false;
    new_session.client = Some(Client::new("2001:db8::1".parse().ok(), Some("curl/8 \"quoted\" é")));
    new_session.idp_session_id = Some(idp_session_id("sid '1'")?);
    new_session.auth_level = u16::MAX;
    let session = fixture.session_from(&new_session)?;
    let mut expected = Record::create(&new_session, fixture.now);
    set("coat", "blue")?.apply(&mut expected);
    same_record(&session.record, &expected, "a create")?;
    fixture.is_intact(&session, "a create")
}

pub(super) fn every_name_and_value_survives(fixture: &Fixture) -> Passed {
    let mut delta = Delta::new();
    for name in ["", " ", "plain", "søren", "日本", "a \"b\" \\ '", "\u{1}\n\t", "%_", "$.a[0]"]
    {
        delta.set(name, Value::encode(name)?);
    }
    delta.set("large", Value::encode(&u64::MAX)?);
    delta.set("small", Value::encode(&[i64::MIN])?);
    delta.set("real", Value::encode(&(0.1, 1e300))?);
    delta.set("nothing", Value::encode(&None::<u8>)?);
    delta.set("nul", Value::encode("a\0b")?);
    let session = fixture.session()?;
    let mut expected = session.record.clone();
    delta.apply(&mut expected);
    let merged = done(fixture.merge(&session.id_hash, &delta)?, "a merge")?.record;
    ensure!(merged.data == expected.data, "a merge returned other data than it should store")?;
    let stored = fixture.live(&session.id_hash, "a merged session")?.record;
    for (name, value) in expected.data.iter() {
        ensure!(stored.data.get(name) == Some(value), "the value of {name:?} did not survive")?;
    }
    ensure!(stored.data == expected.data, "the session has names that were never stored")
}

pub(super) fn a_merge_is_loaded_as_it_was_answered(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let answer = fixture.later(SECOND).merge(&session.id_hash, &set("coat", "red")?)?;
    let merged = done(answer, "a merge")?;
    ensure!(merged.id_hash == session.id_hash, "a merge returned another id")?;
    ensure!(merged.ids_to_invalidate.is_empty(), "a merge ended sessions")?;
    ensure!(holds(&merged.record, "coat", "red")?, "a merge does not return the new value")?;
    ensure!(merged.record.created == fixture.now, "a merge changed when the session was created")?;
    fixture.is_intact(&Sample { record: merged.record, ..session }, "a merge")
}

pub(super) fn a_session_is_one_row_whatever_is_done_to_it(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    for coat in ["red", "green"] {
        done(fixture.merge(&session.id_hash, &set("coat", coat)?)?, "a merge")?;
    }
    let renewed = fixture.renewed(&session, None)?;
    fixture.sign_in(&renewed.id_hash, &user("u")?)?;
    let stats = fixture.index()?.stats(fixture.now)?;
    let rows = stats.live + stats.expired;
    ensure!(rows == 1, "merges, a renewal and a sign-in of one session left {rows} rows")
}

pub(super) fn an_empty_session_exists(fixture: &Fixture) -> Passed {
    let id_hash = id_hash()?;
    let new_session = fixture.new_session()?;
    done(fixture.commit(&id_hash, Action::Create(new_session), &nothing())?, "a create")?;
    let stored = fixture.live(&id_hash, "a session without data")?;
    ensure!(stored.record.data.is_empty(), "a session without data was loaded with data")
}

pub(super) fn a_second_ending_is_no_error(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let other = fixture.session()?;
    answered(&fixture.end(&session.id_hash)?, "Ended", "an ending")?;
    fixture.is_absent(&session.id_hash, "an ended session is not absent")?;
    answered(&fixture.end(&session.id_hash)?, "NotFound", "a second ending")?;
    fixture.is_intact(&other, "the ending of another session")
}

pub(super) fn maintenance_changes_no_session(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    if let Some(maintenance) = fixture.store.maintenance() {
        maintenance.on_due(Box::new(|| {}));
        maintenance.run()?;
    }
    fixture.is_intact(&session, "maintenance")
}

const MAX_BYTES: usize = 64 * 1024;

/// Returns a delta of 10 MB, far above the limit.
fn huge() -> Passed<Delta> {
    set("huge", "x".repeat(10_000_000))
}

/// Returns a commit on the session with a limit of its data.
fn limited(
    fixture: &Fixture,
    id_hash: &SessionIdHash,
    action: Action,
    delta: &Delta,
    max_bytes: usize,
) -> Commit {
    Commit { max_bytes, ..Commit::new(id_hash, action, delta.clone(), fixture.now) }
}

pub(super) fn too_large_at_creation_stores_nothing(fixture: &Fixture) -> Passed {
    let id_hash = id_hash()?;
    let create = Action::Create(fixture.new_session()?);
    let create = limited(fixture, &id_hash, create, &huge()?, MAX_BYTES);
    fixture.fails(&create, ErrorKind::TooLarge, "a create of 10 MB under a limit of 64 KiB")?;
    fixture.is_absent(&id_hash, "a create that was too large stored something")
}

pub(super) fn too_large_leaves_the_old_data_intact(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let huge = huge()?;
    let to = id_hash()?;
    for (action, what) in [
        (Action::Merge, "a merge of 10 MB under a limit of 64 KiB"),
        (renew_to(to, None), "a renewal with 10 MB"),
        (sign_in_to(to, &user("u")?, &fixture.new_session()?), "a sign-in with 10 MB"),
    ] {
        let commit = limited(fixture, &session.id_hash, action, &huge, MAX_BYTES);
        fixture.fails(&commit, ErrorKind::TooLarge, what)?;
        fixture.is_intact(&session, what)?;
        fixture.is_absent(&to, what)?;
    }
    Ok(())
}

pub(super) fn the_limit_itself_is_not_too_large(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let delta = set("hat", "x".repeat(100))?;
    let mut expected = session.record.clone();
    delta.apply(&mut expected);
    let bytes = expected.data.json_len();
    let merge = |max| limited(fixture, &session.id_hash, Action::Merge, &delta, max);
    let what = "a merge to one byte above the limit";
    fixture.fails(&merge(bytes - 1), ErrorKind::TooLarge, what)?;
    fixture.is_intact(&session, what)?;
    let answer = fixture.store.commit(&merge(bytes))?;
    answered(&answer, "Done", "a merge up to exactly the limit")
}

pub(super) fn a_session_over_a_lowered_limit_may_shrink(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let long = set("hat", "x".repeat(1000))?;
    done(fixture.merge(&session.id_hash, &long)?, "a merge")?;
    let shorter = set("hat", "x".repeat(500))?;
    let merge = limited(fixture, &session.id_hash, Action::Merge, &shorter, 100);
    done(fixture.store.commit(&merge)?, "a merge that shrinks a session over the limit")?;
    let to = id_hash()?;
    let renewal = limited(fixture, &session.id_hash, renew_to(to, None), &nothing(), 100);
    done(fixture.store.commit(&renewal)?, "a renewal of a session over the limit")?;
    let grow = limited(fixture, &to, Action::Merge, &long, 100);
    fixture.fails(&grow, ErrorKind::TooLarge, "a merge that grows a session over the limit")
}
