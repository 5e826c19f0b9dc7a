//! A browser that speaks HTTP/2, in which every cookie is a field of its own (RFC 9113, section
//! 8.2.3).

use crate::common::Folder;
use crate::common::chromium::{Chromium, Page, Programs};
use crate::places;
use crate::site::{BrowserSite, ServerKind, Setting};

#[test]
fn a_user_with_forty_other_cookies_can_do_everything() {
    let Some(programs) = Programs::find() else { return };
    let folder = Folder::new();
    let site = BrowserSite::start(ServerKind::RocketHttp2, Setting::Defaults, &folder);
    let browsers = [Chromium::start(&programs), Chromium::start(&programs)];
    let [desk, phone] = browsers.each_ref().map(Chromium::tab);
    for tab in [&desk, &phone] {
        tab.open(&site.url("/blank"));
        assert_eq!(tab.protocol(), "h2");
        tab.script(
            "for (let n = 0; n < 40; n++) {
                 document.cookie = `_other${n}=${'x'.repeat(20)}; Path=/; Secure`;
             }",
        );
        tab.open(&site.url("/"));
        assert_eq!(tab.cookies().len(), 41);
        assert_eq!(tab.page(), Page::new(1, None, &[]));
        tab.sign_in("ada", "demo");
        assert_eq!(tab.protocol(), "h2");
        assert_eq!(tab.page(), Page::new(2, "ada", &["You are signed in."]));
        tab.reload();
        assert_eq!(tab.page(), Page::new(3, "ada", &[]));
    }

    desk.follow("a[href='/sessions']");
    assert_eq!(places(&desk), [false, true], "the newest first");
    desk.follow("form[action='/sessions/revoke'] button");
    assert_eq!(places(&desk), [true]);
    phone.reload();
    assert_eq!(phone.page(), Page::new(1, None, &[]));

    desk.open(&site.url("/"));
    assert_eq!(desk.page(), Page::new(4, "ada", &[]));
    let cookies = desk.cookies();
    let recorded = cookies.iter().find(|cookie| cookie.name == "__Host-id").unwrap();
    desk.sign_out();
    assert_eq!(desk.page(), Page::new(1, None, &["You are signed out."]));
    desk.take_cookie(recorded);
    desk.reload();
    assert_eq!(desk.page(), Page::new(1, None, &[]), "the session has ended");
}
