//! The guard of docs/signing-in.md.

use cloakroom::web::rocket::guard_outcome;
use cloakroom::{Error, Session, UserKey};
use rocket::Request;
use rocket::http::Status;
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::response::Redirect;
use rocket::{catch, get};

struct SessionUser(UserKey);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for SessionUser {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        match try_outcome!(guard_outcome(request, session.user())) {
            Some(user) => Outcome::Success(SessionUser(user)),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

#[get("/account")]
fn account(user: SessionUser) -> String {
    format!("the account of {}", user.0)
}

#[catch(401)]
fn sign_in_first() -> Redirect {
    Redirect::to("/sign-in")
}

mod checks {
    use cloakroom::testing::signed_in;
    use rocket::{catchers, routes};

    use super::*;
    use crate::pages::assert_shown;
    use crate::{bare, client, cookie, memory};

    #[test]
    fn without_a_user_a_guard_leads_to_the_sign_in() {
        let sessions = memory();
        let ada = signed_in(&sessions, UserKey::new("ada").unwrap()).unwrap();
        let rocket = bare().attach(sessions).mount("/", routes![account]);
        let client = client(rocket.register("/", catchers![sign_in_first]));
        let response = client.get("/account").dispatch();
        assert_eq!(response.status(), Status::SeeOther);
        assert_eq!(response.headers().get_one("Location"), Some("/sign-in"));
        let response = client.get("/account").header(cookie(&ada)).dispatch();
        assert_eq!(response.into_string().as_deref(), Some("the account of ada"));
    }

    #[test]
    fn the_page_on_signing_in_shows_the_tested_guard() {
        assert_shown(include_str!("guard.rs"), include_str!("../../../docs/signing-in.md"));
    }
}
