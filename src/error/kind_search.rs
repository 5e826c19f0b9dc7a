//! The search for this crate's error in an application's error, by a thread-local, while the text
//! of that error is written. The sources do not always contain it: `anyhow` in a `Box`, a
//! transparent variant of an enum, and `std::io::Error::other` return the sources of the error
//! inside them, and not that error. But all of them write it, so its `Display` can note its kind
//! here.

use std::cell::Cell;

use crate::error::ErrorKind;

#[derive(Clone, Copy)]
enum Search {
    Off,
    Looking,
    Found(ErrorKind),
}

thread_local! {
    static SEARCH: Cell<Search> = const { Cell::new(Search::Off) };
}

/// Returns the text that `write` makes of an error, and the kind of the first error of this crate
/// that it writes, which is the outermost.
pub(super) fn find_kind(write: impl FnOnce() -> String) -> (String, Option<ErrorKind>) {
    let outer = SEARCH.replace(Search::Looking);
    let text = write();
    match SEARCH.replace(outer) {
        Search::Found(kind) => (text, Some(kind)),
        Search::Off | Search::Looking => (text, None),
    }
}

/// Notes the kind of an error that is being written, if a search looks for one.
pub(super) fn note(kind: ErrorKind) {
    if matches!(SEARCH.get(), Search::Looking) {
        SEARCH.set(Search::Found(kind));
    }
}
