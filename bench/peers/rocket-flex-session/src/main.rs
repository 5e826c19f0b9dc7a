//! Concurrent requests of one session on rocket_flex_session, in a fixed order: `/slow` loads the
//! session, waits for the response to another request with the same cookie, and changes one value.
//!
//! The argument is a store: `memory` or `sqlite`.

use std::sync::{Arc, OnceLock};

use rocket::config::{LogLevel, SecretKey};
use rocket::http::{Cookie, CookieJar, Status};
use rocket::local::asynchronous::Client;
use rocket::{Config, State, get, routes};
use rocket_flex_session::storage::memory::MemoryStorage;
use rocket_flex_session::storage::sqlx::{SessionSqlx, SqlxSqliteStorage};
use rocket_flex_session::{RocketFlexSession, SessionIdentifier};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use sqlx::sqlite::SqlitePoolOptions;

type Session<'a> = rocket_flex_session::Session<'a, Values>;

/// The application, for requests that a handler sends.
type App = Arc<OnceLock<Client>>;

#[derive(Clone, Default, Deserialize, Serialize)]
struct Values {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    theme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    visits: Option<u32>,
}

impl SessionIdentifier for Values {
    type Id = String;

    fn identifier(&self) -> Option<String> {
        self.user.clone()
    }
}

impl SessionSqlx<Sqlite> for Values {
    type Error = serde_json::Error;
    type Data = String;

    fn into_sql(self) -> serde_json::Result<String> {
        serde_json::to_string(&self)
    }

    fn from_sql(value: String) -> serde_json::Result<Self> {
        serde_json::from_str(&value)
    }
}

#[rocket::main]
async fn main() {
    let store = std::env::args().nth(1);
    match store.as_deref() {
        Some("memory") => {
            let storage = MemoryStorage::default();
            races(RocketFlexSession::builder().storage(storage).build()).await;
        }
        Some("sqlite") => {
            // One connection, because each has a database in memory to itself.
            let pool = SqlitePoolOptions::new().max_connections(1).connect("sqlite::memory:");
            let pool = pool.await.expect("a database");
            let table = "CREATE TABLE sessions (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL, \
                         user_id TEXT, expires TEXT NOT NULL)";
            sqlx::query(table).execute(&pool).await.expect("a table");
            let storage = SqlxSqliteStorage::builder().pool(pool).table_name("sessions").build();
            races(RocketFlexSession::builder().storage(storage).build()).await;
        }
        _ => eprintln!("The argument is a store: memory or sqlite."),
    }
}

async fn races(sessions: RocketFlexSession<Values>) {
    let app = App::default();
    let secret_key = SecretKey::generate().expect("random numbers");
    let config = Config { secret_key, log_level: LogLevel::Off, ..Config::debug_default() };
    let rocket = rocket::custom(config)
        .attach(sessions)
        .manage(Arc::clone(&app))
        .mount("/", routes![values, sign_in, theme, sign_out, slow]);
    let client = Client::untracked(rocket).await.expect("a server");
    assert!(app.set(client).is_ok());
    let (cookie, _) = send(&app, "/sign-in", None).await;
    send(&app, "/sign-out", cookie.clone()).await;
    assert_eq!(send(&app, "/", cookie).await.1, "{}", "a sign-out alone ends the session");
    for during in ["theme", "sign-out"] {
        let (cookie, _) = send(&app, "/sign-in", None).await;
        send(&app, &format!("/slow/{during}"), cookie.clone()).await;
        let (_, values) = send(&app, "/", cookie).await;
        println!("after /{during} during /slow: {values}");
    }
}

#[get("/")]
fn values(session: Session<'_>) -> String {
    serde_json::to_string(&session.get().unwrap_or_default()).expect("JSON")
}

#[get("/sign-in")]
fn sign_in(mut session: Session<'_>) {
    session.set(Values { user: Some("ada".to_owned()), ..Values::default() });
}

#[get("/theme")]
fn theme(mut session: Session<'_>) {
    change(&mut session, |values| values.theme = Some("dark".to_owned()));
}

#[get("/sign-out")]
fn sign_out(mut session: Session<'_>) {
    session.delete();
}

#[get("/slow/<during>")]
async fn slow(mut session: Session<'_>, jar: &CookieJar<'_>, during: &str, app: &State<App>) {
    send(app, &format!("/{during}"), jar.get("rocket").cloned()).await;
    change(&mut session, |values| values.visits = Some(1));
}

fn change(session: &mut Session<'_>, change: impl FnOnce(&mut Values)) {
    session.tap_mut(|values| change(values.get_or_insert_default()));
}

/// Returns the cookie and the body of the response.
async fn send(
    app: &App,
    path: &str,
    cookie: Option<Cookie<'static>>,
) -> (Option<Cookie<'static>>, String) {
    let request = app.get().expect("a client").get(path.to_owned()).cookies(cookie);
    let response = request.dispatch().await;
    assert_eq!(response.status(), Status::Ok, "{path}");
    let cookie = response.cookies().get("rocket").cloned();
    (cookie, response.into_string().await.unwrap_or_default())
}
