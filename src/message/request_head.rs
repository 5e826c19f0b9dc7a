//! The request head: cookies, ids, and data about the client.

use std::fmt::{self, Debug};
use std::net::{IpAddr, SocketAddr};

use crate::message::single::Single;
use crate::message::small_list::SmallList;

/// The fields of a request head that sessions read. They are borrowed. `Debug` shows neither
/// cookies nor ids.
///
/// [`Adapter::head`](crate::adapter::Adapter::head) makes it from all fields of a request. Without
/// that:
///
/// ```
/// use cloakroom::adapter::RequestHead;
///
/// let head = RequestHead::new()
///     .method("POST")
///     .target("/theme")
///     .host("example.org")
///     .sec_fetch_site("same-origin")
///     .cookie("id=abc; theme=dark");
/// // In a test, the Cookie field can be enough:
/// let head = RequestHead::from(Some("id=abc; theme=dark"));
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct RequestHead<'r> {
    pub(crate) cookies: SmallList<&'r str, 4>,
    pub(crate) ids: SmallList<&'r str, 1>,
    pub(crate) method: Option<&'r str>,
    /// The path of the request's target.
    pub(crate) path: Option<&'r str>,
    pub(crate) host: Single<'r>,
    /// The first `X-Forwarded-Host` field.
    forwarded_host: Option<&'r str>,
    pub(crate) origin: Single<'r>,
    pub(crate) sec_fetch_site: Single<'r>,
    /// Whether the client asks to continue with a WebSocket.
    pub(crate) websocket: bool,
    pub(crate) secure: bool,
    pub(crate) peer_addr: Option<IpAddr>,
    /// The last fields, because proxies append their entries after those of the client.
    forwarded_for: [Option<&'r str>; MAX_PROXIES as usize],
    pub(crate) user_agent: Option<&'r str>,
    pub(crate) prefetch: bool,
}

/// A method that adds the value of a header field.
type AddField<'r> = fn(RequestHead<'r>, &'r str) -> RequestHead<'r>;

/// Maximum number of proxies whose entries of `X-Forwarded-For` can be trusted.
pub(crate) const MAX_PROXIES: u8 = 8;

impl<'r> RequestHead<'r> {
    /// The header fields with a method of their own, which gets the value of each field in order.
    pub(crate) const FIELDS: [(&'static str, AddField<'r>); 9] = [
        ("Host", Self::host),
        ("Origin", Self::origin),
        ("Purpose", Self::purpose),
        ("Sec-Fetch-Site", Self::sec_fetch_site),
        ("Sec-Purpose", Self::purpose),
        ("Upgrade", Self::upgrade),
        ("User-Agent", Self::user_agent),
        ("X-Forwarded-For", Self::forwarded_for),
        ("X-Forwarded-Host", Self::forwarded_host),
    ];

    /// Makes the head of a request without any of these fields.
    pub fn new() -> Self {
        RequestHead::default()
    }

    /// Adds the value of a `Cookie` field. A request can have several: HTTP/2 allows one for each
    /// cookie (RFC 9113, section 8.2.3).
    pub fn cookie(mut self, value: &'r str) -> Self {
        self.cookies.push(value);
        self
    }

    /// Adds the value of the header that carries the id, for a manager with a
    /// [`header`](crate::manager::SessionManagerBuilder::header).
    pub fn id(mut self, value: &'r str) -> Self {
        self.ids.push(value);
        self
    }

    /// Sets the method, in upper case. Without it, the cross-origin check treats the request as a
    /// `POST`.
    pub fn method(self, method: &'r str) -> Self {
        RequestHead { method: Some(method), ..self }
    }

    /// Sets the target of the request: its path, and its query if it has one. The cross-origin
    /// check compares the path with those that are [exempt](crate::CrossOrigin::exempt).
    pub fn target(self, target: &'r str) -> Self {
        RequestHead { path: target.split('?').next(), ..self }
    }

    /// Adds the value of a `Host` field; in HTTP/2 and HTTP/3, of `:authority`. A request with
    /// several has no host.
    pub fn host(self, value: &'r str) -> Self {
        RequestHead { host: self.host.with(value), ..self }
    }

    /// Adds the value of an `X-Forwarded-Host` field; call it in the order of the fields. It counts
    /// only if the manager has
    /// [proxies](crate::manager::SessionManagerBuilder::behind_proxies).
    pub fn forwarded_host(self, value: &'r str) -> Self {
        RequestHead { forwarded_host: self.forwarded_host.or(Some(value)), ..self }
    }

    /// Adds the value of an `Origin` field.
    pub fn origin(self, value: &'r str) -> Self {
        RequestHead { origin: self.origin.with(value), ..self }
    }

    /// Adds the value of a `Sec-Fetch-Site` field.
    pub fn sec_fetch_site(self, value: &'r str) -> Self {
        RequestHead { sec_fetch_site: self.sec_fetch_site.with(value), ..self }
    }

    /// Adds the value of an `Upgrade` field, by which a client asks for a WebSocket.
    pub fn upgrade(self, value: &'r str) -> Self {
        let is_websocket = |protocol: &str| {
            let name = protocol.split('/').next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case("websocket")
        };
        RequestHead { websocket: self.websocket || value.split(',').any(is_websocket), ..self }
    }

    /// Marks the client's connection as encrypted if `secure` is true: by TLS in this program, or
    /// by a proxy that sends `X-Forwarded-Proto: https`. False does not remove an earlier mark.
    ///
    /// With the mark, an `Origin` of plain HTTP is another origin. Without it,
    /// [`InsecureConnection`](crate::event::Event::InsecureConnection) may be raised.
    pub fn secure_if(self, secure: bool) -> Self {
        RequestHead { secure: self.secure || secure, ..self }
    }

    /// Sets the address of the other end of the connection: the client's, or a proxy's.
    pub fn peer_addr(self, address: IpAddr) -> Self {
        RequestHead { peer_addr: Some(address), ..self }
    }

    /// Adds the value of an `X-Forwarded-For` field; call it in the order of the fields. As many
    /// entries are trusted as the manager has
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

    /// Sets the value of the `User-Agent` field.
    pub fn user_agent(self, value: &'r str) -> Self {
        RequestHead { user_agent: Some(value), ..self }
    }

    /// Sets the value of the `Sec-Purpose` field, or of the older `Purpose`.
    ///
    /// With `prefetch` a browser fetches the page in advance, and may never show it (HTML Standard,
    /// Speculative loading). Such a request leaves [flashes](crate::Session::flashes) in the
    /// session, and does not count as activity.
    pub fn purpose(self, value: &'r str) -> Self {
        let is_prefetch = |word: &str| word.trim().eq_ignore_ascii_case("prefetch");
        RequestHead { prefetch: self.prefetch || value.split([',', ';']).any(is_prefetch), ..self }
    }

    /// Returns whether the request says that a proxy has forwarded it.
    pub(crate) fn is_forwarded(&self) -> bool {
        self.forwarded_for.iter().any(Option::is_some)
    }

    /// Returns the client's address behind this number of proxies, each of which appends the
    /// address of its client. A request with fewer entries has bypassed a proxy: then this is the
    /// address of the peer.
    pub(crate) fn client_address(&self, proxies: u8) -> Option<IpAddr> {
        let Some(nearer) = usize::from(proxies).checked_sub(1) else {
            return self.canonical_peer();
        };
        let fields = self.forwarded_for.iter().flatten().rev();
        match fields.flat_map(|field| field.rsplit(',')).nth(nearer) {
            Some(entry) => parse_address(entry.trim()),
            None => self.canonical_peer(),
        }
    }

    /// Returns the host by which browsers know the application. Any client can send
    /// `X-Forwarded-Host`, but the page of another origin only if the application allows it (CORS).
    pub(crate) fn public_host(&self, proxies: u8) -> Option<&'r str> {
        match self.forwarded_host.filter(|_| proxies > 0) {
            Some(hosts) => hosts.split(',').next().map(str::trim),
            None => self.host.once(),
        }
    }

    /// Returns the peer's address; an IPv4-mapped IPv6 address as IPv4.
    fn canonical_peer(&self) -> Option<IpAddr> {
        self.peer_addr.map(|address| address.to_canonical())
    }
}

/// Parses the address of an entry of `X-Forwarded-For`, to which some proxies append the port.
fn parse_address(entry: &str) -> Option<IpAddr> {
    let parse_with_port = || entry.parse::<SocketAddr>().ok().map(|address| address.ip());
    let parse_in_brackets = || entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    entry.parse().ok().or_else(parse_with_port).or_else(parse_in_brackets)
}

impl Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forwarded_for: Vec<&str> = self.forwarded_for.iter().flatten().copied().collect();
        f.debug_struct("RequestHead")
            .field("cookies", &format_args!("{} fields", self.cookies.len()))
            .field("ids", &format_args!("{} fields", self.ids.len()))
            .field("method", &self.method)
            .field("path", &self.path)
            .field("host", &self.host)
            .field("forwarded_host", &self.forwarded_host)
            .field("origin", &self.origin)
            .field("sec_fetch_site", &self.sec_fetch_site)
            .field("websocket", &self.websocket)
            .field("secure", &self.secure)
            .field("peer_addr", &self.peer_addr)
            .field("forwarded_for", &forwarded_for)
            .field("user_agent", &self.user_agent)
            .field("prefetch", &self.prefetch)
            .finish()
    }
}

impl<'r> From<Option<&'r str>> for RequestHead<'r> {
    /// Makes the head of a request with at most one `Cookie` field.
    fn from(cookie: Option<&'r str>) -> Self {
        match cookie {
            Some(value) => RequestHead::new().cookie(value),
            None => RequestHead::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_entries_of_known_proxies_are_trusted() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let of = |lines: &[&'static str], proxies| {
            let head =
                lines.iter().fold(RequestHead::new().peer_addr(peer), |h, l| h.forwarded_for(l));
            head.client_address(proxies).map(|address| address.to_string())
        };
        let own = || Some("10.0.0.1".to_owned());
        let client = || Some("192.0.2.7".to_owned());
        assert_eq!(of(&["192.0.2.7"], 0), own(), "any client can send the header");
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
        let forged = ["1.1.1.1"; 100];
        assert_eq!(of(&[&forged[..], &["192.0.2.7", "10.0.0.2"]].concat(), 2), client());
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
        let shown = format!("{head:?}");
        assert!(shown.contains("example.org") && !shown.contains("SECRET"), "{shown}");
    }
}
