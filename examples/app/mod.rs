//! The application of the examples, without a framework: what each page does with its session,
//! and what it looks like.

#![allow(dead_code, unreachable_pub, reason = "each example is a program of its own")]

use std::env;
use std::fmt::Write;

use cloakroom::{Flash, Result, Session, SignIn, UserKey};

/// Where to listen, from `CLOAKROOM_ADDR`.
pub fn address() -> String {
    env::var("CLOAKROOM_ADDR").unwrap_or_else(|_| "127.0.0.1:8000".to_owned())
}

/// The database file, from `CLOAKROOM_DB`.
pub fn database() -> String {
    env::var("CLOAKROOM_DB").unwrap_or_else(|_| "cloakroom.db".to_owned())
}

/// `GET /`: counts the visits and shows who is signed in.
pub fn home(session: &Session) -> Result<String> {
    let visits = session.update("visits", |visits: Option<u64>| visits.unwrap_or(0) + 1)?;
    let user = session.user()?;
    Ok(page(visits, user.as_ref().map(UserKey::as_str), &session.flashes()?))
}

/// `POST /sign-in`: any user will do, and the password is `demo`.
pub fn sign_in(session: &Session, user: &str, password: &str) -> Result<()> {
    let user = match UserKey::new(user.trim()) {
        Ok(user) if password == "demo" => user,
        _ => return session.flash("error", "That did not work. The password is “demo”."),
    };
    match session.sign_in(user)? {
        SignIn::Done => session.flash("info", "You are signed in."),
        _ => session.flash("error", "You are signed in on too many devices."),
    }
}

/// `POST /sign-out`: the old session is over; the message begins a new, anonymous one.
pub fn sign_out(session: &Session) -> Result<()> {
    session.destroy()?;
    session.flash("info", "You are signed out.")
}

fn page(visits: u64, user: Option<&str>, flashes: &[Flash]) -> String {
    let mut messages = String::new();
    for flash in flashes {
        let (kind, text) = (escape(&flash.kind), escape(&flash.text));
        let _ = write!(messages, "<p class=\"flash {kind}\" role=\"status\">{text}</p>");
    }
    let account = match user {
        Some(user) => format!(
            "<p>Signed in as <strong>{}</strong></p>
             <form method=\"post\" action=\"/sign-out\"><button>Sign out</button></form>",
            escape(user)
        ),
        None => "<p>Nobody is signed in.</p>
             <form method=\"post\" action=\"/sign-in\">
               <label>User <input name=\"user\" autocomplete=\"username\" required></label>
               <label>Password <input name=\"password\" type=\"password\"
                 autocomplete=\"current-password\" placeholder=\"demo\" required></label>
               <button>Sign in</button>
             </form>"
            .to_owned(),
    };
    format!(
        "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">
<title>cloakroom</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>cloakroom</h1>
{messages}
<p class=\"count\">visits: {visits}</p>
{account}
</main>
</body>
</html>
"
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

const STYLE: &str = "
:root { color-scheme: light dark; --accent: #7a3b2e; --line: #8884; }
* { box-sizing: border-box; }
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; }
main { max-width: 26rem; margin: 8vh auto; padding: 1.5rem; }
h1 { font-size: 1.25rem; letter-spacing: .04em; color: var(--accent); margin: 0 0 1.5rem; }
.count { font-size: 2.5rem; line-height: 1.1; margin: 0 0 1.5rem; }
.flash { border-left: .25rem solid var(--accent); background: #8881; padding: .6rem .9rem; }
.flash.error { border-color: #c22; }
form { display: grid; gap: .75rem; border-top: 1px solid var(--line); padding-top: 1rem; }
label { display: grid; gap: .25rem; font-size: .875rem; }
input, button { font: inherit; padding: .55rem .7rem; border-radius: .4rem; }
input { border: 1px solid var(--line); background: transparent; color: inherit; width: 100%; }
button { border: 0; background: var(--accent); color: #fff; cursor: pointer; justify-self: start; }
button:focus-visible, input:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
";
