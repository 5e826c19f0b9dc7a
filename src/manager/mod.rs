//! The session manager, which opens and closes the sessions of requests.

mod builder;
mod review;
mod users;

use std::fmt::{self, Debug};
use std::sync::Arc;

use crate::backend::Store;
use crate::cleaner::Cleaner;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Events;
use crate::id::Realm;
use crate::message::{Outcome, RequestHead, ResponseHeaders};
use crate::session::{BlockingHook, Context, Session, run_blocking};

pub use crate::backend::commit::AtLimit;
pub use crate::backend::list::{Page, SessionFilter};
pub use crate::record::{Client, Cursor, Stats, Summary};
pub use builder::SessionManagerBuilder;
pub use review::{Finding, Review};
pub use users::{SessionPage, UserSession};

/// The sessions of one application, or of one part of it. A clone is another handle to the same
/// sessions.
///
/// Dropping the last clone and the last [`Session`] writes pending activity and stops the cleaner's
/// thread.
///
/// ```
/// use cloakroom::http::Outcome;
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
///
/// // Adapters do this for each request: open, call the handler, close, add the headers.
/// let session = sessions.open(Some("theme=dark"));
/// session.set("cart", [1, 2, 3])?;
/// let headers = sessions.close(&session, Outcome::Completed)?;
/// assert!(headers.iter().any(|(name, value)| {
///     name == "Set-Cookie" && value.starts_with("__Host-id=")
/// }));
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone)]
pub struct SessionManager {
    pub(crate) context: Arc<Context>,
    blocking_hook: Option<BlockingHook>,
}

impl Debug for SessionManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SessionManager").field(&self.context.store).finish()
    }
}

impl SessionManager {
    /// Makes a manager of the sessions in `store`, with all defaults.
    ///
    /// # Errors
    /// As [`SessionManagerBuilder::build`].
    pub fn new(store: impl Store) -> Result<Self> {
        SessionManager::builder(store).build()
    }

    /// Starts a builder with all defaults.
    pub fn builder(store: impl Store) -> SessionManagerBuilder {
        SessionManagerBuilder::new(store)
    }

    /// Returns a clone for threads that must not block. It makes every call that may block through
    /// `blocking_hook`, and so do the sessions that it opens. Adapters of frameworks that run
    /// handlers on such threads use it.
    #[must_use]
    pub fn with_blocking_hook(&self, blocking_hook: BlockingHook) -> Self {
        SessionManager { context: self.context.clone(), blocking_hook: Some(blocking_hook) }
    }

    /// Opens the session of a request. Does no I/O.
    ///
    /// The first read loads it, once. A long response or a WebSocket therefore does not see a later
    /// revocation. To check, open another session from the same `Cookie` header.
    #[must_use]
    pub fn open<'r>(&self, head: impl Into<RequestHead<'r>>) -> Session {
        Session::new(self.context.clone(), self.blocking_hook, &head.into())
    }

    /// Closes the session of a request: stores its changes, and returns the header fields of the
    /// response. Call it before the first byte of the response is sent.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] at a second call. Any other error means that the changes since the
    /// last [`Session::commit`] or [`Session::sign_in`] were not stored: answer with the
    /// [status](Self::status_of) of the error and with the
    /// [headers](crate::http::Adapter::headers_on_error) of what was stored before, as
    /// [`Adapter::run`](crate::http::Adapter::run) does.
    pub fn close(&self, session: &Session, outcome: Outcome) -> Result<ResponseHeaders> {
        session.close(outcome)
    }

    /// Deletes all expired sessions, and returns their number. The cleaner does so regularly; this
    /// is for commands and tests.
    ///
    /// # Errors
    /// The store's errors; [`ErrorKind::Unsupported`] without a cleaner.
    pub fn sweep_now(&self) -> Result<usize> {
        let cleaner = self.cleaner("sweep expired sessions")?;
        run_blocking(self.blocking_hook, || cleaner.sweep_now())
    }

    /// Waits until the cleaner has written all activity that requests have recorded so far.
    ///
    /// # Errors
    /// The store's errors; [`ErrorKind::Unsupported`] without a cleaner.
    pub fn flush(&self) -> Result<()> {
        let cleaner = self.cleaner("write pending activity")?;
        run_blocking(self.blocking_hook, || cleaner.flush())
    }

    fn cleaner(&self, operation: &'static str) -> Result<&Cleaner> {
        let none = || Error::with_source(ErrorKind::Unsupported, operation, "there is no cleaner");
        self.context.cleaner.as_ref().ok_or_else(none)
    }

    /// Returns the events of this manager, with their counters.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.context.events
    }

    /// Returns the realm of this manager.
    #[must_use]
    pub fn realm(&self) -> &Realm {
        &self.context.settings.realm
    }

    /// Returns the HTTP status of the response to a request that failed with `error`, for a handler
    /// with its own error page. The builder's [`error_status`](SessionManagerBuilder::error_status)
    /// determines it.
    #[must_use]
    pub fn status_of(&self, error: &Error) -> u16 {
        (self.context.settings.status_of)(error.kind())
    }
}
