//! The program of docs/signing-in.md, and its test of docs/testing.md.

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use cloakroom::stores::sqlite::rusqlite::{self, ErrorCode, OptionalExtension, params};
use cloakroom::web::rocket::{Result, guard_outcome};
use cloakroom::{Error, ErrorKind, Session, SessionManager, SignIn, SqliteStore, UserKey};
use rocket::form::{Form, FromForm};
use rocket::http::Status;
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::response::Redirect;
use rocket::response::content::RawHtml;
use rocket::tokio::sync::Semaphore;
use rocket::tokio::task::{block_in_place, spawn_blocking};
use rocket::{Build, Request, Rocket, State, catch, catchers, get, launch, post, routes};

/// At most four passwords are hashed at a time: each takes a core and 19 MiB.
static PERMITS: Semaphore = Semaphore::const_new(4);

/// A hash of no account, with the default parameters: the check of an unknown name takes as long.
const NO_ACCOUNT: &str = "$argon2id$v=19$m=19456,t=2,p=1$+MeuqkQjhK8i4z43HNkFDA$\
                          +6PbT6sAkN0mFKQd0apUPllyFg5xIm1Ymbq7lTp0vJ4";

#[launch]
fn rocket() -> _ {
    let store = SqliteStore::open("app.db").expect("the database does not open");
    let sessions = SessionManager::new(store.clone()).expect("the configuration is invalid");
    app(store, sessions).expect("the application does not start")
}

/// Tests call it with a store in a temporary folder, and a manager on it.
fn app(store: SqliteStore, sessions: SessionManager) -> Result<Rocket<Build>> {
    let mut db = store.connect()?;
    let tx = db.transaction()?;
    if tx.query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))? < 1 {
        tx.execute_batch(
            "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT,
                                 name TEXT NOT NULL UNIQUE COLLATE NOCASE,
                                 password_hash TEXT NOT NULL,
                                 generation INTEGER NOT NULL DEFAULT 1) STRICT;
             PRAGMA user_version = 1",
        )?;
    }
    tx.commit()?;
    let routes = routes![account, sign_in_form, sign_in, sign_up_form, sign_up, sign_out];
    let rocket = rocket::build().attach(sessions).manage(store);
    Ok(rocket.mount("/", routes).register("/", catchers![sign_in_first]))
}

/// The user who is signed in. Without one the route is not called, but the catcher below.
struct User {
    /// The number of the row, for the user's rows in other tables.
    #[allow(dead_code, reason = "no route of this program has such rows")]
    id: i64,
    name: String,
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for User {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let store = request.rocket().state::<SqliteStore>().expect("`app` manages the store");
        let user = block_in_place(|| user_of(store, session));
        match try_outcome!(guard_outcome(request, user)) {
            Some(user) => Outcome::Success(user),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

/// Refuses the session if its user was deleted, or has changed the password since the sign-in.
fn user_of(store: &SqliteStore, session: &Session) -> cloakroom::Result<Option<User>> {
    let Some(key) = session.user()? else { return Ok(None) };
    let generation = session.get::<i64>("generation")?;
    let sql = "SELECT id, name FROM users WHERE id = ?1 AND generation = ?2";
    store
        .connect()?
        .query_row(sql, params![key.as_str(), generation], |row| {
            Ok(User { id: row.get(0)?, name: row.get(1)? })
        })
        .optional()
        .map_err(with_kind)
}

#[catch(401)]
fn sign_in_first() -> Redirect {
    Redirect::to("/sign-in")
}

#[get("/account")]
fn account(user: User) -> RawHtml<String> {
    // The name needs no escape: `sign_up` admits only plain characters.
    RawHtml(format!(
        "<p>the account of {}\n\
         <form method=post action=/sign-out><button>Sign out</button></form>\n",
        user.name
    ))
}

type Page = (Status, RawHtml<String>);

fn form(status: Status, path: &str, text: &str) -> Page {
    let page = format!(
        "<p>{text}<form method=post action={path}><input name=user>\
         <input name=password type=password><button>Send</button></form>\n"
    );
    (status, RawHtml(page))
}

#[derive(FromForm)]
struct Credentials {
    user: String,
    password: String,
}

#[get("/sign-up")]
fn sign_up_form() -> Page {
    form(Status::Ok, "/sign-up", "Choose a name, and a password of at least 15 characters.")
}

/// The outer result has errors, for a catcher; the inner one a redirect, or the form once more.
#[post("/sign-up", data = "<credentials>")]
async fn sign_up(
    session: &Session,
    store: &State<SqliteStore>,
    credentials: Form<Credentials>,
) -> Result<std::result::Result<Redirect, Page>> {
    let fail = |status, text| Ok(Err(form(status, "/sign-up", text)));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = &credentials.user;
    if !(1..=40).contains(&name.len()) || !name.chars().all(is_plain) {
        return fail(Status::BadRequest, "A name has 1 to 40 letters, digits, dots, - and _.");
    }
    if !(15..=200).contains(&credentials.password.chars().count()) {
        return fail(Status::BadRequest, "This password is too short, or very long.");
    }
    match hashing(store, credentials.into_inner(), create).await? {
        Some(account) => Ok(sign_in_account(session, account)?),
        None => fail(Status::Conflict, "This name is taken."),
    }
}

#[get("/sign-in")]
fn sign_in_form() -> Page {
    form(Status::Ok, "/sign-in", "Please sign in, or <a href=/sign-up>sign up</a>.")
}

#[post("/sign-in", data = "<credentials>")]
async fn sign_in(
    session: &Session,
    store: &State<SqliteStore>,
    credentials: Form<Credentials>,
) -> Result<std::result::Result<Redirect, Page>> {
    match hashing(store, credentials.into_inner(), verified).await? {
        Some(account) => Ok(sign_in_account(session, account)?),
        None => Ok(Err(form(Status::Forbidden, "/sign-in", "Wrong name or password."))),
    }
}

#[post("/sign-out")]
fn sign_out(session: &Session) -> cloakroom::Result<Redirect> {
    session.destroy()?;
    Ok(Redirect::to("/sign-in"))
}

/// A row whose password was checked.
struct Account {
    id: i64,
    generation: i64,
}

impl Account {
    fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Account { id: row.get("id")?, generation: row.get("generation")? })
    }
}

/// Signs the user in, after the check of the password.
fn sign_in_account(
    session: &Session,
    account: Account,
) -> cloakroom::Result<std::result::Result<Redirect, Page>> {
    let before: Option<i64> = session.get("generation")?;
    // Before `sign_in`, which stores it in the same step. A value that is set afterwards is lost if
    // the request fails, and `user_of` would then refuse the session.
    session.set("generation", account.generation)?;
    Ok(match session.sign_in(UserKey::new(account.id.to_string())?)? {
        SignIn::Done => Ok(Redirect::to("/account")),
        // Only with AtMaximum::Refuse. The end of the request would store the generation in the
        // session from before, which may be another user's.
        _ => {
            match before {
                Some(generation) => session.set("generation", generation)?,
                None => session.remove("generation")?,
            }
            Err(form(Status::Conflict, "/sign-in", "Too many sessions of this user."))
        }
    })
}

/// Runs `work` on a thread for blocking work, after it has waited for a permit.
async fn hashing<T: Send + 'static>(
    store: &SqliteStore,
    credentials: Credentials,
    work: fn(&SqliteStore, &Credentials) -> Result<T>,
) -> Result<T> {
    let permit = PERMITS.acquire().await?;
    let store = store.clone();
    let work = move || {
        let _permit = permit; // until the work has ended, even if the client disconnects
        work(&store, &credentials)
    };
    spawn_blocking(work).await?
}

/// Returns the account of this name if this is its password.
fn verified(store: &SqliteStore, form: &Credentials) -> Result<Option<Account>> {
    let sql = "SELECT id, generation, password_hash FROM users WHERE name = ?1";
    let row = store
        .connect()?
        .query_row(sql, [&form.user], |row| Ok((Account::from_row(row)?, row.get(2)?)))
        .optional()
        .map_err(with_kind)?;
    let hash = row.as_ref().map_or(NO_ACCOUNT, |(_, hash): &(_, String)| hash);
    let hash = PasswordHash::new(hash)?;
    let is_right = Argon2::default().verify_password(form.password.as_bytes(), &hash).is_ok();
    Ok(row.filter(|_| is_right).map(|(account, _)| account))
}

/// Creates an account; returns `None` if the name is taken.
fn create(store: &SqliteStore, form: &Credentials) -> Result<Option<Account>> {
    let hash = Argon2::default().hash_password(form.password.as_bytes())?.to_string();
    let sql = "INSERT INTO users (name, password_hash) VALUES (?1, ?2)
               ON CONFLICT DO NOTHING RETURNING id, generation";
    let created = store.connect()?.query_row(sql, [&form.user, &hash], Account::from_row);
    Ok(created.optional().map_err(with_kind)?)
}

/// If another program holds the lock of the file, the response is 503, and otherwise 500.
fn with_kind(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => ErrorKind::Busy,
        _ => ErrorKind::Unexpected,
    };
    Error::with_source(kind, "use the table of users", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rocket::http::ContentType;
    use rocket::local::blocking::Client;

    #[test]
    fn a_user_signs_up_and_out() {
        let folder = tempfile::tempdir().unwrap(); // is removed at the end of the test
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let sessions = SessionManager::new(store.clone()).unwrap();
        let client = Client::tracked(app(store, sessions).unwrap()).unwrap();
        let post = |path: &'static str, body: &str| {
            client.post(path).header(ContentType::Form).body(body).dispatch().status()
        };
        // A redirect to the form of the sign-in, or the page.
        let account = || client.get("/account").dispatch().status();

        assert_eq!(account(), Status::SeeOther);
        let ada = "user=ada&password=correct horse battery";
        assert_eq!(post("/sign-up", ada), Status::SeeOther);
        assert_eq!(account(), Status::Ok);
        assert_eq!(post("/sign-out", ""), Status::SeeOther);
        assert_eq!(account(), Status::SeeOther);
        assert_eq!(post("/sign-in", "user=ada&password=wrong"), Status::Forbidden);
        assert_eq!(post("/sign-in", ada), Status::SeeOther);
    }
}

mod checks {
    use cloakroom::testing::{Call, PausingStore};
    use rocket::http::ContentType;
    use rocket::local::blocking::Client;

    use super::*;
    use crate::pages::assert_excerpts_shown;

    // On the page:
    /// The user, or none if a visitor requests the page.
    struct MaybeUser(Option<User>);

    #[rocket::async_trait]
    impl<'r> FromRequest<'r> for MaybeUser {
        type Error = Error;

        async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
            match request.guard::<User>().await {
                Outcome::Success(user) => Outcome::Success(MaybeUser(Some(user))),
                Outcome::Forward(_) => Outcome::Success(MaybeUser(None)),
                Outcome::Error(error) => Outcome::Error(error),
            }
        }
    }

    #[get("/")]
    fn home(user: MaybeUser) -> String {
        user.0.map_or("Hello, stranger".to_owned(), |user| format!("Hello, {}", user.name))
    }
    // Not on the page.

    #[test]
    fn a_page_for_visitors_and_users_fails_with_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let pausing = PausingStore::new(store.clone());
        let sessions = SessionManager::new(pausing.clone()).unwrap();
        let rocket = app(store, sessions).unwrap().mount("/", routes![home]);
        let client = Client::tracked(rocket).unwrap();
        let page = || {
            let response = client.get("/").dispatch();
            (response.status(), response.into_string().unwrap())
        };
        assert_eq!(page(), (Status::Ok, "Hello, stranger".to_owned()));
        let ada = "user=ada&password=correct horse battery";
        let signed_up = client.post("/sign-up").header(ContentType::Form).body(ada).dispatch();
        assert_eq!(signed_up.status(), Status::SeeOther);
        assert_eq!(page(), (Status::Ok, "Hello, ada".to_owned()));
        pausing.fail(Call::Load, ErrorKind::Busy);
        assert_eq!(page().0, Status::ServiceUnavailable);
        assert_eq!(page(), (Status::Ok, "Hello, ada".to_owned()));
    }

    #[test]
    fn the_page_on_signing_in_shows_the_tested_guard() {
        let page = include_str!("../../../docs/signing-in.md");
        assert_excerpts_shown(include_str!("sign_in.rs"), page);
    }

    #[test]
    fn the_program_and_its_test_are_on_their_pages() {
        let (_, code) = include_str!("sign_in.rs").split_once("\n\n").unwrap();
        let (program, rest) = code.split_once("\n\n#[cfg(test)]\n").unwrap();
        let (test, _) = rest.split_once("\n\nmod checks").unwrap();
        let page = include_str!("../../../docs/signing-in.md");
        assert!(page.contains(&format!("```rust,no_run\n{program}\n```")));
        let page = include_str!("../../../docs/testing.md");
        assert!(page.contains(&format!("```rust,ignore\n#[cfg(test)]\n{test}\n```")));
    }
}
