//! Commits, applied within a write transaction.
//!
//! Uses [`Commit::decide`] and `WriteTx`.

use crate::backend::{Action, Commit, CommitAnswer, Decision, Found, SessionWrite};
use crate::error::Result;
use crate::record::EndedSession;
use crate::stores::sqlite::sql::row::FoundRow;
use crate::stores::sqlite::write::{JobKind, WriteTx};

pub(super) fn job_kind(commit: &Commit) -> JobKind {
    if commit.must_survive_power_cut() { JobKind::Synced } else { JobKind::Normal }
}

/// Finds the session and applies the decision.
pub(super) fn apply(commit: &Commit, tx: &mut WriteTx<'_>) -> Result<CommitAnswer> {
    let found = match commit.action {
        // `check_free` finds the conflict that a lookup would find.
        Action::Create(_) => Found::Nothing,
        _ => tx.find(commit.id_hash, commit.now)?,
    };
    let decision = commit.decide(found)?;
    if let Some(id_hash) = decision.write.new_id() {
        tx.check_free(id_hash)?;
    }
    if let Some(at) = decision.expired {
        tx.delete(at.id, at.id_hash)?;
    }
    let Some(ended) = apply_session_limit(tx, &decision, commit)? else {
        return Ok(CommitAnswer::LimitReached);
    };
    if let Some((at, _)) = decision.ended {
        tx.delete(at.id, at.id_hash)?;
    }
    let mut evicted = Vec::new();
    match &decision.write {
        SessionWrite::Nothing(_) => {}
        SessionWrite::Insert { session, replaced } => {
            evicted = tx.evict_for(&session.record, None)?;
            let id = tx.insert(session)?;
            if let Some(replaced) = replaced {
                tx.move_replaced(id, &session.record.public_id, replaced)?;
            }
        }
        SessionWrite::Move { at, session, id_change } => {
            evicted = tx.evict_for(&session.record, Some(at.id))?;
            tx.remember_id_change(at.id, &session.record.public_id, id_change)?;
            tx.update_all(*at, session)?;
        }
        SessionWrite::Update { at, session } => {
            evicted = tx.evict_for(&session.record, Some(at.id))?;
            if commit.delta.changes_data_only() {
                tx.update_data(*at, session)?;
            } else {
                tx.update_all(*at, session)?;
            }
        }
        SessionWrite::Touch { at, session } => tx.update_seen(*at, session)?,
    }
    Ok(decision.into_answer(ended, evicted))
}

/// Applies the session limit per user. Returns the sessions that it ended; `None` if the user has
/// too many.
fn apply_session_limit(
    tx: &mut WriteTx<'_>,
    decision: &Decision<FoundRow>,
    commit: &Commit,
) -> Result<Option<Vec<EndedSession>>> {
    let (Some(session_limit), Action::SignIn { user, new_session, .. }) =
        (decision.session_limit, &commit.action)
    else {
        return Ok(Some(Vec::new()));
    };
    tx.delete_expired_of(user, &new_session.realm, commit.now)?;
    let changed = decision.write.changed().map(|at| at.id);
    let others = tx.by_sign_in(user, &new_session.realm, changed, commit.now)?;
    let Some(ended) = session_limit.sessions_to_end(&others) else { return Ok(None) };
    for (id, session) in ended {
        tx.delete(*id, session.id_hash)?;
    }
    Ok(Some(ended.iter().map(|(_, session)| session.clone()).collect()))
}
