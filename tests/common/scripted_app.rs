//! One application for all frameworks: the path of a request lists what its handler does.
//!
//! `/set:name:ada/own-cookie/status:500` sets a session value, then a cookie of its own, and
//! answers with 500. What the steps read is the body of the answer, a line each.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::collections::HashMap;
use std::error::Error;
use std::fmt::{self, Display};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cloakroom::adapter::HandlerError;
use cloakroom::{ErrorKind, Session, SessionManager, SignIn, UserKey, web};

use crate::common::gate::{Gate, GateControl};

/// A framework that serves the application.
#[derive(Clone, Copy)]
pub struct Framework {
    pub name: &'static str,
    pub serve: fn(Arc<ScriptedApp>, SocketAddr) -> Server,
}

/// Everything that is tested over HTTP is tested on all of these.
pub const FRAMEWORKS: &[Framework] = &[
    Framework { name: "rouille", serve: rouille },
    Framework { name: "Rocket", serve: on_rocket::serve },
    Framework { name: "tiny_http", serve: on_tiny_http },
    Framework { name: "http", serve: on_http },
];

/// A server that stops when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    stop: Option<Box<dyn FnOnce() + Send>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

fn rouille(app: Arc<ScriptedApp>, address: SocketAddr) -> Server {
    on_rouille(app, address, None)
}

/// rouille with `threads` threads for all requests, instead of one for each.
pub fn rouille_pool(app: Arc<ScriptedApp>, address: SocketAddr, threads: usize) -> Server {
    on_rouille(app, address, Some(threads))
}

fn on_rouille(app: Arc<ScriptedApp>, address: SocketAddr, threads: Option<usize>) -> Server {
    let server = rouille::Server::new(address, move |request: &rouille::Request| {
        web::rouille::session(&app.sessions, request, |session| {
            act(&app, &request.url(), session)?.translated(|reply| rouille::Response {
                status_code: reply.status,
                headers: reply.headers.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
                data: match reply.body {
                    Body::Text(text) => rouille::ResponseBody::from_string(text),
                    Body::Stream(stream) => rouille::ResponseBody::from_reader(stream),
                },
                upgrade: None,
            })
        })
    })
    .unwrap();
    let server = match threads {
        Some(threads) => server.pool_size(threads),
        None => server,
    };
    let address = server.server_addr();
    let stopped = Arc::new(AtomicBool::new(false));
    let stop_now = stopped.clone();
    let thread = thread::spawn(move || {
        while !stop_now.load(Ordering::Relaxed) {
            server.poll_timeout(Duration::from_millis(10));
        }
    });
    let stop = move || {
        stopped.store(true, Ordering::Relaxed);
        thread.join().unwrap();
    };
    Server { address, stop: Some(Box::new(stop)) }
}

fn on_tiny_http(app: Arc<ScriptedApp>, address: SocketAddr) -> Server {
    serve_by_tiny_http(address, move |request| {
        web::tiny_http::session(&app.sessions, request, |session, request| {
            let (path, _) = request.url().split_once('?').unwrap_or((request.url(), ""));
            act(&app, path, session)?.translated(tiny_http_response)
        })
    })
}

/// The types of the `http` crate, on a server of tiny_http.
fn on_http(app: Arc<ScriptedApp>, address: SocketAddr) -> Server {
    serve_by_tiny_http(address, move |request| {
        let Ok(request) = http_request(request) else {
            return tiny_http::Response::empty(400).boxed();
        };
        let response = web::http_types::session(&app.sessions, request, |session, request| {
            act(&app, request.uri().path(), session)?.translated(http_response)
        });
        let (head, body) = response.into_parts();
        let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        let headers = head.headers.iter().map(field).collect();
        tiny_http_response(Reply { status: head.status.as_u16(), headers, body, early: false })
    })
}

fn serve_by_tiny_http(
    address: SocketAddr,
    answer: impl Fn(&mut tiny_http::Request) -> tiny_http::ResponseBox + Send + Sync + 'static,
) -> Server {
    let server = Arc::new(web::tiny_http::listen(address).unwrap());
    let address = server.server_addr().to_ip().unwrap();
    let serving = server.clone();
    let answer = Arc::new(answer);
    let thread = thread::spawn(move || {
        while let Ok(mut request) = serving.recv() {
            let answer = answer.clone();
            thread::spawn(move || {
                let response = answer(&mut request);
                // The client can have disconnected.
                let _ = request.respond(response);
            });
        }
    });
    let stop = move || {
        server.unblock();
        thread.join().unwrap();
    };
    Server { address, stop: Some(Box::new(stop)) }
}

fn tiny_http_response(reply: Reply) -> tiny_http::ResponseBox {
    let header = |(name, value): (String, String)| tiny_http::Header::from_bytes(name, value);
    let headers = reply.headers.into_iter().map(|field| header(field).unwrap()).collect();
    let (body, length): (Box<dyn Read + Send>, _) = match reply.body {
        Body::Text(text) => {
            let length = text.len();
            (Box::new(io::Cursor::new(text)), Some(length))
        }
        Body::Stream(stream) => (stream, None),
    };
    tiny_http::Response::new(reply.status.into(), headers, body, length, None)
}

fn http_request(request: &tiny_http::Request) -> http::Result<http::Request<()>> {
    let head = http::Request::builder().method(request.method().as_str()).uri(request.url());
    let head = request.headers().iter().fold(head, |head, header| {
        head.header(header.field.as_str().as_str(), header.value.as_str())
    });
    head.extension(*request.remote_addr().unwrap()).body(())
}

fn http_response(reply: Reply) -> http::Response<Body> {
    let head = http::Response::builder().status(reply.status);
    let head = reply.headers.into_iter().fold(head, |head, (name, value)| head.header(name, value));
    head.body(reply.body).unwrap()
}

mod on_rocket {
    use std::io::Cursor;
    use std::sync::Arc;
    use std::sync::mpsc;
    use std::thread;

    use cloakroom::Session;
    use cloakroom::web::rocket::Result;
    use rocket::config::{Config, Ident, LogLevel, Shutdown};
    use rocket::error::ErrorKind;
    use rocket::fairing::AdHoc;
    use rocket::http::uri::Origin;
    use rocket::http::{ContentType, Header, Status};
    use rocket::response::stream::ByteStream;
    use rocket::response::{self, Responder};
    use rocket::{Request, Response, State, catch, catchers, routes};

    use super::{Body, Reply, ScriptedApp, Server, SocketAddr, act};

    struct Answer(Reply);

    impl<'r> Responder<'r, 'r> for Answer {
        fn respond_to(self, request: &'r Request<'_>) -> response::Result<'r> {
            let mut answer = match self.0.body {
                Body::Text(text) => {
                    Response::build().sized_body(text.len(), Cursor::new(text)).finalize()
                }
                Body::Stream(mut stream) => {
                    let mut read = move || {
                        let mut bytes = vec![0; 4096];
                        // The body stops at a gate, which is not this thread's to wait at.
                        let read = rocket::tokio::task::block_in_place(|| stream.read(&mut bytes));
                        bytes.truncate(read.unwrap());
                        bytes
                    };
                    let chunks = ByteStream! {
                        loop {
                            let chunk = read();
                            if chunk.is_empty() {
                                break;
                            }
                            yield chunk;
                        }
                    };
                    let mut answer = chunks.respond_to(request)?;
                    answer.remove_header("Content-Type");
                    answer
                }
            };
            answer.set_status(Status::new(self.0.status));
            for (name, value) in self.0.headers {
                answer.adjoin_header(Header::new(name, value));
            }
            Ok(answer)
        }
    }

    fn answer(app: &Arc<ScriptedApp>, uri: &Origin<'_>, session: &Session) -> Result<Answer> {
        let path = uri.path().percent_decode_lossy().into_owned();
        // A step can stop at a gate, which is not for a thread of Rocket's to do.
        let waits = path.contains("gate:");
        let act = || act(app, &path, session);
        let reply = if waits { rocket::tokio::task::block_in_place(act) } else { act() };
        Ok(Answer(reply?))
    }

    #[rocket::get("/<_..>")]
    fn get(app: &State<Arc<ScriptedApp>>, uri: &Origin<'_>, session: &Session) -> Result<Answer> {
        answer(app, uri, session)
    }

    #[rocket::post("/<_..>")]
    async fn post(
        app: &State<Arc<ScriptedApp>>,
        uri: &Origin<'_>,
        session: &Session,
    ) -> Result<Answer> {
        answer(app, uri, session)
    }

    /// The answers of rouille's adapter, so that the two can be compared.
    #[catch(default)]
    fn failed(status: Status, _: &Request<'_>) -> (Status, (ContentType, &'static str)) {
        let text = match status {
            Status::ServiceUnavailable => {
                "The service is not available right now. Please try again."
            }
            _ => "Something went wrong.",
        };
        (status, (ContentType::Plain, text))
    }

    pub fn serve(app: Arc<ScriptedApp>, address: SocketAddr) -> Server {
        let (listening, listens) = mpsc::channel();
        let thread = thread::spawn(move || {
            let config = Config {
                address: address.ip(),
                port: address.port(),
                keep_alive: 600,
                ident: Ident::none(),
                log_level: LogLevel::Off,
                shutdown: Shutdown {
                    ctrlc: false,
                    signals: Default::default(),
                    grace: 0,
                    mercy: 0,
                    ..Shutdown::default()
                },
                ..Config::debug_default()
            };
            let sessions = app.sessions.clone();
            let rocket = rocket::custom(config)
                .attach(sessions)
                .attach(AdHoc::on_liftoff("send the address", move |rocket| {
                    Box::pin(async move {
                        let config = rocket.config();
                        let address = SocketAddr::from((config.address, config.port));
                        listening.send((address, rocket.shutdown())).unwrap();
                    })
                }))
                .manage(app)
                .mount("/", routes![get, post])
                .register("/", catchers![failed]);
            match rocket::execute(rocket.launch()) {
                Ok(_) => true,
                // Clients that keep their connections.
                Err(error) => matches!(error.kind(), ErrorKind::Shutdown(..)),
            }
        });
        let (address, shutdown) = listens.recv().unwrap();
        let stop = move || {
            shutdown.notify();
            assert!(thread.join().unwrap(), "the server was not stopped as it should");
        };
        Server { address, stop: Some(Box::new(stop)) }
    }
}

/// The answer of a handler, independent of a framework.
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// The handler returns it early, as an error, where the framework's adapter has that.
    early: bool,
}

impl Reply {
    /// The result of a handler.
    fn translated<R>(self, into: impl FnOnce(Reply) -> R) -> Result<R, HandlerError<R>> {
        let early = self.early;
        let response = into(self);
        if early { Err(HandlerError::response(response)) } else { Ok(response) }
    }
}

pub enum Body {
    Text(String),
    Stream(Box<dyn Read + Send>),
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Body::Text(text.to_owned())
    }
}

pub struct ScriptedApp {
    pub sessions: SessionManager,
    gates: Mutex<HashMap<String, Gate>>,
}

impl ScriptedApp {
    pub fn new(sessions: SessionManager) -> Arc<Self> {
        Arc::new(ScriptedApp { sessions, gates: Mutex::default() })
    }

    /// A gate at which the step `gate:NAME`, or a body made by `stream:N:NAME`, stops once.
    pub fn gate(&self, name: &str) -> GateControl {
        let (gate, control) = Gate::new();
        self.gates.lock().unwrap().insert(name.to_owned(), gate);
        control
    }

    /// Stops at the gate of this name, if there is one, until it opens.
    fn stop_at(&self, name: &str) {
        let gate = self.gates.lock().unwrap().remove(name);
        if let Some(gate) = gate {
            gate.pass();
        }
    }
}

/// Carries out the steps that the path lists.
pub fn act(
    app: &Arc<ScriptedApp>,
    path: &str,
    session: &Session,
) -> Result<Reply, Box<dyn Error + Send + Sync>> {
    let mut status = 200;
    let mut headers = vec![];
    let mut lines = vec![];
    let mut stream = None;
    let mut early = false;
    let mut header = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
    for step in path.split('/').filter(|step| !step.is_empty()) {
        let mut words = step.split(':');
        let mut word = || words.next().unwrap_or_default();
        match word() {
            "hello" => lines.push("hello".to_owned()),
            "count" => {
                let count = |visits: Option<u32>| visits.unwrap_or(0) + 1;
                lines.push(session.update("visits", count)?.to_string());
            }
            "visits" => lines.push(session.get::<u32>("visits")?.unwrap_or(0).to_string()),
            "set" => session.set(word(), word())?,
            "get" => lines.push(or_none(session.get::<String>(word())?)),
            "remove" => session.remove(word())?,
            "names" => lines.push(session.names()?.join(",")),
            "clear" => session.clear()?,
            "who" => lines.push(or_none(session.user()?.as_ref().map(UserKey::as_str))),
            "public-id" => lines.push(or_none(session.public_id()?)),
            "sign-in" => match session.sign_in(UserKey::new(word())?)? {
                SignIn::Done => {}
                answer => lines.push(format!("{answer:?}")),
            },
            "renew" => session.renew()?,
            "destroy" => session.destroy()?,
            "ignore" => session.ignore()?,
            "revoke-others" => lines.push(app.sessions.revoke_others(session)?.to_string()),
            "revoke-user" => {
                let user = UserKey::new(word())?;
                lines.push(app.sessions.revoke_for_user(&user, Some(session))?.to_string());
            }
            "browser-session" => session.set_persistent(false)?,
            "commit" => lines.push(format!("{:?}", session.commit()?)),
            "flash" => session.flash("info", word())?,
            "flashes" => {
                let texts = session.flashes()?.into_iter().map(|flash| flash.text);
                lines.push(texts.collect::<Vec<_>>().join(","));
            }
            "status" => status = word().parse()?,
            "redirect" => {
                status = 303;
                header("Location", "/who");
            }
            "own-cookie" => header("Set-Cookie", "theme=dark; Path=/"),
            "public" => header("Cache-Control", "public, max-age=60"),
            "vary" => header("Vary", word()),
            "stream" => stream = Some(long_body(app, word().parse()?, word())),
            "early" => early = true,
            "gate" => app.stop_at(word()),
            "fails" => return Err("the printer is on fire".into()),
            "fails-of-ours" => {
                let secret = "the password is swordfish";
                return Err(cloakroom::Error::with_source(kind(word()), "try", secret).into());
            }
            "wraps" => return Err(wrapped(word(), kind(word()))),
            "panics" => panic!("the password is swordfish"),
            step => return Err(format!("there is no step {step:?}").into()),
        }
    }
    let body = stream.map_or_else(|| Body::Text(lines.join("\n")), Body::Stream);
    Ok(Reply { status, headers, body, early })
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// An error of the application around one of ours, as libraries for errors make it.
fn wrapped(how: &str, kind: ErrorKind) -> Box<dyn Error + Send + Sync> {
    let ours = cloakroom::Error::with_source(kind, "try", "the password is swordfish");
    match how {
        "anyhow" => anyhow::Error::new(ours).into(),
        "context" => anyhow::Error::new(ours).context("no cart").into(),
        "io" => io::Error::other(ours).into(),
        "transparent" => Shop::Transparent(ours).into(),
        _ => Shop::Session(ours).into(),
    }
}

/// An application's error, as `thiserror` derives it.
#[derive(Debug)]
enum Shop {
    Session(cloakroom::Error),
    Transparent(cloakroom::Error),
}

impl Display for Shop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shop::Session(_) => f.write_str("no cart"),
            Shop::Transparent(error) => error.fmt(f),
        }
    }
}

impl Error for Shop {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Shop::Session(error) => Some(error),
            Shop::Transparent(error) => error.source(),
        }
    }
}

fn kind(name: &str) -> ErrorKind {
    match name {
        "Busy" => ErrorKind::Busy,
        "Unavailable" => ErrorKind::Unavailable,
        "TooLarge" => ErrorKind::TooLarge,
        _ => ErrorKind::Unexpected,
    }
}

/// A body of `bytes` bytes that stops at the gate after half of them.
fn long_body(app: &Arc<ScriptedApp>, bytes: u64, gate: &str) -> Box<dyn Read + Send> {
    struct AtGate(Option<(Arc<ScriptedApp>, String)>);
    impl Read for AtGate {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            if let Some((app, gate)) = self.0.take() {
                app.stop_at(&gate);
            }
            Ok(0)
        }
    }
    let half = || io::repeat(b'x').take(bytes / 2);
    Box::new(half().chain(AtGate(Some((app.clone(), gate.to_owned())))).chain(half()))
}
