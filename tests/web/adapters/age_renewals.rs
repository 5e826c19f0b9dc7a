//! Ids that are renewed by their age.

use std::time::Duration;

use cloakroom::event::EventKind;
use cloakroom::manager::SessionManagerBuilder;

use crate::adapters::{cookie, start_gated};
use crate::common::client::Request;
use crate::common::site::{Site, everywhere_with};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

fn hourly(test: impl Fn(&mut Site)) {
    everywhere_with(|builder: SessionManagerBuilder| builder.renew_every(HOUR), test);
}

#[test]
fn a_response_to_a_read_carries_the_new_id_once_an_hour() {
    hourly(|site| {
        let mut browser = site.visitor("/sign-in:ada/count");
        for _ in 0..3 {
            let old = cookie(browser.id());
            assert_eq!(browser.get("/who/visits").one("Set-Cookie"), None);
            site.clock.advance(HOUR);
            let prefetch = Request::get("/who").header("Sec-Purpose", "prefetch");
            let prefetch = browser.try_send(prefetch).unwrap();
            assert_eq!((prefetch.text(), prefetch.one("Set-Cookie")), ("ada", None));
            let response = browser.get("/who/visits");
            assert_eq!(response.text(), "ada\n1");
            assert!(response.id().is_some());
            assert_eq!(response.one("Cache-Control"), Some("private, no-cache=\"Set-Cookie\""));
            site.clock.advance(MINUTE);
            assert_eq!(site.read("/who", old), "none");
        }
        assert_eq!(site.count(EventKind::Renewed), 3);
    });
}

#[test]
fn neither_of_two_requests_that_race_to_renew_is_signed_out() {
    hourly(|site| {
        // What the slow request does before and after the other one renews the id.
        for path in ["/who/gate:slow", "/gate:slow/who", "/who/gate:slow/count", "/gate:slow/count"]
        {
            let mut browser = site.visitor("/sign-in:ada/count");
            site.clock.advance(HOUR);
            let (mut slow, gate) = start_gated(site, &browser, path);
            let first = browser.get("/who");
            assert!(first.id().is_some(), "{path}");
            gate.open();
            let response = slow.answer().unwrap();
            let text = if path.ends_with("count") { "2" } else { "ada" };
            assert!(response.text().ends_with(text), "{path}: {response:?}");
            assert_eq!(response.one("Set-Cookie"), None, "{path}");
            assert_eq!(browser.get("/who").text(), "ada", "{path}");
            site.clock.advance(MINUTE);
            assert_eq!(browser.get("/who").text(), "ada", "{path}");
        }
        assert_eq!(site.count(EventKind::ChangesDiscarded), 0);
        assert_eq!(site.count(EventKind::ReplacedIdUsed), 0);
    });
}
