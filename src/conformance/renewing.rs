//! A renewal moves a session to a new key and changes nothing else of it.

use crate::clock::Timestamp;
use crate::conformance::given::{
    ABSOLUTE, Given, IDLE, MILLI, Outcome, SECOND, Session, TOUCH_DUE, answered, done, ensure,
    holds, key, nothing, set, user,
};
use crate::error::ErrorKind;
use crate::id::{Realm, SessionKey};
use crate::record::{Record, Touch};
use crate::store::{Commit, Committed, Fate, Loaded, ReplacedId, Which};

pub(super) fn a_renewal_changes_the_key_and_nothing_else(given: &Given) -> Outcome {
    let owner = user("u")?;
    let session = given.session_of(&owner, given.now)?;
    done(given.merge(&session.key, &set("coat", "blue")?, given.now)?, "a merge")?;
    let before = given.live(&session.key, given.now, "a new session")?.record;
    let then = given.after(SECOND);
    let (to, answer) = given.renew(&session.key, None, then)?;
    let renewed = done(answer, "a renewal")?;
    ensure!(renewed.key == to, "a renewal was answered with another key than the new one");
    ensure!(renewed.ended == [session.key], "a renewal did not name the key that it ended");
    ensure!(renewed.record.handle == before.handle, "a renewal lost the handle");
    ensure!(renewed.record.data == before.data, "a renewal lost data");
    let expected = Record { revision: before.revision + 1, id_issued: then, ..before };
    ensure!(
        renewed.record == expected,
        "a renewal changed more than the key, its time and the revision"
    );
    given.is_intact(&Session { key: to, record: expected }, "a renewal")
}

pub(super) fn a_renewal_carries_its_change_along(given: &Given) -> Outcome {
    let (session, to) = (given.session()?, key()?);
    let then = given.after(TOUCH_DUE);
    let (fate, delta) =
        (Fate::Renew { to: &to, realm: &Realm::default(), grace_until: None }, set("coat", "red")?);
    let renewal = Commit::new(&session.key, fate, &delta, then);
    let answer = given.store.commit(&Commit { touch: Some(Touch::at(then)), ..renewal })?;
    let renewed = done(answer, "a renewal with a change")?.record;
    ensure!(holds(&renewed, "coat", "red")?, "a renewal lost the change that came with it");
    ensure!(renewed.seen == then, "a renewal did not record the touch that was due");
    given.is_intact(&Session { key: to, record: renewed }, "a renewal with a change")
}

pub(super) fn a_renewal_does_not_move_the_absolute_deadline(given: &Given) -> Outcome {
    let session = given.session()?;
    let mut key = session.key;
    let mut now = given.now;
    while now + IDLE / 2 < given.after(ABSOLUTE) {
        now = now + IDLE / 2;
        given.touch(&key, now, now)?;
        let (to, answer) = given.renew(&key, None, now)?;
        let renewed = done(answer, "a renewal of a busy session")?.record;
        ensure!(
            renewed.limits == session.record.limits,
            "a renewal changed the idle limit or moved the absolute deadline"
        );
        ensure!(renewed.created == given.now, "a renewal moved when the session was created");
        key = to;
    }
    given.live(&key, given.after(ABSOLUTE) - MILLI, "before its end a session renewed often")?;
    let late = given.is_live(&key, given.after(ABSOLUTE))?;
    ensure!(!late, "renewals moved the absolute deadline");
    Ok(())
}

/// Demands that `old` finds nothing at `now` and says why, and that `current` is untouched.
fn is_only_remembered(
    given: &Given,
    old: &SessionKey,
    current: &Session,
    now: Timestamp,
) -> Outcome {
    given.is_replaced(old, &current.key, now, "the key from before a renewal")?;
    let through = "through the key from before a renewal";
    let merge = given.merge(old, &set("coat", "red")?, now)?;
    answered(&merge, "Replaced", &format!("a merge {through}"))?;
    let (to, renewal) = given.renew(old, Some(now + SECOND), now)?;
    answered(&renewal, "Replaced", &format!("a renewal {through}"))?;
    given.touch(old, now, now)?;
    given.is_absent(&to, now, "a renewal through a dead key stored something")?;
    given.is_replaced(old, &current.key, now, "the key from before a renewal")?;
    given.is_intact(current, &format!("what came {through}"))
}

pub(super) fn the_key_from_before_a_renewal_is_unknown_after_a_while(given: &Given) -> Outcome {
    for grace in [None, Some(SECOND)] {
        let old = given.session()?;
        let new = given.renewed(&old, grace.map(|grace| given.after(grace)))?;
        let end = given.after(grace.unwrap_or_default() + ReplacedId::REMEMBERED);
        let just_before = given.store.load(&old.key, end - MILLI)?;
        ensure!(
            matches!(just_before, Loaded::Replaced { .. }),
            "a left key was forgotten too early"
        );
        let then = given.store.load(&old.key, end)?;
        ensure!(matches!(then, Loaded::Absent), "a left key was remembered for too long");
        given.live(&new.key, end, "a session whose old key is forgotten")?;
    }
    Ok(())
}

pub(super) fn the_key_from_before_a_renewal_is_answered_replaced(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, None)?;
    is_only_remembered(given, &old.key, &new, given.after(SECOND))
}

pub(super) fn the_key_from_before_works_until_the_end_of_the_grace(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(SECOND * 10)))?;
    let last = given.after(SECOND * 10) - MILLI;
    given.touch(&old.key, last, last)?;
    let found = given.live(&old.key, last, "before the end of the grace the session")?;
    ensure!(found.key == new.key, "a load through the grace does not say the current key");
    ensure!(found.record.seen == last, "a touch through the grace was not recorded");
    let answer = given.merge(&old.key, &set("coat", "red")?, last)?;
    let merged = done(answer, "a merge through the grace")?;
    ensure!(merged.key == new.key, "a merge through the grace does not say the current key");
    ensure!(merged.record.handle == new.handle(), "the grace leads to another session");
    for key in [old.key, new.key] {
        let found = given.live(&key, last, "a session merged through the grace")?;
        ensure!(found.record == merged.record, "a merge through the grace is not stored");
    }
    match given.merge(&old.key, &nothing(), last)? {
        Committed::Unchanged { key, .. } if key == new.key => Ok(()),
        other => answered(&other, "Unchanged with the current key", "a merge of nothing"),
    }
}

pub(super) fn the_key_from_before_does_not_work_at_the_end_of_the_grace(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(SECOND * 10)))?;
    is_only_remembered(given, &old.key, &new, given.after(SECOND * 10))
}

pub(super) fn a_delete_through_the_grace_ends_the_session(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(SECOND)))?;
    match given.delete(&old.key, given.now)? {
        Committed::Deleted { key } => {
            ensure!(key == new.key, "a delete through the grace does not say the current key");
        }
        other => answered(&other, "Deleted", "a delete through the grace")?,
    }
    for key in [old.key, new.key] {
        let back = given.is_live(&key, given.now)?;
        ensure!(!back, "a session deleted through the grace is still found");
    }
    Ok(())
}

pub(super) fn a_renewal_through_the_grace_merges_and_rotates_nothing(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(SECOND)))?;
    let (unused, answer) = given.renew(&old.key, Some(given.after(IDLE)), given.now)?;
    answered(&answer, "Unchanged", "a renewal through the grace without a change")?;
    let (fate, red) = (
        Fate::Renew { to: &unused, realm: &Realm::default(), grace_until: None },
        set("coat", "red")?,
    );
    let answer = given.commit(&old.key, fate, &red, given.now)?;
    let merged = done(answer, "a renewal through the grace")?;
    ensure!(merged.key == new.key, "a renewal through the grace moved the session");
    ensure!(merged.ended.is_empty(), "a renewal through the grace ended a key");
    given.is_absent(&unused, given.now, "a renewal through the grace used its new key")?;
    given.is_intact(&Session { record: merged.record, ..new }, "a renewal through the grace")?;
    let found = given.live(&old.key, given.now, "after a renewal through it the grace")?;
    ensure!(found.key == new.key, "a renewal through the grace changed what the grace leads to");
    let late = given.is_live(&old.key, given.after(SECOND))?;
    ensure!(!late, "a renewal through the grace made it longer");
    Ok(())
}

pub(super) fn each_replaced_key_has_a_grace_of_its_own(given: &Given) -> Outcome {
    let first = given.session()?;
    let second = given.renewed(&first, Some(given.after(SECOND * 10)))?;
    let third = given.renewed(&second, None)?;
    let fourth = given.renewed(&third, Some(given.after(SECOND * 20)))?;
    for key in [first.key, third.key] {
        let found = given.live(&key, given.after(SECOND * 10) - MILLI, "within its grace a key")?;
        ensure!(found.key == fourth.key, "a grace does not lead to where the session moved since");
        let merged = given.merge(&key, &nothing(), given.now)?;
        answered(&merged, "Unchanged", "a merge through a grace from before the last renewal")?;
    }
    given.is_replaced(&second.key, &fourth.key, given.now, "a key replaced without grace")?;
    let then = given.after(SECOND * 10);
    given.is_replaced(&first.key, &fourth.key, then, "a key whose grace is over")?;
    given.live(&third.key, then, "a key whose grace is longer")?;
    given.is_intact(&fourth, "a chain of renewals")
}

pub(super) fn a_merge_leaves_the_grace_as_it_is(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(SECOND * 10)))?;
    let then = given.after(SECOND);
    done(given.merge(&new.key, &set("coat", "red")?, then)?, "a merge after a renewal")?;
    given.touch(&new.key, then, then)?;
    let found = given.live(&old.key, then, "after a merge the key within its grace")?;
    ensure!(found.key == new.key, "a merge changed what the grace leads to");
    given.is_replaced(
        &old.key,
        &new.key,
        given.after(SECOND * 10),
        "after a merge a key past its grace",
    )?;
    Ok(())
}

pub(super) fn a_stale_renewal_moves_nothing(given: &Given) -> Outcome {
    let (session, to, delta) = (given.session()?, key()?, nothing());
    let fate = Fate::Renew { to: &to, realm: &Realm::default(), grace_until: None };
    let renewal = Commit::new(&session.key, fate, &delta, given.now);
    let answer = given.store.commit(&Commit { if_revision: Some(7), ..renewal })?;
    answered(&answer, "Stale", "a renewal at a revision that is not stored")?;
    given.is_absent(&to, given.now, "a stale renewal stored something")?;
    given.is_intact(&session, "a stale renewal")
}

/// Keys that are taken, in every way in which they can be, and the sessions that hold them.
struct Taken {
    keys: Vec<(SessionKey, &'static str)>,
    all: Vec<Session>,
}

fn taken(given: &Given) -> Outcome<Taken> {
    let other = given.session()?;
    let before = given.session()?;
    let after = given.renewed(&before, None)?;
    let within = given.session()?;
    let graced = given.renewed(&within, Some(given.after(IDLE)))?;
    let keys = vec![
        (other.key, "the key of another session"),
        (before.key, "the previous key of a session"),
        (within.key, "a key within its grace"),
    ];
    Ok(Taken { keys, all: vec![other, after, graced] })
}

fn conflicts(given: &Given, commit: &Commit<'_>, all: &[Session], what: &str) -> Outcome {
    given.fails(commit, ErrorKind::Conflict, what)?;
    all.iter().try_for_each(|session| given.is_intact(session, what))
}

pub(super) fn a_taken_key_is_a_conflict_at_creation(given: &Given) -> Outcome {
    let Taken { keys, all } = taken(given)?;
    let (birth, delta) = (given.birth()?, set("coat", "red")?);
    for (key, whose) in keys {
        let create = Commit::new(&key, Fate::Create(&birth), &delta, given.now);
        conflicts(given, &create, &all, &format!("a create under {whose}"))?;
    }
    Ok(())
}

pub(super) fn a_taken_key_is_a_conflict_at_renewal(given: &Given) -> Outcome {
    let Taken { mut keys, mut all } = taken(given)?;
    let previous = given.session()?;
    let session = given.renewed(&previous, None)?;
    keys.push((session.key, "the key that the session has"));
    keys.push((previous.key, "the key that the session had"));
    all.push(session.clone());
    let delta = set("coat", "red")?;
    for (key, whose) in keys {
        let fate = Fate::Renew {
            to: &key,
            realm: &Realm::default(),
            grace_until: Some(given.after(SECOND)),
        };
        let renewal = Commit::new(&session.key, fate, &delta, given.now);
        conflicts(given, &renewal, &all, &format!("a renewal to {whose}"))?;
    }
    given.is_replaced(&previous.key, &session.key, given.now, "after a conflict the old key")?;
    Ok(())
}

pub(super) fn a_taken_key_is_a_conflict_at_sign_in(given: &Given) -> Outcome {
    let Taken { mut keys, mut all } = taken(given)?;
    let session = given.session()?;
    keys.push((session.key, "the key that the session has"));
    all.push(session.clone());
    let others = given.session_of(&user("other")?, given.now)?;
    all.push(others.clone());
    let (owner, birth, delta) = (user("u")?, given.birth()?, nothing());
    for from in [session.key, others.key, key()?] {
        for (key, whose) in &keys {
            let fate = Fate::SignIn { to: key, user: &owner, birth: &birth, join_salt: None };
            let sign_in = Commit::new(&from, fate, &delta, given.now);
            conflicts(given, &sign_in, &all, &format!("a sign-in to {whose}"))?;
        }
    }
    Ok(())
}

pub(super) fn a_revocation_ends_the_grace(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(SECOND * 10)))?;
    given.registry()?.revoke(&Which::Handle(&new.handle()), None, given.now)?;
    let still = given.is_live(&old.key, given.now)?;
    ensure!(!still, "a revoked session is still found through its grace");
    Ok(())
}
