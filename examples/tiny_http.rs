//! The same application on tiny_http.
//!
//! `cargo run --release --features tiny_http --example tiny_http`

mod app;

use std::error::Error;
use std::io::Read;
use std::sync::Arc;
use std::thread;

use app::Answer;
use cloakroom::adapter::HandlerError;
use cloakroom::web::tiny_http::{self as web, Result};
use cloakroom::{Session, SessionManager};
use tiny_http::{Header, Method, Request, Response, ResponseBox};

/// More than the 65 that one visitor can occupy while the store does not answer; see
/// docs/servers.md.
const THREADS: usize = 128;

fn main() -> std::result::Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let sessions = app::sessions("tiny_http")?;
    let server = Arc::new(web::listen(app::address())?);
    println!("listening on http://{}", server.server_addr());
    {
        let server = server.clone();
        ctrlc::set_handler(move || (0..THREADS).for_each(|_| server.unblock()))?;
    }
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Ok(mut request) = server.recv() {
                    let response = web::session(&sessions, &mut request, |session, request| {
                        handle(&sessions, session, request)
                    });
                    // A client that has disconnected does not need its response.
                    let _ = request.respond(response);
                }
            });
        }
    });
    sessions.flush()?;
    println!("stopped");
    Ok(())
}

fn handle(sessions: &SessionManager, session: &Session, request: &mut Request) -> Result {
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    let answer = match (request.method(), path.as_str()) {
        (Method::Get, "/") => app::home(session)?,
        (Method::Post, "/sign-in") => {
            let [user, password] = fields(request, ["user", "password"])?;
            app::sign_in(session, &user, &password)?
        }
        (Method::Post, "/sign-out") => app::sign_out(session)?,
        (Method::Get, "/sessions") => app::list(sessions, session)?,
        (Method::Post, "/sessions/revoke") => {
            let [public_id] = fields(request, ["public_id"])?;
            app::revoke(sessions, session, &public_id)?
        }
        (Method::Post, "/sessions/revoke-others") => app::revoke_others(sessions, session)?,
        _ => return Ok(Response::empty(404).boxed()),
    };
    Ok(match answer {
        Answer::Page(html) => {
            page(200, html).with_header(header("Content-Type", "text/html; charset=utf-8"))
        }
        Answer::See(path) => page(303, "").with_header(header("Location", path)),
    })
}

/// The fields of a form. A body that is not text is answered with 400, a missing field is empty.
fn fields<const N: usize>(request: &mut Request, names: [&str; N]) -> Result<[String; N]> {
    let mut body = String::new();
    let read = request.as_reader().take(64 << 10).read_to_string(&mut body);
    read.map_err(|_| HandlerError::response(page(400, "")))?;
    let value = |name: &str| form_urlencoded::parse(body.as_bytes()).find(|(key, _)| key == name);
    Ok(names.map(|name| value(name).map(|(_, value)| value.into_owned()).unwrap_or_default()))
}

fn page(status: u16, body: impl Into<String>) -> ResponseBox {
    Response::from_string(body).with_status_code(status).boxed()
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("these headers are ASCII")
}
