//! Concurrent requests of one session on tower-sessions, in a fixed order: `/slow` loads the
//! session, waits for the response to another request with the same cookie, and changes one value.
//!
//! The argument is a store: `memory` or `sqlite`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{COOKIE, SET_COOKIE};
use axum::routing::get;
use serde_json::Value;
use tokio_rusqlite::Connection;
use tower::ServiceExt as _;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, SessionStore};
use tower_sessions_rusqlite_store::RusqliteStore;

/// The application, for requests that a handler sends.
type App = Arc<OnceLock<Router>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("memory") => races(MemoryStore::default()).await,
        Some("sqlite") => {
            let connection = Connection::open_in_memory().await.expect("a database");
            let store = RusqliteStore::new(connection);
            store.migrate().await.expect("a table");
            races(store).await;
        }
        _ => eprintln!("The argument is a store: memory or sqlite."),
    }
}

async fn races<S: SessionStore + Clone>(store: S) {
    let app = App::default();
    let router = Router::new()
        .route("/", get(values))
        .route("/sign-in", get(|session: Session| set(session, "user", "ada")))
        .route("/theme", get(|session: Session| set(session, "theme", "dark")))
        .route("/sign-out", get(async |session: Session| session.flush().await.expect("an end")))
        .route("/slow/{during}", get(slow))
        .layer(SessionManagerLayer::new(store))
        .with_state(Arc::clone(&app));
    app.set(router).expect("it is set once");
    let (cookie, _) = send(&app, "/sign-in", "").await;
    send(&app, "/sign-out", &cookie).await;
    assert_eq!(send(&app, "/", &cookie).await.1, "{}", "a sign-out alone ends the session");
    for during in ["theme", "sign-out"] {
        let (cookie, _) = send(&app, "/sign-in", "").await;
        send(&app, &format!("/slow/{during}"), &cookie).await;
        let (_, values) = send(&app, "/", &cookie).await;
        println!("after /{during} during /slow: {values}");
    }
}

async fn values(session: Session) -> String {
    let mut values = BTreeMap::new();
    for name in ["user", "theme", "visits"] {
        let value: Option<Value> = session.get(name).await.expect("the session loads");
        values.extend(value.map(|value| (name, value)));
    }
    serde_json::to_string(&values).expect("JSON")
}

async fn set(session: Session, name: &str, value: &str) {
    session.insert(name, value).await.expect("it is set");
}

async fn slow(State(app): State<App>, session: Session, headers: HeaderMap, request: Request) {
    let user: Option<String> = session.get("user").await.expect("the session loads");
    assert_eq!(user.as_deref(), Some("ada"));
    let during = request.uri().path().trim_start_matches("/slow").to_owned();
    send(&app, &during, headers[COOKIE].to_str().expect("text")).await;
    session.insert("visits", 1).await.expect("it is set");
}

/// Returns the cookie and the body of the response.
async fn send(app: &App, path: &str, cookie: &str) -> (String, String) {
    let request = Request::get(path).header(COOKIE, cookie).body(Body::empty());
    let router = app.get().expect("a router").clone();
    let response = router.oneshot(request.expect("a request")).await.expect("a response");
    assert!(response.status().is_success(), "{path}: {}", response.status());
    let cookie = response.headers().get(SET_COOKIE).map_or("", |set| set.to_str().expect("text"));
    let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
    let body = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
    (cookie, String::from_utf8(body.into()).expect("text"))
}
