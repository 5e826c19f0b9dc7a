//! The requests: routes, forms, and the JSON interface.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use argon2::Argon2;
use cloakroom::clock::Clock;
use cloakroom::stores::sqlite::rusqlite::{OptionalExtension, params};
use cloakroom::web::rocket::Result;
use cloakroom::{CookieConfig, Lifetime, Session, SessionManager, SignIn, SqliteStore};
use rocket::data::{ByteUnit, Limits};
use rocket::fairing::AdHoc;
use rocket::figment::Figment;
use rocket::form::{Form, FromForm};
use rocket::http::uri::Origin;
use rocket::http::{ContentType, Header, Method, Status};
use rocket::response::content::{RawHtml, RawJson};
use rocket::response::{Redirect, Responder};
use rocket::{Build, Request, Rocket, State, catch, catchers, get, post, routes};

use super::accounts::{self, Accounts, PASSWORD_LENGTH, User};
use super::database::Database;
use super::pages;
use super::throttle::{Throttle, WINDOW};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LONGEST_NOTE: usize = 10_000;
const LONGEST_FORM: ByteUnit = ByteUnit::Kibibyte(64);

pub struct App {
    pub sessions: SessionManager,
    pub db: Database,
    pub accounts: Accounts,
    pub throttle: Throttle,
    clock: Box<dyn Clock>,
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
            // Without "remember me" the cookie ends with the browser, and the session after a day
            // without a visit.
            .persistent(false)
            .browser_session_lifetime(Lifetime::idle(DAY).with_absolute(7 * DAY))
            .lifetime(Lifetime::idle(30 * DAY).with_absolute(90 * DAY))
            .behind_proxies(proxies)
            .record_address(true)
            .record_user_agent(true)
            .no_store_when_signed_in(true)
            .clock(clock.clone())
            .build()?;
        let (accounts, throttle) = (Accounts::new(argon2)?, Throttle::new(clock.clone()));
        Ok(App { sessions, db, accounts, throttle, clock: Box::new(clock) })
    }

    /// The server. The forms carry no token: the fairing of the sessions refuses requests of other
    /// origins before a handler runs.
    pub fn rocket(self, settings: Figment) -> Rocket<Build> {
        let limits = Limits::default().limit("form", LONGEST_FORM).limit("string", LONGEST_FORM);
        // The fairing of the sessions first: the last one sees the final response.
        rocket::custom(settings.merge(("limits", limits)))
            .attach(self.sessions.clone())
            .attach(AdHoc::on_response("add header fields", |_, response| {
                Box::pin(async move {
                    let policy = "default-src 'none'; form-action 'self'; frame-ancestors 'none'; \
                                  base-uri 'none'";
                    response.set_header(Header::new("Content-Security-Policy", policy));
                    if response.status() == Status::ServiceUnavailable {
                        // Another program holds the lock of the database: the form may be sent
                        // again.
                        response.set_header(Header::new("Retry-After", "5"));
                    }
                })
            }))
            .manage(self)
            .mount("/", routes![home, sign_in_form, sign_in, sign_up_form, sign_up, sign_out])
            .mount("/", routes![add_note, show_note, delete_note])
            .mount("/", routes![devices, end_device, end_other_devices])
            .mount("/", routes![password_form, change_password])
            .mount("/api", routes![list_as_json, add_as_json])
            .register("/", catchers![to_sign_in])
            .register("/api", catchers![error_as_json])
    }

    fn notes_of(&self, user: &User) -> cloakroom::Result<Vec<(i64, String)>> {
        let sql = "SELECT id, text FROM notes WHERE user_id = ?1 ORDER BY id DESC LIMIT 100";
        self.db.read(|c| {
            c.prepare_cached(sql)?
                .query_map([user.id], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
    }

    /// Returns the text of a note of this user: a note of another user is not found.
    fn note(&self, user: &User, id: i64) -> cloakroom::Result<Option<String>> {
        let sql = "SELECT text FROM notes WHERE id = ?1 AND user_id = ?2";
        self.db.read(|c| c.query_row(sql, [id, user.id], |row| row.get(0)).optional())
    }

    /// Adds a note, and returns its number; `None` if it is empty or too long.
    fn add_note(&self, user: &User, text: &str) -> cloakroom::Result<Option<i64>> {
        if text.trim().is_empty() || text.chars().count() > LONGEST_NOTE {
            return Ok(None);
        }
        self.db.write(|tx| {
            let sql = "INSERT INTO notes (user_id, text) VALUES (?1, ?2)";
            tx.execute(sql, params![user.id, text])?;
            Ok(Some(tx.last_insert_rowid()))
        })
    }

    fn delete_note(&self, user: &User, id: i64) -> cloakroom::Result<bool> {
        let sql = "DELETE FROM notes WHERE id = ?1 AND user_id = ?2";
        self.db.write(|tx| Ok(tx.execute(sql, [id, user.id])? == 1))
    }
}

/// The response of a page.
#[derive(Responder)]
enum Answer {
    Page(RawHtml<String>),
    Redirect(Box<Redirect>),
    Status(Status),
    #[response(status = 429)]
    TooManyAttempts(&'static str, Header<'static>),
}

fn page(session: &Session, body: impl AsRef<str>) -> Result<Answer> {
    Ok(Answer::Page(RawHtml(pages::page(&session.flashes()?, body.as_ref()))))
}

/// Redirects with a message for the next page.
fn go(session: &Session, path: &str, text: &str) -> Result<Answer> {
    session.flash("info", text)?;
    Ok(redirect(path))
}

fn redirect(path: &str) -> Answer {
    Answer::Redirect(Box::new(Redirect::to(path.to_owned())))
}

fn too_many_attempts() -> Answer {
    let retry_after = Header::new("Retry-After", WINDOW.as_secs().to_string());
    Answer::TooManyAttempts("Too many attempts. Please try again later.", retry_after)
}

#[get("/")]
fn home(app: &State<App>, session: &Session) -> Result<Answer> {
    // A visitor who only looks around gets no session and no cookie.
    let Some(user) = accounts::signed_in(&app.db, session)? else {
        return page(session, pages::WELCOME);
    };
    page(session, pages::home(&user.name, &app.notes_of(&user)?))
}

#[get("/sign-in?<next>")]
fn sign_in_form(session: &Session, next: Option<&str>) -> Result<Answer> {
    page(session, pages::sign_in(local_path(next.unwrap_or_default())))
}

#[derive(FromForm)]
struct Credentials<'r> {
    name: &'r str,
    password: &'r str,
    #[field(default = "/")]
    next: &'r str,
    remember: bool,
}

#[post("/sign-in", data = "<form>")]
async fn sign_in(
    app: &State<App>,
    session: &Session,
    form: Form<Credentials<'_>>,
) -> Result<Answer> {
    let next = local_path(form.next);
    let back = format!("/sign-in?next={}", encode(next));
    let (name, address) = (form.name.trim(), client_address(session));
    if !is_name(name) {
        return go(session, &back, "The name or the password is wrong.");
    }
    if !app.throttle.admits(name, address) {
        return Ok(too_many_attempts());
    }
    let Some(user) = app.accounts.verify(&app.db, name, form.password).await? else {
        return go(session, &back, "The name or the password is wrong.");
    };
    app.throttle.succeeded(name, address);
    session.set_persistent(form.remember)?;
    match accounts::sign_in(session, &user)? {
        SignIn::Done => Ok(redirect(next)),
        _ => go(session, &back, "You are signed in on too many devices."),
    }
}

#[get("/sign-up")]
fn sign_up_form(session: &Session) -> Result<Answer> {
    page(session, pages::sign_up())
}

#[derive(FromForm)]
struct NewAccount<'r> {
    name: &'r str,
    password: &'r str,
}

#[post("/sign-up", data = "<form>")]
async fn sign_up(
    app: &State<App>,
    session: &Session,
    form: Form<NewAccount<'_>>,
) -> Result<Answer> {
    let name = form.name.trim();
    if !is_name(name) {
        let text = "A name has 1 to 40 letters, digits, dots, hyphens or underscores.";
        return go(session, "/sign-up", text);
    }
    if !is_password(form.password) {
        return go(session, "/sign-up", "This password is too short, or very long.");
    }
    if !app.throttle.admits_address(client_address(session)) {
        return Ok(too_many_attempts());
    }
    let Some(user) = app.accounts.create(&app.db, name, form.password).await? else {
        return go(session, "/sign-up", "This name is taken.");
    };
    // If this fails the account exists, and its user signs in by the form.
    let _ = accounts::sign_in(session, &user)?;
    go(session, "/", "Welcome.")
}

#[post("/sign-out")]
fn sign_out(session: &Session) -> Result<Answer> {
    session.destroy()?;
    go(session, "/", "You are signed out.")
}

#[derive(FromForm)]
struct NoteForm<'r> {
    text: &'r str,
}

#[post("/notes", data = "<form>")]
fn add_note(
    app: &State<App>,
    session: &Session,
    user: User,
    form: Form<NoteForm<'_>>,
) -> Result<Answer> {
    match app.add_note(&user, form.text)? {
        Some(_) => Ok(redirect("/")),
        None => go(session, "/", "A note has 1 to 10,000 characters."),
    }
}

#[get("/notes/<id>")]
fn show_note(app: &State<App>, session: &Session, user: User, id: i64) -> Result<Answer> {
    match app.note(&user, id)? {
        Some(text) => page(session, pages::note(id, &text)),
        None => Ok(Answer::Status(Status::NotFound)),
    }
}

#[post("/notes/<id>/delete")]
fn delete_note(app: &State<App>, session: &Session, user: User, id: i64) -> Result<Answer> {
    match app.delete_note(&user, id)? {
        true => go(session, "/", "The note is deleted."),
        false => Ok(Answer::Status(Status::NotFound)),
    }
}

#[get("/devices")]
fn devices(
    app: &State<App>,
    sessions: &SessionManager,
    session: &Session,
    user: User,
) -> Result<Answer> {
    let devices = sessions.list_for_user(&user.key()?, Some(session))?.sessions;
    page(session, pages::devices(&devices, app.clock.now()))
}

#[derive(FromForm)]
struct Device<'r> {
    public_id: &'r str,
}

#[post("/devices/end", data = "<form>")]
fn end_device(
    sessions: &SessionManager,
    session: &Session,
    user: User,
    form: Form<Device<'_>>,
) -> Result<Answer> {
    let Ok(public_id) = form.public_id.parse() else {
        return Ok(Answer::Status(Status::BadRequest));
    };
    sessions.revoke(&user.key()?, &public_id, Some(session))?;
    go(session, "/devices", "That session has ended.")
}

#[post("/devices/end-others")]
fn end_other_devices(sessions: &SessionManager, session: &Session, _user: User) -> Result<Answer> {
    let ended = sessions.revoke_others(session)?;
    go(session, "/devices", &format!("Ended sessions: {ended}."))
}

#[get("/password")]
fn password_form(session: &Session, _user: User) -> Result<Answer> {
    page(session, pages::password())
}

#[derive(FromForm)]
struct NewPassword<'r> {
    current: &'r str,
    new: &'r str,
}

#[post("/password", data = "<form>")]
async fn change_password(
    app: &State<App>,
    sessions: &SessionManager,
    session: &Session,
    user: User,
    form: Form<NewPassword<'_>>,
) -> Result<Answer> {
    let address = client_address(session);
    if !is_password(form.new) {
        return go(session, "/password", "This password is too short, or very long.");
    }
    if !app.throttle.admits(&user.name, address) {
        return Ok(too_many_attempts());
    }
    let verified = app.accounts.verify(&app.db, &user.name, form.current).await?;
    let Some(user) = verified.filter(|verified| verified.id == user.id) else {
        return go(session, "/password", "The current password is wrong.");
    };
    app.throttle.succeeded(&user.name, address);
    // The own table first: its commit makes the new password valid, and refuses sessions that
    // signed in with the old one. What follows may fail, and be done again.
    let Some(user) = app.accounts.change_password(&app.db, &user, form.new).await? else {
        return go(session, "/password", "The password was just changed elsewhere.");
    };
    // Gives this session a new id and the new generation. If it is refused, the next page asks for
    // the new password.
    let _ = accounts::sign_in(session, &user)?;
    sessions.revoke_others(session)?;
    go(session, "/", "The password is changed. You are signed out everywhere else.")
}

/// Redirects a visitor without a user to the sign-in, which returns to this page; after a form to
/// the front page.
#[catch(401)]
fn to_sign_in(request: &Request<'_>) -> Redirect {
    let next = match request.method() {
        Method::Get => request.uri().to_string(),
        _ => "/".to_owned(),
    };
    Redirect::to(format!("/sign-in?next={}", encode(&next)))
}

/// A response of the JSON interface, which is for scripts.
type Json = (Status, RawJson<String>);

fn json(status: Status, value: &impl serde::Serialize) -> Result<Json> {
    Ok((status, RawJson(serde_json::to_string(value)?)))
}

#[derive(serde::Serialize)]
struct Failure<'r> {
    error: &'r str,
}

#[derive(serde::Serialize)]
struct Notes<'n> {
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

#[get("/notes")]
fn list_as_json(app: &State<App>, user: User) -> Result<Json> {
    let notes = app.notes_of(&user)?;
    let notes = notes.iter().map(|(id, text)| Note { id: *id, text }).collect();
    json(Status::Ok, &Notes { notes })
}

#[post("/notes", data = "<body>")]
fn add_as_json(
    app: &State<App>,
    user: User,
    content_type: Option<&ContentType>,
    body: &str,
) -> Result<Json> {
    let fail = |error| json(Status::BadRequest, &Failure { error });
    // A form of another site cannot send this type.
    if !content_type.is_some_and(|sent| sent.is_json()) {
        return json(Status::UnsupportedMediaType, &Failure { error: "the type is not JSON" });
    }
    let Ok(NewNote { text }) = serde_json::from_str(body) else {
        return fail("the body is not a note as JSON");
    };
    match app.add_note(&user, &text)? {
        Some(id) => json(Status::Created, &Note { id, text: &text }),
        None => fail("a note has 1 to 10,000 characters"),
    }
}

/// Answers scripts with JSON, and with 401 in place of a redirect.
#[catch(default)]
fn error_as_json(status: Status, _: &Request<'_>) -> Result<Json> {
    let error = match status {
        Status::Unauthorized => "sign in first",
        other => other.reason_lossy(),
    };
    json(status, &Failure { error })
}

/// Returns the address for the throttle, which the nearest proxy has written if there is one.
fn client_address(session: &Session) -> IpAddr {
    session.client_address().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

fn encode(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Returns `target` if it is a path of this site, else `/`. Browsers read `//host`, and `/\host`,
/// as another site, and remove tabs and line breaks before they read.
pub fn local_path(target: &str) -> &str {
    let is_path = !target.starts_with("//") && Origin::parse(target).is_ok();
    if is_path && !target.contains('\\') { target } else { "/" }
}

fn is_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=40).contains(&name.len()) && name.chars().all(is_plain)
}

fn is_password(password: &str) -> bool {
    PASSWORD_LENGTH.contains(&password.chars().count())
}
