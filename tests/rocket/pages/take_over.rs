//! The guard that takes users over of docs/moving.md.

use cloakroom::web::rocket::guard_outcome;
use cloakroom::{Error, Session, SignIn, UserKey};
use rocket::Request;
use rocket::http::{CookieJar, Status};
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};

/// Signs in the user of an old cookie. `former_user` checks the cookie, invalidates it, and returns
/// its user.
fn take_over(
    session: &Session,
    former_user: impl FnOnce() -> Option<String>,
) -> cloakroom::Result<bool> {
    if session.user()?.is_some() {
        return Ok(false);
    }
    let Some(user) = former_user() else { return Ok(false) };
    Ok(session.sign_in(UserKey::new(user)?)? == SignIn::Done)
}

/// The guard of all routes for users.
struct User(UserKey);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for User {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let taken = take_over(session, || former_user(request.cookies()));
        match try_outcome!(guard_outcome(request, taken.and_then(|_| session.user()))) {
            Some(user) => Outcome::Success(User(user)),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

/// An example. The section of each library has this function, or says how to export the users.
fn former_user(jar: &CookieJar<'_>) -> Option<String> {
    let is_valid = jar.get("SID")?.value() == "former";
    jar.remove("SID");
    is_valid.then(|| "ada".to_owned())
}

mod checks {
    use rocket::local::blocking::Client;
    use rocket::{get, routes};

    use super::*;
    use crate::pages::assert_shown;
    use crate::{bare, memory};

    #[get("/")]
    fn index(user: User) -> String {
        user.0.to_string()
    }

    #[test]
    fn the_user_of_an_old_cookie_is_taken_over() {
        let client = Client::tracked(bare().attach(memory()).mount("/", routes![index])).unwrap();
        let status = || client.get("/").dispatch().status();
        assert_eq!(status(), Status::Unauthorized);
        assert_eq!(client.get("/").cookie(("SID", "x")).dispatch().status(), Status::Unauthorized);
        let first = client.get("/").cookie(("SID", "former")).dispatch();
        assert!(first.headers().get("Set-Cookie").any(|set| set.starts_with("SID=;")));
        assert_eq!(first.into_string().as_deref(), Some("ada"));
        assert_eq!(status(), Status::Ok, "by the session");
    }

    #[test]
    fn the_page_on_moving_shows_the_tested_take_over() {
        assert_shown(include_str!("take_over.rs"), include_str!("../../../docs/moving.md"));
    }
}
