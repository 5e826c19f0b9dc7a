//! The sessions of browsers and of programs of docs/api-clients.md.

use cloakroom::web::rocket::{SessionOf, Sessions};
use cloakroom::{Session, SessionManager, SignIn, SqliteStore, UserKey};
use rocket::http::Status;
use rocket::{Build, Rocket, get, post, routes};

/// Marks the sessions of programs.
struct Api;

fn app(store: SqliteStore) -> cloakroom::Result<Rocket<Build>> {
    let browsers = SessionManager::builder(store.clone()).realm("shop").build()?;
    let programs = SessionManager::builder(store).realm("shop").header("X-Session-Id").build()?;
    let rocket = rocket::build().attach(browsers).attach(Sessions::<Api>::of(programs));
    Ok(rocket.mount("/", routes![home]).mount("/api", routes![sign_in, me, sign_out]))
}

#[get("/")]
fn home(session: &Session) -> cloakroom::Result<String> {
    let user = session.user()?;
    Ok(user.map_or("no user\n".to_owned(), |user| format!("{user}\n")))
}

/// Call it after a check of the password.
#[post("/sign-in")]
fn sign_in(session: SessionOf<'_, Api>) -> cloakroom::Result<Result<String, Status>> {
    Ok(match session.sign_in(UserKey::new("ada")?)? {
        SignIn::Done => Ok("signed in\n".to_owned()),
        _ => Err(Status::Conflict), // only with AtMaximum::Refuse
    })
}

#[get("/me")]
fn me(session: SessionOf<'_, Api>) -> cloakroom::Result<String> {
    home(&session)
}

#[post("/sign-out")]
fn sign_out(session: SessionOf<'_, Api>) -> cloakroom::Result<Status> {
    session.destroy()?;
    Ok(Status::NoContent)
}

mod checks {
    use rocket::http::Header;

    use super::*;
    use crate::client;
    use crate::pages::assert_shown;

    #[test]
    fn programs_send_the_id_in_a_header() {
        let store = SqliteStore::in_memory().unwrap();
        let client = client(app(store).unwrap());
        let response = client.post("/api/sign-in").dispatch();
        assert_eq!(response.headers().get_one("Set-Cookie"), None);
        let id = response.headers().get_one("X-Session-Id").unwrap().to_owned();
        let id = || Header::new("X-Session-Id", id.clone());
        let text = |path| client.get(path).header(id()).dispatch().into_string().unwrap();
        assert_eq!((text("/api/me"), text("/")), ("ada\n".to_owned(), "no user\n".to_owned()));
        let status = client.post("/api/sign-out").header(id()).dispatch().status();
        assert_eq!((status, text("/api/me")), (Status::NoContent, "no user\n".to_owned()));
    }

    #[test]
    fn a_manager_of_browsers_checks_the_origin_of_all_paths() {
        let client = client(app(SqliteStore::in_memory().unwrap()).unwrap());
        let site = Header::new("Sec-Fetch-Site", "cross-site");
        let response = client.post("/api/sign-in").header(site).dispatch();
        assert_eq!(response.status(), Status::Forbidden);
    }

    #[test]
    fn the_page_on_api_clients_shows_the_tested_program() {
        assert_shown(include_str!("programs.rs"), include_str!("../../../docs/api-clients.md"));
    }
}
