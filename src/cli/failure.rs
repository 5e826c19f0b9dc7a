//! How a command can end.

use std::fmt;
use std::io;

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};
use crate::stores::sqlite::error::SqliteError;

pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
pub(super) const NOT_SET_UP: u8 = 3;
pub(super) const NOTHING_MATCHED: u8 = 4;

/// A command that did not fail.
#[derive(Debug)]
pub(super) enum Done {
    Well,
    /// What was named is not there.
    Nothing(String),
}

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// In one line, with what to do.
    Words(u8, String),
    Store(Error),
    Output(io::Error),
}

impl Failure {
    pub(super) fn new(words: impl Into<String>) -> Self {
        Failure::Words(FAILED, words.into())
    }

    pub(super) fn usage(words: impl Into<String>) -> Self {
        Failure::Words(USAGE, words.into())
    }

    pub(super) fn interrupted(words: impl fmt::Display) -> Self {
        Failure::new(format!("interrupted: {words}"))
    }

    pub(super) fn code(&self) -> u8 {
        match self {
            Failure::Words(code, _) => *code,
            Failure::Store(error) if error.kind() == ErrorKind::NotSetUp => NOT_SET_UP,
            Failure::Store(_) | Failure::Output(_) => FAILED,
        }
    }

    pub(super) fn is_broken_pipe(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Store(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Words(_, words) => f.write_str(words),
            Failure::Store(error) => {
                write!(f, "{error}")?;
                what_to_do(error).map_or(Ok(()), |advice| write!(f, "; {advice}"))
            }
            Failure::Output(error) => write!(f, "cannot write the answer: {error}"),
        }
    }
}

/// Whether the file is not a database, or no longer looks like one: nothing can be put in its
/// place then, because SQLite would have to write to it.
pub(super) fn is_no_database(error: &Error) -> bool {
    let cause = error.cause().and_then(|cause| cause.downcast_ref::<SqliteError>());
    let code = cause.and_then(|SqliteError(error)| error.sqlite_error_code());
    code == Some(ErrorCode::NotADatabase)
}

pub(super) fn what_to_do(error: &Error) -> Option<&'static str> {
    Some(match error.kind() {
        ErrorKind::Busy => "others keep the file locked: try again, or see who writes for so long",
        ErrorKind::Unavailable => "check the path, and that its file system is there",
        ErrorKind::ReadOnly => {
            "run this as the user who owns the file and its folder, where they can be written"
        }
        ErrorKind::Full => "make room on the disk",
        ErrorKind::Corrupt if is_no_database(error) => {
            "check --db; if it was the database, move it away with its -wal and -shm, and \
             `restore` a copy"
        }
        ErrorKind::Corrupt => "run `doctor`; `restore FILE` puts a copy in its place",
        ErrorKind::NotSetUp => "check --db and --table; `setup` makes the file and its tables",
        ErrorKind::ForeignTable => "check --db; choose another name with --table",
        ErrorKind::NewerSchema => "use the version of cloakroom that wrote it, or a newer one",
        _ => return None,
    })
}
