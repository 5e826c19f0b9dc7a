//! Mistakes that stop a launch of Rocket, and their messages. A program of its own, because it
//! keeps what is logged.

use std::sync::{Mutex, Once};

use cloakroom::web::rocket::{ManagerOf, SessionOf, Sessions};
use cloakroom::{MemoryStore, Session, SessionManager};
use rocket::config::{Config, LogLevel};
use rocket::local::{asynchronous, blocking};
use rocket::{Build, Rocket, get, post, routes};

fn memory() -> SessionManager {
    SessionManager::new(MemoryStore::new()).unwrap()
}

fn bare() -> Rocket<Build> {
    // Before Rocket sets a logger of its own.
    logged();
    rocket::custom(Config { log_level: LogLevel::Off, ..Config::debug_default() })
}

struct Admin;

#[get("/")]
fn visits(session: &Session) -> cloakroom::Result<String> {
    Ok(session.get::<u32>("visits")?.unwrap_or(0).to_string())
}

#[post("/")]
fn count(session: &Session) -> cloakroom::Result<String> {
    Ok(session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?.to_string())
}

#[get("/status")]
fn status(sessions: &SessionManager) -> String {
    format!("{sessions:?}")
}

#[get("/admin")]
fn admin(session: SessionOf<'_, Admin>) -> cloakroom::Result<String> {
    Ok(format!("{:?}", session.user()?))
}

#[get("/admin/status")]
fn admin_status(sessions: ManagerOf<'_, Admin>) -> String {
    format!("{sessions:?}")
}

/// The lines that launches logged.
fn logged() -> &'static Mutex<Vec<String>> {
    struct Kept;
    static LINES: Mutex<Vec<String>> = Mutex::new(vec![]);
    impl log::Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            if record.target() == "cloakroom" {
                LINES.lock().unwrap().push(record.args().to_string());
            }
        }
        fn flush(&self) {}
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Kept).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    &LINES
}

/// Why a launch fails: the error's kind, and whether these words were logged.
fn refusal(rocket: Rocket<Build>, words: &str) -> String {
    let lines = logged();
    let error = blocking::Client::untracked(rocket).unwrap_err();
    let kind = format!("{:?}", error.kind());
    let lines = lines.lock().unwrap();
    assert!(lines.iter().any(|line| line.contains(words)), "{words:?} is not in {lines:?}");
    kind
}

#[test]
fn a_session_route_without_a_manager_fails_the_launch() {
    let missing = "attach(sessions)";
    assert!(refusal(bare().mount("/", routes![visits]), missing).contains("Sentinel"));
    assert!(refusal(bare().mount("/", routes![status]), missing).contains("Sentinel"));
    let other = bare().attach(memory()).mount("/", routes![visits, admin]);
    assert!(refusal(other, "Admin>::of(sessions)").contains("Sentinel"));
    let other = bare().attach(memory()).mount("/", routes![admin_status]);
    assert!(refusal(other, "Admin>::of(sessions)").contains("Sentinel"));
}

#[test]
fn a_second_manager_without_its_own_type_fails_the_launch() {
    let twice = bare().attach(memory()).attach(memory()).mount("/", routes![visits]);
    refusal(twice, "a second one needs a type of its own");
    let twice = bare().attach(memory()).attach(Sessions::<()>::of(memory()));
    refusal(twice, "a second one needs a type of its own");
}

#[test]
fn a_current_thread_runtime_fails_the_launch_unless_inline() {
    let lines = logged();
    let runtime = rocket::tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap().block_on(async {
        let rocket = || bare().mount("/", routes![count]);
        let launch = rocket().attach(memory()).ignite().await;
        assert!(format!("{:?}", launch.unwrap_err().kind()).contains("FailedFairings"));
        let found =
            lines.lock().unwrap().iter().any(|line| line.contains("a multi-threaded runtime"));
        assert!(found, "{lines:?}");

        let inline = Sessions::<()>::of(memory()).inline(true);
        let client = asynchronous::Client::untracked(rocket().attach(inline)).await.unwrap();
        let response = client.post("/").dispatch().await;
        assert!(response.headers().contains("Set-Cookie"));
        assert_eq!(response.into_string().await.unwrap(), "1");
    });
}
