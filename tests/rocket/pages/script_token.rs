//! The token of a script of docs/forms.md.

use cloakroom::csrf::CsrfCheck;
use cloakroom::web::rocket::guard_outcome;
use cloakroom::{Error, Session};
use rocket::http::Status;
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::response::content::RawHtml;
use rocket::{Request, get, post};

#[get("/")]
fn page(session: &Session) -> cloakroom::Result<RawHtml<String>> {
    let token = session.csrf_token()?;
    let script = "fetch('/theme', { method: 'POST', headers: {
        'X-CSRF-Token': document.querySelector('meta[name=csrf]').content } })";
    Ok(RawHtml(format!("<meta name=csrf content={token}><script>{script}</script>")))
}

/// The guard of a route that needs the token.
struct HasToken;

#[rocket::async_trait]
impl<'r> FromRequest<'r> for HasToken {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let token = request.headers().get_one("X-CSRF-Token").unwrap_or("");
        match try_outcome!(guard_outcome(request, session.verify_csrf(token))) {
            CsrfCheck::Valid => Outcome::Success(HasToken),
            CsrfCheck::Invalid => Outcome::Forward(Status::Forbidden),
        }
    }
}

#[post("/theme")]
fn set_theme(session: &Session, _token: HasToken) -> cloakroom::Result<Status> {
    session.set("theme", "dark")?;
    Ok(Status::NoContent)
}

mod checks {
    use rocket::http::Header;
    use rocket::local::blocking::Client;
    use rocket::routes;

    use super::*;
    use crate::pages::assert_shown;
    use crate::{bare, memory};

    #[test]
    fn a_script_needs_the_token_of_its_page() {
        let rocket = bare().attach(memory()).mount("/", routes![page, set_theme]);
        let client = Client::tracked(rocket).unwrap();
        let html = client.get("/").dispatch().into_string().unwrap();
        let token = html.split("content=").nth(1).unwrap().split('>').next().unwrap().to_owned();
        let send = |token: String| {
            client.post("/theme").header(Header::new("X-CSRF-Token", token)).dispatch().status()
        };
        assert_eq!(send(token), Status::NoContent);
        assert_eq!(send("forged".to_owned()), Status::Forbidden);
        assert_eq!(client.post("/theme").dispatch().status(), Status::Forbidden);
    }

    #[test]
    fn the_page_on_forms_shows_the_tested_script() {
        assert_shown(include_str!("script_token.rs"), include_str!("../../../docs/forms.md"));
    }
}
