//! The requests of pages of many origins to `https://app.localhost` or `http://app.localhost`, and
//! which of them pass.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

pub const HOST: &str = "app.localhost";

/// Methods, and whether they change nothing.
const METHODS: [(&str, bool); 7] = [
    ("GET", true),
    ("HEAD", true),
    ("OPTIONS", true),
    ("POST", false),
    ("PUT", false),
    ("PATCH", false),
    ("DELETE", false),
];

/// Values of `Sec-Fetch-Site`, and whether requests with them pass.
const SITES: [(&str, bool); 5] = [
    ("same-origin", true),
    ("none", true),
    ("same-site", false),
    ("cross-site", false),
    ("other-planet", false),
];

/// Whether a request with this `Origin`, and without `Sec-Fetch-Site`, passes: over a plain
/// connection, and over an encrypted one.
const ORIGINS: [(Option<&str>, bool, bool); 9] = [
    (None, true, true),
    (Some("https://app.localhost"), true, true),
    (Some("http://app.localhost"), true, false),
    (Some("https://app.localhost:8443"), false, false),
    (Some("https://shop.app.localhost"), false, false),
    (Some("https://evil.localhost"), false, false),
    (Some("null"), false, false),
    (Some("app.localhost"), false, false),
    (Some(""), false, false),
];

#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub method: &'static str,
    pub sec_fetch_site: Option<&'static str>,
    pub origin: Option<&'static str>,
    pub encrypted: bool,
    pub passes: bool,
}

/// Every combination.
pub fn cases() -> impl Iterator<Item = Case> {
    let sites = || SITES.into_iter().map(|(site, passes)| (Some(site), Some(passes)));
    METHODS.into_iter().flat_map(move |(method, is_safe)| {
        std::iter::once((None, None)).chain(sites()).flat_map(move |(sec_fetch_site, by_site)| {
            ORIGINS.into_iter().flat_map(move |(origin, plain, secure)| {
                [(false, plain), (true, secure)].map(|(encrypted, by_origin)| {
                    let passes = is_safe || by_site.unwrap_or(by_origin);
                    Case { method, sec_fetch_site, origin, encrypted, passes }
                })
            })
        })
    })
}
