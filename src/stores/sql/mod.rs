//! What the stores with SQL tables have in common: names and statements here, `columns`, and the
//! decoding of rows in `decode`.

pub(super) mod columns;
pub(super) mod decode;

use std::slice;

use crate::backend::{StoreIdentity, TouchError};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::SessionIdHash;
use crate::list::{Cursor, Page};
use crate::record::Touch;

/// The maximum number of forgotten replaced ids, of any session, that are deleted when others are
/// stored, so that their table does not grow without bound.
pub(super) const FORGOTTEN_PER_CHANGE: i64 = 2;

/// Declares a struct with the texts of statements for one table, and its function `new`.
macro_rules! statements {
    ($struct:ident($arg:ident: $type:ty) { $($prelude:tt)* } $($name:ident: $text:literal;)*) => {
        #[derive(Debug)]
        pub(super) struct $struct {
            $(pub(super) $name: String,)*
        }

        impl $struct {
            pub(super) fn new($arg: $type) -> Self {
                $($prelude)*
                $struct { $($name: format!($text),)* }
            }
        }
    };
}
pub(super) use statements;

/// Returns a statement with `condition` in the place of its `{condition}`.
pub(super) fn with_condition(statement: &str, condition: &str) -> String {
    statement.replace("{condition}", condition)
}

/// Returns columns, each after a comma: the number of live sessions that were created in each
/// period. A period ends where the next begins.
pub(super) fn created_counts(periods: &[Timestamp], now: Timestamp) -> String {
    let now = now.as_millis();
    let ends = periods.iter().skip(1).copied().chain([Timestamp::MAX]);
    let bounds = periods.iter().zip(ends).map(|(from, to)| (from.as_millis(), to.as_millis()));
    let column = |(from, to)| {
        format!(
            ", count(*) FILTER (WHERE deadline > {now} AND created >= {from} AND created < {to})"
        )
    };
    bounds.map(column).collect()
}

/// Writes a batch of touches by `write`, a transaction. An error of one row, such as that of a
/// trigger, undoes it all; then each touch is written alone.
pub(super) fn touch(
    batch: &[(SessionIdHash, Touch)],
    write: impl Fn(&[(SessionIdHash, Touch)]) -> Result<(), TouchError>,
) -> Result<(), TouchError> {
    if batch.is_empty() {
        return Ok(());
    }
    match write(batch) {
        Err(TouchError::Store(error))
            if error.kind() == ErrorKind::Unexpected && batch.len() > 1 =>
        {
            TouchError::write_each(batch, |touch| Ok(write(slice::from_ref(touch))?))
        }
        written => written,
    }
}

/// Fails with [`ErrorKind::Invalid`] unless `name` is safe inside double quotes and has at most
/// `longest` characters.
pub(super) fn validate_table_name(name: &str, longest: usize) -> Result<()> {
    if name.is_empty() || name.len() > longest {
        Err(bad_table_name(format!("a table name has 1 to {longest} characters")))
    } else if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        || name.starts_with(|c: char| c.is_ascii_digit())
    {
        Err(bad_table_name(
            "a table name has only ASCII letters, digits and underscores, and begins with no digit",
        ))
    } else {
        Ok(())
    }
}

pub(super) fn bad_table_name(why: impl Into<String>) -> Error {
    Error::with_source(ErrorKind::Invalid, "use that table name", why.into())
}

/// Returns the error of a row whose `column` no version of this program wrote.
pub(super) fn malformed(column: &str) -> Error {
    let why = format!("the column {column} is malformed");
    Error::with_source(ErrorKind::Undecodable, "decode a stored session", why)
}

/// Returns `number`, or the highest number of a column if it is higher.
pub(super) fn saturating_i64(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

/// Returns the position before which a page begins, and its limit.
pub(super) fn page_params(page: Page) -> [i64; 2] {
    [page.after.map_or(i64::MAX, Cursor::position), saturating_i64(page.limit.get())]
}

/// Decodes the identity of a store, 32 hexadecimal digits.
pub(super) fn identity(hex: &str) -> Result<StoreIdentity> {
    let number = u128::from_str_radix(hex, 16).map_err(|_| malformed("identity"))?;
    Ok(StoreIdentity::from_bytes(number.to_be_bytes()))
}
