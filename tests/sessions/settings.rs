//! The texts of errors about the settings of a manager.

use std::time::Duration;

use cloakroom::{CookieConfig, ErrorKind, Lifetime, MemoryStore, SessionManager};

#[test]
fn an_error_names_the_setting_and_the_reason() {
    const ZERO: Duration = Duration::ZERO;
    const MINUTE: Duration = Duration::from_secs(60);
    let builder = || SessionManager::builder(MemoryStore::new());
    let too_short = "cannot use that lifetime: a limit must be at least one millisecond";
    let bad_name = "a name contains only letters, digits and !#$%&'*+-.^_`|~";
    let bad_max_idle_limit = "the minimum is 1 ms, and the idle limit of each lifetime";
    let bad_interval = "an interval is from one millisecond to one day";
    for (wrong, setting, why) in [
        (builder().lifetime(Lifetime::idle(ZERO)), "lifetime", too_short),
        (
            builder().browser_session_lifetime(Lifetime::idle(ZERO)),
            "browser_session_lifetime",
            too_short,
        ),
        (builder().anonymous_lifetime(Lifetime::idle(ZERO)), "anonymous_lifetime", too_short),
        (
            builder().cookie(CookieConfig::new().path("/shop")),
            "cookie",
            "cannot use that session cookie: a name that begins with __Host- demands Path=/",
        ),
        (builder().header(""), "header", bad_name),
        (builder().header("X Id"), "header", bad_name),
        (builder().header("Host"), "header", "Host has another meaning in HTTP"),
        (
            builder().header("X-Forwarded-By"),
            "header",
            "X-Forwarded-By has another meaning in HTTP",
        ),
        (builder().renewal_grace(2 * MINUTE), "renewal_grace", "the maximum is one minute"),
        (builder().renew_every(MINUTE / 2), "renew_every", "the minimum is one minute"),
        (builder().max_idle_limit(MINUTE), "max_idle_limit", bad_max_idle_limit),
        (builder().max_idle_limit(ZERO), "max_idle_limit", bad_max_idle_limit),
        (builder().behind_proxies(9), "behind_proxies", "the maximum is 8"),
        (builder().sweep_every(ZERO), "sweep_every", bad_interval),
        (builder().sweep_every(2000 * MINUTE), "sweep_every", bad_interval),
        (builder().max_anonymous(0), "max_anonymous", "the minimum is 1"),
        (builder().realm(""), "realm", "cannot use that as a realm: it is empty"),
        (
            builder().former_cookie_name("__Host-id"),
            "former_cookie_name",
            "__Host-id is the current name",
        ),
        (
            builder().former_cookie_name("a b"),
            "former_cookie_name",
            "cannot use that session cookie: a cookie's name contains only letters, digits and \
             !#$%&'*+-.^_`|~",
        ),
        (
            builder().header("X-Id").former_cookie_name("old"),
            "former_cookie_name",
            "a header has no former names",
        ),
        (
            builder().former_cookie_name("old"),
            "former_cookie_name",
            "sessions stay in their realm, so name it: add .realm(\"old\"), and keep it for good",
        ),
    ] {
        let error = wrong.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.to_string(), format!("cannot set `{setting}`: {why}"));
    }
}
