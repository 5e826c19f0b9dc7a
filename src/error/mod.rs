//! The error type: a kind to match on, the operation, and the reason.

mod kind_search;

use std::any::Any;
use std::borrow::Cow;
use std::error;
use std::fmt;
use std::sync::Arc;

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn error::Error + Send + Sync>;

/// An error of this crate.
///
/// [`kind`](Error::kind) is for code. `Display` and `Debug` are for people, and write a full
/// sentence: the operation, the reason, and its cause, as in `cannot load a session: database is
/// locked`.
///
/// [`source`](error::Error::source) is always `None`, because the sentence contains the errors of
/// the libraries below. A tool that writes an error with its sources, such as `anyhow` with `{:#}`,
/// would write them twice.
///
/// Cloning is cheap.
///
/// ```
/// use cloakroom::{ErrorKind, UserKey};
///
/// let error = UserKey::new("").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Invalid);
/// assert_eq!(error.to_string(), "cannot use that as a user key: it is empty");
/// ```
#[derive(Clone)]
pub struct Error(Arc<ErrorInner>);

struct ErrorInner {
    kind: ErrorKind,
    operation: Cow<'static, str>,
    source: Option<Source>,
    /// Whether the store has proved that it changed nothing.
    nothing_done: bool,
}

/// The kind of an [`Error`].
///
/// # The store's errors
/// A call that reads or writes the store can fail with these kinds. The status is that of the
/// response to a request that failed with the error, unless
/// [`error_status`](crate::manager::SessionManagerBuilder::error_status) is set.
///
/// | kind | status | does a retry help? |
/// |---|---|---|
/// | [`Busy`](Self::Busy) | 503 | yes, a moment later |
/// | [`Unavailable`](Self::Unavailable) | 503 | yes, when the cause is gone, such as an outage of the server |
/// | [`Full`](Self::Full) | 500 | yes, when there is space again |
/// | [`ReadOnly`](Self::ReadOnly), [`Corrupt`](Self::Corrupt) | 500 | no, an operator must repair it |
/// | [`NotSetUp`](Self::NotSetUp), [`ForeignTable`](Self::ForeignTable), [`NewerSchema`](Self::NewerSchema) | 500 | no, an operator must look at the tables |
/// | [`TooLarge`](Self::TooLarge) | 500 | no, the session must hold less |
/// | [`Unsupported`](Self::Unsupported) | 500 | no, the store or its configuration does not have this |
/// | [`Undecodable`](Self::Undecodable), outside requests | 500 | no, a newer version wrote the session, or it is damaged |
/// | [`Conflict`](Self::Conflict), [`Unexpected`](Self::Unexpected) | 500 | no |
///
/// A change that failed may have an unknown outcome: see [`Error::has_unknown_outcome`].
///
/// The other kinds are errors of the caller or the request, and a retry does not help: 403 for
/// [`CrossOrigin`](Self::CrossOrigin), else 500.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store was busy until the deadline of the call, or too many requests wait to update the
    /// session. A later attempt can succeed. The step that failed stored nothing; a `destroy`,
    /// which comes before the other changes, may have been carried out.
    Busy,
    /// The store is not available, or something of the system that the call needs: a folder or a
    /// file that is missing or was replaced, an I/O error, a server that is down, random numbers, a
    /// thread. Also a store that was opened before a fork of the process, and a change after a
    /// failed load that [counts as anonymous](crate::manager::OnLoadFailure::TreatAsAnonymous): no
    /// retry helps in that process or request.
    Unavailable,
    /// The file, its folder or the file system is read-only, or belongs to another user.
    ReadOnly,
    /// There is no space: the disk is full, or the store has reached its limit.
    Full,
    /// The file is not a database, or a page of it is damaged.
    Corrupt,
    /// The data of one session is larger than the limit. The stored data is unchanged.
    TooLarge,
    /// Stored bytes do not decode, or have a newer format than this version can read. Only calls
    /// that read the whole store, such as `export` of [`Admin`](crate::stores::admin::Admin),
    /// return it. In a request such a session counts as absent, and
    /// [`Event::Undecodable`](crate::event::Event::Undecodable) is raised.
    Undecodable,
    /// A value is not of the requested type, or could not be encoded.
    WrongType,
    /// The tables are missing: they were never set up, or they were dropped.
    NotSetUp,
    /// A table of the chosen name exists and was not made by this crate. It was not changed.
    ForeignTable,
    /// The schema was written by a newer version of this crate. It was not changed.
    NewerSchema,
    /// A new id is already taken. With 256 random bits this means a broken source of randomness.
    ///
    /// `import` of [`Admin`](crate::stores::admin::Admin) also returns it when another copy runs,
    /// and stores nothing. Repeating the call does not help: it needs the mark of that copy.
    Conflict,
    /// An argument or a setting is invalid; the text names it and the reason.
    Invalid,
    /// The store or its configuration does not support this: lists by user, or a sweep without a
    /// cleaner.
    Unsupported,
    /// The request was closed already.
    Closed,
    /// A page of another origin sent the request, which is [refused](crate::CrossOrigin).
    CrossOrigin,
    /// An assumption of this crate about a store or a library does not hold; the text describes it.
    Unexpected,
}

impl ErrorKind {
    fn message(self) -> &'static str {
        match self {
            ErrorKind::Busy => "the store is busy",
            ErrorKind::Unavailable => "the store is unavailable",
            ErrorKind::ReadOnly => "the store is read-only",
            ErrorKind::Full => "there is no space left",
            ErrorKind::Corrupt => "the database is damaged",
            ErrorKind::TooLarge => "the session is too large",
            ErrorKind::Undecodable => "the stored bytes do not decode",
            ErrorKind::WrongType => "the value is of another type",
            ErrorKind::NotSetUp => "the tables are not set up",
            ErrorKind::ForeignTable => "a table of that name exists and was not made by cloakroom",
            ErrorKind::NewerSchema => "the schema is newer than this program",
            ErrorKind::Conflict => "the new id is already taken",
            ErrorKind::Invalid => "an argument or a setting is invalid",
            ErrorKind::Unsupported => "the store cannot do this",
            ErrorKind::Closed => "the request has been closed",
            ErrorKind::CrossOrigin => "a page of another origin sent the request",
            ErrorKind::Unexpected => "an internal assumption does not hold",
        }
    }

    /// Returns the HTTP status for a request that failed with this kind: 503 if a retry soon can
    /// succeed, 403 if the request is refused, else 500.
    pub(crate) fn default_status(self) -> u16 {
        match self {
            ErrorKind::Busy | ErrorKind::Unavailable => 503,
            ErrorKind::CrossOrigin => 403,
            _ => 500,
        }
    }

    /// Returns whether a change that failed with this kind may have been made, for all that the
    /// kind says.
    fn may_leave_outcome_unknown(self) -> bool {
        use ErrorKind::{Corrupt, Full, Unavailable, Undecodable, Unexpected};
        matches!(self, Corrupt | Full | Unavailable | Undecodable | Unexpected)
    }

    /// Returns whether an error of this kind in a call for several sessions may concern one of them
    /// alone, such as a damaged row or one that a trigger protects. The others can then succeed.
    pub(crate) fn may_concern_one_session(self) -> bool {
        use ErrorKind::{Conflict, Corrupt, TooLarge, Undecodable, Unexpected};
        matches!(self, Conflict | Corrupt | TooLarge | Undecodable | Unexpected)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl Error {
    /// Makes an error of `kind` in the operation `operation`, such as "load a session". Its reason
    /// is the text of the kind.
    ///
    /// For authors of stores. `operation` must not contain an id.
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>) -> Self {
        let operation = operation.into();
        Error(Arc::new(ErrorInner { kind, operation, source: None, nothing_done: false }))
    }

    /// Makes an error with a reason: a text, or the error that caused it. The reason and its own
    /// sources become part of the text, and [`source`](error::Error::source) stays `None`. They
    /// must not contain an id either.
    pub fn with_source(
        kind: ErrorKind,
        operation: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Error(Arc::new(ErrorInner {
            kind,
            operation: operation.into(),
            source: Some(source.into()),
            nothing_done: false,
        }))
    }

    /// Records that the store has proved that the call changed nothing, for example because it sent
    /// nothing to its server. Call it before the error is cloned; later it has no effect.
    ///
    /// For authors of stores.
    #[must_use]
    pub fn with_nothing_done(mut self) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.nothing_done = true;
        }
        self
    }

    /// Returns whether the outcome of the failed change, such as a commit, is unknown: it may have
    /// been made. It says nothing about the error of a read, which changes nothing.
    ///
    /// True for the kinds `Corrupt`, `Full`, `Unavailable`, `Undecodable` and `Unexpected`, unless
    /// the store has [proved](Self::with_nothing_done) that the change was not made. Never true for
    /// the others.
    ///
    /// Of a call in several steps, such as a sweep, or a close with a
    /// [`destroy`](crate::Session::destroy), it describes the step that failed; earlier steps may
    /// have been made.
    #[must_use]
    pub fn has_unknown_outcome(&self) -> bool {
        self.kind().may_leave_outcome_unknown() && !self.0.nothing_done
    }

    /// Makes the [`Conflict`](ErrorKind::Conflict) of a store in which a session has or had the new
    /// id of another one.
    #[must_use]
    pub fn id_is_taken() -> Self {
        Error::new(ErrorKind::Conflict, "give a session its new id")
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns the operation that failed, for example `load a session`.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// Returns the error that caused this one.
    #[allow(dead_code)] // used by the SQLite store, which is a feature
    pub(crate) fn cause(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The adapters find this error in an application's by its text: see `kind_search`.
        kind_search::note(self.0.kind);
        write!(f, "cannot {}: ", self.0.operation)?;
        match &self.0.source {
            Some(source) => f.write_str(&sentence(source.as_ref())),
            None => f.write_str(self.0.kind.message()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `fn main() -> Result<(), Error>` prints `Debug`, which must therefore be readable.
        fmt::Display::fmt(self, f)
    }
}

/// An error with its sources, on one line. Some errors write their source themselves: text that is
/// already there is not repeated.
fn sentence(error: &(dyn error::Error + 'static)) -> String {
    let mut sentence = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let message = source.to_string();
        if !sentence.contains(&message) {
            sentence.push_str(": ");
            sentence.push_str(&message);
        }
        next = source.source();
    }
    sentence
}

/// An application's error with its sources, on one line; and the kind of this crate's error in it,
/// if it contains one.
pub(crate) fn described(error: &(dyn error::Error + 'static)) -> (String, Option<ErrorKind>) {
    kind_search::find_kind(|| sentence(error))
}

/// The message of a panic, if it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> Option<&str> {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    message.or_else(|| panic.downcast_ref::<&str>().copied())
}

impl error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error with a source, as applications have them.
    #[derive(Debug)]
    struct Outer {
        message: &'static str,
        source: Box<dyn error::Error + Send + Sync>,
    }

    impl fmt::Display for Outer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.message)
        }
    }

    impl error::Error for Outer {
        fn source(&self) -> Option<&(dyn error::Error + 'static)> {
            Some(self.source.as_ref())
        }
    }

    /// A transparent variant of an enum, which returns the sources of the error that it contains.
    #[derive(Debug)]
    struct Transparent(Error);

    impl fmt::Display for Transparent {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            fmt::Display::fmt(&self.0, f)
        }
    }

    impl error::Error for Transparent {
        fn source(&self) -> Option<&(dyn error::Error + 'static)> {
            error::Error::source(&self.0)
        }
    }

    fn busy() -> Error {
        Error::with_source(ErrorKind::Busy, "load a session", "database is locked")
    }

    #[test]
    fn an_error_is_one_word_and_its_text_a_whole_sentence() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(busy().to_string(), "cannot load a session: database is locked");
        assert_eq!(format!("{:?}", busy()), busy().to_string());
        assert_eq!((busy().kind(), busy().operation()), (ErrorKind::Busy, "load a session"));
        let bare = Error::new(ErrorKind::Busy, "load a session");
        assert_eq!(bare.to_string(), "cannot load a session: the store is busy");
    }

    #[test]
    fn an_outcome_is_unknown_unless_proved_or_implied_by_the_kind() {
        let unavailable = || Error::new(ErrorKind::Unavailable, "store a session");
        assert!(unavailable().has_unknown_outcome());
        assert!(!unavailable().with_nothing_done().has_unknown_outcome());
        for kind in [ErrorKind::Conflict, ErrorKind::Closed, ErrorKind::CrossOrigin] {
            assert!(!Error::new(kind, "store a session").has_unknown_outcome(), "{kind:?}");
        }
        assert!(!busy().has_unknown_outcome());
        let error = unavailable();
        let shared = error.clone();
        assert!(error.with_nothing_done().has_unknown_outcome() && shared.has_unknown_outcome());
    }

    #[test]
    fn the_text_has_every_source_once() {
        let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let source = Outer { message: "no such luck", source: Box::new(refused) };
        let error = Error::with_source(ErrorKind::Unavailable, "open app.db", source);
        assert_eq!(error.to_string(), "cannot open app.db: no such luck: permission denied");
        let source =
            Outer { message: "it says: permission denied", source: "permission denied".into() };
        let error = Error::with_source(ErrorKind::Unavailable, "open app.db", source);
        assert_eq!(error.to_string(), "cannot open app.db: it says: permission denied");
        let error = Error::with_source(ErrorKind::Unavailable, "set a value", busy());
        let sentence = "cannot set a value: cannot load a session: database is locked";
        assert_eq!(error.to_string(), sentence);
    }

    #[test]
    fn an_error_printed_with_its_sources_repeats_nothing() {
        let sentence = "cannot load a session: database is locked";
        assert_eq!(format!("{:#}", anyhow::Error::new(busy())), sentence);
        let error = anyhow::Error::new(busy()).context("no cart");
        assert_eq!(format!("{error:#}"), format!("no cart: {sentence}"));
        assert_eq!(error.chain().count(), 2);
    }

    #[test]
    fn our_error_is_found_in_whatever_holds_it() {
        let outer = |source| Outer { message: "no cart", source };
        let boxed = |error: anyhow::Error| -> Box<dyn error::Error + Send + Sync> { error.into() };
        let all: [Box<dyn error::Error + Send + Sync>; 9] = [
            Box::new(busy()),
            Box::new(Box::new(busy())),
            Box::new(Arc::new(busy())),
            Box::new(outer(Box::new(busy()))),
            Box::new(outer(Box::new(outer(Box::new(Transparent(busy())))))),
            Box::new(Transparent(busy())),
            Box::new(std::io::Error::other(busy())),
            boxed(anyhow::Error::new(busy())),
            boxed(anyhow::Error::new(busy()).context("no cart").context("no shop")),
        ];
        for error in all {
            let (sentence, kind) = described(&*error);
            assert_eq!(kind, Some(ErrorKind::Busy), "{sentence}");
            assert!(sentence.ends_with("cannot load a session: database is locked"), "{sentence}");
        }
        let none = std::io::Error::other("the printer is on fire");
        assert_eq!(described(&none), ("the printer is on fire".to_owned(), None));
    }

    #[test]
    fn of_several_errors_of_ours_the_outermost_counts() {
        let full = Error::with_source(ErrorKind::Full, "store a copy", busy());
        let (sentence, kind) = described(&Outer { message: "no cart", source: Box::new(full) });
        assert_eq!(kind, Some(ErrorKind::Full), "{sentence}");
    }
}
