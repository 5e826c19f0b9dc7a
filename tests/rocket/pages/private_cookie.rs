//! The move from a private cookie of docs/taking-over.md, in the program of docs/signing-in.md.

use std::future::ready;

use cloakroom::stores::sqlite::rusqlite::{self, ErrorCode, OptionalExtension, params};
use cloakroom::web::rocket::guard_outcome;
use cloakroom::{Error, ErrorKind, Session, SessionManager, SignIn, SqliteStore, UserKey};
use rocket::http::{CookieJar, Status};
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::response::Redirect;
use rocket::tokio::task::block_in_place;
use rocket::{Build, Request, Rocket, State, catch, catchers, get, post, routes};

use crate::bare;
use crate::pages::GetPrivate as _;

fn app(
    store: SqliteStore,
    sessions: SessionManager,
) -> cloakroom::web::rocket::Result<Rocket<Build>> {
    store.connect()?.execute_batch(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL,
                             password_hash TEXT NOT NULL,
                             generation INTEGER NOT NULL DEFAULT 1) STRICT",
    )?;
    let routes = routes![account, asynchronous, optional, sign_out, sign_out_everywhere];
    let rocket = bare().attach(sessions).manage(store).mount("/", routes);
    Ok(rocket.register("/", catchers![sign_in_first]))
}

struct User {
    id: i64,
    name: String,
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for User {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let store = request.rocket().state::<SqliteStore>().expect("`app` manages the store");
        // On the page:
        let user = block_in_place(|| {
            take_over(session, request.cookies())?;
            user_of(store, session)
        });
        // Not on the page.
        match try_outcome!(guard_outcome(request, user)) {
            Some(user) => Outcome::Success(user),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

/// A guard that awaits the user's row, as that of the program for PostgreSQL.
struct AsyncUser(User);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for AsyncUser {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let store = request.rocket().state::<SqliteStore>().expect("`app` manages the store");
        // On the page:
        try_outcome!(guard_outcome(request, take_over(session, request.cookies())));
        // Not on the page.
        let user = ready(block_in_place(|| user_of(store, session)));
        match try_outcome!(guard_outcome(request, user.await)) {
            Some(user) => Outcome::Success(AsyncUser(user)),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

// On the page:
/// Signs in the user of the old cookie, with the generation that every user had at the move. If
/// the user has another one now, `user_of` refuses the session.
fn take_over(session: &Session, jar: &CookieJar<'_>) -> cloakroom::Result<()> {
    let Some(user) = former_user(jar) else { return Ok(()) };
    if session.user()?.is_none() {
        session.set("generation", 1)?;
        if session.sign_in(UserKey::new(user)?)? != SignIn::Done {
            session.remove("generation")?; // only with `AtMaximum::Refuse`
        }
    }
    // Otherwise the request after a sign-out would sign the user in again. If the store has
    // failed, the cookie stays, and the next request takes the user over.
    jar.remove("user_id");
    Ok(())
}

/// Returns the user of the old cookie.
fn former_user(jar: &CookieJar<'_>) -> Option<String> {
    Some(jar.get_private("user_id")?.value().to_owned())
}
// Not on the page.

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
fn account(user: User) -> String {
    user.name
}

#[get("/async")]
fn asynchronous(user: AsyncUser) -> String {
    user.0.name
}

/// A guard that the page warns of.
#[get("/optional")]
fn optional(user: Option<User>) -> String {
    user.map_or("a visitor".to_owned(), |user| user.name)
}

// On the page:
/// Removes the old cookie too, which would sign the user in again.
#[post("/sign-out")]
fn sign_out(session: &Session, jar: &CookieJar<'_>) -> cloakroom::Result<Redirect> {
    session.destroy()?;
    jar.remove("user_id");
    Ok(Redirect::to("/sign-in"))
}
// Not on the page.

/// Raises the generation, because `sign_out_everywhere` does not reach copies of the old cookie.
#[post("/sign-out-everywhere")]
fn sign_out_everywhere(
    sessions: &SessionManager,
    session: &Session,
    store: &State<SqliteStore>,
    user: User,
) -> cloakroom::Result<Redirect> {
    // On the page:
    let sql = "UPDATE users SET generation = generation + 1 WHERE id = ?1";
    block_in_place(|| store.connect()?.execute(sql, [user.id]).map_err(with_kind))?;
    sessions.sign_out_everywhere(session)?;
    // Not on the page.
    Ok(Redirect::to("/"))
}

fn with_kind(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => ErrorKind::Busy,
        _ => ErrorKind::Unexpected,
    };
    Error::with_source(kind, "use the table of users", error)
}

mod checks {
    use cloakroom::testing::{Call, PausingStore};
    use rocket::local::blocking::{Client, LocalRequest, LocalResponse};

    use super::*;
    use crate::pages::assert_excerpts_shown;

    /// In place of a method of Rocket's feature `secrets`.
    trait PrivateCookie {
        /// Adds the cookie in clear.
        fn private_cookie(self, cookie: (&'static str, &'static str)) -> Self;
    }

    impl PrivateCookie for LocalRequest<'_> {
        fn private_cookie(self, cookie: (&'static str, &'static str)) -> Self {
            self.cookie(cookie)
        }
    }

    // On the page:
    #[test]
    fn the_user_of_a_private_cookie_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let sessions = SessionManager::new(store.clone()).unwrap();
        let client = Client::tracked(app(store.clone(), sessions).unwrap()).unwrap();
        let ada = "INSERT INTO users (id, name, password_hash) VALUES (1, 'ada', '')";
        store.connect().unwrap().execute(ada, []).unwrap();

        let first = client.get("/account").private_cookie(("user_id", "1")).dispatch();
        assert_eq!(first.status(), Status::Ok);
        assert!(first.headers().get("Set-Cookie").any(|set| set.starts_with("user_id=;")));
        let account = || client.get("/account").dispatch().status();
        assert_eq!(account(), Status::Ok); // by the session
        assert_eq!(client.post("/sign-out").dispatch().status(), Status::SeeOther);
        assert_eq!(account(), Status::SeeOther); // to the form of the sign-in
    }
    // Not on the page.

    /// A browser of an application with one user, ada, whose number is 1.
    fn browser(store: SqliteStore, sessions: SessionManager) -> Client {
        let client = Client::tracked(app(store.clone(), sessions).unwrap()).unwrap();
        let ada = "INSERT INTO users (id, name, password_hash) VALUES (1, 'ada', '')";
        store.connect().unwrap().execute(ada, []).unwrap();
        client
    }

    fn browser_of_a_store_that_works(folder: &tempfile::TempDir) -> Client {
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let sessions = SessionManager::new(store.clone()).unwrap();
        browser(store, sessions)
    }

    fn status_with(client: &Client, user: &'static str) -> Status {
        client.get("/account").cookie(("user_id", user)).dispatch().status()
    }

    fn removes_the_old_cookie(response: &LocalResponse<'_>) -> bool {
        response.headers().get("Set-Cookie").any(|set| set.starts_with("user_id=;"))
    }

    #[test]
    fn a_sign_out_as_the_first_request_removes_the_cookie() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser_of_a_store_that_works(&folder);
        let sign_out = client.post("/sign-out").cookie(("user_id", "1")).dispatch();
        assert_eq!(sign_out.status(), Status::SeeOther);
        assert!(removes_the_old_cookie(&sign_out));
        drop(sign_out);
        assert_eq!(client.get("/account").dispatch().status(), Status::SeeOther);
    }

    #[test]
    fn a_guard_with_an_asynchronous_query_takes_the_user_over() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser_of_a_store_that_works(&folder);
        let first = client.get("/async").cookie(("user_id", "1")).dispatch();
        assert!(removes_the_old_cookie(&first));
        assert_eq!(first.into_string().as_deref(), Some("ada"));
    }

    #[test]
    fn an_old_cookie_beside_a_session_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser_of_a_store_that_works(&folder);
        assert_eq!(status_with(&client, "1"), Status::Ok);
        let again = client.get("/account").cookie(("user_id", "1")).dispatch();
        assert_eq!(again.status(), Status::Ok);
        assert!(removes_the_old_cookie(&again));
    }

    #[test]
    fn a_copy_of_the_cookie_is_refused_by_a_new_generation() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser_of_a_store_that_works(&folder);
        assert_eq!(status_with(&client, "1"), Status::Ok);
        let ended = client.post("/sign-out-everywhere").dispatch().status();
        assert_eq!(ended, Status::SeeOther);
        let refused = client.get("/account").cookie(("user_id", "1")).dispatch();
        assert_eq!(refused.status(), Status::SeeOther);
        assert!(!removes_the_old_cookie(&refused));
    }

    #[test]
    fn the_cookie_of_a_deleted_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser_of_a_store_that_works(&folder);
        assert_eq!(status_with(&client, "2"), Status::SeeOther);
    }

    #[test]
    fn the_cookie_stays_if_the_store_fails() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let pausing = PausingStore::new(store.clone());
        let client = browser(store, SessionManager::new(pausing.clone()).unwrap());
        pausing.fail(Call::Commit, ErrorKind::Busy);
        assert_eq!(status_with(&client, "1"), Status::ServiceUnavailable);
        let next = client.get("/account").cookie(("user_id", "1")).dispatch();
        assert_eq!(next.status(), Status::Ok);
        assert!(removes_the_old_cookie(&next));
    }

    #[test]
    fn the_cookie_stays_if_a_handler_answers_the_failure() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let pausing = PausingStore::new(store.clone());
        let client = browser(store, SessionManager::new(pausing.clone()).unwrap());
        pausing.fail(Call::Commit, ErrorKind::Busy);
        let failed = client.get("/optional").cookie(("user_id", "1")).dispatch();
        assert_eq!(failed.status(), Status::Ok);
        assert!(!removes_the_old_cookie(&failed));
        assert_eq!(failed.into_string().as_deref(), Some("a visitor"));
        let next = client.get("/optional").cookie(("user_id", "1")).dispatch();
        assert!(removes_the_old_cookie(&next));
        assert_eq!(next.into_string().as_deref(), Some("ada"));
    }

    #[test]
    fn the_page_on_taking_over_shows_the_tested_code() {
        let page = include_str!("../../../docs/taking-over.md");
        assert_excerpts_shown(include_str!("private_cookie.rs"), page);
    }
}
