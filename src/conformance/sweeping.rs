//! Sweeps remove what has ended, all of it, and nothing else.

use std::num::NonZeroUsize;

use crate::conformance::given::{ALL, Given, IDLE, MILLI, Outcome, SECOND, ensure, lifetime};
use crate::lifetime::Lifetime;
use crate::record::Birth;

pub(super) fn a_sweep_removes_exactly_what_has_ended(given: &Given) -> Outcome {
    let end = given.after(IDLE);
    let idle = Lifetime::idle;
    let mut ended = Vec::new();
    for lifetime in [idle(IDLE - SECOND), idle(IDLE - MILLI), idle(IDLE), Lifetime::fixed(IDLE)] {
        ended.push(given.session_for(lifetime)?);
    }
    let mut live = Vec::new();
    for lifetime in
        [idle(IDLE + MILLI), Lifetime::fixed(IDLE * 2), lifetime().with_absolute(IDLE * 2)]
    {
        live.push(given.session_for(lifetime)?);
    }
    if let Some(session) = live.last() {
        given.touch(&session.key, given.after(SECOND), given.after(SECOND))?;
    }
    let early = given.store.sweep(given.now, ALL)?.removed;
    ensure!(early == 0, "a sweep before any deadline removed {early}");
    let Some(swept) = given.sweep(end, ALL)? else { return Ok(()) };
    ensure!(swept == ended.len(), "a sweep removed {swept}, though {} had ended", ended.len());
    for session in ended {
        // Looked at from before the deadline it would still be seen, if it were still stored.
        let kept = given.is_live(&session.key, given.now)?;
        ensure!(!kept, "a sweep counted a session that it did not remove");
    }
    for session in live {
        given.live(&session.key, end, "after a sweep a session that has not ended")?;
    }
    Ok(())
}

pub(super) fn a_sweep_removes_no_more_than_its_limit(given: &Given) -> Outcome {
    for _ in 0..5 {
        given.session()?;
    }
    let two = NonZeroUsize::MIN.saturating_add(1);
    for wanted in [2, 2, 1] {
        let Some(swept) = given.sweep(given.after(IDLE), two)? else { return Ok(()) };
        ensure!(swept == wanted, "of 5 ended sessions, 2 at a time, a sweep removed {swept}");
    }
    let swept = given.store.sweep(given.after(IDLE), two)?.removed;
    ensure!(swept == 0, "a sweep of a store without ended sessions removed {swept}");
    Ok(())
}

pub(super) fn a_sweep_leaves_the_keys_of_live_sessions(given: &Given) -> Outcome {
    let old = given.session()?;
    let new = given.renewed(&old, Some(given.after(IDLE * 2)))?;
    let later = given.after(SECOND);
    given.touch(&new.key, later, later)?;
    given.session_from(given.now, &Birth::new(Lifetime::idle(SECOND).starting(given.now))?)?;
    let swept = given.sweep(given.after(IDLE), ALL)?.unwrap_or(1);
    ensure!(swept == 1, "a sweep removed {swept} sessions, not the one that had ended");
    let through = given.live(&old.key, given.after(IDLE), "after a sweep the key in its grace")?;
    ensure!(through.key == new.key, "a sweep changed what a key in its grace leads to");
    Ok(())
}
