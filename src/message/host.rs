//! The host of a request, and whether its browser accepts Secure cookies from it without TLS.

use std::net::IpAddr;

/// Returns whether `user_agent` belongs to a WebKit browser, such as Safari and all browsers on
/// iOS. Chromium names WebKit too, but is not one.
pub(crate) fn is_webkit(user_agent: &str) -> bool {
    user_agent.contains("AppleWebKit/")
        && !user_agent.contains("Chrome/")
        && !user_agent.contains("Chromium/")
}

/// Returns whether `host`, the value of a `Host` header, is a loopback name or address. Chromium
/// and Firefox accept Secure cookies from these without TLS; WebKit does not (bug 281149).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webkit_is_distinguished_from_chromium() {
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
    fn loopback_names_are_distinguished_from_others() {
        for host in ["localhost", "LOCALHOST:8000", "a.localhost", "127.0.0.1:80", "[::1]:8000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "example.org", "localhost.example.org", "10.0.0.1", "[::2]", "127.0.0.1.x"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
