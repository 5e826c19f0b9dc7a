//! The application of the examples with some pages more and a CSRF token in each form, in a process
//! of its own, on each server.
//!
//! A request with `?before=NAME` stops at the gate of this name before it uses its session, one
//! with `?after=NAME` when it has; `/arrived` says how many have come there, and `/open` lets them
//! go on.

#[allow(dead_code, reason = "the settings of the examples are not used")]
#[path = "../../examples/app/mod.rs"]
mod app;

use std::collections::HashMap;
use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cloakroom::clock::{Clock, SystemClock, Timestamp};
use cloakroom::csrf::CsrfCheck;
use cloakroom::{CrossOrigin, Result, Session, SessionManager, SqliteStore, UserKey, web};

use self::app::Answer;
use crate::common::chromium::{Chromium, Programs, Tab};
use crate::common::client::PATIENCE;
use crate::common::tls;
use crate::common::{Folder, KillOnDrop, child};

/// The servers of the application, all over HTTP/1.1 except the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// Behind a proxy that ends TLS and makes a connection for each request: a browser that keeps
    /// several connections to rouille's own server can find one that no thread serves.
    Rouille,
    Rocket,
    /// With TLS and HTTP/2.
    RocketHttp2,
}

impl ServerKind {
    pub(crate) const ALL: [ServerKind; 3] =
        [ServerKind::Rouille, ServerKind::Rocket, ServerKind::RocketHttp2];
    /// For what needs no third one: each adapter, and each version of HTTP.
    pub(crate) const TWO: [ServerKind; 2] = [ServerKind::Rouille, ServerKind::RocketHttp2];
}

/// The settings of the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Defaults,
    NoStoreWhenSignedIn,
    FormPagesKept,
}

const SETTING: &str = "SETTING";

/// The answer to a form without a valid token.
pub(crate) const EXPIRED_FORM: &str = "This form has expired.";

/// The application, served at an origin such as `https://localhost:8000`.
pub(crate) struct BrowserSite {
    _process: KillOnDrop,
    pub(crate) origin: String,
}

impl BrowserSite {
    /// Starts it on the database of this folder, and waits until it listens.
    pub(crate) fn start(server: ServerKind, setting: Setting, folder: &Folder) -> Self {
        let mut child = child("browser", &format!("{server:?}"));
        child.env("DATABASE", folder.database()).env(SETTING, format!("{setting:?}"));
        let mut process = KillOnDrop(child.stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let origin = lines
            .map_while(io::Result::ok)
            .find_map(|line| line.strip_prefix("serving ").map(str::to_owned));
        BrowserSite { _process: process, origin: origin.expect("the server starts") }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }
}

/// Runs a test on each adapter set up like this.
pub(crate) fn on_each_adapter(setting: Setting, test: impl Fn(&Tab<'_>, &BrowserSite)) {
    let Some(programs) = Programs::find() else { return };
    let chromium = Chromium::start(&programs);
    for server in ServerKind::TWO {
        println!("{server:?}");
        chromium.forget_cookies();
        let folder = Folder::new();
        test(&chromium.tab(), &BrowserSite::start(server, setting, &folder));
    }
}

/// In a child: serves until the process is killed.
pub(crate) fn serve(server: &str) -> ! {
    let clock = ShiftedClock::default();
    let store = SqliteStore::open(env::var("DATABASE").unwrap()).unwrap();
    let exempt = CrossOrigin::refuse().exempt("/callback").exempt("/careless").exempt("/bounce");
    let sessions = SessionManager::builder(store).clock(clock.clone()).cross_origin(exempt);
    let sessions = match env::var(SETTING).unwrap() {
        setting if setting == format!("{:?}", Setting::NoStoreWhenSignedIn) => {
            sessions.no_store_when_signed_in(true)
        }
        setting if setting == format!("{:?}", Setting::FormPagesKept) => {
            sessions.no_store_with_csrf_token(false)
        }
        _ => sessions,
    };
    let sessions = sessions.build().unwrap();
    let served =
        Arc::new(Served { sessions, clock, gates: Mutex::default(), opened: Condvar::new() });
    if server == format!("{:?}", ServerKind::Rouille) {
        on_rouille(served)
    } else {
        on_rocket::serve(served, server == format!("{:?}", ServerKind::RocketHttp2))
    }
}

fn print_origin(origin: &str) {
    io::stdout().write_all(format!("\nserving {origin}\n").as_bytes()).unwrap();
}

/// The system's time and what was added to it.
#[derive(Clone, Debug, Default)]
struct ShiftedClock(Arc<AtomicU64>);

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now() + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

struct Served {
    sessions: SessionManager,
    clock: ShiftedClock,
    gates: Mutex<HashMap<String, NamedGate>>,
    opened: Condvar,
}

#[derive(Default)]
struct NamedGate {
    arrived: u64,
    open: bool,
}

impl Served {
    fn gate<R>(&self, name: &str, with: impl FnOnce(&mut NamedGate) -> R) -> R {
        with(self.gates.lock().unwrap().entry(name.to_owned()).or_default())
    }

    fn stop_at(&self, name: Option<&String>) {
        let Some(name) = name else { return };
        self.gate(name, |gate| gate.arrived += 1);
        let gates = self.gates.lock().unwrap();
        let waits = |gates: &mut HashMap<String, NamedGate>| !gates[name].open;
        let (gates, waited) = self.opened.wait_timeout_while(gates, PATIENCE, waits).unwrap();
        drop(gates);
        assert!(!waited.timed_out(), "the test opens its gates");
    }
}

struct Asked {
    path: String,
    query: HashMap<String, String>,
    form: HashMap<String, String>,
}

impl Asked {
    fn new(path: &str, query: &str, body: &str) -> Self {
        let pairs = |text: &str| form_urlencoded::parse(text.as_bytes()).into_owned().collect();
        Asked { path: path.to_owned(), query: pairs(query), form: pairs(body) }
    }

    fn number(&self, name: &str) -> u64 {
        self.query[name].parse().unwrap()
    }
}

/// A page of one process may read what another process answers to requests without a cookie.
const ANY_ORIGIN: (&str, &str) = ("Access-Control-Allow-Origin", "*");

struct Reply {
    status: u16,
    content_type: &'static str,
    location: Option<String>,
    body: String,
}

impl Reply {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Reply { status, content_type: "text/plain", location: None, body: body.into() }
    }

    fn page(body: impl Into<String>) -> Self {
        Reply { content_type: "text/html; charset=utf-8", ..Reply::text(200, body) }
    }
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Page(html) => Reply::page(html),
            Answer::See(path) => Reply { location: Some(path.to_owned()), ..Reply::text(303, "") },
        }
    }
}

/// A page of the examples, with a token in its forms.
fn with_tokens(page: Answer, session: &Session) -> Result<Reply> {
    let page = Reply::from(page);
    let body = page.body.replace("</form>", &format!("{}</form>", session.csrf_field()?));
    Ok(Reply { body, ..page })
}

/// The page of a visitor: it fetches a form token and, at once, everything that its address names
/// as `read`. When the token is there and all these have arrived at their gate, it opens that.
const VISIT: &str = "<!doctype html>
<title>Visit</title>
<form method=\"post\" action=\"/post\"><input name=\"csrf\"><button>Post</button></form>
<script>
const asked = new URLSearchParams(location.search);
const reads = asked.getAll('read');
const get = url => fetch(url, { mode: 'no-cors', credentials: 'include', cache: 'no-store' });
const text = url => fetch(url, { credentials: 'omit' }).then(answer => answer.text());
const arrived = url => text(url).then(number => number == reads.length || arrived(url));
const token = get('/token').then(answer => answer.text()).then(token => {
    document.querySelector('input').value = token;
    if (asked.has('open'))
        return arrived(asked.get('arrived')).then(() => text(asked.get('open')));
});
window.complete = Promise.all([token, ...reads.map(get)]).then(() => 'complete');
</script>";

fn answer(served: &Served, asked: &Asked, session: &Session) -> Result<Reply> {
    served.stop_at(asked.query.get("before"));
    let sent = |name: &str| asked.form.get(name).map_or("", String::as_str);
    let csrf = sent("csrf");
    let reply = match asked.path.as_str() {
        "/arrived" => {
            let arrived = served.gate(&asked.query["gate"], |gate| gate.arrived);
            Reply::text(200, arrived.to_string())
        }
        "/open" => {
            served.gate(&asked.query["gate"], |gate| gate.open = true);
            served.opened.notify_all();
            Reply::text(200, "open")
        }
        "/advance" => {
            served.clock.0.fetch_add(asked.number("seconds"), Ordering::SeqCst);
            Reply::text(200, "advanced")
        }
        "/revoke-everyone" => {
            served.sessions.revoke_everyone(None)?;
            Reply::text(200, "revoked")
        }
        // As an identity provider's form does at the end of a sign-in.
        "/callback" => {
            session.allow_cross_origin()?;
            let _ = session.sign_in(UserKey::new("bob")?)?;
            Answer::See("/").into()
        }
        "/careless" => {
            session.set("theme", "dark")?;
            Answer::See("/").into()
        }
        "/bounce" => Reply { location: asked.query.get("to").cloned(), ..Reply::text(307, "") },
        "/blank" => Reply::page("<!doctype html><title>Blank</title>"),
        "/visit" => Reply::page(VISIT),
        "/token" => Reply::text(200, session.csrf_token()?),
        "/read" => {
            let user = session.user()?;
            Reply::text(200, user.as_ref().map_or("none", UserKey::as_str))
        }
        "/post" => match session.verify_csrf(csrf)? {
            CsrfCheck::Invalid => Reply::text(403, "refused"),
            _ => Reply::text(200, "accepted"),
        },
        "/sign-in" | "/sign-out" | "/sessions/revoke"
            if session.verify_csrf(csrf)? == CsrfCheck::Invalid =>
        {
            Reply::text(403, EXPIRED_FORM)
        }
        "/" => with_tokens(app::home(session)?, session)?,
        "/sign-in" => app::sign_in(session, sent("user"), sent("password"))?.into(),
        "/sign-out" => app::sign_out(session)?.into(),
        "/sign-out-silently" => {
            session.destroy()?;
            Answer::See("/blank").into()
        }
        "/sessions" => with_tokens(app::list(&served.sessions, session)?, session)?,
        "/sessions/revoke" => app::revoke(&served.sessions, session, sent("public_id"))?.into(),
        _ => Reply::text(404, "There is no such page."),
    };
    served.stop_at(asked.query.get("after"));
    Ok(reply)
}

fn on_rouille(served: Arc<Served>) -> ! {
    let server = rouille::Server::new("127.0.0.1:0", move |request: &rouille::Request| {
        web::rouille::session(&served.sessions, request, |session| {
            let mut body = String::new();
            if let Some(mut data) = request.data() {
                data.read_to_string(&mut body)?;
            }
            let asked = Asked::new(&request.url(), request.raw_query_string(), &body);
            let reply = answer(&served, &asked, session)?;
            let answer = rouille::Response::from_data(reply.content_type, reply.body)
                .with_status_code(reply.status)
                .with_additional_header(ANY_ORIGIN.0, ANY_ORIGIN.1);
            Ok(match reply.location {
                Some(location) => answer.with_unique_header("Location", location),
                None => answer,
            })
        })
    });
    let server = server.unwrap();
    print_origin(&format!(
        "https://localhost:{}",
        tls::proxy("localhost", server.server_addr()).port()
    ));
    server.run();
    unreachable!("it runs until the process is killed");
}

mod on_rocket {
    use std::io::Cursor;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use cloakroom::Session;
    use rocket::config::{Config, LogLevel, TlsConfig};
    use rocket::fairing::AdHoc;
    use rocket::http::Status;
    use rocket::http::uri::Origin;
    use rocket::response::{self, Responder};
    use rocket::tokio::task::block_in_place;
    use rocket::{Request, Response, State, routes};

    use super::{ANY_ORIGIN, Asked, Reply, Served, answer, print_origin};
    use crate::common::tls::self_signed;

    impl<'r> Responder<'r, 'static> for Reply {
        fn respond_to(self, _: &'r Request<'_>) -> response::Result<'static> {
            let mut answer = Response::build();
            answer.status(Status::new(self.status)).raw_header("Content-Type", self.content_type);
            answer.raw_header(ANY_ORIGIN.0, ANY_ORIGIN.1);
            if let Some(location) = self.location {
                answer.raw_header("Location", location);
            }
            answer.sized_body(self.body.len(), Cursor::new(self.body)).ok()
        }
    }

    #[rocket::get("/<_..>")]
    fn get(
        served: &State<Arc<Served>>,
        uri: &Origin<'_>,
        session: &Session,
    ) -> cloakroom::Result<Reply> {
        post(served, uri, session, "")
    }

    #[rocket::post("/<_..>", data = "<body>")]
    fn post(
        served: &State<Arc<Served>>,
        uri: &Origin<'_>,
        session: &Session,
        body: &str,
    ) -> cloakroom::Result<Reply> {
        let query = uri.query().map_or("", |query| query.as_str());
        let asked = Asked::new(uri.path().as_str(), query, body);
        // It may stop at a gate, which is not for a thread of Rocket's to do.
        block_in_place(|| answer(served, &asked, session))
    }

    /// RFC 7468, in one line.
    fn pem(label: &str, der: &[u8]) -> String {
        let text = BASE64_STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    pub(super) fn serve(served: Arc<Served>, http2: bool) -> ! {
        let tls = http2.then(|| {
            let made = self_signed("localhost");
            let certificate = pem("CERTIFICATE", made.cert.der());
            let key = pem("PRIVATE KEY", &made.signing_key.serialize_der());
            TlsConfig::from_bytes(certificate.as_bytes(), key.as_bytes())
        });
        let config = Config {
            address: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            log_level: LogLevel::Off,
            tls,
            ..Config::debug_default()
        };
        let rocket = rocket::custom(config)
            .attach(served.sessions.clone())
            .attach(AdHoc::on_liftoff("print_origin where", |rocket| {
                let config = rocket.config();
                let scheme = if config.tls_enabled() { "https" } else { "http" };
                print_origin(&format!("{scheme}://localhost:{}", config.port));
                Box::pin(async {})
            }))
            .manage(served)
            .mount("/", routes![get, post]);
        let _ = rocket::execute(rocket.launch());
        unreachable!("it runs until the process is killed");
    }
}
