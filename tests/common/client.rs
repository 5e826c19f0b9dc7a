//! A client that sends exactly the given bytes and shows exactly those that come back.

#![allow(dead_code, unreachable_pub, reason = "no test program uses all of it")]

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest wait for anything; a test that exceeds it fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The cookie that the default configuration sets.
pub const COOKIE: &str = "__Host-id";

#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    keep_alive: bool,
}

impl Request {
    pub fn new(method: &'static str, path: impl Into<String>) -> Self {
        Request { method, path: path.into(), headers: vec![], body: vec![], keep_alive: false }
    }

    pub fn get(path: impl Into<String>) -> Self {
        Request::new("GET", path)
    }

    pub fn post(path: impl Into<String>) -> Self {
        Request::new("POST", path).header("Content-Length", "0")
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// One more `Cookie` header.
    pub fn cookie(self, value: impl AsRef<[u8]>) -> Self {
        self.header("Cookie", value)
    }

    /// A body and its length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Length", length)
    }

    /// Leaves the connection open for another request.
    pub fn keep_alive(self) -> Self {
        Request { keep_alive: true, ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.path).into_bytes();
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            bytes.extend(b"Host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            bytes.extend(name.as_bytes());
            bytes.extend(b": ");
            bytes.extend(value);
            bytes.extend(b"\r\n");
        }
        if !self.keep_alive {
            bytes.extend(b"Connection: close\r\n");
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }
}

#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The values of all headers of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let of_name = self.headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| value.as_str()).collect()
    }

    /// The value of the header of this name, which is there once at most.
    #[track_caller]
    pub fn one(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} is there more than once: {values:?}");
        values.first().copied()
    }

    #[track_caller]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The `Set-Cookie` headers of the session; others are left out.
    pub fn session_cookies(&self) -> Vec<&str> {
        let mut ours = self.all("Set-Cookie");
        ours.retain(|value| value.starts_with(&format!("{COOKIE}=")));
        ours
    }

    /// The `Set-Cookie` header of the session, which is there once at most.
    #[track_caller]
    pub fn session_cookie(&self) -> Option<&str> {
        let ours = self.session_cookies();
        assert!(ours.len() <= 1, "more than one session cookie: {ours:?}");
        ours.first().copied()
    }

    /// The id that the response gives to the client; empty where it takes it away.
    #[track_caller]
    pub fn id(&self) -> Option<String> {
        let (pair, _) = self.session_cookie()?.split_once(';').unwrap();
        Some(pair.split_once('=').unwrap().1.to_owned())
    }
}

/// A connection, and the request on it that waits for its answer.
#[derive(Debug)]
pub struct Exchange {
    stream: BufReader<TcpStream>,
    /// Requests whose answer was not read yet.
    waiting: Vec<Request>,
}

impl Exchange {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Exchange { stream: BufReader::new(stream), waiting: vec![] })
    }

    /// Sends a request and does not wait for the answer.
    pub fn start(address: SocketAddr, request: &Request) -> io::Result<Self> {
        let mut exchange = Exchange::connect(address)?;
        exchange.send(request)?;
        Ok(exchange)
    }

    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.stream.get_mut().write_all(&request.bytes())?;
        self.waiting.push(request.clone());
        Ok(())
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads the next answer up to its body.
    pub fn head(&mut self) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| bad(&status_line))?;
        let mut headers = vec![];
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(Response { status, headers, body: vec![] })
    }

    /// Reads the next answer.
    pub fn answer(&mut self) -> io::Result<Response> {
        let head = self.head()?;
        self.body_of(head)
    }

    /// Reads the body that belongs to this head, and that nothing follows on a connection that
    /// the request wanted closed.
    pub fn body_of(&mut self, head: Response) -> io::Result<Response> {
        let request = self.waiting.remove(0);
        let mut response = head;
        let bodiless = request.method == "HEAD" || matches!(response.status, 204 | 304);
        if bodiless {
        } else if response.one("Transfer-Encoding") == Some("chunked") {
            loop {
                let size = self.line()?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| bad(&size))?;
                let mut chunk = vec![0; size];
                self.stream.read_exact(&mut chunk)?;
                response.body.extend(chunk);
                if !self.line()?.is_empty() {
                    return Err(bad("no line end after a chunk"));
                }
                if size == 0 {
                    break;
                }
            }
        } else {
            let length = response.one("Content-Length").and_then(|length| length.parse().ok());
            response.body = vec![0; length.ok_or_else(|| bad("no length"))?];
            self.stream.read_exact(&mut response.body)?;
        }
        if !request.keep_alive {
            let mut more = vec![];
            self.stream.read_to_end(&mut more)?;
            if !more.is_empty() {
                return Err(bad("bytes follow the answer"));
            }
        }
        Ok(response)
    }

    /// Waits for the server to close the connection, and says whether it has sent nothing before.
    pub fn closes_without_an_answer(&mut self) -> bool {
        let mut bytes = vec![];
        match self.stream.read_to_end(&mut bytes) {
            Ok(_) => bytes.is_empty(),
            // Bytes that the server left unread turn the end into a reset.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => bytes.is_empty(),
            Err(error) => panic!("the connection hangs: {error}"),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = vec![];
        self.stream.read_until(b'\n', &mut line)?;
        let line = String::from_utf8(line).map_err(|_| bad("no UTF-8"))?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("this is no HTTP: {what:?}"))
}

pub fn send(address: SocketAddr, request: &Request) -> io::Result<Response> {
    Exchange::start(address, request)?.answer()
}

/// A client that keeps the session cookie as a browser does, and takes no other.
#[derive(Clone, Debug)]
pub struct HttpClient {
    pub address: SocketAddr,
    pub id: Option<String>,
}

impl HttpClient {
    pub fn new(address: SocketAddr) -> Self {
        HttpClient { address, id: None }
    }

    /// With the session cookie, if there is one.
    pub fn with_cookie(&self, request: Request) -> Request {
        match &self.id {
            Some(id) => request.cookie(format!("{COOKIE}={id}")),
            None => request,
        }
    }

    pub fn try_send(&mut self, request: Request) -> io::Result<Response> {
        let response = send(self.address, &self.with_cookie(request))?;
        self.take(&response);
        Ok(response)
    }

    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.try_send(Request::get(path)).unwrap()
    }

    #[track_caller]
    pub fn post(&mut self, path: &str) -> Response {
        self.try_send(Request::post(path)).unwrap()
    }

    /// Sends a request whose answer is read later.
    pub fn start(&self, request: Request) -> Exchange {
        Exchange::start(self.address, &self.with_cookie(request)).unwrap()
    }

    pub fn take(&mut self, response: &Response) {
        for header in response.session_cookies() {
            let id = header.split([';', '=']).nth(1).unwrap();
            self.id = Some(id.to_owned()).filter(|id| !id.is_empty());
        }
    }

    #[track_caller]
    pub fn id(&self) -> &str {
        self.id.as_deref().expect("the browser has a session cookie")
    }
}
