//! The application of `examples/rouille.rs` on Rocket: it counts visits, and users sign in and out.
//!
//! `cargo run --release --features rocket --example rocket`, then open the address it prints.
//! `examples/app/mod.rs` lists its settings.

mod app;

use std::error::Error;
use std::net::SocketAddr;

use app::Answer;
use cloakroom::{Session, SessionManager};
use rocket::fairing::AdHoc;
use rocket::form::{Form, FromForm};
use rocket::response::content::RawHtml;
use rocket::response::{self, Redirect, Responder};
use rocket::{Config, Request, get, post, routes};

#[rocket::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let sessions = app::sessions("rocket")?;

    let address: SocketAddr = app::address().parse()?;
    let config = Config { address: address.ip(), port: address.port(), ..Config::default() };
    rocket::custom(config)
        .attach(sessions.clone())
        .attach(AdHoc::on_liftoff("print the address", |rocket| {
            let (ip, port) = (rocket.config().address, rocket.config().port);
            Box::pin(async move { println!("listening on http://{}", SocketAddr::new(ip, port)) })
        }))
        .mount("/", routes![home, sign_in, sign_out, list, revoke, revoke_others])
        .launch()
        .await?;

    // Dropping the last manager writes pending activity too, but returns no error.
    sessions.flush()?;
    println!("stopped");
    Ok(())
}

impl<'r> Responder<'r, 'static> for Answer {
    fn respond_to(self, request: &'r Request<'_>) -> response::Result<'static> {
        match self {
            Answer::Page(html) => RawHtml(html).respond_to(request),
            Answer::See(path) => Redirect::to(path).respond_to(request),
        }
    }
}

#[get("/")]
fn home(session: &Session) -> cloakroom::Result<Answer> {
    app::home(session)
}

#[derive(FromForm)]
struct Credentials<'r> {
    user: &'r str,
    password: &'r str,
}

#[post("/sign-in", data = "<form>")]
fn sign_in(session: &Session, form: Form<Credentials<'_>>) -> cloakroom::Result<Answer> {
    app::sign_in(session, form.user, form.password)
}

#[post("/sign-out")]
fn sign_out(session: &Session) -> cloakroom::Result<Answer> {
    app::sign_out(session)
}

#[get("/sessions")]
fn list(sessions: &SessionManager, session: &Session) -> cloakroom::Result<Answer> {
    app::list(sessions, session)
}

#[derive(FromForm)]
struct Named<'r> {
    public_id: &'r str,
}

#[post("/sessions/revoke", data = "<form>")]
fn revoke(
    sessions: &SessionManager,
    session: &Session,
    form: Form<Named<'_>>,
) -> cloakroom::Result<Answer> {
    app::revoke(sessions, session, form.public_id)
}

#[post("/sessions/revoke-others")]
fn revoke_others(sessions: &SessionManager, session: &Session) -> cloakroom::Result<Answer> {
    app::revoke_others(sessions, session)
}
