//! Cookies in every state, and the ways an id travels.

use std::time::Duration;

use cloakroom::adapter::{Adapter, RequestHead};
use cloakroom::cookie::{CookieConfig, SameSite};
use cloakroom::event::EventKind;
use cloakroom::id::{Realm, SessionId};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{ErrorKind, Lifetime, MemoryStore, SessionManager};

use crate::common::Storage;
use crate::common::app::{
    ATTRIBUTES, Browser, ENDED, REMOVAL, WEEK, complete, defaults, get, issued, on_both_stores,
    set_cookie, sign_in,
};
use crate::common::faulty::Call;

/// The text of an unknown id.
fn stranger() -> String {
    SessionId::generate().unwrap().reveal()
}

fn malformed() -> Vec<String> {
    let good = stranger();
    vec![
        "x".to_owned(),
        good[..42].to_owned(),
        format!("{good}A"),
        format!("{good}="),
        format!("\"{good}"),
        format!("{good}\""),
        format!("\"\"{good}\"\""),
        format!("{}+", &good[..42]),
        format!("{}/", &good[..42]),
        format!("{}%41", &good[..40]),
        format!("\0{}", &good[1..]),
        format!("{}\0", &good[..42]),
        format!("é{}", &good[2..]),
        format!("{}\u{ff}", &good[..41]),
        format!("{} {}", &good[..20], &good[21..]),
        "A".repeat(4096),
        "A".repeat(1 << 20),
        "\u{1f9e5}".repeat(1000),
        // Bits that 32 bytes do not have.
        "A".repeat(42) + "B",
    ]
}

#[test]
fn a_malformed_cookie_reaches_no_store() {
    on_both_stores(defaults, |app| {
        for (index, value) in malformed().into_iter().enumerate() {
            let cookie = format!("theme=dark; __Host-id={value}");
            let commits = app.store.calls(Call::Commit);
            let session = app.sessions.open(Some(cookie.as_str()));
            assert_eq!(app.count(EventKind::MalformedId), index as u64 + 1, "{value:.60}");
            assert_eq!(session.get::<u32>("n").unwrap(), None);
            session.set("n", 1).unwrap();
            let (id, _) = {
                let headers = complete(&app.sessions, &session);
                let (id, attributes) = issued(&headers);
                (id, attributes.len())
            };
            assert_ne!(id.reveal(), value);
            assert_eq!(app.store.calls(Call::Load), 0, "{value:.60}");
            assert_eq!(app.store.calls(Call::Commit), commits + 1, "only the new session");
        }
        assert_eq!(app.count(EventKind::UnknownId), 0);
    });
}

#[test]
fn an_unknown_id_is_never_adopted() {
    on_both_stores(defaults, |app| {
        for read_before in [false, true] {
            let planted = stranger();
            let mut browser = Browser::with(format!("__Host-id={planted}"));
            let unknown = app.count(EventKind::UnknownId);
            let headers = browser.request(&app.sessions, |session| {
                if read_before {
                    assert_eq!(session.get::<u32>("n").unwrap(), None);
                }
                session.set("n", 1).unwrap();
            });
            assert_ne!(issued(&headers).0.reveal(), planted);
            assert_eq!(app.count(EventKind::UnknownId), unknown + 1);
            let victim = Browser::with(format!("__Host-id={planted}"));
            assert_eq!((app.stored_n(&victim), app.stored_n(&browser)), (None, Some(1)));
        }
        assert_eq!(app.rows(), 2);
    });
}

#[test]
fn a_dead_cookie_that_is_read_stays_and_leaves_no_row() {
    on_both_stores(defaults, |app| {
        for cookie in [format!("__Host-id={}", stranger()), "__Host-id=garbage".to_owned()] {
            let mut browser = Browser::with(cookie.clone());
            let headers = browser.request(&app.sessions, |session| {
                assert_eq!(session.get::<u32>("n").unwrap(), None);
            });
            assert_eq!(set_cookie(&headers), None, "another answer may have replaced it by then");
            assert_eq!((browser.cookie.as_ref(), app.rows()), (Some(&cookie), 0));
            let headers = browser.request(&app.sessions, |session| session.destroy().unwrap());
            assert_eq!(set_cookie(&headers), Some(REMOVAL), "a sign-out removes it");
            assert_eq!((browser.cookie, app.rows()), (None, 0));
        }
    });
}

#[test]
fn an_empty_value_is_no_cookie() {
    on_both_stores(defaults, |app| {
        let headers = Browser::with("__Host-id=").request(&app.sessions, |session| {
            assert_eq!(session.get::<u32>("n").unwrap(), None);
        });
        assert_eq!((set_cookie(&headers), app.count(EventKind::MalformedId)), (None, 0));
    });
}

#[test]
fn an_id_counts_only_as_the_value_of_our_cookie() {
    on_both_stores(defaults, |app| {
        let id = app.visitor(1).id().reveal();
        let wrong = [
            format!("id={id}"),
            format!("__host-id={id}"),
            format!("__Host-id2={id}"),
            format!("x__Host-id={id}"),
            format!("a=__Host-id={id}"),
            format!("__Host-id; {id}"),
            id.clone(),
        ];
        for cookie in wrong {
            assert_eq!(app.stored_n(&Browser::with(cookie.clone())), None, "{cookie}");
        }
        let session = app.sessions.open(RequestHead::new().id(&id).host(&id));
        assert_eq!(session.get::<u32>("n").unwrap(), None, "not from a header in cookie mode");
        for right in [
            format!("__Host-id={id}"),
            format!(" __Host-id = {id} "),
            format!("a=b;__Host-id={id};c=d"),
            format!(";;=; \t__Host-id={id}\t;"),
        ] {
            assert_eq!(app.stored_n(&Browser::with(right.clone())), Some(1), "{right}");
        }
    });
}

#[test]
fn of_several_cookies_the_first_live_one_wins() {
    on_both_stores(defaults, |app| {
        let (one, two) = (app.visitor(1), app.visitor(2));
        let (one, two) = (one.cookie.unwrap(), two.cookie.unwrap());
        let dead = format!("__Host-id={}", stranger());
        let bad = "__Host-id=garbage";
        let read = |cookies: &[&str]| {
            let together = cookies.join("; ");
            let one_header = get::<u32>(&app.sessions, &Browser::with(together), "n");
            let head = cookies.iter().fold(RequestHead::new(), |head, text| head.cookie(text));
            let session = app.sessions.open(head);
            let several = session.get::<u32>("n").unwrap();
            let headers = complete(&app.sessions, &session);
            assert_eq!(set_cookie(&headers), None, "a live one is presented");
            assert_eq!(one_header, several);
            several
        };
        assert_eq!(read(&[&one, &two]), Some(1));
        assert_eq!(read(&[&two, &one]), Some(2));
        assert_eq!(read(&[&dead, &one, &two]), Some(1));
        assert_eq!(read(&[bad, "theme=dark", &dead, &two]), Some(2));
        assert_eq!(read(&[&one, bad]), Some(1));

        // A request that only writes finds the same one.
        let mut browser = Browser::with(format!("{dead}; {bad}; {two}; {one}"));
        let headers = browser.request(&app.sessions, |session| session.set("n", 3).unwrap());
        assert_eq!(set_cookie(&headers), None);
        assert_eq!(app.stored_n(&Browser::with(two)), Some(3));
        assert_eq!(app.stored_n(&Browser::with(one)), Some(1));
        assert_eq!(app.rows(), 2);
    });
}

#[test]
fn at_most_sixteen_ids_of_a_request_are_tried() {
    on_both_stores(defaults, |app| {
        let live = app.visitor(1).cookie.unwrap();
        let dead: Vec<String> = (0..100).map(|_| format!("__Host-id={}", stranger())).collect();
        let calls = |call, cookie: &str, use_it: &dyn Fn(&cloakroom::Session)| {
            let before = app.store.calls(call);
            let session = app.sessions.open(Some(cookie));
            use_it(&session);
            complete(&app.sessions, &session);
            app.store.calls(call) - before
        };
        let reads = |expected: Option<u32>| {
            move |session: &cloakroom::Session| assert_eq!(session.get("n").unwrap(), expected)
        };
        let last = format!("{}; {live}", dead[..15].join("; "));
        assert_eq!(calls(Call::Load, &last, &reads(Some(1))), 16);
        assert_eq!(app.count(EventKind::TooManyIds), 0);
        let one_later = format!("{}; {live}", dead[..16].join("; "));
        assert_eq!(calls(Call::Load, &one_later, &reads(None)), 16);
        assert_eq!(app.count(EventKind::TooManyIds), 1);
        assert_eq!(calls(Call::Load, &dead.join("; "), &reads(None)), 16);
        assert_eq!(app.count(EventKind::TooManyIds), 2);
        let hundredfold = vec![dead[0].as_str(); 100].join("; ");
        assert_eq!(calls(Call::Load, &hundredfold, &reads(None)), 1, "the same id counts once");
        let garbage = format!("{}; {live}", ["__Host-id=garbage"; 100].join("; "));
        assert_eq!(calls(Call::Load, &garbage, &reads(Some(1))), 1, "no ids at all");

        let write = |session: &cloakroom::Session| session.set("n", 2).unwrap();
        assert_eq!(calls(Call::Load, &dead.join("; "), &write), 16);
        assert_eq!(calls(Call::Commit, &dead.join("; "), &write), 1, "a new session");
        let destroy = |session: &cloakroom::Session| session.destroy().unwrap();
        assert_eq!(calls(Call::Commit, &dead.join("; "), &destroy), 16);
    });
}

#[test]
fn many_and_large_cookie_headers_do_no_harm() {
    on_both_stores(defaults, |app| {
        let live = app.visitor(1).cookie.unwrap();
        let head = RequestHead::new().cookie(&live);
        let session = app.sessions.open((0..100).fold(head, |head, _| head.cookie("a=b")));
        assert_eq!(session.get("n").unwrap(), Some(1));
        let many = "other=value; ".repeat(100_000) + &live;
        assert_eq!(app.stored_n(&Browser::with(many)), Some(1));
        assert_eq!(app.stored_n(&Browser::with(";".repeat(1 << 20))), None);
    });
}

#[test]
fn wrong_combinations_are_refused_when_the_manager_is_built() {
    let new = CookieConfig::new;
    let wrong = [
        (new().domain("example.org"), "no Domain"),
        (new().path("/app"), "Path=/"),
        (new().secure(false), "Secure"),
        (new().name("__SECURE-x").secure(false), "Secure"),
        (new().name("x").same_site(SameSite::None).secure(false), "SameSite=None"),
        (new().name("a b"), "name"),
        (new().name(""), "name"),
        (new().name("x".repeat(4096)), "4096"),
        (new().name("x").path("app"), "slash"),
        (new().name("x").path("/a;Domain=b"), "semicolon"),
        (new().name("x").domain("a;b"), "domain"),
        (new().extra("Priority=High\r\nX: y"), "extra"),
        (new().extra("Domain=example.org"), "setter"),
        (new().name("__Http-id").http_only(false), "HttpOnly"),
    ];
    for (cookie, word) in wrong {
        let error = SessionManager::builder(MemoryStore::new()).cookie(cookie).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(format!("{error:?}").contains(word), "{error:?} does not say {word}");
    }
    for header in ["", "a b", "x:y", "x\r\n", "é"] {
        let built = SessionManager::builder(MemoryStore::new()).header(header).build();
        assert_eq!(built.unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_header_that_carries_something_else_cannot_carry_ids() {
    let taken = ["Cookie", "user-agent", "Referer", "AUTHORIZATION", "X-Forwarded-For", "Host"];
    let others = ["Accept-Language", "Sec-Fetch-Site", "Origin", "X-Real-IP", "ETag", "If-Match"];
    for header in taken.into_iter().chain(others) {
        let built = SessionManager::builder(MemoryStore::new()).header(header).build();
        assert_eq!(built.unwrap_err().kind(), ErrorKind::Invalid, "{header}");
    }
    for header in ["X-Session", "X-Auth-Token", "Session", "X-Accept"] {
        SessionManager::builder(MemoryStore::new()).header(header).build().expect(header);
    }
}

#[test]
fn a_grace_of_more_than_a_minute_is_refused() {
    let with = |seconds| {
        let grace = Duration::from_secs(seconds);
        SessionManager::builder(MemoryStore::new()).renewal_grace(grace).build()
    };
    assert_eq!(with(61).unwrap_err().kind(), ErrorKind::Invalid);
    with(60).unwrap();
}

#[test]
fn a_removal_matches_the_cookie_that_was_set() {
    let cookie = CookieConfig::new()
        .name("sid")
        .path("/app")
        .domain("example.org")
        .same_site(SameSite::Strict)
        .partitioned(true);
    let configure = |builder: SessionManagerBuilder| builder.cookie(cookie.clone());
    on_both_stores(configure, |app| {
        let rest = "Secure; HttpOnly; SameSite=Strict; Partitioned";
        let mut browser = Browser::default();
        let headers = browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        let expected = format!("Path=/app; Domain=example.org; {WEEK}; {rest}");
        assert_eq!(issued(&headers).1, expected);
        let headers = browser.request(&app.sessions, |session| session.destroy().unwrap());
        let expected = format!("sid=; Path=/app; Domain=example.org; {ENDED}; {rest}");
        assert_eq!(set_cookie(&headers), Some(expected.as_str()));
    });
}

#[test]
fn insecure_http_is_a_cookie_of_another_name_without_secure() {
    let configure = |builder: SessionManagerBuilder| builder.cookie(CookieConfig::insecure_http());
    on_both_stores(configure, |app| {
        let mut browser = Browser::default();
        let headers = browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        let id = issued(&headers).0.reveal();
        let expected = format!("id={id}; Path=/; {WEEK}; HttpOnly; SameSite=Lax");
        assert_eq!(set_cookie(&headers), Some(expected.as_str()));
    });
}

#[test]
fn a_browser_session_has_no_max_age_and_its_own_short_limit() {
    let short = Lifetime::idle(Duration::from_secs(600));
    let configure = move |builder: cloakroom::manager::SessionManagerBuilder| {
        builder.browser_session_lifetime(short).without_cleaner()
    };
    on_both_stores(configure, |app| {
        let begin = |persistent: Option<bool>| {
            let mut browser = Browser::default();
            let headers = browser.request(&app.sessions, |session| {
                session.set("n", 1).unwrap();
                if let Some(persistent) = persistent {
                    session.set_persistent(persistent).unwrap();
                }
            });
            (browser, issued(&headers).1.to_owned())
        };
        let (kept, attributes) = begin(None);
        assert_eq!(attributes, format!("Path=/; {WEEK}; {ATTRIBUTES}"));
        let (mut forgotten, attributes) = begin(Some(false));
        assert_eq!(attributes, format!("Path=/; {ATTRIBUTES}"));
        app.clock.advance(Duration::from_secs(599));
        assert_eq!(app.stored_n(&forgotten), Some(1));
        // A renewal keeps what it is.
        let headers = forgotten.request(&app.sessions, |session| session.renew().unwrap());
        assert_eq!(issued(&headers).1, format!("Path=/; {ATTRIBUTES}"));
        app.clock.advance(Duration::from_secs(600));
        assert_eq!((app.stored_n(&forgotten), app.stored_n(&kept)), (None, Some(1)));

        // A sign-in may choose again: remember me.
        let (mut browser, _) = begin(Some(false));
        let headers = browser.request(&app.sessions, |session| {
            session.set_persistent(true).unwrap();
            sign_in(session, "ada");
        });
        // 599 and 600 seconds after the cookie of the first one.
        let later = "Max-Age=2592000; Expires=Thu, 14 Dec 2023 22:33:19 GMT";
        assert_eq!(issued(&headers).1, format!("Path=/; {later}; {ATTRIBUTES}"));
        app.clock.advance(Duration::from_secs(601));
        assert_eq!(app.stored_n(&browser), Some(1));
    });
}

#[test]
fn a_sign_in_does_not_take_the_remember_me_of_another_user() {
    let configure = |builder: SessionManagerBuilder| builder.persistent(false);
    on_both_stores(configure, |app| {
        let mut browser = Browser::default();
        browser.request(&app.sessions, |session| {
            session.set_persistent(true).unwrap();
            sign_in(session, "ada");
        });
        let mut sign_in_as = |user| {
            let headers = browser.request(&app.sessions, |session| sign_in(session, user));
            issued(&headers).1.contains("Max-Age")
        };
        assert!(sign_in_as("ada"), "her own choice stays");
        assert!(!sign_in_as("bob"));
        // Nor through the id that the other user's sign-in has replaced.
        let mut one = app.visitor(1);
        let mut other = one.clone();
        one.request(&app.sessions, |session| {
            session.set_persistent(true).unwrap();
            sign_in(session, "ada");
        });
        let headers = other.request(&app.sessions, |session| sign_in(session, "bob"));
        assert!(!issued(&headers).1.contains("Max-Age"));
    });
}

#[test]
fn a_manager_may_make_browser_sessions_the_rule() {
    let configure = |builder: SessionManagerBuilder| builder.persistent(false);
    on_both_stores(configure, |app| {
        let mut browser = Browser::default();
        let headers = browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
        assert_eq!(issued(&headers).1, format!("Path=/; {ATTRIBUTES}"));
        let headers = Browser::default().request(&app.sessions, |session| {
            session.set_persistent(true).unwrap();
            session.set("n", 1).unwrap();
        });
        assert_eq!(issued(&headers).1, format!("Path=/; {WEEK}; {ATTRIBUTES}"));
    });
}

#[test]
fn max_age_is_the_rest_of_the_absolute_limit_up_to_400_days() {
    let day = Duration::from_secs(86_400);
    let longest = ("34560000", "Wed, 18 Dec 2024 22");
    let an_hour_later = ("34560000", "Wed, 18 Dec 2024 23");
    let ages = [
        (
            Lifetime::absolute(day),
            ("86400", "Wed, 15 Nov 2023 22"),
            ("82800", "Wed, 15 Nov 2023 22"),
        ),
        (Lifetime::absolute(day * 1000), longest, an_hour_later),
        (Lifetime::idle(day), longest, an_hour_later),
    ];
    for (lifetime, at_first, an_hour_later) in ages {
        let configure =
            |builder: SessionManagerBuilder| builder.anonymous_lifetime(lifetime).without_cleaner();
        on_both_stores(configure, |app| {
            let mut browser = Browser::default();
            let headers = browser.request(&app.sessions, |session| session.set("n", 1).unwrap());
            let expected = |(age, hour)| {
                format!("Path=/; Max-Age={age}; Expires={hour}:13:20 GMT; {ATTRIBUTES}")
            };
            assert_eq!(issued(&headers).1, expected(at_first));
            app.clock.advance(crate::common::HOUR);
            let headers = browser.request(&app.sessions, |session| session.renew().unwrap());
            assert_eq!(issued(&headers).1, expected(an_hour_later));
        });
    }
}

#[test]
fn in_header_mode_cookies_do_not_count() {
    let configure = |builder: SessionManagerBuilder| builder.header("X-Session");
    on_both_stores(configure, |app| {
        assert_eq!(Adapter::new(&app.sessions).header_names().last(), Some("X-Session"));
        let session = app.sessions.open(None);
        session.set("n", 1).unwrap();
        let headers = complete(&app.sessions, &session);
        let [(name, id)] = &headers.id_fields[..] else { panic!("{headers:?}") };
        let expected = [
            ("X-Session", &**id),
            // No cache knows that this header is personal.
            ("Cache-Control", "no-store"),
            ("Vary", "X-Session"),
        ];
        assert_eq!(headers.iter().collect::<Vec<_>>(), expected);
        assert_eq!(name, "X-Session");
        assert!(SessionId::parse(id).is_some(), "the bare id");

        let read = |head: RequestHead<'_>| {
            let session = app.sessions.open(head);
            let n = session.get::<u32>("n").unwrap();
            (n, complete(&app.sessions, &session).id_fields)
        };
        assert_eq!(read(RequestHead::new().id(id)), (Some(1), vec![]));
        let cookie = format!("__Host-id={id}; X-Session={id}");
        assert_eq!(read(RequestHead::new().cookie(&cookie)), (None, vec![]));
        assert_eq!(app.count(EventKind::MalformedId), 0);
        assert_eq!(read(RequestHead::new().id("garbage").cookie(&cookie)), (None, vec![]));
        assert_eq!(app.count(EventKind::MalformedId), 1);

        let session = app.sessions.open(RequestHead::new().id(id));
        session.destroy().unwrap();
        assert_eq!(complete(&app.sessions, &session).id_fields, [], "nothing to remove");
        assert_eq!(read(RequestHead::new().id(id)), (None, vec![]));
    });
}

#[test]
fn vary_and_cache_control_are_merged_with_the_applications() {
    on_both_stores(defaults, |app| {
        let headers = Browser::default().request(&app.sessions, |s| s.set("n", 1).unwrap());
        assert_eq!(
            headers.vary(Some("Accept-Encoding")).as_deref(),
            Some("Accept-Encoding, Cookie")
        );
        assert_eq!(headers.vary(Some("accept, COOKIE")), None);
        let public = headers.cache_control(Some("public, max-age=60")).unwrap();
        assert_eq!(public, "max-age=60, private, no-cache=\"Set-Cookie\"");

        let read =
            Browser::default().request(&app.sessions, |s| assert!(!s.contains("x").unwrap()));
        assert_eq!(read.vary(None).as_deref(), Some("Cookie"));
        assert_eq!(read.cache_control(Some("public")), None, "no cookie, no guard");
        let ignored = Browser::default().request(&app.sessions, |_| {});
        assert_eq!((ignored.vary(None), ignored.cache_control(Some("public"))), (None, None));
    });
}

#[test]
fn a_stored_hash_is_not_accepted_as_an_id() {
    let app = crate::common::app::App::new(Storage::File, defaults);
    let browser = app.visitor(1);
    let path = app.folder.database();
    let other = cloakroom::stores::sqlite::rusqlite::Connection::open(&path).unwrap();
    let id_hash: Vec<u8> =
        other.query_row("SELECT id_hash FROM cloakroom_sessions", [], |row| row.get(0)).unwrap();
    assert_eq!(id_hash, browser.id().hash(Realm::default().tag()).as_bytes());
    // 32 bytes as text, the way an id is written.
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in id_hash.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            text.push(LETTERS[(bits >> (18 - 6 * at) & 63) as usize] as char);
        }
    }
    assert!(SessionId::parse(&text).is_some(), "{text}");
    assert_eq!(app.stored_n(&Browser::with(format!("__Host-id={text}"))), None);

    let id = browser.id().reveal();
    drop(other);
    for name in ["app.db", "app.db-wal"] {
        let bytes = std::fs::read(path.with_file_name(name)).unwrap();
        assert!(!bytes.windows(id.len()).any(|part| part == id.as_bytes()), "the id is in {name}");
    }
}
