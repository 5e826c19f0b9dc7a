//! Sessions for tiny_http.
//!
//! ```no_run
//! use cloakroom::web::tiny_http::{self as web, Result};
//! use cloakroom::{MemoryStore, Session, SessionManager};
//! use tiny_http::{Request, Response};
//!
//! fn index(session: &Session, _: &mut Request) -> Result {
//!     let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
//!     Ok(Response::from_string(format!("visits: {visits}")).boxed())
//! }
//!
//! let sessions = SessionManager::new(MemoryStore::new())?;
//! let server = web::listen("localhost:8000")?;
//! std::thread::scope(|threads| {
//!     for _ in 0..128 {
//!         threads.spawn(|| {
//!             for mut request in server.incoming_requests() {
//!                 let response = web::session(&sessions, &mut request, index);
//!                 // A client that has disconnected does not need its response.
//!                 let _ = request.respond(response);
//!             }
//!         });
//!     }
//! });
//! # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! ```

use std::error::Error;
use std::io::Read;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::OwnedFd as OwnedSocket;
#[cfg(windows)]
use std::os::windows::io::OwnedSocket;

use ::tiny_http::{Header, Request, Response, ResponseBox, Server};

use crate::adapter::{self, Adapter, HandlerError};
use crate::manager::SessionManager;
use crate::session::Session;
use crate::web::error_page;

/// The result of a handler, and of functions that it calls with `?`, which converts any error.
pub type Result<T = ResponseBox> = std::result::Result<T, HandlerError<ResponseBox>>;

/// Answers a request with a session, as [every adapter](crate::web) does. The error page is a plain
/// text; [`session_with_error_page`] has another one. Send the response by [`Request::respond`].
///
/// A handler can return early with [`HandlerError::response`] and a [boxed](Response::boxed)
/// response.
///
/// ```
/// use cloakroom::adapter::HandlerError;
/// use cloakroom::web::tiny_http::session;
/// use cloakroom::{MemoryStore, SessionManager};
/// use tiny_http::{Request, Response, TestRequest};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let mut request: Request = TestRequest::new().with_body("light").into();
/// let response = session(&sessions, &mut request, |session, request| {
///     let mut theme = String::new();
///     request.as_reader().read_to_string(&mut theme)?;
///     if theme.is_empty() {
///         return Err(HandlerError::response(Response::empty(400).boxed()));
///     }
///     session.set("theme", theme)?;
///     Ok(Response::from_string("done"))
/// });
/// assert!(response.headers().iter().any(|header| header.field.equiv("Set-Cookie")));
/// request.respond(response)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn session<R: Read + Send + 'static>(
    manager: &SessionManager,
    request: &mut Request,
    handler: impl FnOnce(&Session, &mut Request) -> Result<Response<R>>,
) -> ResponseBox {
    let error_page = |status| {
        let page = Response::from_string(error_page::body(status));
        match header("Content-Type", "text/plain; charset=utf-8") {
            Some(content_type) => page.with_header(content_type),
            None => page,
        }
    };
    session_with_error_page(manager, request, handler, error_page)
}

/// Answers a request as [`session`] does, with error pages of the application: `error_page` gets
/// the status and returns the page. The function then sets the status of the page.
pub fn session_with_error_page<R: Read + Send + 'static, P: Read + Send + 'static>(
    manager: &SessionManager,
    request: &mut Request,
    handler: impl FnOnce(&Session, &mut Request) -> Result<Response<R>>,
    error_page: impl Fn(u16) -> Response<P>,
) -> ResponseBox {
    let adapter = Adapter::new(manager);
    let fields = request.headers().iter();
    let fields = fields.map(|header| (header.field.as_str().as_str(), header.value.as_str()));
    let head = adapter.head(request.method().as_str(), request.url(), fields);
    let head = head.secure_if(request.secure());
    let head = match request.remote_addr() {
        Some(peer) => head.peer_addr(peer.ip()),
        None => head,
    };
    let error_page = |status| error_page(status).with_status_code(status).boxed();
    match adapter.open(&head) {
        Ok(session) => {
            let handler = |session: &Session| handler(session, request).map(Response::boxed);
            adapter.answer(&session, handler, error_page)
        }
        Err(status) => error_page(status),
    }
}

/// Starts a server like [`Server::http`], with `TCP_NODELAY` for its connections.
///
/// tiny_http sends the head and the body of a response separately if they are longer than 1,024
/// bytes together. On a connection that the client has kept open, Nagle's algorithm then delays the
/// body by some 40 ms, until the client has acknowledged the head. `TCP_NODELAY` switches it off.
///
/// # Errors
/// The server cannot listen on the address.
pub fn listen(
    address: impl ToSocketAddrs,
) -> std::result::Result<Server, Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind(address)?;
    // A connection inherits the option of its listener, for which the standard library has no
    // method: a second handle of the socket, with the type of a connection, has one.
    TcpStream::from(OwnedSocket::from(listener.try_clone()?)).set_nodelay(true)?;
    Server::from_listener(listener, None)
}

fn header(name: &str, value: &str) -> Option<Header> {
    Header::from_bytes(name, value).ok()
}

impl adapter::Response for ResponseBox {
    fn status_code(&self) -> u16 {
        self.status_code().0
    }

    fn append_header(&mut self, name: &str, value: &str) {
        // Names and values of sessions are ASCII.
        if let Some(header) = header(name, value) {
            self.add_header(header);
        }
    }

    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        let fields = self.headers().iter().filter(|header| header.field.equiv(name));
        let values: Vec<&str> = fields.map(|header| header.value.as_str()).collect();
        let Some(value) = merge(&values) else { return };
        if !values.is_empty() {
            remove_header(self, name);
        }
        self.append_header(name, &value);
    }
}

/// Removes all fields of a name. Responses of tiny_http have no method for this, so it makes the
/// response anew.
fn remove_header(response: &mut ResponseBox, name: &'static str) {
    let old = std::mem::replace(response, Response::empty(0).boxed());
    let status = old.status_code();
    let length = old.data_length();
    let threshold = old.chunked_threshold();
    let kept = old.headers().iter().filter(|header| !header.field.equiv(name)).cloned().collect();
    let new = Response::new(status, kept, old.into_reader(), length, None);
    *response = new.with_chunked_threshold(threshold);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_header_keeps_the_rest_of_the_response() {
        let header = |name, value| header(name, value).unwrap();
        let response = Response::from_string("body").with_status_code(404);
        let response = response.with_header(header("vary", "Accept"));
        let response = response.with_header(header("Vary", "Origin"));
        let mut response = response.with_chunked_threshold(3).boxed();
        adapter::Response::merge_header(&mut response, "Vary", &|values| Some(values.join("+")));
        adapter::Response::merge_header(&mut response, "Content-Type", &|_| None);
        let fields =
            response.headers().iter().map(|h| (h.field.as_str().as_str(), h.value.as_str()));
        let content_type = ("Content-Type", "text/plain; charset=UTF-8");
        assert!(fields.eq([content_type, ("Vary", "Accept+Origin")]));
        assert_eq!((response.status_code().0, response.data_length()), (404, Some(4)));
        assert_eq!(response.chunked_threshold(), 3);
        assert_eq!(std::io::read_to_string(response.into_reader()).unwrap(), "body");
    }
}
