//! The same application on tiny_http, with an adapter written by hand: `answer` translates the
//! request, and `Page` the response.
//!
//! `cargo run --release --example tiny_http`

mod app;

use std::error::Error;
use std::io::{self, Read};
use std::sync::Arc;
use std::thread;

use app::Answer;
use cloakroom::cross_origin::REFUSED;
use cloakroom::http::{self, Adapter};
use cloakroom::{Session, SessionManager};
use tiny_http::{Header, Method, Request, Response, Server};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let sessions = app::sessions("tiny-http")?;
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
                    // A client that has disconnected does not need its response.
                    drop(answer(&sessions, request));
                }
            });
        }
    });
    sessions.flush()?;
    println!("stopped");
    Ok(())
}

fn answer(sessions: &SessionManager, mut request: Request) -> io::Result<()> {
    let mut body = String::new();
    if request.as_reader().take(64 << 10).read_to_string(&mut body).is_err() {
        return request.respond(Response::empty(400));
    }
    let adapter = Adapter::new(sessions);
    let headers = request.headers().iter();
    let headers = headers.map(|h| (h.field.as_str().as_str(), h.value.as_str()));
    let head = adapter.head(request.method().as_str(), request.url(), headers);
    let head = match request.remote_addr() {
        Some(address) => head.peer_addr(address.ip()),
        None => head,
    };
    let handler =
        |session: &Session| Ok(handle(sessions, session, request.method(), request.url(), &body)?);
    let error_page = |status| match status {
        403 => Page::new(status, REFUSED),
        _ => Page::new(status, "Sorry."),
    };
    let page = adapter.run(head, handler, error_page);
    request.respond(page.0)
}

fn handle(
    sessions: &SessionManager,
    session: &Session,
    method: &Method,
    path: &str,
    body: &str,
) -> Result<Page, cloakroom::Error> {
    let field = |name: &str| form_urlencoded::parse(body.as_bytes()).find(|(key, _)| key == name);
    let field = |name: &str| field(name).map(|(_, value)| value.into_owned()).unwrap_or_default();
    let answer = match (method, path) {
        (Method::Get, "/") => app::home(session)?,
        (Method::Post, "/sign-in") => {
            app::sign_in(session, &field("csrf"), &field("user"), &field("password"))?
        }
        (Method::Post, "/sign-out") => app::sign_out(session, &field("csrf"))?,
        (Method::Get, "/sessions") => app::list(sessions, session)?,
        (Method::Post, "/sessions/revoke") => {
            app::revoke(sessions, session, &field("csrf"), &field("public_id"))?
        }
        (Method::Post, "/sessions/revoke-others") => {
            app::revoke_others(sessions, session, &field("csrf"))?
        }
        _ => return Ok(Page::new(404, "")),
    };
    Ok(match answer {
        Answer::Page(html) => Page::new(200, html).with("Content-Type", "text/html; charset=utf-8"),
        Answer::See(path) => Page::new(303, "").with("Location", path),
        Answer::Forbidden => Page::new(403, "This form has expired."),
    })
}

/// A response of tiny_http in a type of this program, for which it can implement the trait.
struct Page(Response<io::Cursor<Vec<u8>>>);

impl http::Response for Page {
    fn status_code(&self) -> u16 {
        self.0.status_code().0
    }

    fn append_header(&mut self, name: &str, value: &str) {
        self.0.add_header(Header::from_bytes(name, value).expect("headers are plain ASCII"));
    }
}

impl Page {
    fn new(status: u16, body: impl Into<String>) -> Self {
        Page(Response::from_string(body).with_status_code(status))
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        http::Response::append_header(&mut self, name, value);
        self
    }
}
