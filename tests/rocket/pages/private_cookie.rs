//! The move from a private cookie of docs/moving.md.

use cloakroom::{Session, SignIn, UserKey};
use rocket::http::{Cookie, CookieJar};

/// Returns the user of the session, or of `former`, the private cookie of before.
fn signed_in(
    session: &Session,
    jar: &CookieJar<'_>,
    former: Option<Cookie<'_>>,
) -> cloakroom::Result<Option<UserKey>> {
    if let Some(user) = session.user()? {
        return Ok(Some(user));
    }
    let Some(cookie) = former else { return Ok(None) };
    jar.remove("user_id"); // as `remove_private` does
    let user = UserKey::new(cookie.value())?;
    let is_done = session.sign_in(user.clone())? == SignIn::Done;
    Ok(is_done.then_some(user))
}

mod checks {
    use rocket::local::blocking::Client;
    use rocket::{get, routes};

    use super::*;
    use crate::pages::assert_shown;
    use crate::{bare, memory};

    /// In place of `get_private`, which needs Rocket's feature `secrets`.
    #[get("/")]
    fn index(session: &Session, jar: &CookieJar<'_>) -> cloakroom::Result<String> {
        let user = signed_in(session, jar, jar.get("user_id").cloned())?;
        Ok(user.map_or("no user".to_owned(), |user| user.to_string()))
    }

    #[test]
    fn the_user_of_a_private_cookie_is_signed_in_once() {
        let client = Client::tracked(bare().attach(memory()).mount("/", routes![index])).unwrap();
        let page = || client.get("/").dispatch().into_string().unwrap();
        let first = client.get("/").cookie(("user_id", "ada")).dispatch();
        assert!(first.headers().get("Set-Cookie").any(|set| set.starts_with("user_id=;")));
        assert_eq!(first.into_string().unwrap(), "ada");
        assert_eq!(page(), "ada", "by the session");
        client.cookies().iter().for_each(|cookie| assert_ne!(cookie.name(), "user_id"));
    }

    #[test]
    fn the_page_on_moving_shows_the_tested_function() {
        assert_shown(include_str!("private_cookie.rs"), include_str!("../../../docs/moving.md"));
    }
}
