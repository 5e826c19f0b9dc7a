//! Reads rows, and decodes them to records.
//!
//! Uses the texts of `sql` and the indexes of `columns`.

use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row};

use crate::backend::{Found, LiveSession, ReplacedBy, ReplacedId};
use crate::clock::Timestamp;
use crate::data::Data;
use crate::error::Result;
use crate::id::{IdpSessionId, JoinSalt, PublicId, Realm, SessionIdHash, UserKey};
use crate::lifetime::Limits;
use crate::list::{Cursor, Summary};
use crate::record::{self, Client, EndedSession, Record};
use crate::stores::sql::malformed;
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::sql::ReadSql;
use crate::stores::sqlite::sql::columns::{REPLACED_ID, ROW_ID, replaced, session};

/// The row of a session as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundRow {
    pub(crate) id: i64,
    pub(crate) id_hash: SessionIdHash,
    pub(crate) public_id: PublicId,
    pub(crate) seen: Timestamp,
    /// The deadline column, which an operator may have edited.
    pub(crate) deadline: Timestamp,
}

impl FoundRow {
    /// Returns whether the deadline column equals the deadline computed from `record`.
    pub(crate) fn agrees_with(&self, record: &Record) -> bool {
        self.deadline == record.deadline()
    }
}

/// Looks `id_hash` up at `now`, as a current or as a replaced id.
pub(crate) fn find(
    connection: &Connection,
    sql: &ReadSql,
    id_hash: &SessionIdHash,
    now: Timestamp,
) -> Result<Found<FoundRow>> {
    let query = || -> rusqlite::Result<_> {
        let mut by_id_hash = connection.prepare_cached(&sql.by_id_hash)?;
        if let Some(row) = by_id_hash.query([id_hash.as_bytes()])?.next()? {
            return lookup(row, now);
        }
        let mut by_replaced_id = connection.prepare_cached(&sql.by_replaced_id)?;
        match by_replaced_id.query([id_hash.as_bytes()])?.next()? {
            Some(row) => Ok(lookup(row, now)?.by_replaced_id(replaced_id(row, REPLACED_ID)?, now)),
            None => Ok(Found::Nothing),
        }
    };
    query().during("look a session up")
}

/// Decodes the columns of a replaced id, the first of which is at the index `first`.
pub(crate) fn replaced_id(row: &Row<'_>, first: usize) -> rusqlite::Result<ReplacedId> {
    Ok(ReplacedId {
        id_hash: SessionIdHash::from_bytes(row.get(first + replaced::id_hash)?),
        successor: SessionIdHash::from_bytes(row.get(first + replaced::successor)?),
        replaced_at: time(row, first + replaced::replaced_at)?,
        by: if row.get(first + replaced::by_sign_in)? {
            let salt: Option<[u8; 32]> = row.get(first + replaced::join_salt)?;
            ReplacedBy::SignIn { salt: salt.map(JoinSalt::from_bytes) }
        } else {
            ReplacedBy::Renewal { grace_until: optional_time(row, first + replaced::grace_until)? }
        },
        had_user: row.get(first + replaced::had_user)?,
    })
}

/// Decodes the session in a row, which its current id finds.
fn lookup(row: &Row<'_>, now: Timestamp) -> rusqlite::Result<Found<FoundRow>> {
    let id_hash = SessionIdHash::from_bytes(row.get(session::id_hash)?);
    let public_id = PublicId::from_bytes(row.get(session::public_id)?);
    let seen = time(row, session::seen)?;
    let deadline = time(row, session::deadline)?;
    let at = FoundRow { id: row.get(ROW_ID)?, id_hash, public_id, seen, deadline };
    if deadline <= now {
        return Ok(Found::of_expired(&without_data(row, &mut None)?, at));
    }
    Ok(match decode(row)? {
        Ok(record) => Found::Live { session: LiveSession { record, id_hash }, at },
        Err(error) => Found::Undecodable { id_hash, public_id: Some(public_id), error, at },
    })
}

/// Decodes a record. The outer error is SQLite's; the inner one reports a malformed row.
pub(crate) fn decode(row: &Row<'_>) -> rusqlite::Result<Result<Record>> {
    let format: i64 = row.get(session::format)?;
    if let Err(error) = record::check_format(u32::try_from(format).unwrap_or(u32::MAX)) {
        return Ok(Err(error));
    }
    let Ok(data) = row.get_ref(session::data)?.as_str() else { return Ok(Err(malformed("data"))) };
    let data = match Data::from_json(data) {
        Ok(data) => data,
        Err(error) => return Ok(Err(error)),
    };
    let mut malformed_column = None;
    let record = without_data(row, &mut malformed_column)?;
    Ok(match malformed_column {
        Some(column) => Err(malformed(column)),
        None => Ok(Record { data, ..record }),
    })
}

/// Decodes one row of a list, which has the size of the data in its place. A malformed column is
/// shown as empty, so that the row stays visible.
pub(crate) fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    let record = without_data(row, &mut None)?;
    Ok(Summary {
        deadline: time(row, session::deadline)?,
        bytes: usize::try_from(row.get::<_, i64>(session::data)?).unwrap_or(0),
        ..Summary::of(&record, Cursor::new(row.get(ROW_ID)?))
    })
}

/// Decodes the columns `columns::ENDED`. A malformed one counts as empty, so that the session can
/// be deleted.
pub(crate) fn to_ended_session(row: &Row<'_>) -> rusqlite::Result<EndedSession> {
    let id_hash = SessionIdHash::from_bytes(row.get("id_hash")?);
    let public_id = PublicId::from_bytes(row.get("public_id")?);
    let user = row.get_ref("user_key")?.as_str().ok().and_then(|user| UserKey::new(user).ok());
    let ended = EndedSession::new(id_hash, Some(public_id), user);
    if row.get("is_live")? {
        return Ok(ended);
    }
    let millis = |column| row.get_ref(column).ok()?.as_i64().ok();
    let idle = millis("idle").and_then(|idle| u64::try_from(idle).ok()).map(Duration::from_millis);
    let absolute_deadline = millis("absolute").map(Timestamp::from_millis);
    let seen = row.get("seen").map(Timestamp::from_millis)?;
    Ok(ended.with_reached_limit(Limits { idle, absolute_deadline }.reached_limit(seen)))
}

/// Decodes the columns of a record except the format and the data. A malformed column is read as
/// empty, and its name noted.
fn without_data(row: &Row<'_>, malformed: &mut Option<&'static str>) -> rusqlite::Result<Record> {
    /// Decodes a column whose values SQLite does not check.
    fn checked<T: Default>(
        row: &Row<'_>,
        column: usize,
        malformed: &mut Option<&'static str>,
        decode: impl FnOnce(ValueRef<'_>) -> Option<T>,
    ) -> rusqlite::Result<T> {
        Ok(decode(row.get_ref(column)?).unwrap_or_else(|| {
            *malformed = session::NAMES.get(column).copied();
            T::default()
        }))
    }
    let user = |text: ValueRef<'_>| text.as_str_or_null().ok()?.map(UserKey::new).transpose().ok();
    let idp_session_id =
        |text: ValueRef<'_>| text.as_str_or_null().ok()?.map(IdpSessionId::new).transpose().ok();
    let idle =
        |millis: ValueRef<'_>| millis.as_i64_or_null().ok()?.map(u64::try_from).transpose().ok();
    Ok(Record {
        public_id: PublicId::from_bytes(row.get(session::public_id)?),
        realm: checked(row, session::realm, malformed, |name| {
            Realm::new(name.as_str().ok()?).ok()
        })?,
        user: checked(row, session::user_key, malformed, user)?,
        idp_session_id: checked(row, session::idp_session_id, malformed, idp_session_id)?,
        auth_level: checked(row, session::auth_level, malformed, |level| {
            u16::try_from(level.as_i64().ok()?).ok()
        })?,
        created: time(row, session::created)?,
        authenticated: optional_time(row, session::authenticated)?,
        seen: time(row, session::seen)?,
        id_issued: time(row, session::id_issued)?,
        limits: Limits {
            idle: checked(row, session::idle, malformed, idle)?.map(Duration::from_millis),
            absolute_deadline: optional_time(row, session::absolute)?,
        },
        persistent: row.get(session::persistent)?,
        revision: checked(row, session::revision, malformed, |n| {
            u64::try_from(n.as_i64().ok()?).ok()
        })?,
        // Informative only: a malformed one counts as none.
        client: row.get_ref(session::client)?.as_str().ok().and_then(Client::from_json),
        data: Data::default(),
    })
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// Returns the count that the statement `sql` selects.
pub(crate) fn count(
    connection: &Connection,
    sql: &str,
    params: impl Params,
) -> rusqlite::Result<u64> {
    let count: i64 = connection.query_row(sql, params, |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Returns the store's [epoch](crate::backend::SessionIndex::epoch).
pub(crate) fn epoch(connection: &Connection, sql: &ReadSql) -> rusqlite::Result<i64> {
    connection.prepare_cached(&sql.epoch)?.query_row([], |row| row.get(0))
}

/// Returns the store's identity, encoded.
pub(crate) fn identity(connection: &Connection, sql: &ReadSql) -> rusqlite::Result<String> {
    connection.prepare_cached(&sql.identity)?.query_row([], |row| row.get(0))
}
