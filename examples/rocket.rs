//! The application of `examples/rouille.rs` on Rocket: visits are counted, users sign in and out.
//!
//! `cargo run --release --features rocket --example rocket`, then open the address it prints.
//! `examples/app/mod.rs` lists its settings.

mod app;

use std::error::Error;
use std::net::SocketAddr;

use cloakroom::Session;
use rocket::fairing::AdHoc;
use rocket::form::{Form, FromForm};
use rocket::http::Status;
use rocket::response::Redirect;
use rocket::response::content::RawHtml;
use rocket::{Config, get, post, routes};

#[rocket::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    env_logger::init();
    let sessions = app::sessions()?;

    let address: SocketAddr = app::address().parse()?;
    let config = Config { address: address.ip(), port: address.port(), ..Config::default() };
    rocket::custom(config)
        .attach(sessions.clone())
        .attach(AdHoc::on_liftoff("say where", |rocket| {
            let (ip, port) = (rocket.config().address, rocket.config().port);
            Box::pin(async move { println!("listening on http://{}", SocketAddr::new(ip, port)) })
        }))
        .mount("/", routes![home, sign_in, sign_out])
        .launch()
        .await?;

    // Activity that is still pending would be written anyway when the last manager is dropped;
    // here a failure is seen.
    sessions.flush()?;
    println!("stopped");
    Ok(())
}

#[get("/")]
fn home(session: &Session) -> cloakroom::Result<RawHtml<String>> {
    Ok(RawHtml(app::home(session)?))
}

#[derive(FromForm)]
struct Credentials {
    user: String,
    password: String,
}

#[post("/sign-in", data = "<form>")]
fn sign_in(
    session: &Session,
    form: Option<Form<Credentials>>,
) -> cloakroom::Result<Result<Redirect, Status>> {
    let Some(form) = form else { return Ok(Err(Status::BadRequest)) };
    app::sign_in(session, &form.user, &form.password)?;
    Ok(Ok(Redirect::to("/")))
}

#[post("/sign-out")]
fn sign_out(session: &Session) -> cloakroom::Result<Redirect> {
    app::sign_out(session)?;
    Ok(Redirect::to("/"))
}
