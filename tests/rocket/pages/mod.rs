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
mod take_over;

/// The code between the first line and `mod checks` is on the page.
#[track_caller]
fn assert_shown(file: &str, page: &str) {
    let (_, code) = file.split_once("\n\n").unwrap();
    let (code, _) = code.split_once("\n\nmod checks").unwrap();
    assert!(page.contains(&format!("```rust\n{code}\n```")), "{code}");
}
