//! The error page for servers that have no error page of their own.

use crate::cross_origin::REFUSED;

/// Returns the body of the page with this status. It is the same for every cause, so that a client
/// learns nothing of it.
pub(super) fn body(status: u16) -> &'static str {
    match status {
        403 => REFUSED,
        503 => "The service is not available right now. Please try again.",
        _ => "Something went wrong.",
    }
}
