//! A small application on rouille: it counts visits, and users sign in and out.
//!
//! `cargo run --release --features rouille --example rouille`, then open the address it prints.
//! `CLOAKROOM_ADDR` and `CLOAKROOM_DB` choose another address and another database file; all
//! settings are listed in `app/mod.rs`.

mod app;

use std::error::Error;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use app::Answer;
use cloakroom::SessionManager;
use cloakroom::web::rouille::{bad_request, session};
use rouille::{Request, Response, Server, post_input, router};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    serve(app::sessions("rouille")?)
}

/// Serves until a signal stops it.
pub(crate) fn serve(sessions: SessionManager) -> Result<(), Box<dyn Error + Send + Sync>> {
    let handler = {
        let sessions = sessions.clone();
        move |request: &Request| handle(&sessions, request)
    };
    let server = Arc::new(Server::new(app::address(), handler)?);
    println!("listening on http://{}", server.server_addr());
    let (signal, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        // An error means that it is stopping already.
        let _ = signal.send(());
    })?;
    let accepting = server.clone();
    thread::spawn(move || {
        loop {
            accepting.poll_timeout(Duration::from_secs(60));
        }
    });
    stopped.recv()?;
    println!("stopping");
    // Requests that were begun are answered; `Server::stoppable` would cut them off.
    server.join();

    // Dropping the last manager writes pending activity too, but returns no error.
    sessions.flush()?;
    println!("stopped");
    Ok(())
}

fn handle(sessions: &SessionManager, request: &Request) -> Response {
    session(sessions, request, |session| {
        // A returned error is a 500; a form without a field is an error of the client.
        macro_rules! form {
            ($($field:ident),*) => {
                post_input!(request, { $($field: String),* }).map_err(bad_request)?
            };
        }
        let answer = router!(request,
            (GET) ["/"] => { app::home(session)? },
            (POST) ["/sign-in"] => {
                let form = form!(user, password);
                app::sign_in(session, &form.user, &form.password)?
            },
            (POST) ["/sign-out"] => { app::sign_out(session)? },
            (GET) ["/sessions"] => { app::list(sessions, session)? },
            (POST) ["/sessions/revoke"] => {
                app::revoke(sessions, session, &form!(public_id).public_id)?
            },
            (POST) ["/sessions/revoke-others"] => { app::revoke_others(sessions, session)? },
            _ => return Ok(Response::empty_404())
        );
        Ok(match answer {
            Answer::Page(html) => Response::html(html),
            Answer::See(path) => Response::redirect_303(path),
        })
    })
}
