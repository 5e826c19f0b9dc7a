//! Behaviour of Rocket alone: launching, guards, catchers, panics, and threads that must not block.
//! tests/web/adapters/mod.rs has what it shares with other frameworks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::common::client::{Exchange, send};
use crate::common::rocket_server::RocketServer;
use crate::{bare, client, cookie, given, memory, pausing};
use cloakroom::adapter::Adapter;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::testing::{Call, signed_in, with_session};
use cloakroom::web::rocket::{ManagerOf, SessionOf, Sessions, guard_outcome};
use cloakroom::{
    CookieConfig, Error, ErrorKind, MemoryStore, Session, SessionManager, UserKey, web,
};
use rocket::http::{ContentType, Cookie, CookieJar, Header, Status};
use rocket::local::blocking;
use rocket::outcome::try_outcome;
use rocket::request::{FromRequest, Outcome};
use rocket::response::stream::TextStream;
use rocket::response::{Redirect, Responder};
use rocket::{Build, Request, Rocket, catch, catchers, get, post, routes};

#[get("/visits")]
fn visits(session: &Session) -> cloakroom::Result<String> {
    Ok(session.get::<u32>("visits")?.unwrap_or(0).to_string())
}

#[post("/count")]
fn count(session: &Session) -> cloakroom::Result<String> {
    Ok(session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?.to_string())
}

#[get("/streamed")]
fn streamed(session: &Session) -> TextStream![String + '_] {
    TextStream! { yield format!("{:?}", session.user().unwrap()) }
}

#[get("/plain")]
fn plain(_session: &Session) -> &'static str {
    "plain"
}

#[test]
fn a_streamed_body_of_a_user_is_private_and_not_stored() {
    for no_store in [false, true] {
        let builder = SessionManager::builder(MemoryStore::new());
        let sessions = builder.no_store_when_signed_in(no_store).build().unwrap();
        let ada = signed_in(&sessions, UserKey::new("ada").unwrap()).unwrap();
        let rocket = bare().attach(sessions).mount("/", routes![streamed, plain]);
        let client = client(rocket);
        let cache = |path, ada: Option<&str>| {
            let request = client.get(path);
            let request = match ada {
                Some(ada) => request.header(Header::new("Cookie", ada.to_owned())),
                None => request,
            };
            let response = request.dispatch();
            response.headers().get_one("Cache-Control").map(str::to_owned)
        };
        let wanted = if no_store { "no-store" } else { "private" };
        assert_eq!(cache("/streamed", Some(&ada)).as_deref(), Some(wanted));
        assert_eq!(cache("/streamed", None), None);
        assert_eq!(cache("/plain", Some(&ada)), None);
    }
}

#[get("/free")]
fn free() -> &'static str {
    "free"
}

// Several managers.

struct Admin;

#[get("/")]
fn admin(session: SessionOf<'_, Admin>) -> cloakroom::Result<String> {
    Ok(session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?.to_string())
}

#[get("/status")]
fn status(sessions: &SessionManager) -> String {
    sessions.status_of(&Error::new(ErrorKind::Busy, "try")).to_string()
}

#[get("/status")]
fn admin_status(sessions: ManagerOf<'_, Admin>) -> String {
    Adapter::new(&sessions).id_carrier()
}

#[test]
fn two_managers_are_distinguished_by_type_and_cookie() {
    let cookies = CookieConfig::new().name("__Host-admin");
    let admins = SessionManager::builder(MemoryStore::new()).cookie(cookies).build().unwrap();
    let rocket = bare()
        .attach(memory())
        .attach(Sessions::<Admin>::of(admins))
        .mount("/", routes![visits, count, status])
        .mount("/admin", routes![admin, admin_status]);
    let client = client(rocket);
    let visitor = given(&client.post("/count").dispatch()).unwrap();
    let admin = given(&client.get("/admin").header(cookie(&visitor)).dispatch()).unwrap();
    assert!(visitor.starts_with("__Host-id=") && admin.starts_with("__Host-admin="));
    let both = cookie(&format!("{visitor}; {admin}"));
    let response = client.get("/admin").header(both.clone()).dispatch();
    assert_eq!(response.into_string().unwrap(), "2");
    assert_eq!(client.get("/visits").header(both).dispatch().into_string().unwrap(), "1");
    // An id of the one is nothing to the other.
    let swapped = visitor.replace("__Host-id", "__Host-admin");
    let response = client.get("/admin").header(cookie(&swapped)).dispatch();
    assert_eq!(response.into_string().unwrap(), "1");
    assert_eq!(client.get("/status").dispatch().into_string().unwrap(), "503");
    let text = client.get("/admin/status").dispatch().into_string().unwrap();
    assert_eq!(text, "the cookie __Host-admin");
}

// Guards.

/// A guard of the application's own, on top of ours.
struct User(UserKey);

#[rocket::async_trait]
impl<'r> FromRequest<'r> for User {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        match try_outcome!(guard_outcome(request, session.user())) {
            Some(user) => Outcome::Success(User(user)),
            None => Outcome::Forward(Status::Unauthorized),
        }
    }
}

#[get("/home")]
async fn home(user: User, first: &Session, second: &Session) -> cloakroom::Result<String> {
    first.set("seen", true)?;
    rocket::tokio::task::yield_now().await;
    // Both are the one session of this request.
    Ok(format!("{} {}", user.0, second.contains("seen")?))
}

#[get("/home", rank = 2)]
fn home_of_anonymous() -> Redirect {
    Redirect::to("/sign-in")
}

#[test]
fn an_applications_guard_can_use_the_session() {
    let (store, sessions) = pausing();
    let ada = signed_in(&sessions, UserKey::new("ada").unwrap()).unwrap();
    let rocket = bare().attach(sessions.clone()).mount("/", routes![home, home_of_anonymous]);
    let client = client(rocket);
    let response = client.get("/home").header(cookie(&ada)).dispatch();
    assert_eq!(response.into_string().unwrap(), "ada true");
    store.fail(Call::Load, ErrorKind::Busy);
    let response = client.get("/home").header(cookie(&ada)).dispatch();
    assert_eq!(response.status(), Status::ServiceUnavailable);
    assert_eq!(sessions.events().count(EventKind::RequestFailed), 1);
    let response = client.get("/home").dispatch();
    assert_eq!(response.headers().get_one("Location"), Some("/sign-in"));
    assert_eq!(response.headers().get_one("Vary"), Some("Cookie"), "who had looked");
}

// Answers and catchers.

#[post("/jar")]
fn jar(session: &Session, jar: &CookieJar<'_>) -> cloakroom::Result<&'static str> {
    jar.add(Cookie::new("theme", "dark"));
    session.set("name", "ada")?;
    Ok("done")
}

#[post("/sign-in")]
fn sign_in(session: &Session) -> cloakroom::Result<&'static str> {
    let _ = session.sign_in(UserKey::new("ada")?)?;
    session.set("name", "ada")?;
    Ok("done")
}

#[catch(503)]
fn caught_503(_: &Request<'_>) -> &'static str {
    "caught 503"
}

#[catch(default)]
fn caught_all(status: Status, _: &Request<'_>) -> String {
    format!("caught {}", status.code)
}

#[catch(503)]
fn in_shop(_: &Request<'_>) -> &'static str {
    "the shop is shut"
}

#[catch(default)]
fn in_shop_at_all(_: &Request<'_>) -> &'static str {
    "the shop is in trouble"
}

#[catch(503)]
fn panics_itself(_: &Request<'_>) -> &'static str {
    panic!("as planned")
}

#[catch(503)]
fn fails_itself(_: &Request<'_>) -> Result<&'static str, Status> {
    Err(Status::BadGateway)
}

#[test]
fn a_failed_commit_is_answered_by_rockets_catcher() {
    let answer = |rocket: Rocket<Build>, base: &'static str, kind| {
        let (store, sessions) = pausing();
        store.fail(Call::Commit, kind);
        let client = client(rocket.attach(sessions).mount(base, routes![jar]));
        let response = client.post(format!("{base}/jar")).dispatch();
        assert_eq!(response.headers().get("Set-Cookie").count(), 0, "{response:?}");
        (response.status().code, response.into_string().unwrap())
    };
    let busy = ErrorKind::Busy;
    let text = |status: u16, text: &str| (status, text.to_owned());
    let by_code = || bare().register("/", catchers![caught_503, caught_all]);
    assert_eq!(answer(by_code(), "/", busy), text(503, "caught 503"));
    assert_eq!(answer(by_code(), "/", ErrorKind::Full), text(500, "caught 500"));
    let shop = by_code().register("/shop", catchers![in_shop]);
    assert_eq!(answer(shop, "/shop", busy), text(503, "the shop is shut"));
    let shop = by_code().register("/shop", catchers![in_shop_at_all]);
    assert_eq!(answer(shop, "/shop", busy), text(503, "the shop is in trouble"));
    let elsewhere = by_code().register("/shop", catchers![in_shop]);
    assert_eq!(answer(elsewhere, "/bar", busy), text(503, "caught 503"));
    // Without any, and where they fail themselves.
    let (status, page) = answer(bare(), "/", busy);
    assert!(status == 503 && page.contains("Service Unavailable"), "{page}");
    let panics = bare().register("/", catchers![panics_itself, caught_all]);
    assert_eq!(answer(panics, "/", busy), text(500, "caught 500"));
    let fails = bare().register("/", catchers![fails_itself]);
    let (status, page) = answer(fails, "/", busy);
    assert!(status == 500 && page.contains("Internal Server Error"), "{page}");
}

#[test]
fn a_sign_in_survives_the_failure_of_a_later_commit() {
    let (store, sessions) = pausing();
    let client = client(bare().attach(sessions.clone()).mount("/", routes![sign_in]));
    // The first commit is the sign-in.
    let first = store.pause(Call::Commit);
    store.fail(Call::Commit, ErrorKind::Busy);
    first.end();
    let response = client.post("/sign-in").dispatch();
    assert_eq!(response.status(), Status::ServiceUnavailable);
    let ada = given(&response).unwrap();
    let session = sessions.open(Some(ada.as_str()));
    assert_eq!(session.user().unwrap().unwrap().as_str(), "ada");
    assert!(!session.contains("name").unwrap());
}

#[catch(404)]
async fn lost(request: &Request<'_>) -> String {
    let session = request.guard::<&Session>().await.succeeded().unwrap();
    session.set("lost", true).unwrap();
    format!("{} is lost", session.user().unwrap().unwrap())
}

#[get("/lost")]
fn was_lost(session: &Session) -> cloakroom::Result<String> {
    Ok(session.contains("lost")?.to_string())
}

#[test]
fn a_catcher_can_use_the_session_and_what_it_writes_is_stored() {
    let sessions = memory();
    let ada = cookie(&signed_in(&sessions, UserKey::new("ada").unwrap()).unwrap());
    let rocket = bare().attach(sessions).mount("/", routes![was_lost]);
    let client = client(rocket.register("/", catchers![lost]));
    let response = client.get("/nowhere").header(ada.clone()).dispatch();
    assert_eq!(response.into_string().unwrap(), "ada is lost");
    assert_eq!(client.get("/lost").header(ada).dispatch().into_string().unwrap(), "true");
}

/// An answer to every failure that looks like a success.
#[catch(default)]
fn all_is_well(_: &Request<'_>) -> (Status, &'static str) {
    (Status::Ok, "all is well")
}

#[post("/fails/<how>")]
fn fails(session: &Session, how: &str) -> web::rocket::Result<&'static str> {
    session.set("name", "ada")?;
    session.renew()?;
    match how {
        "ours" => Err(Error::new(ErrorKind::Busy, "try"))?,
        "wrapped" => Err(std::io::Error::other(Error::new(ErrorKind::Busy, "try")))?,
        "any" => Err(std::io::Error::other("the printer is on fire"))?,
        "words" => Err("the printer is on fire".into()),
        "panic" => panic!("the printer is on fire"),
        _ => Ok("done"),
    }
}

#[test]
fn a_catcher_that_answers_200_makes_no_success_of_a_failure() {
    let sessions = memory();
    let rocket = bare().attach(sessions.clone()).mount("/", routes![fails]);
    let client = client(rocket.register("/", catchers![all_is_well]));
    for how in ["ours", "wrapped", "any", "words", "panic"] {
        let before = with_session(&sessions, |session| session.set("n", 1)).unwrap();
        let failed = sessions.events().count(EventKind::HandlerFailed)
            + sessions.events().count(EventKind::RequestFailed);
        let response = client.post(format!("/fails/{how}")).header(cookie(&before)).dispatch();
        assert_eq!(response.status(), Status::Ok);
        let after = given(&response);
        // A renewal is carried out, but for a panic.
        assert_eq!(after.is_some(), how != "panic", "{how}");
        let session = sessions.open(Some(after.as_deref().unwrap_or(&before)));
        assert_eq!(session.get::<u32>("n").unwrap(), Some(1), "{how}");
        assert!(!session.contains("name").unwrap(), "{how}");
        let logged = sessions.events().count(EventKind::HandlerFailed)
            + sessions.events().count(EventKind::RequestFailed);
        assert_eq!(logged, failed + 1, "{how}");
    }
}

#[post("/broken")]
fn broken() -> web::rocket::Result<&'static str> {
    Err("the printer is on fire".into())
}

#[catch(default)]
async fn writes(_: Status, request: &Request<'_>) -> (Status, &'static str) {
    let session = request.guard::<&Session>().await.succeeded().unwrap();
    session.set("name", "ada").unwrap();
    (Status::Ok, "all is well")
}

#[test]
fn a_catcher_that_opens_the_session_of_a_failure_stores_nothing() {
    let sessions = memory();
    let rocket = bare().attach(sessions.clone()).mount("/", routes![broken]);
    let client = client(rocket.register("/", catchers![writes]));
    let before = with_session(&sessions, |session| session.set("n", 1)).unwrap();
    let response = client.post("/broken").header(cookie(&before)).dispatch();
    assert_eq!(response.status(), Status::Ok);
    let session = sessions.open(Some(&*before));
    assert_eq!(session.get::<u32>("n").unwrap(), Some(1));
    assert!(!session.contains("name").unwrap());
}

/// A guard that changes the session, and then fails.
#[derive(Debug)]
struct Fails;

#[rocket::async_trait]
impl<'r> FromRequest<'r> for Fails {
    type Error = Error;

    async fn from_request(request: &'r Request<'_>) -> Outcome<Self, Error> {
        let session = try_outcome!(request.guard::<&Session>().await);
        try_outcome!(guard_outcome(request, session.set("name", "ada")));
        let failed: cloakroom::Result<()> = Err(Error::new(ErrorKind::Busy, "try"));
        guard_outcome(request, failed.map(|()| Fails))
    }
}

#[post("/guarded")]
fn guarded(_guard: Fails) -> &'static str {
    "done"
}

#[post("/option")]
fn guarded_option(guard: Option<Fails>) -> &'static str {
    guard.map_or("none", |_| "some")
}

#[post("/result/<status>")]
fn guarded_result(guard: Result<Fails, Error>, status: u16) -> (Status, &'static str) {
    (Status::new(status), guard.map_or("error", |_| "done"))
}

#[test]
fn a_guard_error_that_the_handler_answers_is_no_failure() {
    let sessions = memory();
    let rocket = bare().attach(sessions.clone()).register("/", catchers![all_is_well]);
    let client = client(rocket.mount("/", routes![guarded, guarded_option, guarded_result]));
    for (path, status, text, is_stored) in [
        ("/option", Status::Ok, "none", true),
        ("/result/200", Status::Ok, "error", true),
        ("/result/404", Status::NotFound, "error", true),
        ("/result/500", Status::InternalServerError, "error", false),
        ("/guarded", Status::Ok, "all is well", false),
    ] {
        let response = client.post(path).dispatch();
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(given(&response).is_some(), is_stored, "{path}");
        assert_eq!(response.into_string().as_deref(), Some(text), "{path}");
    }
    assert_eq!(sessions.events().count(EventKind::RequestFailed), 5);
}

#[derive(Clone, Debug, Default)]
struct Words(Arc<Mutex<Vec<String>>>);

impl Sink for Words {
    fn record(&self, event: &Event<'_>) {
        if matches!(event.kind(), EventKind::HandlerFailed | EventKind::RequestFailed) {
            self.0.lock().unwrap().push(event.to_string());
        }
    }
}

#[test]
fn a_panic_is_no_500_and_the_programs_own_hook_still_runs() {
    static OWN: AtomicUsize = AtomicUsize::new(0);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        OWN.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
    let words = Words::default();
    let builder = SessionManager::builder(MemoryStore::new()).keep_on_server_error(true);
    let sessions = builder.events(Events::new(words.clone())).build().unwrap();
    let client = client(bare().attach(sessions.clone()).mount("/", routes![fails]));
    let own = OWN.load(Ordering::SeqCst);
    for (how, kept) in [("words", true), ("panic", false), ("words", true)] {
        let visitor = with_session(&sessions, |session| session.set("n", 1)).unwrap();
        let response = client.post(format!("/fails/{how}")).header(cookie(&visitor)).dispatch();
        assert_eq!(response.status(), Status::InternalServerError);
        let visitor = given(&response).unwrap_or(visitor);
        let session = sessions.open(Some(visitor.as_str()));
        assert_eq!(session.contains("name").unwrap(), kept, "{how}");
    }
    assert!(OWN.load(Ordering::SeqCst) > own);
    let logged = words.0.lock().unwrap();
    assert_eq!(logged.len(), 3, "{logged:?}");
    assert!(logged.iter().all(|line| line.ends_with("the printer is on fire")), "{logged:?}");
}

#[get("/task")]
async fn task_panics(session: &Session) -> cloakroom::Result<Status> {
    session.set("name", "ada")?;
    // A panic elsewhere is no panic of this request.
    let _ = rocket::tokio::spawn(async { panic!("as planned") }).await;
    let _ = thread::spawn(|| panic!("as planned")).join();
    Ok(Status::Ok)
}

#[test]
fn a_panic_in_another_task_or_thread_is_none_of_the_request() {
    let client = client(bare().attach(memory()).mount("/", routes![task_panics]));
    assert!(given(&client.get("/task").dispatch()).is_some(), "the change is stored");
}

// Threads.

#[post("/commit")]
fn commit(session: &Session) -> cloakroom::Result<String> {
    session.set("n", 1)?;
    Ok(format!("{:?}", session.commit()?))
}

#[post("/sign-out")]
fn sign_out(session: &Session) -> cloakroom::Result<&'static str> {
    session.destroy()?;
    Ok("out")
}

#[post("/begin")]
async fn begin(session: &Session) -> cloakroom::Result<&'static str> {
    session.set("n", 1)?;
    Ok("begun")
}

#[test]
fn routes_without_a_session_answer_while_64_requests_wait() {
    let (store, sessions) = pausing();
    let routes = routes![visits, commit, begin, sign_in, sign_out, free];
    let server = RocketServer::start(bare().attach(sessions.clone()).mount("/", routes));
    for (call, request, answer) in [
        (Call::Load, crate::common::client::Request::get("/visits"), "7"),
        (Call::Load, crate::common::client::Request::post("/sign-in"), "done"),
        (Call::Commit, crate::common::client::Request::post("/commit"), "Stored"),
        (Call::Commit, crate::common::client::Request::post("/begin"), "begun"),
        (Call::Commit, crate::common::client::Request::post("/sign-in"), "done"),
        (Call::Commit, crate::common::client::Request::post("/sign-out"), "out"),
    ] {
        let visitor = with_session(&sessions, |session| session.set("visits", 7)).unwrap();
        let request = request.cookie(visitor);
        let pauses: Vec<_> = (0..64).map(|_| store.pause(call)).collect();
        let waiting: Vec<_> =
            (0..64).map(|_| Exchange::start(server.address, &request).unwrap()).collect();
        assert!(pauses.iter().all(|pause| pause.is_reached()), "64 requests come to the store");
        for _ in 0..10 {
            let response =
                send(server.address, &crate::common::client::Request::get("/free")).unwrap();
            assert_eq!(response.text(), "free");
        }
        pauses.into_iter().for_each(|pause| pause.end());
        for mut exchange in waiting {
            assert_eq!(exchange.answer().unwrap().text(), answer);
        }
    }
}

#[test]
fn inline_calls_do_the_same_work() {
    let sessions = Sessions::<()>::of(memory()).inline(true);
    let client = client(bare().attach(sessions).mount("/", routes![visits, count, sign_in]));
    let response = client.post("/count").dispatch();
    let visitor = cookie(&given(&response).unwrap());
    let text = client.get("/visits").header(visitor.clone()).dispatch().into_string().unwrap();
    assert_eq!(text, "1");
    let ada = given(&client.post("/sign-in").header(visitor.clone()).dispatch()).unwrap();
    let again = client.get("/visits").header(visitor).dispatch();
    assert_eq!(again.headers().get_one("Set-Cookie"), None, "a newer id is on its way");
    assert_eq!(client.get("/visits").header(cookie(&ada)).dispatch().into_string().unwrap(), "1");
    let dead = ada.replace("__Host-id=", "__Host-id=x");
    let dead = client.get("/visits").header(cookie(&dead)).dispatch();
    assert_eq!(dead.headers().get_one("Set-Cookie"), None);
    assert_eq!(dead.into_string().unwrap(), "0");
}

#[derive(Responder)]
#[response(content_type = "text/plain")]
struct Page(String, ContentType);

#[get("/page")]
fn page(session: &Session) -> cloakroom::Result<Page> {
    Ok(Page(format!("{:?}", session.user()?), ContentType::Plain))
}

#[test]
fn our_error_works_beside_any_responder() {
    let client = client(bare().attach(memory()).mount("/", routes![page]));
    assert_eq!(client.get("/page").dispatch().into_string().unwrap(), "None");
}

// Errors that hold ours.

#[get("/wrapped")]
fn wrapped(_session: &Session) -> web::rocket::Result<&'static str> {
    let busy = anyhow::Error::new(Error::new(ErrorKind::Busy, "load a session"));
    Err(busy.context("no cart").into())
}

/// A handler that holds a manager of its own, and uses no guard of ours.
#[get("/held")]
fn held(sessions: &rocket::State<SessionManager>) -> cloakroom::Result<String> {
    Ok(sessions
        .open(Some("__Host-id=0000000000000000000000000000000000000000000"))
        .user()?
        .map_or_else(String::new, |user| user.to_string()))
}

#[test]
fn an_error_around_ours_is_answered_with_its_status() {
    let words = Words::default();
    let builder = SessionManager::builder(MemoryStore::new()).events(Events::new(words.clone()));
    let sessions = builder.build().unwrap();
    let rocket = bare().attach(sessions).mount("/", routes![wrapped]);
    let response =
        send(RocketServer::start(rocket).address, &crate::common::client::Request::get("/wrapped"))
            .unwrap();
    assert_eq!(response.status, 503);
    assert!(!response.text().contains("session"), "{}", response.text());
    let logged = words.0.lock().unwrap();
    assert_eq!(*logged, ["a handler failed: no cart: cannot load a session: the store is busy"]);
}

#[test]
fn our_error_without_a_guard_of_ours_has_its_status_too() {
    for attached in [true, false] {
        let (store, sessions) = pausing();
        store.fail(Call::Load, ErrorKind::Busy);
        let rocket = bare().manage(sessions.clone()).mount("/", routes![held]);
        let client = client(if attached { rocket.attach(sessions.clone()) } else { rocket });
        assert_eq!(client.get("/held").dispatch().status(), Status::ServiceUnavailable);
        let raised = sessions.events().count(EventKind::RequestFailed);
        assert_eq!(raised, u64::from(attached), "a manager that is attached raises an event");
    }
}

// Rocket's jar.

#[test]
fn a_tracked_client_keeps_its_session() {
    let rocket = bare().attach(memory()).mount("/", routes![count, visits, sign_out]);
    let client = blocking::Client::tracked(rocket).unwrap();
    for n in ["1", "2", "3"] {
        assert_eq!(client.post("/count").dispatch().into_string().unwrap(), n);
    }
    client.post("/sign-out").dispatch();
    assert_eq!(client.get("/visits").dispatch().into_string().unwrap(), "0");
}

#[test]
fn a_cookie_of_a_local_request_is_read() {
    let sessions = memory();
    let visitor = with_session(&sessions, |session| session.set("visits", 7)).unwrap();
    let id = visitor.split_once('=').unwrap().1.to_owned();
    let client = client(bare().attach(sessions.clone()).mount("/", routes![visits]));
    let local = || client.get("/visits").cookie(("__Host-id", id.clone()));
    assert_eq!(local().dispatch().into_string().unwrap(), "7");
    let other = Header::new("Cookie", "theme=dark");
    assert_eq!(local().header(other).dispatch().into_string().unwrap(), "7");
    // A Cookie header with the name of the session cookie counts.
    let unknown = cookie("__Host-id=0000000000000000000000000000000000000000000");
    assert_eq!(local().header(unknown).dispatch().into_string().unwrap(), "0");
    assert_eq!(sessions.events().count(EventKind::UnknownId), 1);
    assert_eq!(sessions.events().count(EventKind::MalformedId), 0);
}

#[test]
fn an_id_in_jar_and_header_is_read_once() {
    let sessions = memory();
    let server = RocketServer::start(bare().attach(sessions.clone()).mount("/", routes![visits]));
    let ids = "__Host-id=0000000000000000000000000000000000000000000; a=b; __Host-id=x";
    let request = crate::common::client::Request::get("/visits").cookie(ids).cookie("c=d");
    assert_eq!(send(server.address, &request).unwrap().text(), "0");
    assert_eq!(sessions.events().count(EventKind::UnknownId), 1);
    assert_eq!(sessions.events().count(EventKind::MalformedId), 1);
}

#[test]
fn a_name_that_only_rockets_jar_takes_for_ours_is_not_ours() {
    let sessions = memory();
    let visitor = with_session(&sessions, |session| session.set("visits", 7)).unwrap();
    let server = RocketServer::start(bare().attach(sessions).mount("/", routes![visits]));
    let read = |cookie: &str| {
        let request = crate::common::client::Request::get("/visits").cookie(cookie);
        send(server.address, &request).unwrap().text().to_owned()
    };
    assert_eq!(read(&visitor), "7");
    // Browsers let a sibling domain set such a cookie.
    assert_eq!(read(&visitor.replace("__Host-id", "__Host%2Did")), "0");
    assert_eq!(read(&visitor.replace("__Host-id=", "__Host-id=%2E")), "0");
}
