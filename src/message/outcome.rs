//! The outcome of a request.

/// The outcome of a request, for [`SessionManager::close`](crate::SessionManager::close). It
/// decides what the close stores:
///
/// | change | `Completed` | `ServerError` | `Panicked` |
/// |---|---|---|---|
/// | values, flash messages, [`set_idle_limit`](crate::Session::set_idle_limit), [`set_persistent`](crate::Session::set_persistent) | stored | discarded | discarded |
/// | a [`renew`](crate::Session::renew) | stored | stored | discarded |
/// | a [`destroy`](crate::Session::destroy) | stored | stored | stored |
/// | a [renewal by age](crate::manager::SessionManagerBuilder::renew_every) | done if due | not done | not done |
///
/// With [`keep_on_server_error`](crate::manager::SessionManagerBuilder::keep_on_server_error),
/// `ServerError` stores what `Completed` does.
///
/// What the request has committed before stays, whatever the outcome: a sign-in, a
/// [confirmed authentication](crate::Session::confirm_authentication), a
/// [`commit`](crate::Session::commit), an [`update_now`](crate::Session::update_now), and
/// revocations by the manager. If the close fails, a `destroy` may have been carried out, and the
/// other changes were not stored, unless
/// [`Error::has_unknown_outcome`](crate::Error::has_unknown_outcome) returns true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler answered with a status below 500.
    Completed,
    /// The handler answered with a 5xx status, or returned an error.
    ServerError,
    /// The handler panicked.
    Panicked,
}

impl Outcome {
    /// Returns the outcome of a handler that answered with this status code.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        if status >= 500 { Outcome::ServerError } else { Outcome::Completed }
    }
}
