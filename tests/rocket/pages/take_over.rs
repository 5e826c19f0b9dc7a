//! The guard that takes users over of docs/taking-over.md.

use cloakroom::web::rocket::guard_outcome;
use cloakroom::{Error, Session, SignIn, SqliteStore, UserKey};
use rocket::Request;
use rocket::http::Status;
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::tokio::task::block_in_place;

/// Signs in the user of an old session. The old session has ended in any case, so that it does not
/// come back after a sign-out.
fn take_over(session: &Session, former: Option<String>) -> cloakroom::Result<bool> {
    let (None, Some(user)) = (session.user()?, former) else { return Ok(false) };
    Ok(session.sign_in(UserKey::new(user)?)? == SignIn::Done)
}

/// The guard of all routes for users.
struct User(UserKey);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for User {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        let taken = take_over(session, block_in_place(|| former_user(request)));
        match try_outcome!(guard_outcome(request, taken.and_then(|_| session.user()))) {
            Some(user) => Outcome::Success(User(user)),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

/// Finds and ends the old session of the request, and returns its user.
fn former_user(request: &Request<'_>) -> Option<String> {
    let store = request.rocket().state::<SqliteStore>().expect("call `manage(store)` at the start");
    let jar = request.cookies();
    let id = jar.get("SID")?.value().to_owned();
    jar.remove("SID");
    owner(store, &id)
}

/// Deletes the old session, and returns its user. An error counts as no session.
fn owner(store: &SqliteStore, id: &str) -> Option<String> {
    let sql = "DELETE FROM former_sessions WHERE id = ?1 RETURNING user";
    store.connect().ok()?.query_row(sql, [id], |row| row.get(0)).ok()
}

mod checks {
    use cloakroom::SessionManager;
    use rocket::local::blocking::Client;
    use rocket::{get, post, routes};

    use super::*;
    use crate::bare;
    use crate::pages::assert_shown;

    #[get("/")]
    fn index(user: User) -> String {
        user.0.to_string()
    }

    #[post("/sign-in")]
    fn sign_in(session: &Session) -> cloakroom::Result<()> {
        assert_eq!(session.sign_in(UserKey::new("ada")?)?, SignIn::Done);
        Ok(())
    }

    #[post("/sign-out")]
    fn sign_out(session: &Session, _user: User) -> cloakroom::Result<()> {
        session.destroy()
    }

    /// A browser, with `former` as the id of an old session of ada.
    fn browser(folder: &tempfile::TempDir) -> Client {
        let store = SqliteStore::open(folder.path().join("app.db")).unwrap();
        let sql = "CREATE TABLE former_sessions (id TEXT PRIMARY KEY, user TEXT NOT NULL) STRICT;
                   INSERT INTO former_sessions VALUES ('former', 'ada')";
        store.connect().unwrap().execute_batch(sql).unwrap();
        let sessions = SessionManager::new(store.clone()).unwrap();
        let routes = routes![index, sign_in, sign_out];
        let rocket = bare().attach(sessions).manage(store).mount("/", routes);
        Client::tracked(rocket).unwrap()
    }

    #[test]
    fn the_user_of_an_old_cookie_is_taken_over_once() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser(&folder);
        let status = || client.get("/").dispatch().status();
        let status_with = |id| client.get("/").cookie(("SID", id)).dispatch().status();
        assert_eq!(status(), Status::Unauthorized);
        assert_eq!(status_with("x"), Status::Unauthorized);
        let first = client.get("/").cookie(("SID", "former")).dispatch();
        assert!(first.headers().get("Set-Cookie").any(|set| set.starts_with("SID=;")));
        assert_eq!(first.into_string().as_deref(), Some("ada"));
        assert_eq!(status(), Status::Ok, "by the session");
        client.post("/sign-out").dispatch();
        assert_eq!(status_with("former"), Status::Unauthorized, "a second time");
    }

    #[test]
    fn an_old_session_ends_with_a_session_that_began_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let client = browser(&folder);
        client.post("/sign-in").dispatch();
        let sign_out = client.post("/sign-out").cookie(("SID", "former")).dispatch();
        assert_eq!(sign_out.status(), Status::Ok);
        let next = client.get("/").cookie(("SID", "former")).dispatch();
        assert_eq!(next.status(), Status::Unauthorized);
    }

    #[test]
    fn the_page_on_taking_over_shows_the_tested_take_over() {
        assert_shown(include_str!("take_over.rs"), include_str!("../../../docs/taking-over.md"));
    }
}
