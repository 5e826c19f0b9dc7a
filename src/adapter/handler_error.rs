//! The error of a handler.

use std::error::Error as StdError;
use std::fmt::{self, Debug};

type BoxError = Box<dyn StdError + Send + Sync>;

/// The error of a handler: any error, or a response `R` that it returns early.
///
/// `?` converts errors of every type, `anyhow::Error` and texts included. The client gets the error
/// page and sees nothing of the error; an event has the details.
///
/// An early response is treated as if the handler had returned it by `Ok`: it is sent, and the
/// session's changes are stored if its status is below 500.
///
/// ```
/// use cloakroom::Session;
/// use cloakroom::adapter::HandlerError;
///
/// # struct Page(u16, String);
/// # impl Page {
/// #     fn redirect(to: &str) -> Self { Page(303, to.to_owned()) }
/// # }
/// fn account(session: &Session) -> Result<Page, HandlerError<Page>> {
///     let sign_in = || HandlerError::response(Page::redirect("/sign-in"));
///     let user = session.user()?.ok_or_else(sign_in)?;
///     Ok(Page(200, format!("Hello, {user}")))
/// }
/// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
/// # let Err(error) = account(&sessions.open(None)) else { panic!("no user") };
/// # assert!(error.into_response().is_ok_and(|page| page.0 == 303));
/// # Ok::<(), cloakroom::Error>(())
/// ```
pub struct HandlerError<R>(Reason<R>);

// The type of an error is not a parameter of `HandlerError`, because in a closure that uses `?` the
// compiler could not infer it. A `From<R>` for an early response would overlap with the conversion
// of errors, so `HandlerError::response` takes its place.

/// The response is in a box, so that a handler's result is small.
enum Reason<R> {
    Response(Box<R>),
    Error(BoxError),
}

impl<R> HandlerError<R> {
    /// Makes an early response.
    pub fn response(response: R) -> Self {
        HandlerError(Reason::Response(Box::new(response)))
    }

    /// Returns the early response.
    ///
    /// # Errors
    /// The error, if this is no early response.
    pub fn into_response(self) -> Result<R, BoxError> {
        match self.0 {
            Reason::Response(response) => Ok(*response),
            Reason::Error(error) => Err(error),
        }
    }
}

impl<R, E: Into<BoxError>> From<E> for HandlerError<R> {
    fn from(error: E) -> Self {
        HandlerError(Reason::Error(error.into()))
    }
}

impl<R> Debug for HandlerError<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Response(_) => f.write_str("an early response"),
            Reason::Error(error) => Debug::fmt(error, f),
        }
    }
}
