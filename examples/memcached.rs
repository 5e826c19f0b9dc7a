//! Processes that share their sessions through memcached: sign in at one, and the other knows you.
//!
//! `cargo run --release --features rouille,memcached --example memcached`, twice, the second time
//! with `CLOAKROOM_ADDR=127.0.0.1:8001`; then open both addresses. `CLOAKROOM_MEMCACHED` names the
//! servers, separated by commas; without it that is `127.0.0.1:11211`.

mod app;

use std::env;
use std::error::Error;

use cloakroom::store::memcached::MemcachedStore;
use cloakroom::{SessionManager, web};
use rouille::{Request, Response, Server, post_input, router};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let servers = env::var("CLOAKROOM_MEMCACHED").unwrap_or_else(|_| "127.0.0.1:11211".to_owned());
    let servers = servers.split(',').map(str::trim);
    let sessions = SessionManager::new(MemcachedStore::builder().servers(servers).open()?)?;

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
