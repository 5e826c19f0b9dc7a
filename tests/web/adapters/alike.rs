//! The frameworks beside each other: one script, the same answers.

use std::collections::HashMap;

use crate::common::client::{HttpClient, Request, Response};
use crate::common::scripted_app::{FRAMEWORKS, Framework};
use crate::common::site::{Site, on};

/// The requests of a browser, in order. `-` before a method means without the cookie.
const SCRIPT: &[(&str, &str)] = &[
    ("GET", "/hello"),
    ("GET", "/visits/who/names"),
    ("POST", "/count"),
    ("HEAD", "/count"),
    ("GET", "/visits"),
    ("POST", "/count/own-cookie/public/vary:Accept-Encoding"),
    ("POST", "/count/vary:Cookie"),
    ("POST", "/sign-in:ada/redirect"),
    ("GET", "/who/visits"),
    ("POST", "/flash:hello/redirect"),
    ("GET", "/flashes"),
    ("GET", "/flashes"),
    ("POST", "/count/status:204"),
    ("POST", "/count/status:304"),
    ("POST", "/count/status:404"),
    ("POST", "/count/status:500"),
    ("POST", "/count/own-cookie/status:503"),
    ("POST", "/count/fails"),
    ("POST", "/count/own-cookie/fails-of-ours:Busy"),
    ("POST", "/count/fails-of-ours:TooLarge"),
    ("POST", "/count/wraps:anyhow:Busy"),
    ("POST", "/count/wraps:source:TooLarge"),
    ("POST", "/renew/count/status:500"),
    ("POST", "/renew/count/panics"),
    ("POST", "/renew"),
    ("GET", "/visits/who"),
    ("POST", "/set:name:ada/commit/status:500"),
    ("POST", "/sign-in:ada/panics"),
    ("POST", "/set:big:x/ignore"),
    ("GET", "/names/stream:100000:nogate"),
    ("-GET", "/visits"),
    ("-POST", "/count/browser-session"),
    ("POST", "/destroy/flash:bye/redirect"),
    ("GET", "/flashes/who/visits"),
    ("POST", "/destroy/status:500"),
    ("GET", "/visits"),
];

/// Headers that are the server's own affair.
const ITS_OWN: &[&str] = &[
    "date",
    "server",
    "connection",
    "content-length",
    "transfer-encoding",
    "x-content-type-options",
    "x-frame-options",
    "permissions-policy",
];

/// A response without what differs from run to run: ids are numbered as they come.
fn seen(response: &Response, ids: &mut HashMap<String, usize>) -> String {
    let mut headers: Vec<String> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !ITS_OWN.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    if let Some(id) = response.id().filter(|id| !id.is_empty()) {
        let next = ids.len();
        let number = *ids.entry(id.clone()).or_insert(next);
        headers.iter_mut().for_each(|line| *line = line.replace(&id, &format!("<{number}>")));
    }
    headers.sort();
    format!("{} {headers:?} {:?}", response.status, String::from_utf8_lossy(&response.body))
}

fn play(site: &Site) -> Vec<String> {
    let (mut browser, mut ids) = (site.browser(), HashMap::new());
    let step = |&(method, path): &(&'static str, &str)| {
        let visitor = &mut match method.starts_with('-') {
            true => HttpClient::new(site.address()),
            false => std::mem::replace(&mut browser, HttpClient::new(site.address())),
        };
        let request = match method.trim_start_matches('-') {
            "POST" => Request::post(path),
            method => Request::new(method, path),
        };
        let response = visitor.try_send(request).unwrap();
        if !method.starts_with('-') {
            browser = visitor.clone();
        }
        format!("{method} {path}: {}", seen(&response, &mut ids))
    };
    SCRIPT.iter().map(step).collect()
}

#[test]
fn one_script_has_the_same_answers_on_every_framework_and_store() {
    let plays = std::cell::RefCell::new(vec![]);
    for Framework { name: framework, .. } in FRAMEWORKS {
        on(framework, |site| plays.borrow_mut().push(play(site)));
    }
    let plays = plays.into_inner();
    assert_eq!(plays.len(), 2 * FRAMEWORKS.len());
    let first = plays.first().unwrap();
    first.iter().for_each(|line| println!("{line}"));
    for play in &plays {
        for (one, other) in first.iter().zip(play) {
            assert_eq!(one, other);
        }
    }
}
