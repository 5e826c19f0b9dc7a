//! Stores that fail.

use std::time::Duration;

use cloakroom::ErrorKind;
use cloakroom::event::EventKind;
use cloakroom::manager::{OnLoadFailure, SessionManagerBuilder};
use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::adapters::{LONG, assert_plain_failure, cookie, unknown_id};
use crate::common::client::Request;
use crate::common::faulty::Call;
use crate::common::site::{everywhere, everywhere_with, on_files};

#[test]
fn a_failed_commit_is_a_plain_error_without_any_cookie() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        for (kind, status) in [
            (ErrorKind::Busy, 503),
            (ErrorKind::Unavailable, 503),
            (ErrorKind::Full, 500),
            (ErrorKind::ReadOnly, 500),
            (ErrorKind::Corrupt, 500),
        ] {
            site.store.set_failing(Call::Commit, kind);
            for path in ["/own-cookie/count/redirect", "/own-cookie/renew", "/own-cookie/destroy"] {
                let events = site.count(EventKind::RequestFailed);
                assert_plain_failure(&browser.post(path), status);
                assert_eq!(site.count(EventKind::RequestFailed), events + 1);
            }
            assert_plain_failure(&site.browser().post("/own-cookie/count"), status);
            assert_plain_failure(&browser.post("/own-cookie/sign-in:ada/redirect"), status);
            let dead = Request::post("/count").cookie(cookie(&unknown_id()));
            assert_plain_failure(&site.send(&dead), status);
            let read = browser.get("/visits");
            assert_eq!((read.status, read.text()), (200, "1"), "reads go on");
            site.store.set_failing(Call::Commit, None);
        }
        assert_eq!(site.sessions(), 1);
        assert_eq!(browser.post("/count").text(), "2");
    });
}

#[test]
fn a_failed_load_is_a_plain_error_without_any_cookie() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        site.store.set_failing(Call::Load, ErrorKind::Unavailable);
        for path in ["/visits", "/own-cookie/count", "/who", "/own-cookie/sign-in:ada/redirect"] {
            assert_plain_failure(&browser.post(path), 503);
        }
        let stranger = Request::get("/visits").cookie(cookie(&unknown_id()));
        assert_plain_failure(&site.send(&stranger), 503);
        assert_eq!(browser.get("/hello").text(), "hello");
        site.store.set_failing(Call::Load, None);
        assert_eq!(browser.get("/visits").text(), "1");
    });
}

#[test]
fn a_failed_load_treated_as_anonymous_changes_no_cookie() {
    let configure =
        |builder: SessionManagerBuilder| builder.on_load_failure(OnLoadFailure::TreatAsAnonymous);
    everywhere_with(configure, |site| {
        let mut browser = site.visitor("/count/sign-in:ada");
        let id = browser.id().to_owned();
        site.store.set_failing(Call::Load, ErrorKind::Unavailable);
        let response = browser.get("/visits/who");
        assert_eq!((response.status, response.text()), (200, "0\nnone"));
        assert_eq!(response.one("Set-Cookie"), None);
        for path in ["/visits/count", "/count", "/who/sign-in:bob", "/who/set:name:x"] {
            assert_plain_failure(&browser.post(path), 503);
        }
        // Written before it was known that nothing can be: not lost in silence.
        for path in ["/own-cookie/set:name:x/visits", "/own-cookie/renew/visits"] {
            assert_plain_failure(&browser.post(path), 503);
        }
        assert_eq!(browser.post("/set:name:x/visits/ignore").status, 200);
        assert_eq!(site.sessions(), 1);
        site.store.set_failing(Call::Load, None);
        assert_eq!(browser.get("/visits/who").text(), "1\nada");
        assert_eq!(browser.id(), id);
    });
}

#[test]
fn while_another_process_holds_the_lock_writes_get_503() {
    on_files(Duration::from_millis(100), |site| {
        let mut browser = site.visitor("/count");
        let other = Connection::open(site.database()).unwrap();
        other.execute_batch("BEGIN IMMEDIATE; CREATE TABLE others (a)").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (writer, reader) = (browser.clone(), browser.clone());
                scope.spawn(move || {
                    let mut writer = writer;
                    assert_plain_failure(&writer.post("/own-cookie/count"), 503);
                    assert_plain_failure(&writer.post("/own-cookie/sign-in:eve"), 503);
                    assert_plain_failure(&writer.post("/own-cookie/destroy"), 503);
                });
                scope.spawn(move || {
                    let mut reader = reader;
                    for _ in 0..20 {
                        let response = reader.get("/visits/who");
                        assert_eq!((response.status, response.text()), (200, "1\nnone"));
                    }
                });
            }
        });
        assert_plain_failure(&site.browser().post("/own-cookie/count"), 503);
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(browser.post("/count").text(), "2");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn a_session_that_is_too_large_is_refused() {
    let configure = |builder: SessionManagerBuilder| builder.max_bytes(1000);
    everywhere_with(configure, |site| {
        let mut browser = site.visitor("/count");
        assert_plain_failure(&browser.post(&format!("/set:note:{}", "x".repeat(1000))), 500);
        let half = "x".repeat(600);
        assert_eq!(browser.post(&format!("/set:a:{half}")).status, 200);
        assert_plain_failure(&browser.post(&format!("/own-cookie/set:b:{half}")), 500);
        assert_eq!(browser.get("/visits/names").text(), "1\na,visits");
    });
}

#[test]
fn an_undecodable_row_stays_and_its_visitor_gets_a_new_session() {
    on_files(LONG, |site| {
        let mut browser = site.visitor("/count");
        let old = browser.id().to_owned();
        let other = Connection::open(site.database()).unwrap();
        other.execute("UPDATE cloakroom_sessions SET data = 'no JSON'", []).unwrap();
        let response = browser.get("/visits");
        assert_eq!((response.status, response.text()), (200, "0"));
        assert_eq!(response.one("Set-Cookie"), None);
        assert_eq!(browser.post("/count").text(), "1");
        assert_ne!(browser.id(), old);
        assert_eq!(browser.post("/count").text(), "2");
        let sql = "SELECT count(*) FROM cloakroom_sessions WHERE data = 'no JSON'";
        let rows: i64 = other.query_row(sql, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
        assert!(site.count(EventKind::Undecodable) >= 1);
    });
}
