//! The session index: listing, revoking and counting.

use std::num::NonZeroUsize;

use rusqlite::types::Value as Column;
use rusqlite::{Connection, Row, params, params_from_iter};

use crate::backend::{RemovalReport, SessionIndex, StoreIdentity};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::list::{Page, SessionFilter, Stats, Summary};
use crate::record::EndedSession;
use crate::stores::sql::{self, decode, page_params, saturating_i64, with_condition};
use crate::stores::sqlite::sql::ReadSql;
use crate::stores::sqlite::sql::row;
use crate::stores::sqlite::store::SqliteInner;
use crate::sync::monotonic_now;

/// An SQL condition, with its parameters from `?3` on.
type Condition = (String, Vec<Column>);

/// Returns the condition of the sessions that match `filter`.
pub(super) fn condition(sql: &ReadSql, filter: &SessionFilter<'_>) -> Condition {
    let text = |text: &str| Column::Text(text.to_owned());
    let blob = |public_id: &PublicId| Column::Blob(public_id.as_bytes().to_vec());
    match filter {
        SessionFilter::All => ("1".to_owned(), vec![]),
        SessionFilter::User(user) => ("user_key = ?3".to_owned(), vec![text(user.as_str())]),
        SessionFilter::PublicId(public_id) => {
            (format!("id = ({})", sql.id_by_public_id), vec![blob(public_id)])
        }
        SessionFilter::PublicIdOfUser(user, public_id) => (
            "public_id = ?3 AND user_key = ?4".to_owned(),
            vec![blob(public_id), text(user.as_str())],
        ),
        SessionFilter::IdpSession(idp_session_id) => {
            ("idp_session_id = ?3".to_owned(), vec![text(idp_session_id.as_str())])
        }
        SessionFilter::InRealm(realm, filter) => {
            let (condition, mut args) = condition(sql, filter);
            args.push(text(realm.as_str()));
            (format!("({condition}) AND realm = ?{}", 2 + args.len()), args)
        }
    }
}

/// Reads a page of the rows that match `filter` by `select`, a statement with a `{condition}` and a
/// `{limit}`.
pub(super) fn list(
    connection: &Connection,
    sql: &ReadSql,
    select: &str,
    filter: &SessionFilter<'_>,
    page: Page,
    now: Timestamp,
) -> rusqlite::Result<Vec<Summary>> {
    let [before, limit] = page_params(page);
    let (condition, args) = condition(sql, filter);
    let text = with_condition(select, &condition).replace("{limit}", &limit.to_string());
    let columns = [Column::Integer(now.as_millis()), Column::Integer(before)].into_iter();
    let mut statement = connection.prepare(&text)?;
    statement
        .query_map(params_from_iter(columns.chain(args)), |row| decode::summary(row))?
        .collect()
}

impl SessionIndex for SqliteInner {
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.query("list sessions", |connection, sql| {
            list(connection, sql, &sql.list, filter, page, now)
        })
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        let except = except.copied();
        let (condition, args) = condition(&self.sql, filter);
        self.writer
            .write("revoke sessions", move |tx| tx.revoke(&condition, args, except.as_ref(), now))
    }

    fn rename_user(
        &self,
        realm: &Realm,
        from: &UserKey,
        to: &UserKey,
        _now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        let realm = realm.clone();
        let from = from.clone();
        let to = to.clone();
        self.writer.write("rename a user", move |tx| tx.rename_user(&realm, &from, &to))
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        let realm = realm.cloned();
        self.writer.write("revoke everyone", move |tx| match realm {
            None => tx.revoke_everyone(now),
            Some(realm) => tx.revoke_everyone_in(&realm, now),
        })
    }

    fn epoch(&self) -> Result<u64> {
        let epoch = self.query("read the epoch", row::epoch)?;
        Ok(u64::try_from(epoch).unwrap_or(0))
    }

    fn identity(&self) -> Result<StoreIdentity> {
        sql::identity(&self.query("read the identity of the store", row::identity)?)
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.query("count sessions", |connection, sql| stats(connection, sql, now))
    }

    fn idle_anonymous(
        &self,
        realm: &Realm,
        keep: u64,
        limit: NonZeroUsize,
    ) -> Result<Vec<SessionIdHash>> {
        self.query("list idle sessions", |connection, sql| {
            idle_anonymous(connection, sql, realm, keep, limit)
        })
    }

    fn evict_anonymous(&self, id_hashes: &[SessionIdHash], _: Timestamp) -> Result<RemovalReport> {
        const OPERATION: &str = "evict anonymous sessions";
        let id_hashes = id_hashes.to_vec();
        let (removed, began) = self.writer.write_unsynced(OPERATION, move |tx| {
            // The transaction holds the write lock by now, and releases it by the commit.
            let began = monotonic_now();
            Ok((tx.evict_anonymous(&id_hashes)?, began))
        })?;
        Ok(RemovalReport::since(began, removed))
    }
}

fn idle_anonymous(
    connection: &Connection,
    sql: &ReadSql,
    realm: &Realm,
    keep: u64,
    limit: NonZeroUsize,
) -> rusqlite::Result<Vec<SessionIdHash>> {
    // One snapshot for all statements.
    let snapshot = connection.unchecked_transaction()?;
    let all = row::count(&snapshot, &sql.count_all, [])?;
    // The counts of all realms read indexes alone, in a tenth of the time of the count of one.
    if all.saturating_sub(row::count(&snapshot, &sql.count_with_user, [])?) <= keep {
        return Ok(Vec::new());
    }
    let anonymous = row::count(&snapshot, &sql.count_anonymous_of, [realm.as_str()])?;
    let limit = saturating_i64(anonymous.saturating_sub(keep)).min(saturating_i64(limit.get()));
    let mut idle = snapshot.prepare_cached(&sql.idle_anonymous)?;
    let id_hash = |row: &Row<'_>| Ok(SessionIdHash::from_bytes(row.get(0)?));
    idle.query_map(params![realm.as_str(), limit], id_hash)?.collect()
}

fn stats(connection: &Connection, sql: &ReadSql, now: Timestamp) -> rusqlite::Result<Stats> {
    // Counts indexes: every request that begins or ends a session would have to write a stored
    // counter. One snapshot for all counts.
    let snapshot = connection.unchecked_transaction()?;
    let count = |sql: &str| row::count(&snapshot, sql, [now.as_millis()]);
    let live = count(&sql.count_live)?;
    let expired = count(&sql.count_expired)?;
    // No index covers both user and deadline. One index counts all rows with a user; then the
    // expired or the live rows, whichever are fewer, are read.
    let with_user = row::count(&snapshot, &sql.count_with_user, [])?;
    let (signed_in, expired_signed_in) = if expired <= live {
        let expired = count(&sql.count_expired_with_user)?;
        (with_user.saturating_sub(expired), expired)
    } else {
        let live = count(&sql.count_live_with_user)?;
        (live, with_user.saturating_sub(live))
    };
    let (oldest, newest) = snapshot.query_row(&sql.live_id_range, [now.as_millis()], |row| {
        let first: Option<i64> = row.get(0)?;
        let last: Option<i64> = row.get(1)?;
        Ok((first.map(Timestamp::from_millis), last.map(Timestamp::from_millis)))
    })?;
    Ok(Stats { live, expired, signed_in, expired_signed_in, oldest, newest })
}
