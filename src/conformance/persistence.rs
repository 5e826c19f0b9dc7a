//! Checks that a store keeps what was committed and nothing else, and refuses data that is too
//! large.

use crate::backend::{Action, Commit};
use crate::conformance::fixture::{
    Fixture, Passed, SECOND, Sample, answered, done, ensure, external, holds, id_hash, nothing,
    set, sign_in_to,
};
use crate::data::Value;
use crate::delta::Delta;
use crate::error::ErrorKind;
use crate::id::{Realm, UserKey};
use crate::record::Client;

pub(super) fn an_unknown_id_is_absent(fixture: &Fixture) -> Passed {
    let unknown = id_hash()?;
    fixture.is_absent(&unknown, fixture.now, "an unknown id is not absent")?;
    let answer = fixture.merge(&unknown, &set("coat", "red")?, fixture.now)?;
    answered(&answer, "NotFound", "a merge under an unknown id")?;
    let (to, answer) = fixture.renew(&unknown, None, fixture.now)?;
    answered(&answer, "NotFound", "a renewal of an unknown id")?;
    fixture.touch(&unknown, fixture.now, fixture.now)?;
    for id_hash in [unknown, to] {
        fixture.is_absent(&id_hash, fixture.now, "an unknown id was adopted")?;
    }
    Ok(())
}

pub(super) fn loading_stores_nothing(fixture: &Fixture) -> Passed {
    let unknown = id_hash()?;
    fixture.store.load(&unknown, fixture.now)?;
    fixture.merge(&unknown, &set("coat", "red")?, fixture.now)?;
    let stats = fixture.index()?.stats(fixture.now)?;
    ensure!(stats.live + stats.expired == 0, "an unknown id left rows behind: {stats:?}");
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
    new_session.idp_session_id = Some(external("sid '1'")?);
    new_session.auth_level = u16::MAX;
    let session = fixture.session_from(fixture.now, &new_session)?;
    let record = &session.record;
    ensure!(holds(record, "coat", "blue")?, "a new session does not hold the data of its create");
    ensure!(
        record.public_id == new_session.public_id,
        "a new session does not have the public id of its create"
    );
    ensure!(
        record.created == fixture.now,
        "a new session was not created at the time of the commit"
    );
    ensure!(record.revision == 1, "the first revision is {}, not 1", record.revision);
    ensure!(record.limits == new_session.limits, "a new session has other limits than its create");
    ensure!(
        record.client == new_session.client,
        "a new session has another client than its create"
    );
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
    let merged = done(fixture.merge(&session.id_hash, &delta, fixture.now)?, "a merge")?;
    ensure!(
        merged.record.data == expected.data,
        "a merge returned other data than it should store"
    );
    let stored = fixture.live(&session.id_hash, fixture.now, "a merged session")?.record;
    for (name, value) in expected.data.iter() {
        ensure!(stored.data.get(name) == Some(value), "the value of {name:?} did not survive");
    }
    ensure!(stored.data == expected.data, "the session has names that were never stored");
    Ok(())
}

pub(super) fn a_merge_is_loaded_as_it_was_answered(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let answer = fixture.merge(&session.id_hash, &set("coat", "red")?, fixture.after(SECOND))?;
    let merged = done(answer, "a merge")?;
    ensure!(
        merged.id_hash == session.id_hash,
        "a merge returned another id than the one in the commit"
    );
    ensure!(merged.ended.is_empty(), "a merge ended sessions");
    ensure!(holds(&merged.record, "coat", "red")?, "a merge does not return the new value");
    ensure!(merged.record.created == fixture.now, "a merge changed when the session was created");
    fixture.is_intact(&Sample { record: merged.record, ..session }, "a merge")
}

pub(super) fn a_session_is_one_row_whatever_is_done_to_it(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    for coat in ["red", "green"] {
        done(fixture.merge(&session.id_hash, &set("coat", coat)?, fixture.now)?, "a merge")?;
    }
    let renewed = fixture.renewed(&session, None)?;
    fixture.sign_in(&renewed.id_hash, &UserKey::new("u")?, fixture.now)?;
    let stats = fixture.index()?.stats(fixture.now)?;
    let rows = stats.live + stats.expired;
    ensure!(rows == 1, "merges, a renewal and a sign-in of one session left {rows} rows");
    Ok(())
}

pub(super) fn an_empty_session_exists(fixture: &Fixture) -> Passed {
    let (id_hash, new_session) = (id_hash()?, fixture.new_session()?);
    done(
        fixture.commit(&id_hash, Action::Create(new_session), &nothing(), fixture.now)?,
        "a create",
    )?;
    let stored = fixture.live(&id_hash, fixture.now, "a session without data")?;
    ensure!(stored.record.data.is_empty(), "a session without data was loaded with data");
    Ok(())
}

pub(super) fn a_second_delete_is_no_error(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let other = fixture.session()?;
    answered(&fixture.delete(&session.id_hash, fixture.now)?, "Deleted", "a delete")?;
    fixture.is_absent(&session.id_hash, fixture.now, "a deleted session is not absent")?;
    answered(&fixture.delete(&session.id_hash, fixture.now)?, "NotFound", "a second delete")?;
    fixture.is_intact(&other, "the delete of another session")
}

pub(super) fn the_index_exists_if_capabilities_say_so(fixture: &Fixture) -> Passed {
    match (fixture.store.capabilities().indexed, fixture.store.index().is_some()) {
        (true, false) => {
            ensure!(false, "the capabilities include an index, but the store has none")
        }
        (false, true) => {
            ensure!(false, "the store has an index, but its capabilities do not include one")
        }
        _ => {}
    }
    Ok(())
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

fn limited(commit: Commit, max_bytes: usize) -> Commit {
    Commit { max_bytes, ..commit }
}

pub(super) fn too_large_at_creation_stores_nothing(fixture: &Fixture) -> Passed {
    let (id_hash, new_session, huge) = (id_hash()?, fixture.new_session()?, huge()?);
    let create =
        limited(Commit::new(&id_hash, Action::Create(new_session), huge, fixture.now), MAX_BYTES);
    fixture.fails(&create, ErrorKind::TooLarge, "a create of 10 MB under a limit of 64 KiB")?;
    fixture.is_absent(&id_hash, fixture.now, "a create that was too large stored something")
}

pub(super) fn too_large_leaves_the_old_data_intact(fixture: &Fixture) -> Passed {
    let (session, huge, user) = (fixture.session()?, huge()?, UserKey::new("u")?);
    let (to, new_session) = (id_hash()?, fixture.new_session()?);
    for (action, what) in [
        (Action::Merge, "a merge of 10 MB under a limit of 64 KiB"),
        (Action::Renew { to, realm: Realm::default(), grace_until: None }, "a renewal with 10 MB"),
        (sign_in_to(to, &user, &new_session), "a sign-in with 10 MB"),
    ] {
        let commit =
            limited(Commit::new(&session.id_hash, action, huge.clone(), fixture.now), MAX_BYTES);
        fixture.fails(&commit, ErrorKind::TooLarge, what)?;
        fixture.is_intact(&session, what)?;
        fixture.is_absent(&to, fixture.now, what)?;
    }
    Ok(())
}

pub(super) fn the_limit_itself_is_not_too_large(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let delta = set("hat", "x".repeat(100))?;
    let mut expected = session.record.clone();
    delta.apply(&mut expected);
    let bytes = expected.data.json_len();
    let merge = Commit::new(&session.id_hash, Action::Merge, delta.clone(), fixture.now);
    let what = "a merge to one byte above the limit";
    fixture.fails(&limited(merge.clone(), bytes - 1), ErrorKind::TooLarge, what)?;
    fixture.is_intact(&session, what)?;
    let answer = fixture.store.commit(&limited(merge, bytes))?;
    done(answer, "a merge up to exactly the limit")?;
    Ok(())
}

pub(super) fn a_session_over_a_lowered_limit_may_shrink(fixture: &Fixture) -> Passed {
    let session = fixture.session()?;
    let long = set("hat", "x".repeat(1000))?;
    done(fixture.merge(&session.id_hash, &long, fixture.now)?, "a merge")?;
    let shorter = set("hat", "x".repeat(500))?;
    let merge = limited(Commit::new(&session.id_hash, Action::Merge, shorter, fixture.now), 100);
    done(fixture.store.commit(&merge)?, "a merge that shrinks a session over the limit")?;
    let to = id_hash()?;
    let action = Action::Renew { to, realm: Realm::default(), grace_until: None };
    let same = nothing();
    let renewal = limited(Commit::new(&session.id_hash, action, same, fixture.now), 100);
    done(fixture.store.commit(&renewal)?, "a renewal of a session over the limit")?;
    let grow = limited(Commit::new(&to, Action::Merge, long, fixture.now), 100);
    fixture.fails(&grow, ErrorKind::TooLarge, "a merge that grows a session over the limit")
}
