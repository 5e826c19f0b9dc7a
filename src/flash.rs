//! Messages for the next page: set in one request, read once in another.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::id::Handle;
use crate::session::Session;

/// The name under which the messages are stored.
const NAME: &str = "cloakroom.flash";

/// A message for the next page that asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Flash {
    /// What kind of message it is, such as `info` or `error`; the page gives it its meaning.
    pub kind: String,
    /// The message.
    pub text: String,
    /// Tells equal messages apart, so that reading takes away exactly what was read.
    mark: String,
}

impl Session {
    /// Leaves a message for the next page that asks for it. Messages of parallel requests are all
    /// kept.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn flash(&self, kind: impl Into<String>, text: impl Into<String>) -> Result<()> {
        let mark = Handle::generate()?.to_string();
        self.add_flashes(vec![Flash { kind: kind.into(), text: text.into(), mark }])
    }

    /// Reads the messages and takes them away. A page that does not ask leaves them to the next, and
    /// so does a page that the browser [fetches in advance](crate::http::RequestHead::purpose): it
    /// shows them, if it is shown at all, and so does the next one.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn flashes(&self) -> Result<Vec<Flash>> {
        let flashes: Vec<Flash> = self.get(NAME)?.unwrap_or_default();
        if !flashes.is_empty() && !self.is_prefetch() {
            let marks: Vec<String> = flashes.iter().map(|flash| flash.mark.clone()).collect();
            // Not all that is there, but what was read: another request may add one right now.
            self.compute(NAME, move |flashes: Option<Vec<Flash>>| {
                let mut flashes = flashes?;
                flashes.retain(|flash| !marks.contains(&flash.mark));
                (!flashes.is_empty()).then_some(flashes)
            })?;
        }
        Ok(flashes)
    }

    /// Leaves messages that were read for the next page once more.
    ///
    /// # Errors
    /// As [`update`](Self::update).
    pub fn keep_flashes(&self, flashes: &[Flash]) -> Result<()> {
        self.add_flashes(flashes.to_vec())
    }

    fn add_flashes(&self, new: Vec<Flash>) -> Result<()> {
        self.compute(NAME, move |flashes: Option<Vec<Flash>>| {
            let mut flashes = flashes.unwrap_or_default();
            // Some may not have been taken away.
            let is_new = |new: &&Flash| !flashes.iter().any(|flash| flash.mark == new.mark);
            let new: Vec<Flash> = new.iter().filter(is_new).cloned().collect();
            flashes.extend(new);
            Some(flashes)
        })
        .map(drop)
    }
}
