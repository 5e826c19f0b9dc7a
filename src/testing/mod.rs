//! Helpers for tests of applications: signed-in users, the cookies of a client, and a store whose
//! calls wait or fail.
//!
//! With [`MemoryStore`](crate::MemoryStore) and [`ManualClock`](crate::clock::ManualClock) tests
//! need no socket, no file and no sleep. A test of two concurrent requests:
//!
//! ```
//! use std::thread;
//!
//! use cloakroom::adapter::Outcome;
//! use cloakroom::testing::{Call, PausingStore, signed_in};
//! use cloakroom::{MemoryStore, SessionManager, UserKey};
//!
//! let store = PausingStore::new(MemoryStore::new());
//! let sessions = SessionManager::new(store.clone())?;
//! let cookie = signed_in(&sessions, UserKey::new("1")?)?;
//!
//! // A request that writes stops before its commit …
//! let pause = store.pause(Call::Commit);
//! let writer = thread::spawn({
//!     let (sessions, cookie) = (sessions.clone(), cookie.clone());
//!     move || {
//!         let session = sessions.open(Some(cookie.as_str()));
//!         session.get::<u32>("cart")?;
//!         session.set("cart", 1)?;
//!         sessions.close(&session, Outcome::Completed)
//!     }
//! });
//! assert!(pause.is_reached());
//!
//! // … while another one signs out.
//! let session = sessions.open(Some(cookie.as_str()));
//! session.destroy()?;
//! sessions.close(&session, Outcome::Completed)?;
//!
//! pause.end();
//! assert!(writer.join().unwrap()?.discarded, "the writer was too late");
//! # Ok::<(), cloakroom::Error>(())
//! ```

mod cookie_jar;
mod pausing_store;

pub use cookie_jar::CookieJar;
pub use pausing_store::{Call, Pause, PausingStore};

use crate::error::{Error, ErrorKind, Result};
use crate::id::UserKey;
use crate::manager::SessionManager;
use crate::message::Outcome;
use crate::session::{Session, SignIn};

/// Signs `user` in, and returns the value of the `Cookie` header that the user's browser then
/// sends, or of the header that carries the id instead.
///
/// # Errors
/// The [store's errors](ErrorKind#the-stores-errors); [`ErrorKind::Invalid`] if the user has the
/// maximum number of sessions.
pub fn signed_in(sessions: &SessionManager, user: UserKey) -> Result<String> {
    with_session(sessions, |session| match session.sign_in(user)? {
        SignIn::Done => Ok(()),
        SignIn::Refused => {
            let why = "the user has the maximum number of sessions";
            Err(Error::with_source(ErrorKind::Invalid, "sign a test's user in", why))
        }
    })
}

/// Begins a session with the changes that `prepare` makes, and returns the value of the `Cookie`
/// header, or of the header that carries the id instead.
///
/// A user who put something into the cart before the sign-in:
///
/// ```
/// use cloakroom::testing::with_session;
/// use cloakroom::SignIn;
/// # use cloakroom::{MemoryStore, SessionManager, UserKey};
///
/// # let (sessions, ada) = (SessionManager::new(MemoryStore::new())?, UserKey::new("1")?);
/// let cookie = with_session(&sessions, |session| {
///     session.set("cart", 3)?;
///     assert_eq!(session.sign_in(ada)?, SignIn::Done);
///     Ok(())
/// })?;
/// # let session = sessions.open(Some(cookie.as_str()));
/// # assert_eq!(session.get::<u32>("cart")?, Some(3));
/// # assert!(session.user()?.is_some());
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// # Errors
/// Those of `prepare` and of the store; [`ErrorKind::Invalid`] if `prepare` began no session.
pub fn with_session(
    sessions: &SessionManager,
    prepare: impl FnOnce(&Session) -> Result<()>,
) -> Result<String> {
    let session = sessions.open(None);
    prepare(&session)?;
    let headers = sessions.close(&session, Outcome::Completed)?;
    let no_value = || {
        let why = "no value was set";
        Error::with_source(ErrorKind::Invalid, "begin a test's session", why)
    };
    let (name, value) = headers.id_fields.into_iter().next().ok_or_else(no_value)?;
    Ok(match &*name {
        "Set-Cookie" => value.split(';').next().unwrap_or_default().to_owned(),
        _ => value,
    })
}

/// Returns the attribute `value` of the first element of `page` with this `name`; skips elements
/// without a `value`. Attributes may be in any order, with or without quotes. The value is not
/// unescaped. Comments and scripts are read like the rest of the page.
///
/// ```
/// use cloakroom::csrf::CsrfCheck;
/// use cloakroom::testing::field_of_form;
/// # use cloakroom::{MemoryStore, SessionManager};
///
/// # let session = SessionManager::new(MemoryStore::new())?.open(None);
/// let page = format!("<form method=post>{}<button>Go</button></form>", session.csrf_field()?);
/// let token = field_of_form(&page, "csrf").unwrap();
/// assert_eq!(session.verify_csrf(token)?, CsrfCheck::Valid);
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[must_use]
pub fn field_of_form<'p>(page: &'p str, name: &str) -> Option<&'p str> {
    let tags = page.match_indices('<').map(|(start, _)| &page[start + 1..]);
    tags.filter(|tag| tag.starts_with(char::is_alphabetic)).find_map(|tag| {
        let (mut has_name, mut value) = (false, None);
        for (attribute, text) in attributes(tag) {
            has_name |= attribute.eq_ignore_ascii_case("name") && text == name;
            if attribute.eq_ignore_ascii_case("value") {
                value = Some(text);
            }
        }
        value.filter(|_| has_name)
    })
}

/// Iterates over the words of a tag, which are its name and its attributes, each with its value. A
/// word without a value has an empty one.
fn attributes(mut tag: &str) -> impl Iterator<Item = (&str, &str)> {
    std::iter::from_fn(move || {
        tag = tag.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '/');
        let (name, rest) =
            tag.split_at(tag.find(|c: char| c.is_ascii_whitespace() || "/=>".contains(c))?);
        let value = rest.trim_start().strip_prefix('=').map(str::trim_start);
        let (value, rest) = match (value, value.and_then(|value| value.chars().next())) {
            (Some(value), Some(quote @ ('"' | '\''))) => value[1..].split_once(quote)?,
            (Some(value), _) => {
                value.split_at(value.find(|c: char| c.is_ascii_whitespace() || c == '>')?)
            }
            (None, _) => ("", rest),
        };
        tag = rest;
        (!name.is_empty()).then_some((name, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_however_its_tag_is_written() {
        for tag in [
            "<input name=\"csrf\" value=\"a=b\">",
            "<input type=hidden name=csrf value=a=b>",
            "<INPUT value='a=b' required NAME = 'csrf'/>",
            "<input\n  value=a=b\n  hidden name=csrf>",
            "<button title='a > b' name=csrf value=a=b>",
        ] {
            let page = format!("<p>1 < 2, name=csrf value=no</p><input name=csrf2 value=no>{tag}");
            assert_eq!(field_of_form(&page, "csrf"), Some("a=b"), "{tag}");
        }
    }

    #[test]
    fn a_page_without_the_field_has_none() {
        for page in [
            "",
            "name=csrf value=no",
            "<input name=other value=no>",
            "<input name=csrf><input value=no>",
            "<p>name=csrf value=no</p>",
            "<input data-name=csrf value=no>",
            "<input name=csrf value=\"no",
            "<",
        ] {
            assert_eq!(field_of_form(page, "csrf"), None, "{page}");
        }
        assert_eq!(field_of_form("<input name=csrf value=''>", "csrf"), Some(""));
    }
}
