//! Retries after signals, and the mapping of client errors to [`ErrorKind`].

use std::borrow::Cow;
use std::io;

use memcache::exp::Error as ClientError;

use crate::error::{Error, ErrorKind, Result};

/// The maximum number of attempts for a command that signals interrupt.
const MAX_ATTEMPTS: usize = 8;

/// Repeats a command that a signal has interrupted before it was sent, such as SIGCHLD or SIGWINCH.
/// The client reports this kind of error only for commands that were not sent.
pub(super) fn uninterrupted<T>(
    send: impl Fn() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    for _ in 1..MAX_ATTEMPTS {
        match send() {
            Err(ClientError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
    send()
}

/// Maps a client error to an [`Error`] without the key names that the client's own message
/// contains.
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
                // The server has answered with an error, so the outcome is known.
                answer @ (ClientError::Server(_) | ClientError::Rejected(_)) => {
                    return failure(operation, answer);
                }
                source => source.to_string(),
            };
            unavailable(format!("whether it was done is not known: {why}"))
        }
        ClientError::Server(text) if text.contains("too large") => (ErrorKind::TooLarge, text),
        ClientError::Server(text) if text.contains("out of memory") => (ErrorKind::Full, text),
        ClientError::Server(text) => unavailable(text),
        ClientError::Protocol(text) => unavailable(format!("the server is not memcached: {text}")),
        ClientError::Rejected(text) => {
            (ErrorKind::Unsupported, format!("memcached 1.6 or newer is needed: {text}"))
        }
        other => (ErrorKind::Unexpected, other.to_string()),
    };
    Error::with_source(kind, operation, why)
}
