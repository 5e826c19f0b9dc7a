//! The form with a token of docs/forms.md.

use cloakroom::Session;
use cloakroom::csrf::CsrfCheck;
use rocket::form::{Form, FromForm};
use rocket::http::Status;
use rocket::response::Redirect;
use rocket::response::content::RawHtml;
use rocket::{get, post};

#[get("/")]
fn page(session: &Session) -> cloakroom::Result<RawHtml<String>> {
    let csrf = session.csrf_field()?;
    let fields = "<input name=amount><button>Go</button>";
    Ok(RawHtml(format!("<form method=post action=/transfer>{csrf}{fields}</form>")))
}

#[derive(FromForm)]
struct Transfer<'r> {
    csrf: &'r str,
    amount: u32,
}

#[post("/transfer", data = "<form>")]
fn transfer(
    session: &Session,
    form: Form<Transfer<'_>>,
) -> cloakroom::Result<Result<Redirect, Status>> {
    if session.verify_csrf(form.csrf)? == CsrfCheck::Invalid {
        return Ok(Err(Status::Forbidden));
    }
    session.flash("info", format!("You have sent {}.", form.amount))?;
    Ok(Ok(Redirect::to("/")))
}

mod checks {
    use cloakroom::testing::field_of_form;
    use rocket::http::ContentType;
    use rocket::local::blocking::Client;
    use rocket::routes;

    use super::*;
    use crate::pages::assert_shown;
    use crate::{bare, memory};

    #[test]
    fn a_rocket_form_needs_the_token_of_its_page() {
        let rocket = bare().attach(memory()).mount("/", routes![page, transfer]);
        let client = Client::tracked(rocket).unwrap();
        let html = client.get("/").dispatch().into_string().unwrap();
        let token = field_of_form(&html, "csrf").unwrap();
        let send = |form: String| {
            client.post("/transfer").header(ContentType::Form).body(form).dispatch().status()
        };
        assert_eq!(send(format!("csrf={token}&amount=1")), Status::SeeOther);
        assert_eq!(send("csrf=forged&amount=1".to_owned()), Status::Forbidden);
        assert_eq!(send("amount=1".to_owned()), Status::UnprocessableEntity);
    }

    #[test]
    fn the_page_on_forms_shows_the_tested_form() {
        assert_shown(include_str!("form.rs"), include_str!("../../../docs/forms.md"));
    }
}
