//! Requests that pages of other origins send, through `open` and `close` and through `Adapter::run`.

use std::sync::{Arc, Mutex};

use cloakroom::adapter::{Adapter, Outcome, RequestHead, Response};
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{
    CrossOrigin, ErrorKind, MemoryStore, Result, Session, SessionManager, SignIn, UserKey,
};

use crate::common::app::{App, Browser, complete, defaults, on_both_stores, set_cookie, user_of};
use crate::common::cross_origin::{HOST, cases};

/// A `POST` that the page of another site sends, without a cookie.
fn foreign<'r>() -> RequestHead<'r> {
    let head = RequestHead::new().method("POST").target("/pay").host("example.org");
    head.sec_fetch_site("cross-site").origin("https://evil.example")
}

fn exempt(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.cross_origin(CrossOrigin::refuse().exempt("/pay"))
}

/// Every call that reads or changes a session.
const CALLS: [fn(&Session) -> Result<()>; 17] = [
    |session| session.get::<u32>("n").map(drop),
    |session| session.contains("n").map(drop),
    |session| session.names().map(drop),
    |session| session.user().map(drop),
    |session| session.public_id().map(drop),
    |session| session.flashes().map(drop),
    |session| session.verify_csrf(&"A".repeat(86)).map(drop),
    |session| session.set("n", 1),
    |session| session.remove("n"),
    |session| session.clear(),
    |session| session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).map(drop),
    |session| session.flash("info", "hello"),
    |session| session.csrf_token().map(drop),
    |session| session.sign_in(UserKey::new("eve")?).map(drop),
    |session| session.renew(),
    |session| session.commit().map(drop),
    |session| session.destroy(),
];

/// The calls from this one on change the session.
const FIRST_CHANGE: usize = 7;

#[test]
fn open_and_close_decide_as_the_adapters_do() {
    on_both_stores(defaults, |app| {
        for case in cases() {
            let head = RequestHead::new().method(case.method).target("/").host(HOST);
            let head = head.secure_if(case.encrypted);
            let head = case.origin.into_iter().fold(head, RequestHead::origin);
            let head = case.sec_fetch_site.into_iter().fold(head, RequestHead::sec_fetch_site);
            assert_eq!(app.sessions.check_origin(&head).is_ok(), case.passes, "{case:?}");
            let session = app.sessions.open(head);
            assert_eq!(session.user().is_ok(), case.passes, "{case:?}");
            let closed = app.sessions.close(&session, Outcome::Completed);
            assert_eq!(closed.is_ok(), case.passes, "{case:?}");
        }
    });
}

#[test]
fn a_refused_request_can_neither_use_nor_close_its_session() {
    on_both_stores(defaults, |app| {
        let ada = app.signed_in("ada");
        let before = app.store.all_calls();
        let cookie = ada.cookie.as_deref().unwrap();
        let head = foreign().cookie(cookie).cookie("__Host-id=malformed");
        let session = app.sessions.open(head.clone());
        let more: [fn(&Session) -> Result<()>; 2] = [Session::ignore, Session::allow_cross_origin];
        for call in CALLS.iter().chain(&more) {
            assert_eq!(call(&session).unwrap_err().kind(), ErrorKind::CrossOrigin);
        }
        assert!(!session.is_changed());
        for outcome in [Outcome::Completed, Outcome::ServerError, Outcome::Panicked] {
            let error = app.sessions.close(&session, outcome).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::CrossOrigin);
            assert_eq!(app.sessions.status_of(&error), 403);
        }
        assert_eq!(Adapter::new(&app.sessions).close(&session, Outcome::Completed), Err(403));
        let headers = Adapter::new(&app.sessions).headers_on_error(&session);
        assert_eq!(headers.iter().count(), 0);
        drop(session);
        let error = app.sessions.check_origin(&head).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CrossOrigin);
        assert_eq!(app.store.all_calls(), before);
        assert_eq!(app.count(EventKind::CrossOrigin), 2);
        assert_eq!(app.count(EventKind::MalformedId), 0);
        assert_eq!(app.count(EventKind::SessionNotClosed), 0);
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada"));
    });
}

struct Page(u16);

impl Response for Page {
    fn status_code(&self) -> u16 {
        self.0
    }

    fn append_header(&mut self, name: &str, value: &str) {
        panic!("{name}: {value} on a refused request");
    }
}

#[test]
fn an_adapter_does_not_run_the_handler_of_a_refused_request() {
    on_both_stores(defaults, |app| {
        let adapter = Adapter::new(&app.sessions);
        let page = adapter.run(foreign(), |_| unreachable!("it is refused"), Page);
        assert_eq!(page.0, 403);
        assert_eq!(adapter.open(&foreign()).unwrap_err(), 403);
        assert!(adapter.open(&foreign().method("GET")).is_ok());
        let error_status = app.another(|builder| builder.error_status(|_| 500));
        let page = Adapter::new(&error_status).run(foreign(), |_| unreachable!(), Page);
        assert_eq!(page.0, 403, "no setting changes it");
    });
}

#[test]
fn a_framework_that_gives_headers_by_name_gives_all_that_count() {
    on_both_stores(defaults, |app| {
        let names: Vec<_> = Adapter::new(&app.sessions).header_names().collect();
        for name in ["Origin", "Sec-Fetch-Site", "Host", "X-Forwarded-Host", "Upgrade"] {
            assert!(names.contains(&name), "{names:?}");
        }
    });
}

#[test]
fn ids_in_a_header_turn_the_check_off_unless_it_is_set() {
    on_both_stores(defaults, |app| {
        let header = |builder: SessionManagerBuilder| builder.header("X-Session");
        assert!(app.another(header).check_origin(&foreign()).is_ok());
        let set = app.another(|builder| header(builder).cross_origin(CrossOrigin::refuse()));
        assert!(set.check_origin(&foreign()).is_err());
        let off = app.another(|builder| builder.cross_origin(CrossOrigin::off()));
        assert!(off.check_origin(&foreign()).is_ok());
    });
}

#[test]
fn a_check_that_only_reports_changes_nothing() {
    let report = |builder: SessionManagerBuilder| builder.cross_origin(CrossOrigin::report_only());
    on_both_stores(report, |app| {
        let session = app.sessions.open(foreign());
        session.set("n", 1).unwrap();
        assert!(set_cookie(&complete(&app.sessions, &session)).is_some());
        assert_eq!(app.count(EventKind::CrossOrigin), 1);
    });
}

#[test]
fn a_request_that_is_checked_and_opened_raises_one_event() {
    for policy in [CrossOrigin::refuse, CrossOrigin::report_only] {
        on_both_stores(
            |builder| builder.cross_origin(policy()),
            |app| {
                if app.sessions.check_origin(&foreign()).is_ok() {
                    complete(&app.sessions, &app.sessions.open(foreign()));
                }
                assert_eq!(app.count(EventKind::CrossOrigin), 1);
            },
        );
    }
}

#[test]
fn an_invalid_origin_or_path_fails_the_build() {
    for cross_origin in [
        CrossOrigin::refuse().trust("https://*.example.org"),
        CrossOrigin::report_only().trust("example.org"),
        CrossOrigin::off().exempt("hooks"),
    ] {
        let builder = SessionManager::builder(MemoryStore::new());
        let error = builder.cross_origin(cross_origin).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
}

/// Keeps the lines of [`Event::CrossOrigin`].
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Sink for Lines {
    fn record(&self, event: &Event<'_>) {
        if let Event::CrossOrigin { .. } = event {
            self.0.lock().unwrap().push(event.to_string());
        }
    }
}

#[test]
fn the_event_has_both_values_and_the_remedy() {
    let lines = Lines::default();
    let events = Events::new(lines.clone());
    let builder = || SessionManager::builder(MemoryStore::new()).events(events.clone());
    let sessions = builder().behind_proxies(1).build().unwrap();
    let report = builder().cross_origin(CrossOrigin::report_only()).build().unwrap();
    let line = |sessions: &SessionManager, head: RequestHead<'_>| {
        let _ = sessions.check_origin(&head.method("POST").target("/pay?a=b"));
        lines.0.lock().unwrap().pop().unwrap()
    };
    let address = "10.0.0.1".parse().unwrap();
    let own = || {
        let head = RequestHead::new().peer_addr(address).forwarded_for("192.0.2.7");
        head.origin("https://example.org")
    };
    let text = line(&sessions, own().host("127.0.0.1:8000"));
    for part in [
        "refused",
        "192.0.2.7",
        "\"/pay\"",
        "\"https://example.org\"",
        "\"127.0.0.1:8000\"",
        "proxy_set_header Host $http_host",
        "X-Forwarded-Host",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let text = line(&sessions, own().host("a").forwarded_host("b.example"));
    assert!(text.contains("\"b.example\""), "{text}");
    let text = line(&sessions, RequestHead::new().origin("null").host("example.org"));
    assert!(text.contains("Referrer-Policy: same-origin"), "{text}");
    let text = line(&sessions, own().sec_fetch_site("same-site"));
    assert!(text.contains("CrossOrigin::trust") && text.contains("the host (none)"), "{text}");
    let text = line(&sessions, own().sec_fetch_site("none").sec_fetch_site("none"));
    assert!(text.contains("several"), "{text}");
    let _ = report.open(own().method("POST").host("other.example"));
    let text = lines.0.lock().unwrap().pop().unwrap();
    assert!(text.contains("reported, and did not refuse"), "{text}");
    let long = "https://\u{1b}".to_owned() + &"a".repeat(10_000);
    let text = line(&sessions, RequestHead::new().origin(&long).host("example.org"));
    assert!(text.len() < 1000 && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn a_request_to_an_exempt_path_does_not_replace_a_session() {
    on_both_stores(exempt, |app| {
        for (number, call) in CALLS.iter().enumerate() {
            let session = app.sessions.open(foreign());
            match call(&session) {
                Ok(()) => assert!(number < FIRST_CHANGE, "call {number}"),
                Err(error) => {
                    assert!(number >= FIRST_CHANGE, "call {number}: {error}");
                    assert_eq!(error.kind(), ErrorKind::CrossOrigin);
                    assert!(error.to_string().contains("allow_cross_origin"), "{error}");
                }
            }
            assert_eq!(set_cookie(&complete(&app.sessions, &session)), None, "call {number}");
        }
        assert_eq!((app.rows(), app.count(EventKind::CrossOrigin)), (0, 0));
    });
}

#[test]
fn a_request_to_an_exempt_path_begins_a_session_when_allowed() {
    on_both_stores(exempt, |app| {
        let session = app.sessions.open(foreign());
        session.allow_cross_origin().unwrap();
        assert_eq!(session.sign_in(UserKey::new("ada").unwrap()).unwrap(), SignIn::Done);
        let mut browser = Browser::default();
        browser.take(&complete(&app.sessions, &session));
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
        assert_eq!(session.allow_cross_origin().unwrap_err().kind(), ErrorKind::Closed);
    });
}

#[test]
fn an_exempt_request_with_an_id_or_not_cross_origin_may_write() {
    on_both_stores(exempt, |app| {
        let write = |app: &App, head: RequestHead<'_>| {
            let session = app.sessions.open(head);
            session.set("n", 2).unwrap();
            complete(&app.sessions, &session)
        };
        let visitor = app.visitor(1);
        let with_cookie = foreign().cookie(visitor.cookie.as_deref().unwrap());
        assert_eq!(set_cookie(&write(&app, with_cookie)), None);
        assert_eq!(app.stored_n(&visitor), Some(2), "a cookie that is SameSite=None");
        let server = RequestHead::new().method("POST").target("/pay");
        assert!(set_cookie(&write(&app, server.clone())).is_some());
        assert!(set_cookie(&write(&app, server.sec_fetch_site("same-origin"))).is_some());
    });
}
