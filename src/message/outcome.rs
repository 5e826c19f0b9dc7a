//! The outcome of a request.

/// The outcome of a request, for [`SessionManager::close`](crate::SessionManager::close).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler answered with a status below 500: all changes are stored.
    Completed,
    /// The handler answered with a 5xx status: changes of data are discarded, a sign-out and a
    /// renewal are kept.
    ServerError,
    /// The handler panicked: everything but a sign-out is discarded.
    Panicked,
}

impl Outcome {
    /// Returns the outcome of a handler that answered with this status code.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        if status >= 500 { Outcome::ServerError } else { Outcome::Completed }
    }
}
