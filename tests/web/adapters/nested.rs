//! Calls of rouille's adapter within calls, in one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cloakroom::adapter::Outcome;
use cloakroom::event::EventKind;
use cloakroom::web::rouille::session;
use cloakroom::{CookieConfig, CrossOrigin, MemoryStore, Session, SessionManager};
use rouille::{Request, Response};

use crate::common::client::{HttpClient, Request as Sent, send};
use crate::common::cross_origin::{HOST, cases};

/// A server of rouille's that stops when it is dropped.
struct RouilleServer {
    address: std::net::SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl RouilleServer {
    fn start(handler: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let server = rouille::Server::new("127.0.0.1:0", handler).unwrap();
        let (address, stopped) = (server.server_addr(), Arc::new(AtomicBool::new(false)));
        let stop_now = stopped.clone();
        let thread = thread::spawn(move || {
            while !stop_now.load(Ordering::Relaxed) {
                server.poll_timeout(Duration::from_millis(10));
            }
        });
        RouilleServer { address, stopped, thread: Some(thread) }
    }
}

impl Drop for RouilleServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn memory() -> SessionManager {
    SessionManager::new(MemoryStore::new()).unwrap()
}

fn add(session: &Session, name: &str) -> cloakroom::Result<u32> {
    session.update(name, |n: Option<u32>| n.unwrap_or(0) + 1)
}

fn seen(session: &Session) -> cloakroom::Result<String> {
    let get = |name| Ok::<u32, cloakroom::Error>(session.get(name)?.unwrap_or(0));
    Ok(format!("{} {}", get("outer")?, get("inner")?))
}

/// The cookie of a session that holds `n`.
fn begun(sessions: &SessionManager) -> String {
    let session = sessions.open(None);
    session.set("n", 1).unwrap();
    let headers = sessions.close(&session, Outcome::Completed).unwrap();
    headers.id_fields[0].1.split(';').next().unwrap().to_owned()
}

/// An application within one that counts too: `/inner/…` is the inner one's.
fn nested(
    sessions: &SessionManager,
    request: &Request,
    inner: impl FnOnce(&Session) -> cloakroom::web::rouille::Result,
    mend: impl FnOnce(Response) -> Response,
) -> Response {
    session(sessions, request, |outer| {
        if request.url() == "/seen" {
            return Ok(Response::text(seen(outer)?));
        }
        add(outer, "outer")?;
        let inner_request = request.remove_prefix("/inner").unwrap();
        Ok(mend(session(sessions, &inner_request, inner)))
    })
}

#[test]
fn an_inner_call_gets_the_session_of_the_outer_one() {
    let sessions = memory();
    let manager = sessions.clone();
    let server = RouilleServer::start(move |request| {
        let inner = |session: &Session| {
            add(session, "inner")?;
            Ok(Response::text(seen(session)?))
        };
        nested(&manager, request, inner, |response| response)
    });
    let mut browser = HttpClient::new(server.address);
    let first = browser.get("/inner/");
    assert_eq!(first.text(), "1 1", "the inner one sees what the outer one has changed");
    assert_eq!(first.all("Set-Cookie").len(), 1, "one id");
    assert_eq!(first.one("Cache-Control"), Some("private, no-cache=\"Set-Cookie\""));
    assert_eq!(first.one("Vary"), Some("Cookie"));
    assert_eq!(browser.get("/inner/").text(), "2 2");
    assert_eq!(sessions.events().count(EventKind::Created), 1);
    assert_eq!(sessions.events().count(EventKind::SessionNotClosed), 0);
}

#[test]
fn an_inner_handler_that_fails_or_panics_discards_the_changes() {
    for (panics, mended) in [(false, false), (false, true), (true, false), (true, true)] {
        let sessions = memory();
        let manager = sessions.clone();
        let fails = Arc::new(AtomicBool::new(false));
        let failing = fails.clone();
        let server = RouilleServer::start(move |request| {
            let inner = |session: &Session| {
                add(session, "inner")?;
                match failing.load(Ordering::Relaxed) {
                    true if panics => panic!("the password is swordfish"),
                    true => Err("the password is swordfish".into()),
                    false => Ok(Response::text("fine")),
                }
            };
            let mend = |response: Response| match mended {
                true => Response::text(format!("it was {}", response.status_code)),
                false => response,
            };
            nested(&manager, request, inner, mend)
        });
        let mut browser = HttpClient::new(server.address);
        browser.get("/inner/");
        fails.store(true, Ordering::Relaxed);
        let response = browser.get("/inner/");
        assert_eq!(response.status, if mended { 200 } else { 500 });
        let text = if mended { "it was 500" } else { "Something went wrong." };
        assert_eq!(response.text(), text);
        assert_eq!(response.one("Set-Cookie"), None);
        fails.store(false, Ordering::Relaxed);
        assert_eq!(browser.get("/seen").text(), "1 1", "panics: {panics}, mended: {mended}");
        assert_eq!(sessions.events().count(EventKind::HandlerFailed), 1, "raised once");
        browser.get("/inner/");
        assert_eq!(browser.get("/seen").text(), "2 2", "the next request is fine");
    }
}

#[test]
fn an_inner_handler_that_signs_out_and_panics_has_signed_out() {
    let sessions = memory();
    let manager = sessions.clone();
    let server = RouilleServer::start(move |request| {
        let inner = |session: &Session| {
            session.destroy()?;
            panic!("as planned")
        };
        nested(&manager, request, inner, |response| response)
    });
    let ended = begun(&sessions);
    let request = Sent::get("/inner/").cookie(&ended);
    assert_eq!(send(server.address, &request).unwrap().status, 500);
    assert!(!sessions.open(Some(ended.as_str())).contains("n").unwrap());
}

#[test]
fn managers_within_each_other_keep_their_own_sessions() {
    let visitors = memory();
    let cookie = CookieConfig::new().name("__Host-admin");
    let admins = SessionManager::builder(MemoryStore::new()).cookie(cookie).build().unwrap();
    let server = RouilleServer::start(move |request| {
        session(&visitors, request, |visitor| {
            add(visitor, "outer")?;
            Ok(session(&admins, request, |admin| {
                add(admin, "inner")?;
                Ok(session(&visitors, request, |again| {
                    add(again, "inner")?;
                    Ok(session(&admins, request, |admin| {
                        Ok(Response::text(format!("{} {}", seen(again)?, seen(admin)?)))
                    }))
                }))
            }))
        })
    });
    let response = send(server.address, &Sent::get("/")).unwrap();
    assert_eq!(response.text(), "1 1 0 1");
    assert_eq!(response.all("Set-Cookie").len(), 2, "{response:?}");
}

#[test]
fn another_request_within_a_request_gets_its_own_session() {
    let sessions = memory();
    let ada = begun(&sessions);
    let manager = sessions.clone();
    let server = RouilleServer::start(move |request| {
        session(&manager, request, |outer| {
            add(outer, "outer")?;
            let headers = vec![("Cookie".to_owned(), ada.clone())];
            let other = Request::fake_http("GET", "/", headers, vec![]);
            Ok(session(&manager, &other, |inner| {
                Ok(Response::text(format!("{} {}", inner.contains("n")?, seen(inner)?)))
            }))
        })
    });
    assert_eq!(send(server.address, &Sent::get("/")).unwrap().text(), "true 0 0");
}

/// A form that the page of another origin sends to this path of rouille.
fn foreign_form(path: &str) -> Request {
    let headers = vec![("Sec-Fetch-Site".to_owned(), "cross-site".to_owned())];
    Request::fake_http("POST", path, headers, vec![])
}

fn exempting(name: &str, path: &str) -> SessionManager {
    let cookie = CookieConfig::new().name(name);
    let exempt = CrossOrigin::refuse().exempt(path);
    SessionManager::builder(MemoryStore::new()).cookie(cookie).cross_origin(exempt).build().unwrap()
}

#[test]
fn a_path_is_exempt_as_the_request_of_the_outermost_call_has_it() {
    let accepts = |exempt: &str, path: &str| {
        let sessions = exempting("__Host-id", exempt);
        let outer = foreign_form(path);
        let response = session(&sessions, &outer, |_| {
            let inner = outer.remove_prefix("/shop").unwrap();
            Ok(session(&sessions, &inner, |_| Ok(Response::text("done"))))
        });
        response.status_code == 200
    };
    assert!(accepts("/shop/hook", "/shop/hook"));
    assert!(!accepts("/hook", "/shop/hook"), "the path without the prefix is the inner call's");
    for other in ["/shop/hook/", "/shop/hook/more", "/shop//hook", "/shop/hoo%6B", "/shop/HOOK"] {
        assert!(!accepts("/shop/hook", other), "{other}");
    }
    assert!(accepts("/shop/hook", "/shop/hook?more"), "a query is no part of the path");
}

#[test]
fn a_call_for_a_request_without_its_prefix_exempts_that_path() {
    let sessions = exempting("__Host-id", "/hook");
    let status = |path| {
        let inner = foreign_form(path).remove_prefix("/shop").unwrap();
        session(&sessions, &inner, |_| Ok(Response::text("done"))).status_code
    };
    assert_eq!((status("/shop/hook"), status("/shop/shop/hook")), (200, 403));
}

#[test]
fn managers_within_each_other_exempt_their_own_paths() {
    let outer = exempting("__Host-id", "/admin/hook");
    let status = |exempt: &str| {
        let inner = exempting("__Host-admin", exempt);
        let request = foreign_form("/admin/hook");
        let response = session(&outer, &request, |_| {
            let request = request.remove_prefix("/admin").unwrap();
            Ok(session(&inner, &request, |_| Ok(Response::text("done"))))
        });
        response.status_code
    };
    assert_eq!(status("/hook"), 200);
    assert_eq!(status("/admin/hook"), 403, "the inner request has no such path");
}

#[test]
fn tls_that_rouille_ends_counts_as_that_of_a_proxy() {
    let sessions = memory();
    for case in cases() {
        let fields = [("Sec-Fetch-Site", case.sec_fetch_site), ("Origin", case.origin)];
        let fields = fields.into_iter().chain([("Host", Some(HOST))]);
        let own = |(name, value): (&str, Option<&str>)| Some((name.to_owned(), value?.to_owned()));
        let headers: Vec<_> = fields.filter_map(own).collect();
        let request = if case.encrypted { Request::fake_https } else { Request::fake_http };
        let request = request(case.method, "/count", headers, vec![]);
        let response = session(&sessions, &request, |_| Ok(Response::text("done")));
        assert_eq!(response.status_code == 200, case.passes, "{case:?}");
    }
}
