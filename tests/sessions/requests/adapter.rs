//! A whole request through `adapter::Adapter::run`.

use cloakroom::adapter::{Adapter, HandlerError, RequestHead, Response};
use cloakroom::event::EventKind;
use cloakroom::{ErrorKind, Session};

use crate::common::app::{App, Browser, REMOVAL, defaults, on_both_stores, sign_in};
use crate::common::faulty::Call;

struct Page {
    status: u16,
    headers: Vec<(String, String)>,
}

fn page(status: u16) -> Page {
    Page { status, headers: vec![] }
}

impl Response for Page {
    fn status_code(&self) -> u16 {
        self.status
    }

    fn append_header(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn merge_header(&mut self, name: &'static str, merge: &dyn Fn(&[&str]) -> Option<String>) {
        if let Some(value) = merge(&self.header_values(name)) {
            self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
            self.append_header(name, &value);
        }
    }
}

impl Page {
    fn header_values(&self, name: &str) -> Vec<&str> {
        let fields = self.headers.iter().filter(|(have, _)| have.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str()).collect()
    }
}

/// A response to which fields can only be appended.
struct Plain(Vec<(String, String)>);

impl Response for Plain {
    fn status_code(&self) -> u16 {
        200
    }

    fn append_header(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }
}

type Handled = Result<Page, HandlerError<Page>>;

fn run(app: &App, browser: &Browser, handler: impl FnOnce(&Session) -> Handled) -> Page {
    let head = RequestHead::from(browser.cookie.as_deref());
    Adapter::new(&app.sessions).run(head, handler, page)
}

#[test]
fn vary_and_cache_control_are_merged_with_the_responses_own() {
    on_both_stores(defaults, |app| {
        let answer = run(&app, &Browser::default(), |session| {
            session.set("n", 1)?;
            let mut own = page(201);
            for (name, value) in
                [("vary", "Accept"), ("VARY", "Origin"), ("Cache-Control", "public")]
            {
                own.append_header(name, value);
            }
            Ok(own)
        });
        assert_eq!(answer.status, 201);
        assert_eq!(answer.header_values("Vary"), ["Accept, Origin, Cookie"]);
        let guard = ["private, no-cache=\"Set-Cookie\""];
        assert_eq!(answer.header_values("Cache-Control"), guard);
        assert_eq!(answer.header_values("Set-Cookie").len(), 1);
    });
}

#[test]
fn all_fields_can_be_appended_to_a_response() {
    on_both_stores(defaults, |app| {
        let own = || Plain(vec![("Vary".to_owned(), "Accept".to_owned())]);
        let write = |session: &Session| {
            session.set("n", 1)?;
            Ok(own())
        };
        let answer = Adapter::new(&app.sessions).run(RequestHead::new(), write, |_| own());
        let values = |name: &str| -> Vec<&str> {
            let fields = answer.0.iter().filter(|(have, _)| have == name);
            fields.map(|(_, value)| value.as_str()).collect()
        };
        assert_eq!(values("Vary"), ["Accept", "Cookie"]);
        assert_eq!(values("Cache-Control"), ["private, no-cache=\"Set-Cookie\""]);
        assert_eq!(values("Set-Cookie").len(), 1);
    });
}

#[test]
fn a_response_whose_session_was_not_used_stays_as_it_is() {
    on_both_stores(defaults, |app| {
        let answer = run(&app, &app.visitor(1), |_| Ok(page(404)));
        assert_eq!((answer.status, answer.headers), (404, vec![]));
    });
}

#[test]
fn a_failed_or_panicking_handler_discards_its_changes() {
    type Case = (fn(&Session) -> Handled, u16, EventKind);
    let cases: [Case; 4] = [
        (|_| Err("the printer is on fire".into()), 500, EventKind::HandlerFailed),
        (|_| panic!("as planned"), 500, EventKind::HandlerFailed),
        (
            |_| Err(cloakroom::Error::new(ErrorKind::Busy, "try").into()),
            503,
            EventKind::RequestFailed,
        ),
        (
            |_| Err(std::io::Error::other(cloakroom::Error::new(ErrorKind::Busy, "try")).into()),
            503,
            EventKind::HandlerFailed,
        ),
    ];
    on_both_stores(defaults, |app| {
        for (handler, status, kind) in cases {
            let (browser, before) = (app.visitor(1), app.count(kind));
            let answer = run(&app, &browser, |session| {
                session.set("n", 2)?;
                handler(session)
            });
            assert_eq!(answer.status, status);
            assert!(answer.header_values("Set-Cookie").is_empty());
            assert_eq!((app.stored_n(&browser), app.count(kind)), (Some(1), before + 1));
        }
    });
}

#[test]
fn a_handler_that_signs_out_and_panics_has_signed_out() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let answer = run(&app, &browser, |session| {
            session.destroy()?;
            panic!("as planned")
        });
        assert_eq!((answer.status, answer.header_values("Set-Cookie")), (500, vec![REMOVAL]));
        assert_eq!(app.stored_n(&browser), None);
    });
}

#[test]
fn a_failed_close_replaces_the_response() {
    on_both_stores(defaults, |app| {
        let answer = run(&app, &Browser::default(), |session| {
            sign_in(session, "ada");
            session.set("n", 1)?;
            app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
            let mut own = page(200);
            own.append_header("X-Own", "value");
            Ok(own)
        });
        assert_eq!((answer.status, answer.header_values("X-Own")), (503, vec![]));
        let id = answer.header_values("Set-Cookie")[0].split(';').next().unwrap().to_owned();
        let session = app.sessions.open(Some(id.as_str()));
        assert_eq!(session.user().unwrap().unwrap().as_str(), "ada");
        assert!(!session.contains("n").unwrap());
        assert_eq!(app.count(EventKind::RequestFailed), 1);
    });
}
