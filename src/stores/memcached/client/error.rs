//! The client's errors, and what becomes of them.

use std::borrow::Cow;
use std::io;

use memcache::exp::Error as ClientError;

use crate::error::{Error, ErrorKind, Result};

/// So often something is sent again that a signal has interrupted.
const TRIES: usize = 8;

/// Sends again what a signal has kept from being sent, be it the end of a child or a terminal's.
/// That it was not is what the client means by an error of this kind.
pub(super) fn uninterrupted<T>(
    send: impl Fn() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    for _ in 1..TRIES {
        match send() {
            Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
    send()
}

/// The client's error in our kinds, and without the names of keys that its own words have.
pub(super) fn failure(operation: impl Into<Cow<'static, str>>, source: ClientError) -> Error {
    let unavailable = |why: String| (ErrorKind::Unavailable, why);
    let (kind, why) = match source {
        ClientError::Io(source) => match source.kind() {
            io::ErrorKind::InvalidInput => (ErrorKind::Invalid, source.to_string()),
            _ => return Error::with_source(ErrorKind::Unavailable, operation, source),
        },
        ClientError::Timeout { .. } => unavailable("the server did not answer in time".to_owned()),
        ClientError::Ambiguous { source, .. } => {
            let why = match *source {
                ClientError::Timeout { .. } => "the server did not answer in time".to_owned(),
                // It has answered, and said no.
                no @ (ClientError::Server(_) | ClientError::Rejected(_)) => {
                    return failure(operation, no);
                }
                source => source.to_string(),
            };
            unavailable(format!("whether it was done is not known: {why}"))
        }
        ClientError::Server(words) if words.contains("too large") => (ErrorKind::TooLarge, words),
        ClientError::Server(words) if words.contains("out of memory") => (ErrorKind::Full, words),
        ClientError::Server(words) => unavailable(words),
        ClientError::Protocol(words) => unavailable(format!("that is not memcached: {words}")),
        ClientError::Rejected(words) => {
            (ErrorKind::Unsupported, format!("memcached 1.6 or newer is needed: {words}"))
        }
        other => (ErrorKind::Unexpected, other.to_string()),
    };
    Error::with_source(kind, operation, why)
}
