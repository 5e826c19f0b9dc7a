//! Commits, applied within a write transaction.
//!
//! Uses [`Commit::decide`] and `WriteTx`. Called by `store`, as a job of the writer.

use crate::backend::{Action, Commit, Committed, Decision, Lookup};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::stores::sqlite::row::FoundRow;
use crate::stores::sqlite::write::{JobKind, WriteTx};

pub(super) fn job_kind(commit: &Commit) -> JobKind {
    if commit.must_survive_power_cut() { JobKind::Synced } else { JobKind::Normal }
}

/// Finds the session and applies the decision.
pub(super) fn apply(commit: &Commit, tx: &mut WriteTx<'_>) -> Result<Committed> {
    let found = match commit.action {
        // The unique index finds the conflict that a lookup would find.
        Action::Create(_) => Lookup::not_found(),
        _ => tx.find(commit.id_hash, commit.now)?,
    };
    if let Some(expired) = commit.expired_to_remove(&found) {
        tx.delete(expired.id, expired.id_hash)?;
    }
    match commit.decide(found)? {
        Decision::Insert { session, replaces } => {
            let found = replaces.map(|(_, at)| at);
            let Some(mut former_ids) = apply_session_limit(commit, tx, &session.id_hash, found)?
            else {
                return Ok(Committed::LimitReached);
            };
            if let Some(at) = found {
                tx.delete(at.id, at.id_hash)?;
                former_ids.push(at.id_hash);
            }
            let id = tx.insert(&session)?;
            if let Some((presented, _)) = &replaces {
                tx.replace_remembered(id, &session.record.public_id, presented)?;
            }
            Ok(Committed::Done { session, former_ids })
        }
        Decision::Update { at, session, id_change: Some(id_change) } => {
            let Some(mut former_ids) = apply_session_limit(commit, tx, &session.id_hash, Some(at))?
            else {
                return Ok(Committed::LimitReached);
            };
            tx.remember_id_change(at, &id_change)?;
            tx.update_all(at, &session)?;
            former_ids.push(at.id_hash);
            Ok(Committed::Done { session, former_ids })
        }
        Decision::Update { at, session, id_change: None } => {
            match commit.delta.user() {
                Some(_) => tx.update_all(at, &session)?,
                None => tx.update_data(at, &session.record)?,
            }
            Ok(Committed::Done { session, former_ids: Vec::new() })
        }
        Decision::Touch { at, session } => {
            let (seen, deadline) = (session.record.seen, session.record.deadline());
            tx.update_seen(at.id, at.id_hash, seen, deadline)?;
            Ok(Committed::Unchanged(session))
        }
        Decision::End { at } => {
            tx.delete(at.id, at.id_hash)?;
            Ok(Committed::Ended(at.id_hash))
        }
        Decision::Answer(answer) => Ok(answer),
    }
}

/// Checks that the id `to` is free, and applies the session limit per user. Returns the ids of the
/// sessions that it ended; `None` if the user has too many.
fn apply_session_limit(
    commit: &Commit,
    tx: &mut WriteTx<'_>,
    to: &SessionIdHash,
    found: Option<FoundRow>,
) -> Result<Option<Vec<SessionIdHash>>> {
    if tx.is_taken(to)? {
        return Err(Error::new(ErrorKind::Conflict, "give a session its new id"));
    }
    let Some((session_limit, user, realm)) = commit.session_limit_of() else {
        return Ok(Some(Vec::new()));
    };
    tx.delete_expired_of(user, realm, commit.now)?;
    let others = tx.by_sign_in(user, realm, found.map(|at| at.id), commit.now)?;
    let Some(ended) = session_limit.sessions_to_end(&others) else { return Ok(None) };
    for (id, id_hash) in ended {
        tx.delete(*id, *id_hash)?;
    }
    Ok(Some(ended.iter().map(|(_, id_hash)| *id_hash).collect()))
}
