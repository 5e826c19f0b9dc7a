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

/// The code between each `On the page` and the next `Not on the page` is on the page, by itself or
/// in a list.
#[track_caller]
fn assert_excerpts_shown(file: &str, page: &str) {
    let excerpts: Vec<&str> = file.split("// On the page:\n").skip(1).collect();
    assert!(!excerpts.is_empty());
    for excerpt in excerpts {
        let (code, _) = excerpt.split_once("// Not on the page.").unwrap();
        let indent = &code[..code.len() - code.trim_start().len()];
        let lines = code.trim_end().lines().map(|line| line.strip_prefix(indent).unwrap_or(line));
        let lines: Vec<&str> = ["```rust,ignore"].into_iter().chain(lines).chain(["```"]).collect();
        let is_shown = |indent: &str| {
            let indented = lines.iter().map(|line| format!("{indent}{line}"));
            let indented = indented.map(|line| format!("{}\n", line.trim_end()));
            page.contains(&indented.collect::<String>())
        };
        assert!(is_shown("") || is_shown("   "), "{}", lines.join("\n"));
    }
}
