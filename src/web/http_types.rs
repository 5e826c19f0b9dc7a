//! Sessions for synchronous servers that use the types of the [`http`](https://docs.rs/http) crate,
//! such as Astra and touche. Their handlers call [`session`].

// The tests serve it with tiny_http, because Astra 0.4.0 cannot be stopped.

use std::net::SocketAddr;

use ::http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use ::http::{Request, Response, StatusCode};

use crate::adapter::{self, Adapter, HandlerError, RequestHead};
use crate::manager::SessionManager;
use crate::session::Session;
use crate::web::error_page;

/// The result of a handler whose response has a body of type `B`, and of functions that it calls
/// with `?`, which converts any error.
pub type Result<B, T = Response<B>> = std::result::Result<T, HandlerError<Response<B>>>;

/// Answers a request with a session, as [every adapter](crate::web) does. The error page is a plain
/// text; [`session_with_error_page`] has another one.
///
/// The handler owns the request, with its body. It can return early with
/// [`HandlerError::response`].
///
/// The client's address is the [`SocketAddr`] among the request's
/// [extensions](Request::extensions), where the application puts it. Without one, the address is
/// unknown.
///
/// ```
/// use std::net::SocketAddr;
///
/// use cloakroom::web::http_types::{Result, session};
/// use cloakroom::{MemoryStore, Session, SessionManager};
/// use http::{Request, Response};
///
/// type Body = Vec<u8>; // of the server: `astra::Body`, for example
///
/// fn index(session: &Session, _: Request<Body>) -> Result<Body> {
///     let visits = session.update("visits", |n: Option<u32>| n.unwrap_or(0) + 1)?;
///     Ok(Response::new(format!("visits: {visits}").into()))
/// }
///
/// /// Answers a request of the server.
/// fn answer(
///     sessions: &SessionManager,
///     mut request: Request<Body>,
///     peer: SocketAddr,
/// ) -> Response<Body> {
///     request.extensions_mut().insert(peer);
///     session(sessions, request, index)
/// }
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let peer = "192.0.2.7:4711".parse().unwrap();
/// assert_eq!(answer(&sessions, Request::default(), peer).body(), b"visits: 1");
/// # Ok::<(), cloakroom::Error>(())
/// ```
///
/// With a closure as the handler, and an early response:
///
/// ```
/// use cloakroom::adapter::HandlerError;
/// use cloakroom::web::http_types::session;
/// use cloakroom::{MemoryStore, SessionManager};
/// use http::{Request, Response, StatusCode};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// let request = Request::post("/theme").body("light".to_owned())?;
/// let response = session(&sessions, request, |session, request| {
///     let theme = request.into_body();
///     if theme.is_empty() {
///         let response = Response::builder().status(StatusCode::BAD_REQUEST);
///         return Err(HandlerError::response(response.body("no theme")?));
///     }
///     session.set("theme", theme)?;
///     Ok(Response::new("done"))
/// });
/// assert_eq!((response.status(), *response.body()), (StatusCode::OK, "done"));
/// assert!(response.headers().contains_key("Set-Cookie"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn session<Q, B: From<&'static str>>(
    manager: &SessionManager,
    request: Request<Q>,
    handler: impl FnOnce(&Session, Request<Q>) -> Result<B>,
) -> Response<B> {
    let error_page = |status| {
        let mut page = Response::new(error_page::body(status).into());
        let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
        page.headers_mut().insert(CONTENT_TYPE, content_type);
        page
    };
    session_with_error_page(manager, request, handler, error_page)
}

/// Answers a request as [`session`] does, with error pages of the application: `error_page` gets
/// the status and returns the page. The function then sets the status of the page.
pub fn session_with_error_page<Q, B>(
    manager: &SessionManager,
    request: Request<Q>,
    handler: impl FnOnce(&Session, Request<Q>) -> Result<B>,
    error_page: impl Fn(u16) -> Response<B>,
) -> Response<B> {
    let adapter = Adapter::new(manager);
    let error_page = |status| {
        let mut page = error_page(status);
        *page.status_mut() =
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        page
    };
    match adapter.open(&head(adapter, &request)) {
        Ok(session) => adapter.answer(&session, |session| handler(session, request), error_page),
        Err(status) => error_page(status),
    }
}

fn head<'r, Q>(adapter: Adapter<'_>, request: &'r Request<Q>) -> RequestHead<'r> {
    // The authority of the request's target is the host; the field does not count beside it
    // (RFC 9112, section 3.2.2). HTTP/2 has only the former.
    let host = request.uri().authority().map(|authority| ("host", authority.as_str()));
    let is_read = |name: &HeaderName| host.is_none() || name != HOST;
    let fields = request.headers().iter().filter(|(name, _)| is_read(name));
    let fields = fields.filter_map(|(name, value)| Some((name.as_str(), text(value)?)));
    let head = adapter.head(request.method().as_str(), request.uri().path(), fields.chain(host));
    let head = head.secure_if(request.uri().scheme_str() == Some("https"));
    match request.extensions().get::<SocketAddr>() {
        Some(peer) => head.peer_addr(peer.ip()),
        None => head,
    }
}

/// Returns the value of a field; `None` if it is not UTF-8.
fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

impl<B> adapter::Response for Response<B> {
    fn status_code(&self) -> u16 {
        self.status().as_u16()
    }

    fn append_header(&mut self, name: &str, value: &str) {
        // Names and values of sessions are valid.
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
            // It fails only beyond 32,768 fields.
            let _ = self.headers_mut().try_append(name, value);
        }
    }

    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        let values: Vec<&str> = self.headers().get_all(name).iter().filter_map(text).collect();
        if let Some(value) = merge(&values) {
            self.headers_mut().remove(name);
            self.append_header(name, &value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cookie::CookieConfig;
    use crate::stores::memory::MemoryStore;

    fn sessions() -> SessionManager {
        let builder = SessionManager::builder(MemoryStore::new());
        builder.cookie(CookieConfig::new().name("id")).build().unwrap()
    }

    #[test]
    fn the_authority_of_the_target_counts_as_the_only_host() {
        let sessions = sessions();
        let request = |target: &str| {
            Request::builder().uri(target).header("Host", "other.example").body(()).unwrap()
        };
        for (target, host, secure) in [
            ("/", "other.example", false),
            ("http://shop.example:80/", "shop.example:80", false),
            ("https://shop.example/", "shop.example", true),
        ] {
            let request = request(target);
            let head = head(Adapter::new(&sessions), &request);
            assert_eq!((head.host.once(), head.secure), (Some(host), secure), "{target}");
        }
    }

    #[test]
    fn a_field_that_is_not_utf_8_is_left_out() {
        let sessions = sessions();
        let request = |cookies: &[&[u8]]| {
            let builder = Request::builder();
            cookies.iter().fold(builder, |builder, cookie| builder.header("Cookie", *cookie))
        };
        let cookies = |fields: &[&[u8]]| {
            let request = request(fields).body(()).unwrap();
            head(Adapter::new(&sessions), &request).cookies.len()
        };
        assert_eq!(cookies(&[b"id=\xff"]), 0);
        assert_eq!(cookies(&["theme=d\u{fc}ster; id=x".as_bytes(), b"id=\xff", b"id=y"]), 2);
    }

    #[test]
    fn a_merged_header_replaces_all_fields_of_its_name() {
        let mut response = Response::new(());
        for (name, value) in [("Vary", "Accept"), ("Set-Cookie", "a=1"), ("vary", "Origin")] {
            adapter::Response::append_header(&mut response, name, value);
        }
        adapter::Response::merge_header(&mut response, "Vary", &|values| Some(values.join("+")));
        adapter::Response::merge_header(&mut response, "Set-Cookie", &|_| None);
        let fields = response.headers().iter().map(|(name, value)| (name.as_str(), text(value)));
        let expected = [("set-cookie", Some("a=1")), ("vary", Some("Accept+Origin"))];
        assert_eq!(fields.collect::<Vec<_>>(), expected);
    }
}
