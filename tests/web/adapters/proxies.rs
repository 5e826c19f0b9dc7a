//! The client behind proxies: its address, its user agent, and its encrypted connection.

use std::num::NonZeroUsize;

use cloakroom::UserKey;
use cloakroom::backend::Store;
use cloakroom::list::{Client, Page, SessionFilter};
use cloakroom::manager::SessionManagerBuilder;

use crate::common::client::{Request, Response};
use crate::common::site::{Site, everywhere, everywhere_with};

/// Signs a user in through these headers, and gives what is kept of the client.
fn kept(site: &Site, headers: &[(&'static str, &str)]) -> (Response, Option<Client>) {
    let request = Request::post("/sign-in:ada");
    let add = |request: Request, (name, value): &(&'static str, &str)| request.header(name, *value);
    let response = site.send(&headers.iter().fold(request, add));
    let (ada, page) = (UserKey::new("ada").unwrap(), Page::first(NonZeroUsize::MIN));
    let index = site.store.index().unwrap();
    let newest = index.list(&SessionFilter::User(&ada), page, site.now()).unwrap().remove(0);
    (response, newest.client)
}

#[test]
fn nothing_of_the_client_is_kept_unless_the_application_says_so() {
    everywhere(|site| {
        let headers = [("X-Forwarded-For", "192.0.2.7"), ("User-Agent", "Lynx")];
        assert_eq!(kept(site, &headers).1, None);
    });
}

#[test]
fn the_address_is_the_connections_own_whatever_the_header_says() {
    let configure = |builder: SessionManagerBuilder| builder.record_address(true);
    everywhere_with(configure, |site| {
        let headers = [("X-Forwarded-For", "192.0.2.7"), ("X-Real-IP", "192.0.2.8")];
        let client = kept(site, &headers).1.unwrap();
        assert_eq!(client, Client::new(Some([127, 0, 0, 1].into()), None));
    });
}

#[test]
fn behind_a_proxy_the_address_is_the_one_that_it_has_added() {
    let configure = |builder: SessionManagerBuilder| {
        builder.behind_proxies(1).record_address(true).record_user_agent(true)
    };
    everywhere_with(configure, |site| {
        let long = "x".repeat(5000);
        let headers = [("X-Forwarded-For", "10.9.9.9, 192.0.2.7"), ("User-Agent", long.as_str())];
        let client = kept(site, &headers).1.unwrap();
        assert_eq!(client.address, Some([192, 0, 2, 7].into()));
        assert_eq!(client.user_agent.unwrap().len(), Client::MAX_USER_AGENT);
        let lines = [("X-Forwarded-For", "10.9.9.9"), ("X-Forwarded-For", "192.0.2.7")];
        assert_eq!(kept(site, &lines).1.unwrap().address, Some([192, 0, 2, 7].into()));
        let past = kept(site, &[("User-Agent", "")]).1.unwrap();
        assert_eq!(past.address, Some([127, 0, 0, 1].into()), "it came past the proxy");
    });
}

#[test]
fn the_cookie_is_secure_whatever_the_connection_is() {
    everywhere(|site| {
        for headers in
            [&[("X-Forwarded-Proto", "https")][..], &[("X-Forwarded-Proto", "http")], &[]]
        {
            let (response, _) = kept(site, headers);
            assert!(response.one("Set-Cookie").unwrap().contains("; Secure;"), "{headers:?}");
        }
    });
}
