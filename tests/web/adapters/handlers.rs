//! Handlers that fail.

use cloakroom::event::EventKind;
use cloakroom::manager::SessionManagerBuilder;

use crate::adapters::{REMOVAL, assert_plain_failure, cookie};
use crate::common::site::{everywhere, everywhere_with};

/// The ways a handler can fail, the status of the answer, and whether it is the handler's own.
const FAILURES: [(&str, u16, bool); 13] = [
    ("status:500", 500, true),
    ("status:503", 503, true),
    ("status:599", 599, true),
    ("fails", 500, false),
    ("fails-of-ours:Busy", 503, false),
    ("fails-of-ours:TooLarge", 500, false),
    ("wraps:source:Busy", 503, false),
    ("wraps:source:TooLarge", 500, false),
    ("wraps:transparent:Unavailable", 503, false),
    ("wraps:io:Busy", 503, false),
    ("wraps:anyhow:Busy", 503, false),
    ("wraps:context:Unavailable", 503, false),
    ("panics", 500, false),
];

#[test]
fn a_failed_handler_discards_its_changes() {
    everywhere(|site| {
        let mut browser = site.visitor("/count/set:name:ada");
        for (fails, status, own) in FAILURES {
            let path = format!("/count/set:name:eve/clear/remove:name/set:more:1/{fails}");
            let response = browser.post(&path);
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(response.one("Set-Cookie"), None, "{fails}");
            if !own {
                assert_plain_failure(&response, status);
            }
            let read = browser.get("/visits/get:name/get:more");
            assert_eq!(read.text(), "1\nada\nnone", "{fails}");

            let stranger = site.browser().post(&path);
            assert_eq!((stranger.status, stranger.one("Set-Cookie")), (status, None), "{fails}");
        }
        assert_eq!(site.sessions(), 1);
        assert_eq!(browser.post("/count").text(), "2");
    });
}

#[test]
fn errors_and_panics_reach_the_operator_and_not_the_client() {
    everywhere(|site| {
        for (fails, status, own) in FAILURES {
            let count =
                || [EventKind::RequestFailed, EventKind::HandlerFailed].map(|k| site.count(k));
            let before = count();
            let response = site.browser().post(&format!("/own-cookie/public/count/{fails}"));
            let raised = [count()[0] - before[0], count()[1] - before[1]];
            if own {
                assert_eq!(raised, [0, 0], "{fails}");
                continue;
            }
            assert_plain_failure(&response, status);
            let ours = fails.starts_with("fails-of-ours");
            assert_eq!(raised, if ours { [1, 0] } else { [0, 1] }, "{fails}");
            let cache = response.one("Cache-Control");
            assert_eq!(cache, Some("private"), "nothing of the handler's answer");
        }
    });
}

#[test]
fn a_handler_that_fails_after_a_destroy_has_still_destroyed() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.visitor("/sign-in:ada");
            let id = browser.id().to_owned();
            let response = browser.post(&format!("/destroy/flash:bye/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(response.one("Set-Cookie"), Some(REMOVAL), "{fails}");
            assert_eq!(site.read("/who", cookie(&id)), "none", "{fails}");
            assert_eq!(site.sessions(), 0, "{fails}: the flash was discarded");
        }
    });
}

#[test]
fn a_failed_handler_has_still_renewed_unless_it_panicked() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.visitor("/count");
            let id = browser.id().to_owned();
            let response = browser.post(&format!("/count/renew/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(response.id().is_none(), fails == "panics", "{fails}");
            assert_eq!(browser.id() == id, fails == "panics", "{fails}");
            assert_eq!(browser.get("/visits").text(), "1", "{fails}");
        }
    });
}

#[test]
fn a_sign_in_and_its_cookie_survive_any_failure_of_the_handler() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.browser();
            let response = browser.post(&format!("/count/sign-in:ada/count/set:name:x/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert!(response.id().is_some_and(|id| !id.is_empty()), "{fails}");
            let read = browser.get("/who/visits/get:name");
            assert_eq!(read.text(), "ada\n1\nnone", "{fails}: what came later is discarded");
        }
    });
}

#[test]
fn changes_that_a_handler_committed_survive_any_failure() {
    everywhere(|site| {
        for (fails, status, _) in FAILURES {
            let mut browser = site.browser();
            let response = browser.post(&format!("/count/commit/count/{fails}"));
            assert_eq!(response.status, status, "{fails}");
            assert_eq!(browser.get("/visits").text(), "1", "{fails}");
        }
    });
}

#[test]
fn where_it_is_configured_so_a_5xx_answer_keeps_its_changes() {
    let configure = |builder: SessionManagerBuilder| builder.keep_on_server_error(true);
    everywhere_with(configure, |site| {
        let mut browser = site.browser();
        assert_eq!(browser.post("/count/status:503").status, 503);
        assert_eq!(browser.post("/count/panics").status, 500);
        assert_eq!(browser.get("/visits").text(), "1", "all but the panic");
    });
}

#[test]
fn an_early_response_is_no_failure() {
    everywhere(|site| {
        let mut browser = site.browser();
        let response = browser.post("/count/early/own-cookie/status:422");
        assert_eq!((response.status, response.text()), (422, "1"));
        assert_eq!(response.all("Set-Cookie").len(), 2);
        assert_eq!(browser.get("/visits").text(), "1", "its changes are stored");
        assert_eq!(browser.post("/count/early/status:500").status, 500);
        assert_eq!(browser.get("/visits").text(), "1", "as without `early`");
        assert_eq!(site.count(EventKind::HandlerFailed), 0);
    });
}
