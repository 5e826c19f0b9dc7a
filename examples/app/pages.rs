//! The HTML of the pages.

use std::fmt::Write;
use std::time::Duration;

use cloakroom::Flash;
use cloakroom::clock::Timestamp;
use cloakroom::manager::UserSession;

pub fn home(visits: u64, user: Option<&str>, flashes: &[Flash]) -> String {
    let account = match user {
        Some(user) => format!(
            "<p>Signed in as <strong>{}</strong></p>
             <p><a href=\"/sessions\">Where you are signed in</a></p>
             <form method=\"post\" action=\"/sign-out\"><button>Sign out</button></form>",
            escape(user)
        ),
        None => "<p>You are not signed in.</p>
             <form method=\"post\" action=\"/sign-in\">
               <label>User <input name=\"user\" autocomplete=\"username\" required></label>
               <label>Password <input name=\"password\" type=\"password\"
                 autocomplete=\"current-password\" placeholder=\"demo\" required></label>
               <button>Sign in</button>
             </form>"
            .to_owned(),
    };
    page(flashes, &format!("<p class=\"count\">visits: {visits}</p>\n{account}"))
}

pub fn sessions(list: &[UserSession], now: Timestamp, flashes: &[Flash]) -> String {
    let mut items = String::new();
    for UserSession { summary, is_current, .. } in list {
        let client = summary.client.as_ref();
        let agent = client.and_then(|client| client.user_agent.as_deref()).unwrap_or("unknown");
        let address = client.and_then(|client| client.address);
        let address =
            address.map_or("an unknown address".to_owned(), |address| address.to_string());
        let end = match is_current {
            true => "<p><em>this session</em></p>".to_owned(),
            false => format!(
                "<form method=\"post\" action=\"/sessions/revoke\">
                 <input type=\"hidden\" name=\"public_id\" value=\"{}\">
                 <button>End it</button></form>",
                summary.public_id
            ),
        };
        let _ = write!(
            items,
            "<li><p>{}</p><small>from {address}, signed in {}, last seen {}</small>{end}</li>",
            escape(agent),
            ago(now.since(summary.authenticated.unwrap_or(summary.created))),
            ago(now.since(summary.seen)),
        );
    }
    let body = format!(
        "<h2>Where you are signed in</h2>
<ul>{items}</ul>
<form method=\"post\" action=\"/sessions/revoke-others\">
<button>Sign out everywhere else</button></form>
<p><a href=\"/\">Back</a></p>"
    );
    page(flashes, &body)
}

fn ago(past: Duration) -> String {
    match past.as_secs() {
        0..60 => "just now".to_owned(),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h ago", seconds / 3600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

fn page(flashes: &[Flash], body: &str) -> String {
    let mut messages = String::new();
    for flash in flashes {
        let (kind, text) = (escape(&flash.kind), escape(&flash.text));
        let _ = write!(messages, "<p class=\"flash {kind}\" role=\"status\">{text}</p>");
    }
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
{body}
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
h2 { font-size: 1.125rem; margin: 0 0 1rem; }
a { color: var(--accent); }
.count { font-size: 2.5rem; line-height: 1.1; margin: 0 0 1.5rem; }
.flash { border-left: .25rem solid var(--accent); background: #8881; padding: .6rem .9rem; }
.flash.error { border-color: #c22; }
form { display: grid; gap: .75rem; border-top: 1px solid var(--line); padding-top: 1rem; }
ul { list-style: none; margin: 0 0 1.5rem; padding: 0; }
li { border-top: 1px solid var(--line); padding: .75rem 0; overflow-wrap: anywhere; }
li p { margin: 0; }
li small { display: block; opacity: .75; }
li form, li form button { border: 0; padding: 0; }
li form button { background: none; color: var(--accent); text-decoration: underline; }
label { display: grid; gap: .25rem; font-size: .875rem; }
input, button { font: inherit; padding: .55rem .7rem; border-radius: .4rem; }
input { border: 1px solid var(--line); background: transparent; color: inherit; width: 100%; }
button { border: 0; background: var(--accent); color: #fff; cursor: pointer; justify-self: start; }
button:focus-visible, input:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
";
