//! The application of the examples, without a framework: how each page uses its session.
//!
//! Its settings come from the environment:
//!
//! - `CLOAKROOM_ADDR`: the address to listen on; `127.0.0.1:8000` by default.
//! - `CLOAKROOM_DB`: the database file; `cloakroom.db` by default.
//! - `CLOAKROOM_INSECURE_HTTP=1`: a cookie that browsers accept over plain HTTP, for a trusted
//!   network, and for Safari on localhost. Browsers drop the default cookie there.
//!
//! The forms need no token: requests of other origins are refused by default, before these
//! functions. `session.csrf_field()` and `session.verify_csrf()` add tokens for browsers from before
//! 2020, and where OWASP ASVS 3.5.1 is to be met by tokens too.

#![allow(unreachable_pub, reason = "each example is a program of its own")]

mod pages;

use std::env;

use cloakroom::clock::{Clock, SystemClock};
use cloakroom::lifetime::EndReason;
use cloakroom::{
    CookieConfig, ErrorKind, Result, Session, SessionManager, SignIn, SqliteStore, UserKey,
};

/// The address to listen on, from `CLOAKROOM_ADDR`.
pub fn address() -> String {
    env::var("CLOAKROOM_ADDR").unwrap_or_else(|_| "127.0.0.1:8000".to_owned())
}

/// The sessions of the application of this name, in the file that `CLOAKROOM_DB` names and with the
/// cookie that `CLOAKROOM_INSECURE_HTTP` chooses.
pub fn sessions(application: &str) -> Result<SessionManager> {
    let file = env::var("CLOAKROOM_DB").unwrap_or_else(|_| "cloakroom.db".to_owned());
    let sessions = SessionManager::builder(SqliteStore::open(file)?)
        .record_address(true)
        .record_user_agent(true)
        // After a sign-out the back button shows no page of the user.
        .no_store_when_signed_in(true);
    // All ports of a host share its cookies, so its applications need cookies of different names.
    let mut cookie = CookieConfig::new().name(format!("__Host-{application}"));
    if env::var("CLOAKROOM_INSECURE_HTTP").is_ok_and(|value| value == "1") {
        cookie = CookieConfig::insecure_http().name(application);
    }
    sessions.cookie(cookie).build()
}

/// The response of a page, which each framework writes in its own types.
pub enum Answer {
    /// An HTML page.
    Page(String),
    /// A redirect after a POST, status 303.
    See(&'static str),
}

/// `GET /`: counts the visits and shows who is signed in.
pub fn home(session: &Session) -> Result<Answer> {
    let visits = session.update("visits", |visits: Option<u64>| visits.unwrap_or(0) + 1)?;
    // In the browser of a user whose session has expired, once: now another session begins.
    if let Some(EndReason::Idle(_)) = session.end_reason()? {
        session.flash("info", "You were signed out after a day without activity.")?;
    }
    let user = session.user()?;
    let user = user.as_ref().map(UserKey::as_str);
    Ok(Answer::Page(pages::home(visits, user, &session.flashes()?)))
}

/// `POST /sign-in`: accepts any user with the password `demo`.
pub fn sign_in(session: &Session, user: &str, password: &str) -> Result<Answer> {
    match UserKey::new(user.trim()) {
        Ok(user) if password == "demo" => match session.sign_in(user)? {
            SignIn::Done => session.flash("info", "You are signed in.")?,
            _ => session.flash("error", "You are signed in on too many devices.")?,
        },
        _ => session.flash("error", "That did not work. The password is “demo”.")?,
    }
    Ok(Answer::See("/"))
}

/// `POST /sign-out`: ends the session; the message begins a new, anonymous one.
pub fn sign_out(session: &Session) -> Result<Answer> {
    session.destroy()?;
    session.flash("info", "You are signed out.")?;
    Ok(Answer::See("/"))
}

/// `GET /sessions`: lists the sessions of the user.
pub fn list(sessions: &SessionManager, session: &Session) -> Result<Answer> {
    let Some(user) = session.user()? else { return Ok(Answer::See("/")) };
    let list = match sessions.list_for_user(&user, Some(session)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            session.flash("error", "This store cannot list sessions.")?;
            return Ok(Answer::See("/"));
        }
        list => list?,
    };
    Ok(Answer::Page(pages::sessions(&list.sessions, SystemClock.now(), &session.flashes()?)))
}

/// `POST /sessions/revoke`: ends the session with this public id, if it is the user's own.
pub fn revoke(sessions: &SessionManager, session: &Session, public_id: &str) -> Result<Answer> {
    if let (Some(user), Ok(public_id)) = (session.user()?, public_id.parse()) {
        let text = match sessions.revoke(&user, &public_id, Some(session))? {
            true => "That session has ended.",
            false => "That session had already ended.",
        };
        session.flash("info", text)?;
    }
    Ok(Answer::See("/sessions"))
}

/// `POST /sessions/revoke-others`: ends all other sessions of the user.
pub fn revoke_others(sessions: &SessionManager, session: &Session) -> Result<Answer> {
    let ended = sessions.revoke_others(session)?;
    session.flash("info", format!("Signed out elsewhere: {ended}."))?;
    Ok(Answer::See("/sessions"))
}
