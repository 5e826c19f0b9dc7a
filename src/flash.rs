//! Flash messages: set in one request and read once in a later one.
//!
//! The messages are one session value with a separate size limit: messages that no page shows would
//! otherwise fill the session, until every change fails. Handlers call the methods of [`Session`].

use std::fmt::{self, Debug};

use serde::{Deserialize, Serialize};

use crate::data::{FLASHES, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::id::PublicId;
use crate::session::Session;

/// A message for the next page that reads messages.
///
/// A session keeps at most the newest [`MAX`](Self::MAX) messages with at most
/// [`MAX_BYTES`](Self::MAX_BYTES) in total, and drops older ones. Messages do not count towards the
/// limit of the session's data ([`max_bytes`](crate::manager::SessionManagerBuilder::max_bytes)).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Flash {
    /// The kind of the message, such as `info` or `error`. The application defines its meaning.
    pub kind: String,
    /// The text of the message. Escape it in HTML, as any other text.
    pub text: String,
    /// A random mark. It distinguishes equal messages, so that reading removes exactly the messages
    /// that were returned.
    mark: String,
}

impl Flash {
    /// The maximum number of messages in a session.
    pub const MAX: usize = 32;

    /// The maximum size of all messages of a session, in bytes of JSON: 16 KiB.
    pub const MAX_BYTES: usize = 16 << 10;
}

impl Debug for Flash {
    /// Shows only the size of the text, because logs must not contain messages to users.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format_args!("{} bytes", self.text.len());
        f.debug_struct("Flash")
            .field("kind", &self.kind)
            .field("text", &text)
            .finish_non_exhaustive()
    }
}

/// Returns the messages in a stored list, as JSON.
fn items<'v>(flashes: Option<&'v Value<'v>>) -> Result<Vec<Value<'v>>> {
    flashes.map_or(Ok(Vec::new()), |flashes| flashes.items(FLASHES))
}

/// Makes the list of the newest messages within both limits. The messages stay encoded, so the cost
/// of adding one does not depend on decoding the others.
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
    /// Adds a message for the next page that reads messages. Messages of concurrent requests are
    /// all kept, up to the [limits](Flash).
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// session.flash("info", "The order is placed.")?;
    /// // In the template of the next page:
    /// for flash in session.flashes()? {
    ///     println!("{}: {}", flash.kind, flash.text);
    /// }
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`update`](Self::update); [`ErrorKind::TooLarge`] for a message that alone exceeds the
    /// limit.
    pub fn flash(&self, kind: impl Into<String>, text: impl Into<String>) -> Result<()> {
        let mark = PublicId::generate()?.to_string();
        self.add_flashes(&[Flash { kind: kind.into(), text: text.into(), mark }])
    }

    /// Returns the messages and removes them. If a page does not call this, the messages stay for
    /// the next one. A [prefetch](crate::adapter::RequestHead::purpose) (`Sec-Purpose: prefetch`)
    /// does not remove them, because the browser may never show the page.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn flashes(&self) -> Result<Vec<Flash>> {
        let flashes: Vec<Flash> = self.get(FLASHES)?.unwrap_or_default();
        if !flashes.is_empty() {
            self.mark_flashes_shown();
        }
        if !flashes.is_empty() && !self.is_prefetch() {
            let marks: Vec<String> = flashes.iter().map(|flash| flash.mark.clone()).collect();
            // Removes only what was read: another request may add a message at the same time.
            self.update_json(FLASHES, move |flashes| {
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

    /// Puts messages that [`flashes`](Self::flashes) returned back, so that the next page shows
    /// them too.
    ///
    /// ```
    /// # let sessions = cloakroom::SessionManager::new(cloakroom::MemoryStore::new())?;
    /// # let session = sessions.open(None);
    /// let flashes = session.flashes()?;
    /// // This request redirects after all, and shows none.
    /// session.keep_flashes(&flashes)?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn keep_flashes(&self, flashes: &[Flash]) -> Result<()> {
        self.add_flashes(flashes)
    }

    fn add_flashes(&self, new: &[Flash]) -> Result<()> {
        const OPERATION: &str = "add a flash message";
        let new = new.iter().map(Value::encode).collect::<Result<Vec<_>>>()?;
        for flash in &new {
            let bytes = Value::list([flash]).as_json().len();
            if bytes >= Flash::MAX_BYTES {
                let limit = Flash::MAX_BYTES;
                let why = format!(
                    "the message has {bytes} bytes, the messages of a session at most {limit}"
                );
                return Err(Error::with_source(ErrorKind::TooLarge, OPERATION, why));
            }
        }
        self.update_json(FLASHES, move |flashes| {
            let mut flashes = items(flashes)?;
            // A message may still be in the list, as after a prefetch. Each has its own mark, so
            // equal messages are the same message.
            let is_new = |new: &&Value<'_>| !flashes.iter().any(|flash| flash == *new);
            let new: Vec<_> = new.iter().filter(is_new).map(Value::borrowed).collect();
            flashes.extend(new);
            Ok(Some(newest(&flashes)))
        })
    }
}
