//! Checks of the session index: lists, revocations and statistics. Names must match exactly.

use std::num::NonZeroUsize;

use crate::backend::Action;
use crate::conformance::fixture::*;
use crate::id::{PublicId, Realm, UserKey};
use crate::lifetime::Lifetime;
use crate::list::{Page, SessionFilter, Stats, Summary};
use crate::record::{Client, NewSession, Record};

/// Revokes, and fails unless the result is exactly the ids of these sessions.
fn revokes(
    fixture: &Fixture,
    filter: &SessionFilter<'_>,
    except: Option<&PublicId>,
    sessions: &[&Sample],
) -> Passed {
    let revoked = fixture.index()?.revoke(filter, except, fixture.now)?;
    names_ended(&revoked, sessions, &format!("a revocation of {filter:?}"))?;
    for session in sessions {
        fixture.is_absent(&session.id_hash, "a revoked session is not absent")?;
    }
    Ok(())
}

/// Creates `count` sessions, each one second after the one before.
fn sessions(fixture: &Fixture, count: u32) -> Passed<Vec<Sample>> {
    let new_session = || fixture.new_session();
    (0..count).map(|n| fixture.later(SECOND * n).session_from(&new_session()?)).collect()
}

pub(super) fn the_newest_session_is_listed_first(fixture: &Fixture) -> Passed {
    let sessions = sessions(fixture, 5)?;
    // The order is that of creation: later changes do not move a session.
    if let Some(oldest) = sessions.first() {
        done(fixture.merge(&oldest.id_hash, &set("coat", "red")?)?, "a merge")?;
        fixture.later(SECOND * 9).touch(&oldest.id_hash)?;
    }
    let newest_first: Vec<_> = sessions.iter().rev().map(Sample::public_id).collect();
    let listed = public_ids(&fixture.list(&SessionFilter::All)?);
    ensure!(listed == newest_first, "the list does not go from the newest to the oldest")
}

pub(super) fn pages_have_no_gaps_and_no_repeats(fixture: &Fixture) -> Passed {
    const THREE: NonZeroUsize = NonZeroUsize::new(3).unwrap();
    let sessions = sessions(fixture, 7)?;
    let all: Vec<_> = sessions.iter().rev().map(Sample::public_id).collect();
    let index = fixture.index()?;
    let mut listed = Vec::new();
    let mut sizes = Vec::new();
    let mut page = Page::first(THREE);
    loop {
        let summaries = index.list(&SessionFilter::All, page, fixture.now)?;
        sizes.push(summaries.len());
        listed.extend(public_ids(&summaries));
        let Some(last) = summaries.last() else { break };
        ensure!(sizes.len() < 10, "the pages of a list have no end")?;
        page = Page::after(THREE, last.cursor);
        // A session created while the pages are read comes before the first page.
        fixture.session()?;
    }
    ensure!(listed == all, "pages of 3 of 7 sessions have gaps or repeats: {sizes:?}")?;
    ensure!(sizes == [3, 3, 1, 0], "pages of 3 of 7 sessions had {sizes:?}")
}

pub(super) fn a_summary_matches_its_record(fixture: &Fixture) -> Passed {
    let mut new_session = fixture.new_session()?;
    new_session.client = Some(Client::new("::1".parse().ok(), Some("curl")));
    new_session.idp_session_id = Some(idp_session_id("sid-1")?);
    new_session.auth_level = 3;
    new_session.persistent = false;
    let begun = fixture.session_from(&new_session)?;
    let later = fixture.later(SECOND);
    later.touch(&begun.id_hash)?;
    let signed_in = fixture.session_of(&user("u")?)?;
    for session in [begun, signed_in] {
        let record = later.live(&session.id_hash, "a new session")?.record;
        let listed = fixture.list(&SessionFilter::PublicId(&record.public_id))?;
        let cursor = listed.first().map(|summary| summary.cursor);
        let wanted = cursor.map(|cursor| Summary::of(&record, cursor));
        ensure!(listed.first() == wanted.as_ref(), "a list returns {listed:?} for {record:?}")?;
        ensure!(listed.len() == 1, "a public id is listed {} times", listed.len())?;
    }
    Ok(())
}

/// Returns names that an inexact comparison confuses with one another or takes for a pattern.
fn names() -> Vec<String> {
    let mut names: Vec<String> = [
        "u", "u1", "U", "u ", " u", "u%", "%", "_", "u_", "*", "?", "'", "\"", "\\", "ü", "Ü",
        "u\n", "1", "01", "1.0",
    ]
    .map(String::from)
    .into();
    names.extend(["u\u{308}", "u' OR 'u'='u"].map(String::from));
    names.extend(["x".repeat(254), "x".repeat(255)]);
    names
}

pub(super) fn names_of_users_match_exactly(fixture: &Fixture) -> Passed {
    let mut sessions = Vec::new();
    for name in names() {
        let owner = user(&name)?;
        sessions.push((fixture.session_of(&owner)?, owner));
    }
    for (session, owner) in &sessions {
        let listed = public_ids(&fixture.list(&SessionFilter::User(owner))?);
        let only = listed == [session.public_id()];
        ensure!(only, "the list of the user {owner:?} has {} sessions or others'", listed.len())?;
    }
    for (index, (session, owner)) in sessions.iter().enumerate() {
        revokes(fixture, &SessionFilter::User(owner), None, &[session])?;
        let left = fixture.list(&SessionFilter::All)?.len();
        ensure!(left + index + 1 == sessions.len(), "a revocation ended another user's session")?;
    }
    Ok(())
}

pub(super) fn names_of_the_identity_provider_match_exactly(fixture: &Fixture) -> Passed {
    let mut sessions = Vec::new();
    for name in names() {
        let mut new_session = fixture.new_session()?;
        new_session.idp_session_id = Some(idp_session_id(&name)?);
        sessions.push((fixture.session_from(&new_session)?, idp_session_id(&name)?));
    }
    fixture.session()?;
    for (session, name) in &sessions {
        let listed = public_ids(&fixture.list(&SessionFilter::IdpSession(name))?);
        let only = listed == [session.public_id()];
        ensure!(only, "the IdP session id {name:?} lists {}", listed.len())?;
        revokes(fixture, &SessionFilter::IdpSession(name), None, &[session])?;
    }
    let left = fixture.list(&SessionFilter::All)?.len();
    ensure!(left == 1, "after all with an IdP session id were revoked, {left} are left, not 1")
}

pub(super) fn the_list_follows_the_user_of_a_session(fixture: &Fixture) -> Passed {
    let mut id_hash = fixture.session()?.id_hash;
    let first = user("u")?;
    let second = user("u1")?;
    let is_listed = |owner: Option<&UserKey>, what: &str| {
        for name in [&first, &second] {
            let listed = fixture.list(&SessionFilter::User(name))?.len();
            let wanted = usize::from(owner == Some(name));
            ensure!(listed == wanted, "after {what} a session is listed wrongly")?;
        }
        Ok(())
    };
    for owner in [&first, &second] {
        let (to, signed_in) = fixture.sign_in(&id_hash, owner)?;
        done(signed_in, "a sign-in")?;
        is_listed(Some(owner), "a sign-in")?;
        id_hash = to;
    }
    fixture.commit(&id_hash, Action::End, &nothing())?;
    is_listed(None, "its end")
}

pub(super) fn the_list_has_one_entry_after_a_renewal(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let old = fixture.session_of(&owner)?;
    let new = fixture.renewed(&old, Some(fixture.after(IDLE)))?;
    for filter in [SessionFilter::User(&owner), SessionFilter::PublicId(&old.public_id())] {
        let listed = public_ids(&fixture.list(&filter)?);
        ensure!(listed == [new.public_id()], "after a renewal {} are listed", listed.len())?;
    }
    revokes(fixture, &SessionFilter::User(&owner), None, &[&new])
}

pub(super) fn a_revocation_gives_the_ids_that_the_sessions_had(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let of = |owner| fixture.session_of(owner);
    let a = of(&owner)?;
    let b = of(&owner)?;
    let other = of(&user("u1")?)?;
    let b = fixture.renewed(&b, None)?;
    let anonymous = fixture.session()?;
    let public_id = anonymous.public_id();
    revokes(fixture, &SessionFilter::PublicId(&public_id), None, &[&anonymous])?;
    revokes(fixture, &SessionFilter::PublicId(&public_id), None, &[])?;
    revokes(fixture, &SessionFilter::User(&owner), None, &[&a, &b])?;
    let late = fixture.merge(&a.id_hash, &set("coat", "red")?)?;
    answered(&late, "NotFound", "a merge after a revocation")?;
    fixture.is_intact(&other, "the revocation of another user")?;
    revokes(fixture, &SessionFilter::All, None, &[&other])
}

pub(super) fn a_revocation_keeps_exactly_the_exception(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let of = |owner| fixture.session_of(owner);
    let a = of(&owner)?;
    let b = of(&owner)?;
    let current = of(&owner)?;
    let other = of(&user("u1")?)?;
    revokes(fixture, &SessionFilter::User(&owner), Some(&current.public_id()), &[&a, &b])?;
    fixture.is_intact(&current, "a revocation except this session")?;
    revokes(
        fixture,
        &SessionFilter::PublicId(&current.public_id()),
        Some(&current.public_id()),
        &[],
    )?;
    fixture.is_intact(&current, "a revocation except this session")?;
    revokes(fixture, &SessionFilter::All, Some(&current.public_id()), &[&other])?;
    fixture.is_intact(&current, "a revocation except this session")
}

pub(super) fn a_revocation_keeps_the_exception_whatever_its_id(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let mine = || fixture.session_of(&owner);
    for grace_until in [None, Some(fixture.after(SECOND))] {
        let other = mine()?;
        let old = mine()?;
        let current = fixture.renewed(&old, grace_until)?;
        revokes(fixture, &SessionFilter::User(&owner), Some(&old.public_id()), &[&other])?;
        fixture.is_intact(&current, "a revocation except a session that has been renewed")?;
        revokes(fixture, &SessionFilter::User(&owner), None, &[&current])?;
    }
    Ok(())
}

pub(super) fn an_unknown_public_id_is_no_exception(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let mine = || fixture.session_of(&owner);
    let ended = mine()?;
    let a = mine()?;
    let b = mine()?;
    fixture.end(&ended.id_hash)?;
    revokes(fixture, &SessionFilter::User(&owner), Some(&ended.public_id()), &[&a, &b])
}

pub(super) fn a_public_id_of_another_user_is_not_revoked(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let other = user("u1")?;
    let mine = fixture.session_of(&owner)?;
    let theirs = fixture.session_of(&other)?;
    let anonymous = fixture.session()?;
    for session in [&theirs, &anonymous] {
        let public_id = session.public_id();
        let filter = SessionFilter::PublicIdOfUser(&owner, &public_id);
        let listed = fixture.list(&filter)?;
        ensure!(listed.is_empty(), "another user's public id is listed as the user's own")?;
        revokes(fixture, &filter, None, &[])?;
        fixture.is_intact(session, "a revocation of another user's public id")?;
    }
    revokes(fixture, &SessionFilter::PublicIdOfUser(&owner, &mine.public_id()), None, &[&mine])
}

pub(super) fn a_rename_moves_exactly_the_sessions_of_a_user(fixture: &Fixture) -> Passed {
    let [old, new, other] = [user("u")?, user("new")?, user("other")?];
    let a = fixture.session_of(&old)?;
    let old_b = fixture.session_of(&old)?;
    let b = fixture.renewed(&old_b, Some(fixture.after(IDLE)))?;
    let theirs = fixture.session_of(&other)?;
    let index = fixture.index()?;
    let realm = &a.record.realm;
    let elsewhere = Realm::new("elsewhere")?;
    let none = index.rename_user(&elsewhere, &old, &new, fixture.now)?;
    ensure!(none.is_empty(), "a rename in another realm returned {none:?}")?;
    let renamed = index.rename_user(realm, &old, &new, fixture.now)?;
    let exact = same_ids(&renamed, &[a.id_hash, b.id_hash]);
    ensure!(exact, "a rename returned {renamed:?}, not the sessions of the user")?;
    for session in [&a, &b] {
        let found = fixture.live(&session.id_hash, "a session of a renamed user")?;
        let record = session.record.clone();
        let expected = Record { user: Some(new.clone()), revision: record.revision + 1, ..record };
        same_record(&found.record, &expected, "a rename")?;
    }
    fixture.live(&old_b.id_hash, "an id in its grace after a rename")?;
    fixture.is_intact(&theirs, "a rename of another user")?;
    let listed = [&old, &new].map(|user| fixture.list(&SessionFilter::User(user)));
    for (listed, wanted) in listed.into_iter().zip([0, 2]) {
        let listed = listed?.len();
        ensure!(listed == wanted, "after a rename, a user has {listed} sessions, not {wanted}")?;
    }
    done(fixture.merge(&a.id_hash, &set("coat", "blue")?)?, "a merge after a rename").map(drop)
}

pub(super) fn revoking_everyone_ends_all_and_raises_the_epoch(fixture: &Fixture) -> Passed {
    let old = fixture.session_of(&user("u")?)?;
    let new = fixture.renewed(&old, Some(fixture.after(IDLE * 9)))?;
    let other = fixture.session()?;
    let later = fixture.after(SECOND);
    let expired = fixture.session_for(Lifetime::idle(SECOND))?;
    let index = fixture.index()?;
    let epoch = index.epoch()?;
    let revoked = index.revoke_everyone(None, later)?;
    ensure!(revoked == 2, "revoking everyone returned {revoked}, not the 2 live sessions")?;
    let raised = index.epoch()?;
    ensure!(raised > epoch, "revoking everyone did not raise the epoch")?;
    let id_hashes = [old.id_hash, new.id_hash, other.id_hash, expired.id_hash];
    for now in [fixture.now, later] {
        let found = "after revoking everyone a session is still found";
        fixture.at(now).none_live(&id_hashes, found)?;
    }
    let rows = index.stats(later)?;
    ensure!(rows.live == 0, "after revoking everyone the stats count {rows:?}")?;
    let again = fixture.session()?;
    fixture.is_intact(&again, "a create after revoking everyone")?;
    ensure!(index.epoch()? == raised, "a create changed the epoch")
}

pub(super) fn the_stats_count_the_stored_sessions(fixture: &Fixture) -> Passed {
    let index = fixture.index()?;
    let empty = index.stats(fixture.now)?;
    ensure!(empty == Stats::default(), "the stats of an empty store are {empty:?}")?;
    sessions(fixture, 3)?;
    fixture.session_for(Lifetime::absolute(SECOND))?;
    let brief = NewSession::new(Lifetime::absolute(SECOND).limits_from(fixture.now))?;
    let sign_in = sign_in_to(id_hash()?, &user("u")?, &brief);
    done(fixture.commit(&id_hash()?, sign_in, &nothing())?, "a sign-in")?;
    fixture.later(SECOND * 5).session_of(&user("u")?)?;
    let stats = index.stats(fixture.after(SECOND * 5))?;
    let wanted = Stats {
        live: 4,
        expired: 2,
        signed_in: 1,
        expired_signed_in: 1,
        oldest: Some(fixture.now),
        newest: Some(fixture.after(SECOND * 5)),
    };
    ensure!(stats == wanted, "the stats are {stats:?}, not {wanted:?}")
}

pub(super) fn the_identity_of_a_store_stays(fixture: &Fixture) -> Passed {
    let index = fixture.index()?;
    let before = index.identity()?;
    fixture.session()?;
    index.revoke_everyone(None, fixture.now)?;
    ensure!(index.identity()? == before, "the identity changes though nothing was restored")
}

pub(super) fn two_stores_have_two_identities(fixture: &Fixture) -> Passed {
    let identity = fixture.index()?.identity()?;
    let other = Fixture { store: fixture.other.clone(), ..fixture.clone() };
    ensure!(other.index()?.identity()? != identity, "two stores have one identity")
}
