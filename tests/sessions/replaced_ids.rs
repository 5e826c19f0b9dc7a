//! Ids that a renewal or a sign-in has replaced: what a request that presents one may do, on each
//! store and through a cache.

use std::num::NonZeroU32;
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use cloakroom::adapter::{Adapter, Outcome, ResponseHeaders};
use cloakroom::csrf::CsrfCheck;
use cloakroom::event::EventKind;
use cloakroom::lifetime::AtMaximum;
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{ErrorKind, Session, SignIn, SqliteStore};

use crate::common::app::{
    App, Browser, REMOVAL, assert_new_id, complete, defaults, get, set_cookie, sign_in, user,
    user_of,
};
use crate::common::credentials::{CARRIERS, Credential};
use crate::common::dice::Dice;
use crate::common::every_store::{on_every_store, with_ticking_clock};
use crate::common::faulty::Call;
use crate::common::{Folder, HOUR};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);
const GRACE: Duration = Duration::from_secs(5);

/// A request that is opened at most this long after the replacement overlaps it.
const OVERLAP: Duration = Duration::from_secs(10);
const LATE: Duration = Duration::from_millis(10_001);
const FORGOTTEN: Duration = Duration::from_secs(600);

fn lists(app: &App) -> bool {
    app.store.inner().index().is_some()
}

/// The call that replaced an id.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// A renewal of a visitor's session.
    Renewal,
    /// A renewal of ada's session.
    RenewalOfAda,
    /// A visitor's sign-in as ada.
    SignIn,
    /// Ada's second sign-in.
    SecondSignIn,
}

const ALL: [By; 4] = [By::Renewal, By::RenewalOfAda, By::SignIn, By::SecondSignIn];

impl By {
    /// A client that presents the replaced id, and one that got the new id. The session holds
    /// `n: 1`.
    fn replace(self, app: &App) -> (Browser, Browser) {
        let mut new = app.visitor(1);
        if matches!(self, By::RenewalOfAda | By::SecondSignIn) {
            new.request(&app.sessions, |session| sign_in(session, "ada"));
        }
        let old = new.clone();
        new.request(&app.sessions, |session| match self {
            By::Renewal | By::RenewalOfAda => session.renew().unwrap(),
            By::SignIn | By::SecondSignIn => sign_in(session, "ada"),
        });
        assert_ne!(old.cookie, new.cookie);
        (old, new)
    }

    fn user(self) -> Option<String> {
        (self != By::Renewal).then(|| "ada".to_owned())
    }
}

fn with_grace(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    builder.renewal_grace(GRACE)
}

/// The old id reads nothing, and no cookie goes out.
fn assert_reads_nothing(app: &App, old: &Browser, case: &str) {
    let headers = old.clone().request(&app.sessions, |session| {
        assert_eq!(session.get::<u32>("n").unwrap(), None, "{case}");
        assert_eq!((session.user().unwrap(), session.public_id().unwrap()), (None, None), "{case}");
        assert!(session.names().unwrap().is_empty(), "{case}");
    });
    assert_eq!((set_cookie(&headers), headers.discarded), (None, false), "{case}");
}

fn assert_untouched(app: &App, new: &Browser, by: By, case: &str) {
    assert_eq!((app.stored_n(new), user_of(&app.sessions, new)), (Some(1), by.user()), "{case}");
}

#[test]
fn a_read_by_a_replaced_id_finds_nothing() {
    on_every_store(defaults, |app| {
        for by in ALL {
            for (after, event) in [
                (Duration::ZERO, None),
                (OVERLAP, None),
                (LATE, Some(EventKind::ReplacedIdUsed)),
                (FORGOTTEN - MILLI, Some(EventKind::ReplacedIdUsed)),
                (FORGOTTEN, Some(EventKind::UnknownId)),
            ] {
                let case = format!("{by:?} after {after:?}");
                let (old, new) = by.replace(&app);
                app.clock.advance(after);
                let kinds = [EventKind::ReplacedIdUsed, EventKind::UnknownId];
                let before = kinds.map(|kind| app.count(kind));
                assert_reads_nothing(&app, &old, &case);
                let raised = kinds.map(|kind| u64::from(event == Some(kind)));
                let now = [0, 1].map(|at| before[at] + raised[at]);
                assert_eq!(kinds.map(|kind| app.count(kind)), now, "{case}");
                assert_untouched(&app, &new, by, &case);
            }
        }
    });
}

#[test]
fn a_request_overlaps_by_when_it_was_opened() {
    on_every_store(defaults, |app| {
        for by in ALL {
            let (old, new) = by.replace(&app);
            app.clock.advance(OVERLAP);
            let slow = old.open(&app.sessions);
            app.clock.advance(OVERLAP * 10);
            slow.set("n", 2).unwrap();
            let headers = complete(&app.sessions, &slow);
            assert_eq!((set_cookie(&headers), headers.discarded), (None, true), "{by:?}");
            assert_untouched(&app, &new, by, "a slow request");
            assert_eq!(app.count(EventKind::ReplacedIdUsed), 0);
        }
    });
}

#[test]
fn a_write_by_a_replaced_id_is_discarded_or_begins_anew() {
    let writes: [fn(&Session); 4] = [
        |session| session.set("n", 2).unwrap(),
        |session| session.update("n", |n: Option<u32>| n.unwrap_or(0) + 2).map(drop).unwrap(),
        |session| session.flash("info", "late").unwrap(),
        |session| {
            let _ = session.get::<u32>("n").unwrap();
            session.set("n", 2).unwrap();
        },
    ];
    on_every_store(defaults, |app| {
        for by in ALL {
            for (index, write) in writes.into_iter().enumerate() {
                for (after, is_new) in
                    [(Duration::ZERO, false), (OVERLAP, false), (LATE, true), (FORGOTTEN, true)]
                {
                    let case = format!("{by:?}, write {index}, after {after:?}");
                    let (mut old, new) = by.replace(&app);
                    let presented = old.cookie.clone();
                    app.clock.advance(after);
                    let headers = old.request(&app.sessions, write);
                    if is_new {
                        assert_new_id(&headers);
                        assert_ne!(old.cookie, presented, "{case}");
                        assert_eq!(user_of(&app.sessions, &old), None, "{case}");
                        let n = (index != 2).then_some(2);
                        assert_eq!(app.stored_n(&old), n, "nothing of the session: {case}");
                    } else {
                        assert_eq!(set_cookie(&headers), None, "{case}");
                    }
                    assert_eq!(headers.discarded, !is_new, "{case}");
                    assert_untouched(&app, &new, by, &case);
                }
            }
        }
    });
}

#[test]
fn within_its_grace_a_replaced_id_reads_and_writes_the_session() {
    on_every_store(with_grace, |app| {
        for by in [By::Renewal, By::RenewalOfAda] {
            let (mut old, new) = by.replace(&app);
            app.clock.advance(GRACE - MILLI);
            assert_untouched(&app, &old, by, "through the grace");
            let token = old.open(&app.sessions).csrf_token().unwrap();
            let headers = old.request(&app.sessions, |session| {
                session.renew().unwrap();
                session.set("n", 2).unwrap();
            });
            assert_eq!((set_cookie(&headers), headers.discarded), (None, false), "{by:?}");
            assert_eq!((app.stored_n(&old), app.stored_n(&new)), (Some(2), Some(2)), "{by:?}");
            let verified = new.open(&app.sessions).verify_csrf(&token).unwrap();
            assert_eq!(verified, CsrfCheck::Valid, "the token is the session's");
            app.clock.advance(MILLI);
            assert_reads_nothing(&app, &old, "after the grace");
        }
        for by in [By::SignIn, By::SecondSignIn] {
            let (old, _) = by.replace(&app);
            assert_reads_nothing(&app, &old, "a sign-in has no grace");
        }
    });
}

#[test]
fn a_renewal_by_a_replaced_id_does_nothing() {
    on_every_store(defaults, |app| {
        for by in ALL {
            for after in [Duration::ZERO, OVERLAP, LATE, FORGOTTEN] {
                for reads in [true, false] {
                    let (mut old, new) = by.replace(&app);
                    app.clock.advance(after);
                    let headers = old.request(&app.sessions, |session| {
                        if reads {
                            assert_eq!(session.user().unwrap(), None);
                        }
                        session.renew().unwrap();
                    });
                    let case = format!("{by:?} after {after:?}");
                    assert_eq!((set_cookie(&headers), headers.discarded), (None, false), "{case}");
                    assert_untouched(&app, &new, by, &case);
                }
            }
        }
    });
}

fn token(app: &App, browser: &mut Browser) -> (String, ResponseHeaders) {
    let mut token = String::new();
    let headers = browser.request(&app.sessions, |session| token = session.csrf_token().unwrap());
    (token, headers)
}

fn verify(app: &App, browser: &Browser, token: &str) -> bool {
    browser.open(&app.sessions).verify_csrf(token).unwrap() == CsrfCheck::Valid
}

#[test]
fn a_csrf_token_in_flight_is_valid_with_the_replaced_id() {
    on_every_store(defaults, |app| {
        for by in ALL {
            let (mut old, mut new) = by.replace(&app);
            for after in [Duration::ZERO, OVERLAP] {
                app.clock.advance(after);
                let (shown, headers) = token(&app, &mut old);
                assert_eq!((set_cookie(&headers), headers.discarded), (None, false), "{by:?}");
                assert!(verify(&app, &old, &shown), "{by:?}");
                // A renewal keeps the secret.
                let is_kept = matches!(by, By::Renewal | By::RenewalOfAda);
                assert_eq!(verify(&app, &new, &shown), is_kept, "{by:?}");
                assert!(!verify(&app, &Browser::default(), &shown), "{by:?}");
                app.clock.advance(LATE);
                assert!(verify(&app, &old, &shown), "as long as the id is remembered: {by:?}");
                let (mut other, _) = by.replace(&app);
                let (foreign, _) = token(&app, &mut other);
                assert!(!verify(&app, &old, &foreign), "of another id: {by:?}");
                (old, new) = by.replace(&app);
            }
            assert_untouched(&app, &new, by, "a page");
        }
    });
}

#[test]
fn ids_from_before_and_after_a_sign_in_share_no_csrf_token() {
    on_every_store(defaults, |app| {
        let mut browser = app.visitor(1);
        // Known to a thief who has planted the id.
        let (planted, _) = token(&app, &mut browser);
        let mut ids: Vec<Browser> = Vec::new();
        let mut change = |ids: &mut Vec<Browser>, act: fn(&Session)| {
            ids.push(browser.clone());
            browser.request(&app.sessions, act);
        };
        change(&mut ids, |session| session.renew().unwrap());
        change(&mut ids, |session| session.renew().unwrap());
        change(&mut ids, |session| sign_in(session, "ada"));
        change(&mut ids, |session| session.renew().unwrap());
        // The ids of each sign-in, and of none.
        let check = |groups: &[&[Browser]]| {
            for (group, ids) in groups.iter().enumerate() {
                for id in *ids {
                    let (shown, headers) = token(&app, &mut id.clone());
                    assert_eq!((set_cookie(&headers), headers.discarded), (None, false));
                    for (other, ids) in groups.iter().enumerate() {
                        for id in *ids {
                            assert_eq!(verify(&app, id, &shown), other == group);
                            assert_eq!(verify(&app, id, &planted), other == 0);
                        }
                    }
                }
            }
        };
        let (before, after) = ids.split_at(3);
        check(&[before, &[after, &[browser.clone()]].concat()]);
        // It does not join the sign-in, whose id was renewed, but replaces the current id.
        let again = before[0].after_request(&app.sessions, |session| sign_in(session, "ada"));
        check(&[before, &[after, &[browser.clone()]].concat(), &[again]]);
    });
}

#[test]
fn another_users_sign_in_keeps_the_csrf_secret_of_its_id() {
    on_every_store(defaults, |app| {
        for renews in [false, true] {
            let mut client = app.signed_in("ada");
            let (shown, _) = token(&app, &mut client);
            if renews {
                client.after_request(&app.sessions, |session| session.renew().unwrap());
            }
            let bob = client.after_request(&app.sessions, |session| sign_in(session, "bob"));
            assert_eq!(user_of(&app.sessions, &bob).as_deref(), Some("bob"));
            assert!(verify(&app, &client, &shown) && !verify(&app, &bob, &shown));
        }
    });
}

#[test]
fn a_csrf_token_for_a_stale_id_begins_a_session() {
    on_every_store(defaults, |app| {
        for by in ALL {
            for after in [LATE, FORGOTTEN] {
                let (mut old, new) = by.replace(&app);
                app.clock.advance(after);
                let presented = old.cookie.clone();
                let (shown, headers) = token(&app, &mut old);
                assert_new_id(&headers);
                assert_ne!(old.cookie, presented);
                assert!(verify(&app, &old, &shown) && !verify(&app, &new, &shown));
                assert_untouched(&app, &new, by, "a late page");
            }
        }
    });
}

#[test]
fn a_sign_out_by_a_replaced_id_ends_the_session() {
    on_every_store(defaults, |app| {
        for by in ALL {
            for (after, ends) in
                [(Duration::ZERO, true), (OVERLAP, true), (LATE, true), (FORGOTTEN, false)]
            {
                for reads in [true, false] {
                    let case = format!("{by:?} after {after:?}");
                    let (mut old, new) = by.replace(&app);
                    app.clock.advance(after);
                    let headers = old.request(&app.sessions, |session| {
                        if reads {
                            assert_eq!(session.user().unwrap(), None);
                        }
                        session.destroy().unwrap();
                    });
                    assert_eq!(set_cookie(&headers), Some(REMOVAL), "{case}");
                    assert!(!headers.discarded, "{case}");
                    assert_eq!(old.cookie, None, "{case}");
                    match ends {
                        true => assert_eq!(app.stored_n(&new), None, "{case}"),
                        false => assert_untouched(&app, &new, by, &case),
                    }
                }
            }
        }
    });
    on_every_store(with_grace, |app| {
        let (mut old, new) = By::RenewalOfAda.replace(&app);
        let headers = old.request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!((set_cookie(&headers), app.stored_n(&new)), (Some(REMOVAL), None));
    });
}

#[test]
fn a_sign_out_three_renewals_back_ends_the_session() {
    for grace in [None, Some(GRACE)] {
        let configure = |builder: SessionManagerBuilder| match grace {
            Some(grace) => builder.renewal_grace(grace),
            None => builder,
        };
        on_every_store(configure, |app| {
            for back in 1..=8 {
                let mut new = app.signed_in("ada");
                let first = new.clone();
                for _ in 0..back {
                    new.request(&app.sessions, |session| session.renew().unwrap());
                }
                first.clone().request(&app.sessions, |session| session.destroy().unwrap());
                assert_eq!(user_of(&app.sessions, &new), None, "{back} renewals back");
            }
        });
    }
}

/// Two requests of one client, opened before either is done: both sign in and are answered.
fn double_click(app: &App, client: &Browser, names: [&str; 2]) -> [Browser; 2] {
    let both = [client.open(&app.sessions), client.open(&app.sessions)];
    for (session, name) in both.iter().zip(names) {
        sign_in(session, name);
    }
    both.map(|session| client.with_response(&complete(&app.sessions, &session)))
}

#[test]
fn a_double_clicked_sign_in_keeps_user_and_cart() {
    let limits =
        [None, Some(AtMaximum::Refuse), Some(AtMaximum::EndOldest), Some(AtMaximum::EndOthers)];
    for at_maximum in limits {
        let configure = |builder: SessionManagerBuilder| match at_maximum {
            Some(at_maximum) => builder.max_sessions_per_user(NonZeroU32::MIN, at_maximum),
            None => builder,
        };
        let test = |app: App| {
            let answers = double_click(&app, &app.visitor(1), ["ada", "ada"]);
            assert_eq!(answers[0].cookie, answers[1].cookie, "both get one id");
            for elapsed in [Duration::ZERO, HOUR] {
                app.clock.advance(elapsed);
                for browser in &answers {
                    assert_eq!(user_of(&app.sessions, browser).as_deref(), Some("ada"));
                    assert_eq!(app.stored_n(browser), Some(1), "the cart is kept");
                }
            }
            if lists(&app) {
                let list = app.sessions.list_for_user(&user("ada"), None).unwrap().sessions;
                assert_eq!(list.len(), 1, "one device");
            }
        };
        match at_maximum {
            None => on_every_store(configure, test),
            Some(_) => crate::common::app::on_both_stores(configure, test),
        }
    }
}

#[test]
fn a_sign_in_that_joins_merges_its_changes() {
    on_every_store(defaults, |app| {
        let client = app.visitor(1);
        let both = [client.open(&app.sessions), client.open(&app.sessions)];
        both[0].set("a", 1).unwrap();
        both[1].set("b", 2).unwrap();
        both[1].update("n", |n: Option<u32>| n.unwrap_or(0) + 10).unwrap();
        sign_in(&both[0], "ada");
        let shown = both[0].csrf_token().unwrap();
        sign_in(&both[1], "ada");
        assert_eq!(both[1].get("a").unwrap(), Some(1), "it is the same session from now on");
        assert_eq!(both[1].verify_csrf(&shown).unwrap(), CsrfCheck::Valid);
        both[1].set("c", 3).unwrap();
        let answers = both.map(|session| complete(&app.sessions, &session));
        for headers in &answers {
            let browser = client.with_response(headers);
            let values = ["a", "b", "c", "n"].map(|name| get(&app.sessions, &browser, name));
            assert_eq!(values, [Some(1), Some(2), Some(3), Some(11)]);
            assert!(verify(&app, &browser, &shown));
        }
    });
}

#[test]
fn a_sign_in_joins_one_that_was_done_while_it_was_computed() {
    on_every_store(defaults, |app| {
        // It has read the session before the other one signs in.
        let (client, late) = app.open_visitor(1);
        assert_eq!(late.get("n").unwrap(), Some(1));
        late.update("n", |n: Option<u32>| n.unwrap() + 1).unwrap();
        let first = client.after_request(&app.sessions, |session| {
            session.update("n", |n: Option<u32>| n.unwrap() + 10).unwrap();
            sign_in(session, "ada");
        });
        sign_in(&late, "ada");
        assert_eq!(first.cookie, client.with_response(&complete(&app.sessions, &late)).cookie);
        assert_eq!(app.stored_n(&first), Some(12), "both changes count");
    });
}

#[test]
fn a_sign_in_joins_one_that_read_the_time_later() {
    on_every_store(defaults, |app| {
        for (after, has_read) in [(MILLI, false), (MILLI, true), (OVERLAP, false)] {
            let (client, session) = app.open_visitor(1);
            if has_read {
                assert_eq!(session.get("n").unwrap(), Some(1));
            }
            let held = app.store.hold(Call::Commit);
            let (first, second) = thread::scope(|scope| {
                let second = scope.spawn(|| {
                    sign_in(&session, "ada");
                    client.with_response(&complete(&app.sessions, &session))
                });
                held.wait_until_reached();
                app.clock.advance(after);
                let first = client.after_request(&app.sessions, |session| {
                    sign_in(session, "ada");
                    session.flash("info", "welcome").unwrap();
                });
                held.open();
                (first, second.join().unwrap())
            });
            let case = format!("{after:?}, has read: {has_read}");
            assert_eq!(first.cookie, second.cookie, "{case}");
            assert_eq!(user_of(&app.sessions, &first).as_deref(), Some("ada"), "{case}");
            assert_eq!(app.stored_n(&second), Some(1), "{case}");
            assert_eq!(app.count(EventKind::ChangesDiscarded), 0, "{case}");
            second.clone().request(&app.sessions, |session| session.destroy().unwrap());
        }
    });
}

#[test]
fn a_sign_in_after_a_lost_response_keeps_the_data() {
    on_every_store(defaults, |app| {
        for after in [Duration::ZERO, OVERLAP, LATE, FORGOTTEN - MILLI] {
            let client = app.visitor(1);
            let lost = client.after_request(&app.sessions, |session| sign_in(session, "ada"));
            app.clock.advance(after);
            let mut again = client.after_request(&app.sessions, |session| sign_in(session, "ada"));
            let case = format!("after {after:?}");
            assert_eq!(user_of(&app.sessions, &again).as_deref(), Some("ada"), "{case}");
            assert_eq!(app.stored_n(&again), Some(1), "{case}");
            let joined = after <= OVERLAP;
            assert_eq!(lost.cookie == again.cookie, joined, "{case}");
            assert_eq!(user_of(&app.sessions, &lost).is_some(), joined, "one id lives: {case}");
            again.request(&app.sessions, |session| session.destroy().unwrap());
        }
        // When the id is forgotten, it is a new session.
        let client = app.visitor(1);
        let lost = client.after_request(&app.sessions, |session| sign_in(session, "ada"));
        app.clock.advance(FORGOTTEN);
        let mut again = client;
        again.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!((app.stored_n(&again), app.stored_n(&lost)), (None, Some(1)));
    });
}

#[test]
fn a_sign_in_form_is_valid_twice_after_renewals() {
    on_every_store(defaults, |app| {
        for renewals in [0, 1, 2] {
            for is_shown_before in [true, false] {
                let mut client = app.visitor(1);
                let mut shown = token(&app, &mut client).0;
                for _ in 0..renewals {
                    client.request(&app.sessions, |session| session.renew().unwrap());
                }
                if !is_shown_before {
                    shown = token(&app, &mut client).0;
                }
                // A double click.
                let both = [client.open(&app.sessions), client.open(&app.sessions)];
                let signed_in = both.map(|session| {
                    let case = format!("{renewals} renewals");
                    assert_eq!(session.verify_csrf(&shown).unwrap(), CsrfCheck::Valid, "{case}");
                    sign_in(&session, "ada");
                    client.with_response(&complete(&app.sessions, &session))
                });
                assert_eq!(signed_in[0].cookie, signed_in[1].cookie);
                assert!(!verify(&app, &signed_in[0], &shown));
            }
        }
    });
}

#[test]
fn a_form_sent_again_with_its_replaced_id_is_valid() {
    type Client = fn(&App) -> Browser;
    let clients: [Client; 3] = [
        // The page of the form begins the session, finds one, or is that of a user.
        |_| Browser::default(),
        |app| app.visitor(1),
        |app| app.signed_in("ada"),
    ];
    on_every_store(defaults, |app| {
        for client in clients {
            for after in [Duration::ZERO, OVERLAP, LATE, FORGOTTEN - MILLI] {
                let mut client = client(&app);
                let (shown, _) = token(&app, &mut client);
                client.request(&app.sessions, |session| session.set("n", 2).unwrap());
                let submit = |session: &Session| {
                    assert_eq!(session.verify_csrf(&shown).unwrap(), CsrfCheck::Valid);
                    sign_in(session, "ada");
                };
                // This answer is lost.
                client.clone().request(&app.sessions, submit);
                app.clock.advance(after);
                let again = client.after_request(&app.sessions, submit);
                assert_eq!(user_of(&app.sessions, &again).as_deref(), Some("ada"), "{after:?}");
                assert_eq!(app.stored_n(&again), Some(2), "{after:?}");
                assert!(!verify(&app, &again, &shown), "a token from before the sign-in");
                assert!(!verify(&app, &Browser::default(), &shown), "with no id");
                if lists(&app) {
                    let user = user("ada");
                    let listed = app.sessions.list_for_user(&user, None).unwrap().sessions.len();
                    assert_eq!(listed, 1, "{after:?}");
                    app.sessions.revoke_for_user(&user, None).unwrap();
                }
            }
        }
    });
}

#[test]
fn a_sign_in_by_a_renewed_id_moves_the_session() {
    on_every_store(defaults, |app| {
        for by in [By::Renewal, By::RenewalOfAda] {
            for after in [Duration::ZERO, OVERLAP, LATE] {
                let (old, new) = by.replace(&app);
                app.clock.advance(after);
                let again = old.after_request(&app.sessions, |session| sign_in(session, "ada"));
                let case = format!("{by:?} after {after:?}");
                assert_eq!(user_of(&app.sessions, &again).as_deref(), Some("ada"), "{case}");
                assert_eq!(app.stored_n(&again), Some(1), "{case}");
                assert_ne!(again.cookie, new.cookie, "{case}");
                assert_eq!(
                    (app.stored_n(&new), app.stored_n(&old)),
                    (None, None),
                    "the other ids end: {case}"
                );
            }
        }
    });
}

#[test]
fn another_user_gets_a_session_of_their_own_by_a_replaced_id() {
    on_every_store(defaults, |app| {
        for (by, ends) in [(By::RenewalOfAda, true), (By::SecondSignIn, true), (By::SignIn, false)]
        {
            for after in [Duration::ZERO, OVERLAP, LATE, FORGOTTEN] {
                let (old, new) = by.replace(&app);
                app.clock.advance(after);
                let zoe = old.after_request(&app.sessions, |session| sign_in(session, "zoe"));
                let case = format!("{by:?} after {after:?}");
                assert_eq!(user_of(&app.sessions, &zoe).as_deref(), Some("zoe"), "{case}");
                assert_eq!(app.stored_n(&zoe), None, "nothing of ada's: {case}");
                match ends && after != FORGOTTEN {
                    true => assert_eq!(app.stored_n(&new), None, "{case}"),
                    false => assert_untouched(&app, &new, by, &case),
                }
            }
        }
    });
}

#[test]
fn sign_ins_without_a_common_id_are_two_sessions() {
    on_every_store(defaults, |app| {
        let answers = double_click(&app, &Browser::default(), ["ada", "ada"]);
        assert_ne!(answers[0].cookie, answers[1].cookie);
        for browser in &answers {
            assert_eq!(user_of(&app.sessions, browser).as_deref(), Some("ada"));
        }
    });
}

#[test]
fn after_a_join_and_a_renewal_a_third_sign_in_moves() {
    on_every_store(defaults, |app| {
        let client = app.visitor(1);
        let [mut first, _] = double_click(&app, &client, ["ada", "ada"]);
        first.request(&app.sessions, |session| session.renew().unwrap());
        let third = client.after_request(&app.sessions, |session| sign_in(session, "ada"));
        assert_ne!(third.cookie, first.cookie);
        assert_eq!((app.stored_n(&third), app.stored_n(&first)), (Some(1), None));
    });
}

#[test]
fn a_thief_who_renewed_an_id_is_signed_out_by_the_user() {
    on_every_store(with_grace, |app| {
        let acts: [fn(&Session); 2] =
            [|session| session.destroy().unwrap(), |session| sign_in(session, "ada")];
        for act in acts {
            let mut victim = app.signed_in("ada");
            let mut thief = victim.clone();
            for _ in 0..3 {
                thief.request(&app.sessions, |session| session.renew().unwrap());
                app.clock.advance(GRACE);
            }
            victim.request(&app.sessions, act);
            assert_eq!(user_of(&app.sessions, &thief), None);
        }
    });
}

#[test]
fn a_stale_id_ends_the_session_where_that_is_asked_for() {
    let configure = |builder: SessionManagerBuilder| builder.end_session_on_replaced_id(true);
    let uses: [fn(&Session); 2] = [
        |session| assert_eq!(session.user().unwrap(), None),
        |session| session.set("n", 2).unwrap(),
    ];
    on_every_store(configure, |app| {
        for by in ALL {
            for (index, act) in uses.into_iter().enumerate() {
                for (after, ends) in [(OVERLAP, false), (LATE, true), (FORGOTTEN, false)] {
                    let (mut old, new) = by.replace(&app);
                    app.clock.advance(after);
                    let headers = old.request(&app.sessions, act);
                    let case = format!("{by:?}, {index}, after {after:?}");
                    assert_eq!(app.stored_n(&new), (!ends).then_some(1), "{case}");
                    let begins = index == 1 && after > OVERLAP;
                    assert_eq!(set_cookie(&headers).is_some(), begins, "{case}");
                }
            }
        }
    });
}

#[test]
fn a_failing_store_signs_no_user_in_by_a_join() {
    crate::common::app::on_both_stores(defaults, |app| {
        use crate::common::faulty::Call;
        let client = app.visitor(1);
        let mut first = client.clone();
        let late = client.open(&app.sessions);
        late.set("b", 1).unwrap();
        first.request(&app.sessions, |session| sign_in(session, "ada"));
        app.store.fail(Call::Commit, 1, ErrorKind::Unavailable);
        assert_eq!(late.sign_in(user("ada")).unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(late.user().unwrap(), None);
        assert_eq!(late.sign_in(user("ada")).unwrap(), SignIn::Done);
        assert_eq!(client.with_response(&complete(&app.sessions, &late)).cookie, first.cookie);
    });
}

/// Runs both at the same moment.
fn race<A: Send, B: Send>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B + Send) -> (A, B) {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            barrier.wait();
            a()
        });
        barrier.wait();
        let b = b();
        (first.join().unwrap(), b)
    })
}

/// The number of runs of a race on each store: 1,000 in `tests/long.sh`.
fn rounds() -> u64 {
    (chains() * 2).min(1000)
}

#[test]
fn two_sign_ins_of_two_users_at_once_mix_nothing() {
    on_every_store(defaults, |app| {
        for round in 0..rounds() {
            let client = app.visitor(1);
            let sign = |name: &'static str| {
                client.after_request(&app.sessions, |session| {
                    session.set("mine", name).unwrap();
                    sign_in(session, name);
                })
            };
            let (ada, zoe) = race(|| sign("ada"), || sign("zoe"));
            let mut carts = Vec::new();
            for (browser, name) in [(&ada, "ada"), (&zoe, "zoe")] {
                assert_eq!(user_of(&app.sessions, browser).as_deref(), Some(name), "round {round}");
                let mine: Option<String> = get(&app.sessions, browser, "mine");
                assert_eq!(mine.as_deref(), Some(name), "round {round}");
                carts.push(app.stored_n(browser));
            }
            carts.sort_unstable();
            assert_eq!(carts, [None, Some(1)], "one of them has the cart: round {round}");
        }
    });
}

#[test]
fn two_sign_ins_of_one_user_at_once_end_in_one_session() {
    for configure in [defaults, with_ticking_clock] {
        on_every_store(configure, |app| {
            for round in 0..rounds() {
                let client = app.visitor(1);
                let sign =
                    || client.after_request(&app.sessions, |session| sign_in(session, "ada"));
                let (one, other) = race(sign, sign);
                assert_eq!(one.cookie, other.cookie, "round {round}");
                assert_eq!(app.stored_n(&one), Some(1), "round {round}");
            }
        });
    }
}

#[test]
fn a_sign_out_racing_with_a_renewal_leaves_no_session_alive() {
    for configure in [defaults, with_grace] {
        on_every_store(configure, |app| {
            for round in 0..rounds() {
                let client = app.signed_in("ada");
                let (renewed, headers) = race(
                    || client.after_request(&app.sessions, |session| session.renew().unwrap()),
                    || client.clone().request(&app.sessions, |session| session.destroy().unwrap()),
                );
                assert_eq!(set_cookie(&headers), Some(REMOVAL), "round {round}");
                for browser in [&client, &renewed] {
                    assert_eq!(user_of(&app.sessions, browser), None, "round {round}");
                }
            }
        });
    }
}

#[test]
fn a_failed_end_of_request_still_sends_the_joined_id() {
    crate::common::app::on_both_stores(defaults, |app| {
        let client = app.visitor(1);
        let mut first = client.clone();
        let late = client.open(&app.sessions);
        first.request(&app.sessions, |session| sign_in(session, "ada"));
        sign_in(&late, "ada");
        late.set("a", "x".repeat(40_000)).unwrap();
        late.set("b", "x".repeat(40_000)).unwrap();
        app.sessions.close(&late, Outcome::Completed).unwrap_err();
        let second = client.with_response(&Adapter::new(&app.sessions).headers_on_error(&late));
        assert_eq!(second.cookie, first.cookie);
        app.clock.advance(SECOND);
        assert_eq!(user_of(&app.sessions, &second).as_deref(), Some("ada"));
    });
}

/// The number of chains on each store: a share of those of `tests/long.sh`.
fn chains() -> u64 {
    crate::common::dice::number("CLOAKROOM_CHAINS").unwrap_or(100)
}

#[test]
fn after_a_sign_out_no_id_of_a_chain_finds_the_session() {
    for configure in [defaults, with_grace] {
        on_every_store(configure, |app| {
            let mut dice = Dice::new(crate::common::dice::seed());
            for chain in 0..chains() {
                let mut first = app.visitor(1);
                if dice.chance(50) {
                    first.request(&app.sessions, |session| sign_in(session, "ada"));
                }
                let public_id = first.open(&app.sessions).public_id().unwrap();
                assert!(public_id.is_some());
                let pauses: [u32; 4] =
                    std::array::from_fn(|_| [0, 0, 100, 1000, 5000][dice.roll(5)]);
                let given = Mutex::new(vec![first.clone()]);
                let acts: [&(dyn Fn(&Session) + Sync); 4] = [
                    &|session| session.renew().unwrap(),
                    &|session| session.renew().unwrap(),
                    &|session| sign_in(session, "ada"),
                    &|session| session.destroy().unwrap(),
                ];
                let barrier = Barrier::new(acts.len());
                thread::scope(|scope| {
                    for (act, pause) in acts.into_iter().zip(pauses) {
                        let (given, barrier, app) = (&given, &barrier, &app);
                        let (mut browser, ends) = (first.clone(), pause);
                        scope.spawn(move || {
                            barrier.wait();
                            // The sign-out comes once; the others go on from what they were given.
                            let is_end = std::ptr::eq(act, acts[3]);
                            for _ in 0..if is_end { 1 } else { 3 } {
                                (0..ends).for_each(|_| std::hint::spin_loop());
                                browser.request(&app.sessions, act);
                                given.lock().unwrap().push(browser.clone());
                            }
                        });
                    }
                });
                // A sign-in after the end has begun another session, which lives.
                for browser in given.into_inner().unwrap() {
                    let found = browser.open(&app.sessions).public_id().unwrap();
                    assert!(found.is_none() || found != public_id, "chain {chain}");
                }
            }
            println!("{} chains, after each sign-out no id finds the session", chains());
        });
    }
}

#[test]
fn two_sign_ins_join_whatever_carries_the_id() {
    for (carrier, configure) in CARRIERS {
        on_every_store(defaults, |app| {
            let sessions = app.another(|builder| configure(builder, "x-id"));
            let visitor = sessions.open(None);
            visitor.set("n", 1).unwrap();
            let client = Credential::of(&complete(&sessions, &visitor));
            let both = [client.open(&sessions, "x-id"), client.open(&sessions, "x-id")];
            let given: [Credential; 2] = both.map(|session| {
                sign_in(&session, "ada");
                Credential::of(&complete(&sessions, &session))
            });
            let ids = given.each_ref().map(|credential| {
                let session = credential.open(&sessions, "x-id");
                assert_eq!(session.user().unwrap(), Some(user("ada")), "{carrier}");
                assert_eq!(session.get("n").unwrap(), Some(1), "{carrier}");
                session.public_id().unwrap()
            });
            assert_eq!(ids[0], ids[1], "{carrier}");
            // A sign-out by the id from before ends it.
            let late = client.open(&sessions, "x-id");
            late.destroy().unwrap();
            let headers = complete(&sessions, &late);
            assert_eq!(headers.id_fields.is_empty(), carrier == "header", "{carrier}");
            for credential in given.iter().chain([&client]) {
                assert_eq!(credential.user(&sessions, "x-id"), None, "{carrier}");
            }
        });
    }
}

/// Two managers, each with a store of its own on one file, as two processes have.
fn two_on_one_file(
    configure: impl Fn(SessionManagerBuilder) -> SessionManagerBuilder,
    test: impl Fn(&App, &App),
) {
    let folder = Folder::in_memory();
    let [one, other] = [0, 1].map(|_| {
        let store = SqliteStore::open(folder.database()).unwrap();
        App::on(Box::new(store), Folder::new(), &configure)
    });
    test(&one, &other);
}

#[test]
fn sign_ins_by_two_stores_on_one_file_end_in_one_session() {
    let limited = |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(NonZeroU32::MIN, AtMaximum::EndOldest)
    };
    for configure in [defaults as fn(SessionManagerBuilder) -> SessionManagerBuilder, limited] {
        two_on_one_file(configure, |one, other| {
            for round in 0..100 {
                let client = one.visitor(1);
                let sign = |app: &App| {
                    client.after_request(&app.sessions, |session| sign_in(session, "ada"))
                };
                let (a, b) = race(|| sign(one), || sign(other));
                assert_eq!(a.cookie, b.cookie, "round {round}");
                for app in [one, other] {
                    assert_eq!(user_of(&app.sessions, &a).as_deref(), Some("ada"), "round {round}");
                    assert_eq!(app.stored_n(&a), Some(1), "round {round}");
                }
            }
        });
    }
}

#[test]
fn a_sign_out_by_another_store_ends_a_renewed_session() {
    for configure in [defaults as fn(SessionManagerBuilder) -> SessionManagerBuilder, with_grace] {
        two_on_one_file(configure, |one, other| {
            for round in 0..100 {
                let client = one.signed_in("ada");
                let (renewed, _) = race(
                    || client.after_request(&one.sessions, |session| session.renew().unwrap()),
                    || {
                        client.after_request(&other.sessions, |session| session.destroy().unwrap());
                    },
                );
                for app in [one, other] {
                    assert_eq!(user_of(&app.sessions, &renewed), None, "round {round}");
                    assert_eq!(user_of(&app.sessions, &client), None, "round {round}");
                }
            }
        });
    }
}
