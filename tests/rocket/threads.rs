//! Asynchronous handlers that take turns on one thread.

use std::sync::Arc;

use cloakroom::web::rocket::Sessions;
use cloakroom::{MemoryStore, Session, SessionManager, UserKey};
use rocket::config::{Config, LogLevel};
use rocket::http::Header;
use rocket::local::asynchronous::Client;
use rocket::tokio::sync::Notify;
use rocket::{State, get, post, routes};

struct AsyncGate {
    reached: Notify,
    opened: Notify,
}

/// A page that asks another server for something.
#[get("/slow")]
async fn slow(session: &Session, gate: &State<Arc<AsyncGate>>) -> cloakroom::Result<String> {
    let user = session.user()?;
    gate.reached.notify_one();
    gate.opened.notified().await;
    Ok(format!("{user:?}"))
}

/// Ends all sessions of the user, and signs them in again here.
#[post("/password")]
async fn password(session: &Session, all: &SessionManager) -> cloakroom::Result<&'static str> {
    let ada = UserKey::new("ada")?;
    all.revoke_for_user(&ada, Some(session))?;
    let _ = session.sign_in(ada)?;
    Ok("changed")
}

#[test]
fn an_async_page_beside_a_change_of_password_removes_no_cookie() {
    let runtime = rocket::tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        let sessions = SessionManager::new(MemoryStore::new()).unwrap();
        let session = sessions.open(None);
        let _ = session.sign_in(UserKey::new("ada").unwrap()).unwrap();
        let headers = sessions.close(&session, cloakroom::adapter::Outcome::Completed).unwrap();
        let (_, set) = headers.iter().find(|(name, _)| *name == "Set-Cookie").unwrap();
        let cookie = set.split(';').next().unwrap().to_owned();
        let gate = Arc::new(AsyncGate { reached: Notify::new(), opened: Notify::new() });
        let rocket = rocket::custom(Config { log_level: LogLevel::Off, ..Config::debug_default() });
        let rocket = rocket.attach(Sessions::<()>::of(sessions).inline(true)).manage(gate.clone());
        let client = Client::untracked(rocket.mount("/", routes![slow, password])).await.unwrap();
        let page = client.get("/slow").header(Header::new("Cookie", cookie.clone())).dispatch();
        let change = async {
            gate.reached.notified().await;
            let change = client.post("/password").header(Header::new("Cookie", cookie.clone()));
            let status = change.dispatch().await.status();
            gate.opened.notify_one();
            status
        };
        let (page, status) = rocket::tokio::join!(page, change);
        assert_eq!(status.code, 200);
        let set: Vec<_> = page.headers().get("Set-Cookie").collect();
        assert!(!set.iter().any(|set| set.contains("Max-Age=0")), "a read removes it: {set:?}");
    });
}
