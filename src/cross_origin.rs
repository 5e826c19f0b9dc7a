//! The check for cross-origin requests, which protects against cross-site request forgery (CSRF).

// `CrossOrigin::decide` is a function of the request head. The manager calls it when a session is
// opened, and raises the event; adapters call it before the handler, through `adapter::Adapter`.

use std::net::Ipv6Addr;

use crate::error::{Error, ErrorKind, Result};
use crate::message::{RequestHead, Single};

/// The text of the response to a refused request, whose status is 403.
pub const REFUSED: &str = "This request was refused, because a page of another origin sent it.";

/// The protection against cross-site request forgery (CSRF): what happens to cross-origin requests,
/// which origins are trusted, and which paths are exempt. The default is [`refuse`](Self::refuse).
///
/// These requests are checked:
/// - those of any method but `GET`, `HEAD` and `OPTIONS`;
/// - those that ask for a WebSocket;
/// - on Rocket also a `GET`, `HEAD` or `OPTIONS` with the content type of a form, because Rocket
///   lets the form field `_method` replace the method of a `POST`.
///
/// Handlers of the other requests must not change anything on behalf of the user. The first row
/// that applies to a checked request decides. A cross-origin request to an [exempt](Self::exempt)
/// path passes all the same.
///
/// | the request | it |
/// |---|---|
/// | has several fields `Sec-Fetch-Site`, or several `Origin` | is **cross-origin** |
/// | has a [trusted](Self::trust) `Origin` | passes |
/// | has a `Sec-Fetch-Site` | passes with `same-origin` and `none`, and is otherwise cross-origin |
/// | has an `Origin` | is cross-origin if that does not match `Host`: host or port differ, the scheme is `http` on an encrypted connection, the value is `null`, or there is not exactly one `Host` |
/// | has neither | passes |
///
/// All current browsers send `Sec-Fetch-Site` over TLS and to `localhost`, and `Origin` elsewhere.
/// So a request with neither comes from a program such as curl, which has only the cookies that its
/// user gave to it. Firefox before 70 (2019) and Edge before 79 (2020) can send neither: only [CSRF
/// tokens](crate::Session::csrf_field) protect their users.
///
/// Behind proxies ([`behind_proxies`](crate::manager::SessionManagerBuilder::behind_proxies)) the
/// first entry of `X-Forwarded-Host`, if a proxy sends it, is used in place of `Host`.
///
/// ```
/// use cloakroom::{CrossOrigin, MemoryStore, SessionManager};
///
/// let cross_origin = CrossOrigin::refuse()
///     .trust("https://shop.example.org") // its pages post here
///     .exempt("/sign-in/callback"); // an OpenID provider posts here, with its `state`
/// let sessions =
///     SessionManager::builder(MemoryStore::new()).cross_origin(cross_origin).build()?;
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct CrossOrigin {
    mode: Mode,
    trusted: Vec<String>,
    exempt: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Refuse,
    ReportOnly,
    Off,
}

impl CrossOrigin {
    /// Refuses cross-origin requests: they are answered with status 403 before the handler runs,
    /// and an [event](crate::event::Event::CrossOrigin) is raised. This is the default, except for
    /// ids in a [header](crate::manager::SessionManagerBuilder::header).
    pub fn refuse() -> Self {
        CrossOrigin { mode: Mode::Refuse, trusted: Vec::new(), exempt: Vec::new() }
    }

    /// Lets cross-origin requests pass and raises the event for each. This shows what
    /// [`refuse`](Self::refuse) would refuse.
    pub fn report_only() -> Self {
        CrossOrigin { mode: Mode::ReportOnly, ..CrossOrigin::refuse() }
    }

    /// Does not check requests. Every form then needs a
    /// [CSRF token](crate::Session::csrf_field).
    pub fn off() -> Self {
        CrossOrigin { mode: Mode::Off, ..CrossOrigin::refuse() }
    }

    /// Lets requests with this `Origin` pass. Scripts of a trusted origin can do everything that
    /// the user can.
    ///
    /// Write it as browsers send it: `https://example.org`, with the port if it is not the scheme's
    /// default. There are no wildcards. Building the manager fails for any other text.
    pub fn trust(mut self, origin: impl Into<String>) -> Self {
        self.trusted.push(origin.into());
        self
    }

    /// Lets cross-origin requests to exactly this path pass. This is for pages of other sites that
    /// post to it and prove their origin otherwise, such as the `form_post` of an OpenID provider
    /// with its `state`. A webhook that a server sends needs no exemption, because it has neither
    /// `Sec-Fetch-Site` nor `Origin`. Write the path as in the request, without a query. Building
    /// the manager fails for any other text.
    ///
    /// A request of another *site* carries no `SameSite=Lax` cookie, and may begin or end a session
    /// only after [`Session::allow_cross_origin`](crate::Session::allow_cross_origin). A request of
    /// another subdomain of your own site carries the cookie, and so does any with
    /// [`SameSite::None`](crate::cookie::SameSite::None): it acts as the user. So let the handler
    /// verify the proof, such as the `state`, before it uses the session.
    pub fn exempt(mut self, path: impl Into<String>) -> Self {
        self.exempt.push(path.into());
        self
    }

    /// Returns whether cross-origin requests are refused.
    pub(crate) fn is_enforced(&self) -> bool {
        self.mode == Mode::Refuse
    }

    /// Names the trusted origins and the exempt paths; `None` without any.
    pub(crate) fn exceptions(&self) -> Option<String> {
        let lists = [("from", &self.trusted), ("to", &self.exempt)].into_iter();
        let texts: Vec<_> = lists
            .filter(|(_, list)| !list.is_empty())
            .map(|(word, list)| format!("{word} {}", list.join(", ")))
            .collect();
        (!texts.is_empty()).then(|| texts.join(" and "))
    }

    /// Fails if an origin or a path is not as requests have it, and would never match.
    pub(crate) fn validate(&self) -> Result<()> {
        let origins = self.trusted.iter().map(|origin| (origin, invalid_origin(origin)));
        let paths = self.exempt.iter().map(|path| (path, invalid_path(path)));
        for (text, why) in origins.chain(paths) {
            if let Some(why) = why {
                let operation = format!("use {text:?} for the cross-origin check");
                return Err(Error::with_source(ErrorKind::Invalid, operation, why));
            }
        }
        Ok(())
    }

    /// Decides about a request, which came through this number of proxies.
    pub(crate) fn decide(&self, head: &RequestHead<'_>, proxies: u8) -> OriginDecision {
        if self.mode == Mode::Off || is_safe(head) {
            return OriginDecision::Pass;
        }
        match self.check(head, proxies) {
            Ok(()) => OriginDecision::Pass,
            Err(_) if self.is_exempt(head) => OriginDecision::Exempt,
            Err(reason) if self.mode == Mode::ReportOnly => OriginDecision::Report(reason),
            Err(reason) => OriginDecision::Refuse(reason),
        }
    }

    fn check(&self, head: &RequestHead<'_>, proxies: u8) -> Result<(), CrossOriginReason> {
        if head.sec_fetch_site == Single::Repeated || head.origin == Single::Repeated {
            return Err(CrossOriginReason::Repeated);
        }
        let origin = head.origin.once();
        if origin.is_some_and(|origin| self.trusted.iter().any(|trusted| trusted == origin)) {
            return Ok(());
        }
        match (head.sec_fetch_site.once(), origin) {
            (Some("same-origin" | "none"), _) | (None, None) => Ok(()),
            (Some(_), _) => Err(CrossOriginReason::OtherOrigin),
            (None, Some("null")) => Err(CrossOriginReason::NullOrigin),
            (None, Some(origin)) => match head.public_host(proxies) {
                None => Err(CrossOriginReason::NoHost),
                Some(host) if is_same_host(origin, host, head.secure) => Ok(()),
                Some(_) => Err(CrossOriginReason::OtherHost),
            },
        }
    }

    fn is_exempt(&self, head: &RequestHead<'_>) -> bool {
        head.path.is_some_and(|path| self.exempt.iter().any(|exempt| exempt == path))
    }
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OriginDecision {
    Pass,
    /// It is cross-origin and passes, because its path is exempt.
    Exempt,
    /// It is cross-origin and passes, because the check only reports.
    Report(CrossOriginReason),
    Refuse(CrossOriginReason),
}

impl OriginDecision {
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, OriginDecision::Refuse(_))
    }
}

/// The reason why a request counts as cross-origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrossOriginReason {
    OtherOrigin,
    OtherHost,
    NullOrigin,
    NoHost,
    Repeated,
}

impl CrossOriginReason {
    /// Returns the reason with its remedy, for the operator.
    pub(crate) fn message(self) -> &'static str {
        match self {
            CrossOriginReason::OtherOrigin => {
                "the browser says that a page of another origin sent it; if that page may, use \
                 CrossOrigin::trust or CrossOrigin::exempt"
            }
            CrossOriginReason::OtherHost => {
                "the origin is not the host; if the page is the application's own, let the proxy \
                 pass the Host field on (nginx: proxy_set_header Host $http_host), or send \
                 X-Forwarded-Host with behind_proxies; else see CrossOrigin::trust"
            }
            CrossOriginReason::NullOrigin => {
                "the page hides its origin; if it is the application's own, send \
                 Referrer-Policy: same-origin with it in place of no-referrer"
            }
            CrossOriginReason::NoHost => "it has an origin, but not one Host to compare it with",
            CrossOriginReason::Repeated => "it has several fields Origin or Sec-Fetch-Site",
        }
    }
}

/// Returns whether the method changes nothing, by RFC 9110, section 9.2.1, and the handshake of no
/// WebSocket follows. A head without a method counts as unsafe.
fn is_safe(head: &RequestHead<'_>) -> bool {
    matches!(head.method, Some("GET" | "HEAD" | "OPTIONS")) && !head.websocket
}

/// Returns whether an origin has the host and port of a `Host` field. That field omits the default
/// port of the scheme, which is the origin's if they are the same. Browsers write both in lower
/// case, IDNA names as ASCII, and IPv6 addresses in one form, so the texts are compared.
fn is_same_host(origin: &str, host: &str, secure: bool) -> bool {
    let (authority, default_port) = match origin.split_once("://") {
        // A page over plain HTTP may come from anyone in the network.
        Some(("http", authority)) if !secure => (authority, 80),
        Some(("https", authority)) => (authority, 443),
        _ => return false,
    };
    match (host_and_port(authority), host_and_port(host)) {
        (Some((origin, origin_port)), Some((host, host_port))) => {
            !host.is_empty()
                && origin.eq_ignore_ascii_case(host)
                && origin_port.unwrap_or(default_port) == host_port.unwrap_or(default_port)
        }
        _ => false,
    }
}

/// Splits a text into the host and, if it has one, the port; `None` if that is no port.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    match text.rsplit_once(':') {
        // The colons of an IPv6 address are in brackets.
        Some((host, port)) if !port.ends_with(']') => {
            // `parse` accepts a plus sign.
            let digits = Some(port).filter(|port| port.bytes().all(|c| c.is_ascii_digit()))?;
            Some((host, Some(digits.parse().ok()?)))
        }
        _ => Some((text, None)),
    }
}

/// Returns why no browser sends this `Origin`, or why it must not be trusted.
fn invalid_origin(origin: &str) -> Option<&'static str> {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return Some(match origin {
            "null" => "any page can have the origin null",
            _ => "an origin begins with its scheme: https://example.org",
        });
    };
    let Some((host, port)) = host_and_port(authority) else {
        return Some("the port is a number up to 65535");
    };
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_address = || {
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if authority.contains(['/', '?', '#']) {
        Some("an origin has no path: not even a slash follows its host")
    } else if origin.contains('*') {
        Some("there are no wildcards: trust each origin by name")
    } else if !origin.is_ascii() {
        Some("browsers send the ASCII form of a name, which begins with xn--")
    } else if origin.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Some("browsers send origins in lower case")
    } else if matches!((scheme, port), ("http", Some(80)) | ("https", Some(443))) {
        Some("browsers leave the default port of the scheme out")
    } else if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
        Some("the scheme has a character that no scheme can have")
    } else if host.is_empty() || !(host.bytes().all(is_name) || is_address()) {
        Some("the host has a character that no host can have, or is empty")
    } else {
        None
    }
}

/// Returns why no request has this path.
fn invalid_path(path: &str) -> Option<&'static str> {
    if !path.starts_with('/') {
        Some("a path begins with a slash")
    } else if path.contains(['*', '<', '>']) {
        Some("there are no patterns: exempt each path by name")
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte)) {
        Some("a path has no query, and other characters than ASCII are percent-encoded")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPEATED: OriginDecision = OriginDecision::Refuse(CrossOriginReason::Repeated);
    const OTHER_ORIGIN: OriginDecision = OriginDecision::Refuse(CrossOriginReason::OtherOrigin);
    const OTHER_HOST: OriginDecision = OriginDecision::Refuse(CrossOriginReason::OtherHost);
    const NULL: OriginDecision = OriginDecision::Refuse(CrossOriginReason::NullOrigin);
    const NO_HOST: OriginDecision = OriginDecision::Refuse(CrossOriginReason::NoHost);

    fn post<'r>() -> RequestHead<'r> {
        RequestHead::new().method("POST").target("/pay?now")
    }

    fn decide(head: &RequestHead<'_>) -> OriginDecision {
        CrossOrigin::refuse().decide(head, 0)
    }

    #[test]
    fn only_requests_that_can_change_something_are_checked() {
        let foreign = |method| post().method(method).sec_fetch_site("cross-site");
        for method in ["GET", "HEAD", "OPTIONS"] {
            assert_eq!(decide(&foreign(method)), OriginDecision::Pass, "{method}");
            for upgrade in ["websocket", "WebSocket", "h2c, websocket/13"] {
                assert_eq!(decide(&foreign(method).upgrade(upgrade)), OTHER_ORIGIN, "{upgrade}");
            }
            assert_eq!(decide(&foreign(method).upgrade("h2c")), OriginDecision::Pass);
        }
        for method in ["POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE", "PROPFIND", "get", ""]
        {
            assert_eq!(decide(&foreign(method)), OTHER_ORIGIN, "{method}");
        }
        let without_method = RequestHead::new().sec_fetch_site("cross-site");
        assert_eq!(decide(&without_method), OTHER_ORIGIN);
    }

    #[test]
    fn sec_fetch_site_alone_decides_if_it_is_there() {
        for origin in
            [None, Some("https://example.org"), Some("https://evil.example"), Some("null")]
        {
            let head = |site| {
                let head = post().host("example.org").sec_fetch_site(site);
                origin.into_iter().fold(head, RequestHead::origin)
            };
            for site in ["same-origin", "none", " none\t"] {
                assert_eq!(decide(&head(site)), OriginDecision::Pass, "{site} {origin:?}");
            }
            for site in [
                "same-site",
                "cross-site",
                "Same-Origin",
                "SAME-ORIGIN",
                "same-origin, same-origin",
                "same-origin;a",
                "\"same-origin\"",
                "same-origins",
                "",
            ] {
                assert_eq!(decide(&head(site)), OTHER_ORIGIN, "{site} {origin:?}");
            }
        }
    }

    #[test]
    fn an_origin_is_compared_with_the_host() {
        let pass = OriginDecision::Pass;
        for (origin, host, plain, secure) in [
            ("https://example.org", "example.org", pass, pass),
            ("http://example.org", "example.org", pass, OTHER_HOST),
            ("https://example.org:8443", "example.org:8443", pass, pass),
            ("http://example.org:8000", "example.org:8000", pass, OTHER_HOST),
            // Default ports.
            ("https://example.org", "example.org:443", pass, pass),
            ("https://example.org:443", "example.org", pass, pass),
            ("http://example.org", "example.org:80", pass, OTHER_HOST),
            ("http://example.org", "example.org:443", OTHER_HOST, OTHER_HOST),
            ("https://example.org", "example.org:80", OTHER_HOST, OTHER_HOST),
            // Another port, a sibling, another host.
            ("https://example.org:8443", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org", "example.org:8443", OTHER_HOST, OTHER_HOST),
            ("https://evil.example.org", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org", "www.example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org.evil.example", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://evil.example", "example.org", OTHER_HOST, OTHER_HOST),
            // Case, whitespace, a trailing dot (another origin), IDNA, IPv6.
            ("https://example.org", "EXAMPLE.org", pass, pass),
            ("https://EXAMPLE.org", "example.org", pass, pass),
            (" https://example.org\t", " example.org ", pass, pass),
            ("HTTPS://example.org", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org.", "example.org.", pass, pass),
            ("https://example.org.", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://xn--bcher-kva.example", "xn--bcher-kva.example", pass, pass),
            ("https://bücher.example", "xn--bcher-kva.example", OTHER_HOST, OTHER_HOST),
            ("https://[::1]", "[::1]", pass, pass),
            ("http://[::1]:8000", "[::1]:8000", pass, OTHER_HOST),
            ("https://[::1]", "[::1]:443", pass, pass),
            ("https://[::1]", "[::2]", OTHER_HOST, OTHER_HOST),
            ("https://[::1]:80", "[::1]", OTHER_HOST, OTHER_HOST),
            // No origins.
            ("", "example.org", OTHER_HOST, OTHER_HOST),
            ("example.org", "example.org", OTHER_HOST, OTHER_HOST),
            ("//example.org", "example.org", OTHER_HOST, OTHER_HOST),
            ("://example.org", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://", "", OTHER_HOST, OTHER_HOST),
            ("https://:443", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org/", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://user@example.org", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org:+443", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org:65979", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org:", "example.org", OTHER_HOST, OTHER_HOST),
            ("https://example.org https://evil.example", "example.org", OTHER_HOST, OTHER_HOST),
            ("ftp://example.org", "example.org", OTHER_HOST, OTHER_HOST),
            ("chrome-extension://abc", "abc", OTHER_HOST, OTHER_HOST),
            // No hosts.
            ("https://example.org", "", OTHER_HOST, OTHER_HOST),
            ("https://example.org", "example.org:x", OTHER_HOST, OTHER_HOST),
            ("https://example.org", "example.org, example.org", OTHER_HOST, OTHER_HOST),
            // An origin that a page hides.
            ("null", "example.org", NULL, NULL),
            ("null", "null", NULL, NULL),
            ("NULL", "NULL", OTHER_HOST, OTHER_HOST),
        ] {
            let head = post().host(host).origin(origin);
            assert_eq!(decide(&head), plain, "{origin:?} {host:?}");
            assert_eq!(decide(&head.secure_if(true)), secure, "{origin:?} {host:?}, encrypted");
        }
    }

    #[test]
    fn repeated_fields_are_refused() {
        let same = |head: RequestHead<'static>| head.sec_fetch_site("same-origin");
        let own = |head: RequestHead<'static>| head.origin("https://example.org");
        let host = || post().host("example.org");
        assert_eq!(decide(&same(same(host()))), REPEATED);
        assert_eq!(decide(&own(own(host()))), REPEATED);
        assert_eq!(decide(&same(own(own(host())))), REPEATED);
        assert_eq!(decide(&own(host().host("example.org"))), NO_HOST);
        assert_eq!(decide(&own(post())), NO_HOST, "HTTP/1.0");
        assert_eq!(decide(&same(post())), OriginDecision::Pass);
        let trusting = CrossOrigin::refuse().trust("https://example.org");
        assert_eq!(trusting.decide(&own(own(host())), 0), REPEATED);
    }

    #[test]
    fn a_request_without_the_fields_of_browsers_passes() {
        for head in [post(), post().host("example.org"), post().host("a").host("b")] {
            assert_eq!(decide(&head), OriginDecision::Pass);
        }
    }

    #[test]
    fn behind_proxies_the_forwarded_host_counts() {
        let head = || post().host("10.0.0.1:8000").origin("https://example.org");
        for (hosts, proxies, decision) in [
            (&["example.org"][..], 1, OriginDecision::Pass),
            (&["example.org, 10.0.0.2"], 2, OriginDecision::Pass),
            (&["example.org", "10.0.0.2"], 2, OriginDecision::Pass),
            (&["example.org"], 0, OTHER_HOST),
            (&["evil.example, example.org"], 1, OTHER_HOST),
            (&[""], 1, OTHER_HOST),
            (&[], 1, OTHER_HOST),
        ] {
            let head = hosts.iter().fold(head(), |head, host| head.forwarded_host(host));
            assert_eq!(CrossOrigin::refuse().decide(&head, proxies), decision, "{hosts:?}");
        }
        let kept = post().host("example.org").origin("https://example.org");
        assert_eq!(CrossOrigin::refuse().decide(&kept, 1), OriginDecision::Pass);
    }

    #[test]
    fn trusted_origins_and_exempt_paths_are_exact() {
        let cross_origin =
            CrossOrigin::refuse().trust("https://shop.example.org").exempt("/hooks/payment");
        let decide = |head: RequestHead<'_>| {
            cross_origin.decide(&head.host("example.org").sec_fetch_site("same-site"), 0)
        };
        assert_eq!(decide(post().origin("https://shop.example.org")), OriginDecision::Pass);
        for origin in [
            "https://shop.example.org:443",
            "http://shop.example.org",
            "https://shop.example.org.",
            "https://a.shop.example.org",
            "https://Shop.example.org",
            "null",
        ] {
            assert_eq!(decide(post().origin(origin)), OTHER_ORIGIN, "{origin}");
        }
        for target in ["/hooks/payment", "/hooks/payment?a=/b"] {
            assert_eq!(decide(post().target(target)), OriginDecision::Exempt, "{target}");
        }
        for target in [
            "/hooks/payment/",
            "//hooks/payment",
            "/hooks/payment/../../pay",
            "/hooks/payment%3F",
            "/hooks/%70ayment",
            "/Hooks/payment",
            "/hooks",
            "http://example.org/hooks/payment",
            "",
        ] {
            assert_eq!(decide(post().target(target)), OTHER_ORIGIN, "{target}");
        }
    }

    #[test]
    fn the_mode_decides_what_happens() {
        let head = post().host("example.org").sec_fetch_site("cross-site");
        let report = CrossOrigin::report_only();
        assert_eq!(report.decide(&head, 0), OriginDecision::Report(CrossOriginReason::OtherOrigin));
        assert_eq!(report.exempt("/pay").decide(&head, 0), OriginDecision::Exempt);
        assert_eq!(CrossOrigin::off().decide(&head, 0), OriginDecision::Pass);
    }

    #[test]
    fn origins_and_paths_that_never_match_are_refused() {
        for origin in [
            "https://example.org",
            "http://example.org:8000",
            "https://xn--bcher-kva.example",
            "https://[2001:db8::1]:8443",
            "https://example.org.",
            "http://localhost:443",
            "capacitor://localhost",
            "chrome-extension://abcdef",
        ] {
            assert!(CrossOrigin::refuse().trust(origin).validate().is_ok(), "{origin}");
        }
        for (origin, why) in [
            ("example.org", "begins with its scheme"),
            ("", "begins with its scheme"),
            ("null", "any page"),
            ("*", "begins with its scheme"),
            ("https://*.example.org", "no wildcards"),
            ("https://example.org/", "no path"),
            ("https://example.org/shop", "no path"),
            ("https://example.org?a", "no path"),
            ("https://Example.org", "lower case"),
            ("HTTPS://example.org", "lower case"),
            ("https://bücher.example", "xn--"),
            ("https://example.org:443", "default port"),
            ("http://example.org:80", "default port"),
            ("https://example.org:x", "number"),
            ("https://example.org:", "number"),
            ("https://example.org:65536", "number"),
            ("https://", "empty"),
            ("://example.org", "scheme"),
            ("https://user@example.org", "no host"),
            (" https://example.org", "scheme"),
            ("https://example.org ", "no host"),
            ("https://::1", "no host"),
            ("https://[::1", "no host"),
            ("https://[::g]", "no host"),
        ] {
            let error = CrossOrigin::refuse().trust(origin).validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(why), "{origin:?}: {error}");
        }
        for path in ["/", "/hooks/payment", "/a%20b", "/a/"] {
            assert!(CrossOrigin::refuse().exempt(path).validate().is_ok(), "{path}");
        }
        for path in ["", "hooks", "/hooks/*", "/hooks/<id>", "/a?b", "/a#b", "/a b", "/ü"] {
            let error = CrossOrigin::refuse().exempt(path).validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{path:?}");
        }
    }
}
