//! What sessions need to know of a request, and what they add to a response.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::net::{IpAddr, SocketAddr};

/// What the manager looks at in a request. It borrows, and allocates only where a header has many
/// fields. `Debug` does not show cookies and ids.
///
/// ```
/// use cloakroom::http::RequestHead;
///
/// let head = RequestHead::new().cookie("id=abc; theme=dark").host("example.org");
/// // Where there is one Cookie header at most, the header is enough:
/// let head = RequestHead::from(Some("id=abc; theme=dark"));
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct RequestHead<'r> {
    pub(crate) cookies: Few<&'r str, 4>,
    pub(crate) ids: Few<&'r str, 1>,
    pub(crate) host: Option<&'r str>,
    pub(crate) secure: bool,
    pub(crate) peer: Option<IpAddr>,
    /// The last ones: what a client wrote itself comes before what proxies add.
    forwarded_for: [Option<&'r str>; MAX_PROXIES as usize],
    pub(crate) user_agent: Option<&'r str>,
    pub(crate) prefetch: bool,
}

/// The most proxies whose entries of `X-Forwarded-For` are told from what a client wrote.
pub(crate) const MAX_PROXIES: u8 = 8;

impl<'r> RequestHead<'r> {
    /// A request of which nothing is known.
    pub fn new() -> Self {
        RequestHead::default()
    }

    /// With the value of one more `Cookie` field. All of them are searched, however many: HTTP/2
    /// sends one for each cookie (RFC 9113, section 8.2.3).
    /// [`SessionManager::head`](crate::SessionManager::head) passes on only those that hold the
    /// session cookie.
    pub fn cookie(mut self, value: &'r str) -> Self {
        self.cookies.push(value);
        self
    }

    /// With the value of one more field of the header that carries the id, where that is not a
    /// cookie.
    pub fn id(mut self, value: &'r str) -> Self {
        self.ids.push(value);
        self
    }

    /// With the value of the `Host` header.
    pub fn host(self, value: &'r str) -> Self {
        RequestHead { host: Some(value), ..self }
    }

    /// Marks, if `secure`, that the client's connection is encrypted: by TLS here, or by a proxy
    /// that says so with `X-Forwarded-Proto: https`. It decides nothing but a warning.
    pub fn secure(self, secure: bool) -> Self {
        RequestHead { secure: self.secure || secure, ..self }
    }

    /// With the address at the other end of the connection: the client's, or a proxy's.
    pub fn peer(self, address: IpAddr) -> Self {
        RequestHead { peer: Some(address), ..self }
    }

    /// With the value of one more `X-Forwarded-For` field, in the order in which they came. It is
    /// believed as far as the manager knows of
    /// [proxies](crate::manager::SessionManagerBuilder::behind_proxies).
    pub fn forwarded_for(mut self, value: &'r str) -> Self {
        match self.forwarded_for.iter_mut().find(|slot| slot.is_none()) {
            Some(free) => *free = Some(value),
            None => {
                self.forwarded_for.rotate_left(1);
                if let Some(last) = self.forwarded_for.last_mut() {
                    *last = Some(value);
                }
            }
        }
        self
    }

    /// With the value of the `User-Agent` header.
    pub fn user_agent(self, value: &'r str) -> Self {
        RequestHead { user_agent: Some(value), ..self }
    }

    /// With the value of the `Sec-Purpose` header, or of the older `Purpose`: by `prefetch`, with or
    /// without `prerender`, a browser says that it fetches the page in advance and may never show
    /// it (HTML, 7.6 Speculative loading). Such a request does not take
    /// [flashes](crate::Session::flashes) away.
    pub fn purpose(self, value: &'r str) -> Self {
        let is_prefetch = |word: &str| word.trim().eq_ignore_ascii_case("prefetch");
        RequestHead { prefetch: self.prefetch || value.split([',', ';']).any(is_prefetch), ..self }
    }

    /// The client's address, where so many proxies have each added the address of whoever
    /// connected to them. A request with fewer entries has not come through all of them.
    pub(crate) fn client_address(&self, proxies: u8) -> Option<IpAddr> {
        let Some(nearer) = usize::from(proxies).checked_sub(1) else { return self.connected() };
        let lines = self.forwarded_for.iter().flatten().rev();
        match lines.flat_map(|line| line.rsplit(',')).nth(nearer) {
            Some(entry) => address(entry.trim()),
            None => self.connected(),
        }
    }

    /// A listener for both kinds of addresses gives those of IPv4 in the clothes of IPv6.
    fn connected(&self) -> Option<IpAddr> {
        self.peer.map(|address| address.to_canonical())
    }
}

/// The address of an entry of `X-Forwarded-For`, which some proxies write with a port.
fn address(entry: &str) -> Option<IpAddr> {
    let with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    entry.parse().ok().or_else(with_port).or_else(in_brackets)
}

impl Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forwarded_for: Vec<&str> = self.forwarded_for.iter().flatten().copied().collect();
        f.debug_struct("RequestHead")
            .field("cookies", &format_args!("{} fields", self.cookies.len()))
            .field("ids", &format_args!("{} fields", self.ids.len()))
            .field("host", &self.host)
            .field("secure", &self.secure)
            .field("peer", &self.peer)
            .field("forwarded_for", &forwarded_for)
            .field("user_agent", &self.user_agent)
            .finish()
    }
}

/// A list whose first `N` items are kept in place, without an allocation.
#[derive(Clone, Debug)]
pub(crate) struct Few<T, const N: usize> {
    first: [Option<T>; N],
    more: Vec<T>,
}

impl<T, const N: usize> Default for Few<T, N> {
    fn default() -> Self {
        Few { first: [const { None }; N], more: Vec::new() }
    }
}

impl<T, const N: usize> Few<T, N> {
    pub(crate) fn push(&mut self, item: T) {
        match self.first.iter_mut().find(|slot| slot.is_none()) {
            Some(free) => *free = Some(item),
            None => self.more.push(item),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().flatten().chain(&self.more)
    }

    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl<'r> From<Option<&'r str>> for RequestHead<'r> {
    /// A request with at most one `Cookie` header.
    fn from(cookie: Option<&'r str>) -> Self {
        match cookie {
            Some(value) => RequestHead::new().cookie(value),
            None => RequestHead::new(),
        }
    }
}

/// Whether a browser that sends this `User-Agent` is of WebKit's kind, as Safari and all browsers
/// on iOS are, and not of Chromium's, which calls itself WebKit too.
pub(crate) fn is_webkit(user_agent: &str) -> bool {
    user_agent.contains("AppleWebKit/")
        && !user_agent.contains("Chrome/")
        && !user_agent.contains("Chromium/")
}

/// Whether `host`, the value of a `Host` header, is a name of this machine's own. Chromium and
/// Firefox trust these without TLS and take Secure cookies from them; WebKit does not (bug 281149).
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.');
    let ends_with = |end: &str| {
        let at = name.len().checked_sub(end.len());
        let have = at.and_then(|at| name.as_bytes().get(at..));
        have.is_some_and(|have| have.eq_ignore_ascii_case(end.as_bytes()))
    };
    name.eq_ignore_ascii_case("localhost")
        || ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The value of a `Host` header, kept without an allocation and cut where it is longer than any
/// that a person would recognize.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostText {
    bytes: [u8; HostText::MAX],
    len: usize,
}

impl HostText {
    const MAX: usize = 128;

    pub(crate) fn new(host: &str) -> Self {
        let mut len = host.len().min(Self::MAX);
        while !host.is_char_boundary(len) {
            len -= 1;
        }
        let mut bytes = [0; Self::MAX];
        for (to, from) in bytes.iter_mut().zip(host.bytes().take(len)) {
            *to = from;
        }
        HostText { bytes, len }
    }

    pub(crate) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// How a request ended, for [`SessionManager::close`](crate::SessionManager::close).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler answered with a status below 500: everything is kept.
    Completed,
    /// The handler answered with a 5xx status: data changes are discarded, a destroy and a
    /// renewal are carried out.
    ServerError,
    /// The handler panicked: everything is discarded but a destroy.
    Panicked,
}

impl Outcome {
    /// The outcome of a handler that answered with this status code.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        if status >= 500 { Outcome::ServerError } else { Outcome::Completed }
    }
}

/// What a session adds to a response.
///
/// Appending every pair of [`iter`](Self::iter) is right for any response; an adapter that can
/// replace headers uses [`vary`](Self::vary) and [`cache_control`](Self::cache_control) instead
/// of repeating those two, and appends the [`rest`](Self::rest).
///
/// `Debug` does not show the values of [`id_fields`](Self::id_fields).
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseHeaders {
    /// The header fields that give the client its id or remove it, in order: name and value. None,
    /// one, or several of the same name, each of which the response carries as a field of its own.
    pub id_fields: Vec<(Cow<'static, str>, String)>,
    /// The request header that the response depends on; `None` if the session was not looked at.
    pub vary_on: Option<Cow<'static, str>>,
    /// Changes of this request were discarded, because its session had ended or had been renewed
    /// meanwhile.
    pub discarded: bool,
    /// No cache, the browser's included, may store the response:
    /// [`no_store_when_signed_in`](crate::manager::SessionManagerBuilder::no_store_when_signed_in).
    pub no_store: bool,
    /// The browser is to forget what it keeps of this site, but for cookies:
    /// [`clear_site_data`](crate::manager::SessionManagerBuilder::clear_site_data).
    pub clear_site_data: bool,
}

impl Debug for ResponseHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.id_fields.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("ResponseHeaders")
            .field("id_fields", &names)
            .field("depends_on", &self.vary_on)
            .field("discarded", &self.discarded)
            .field("no_store", &self.no_store)
            .field("clear_site_data", &self.clear_site_data)
            .finish()
    }
}

/// Not `"cookies"`, which would take away the cookie of a session that the same response begins.
const CLEAR_SITE_DATA: (&str, &str) = ("Clear-Site-Data", "\"cache\", \"storage\"");

/// Says that a cache must not reuse the Set-Cookie header; RFC 9111, section 5.2.2.4.
const NO_CACHE: &str = "no-cache=\"Set-Cookie\"";

/// Caches know nothing of an id in another header: such a response must not be stored.
fn guard(header: &str) -> &'static str {
    match header {
        "Set-Cookie" => NO_CACHE,
        _ => "no-store",
    }
}

impl ResponseHeaders {
    /// Names and values to append.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let guard = self.guard().map(|value| ("Cache-Control", value));
        let vary = self.vary_on.as_deref().map(|name| ("Vary", name));
        self.rest().chain(guard).chain(vary)
    }

    /// Names and values to append beside those that [`vary`](Self::vary) and
    /// [`cache_control`](Self::cache_control) give.
    pub fn rest(&self) -> impl Iterator<Item = (&str, &str)> {
        let id = self.id_fields.iter().map(|(name, value)| (&**name, value.as_str()));
        id.chain(self.clear_site_data.then_some(CLEAR_SITE_DATA))
    }

    fn guard(&self) -> Option<&'static str> {
        match self.id_fields.first() {
            _ if self.no_store => Some("no-store"),
            Some((name, _)) => Some(guard(name)),
            None => None,
        }
    }

    /// The value that the response's `Vary` must have, given the one it has; `None` if that is
    /// right as it is.
    #[must_use]
    pub fn vary(&self, now: Option<&str>) -> Option<String> {
        let name = self.vary_on.as_deref()?;
        match now.map(str::trim).filter(|now| !now.is_empty()) {
            None => Some(name.to_owned()),
            Some(now) => {
                let mut parts = now.split(',').map(str::trim);
                let covered = parts.any(|part| part == "*" || part.eq_ignore_ascii_case(name));
                (!covered).then(|| format!("{now}, {name}"))
            }
        }
    }

    /// The value that the response's `Cache-Control` must have, given the one it has; `None` if
    /// that is right as it is. A response that carries an id is never public; one that is not to be
    /// stored says so, whatever else it said. What is said already, by the handler, another session
    /// of the request or a proxy, is not said again.
    #[must_use]
    pub fn cache_control(&self, now: Option<&str>) -> Option<String> {
        let guard = self.guard()?;
        let parts: Vec<&str> = directives(now.unwrap_or_default()).collect();
        if parts.iter().any(|part| is_directive(part, "no-store")) {
            return None;
        }
        let shared = |part: &&str| is_directive(part, "public") || is_directive(part, "s-maxage");
        let was_shared = parts.iter().any(shared);
        let is_guarded = guard == NO_CACHE && parts.iter().any(|part| keeps_set_cookie(part));
        if is_guarded && !was_shared {
            return None;
        }
        let mut kept: Vec<&str> = parts.into_iter().filter(|part| !shared(part)).collect();
        if was_shared && !kept.iter().any(|part| is_directive(part, "private")) {
            kept.push("private");
        }
        if !is_guarded {
            kept.push(guard);
        }
        Some(kept.join(", "))
    }
}

/// The directives of a `Cache-Control` value. A comma between quotes is part of an argument.
fn directives(value: &str) -> impl Iterator<Item = &str> {
    let mut in_quotes = false;
    let parts = value.split(move |c| {
        in_quotes ^= c == '"';
        c == ',' && !in_quotes
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

fn is_directive(part: &str, name: &str) -> bool {
    part.split('=').next().is_some_and(|word| word.trim().eq_ignore_ascii_case(name))
}

/// Whether a directive keeps caches from using `Set-Cookie` again without asking: `no-cache`, for
/// this field or for the whole response.
fn keeps_set_cookie(part: &str) -> bool {
    let fields = part.split_once('=').map(|(_, fields)| fields.trim().trim_matches('"'));
    is_directive(part, "no-cache")
        && fields.is_none_or(|fields| {
            fields.split(',').any(|field| field.trim().eq_ignore_ascii_case("Set-Cookie"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> ResponseHeaders {
        ResponseHeaders {
            id_fields: vec![("Set-Cookie".into(), "id=x".into())],
            vary_on: Some("Cookie".into()),
            discarded: false,
            no_store: false,
            clear_site_data: false,
        }
    }

    #[test]
    fn vary_names_the_cookie_once_and_keeps_what_was_there() {
        let vary = |now| headers().vary(now);
        assert_eq!(vary(None).as_deref(), Some("Cookie"));
        assert_eq!(vary(Some("")).as_deref(), Some("Cookie"));
        assert_eq!(vary(Some("Accept-Encoding")).as_deref(), Some("Accept-Encoding, Cookie"));
        assert_eq!(vary(Some("Accept, cookie")), None);
        assert_eq!(vary(Some("*")), None);
        assert_eq!(ResponseHeaders::default().vary(None), None);
    }

    #[test]
    fn a_response_with_an_id_is_never_public() {
        let cache = |now| headers().cache_control(now);
        assert_eq!(cache(None).as_deref(), Some("no-cache=\"Set-Cookie\""));
        assert_eq!(
            cache(Some("public, max-age=60, s-maxage=9")).as_deref(),
            Some("max-age=60, private, no-cache=\"Set-Cookie\"")
        );
        assert_eq!(cache(Some("private")).as_deref(), Some("private, no-cache=\"Set-Cookie\""));
        assert_eq!(cache(Some("no-store")), None);
        let id_fields = vec![("X-Session".into(), "x".to_owned())];
        let headers = ResponseHeaders { id_fields, ..headers() };
        let cache = headers.cache_control(Some("max-age=60"));
        assert_eq!(cache.as_deref(), Some("max-age=60, no-store"), "no cache knows that header");
        assert_eq!(ResponseHeaders::default().cache_control(Some("public")), None);
    }

    #[test]
    fn what_keeps_set_cookie_out_of_caches_is_not_said_twice() {
        let cache = |now| headers().cache_control(Some(now));
        for said in [
            "no-cache=\"Set-Cookie\"",
            "No-Cache",
            "max-age=60, no-cache",
            "no-cache=\"X-Other, set-cookie\", max-age=60",
            "no-cache=Set-Cookie",
        ] {
            assert_eq!(cache(said), None, "{said}");
        }
        let of_another = "no-cache=\"X-Other\"";
        assert_eq!(cache(of_another), Some(format!("{of_another}, {NO_CACHE}")));
        let public = cache("public, no-cache=\"Set-Cookie\", s-maxage=9");
        assert_eq!(public.as_deref(), Some("no-cache=\"Set-Cookie\", private"));
        let headers = ResponseHeaders { no_store: true, ..headers() };
        let stored = headers.cache_control(Some("no-cache"));
        assert_eq!(stored.as_deref(), Some("no-cache, no-store"), "which asks for more");
    }

    #[test]
    fn a_comma_in_quotes_parts_no_directives() {
        let now = "ext=\"a, public, b\", max-age=1";
        let merged = headers().cache_control(Some(now));
        assert_eq!(merged, Some(format!("{now}, {NO_CACHE}")));
        let open = headers().cache_control(Some("ext=\"a, public"));
        assert_eq!(open, Some(format!("ext=\"a, public, {NO_CACHE}")), "a quote without an end");
    }

    #[test]
    fn a_response_that_is_not_to_be_stored_says_so_with_an_id_and_without() {
        for id_fields in [headers().id_fields, vec![]] {
            let headers = ResponseHeaders { id_fields, no_store: true, ..headers() };
            assert_eq!(headers.cache_control(None).as_deref(), Some("no-store"));
            let cache = headers.cache_control(Some("public, max-age=60"));
            assert_eq!(cache.as_deref(), Some("max-age=60, private, no-store"));
            assert_eq!(headers.cache_control(Some("No-Store")), None);
            let is_guard =
                |(name, value): &(&str, &str)| *name == "Cache-Control" && *value == "no-store";
            assert_eq!(headers.iter().filter(is_guard).count(), 1);
        }
    }

    #[test]
    fn the_rest_is_everything_but_what_an_adapter_merges() {
        let headers = ResponseHeaders { no_store: true, clear_site_data: true, ..headers() };
        let clear = ("Clear-Site-Data", "\"cache\", \"storage\"");
        assert_eq!(headers.rest().collect::<Vec<_>>(), [("Set-Cookie", "id=x"), clear]);
        let all: Vec<_> = headers.iter().collect();
        let merged = [("Cache-Control", "no-store"), ("Vary", "Cookie")];
        assert_eq!(all, [&[("Set-Cookie", "id=x"), clear], &merged[..]].concat());
        assert_eq!(ResponseHeaders::default().iter().count(), 0);
    }

    #[test]
    fn several_id_fields_stay_apart_and_in_order() {
        let field = |value: &str| ("Set-Cookie".into(), value.to_owned());
        let headers = ResponseHeaders { id_fields: vec![field("a=1"), field("b=2")], ..headers() };
        let expected = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")];
        assert_eq!(headers.rest().collect::<Vec<_>>(), expected);
        let guard = headers.cache_control(None);
        assert_eq!(guard.as_deref(), Some("no-cache=\"Set-Cookie\""));
    }

    #[test]
    fn an_address_is_believed_only_from_as_many_proxies_as_there_are() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let of = |lines: &[&'static str], proxies| {
            let head = lines.iter().fold(RequestHead::new().peer(peer), |h, l| h.forwarded_for(l));
            head.client_address(proxies).map(|address| address.to_string())
        };
        let own = || Some("10.0.0.1".to_owned());
        let client = || Some("192.0.2.7".to_owned());
        assert_eq!(of(&["192.0.2.7"], 0), own(), "anybody can send the header");
        assert_eq!(of(&["192.0.2.7"], 1), client());
        assert_eq!(of(&["1.1.1.1, 192.0.2.7"], 1), client(), "the client has lied");
        assert_eq!(of(&["1.1.1.1", "192.0.2.7 "], 1), client());
        assert_eq!(of(&["1.1.1.1,192.0.2.7", "10.0.0.2"], 2), client());
        assert_eq!(of(&["10.0.0.2"], 2), own(), "it came past a proxy");
        assert_eq!(of(&[], 1), own());
        assert_eq!(of(&["192.0.2.7:4711"], 1), client());
        assert_eq!(of(&["[2001:db8::1]:4711"], 1).as_deref(), Some("2001:db8::1"));
        assert_eq!(of(&["[2001:db8::1]"], 1).as_deref(), Some("2001:db8::1"));
        for odd in ["", "unknown", "1.1.1.1 2.2.2.2", "192.0.2.7,"] {
            assert_eq!(of(&[odd], 1), None, "{odd:?}");
        }
        let lies = ["1.1.1.1"; 100];
        assert_eq!(of(&[&lies[..], &["192.0.2.7", "10.0.0.2"]].concat(), 2), client());
    }

    #[test]
    fn webkit_is_told_from_chromium() {
        let mozilla = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7)";
        let webkit = "AppleWebKit/605.1.15 (KHTML, like Gecko)";
        for (rest, expected) in [
            (format!("{webkit} Version/18.0 Safari/605.1.15"), true),
            (format!("{webkit} CriOS/140.0.0.0 Mobile/15E148 Safari/604.1"), true),
            ("AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36".into(), false),
            ("AppleWebKit/537.36 HeadlessChrome/140.0.0.0 Safari/537.36".into(), false),
            ("Gecko/20100101 Firefox/143.0".into(), false),
        ] {
            assert_eq!(is_webkit(&format!("{mozilla} {rest}")), expected, "{rest}");
        }
        assert!(!is_webkit("curl/8.5.0") && !is_webkit(""));
    }

    #[test]
    fn loopback_names_are_told_from_others() {
        for host in ["localhost", "LOCALHOST:8000", "a.localhost", "127.0.0.1:80", "[::1]:8000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.org", "localhost.example.org", "10.0.0.1", "[::2]", "127.0.0.1.x"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_host_is_kept_as_it_is_and_a_long_one_is_cut_between_characters() {
        for host in ["", "example.org:8000", &"a".repeat(128)] {
            assert_eq!(HostText::new(host).as_str(), host);
        }
        assert_eq!(HostText::new(&"a".repeat(10_000)).as_str(), "a".repeat(128));
        let odd = "a".to_owned() + &"é".repeat(100);
        assert_eq!(HostText::new(&odd).as_str(), &odd[..127]);
    }

    #[test]
    fn every_cookie_field_is_kept_in_order() {
        let fields: Vec<String> = (0..100).map(|n| format!("a={n}")).collect();
        let head = fields.iter().fold(RequestHead::new(), |head, field| head.cookie(field));
        assert!(head.cookies.iter().eq(fields.iter()));
    }

    #[test]
    fn debug_output_shows_no_cookie_and_no_id() {
        let head = RequestHead::new().cookie("id=SECRET").id("SECRET").host("example.org");
        let shown = format!("{head:?} {:?}", headers());
        assert!(shown.contains("example.org") && shown.contains("Set-Cookie"), "{shown}");
        assert!(!shown.contains("SECRET") && !shown.contains("id=x"), "{shown}");
    }
}
