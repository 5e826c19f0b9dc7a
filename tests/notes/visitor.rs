//! The application in this process, and its browsers, which keep cookies and fill in forms.

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::LazyLock;

use cloakroom::testing::CookieJar;
use rocket::config::{Config, LogLevel};
use rocket::figment::Figment;
use rocket::http::Header;
use rocket::local::asynchronous::Client;
use rocket::tokio::runtime::Runtime;

use crate::notes::app::App;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

/// Waits for it as a thread of Rocket does.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

pub(crate) fn settings() -> Figment {
    Figment::from(Config { log_level: LogLevel::Off, ..Config::debug_default() })
}

/// The application as one process has it, without a socket.
pub(crate) struct Process(Client);

impl Process {
    pub(crate) fn start(app: App) -> Self {
        Process(block_on(Client::untracked(app.rocket(settings()))).unwrap())
    }
}

impl Deref for Process {
    type Target = App;

    fn deref(&self) -> &App {
        self.0.rocket().state().unwrap()
    }
}

pub(crate) struct Visitor<'a> {
    process: &'a Process,
    address: SocketAddr,
    headers: Vec<(String, String)>,
    cookies: CookieJar,
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) location: Option<String>,
    pub(crate) set_cookie: Option<String>,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn location(&self) -> &str {
        self.location.as_deref().unwrap_or_else(|| panic!("no redirect: {self:?}"))
    }
}

impl<'a> Visitor<'a> {
    pub(crate) fn new(process: &'a Process) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        Visitor { process, address, headers: vec![], cookies: CookieJar::new() }
    }

    /// From another address.
    pub(crate) fn from(self, network: u8, host: u8) -> Self {
        Visitor { address: SocketAddr::from(([10, 0, network, host], 4711)), ..self }
    }

    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn with_cookie(self, cookie: &str) -> Self {
        Visitor { cookies: CookieJar::of(cookie), ..self }
    }

    pub(crate) fn cookie(&self) -> Option<String> {
        self.cookies.header()
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], "")
    }

    /// Loads the form of a page, and submits it to the same path.
    pub(crate) fn fill(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        self.get(path);
        self.post(path, fields)
    }

    /// Submits a form.
    pub(crate) fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        self.send("POST", path, &[("Content-Type", "application/x-www-form-urlencoded")], &body)
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = self.process.0.req(method.parse().unwrap(), path);
        let own = self.headers.iter().map(|(name, value)| (&**name, &**value));
        for (name, value) in headers.iter().copied().chain(own) {
            request.add_header(Header::new(name.to_owned(), value.to_owned()));
        }
        if let Some(cookies) = self.cookies.header() {
            request.add_header(Header::new("Cookie", cookies));
        }
        let (reply, headers) = block_on(async {
            let response = request.remote(self.address).body(body).dispatch().await;
            let fields = response.headers().iter();
            let headers: Vec<_> =
                fields.map(|field| (field.name().to_string(), field.value().to_owned())).collect();
            let header = |name: &str| response.headers().get(name).last().map(ToOwned::to_owned);
            let (status, location) = (response.status().code, header("Location"));
            let (set_cookie, retry_after) = (header("Set-Cookie"), header("Retry-After"));
            let body = response.into_string().await.unwrap_or_default();
            (Reply { status, location, set_cookie, retry_after, body }, headers)
        });
        self.cookies.receive(headers.iter().map(|(name, value)| (&**name, &**value)));
        reply
    }
}
