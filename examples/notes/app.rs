//! The requests: routes, forms, and the JSON interface.

use std::collections::HashMap;
use std::error::Error;
use std::io::Read;
use std::net::IpAddr;

use argon2::Argon2;
use cloakroom::clock::Clock;
use cloakroom::stores::sqlite::rusqlite::{OptionalExtension, params};
use cloakroom::web::rouille::{Result, session};
use cloakroom::{CookieConfig, Session, SessionManager, SignIn, SqliteStore};
use rouille::{Request, Response, router};

use super::accounts::{self, Accounts, PASSWORD_LENGTH, User};
use super::database::Database;
use super::pages;
use super::throttle::{Throttle, WINDOW};

const LONGEST_NOTE: usize = 10_000;
const LONGEST_FORM: u64 = 64 << 10;

pub struct App {
    pub sessions: SessionManager,
    pub db: Database,
    pub accounts: Accounts,
    pub throttle: Throttle,
    clock: Box<dyn Clock>,
    proxies: u8,
}

impl App {
    pub fn new(
        store: SqliteStore,
        cookie: CookieConfig,
        proxies: u8,
        argon2: Argon2<'static>,
        clock: impl Clock + Clone,
    ) -> std::result::Result<Self, Box<dyn Error + Send + Sync>> {
        let db = Database::new(store.clone())?;
        let sessions = SessionManager::builder(store)
            .cookie(cookie)
            // Without "remember me" the cookie ends with the browser.
            .persistent(false)
            .behind_proxies(proxies)
            .record_address(true)
            .record_user_agent(true)
            .no_store_when_signed_in(true)
            .clock(clock.clone())
            .build()?;
        let (accounts, throttle) = (Accounts::new(argon2)?, Throttle::new(clock.clone()));
        Ok(App { sessions, db, accounts, throttle, clock: Box::new(clock), proxies })
    }

    /// Answers a request. The forms carry no token: `session` refuses requests of other origins
    /// before its closure runs.
    pub fn handle(&self, request: &Request) -> Response {
        let response = session(&self.sessions, request, |session| {
            if request.url().starts_with("/api/") {
                return self.api(request, session);
            }
            let form = Form::read(request)?;
            self.pages(request, session, &form)
        });
        let policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; \
                      base-uri 'none'";
        let response = response.with_additional_header("Content-Security-Policy", policy);
        match response.status_code {
            // Another program holds the lock of the database: the form may be sent again.
            503 => response.with_additional_header("Retry-After", "5"),
            _ => response,
        }
    }

    fn pages(&self, request: &Request, session: &Session, form: &Form) -> Result {
        let user = accounts::signed_in(&self.db, session)?;
        router!(request,
            (GET) ["/"] => {
                // A visitor who only looks around gets no session and no cookie.
                let Some(user) = &user else { return page(session, pages::WELCOME.to_owned()) };
                let notes = self.notes_of(user)?;
                page(session, pages::home(&user.name, &notes))
            },
            (GET) ["/sign-in"] => {
                let next = request.get_param("next").unwrap_or_default();
                page(session, pages::sign_in(local_path(&next)))
            },
            (POST) ["/sign-in"] => { self.sign_in(request, session, form) },
            (GET) ["/sign-up"] => { page(session, pages::sign_up()) },
            (POST) ["/sign-up"] => { self.sign_up(request, session, form) },
            (POST) ["/sign-out"] => {
                session.destroy()?;
                go(session, "/", "You are signed out.")
            },
            _ => match user {
                Some(user) => self.pages_of_user(request, session, form, &user),
                None => to_sign_in(request),
            }
        )
    }

    fn pages_of_user(
        &self,
        request: &Request,
        session: &Session,
        form: &Form,
        user: &User,
    ) -> Result {
        router!(request,
            (POST) ["/notes"] => {
                match self.add_note(user, form.get("text"))? {
                    Some(_) => Ok(Response::redirect_303("/")),
                    None => go(session, "/", "A note has 1 to 10,000 characters."),
                }
            },
            (GET) ["/notes/{id}", id: i64] => {
                match self.note(user, id)? {
                    Some(text) => page(session, pages::note(id, &text)),
                    None => Ok(Response::empty_404()),
                }
            },
            (POST) ["/notes/{id}/delete", id: i64] => {
                match self.delete_note(user, id)? {
                    true => go(session, "/", "The note is deleted."),
                    false => Ok(Response::empty_404()),
                }
            },
            (GET) ["/devices"] => {
                let devices = self.sessions.list_for_user(&user.key()?, Some(session))?.sessions;
                page(session, pages::devices(&devices, self.clock.now()))
            },
            (POST) ["/devices/end"] => {
                let Ok(public_id) = form.get("public_id").parse() else {
                    return Ok(Response::empty_400());
                };
                self.sessions.revoke(&user.key()?, &public_id, Some(session))?;
                go(session, "/devices", "That session has ended.")
            },
            (POST) ["/devices/end-others"] => {
                let ended = self.sessions.revoke_others(session)?;
                go(session, "/devices", &format!("Ended sessions: {ended}."))
            },
            (GET) ["/password"] => { page(session, pages::password()) },
            (POST) ["/password"] => { self.change_password(request, session, form, user) },
            _ => Ok(Response::empty_404())
        )
    }

    fn sign_in(&self, request: &Request, session: &Session, form: &Form) -> Result {
        let next = local_path(form.get("next"));
        let back = format!("/sign-in?next={}", encode(next));
        let (name, address) = (form.get("name").trim(), self.client_address(request));
        if !is_name(name) {
            return go(session, &back, "The name or the password is wrong.");
        }
        if !self.throttle.admits(name, address) {
            return Ok(too_many_attempts());
        }
        let Some(user) = self.accounts.verify(&self.db, name, form.get("password"))? else {
            return go(session, &back, "The name or the password is wrong.");
        };
        self.throttle.succeeded(name, address);
        session.set_persistent(form.has("remember"))?;
        match accounts::sign_in(session, &user)? {
            SignIn::Done => Ok(Response::redirect_303(next.to_owned())),
            _ => go(session, &back, "You are signed in on too many devices."),
        }
    }

    fn sign_up(&self, request: &Request, session: &Session, form: &Form) -> Result {
        let (name, password) = (form.get("name").trim(), form.get("password"));
        if !is_name(name) {
            let text = "A name has 1 to 40 letters, digits, dots, hyphens or underscores.";
            return go(session, "/sign-up", text);
        }
        if !is_password(password) {
            return go(session, "/sign-up", "This password is too short, or very long.");
        }
        if !self.throttle.admits_address(self.client_address(request)) {
            return Ok(too_many_attempts());
        }
        let Some(user) = self.accounts.create(&self.db, name, password)? else {
            return go(session, "/sign-up", "This name is taken.");
        };
        // If this fails the account exists, and its user signs in by the form.
        let _ = accounts::sign_in(session, &user)?;
        go(session, "/", "Welcome.")
    }

    fn change_password(
        &self,
        request: &Request,
        session: &Session,
        form: &Form,
        user: &User,
    ) -> Result {
        let address = self.client_address(request);
        if !is_password(form.get("new")) {
            return go(session, "/password", "This password is too short, or very long.");
        }
        if !self.throttle.admits(&user.name, address) {
            return Ok(too_many_attempts());
        }
        let verified = self.accounts.verify(&self.db, &user.name, form.get("current"))?;
        let Some(user) = verified.filter(|verified| verified.id == user.id) else {
            return go(session, "/password", "The current password is wrong.");
        };
        self.throttle.succeeded(&user.name, address);
        // The own table first: its commit makes the new password valid, and refuses sessions that
        // signed in with the old one. What follows may fail, and be done again.
        let Some(user) = self.accounts.change_password(&self.db, &user, form.get("new"))? else {
            return go(session, "/password", "The password was just changed elsewhere.");
        };
        // If the session has ended meanwhile, the next page asks for the new password.
        let _ = accounts::confirm(session, &user)?;
        self.sessions.revoke_others(session)?;
        go(session, "/", "The password is changed. You are signed out everywhere else.")
    }

    /// For scripts: JSON, with 401 instead of a redirect.
    fn api(&self, request: &Request, session: &Session) -> Result {
        let fail = |status: u16, error: &str| {
            Ok(Response::json(&HashMap::from([("error", error)])).with_status_code(status))
        };
        let Some(user) = accounts::signed_in(&self.db, session)? else {
            return fail(401, "sign in first");
        };
        router!(request,
            (GET) ["/api/notes"] => {
                let notes = self.notes_of(&user)?;
                let notes: Vec<_> = notes.iter().map(|(id, text)| Note { id: *id, text }).collect();
                Ok(Response::json(&Answer { notes }))
            },
            (POST) ["/api/notes"] => {
                let Ok(NewNote { text }) = rouille::input::json_input(request) else {
                    return fail(400, "the body is not a note as JSON");
                };
                match self.add_note(&user, &text)? {
                    Some(id) => {
                        Ok(Response::json(&Note { id, text: &text }).with_status_code(201))
                    }
                    None => fail(400, "a note has 1 to 10,000 characters"),
                }
            },
            _ => fail(404, "not found")
        )
    }

    fn notes_of(&self, user: &User) -> std::result::Result<Vec<(i64, String)>, BoxedError> {
        let sql = "SELECT id, text FROM notes WHERE user_id = ?1 ORDER BY id DESC LIMIT 100";
        self.db.read(|c| {
            c.prepare_cached(sql)?
                .query_map([user.id], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Returns the text of a note of this user: a note of another user is not found.
    fn note(&self, user: &User, id: i64) -> std::result::Result<Option<String>, BoxedError> {
        let sql = "SELECT text FROM notes WHERE id = ?1 AND user_id = ?2";
        self.db.read(|c| c.query_row(sql, [id, user.id], |row| row.get(0)).optional())
    }

    /// Adds a note, and returns its number; `None` if it is empty or too long.
    fn add_note(&self, user: &User, text: &str) -> std::result::Result<Option<i64>, BoxedError> {
        if text.trim().is_empty() || text.chars().count() > LONGEST_NOTE {
            return Ok(None);
        }
        self.db.write(|tx| {
            let sql = "INSERT INTO notes (user_id, text) VALUES (?1, ?2)";
            tx.execute(sql, params![user.id, text])?;
            Ok(Some(tx.last_insert_rowid()))
        })
    }

    fn delete_note(&self, user: &User, id: i64) -> std::result::Result<bool, BoxedError> {
        let sql = "DELETE FROM notes WHERE id = ?1 AND user_id = ?2";
        self.db.write(|tx| Ok(tx.execute(sql, [id, user.id])? == 1))
    }

    /// Returns the address for the throttle: of the connection, or as the nearest proxies have
    /// written it. Entries further to the left may be the client's invention.
    fn client_address(&self, request: &Request) -> IpAddr {
        let is_ours = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("X-Forwarded-For");
        let entries: Vec<&str> =
            request.headers().filter(is_ours).flat_map(|(_, value)| value.split(',')).collect();
        let written = match self.proxies {
            0 => None,
            n => entries.iter().nth_back(usize::from(n) - 1),
        };
        let address = written.and_then(|entry| entry.trim().parse().ok());
        address.unwrap_or_else(|| request.remote_addr().ip())
    }
}

type BoxedError = Box<dyn Error + Send + Sync>;

#[derive(serde::Serialize)]
struct Answer<'n> {
    notes: Vec<Note<'n>>,
}

#[derive(serde::Serialize)]
struct Note<'n> {
    id: i64,
    text: &'n str,
}

#[derive(serde::Deserialize)]
struct NewNote {
    text: String,
}

/// The fields of a form; empty for a request without one.
struct Form(HashMap<String, String>);

impl Form {
    fn read(request: &Request) -> std::result::Result<Self, BoxedError> {
        let mut body = Vec::new();
        if let Some(data) = request.data() {
            data.take(LONGEST_FORM).read_to_end(&mut body)?;
        }
        Ok(Form(form_urlencoded::parse(&body).into_owned().collect()))
    }

    /// Returns the value of a field, empty if there is none.
    fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    fn has(&self, field: &str) -> bool {
        self.0.contains_key(field)
    }
}

fn page(session: &Session, body: String) -> Result {
    Ok(Response::html(pages::page(&session.flashes()?, body)))
}

/// Redirects with a message for the next page.
fn go(session: &Session, path: &str, text: &str) -> Result {
    session.flash("info", text)?;
    Ok(Response::redirect_303(path.to_owned()))
}

/// Redirects to the sign-in, which returns to this page; after a form to the front page.
fn to_sign_in(request: &Request) -> Result {
    let next = if request.method() == "GET" { request.raw_url() } else { "/" };
    Ok(Response::redirect_303(format!("/sign-in?next={}", encode(next))))
}

fn too_many_attempts() -> Response {
    Response::text("Too many attempts. Please try again later.")
        .with_status_code(429)
        .with_additional_header("Retry-After", WINDOW.as_secs().to_string())
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Returns `target` if it is a path of this site, else `/`. Browsers read `//host`, and `/\host`,
/// as another site, and remove tabs and line breaks before they read.
pub fn local_path(target: &str) -> &str {
    let is_plain = target.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if is_plain && target.starts_with('/') && !target.starts_with("//") { target } else { "/" }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=40).contains(&name.len()) && name.chars().all(is_plain)
}

fn is_password(password: &str) -> bool {
    PASSWORD_LENGTH.contains(&password.chars().count())
}
