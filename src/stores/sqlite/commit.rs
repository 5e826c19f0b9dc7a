//! Commits, applied within a write transaction.

use crate::backend::{Action, Commit, CommitAnswer, Found, SessionWrite, UserMaximum};
use crate::error::Result;
use crate::stores::sqlite::write::WriteTx;

/// Finds the session and applies the decision.
pub(super) fn apply(commit: &Commit, tx: &mut WriteTx<'_>) -> Result<CommitAnswer> {
    let found = match commit.action {
        // `check_free` finds the conflict that a lookup would find.
        Action::Create(_) => Found::NotFound,
        _ => tx.find(commit.id_hash, commit.now)?,
    };
    let mut decision = commit.decide(found)?;
    if let Some(id_hash) = decision.write.new_id() {
        tx.check_free(id_hash)?;
    }
    if let Some(UserMaximum { user, realm, .. }) = &decision.user_maximum {
        let of_user = tx.sessions_of_user(user, realm, commit.now)?;
        decision = decision.apply_maximum(of_user);
    }
    for key in decision.removed() {
        tx.delete(key.id, key.id_hash)?;
    }
    let mut evicted = Vec::new();
    match &decision.write {
        SessionWrite::Nothing(_) => {}
        SessionWrite::Insert { session, replaced } => {
            evicted = tx.evict_for(&session.record, None)?;
            let id = tx.insert(session)?;
            if let Some(replaced) = replaced {
                tx.reassign_replaced(id, &session.record.public_id, replaced)?;
            }
        }
        SessionWrite::Move { key, session, id_change } => {
            evicted = tx.evict_for(&session.record, Some(key.id))?;
            tx.remember_id_change(key.id, &session.record.public_id, id_change)?;
            tx.update_all(*key, session)?;
        }
        SessionWrite::Update { key, session } => {
            evicted = tx.evict_for(&session.record, Some(key.id))?;
            if commit.delta.changes_data_only() {
                tx.update_data(*key, session)?;
            } else {
                tx.update_all(*key, session)?;
            }
        }
        SessionWrite::Touch { key, session } => tx.update_seen(*key, session)?,
    }
    Ok(decision.into_answer(evicted))
}
