//! Messages for the next page: set in one request, read once in another.

use std::fmt::{self, Debug};

use serde::{Deserialize, Serialize};

use crate::data::{FLASHES, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::id::PublicId;
use crate::session::Session;

/// A message for the next page that asks for it.
///
/// A session keeps the newest [`MAX`](Self::MAX) messages, and of those the newest that take
/// [`MAX_BYTES`](Self::MAX_BYTES): older ones make room. They do not count towards the limit of the
/// session's data ([`max_bytes`](crate::manager::SessionManagerBuilder::max_bytes)).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Flash {
    /// What kind of message it is, such as `info` or `error`; the page gives it its meaning.
    pub kind: String,
    /// The message.
    pub text: String,
    /// Tells equal messages apart, so that reading takes away exactly what was read.
    mark: String,
}

impl Flash {
    /// The most messages that a session keeps.
    pub const MAX: usize = 32;

    /// The most bytes of JSON that a session's messages take together: 16 KiB.
    pub const MAX_BYTES: usize = 16 << 10;
}

impl Debug for Flash {
    /// Shows the size of the text only: what is said to a user does not belong into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format_args!("{} bytes", self.text.len());
        f.debug_struct("Flash")
            .field("kind", &self.kind)
            .field("text", &text)
            .finish_non_exhaustive()
    }
}

/// The messages in a stored list.
fn items<'v>(flashes: Option<&'v Value<'v>>) -> Result<Vec<Value<'v>>> {
    flashes.map_or(Ok(Vec::new()), |flashes| flashes.items(FLASHES))
}

/// The list of the newest messages, as many as a session keeps. They are in JSON, and stay so: a
/// message costs the same however many there are.
fn newest(flashes: &[Value<'_>]) -> Value<'static> {
    let mut bytes = "[]".len();
    let fits = |flash: &&Value<'_>| {
        bytes += flash.as_json().len() + ",".len();
        bytes <= Flash::MAX_BYTES
    };
    let count = flashes.iter().rev().take(Flash::MAX).take_while(fits).count();
    Value::list(flashes.iter().skip(flashes.len() - count))
}

impl Session {
    /// Leaves a message for the next page that asks for it. Messages of parallel requests are all
    /// kept, up to the [limits](Flash).
    ///
    /// # Errors
    /// As [`update`](Self::update); [`ErrorKind::TooLarge`] for a message that alone exceeds the
    /// limit.
    pub fn flash(&self, kind: impl Into<String>, text: impl Into<String>) -> Result<()> {
        let mark = PublicId::generate()?.to_string();
        self.add_flashes(&[Flash { kind: kind.into(), text: text.into(), mark }])
    }

    /// Reads the messages and takes them away. A page that does not ask leaves them to the next, and
    /// so does a page that the browser [fetches in advance](crate::http::RequestHead::purpose): it
    /// shows them, if it is shown at all, and so does the next one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn flashes(&self) -> Result<Vec<Flash>> {
        let flashes: Vec<Flash> = self.get(FLASHES)?.unwrap_or_default();
        if !flashes.is_empty() && !self.is_prefetch() {
            let marks: Vec<String> = flashes.iter().map(|flash| flash.mark.clone()).collect();
            // Not all that is there, but what was read: another request may add one right now.
            self.compute_json(FLASHES, move |flashes| {
                let flashes = items(flashes)?;
                let is_read = |flash: &&Value<'_>| {
                    flash.decode::<Flash>().is_ok_and(|flash| marks.contains(&flash.mark))
                };
                let mut left = flashes.iter().filter(|flash| !is_read(flash)).peekable();
                Ok(left.peek().is_some().then(|| Value::list(left)))
            })?;
        }
        Ok(flashes)
    }

    /// Leaves messages that were read for the next page once more.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn keep_flashes(&self, flashes: &[Flash]) -> Result<()> {
        self.add_flashes(flashes)
    }

    fn add_flashes(&self, new: &[Flash]) -> Result<()> {
        const OPERATION: &str = "leave a message for the next page";
        let new = new.iter().map(Value::encode).collect::<Result<Vec<_>>>()?;
        for flash in &new {
            let bytes = Value::list([flash]).as_json().len();
            if bytes >= Flash::MAX_BYTES {
                let limit = Flash::MAX_BYTES;
                let why =
                    format!("the message has {bytes} bytes, all of a session at most {limit}");
                return Err(Error::with_source(ErrorKind::TooLarge, OPERATION, why));
            }
        }
        self.compute_json(FLASHES, move |flashes| {
            let mut flashes = items(flashes)?;
            // Some may not have been taken away. Each has a mark of its own, so that equal ones are
            // one and the same.
            let is_new = |new: &&Value<'_>| !flashes.iter().any(|flash| flash == *new);
            let new: Vec<_> = new.iter().filter(is_new).map(Value::borrowed).collect();
            flashes.extend(new);
            Ok(Some(newest(&flashes)))
        })
        .map(drop)
    }
}
