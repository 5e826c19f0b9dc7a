//! The HTML of the pages.

use std::fmt::{Display, Write};

use cloakroom::Flash;
use cloakroom::clock::Timestamp;
use cloakroom::manager::UserSession;

use super::accounts::PASSWORD_LENGTH;

pub const WELCOME: &str =
    "<p><a href=\"/sign-in\">Sign in</a> or <a href=\"/sign-up\">sign up</a>.</p>";

pub fn home(name: &str, notes: &[(i64, String)]) -> String {
    let mut items = String::new();
    for (id, text) in notes {
        let _ = write!(items, "<li><a href=\"/notes/{id}\">{}</a></li>", escape(text));
    }
    format!(
        "<p>Signed in as <strong>{}</strong>. <a href=\"/devices\">Devices</a>
         <a href=\"/password\">Change the password</a></p>
         <ul>{items}</ul>
         <form method=\"post\" action=\"/notes\">
           <label>Note <input name=\"text\" required></label> <button>Add</button></form>
         <form method=\"post\" action=\"/sign-out\"><button>Sign out</button></form>",
        escape(name)
    )
}

pub fn note(id: i64, text: &str) -> String {
    format!(
        "<p>{}</p>
         <form method=\"post\" action=\"/notes/{id}/delete\"><button>Delete</button></form>
         <p><a href=\"/\">Back</a></p>",
        escape(text)
    )
}

pub fn sign_in(next: &str) -> String {
    format!(
        "<form method=\"post\" action=\"/sign-in\">
           <input type=\"hidden\" name=\"next\" value=\"{}\">
           <label>Name <input name=\"name\" autocomplete=\"username\" required></label>
           <label>Password <input name=\"password\" type=\"password\"
             autocomplete=\"current-password\" required></label>
           <label><input name=\"remember\" type=\"checkbox\"> Remember me</label>
           <button>Sign in</button></form>
         <p><a href=\"/sign-up\">Sign up</a></p>",
        escape(next)
    )
}

pub fn sign_up() -> String {
    let new_password = new_password("password", "Password");
    format!(
        "<form method=\"post\" action=\"/sign-up\">
           <label>Name <input name=\"name\" autocomplete=\"username\" required></label>
           {new_password} <button>Sign up</button></form>"
    )
}

pub fn password() -> String {
    let new_password = new_password("new", "New password");
    format!(
        "<form method=\"post\" action=\"/password\">
           <label>Current password <input name=\"current\" type=\"password\"
             autocomplete=\"current-password\" required></label>
           {new_password} <button>Change the password</button></form>
         <p>You stay signed in here, and are signed out everywhere else.</p>"
    )
}

fn new_password(field: &str, label: &str) -> String {
    let shortest = PASSWORD_LENGTH.start();
    format!(
        "<label>{label}, at least {shortest} characters <input name=\"{field}\" type=\"password\"
           autocomplete=\"new-password\" minlength=\"{shortest}\" required></label>"
    )
}

pub fn devices(devices: &[UserSession], now: Timestamp) -> String {
    let mut items = String::new();
    for UserSession { summary, is_current, .. } in devices {
        let client = summary.client.as_ref();
        let agent = client.and_then(|client| client.user_agent.as_deref());
        let address = client.and_then(|client| client.address);
        let end = match is_current {
            true => "<em>this device</em>".to_owned(),
            false => format!(
                "<form method=\"post\" action=\"/devices/end\">
                 <input type=\"hidden\" name=\"public_id\" value=\"{}\">
                 <button>End this session</button></form>",
                summary.public_id
            ),
        };
        let minutes = now.since(summary.seen).as_secs() / 60;
        let _ = write!(
            items,
            "<li>{} from {}, seen {minutes} minutes ago {end}</li>",
            escape(agent.unwrap_or("Unknown browser")),
            address.map_or("an unknown address".to_owned(), |address| address.to_string()),
        );
    }
    format!(
        "<ul>{items}</ul>
         <form method=\"post\" action=\"/devices/end-others\">
           <button>End all others</button></form>
         <p><a href=\"/\">Back</a></p>"
    )
}

pub fn page(flashes: &[Flash], body: impl Display) -> String {
    let mut messages = String::new();
    for flash in flashes {
        let _ = write!(messages, "<p role=\"status\">{}</p>", escape(&flash.text));
    }
    format!(
        "<!doctype html>
<html lang=\"en\">
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width\">
<title>Notes</title>
<h1>Notes</h1>
{messages}
{body}
</html>
"
    )
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\'', "&#39;")
}
