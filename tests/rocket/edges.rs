//! Rocket in the corners: panics that are caught, several managers, answers that replace others,
//! and requests that nothing ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::common::client::send;
use crate::common::rocket_server::RocketServer;
use crate::{bare, client, cookie, given, memory, pausing};
use cloakroom::adapter::Outcome;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::PublicId;
use cloakroom::testing::{Call, PausingStore, signed_in, with_session};
use cloakroom::web::rocket::{SessionOf, Sessions};
use cloakroom::{CookieConfig, Error, ErrorKind, MemoryStore, Session, SessionManager, UserKey};
use rocket::config::LogLevel;
use rocket::fairing::AdHoc;
use rocket::http::{CookieJar, Header, Status};
use rocket::local::{asynchronous, blocking};
use rocket::response::Redirect;
use rocket::tokio::runtime::Handle;
use rocket::tokio::task::LocalSet;
use rocket::{catch, catchers, get, post, routes};

// Panics.

#[post("/caught")]
fn caught(session: &Session) -> cloakroom::Result<&'static str> {
    let parsed = std::panic::catch_unwind(|| -> u32 { panic!("a library's bug") }).unwrap_or(0);
    session.set("parsed", parsed)?;
    Ok("done")
}

#[test]
fn a_panic_that_the_handler_has_caught_discards_nothing() {
    let local = client(bare().attach(memory()).mount("/", routes![caught]));
    let response = local.post("/caught").dispatch();
    assert_eq!(response.status(), Status::Ok);
    assert!(given(&response).is_some(), "it answered 200, so its changes are stored");

    let server = RocketServer::start(bare().attach(memory()).mount("/", routes![caught]));
    let response = send(server.address, &crate::common::client::Request::post("/caught")).unwrap();
    assert_eq!(response.status, 200);
    assert!(response.id().is_some(), "the same on a socket");
}

#[post("/panics")]
fn panics(session: &Session) -> cloakroom::Result<&'static str> {
    session.set("name", "ada")?;
    panic!("as planned")
}

#[catch(500)]
async fn while_others_panic() -> Redirect {
    for _ in 0..64 {
        let _ = rocket::tokio::spawn(async { panic!("elsewhere") }).await;
    }
    Redirect::to("/sorry")
}

#[test]
fn a_panic_is_not_forgotten_while_others_panic() {
    let rocket = bare().attach(memory()).mount("/", routes![panics]);
    let client = client(rocket.register("/", catchers![while_others_panic]));
    let response = client.post("/panics").dispatch();
    assert!(given(&response).is_none(), "stored although the handler panicked");
}

static CAUGHT: AtomicUsize = AtomicUsize::new(0);

#[catch(500)]
fn counts() -> Redirect {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
    Redirect::to("/sorry")
}

#[test]
fn the_catcher_of_a_panic_runs_once_and_nothing_is_stored() {
    let sessions = memory();
    let rocket = bare().attach(sessions.clone()).mount("/", routes![panics, caught, jar]);
    let server = RocketServer::start(rocket.register("/", catchers![counts]));
    let send = |path| send(server.address, &crate::common::client::Request::post(path)).unwrap();
    let response = send("/panics");
    assert_eq!((response.status, response.one("Location")), (303, Some("/sorry")));
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
    assert!(response.all("Set-Cookie").is_empty(), "{response:?}");
    assert_eq!(sessions.events().count(EventKind::HandlerFailed), 1);
    // A panic that the handler has caught is none of the catcher's.
    let response = send("/caught");
    assert_eq!((response.status, response.all("Set-Cookie").len()), (200, 1));
    assert!(response.id().is_some());
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 1);
    assert_eq!(sessions.events().count(EventKind::HandlerFailed), 1);
    // The handler's own cookies are sent as they are.
    let cookies = send("/jar");
    let own: Vec<_> = cookies
        .all("Set-Cookie")
        .into_iter()
        .filter(|value| !value.starts_with("__Host-"))
        .collect();
    assert_eq!(own.len(), 2, "{cookies:?}");
    assert!(own.iter().any(|value| value.starts_with("theme=dark")), "{own:?}");
    assert!(own.iter().any(|value| value.starts_with("lang=en")), "{own:?}");
}

/// Signs out, which the store does not let happen, and fails with the same status.
#[post("/fails-twice/<how>")]
fn fails_twice(how: &str, session: &Session) -> cloakroom::Result<&'static str> {
    session.destroy()?;
    match how {
        "panic" => panic!("as planned"),
        _ => Err(Error::new(ErrorKind::Full, "try")),
    }
}

#[test]
fn a_catcher_that_has_answered_the_failure_is_not_asked_again() {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    #[catch(default)]
    fn counts_all(status: Status, _: &rocket::Request<'_>) -> String {
        ASKED.fetch_add(1, Ordering::SeqCst);
        format!("caught {}", status.code)
    }
    let (store, sessions) = pausing();
    let rocket = bare().attach(sessions.clone()).mount("/", routes![fails_twice]);
    let server = RocketServer::start(rocket.register("/", catchers![counts_all]));
    let visitor = with_session(&sessions, |session| session.set("n", 1)).unwrap();
    for (how, kind, status, asked) in [
        ("panic", ErrorKind::Full, 500, 1),
        ("error", ErrorKind::Full, 500, 1),
        // A failed commit has another status than an error of the handler.
        ("panic", ErrorKind::Busy, 503, 2),
        ("error", ErrorKind::Busy, 503, 2),
    ] {
        let before = ASKED.load(Ordering::SeqCst);
        store.fail(Call::Commit, kind);
        let request =
            crate::common::client::Request::post(format!("/fails-twice/{how}")).cookie(&visitor);
        let response = send(server.address, &request).unwrap();
        assert_eq!(response.status, status, "{how}");
        assert_eq!(response.text(), format!("caught {status}"), "{how}");
        assert_eq!(ASKED.load(Ordering::SeqCst) - before, asked, "{how} {kind}");
        assert!(response.all("Set-Cookie").is_empty(), "{response:?}");
    }
}

#[post("/jar")]
fn jar(jar: &CookieJar<'_>, session: &Session) -> cloakroom::Result<&'static str> {
    jar.add(("theme", "dark"));
    session.set("n", 1)?;
    jar.add(("lang", "en"));
    Ok("done")
}

#[post("/out")]
fn out(session: &Session) -> cloakroom::Result<&'static str> {
    session.destroy()?;
    Ok("out")
}

#[test]
fn a_sign_out_is_done_though_another_fairing_panics() {
    let sessions = memory();
    let visitor = with_session(&sessions, |session| session.set("n", 1)).unwrap();
    let bad = AdHoc::on_response("bad", |_, _| Box::pin(async { panic!("as planned") }));
    let rocket = bare().attach(bad).attach(sessions.clone()).mount("/", routes![out]);
    let server = RocketServer::start(rocket);
    let request = crate::common::client::Request::post("/out").cookie(&visitor);
    assert!(send(server.address, &request).is_err(), "Rocket gives no answer");
    let session = sessions.open(Some(visitor.as_str()));
    assert!(!session.contains("n").unwrap(), "it is still signed in");
}

#[post("/write-and-ignore")]
fn write_and_ignore(session: &Session) -> cloakroom::Result<&'static str> {
    session.set("n", 1)?;
    session.ignore()?;
    Ok("ignored")
}

#[test]
fn another_fairings_panic_discards_only_what_was_to_store() {
    for (path, discarded) in [("/write", 1), ("/write-and-ignore", 0)] {
        let sessions = memory();
        let bad = AdHoc::on_response("bad", |_, _| Box::pin(async { panic!("as planned") }));
        let routes = routes![write_without_a_read, write_and_ignore];
        let rocket = bare().attach(bad).attach(sessions.clone()).mount("/", routes);
        let server = RocketServer::start(rocket);
        let request = crate::common::client::Request::post(path);
        assert!(send(server.address, &request).is_err(), "Rocket gives no answer");
        assert_eq!(sessions.events().count(EventKind::ChangesDiscarded), discarded, "{path}");
    }
}

/// Sends the public ids of the sessions whose changes were discarded.
#[derive(Debug)]
struct Discards(mpsc::Sender<Option<PublicId>>);

impl Sink for Discards {
    fn record(&self, event: &Event<'_>) {
        if let Event::ChangesDiscarded { public_id } = event {
            // At the end of a test the receiver is gone.
            let _ = self.0.send(public_id.copied());
        }
    }
}

#[post("/count")]
fn count(session: &Session) -> cloakroom::Result<String> {
    Ok(session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?.to_string())
}

#[test]
fn changes_lost_by_another_fairings_panic_name_their_session() {
    let (sender, discards) = mpsc::channel();
    let builder = SessionManager::builder(MemoryStore::new());
    let sessions = builder.events(Events::new(Discards(sender))).build().unwrap();
    let visitor = with_session(&sessions, |session| session.set("visits", 1)).unwrap();
    let public_id = sessions.open(Some(visitor.as_str())).public_id().unwrap();
    assert!(public_id.is_some());
    let bad = AdHoc::on_response("bad", |_, _| Box::pin(async { panic!("as planned") }));
    let server =
        RocketServer::start(bare().attach(bad).attach(sessions).mount("/", routes![count]));
    let request = crate::common::client::Request::post("/count").cookie(&visitor);
    assert!(send(server.address, &request).is_err(), "Rocket gives no answer");
    assert_eq!(discards.try_recv(), Ok(public_id));
}

// Responses to failed commits.

#[test]
fn the_response_to_a_failed_commit_has_rockets_headers() {
    let (store, sessions) = pausing();
    let client = client(bare().attach(sessions).mount("/", routes![count]));
    let names = |response: &blocking::LocalResponse<'_>| -> Vec<String> {
        response.headers().iter().map(|header| header.name().to_string()).collect()
    };
    // An error page of Rocket's own: with X-Content-Type-Options, X-Frame-Options, Server, …
    let usual = names(&client.post("/nowhere").dispatch());
    store.fail(Call::Commit, ErrorKind::Busy);
    let response = client.post("/count").dispatch();
    assert_eq!(response.status(), Status::ServiceUnavailable);
    let have = names(&response);
    let missing: Vec<_> = usual.iter().filter(|name| !have.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Writes without a read.
#[post("/write")]
fn write_without_a_read(session: &Session) -> cloakroom::Result<&'static str> {
    session.set("n", 1)?;
    Ok("done")
}

#[catch(503)]
async fn greets(request: &rocket::Request<'_>) -> String {
    let session = request.guard::<&Session>().await.succeeded().unwrap();
    format!("sorry, {}", session.user().unwrap().unwrap())
}

#[test]
fn an_error_page_that_shows_the_user_is_not_stored_by_caches() {
    let store = PausingStore::new(MemoryStore::new());
    let builder = SessionManager::builder(store.clone()).no_store_when_signed_in(true);
    let sessions = builder.build().unwrap();
    let ada = signed_in(&sessions, UserKey::new("ada").unwrap()).unwrap();
    let rocket = bare().attach(sessions).mount("/", routes![write_without_a_read]);
    let client = client(rocket.register("/", catchers![greets]));
    store.fail(Call::Commit, ErrorKind::Busy);
    let response = client.post("/write").header(cookie(&ada)).dispatch();
    assert_eq!(response.headers().get_one("Cache-Control"), Some("no-store"));
    assert_eq!(response.into_string().unwrap(), "sorry, ada");
}

// Several managers.

struct Admin;

#[post("/both")]
fn both(visitor: &Session, admin: SessionOf<'_, Admin>) -> cloakroom::Result<&'static str> {
    visitor.renew()?;
    admin.set("n", 2)?;
    Ok("done")
}

#[get("/visits")]
fn visits(session: &Session) -> cloakroom::Result<String> {
    Ok(session.get::<u32>("visits")?.unwrap_or(0).to_string())
}

#[test]
fn a_failure_of_one_manager_loses_no_id_of_another() {
    let visitors = memory();
    let store = PausingStore::new(MemoryStore::new());
    let cookies = CookieConfig::new().name("__Host-admin");
    let admins = SessionManager::builder(store.clone()).cookie(cookies).build().unwrap();
    let visitor = with_session(&visitors, |session| session.set("visits", 7)).unwrap();
    let rocket = bare().attach(visitors).attach(Sessions::<Admin>::of(admins));
    let client = client(rocket.mount("/", routes![both, visits]));
    store.fail(Call::Commit, ErrorKind::Busy);
    let response = client.post("/both").header(cookie(&visitor)).dispatch();
    assert_eq!(response.status(), Status::ServiceUnavailable);
    let now = given(&response).unwrap_or(visitor);
    let read = client.get("/visits").header(cookie(&now)).dispatch();
    assert_eq!(read.into_string().unwrap(), "7", "the visitor has lost the session");
}

#[get("/both")]
fn look(visitor: &Session, admin: SessionOf<'_, Admin>) -> cloakroom::Result<String> {
    Ok(format!("{:?} {:?}", visitor.user()?, admin.user()?))
}

#[test]
fn two_managers_of_one_cookie_name_do_not_launch() {
    let visitors = memory();
    let visitor = with_session(&visitors, |session| session.set("visits", 7)).unwrap();
    let rocket = bare().attach(visitors).attach(Sessions::<Admin>::of(memory()));
    match blocking::Client::untracked(rocket.mount("/", routes![look])) {
        // One that is not inspected panics when it is dropped.
        Err(error) => assert!(format!("{:?}", error.kind()).contains("FailedFairings")),
        Ok(client) => {
            let response = client.get("/both").header(cookie(&visitor)).dispatch();
            assert_eq!(given(&response), None, "one takes away the other's cookie");
            panic!("it launched");
        }
    }
}

// Requests that nothing ends.

#[get("/free")]
fn free() -> &'static str {
    "free"
}

#[test]
fn a_change_after_the_request_is_refused_in_new_sessions_too() {
    let (sender, received) = mpsc::channel();
    let late = AdHoc::on_response("late", move |request, _| {
        let sender = sender.clone();
        Box::pin(async move {
            let session = request.guard::<&Session>().await.succeeded().unwrap();
            sender.send(session.set("n", 1).is_ok()).unwrap();
        })
    });
    let client = client(bare().attach(memory()).attach(late).mount("/", routes![free]));
    let response = client.get("/free").dispatch();
    let accepted = received.recv().unwrap();
    assert_eq!(accepted, given(&response).is_some(), "accepted, and lost without a word");
}

#[test]
fn where_threads_cannot_block_the_launch_fails() {
    let runtime = rocket::tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let set = LocalSet::new();
    runtime.block_on(set.run_until(async {
        let rocket = bare().attach(memory()).mount("/", routes![count]);
        let launch = asynchronous::Client::untracked(rocket).await;
        assert!(format!("{:?}", launch.unwrap_err().kind()).contains("FailedFairings"));
    }));
}

/// Works on a session in a task of a `LocalSet`, which must stay on its thread.
#[post("/local-set")]
async fn in_local_set(sessions: &SessionManager) -> cloakroom::Result<String> {
    let (sessions, runtime) = (sessions.clone(), Handle::current());
    let work = async move {
        let session = sessions.open(None);
        session.set("n", 1)?;
        let saved = session.commit()?;
        sessions.close(&session, Outcome::Completed)?;
        Ok(format!("{saved:?}"))
    };
    let local = move || runtime.block_on(LocalSet::new().run_until(work));
    rocket::tokio::task::spawn_blocking(local).await.unwrap()
}

#[test]
fn a_manager_works_within_a_local_set_of_rockets_runtime() {
    let sessions = memory();
    let server = RocketServer::start(
        bare().attach(sessions.clone()).mount("/", routes![in_local_set, count]),
    );
    let send = |path| send(server.address, &crate::common::client::Request::post(path)).unwrap();
    for _ in 0..3 {
        let response = send("/local-set");
        assert_eq!((response.status, response.text()), (200, "Stored"));
    }
    assert_eq!(sessions.events().count(EventKind::Created), 3);
    assert_eq!(sessions.events().count(EventKind::HandlerFailed), 0);
    assert_eq!(send("/count").text(), "1");
}

/// An update that panics, in a task that may block.
#[post("/update-panics")]
fn update_panics(session: &Session) -> cloakroom::Result<String> {
    session.set("n", 1)?;
    Ok(session.update("n", |_: Option<u32>| -> u32 { panic!("as planned") })?.to_string())
}

#[test]
fn a_panic_within_a_call_is_the_requests_own() {
    let sessions = memory();
    let server =
        RocketServer::start(bare().attach(sessions.clone()).mount("/", routes![update_panics]));
    let response =
        send(server.address, &crate::common::client::Request::post("/update-panics")).unwrap();
    assert_eq!((response.status, response.id()), (500, None));
    assert_eq!(sessions.events().count(EventKind::HandlerFailed), 1);
}

// The warning about plain HTTP. It comes once a process, so one test asks for it.

#[test]
fn rockets_proxy_header_says_that_the_client_has_tls() {
    let sessions = memory();
    let rocket = bare().configure(
        rocket::Config::figment()
            .merge(("log_level", LogLevel::Off))
            .merge(("proxy_proto_header", "X-Scheme")),
    );
    let client = client(rocket.attach(sessions.clone()).mount("/", routes![count]));
    let count = |scheme: &'static str| {
        let request = client.post("/count").header(Header::new("Host", "example.org"));
        request.header(Header::new("X-Scheme", scheme)).dispatch();
        sessions.events().count(EventKind::InsecureConnection)
    };
    assert_eq!(count("https"), 0);
    assert_eq!(count("HTTPS"), 0);
    assert_eq!(count("http"), 1);
}

// Attribution of panics on sockets, where requests share threads.

#[post("/fine")]
async fn fine(session: &Session) -> cloakroom::Result<&'static str> {
    session.set("n", 1)?;
    for _ in 0..20 {
        rocket::tokio::task::yield_now().await;
    }
    Ok("fine")
}

#[post("/unwell")]
async fn unwell(session: &Session) -> cloakroom::Result<&'static str> {
    session.set("n", 1)?;
    rocket::tokio::task::yield_now().await;
    panic!("as planned")
}

#[test]
fn requests_that_panic_on_shared_threads_are_distinguished() {
    let builder = SessionManager::builder(MemoryStore::new()).keep_on_server_error(true);
    let sessions = builder.build().unwrap();
    let server = RocketServer::start(bare().attach(sessions).mount("/", routes![fine, unwell]));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let path = if n % 2 == 0 { "/fine" } else { "/unwell" };
            let address = server.address;
            scope.spawn(move || {
                for _ in 0..20 {
                    let response =
                        send(address, &crate::common::client::Request::post(path)).unwrap();
                    let stored = response.id().is_some();
                    let results = (response.status == 200, stored);
                    assert_eq!(results, (path == "/fine", path == "/fine"));
                }
            });
        }
    });
}

// Updates that are computed again, and answers of odd statuses.

#[post("/touchy")]
fn touchy(session: &Session) -> cloakroom::Result<String> {
    let add = |n: Option<u32>| match n {
        Some(2) => panic!("the password is swordfish"),
        n => n.unwrap_or(0) + 1,
    };
    Ok(session.update("n", add)?.to_string())
}

#[test]
fn an_update_that_panics_when_it_runs_again_is_a_plain_failure() {
    let (store, sessions) = pausing();
    let visitor = with_session(&sessions, |session| session.set("n", 1)).unwrap();
    let server = RocketServer::start(bare().attach(sessions.clone()).mount("/", routes![touchy]));
    let pause = store.pause(Call::Commit);
    let request = crate::common::client::Request::post("/touchy").cookie(&visitor);
    let mut exchange = crate::common::client::Exchange::start(server.address, &request).unwrap();
    assert!(pause.is_reached());
    let other = sessions.open(Some(visitor.as_str()));
    other.set("n", 2).unwrap();
    sessions.close(&other, cloakroom::adapter::Outcome::Completed).unwrap();
    pause.end();
    let response = exchange.answer().unwrap();
    assert_eq!(response.status, 500);
    assert!(!response.text().contains("swordfish"));
    let session = sessions.open(Some(visitor.as_str()));
    assert_eq!(session.get::<u32>("n").unwrap(), Some(2));
}

#[test]
fn an_odd_status_is_sent_as_it_is_and_an_impossible_one_as_500() {
    for (configured, sent) in [(507, 507), (42, 500), (999, 500)] {
        let status: fn(ErrorKind) -> u16 = match configured {
            507 => |_| 507,
            42 => |_| 42,
            _ => |_| 999,
        };
        let store = PausingStore::new(MemoryStore::new());
        let builder = SessionManager::builder(store.clone()).error_status(status);
        let sessions = builder.build().unwrap();
        let client = client(bare().attach(sessions).mount("/", routes![count]));
        store.fail(Call::Commit, ErrorKind::Busy);
        assert_eq!(client.post("/count").dispatch().status().code, sent, "{configured}");
    }
}
