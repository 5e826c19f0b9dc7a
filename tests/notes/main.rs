//! The example `notes`: an application with own tables in the file of the sessions.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the example's `main` has no caller here")]
#[path = "../../examples/notes/main.rs"]
mod notes;
mod visitor;

use std::thread;
use std::time::Duration;

use argon2::{Algorithm, Argon2, Params, Version};
use cloakroom::adapter::Outcome;
use cloakroom::clock::ManualClock;
use cloakroom::cross_origin::REFUSED;
use cloakroom::testing::{field_of_form, with_session};
use cloakroom::{CookieConfig, SessionManager, SignIn, SqliteStore};

use crate::common::client::{Request, send};
use crate::common::integrity::assert_integrity;
use crate::common::rocket_server::RocketServer;
use crate::common::{Folder, NOW, on_threads};
use crate::notes::accounts;
use crate::notes::app::{App, local_path};
use crate::notes::throttle::WINDOW;
use crate::visitor::{Process, Reply, Visitor, block_on, settings};

const PASSWORD: &str = "correct horse battery";
const NEW_PASSWORD: &str = "staple correct horse";

struct Site {
    folder: Folder,
    clock: ManualClock,
    app: Process,
}

impl Site {
    fn new() -> Self {
        Site::behind(0)
    }

    fn behind(proxies: u8) -> Self {
        let (folder, clock) = (Folder::new(), ManualClock::new(NOW));
        let app = app(&folder, proxies, &clock);
        Site { folder, clock, app }
    }

    fn visitor(&self) -> Visitor<'_> {
        Visitor::new(&self.app)
    }

    /// A visitor who has just signed up.
    fn user(&self, name: &str) -> Visitor<'_> {
        let mut visitor = self.visitor();
        let reply = visitor.fill("/sign-up", &[("name", name), ("password", PASSWORD)]);
        assert_eq!(reply.location(), "/", "{reply:?}");
        assert!(visitor.get("/").body.contains("Welcome."));
        visitor
    }

    /// Another browser of a user.
    fn signed_in(&self, name: &str, password: &str) -> Visitor<'_> {
        let mut visitor = self.visitor();
        let reply = sign_in(&mut visitor, name, password);
        assert_eq!(reply.location(), "/", "{reply:?}");
        visitor
    }
}

/// The application as one process has it. Its argon2 is as fast as possible.
fn app(folder: &Folder, proxies: u8, clock: &ManualClock) -> Process {
    Process::start(app_on(SqliteStore::open(folder.database()).unwrap(), proxies, clock))
}

fn app_on(store: SqliteStore, proxies: u8, clock: &ManualClock) -> App {
    let params = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    App::new(store, CookieConfig::new(), proxies, argon2, clock.clone()).unwrap()
}

fn sign_in(visitor: &mut Visitor<'_>, name: &str, password: &str) -> Reply {
    visitor.fill("/sign-in", &[("name", name), ("password", password)])
}

fn change_password(visitor: &mut Visitor<'_>, current: &str, new: &str) -> Reply {
    visitor.fill("/password", &[("current", current), ("new", new)])
}

fn is_signed_in(visitor: &mut Visitor<'_>) -> bool {
    visitor.get("/").body.contains("Signed in as")
}

#[test]
fn a_visitor_who_looks_around_gets_no_cookie() {
    let site = Site::new();
    let reply = site.visitor().get("/");
    assert_eq!((reply.status, reply.set_cookie), (200, None));
}

#[test]
fn a_user_signs_up_and_writes_a_note() {
    let site = Site::new();
    let mut ada = site.user("ada");
    let page = ada.get("/").body;
    assert!(page.contains("<strong>ada</strong>"), "{page}");
    assert!(!page.contains("Welcome."), "a message is shown once");
    assert_eq!(ada.post("/notes", &[("text", "<b>Buy</b> milk")]).location(), "/");
    assert!(ada.get("/").body.contains("&lt;b&gt;Buy&lt;/b&gt; milk"));
    assert_eq!(ada.post("/notes/1/delete", &[]).location(), "/");
    assert!(!ada.get("/").body.contains("milk"));
}

#[test]
fn a_name_is_given_once() {
    let site = Site::new();
    site.user("ada");
    let mut other = site.visitor();
    let reply = other.fill("/sign-up", &[("name", "Ada"), ("password", PASSWORD)]);
    assert_eq!(reply.location(), "/sign-up");
    assert!(!is_signed_in(&mut other));
}

#[test]
fn a_short_password_and_an_odd_name_are_refused() {
    let site = Site::new();
    for (name, password) in [("ada", "short"), ("", PASSWORD), ("<b>", PASSWORD)] {
        let reply = site.visitor().fill("/sign-up", &[("name", name), ("password", password)]);
        assert_eq!(reply.location(), "/sign-up", "{name} {password}");
    }
}

#[test]
fn a_wrong_password_and_an_unknown_name_get_the_same_reply() {
    let site = Site::new();
    site.user("ada");
    let mut visitor = site.visitor();
    for name in ["ada", "bob", "<b>"] {
        assert_eq!(sign_in(&mut visitor, name, "wrong").location(), "/sign-in?next=%2F");
        let page = visitor.get("/sign-in").body;
        assert!(page.contains("The name or the password is wrong."), "{page}");
    }
    assert!(!is_signed_in(&mut visitor));
}

#[test]
fn a_page_of_users_leads_to_the_sign_in_and_back() {
    let site = Site::new();
    site.user("ada").post("/notes", &[("text", "milk")]);
    let mut visitor = site.visitor();
    let reply = visitor.get("/notes/1?x=1&y=2");
    assert_eq!(reply.location(), "/sign-in?next=%2Fnotes%2F1%3Fx%3D1%26y%3D2");
    let page = visitor.get(reply.location()).body;
    assert!(page.contains("value=\"/notes/1?x=1&amp;y=2\""), "{page}");
    let form = [("name", "ada"), ("password", PASSWORD), ("next", "/notes/1?x=1&y=2")];
    assert_eq!(visitor.post("/sign-in", &form).location(), "/notes/1?x=1&y=2");
}

#[test]
fn only_paths_of_this_site_are_returned_to() {
    for path in ["/", "/notes/1", "/notes/1?x=1&y=//2", "/a//b"] {
        assert_eq!(local_path(path), path);
    }
    for other in [
        "",
        "notes",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/a\\b",
        "/\t/evil.example",
        "\t//evil.example",
        "/\r\nSet-Cookie: a=b",
        "https://evil.example",
        "javascript:alert(1)",
        "/ä",
        "/<b>",
        " /",
    ] {
        assert_eq!(local_path(other), "/", "{other:?}");
    }
    let site = Site::new();
    site.user("ada");
    let form = [("name", "ada"), ("password", PASSWORD), ("next", "//evil.example")];
    assert_eq!(site.visitor().fill("/sign-in", &form).location(), "/");
}

#[test]
fn the_cookie_outlives_the_browser_if_the_user_says_so() {
    let site = Site::new();
    site.user("ada");
    let cookie = |remember: &[(&str, &str)]| {
        let form = [&[("name", "ada"), ("password", PASSWORD)], remember].concat();
        site.visitor().fill("/sign-in", &form).set_cookie.unwrap()
    };
    assert!(!cookie(&[]).contains("Max-Age"));
    assert!(cookie(&[("remember", "on")]).contains("; Max-Age="));
}

#[test]
fn a_sign_in_issues_a_new_id_and_a_sign_out_ends_it() {
    let site = Site::new();
    site.user("ada");
    let mut ada = site.visitor();
    // Its message begins a session.
    sign_in(&mut ada, "ada", "wrong");
    let before = ada.cookie().unwrap();
    sign_in(&mut ada, "ada", PASSWORD);
    let signed_in = ada.cookie().unwrap();
    assert_ne!(before, signed_in);
    ada.get("/");
    assert_eq!(ada.post("/sign-out", &[]).location(), "/");
    assert!(!is_signed_in(&mut site.visitor().with_cookie(&signed_in)));
}

#[test]
fn an_address_signs_up_a_bounded_number_of_users() {
    let site = Site::new();
    let form = [("name", "ada"), ("password", PASSWORD)];
    let status = || site.visitor().fill("/sign-up", &form).status;
    assert!((0..50).all(|_| status() == 303));
    assert_eq!(status(), 429);
}

#[test]
fn forms_of_other_origins_change_nothing() {
    let site = Site::new();
    let mut ada = site.user("ada");
    for path in [
        "/notes",
        "/notes/1/delete",
        "/devices/end",
        "/devices/end-others",
        "/password",
        "/sign-in",
        "/sign-up",
        "/sign-out",
    ] {
        let reply = ada.send("POST", path, &[("Sec-Fetch-Site", "cross-site")], "text=x");
        assert_eq!((reply.status, &*reply.body), (403, REFUSED), "{path}");
    }
    assert!(is_signed_in(&mut ada));
}

/// The pages with a form that a visitor without an account sees.
const PUBLIC_FORMS: [&str; 2] = ["/sign-in", "/sign-up"];

#[track_caller]
fn assert_no_sessions(sessions: &SessionManager) {
    let stats = sessions.stats().unwrap();
    assert_eq!((stats.live, stats.expired), (0, 0));
}

#[test]
fn a_hundred_thousand_visits_of_a_form_store_no_session() {
    let site = Site::new();
    for visit in 0..100_000 {
        let reply = site.visitor().get(PUBLIC_FORMS[visit % 2]);
        assert_eq!((reply.status, reply.set_cookie), (200, None));
        assert!(reply.body.contains("<form method=\"post\""), "{}", reply.body);
    }
    assert_no_sessions(&site.app.sessions);
}

#[test]
fn visits_of_a_form_over_http_store_no_session() {
    let folder = Folder::new();
    let store = SqliteStore::open(folder.database()).unwrap();
    let app = app_on(store, 0, &ManualClock::new(NOW));
    let sessions = app.sessions.clone();
    let server = RocketServer::start(app.rocket(settings()));
    for visit in 0..500 {
        let reply = send(server.address, &Request::get(PUBLIC_FORMS[visit % 2])).unwrap();
        assert_eq!((reply.status, reply.one("set-cookie")), (200, None));
    }
    assert_no_sessions(&sessions);
}

#[test]
fn notes_of_another_user_are_not_found() {
    let site = Site::new();
    site.user("ada").post("/notes", &[("text", "milk")]);
    let mut bob = site.user("bob");
    assert_eq!(bob.get("/notes/1").status, 404);
    assert_eq!(bob.post("/notes/1/delete", &[]).status, 404);
    assert!(!bob.get("/api/notes").body.contains("milk"));
    assert_eq!(site.signed_in("ada", PASSWORD).get("/notes/1").status, 200);
}

#[test]
fn the_json_interface_answers_strangers_with_401() {
    let site = Site::new();
    let mut visitor = site.visitor();
    for method in ["GET", "POST"] {
        let reply = visitor.send(method, "/api/notes", &[], "");
        assert_eq!((reply.status, &*reply.body), (401, r#"{"error":"sign in first"}"#));
    }
    assert_eq!(visitor.cookie(), None);
}

#[test]
fn the_json_interface_lists_and_adds_notes_of_its_own_pages() {
    let site = Site::new();
    let mut ada = site.user("ada");
    assert_eq!(ada.get("/api/notes").body, r#"{"notes":[]}"#);
    let json = ("Content-Type", "application/json");
    let body = r#"{"text":"milk"}"#;
    let foreign = [json, ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(ada.send("POST", "/api/notes", &foreign, body).status, 403);
    let form = [("Content-Type", "text/plain")];
    assert_eq!(ada.send("POST", "/api/notes", &form, body).status, 415);
    let headers = [json, ("Sec-Fetch-Site", "same-origin")];
    let reply = ada.send("POST", "/api/notes", &headers, body);
    assert_eq!((reply.status, &*reply.body), (201, r#"{"id":1,"text":"milk"}"#));
    for bad in ["", "{}", r#"{"text":""}"#] {
        assert_eq!(ada.send("POST", "/api/notes", &headers, bad).status, 400, "{bad}");
    }
    assert_eq!(ada.get("/api/notes").body, r#"{"notes":[{"id":1,"text":"milk"}]}"#);
}

#[test]
fn the_sixth_guess_is_refused_also_if_it_is_right() {
    let site = Site::new();
    site.user("ada");
    let mut guesser = site.visitor();
    for _ in 0..5 {
        assert_eq!(sign_in(&mut guesser, "ada", "wrong").status, 303);
    }
    let reply = sign_in(&mut guesser, "ada", PASSWORD);
    assert_eq!(reply.status, 429, "{reply:?}");
    site.clock.advance(WINDOW);
    assert_eq!(sign_in(&mut guesser, "ada", PASSWORD).location(), "/");
}

#[test]
fn guesses_at_the_password_form_count_too() {
    let site = Site::new();
    let mut thief = site.user("ada");
    for _ in 0..5 {
        assert_eq!(change_password(&mut thief, "wrong", NEW_PASSWORD).location(), "/password");
    }
    assert_eq!(change_password(&mut thief, PASSWORD, NEW_PASSWORD).status, 429);
}

#[test]
fn guesses_count_by_the_address_that_the_proxy_has_written() {
    let site = Site::behind(1);
    let guess = |forwarded: &str| {
        let mut visitor = site.visitor().with_header("X-Forwarded-For", forwarded);
        sign_in(&mut visitor, "ada", "wrong").status
    };
    for n in 0..5 {
        assert_eq!(guess(&format!("192.0.2.{n}, 198.51.100.7")), 303, "the first is invented");
    }
    assert_eq!(guess("192.0.2.99, 198.51.100.7"), 429);
    assert_eq!(guess("198.51.100.8"), 303, "another client of the same proxy");
}

#[test]
fn the_header_of_a_proxy_counts_for_nothing_without_one() {
    let site = Site::new();
    let guess = |n: u32| {
        let address = format!("198.51.100.{n}");
        let mut visitor = site.visitor().with_header("X-Forwarded-For", &address);
        sign_in(&mut visitor, "ada", "wrong").status
    };
    assert!((0..5).all(|n| guess(n) == 303));
    assert_eq!(guess(5), 429);
}

#[test]
fn a_user_ends_the_session_of_another_device() {
    let site = Site::new();
    let mut laptop = site.user("ada").with_header("User-Agent", "Laptop");
    let mut phone = site.visitor().with_header("User-Agent", "Phone");
    sign_in(&mut phone, "ada", PASSWORD);
    let page = laptop.get("/devices").body;
    assert!(page.contains("Phone from 127.0.0.1") && page.contains("this device"), "{page}");
    let public_id = field_of_form(&page, "public_id").unwrap();
    let form = [("public_id", public_id)];
    let mut bob = site.user("bob");
    bob.post("/devices/end", &form);
    assert!(is_signed_in(&mut phone), "a stranger ends nothing");
    assert_eq!(laptop.post("/devices/end", &form).location(), "/devices");
    assert!(!is_signed_in(&mut phone) && is_signed_in(&mut laptop));
}

#[test]
fn a_user_ends_all_other_sessions() {
    let site = Site::new();
    let mut here = site.user("ada");
    let mut others = [site.signed_in("ada", PASSWORD), site.signed_in("ada", PASSWORD)];
    here.get("/devices");
    here.post("/devices/end-others", &[]);
    assert!(here.get("/devices").body.contains("Ended sessions: 2."));
    assert!(!others.iter_mut().any(is_signed_in));
}

#[test]
fn a_change_of_the_password_renews_the_id_and_ends_the_others() {
    let site = Site::new();
    let mut here = site.user("ada");
    let mut elsewhere = site.signed_in("ada", PASSWORD);
    let before = here.cookie().unwrap();
    assert_eq!(change_password(&mut here, PASSWORD, NEW_PASSWORD).location(), "/");
    assert_ne!(here.cookie().as_ref(), Some(&before));
    assert!(is_signed_in(&mut here));
    assert!(!is_signed_in(&mut elsewhere));
    assert!(!is_signed_in(&mut site.visitor().with_cookie(&before)), "the replaced id");
    let mut visitor = site.visitor();
    assert_eq!(sign_in(&mut visitor, "ada", PASSWORD).location(), "/sign-in?next=%2F");
    assert_eq!(sign_in(&mut visitor, "ada", NEW_PASSWORD).location(), "/");
}

#[test]
fn a_remembered_user_may_stay_away_for_days() {
    let site = Site::new();
    site.user("ada");
    let mut visitors = [&[][..], &[("remember", "on")][..]].map(|remember| {
        let mut ada = site.visitor();
        let form = [&[("name", "ada"), ("password", PASSWORD)], remember].concat();
        ada.fill("/sign-in", &form);
        ada
    });
    site.clock.advance(Duration::from_secs(25 * 3600));
    assert!(!is_signed_in(&mut visitors[0]));
    site.clock.advance(Duration::from_secs(28 * 24 * 3600));
    assert!(is_signed_in(&mut visitors[1]));
}

#[test]
fn a_change_of_the_password_keeps_remember_me() {
    let site = Site::new();
    site.user("ada");
    for (remember, outlives) in [(&[][..], false), (&[("remember", "on")][..], true)] {
        let mut ada = site.visitor();
        let form = [&[("name", "ada"), ("password", PASSWORD)], remember].concat();
        ada.fill("/sign-in", &form);
        let form = [("current", PASSWORD), ("new", PASSWORD)];
        let cookie = ada.fill("/password", &form).set_cookie.unwrap();
        assert_eq!(cookie.contains("; Max-Age="), outlives, "{cookie}");
    }
}

#[test]
fn the_current_password_is_needed_to_change_it() {
    let site = Site::new();
    let mut ada = site.user("ada");
    assert_eq!(change_password(&mut ada, "wrong", NEW_PASSWORD).location(), "/password");
    assert_eq!(change_password(&mut ada, PASSWORD, "short").location(), "/password");
    site.signed_in("ada", PASSWORD);
}

#[test]
fn a_sign_in_that_verified_the_old_password_is_refused_later() {
    let site = Site::new();
    let App { db, accounts, sessions, .. } = &*site.app;
    let mut ada = site.user("ada");
    // A thief's request has verified the password …
    let verified = block_on(accounts.verify(db, "ada", PASSWORD)).unwrap().unwrap();
    // … when the user changes it and ends all other sessions …
    change_password(&mut ada, PASSWORD, NEW_PASSWORD);
    // … and only then signs in.
    let cookie = with_session(sessions, |session| {
        assert_eq!(accounts::sign_in(session, &verified).unwrap(), SignIn::Done);
        Ok(())
    });
    let mut thief = site.visitor().with_cookie(&cookie.unwrap());
    assert_eq!(thief.get("/api/notes").status, 401);
    assert!(is_signed_in(&mut ada));
}

#[test]
fn a_page_that_was_opened_before_the_change_ends_no_session() {
    let site = Site::new();
    let App { db, sessions, .. } = &*site.app;
    let mut ada = site.user("ada");
    let page = sessions.open(Some(&*ada.cookie().unwrap()));
    assert!(page.user().unwrap().is_some());
    change_password(&mut ada, PASSWORD, NEW_PASSWORD);
    // The page has the generation of before, and an id that leads to the session.
    assert!(accounts::signed_in(db, &page).unwrap().is_none());
    sessions.close(&page, Outcome::Completed).unwrap();
    assert!(is_signed_in(&mut ada));
}

#[test]
fn a_change_that_stops_after_the_own_table_refuses_all_sessions() {
    let site = Site::new();
    let App { db, accounts, .. } = &*site.app;
    let mut browsers = [site.user("ada"), site.signed_in("ada", PASSWORD)];
    let user = block_on(accounts.verify(db, "ada", PASSWORD)).unwrap().unwrap();
    // Here the process is killed.
    assert!(block_on(accounts.change_password(db, &user, NEW_PASSWORD)).unwrap().is_some());
    assert!(!browsers.iter_mut().any(is_signed_in));
    site.signed_in("ada", NEW_PASSWORD);
}

#[test]
fn one_of_two_concurrent_changes_of_a_password_wins() {
    let site = Site::new();
    let App { db, accounts, .. } = &*site.app;
    site.user("ada");
    let verify = || block_on(accounts.verify(db, "ada", PASSWORD)).unwrap().unwrap();
    let (first, second) = (verify(), verify());
    assert!(block_on(accounts.change_password(db, &first, NEW_PASSWORD)).unwrap().is_some());
    assert!(block_on(accounts.change_password(db, &second, "another password")).unwrap().is_none());
}

#[test]
fn a_deleted_user_is_signed_out_and_the_notes_are_gone() {
    let site = Site::new();
    let mut ada = site.user("ada");
    ada.post("/notes", &[("text", "milk")]);
    let notes = site.app.db.write(|tx| {
        tx.execute("DELETE FROM users", [])?;
        Ok(tx.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(notes.unwrap(), 0);
    assert!(!is_signed_in(&mut ada));
    site.user("eve");
    assert!(!is_signed_in(&mut ada), "the number of a user is not given again");
}

#[test]
fn several_processes_create_the_tables_at_once() {
    let (folder, clock) = (Folder::new(), ManualClock::new(NOW));
    on_threads(8, || drop(app(&folder, 0, &clock)));
    assert_integrity(folder.database());
}

#[test]
fn a_newer_schema_of_the_own_tables_is_refused() {
    let site = Site::new();
    site.app.db.write(|tx| Ok(tx.pragma_update(None, "user_version", 99)?)).unwrap();
    let store = SqliteStore::open(site.folder.database()).unwrap();
    assert!(notes::database::Database::new(store).is_err());
}

#[test]
fn a_locked_database_is_answered_with_503() {
    let site = Site::new();
    site.user("ada");
    let timeout = Duration::from_millis(50);
    let store = SqliteStore::builder(site.folder.database()).busy_timeout(timeout);
    let hasty = Process::start(app_on(store.open().unwrap(), 0, &site.clock));
    let mut ada = Visitor::new(&hasty);
    assert_eq!(sign_in(&mut ada, "ada", PASSWORD).location(), "/");
    ada.get("/");
    let milk = [("text", "milk")];
    let reply = site.app.db.write(|_| Ok(ada.post("/notes", &milk))).unwrap();
    assert_eq!((reply.status, reply.retry_after.as_deref()), (503, Some("5")));
    assert!(!ada.get("/").body.contains("milk"));
    assert_eq!(ada.post("/notes", &milk).location(), "/");
    assert!(ada.get("/").body.contains("milk"));
}

#[test]
fn sign_ins_beside_notes_in_two_processes_find_no_lock() {
    const ROUNDS: usize = 20;
    let (folder, clock) = (Folder::new(), ManualClock::new(NOW));
    let apps = [app(&folder, 0, &clock), app(&folder, 0, &clock)];
    let sign_ins = |app, thread: usize| {
        for n in 0..ROUNDS {
            let mut visitor = Visitor::new(app).from(thread as u8, n as u8);
            let name = format!("user{thread}-{n}");
            let form = [("name", &*name), ("password", PASSWORD)];
            assert_eq!(visitor.fill("/sign-up", &form).location(), "/");
            assert_eq!(sign_in(&mut visitor, &name, PASSWORD).location(), "/");
        }
    };
    let notes = |app, thread: usize| {
        let mut visitor = Visitor::new(app).from(thread as u8, 255);
        let name = format!("writer{thread}");
        let form = [("name", &*name), ("password", PASSWORD)];
        assert_eq!(visitor.fill("/sign-up", &form).location(), "/");
        visitor.get("/");
        for _ in 0..ROUNDS * 5 {
            assert_eq!(visitor.post("/notes", &[("text", "milk")]).location(), "/");
        }
        let page = visitor.get("/").body;
        assert_eq!(page.matches("milk").count(), ROUNDS * 5, "{page}");
    };
    thread::scope(|scope| {
        for thread in 0..4 {
            let app = &apps[thread % 2];
            scope.spawn(move || sign_ins(app, thread));
            scope.spawn(move || notes(app, thread));
        }
    });
    assert_integrity(folder.database());
}

#[test]
fn the_idle_limit_signs_a_user_out() {
    let site = Site::new();
    let mut ada = site.user("ada");
    site.clock.advance(Duration::from_secs(25 * 3600));
    assert!(!is_signed_in(&mut ada));
}
