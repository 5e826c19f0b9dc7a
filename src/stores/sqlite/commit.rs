//! Commits, carried out within a transaction of the writer.

use rusqlite::Connection;

use crate::backend::{Action, Commit, Committed, Decision, LiveSession, Lookup, Missing};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::stores::sqlite::error::while_doing;
use crate::stores::sqlite::record_cache::{Hot, Transaction};
use crate::stores::sqlite::row::{self, Place};
use crate::stores::sqlite::sql::Sql;
use crate::stores::sqlite::write::CommitMode;

pub(super) fn commit_mode(commit: &Commit) -> CommitMode {
    match commit.is_revocation() {
        true => CommitMode::Synced,
        false => CommitMode::Normal,
    }
}

/// Finds the session and does what is decided.
pub(super) fn carry_out(
    commit: &Commit,
    connection: &Connection,
    sql: &Sql,
    transaction: &mut Transaction<'_>,
) -> Result<Committed> {
    let failed = || while_doing(commit.action.operation());
    let found = match commit.action {
        // The unique key finds the conflict that a look-up would find.
        Action::Create(_) => Lookup::not_found(),
        _ => match transaction.find(&commit.id_hash) {
            Some(hot) => cached(commit, hot),
            None => row::find(connection, sql, &commit.id_hash, commit.now)?,
        },
    };
    if let Some(expired) = commit.expired_to_remove(&found) {
        row::delete(connection, sql, expired.id).map_err(failed())?;
        transaction.remove(expired.id_hash);
    }
    match commit.decide(found)? {
        Decision::Insert { session, replaces } => {
            let LiveSession { record, id_hash } = &session;
            let found = replaces.map(|(_, at)| at);
            let Some(mut ended) = make_room(commit, connection, sql, id_hash, found, transaction)?
            else {
                return Ok(Committed::LimitReached);
            };
            if let Some(at) = found {
                row::delete(connection, sql, at.id).map_err(failed())?;
                transaction.remove(at.id_hash);
                ended.push(at.id_hash);
            }
            row::insert(connection, sql, id_hash, record).map_err(failed())?;
            let id = connection.last_insert_rowid();
            transaction.put(*id_hash, id, record);
            if let Some((presented, _)) = &replaces {
                let row = (id, &record.public_id);
                row::remember_anew(connection, sql, row, presented, transaction)
                    .map_err(failed())?;
            }
            Ok(Committed::Done { session, ended })
        }
        Decision::Update { at, session, id_change: Some(id_change) } => {
            let LiveSession { record, id_hash } = &session;
            let room = make_room(commit, connection, sql, id_hash, Some(at), transaction)?;
            let Some(mut ended) = room else { return Ok(Committed::LimitReached) };
            row::id_change(connection, sql, at, &id_change, transaction).map_err(failed())?;
            row::update_all(connection, sql, at, record).map_err(failed())?;
            transaction.remove(at.id_hash);
            transaction.put(*id_hash, at.id, record);
            ended.push(at.id_hash);
            Ok(Committed::Done { session, ended })
        }
        Decision::Update { at, session, id_change: None } => {
            let record = &session.record;
            let with_deadline = match commit.delta.user() {
                Some(_) => row::update_all(connection, sql, at, record).map(|()| true),
                None => row::update_data(connection, sql, at, record),
            }
            .map_err(failed())?;
            match with_deadline || at.agrees_with(record) {
                true => transaction.put(at.id_hash, at.id, record),
                false => transaction.remove(at.id_hash),
            }
            Ok(Committed::Done { session, ended: Vec::new() })
        }
        Decision::Touch { at, session } => {
            let (seen, deadline) = (session.record.seen, session.record.deadline());
            row::update_seen(connection, sql, at.id, seen, deadline).map_err(failed())?;
            transaction.seen(at.id_hash, seen);
            Ok(Committed::Unchanged(session))
        }
        Decision::Remove { at } => {
            row::delete(connection, sql, at.id).map_err(failed())?;
            transaction.remove(at.id_hash);
            Ok(Committed::Deleted(at.id_hash))
        }
        Decision::Answer(answer) => Ok(answer),
    }
}

/// What a query would find where the record cache has the session.
fn cached(commit: &Commit, Hot { id, record }: Hot) -> Lookup<Place> {
    let (id_hash, public_id) = (commit.id_hash, record.public_id);
    let at = Place { id, id_hash, public_id, seen: record.seen, deadline: record.deadline() };
    match record.is_live(commit.now) {
        true => Lookup::Live { session: LiveSession { record, id_hash }, at },
        false => Lookup::Missing(Missing::NotFound { expired: Some(at) }),
    }
}

/// Checks that `to` is free, and obeys the limit per user: the ids of the sessions that it ended,
/// or `None` when the user has too many.
fn make_room(
    commit: &Commit,
    connection: &Connection,
    sql: &Sql,
    to: &SessionIdHash,
    found: Option<Place>,
    transaction: &mut Transaction<'_>,
) -> Result<Option<Vec<SessionIdHash>>> {
    let failed = || while_doing(commit.action.operation());
    if row::is_taken(connection, sql, to).map_err(failed())? {
        return Err(Error::new(ErrorKind::Conflict, "give a session its new key"));
    }
    let Some((session_limit, user, realm)) = commit.session_limit_of() else {
        return Ok(Some(Vec::new()));
    };
    let except = found.map(|at| at.id);
    let expired =
        row::delete_expired_of(connection, sql, (user, realm), commit.now).map_err(failed())?;
    transaction.swept(commit.now, expired);
    let others =
        row::by_sign_in(connection, sql, (user, realm), except, commit.now).map_err(failed())?;
    let Some(ended) = session_limit.sessions_to_end(&others) else { return Ok(None) };
    for (id, id_hash) in ended {
        row::delete(connection, sql, *id).map_err(failed())?;
        transaction.remove(*id_hash);
    }
    Ok(Some(ended.iter().map(|(_, id_hash)| *id_hash).collect()))
}
