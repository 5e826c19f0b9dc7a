//! The sign-in by an identity provider of docs/identity-providers.md.

use cloakroom::id::IdpSessionId;
use cloakroom::{Authentication, Session, SignIn, UserKey};
use rocket::http::Status;
use rocket::response::Redirect;
use rocket::{State, get, post};
use serde::{Deserialize, Serialize};

/// One attempt to sign in. The session keeps it until the provider answers.
#[derive(Serialize, Deserialize)]
struct Attempt {
    state: String,
    nonce: String,
    pkce_verifier: String,
}

/// What a library of OpenID Connect does. The comments name the functions of `openidconnect` 4.
#[rocket::async_trait]
trait Provider: Send + Sync {
    /// Returns the address of the provider's page (`authorize_url`, `set_pkce_challenge`), and its
    /// random parts.
    fn begin(&self) -> (String, Attempt);

    /// Exchanges the code (`exchange_code`, `set_pkce_verifier`, `request_async`), verifies the ID
    /// token and its nonce (`claims`), and returns the user and the claim `sid`, if there is one.
    async fn finish(&self, code: &str, attempt: &Attempt) -> Option<(UserKey, Option<String>)>;
}

#[post("/sign-in")]
fn begin(session: &Session, provider: &State<Box<dyn Provider>>) -> cloakroom::Result<Redirect> {
    let (url, attempt) = provider.begin();
    session.set("attempt", attempt)?;
    Ok(Redirect::to(url))
}

#[get("/callback?<code>&<state>")]
async fn callback(
    session: &Session,
    provider: &State<Box<dyn Provider>>,
    code: Option<&str>, // none if the user has declined
    state: &str,
) -> cloakroom::Result<Result<Redirect, Status>> {
    let attempt = session.get::<Attempt>("attempt")?.filter(|attempt| attempt.state == state);
    let (Some(code), Some(attempt)) = (code, attempt) else { return Ok(Err(Status::BadRequest)) };
    session.remove("attempt")?;
    let Some((user, sid)) = provider.finish(code, &attempt).await else {
        return Ok(Err(Status::Forbidden));
    };
    let mut authentication = Authentication::new();
    if let Some(sid) = sid {
        authentication = authentication.idp_session_id(IdpSessionId::new(sid)?);
    }
    Ok(match session.sign_in_with(user, &authentication)? {
        SignIn::Done => Ok(Redirect::to("/")),
        _ => Err(Status::Conflict), // only with AtMaximum::Refuse
    })
}

mod checks {
    use std::sync::Mutex;

    use cloakroom::SessionManager;
    use rocket::local::blocking::Client;
    use rocket::routes;

    use super::*;
    use crate::pages::assert_shown;
    use crate::{bare, memory};

    /// Accepts the code `code` once, as a provider does.
    #[derive(Default)]
    struct OneCode(Mutex<bool>);

    #[rocket::async_trait]
    impl Provider for OneCode {
        fn begin(&self) -> (String, Attempt) {
            let [state, nonce, pkce_verifier] = ["state", "nonce", "verifier"].map(String::from);
            let url = "https://idp.example/authorize?response_mode=query".to_owned();
            (url, Attempt { state, nonce, pkce_verifier })
        }

        async fn finish(&self, code: &str, attempt: &Attempt) -> Option<(UserKey, Option<String>)> {
            let secrets = (attempt.nonce.as_str(), attempt.pkce_verifier.as_str());
            if (code, secrets) != ("code", ("nonce", "verifier")) {
                return None;
            }
            let is_used = std::mem::replace(&mut *self.0.lock().unwrap(), true);
            (!is_used).then(|| (UserKey::new("ada").unwrap(), Some("sid".to_owned())))
        }
    }

    #[get("/")]
    fn index(session: &Session) -> cloakroom::Result<String> {
        Ok(session.user()?.map_or("no user".to_owned(), |user| user.to_string()))
    }

    fn client(sessions: &SessionManager) -> Client {
        let provider: Box<dyn Provider> = Box::new(OneCode::default());
        let rocket = bare().attach(sessions.clone()).manage(provider);
        Client::tracked(rocket.mount("/", routes![begin, callback, index])).unwrap()
    }

    /// A navigation that the provider's page starts.
    fn returns(client: &Client, query: &'static str) -> Status {
        let request = client.get(format!("/callback?{query}"));
        let site = rocket::http::Header::new("Sec-Fetch-Site", "cross-site");
        request.header(site).dispatch().status()
    }

    fn user(client: &Client) -> String {
        client.get("/").dispatch().into_string().unwrap()
    }

    #[test]
    fn a_provider_signs_in_and_ends_the_session() {
        let sessions = memory();
        let client = client(&sessions);
        let begun = client.post("/sign-in").dispatch();
        assert!(begun.headers().get_one("Location").unwrap().starts_with("https://idp.example/"));
        drop(begun);
        assert_eq!(returns(&client, "code=code&state=state"), Status::SeeOther);
        assert_eq!(user(&client), "ada");
        let sid = IdpSessionId::new("sid").unwrap();
        assert_eq!(sessions.revoke_by_idp_session(&sid, None).unwrap(), 1);
        assert_eq!(user(&client), "no user");
    }

    #[test]
    fn a_callback_needs_the_state_of_this_browser() {
        let client = client(&memory());
        assert_eq!(returns(&client, "code=code&state=state"), Status::BadRequest);
        client.post("/sign-in").dispatch();
        assert_eq!(returns(&client, "code=code&state=forged"), Status::BadRequest);
        assert_eq!(returns(&client, "error=access_denied&state=state"), Status::BadRequest);
        assert_eq!(returns(&client, "code=forged&state=state"), Status::Forbidden);
        assert_eq!(returns(&client, "code=code&state=state"), Status::BadRequest, "used");
        assert_eq!(user(&client), "no user");
    }

    #[test]
    fn the_page_on_providers_shows_the_tested_callback() {
        assert_shown(
            include_str!("provider.rs"),
            include_str!("../../../docs/identity-providers.md"),
        );
    }
}
