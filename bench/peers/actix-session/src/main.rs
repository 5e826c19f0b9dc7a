//! Concurrent requests of one session on actix-session, in a fixed order: `/slow` loads the
//! session, waits for the response to another request with the same cookie, and changes one value.
//!
//! The argument is the URL of a Redis server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use actix_session::storage::RedisSessionStore;
use actix_session::{Session, SessionMiddleware};
use actix_web::cookie::Key;
use actix_web::http::header::COOKIE;
use actix_web::{App, HttpRequest, HttpServer, web};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The address of the server, for requests that a handler sends.
type Address = Arc<OnceLock<SocketAddr>>;

#[actix_web::main]
async fn main() {
    let url = std::env::args().nth(1).expect("the URL of a Redis server");
    let store = RedisSessionStore::new(url).await.expect("a Redis server");
    let (key, address) = (Key::generate(), Address::default());
    let state = Arc::clone(&address);
    let server = HttpServer::new(move || {
        App::new()
            .wrap(SessionMiddleware::new(store.clone(), key.clone()))
            .app_data(web::Data::from(Arc::clone(&state)))
            .route("/", web::get().to(values))
            .route("/sign-in", web::get().to(async |session: Session| set(&session, "user")))
            .route("/theme", web::get().to(async |session: Session| set(&session, "theme")))
            .route("/sign-out", web::get().to(async |session: Session| end(&session)))
            .route("/slow/{during}", web::get().to(slow))
    });
    let server = server.workers(1).bind("127.0.0.1:0").expect("an address");
    let server_address = server.addrs()[0];
    address.set(server_address).expect("it is set once");
    let server = server.run();
    let handle = server.handle();
    actix_web::rt::spawn(server);
    races(server_address).await;
    handle.stop(false).await;
}

async fn races(server: SocketAddr) {
    let (cookie, _) = send(server, "/sign-in", "").await;
    send(server, "/sign-out", &cookie).await;
    assert_eq!(send(server, "/", &cookie).await.1, "{}", "a sign-out alone ends the session");
    for during in ["theme", "sign-out"] {
        let (cookie, _) = send(server, "/sign-in", "").await;
        let (new_cookie, _) = send(server, &format!("/slow/{during}"), &cookie).await;
        let (_, values) = send(server, "/", &cookie).await;
        println!("after /{during} during /slow: {values}");
        // The response to a change sets the cookie. After the sign-out it has another id.
        if during == "sign-out" {
            let (_, values) = send(server, "/", &new_cookie).await;
            println!("with the cookie from /slow: {values}");
        }
    }
}

async fn values(session: Session) -> String {
    let mut values = BTreeMap::new();
    for name in ["user", "theme", "visits"] {
        let value: Option<Value> = session.get(name).expect("JSON");
        values.extend(value.map(|value| (name, value)));
    }
    serde_json::to_string(&values).expect("JSON")
}

fn set(session: &Session, name: &str) -> &'static str {
    let value = if name == "user" { "ada" } else { "dark" };
    session.insert(name, value).expect("it is set");
    ""
}

fn end(session: &Session) -> &'static str {
    session.purge();
    ""
}

async fn slow(
    server: web::Data<OnceLock<SocketAddr>>,
    session: Session,
    request: HttpRequest,
    during: web::Path<String>,
) -> &'static str {
    let user: Option<String> = session.get("user").expect("text");
    assert_eq!(user.as_deref(), Some("ada"));
    let cookie = request.headers().get(COOKIE).and_then(|cookie| cookie.to_str().ok());
    let server = *server.get().expect("an address");
    send(server, &format!("/{during}"), cookie.expect("a cookie")).await;
    session.insert("visits", 1).expect("it is set");
    ""
}

/// Returns the cookie and the body of the response.
async fn send(server: SocketAddr, path: &str, cookie: &str) -> (String, String) {
    let mut stream = TcpStream::connect(server).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).await.expect("a response");
    let (head, body) = response.split_once("\r\n\r\n").expect("an empty line");
    assert!(head.starts_with("HTTP/1.0 200") || head.starts_with("HTTP/1.1 200"), "{head}");
    let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    let cookie = cookie.and_then(|set| set.split(';').next()).unwrap_or_default();
    (cookie.to_owned(), body.to_owned())
}
