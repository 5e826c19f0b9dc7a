//! The ids that a request presents: in many fields, in long ones, in quotes, beside planted ones.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cloakroom::adapter::{Adapter, RequestHead};
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::SessionId;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{Session, SessionManager};

use crate::common::app::{App, Browser, complete, defaults, on_both_stores, set_cookie};
use crate::common::faulty::Call;

/// A cookie of ours with an id that was never issued.
fn planted() -> String {
    format!("__Host-id={}", SessionId::generate().unwrap().reveal())
}

/// Other cookies, one a field, with ours in this place among them.
fn fields(ours: &str, place: usize) -> Vec<String> {
    let mut fields: Vec<String> =
        (0..40).map(|n| format!("_ga_{n}=GS1.1.1700000000.{n}.1.1700000000.0.0.0")).collect();
    fields.insert(place, ours.to_owned());
    fields
}

/// Both ways to a head: field by field, and through the manager.
fn heads<'r>(sessions: &SessionManager, fields: &'r [String]) -> [RequestHead<'r>; 2] {
    let one_by_one = fields.iter().fold(RequestHead::new(), |head, field| head.cookie(field));
    [
        one_by_one,
        Adapter::new(sessions).head(
            "GET",
            "/",
            fields.iter().map(|field| ("cookie", field.as_str())),
        ),
    ]
}

fn read(app: &App, head: RequestHead<'_>) -> Option<u32> {
    let session = app.sessions.open(head);
    let n = session.get("n").unwrap();
    complete(&app.sessions, &session);
    n
}

#[test]
fn a_session_is_read_behind_any_number_of_cookie_fields() {
    on_both_stores(defaults, |app| {
        let cookie = app.visitor(1).cookie.unwrap();
        for place in [0, 7, 8, 9, 40] {
            for head in heads(&app.sessions, &fields(&cookie, place)) {
                assert_eq!(read(&app, head), Some(1), "in place {place}");
            }
        }
        assert_eq!(app.count(EventKind::UnknownId) + app.count(EventKind::MalformedId), 0);
    });
}

#[test]
fn a_write_behind_many_cookie_fields_begins_no_session() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let fields = fields(browser.cookie.as_ref().unwrap(), 40);
        for (head, n) in heads(&app.sessions, &fields).into_iter().zip(2..) {
            let session = app.sessions.open(head);
            session.set("n", n).unwrap();
            assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
            assert_eq!((app.stored_n(&browser), app.rows()), (Some(n), 1));
        }
    });
}

#[test]
fn a_sign_out_behind_many_cookie_fields_ends_the_session() {
    on_both_stores(defaults, |app| {
        for way in 0..2 {
            let browser = app.signed_in("ada");
            let fields = fields(browser.cookie.as_ref().unwrap(), 40);
            let [one_by_one, through_manager] = heads(&app.sessions, &fields);
            let head = if way == 0 { one_by_one } else { through_manager };
            let session = app.sessions.open(head);
            session.destroy().unwrap();
            complete(&app.sessions, &session);
            assert_eq!(app.live(), 0);
        }
    });
}

#[test]
fn a_session_is_read_behind_8_kib_of_cookies_in_one_field() {
    on_both_stores(defaults, |app| {
        let cookie = app.visitor(1).cookie.unwrap();
        let others = fields(&cookie, 40).join("; ");
        let long = [format!("{}; {others}", "x=y; ".repeat(1600))];
        assert!(long[0].len() > 8 << 10);
        for head in heads(&app.sessions, &long) {
            assert_eq!(read(&app, head), Some(1));
        }
    });
}

#[test]
fn the_same_id_in_every_field_is_looked_up_once() {
    on_both_stores(defaults, |app| {
        let cookie = app.visitor(1).cookie.unwrap();
        let fields = vec![cookie; 40];
        for head in heads(&app.sessions, &fields) {
            let before = app.store.calls(Call::Load);
            assert_eq!(read(&app, head), Some(1));
            assert_eq!(app.store.calls(Call::Load), before + 1);
        }
        assert_eq!(app.count(EventKind::TooManyIds), 0);
    });
}

#[test]
fn a_quoted_id_is_the_id() {
    on_both_stores(defaults, |app| {
        let browser = app.visitor(1);
        let id = browser.id().reveal();
        for cookie in [
            format!("__Host-id=\"{id}\""),
            format!("$Version=\"1\"; __Host-id=\"{id}\""),
            format!("$Version=\"1\"; __Host-id=\"{id}\";$Path=\"/\""),
            format!("a=b; __Host-id = \"{id}\" ; c=\"d\""),
        ] {
            let mut quoted = Browser::with(cookie);
            let headers = quoted.request(&app.sessions, |session| session.set("n", 1).unwrap());
            assert_eq!(set_cookie(&headers), None, "no new session at every request");
            assert_eq!(app.stored_n(&quoted), Some(1));
        }
        assert_eq!((app.rows(), app.count(EventKind::MalformedId)), (1, 0));
    });
}

#[test]
fn quotes_that_are_no_pair_make_no_id() {
    on_both_stores(defaults, |app| {
        let id = app.visitor(1).id().reveal();
        for value in [
            format!("\"{id}"),
            format!("{id}\""),
            format!("\"\"{id}\"\""),
            format!("\"{id}\"\""),
            format!("\" {id} \""),
            format!("'{id}'"),
            "\"".to_owned(),
            "\"\"\"".to_owned(),
        ] {
            let malformed = app.count(EventKind::MalformedId);
            assert_eq!(app.stored_n(&Browser::with(format!("__Host-id={value}"))), None, "{value}");
            assert_eq!(app.count(EventKind::MalformedId), malformed + 1, "{value}");
        }
        // As a removal leaves it in some clients.
        assert_eq!(app.stored_n(&Browser::with("__Host-id=\"\"")), None);
        assert_eq!(app.count(EventKind::MalformedId), 8);
    });
}

/// Keeps the addresses of [`Event::TooManyIds`].
#[derive(Clone, Debug, Default)]
struct TooMany(Arc<Mutex<Vec<Option<IpAddr>>>>);

impl Sink for TooMany {
    fn record(&self, event: &Event<'_>) {
        if let Event::TooManyIds { address } = event {
            assert!(event.to_string().contains("192.0.2.7"), "{event}");
            self.0.lock().unwrap().push(*address);
        }
    }
}

#[test]
fn fifteen_planted_ids_do_not_hide_the_real_one() {
    on_both_stores(defaults, |app| {
        let mut cookies: Vec<String> = (0..15).map(|_| planted()).collect();
        cookies.push(app.visitor(1).cookie.unwrap());
        for head in heads(&app.sessions, &cookies) {
            assert_eq!(read(&app, head), Some(1));
        }
        let together = [cookies.join("; ")];
        for head in heads(&app.sessions, &together) {
            assert_eq!(read(&app, head), Some(1));
        }
        assert_eq!(app.count(EventKind::TooManyIds), 0);
    });
}

#[test]
fn more_ids_than_are_looked_up_are_an_event_with_the_address() {
    on_both_stores(defaults, |app| {
        let reported = TooMany::default();
        let sessions = app.another(|builder| builder.events(Events::new(reported.clone())));
        let cookies: Vec<String> = (0..17).map(|_| planted()).collect();
        let address = "192.0.2.7".parse().unwrap();
        for head in heads(&sessions, &cookies) {
            // Also where the session is not used: an attacker may have planted them.
            complete(&sessions, &sessions.open(head.peer_addr(address)));
        }
        assert_eq!(*reported.0.lock().unwrap(), [Some(address); 2]);
    });
}

#[test]
fn many_malformed_cookies_of_our_name_are_not_all_looked_at() {
    on_both_stores(defaults, |app| {
        let cookie = app.visitor(1).cookie.unwrap();
        let behind = |many: usize| "__Host-id=garbage; ".repeat(many) + &cookie;
        assert_eq!(app.stored_n(&Browser::with(behind(255))), Some(1));
        assert_eq!(app.count(EventKind::TooManyIds), 0);
        assert_eq!(app.stored_n(&Browser::with(behind(256))), None);
        assert_eq!(app.count(EventKind::TooManyIds), 1);
    });
}

#[test]
fn a_megabyte_of_our_name_in_any_shape_is_no_harm() {
    on_both_stores(defaults, |app| {
        let live = app.visitor(1).cookie.unwrap();
        for part in ["__Host-id", "__Host-id=", "__Host-id =", "__Host-id;", "=__Host-id", "\"; "] {
            let other = format!("{}; {live}", part.repeat((1 << 20) / part.len()));
            let n = app.stored_n(&Browser::with(other));
            // Only the second and the third are cookies of our name, each one malformed.
            assert_eq!(n, Some(1), "{part}");
        }
        let blanks = format!("__Host-id{} = x; {live}", " ".repeat(1 << 20));
        assert_eq!(app.stored_n(&Browser::with(blanks)), Some(1));
        assert_eq!(app.count(EventKind::TooManyIds), 0);
    });
}

#[test]
fn every_field_of_the_header_that_carries_ids_is_read() {
    let configure = |builder: SessionManagerBuilder| builder.header("X-Session");
    on_both_stores(configure, |app| {
        let session = app.sessions.open(None);
        session.set("n", 1).unwrap();
        let live = complete(&app.sessions, &session).id_fields[0].1.clone();
        let dead = || SessionId::generate().unwrap().reveal();
        let mut ids: Vec<String> = (0..15).map(|_| dead()).collect();
        ids.push(live.clone());
        ids.push("garbage".to_owned());
        let pairs = || ids.iter().map(|id| ("x-session", id.as_str()));
        assert_eq!(read(&app, Adapter::new(&app.sessions).head("GET", "/", pairs())), Some(1));
        let one_by_one = ids.iter().fold(RequestHead::new(), |head, id| head.id(id));
        assert_eq!(read(&app, one_by_one), Some(1));
        assert_eq!(app.count(EventKind::TooManyIds), 0);

        let mut ids: Vec<String> = (0..16).map(|_| dead()).collect();
        ids.push(live);
        let many = Adapter::new(&app.sessions).head(
            "GET",
            "/",
            ids.iter().map(|id| ("X-Session", id.as_str())),
        );
        assert_eq!(read(&app, many), None);
        assert_eq!(app.count(EventKind::TooManyIds), 1);
    });
}

#[test]
fn an_id_of_another_carrier_is_not_looked_up() {
    on_both_stores(defaults, |app| {
        let header = app.another(|builder| builder.header("X-Session"));
        let cookie = app.visitor(1).cookie.unwrap();
        let id = cookie.split('=').nth(1).unwrap();
        let headers = [("Cookie", cookie.as_str()), ("X-Session", id)];
        let loads = app.store.calls(Call::Load);
        let look = |sessions: &SessionManager, head: RequestHead<'_>| {
            let session: Session = sessions.open(head);
            session.get::<u32>("n").unwrap()
        };
        assert_eq!(
            look(&header, Adapter::new(&header).head("GET", "/", headers.into_iter().take(1))),
            None
        );
        assert_eq!(
            look(
                &app.sessions,
                Adapter::new(&app.sessions).head("GET", "/", headers.into_iter().skip(1))
            ),
            None
        );
        assert_eq!(app.store.calls(Call::Load), loads);
    });
}

#[test]
fn the_client_is_found_in_the_last_of_many_forwarded_fields() {
    let configure = |builder: SessionManagerBuilder| builder.behind_proxies(2).record_address(true);
    on_both_stores(configure, |app| {
        let forged: Vec<String> = (0..40).map(|n| format!("203.0.113.{n}")).collect();
        let client = ["192.0.2.7", "10.0.0.2"];
        let fields = forged.iter().map(String::as_str).chain(client);
        let head = Adapter::new(&app.sessions).head(
            "GET",
            "/",
            fields.map(|field| ("X-Forwarded-For", field)),
        );
        let session = app.sessions.open(head.peer_addr("10.0.0.1".parse().unwrap()));
        crate::common::app::sign_in(&session, "ada");
        complete(&app.sessions, &session);
        let user = cloakroom::UserKey::new("ada").unwrap();
        let list = app.sessions.list_for_user(&user, None).unwrap().sessions;
        let address = list[0].summary.client.as_ref().unwrap().address;
        assert_eq!(address, Some("192.0.2.7".parse().unwrap()));
    });
}
