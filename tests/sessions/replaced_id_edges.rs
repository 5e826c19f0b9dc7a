//! Ids that were replaced, where several things meet: joins with other claims, planted ids, renamed
//! cookies, revocations by the request itself.

use std::num::NonZeroU32;
use std::time::Duration;

use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::clock::Clock;
use cloakroom::cookie::CookieConfig;
use cloakroom::csrf::CsrfCheck;
use cloakroom::event::{Event, EventKind, Events, Sink};
use cloakroom::id::IdpSessionId;
use cloakroom::lifetime::AtMaximum;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{Authentication, MemoryStore, Session, SessionManager};

use crate::common::app::{
    App, Browser, complete, defaults, get, on_both_stores, set_cookie, sign_in, user, user_of,
};
use crate::common::every_store::on_every_store;
use crate::common::{HOUR, Storage};

const GRACE: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

fn with_grace(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.renewal_grace(GRACE)
}

/// The users of the answers to a double click, whose first request was opened first and comes last.
fn double_click(
    app: &App,
    client: &Browser,
    slow: &Session,
    handler: impl Fn(&Session),
) -> [Option<String>; 2] {
    let first = client.after_request(&app.sessions, &handler);
    handler(slow);
    let second = client.with_response(&complete(&app.sessions, slow));
    [first, second].map(|browser| user_of(&app.sessions, &browser))
}

fn sign_in_at(session: &Session, how: &Authentication) {
    assert_eq!(session.sign_in_with(user("ada"), how).unwrap(), cloakroom::SignIn::Done);
}

/// An attacker who knows the password and a replaced id (a planted one, say), but has no second
/// factor.
#[test]
fn a_join_gives_no_higher_level_than_was_proved() {
    on_every_store(defaults, |app| {
        let client = app.visitor(1);
        client.clone().request(&app.sessions, |s| sign_in_at(s, &Authentication::new().level(2)));
        let thief =
            client.after_request(&app.sessions, |s| sign_in_at(s, &Authentication::new().level(1)));
        let session = thief.open(&app.sessions);
        assert_eq!(session.auth_level().unwrap(), 1);
    });
}

#[test]
fn a_join_keeps_what_the_second_sign_in_said() {
    on_every_store(defaults, |app| {
        let client = app.visitor(1);
        client.clone().request(&app.sessions, |session| sign_in(session, "ada"));
        let how = Authentication::new().level(2).ends_at(app.clock.now() + HOUR);
        let second = client.after_request(&app.sessions, |session| sign_in_at(session, &how));
        let session = second.open(&app.sessions);
        assert_eq!(session.auth_level().unwrap(), 2, "the level it has proved");
        drop(session);
        app.clock.advance(HOUR);
        assert_eq!(user_of(&app.sessions, &second), None, "it has ended as the provider said");
    });
}

#[test]
fn a_join_can_be_revoked_by_its_idp_session() {
    on_both_stores(defaults, |app| {
        let client = app.visitor(1);
        let how = |sid: &str| Authentication::new().idp_session_id(IdpSessionId::new(sid).unwrap());
        client.clone().request(&app.sessions, |session| sign_in_at(session, &how("sid-1")));
        let second =
            client.after_request(&app.sessions, |session| sign_in_at(session, &how("sid-2")));
        app.sessions.revoke_by_idp_session(&IdpSessionId::new("sid-2").unwrap(), None).unwrap();
        assert_eq!(user_of(&app.sessions, &second), None);
    });
}

#[test]
fn a_join_raises_an_event_of_its_sign_in() {
    on_every_store(defaults, |app| {
        let client = app.visitor(1);
        for count in 1..=2 {
            client.clone().request(&app.sessions, |session| sign_in(session, "ada"));
            assert_eq!(app.count(EventKind::SignedIn), count);
        }
    });
}

#[test]
fn a_join_that_clears_keeps_csrf_secret_and_data() {
    on_every_store(defaults, |app| {
        let handler = |session: &Session| {
            session.clear().unwrap();
            sign_in(session, "ada");
        };
        let (client, slow) = app.open_visitor(1);
        let mut first = client.after_request(&app.sessions, handler);
        let mut token = String::new();
        first.request(&app.sessions, |session| {
            token = session.csrf_token().unwrap();
            session.set("order", 7).unwrap();
        });
        handler(&slow);
        complete(&app.sessions, &slow);
        let valid = first.open(&app.sessions).verify_csrf(&token).unwrap();
        let order = get::<u32>(&app.sessions, &first, "order");
        assert_eq!((valid, order), (CsrfCheck::Valid, Some(7)));
    });
}

#[test]
fn no_csrf_secret_from_before_a_sign_in_comes_back_by_a_join() {
    on_every_store(defaults, |app| {
        let mut client = app.visitor(1);
        let mut planted = String::new();
        client.request(&app.sessions, |session| planted = session.csrf_token().unwrap());
        app.remove_secret(&client);
        let slow = client.open(&app.sessions);
        // It has a secret among its changes.
        let shown = slow.csrf_token().unwrap();
        assert_eq!(slow.verify_csrf(&shown).unwrap(), CsrfCheck::Valid);
        let first = client.after_request(&app.sessions, |session| sign_in(session, "ada"));
        sign_in(&slow, "ada");
        complete(&app.sessions, &slow);
        for token in [planted, shown] {
            let valid = first.open(&app.sessions).verify_csrf(&token).unwrap();
            assert_ne!(valid, CsrfCheck::Valid);
        }
    });
}

/// A handler that renews after a sign-in, as other libraries ask for.
#[test]
fn a_double_clicked_sign_in_that_renews_keeps_either_answer() {
    on_every_store(defaults, |app| {
        let handler = |session: &Session| {
            sign_in(session, "ada");
            session.renew().unwrap();
        };
        let (client, slow) = app.open_visitor(1);
        let users = double_click(&app, &client, &slow, handler);
        assert_eq!(users, [Some("ada".to_owned()), Some("ada".to_owned())]);
    });
}

/// The answer of a renewal is in flight while the user double-clicks "sign in".
#[test]
fn a_double_clicked_sign_in_within_a_grace_keeps_either_answer() {
    on_every_store(with_grace, |app| {
        let client = app.visitor(1);
        client.clone().request(&app.sessions, |session| session.renew().unwrap());
        let slow = client.open(&app.sessions);
        let users = double_click(&app, &client, &slow, |session| sign_in(session, "ada"));
        assert_eq!(users, [Some("ada".to_owned()), Some("ada".to_owned())]);
    });
}

/// It reads its session, checks the password for a while, and signs in. Another request renews.
#[test]
fn a_sign_in_does_not_end_its_own_session_after_a_renewal() {
    on_every_store(with_grace, |app| {
        let client = app.visitor(1);
        let mut other = client.after_request(&app.sessions, |session| session.renew().unwrap());
        let slow = client.open(&app.sessions);
        assert_eq!(slow.user().unwrap(), None);
        other.request(&app.sessions, |session| session.renew().unwrap());
        sign_in(&slow, "ada");
        let browser = client.with_response(&complete(&app.sessions, &slow));
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
    });
}

/// Old and new servers run side by side while a release is rolled out.
#[test]
fn a_double_clicked_sign_in_succeeds_during_a_rename() {
    on_every_store(defaults, |app| {
        let before = app.another(|builder| builder.cookie(CookieConfig::new().name("old")));
        let after = app.another(|builder| {
            let builder = builder.cookie(CookieConfig::new().name("new"));
            builder.realm("old").former_cookie_name("old")
        });
        for (one, other) in [(&before, &after), (&after, &before)] {
            let client =
                Browser::default().after_request(&before, |session| session.set("n", 1).unwrap());
            let (first, second) = (client.open(one), client.open(other));
            sign_in(&first, "ada");
            let signed_in = second.sign_in(user("ada"));
            assert!(signed_in.is_ok(), "{signed_in:?}");
            complete(one, &first);
            complete(other, &second);
        }
    });
}

#[test]
fn a_write_opened_within_the_grace_takes_no_new_session() {
    on_every_store(with_grace, |app| {
        let old = app.signed_in("ada");
        old.clone().request(&app.sessions, |session| session.renew().unwrap());
        app.clock.advance(GRACE - SECOND);
        let slow = old.open(&app.sessions);
        app.clock.advance(SECOND * 2);
        slow.set("n", 2).unwrap();
        let headers = complete(&app.sessions, &slow);
        assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
    });
}

#[test]
fn a_request_opened_within_the_grace_ends_no_session() {
    let configure =
        |builder: SessionManagerBuilder| with_grace(builder).end_session_on_replaced_id(true);
    on_every_store(configure, |app| {
        let old = app.signed_in("ada");
        let new = old.after_request(&app.sessions, |session| session.renew().unwrap());
        app.clock.advance(GRACE - SECOND);
        let slow = old.open(&app.sessions);
        slow.set("n", 2).unwrap();
        app.clock.advance(SECOND * 2);
        complete(&app.sessions, &slow);
        assert_eq!(user_of(&app.sessions, &new).as_deref(), Some("ada"));
    });
}

/// The first id was replaced by age, and its grace is ended early by a handler's renewal or by a
/// sign-in.
#[test]
fn a_request_of_a_grace_that_was_ended_early_overlaps() {
    let ends: [fn(&Session); 2] =
        [|session| session.renew().unwrap(), |session| sign_in(session, "ada")];
    let configure =
        |builder: SessionManagerBuilder| builder.renew_every(HOUR).end_session_on_replaced_id(true);
    for grace in [None, Some(Duration::ZERO)] {
        let configure = |builder| match grace {
            Some(grace) => configure(builder).renewal_grace(grace),
            None => configure(builder),
        };
        check_grace_that_was_ended_early(configure, ends);
    }
}

fn check_grace_that_was_ended_early(
    configure: impl Fn(SessionManagerBuilder) -> SessionManagerBuilder,
    ends: [fn(&Session); 2],
) {
    on_every_store(configure, |app| {
        for end in ends {
            let first = app.signed_in("ada");
            app.clock.advance(HOUR);
            let second = first.after_request(&app.sessions, |session| drop(session.user()));
            app.clock.advance(SECOND * 11);
            let slow = first.open(&app.sessions);
            app.clock.advance(SECOND);
            let third = second.after_request(&app.sessions, end);
            app.clock.advance(SECOND);
            slow.set("n", 2).unwrap();
            let headers = complete(&app.sessions, &slow);
            assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
            assert_eq!(user_of(&app.sessions, &third).as_deref(), Some("ada"));
            assert_eq!(app.stored_n(&third), None);
        }
        assert_eq!(app.count(EventKind::ReplacedIdUsed), 0);
    });
}

/// Two requests whose handlers take turns on one thread, as those of an asynchronous server do.
#[test]
fn a_read_beside_a_revocation_on_its_thread_removes_no_cookie() {
    on_every_store(defaults, |app| {
        if app.store.inner().index().is_none() {
            return;
        }
        let ada = app.signed_in("ada");
        let read = ada.open(&app.sessions);
        assert_eq!(read.user().unwrap(), Some(user("ada")));
        // Another request changes the password, and signs ada in again.
        let changes = ada.after_request(&app.sessions, |session| {
            app.sessions.revoke_for_user(&user("ada"), Some(session)).unwrap();
            sign_in(session, "ada");
        });
        let browser = changes.with_response(&complete(&app.sessions, &read));
        assert_eq!(user_of(&app.sessions, &browser).as_deref(), Some("ada"));
    });
}

#[derive(Debug)]
struct Panics;

impl Sink for Panics {
    fn record(&self, event: &Event<'_>) {
        assert!(!matches!(event.kind(), EventKind::SignedIn | EventKind::Renewed), "as planned");
    }
}

#[test]
fn a_sink_that_panics_takes_no_id_from_a_sign_in() {
    let store = std::sync::Arc::new(MemoryStore::new());
    let quiet = SessionManager::new(store.clone()).unwrap();
    let loud = SessionManager::builder(store).events(Events::new(Panics)).build().unwrap();
    let mut browser =
        Browser::default().after_request(&quiet, |session| session.set("n", 1).unwrap());
    let session = browser.open(&loud);
    let signs_in = std::panic::AssertUnwindSafe(|| session.sign_in(user("ada")));
    assert!(std::panic::catch_unwind(signs_in).is_err());
    browser.take(&loud.close(&session, Outcome::Panicked).unwrap());
    assert_eq!(user_of(&quiet, &browser).as_deref(), Some("ada"), "what it did is kept");
}

/// A planted replaced id comes before the user's own, which was just replaced.
#[test]
fn a_planted_stale_id_makes_no_write_in_flight_a_new_session() {
    on_every_store(defaults, |app| {
        let first = app.visitor(1);
        first.clone().request(&app.sessions, |session| session.renew().unwrap());
        app.clock.advance(SECOND * 11);
        let old = app.signed_in("ada");
        old.clone().request(&app.sessions, |session| session.renew().unwrap());
        let field = [first.cookie.unwrap(), old.cookie.unwrap()].join("; ");
        let session = app.sessions.open(RequestHead::new().cookie(&field));
        session.set("n", 2).unwrap();
        let headers = complete(&app.sessions, &session);
        assert_eq!((set_cookie(&headers), headers.discarded), (None, true));
    });
}

/// The request itself ends the session of the stale id.
#[test]
fn an_unknown_id_beside_a_stale_one_discards_nothing() {
    let configure = |builder: SessionManagerBuilder| builder.end_session_on_replaced_id(true);
    on_every_store(configure, |app| {
        let unknown = app.visitor(1);
        unknown.clone().request(&app.sessions, |session| session.destroy().unwrap());
        let stale = app.visitor(2);
        stale.clone().request(&app.sessions, |session| session.renew().unwrap());
        app.clock.advance(SECOND * 11);
        let field = [unknown.cookie.unwrap(), stale.cookie.unwrap()].join("; ");
        let session = app.sessions.open(RequestHead::new().cookie(&field));
        session.set("n", 3).unwrap();
        let headers = complete(&app.sessions, &session);
        assert!(!headers.discarded);
        let browser = Browser::default().with_response(&headers);
        assert_eq!(app.stored_n(&browser), Some(3));
        assert_eq!(app.count(EventKind::Ended), 2, "those of both ids");
    });
}

/// Two pages load at once when the cookie has been kept for half of its time.
#[test]
fn a_read_beside_a_renewal_at_half_time_discards_nothing() {
    let configure = |builder: SessionManagerBuilder| {
        builder.lifetime(cloakroom::Lifetime::idle(Duration::from_secs(500 * 86_400)))
    };
    on_every_store(configure, |app| {
        let ada = app.signed_in("ada");
        app.clock.advance(Duration::from_secs(250 * 86_400));
        let pages = [ada.open(&app.sessions), ada.open(&app.sessions)];
        for page in &pages {
            assert_eq!(page.user().unwrap(), Some(user("ada")));
        }
        for page in pages {
            assert!(!complete(&app.sessions, &page).discarded);
        }
        assert_eq!(app.count(EventKind::ChangesDiscarded), 0);
    });
}

#[test]
fn a_renewal_that_another_overtook_discards_nothing() {
    on_every_store(defaults, |app| {
        let ada = app.signed_in("ada");
        let both = [ada.open(&app.sessions), ada.open(&app.sessions)];
        for session in &both {
            assert_eq!(session.user().unwrap(), Some(user("ada")));
            session.renew().unwrap();
        }
        for session in both {
            assert!(!complete(&app.sessions, &session).discarded);
        }
    });
}

/// ada's id was renewed, and the answer is in flight. bob double-clicks "sign in".
#[test]
fn another_users_double_clicked_sign_in_is_one_session() {
    let configure = |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(NonZeroU32::MIN, AtMaximum::EndOldest)
    };
    on_both_stores(configure, |app: App| {
        let old = app.signed_in("ada");
        old.clone().request(&app.sessions, |session| session.renew().unwrap());
        let slow = old.open(&app.sessions);
        let users = double_click(&app, &old, &slow, |session| sign_in(session, "bob"));
        assert_eq!(users, [Some("bob".to_owned()), Some("bob".to_owned())]);
    });
}

/// The client that holds ada's newest id is another one than that at which bob signs in.
#[test]
fn an_id_of_another_client_ends_no_session_of_the_next_user() {
    on_every_store(defaults, |app| {
        let old = app.signed_in("ada");
        let mut other = old.after_request(&app.sessions, |session| session.renew().unwrap());
        let bob = old.after_request(&app.sessions, |session| sign_in(session, "bob"));
        other.request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!(user_of(&app.sessions, &bob).as_deref(), Some("bob"));
    });
}

/// A browser has two cookies of the name, of two paths or domains. One of them is the current id.
#[test]
fn a_replaced_id_beside_the_current_one_ends_no_session() {
    let configure = |builder: SessionManagerBuilder| builder.end_session_on_replaced_id(true);
    on_every_store(configure, |app| {
        let old = app.visitor(1);
        let new = old.after_request(&app.sessions, |session| sign_in(session, "ada"));
        app.clock.advance(SECOND * 11);
        let field = [old.cookie.unwrap(), new.cookie.clone().unwrap()].join("; ");
        let session = app.sessions.open(RequestHead::new().cookie(&field));
        assert_eq!(session.user().unwrap(), Some(user("ada")));
        complete(&app.sessions, &session);
        assert_eq!(app.count(EventKind::ReplacedIdUsed), 0);
    });
}

/// An application with a realm of its own renames its cookie.
#[test]
fn a_renamed_cookie_of_a_named_realm_keeps_its_session() {
    on_every_store(defaults, |app| {
        let named = |name: &'static str| {
            move |builder: SessionManagerBuilder| {
                builder.realm("shop").cookie(CookieConfig::new().name(name))
            }
        };
        let before = app.another(named("old"));
        let after = app.another(|builder| named("new")(builder).former_cookie_name("old"));
        let ada = Browser::default().after_request(&before, |session| sign_in(session, "ada"));
        assert_eq!(user_of(&after, &ada).as_deref(), Some("ada"));
    });
}

/// Of a salt that is forgotten nothing may be left: with a replaced id it gives the id of a session
/// that lives for a month, and every backup would have it.
#[test]
fn a_forgotten_salt_is_not_left_in_the_file() {
    let app = App::new(Storage::File, defaults);
    let salts = || {
        let raw =
            cloakroom::stores::sqlite::rusqlite::Connection::open(app.folder.database()).unwrap();
        raw.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let mut all = raw.prepare("SELECT join_salt FROM cloakroom_sessions_replaced").unwrap();
        let rows = all.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        rows.collect::<Result<Vec<_>, _>>().unwrap()
    };
    let client = app.visitor(1);
    client.clone().request(&app.sessions, |session| sign_in(session, "ada"));
    let salt = salts().pop().unwrap();
    app.clock.advance(HOUR);
    app.sessions.sweep_now().unwrap();
    assert!(salts().is_empty());
    let file = std::fs::read(app.folder.database()).unwrap();
    assert!(!file.windows(32).any(|bytes| bytes == salt), "it is in a free page");
}

/// A change of the password: all sessions end, and the user is signed in again here. Meanwhile
/// another user signs out.
#[test]
fn a_sign_in_after_ones_own_revocation_stays_signed_in() {
    on_both_stores(defaults, |app| {
        let (mut ada, mut zoe) = (app.signed_in("ada"), app.signed_in("zoe"));
        ada.request(&app.sessions, |session| {
            app.sessions.revoke_for_user(&user("ada"), Some(session)).unwrap();
            sign_in(session, "ada");
            zoe.request(&app.sessions, |session| session.destroy().unwrap());
            session.flash("info", "The password is changed.").unwrap();
        });
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada"));
        assert_eq!(app.live(), 1);
    });
}

/// The same, where what is begun anew is a visitor's session, and the other request renews.
#[test]
fn a_session_begun_after_ones_own_revocation_is_kept() {
    on_both_stores(defaults, |app| {
        let (mut ada, mut zoe) = (app.signed_in("ada"), app.signed_in("zoe"));
        let headers = ada.request(&app.sessions, |session| {
            app.sessions.revoke_for_user(&user("ada"), Some(session)).unwrap();
            session.flash("info", "All your sessions have ended.").unwrap();
            zoe.request(&app.sessions, |session| session.renew().unwrap());
        });
        assert!(headers.id_fields.iter().any(|(_, set)| !set.contains("Max-Age=0")));
        let session = ada.open(&app.sessions);
        assert_eq!(session.flashes().unwrap().len(), 1, "the message is shown");
    });
}
