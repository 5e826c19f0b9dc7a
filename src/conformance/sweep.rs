//! Checks that sweeps remove all expired sessions and nothing else.

use std::num::NonZeroUsize;

use crate::conformance::fixture::{ALL, Fixture, IDLE, MILLI, Passed, SECOND, ensure, lifetime};
use crate::lifetime::Lifetime;
use crate::record::NewSession;

pub(super) fn a_sweep_removes_exactly_what_has_ended(fixture: &Fixture) -> Passed {
    let end = fixture.after(IDLE);
    let idle = Lifetime::idle;
    let mut ended = Vec::new();
    for lifetime in [idle(IDLE - SECOND), idle(IDLE - MILLI), idle(IDLE), Lifetime::fixed(IDLE)] {
        ended.push(fixture.session_for(lifetime)?);
    }
    let mut live = Vec::new();
    for lifetime in
        [idle(IDLE + MILLI), Lifetime::fixed(IDLE * 2), lifetime().with_absolute(IDLE * 2)]
    {
        live.push(fixture.session_for(lifetime)?);
    }
    if let Some(session) = live.last() {
        fixture.touch(&session.id_hash, fixture.after(SECOND), fixture.after(SECOND))?;
    }
    let early = fixture.store.sweep(fixture.now, ALL)?.removed;
    ensure!(early == 0, "a sweep before any deadline removed {early}");
    let Some(swept) = fixture.sweep(end, ALL)? else { return Ok(()) };
    ensure!(swept == ended.len(), "a sweep removed {swept}, though {} had expired", ended.len());
    for session in ended {
        // With a time before the deadline a load would find the session if it were still stored.
        let kept = fixture.is_live(&session.id_hash, fixture.now)?;
        ensure!(!kept, "a sweep counted a session that it did not remove");
    }
    for session in live {
        fixture.live(&session.id_hash, end, "after a sweep a session that has not expired")?;
    }
    Ok(())
}

pub(super) fn a_sweep_removes_no_more_than_its_limit(fixture: &Fixture) -> Passed {
    for _ in 0..5 {
        fixture.session()?;
    }
    let two = NonZeroUsize::MIN.saturating_add(1);
    for wanted in [2, 2, 1] {
        let Some(swept) = fixture.sweep(fixture.after(IDLE), two)? else { return Ok(()) };
        ensure!(swept == wanted, "of 5 expired sessions, 2 at a time, a sweep removed {swept}");
    }
    let swept = fixture.store.sweep(fixture.after(IDLE), two)?.removed;
    ensure!(swept == 0, "a sweep of a store without expired sessions removed {swept}");
    Ok(())
}

pub(super) fn a_sweep_leaves_the_ids_of_live_sessions(fixture: &Fixture) -> Passed {
    let old = fixture.session()?;
    let new = fixture.renewed(&old, Some(fixture.after(IDLE * 2)))?;
    let later = fixture.after(SECOND);
    fixture.touch(&new.id_hash, later, later)?;
    fixture.session_from(
        fixture.now,
        &NewSession::new(Lifetime::idle(SECOND).starting(fixture.now))?,
    )?;
    let swept = fixture.sweep(fixture.after(IDLE), ALL)?.unwrap_or(1);
    ensure!(swept == 1, "a sweep removed {swept} sessions, not the one that had expired");
    let through =
        fixture.live(&old.id_hash, fixture.after(IDLE), "after a sweep the id in its grace")?;
    ensure!(through.id_hash == new.id_hash, "a sweep changed what an id in its grace leads to");
    Ok(())
}
