//! The results of commands, their exit codes and messages.

use std::fmt;
use std::io;

use cloakroom::stores::sqlite::{OpenFailure, SqliteFile};
use cloakroom::{Error, ErrorKind};

use crate::database::Database;

pub(crate) const FAILED: u8 = 1;
pub(crate) const USAGE: u8 = 2;
pub(crate) const NOT_SET_UP: u8 = 3;
pub(crate) const NOTHING_MATCHED: u8 = 4;

/// The remedy for a damaged SQLite database.
pub(crate) const DAMAGED: &str = "stop the service, copy the file with its -wal and -shm \
                                  elsewhere, and `restore` the last copy; without one see \
                                  \"Damage without a copy\" in docs/rescue.md";

/// The remedy for a full disk.
pub(crate) const FULL: &str = "free space on the disk, outside the database first";

/// The remedy for tables that keep ended sessions.
pub(crate) const REFERENCES: &str = "make the foreign key ON DELETE CASCADE (on id_hash ON UPDATE \
                                     CASCADE too), or remove it; then `sweep`";

pub(crate) type CliResult<T = ()> = Result<T, CliError>;

/// The reason why a command failed.
#[derive(Debug)]
pub(crate) enum CliError {
    /// An exit code, and a message of one line that ends with advice.
    Message(u8, String),
    /// An error of the store.
    Store(Error),
    Output(io::Error),
}

impl CliError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        CliError::Message(FAILED, message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        CliError::Message(USAGE, message.into())
    }

    /// Returns the error for a request that matched no session; the message names the request.
    pub(crate) fn nothing_matched(message: impl Into<String>) -> Self {
        CliError::Message(NOTHING_MATCHED, message.into())
    }

    pub(crate) fn interrupted(state: impl fmt::Display) -> Self {
        CliError::new(format!("interrupted: {state}"))
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            CliError::Message(code, _) => *code,
            CliError::Store(error) if error.kind() == ErrorKind::NotSetUp => NOT_SET_UP,
            _ => FAILED,
        }
    }

    /// Adds the advice for an error of the store in this database.
    pub(crate) fn with_advice(self, database: Option<&Database>) -> Self {
        let CliError::Store(error) = &self else { return self };
        match database.and_then(|database| database.advice(error)) {
            Some(advice) => CliError::Message(self.code(), format!("{error}; {advice}")),
            None => self,
        }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        CliError::Store(error)
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        CliError::Output(error)
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CliError::Message(_, message) => f.write_str(message),
            CliError::Store(error) => error.fmt(f),
            CliError::Output(error) => write!(f, "cannot write the output: {error}"),
        }
    }
}

/// Returns advice to the operator about an error of a SQLite database.
pub(crate) fn file_advice(error: &Error) -> Option<&'static str> {
    Some(match (error.kind(), SqliteFile::open_failure(error)) {
        (_, Some(OpenFailure::Missing | OpenFailure::Empty)) => {
            "check --db; if a service used this file, keep the -wal file and do not run `setup`: \
             see \"A deleted database\" in docs/rescue.md; for a new service `setup` creates \
             what is missing"
        }
        (_, Some(OpenFailure::DanglingLink)) => {
            "mount the disk to which the link leads, or correct the link; if the file there is \
             lost, `restore` a copy with --db and the target of the link"
        }
        (_, Some(OpenFailure::ReadOnlyFileSystem)) => {
            "mount it read-write; if it was, its disk may have failed: see the system's log \
             (`dmesg`)"
        }
        (_, Some(OpenFailure::NotADatabase)) => {
            "check --db; if it was the database, move it away with its -wal and -shm, and \
             `restore` a copy"
        }
        (_, Some(OpenFailure::SecondName)) => return None,
        (ErrorKind::Busy, _) => {
            "try again; if it stays, find the program that keeps a transaction open: `lslocks` \
             shows it with mode WRITE on the file's -shm, or on the file itself if there is no \
             -shm; `fuser -v` on the file lists all that use it"
        }
        (ErrorKind::Unavailable, _) => "check the path, and that its file system is mounted",
        (ErrorKind::ReadOnly, _) => {
            "run this as the user who owns the file and its folder; if that is not the service's \
             user, `chown` both, and the -wal and -shm, to it first; `chmod 600` the files, `chmod \
             u+rwx,o-w` the folder"
        }
        (ErrorKind::Full, _) => FULL,
        (ErrorKind::Corrupt, _) => DAMAGED,
        (ErrorKind::NotSetUp, _) => {
            "check --db and --table; `setup` creates the file and its tables"
        }
        (ErrorKind::ForeignTable, _) => "check --db; choose another name with --table",
        (ErrorKind::NewerSchema, _) => "use the version of cloakroom that wrote it, or a newer one",
        _ => return None,
    })
}

/// Returns advice to the operator about an error of a PostgreSQL database.
#[cfg(feature = "postgres")]
pub(crate) fn server_advice(kind: ErrorKind) -> Option<&'static str> {
    Some(match kind {
        ErrorKind::Busy => {
            "try again; if it stays, `pg_stat_activity` of the server shows which transaction \
             holds locks, and who has the connections"
        }
        ErrorKind::Unavailable => {
            "check the URL, the password (PGPASSWORD or ~/.pgpass), and that the server runs and \
             accepts connections from here"
        }
        ErrorKind::ReadOnly => {
            "if the server is a replica, connect to the primary; else connect as the owner of the \
             tables, or as a user with the rights that `doctor` asks for"
        }
        ErrorKind::Full => "free space on the disk of the server",
        ErrorKind::Corrupt => "restore the database from the last copy",
        ErrorKind::NotSetUp => "check the URL, --schema and --table; `setup` creates the tables",
        ErrorKind::ForeignTable => "choose another name with --table or --schema",
        ErrorKind::NewerSchema => "use the version of cloakroom that wrote it, or a newer one",
        ErrorKind::Conflict => "let the other copy end, and run the command again",
        _ => return None,
    })
}
