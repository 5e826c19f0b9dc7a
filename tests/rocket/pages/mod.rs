//! Examples of docs/ that need requests to be checked. Each file begins with the code of its page.

mod cors;
mod devices;
mod form;
mod guard;
mod private_cookie;
mod programs;
mod provider;
mod provider_form;
mod rocket_flex_session;
mod script_token;
#[allow(dead_code, reason = "nothing calls its `main`")]
mod sign_in;
mod take_over;

use rocket::http::{Cookie, CookieJar};

/// In place of a method of Rocket's feature `secrets`, which these tests have not turned on.
trait GetPrivate {
    /// Returns the cookie as it was sent, in clear.
    fn get_private(&self, name: &str) -> Option<Cookie<'static>>;
}

impl GetPrivate for CookieJar<'_> {
    fn get_private(&self, name: &str) -> Option<Cookie<'static>> {
        self.get(name).cloned()
    }
}

/// The code between the first paragraph and `mod checks` is on the page.
#[track_caller]
fn assert_shown(file: &str, page: &str) {
    let (_, code) = file.split_once("\n\n").unwrap();
    let (code, _) = code.split_once("\n\nmod checks").unwrap();
    let is_shown = |fence: &str| page.contains(&format!("```{fence}\n{code}\n```"));
    assert!(is_shown("rust") || is_shown("rust,ignore"), "{code}");
}
