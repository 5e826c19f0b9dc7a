//! Error pages of the application, on the adapters that take a function for them.

use std::io::Read;

use cloakroom::adapter::HandlerError;
use cloakroom::event::EventKind;
use cloakroom::{Error, ErrorKind, MemoryStore, Session, SessionManager, SignIn, UserKey, web};

use crate::common::faulty::{Call, Faulty};

/// Signs a user in, and fails.
fn fail<T, R>(session: &Session) -> Result<T, HandlerError<R>> {
    assert_eq!(session.sign_in(UserKey::new("ada")?)?, SignIn::Done);
    Err(Error::new(ErrorKind::Busy, "print").into())
}

fn text(status: u16) -> String {
    format!("sorry: {status}")
}

/// An adapter: it answers a request of a new visitor, and returns the status, the body, and whether
/// it sets a cookie.
type Answer = fn(&SessionManager, fails: bool) -> (u16, String, bool);

fn on_rouille(sessions: &SessionManager, fails: bool) -> (u16, String, bool) {
    use rouille::{Request, Response};
    let request = Request::fake_http("GET", "/", vec![], vec![]);
    let handler = |session: &Session| match fails {
        true => fail(session),
        false => Ok(session.set("a", 1).map(|()| Response::empty_204())?),
    };
    let page = |status| Response::text(text(status));
    let response = web::rouille::session_with_error_page(sessions, &request, handler, page);
    let sets_cookie = response.headers.iter().any(|(name, _)| name == "Set-Cookie");
    let (body, _) = response.data.into_reader_and_size();
    (response.status_code, std::io::read_to_string(body).unwrap(), sets_cookie)
}

fn on_tiny_http(sessions: &SessionManager, fails: bool) -> (u16, String, bool) {
    use tiny_http::{Request, Response, TestRequest};
    let mut request = Request::from(TestRequest::new());
    let handler = |session: &Session, _: &mut Request| match fails {
        true => fail(session),
        false => Ok(session.set("a", 1).map(|()| Response::empty(204).boxed())?),
    };
    let page = |status| Response::from_string(text(status));
    let response = web::tiny_http::session_with_error_page(sessions, &mut request, handler, page);
    let sets_cookie = response.headers().iter().any(|header| header.field.equiv("Set-Cookie"));
    let status = response.status_code().0;
    let mut body = String::new();
    response.into_reader().read_to_string(&mut body).unwrap();
    (status, body, sets_cookie)
}

fn on_http(sessions: &SessionManager, fails: bool) -> (u16, String, bool) {
    use http::{Request, Response};
    let handler = |session: &Session, _| match fails {
        true => fail(session),
        false => Ok(session.set("a", 1).map(|()| Response::new(String::new()))?),
    };
    let page = |status| Response::new(text(status));
    let response =
        web::http_types::session_with_error_page(sessions, Request::new(()), handler, page);
    let sets_cookie = response.headers().contains_key("Set-Cookie");
    (response.status().as_u16(), response.into_body(), sets_cookie)
}

const ADAPTERS: [Answer; 3] = [on_rouille, on_tiny_http, on_http];

#[test]
fn the_error_page_has_the_status_of_the_handlers_error() {
    for answer in ADAPTERS {
        let sessions = SessionManager::new(MemoryStore::new()).unwrap();
        let answered = answer(&sessions, true);
        assert_eq!(answered, (503, "sorry: 503".to_owned(), true), "with the sign-in's cookie");
        assert_eq!(sessions.events().count(EventKind::RequestFailed), 1);
    }
}

#[test]
fn the_error_page_replaces_a_response_that_is_not_stored() {
    for answer in ADAPTERS {
        let store = Faulty::<MemoryStore>::new(MemoryStore::new());
        let sessions = SessionManager::new(store.clone()).unwrap();
        store.set_failing(Call::Commit, ErrorKind::Full);
        assert_eq!(answer(&sessions, false), (500, "sorry: 500".to_owned(), false));
    }
}
