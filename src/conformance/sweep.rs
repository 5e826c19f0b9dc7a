//! Checks that sweeps remove all expired sessions and nothing else.

use std::num::NonZeroUsize;

use crate::backend::{Loaded, Unreadable};
use crate::conformance::Violation;
use crate::conformance::fixture::*;
use crate::lifetime::{EndReason, Lifetime};

pub(super) fn a_sweep_removes_exactly_what_has_ended(fixture: &Fixture) -> Passed {
    let end = fixture.later(IDLE);
    let idle = Lifetime::idle;
    let mut ended = Vec::new();
    for lifetime in [idle(IDLE - SECOND), idle(IDLE - MILLI), idle(IDLE), Lifetime::absolute(IDLE)]
    {
        ended.push(fixture.session_for(lifetime)?);
    }
    let mut live = Vec::new();
    for lifetime in
        [idle(IDLE + MILLI), Lifetime::absolute(IDLE * 2), lifetime().with_absolute(IDLE * 2)]
    {
        live.push(fixture.session_for(lifetime)?);
    }
    if let Some(session) = live.last() {
        fixture.later(SECOND).touch(&session.id_hash)?;
    }
    let early = fixture.store.sweep(fixture.now, ALL)?.removed;
    ensure!(early == 0, "a sweep before any deadline removed {early}")?;
    let Some(swept) = end.sweep(ALL)? else { return Ok(()) };
    ensure!(swept == ended.len(), "a sweep removed {swept}, though {} had expired", ended.len())?;
    for session in ended {
        // With a time before the deadline a load would find the session if it were still stored.
        let what = "a sweep counted a session that it did not remove";
        fixture.none_live(&[session.id_hash], what)?;
    }
    for session in live {
        end.live(&session.id_hash, "after a sweep a session that has not expired")?;
    }
    Ok(())
}

pub(super) fn a_sweep_removes_no_more_than_its_limit(fixture: &Fixture) -> Passed {
    const TWO: NonZeroUsize = NonZeroUsize::new(2).unwrap();
    for _ in 0..5 {
        fixture.session()?;
    }
    for wanted in [2, 2, 1] {
        let Some(swept) = fixture.later(IDLE).sweep(TWO)? else { return Ok(()) };
        ensure!(swept == wanted, "of 5 expired sessions, 2 at a time, a sweep removed {swept}")?;
    }
    let swept = fixture.store.sweep(fixture.after(IDLE), TWO)?.removed;
    ensure!(swept == 0, "a sweep of a store without expired sessions removed {swept}")
}

pub(super) fn a_sweep_names_the_sessions_of_users(fixture: &Fixture) -> Passed {
    let owner = user("u")?;
    let mine = fixture.session_of(&owner)?;
    let _anonymous = fixture.session()?;
    let end = fixture.later(IDLE);
    let Loaded::Unreadable(Unreadable::NotFound { reached_limit, .. }) = end.load(&mine.id_hash)?
    else {
        return Err(Violation("a session is live at its deadline".to_owned()));
    };
    let idle = EndReason::Idle(IDLE);
    // A cache, or the server of the store, may have forgotten it.
    ensure!(reached_limit.is_none_or(|limit| limit == idle), "a load names {reached_limit:?}")?;
    let report = fixture.store.sweep(end.now, ALL)?;
    if report.removed == 0 && fixture.store.index().is_none() {
        return Ok(());
    }
    let wanted = [mine.to_ended().with_reached_limit(idle)];
    let named = report.user_sessions;
    ensure!(named == wanted, "a sweep named {named:?}, not {wanted:?}")
}

pub(super) fn a_sweep_leaves_the_ids_of_live_sessions(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(IDLE * 2)))?;
    let later = fixture.after(SECOND);
    fixture.at(later).touch(&new.id_hash)?;
    fixture.session_for(Lifetime::idle(SECOND))?;
    let swept = fixture.later(IDLE).sweep(ALL)?.unwrap_or(1);
    ensure!(swept == 1, "a sweep removed {swept} sessions, not the one that had expired")?;
    let through = fixture.later(IDLE).live(&old.id_hash, "after a sweep the id in its grace")?;
    ensure!(through.id_hash == new.id_hash, "a sweep changed what an id in its grace leads to")
}
