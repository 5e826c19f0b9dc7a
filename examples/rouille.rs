//! A small application on rouille: visits are counted, users sign in and out.
//!
//! `cargo run --release --features rouille --example rouille`, then open the address it prints.
//! `CLOAKROOM_ADDR` and `CLOAKROOM_DB` choose another address and another database file; all
//! settings are listed in `app/mod.rs`.

mod app;

use std::error::Error;

use cloakroom::{SessionManager, web};
use rouille::{Request, Response, Server, post_input, router};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let sessions = app::sessions()?;

    let handler = {
        let sessions = sessions.clone();
        move |request: &Request| handle(&sessions, request)
    };
    let server = Server::new(app::address(), handler)?;
    println!("listening on http://{}", server.server_addr());
    let (serving, stop) = server.stoppable();
    ctrlc::set_handler(move || {
        // An error means that it has stopped already.
        let _ = stop.send(());
    })?;
    let _ = serving.join();

    // Activity that is still pending would be written anyway when the last manager is dropped;
    // here a failure is seen.
    sessions.flush()?;
    println!("stopped");
    Ok(())
}

fn handle(sessions: &SessionManager, request: &Request) -> Response {
    web::rouille::session(sessions, request, |session| {
        Ok(router!(request,
            (GET) ["/"] => { Response::html(app::home(session)?) },
            (POST) ["/sign-in"] => {
                match post_input!(request, { user: String, password: String }) {
                    Ok(form) => {
                        app::sign_in(session, &form.user, &form.password)?;
                        Response::redirect_303("/")
                    }
                    // An error that is returned is a 500; this one is the client's.
                    Err(_) => Response::empty_400(),
                }
            },
            (POST) ["/sign-out"] => {
                app::sign_out(session)?;
                Response::redirect_303("/")
            },
            _ => Response::empty_404()
        ))
    })
}
