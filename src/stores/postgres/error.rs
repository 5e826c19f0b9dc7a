//! Maps PostgreSQL's errors to [`ErrorKind`], and decides after which errors a call is repeated.

use std::error;

use tokio_postgres::error::{Severity, SqlState};

use crate::error::{Error, ErrorKind};

/// The failure of one attempt at a call.
#[derive(Debug)]
pub(super) enum CallFailure {
    /// The client's error: the server's, or that of the connection.
    Sql(tokio_postgres::Error),
    /// The server had closed the connection before the call's only trip.
    Closed,
    /// The deadline has passed.
    TimedOut,
    /// An error of this crate, such as a conflict or a malformed row.
    Store(Error),
}

impl From<tokio_postgres::Error> for CallFailure {
    fn from(error: tokio_postgres::Error) -> Self {
        CallFailure::Sql(error)
    }
}

impl From<Error> for CallFailure {
    fn from(error: Error) -> Self {
        CallFailure::Store(error)
    }
}

/// What the text of an error says when the server may have made the change.
const MAY_BE_DONE: &str = "; the change may have been made";

/// Converts a failure to an [`Error`] of `operation`. `may_be_done` says that a commit was sent
/// whose result is unknown.
pub(super) fn error_of(operation: &'static str, failure: CallFailure, may_be_done: bool) -> Error {
    let (kind, reason) = match failure {
        CallFailure::Store(error) => return error,
        CallFailure::Closed => {
            (ErrorKind::Unavailable, "the server has closed the connection".to_owned())
        }
        CallFailure::TimedOut => {
            (ErrorKind::Unavailable, "the server did not answer in time".to_owned())
        }
        CallFailure::Sql(error) => (kind(&error), message(&error)),
    };
    if may_be_done {
        Error::with_source(ErrorKind::Unavailable, operation, reason + MAY_BE_DONE)
    } else {
        Error::with_source(kind, operation, reason).with_nothing_done()
    }
}

/// Returns the text of an error without its details, which can contain the values of a row.
fn message(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => {
            let hint = match *server.code() {
                SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT => {
                    "; behind a pooler such as PgBouncer set `pooler(true)`"
                }
                _ => "",
            };
            format!("{} (SQLSTATE {}){hint}", server.message(), server.code().code())
        }
        None => {
            let text = match error::Error::source(error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            if text.ends_with("password missing") {
                text + "; put it in the URL, or call `PostgresStoreBuilder::password`"
            } else {
                text
            }
        }
    }
}

pub(super) fn kind(error: &tokio_postgres::Error) -> ErrorKind {
    // Without an answer of the server it is the connection that failed.
    let Some(server) = error.as_db_error() else { return ErrorKind::Unavailable };
    match *server.code() {
        SqlState::UNIQUE_VIOLATION => ErrorKind::Conflict,
        SqlState::T_R_SERIALIZATION_FAILURE
        | SqlState::T_R_DEADLOCK_DETECTED
        | SqlState::LOCK_NOT_AVAILABLE
        | SqlState::TOO_MANY_CONNECTIONS
        // The statement timeout, which is reached by waiting for a lock.
        | SqlState::QUERY_CANCELED => ErrorKind::Busy,
        SqlState::READ_ONLY_SQL_TRANSACTION | SqlState::INSUFFICIENT_PRIVILEGE => {
            ErrorKind::ReadOnly
        }
        SqlState::DISK_FULL => ErrorKind::Full,
        SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME => ErrorKind::NotSetUp,
        SqlState::UNDEFINED_COLUMN | SqlState::WRONG_OBJECT_TYPE | SqlState::DATATYPE_MISMATCH => {
            ErrorKind::ForeignTable
        }
        SqlState::DATA_CORRUPTED | SqlState::INDEX_CORRUPTED => ErrorKind::Corrupt,
        _ => match server.code().code().get(..2) {
            // A failed connection or sign-in, a missing database, resources, shutdown, I/O.
            Some("08" | "28" | "3D" | "53" | "57" | "58") => ErrorKind::Unavailable,
            _ => ErrorKind::Unexpected,
        },
    }
}

/// Returns whether the connection cannot be used again.
pub(super) fn ends_connection(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_none_or(|server| match server.parsed_severity() {
        Some(severity) => matches!(severity, Severity::Fatal | Severity::Panic),
        // PgBouncer sends the severity of its own errors only as text.
        None => matches!(server.severity(), "FATAL" | "PANIC"),
    })
}

/// Returns whether a pooler in front of the server has made the error, as far as that is seen.
pub(super) fn is_of_pooler(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|server| server.parsed_severity().is_none())
}

impl CallFailure {
    /// Returns whether the transaction can succeed when it is repeated.
    pub(super) fn is_transient(&self) -> bool {
        let CallFailure::Sql(error) = self else { return false };
        matches!(
            error.code(),
            Some(&(SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED))
        )
    }

    /// Returns whether the call can succeed on another connection: this one has ended, or its
    /// prepared statements have.
    pub(super) fn is_of_this_connection(&self) -> bool {
        let CallFailure::Sql(error) = self else { return matches!(self, CallFailure::Closed) };
        let of_statement = matches!(
            error.code(),
            Some(&(SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::FEATURE_NOT_SUPPORTED))
        );
        of_statement || (ends_connection(error) && kind(error) == ErrorKind::Unavailable)
    }
}
