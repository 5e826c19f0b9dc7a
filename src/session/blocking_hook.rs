//! Blocking calls on threads that must not block: a hook of the framework makes them.
//!
//! Called by the session and the manager for every call that may wait for the store or for another
//! request.

use crate::error::{Error, ErrorKind, Result};

/// A function that makes a blocking call. It receives the call and must run it exactly once.
pub type BlockingHook = fn(&mut dyn FnMut());

/// Makes a call that may block, through the hook if there is one.
pub(crate) fn run_blocking<T>(
    hook: Option<BlockingHook>,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(hook) = hook else { return call() };
    let (mut call, mut result) = (Some(call), None);
    hook(&mut || result = call.take().map(|call| call()));
    let none = || {
        Error::with_source(ErrorKind::Unexpected, "make a blocking call", "the hook did not run it")
    };
    result.ok_or_else(none)?
}
