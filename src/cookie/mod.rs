//! Cookies: from their header to an id, and from an id to a header.

mod date;
#[cfg(feature = "cookie-keys")]
mod keys;

use std::fmt::{self, Debug, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{RealmTag, SessionId};
use date::HttpDate;

#[cfg(feature = "cookie-keys")]
pub use keys::CookieKeys;

/// The longest that browsers keep a cookie: 400 days, by the draft of RFC 6265bis, section 5.5.
pub(crate) const LONGEST: Duration = Duration::from_secs(400 * 86_400);

/// What browsers take for name and value together, by the same draft; ASVS 3.3.5.
const MOST_BYTES: usize = 4096;

/// What browsers take for the value of one attribute, by the same draft, section 5.6.
const MOST_ATTRIBUTE_BYTES: usize = 1024;

/// The attributes that [`CookieConfig::extra`] refuses: each has a setter, or comes from the
/// session's lifetime.
const WITH_SETTER: [&str; 8] =
    ["Domain", "Path", "Secure", "HttpOnly", "SameSite", "Partitioned", "Max-Age", "Expires"];

/// The value that [`CookieConfig::overwrite`] gives the cookie. No id is made of so few characters.
pub(crate) const OVERWRITTEN: &str = "signed-out";

/// When a browser sends a cookie along with requests that other sites cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SameSite {
    /// Never. A link from another site arrives without the session; if its page begins one, the
    /// new cookie replaces the user's, who is signed out. A sign-in by an identity provider cannot
    /// work.
    Strict,
    /// With top-level navigations by safe methods only. An identity provider's answer by
    /// `form_post` arrives without the session.
    #[default]
    Lax,
    /// Always; only with Secure.
    None,
}

/// Turns the text of an id into the value of a cookie, and back.
pub(crate) trait Seal: Debug + Send + Sync {
    fn seal(&self, name: &str, id: &str) -> String;
    fn unseal(&self, name: &str, value: &str) -> Option<Unsealed>;

    /// The same with keys that are of one realm alone.
    fn of_realm(&self, realm: RealmTag) -> Result<Arc<dyn Seal>>;
}

pub(crate) struct Unsealed {
    pub(crate) id: String,
    /// It was sealed with a key that is on its way out: send it again, sealed with the new one.
    pub(crate) outdated: bool,
}

impl Debug for Unsealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsealed").field("outdated", &self.outdated).finish_non_exhaustive()
    }
}

/// The session cookie.
///
/// Defaults: the name `__Host-id`, Secure, HttpOnly, SameSite=Lax, Path=/, no Domain, and as
/// Max-Age and Expires what is left of the absolute limit, at most 400 days.
///
/// The default works on `http://localhost` and `http://127.0.0.1` too in Chromium, Firefox and
/// curl. Safari and other WebKit browsers drop it there (WebKit bug 281149), and every browser drops
/// it on any other name without TLS: see [`insecure_http`](Self::insecure_http).
///
/// A cookie belongs to a host, whatever its port: applications on one host, such as localhost, need
/// cookies of different [names](Self::name). An application whose cookie is renamed signs out all
/// its users, unless its manager [also reads](crate::manager::SessionManagerBuilder::also_read) the old name.
///
/// Of a request, all `Cookie` fields are searched for the name. Of the cookies of that name the
/// first 256 are looked at, and the first 16 different ids are looked up; where they are sealed, the
/// first 16 different values are opened. One pair of double quotes around a value is left out (RFC
/// 6265, section 4.1.1). More than that is an event,
/// [`TooManyIds`](crate::event::Event::TooManyIds).
#[derive(Clone, Debug)]
#[must_use]
pub struct CookieConfig {
    name: String,
    path: String,
    domain: Option<String>,
    secure: bool,
    http_only: bool,
    same_site: SameSite,
    partitioned: bool,
    extra: Vec<String>,
    seal: Option<Arc<dyn Seal>>,
}

impl CookieConfig {
    /// The defaults.
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

    /// For plain HTTP on a name other than localhost, and for Safari there too: the name `id`, and
    /// not Secure. Anyone on the way can read such a cookie and use the session.
    pub fn insecure_http() -> Self {
        CookieConfig::new().name("id").secure(false)
    }

    /// The name. Defaults to `__Host-id`.
    ///
    /// Browsers drop a cookie whose name begins with one of these, in any case of its letters, and
    /// whose attributes are others:
    ///
    /// | name begins with | demands |
    /// |---|---|
    /// | `__Host-` | Secure, Path=/, no Domain |
    /// | `__Secure-` | Secure |
    /// | `__Http-` | Secure, HttpOnly |
    /// | `__Host-Http-` | all that `__Host-` and `__Http-` demand |
    ///
    /// (draft-ietf-httpbis-rfc6265bis, section 4.1.3; draft-ietf-httpbis-layered-cookies for the
    /// last two.) Only `__Host-` keeps other hosts of the same domain from planting a cookie of
    /// this name. No prefix tells ports apart: applications on one host need names of their own.
    pub fn name(self, name: impl Into<String>) -> Self {
        CookieConfig { name: name.into(), ..self }
    }

    /// The path below which the browser sends it. Defaults to `/`.
    pub fn path(self, path: impl Into<String>) -> Self {
        CookieConfig { path: path.into(), ..self }
    }

    /// A domain, to share the cookie with all its subdomains. Defaults to none: the host alone.
    pub fn domain(self, domain: impl Into<String>) -> Self {
        CookieConfig { domain: Some(domain.into()), ..self }
    }

    /// Whether it is sent over encrypted connections only. Defaults to true.
    pub fn secure(self, secure: bool) -> Self {
        CookieConfig { secure, ..self }
    }

    /// Whether scripts in the page cannot read it. Defaults to true.
    pub fn http_only(self, http_only: bool) -> Self {
        CookieConfig { http_only, ..self }
    }

    /// When it is sent with requests that other sites cause. Defaults to [`SameSite::Lax`].
    pub fn same_site(self, same_site: SameSite) -> Self {
        CookieConfig { same_site, ..self }
    }

    /// Whether a browser keeps one cookie for each top-level site in which pages of this one are
    /// embedded (Cookies Having Independent Partitioned State). It demands Secure, and is of use
    /// with [`SameSite::None`] only. Defaults to false.
    pub fn partitioned(self, partitioned: bool) -> Self {
        CookieConfig { partitioned, ..self }
    }

    /// One more attribute, written as it is, such as `Priority=High`. Attributes that have a setter
    /// here, and those that come from the lifetime, are refused when the manager is built.
    pub fn extra(mut self, attribute: impl Into<String>) -> Self {
        self.extra.push(attribute.into());
        self
    }

    /// Checks that browsers will take it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], with the reason in words.
    pub fn check(&self) -> Result<()> {
        let prefixed = |prefix: &str| {
            // Browsers compare the prefixes without regard to case.
            self.name.get(..prefix.len()).is_some_and(|have| have.eq_ignore_ascii_case(prefix))
        };
        let host = prefixed("__Host-");
        let http = prefixed("__Http-") || prefixed("__Host-Http-");
        let attribute = |text: &str| {
            let is_plain = |byte| (b' '..=b'~').contains(&byte) && byte != b';';
            !text.is_empty() && text.len() <= MOST_ATTRIBUTE_BYTES && text.bytes().all(is_plain)
        };
        let has_setter = |text: &String| {
            let name = text.split('=').next().unwrap_or_default().trim_matches(BLANKS);
            WITH_SETTER.iter().any(|known| name.eq_ignore_ascii_case(known))
        };
        let longest = self.name.len() + self.value(&"x".repeat(SessionId::TEXT_LEN)).len();
        let refused = [
            (
                self.name.is_empty() || !self.name.bytes().all(is_token),
                "a cookie's name has only letters, digits and !#$%&'*+-.^_`|~",
            ),
            (host && !self.secure, "a name that begins with __Host- demands Secure"),
            (host && self.path != "/", "a name that begins with __Host- demands Path=/"),
            (host && self.domain.is_some(), "a name that begins with __Host- allows no Domain"),
            (
                prefixed("__Secure-") && !self.secure,
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
                !self.path.starts_with('/') || !attribute(&self.path),
                "a path begins with a slash, has no control character and no semicolon, and at \
                 most 1024 bytes",
            ),
            (
                self.domain.as_deref().is_some_and(|domain| !is_domain(domain)),
                "a domain has labels of letters, digits and hyphens with one dot between them, \
                 none after them, and at most 253 bytes",
            ),
            (
                !self.extra.iter().all(|text| attribute(text)),
                "an extra attribute has no control character and no semicolon, is not empty, and \
                 has at most 1024 bytes",
            ),
            (
                self.extra.iter().any(has_setter),
                "an extra attribute is none of those that have a setter of their own: Domain, \
                 Path, Secure, HttpOnly, SameSite, Partitioned, Max-Age and Expires",
            ),
            (longest > MOST_BYTES, "name and value together have at most 4096 bytes"),
        ];
        match refused.into_iter().find(|(is_refused, _)| *is_refused) {
            None => Ok(()),
            Some((_, why)) => {
                Err(Error::with_source(ErrorKind::Invalid, "use that session cookie", why))
            }
        }
    }

    /// The same cookie for one realm: what is signed or encrypted for another does not open.
    pub(crate) fn of_realm(self, realm: RealmTag) -> Result<Self> {
        let seal = self.seal.map(|seal| seal.of_realm(realm)).transpose()?;
        Ok(CookieConfig { seal, ..self })
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    pub(crate) fn is_http_only(&self) -> bool {
        self.http_only
    }

    pub(crate) fn same_site_mode(&self) -> SameSite {
        self.same_site
    }

    pub(crate) fn name_text(&self) -> &str {
        &self.name
    }

    /// The values of our cookie in one `Cookie` field. Allocates nothing, and takes time in
    /// proportion to the length of the field, whatever stands in it.
    pub(crate) fn values<'h>(&self, field: &'h str) -> impl Iterator<Item = &'h str> {
        field.match_indices('=').filter_map(|(at, _)| {
            let name = field.get(..at)?.trim_end_matches(BLANKS);
            let before = name.strip_suffix(&*self.name)?.trim_end_matches(BLANKS);
            if !before.is_empty() && !before.ends_with(';') {
                return None;
            }
            let value = field.get(at + 1..)?.split(';').next()?;
            Some(without_quotes(value.trim_matches(BLANKS)))
        })
    }

    /// Whether values are signed or encrypted, so that reading one costs some arithmetic.
    pub(crate) fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// The id in a cookie's value, and whether it should be sent again.
    pub(crate) fn read(&self, value: &str) -> Option<(SessionId, bool)> {
        match &self.seal {
            None => Some((SessionId::parse(value)?, false)),
            Some(seal) => {
                // Nothing longer than a browser's limit is worth the arithmetic.
                let value = (value.len() <= MOST_BYTES).then_some(value)?;
                let unsealed = seal.unseal(&self.name, value)?;
                Some((SessionId::parse(&unsealed.id)?, unsealed.outdated))
            }
        }
    }

    fn value(&self, id: &str) -> String {
        match &self.seal {
            None => id.to_owned(),
            Some(seal) => seal.seal(&self.name, id),
        }
    }

    /// The `Set-Cookie` value that gives the browser an id: until it is closed, or for `max_age`
    /// from `now` on.
    pub(crate) fn issue(
        &self,
        id: &SessionId,
        max_age: Option<Duration>,
        now: Timestamp,
    ) -> String {
        let age = max_age.map(|age| age.min(LONGEST));
        self.set_cookie(&self.value(&id.reveal()), age.map(|age| (age, now + age)))
    }

    /// The `Set-Cookie` value that removes the cookie.
    pub(crate) fn remove(&self) -> String {
        self.set_cookie("", Some((Duration::ZERO, Timestamp::default())))
    }

    /// The `Set-Cookie` value that puts [`OVERWRITTEN`] in the place of the id, until the browser
    /// is closed.
    pub(crate) fn overwrite(&self) -> String {
        self.set_cookie(OVERWRITTEN, None)
    }

    /// With both Max-Age and Expires: some clients know only one of them, and Java's CookieManager
    /// takes a cookie without Expires for one of RFC 2965, whose value it sends in quotes.
    fn set_cookie(&self, value: &str, ends: Option<(Duration, Timestamp)>) -> String {
        let mut text = format!("{}={value}; Path={}", self.name, self.path);
        // Writing to a String cannot fail.
        let mut push = |name: &str, value: &str| {
            let _ = write!(text, "; {name}{value}");
        };
        if let Some(domain) = &self.domain {
            push("Domain=", domain);
        }
        if let Some((max_age, expires)) = ends {
            // Rounded up: the server keeps the limit, the browser need not be early.
            push("Max-Age=", &max_age.as_millis().div_ceil(1000).to_string());
            push("Expires=", &HttpDate(expires).to_string());
        }
        if self.secure {
            push("Secure", "");
        }
        if self.http_only {
            push("HttpOnly", "");
        }
        push(
            "SameSite=",
            match self.same_site {
                SameSite::Strict => "Strict",
                SameSite::Lax => "Lax",
                SameSite::None => "None",
            },
        );
        if self.partitioned {
            push("Partitioned", "");
        }
        for attribute in &self.extra {
            push(attribute, "");
        }
        text
    }
}

impl Default for CookieConfig {
    fn default() -> Self {
        CookieConfig::new()
    }
}

/// What may stand around the name and the value of a cookie.
const BLANKS: [char; 2] = [' ', '\t'];

/// The value without the one pair of double quotes that may stand around it; RFC 6265, section
/// 4.1.1.
fn without_quotes(value: &str) -> &str {
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    inner.unwrap_or(value)
}

/// RFC 9110, section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A name as DNS has it (RFC 1035, section 2.3.4). Browsers ignore a dot before it.
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
        CookieConfig::new().check().unwrap();
    }

    #[test]
    fn a_cookie_lives_400_days_at_most_and_a_browser_session_has_no_age() {
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
    fn combinations_that_browsers_refuse_are_refused_in_words() {
        let new = CookieConfig::new;
        for (bad, words) in [
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
            let error = bad.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(format!("{error:?}").contains(words), "{error:?}");
        }
        CookieConfig::insecure_http().check().unwrap();
        new().name("__Secure-id").domain("example.org").path("/app").check().unwrap();
        new().name("__Host-Http-id").check().unwrap();
        new().name("__Http-id").path("/app").domain("example.org").check().unwrap();
        new().partitioned(true).same_site(SameSite::None).extra("Priority=High").check().unwrap();
        new().extra("Path-like=x").check().unwrap();
        new().name("x").path("/".repeat(1024)).domain(".a-b.example.org").check().unwrap();
    }

    #[test]
    fn our_cookies_are_found_among_others() {
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
    fn one_pair_of_quotes_around_a_value_is_taken_off() {
        let config = CookieConfig::new().name("id");
        let found = |header| config.values(header).collect::<Vec<_>>();
        assert_eq!(found("$Version=\"1\"; id=\"a\"; $Path=\"/\""), ["a"]);
        assert_eq!(found("id=\"\"; id= \"b\" "), ["", "b"]);
        assert_eq!(found("id=\"\"a\"\""), ["\"a\""], "one pair only");
        assert_eq!(found("id=\"; id=\"a; id=a\"; id=a\"b"), ["\"", "\"a", "a\"", "a\"b"]);
    }

    #[test]
    fn values_are_found_in_the_pairs_that_a_split_would_find() {
        let config = CookieConfig::new().name("id");
        let letters = ["id", "=", ";", " ", "\t", "x", "\"", "é"];
        // Every text of up to five of these.
        for number in 0..8_usize.pow(5) {
            let text: String =
                (0..5).map(|at| letters[number / 8_usize.pow(at) % 8]).collect::<Vec<_>>().concat();
            let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
            let ours = pairs.filter(|(name, _)| name.trim_matches(BLANKS) == "id");
            let expected = ours.map(|(_, value)| without_quotes(value.trim_matches(BLANKS)));
            assert!(config.values(&text).eq(expected), "{text:?}");
        }
    }

    #[test]
    fn what_overwrites_a_cookie_is_no_id() {
        assert_eq!(CookieConfig::new().read(OVERWRITTEN), None);
        assert_eq!(
            CookieConfig::new().overwrite(),
            "__Host-id=signed-out; Path=/; Secure; HttpOnly; SameSite=Lax"
        );
    }
}
