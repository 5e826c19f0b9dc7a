//! Commits in two trips: the first one locks the session and reads it, [`Commit::decide`] decides,
//! and the second one writes and commits. A creation, and a merge of data into a session that the
//! request has loaded, need one trip. If another request has changed that session since, the merge
//! takes these two trips as well.

use tokio_postgres::Row;

use crate::backend::{
    Action, Commit, CommitAnswer, Found, LiveSession, ReplacedId, SessionWrite, UserMaximum,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::record::{EndedSession, FORMAT};
use crate::stores::postgres::connection::{Param, Query, Trips};
use crate::stores::postgres::error::CallFailure;
use crate::stores::postgres::row::{self, get};
use crate::stores::postgres::sql::{AdvisoryLocks, Statements};
use crate::stores::sql::columns::{replaced, session};
use crate::stores::sql::{FORGOTTEN_PER_CHANGE, decode, saturating_i64};

/// What a commit reads before its decision. The sessions are locked until the transaction ends.
struct LockedRows {
    found: Found<i64>,
    /// The replaced ids of the session, the oldest first.
    replaced: Vec<ReplacedId>,
    /// Whether a session has or had the new id of the commit.
    is_taken: bool,
    /// The sessions that the maximum per user counts, in the order of their sign-ins.
    of_user: Vec<(i64, EndedSession)>,
}

/// Finds the session and applies the decision.
pub(super) async fn apply(
    commit: &Commit,
    trips: &mut Trips<'_>,
    sql: &Statements,
    locks: &AdvisoryLocks,
) -> Result<CommitAnswer, CallFailure> {
    if let Action::Create(_) = commit.action {
        return create(commit, trips, sql).await;
    }
    if let Some(loaded) = &commit.loaded
        && let Some(merged) = commit.merge_into_loaded()
        && compare_and_swap(loaded, &merged, trips, sql).await?
    {
        return Ok(CommitAnswer::done(merged));
    }
    let LockedRows { found, replaced: earlier, is_taken, of_user } =
        lock(commit, trips, sql, locks).await?;
    let decision = commit.decide(found)?;
    if is_taken && decision.write.new_id().is_some() {
        return Err(Error::id_is_taken().into());
    }
    let decision = decision.apply_maximum(of_user);
    let removed: Vec<_> = decision.removed().copied().collect();
    let remembered;
    let mut queries = Vec::new();
    if !removed.is_empty() {
        queries.push(Query::new(&sql.delete, [Param::Ints(removed)]));
    }
    match &decision.write {
        SessionWrite::Nothing(_) => {}
        SessionWrite::Insert { session, replaced } => {
            queries.push(insert(sql, session));
            if let Some(replaced) = replaced {
                let params = [replaced.id_hash.as_bytes().into()];
                queries.push(Query::new(&sql.delete_replaced, params));
                queries.push(insert_replaced(sql, replaced, &session.id_hash));
            }
        }
        SessionWrite::Update { key, session } => queries.push(update(sql, *key, session)),
        SessionWrite::Move { key, session, id_change } => {
            queries.push(update(sql, *key, session));
            remembered = id_change.remembered(earlier);
            queries.push(Query::new(&sql.delete_replaced_of, [(*key).into()]));
            let insert = |id| insert_replaced(sql, id, &session.id_hash);
            queries.extend(remembered.iter().map(insert));
            let params = [commit.now.as_millis().into(), FORGOTTEN_PER_CHANGE.into()];
            queries.push(Query::new(&sql.delete_forgotten, params));
        }
        SessionWrite::Touch { key, session } => {
            let seen = session.record.seen;
            let deadline = session.record.deadline();
            let params = [(*key).into(), seen.as_millis().into(), deadline.as_millis().into()];
            queries.push(Query::new(&sql.update_seen, params));
        }
    }
    // Without a query the transaction has changed nothing.
    if !queries.is_empty() {
        trips.commit(queries).await?;
    }
    Ok(decision.into_answer(Vec::new()))
}

/// Stores `merged` if the stored session is still `loaded`. Returns whether it was.
async fn compare_and_swap(
    loaded: &LiveSession,
    merged: &LiveSession,
    trips: &mut Trips<'_>,
    sql: &Statements,
) -> Result<bool, CallFailure> {
    let record = &merged.record;
    let params = [
        loaded.id_hash.as_bytes().into(),
        saturating_i64(loaded.record.revision).into(),
        loaded.record.seen.as_millis().into(),
        Param::Bytes(Some(record.data.as_json().as_bytes())),
        saturating_i64(record.revision).into(),
        record.seen.as_millis().into(),
        record.deadline().as_millis().into(),
        i64::from(FORMAT).into(),
    ];
    Ok(!trips.write(Query::new(&sql.compare_and_swap, params)).await?.is_empty())
}

/// Creates a session in one trip. The statement and the unique index find a conflict.
async fn create(
    commit: &Commit,
    trips: &mut Trips<'_>,
    sql: &Statements,
) -> Result<CommitAnswer, CallFailure> {
    let decision = commit.decide(Found::<()>::NotFound)?;
    let SessionWrite::Insert { session, .. } = &decision.write else {
        return Err(Error::new(ErrorKind::Unexpected, commit.action.operation()).into());
    };
    if trips.write(insert(sql, session)).await?.is_empty() {
        return Err(Error::id_is_taken().into());
    }
    Ok(decision.into_answer(Vec::new()))
}

/// Begins the transaction, and locks and reads all that the decision and its execution need.
async fn lock(
    commit: &Commit,
    trips: &mut Trips<'_>,
    sql: &Statements,
    locks: &AdvisoryLocks,
) -> Result<LockedRows, CallFailure> {
    let presented = &commit.id_hash;
    let mut sign_in_lock = None;
    let mut is_taken = None;
    if let Action::SignIn { user, .. } = &commit.action {
        // Its lock waits for the user's other sign-ins.
        let params = [locks.revocation.into(), locks.of_user(user).into()];
        sign_in_lock = Some(Query::new(&sql.sign_in_lock, params));
    }
    let maximum = commit.possible_maximum();
    let of_user = maximum.as_ref().map(|UserMaximum { user, realm, .. }| {
        Query::new(&sql.lock_of_user, [user.as_str().into(), realm.as_str().into()])
    });
    if let Action::Renew { to, .. } | Action::SignIn { to, .. } = &commit.action {
        is_taken = Some(Query::new(&sql.is_taken, [to.as_bytes().into()]));
    }
    let lock = || Query::new(&sql.lock, [presented.as_bytes().into()]);
    let replaced_of = || Query::new(&sql.replaced_of, [presented.as_bytes().into()]);
    // Locks the user's other sessions first. Each statement has its own snapshot, so the session is
    // never read in an older state than they are.
    let queries = [sign_in_lock, of_user, Some(lock()), Some(replaced_of()), is_taken];
    let [_, of_user, mut locked, mut replaced, taken] = trips.begin(queries).await?;
    while locked.is_empty() && !replaced.is_empty() {
        // While this transaction waited for the lock, a sign-in has replaced the session by
        // another, to which the presented id leads now.
        (locked, replaced) = (trips.query(lock()).await?, trips.query(replaced_of()).await?);
    }
    let (found, replaced) = match locked.first() {
        Some(row) => {
            let id = get(row, "id")?;
            let replaced = replaced_ids(&replaced, id)?;
            let current = decode::lookup(row, id, commit.now)?;
            let found = match replaced.iter().find(|id| id.id_hash == *presented) {
                _ if row::id_hash(row)? == *presented => current,
                Some(id) => current.through_replaced_id(*id, commit.now),
                None => Found::NotFound,
            };
            (found, replaced)
        }
        None => (Found::NotFound, Vec::new()),
    };
    let of_user = of_user.iter().map(|row| {
        let session = decode::ended_session(row, commit.now)?;
        Ok((get::<Option<i64>>(row, "authenticated")?, get(row, "id")?, session))
    });
    let mut of_user = of_user.collect::<Result<Vec<_>>>()?;
    of_user.sort_by_key(|(authenticated, id, _)| (*authenticated, *id));
    let of_user = of_user.into_iter().map(|(_, id, session)| (id, session)).collect();
    Ok(LockedRows { found, replaced, is_taken: !taken.is_empty(), of_user })
}

/// Returns the replaced ids in `rows` that belong to this session.
fn replaced_ids(rows: &[Row], session: i64) -> Result<Vec<ReplacedId>> {
    let mut ids = Vec::new();
    for row in rows {
        if get::<i64>(row, "session")? == session {
            ids.push(decode::replaced_id(row, 0)?);
        }
    }
    Ok(ids)
}

fn insert<'q>(sql: &'q Statements, session: &'q LiveSession) -> Query<'q> {
    let values = session::values(session, session.record.deadline());
    Query::new(&sql.insert, values.map(Param::from))
}

fn update<'q>(sql: &'q Statements, id: i64, session: &'q LiveSession) -> Query<'q> {
    let values = session::values(session, session.record.deadline());
    Query { sql: &sql.update, params: row::params(values, id) }
}

/// Inserts a replaced id of the session whose current id is `current`.
fn insert_replaced<'q>(
    sql: &'q Statements,
    id: &'q ReplacedId,
    current: &'q SessionIdHash,
) -> Query<'q> {
    let params = row::params(replaced::values(id), current.as_bytes());
    Query { sql: &sql.insert_replaced, params }
}
