//! The move from a private cookie of docs/taking-over.md.
use crate::pages::GetPrivate as _; // not on the page

use cloakroom::stores::sqlite::rusqlite::{self, ErrorCode, OptionalExtension, params};
use cloakroom::web::rocket::guard_outcome;
use cloakroom::{Error, ErrorKind, Session, SessionManager, SignIn, SqliteStore, UserKey};
use rocket::http::{CookieJar, Status};
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::response::Redirect;
use rocket::tokio::task::block_in_place;
use rocket::{Request, State, post};

/// The guard of all routes for users.
struct User {
    id: i64,
    name: String,
}

#[rocket::async_trait]
impl<'r> FromRequest<'r> for User {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let store = request.rocket().state::<SqliteStore>().expect("call `manage(store)` at start");
        let former = former_user(request.cookies());
        let user = block_in_place(|| {
            take_over(session, former)?;
            user_of(store, session)
        });
        match try_outcome!(guard_outcome(request, user)) {
            Some(user) => Outcome::Success(user),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

/// Returns the user of the old cookie, and removes the cookie: otherwise the request after a
/// sign-out would sign the user in again.
fn former_user(jar: &CookieJar<'_>) -> Option<String> {
    let user = jar.get_private("user_id")?.value().to_owned();
    jar.remove("user_id"); // as `remove_private` does
    Some(user)
}

/// Signs in the user of the old cookie, with the generation that every user had at the move. If the
/// user has another one now, `user_of` refuses the session.
fn take_over(session: &Session, former: Option<String>) -> cloakroom::Result<()> {
    let (None, Some(user)) = (session.user()?, former) else { return Ok(()) };
    session.set("generation", 1)?;
    if session.sign_in(UserKey::new(user)?)? != SignIn::Done {
        session.remove("generation")?; // only with `AtMaximum::Refuse`
    }
    Ok(())
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

/// Takes the guard `User` too, so that the old cookie is removed even if this is the first request
/// after the move.
#[post("/sign-out")]
fn sign_out(session: &Session, _user: User) -> cloakroom::Result<Redirect> {
    session.destroy()?;
    Ok(Redirect::to("/"))
}

/// Raises the generation, because `sign_out_everywhere` does not reach copies of the old cookie.
#[post("/sign-out-everywhere")]
fn sign_out_everywhere(
    sessions: &SessionManager,
    session: &Session,
    store: &State<SqliteStore>,
    user: User,
) -> cloakroom::Result<Redirect> {
    let sql = "UPDATE users SET generation = generation + 1 WHERE id = ?1";
    block_in_place(|| store.connect()?.execute(sql, [user.id]).map_err(with_kind))?;
    sessions.sign_out_everywhere(session)?;
    Ok(Redirect::to("/"))
}

/// If another program holds the lock of the file, the response is 503, and otherwise 500.
fn with_kind(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy) => ErrorKind::Busy,
        _ => ErrorKind::Unexpected,
    };
    Error::with_source(kind, "use the table of users", error)
}

mod checks {
    use rocket::local::blocking::Client;
    use rocket::{get, routes};

    use super::*;
    use crate::bare;
    use crate::pages::assert_shown;

    #[get("/")]
    fn index(user: User) -> String {
        user.name
    }

    /// A browser of an application with one user, ada, whose number is 1.
    fn browser(folder: &tempfile::TempDir) -> Client {
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let sql = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL,
                                       generation INTEGER NOT NULL DEFAULT 1) STRICT;
                   INSERT INTO users (id, name) VALUES (1, 'ada')";
        store.connect().unwrap().execute_batch(sql).unwrap();
        let sessions = SessionManager::new(store.clone()).unwrap();
        let routes = routes![index, sign_out, sign_out_everywhere];
        Client::tracked(bare().attach(sessions).manage(store).mount("/", routes)).unwrap()
    }

    fn status_with(client: &Client, user: &'static str) -> Status {
        client.get("/").cookie(("user_id", user)).dispatch().status()
    }

    #[test]
    fn the_user_of_a_private_cookie_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser(&folder);
        let status = || client.get("/").dispatch().status();
        assert_eq!(status(), Status::Unauthorized);
        let first = client.get("/").cookie(("user_id", "1")).dispatch();
        assert!(first.headers().get("Set-Cookie").any(|set| set.starts_with("user_id=;")));
        assert_eq!(first.into_string().as_deref(), Some("ada"));
        assert_eq!(status(), Status::Ok, "by the session");
        client.post("/sign-out").dispatch();
        assert_eq!(status(), Status::Unauthorized, "after the sign-out");
    }

    #[test]
    fn a_sign_out_as_the_first_request_removes_the_cookie() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser(&folder);
        let sign_out = client.post("/sign-out").cookie(("user_id", "1")).dispatch();
        assert_eq!(sign_out.status(), Status::SeeOther);
        assert!(sign_out.headers().get("Set-Cookie").any(|set| set.starts_with("user_id=;")));
        drop(sign_out);
        assert_eq!(client.get("/").dispatch().status(), Status::Unauthorized);
    }

    #[test]
    fn a_copy_of_the_cookie_is_refused_by_a_new_generation() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser(&folder);
        assert_eq!(status_with(&client, "1"), Status::Ok);
        let ended = client.post("/sign-out-everywhere").dispatch().status();
        assert_eq!(ended, Status::SeeOther);
        assert_eq!(status_with(&client, "1"), Status::Unauthorized);
    }

    #[test]
    fn the_cookie_of_a_deleted_user_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(status_with(&browser(&folder), "2"), Status::Unauthorized);
    }

    #[test]
    fn the_page_on_taking_over_shows_the_tested_program() {
        let page = include_str!("../../../docs/taking-over.md");
        assert_shown(include_str!("private_cookie.rs"), page);
    }
}
