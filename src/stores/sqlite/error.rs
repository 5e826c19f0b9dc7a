//! Maps SQLite's errors to [`ErrorKind`], and repeats attempts that find the database busy.

use std::borrow::Cow;
use std::error;
use std::fmt;
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{monotonic_now, thread};

/// An error of SQLite that displays SQLite's message, and its usual cause where the message does
/// not contain it. It has no source: the source would be the result code, whose text repeats the
/// message.
#[derive(Debug)]
pub(crate) struct SqliteError(pub(crate) rusqlite::Error);

impl fmt::Display for SqliteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)?;
        f.write_str(match kind(&self.0) {
            ErrorKind::Busy => {
                ": another connection holds the lock, of another program or of this one"
            }
            ErrorKind::Corrupt => ": see \"Damage\" in docs/operating.md",
            _ if self.0.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) => {
                ": see \"Disk\" in docs/operating.md"
            }
            _ if is_refused(&self.0) => {
                ": another table references the session without ON DELETE CASCADE, or a trigger \
                 refuses the change; `cloakroom doctor` names the table and the trigger"
            }
            _ => "",
        })
    }
}

impl error::Error for SqliteError {}

/// The cause of an error of opening the database, for an operator and, as a type, for tools.
#[derive(Debug)]
pub(super) struct NotOpened {
    pub(super) failure: OpenFailure,
    pub(super) message: String,
}

impl NotOpened {
    pub(super) fn new(failure: OpenFailure, message: impl Into<String>) -> Self {
        NotOpened { failure, message: message.into() }
    }
}

impl fmt::Display for NotOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl error::Error for NotOpened {}

/// A reason why a database cannot be opened, where a remedy depends on more than the
/// [`ErrorKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenFailure {
    /// There is no file at the path.
    Missing,
    /// The path is a symbolic link to a file that does not exist.
    DanglingLink,
    /// The file has no content: no service has used it yet, or another program has emptied it.
    Empty,
    /// The file is not a SQLite database.
    NotADatabase,
    /// The file system is mounted read-only.
    ReadOnlyFileSystem,
    /// The file can be reached by a second name, and its log is under that one.
    SecondName,
}

impl OpenFailure {
    pub(super) fn of(error: &Error) -> Option<Self> {
        let cause = error.cause()?;
        if let Some(NotOpened { failure, .. }) = cause.downcast_ref() {
            return Some(*failure);
        }
        let SqliteError(error) = cause.downcast_ref()?;
        let is_foreign = error.sqlite_error_code() == Some(ErrorCode::NotADatabase);
        is_foreign.then_some(OpenFailure::NotADatabase)
    }
}

/// Adds the operation to the result of a call of SQLite.
pub(super) trait During<T> {
    /// Converts an error of SQLite to an [`Error`] of `operation`.
    fn during(self, operation: impl Into<Cow<'static, str>>) -> Result<T>;
}

impl<T> During<T> for rusqlite::Result<T> {
    fn during(self, operation: impl Into<Cow<'static, str>>) -> Result<T> {
        self.map_err(|source| Error::with_source(kind(&source), operation, SqliteError(source)))
    }
}

pub(super) fn kind(error: &rusqlite::Error) -> ErrorKind {
    let rusqlite::Error::SqliteFailure(failure, message) = error else {
        return ErrorKind::Unexpected;
    };
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => ErrorKind::Busy,
        // The file was deleted or replaced while it was open.
        ErrorCode::ReadOnly if failure.extended_code == ffi::SQLITE_READONLY_DBMOVED => {
            ErrorKind::Unavailable
        }
        ErrorCode::ReadOnly => ErrorKind::ReadOnly,
        ErrorCode::DiskFull => ErrorKind::Full,
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => ErrorKind::Corrupt,
        ErrorCode::CannotOpen
        | ErrorCode::SystemIoFailure
        | ErrorCode::FileLockingProtocolFailed
        | ErrorCode::PermissionDenied => ErrorKind::Unavailable,
        ErrorCode::ConstraintViolation
            if failure.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE =>
        {
            ErrorKind::Conflict
        }
        // SQLite has no result code of its own for this; the message has been the same since 2004.
        _ if message.as_ref().is_some_and(|text| text.starts_with("no such table")) => {
            ErrorKind::NotSetUp
        }
        _ => ErrorKind::Unexpected,
    }
}

/// Returns whether a foreign key or a trigger of the application refused a change. `ON DELETE SET
/// NULL` can violate NOT NULL.
fn is_refused(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|failure| failure.extended_code);
    let refusals = [
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY,
        ffi::SQLITE_CONSTRAINT_NOTNULL,
        ffi::SQLITE_CONSTRAINT_TRIGGER,
    ];
    code.is_some_and(|code| refusals.contains(&code))
}

/// Returns whether a deletion failed with this error because of a foreign key or a trigger of the
/// application, or of a constraint of the table that they change.
pub(super) fn refuses_deletion(error: &Error) -> bool {
    let cause = error.cause().and_then(|cause| cause.downcast_ref::<SqliteError>());
    cause.and_then(|cause| cause.0.sqlite_error_code()) == Some(ErrorCode::ConstraintViolation)
}

/// Returns the pause after this number of repeated attempts.
///
/// SQLite's own busy handler sleeps up to 100 ms at a time: against another process that writes
/// without a pause it can miss every gap for seconds.
fn pause(repeated: i32) -> Duration {
    Duration::from_micros(50 << repeated.clamp(0, 5))
}

/// The busy handler of the application's connections: waits for about five seconds.
pub(super) fn wait_while_busy(repeated: i32) -> bool {
    thread::sleep(pause(repeated));
    repeated < 3000
}

/// Repeats an attempt until it is not busy or the deadline has passed; at least one attempt.
pub(super) fn retry_while_busy<T>(
    deadline: Instant,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let mut repeated = 0;
    loop {
        match attempt() {
            Err(error) if kind(&error) == ErrorKind::Busy && monotonic_now() < deadline => {
                let left = deadline.saturating_duration_since(monotonic_now());
                thread::sleep(pause(repeated).min(left));
                repeated += 1;
            }
            result => return result,
        }
    }
}
