//! Reads rows and columns by the driver, and writes columns.

use rusqlite::types::{FromSqlError, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Params, Row, ToSql, params_from_iter};

use crate::backend::{Found, ReplacedId};
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{PublicId, SessionIdHash};
use crate::record::{EndedSession, Record};
use crate::stores::sql::columns::{ColumnValue, REPLACED_ID, ROW_ID, ended, replaced, session};
use crate::stores::sql::decode::{self, SqlRow};
use crate::stores::sqlite::error::During;
use crate::stores::sqlite::sql::ReadSql;

/// The row of a session as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundRow {
    pub(crate) id: i64,
    pub(crate) id_hash: SessionIdHash,
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
            Some(row) => {
                let replaced = decode::replaced_id(row, REPLACED_ID)?;
                Ok(lookup(row, now)?.through_replaced_id(replaced, now))
            }
            None => Ok(Found::NotFound),
        }
    };
    query().during("look a session up")
}

/// Decodes the session in a row, which its current id finds.
fn lookup(row: &Row<'_>, now: Timestamp) -> rusqlite::Result<Found<FoundRow>> {
    let key = FoundRow {
        id: row.int(ROW_ID)?,
        id_hash: SessionIdHash::from_bytes(row.array(session::id_hash)?),
        seen: row.time(session::seen)?,
        deadline: row.time(session::deadline)?,
    };
    decode::lookup(row, key, now)
}

/// Decodes the columns [`ended`](mod@ended) of a session, and its row id after them.
pub(crate) fn ended(row: &Row<'_>, now: Timestamp) -> rusqlite::Result<(FoundRow, EndedSession)> {
    let session = decode::ended_session(row, now)?;
    let key = FoundRow {
        id: row.get("id")?,
        id_hash: session.id_hash,
        seen: row.time(ended::seen)?,
        deadline: row.time(ended::deadline)?,
    };
    Ok((key, session))
}

impl SqlRow for Row<'_> {
    type Error = rusqlite::Error;

    fn is_damage(error: &rusqlite::Error) -> bool {
        use rusqlite::Error::{FromSqlConversionFailure, InvalidColumnType};
        matches!(error, InvalidColumnType(..) | FromSqlConversionFailure(..))
    }

    fn int(&self, column: usize) -> rusqlite::Result<i64> {
        self.get(column)
    }

    fn optional_int(&self, column: usize) -> rusqlite::Result<Option<i64>> {
        self.get(column)
    }

    fn flag(&self, column: usize) -> rusqlite::Result<bool> {
        self.get(column)
    }

    fn array<const N: usize>(&self, column: usize) -> rusqlite::Result<[u8; N]> {
        self.get(column)
    }

    fn bytes(&self, column: usize) -> rusqlite::Result<Option<&[u8]>> {
        Ok(self.get_ref(column)?.as_blob_or_null()?)
    }

    fn text(&self, column: usize) -> rusqlite::Result<Option<&[u8]>> {
        match self.get_ref(column)? {
            ValueRef::Null => Ok(None),
            ValueRef::Text(text) => Ok(Some(text)),
            _ => Err(FromSqlError::InvalidType.into()),
        }
    }
}

/// Returns the parameters that insert a replaced id of the session in the row `session`.
pub(crate) fn replaced_params<'p>(
    session: i64,
    public_id: &'p PublicId,
    id: &'p ReplacedId,
) -> impl Params + 'p {
    let of = [ColumnValue::Int(Some(session)), ColumnValue::Bytes(Some(public_id.as_bytes()))];
    params_from_iter(replaced::values(id).into_iter().chain(of))
}

impl ToSql for ColumnValue<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        match self {
            ColumnValue::Bool(value) => value.to_sql(),
            ColumnValue::Int(value) => value.to_sql(),
            ColumnValue::Bytes(value) => value.to_sql(),
            ColumnValue::Text(value) => value.to_sql(),
            ColumnValue::OwnedText(value) => value.to_sql(),
            ColumnValue::Data(value) => value.to_sql(),
        }
    }
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
