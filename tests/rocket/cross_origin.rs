//! The cross-origin check in Rocket: methods that are rewritten, fairings, catchers, managers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::client::PATIENCE;
use crate::common::rocket_server::RocketServer;
use crate::{bare, client, given, memory};
use cloakroom::cross_origin::REFUSED;
use cloakroom::event::EventKind;
use cloakroom::web::rocket::Sessions;
use cloakroom::{CookieConfig, CrossOrigin, MemoryStore, Session, SessionManager};
use rocket::fairing::AdHoc;
use rocket::http::uri::Origin;
use rocket::http::{ContentType, Header, Method, Status};
use rocket::local::blocking::{Client, LocalResponse};
use rocket::{Build, Rocket, catch, catchers, delete, get, post, routes};

static CALLS: AtomicUsize = AtomicUsize::new(0);

#[get("/change")]
fn read() -> &'static str {
    CALLS.fetch_add(1, Ordering::SeqCst);
    "read"
}

#[post("/change")]
fn change(session: &Session) -> cloakroom::Result<&'static str> {
    session.set("n", 1)?;
    Ok("changed")
}

#[delete("/change")]
fn remove() -> &'static str {
    "removed"
}

#[catch(default)]
fn caught() -> &'static str {
    "caught"
}

fn rocket(sessions: SessionManager) -> Rocket<Build> {
    bare().attach(sessions).mount("/", routes![read, change, remove])
}

fn foreign() -> Header<'static> {
    Header::new("Sec-Fetch-Site", "cross-site")
}

#[track_caller]
fn assert_refused(response: LocalResponse<'_>) {
    assert_eq!(response.status(), Status::Forbidden);
    assert_eq!(response.content_type(), Some(ContentType::Plain));
    assert!(given(&response).is_none());
    assert_eq!(response.into_string().as_deref(), Some(REFUSED));
}

#[test]
fn a_post_whose_form_names_another_method_is_checked() {
    let sessions = memory();
    let client = client(rocket(sessions.clone()));
    let before = CALLS.load(Ordering::SeqCst);
    let bodies =
        ["_method=get", "_method=head&a=b", "_method=options", "_method=delete", "a=b&c=d"];
    for body in bodies {
        let form = || client.post("/change").header(ContentType::Form).body(body);
        assert_refused(form().header(foreign()).dispatch());
        let own = form().header(Header::new("Sec-Fetch-Site", "same-origin")).dispatch();
        assert_ne!(own.status(), Status::Forbidden, "{body}");
    }
    // `get`, and `head`, which Rocket answers as `get`: of the own page only.
    assert_eq!(CALLS.load(Ordering::SeqCst), before + 2);
    assert_eq!(sessions.events().count(EventKind::CrossOrigin), bodies.len() as u64);
}

#[test]
fn the_check_sees_the_method_that_later_fairings_set() {
    let rewrite = AdHoc::on_request("method from the query", |request, _| {
        Box::pin(async move {
            if request.uri().query().is_some_and(|query| query == "delete") {
                request.set_method(Method::Delete);
            }
        })
    });
    let client = client(rocket(memory()).attach(rewrite));
    let removed = client.get("/change?delete").dispatch();
    assert_eq!(removed.into_string().as_deref(), Some("removed"));
    assert_refused(client.get("/change?delete").header(foreign()).dispatch());
    assert_refused(client.post("/change?delete").header(foreign()).dispatch());
    let read = client.get("/change").header(foreign()).dispatch();
    assert_eq!(read.into_string().as_deref(), Some("read"));
}

#[test]
fn a_fairing_that_opens_the_session_early_cannot_use_it() {
    static FAILED: AtomicUsize = AtomicUsize::new(0);
    let early = AdHoc::on_request("count requests", |request, _| {
        Box::pin(async move {
            let session = request.guard::<&Session>().await.succeeded().unwrap();
            FAILED.fetch_add(usize::from(session.set("early", 1).is_err()), Ordering::SeqCst);
        })
    });
    let sessions = memory();
    let client = client(bare().attach(early).attach(sessions.clone()).mount("/", routes![change]));
    assert_eq!(client.post("/change").dispatch().status(), Status::Ok);
    assert_eq!(FAILED.load(Ordering::SeqCst), 0);
    let response = client.post("/change").header(foreign()).dispatch();
    assert_eq!(response.status(), Status::Forbidden);
    assert!(given(&response).is_none());
    assert_eq!(FAILED.load(Ordering::SeqCst), 1);
    assert_eq!(sessions.events().count(EventKind::ChangesDiscarded), 0);
}

#[test]
fn a_connect_is_not_refused_but_not_found() {
    let client = client(rocket(memory()).register("/", catchers![caught]));
    let response = client.req(Method::Connect, "/change").dispatch();
    assert_eq!(response.status(), Status::NotFound);
    assert_eq!(response.into_string().as_deref(), Some("caught"));
    assert_refused(client.post("/nowhere").header(foreign()).dispatch());
    assert_refused(client.put("/change").header(foreign()).dispatch());
}

struct Admin;

/// A Rocket with two managers, of which this one checks.
fn with_two(first: CrossOrigin, second: CrossOrigin) -> Client {
    let manager = |name: &str, cross_origin| {
        let cookie = CookieConfig::new().name(format!("__Host-{name}"));
        let builder = SessionManager::builder(MemoryStore::new()).cookie(cookie);
        builder.cross_origin(cross_origin).build().unwrap()
    };
    let admins = Sessions::<Admin>::of(manager("admin", second));
    client(rocket(manager("id", first)).attach(admins))
}

#[test]
fn each_of_several_managers_can_refuse_a_request() {
    let send = |client: &Client| client.post("/change").header(foreign()).dispatch().status();
    let (refuse, off) = (CrossOrigin::refuse, CrossOrigin::off);
    for (first, second, status) in [
        (refuse(), refuse(), Status::Forbidden),
        (refuse(), off(), Status::Forbidden),
        (off(), refuse(), Status::Forbidden),
        (off(), off(), Status::Ok),
    ] {
        assert_eq!(send(&with_two(first.clone(), second.clone())), status, "{first:?} {second:?}");
    }
}

#[test]
fn the_exempt_path_is_that_which_is_routed() {
    let exempt = CrossOrigin::refuse().exempt("/change");
    let sessions = SessionManager::builder(MemoryStore::new()).cross_origin(exempt);
    let rewrite = AdHoc::on_request("an old path", |request, _| {
        Box::pin(async move {
            if request.uri().path() == "/old" {
                request.set_uri(Origin::parse("/change").unwrap());
            }
        })
    });
    let client = client(rocket(sessions.build().unwrap()).attach(rewrite));
    for (path, status) in [("/old", Status::Forbidden), ("/other", Status::Forbidden)] {
        let response = client.post(path).header(foreign()).dispatch();
        let is_refusal = response.into_string().as_deref() == Some(REFUSED);
        assert_eq!(is_refusal, path == "/other", "{path}: the change itself is {status}");
    }
    assert_eq!(client.delete("/change").header(foreign()).dispatch().status(), Status::Ok);
}

/// A frame of HTTP/2 (RFC 9113, section 4.1) on stream 1, or on the connection.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A `POST /change` of HTTP/2 with these fields, without compression (RFC 7541, section 6.2.2).
fn http2_post(fields: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/change")];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let field = |(name, value): &(&str, &str)| [vec![0], text(name), text(value)].concat();
    let block: Vec<u8> = pseudo.iter().chain(fields).flat_map(field).collect();
    let (settings, headers, end) = (4, 1, 0x1 | 0x4);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    [preface, frame(settings, 0, 0, &[]), frame(headers, end, 1, &block)].concat()
}

#[test]
fn over_http_2_the_authority_is_the_host() {
    let sessions = memory();
    let server = RocketServer::start(rocket(sessions.clone()));
    let origin = ("origin", "http://app.localhost:8000");
    for (fields, refused) in [
        (&[(":authority", "app.localhost:8000"), origin][..], 0),
        (&[(":authority", "app.localhost:8001"), origin], 1),
        (&[(":authority", "shop.localhost:8000"), origin], 1),
        (&[(":authority", "[::1]:8000"), ("origin", "http://[::1]:8000")], 0),
        (&[(":authority", "app.localhost"), ("origin", "http://app.localhost")], 0),
        (&[(":authority", "app.localhost"), ("sec-fetch-site", "cross-site")], 1),
    ] {
        let before = sessions.events().count(EventKind::CrossOrigin);
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&http2_post(fields)).unwrap();
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).unwrap();
            let [_, high, low, kind, ..] = head;
            let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
            stream.read_exact(&mut payload).unwrap();
            if kind == 1 {
                break;
            }
        }
        let after = sessions.events().count(EventKind::CrossOrigin);
        assert_eq!(after - before, refused, "{fields:?}");
    }
}
