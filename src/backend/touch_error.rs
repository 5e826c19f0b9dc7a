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

    /// Writes each touch of a batch alone, by `touch`, after an error of one session, such as that
    /// of a trigger, has undone the whole batch. Stops at the first error of another kind than
    /// [`Unexpected`](ErrorKind::Unexpected), which is one of the store.
    ///
    /// # Errors
    /// [`TouchError::Sessions`] for the touches that were not written.
    pub fn write_each(
        batch: &[(SessionIdHash, Touch)],
        touch: impl Fn(&(SessionIdHash, Touch)) -> Result<(), Error>,
    ) -> Result<(), Self> {
        let mut failed = Vec::new();
        let mut rest = batch.iter();
        while let Some(one) = rest.next() {
            let Err(error) = touch(one) else { continue };
            failed.push((*one, error.clone()));
            if error.kind() != ErrorKind::Unexpected {
                failed.extend(rest.map(|touch| (*touch, error.clone())));
                break;
            }
        }
        TouchError::check(failed)
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;

    #[test]
    fn writing_each_touch_stops_at_an_error_of_the_store() {
        let touch = |n: u8| {
            let seen = Timestamp::from_millis(0) + Duration::from_secs(n.into());
            (SessionIdHash::from_bytes([n; 32]), Touch::at(seen))
        };
        let batch = [0, 1, 2, 3, 4].map(touch);
        let calls = Cell::new(0);
        let written = TouchError::write_each(&batch, |one| {
            calls.set(calls.get() + 1);
            match batch.iter().position(|touch| touch == one) {
                Some(1) => Err(Error::new(ErrorKind::Unexpected, "record activity")),
                Some(3) => Err(Error::new(ErrorKind::Busy, "record activity")),
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
