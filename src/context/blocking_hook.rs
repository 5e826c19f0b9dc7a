//! Blocking calls on threads that must not block: a hook of the framework makes them.
//!
//! It encloses every call that may wait for the store or for another request.

use crate::error::{Error, ErrorKind, Result};

/// A function that makes a blocking call. It receives the call and must run it exactly once.
/// [`SessionManager::with_blocking_hook`](crate::SessionManager::with_blocking_hook) has an
/// example.
pub type BlockingHook = fn(&mut dyn FnMut());

/// The way in which a manager and its sessions make calls that may block: through the hook, if
/// there is one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BlockingCalls {
    pub(crate) hook: Option<BlockingHook>,
}

impl BlockingCalls {
    /// Makes a call that may block.
    pub(crate) fn run<T>(self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(hook) = self.hook else { return call() };
        let mut call = Some(call);
        let mut result = None;
        hook(&mut || result = call.take().map(|call| call()));
        let make_error = || {
            let why = "the hook did not run it";
            Error::with_source(ErrorKind::Unexpected, "make a blocking call", why)
        };
        result.ok_or_else(make_error)?
    }
}
