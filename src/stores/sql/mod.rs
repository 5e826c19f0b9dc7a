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

/// The maximum number of forgotten replaced ids, of any session, that are deleted when the id of a
/// session is replaced, so that their table does not grow without bound. In SQLite also when a
/// sign-in begins another session than that of the id.
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

/// Writes a batch of touches by `write`, a transaction. An error that may concern one row, such as
/// that of a trigger, undoes it all; then each touch is written alone, until the store itself
/// fails. (Halves would take fewer transactions, but a trigger that rolls back would undo more of
/// them, and with each the other work of its group.)
pub(super) fn touch(
    batch: &[(SessionIdHash, Touch)],
    write: impl Fn(&[(SessionIdHash, Touch)]) -> Result<()>,
) -> Result<(), TouchError> {
    if batch.is_empty() {
        return Ok(());
    }
    let error = match write(batch) {
        Err(error) if error.kind().may_concern_one_session() => error,
        written => return Ok(written?),
    };
    if let [one] = batch {
        return TouchError::check(vec![(*one, error)]);
    }
    let mut failed = Vec::new();
    let mut rest = batch.iter();
    while let Some(one) = rest.next() {
        let Err(error) = write(slice::from_ref(one)) else { continue };
        failed.push((*one, error.clone()));
        if !error.kind().may_concern_one_session() {
            failed.extend(rest.map(|touch| (*touch, error.clone())));
            break;
        }
    }
    TouchError::check(failed)
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[test]
    fn writing_touches_stops_at_an_error_of_the_store() {
        let touch = |n: u8| {
            let seen = Timestamp::from_millis(0) + Duration::from_secs(n.into());
            (SessionIdHash::from_bytes([n; 32]), Touch::at(seen))
        };
        let batch = [0, 1, 2, 3, 4].map(touch);
        let calls = Cell::new(0);
        let written = super::touch(&batch, |part| {
            let error = |kind| Err(Error::new(kind, "record activity"));
            let [one] = part else { return error(ErrorKind::Corrupt) };
            calls.set(calls.get() + 1);
            match batch.iter().position(|touch| touch == one) {
                Some(1) => error(ErrorKind::Unexpected),
                Some(3) => error(ErrorKind::Busy),
                _ => Ok(()),
            }
        });
        let Err(TouchError::Sessions(failed)) = written else { panic!("{written:?}") };
        let failed: Vec<_> = failed.iter().map(|(touch, error)| (*touch, error.kind())).collect();
        let kinds = [(1, ErrorKind::Unexpected), (3, ErrorKind::Busy), (4, ErrorKind::Busy)];
        assert_eq!(failed, kinds.map(|(n, kind)| (batch[n], kind)));
        assert_eq!(calls.get(), 4, "the last one is not tried");
    }
}
