//! Commits, applied within a write transaction.
//!
//! Uses [`Commit::decide`] and `WriteTx`. Called by `store`, as a job of the writer.

use crate::backend::{
    Action, Commit, CommitAnswer, Decision, Found, LiveSession, Missing, SessionLimit,
};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::record::EndedSession;
use crate::stores::sqlite::row::FoundRow;
use crate::stores::sqlite::write::{JobKind, WriteTx};

pub(super) fn job_kind(commit: &Commit) -> JobKind {
    if commit.must_survive_power_cut() { JobKind::Synced } else { JobKind::Normal }
}

/// Finds the session and applies the decision.
pub(super) fn apply(commit: &Commit, tx: &mut WriteTx<'_>) -> Result<CommitAnswer> {
    let found = match commit.action {
        // The unique index finds the conflict that a lookup would find.
        Action::Create(_) => Found::Nothing,
        _ => tx.find(commit.id_hash, commit.now)?,
    };
    let decision = commit.decide(found)?;
    if let Some(id_hash) = decision.new_id() {
        tx.check_free(id_hash)?;
    }
    match decision {
        Decision::RemoveExpired { at } => {
            tx.delete(at.id, at.id_hash)?;
            Ok(CommitAnswer::Missing(Missing::NOT_FOUND))
        }
        Decision::Insert { session, expired, session_limit } => {
            if let Some(at) = expired {
                tx.delete(at.id, at.id_hash)?;
            }
            let Some(ended) = apply_session_limit(tx, &session, session_limit, None, commit.now)?
            else {
                return Ok(CommitAnswer::LimitReached);
            };
            let evicted = tx.evict_for(&session.record, None)?;
            tx.insert(&session)?;
            Ok(CommitAnswer::Done { session, previous_id: None, ended, evicted })
        }
        Decision::Replace { at, session, presented, ended, session_limit } => {
            let Some(mut all_ended) =
                apply_session_limit(tx, &session, session_limit, None, commit.now)?
            else {
                return Ok(CommitAnswer::LimitReached);
            };
            all_ended.push(ended);
            tx.delete(at.id, at.id_hash)?;
            let evicted = tx.evict_for(&session.record, None)?;
            let id = tx.insert(&session)?;
            tx.replace_remembered(id, &session.record.public_id, &presented)?;
            Ok(CommitAnswer::Done { session, previous_id: None, ended: all_ended, evicted })
        }
        Decision::Move { at, session, id_change, session_limit } => {
            let Some(ended) =
                apply_session_limit(tx, &session, session_limit, Some(at), commit.now)?
            else {
                return Ok(CommitAnswer::LimitReached);
            };
            let evicted = tx.evict_for(&session.record, Some(at.id))?;
            tx.remember_id_change(at, &id_change)?;
            tx.update_all(at, &session)?;
            Ok(CommitAnswer::Done { session, previous_id: Some(at.id_hash), ended, evicted })
        }
        Decision::Update { at, session } => {
            let evicted = tx.evict_for(&session.record, Some(at.id))?;
            if commit.delta.changes_data_only() {
                tx.update_data(at, &session)?
            } else {
                tx.update_all(at, &session)?
            }
            Ok(CommitAnswer::Done { session, previous_id: None, ended: Vec::new(), evicted })
        }
        Decision::Touch { at, session } => {
            tx.update_seen(at, &session)?;
            Ok(CommitAnswer::Unchanged(session))
        }
        Decision::End { at, public_id, user } => {
            tx.delete(at.id, at.id_hash)?;
            Ok(CommitAnswer::Ended(EndedSession::new(at.id_hash, public_id, user)))
        }
        Decision::Answer(answer) => Ok(answer),
    }
}

/// Applies the session limit of the user of `session` to the user's sessions but `moved`. Returns
/// the sessions that it ended; `None` if the user has too many.
fn apply_session_limit(
    tx: &mut WriteTx<'_>,
    LiveSession { record, .. }: &LiveSession,
    session_limit: Option<SessionLimit>,
    moved: Option<FoundRow>,
    now: Timestamp,
) -> Result<Option<Vec<EndedSession>>> {
    let (Some(session_limit), Some(user)) = (session_limit, &record.user) else {
        return Ok(Some(Vec::new()));
    };
    tx.delete_expired_of(user, &record.realm, now)?;
    let others = tx.by_sign_in(user, &record.realm, moved.map(|at| at.id), now)?;
    let Some(ended) = session_limit.sessions_to_end(&others) else { return Ok(None) };
    for (id, session) in ended {
        tx.delete(*id, session.id_hash)?;
    }
    Ok(Some(ended.iter().map(|(_, session)| session.clone()).collect()))
}
