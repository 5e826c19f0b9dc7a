//! The same application on tiny_http, for which there is no adapter: `open` and `close` are all
//! that a server needs. The glue is in `answer`.
//!
//! `cargo run --release --example tiny_http`

mod app;

use std::error::Error;
use std::sync::Arc;
use std::thread;

use cloakroom::http::{Outcome, RequestHead};
use cloakroom::{Session, SessionManager, SqliteStore};
use tiny_http::{Header, Method, Request, Response, Server, StatusCode};

type Page = Response<std::io::Cursor<Vec<u8>>>;

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let sessions = SessionManager::new(SqliteStore::open(app::database())?)?;
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
    let readable = request.as_reader().read_to_string(&mut body).is_ok();
    let mut head = RequestHead::new();
    for header in request.headers() {
        match header.field.as_str().as_str().to_ascii_lowercase().as_str() {
            "cookie" => head = head.cookie(header.value.as_str()),
            "host" => head = head.host(header.value.as_str()),
            _ => {}
        }
    }
    let session = sessions.open(head);
    let page = match handle(&session, request.method(), request.url(), &body) {
        Ok(page) if readable => page,
        Ok(_) => Response::from_string("").with_status_code(400),
        Err(error) => Response::from_string("Sorry.").with_status_code(sessions.failed(&error)),
    };
    let page = match sessions.close(&session, Outcome::of_status(page.status_code().0)) {
        Ok(headers) => headers.iter().fold(page, |page, (name, value)| {
            page.with_header(Header::from_bytes(name, value).expect("headers are plain ASCII"))
        }),
        Err(error) => Response::from_string("Sorry.").with_status_code(sessions.failed(&error)),
    };
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
