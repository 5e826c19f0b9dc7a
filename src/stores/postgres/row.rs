//! Reads columns by the driver, and writes them.

use std::error;
use std::fmt::Display;
use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::{FromSql, Type, accepts};

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::lifetime::Limits;
use crate::stores::postgres::connection::Param;
use crate::stores::sql::columns::ColumnValue;
use crate::stores::sql::decode::SqlRow;
use crate::stores::sql::malformed;

/// Reads a column. A table with columns of other types is not this program's.
pub(super) fn get<'r, T: FromSql<'r>>(row: &'r Row, column: impl RowIndex + Display) -> Result<T> {
    row.try_get(column).map_err(|source| {
        Error::with_source(ErrorKind::ForeignTable, "read a stored session", source)
    })
}

pub(super) fn time(row: &Row, column: &str) -> Result<Timestamp> {
    get(row, column).map(Timestamp::from_millis)
}

/// Reads the id hash of a session, which is the first column of the statements that yield it.
pub(super) fn id_hash(row: &Row) -> Result<SessionIdHash> {
    row.array(0).map(SessionIdHash::from_bytes)
}

/// Decodes the columns `idle` and `absolute`.
pub(super) fn limits(row: &Row) -> Result<Limits> {
    let idle = get::<Option<i64>>(row, "idle")?.map(u64::try_from).transpose();
    let idle = idle.map_err(|_| malformed("idle"))?.map(Duration::from_millis);
    let absolute = get::<Option<i64>>(row, "absolute")?.map(Timestamp::from_millis);
    Ok(Limits::new(idle, absolute))
}

impl SqlRow for Row {
    type Error = Error;

    /// The types of columns are those of the table, in every row.
    fn is_damage(_: &Error) -> bool {
        false
    }

    fn int(&self, column: usize) -> Result<i64> {
        get(self, column)
    }

    fn optional_int(&self, column: usize) -> Result<Option<i64>> {
        get(self, column)
    }

    fn flag(&self, column: usize) -> Result<bool> {
        get(self, column)
    }

    fn array<const N: usize>(&self, column: usize) -> Result<[u8; N]> {
        let name = || self.columns().get(column).map_or("", |column| column.name());
        get::<&[u8]>(self, column)?.try_into().map_err(|_| malformed(name()))
    }

    fn bytes(&self, column: usize) -> Result<Option<&[u8]>> {
        get(self, column)
    }

    fn text(&self, column: usize) -> Result<Option<&[u8]>> {
        Ok(get::<Option<RawBytes<'_>>>(self, column)?.map(|RawBytes(bytes)| bytes))
    }
}

/// The bytes of a text, or of the data.
struct RawBytes<'r>(&'r [u8]);

impl<'r> FromSql<'r> for RawBytes<'r> {
    fn from_sql(_: &Type, raw: &'r [u8]) -> Result<Self, Box<dyn error::Error + Sync + Send>> {
        Ok(RawBytes(raw))
    }

    accepts!(BYTEA, TEXT);
}

/// Returns the parameters of a statement that writes these values, with `last` after them.
pub(super) fn params<'v, const N: usize>(
    values: [ColumnValue<'v>; N],
    last: impl Into<Param<'v>>,
) -> Vec<Param<'v>> {
    values.into_iter().map(Param::from).chain([last.into()]).collect()
}

impl<'v> From<ColumnValue<'v>> for Param<'v> {
    fn from(value: ColumnValue<'v>) -> Self {
        match value {
            ColumnValue::Bool(value) => Param::Bool(value),
            ColumnValue::Int(value) => Param::Int(value),
            ColumnValue::Bytes(value) => Param::Bytes(value),
            ColumnValue::Text(value) => Param::Text(value),
            ColumnValue::OwnedText(value) => Param::OwnedText(value),
            ColumnValue::Data(json) => Param::Bytes(Some(json.as_bytes())),
        }
    }
}
