//! Signed and encrypted cookies, with keys that change.

use cloakroom::cookie::{CookieConfig, CookieKeys};
use cloakroom::event::EventKind;
use cloakroom::id::SessionId;
use cloakroom::manager::SessionManagerBuilder;

use crate::common::app::{
    ATTRIBUTES, Browser, WEEK, defaults, get, on_both_stores, set_cookie, sign_in,
};
use crate::common::faulty::Call;

fn config(encrypted: bool, secrets: &[u8]) -> CookieConfig {
    let keys = CookieKeys::new(secrets.iter().map(|byte| [*byte; 64])).unwrap();
    match encrypted {
        true => CookieConfig::new().encrypted(keys),
        false => CookieConfig::new().signed(keys),
    }
}

#[test]
fn rotated_keys_are_accepted_until_they_are_removed() {
    for encrypted in [false, true] {
        on_both_stores(defaults, |app| {
            let manager =
                |secrets: &[u8]| app.another(|builder| builder.cookie(config(encrypted, secrets)));
            let (old, both, new) = (manager(&[1]), manager(&[2, 1]), manager(&[2]));
            let mut browser =
                Browser::default().after_request(&old, |session| session.set("n", 1).unwrap());
            let issued_by_old = browser.clone();

            // A request that does not look at its session sends nothing.
            assert_eq!(set_cookie(&browser.request(&both, |_| {})), None);
            let headers = browser.request(&both, |s| assert_eq!(s.get("n").unwrap(), Some(1)));
            let sealed_again = set_cookie(&headers).expect("it is sent again").to_owned();
            assert!(sealed_again.ends_with(&format!("; Path=/; {WEEK}; {ATTRIBUTES}")));
            assert_ne!(browser.cookie, issued_by_old.cookie);
            let headers = browser.request(&both, |s| assert_eq!(s.get("n").unwrap(), Some(1)));
            assert_eq!(set_cookie(&headers), None, "once");
            assert_eq!(get(&new, &browser, "n"), Some(1), "the same id under the new key");

            let loads = app.store.calls(Call::Load);
            assert_eq!(get::<u32>(&new, &issued_by_old, "n"), None);
            assert_eq!(app.store.calls(Call::Load), loads, "it reaches no store");
            assert_eq!((app.count(EventKind::MalformedId), app.rows()), (1, 1));
        });
    }
}

#[test]
fn a_write_without_a_read_with_an_old_key_is_sealed_again() {
    on_both_stores(defaults, |app| {
        let old = app.another(|builder| builder.cookie(config(false, &[1])));
        let both = app.another(|builder| builder.cookie(config(false, &[2, 1])));
        let mut browser =
            Browser::default().after_request(&old, |session| session.set("n", 1).unwrap());
        let stale = browser.clone();
        let headers = browser.request(&both, |session| session.set("n", 2).unwrap());
        assert!(set_cookie(&headers).is_some());

        let late = stale.open(&both);
        assert_eq!(late.get("n").unwrap(), Some(2));
        browser.request(&both, |session| sign_in(session, "ada"));
        late.set("n", 3).unwrap();
        let headers = both.close(&late, cloakroom::adapter::Outcome::Completed).unwrap();
        assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
        let mut stale = stale;
        let headers = stale.request(&both, |s| assert!(!s.contains("x").unwrap()));
        assert_eq!(set_cookie(&headers), None);
    });
}

#[test]
fn a_reader_in_flight_that_seals_again_sends_no_replaced_id() {
    on_both_stores(defaults, |app| {
        let old = app.another(|builder| builder.cookie(config(false, &[1])));
        let both = app.another(|builder| builder.cookie(config(false, &[2, 1])));
        let mut browser =
            Browser::default().after_request(&old, |session| session.set("n", 1).unwrap());
        let late = browser.open(&both);
        assert_eq!(late.get("n").unwrap(), Some(1));
        browser.request(&both, |session| sign_in(session, "ada"));
        let headers = both.close(&late, cloakroom::adapter::Outcome::Completed).unwrap();
        browser.take(&headers);
        assert_eq!(get(&both, &browser, "n"), Some(1), "the browser keeps the new id");
    });
}

#[test]
fn a_bare_or_tampered_id_is_refused_without_a_load() {
    for encrypted in [false, true] {
        let configure = |builder: SessionManagerBuilder| builder.cookie(config(encrypted, &[1]));
        on_both_stores(configure, |app| {
            let browser = app.visitor_after(|session| session.set("n", 1).unwrap());
            let sealed = browser.cookie.clone().unwrap();
            let bare = SessionId::generate().unwrap().reveal();
            let last = sealed.chars().last().unwrap();
            let other = if last == 'A' { 'B' } else { 'A' };
            let tampered = format!("{}{other}", &sealed[..sealed.len() - 1]);
            let swapped = format!("{}{bare}", &sealed[..sealed.len() - 43]);
            let long = format!("__Host-id={}", "A".repeat(1 << 20));
            for wrong in [format!("__Host-id={bare}"), tampered, swapped, long] {
                assert_eq!(app.stored_n(&Browser::with(wrong)), None);
            }
            assert_eq!(app.store.calls(Call::Load), 0);
            assert_eq!(app.stored_n(&browser), Some(1));
        });
    }
}

#[test]
fn a_sealed_id_in_quotes_is_the_id() {
    for encrypted in [false, true] {
        let configure = |builder: SessionManagerBuilder| builder.cookie(config(encrypted, &[1]));
        on_both_stores(configure, |app| {
            let sealed = app.visitor(1).cookie.unwrap();
            let quoted = sealed.replacen('=', "=\"", 1) + "\"";
            assert_eq!(app.stored_n(&Browser::with(quoted)), Some(1));
        });
    }
}

#[test]
fn sixteen_sealed_values_of_a_request_are_opened() {
    for encrypted in [false, true] {
        let configure =
            |builder: SessionManagerBuilder| builder.cookie(config(encrypted, &[1, 2, 3, 4, 5]));
        on_both_stores(configure, |app| {
            let sealed = app.visitor(1).cookie.unwrap();
            let value = sealed.split_once('=').unwrap().1;
            let forged = |n: usize| format!("__Host-id={n:03}{}; ", &value[3..]);
            let behind = |many: usize| (0..many).map(forged).collect::<String>() + &sealed;
            assert_eq!(app.stored_n(&Browser::with(behind(15))), Some(1));
            assert_eq!(app.count(EventKind::TooManyIds), 0);
            assert_eq!(app.stored_n(&Browser::with(behind(16))), None);
            assert_eq!(app.count(EventKind::TooManyIds), 1);

            // The same value again is opened once.
            let repeated = forged(0).repeat(200) + &sealed;
            assert_eq!(app.stored_n(&Browser::with(repeated)), Some(1));
            let loads = app.store.calls(Call::Load);
            assert_eq!(app.stored_n(&Browser::with(behind((1 << 20) / sealed.len()))), None);
            assert_eq!(app.store.calls(Call::Load), loads, "a megabyte of them");
            assert_eq!(app.count(EventKind::TooManyIds), 2);
        });
    }
}

#[test]
fn an_id_sealed_in_another_way_or_with_another_key_is_malformed() {
    on_both_stores(defaults, |app| {
        let of = |encrypted, key| app.another(|b| b.cookie(config(encrypted, &[key])));
        let browser =
            Browser::default().after_request(&of(true, 1), |session| session.set("n", 1).unwrap());
        let loads = app.store.calls(Call::Load);
        for sessions in [of(true, 2), of(false, 1), of(false, 2)] {
            assert_eq!(get::<u32>(&sessions, &browser, "n"), None);
        }
        assert_eq!(app.stored_n(&browser), None, "nor without keys");
        assert_eq!(app.store.calls(Call::Load), loads);
        assert_eq!(app.count(EventKind::MalformedId), 4);
        assert_eq!(get(&of(true, 1), &browser, "n"), Some(1));
    });
}
