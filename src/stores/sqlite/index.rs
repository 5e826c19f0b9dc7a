//! The session index: listing, revoking and counting.
//!
//! Uses `row` for reads and `write` for revocations. Called by the manager, and by `admin`, which
//! adds operators' selections.

use rusqlite::types::Value as Column;
use rusqlite::{Connection, params_from_iter};

use crate::backend::{Page, SessionFilter, SessionIndex, StoreIdentity};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, Realm, SessionIdHash, UserKey};
use crate::record::{EndedSession, Stats, Summary};
use crate::stores::sqlite::row;
use crate::stores::sqlite::sql::ReadSql;
use crate::stores::sqlite::store::Shared;
use crate::stores::sqlite::write::{JobKind, WriteTx};

/// An SQL condition to follow an `AND`, with its parameters from `?3` on.
type Condition = (String, Vec<Column>);

/// Returns the conditions that together match `filter`. Each is used only if the previous ones
/// matched no row.
pub(super) fn conditions(filter: &SessionFilter<'_>) -> Vec<Condition> {
    let text = |text: &str| Column::Text(text.to_owned());
    let blob = |public_id: &PublicId| Column::Blob(public_id.as_bytes().to_vec());
    let single = |condition: &str, args| vec![(condition.to_owned(), args)];
    match filter {
        SessionFilter::All => single("1", vec![]),
        SessionFilter::User(user) => single("user_key = ?3", vec![text(user.as_str())]),
        // Only sessions with a user are indexed by public id. The others need a scan, which is
        // acceptable for an operator's commands and too slow for requests.
        SessionFilter::PublicId(public_id) => vec![
            ("public_id = ?3 AND user_key IS NOT NULL".to_owned(), vec![blob(public_id)]),
            ("public_id = ?3 AND user_key IS NULL".to_owned(), vec![blob(public_id)]),
        ],
        SessionFilter::PublicIdOfUser(user, public_id) => {
            single("public_id = ?3 AND user_key = ?4", vec![blob(public_id), text(user.as_str())])
        }
        SessionFilter::IdpSession(idp_session_id) => {
            single("idp_session_id = ?3", vec![text(idp_session_id.as_str())])
        }
        SessionFilter::InRealm(realm, filter) => {
            let in_realm = |(condition, mut args): Condition| {
                args.push(text(realm.as_str()));
                (format!("({condition}) AND realm = ?{}", 2 + args.len()), args)
            };
            conditions(filter).into_iter().map(in_realm).collect()
        }
    }
}

/// Reads a page of the rows of `select` that match `filter`. `select` is a statement that ends
/// where a condition can follow.
pub(super) fn list(
    connection: &Connection,
    select: &str,
    filter: &SessionFilter<'_>,
    page: Page,
    now: Timestamp,
) -> rusqlite::Result<Vec<Summary>> {
    let before = page.after.map_or(i64::MAX, |cursor| cursor.position());
    let limit = i64::try_from(page.limit.get()).unwrap_or(i64::MAX);
    // One snapshot for all conditions: between two, a sign-in could move a session from the second
    // condition to the first, and neither would match it.
    let snapshot = connection.unchecked_transaction()?;
    for (condition, args) in conditions(filter) {
        let text = format!("{select}{condition} ORDER BY id DESC LIMIT {limit}");
        let mut columns = vec![Column::Integer(now.as_millis()), Column::Integer(before)];
        columns.extend(args);
        let mut statement = snapshot.prepare(&text)?;
        let found = statement.query_map(params_from_iter(columns), row::summary)?;
        let found = found.collect::<rusqlite::Result<Vec<_>>>()?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

/// Revokes the sessions of the first condition that matches any.
pub(super) fn revoke(
    tx: &mut WriteTx<'_>,
    conditions: Vec<Condition>,
    except: Option<&PublicId>,
    now: Timestamp,
) -> Result<Vec<EndedSession>> {
    for (condition, args) in conditions {
        let revoked = tx.revoke(&condition, args, except, now)?;
        if !revoked.is_empty() {
            return Ok(revoked);
        }
    }
    Ok(Vec::new())
}

impl SessionIndex for Shared {
    fn list(&self, filter: &SessionFilter<'_>, page: Page, now: Timestamp) -> Result<Vec<Summary>> {
        self.query("list sessions", |connection, sql| {
            list(connection, &sql.list, filter, page, now)
        })
    }

    fn revoke(
        &self,
        filter: &SessionFilter<'_>,
        except: Option<&PublicId>,
        now: Timestamp,
    ) -> Result<Vec<EndedSession>> {
        let (except, conditions) = (except.copied(), conditions(filter));
        self.writer.write(JobKind::Synced, "revoke sessions", move |tx| {
            revoke(tx, conditions, except.as_ref(), now)
        })
    }

    fn rename_user(
        &self,
        realm: &Realm,
        (from, to): (&UserKey, &UserKey),
        _now: Timestamp,
    ) -> Result<Vec<SessionIdHash>> {
        let (realm, from, to) = (realm.clone(), from.clone(), to.clone());
        self.writer
            .write(JobKind::Synced, "rename a user", move |tx| tx.rename_user(&realm, &from, &to))
    }

    fn revoke_everyone(&self, realm: Option<&Realm>, now: Timestamp) -> Result<u64> {
        let realm = realm.cloned();
        self.writer.write(JobKind::Synced, "revoke everyone", move |tx| match realm {
            None => tx.delete_all(now),
            Some(realm) => tx.delete_all_of(&realm, now),
        })
    }

    fn epoch(&self) -> Result<u64> {
        let epoch = self.query("read the epoch", row::epoch)?;
        Ok(u64::try_from(epoch).unwrap_or(0))
    }

    fn identity(&self) -> Result<StoreIdentity> {
        self.query("read the identity of the store", row::identity)
    }

    fn stats(&self, now: Timestamp) -> Result<Stats> {
        self.query("count sessions", |connection, sql| stats(connection, sql, now))
    }
}

fn stats(connection: &Connection, sql: &ReadSql, now: Timestamp) -> rusqlite::Result<Stats> {
    // One snapshot for all counts.
    let snapshot = connection.unchecked_transaction()?;
    let count = |sql: &str| -> rusqlite::Result<u64> {
        let count: i64 = snapshot.query_row(sql, [now.as_millis()], |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    };
    let (live, expired) = (count(&sql.count_live)?, count(&sql.count_expired)?);
    // No index covers both user and deadline. One index counts all rows with a user; then the
    // expired or the live rows, whichever are fewer, are read.
    let signed_in = if expired <= live {
        let with_user: i64 = snapshot.query_row(&sql.count_with_user, [], |row| row.get(0))?;
        let with_user = u64::try_from(with_user).unwrap_or(0);
        with_user.saturating_sub(count(&sql.count_expired_with_user)?)
    } else {
        count(&sql.count_live_with_user)?
    };
    let (oldest, newest) = snapshot.query_row(&sql.live_id_range, [now.as_millis()], |row| {
        let (first, last): (Option<i64>, Option<i64>) = (row.get(0)?, row.get(1)?);
        Ok((first.map(Timestamp::from_millis), last.map(Timestamp::from_millis)))
    })?;
    Ok(Stats { live, expired, signed_in, oldest, newest })
}
