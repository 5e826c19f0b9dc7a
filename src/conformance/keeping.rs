//! A store keeps what it is given, and nothing else; what it cannot keep it refuses.

use crate::conformance::given::{
    Given, Outcome, SECOND, Session, answered, done, ensure, external, holds, key, nothing, set,
};
use crate::data::Value;
use crate::delta::Delta;
use crate::error::ErrorKind;
use crate::id::{Realm, UserKey};
use crate::record::Client;
use crate::store::{Commit, Fate};

pub(super) fn an_unknown_key_is_absent(given: &Given) -> Outcome {
    let unknown = key()?;
    given.is_absent(&unknown, given.now, "an unknown key is not absent")?;
    let answer = given.merge(&unknown, &set("coat", "red")?, given.now)?;
    answered(&answer, "Gone", "a merge under an unknown key")?;
    let (to, answer) = given.renew(&unknown, None, given.now)?;
    answered(&answer, "Gone", "a renewal of an unknown key")?;
    given.touch(&unknown, given.now, given.now)?;
    for key in [unknown, to] {
        given.is_absent(&key, given.now, "an unknown key was adopted")?;
    }
    Ok(())
}

pub(super) fn loading_stores_nothing(given: &Given) -> Outcome {
    let unknown = key()?;
    given.store.load(&unknown, given.now)?;
    given.merge(&unknown, &set("coat", "red")?, given.now)?;
    let stats = given.registry()?.stats(given.now)?;
    ensure!(stats.live + stats.expired == 0, "an unknown key left rows behind: {stats:?}");
    let session = given.session()?;
    for _ in 0..10 {
        given.is_intact(&session, "a load")?;
    }
    Ok(())
}

pub(super) fn a_session_is_loaded_as_it_was_created(given: &Given) -> Outcome {
    let mut birth = given.birth()?;
    birth.persistent = false;
    birth.client = Some(Client::new("2001:db8::1".parse().ok(), Some("curl/8 \"quoted\" é")));
    birth.external_key = Some(external("sid '1'")?);
    birth.auth_level = u16::MAX;
    let session = given.session_from(given.now, &birth)?;
    let record = &session.record;
    ensure!(holds(record, "coat", "blue")?, "a new session does not hold the data of its creation");
    ensure!(record.handle == birth.handle, "a new session does not have the handle it was given");
    ensure!(record.created == given.now, "a new session was not created at the time of the commit");
    ensure!(record.revision == 1, "the first revision is {}, not 1", record.revision);
    ensure!(record.limits == birth.limits, "a new session has other limits than it was given");
    ensure!(record.client == birth.client, "a new session has another client than it was given");
    given.is_intact(&session, "a create")
}

pub(super) fn every_name_and_value_survives(given: &Given) -> Outcome {
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
    let session = given.session()?;
    let mut expected = session.record.clone();
    delta.apply(&mut expected);
    let merged = done(given.merge(&session.key, &delta, given.now)?, "a merge")?;
    ensure!(merged.record.data == expected.data, "a merge answered with other data than it stored");
    let stored = given.live(&session.key, given.now, "a merged session")?.record;
    for (name, value) in expected.data.iter() {
        ensure!(stored.data.get(name) == Some(value), "the value of {name:?} did not survive");
    }
    ensure!(stored.data == expected.data, "there are names that were never stored");
    Ok(())
}

pub(super) fn a_merge_is_loaded_as_it_was_answered(given: &Given) -> Outcome {
    let session = given.session()?;
    let answer = given.merge(&session.key, &set("coat", "red")?, given.after(SECOND))?;
    let merged = done(answer, "a merge")?;
    ensure!(merged.key == session.key, "a merge was answered with another key than its own");
    ensure!(merged.ended.is_empty(), "a merge ended sessions");
    ensure!(holds(&merged.record, "coat", "red")?, "a merge does not answer with the new value");
    ensure!(merged.record.created == given.now, "a merge changed when the session was created");
    given.is_intact(&Session { record: merged.record, ..session }, "a merge")
}

pub(super) fn a_session_is_one_row_whatever_is_done_to_it(given: &Given) -> Outcome {
    let session = given.session()?;
    for coat in ["red", "green"] {
        done(given.merge(&session.key, &set("coat", coat)?, given.now)?, "a merge")?;
    }
    let renewed = given.renewed(&session, None)?;
    given.sign_in(&renewed.key, &UserKey::new("u")?, given.now)?;
    let stats = given.registry()?.stats(given.now)?;
    let rows = stats.live + stats.expired;
    ensure!(rows == 1, "merges, a renewal and a sign-in of one session left {rows} rows");
    Ok(())
}

pub(super) fn an_empty_session_exists(given: &Given) -> Outcome {
    let (key, birth) = (key()?, given.birth()?);
    done(given.commit(&key, Fate::Create(&birth), &nothing(), given.now)?, "a create")?;
    let stored = given.live(&key, given.now, "a session without data")?;
    ensure!(stored.record.data.is_empty(), "a session without data was loaded with some");
    Ok(())
}

pub(super) fn a_second_delete_is_no_error(given: &Given) -> Outcome {
    let session = given.session()?;
    let other = given.session()?;
    answered(&given.delete(&session.key, given.now)?, "Deleted", "a delete")?;
    given.is_absent(&session.key, given.now, "a deleted session is not absent")?;
    answered(&given.delete(&session.key, given.now)?, "Gone", "a second delete")?;
    given.is_intact(&other, "the delete of another session")
}

pub(super) fn a_store_lists_if_it_says_so(given: &Given) -> Outcome {
    match (given.store.traits().lists, given.store.registry().is_some()) {
        (true, false) => ensure!(false, "the traits promise a list, but there is no registry"),
        (false, true) => ensure!(false, "there is a registry, but the traits promise no list"),
        _ => {}
    }
    Ok(())
}

pub(super) fn the_regular_work_disturbs_no_session(given: &Given) -> Outcome {
    let session = given.session()?;
    if let Some(upkeep) = given.store.upkeep() {
        upkeep.ring_when_due(Box::new(|| {}));
        upkeep.run()?;
    }
    given.is_intact(&session, "the regular work")
}

const MAX_BYTES: usize = 64 * 1024;

/// 10 MB, far above the limit.
fn huge() -> Outcome<Delta> {
    set("huge", "x".repeat(10_000_000))
}

fn limited<'a>(commit: Commit<'a>, max_bytes: usize) -> Commit<'a> {
    Commit { max_bytes, ..commit }
}

pub(super) fn too_large_at_creation_stores_nothing(given: &Given) -> Outcome {
    let (key, birth, huge) = (key()?, given.birth()?, huge()?);
    let create = limited(Commit::new(&key, Fate::Create(&birth), &huge, given.now), MAX_BYTES);
    given.fails(&create, ErrorKind::TooLarge, "a create of 10 MB where 64 KiB are allowed")?;
    given.is_absent(&key, given.now, "a create that was too large stored something")
}

pub(super) fn too_large_leaves_the_old_data_intact(given: &Given) -> Outcome {
    let (session, huge, user) = (given.session()?, huge()?, UserKey::new("u")?);
    let (to, birth) = (key()?, given.birth()?);
    for (fate, what) in [
        (Fate::Merge, "a merge of 10 MB where 64 KiB are allowed"),
        (
            Fate::Renew { to: &to, realm: &Realm::default(), grace_until: None },
            "a renewal with 10 MB",
        ),
        (
            Fate::SignIn { to: &to, user: &user, birth: &birth, join_salt: None },
            "a sign-in with 10 MB",
        ),
    ] {
        let commit = limited(Commit::new(&session.key, fate, &huge, given.now), MAX_BYTES);
        given.fails(&commit, ErrorKind::TooLarge, what)?;
        given.is_intact(&session, what)?;
        given.is_absent(&to, given.now, what)?;
    }
    Ok(())
}

pub(super) fn the_limit_itself_is_not_too_large(given: &Given) -> Outcome {
    let session = given.session()?;
    let delta = set("hat", "x".repeat(100))?;
    let mut expected = session.record.clone();
    delta.apply(&mut expected);
    let bytes = expected.data.json_len();
    let merge = Commit::new(&session.key, Fate::Merge, &delta, given.now);
    let what = "a merge of one byte too many";
    given.fails(&limited(merge, bytes - 1), ErrorKind::TooLarge, what)?;
    given.is_intact(&session, what)?;
    let answer = given.store.commit(&limited(merge, bytes))?;
    done(answer, "a merge of exactly the bytes that are allowed")?;
    Ok(())
}

pub(super) fn a_session_over_a_lowered_limit_may_shrink(given: &Given) -> Outcome {
    let session = given.session()?;
    let long = set("hat", "x".repeat(1000))?;
    done(given.merge(&session.key, &long, given.now)?, "a merge")?;
    let shorter = set("hat", "x".repeat(500))?;
    let merge = limited(Commit::new(&session.key, Fate::Merge, &shorter, given.now), 100);
    done(given.store.commit(&merge)?, "a merge that shrinks a session over the limit")?;
    let to = key()?;
    let fate = Fate::Renew { to: &to, realm: &Realm::default(), grace_until: None };
    let same = nothing();
    let renewal = limited(Commit::new(&session.key, fate, &same, given.now), 100);
    done(given.store.commit(&renewal)?, "a renewal of a session over the limit")?;
    let grow = limited(Commit::new(&to, Fate::Merge, &long, given.now), 100);
    given.fails(&grow, ErrorKind::TooLarge, "a merge that grows a session over the limit")
}
