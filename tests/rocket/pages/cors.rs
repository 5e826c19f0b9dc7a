//! The API for scripts of another origin of docs/forms.md.

use cloakroom::{CrossOrigin, MemoryStore, Session, SessionManager};
use rocket::fairing::AdHoc;
use rocket::http::Status;
use rocket::{Build, Response, Rocket, options, post, routes};

const SCRIPTS: &str = "https://app.example.org";

fn api() -> cloakroom::Result<Rocket<Build>> {
    let trusted = CrossOrigin::refuse().trust(SCRIPTS);
    let sessions = SessionManager::builder(MemoryStore::new()).cross_origin(trusted).build()?;
    let cors = AdHoc::on_response("CORS", |_, response| Box::pin(async { allow(response) }));
    // The fairing comes after the manager, so that error responses have the fields too.
    Ok(rocket::build().attach(sessions).attach(cors).mount("/", routes![preflight, count]))
}

fn allow(response: &mut Response<'_>) {
    for (name, value) in [
        ("Access-Control-Allow-Origin", SCRIPTS),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE"),
        ("Access-Control-Allow-Headers", "Content-Type"),
    ] {
        response.set_raw_header(name, value);
    }
}

#[options("/<_..>")]
fn preflight() -> Status {
    Status::NoContent
}

#[post("/count")]
fn count(session: &Session) -> cloakroom::Result<String> {
    let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
    Ok(visits.to_string())
}

mod checks {
    use rocket::http::{Header, Method};

    use super::*;
    use crate::client;
    use crate::pages::assert_shown;

    #[test]
    fn scripts_of_the_trusted_origin_may_call_the_api() {
        let client = client(api().unwrap());
        let send = |method, origin: &'static str| {
            let request = client.req(method, "/count").header(Header::new("Origin", origin));
            let response = request.header(Header::new("Sec-Fetch-Site", "same-site")).dispatch();
            let allowed = response.headers().get_one("Access-Control-Allow-Origin");
            (response.status(), allowed.map(str::to_owned))
        };
        let allowed = Some(SCRIPTS.to_owned());
        assert_eq!(send(Method::Options, SCRIPTS), (Status::NoContent, allowed.clone()));
        assert_eq!(send(Method::Post, SCRIPTS), (Status::Ok, allowed));
        assert_eq!(send(Method::Post, "https://www.example.org").0, Status::Forbidden);
    }

    #[test]
    fn the_page_on_forms_shows_the_tested_api() {
        assert_shown(include_str!("cors.rs"), include_str!("../../../docs/forms.md"));
    }
}
