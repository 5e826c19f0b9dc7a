//! A browser in this process: it keeps cookies, and fills in forms.

use std::io::Read;
use std::net::SocketAddr;

use cloakroom::testing::CookieJar;
use rouille::Request;

use crate::notes::app::App;

pub(crate) struct Visitor<'a> {
    app: &'a App,
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
    pub(crate) fn new(app: &'a App) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 4711));
        Visitor { app, address, headers: vec![], cookies: CookieJar::new() }
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
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut headers: Vec<_> = headers.iter().map(own).chain(self.headers.clone()).collect();
        headers.extend(self.cookies.header().map(|cookies| ("Cookie".to_owned(), cookies)));
        let body = body.as_bytes().to_vec();
        let request = Request::fake_http_from(self.address, method, path, headers, body);
        let response = self.app.handle(&request);
        self.cookies.receive(response.headers.iter().map(|(name, value)| (&**name, &**value)));
        let header = |name: &str| {
            let mut found = response.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
            found.next_back().map(|(_, value)| value.to_string())
        };
        let (status, location) = (response.status_code, header("Location"));
        let (set_cookie, retry_after) = (header("Set-Cookie"), header("Retry-After"));
        let mut body = String::new();
        response.data.into_reader_and_size().0.read_to_string(&mut body).unwrap();
        Reply { status, location, set_cookie, retry_after, body }
    }
}
