//! The one error type: a kind to match on, what was being done, and the source.

use std::any::Any;
use std::borrow::Cow;
use std::error;
use std::fmt;
use std::sync::Arc;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn error::Error + Send + Sync>;

/// Anything that can go wrong, one machine word wide.
///
/// [`kind`](Error::kind) is for code, the text says what was being done and why it failed, and
/// [`source`](error::Error::source) keeps the error of the library below. Cloning is cheap: a
/// failed group commit gives the same error to everyone in the group.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    doing: Cow<'static, str>,
    source: Option<Source>,
}

/// What kind of failure an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store was occupied until the deadline of the call. Trying again later can work.
    Busy,
    /// The store cannot be reached: no such folder, an I/O error, a server that is down.
    Unavailable,
    /// The file, its folder or the file system is read-only.
    ReadOnly,
    /// There is no room: a full disk, or the bound of the store was reached.
    Full,
    /// The file is not a database, or a page of it is damaged.
    Corrupt,
    /// The data of one session is larger than the limit. What was stored before is intact.
    TooLarge,
    /// Stored bytes do not decode, or are of a newer format than this version knows.
    Undecodable,
    /// A value is not of the type that was asked for, or a value could not be encoded.
    WrongType,
    /// The tables are missing: they were never set up, or they were dropped.
    NotSetUp,
    /// A table of the chosen name exists and is not ours. It was left as it is.
    ForeignTable,
    /// The schema was written by a newer version of this crate. It was left as it is.
    NewerSchema,
    /// A new id is already taken. With 256 random bits this means a broken source of randomness.
    Conflict,
    /// An argument or a configuration is not acceptable; the text says which and why.
    Invalid,
    /// The store cannot do this at all, for example list sessions by user.
    Unsupported,
    /// The request was closed already.
    Closed,
    /// None of the above; the source says more.
    Unexpected,
}

impl ErrorKind {
    fn words(self) -> &'static str {
        match self {
            ErrorKind::Busy => "the store is busy",
            ErrorKind::Unavailable => "the store is unavailable",
            ErrorKind::ReadOnly => "the store is read-only",
            ErrorKind::Full => "there is no room left",
            ErrorKind::Corrupt => "the database is damaged",
            ErrorKind::TooLarge => "the session is too large",
            ErrorKind::Undecodable => "the stored bytes do not decode",
            ErrorKind::WrongType => "the value is of another type",
            ErrorKind::NotSetUp => "the tables are not set up",
            ErrorKind::ForeignTable => "a table of that name exists and is not ours",
            ErrorKind::NewerSchema => "the schema is newer than this program",
            ErrorKind::Conflict => "the new id is already taken",
            ErrorKind::Invalid => "that is not acceptable",
            ErrorKind::Unsupported => "the store cannot do this",
            ErrorKind::Closed => "the request has been closed",
            ErrorKind::Unexpected => "something unexpected happened",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words())
    }
}

impl Error {
    /// An error of `kind` that happened while `doing` something ("load a session").
    ///
    /// Authors of stores use this; `doing` must not contain an id.
    pub fn new(kind: ErrorKind, doing: impl Into<Cow<'static, str>>) -> Self {
        Error(Arc::new(Inner { kind, doing: doing.into(), source: None }))
    }

    /// The same with the error that caused it, which becomes the [`source`](error::Error::source).
    pub fn with_source(
        kind: ErrorKind,
        doing: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Error(Arc::new(Inner { kind, doing: doing.into(), source: Some(source.into()) }))
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What was being done, in words, for example `load a session`.
    #[must_use]
    pub fn doing(&self) -> &str {
        &self.0.doing
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.0.doing, self.0.kind)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `fn main() -> Result<(), Error>` prints Debug: make that readable, sources included.
        fmt::Display::fmt(&Chain(self), f)
    }
}

/// Shows an error with its sources, on one line.
pub(crate) struct Chain<'e>(pub(crate) &'e (dyn error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

/// What a panic said, if it said something.
pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> Option<&str> {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    words.or_else(|| panic.downcast_ref::<&str>().copied())
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_word_and_says_what_was_being_done() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let error = Error::with_source(ErrorKind::Busy, "load a session", "locked elsewhere");
        assert_eq!(error.to_string(), "cannot load a session: the store is busy");
        assert_eq!(
            format!("{error:?}"),
            "cannot load a session: the store is busy: locked elsewhere"
        );
        assert_eq!(error.kind(), ErrorKind::Busy);
    }
}
