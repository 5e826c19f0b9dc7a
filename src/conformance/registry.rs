//! Lists, revocations and counts, by exact names.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use crate::conformance::given::{
    ALL, Given, IDLE, Outcome, SECOND, Session, answered, done, ensure, external, set, user,
};
use crate::delta::Delta;
use crate::id::Handle;
use crate::lifetime::Lifetime;
use crate::record::{Client, Stats, Summary};
use crate::store::{Page, Which};

fn list(given: &Given, which: &Which<'_>) -> Outcome<Vec<Summary>> {
    Ok(given.registry()?.list(which, Page::first(ALL), given.now)?)
}

fn handles(summaries: &[Summary]) -> Vec<Handle> {
    summaries.iter().map(|summary| summary.handle).collect()
}

/// Revokes, and demands that the answer is exactly the keys of these sessions.
fn revokes(
    given: &Given,
    which: &Which<'_>,
    except: Option<&Handle>,
    sessions: &[&Session],
) -> Outcome {
    let revoked = given.registry()?.revoke(which, except, given.now)?;
    let wanted: BTreeSet<_> = sessions.iter().map(|session| session.key).collect();
    let exact = revoked.len() == wanted.len() && revoked.iter().all(|key| wanted.contains(key));
    ensure!(exact, "a revocation of {which:?} gave {revoked:?}, not {wanted:?}");
    for key in &wanted {
        given.is_absent(key, given.now, "a revoked session is not absent")?;
    }
    Ok(())
}

/// As many sessions, each begun a second after the one before.
fn sessions(given: &Given, count: u32) -> Outcome<Vec<Session>> {
    let birth = || given.birth();
    (0..count).map(|n| given.session_from(given.after(SECOND * n), &birth()?)).collect()
}

pub(super) fn the_newest_session_is_listed_first(given: &Given) -> Outcome {
    let sessions = sessions(given, 5)?;
    // What happens later to an old session does not make it a new one.
    if let Some(oldest) = sessions.first() {
        done(given.merge(&oldest.key, &set("coat", "red")?, given.now)?, "a merge")?;
        given.touch(&oldest.key, given.after(SECOND * 9), given.after(SECOND * 9))?;
    }
    let newest_first: Vec<_> = sessions.iter().rev().map(Session::handle).collect();
    let listed = handles(&list(given, &Which::All)?);
    ensure!(listed == newest_first, "the list does not go from the newest to the oldest");
    Ok(())
}

pub(super) fn pages_have_no_gaps_and_no_repeats(given: &Given) -> Outcome {
    let sessions = sessions(given, 7)?;
    let all: Vec<_> = sessions.iter().rev().map(Session::handle).collect();
    let registry = given.registry()?;
    let three = NonZeroUsize::MIN.saturating_add(2);
    let (mut listed, mut sizes, mut page) = (Vec::new(), Vec::new(), Page::first(three));
    loop {
        let summaries = registry.list(&Which::All, page, given.now)?;
        sizes.push(summaries.len());
        listed.extend(handles(&summaries));
        let Some(last) = summaries.last() else { break };
        ensure!(sizes.len() < 10, "the pages of a list have no end");
        page = Page::after(three, last.cursor);
        // Who comes while the pages are turned stands before the first one.
        given.session()?;
    }
    ensure!(listed == all, "pages of 3 of 7 sessions have gaps or repeats: {sizes:?}");
    ensure!(sizes == [3, 3, 1, 0], "pages of 3 of 7 sessions had {sizes:?}");
    Ok(())
}

pub(super) fn a_summary_says_what_the_record_says(given: &Given) -> Outcome {
    let mut birth = given.birth()?;
    birth.client = Some(Client::new("::1".parse().ok(), Some("curl")));
    birth.external_key = Some(external("sid-1")?);
    birth.auth_level = 3;
    birth.persistent = false;
    let begun = given.session_from(given.now, &birth)?;
    let then = given.after(SECOND);
    given.touch(&begun.key, then, then)?;
    let signed_in = given.session_of(&user("u")?, given.now)?;
    for session in [begun, signed_in] {
        let record = given.live(&session.key, then, "a new session")?.record;
        let listed = list(given, &Which::Handle(&record.handle))?;
        let cursor = listed.first().map(|summary| summary.cursor);
        let wanted = cursor.map(|cursor| Summary::of(&record, cursor));
        ensure!(listed.first() == wanted.as_ref(), "a list says {listed:?} of {record:?}");
        ensure!(listed.len() == 1, "a handle is listed {} times", listed.len());
    }
    Ok(())
}

/// Names that a careless comparison takes for one another, or for a pattern.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "u",
        "u1",
        "U",
        "u ",
        " u",
        "u%",
        "%",
        "_",
        "u_",
        "*",
        "?",
        "'",
        "\"",
        "u' OR 'u'='u",
        "\\",
        "ü",
        "u\u{308}",
        "Ü",
        "u\n",
        "1",
        "01",
        "1.0",
    ]
    .map(String::from)
    .into();
    names.extend(["x".repeat(254), "x".repeat(255)]);
    names
}

pub(super) fn names_of_users_match_exactly(given: &Given) -> Outcome {
    let mut sessions = Vec::new();
    for name in names() {
        let owner = user(&name)?;
        sessions.push((given.session_of(&owner, given.now)?, owner));
    }
    for (session, owner) in &sessions {
        let listed = handles(&list(given, &Which::User(owner))?);
        ensure!(
            listed == [session.handle()],
            "the list of the user {owner:?} has {} sessions, of which some are other users'",
            listed.len()
        );
    }
    for (at, (session, owner)) in sessions.iter().enumerate() {
        revokes(given, &Which::User(owner), None, &[session])?;
        let left = list(given, &Which::All)?.len();
        ensure!(left + at + 1 == sessions.len(), "a revocation ended another user's session");
    }
    Ok(())
}

pub(super) fn names_of_the_identity_provider_match_exactly(given: &Given) -> Outcome {
    let mut sessions = Vec::new();
    for name in names() {
        let mut birth = given.birth()?;
        birth.external_key = Some(external(&name)?);
        sessions.push((given.session_from(given.now, &birth)?, external(&name)?));
    }
    given.session()?;
    for (session, name) in &sessions {
        let listed = handles(&list(given, &Which::External(name))?);
        ensure!(listed == [session.handle()], "the external key {name:?} lists {}", listed.len());
        revokes(given, &Which::External(name), None, &[session])?;
    }
    let left = list(given, &Which::All)?.len();
    ensure!(left == 1, "after all with an external key were revoked, {left} are left, not 1");
    Ok(())
}

pub(super) fn the_list_follows_the_user_of_a_session(given: &Given) -> Outcome {
    let session = given.session()?;
    let (first, second) = (user("u")?, user("u1")?);
    for owner in [Some(&first), Some(&second), None] {
        let mut delta = Delta::new();
        delta.set_user(owner.cloned());
        done(given.merge(&session.key, &delta, given.now)?, "a merge of a user")?;
        for name in [&first, &second] {
            let listed = list(given, &Which::User(name))?.len();
            let wanted = usize::from(owner == Some(name));
            ensure!(listed == wanted, "after a merge of its user a session is listed wrongly");
        }
    }
    Ok(())
}

pub(super) fn the_list_has_one_entry_after_a_renewal(given: &Given) -> Outcome {
    let owner = user("u")?;
    let old = given.session_of(&owner, given.now)?;
    let new = given.renewed(&old, Some(given.after(IDLE)))?;
    for which in [Which::User(&owner), Which::Handle(&old.handle())] {
        let listed = handles(&list(given, &which)?);
        ensure!(listed == [new.handle()], "after a renewal {} are listed", listed.len());
    }
    revokes(given, &Which::User(&owner), None, &[&new])
}

pub(super) fn a_revocation_gives_the_keys_that_the_sessions_had(given: &Given) -> Outcome {
    let owner = user("u")?;
    let of = |owner| given.session_of(owner, given.now);
    let (a, b, other) = (of(&owner)?, of(&owner)?, of(&user("u1")?)?);
    let b = given.renewed(&b, None)?;
    let anonymous = given.session()?;
    let handle = anonymous.handle();
    revokes(given, &Which::Handle(&handle), None, &[&anonymous])?;
    revokes(given, &Which::Handle(&handle), None, &[])?;
    revokes(given, &Which::User(&owner), None, &[&a, &b])?;
    let late = given.merge(&a.key, &set("coat", "red")?, given.now)?;
    answered(&late, "Gone", "a merge after a revocation")?;
    given.is_intact(&other, "the revocation of another user")?;
    revokes(given, &Which::All, None, &[&other])
}

pub(super) fn a_revocation_keeps_exactly_the_exception(given: &Given) -> Outcome {
    let owner = user("u")?;
    let of = |owner| given.session_of(owner, given.now);
    let (a, b, current) = (of(&owner)?, of(&owner)?, of(&owner)?);
    let other = of(&user("u1")?)?;
    revokes(given, &Which::User(&owner), Some(&current.handle()), &[&a, &b])?;
    given.is_intact(&current, "a revocation except this session")?;
    revokes(given, &Which::Handle(&current.handle()), Some(&current.handle()), &[])?;
    given.is_intact(&current, "a revocation except this session")?;
    revokes(given, &Which::All, Some(&current.handle()), &[&other])?;
    given.is_intact(&current, "a revocation except this session")
}

pub(super) fn a_revocation_keeps_the_exception_whatever_its_key(given: &Given) -> Outcome {
    let owner = user("u")?;
    let mine = || given.session_of(&owner, given.now);
    for grace_until in [None, Some(given.after(SECOND))] {
        let (other, old) = (mine()?, mine()?);
        let current = given.renewed(&old, grace_until)?;
        revokes(given, &Which::User(&owner), Some(&old.handle()), &[&other])?;
        given.is_intact(&current, "a revocation except a session that has been renewed")?;
        revokes(given, &Which::User(&owner), None, &[&current])?;
    }
    Ok(())
}

pub(super) fn a_handle_that_is_nobodys_is_no_exception(given: &Given) -> Outcome {
    let owner = user("u")?;
    let mine = || given.session_of(&owner, given.now);
    let (ended, a, b) = (mine()?, mine()?, mine()?);
    given.delete(&ended.key, given.now)?;
    revokes(given, &Which::User(&owner), Some(&ended.handle()), &[&a, &b])
}

pub(super) fn a_handle_of_another_user_is_not_revoked(given: &Given) -> Outcome {
    let (owner, other) = (user("u")?, user("u1")?);
    let (mine, theirs) =
        (given.session_of(&owner, given.now)?, given.session_of(&other, given.now)?);
    let anonymous = given.session()?;
    for session in [&theirs, &anonymous] {
        let handle = session.handle();
        let which = Which::OfUser(&owner, &handle);
        ensure!(list(given, &which)?.is_empty(), "another user's handle is listed as one's own");
        revokes(given, &which, None, &[])?;
        given.is_intact(session, "a revocation of another user's handle")?;
    }
    revokes(given, &Which::OfUser(&owner, &mine.handle()), None, &[&mine])
}

pub(super) fn revoking_everyone_leaves_nobody_and_raises_the_epoch(given: &Given) -> Outcome {
    let old = given.session_of(&user("u")?, given.now)?;
    let new = given.renewed(&old, Some(given.after(IDLE * 9)))?;
    let other = given.session()?;
    let later = given.after(SECOND);
    let expired = given.session_for(Lifetime::idle(SECOND))?;
    let registry = given.registry()?;
    let epoch = registry.epoch()?;
    let revoked = registry.revoke_everyone(None, later)?;
    ensure!(revoked == 2, "revoking everyone said {revoked}, though 2 sessions lived");
    let raised = registry.epoch()?;
    ensure!(raised > epoch, "revoking everyone did not raise the epoch");
    for key in [old.key, new.key, other.key, expired.key] {
        let still = given.is_live(&key, given.now)? || given.is_live(&key, later)?;
        ensure!(!still, "after everyone was revoked a session is still found");
    }
    let rows = registry.stats(later)?;
    ensure!(rows.live == 0, "after everyone was revoked the stats count {rows:?}");
    let again = given.session()?;
    given.is_intact(&again, "a create after everyone was revoked")?;
    ensure!(registry.epoch()? == raised, "a create changed the epoch");
    Ok(())
}

pub(super) fn the_stats_count_what_is_there(given: &Given) -> Outcome {
    let registry = given.registry()?;
    let empty = registry.stats(given.now)?;
    ensure!(empty == Stats::default(), "the stats of an empty store are {empty:?}");
    sessions(given, 3)?;
    given.session_for(Lifetime::fixed(SECOND))?;
    given.session_of(&user("u")?, given.after(SECOND * 5))?;
    let stats = registry.stats(given.after(SECOND * 5))?;
    let wanted = Stats {
        live: 4,
        expired: 1,
        signed_in: 1,
        oldest: Some(given.now),
        newest: Some(given.after(SECOND * 5)),
    };
    ensure!(stats == wanted, "the stats are {stats:?}, not {wanted:?}");
    Ok(())
}
