//! Requests through the adapters, which must read no more headers than they need.

use cloakroom::{MemoryStore, SessionManager};
use rocket::config::{Config, LogLevel};
use rocket::http::Header;
use rocket::local::blocking::Client;

use crate::other_cookies;

/// The number of allocations of a rouille request with these cookies, beside the handler's.
fn in_rouille(sessions: &SessionManager, fields: &[String]) -> u64 {
    let headers = fields.iter().map(|field| ("Cookie".to_owned(), field.clone())).collect();
    let request = rouille::Request::fake_http("GET", "/", headers, vec![]);
    let handler = || rouille::Response::empty_204();
    let without = allocation_counter::measure(|| drop(handler()));
    let with = allocation_counter::measure(|| {
        drop(cloakroom::web::rouille::session(sessions, &request, |_| Ok(handler())));
    });
    with.count_total - without.count_total
}

#[test]
fn other_cookies_cost_nothing_in_rouille() {
    let sessions = SessionManager::new(MemoryStore::new()).unwrap();
    // The first request makes the allocations that are made once.
    in_rouille(&sessions, &[]);
    let none = in_rouille(&sessions, &[]);
    assert_eq!(none, 1, "the session, which inner calls share");
    for fields in other_cookies() {
        assert_eq!(in_rouille(&sessions, &fields), none);
    }
}

/// The number of allocations of a tiny_http request with these cookies.
fn in_tiny_http(sessions: &SessionManager, fields: &[String]) -> u64 {
    use tiny_http::{Header, Response, TestRequest};
    let add = |request: TestRequest, field: &String| {
        request.with_header(Header::from_bytes("Cookie", field.as_str()).unwrap())
    };
    let mut request = fields.iter().fold(TestRequest::new(), add).into();
    let handler = || Response::empty(204);
    let without = allocation_counter::measure(|| drop(handler().boxed()));
    let with = allocation_counter::measure(|| {
        drop(cloakroom::web::tiny_http::session(sessions, &mut request, |_, _| Ok(handler())));
    });
    with.count_total - without.count_total
}

#[test]
fn other_cookies_cost_nothing_in_tiny_http() {
    let sessions = SessionManager::new(MemoryStore::new()).unwrap();
    assert_eq!(in_tiny_http(&sessions, &[]), 0);
    for fields in other_cookies() {
        assert_eq!(in_tiny_http(&sessions, &fields), 0);
    }
}

/// The number of allocations of a request with these cookies, in the types of the `http` crate.
fn in_http(sessions: &SessionManager, fields: &[String]) -> u64 {
    let builder = http::Request::builder();
    let builder = fields.iter().fold(builder, |builder, field| builder.header("Cookie", field));
    let request = builder.body(()).unwrap();
    let allocations = allocation_counter::measure(|| {
        drop(cloakroom::web::http_types::session(sessions, request, |_, request| {
            drop(request);
            Ok(http::Response::new("done"))
        }));
    });
    allocations.count_total
}

#[test]
fn other_cookies_cost_nothing_in_the_types_of_http() {
    let sessions = SessionManager::new(MemoryStore::new()).unwrap();
    assert_eq!(in_http(&sessions, &[]), 0);
    for fields in other_cookies() {
        assert_eq!(in_http(&sessions, &fields), 0);
    }
}

#[rocket::get("/with")]
fn with(_session: &cloakroom::Session) {}

#[rocket::get("/without")]
fn without() {}

/// The number of allocations of Rocket's guard in a request with these cookies.
fn in_rocket(client: &Client, fields: &[String]) -> u64 {
    let send = |path: &'static str| {
        let add = |request, field: &String| -> rocket::local::blocking::LocalRequest<'_> {
            let request: rocket::local::blocking::LocalRequest<'_> = request;
            request.header(Header::new("Cookie", field.clone()))
        };
        let request = fields.iter().fold(client.get(path), add);
        allocation_counter::measure(|| drop(request.dispatch())).count_total
    };
    // The first requests make the allocations that are made once.
    send("/with");
    send("/without");
    let without = send("/without");
    send("/with") - without
}

#[test]
fn other_cookies_cost_nothing_in_rocket() {
    let sessions = SessionManager::new(MemoryStore::new()).unwrap();
    // Captured log lines would be allocations too.
    let quiet = Config { log_level: LogLevel::Off, ..Config::debug_default() };
    let rocket = rocket::custom(quiet).attach(sessions).mount("/", rocket::routes![with, without]);
    let client = Client::untracked(rocket).unwrap();
    let none = in_rocket(&client, &[]);
    assert!(none > 0, "Rocket keeps the session until the end");
    for fields in other_cookies() {
        assert_eq!(in_rocket(&client, &fields), none);
    }
}
