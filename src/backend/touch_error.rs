//! Failed touches of a batch.
//!
//! Made by stores. Read by the cleaner, which repeats the touches.

use std::error;
use std::fmt::{self, Display};

use crate::error::{Error, ErrorKind};
use crate::id::SessionIdHash;
use crate::record::Touch;

/// The touches of a batch that a store has not written. All others were written.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum TouchError {
    /// The store wrote none of them.
    Store(Error),
    /// The store did not write these. The list is not empty.
    Sessions(Vec<((SessionIdHash, Touch), Error)>),
}

impl TouchError {
    /// Collects the failures of single sessions.
    ///
    /// # Errors
    /// [`TouchError::Sessions`] if there is one.
    pub fn check(failed: Vec<((SessionIdHash, Touch), Error)>) -> Result<(), Self> {
        if failed.is_empty() { Ok(()) } else { Err(TouchError::Sessions(failed)) }
    }

    /// Returns the touches of the batch that were not written, each with its error.
    pub(crate) fn failures(
        self,
        batch: &[(SessionIdHash, Touch)],
    ) -> Vec<((SessionIdHash, Touch), Error)> {
        match self {
            TouchError::Store(error) => batch.iter().map(|touch| (*touch, error.clone())).collect(),
            TouchError::Sessions(failed) => failed,
        }
    }
}

impl From<Error> for TouchError {
    fn from(error: Error) -> Self {
        TouchError::Store(error)
    }
}

impl From<TouchError> for Error {
    /// Returns the first error.
    fn from(error: TouchError) -> Self {
        match error {
            TouchError::Store(error) => error,
            TouchError::Sessions(failed) => match failed.into_iter().next() {
                Some((_, error)) => error,
                None => Error::new(ErrorKind::Unexpected, "record activity"),
            },
        }
    }
}

impl Display for TouchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TouchError::Store(error) => write!(f, "{error}"),
            TouchError::Sessions(failed) => {
                let count = failed.len();
                write!(f, "the activity of {count} sessions was not recorded")?;
                failed.first().map_or(Ok(()), |(_, error)| write!(f, ": {error}"))
            }
        }
    }
}

impl error::Error for TouchError {}
