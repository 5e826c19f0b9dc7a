//! Signing in and out, renewal, and limits of time.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use cloakroom::UserKey;
use cloakroom::backend::Store;
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::manager::SessionManagerBuilder;

use crate::adapters::{REMOVAL, cookie, unknown_id};
use crate::common::client::Request;
use crate::common::site::{everywhere, everywhere_with};

#[test]
fn signing_in_replaces_the_id_and_keeps_the_data() {
    everywhere(|site| {
        let mut browser = site.visitor("/count");
        let anonymous = browser.id().to_owned();
        let response = browser.post("/sign-in:ada/redirect");
        assert_eq!((response.status, response.one("Location")), (303, Some("/who")));
        assert_ne!(browser.id(), anonymous);
        assert_eq!(browser.get("/who/visits").text(), "ada\n1");
        let replayed = site.send(&Request::get("/who/visits").cookie(cookie(&anonymous)));
        assert_eq!(replayed.text(), "none\n0");
        assert_eq!(replayed.one("Set-Cookie"), None, "the browser keeps the new one");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn a_cookie_from_before_a_sign_out_is_not_signed_in_after_it() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada/count");
        let recorded = browser.id().to_owned();
        assert_eq!(browser.post("/destroy/redirect").one("Set-Cookie"), Some(REMOVAL));
        assert_eq!((browser.id.as_ref(), site.sessions()), (None, 0));
        for _ in 0..2 {
            assert_eq!(site.read("/who/visits", cookie(&recorded)), "none\n0");
        }
        let replayed = site.send(&Request::post("/count/who").cookie(cookie(&recorded)));
        assert_eq!(replayed.text(), "1\nnone");
        assert_ne!(replayed.id().unwrap(), recorded);
    });
}

#[test]
fn a_flash_after_a_sign_out_begins_an_anonymous_session() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada/count");
        let before = browser.id().to_owned();
        assert_eq!(browser.post("/destroy/flash:bye/redirect").all("Set-Cookie").len(), 1);
        assert_ne!(browser.id(), before);
        assert_eq!(browser.get("/who/visits/flashes").text(), "none\n0\nbye");
        assert_eq!(browser.get("/flashes").text(), "", "read once");
        assert_eq!(site.read("/who", cookie(&before)), "none");
        assert_eq!(site.sessions(), 1);
    });
}

#[test]
fn signing_out_ends_the_sessions_of_all_cookies_presented() {
    everywhere(|site| {
        let mut a = site.visitor("/sign-in:ada");
        let mut b = site.visitor("/sign-in:bob");
        let both = format!("{}; {}", cookie(a.id()), cookie(b.id()));
        let response = site.send(&Request::post("/destroy").cookie(both));
        assert_eq!((response.one("Set-Cookie"), site.sessions()), (Some(REMOVAL), 0));

        a.post("/count");
        let old = cookie(a.id());
        a.post("/sign-in:ada");
        b.post("/sign-in:bob");
        let both = format!("{old}; {}", cookie(b.id()));
        let response = site.send(&Request::post("/destroy").cookie(both));
        assert_eq!(response.one("Set-Cookie"), Some(REMOVAL));
        assert_eq!((a.get("/who").text(), b.get("/who").text()), ("none", "none"));
    });
}

#[test]
fn signing_out_without_a_session_is_no_error() {
    everywhere(|site| {
        let response = site.browser().post("/destroy/redirect");
        assert_eq!((response.status, response.one("Set-Cookie")), (303, None));
        let response = site.send(&Request::post("/destroy").cookie(cookie(&unknown_id())));
        assert_eq!((response.status, response.one("Set-Cookie")), (200, Some(REMOVAL)));
        assert_eq!(site.sessions(), 0);
    });
}

#[test]
fn a_sign_in_at_the_maximum_is_refused_unless_one_was_ended() {
    let configure = |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(NonZeroU32::MIN, AtMaximum::Refuse)
    };
    everywhere_with(configure, |site| {
        let (mut a, mut b) = (site.browser(), site.browser());
        a.post("/sign-in:ada");
        let response = b.post("/count/sign-in:ada");
        assert_eq!((response.status, response.text()), (200, "1\nRefused"));
        assert_eq!(b.get("/who/visits").text(), "none\n1");
        assert_eq!(a.post("/destroy/sign-in:ada").text(), "");
        assert_eq!((a.get("/who").text(), site.stats().signed_in), ("ada", 1));
    });
}

#[test]
fn a_renewal_gives_a_new_id_and_kills_the_old_one() {
    everywhere(|site| {
        let mut browser = site.visitor("/count/sign-in:ada");
        let (old, public_id) =
            (browser.id().to_owned(), browser.get("/public-id").text().to_owned());
        site.clock.advance(Duration::from_secs(3600));
        let response = browser.post("/renew");
        assert!(
            response.one("Set-Cookie").unwrap().contains("; Max-Age=2588400;"),
            "the absolute deadline stays"
        );
        assert_ne!(browser.id(), old);
        assert_eq!(browser.get("/public-id/who/visits").text(), format!("{public_id}\nada\n1"));
        let late = site.send(&Request::post("/count/who").cookie(cookie(&old)));
        assert_eq!((late.text(), late.one("Set-Cookie")), ("1\nnone", None));
        assert_eq!(browser.get("/visits").text(), "1");
        let user = UserKey::new("ada").unwrap();
        let page = Page::first(NonZeroUsize::MAX);
        let now = site.now();
        let list =
            site.store.index().unwrap().list(&SessionFilter::User(&user), page, now).unwrap();
        assert_eq!(list.len(), 1);
    });
}

#[test]
fn signing_in_again_restarts_the_absolute_deadline() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada");
        site.clock.advance(Duration::from_secs(3600));
        let response = browser.post("/sign-in:ada");
        assert!(response.one("Set-Cookie").unwrap().contains("; Max-Age=2592000;"));
    });
}

#[test]
fn a_renewal_without_a_session_begins_none() {
    everywhere(|site| {
        assert_eq!(site.browser().post("/renew").one("Set-Cookie"), None);
        assert_eq!(site.sessions(), 0);
        let mut browser = site.visitor("/renew/count");
        assert_eq!(browser.get("/visits").text(), "1");
    });
}

#[test]
fn with_a_grace_the_old_id_finds_the_same_session_until_it_ends() {
    let configure = |builder: SessionManagerBuilder| builder.renewal_grace(Duration::from_secs(10));
    everywhere_with(configure, |site| {
        let mut browser = site.visitor("/count");
        let old = browser.id().to_owned();
        browser.post("/renew");
        site.clock.advance(Duration::from_secs(9));
        let late = site.send(&Request::post("/count").cookie(cookie(&old)));
        assert_eq!((late.text(), late.one("Set-Cookie")), ("2", None));
        assert_eq!(browser.get("/visits").text(), "2", "on the same row");
        let late = site.send(&Request::post("/renew").cookie(cookie(&old)));
        assert_eq!((late.status, late.one("Set-Cookie")), (200, None), "it renews nothing");
        site.clock.advance(Duration::from_secs(2));
        let late = site.send(&Request::get("/visits").cookie(cookie(&old)));
        assert_eq!((late.text(), late.one("Set-Cookie")), ("0", None));
        assert_eq!((browser.get("/visits").text(), site.sessions()), ("2", 1));
    });
}

#[test]
fn a_session_past_its_idle_limit_is_gone() {
    everywhere(|site| {
        let mut browser = site.visitor("/sign-in:ada");
        site.clock.advance(Duration::from_secs(86_400 - 1));
        assert_eq!(browser.get("/who").text(), "ada");
        site.app.sessions.flush().unwrap();
        site.clock.advance(Duration::from_secs(86_400 - 1));
        assert_eq!(browser.get("/who").text(), "ada", "reading is activity");
        let id = browser.id().to_owned();
        site.app.sessions.flush().unwrap();
        site.clock.advance(Duration::from_secs(86_400));
        let response = browser.get("/who");
        assert_eq!((response.text(), response.one("Set-Cookie")), ("none", None));
        let write = site.send(&Request::post("/count/who").cookie(cookie(&id)));
        assert_eq!(write.text(), "1\nnone");
        assert_ne!(write.id().unwrap(), id);
    });
}

#[test]
fn a_session_for_the_browsers_life_has_no_max_age() {
    everywhere(|site| {
        let response = site.browser().post("/browser-session/count");
        let header = response.one("Set-Cookie").unwrap();
        assert!(header.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{header}");
        assert!(!header.contains("Max-Age") && !header.contains("Expires"), "{header}");
    });
}

#[test]
fn an_ignored_session_stays_as_it_was_and_none_begins() {
    everywhere(|site| {
        let response = site.browser().post("/count/ignore");
        assert_eq!((response.text(), response.one("Set-Cookie")), ("1", None));
        assert_eq!(site.sessions(), 0);
        let mut browser = site.visitor("/count");
        for path in ["/count/ignore", "/ignore/count", "/renew/ignore", "/destroy/ignore"] {
            assert_eq!(browser.post(path).one("Set-Cookie"), None, "{path}");
            assert_eq!(browser.get("/visits").text(), "1", "{path}");
        }
    });
}
