//! The cookies of a client, from one request to the next.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};

use crate::error::Result;
use crate::manager::SessionManager;
use crate::message::{Outcome, RequestHead};
use crate::session::Session;

/// The cookies of one client, which continue its session over several requests.
///
/// It keeps cookies by their names, and sends all of them with each request. A cookie with a
/// `Max-Age` of zero or less is removed; the other attributes are ignored. `Debug` shows only the
/// names. A manager that carries the id in a header needs no jar.
///
/// Without a web framework, [`visit`](Self::visit) opens and closes the session of a request:
///
/// ```
/// use cloakroom::adapter::RequestHead;
/// use cloakroom::testing::CookieJar;
/// use cloakroom::{MemoryStore, SessionManager, SignIn, UserKey};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let phone = || RequestHead::new().user_agent("Phone").peer_addr([192, 0, 2, 7].into());
/// let mut jar = CookieJar::new();
/// jar.visit(&sessions, phone(), |session| session.set("cart", 3))?;
/// let anonymous = jar.get("__Host-id").map(str::to_owned);
///
/// let ada = UserKey::new("1")?;
/// let signed_in = jar.visit(&sessions, phone(), |session| session.sign_in(ada))?;
/// assert_eq!(signed_in, SignIn::Done);
/// assert_ne!(jar.get("__Host-id"), anonymous.as_deref(), "a sign-in renews the id");
/// let cart = jar.visit(&sessions, phone(), |session| session.get::<u32>("cart"))?;
/// assert_eq!(cart, Some(3));
///
/// jar.visit(&sessions, phone(), |session| session.destroy())?;
/// assert_eq!(jar.get("__Host-id"), None, "a sign-out removes the cookie");
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// With a web framework, send [`header`](Self::header) with the request, and pass the fields of the
/// response to [`receive`](Self::receive). Rocket's tracked client has a jar of its own.
#[derive(Clone, Default)]
pub struct CookieJar {
    cookies: BTreeMap<String, String>,
}

impl CookieJar {
    /// Makes a jar without cookies.
    #[must_use]
    pub fn new() -> Self {
        CookieJar::default()
    }

    /// Makes a jar with the cookies of a `Cookie` header, such as
    /// [`signed_in`](super::signed_in) returns.
    #[must_use]
    pub fn of(header: &str) -> Self {
        let pairs = header.split(';').filter_map(pair);
        CookieJar { cookies: pairs.map(|(n, value)| (n.to_owned(), value.to_owned())).collect() }
    }

    /// Returns the value of the `Cookie` header of the next request; `None` without cookies.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        let pairs: Vec<_> = self.cookies.iter().map(|(n, value)| format!("{n}={value}")).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// Returns the value of a cookie; `None` if it was not set or has been removed.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.cookies.get(name).map(String::as_str)
    }

    /// Applies the `Set-Cookie` fields of a response. `fields` are the names and values of its
    /// header fields; other names are ignored.
    pub fn receive<'r>(&mut self, fields: impl IntoIterator<Item = (&'r str, &'r str)>) {
        for (_, value) in fields.into_iter().filter(|(n, _)| n.eq_ignore_ascii_case("Set-Cookie")) {
            let (cookie, attributes) = value.split_once(';').unwrap_or((value, ""));
            let Some((name, value)) = pair(cookie) else { continue };
            if attributes.split(';').filter_map(pair).any(is_removal) {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    /// Opens the session of a request with these cookies, runs `handler`, closes the session and
    /// receives the response. If `handler` fails, its changes are discarded, as after a response
    /// with the status 500.
    ///
    /// # Errors
    /// Those of `handler` and of [`SessionManager::close`].
    pub fn visit<T>(
        &mut self,
        sessions: &SessionManager,
        head: RequestHead<'_>,
        handler: impl FnOnce(&Session) -> Result<T>,
    ) -> Result<T> {
        let cookies = self.header();
        let head = match &cookies {
            Some(cookies) => head.cookie(cookies),
            None => head,
        };
        let session = sessions.open(head);
        let result = handler(&session);
        let outcome = if result.is_ok() { Outcome::Completed } else { Outcome::ServerError };
        self.receive(sessions.close(&session, outcome)?.iter());
        result
    }
}

/// Splits a name and a value, without the spaces around them.
fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').map(|(name, value)| (name.trim(), value.trim()))
}

/// Returns whether the attribute removes its cookie, as in RFC 6265, section 5.2.2.
fn is_removal((attribute, value): (&str, &str)) -> bool {
    attribute.eq_ignore_ascii_case("Max-Age") && value.parse().is_ok_and(|age: i64| age <= 0)
}

impl Debug for CookieJar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.cookies.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jar_stores_replaces_and_removes_cookies() {
        let mut jar = CookieJar::of("id=1; theme=\"a=b\"");
        assert_eq!(jar.header().as_deref(), Some("id=1; theme=\"a=b\""));
        jar.receive([
            ("set-cookie", "id=2; Path=/; max-age=60"),
            ("Set-Cookie", "lang=en"),
            ("Set-Cookie", "no pair"),
            ("Cookie", "other=1"),
        ]);
        assert_eq!(jar.header().as_deref(), Some("id=2; lang=en; theme=\"a=b\""));
        jar.receive([
            ("Set-Cookie", "theme=x; Max-Age=-1"),
            ("Set-Cookie", "lang=; max-age=0; Path=/"),
            ("Set-Cookie", "gone=; Max-Age=0"),
        ]);
        assert_eq!((jar.get("lang"), jar.get("theme")), (None, None));
        assert_eq!(format!("{jar:?}"), "{\"id\"}");
        jar.receive([("Set-Cookie", "id=; Max-Age=0")]);
        assert_eq!(jar.header(), None);
    }
}
