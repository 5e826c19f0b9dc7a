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

use app::Answer;
use cloakroom::http::Outcome;
use cloakroom::{Session, SessionManager};
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

type Page = Response<std::io::Cursor<Vec<u8>>>;

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
    let headers = request.headers().iter();
    let head = sessions.head(headers.map(|h| (h.field.as_str().as_str(), h.value.as_str())));
    let head = match request.remote_addr() {
        Some(address) => head.peer(address.ip()),
        None => head,
    };
    let session = sessions.open(head);
    let sorry = |status: u16| Response::from_string("Sorry.").with_status_code(status);
    let work = || handle(sessions, &session, request.method(), request.url(), &body);
    let (page, outcome) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(page)) => (page, Outcome::Completed),
        Ok(Err(error)) => (sorry(sessions.failed(&error)), Outcome::ServerError),
        Err(_) => (sorry(500), Outcome::Panicked),
    };
    let (page, headers) = match sessions.close(&session, outcome) {
        Ok(headers) => (page, headers),
        Err(error) => (sorry(sessions.failed(&error)), sessions.headers_on_error(&session)),
    };
    let page = headers.iter().fold(page, |page, (name, value)| {
        page.with_header(Header::from_bytes(name, value).expect("headers are plain ASCII"))
    });
    // A client that has gone does not need its answer.
    drop(request.respond(page));
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
        _ => return Ok(Response::from_string("").with_status_code(StatusCode(404))),
    };
    let header = |name, value| Header::from_bytes(name, value).expect("plain ASCII");
    Ok(match answer {
        Answer::Page(html) => Response::from_string(html)
            .with_header(header("Content-Type", "text/html; charset=utf-8")),
        Answer::See(path) => {
            Response::from_string("").with_status_code(303).with_header(header("Location", path))
        }
        Answer::Forbidden => Response::from_string("This form has expired.").with_status_code(403),
    })
}
