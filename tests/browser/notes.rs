//! The example `notes`: its forms, the way back after a sign-in, and a crash of the program.

use crate::common::Folder;
use crate::common::chromium::{Chromium, Programs, Tab};
use crate::common::example::{CookieKind, Example};

const PASSWORD: &str = "correct horse battery";

fn start(folder: &Folder) -> Example {
    Example::start("notes", folder, CookieKind::Default)
}

fn submit(tab: &Tab<'_>, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        tab.type_into(&format!("input[name={name}]"), value);
    }
    tab.follow("form button");
}

fn sign_up(tab: &Tab<'_>, server: &Example) {
    tab.open(&format!("{}sign-up", server.url("localhost")));
    submit(tab, &[("name", "ada"), ("password", PASSWORD)]);
}

fn text(tab: &Tab<'_>) -> String {
    serde_json::from_value(tab.script("return document.body.innerText")).unwrap()
}

#[test]
fn a_sign_in_returns_to_the_page_that_asked_for_it() {
    let Some(programs) = Programs::find() else { return };
    let (chromium, folder) = (Chromium::start(&programs), Folder::new());
    let (server, tab) = (start(&folder), chromium.tab());
    sign_up(&tab, &server);
    submit(&tab, &[("text", "Buy milk")]);
    tab.sign_out();

    tab.open(&format!("{}notes/1?from=mail", server.url("localhost")));
    assert!(text(&tab).contains("Remember me"), "{}", text(&tab));
    tab.script("document.querySelector('[name=remember]').click()");
    submit(&tab, &[("name", "ada"), ("password", PASSWORD)]);
    assert!(text(&tab).contains("Buy milk"), "{}", text(&tab));
    let place = "return location.pathname + location.search";
    assert_eq!(tab.script(place), "/notes/1?from=mail");
    assert!(tab.cookie().expiry.is_some(), "the cookie outlives the browser");
}

#[test]
fn a_user_and_a_note_survive_a_crash_of_the_program() {
    let Some(programs) = Programs::find() else { return };
    let (chromium, folder) = (Chromium::start(&programs), Folder::new());
    let (server, tab) = (start(&folder), chromium.tab());
    sign_up(&tab, &server);
    submit(&tab, &[("text", "Buy milk")]);
    server.kill();
    // At another port, which cookies ignore.
    let server = start(&folder);
    tab.open(&server.url("localhost"));
    let page = text(&tab);
    assert!(page.contains("Signed in as ada") && page.contains("Buy milk"), "{page}");
    let log = server.stop();
    assert!(!log.iter().any(|line| line.contains("WARN")), "{log:#?}");
}
