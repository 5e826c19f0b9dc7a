//! The move from a private cookie of docs/moving.md.

use rocket::http::{Cookie, CookieJar};

/// `former` is `jar.get_private("user_id")`.
fn former_user(jar: &CookieJar<'_>, former: Option<Cookie<'_>>) -> Option<String> {
    let user = former?.value().to_owned();
    jar.remove("user_id"); // as `remove_private` does
    Some(user)
}

mod checks {
    use rocket::local::blocking::Client;
    use rocket::{get, routes};

    use super::*;
    use crate::bare;
    use crate::pages::assert_shown;

    /// In place of `get_private`, which needs Rocket's feature `secrets`.
    #[get("/")]
    fn index(jar: &CookieJar<'_>) -> Option<String> {
        former_user(jar, jar.get("user_id").cloned())
    }

    #[test]
    fn the_user_of_a_private_cookie_is_returned_once() {
        let client = Client::tracked(bare().mount("/", routes![index])).unwrap();
        let first = client.get("/").cookie(("user_id", "ada")).dispatch();
        assert!(first.headers().get("Set-Cookie").any(|set| set.starts_with("user_id=;")));
        assert_eq!(first.into_string().as_deref(), Some("ada"));
        client.cookies().iter().for_each(|cookie| assert_ne!(cookie.name(), "user_id"));
    }

    #[test]
    fn the_page_on_moving_shows_the_tested_function() {
        assert_shown(include_str!("private_cookie.rs"), include_str!("../../../docs/moving.md"));
    }
}
