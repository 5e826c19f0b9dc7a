//! Pages that a browser fetches in advance, and may never show.

use crate::common::client::Request;
use crate::common::site::everywhere;

#[test]
fn a_page_fetched_in_advance_takes_no_flash_away() {
    everywhere(|site| {
        let mut browser = site.visitor("/flash:saved");
        for (name, value) in [
            ("Sec-Purpose", "prefetch"),
            ("Sec-Purpose", "prefetch;prerender"),
            ("sec-purpose", "Prefetch; anonymous-client-ip"),
            ("Purpose", "prefetch"),
        ] {
            let response = browser.try_send(Request::get("/flashes").header(name, value)).unwrap();
            assert_eq!(response.text(), "saved", "{name}: {value}");
            assert_eq!(response.one("Set-Cookie"), None, "{name}: {value}");
        }
        assert_eq!(browser.get("/flashes").text(), "saved", "the page that is shown");
        assert_eq!(browser.get("/flashes").text(), "", "once");
    });
}

#[test]
fn any_other_purpose_takes_flashes_away() {
    everywhere(|site| {
        for value in ["", "navigate", "prefetched", "x-prefetch"] {
            let mut browser = site.visitor("/flash:saved");
            let request = Request::get("/flashes").header("Sec-Purpose", value);
            assert_eq!(browser.try_send(request).unwrap().text(), "saved");
            assert_eq!(browser.get("/flashes").text(), "", "{value:?}");
        }
    });
}
