//! The same application on tiny_http, for which there is no adapter: `open` and `close` are all
//! that a server needs. The glue is in `answer`.
//!
//! `cargo run --release --example tiny_http`

mod app;

use std::error::Error;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use cloakroom::http::{Outcome, RequestHead};
use cloakroom::{Session, SessionManager};
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

type Page = Response<std::io::Cursor<Vec<u8>>>;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let sessions = app::sessions()?;
    let server = Arc::new(Server::http(app::address())?);
    println!("listening on http://{}", server.server_addr());
    {
        let server = server.clone();
        ctrlc::set_handler(move || (0..8).for_each(|_| server.unblock()))?;
    }
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Ok(request) = server.recv() {
                    answer(&sessions, request);
                }
            });
        }
    });
    sessions.flush()?;
    println!("stopped");
    Ok(())
}

fn answer(sessions: &SessionManager, mut request: Request) {
    let mut body = String::new();
    if request.as_reader().take(64 << 10).read_to_string(&mut body).is_err() {
        return drop(request.respond(Response::empty(400)));
    }
    let mut head = RequestHead::new();
    for header in request.headers() {
        let value = header.value.as_str();
        match header.field.as_str().as_str().to_ascii_lowercase().as_str() {
            "cookie" => head = head.cookie(value),
            "host" => head = head.host(value),
            "x-forwarded-proto" => head = head.secure(value.trim() == "https"),
            _ => {}
        }
    }
    let session = sessions.open(head);
    let sorry = |status: u16| Response::from_string("Sorry.").with_status_code(status);
    let work = || handle(&session, request.method(), request.url(), &body);
    let (page, outcome) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(page)) => (page, Outcome::Completed),
        Ok(Err(error)) => (sorry(sessions.failed(&error)), Outcome::ServerError),
        Err(_) => (sorry(500), Outcome::Panicked),
    };
    let (page, headers) = match sessions.close(&session, outcome) {
        Ok(headers) => (page, headers),
        Err(error) => (sorry(sessions.failed(&error)), sessions.headers_after_failure(&session)),
    };
    let page = headers.iter().fold(page, |page, (name, value)| {
        page.with_header(Header::from_bytes(name, value).expect("headers are plain ASCII"))
    });
    // A client that has gone does not need its answer.
    drop(request.respond(page));
}

fn handle(
    session: &Session,
    method: &Method,
    path: &str,
    body: &str,
) -> Result<Page, cloakroom::Error> {
    let field = |name: &str| form_urlencoded::parse(body.as_bytes()).find(|(key, _)| key == name);
    let field = |name: &str| field(name).map(|(_, value)| value.into_owned()).unwrap_or_default();
    let back = || {
        let home = Header::from_bytes("Location", "/").expect("plain ASCII");
        Response::from_string("").with_status_code(303).with_header(home)
    };
    Ok(match (method, path) {
        (Method::Get, "/") => {
            let html = Header::from_bytes("Content-Type", "text/html; charset=utf-8");
            let html = html.expect("plain ASCII");
            Response::from_string(app::home(session)?).with_header(html)
        }
        (Method::Post, "/sign-in") => {
            app::sign_in(session, &field("user"), &field("password"))?;
            back()
        }
        (Method::Post, "/sign-out") => {
            app::sign_out(session)?;
            back()
        }
        _ => Response::from_string("").with_status_code(StatusCode(404)),
    })
}
