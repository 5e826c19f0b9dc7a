//! The attempt that a cookie keeps for `form_post`, of docs/identity-providers.md.

use cloakroom::Session;
use rocket::FromForm;
use rocket::http::{Cookie, CookieJar, SameSite};
use rocket::time::Duration;
use serde::{Deserialize, Serialize};

/// The form that the provider sends.
#[derive(FromForm)]
struct Answer<'r> {
    code: Option<&'r str>,
    state: &'r str,
}

#[derive(Serialize, Deserialize)]
struct Attempt {
    state: String,
    nonce: String,
    pkce_verifier: String,
}

fn attempt_cookie(attempt: String) -> Cookie<'static> {
    let cookie = Cookie::build(("__Host-attempt", attempt)).path("/").secure(true).http_only(true);
    cookie.same_site(SameSite::None).max_age(Duration::minutes(10)).build()
}

/// For `begin`, in place of `session.set`.
fn keep(jar: &CookieJar<'_>, attempt: &Attempt) {
    jar.add(attempt_cookie(serde_json::json!(attempt).to_string()));
}

/// For `callback`, in place of `session.get` and `session.remove`.
fn take(session: &Session, jar: &CookieJar<'_>, state: &str) -> cloakroom::Result<Option<Attempt>> {
    let kept = jar.get("__Host-attempt").and_then(|kept| serde_json::from_str(kept.value()).ok());
    let Some(attempt) = kept.filter(|attempt: &Attempt| attempt.state == state) else {
        return Ok(None);
    };
    jar.remove(attempt_cookie(String::new()));
    session.allow_cross_origin()?; // the state proves that this browser began the attempt
    Ok(Some(attempt))
}

mod checks {
    use cloakroom::{CrossOrigin, MemoryStore, SessionManager, SignIn, UserKey};
    use rocket::form::Form;
    use rocket::http::{ContentType, Header, Status};
    use rocket::local::blocking::Client;
    use rocket::{get, post, routes};

    use super::*;
    use crate::bare;
    use crate::pages::assert_shown;

    #[post("/sign-in")]
    fn begin(jar: &CookieJar<'_>) {
        let [state, nonce, pkce_verifier] = ["state", "nonce", "verifier"].map(String::from);
        keep(jar, &Attempt { state, nonce, pkce_verifier });
    }

    #[post("/callback", data = "<form>")]
    fn callback(
        session: &Session,
        jar: &CookieJar<'_>,
        form: Form<Answer<'_>>,
    ) -> cloakroom::Result<Status> {
        let attempt = take(session, jar, form.state)?;
        let (Some("code"), Some(attempt)) = (form.code, attempt) else {
            return Ok(Status::BadRequest);
        };
        assert_eq!((&*attempt.nonce, &*attempt.pkce_verifier), ("nonce", "verifier"));
        assert_eq!(session.sign_in(UserKey::new("ada")?)?, SignIn::Done);
        Ok(Status::Ok)
    }

    #[post("/forgets")]
    fn forgets_to_allow(session: &Session) -> cloakroom::Result<()> {
        session.sign_in(UserKey::new("ada")?).map(drop)
    }

    #[get("/")]
    fn index(session: &Session) -> cloakroom::Result<String> {
        Ok(session.user()?.map_or("no user".to_owned(), |user| user.to_string()))
    }

    fn client() -> Client {
        let exempt = CrossOrigin::refuse().exempt("/callback").exempt("/forgets");
        let manager = SessionManager::builder(MemoryStore::new()).cross_origin(exempt);
        let rocket = bare().attach(manager.build().unwrap());
        let routes = routes![begin, callback, forgets_to_allow, index];
        Client::tracked(rocket.mount("/", routes)).unwrap()
    }

    /// The form of the provider's page, and what the response does to the cookie of the attempt.
    fn posts(client: &Client, path: &'static str, form: &str) -> (Status, Option<String>) {
        let request = client.post(path).header(ContentType::Form).body(form);
        let response = request.header(Header::new("Sec-Fetch-Site", "cross-site")).dispatch();
        let mut set = response.headers().get("Set-Cookie");
        let attempt = set.find(|set| set.starts_with("__Host-attempt")).map(str::to_owned);
        (response.status(), attempt)
    }

    #[test]
    fn a_form_of_the_provider_signs_in_by_the_kept_attempt() {
        let client = client();
        let begun = client.post("/sign-in").dispatch();
        let set = begun.headers().get_one("Set-Cookie").unwrap().to_owned();
        for attribute in ["; HttpOnly", "; SameSite=None", "; Secure", "; Path=/", "; Max-Age=600"]
        {
            assert!(set.contains(attribute), "{set}");
        }
        drop(begun);
        assert_eq!(posts(&client, "/callback", "code=code&state=x"), (Status::BadRequest, None));
        assert_eq!(posts(&client, "/forgets", ""), (Status::Forbidden, None));
        let (status, attempt) = posts(&client, "/callback", "code=code&state=state");
        assert_eq!(status, Status::Ok);
        let attempt = attempt.unwrap();
        assert!(attempt.contains("; Max-Age=0") && attempt.contains("; Secure"), "{attempt}");
        assert_eq!(client.get("/").dispatch().into_string().unwrap(), "ada");
        let again = posts(&client, "/callback", "code=code&state=state");
        assert_eq!(again, (Status::BadRequest, None), "used");
    }

    #[test]
    fn the_page_on_providers_shows_the_tested_cookie() {
        assert_shown(
            include_str!("provider_form.rs"),
            include_str!("../../../docs/identity-providers.md"),
        );
    }
}
