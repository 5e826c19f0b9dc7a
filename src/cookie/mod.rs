//! The configuration of the session cookie: its name and attributes, [`SameSite`], and with the
//! feature `cookie-keys` the keys that sign or encrypt it.
//!
//! Most applications set only the [name](CookieConfig::name), if several applications run on one
//! host, or use [`CookieConfig::insecure_http`] in development. The
//! [guide](crate::guide::cookies) describes the behaviour of browsers.

// Also the conversion between ids and header fields: the session reads ids from `Cookie` fields and
// writes `Set-Cookie` fields.

mod date;
#[cfg(feature = "cookie-keys")]
mod keys;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RealmTag, SessionId};
use date::http_date;

#[cfg(feature = "cookie-keys")]
pub use keys::CookieKeys;

/// The maximum lifetime of a cookie in browsers: 400 days (draft RFC 6265bis, section 5.5).
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(400 * 86_400);

/// The maximum size of name and value together in browsers, in bytes (the same draft; ASVS 3.3.5).
const MAX_COOKIE_BYTES: usize = 4096;

/// The maximum size of one attribute's value in browsers, in bytes (the same draft, section 5.6).
const MAX_ATTRIBUTE_BYTES: usize = 1024;

/// The attributes that [`CookieConfig::extra`] refuses: each has a setter, or follows from the
/// session's lifetime.
const RESERVED_ATTRIBUTES: [&str; 8] =
    ["Domain", "Path", "Secure", "HttpOnly", "SameSite", "Partitioned", "Max-Age", "Expires"];

/// The value that [`CookieConfig::overwrite`] writes. It is too short to be an id.
pub(crate) const OVERWRITTEN: &str = "signed-out";

/// The `SameSite` attribute: whether a browser sends the cookie with requests that another site
/// causes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// The browser never sends the cookie with such requests, so a link from another site opens the
    /// application without the session, and a sign-in by an identity provider does not work. If the
    /// page behind such a link begins a session, its cookie replaces the user's, which signs the
    /// user out.
    Strict,
    /// The browser sends the cookie with such requests only if they are top-level navigations by a
    /// safe method, such as links. An identity provider's response by `form_post` arrives without
    /// the session.
    #[default]
    Lax,
    /// The browser sends the cookie with every request. Requires Secure.
    None,
}

/// Signs or encrypts the text of an id into a cookie's value, and reverses it.
pub(crate) trait Seal: Debug + Send + Sync {
    fn seal(&self, name: &str, id: &str) -> String;
    fn unseal(&self, name: &str, value: &str) -> Option<Unsealed>;

    /// Returns this seal with keys derived for one realm.
    fn of_realm(&self, realm: RealmTag) -> Result<Arc<dyn Seal>>;
}

/// The text of an id from a sealed value.
pub(crate) struct Unsealed {
    pub(crate) id: String,
    /// If so, the cookie is to be sent again, sealed with the newest key.
    pub(crate) sealed_with_old_key: bool,
}

/// The configuration of the session cookie.
///
/// Defaults: the name `__Host-id`, Secure, HttpOnly, SameSite=Lax, Path=/, no Domain. Max-Age and
/// Expires are the time until the session's absolute limit, at most 400 days (the maximum of
/// draft-ietf-httpbis-rfc6265bis, section 5.5).
///
/// ```
/// use cloakroom::{CookieConfig, MemoryStore, SessionManager};
///
/// // A second application on the same host.
/// let cookie = CookieConfig::new().name("__Host-shop");
/// let sessions = SessionManager::builder(MemoryStore::new()).cookie(cookie).build()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// **Plain HTTP.** Browsers reject a Secure cookie on a connection without TLS. Chromium, Firefox
/// and curl make an exception for `http://localhost` and `http://127.0.0.1`; Safari and other
/// WebKit browsers do not (WebKit bug 281149). See [`insecure_http`](Self::insecure_http).
///
/// **Several applications on one host**, such as localhost, need cookies of different
/// [names](Self::name), because a cookie belongs to a host and not to a port. Renaming the cookie
/// of an application signs out all its users, unless its manager also reads the [former
/// name](crate::manager::SessionManagerBuilder::former_cookie_name).
///
/// **Bounds.** All `Cookie` fields of a request are searched for the name. Of the cookies with that
/// name, the first 256 are examined and the first 16 different ids are looked up; of signed or
/// encrypted cookies, the first 16 different values are opened. A request that exceeds a bound
/// raises [`TooManyIds`](crate::event::Event::TooManyIds). One pair of double quotes around a value
/// is removed (RFC 6265, section 4.1.1).
#[derive(Clone, Debug)]
#[must_use]
pub struct CookieConfig {
    pub(crate) name: String,
    path: String,
    domain: Option<String>,
    pub(crate) secure: bool,
    pub(crate) http_only: bool,
    pub(crate) same_site: SameSite,
    partitioned: bool,
    extra: Vec<String>,
    seal: Option<Arc<dyn Seal>>,
}

impl CookieConfig {
    /// Makes the default configuration.
    pub fn new() -> Self {
        CookieConfig {
            name: "__Host-id".to_owned(),
            path: "/".to_owned(),
            domain: None,
            secure: true,
            http_only: true,
            same_site: SameSite::Lax,
            partitioned: false,
            extra: Vec::new(),
            seal: None,
        }
    }

    /// Makes a configuration for plain HTTP: the name `id`, without Secure. Without TLS, every host
    /// but localhost needs it, and Safari needs it on localhost too. An attacker who can read the
    /// connection can use the session.
    pub fn insecure_http() -> Self {
        CookieConfig::new().name("id").secure(false)
    }

    /// Sets the name. Defaults to `__Host-id`.
    ///
    /// A browser rejects a cookie whose name begins with one of these prefixes, in any letter case,
    /// unless it has the required attributes:
    ///
    /// | prefix | required attributes |
    /// |---|---|
    /// | `__Host-` | Secure, Path=/, no Domain |
    /// | `__Secure-` | Secure |
    /// | `__Http-` | Secure, HttpOnly |
    /// | `__Host-Http-` | those of `__Host-` and `__Http-` |
    ///
    /// Only `__Host-` prevents other hosts of the same domain from setting a cookie of this name.
    /// Sources: draft-ietf-httpbis-rfc6265bis, section 4.1.3; for the last two rows,
    /// draft-ietf-httpbis-layered-cookies.
    pub fn name(self, name: impl Into<String>) -> Self {
        CookieConfig { name: name.into(), ..self }
    }

    /// Sets the path below which the browser sends the cookie. Another path than the default `/`
    /// needs a name without the prefix `__Host-`. A path is no protection: other pages of the host
    /// can still use the session.
    pub fn path(self, path: impl Into<String>) -> Self {
        CookieConfig { path: path.into(), ..self }
    }

    /// Sets a domain, which shares the cookie with all its subdomains. Defaults to none, which
    /// limits the cookie to the host. A domain needs a name without the prefix `__Host-`. Every
    /// subdomain then receives the id, and can set a cookie of this name.
    pub fn domain(self, domain: impl Into<String>) -> Self {
        CookieConfig { domain: Some(domain.into()), ..self }
    }

    /// Sets whether the browser sends the cookie over TLS only. Defaults to true. With false, an
    /// attacker who can read the connection can use the session, and a name with the prefix
    /// `__Host-` or `__Secure-` is refused: use [`insecure_http`](Self::insecure_http).
    pub fn secure(self, secure: bool) -> Self {
        CookieConfig { secure, ..self }
    }

    /// Sets whether the browser hides the cookie from scripts. Defaults to true. With false, a
    /// script that an attacker injects into a page can read the id.
    pub fn http_only(self, http_only: bool) -> Self {
        CookieConfig { http_only, ..self }
    }

    /// Sets the `SameSite` attribute. Defaults to [`SameSite::Lax`].
    pub fn same_site(self, same_site: SameSite) -> Self {
        CookieConfig { same_site, ..self }
    }

    /// Sets the `Partitioned` attribute (CHIPS, Cookies Having Independent Partitioned State): the
    /// browser keeps a separate cookie for each top-level site that embeds pages of this site.
    /// Defaults to false. It requires Secure, and has an effect only with [`SameSite::None`]:
    ///
    /// ```
    /// use cloakroom::CookieConfig;
    /// use cloakroom::cookie::SameSite;
    ///
    /// let embedded = CookieConfig::new().same_site(SameSite::None).partitioned(true);
    /// embedded.validate()?;
    /// # Ok::<(), cloakroom::Error>(())
    /// ```
    pub fn partitioned(self, partitioned: bool) -> Self {
        CookieConfig { partitioned, ..self }
    }

    /// Adds an attribute that has no setter here, such as `Priority=High`; it is written unchanged.
    /// Building the manager fails for attributes that have a setter, and for Max-Age and Expires,
    /// which follow from the lifetime.
    pub fn extra(mut self, attribute: impl Into<String>) -> Self {
        self.extra.push(attribute.into());
        self
    }

    /// Checks that all parts are well-formed, and that browsers accept their combination. Building
    /// the manager does so too.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with the reason as text.
    pub fn validate(&self) -> Result<()> {
        let has_prefix = |prefix: &str| {
            // Browsers compare the prefixes case-insensitively.
            self.name.get(..prefix.len()).is_some_and(|have| have.eq_ignore_ascii_case(prefix))
        };
        let host = has_prefix("__Host-");
        let http = has_prefix("__Http-") || has_prefix("__Host-Http-");
        let is_attribute = |text: &str| {
            let is_plain = |byte| (b' '..=b'~').contains(&byte) && byte != b';';
            !text.is_empty() && text.len() <= MAX_ATTRIBUTE_BYTES && text.bytes().all(is_plain)
        };
        let has_setter = |text: &String| {
            let name = text.split('=').next().unwrap_or_default().trim_matches(WHITESPACE);
            RESERVED_ATTRIBUTES.iter().any(|reserved| name.eq_ignore_ascii_case(reserved))
        };
        let cookie_len = self.name.len() + self.value(&"x".repeat(SessionId::TEXT_LEN)).len();
        let refused = [
            (
                self.name.is_empty() || !self.name.bytes().all(is_token),
                "a cookie's name contains only letters, digits and !#$%&'*+-.^_`|~",
            ),
            (host && !self.secure, "a name that begins with __Host- demands Secure"),
            (host && self.path != "/", "a name that begins with __Host- demands Path=/"),
            (host && self.domain.is_some(), "a name that begins with __Host- allows no Domain"),
            (
                has_prefix("__Secure-") && !self.secure,
                "a name that begins with __Secure- demands Secure",
            ),
            (http && !self.secure, "a name that begins with __Http- demands Secure"),
            (
                http && !self.http_only,
                "a name that begins with __Http- or __Host-Http- demands HttpOnly",
            ),
            (self.same_site == SameSite::None && !self.secure, "SameSite=None demands Secure"),
            (self.partitioned && !self.secure, "Partitioned demands Secure"),
            (
                !self.path.starts_with('/') || !is_attribute(&self.path),
                "a path begins with a slash and has at most 1024 bytes: printable ASCII characters \
                 without a semicolon",
            ),
            (
                self.domain.as_deref().is_some_and(|domain| !is_domain(domain)),
                "a domain has at most 253 bytes: labels of letters, digits and hyphens with one \
                 dot between them and none at the end",
            ),
            (
                !self.extra.iter().all(|text| is_attribute(text)),
                "an extra attribute has 1 to 1024 bytes: printable ASCII characters without a \
                 semicolon",
            ),
            (
                self.extra.iter().any(has_setter),
                "an extra attribute is none that has a setter or follows from the lifetime: \
                 Domain, Path, Secure, HttpOnly, SameSite, Partitioned, Max-Age and Expires",
            ),
            (cookie_len > MAX_COOKIE_BYTES, "name and value together have at most 4096 bytes"),
        ];
        match refused.into_iter().find(|(is_refused, _)| *is_refused) {
            None => Ok(()),
            Some((_, why)) => {
                Err(Error::with_source(ErrorKind::Invalid, "use that session cookie", why))
            }
        }
    }

    /// Returns this configuration for one realm: a value that was sealed for another realm does not
    /// open.
    pub(crate) fn of_realm(self, realm: RealmTag) -> Result<Self> {
        let seal = self.seal.map(|seal| seal.of_realm(realm)).transpose()?;
        Ok(CookieConfig { seal, ..self })
    }

    /// Returns the values of this cookie in one `Cookie` field. It allocates nothing, and its
    /// running time is linear in the length of the field, whatever the field contains.
    pub(crate) fn values<'h>(&self, field: &'h str) -> impl Iterator<Item = &'h str> {
        field.match_indices('=').filter_map(|(at, _)| {
            let name = field.get(..at)?.trim_end_matches(WHITESPACE);
            let before = name.strip_suffix(&*self.name)?.trim_end_matches(WHITESPACE);
            if !before.is_empty() && !before.ends_with(';') {
                return None;
            }
            let value = field.get(at + 1..)?.split(';').next()?;
            Some(without_quotes(value.trim_matches(WHITESPACE)))
        })
    }

    /// Returns whether values are signed or encrypted, so that reading one needs cryptography.
    pub(crate) fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// Returns the id in a cookie's value, and whether the value was sealed with an old key.
    pub(crate) fn read(&self, value: &str) -> Option<(SessionId, bool)> {
        match &self.seal {
            None => Some((SessionId::parse(value)?, false)),
            Some(seal) => {
                // A value above the limit of browsers does not come from one, so it is not opened.
                let value = (value.len() <= MAX_COOKIE_BYTES).then_some(value)?;
                let unsealed = seal.unseal(&self.name, value)?;
                Some((SessionId::parse(&unsealed.id)?, unsealed.sealed_with_old_key))
            }
        }
    }

    fn value(&self, id: &str) -> String {
        match &self.seal {
            None => id.to_owned(),
            Some(seal) => seal.seal(&self.name, id),
        }
    }

    /// Returns the `Set-Cookie` value that issues an id: until the browser is closed, or for
    /// `max_age` from `now` on.
    pub(crate) fn issue(
        &self,
        id: &SessionId,
        max_age: Option<Duration>,
        now: Timestamp,
    ) -> String {
        let age = max_age.map(|age| age.min(MAX_LIFETIME));
        self.set_cookie(&self.value(&id.reveal()), age.map(|age| (age, now + age)))
    }

    /// Returns the `Set-Cookie` value that removes the cookie.
    pub(crate) fn remove(&self) -> String {
        self.set_cookie("", Some((Duration::ZERO, Timestamp::default())))
    }

    /// Returns the `Set-Cookie` value that replaces the id with [`OVERWRITTEN`], until the browser
    /// is closed.
    pub(crate) fn overwrite(&self) -> String {
        self.set_cookie(OVERWRITTEN, None)
    }

    /// Writes both Max-Age and Expires, because some clients read only one of them, and Java's
    /// CookieManager treats a cookie without Expires as one of RFC 2965, whose value it quotes.
    fn set_cookie(&self, value: &str, ends: Option<(Duration, Timestamp)>) -> String {
        let mut text = format!("{}={value}; Path={}", self.name, self.path);
        let mut add = |attribute: &str| {
            text.push_str("; ");
            text.push_str(attribute);
        };
        if let Some(domain) = &self.domain {
            add(&format!("Domain={domain}"));
        }
        if let Some((max_age, expires)) = ends {
            // Rounded up: the server enforces the limit, so the browser must not drop the cookie
            // early.
            add(&format!("Max-Age={}", max_age.as_millis().div_ceil(1000)));
            add(&format!("Expires={}", http_date(expires)));
        }
        if self.secure {
            add("Secure");
        }
        if self.http_only {
            add("HttpOnly");
        }
        add(match self.same_site {
            SameSite::Strict => "SameSite=Strict",
            SameSite::Lax => "SameSite=Lax",
            SameSite::None => "SameSite=None",
        });
        if self.partitioned {
            add("Partitioned");
        }
        for attribute in &self.extra {
            add(attribute);
        }
        text
    }
}

impl Default for CookieConfig {
    fn default() -> Self {
        CookieConfig::new()
    }
}

/// The whitespace that may surround the name and the value of a cookie.
const WHITESPACE: [char; 2] = [' ', '\t'];

/// Removes one pair of double quotes around a value (RFC 6265, section 4.1.1).
fn without_quotes(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// Returns whether a byte is a token character (RFC 9110, section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether the text is a DNS name (RFC 1035, section 2.3.4). Browsers ignore a leading dot.
fn is_domain(text: &str) -> bool {
    let text = text.strip_prefix('.').unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

    fn id() -> SessionId {
        SessionId::generate().unwrap()
    }

    #[test]
    fn the_default_cookie_has_the_safest_attributes() {
        let id = id();
        let cookie = CookieConfig::new().issue(&id, Some(Duration::from_secs(60)), NOW);
        let expected = format!(
            "__Host-id={}; Path=/; Max-Age=60; Expires=Tue, 14 Nov 2023 22:14:20 GMT; Secure; \
             HttpOnly; SameSite=Lax",
            id.reveal()
        );
        assert_eq!(cookie, expected);
        CookieConfig::new().validate().unwrap();
    }

    #[test]
    fn a_cookie_lives_at_most_400_days_or_until_the_browser_closes() {
        let cookie = CookieConfig::new().issue(&id(), Some(Duration::MAX), NOW);
        let ends = "Max-Age=34560000; Expires=Wed, 18 Dec 2024 22:13:20 GMT;";
        assert!(cookie.contains(ends), "{cookie}");
        let cookie = CookieConfig::new().issue(&id(), None, NOW);
        assert!(!cookie.contains("Max-Age") && !cookie.contains("Expires"), "{cookie}");
    }

    #[test]
    fn the_removal_has_the_same_name_path_domain_and_flags() {
        let config = CookieConfig::new()
            .name("s")
            .path("/app")
            .domain("example.org")
            .same_site(SameSite::None)
            .partitioned(true)
            .extra("Priority=High");
        assert_eq!(
            config.remove(),
            "s=; Path=/app; Domain=example.org; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; \
             Secure; HttpOnly; SameSite=None; Partitioned; Priority=High"
        );
    }

    #[test]
    fn attributes_that_browsers_refuse_are_refused_with_a_reason() {
        let new = CookieConfig::new;
        for (bad, reason) in [
            (new().secure(false), "demands Secure"),
            (new().path("/app"), "demands Path=/"),
            (new().domain("example.org"), "no Domain"),
            (new().name("__host-x").domain("example.org"), "no Domain"),
            (new().name("__Secure-id").secure(false), "demands Secure"),
            (new().name("id").secure(false).same_site(SameSite::None), "SameSite=None"),
            (new().name(""), "name"),
            (new().name("a b"), "name"),
            (new().name("ä"), "name"),
            (new().name("a;b"), "name"),
            (new().name("x".repeat(5000)), "4096"),
            (new().name("id").path("app"), "path"),
            (new().name("id").path("/a;b"), "path"),
            (new().name("id").domain("a b"), "domain"),
            (new().name("id").domain("x; Secure"), "domain"),
            (new().extra("a\r\nSet-Cookie: b"), "extra"),
            (new().extra(""), "extra"),
            (new().name("__Http-x").secure(false), "demands Secure"),
            (new().name("__http-x").http_only(false), "demands HttpOnly"),
            (new().name("__Host-Http-x").http_only(false), "demands HttpOnly"),
            (new().name("__HOST-HTTP-x").path("/a"), "demands Path=/"),
            (new().name("__Host-Http-x").domain("example.org"), "no Domain"),
            (new().name("x").partitioned(true).secure(false), "Partitioned demands Secure"),
            (new().extra("Domain=example.org"), "setter"),
            (new().extra("path = /x"), "setter"),
            (new().extra(" PATH=/x"), "setter"),
            (new().name("x").secure(false).extra("Secure"), "setter"),
            (new().extra("httponly"), "setter"),
            (new().name("x").secure(false).extra("SameSite=None"), "setter"),
            (new().extra("max-age=1"), "setter"),
            (new().extra("Expires=Thu, 01 Jan 1970 00:00:00 GMT"), "setter"),
            (new().name("x").secure(false).extra("Partitioned"), "setter"),
            (new().extra("x".repeat(1025)), "extra"),
            (new().name("x").path("/".repeat(1025)), "1024"),
            (new().name("x").domain("a..b"), "one dot"),
            (new().name("x").domain("..a"), "one dot"),
            (new().name("x").domain("example.org."), "one dot"),
            (new().name("x").domain("."), "one dot"),
            (new().name("x").domain(""), "one dot"),
            (new().name("x").domain("-a.example"), "hyphens"),
            (new().name("x").domain("a-.example"), "hyphens"),
            (new().name("x").domain("a".repeat(64)), "labels"),
            (new().name("x").domain(["a"; 200].join(".")), "253"),
        ] {
            let error = bad.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(format!("{error:?}").contains(reason), "{error:?}");
        }
        CookieConfig::insecure_http().validate().unwrap();
        new().name("__Secure-id").domain("example.org").path("/app").validate().unwrap();
        new().name("__Host-Http-id").validate().unwrap();
        new().name("__Http-id").path("/app").domain("example.org").validate().unwrap();
        new()
            .partitioned(true)
            .same_site(SameSite::None)
            .extra("Priority=High")
            .validate()
            .unwrap();
        new().extra("Path-like=x").validate().unwrap();
        new().name("x").path("/".repeat(1024)).domain(".a-b.example.org").validate().unwrap();
    }

    #[test]
    fn values_are_found_among_other_cookies() {
        let config = CookieConfig::new().name("id");
        let found = |header| config.values(header).collect::<Vec<_>>();
        assert_eq!(found("id=a"), ["a"]);
        assert_eq!(found("x=1; id=a;id=b ; Id=c; xid=d; id; =id"), ["a", "b"]);
        assert_eq!(found("id=a=b"), ["a=b"]);
        assert_eq!(found(""), [""; 0]);
        assert_eq!(found(";;;=;= ;"), [""; 0]);
        assert_eq!(found("idid=a; id id=b; i=d; id\t= c;\t id =d"), ["c", "d"]);
    }

    #[test]
    fn one_pair_of_quotes_around_a_value_is_removed() {
        let config = CookieConfig::new().name("id");
        let found = |header| config.values(header).collect::<Vec<_>>();
        assert_eq!(found("$Version=\"1\"; id=\"a\"; $Path=\"/\""), ["a"]);
        assert_eq!(found("id=\"\"; id= \"b\" "), ["", "b"]);
        assert_eq!(found("id=\"\"a\"\""), ["\"a\""], "one pair only");
        assert_eq!(found("id=\"; id=\"a; id=a\"; id=a\"b"), ["\"", "\"a", "a\"", "a\"b"]);
    }

    #[test]
    fn values_agrees_with_a_split_into_pairs() {
        let config = CookieConfig::new().name("id");
        let letters = ["id", "=", ";", " ", "\t", "x", "\"", "é"];
        // Every text of five of these.
        for number in 0..8_usize.pow(5) {
            let text: String =
                (0..5).map(|at| letters[number / 8_usize.pow(at) % 8]).collect::<Vec<_>>().concat();
            let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            let ours = pairs.filter(|(name, _)| name.trim_matches(WHITESPACE) == "id");
            let expected = ours.map(|(_, value)| without_quotes(value.trim_matches(WHITESPACE)));
            assert!(config.values(&text).eq(expected), "{text:?}");
        }
    }

    #[test]
    fn the_overwriting_value_is_no_id() {
        assert_eq!(CookieConfig::new().read(OVERWRITTEN), None);
        assert_eq!(
            CookieConfig::new().overwrite(),
            "__Host-id=signed-out; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
    }
}
