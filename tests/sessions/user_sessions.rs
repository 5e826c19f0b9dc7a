//! People and their sessions: lists, revocation, limits, re-authentication, and policies.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use crate::common::app::{
    App, Browser, REMOVAL, assert_new_id, complete, defaults, get, on_both_stores, set_cookie,
    sign_in, user, user_of,
};
use crate::common::every_store::on_every_store;
use crate::common::{NOW, events};
use cloakroom::adapter::{Outcome, RequestHead};
use cloakroom::backend::{SessionIndex, StoreWrapper};
use cloakroom::clock::Clock;
use cloakroom::cookie::SameSite;
use cloakroom::csrf::CsrfCheck;
use cloakroom::event::EventKind;
use cloakroom::id::{IdpSessionId, PublicId};
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::policy::Policy;
use cloakroom::{
    Authentication, CommitOutcome, CookieConfig, CrossOrigin, ErrorKind, Lifetime, MemoryStore,
    RecentAuth, Session, SessionManager, SignIn, SqliteStore, UserKey,
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn public_id(app: &App, browser: &Browser) -> PublicId {
    let session = browser.open(&app.sessions);
    session.public_id().unwrap().expect("a session")
}

fn public_ids(app: &App, name: &str) -> Vec<PublicId> {
    let list = app.sessions.list_for_user(&user(name), None).unwrap().sessions;
    list.iter().map(|listed| listed.summary.public_id).collect()
}

/// Returns true if the next request of this browser finds no user and sets no cookie.
fn is_out(app: &App, browser: &mut Browser) -> bool {
    let headers = browser.request(&app.sessions, |session| {
        assert_eq!(session.user().unwrap(), None);
    });
    set_cookie(&headers).is_none() && browser.cookie.is_some()
}

// Lists.

#[test]
fn a_list_has_the_sessions_of_its_user_only() {
    let recording =
        |builder: SessionManagerBuilder| builder.record_address(true).record_user_agent(true);
    on_both_stores(recording, |app| {
        let mut adas = vec![];
        for n in 0..3 {
            app.clock.advance(SECOND);
            let agent = format!("Lynx/{n}");
            let head = RequestHead::new().peer_addr([192, 0, 2, n].into()).user_agent(&agent);
            let session = app.sessions.open(head);
            sign_in(&session, "ada");
            let browser = Browser::default().with_response(&complete(&app.sessions, &session));
            adas.push(browser);
        }
        let bob = app.signed_in("bob");

        let current = adas[1].open(&app.sessions);
        let list = app.sessions.list_for_user(&user("ada"), Some(&current)).unwrap().sessions;
        let expected: Vec<PublicId> = adas.iter().rev().map(|b| public_id(&app, b)).collect();
        let listed_ids = list.iter().map(|listed| listed.summary.public_id).collect::<Vec<_>>();
        assert_eq!(listed_ids, expected);
        assert_eq!(list.iter().map(|l| l.is_current).collect::<Vec<_>>(), [false, true, false]);
        let client = list[1].summary.client.as_ref().unwrap();
        assert_eq!(client.address, Some([192, 0, 2, 1].into()));
        assert_eq!(client.user_agent.as_deref(), Some("Lynx/1"));
        assert!(
            list[0].summary.created > list[1].summary.created
                && list[1].summary.created > list[2].summary.created
        );
        let times = (list[0].summary.authenticated, list[0].summary.seen);
        assert_eq!(times, (Some(list[0].summary.created), list[0].summary.created));
        assert_eq!(public_ids(&app, "bob"), [public_id(&app, &bob)]);
        assert_eq!(public_ids(&app, "eve"), []);

        let text = format!("{list:?}");
        for browser in adas.iter().chain([&bob]) {
            assert!(!text.contains(&browser.id().reveal()), "an id is in the list");
        }
        assert_eq!(app.sessions.count_for_user(&user("ada")).unwrap(), 3);
        assert_eq!(app.sessions.stats().unwrap().signed_in, 4);
    });
}

#[test]
fn expired_sessions_are_not_listed_and_renewed_ones_once() {
    on_both_stores(defaults, |app| {
        app.signed_in("ada");
        app.clock.advance(HOUR * 23);
        let mut ada = app.signed_in("ada");
        assert_eq!(app.sessions.count_for_user(&user("ada")).unwrap(), 2);
        app.clock.advance(HOUR);
        let before = public_ids(&app, "ada");
        assert_eq!(before, [public_id(&app, &ada)]);
        ada.request(&app.sessions, |session| session.renew().unwrap());
        assert_eq!(public_ids(&app, "ada"), before);
    });
}

#[test]
fn a_long_list_comes_in_pages_and_is_counted_whole() {
    on_both_stores(defaults, |app| {
        (0..205).for_each(|_| drop(app.signed_in("ada")));
        assert_eq!(public_ids(&app, "ada").len(), 100);
        assert_eq!(app.sessions.count_for_user(&user("ada")).unwrap(), 205);
        let ten = NonZeroUsize::new(10).unwrap();
        let ada = user("ada");
        let listed = app.sessions.list_for_user(&ada, None).unwrap();
        assert!(listed.next.is_some(), "the list says that there is more");
        let first = app.sessions.list_page(&SessionFilter::User(&ada), Page::first(ten)).unwrap();
        let after = Page::after(ten, first.next.unwrap());
        let second = app.sessions.list_page(&SessionFilter::User(&ada), after).unwrap();
        let both: Vec<PublicId> = first.into_iter().chain(second).map(|s| s.public_id).collect();
        assert_eq!(both, public_ids(&app, "ada")[..20]);
        let all = Page::first(NonZeroUsize::new(205).unwrap());
        assert_eq!(app.sessions.list_page(&SessionFilter::User(&ada), all).unwrap().next, None);
    });
}

#[test]
fn odd_user_names_work_and_impossible_ones_are_refused() {
    let odd = ["a%", "a_", "a'b", "\"", "søren", "ßtraße", "☃", " a", "A", "a"];
    on_both_stores(defaults, |app| {
        let browsers: Vec<Browser> = odd.iter().map(|name| app.signed_in(name)).collect();
        for (name, browser) in odd.iter().zip(&browsers) {
            assert_eq!(public_ids(&app, name), [public_id(&app, browser)], "{name:?}");
        }
        assert_eq!(app.sessions.revoke_for_user(&user("a_"), None).unwrap(), 1);
        assert_eq!(app.sessions.stats().unwrap().live, 9);
    });
    for impossible in [String::new(), "a\0b".to_owned(), "x".repeat(1_000_000)] {
        assert_eq!(UserKey::new(impossible).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

// Revocation.

#[test]
fn a_session_is_revoked_by_its_public_id_and_its_owner_only() {
    on_both_stores(defaults, |app| {
        let (mut phone, laptop) = (app.signed_in("ada"), app.signed_in("ada"));
        let bob = app.signed_in("bob");
        let (phones, bobs) = (public_id(&app, &phone), public_id(&app, &bob));
        assert!(!app.sessions.revoke(&user("ada"), &bobs, None).unwrap(), "it is not hers");
        assert!(!app.sessions.revoke(&user("bob"), &phones, None).unwrap());
        assert_eq!(app.count(EventKind::Revoked), 0);
        assert!(app.sessions.revoke(&user("ada"), &phones, None).unwrap());
        assert!(!app.sessions.revoke(&user("ada"), &phones, None).unwrap(), "it has gone");
        assert!(is_out(&app, &mut phone));
        assert_eq!(user_of(&app.sessions, &laptop).as_deref(), Some("ada"));
        assert_eq!(user_of(&app.sessions, &bob).as_deref(), Some("bob"));
        assert_eq!(app.count(EventKind::Revoked), 1);
    });
}

#[test]
fn all_others_are_revoked_and_exactly_the_current_one_is_kept() {
    on_both_stores(defaults, |app| {
        let mut others = [app.signed_in("ada"), app.signed_in("ada")];
        let (mut current, bob) = (app.signed_in("ada"), app.signed_in("bob"));
        current.request(&app.sessions, |session| {
            assert_eq!(app.sessions.revoke_others(session).unwrap(), 2);
            assert_eq!(app.sessions.revoke_others(session).unwrap(), 0);
        });
        assert!(others.iter_mut().all(|other| is_out(&app, other)));
        assert_eq!(user_of(&app.sessions, &current).as_deref(), Some("ada"));
        assert_eq!(user_of(&app.sessions, &bob).as_deref(), Some("bob"));
        // In the request that changed the password and signed in again.
        app.signed_in("ada");
        current.request(&app.sessions, |session| {
            sign_in(session, "ada");
            assert_eq!(app.sessions.revoke_others(session).unwrap(), 1);
        });
        assert_eq!(user_of(&app.sessions, &current).as_deref(), Some("ada"));
        // While another request of the same browser gives the session a new id.
        app.signed_in("ada");
        let changes_the_password = current.open(&app.sessions);
        assert!(changes_the_password.user().unwrap().is_some());
        current.request(&app.sessions, |session| session.renew().unwrap());
        assert_eq!(app.sessions.revoke_others(&changes_the_password).unwrap(), 1);
        assert_eq!(user_of(&app.sessions, &current).as_deref(), Some("ada"));
        // An anonymous request has no others.
        app.visitor(1).request(&app.sessions, |session| {
            assert_eq!(app.sessions.revoke_others(session).unwrap(), 0);
        });
    });
}

#[test]
fn a_request_that_revokes_its_own_session_is_signed_out() {
    type Revoke = fn(&App, &Session);
    let kinds: [Revoke; 4] = [
        |app, session| {
            assert_eq!(app.sessions.revoke_for_user(&user("ada"), Some(session)).unwrap(), 2);
        },
        |app, session| {
            let own = session.public_id().unwrap().unwrap();
            assert!(app.sessions.revoke(&user("ada"), &own, Some(session)).unwrap());
        },
        |app, session| {
            let sid = IdpSessionId::new("sid").unwrap();
            assert_eq!(app.sessions.revoke_by_idp_session(&sid, Some(session)).unwrap(), 1);
        },
        |app, session| assert!(app.sessions.revoke_everyone(Some(session)).unwrap() > 0),
    ];
    on_both_stores(defaults, |app| {
        for (kind, revoke) in kinds.iter().enumerate() {
            for reads in [true, false] {
                let case = format!("kind {kind}, reads {reads}");
                let mut ada = app.visitor_after(|session| {
                    let how =
                        Authentication::new().idp_session_id(IdpSessionId::new("sid").unwrap());
                    assert_eq!(session.sign_in_with(user("ada"), &how).unwrap(), SignIn::Done);
                });
                let other = app.signed_in("ada");
                let discarded = app.count(EventKind::ChangesDiscarded);
                let old = ada.clone();
                let headers = ada.request(&app.sessions, |session| {
                    if reads {
                        assert!(session.user().unwrap().is_some());
                    }
                    session.set("before", 1).unwrap();
                    revoke(&app, session);
                    assert_eq!(session.user().unwrap(), None, "{case}");
                    assert_eq!(session.get::<u32>("before").unwrap(), None, "{case}");
                    session.flash("info", "your account is gone").unwrap();
                });
                assert!(!headers.discarded, "{case}");
                assert_eq!(app.count(EventKind::ChangesDiscarded), discarded, "{case}");
                assert_ne!(ada.cookie, old.cookie, "a new id: {case}");
                let flashes = ada.open(&app.sessions).flashes().unwrap();
                assert_eq!(flashes.len(), 1, "{case}");
                assert_eq!(
                    (user_of(&app.sessions, &ada), user_of(&app.sessions, &old)),
                    (None, None)
                );

                // Without another word the cookie is removed, as by a sign-out.
                let mut again = app.signed_in("ada");
                let headers = again.request(&app.sessions, |session| {
                    app.sessions.revoke_everyone(Some(session)).unwrap();
                });
                assert_eq!(set_cookie(&headers), Some(REMOVAL), "{case}");
                assert_eq!(user_of(&app.sessions, &other), None, "{case}");
            }
        }
    });
}

#[test]
fn an_own_revocation_is_applied_by_a_replaced_id() {
    let grace = |builder: SessionManagerBuilder| builder.renewal_grace(Duration::from_secs(60));
    on_both_stores(grace, |app| {
        let old = app.signed_in("ada");
        old.clone().request(&app.sessions, |session| session.renew().unwrap());
        let session = old.open(&app.sessions);
        assert_eq!(app.sessions.revoke_for_user(&user("ada"), Some(&session)).unwrap(), 1);
        session.set("n", 1).unwrap();
        let headers = complete(&app.sessions, &session);
        assert!(!headers.discarded && set_cookie(&headers).is_some());
    });
}

#[test]
fn an_own_revocation_is_applied_to_an_ignored_session() {
    on_both_stores(defaults, |app| {
        let session = app.signed_in("ada").open(&app.sessions);
        session.ignore().unwrap();
        assert_eq!(app.sessions.revoke_for_user(&user("ada"), Some(&session)).unwrap(), 1);
        assert_eq!(set_cookie(&complete(&app.sessions, &session)), Some(REMOVAL));
    });
}

#[test]
fn an_own_revocation_after_the_end_changes_nothing_of_it() {
    on_both_stores(defaults, |app| {
        let session = app.signed_in("ada").open(&app.sessions);
        complete(&app.sessions, &session);
        assert_eq!(app.sessions.revoke_for_user(&user("ada"), Some(&session)).unwrap(), 1);
        assert_eq!(session.user().unwrap(), Some(user("ada")));
    });
}

#[test]
fn the_closure_of_an_update_cannot_revoke_its_session() {
    let sessions = SessionManager::new(MemoryStore::new()).unwrap();
    let session = std::sync::Arc::new(sessions.open(None));
    let (own, manager) = (session.clone(), sessions.clone());
    let update = move |_: Option<bool>| manager.revoke_everyone(Some(&own)).is_err();
    assert!(session.update("refused", update).unwrap());
    complete(&sessions, &session);
}

#[test]
fn all_sessions_of_a_user_end_the_current_one_too() {
    on_both_stores(defaults, |app| {
        let (mut current, mut other) = (app.signed_in("ada"), app.signed_in("ada"));
        let mut visitor = app.visitor(1);
        let session = current.open(&app.sessions);
        assert_eq!(app.sessions.revoke_for_user(&user("ada"), None).unwrap(), 2);
        session.set("late", true).unwrap();
        let late = complete(&app.sessions, &session);
        assert!(late.discarded && set_cookie(&late).is_none());
        assert!(is_out(&app, &mut current) && is_out(&app, &mut other));
        assert_eq!(app.stored_n(&visitor), Some(1));

        assert_eq!(app.sessions.revoke_everyone(None).unwrap(), 1);
        assert!(is_out(&app, &mut visitor));
    });
}

#[test]
fn every_revocation_is_final_for_requests_in_flight() {
    type Revoke = fn(&App, &Browser) -> usize;
    let kinds: [Revoke; 5] = [
        |app, ada| {
            usize::from(app.sessions.revoke(&user("ada"), &public_id(app, ada), None).unwrap())
        },
        |app, _| app.sessions.revoke_for_user(&user("ada"), None).unwrap(),
        |app, _| {
            let another = app.signed_in("ada").open(&app.sessions);
            app.sessions.revoke_others(&another).unwrap()
        },
        |app, _| {
            app.sessions.revoke_by_idp_session(&IdpSessionId::new("sid").unwrap(), None).unwrap()
        },
        |app, _| usize::from(app.sessions.revoke_everyone(None).unwrap() > 0),
    ];
    on_both_stores(defaults, |app| {
        for (kind, revoke) in kinds.iter().enumerate() {
            for reads in [true, false] {
                let ada = app.visitor_after(|session| {
                    let how =
                        Authentication::new().idp_session_id(IdpSessionId::new("sid").unwrap());
                    assert_eq!(session.sign_in_with(user("ada"), &how).unwrap(), SignIn::Done);
                });
                let in_flight = ada.open(&app.sessions);
                if reads {
                    assert!(in_flight.user().unwrap().is_some());
                }
                in_flight.set("late", true).unwrap();
                assert_eq!(revoke(&app, &ada), 1, "kind {kind}");
                let headers = complete(&app.sessions, &in_flight);
                assert!(headers.discarded, "kind {kind}, reads {reads}: it learns it");
                assert_eq!(set_cookie(&headers), None);
                assert_eq!(user_of(&app.sessions, &ada), None);
                assert_eq!(get::<bool>(&app.sessions, &ada, "late"), None);
                app.sessions.revoke_everyone(None).unwrap();
                assert_eq!(app.live(), 0);
            }
        }
    });
}

#[test]
fn a_renewal_or_sign_in_meets_a_revocation_which_is_final() {
    on_both_stores(defaults, |app| {
        let mut ada = app.signed_in("ada");
        let session = ada.open(&app.sessions);
        assert!(session.user().unwrap().is_some());
        session.renew().unwrap();
        app.sessions.revoke_for_user(&user("ada"), None).unwrap();
        assert_eq!(session.commit().unwrap(), CommitOutcome::Discarded);
        ada.take(&complete(&app.sessions, &session));
        assert_eq!((user_of(&app.sessions, &ada), app.live()), (None, 0));
    });
}

#[test]
fn concurrent_revocations_and_writers_leave_no_session() {
    on_both_stores(defaults, |app| {
        for _ in 0..20 {
            let browsers: Vec<Browser> = (0..4).map(|_| app.signed_in("ada")).collect();
            let barrier = Barrier::new(browsers.len() + 1);
            thread::scope(|scope| {
                for browser in &browsers {
                    let (barrier, sessions) = (&barrier, &app.sessions);
                    scope.spawn(move || {
                        let session = browser.open(sessions);
                        session.user().unwrap();
                        session.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
                        barrier.wait();
                        let _ = sessions.close(&session, Outcome::Completed);
                    });
                }
                barrier.wait();
                app.sessions.revoke_for_user(&user("ada"), None).unwrap();
            });
            assert_eq!(app.sessions.count_for_user(&user("ada")).unwrap(), 0);
            assert_eq!(app.live(), 0);
        }
    });
}

/// A store without a registry.
#[derive(Debug)]
struct Unlisted(MemoryStore);

impl StoreWrapper for Unlisted {
    type Wrapped = MemoryStore;

    fn wrapped(&self) -> &MemoryStore {
        &self.0
    }

    fn wrap_index(&self) -> Option<&dyn SessionIndex> {
        None
    }
}

#[test]
fn a_store_that_cannot_list_says_so() {
    let unlisted = Unlisted(MemoryStore::new());
    let sessions = SessionManager::new(unlisted).unwrap();
    let ada = user("ada");
    let session = sessions.open(None);
    sign_in(&session, "ada");
    let kinds = [
        sessions.list_for_user(&ada, None).unwrap_err().kind(),
        sessions.count_for_user(&ada).unwrap_err().kind(),
        sessions.revoke_for_user(&ada, None).unwrap_err().kind(),
        sessions.revoke_others(&session).unwrap_err().kind(),
        sessions.revoke_everyone(None).unwrap_err().kind(),
        sessions.stats().unwrap_err().kind(),
    ];
    assert_eq!(kinds, [ErrorKind::Unsupported; 6]);
    let limited = SessionManager::builder(Unlisted(MemoryStore::new()))
        .max_sessions_per_user(NonZeroU32::MIN, AtMaximum::Refuse);
    let error = limited.build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = "cannot set `max_sessions_per_user`: this store cannot count sessions";
    assert_eq!(error.to_string(), text);
}

// Limits.

#[test]
fn of_two_sign_ins_at_a_limit_of_one_one_session_lives() {
    for at_maximum in [AtMaximum::Refuse, AtMaximum::EndOldest, AtMaximum::EndOthers] {
        let limited = |builder: SessionManagerBuilder| {
            builder.max_sessions_per_user(NonZeroU32::MIN, at_maximum)
        };
        on_both_stores(limited, |app| {
            for _ in 0..20 {
                let barrier = Barrier::new(2);
                let answers: Vec<SignIn> = thread::scope(|scope| {
                    let sign_in = || {
                        let session = app.sessions.open(None);
                        barrier.wait();
                        let answer = session.sign_in(user("ada")).unwrap();
                        complete(&app.sessions, &session);
                        answer
                    };
                    let both = [scope.spawn(sign_in), scope.spawn(sign_in)];
                    both.map(|thread| thread.join().unwrap()).to_vec()
                });
                assert_eq!(app.sessions.count_for_user(&user("ada")).unwrap(), 1, "{at_maximum:?}");
                let refused = answers.iter().filter(|a| **a == SignIn::Refused).count();
                assert_eq!(refused, usize::from(at_maximum == AtMaximum::Refuse));
                app.sessions.revoke_everyone(None).unwrap();
            }
        });
    }
}

#[test]
fn renewals_and_sign_ins_of_one_session_are_never_refused() {
    let limited = |builder: SessionManagerBuilder| {
        builder.max_sessions_per_user(NonZeroU32::MIN, AtMaximum::Refuse)
    };
    on_both_stores(limited, |app| {
        let mut ada = app.signed_in("ada");
        ada.request(&app.sessions, |session| session.renew().unwrap());
        ada.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada"));
        assert_eq!(app.count(EventKind::SignInRefused), 0);
        Browser::default().request(&app.sessions, |session| {
            assert_eq!(session.sign_in(user("ada")).unwrap(), SignIn::Refused);
        });
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada"));
    });
}

// Authentication.

fn recent(app: &App, browser: &Browser, max_age: Duration) -> RecentAuth {
    browser.open(&app.sessions).recent_auth(max_age).unwrap()
}

#[test]
fn a_recent_sign_in_is_distinguished_from_an_old_one() {
    on_both_stores(defaults, |app| {
        let mut ada = app.signed_in("ada");
        assert_eq!(recent(&app, &ada, SECOND), RecentAuth::Recent);
        app.clock.advance(SECOND);
        assert_eq!(recent(&app, &ada, SECOND), RecentAuth::TooOld, "at the limit it is over");
        assert_eq!(recent(&app, &ada, SECOND * 2), RecentAuth::Recent);
        assert_eq!(recent(&app, &ada, Duration::MAX), RecentAuth::Recent);
        assert_eq!(recent(&app, &ada, Duration::ZERO), RecentAuth::TooOld);
        ada.request(&app.sessions, |session| session.renew().unwrap());
        assert_eq!(recent(&app, &ada, SECOND), RecentAuth::TooOld, "a renewal proves nothing");
        ada.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!(recent(&app, &ada, SECOND), RecentAuth::Recent);
        for anonymous in [Browser::default(), app.visitor(1)] {
            assert_eq!(recent(&app, &anonymous, Duration::MAX), RecentAuth::NotSignedIn);
        }
    });
}

#[test]
fn a_step_up_raises_the_level_under_a_new_id() {
    on_both_stores(defaults, |app| {
        let mut ada = app.signed_in("ada");
        let level = |browser: &Browser| browser.open(&app.sessions).auth_level().unwrap();
        assert_eq!(level(&ada), 0);
        let (before, handle_before) = (ada.clone(), public_id(&app, &ada));
        ada.request(&app.sessions, |session| {
            let how = Authentication::new().level(2);
            assert_eq!(session.sign_in_with(user("ada"), &how).unwrap(), SignIn::Done);
            assert_eq!(session.auth_level().unwrap(), 2);
        });
        assert_eq!((level(&ada), public_id(&app, &ada)), (2, handle_before));
        assert_eq!(user_of(&app.sessions, &before), None);
        assert_eq!(
            app.sessions.list_for_user(&user("ada"), None).unwrap().sessions[0].summary.auth_level,
            2
        );
        ada.request(&app.sessions, |session| sign_in(session, "ada"));
        assert_eq!(level(&ada), 0);
        assert_eq!(level(&Browser::default()), 0);
    });
}

#[test]
fn a_session_ends_with_the_identity_providers_at_the_latest() {
    on_both_stores(defaults, |app| {
        let federated = |ends: Duration| {
            let mut browser = Browser::default();
            let how = Authentication::new().ends_at(app.clock.now() + ends);
            browser.request(&app.sessions, |session| {
                assert_eq!(session.sign_in_with(user("ada"), &how).unwrap(), SignIn::Done);
            });
            browser
        };
        let short = federated(HOUR);
        let long = federated(HOUR * 24 * 365);
        let listed = app.sessions.list_for_user(&user("ada"), None).unwrap().sessions;
        let deadline = listed[0].summary.deadline;
        assert_eq!(deadline, app.clock.now() + HOUR * 24, "the idle limit of ours");
        app.clock.advance(HOUR - Duration::from_millis(1));
        assert!(user_of(&app.sessions, &short).is_some());
        app.clock.advance(Duration::from_millis(1));
        assert!(user_of(&app.sessions, &short).is_none());
        assert!(user_of(&app.sessions, &long).is_some());

        let session: Session = app.sessions.open(None);
        let past = Authentication::new().ends_at(app.clock.now());
        let error = session.sign_in_with(user("ada"), &past).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
    });
}

// Policies.

#[test]
fn policies_have_the_figures_of_the_standard() {
    let minutes = |policy: Policy| {
        let (life, minute) = (policy.lifetime(), Duration::from_secs(60));
        [life.idle_limit(), life.absolute_limit()]
            .map(|limit| limit.unwrap().as_secs() / minute.as_secs())
    };
    assert_eq!(minutes(Policy::aal1()), [24 * 60, 30 * 24 * 60]);
    assert_eq!(minutes(Policy::aal2()), [60, 24 * 60]);
    assert_eq!(minutes(Policy::aal3()), [15, 12 * 60]);
    let changed = Policy::aal3().idle(SECOND * 300).absolute(HOUR).persistent(true);
    assert_eq!((minutes(changed), changed.is_persistent()), ([5, 60], true));

    let aal3 = |builder: SessionManagerBuilder| builder.policy(Policy::aal3());
    on_both_stores(aal3, |app| {
        let mut ada = Browser::default();
        let headers = ada.request(&app.sessions, |session| sign_in(session, "ada"));
        assert!(!set_cookie(&headers).unwrap().contains("Max-Age"), "the browser forgets it");
        app.clock.advance(Duration::from_secs(15 * 60));
        assert_eq!(user_of(&app.sessions, &ada), None);
    });
}

#[test]
fn a_manager_without_an_absolute_limit_warns() {
    let configured = |configure: fn(SessionManagerBuilder) -> SessionManagerBuilder| {
        let builder = SessionManager::builder(MemoryStore::new());
        let sessions = configure(builder).build().unwrap();
        sessions.events().count(EventKind::NoAbsoluteLimit)
    };
    assert_eq!(configured(|builder| builder), 0);
    assert_eq!(configured(|builder| builder.lifetime(Lifetime::idle(HOUR))), 1);
    assert_eq!(configured(|builder| builder.browser_session_lifetime(Lifetime::idle(HOUR))), 1);
    assert_eq!(configured(|builder| builder.lifetime(Lifetime::absolute(HOUR))), 0);
}

#[test]
fn a_manager_that_is_not_built_does_not_warn() {
    let (events, _raised) = events();
    let builder = || {
        let builder = SessionManager::builder(MemoryStore::new()).events(events.clone());
        builder.lifetime(Lifetime::idle(HOUR))
    };
    let no_path = CrossOrigin::refuse().exempt("hooks");
    assert!(builder().cross_origin(no_path).build().is_err());
    assert_eq!(events.count(EventKind::NoAbsoluteLimit), 0);
    builder().build().unwrap();
    assert_eq!(events.count(EventKind::NoAbsoluteLimit), 1);
}

#[test]
fn a_review_says_what_a_configuration_meets() {
    let review = |configure: fn(SessionManagerBuilder) -> SessionManagerBuilder| {
        configure(SessionManager::builder(MemoryStore::new())).build().unwrap().review()
    };
    let unmet =
        |configure: fn(SessionManagerBuilder) -> SessionManagerBuilder| -> Vec<&'static str> {
            review(configure).unmet().map(|finding| finding.requirement).collect()
        };
    let of_defaults = unmet(|builder| builder);
    for level in ["NIST AAL1", "NIST AAL2", "NIST AAL3", "ASVS 7.1.2"] {
        assert!(of_defaults.contains(&level), "{level}");
    }
    for always in
        ["ASVS 7.3.1", "ASVS 7.3.2", "ASVS 3.3.1", "ASVS 3.3.3", "ASVS 3.5.1", "ASVS 7.5.2"]
    {
        assert!(!of_defaults.contains(&always), "{always}");
    }
    assert!(review(|b| b.header("X-Session")).meets("ASVS 3.5.1"));
    let nist = |configure: fn(SessionManagerBuilder) -> SessionManagerBuilder| {
        let review = review(configure);
        ["NIST AAL1", "NIST AAL2", "NIST AAL3"].map(|level| review.meets(level))
    };
    assert_eq!(nist(|b| b.policy(Policy::aal1())), [true, false, false]);
    assert_eq!(nist(|b| b.policy(Policy::aal2())), [true, true, false]);
    assert_eq!(nist(|b| b.policy(Policy::aal3())), [true, true, true]);
    assert_eq!(nist(|b| b.policy(Policy::aal3().persistent(true))), [false; 3]);
    assert_eq!(
        nist(|b| b.persistent(false).lifetime(Lifetime::absolute(HOUR))),
        [true, false, false]
    );
    assert_eq!(nist(|b| b.persistent(false).lifetime(Lifetime::idle(HOUR))), [false; 3]);
    let insecure = unmet(|b| b.cookie(CookieConfig::insecure_http()));
    assert!(insecure.contains(&"ASVS 3.3.1") && insecure.contains(&"ASVS 3.3.3"));
    assert!(unmet(|b| b.cookie(CookieConfig::new().http_only(false))).contains(&"ASVS 3.3.4"));
    assert!(unmet(|b| b.header("X-Session")).contains(&"ASVS 3.3.4"));
    let limited = unmet(|b| b.max_sessions_per_user(NonZeroU32::MIN, AtMaximum::EndOldest));
    assert!(!limited.contains(&"ASVS 7.1.2"));

    let text = review(|builder| builder.policy(Policy::aal2())).to_string();
    println!("{text}");
    assert!(
        text.contains("met   NIST AAL2  ends after 1 h without a request, after 1 d in any case")
    );
    assert!(text.contains("UNMET NIST AAL3"));
}

#[test]
fn a_review_says_of_each_unmet_requirement_what_to_do() {
    let cookie =
        |cookie: CookieConfig| move |builder: SessionManagerBuilder| builder.cookie(cookie.clone());
    let new = CookieConfig::new;
    type Configure = Box<dyn Fn(SessionManagerBuilder) -> SessionManagerBuilder>;
    let cases: Vec<(&str, Configure, &str)> = vec![
        ("ASVS 3.3.1", Box::new(cookie(CookieConfig::insecure_http())), "serve it over TLS"),
        ("ASVS 3.3.1", Box::new(cookie(new().name("id"))), "begin with __Host- or __Secure-"),
        ("ASVS 3.3.2", Box::new(cookie(new().same_site(SameSite::None))), "choose Lax or Strict"),
        ("ASVS 3.3.3", Box::new(cookie(new().name("__Secure-id"))), "begin with __Host-"),
        ("ASVS 3.3.4", Box::new(cookie(new().http_only(false))), "leave http_only at true"),
        ("ASVS 3.3.4", Box::new(|b| b.header("X-Session")), "use a cookie"),
        ("ASVS 3.5.1", Box::new(|b| b.cross_origin(CrossOrigin::off())), "CrossOrigin::refuse()"),
        ("ASVS 3.5.1", Box::new(|b| b.cross_origin(CrossOrigin::report_only())), "CSRF token"),
        ("ASVS 7.1.1", Box::new(|b| b.lifetime(Lifetime::absolute(HOUR))), "set both limits"),
        ("ASVS 7.1.2", Box::new(|b| b), "max_sessions_per_user"),
        ("ASVS 7.3.1", Box::new(|b| b.lifetime(Lifetime::absolute(HOUR))), "Lifetime::idle"),
        ("ASVS 7.3.2", Box::new(|b| b.lifetime(Lifetime::idle(HOUR))), "with_absolute"),
        ("anonymous", Box::new(|b| b.anonymous_lifetime(Lifetime::idle(HOUR))), "absolute limit"),
        ("anonymous", Box::new(|b| b.max_anonymous(9).without_cleaner()), "without_cleaner"),
        ("ASVS 16.3.1", Box::new(|b| b), "level info"),
        ("renewal", Box::new(|b| b), "set renew_every"),
        (
            "NIST AAL3",
            Box::new(|b| {
                b.policy(Policy::aal3())
                    .anonymous_lifetime(Lifetime::absolute(HOUR))
                    .max_idle_limit(HOUR)
            }),
            "a handler can set up to 1 h idle",
        ),
        ("ASVS 14.3.1", Box::new(|b| b), "clear_site_data(true)"),
        ("ASVS 14.3.2", Box::new(|b| b), "no_store_when_signed_in(true)"),
        ("NIST AAL1", Box::new(|b| b), "policy(Policy::aal1())"),
        ("NIST AAL3", Box::new(|b| b.policy(Policy::aal2())), "policy(Policy::aal3())"),
    ];
    for (requirement, configure, advice) in cases {
        let sessions = configure(SessionManager::builder(MemoryStore::new())).build().unwrap();
        let review = sessions.review();
        let finding = review.unmet().find(|finding| finding.requirement == requirement).unwrap();
        assert!(finding.why.contains(advice), "{requirement}: {}", finding.why);
    }
}

#[test]
fn a_review_knows_how_a_store_bounds_anonymous_sessions() {
    let by_default = SessionManager::new(MemoryStore::new()).unwrap().review();
    assert!(by_default.meets("anonymous"), "{by_default}");
    let store = SqliteStore::in_memory().unwrap();
    let limited = SessionManager::builder(store).max_anonymous(9).build().unwrap().review();
    assert!(limited.meets("anonymous"));
    assert!(limited.to_string().contains("and at most 9 of them"), "{limited}");
}

#[test]
fn a_review_names_trusted_origins_and_exempt_paths() {
    let exceptions =
        CrossOrigin::refuse().trust("https://shop.example.org").exempt("/hook").exempt("/callback");
    let builder = SessionManager::builder(MemoryStore::new()).cross_origin(exceptions);
    let review = builder.build().unwrap().review();
    assert!(review.meets("ASVS 3.5.1"));
    let named = "are refused, except from https://shop.example.org and to /hook, /callback";
    assert!(review.to_string().contains(named), "{review}");
}

#[test]
fn a_review_names_the_age_at_which_ids_are_renewed() {
    let builder = SessionManager::builder(MemoryStore::new()).renew_every(HOUR);
    let review = builder.build().unwrap().review();
    assert!(review.meets("renewal"));
    assert!(review.to_string().contains("renewed at an age of 1 h"), "{review}");
}

#[test]
fn a_review_is_content_with_a_receiver_of_the_trail() {
    let (events, _raised) = events();
    let builder = SessionManager::builder(MemoryStore::new()).events(events);
    assert!(builder.build().unwrap().review().meets("ASVS 16.3.1"));
}

#[test]
fn a_review_meets_what_is_asked_for_of_the_browser() {
    let review = |builder: SessionManagerBuilder| builder.build().unwrap().review();
    let asked_for = SessionManager::builder(MemoryStore::new());
    let asked_for = review(asked_for.clear_site_data(true).no_store_when_signed_in(true));
    assert!(asked_for.meets("ASVS 14.3.1") && asked_for.meets("ASVS 14.3.2"));
    assert!(!asked_for.to_string().contains(" or not\n"), "{asked_for}");
}

// Account events.

#[test]
fn a_confirmation_stamps_time_and_level_and_keeps_the_rest() {
    on_every_store(defaults, |app| {
        let (ends, sid) = (NOW + HOUR * 2, IdpSessionId::new("sid").unwrap());
        let mut browser = Browser::default();
        let mut token = String::new();
        browser.request(&app.sessions, |session| {
            let how = Authentication::new().ends_at(ends).idp_session_id(sid.clone());
            assert_eq!(session.sign_in_with(user("ada"), &how).unwrap(), SignIn::Done);
            token = session.csrf_token().unwrap();
        });
        let (before, public_id_before) = (browser.clone(), public_id(&app, &browser));
        app.clock.advance(HOUR);
        let later = NOW + HOUR;
        let headers = browser.request(&app.sessions, |session| {
            session.set("n", 1).unwrap();
            assert_eq!(session.confirm_authentication(3).unwrap(), CommitOutcome::Stored);
            let recent = session.recent_auth(HOUR / 2).unwrap();
            assert_eq!(recent, RecentAuth::Recent, "already in this request");
        });
        assert_new_id(&headers);
        browser.request(&app.sessions, |session| {
            assert_eq!(session.auth_level().unwrap(), 3);
            assert_eq!(session.authenticated_at().unwrap(), Some(later));
            assert_eq!(session.get("n").unwrap(), Some(1));
            assert_eq!(session.verify_csrf(&token).unwrap(), CsrfCheck::Valid);
            assert_eq!(session.deadline().unwrap(), Some(ends), "the provider's end stays");
        });
        assert_eq!(public_id(&app, &browser), public_id_before);
        assert_eq!(user_of(&app.sessions, &before), None, "the id was replaced");
        app.clock.set(ends);
        assert_eq!(user_of(&app.sessions, &browser), None);
    });
}

#[test]
fn a_confirmation_needs_a_user_and_a_live_session() {
    on_every_store(defaults, |app| {
        for mut browser in [Browser::default(), app.visitor(1)] {
            browser.request(&app.sessions, |session| {
                let error = session.confirm_authentication(1).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Invalid);
            });
        }
        let browser = app.signed_in("ada");
        let (session, mut other) = (browser.open(&app.sessions), browser.clone());
        assert!(session.user().unwrap().is_some());
        other.request(&app.sessions, |session| session.destroy().unwrap());
        assert_eq!(session.confirm_authentication(1).unwrap(), CommitOutcome::Discarded);
        assert_eq!(set_cookie(&complete(&app.sessions, &session)), None);
        assert_eq!(user_of(&app.sessions, &browser), None);
    });
}

#[test]
fn a_confirmation_within_the_grace_is_stored() {
    on_every_store(
        |builder| builder.renewal_grace(SECOND * 30),
        |app| {
            let mut browser = app.signed_in("ada");
            let old = browser.clone();
            browser.request(&app.sessions, |session| session.renew().unwrap());
            old.after_request(&app.sessions, |session| {
                assert_eq!(session.confirm_authentication(2).unwrap(), CommitOutcome::Stored);
            });
            browser.request(&app.sessions, |session| {
                assert_eq!(session.auth_level().unwrap(), 2);
            });
        },
    );
}

#[test]
fn a_sign_in_within_a_grace_shuts_out_who_has_the_new_id() {
    on_every_store(
        |builder| builder.renew_every(HOUR),
        |app| {
            let mut user = app.signed_in("ada");
            app.clock.advance(HOUR);
            let mut thief = user.clone();
            thief.request(&app.sessions, |session| assert!(session.user().unwrap().is_some()));
            assert!(thief.cookie != user.cookie, "the thief's request has renewed the id");
            let confirms = |session: &Session| {
                assert_eq!(session.confirm_authentication(1).unwrap(), CommitOutcome::Stored);
            };
            user.clone().request(&app.sessions, confirms);
            assert!(user_of(&app.sessions, &thief).is_some(), "a confirmation keeps the new id");
            user.request(&app.sessions, |session| sign_in(session, "ada"));
            assert_eq!(user_of(&app.sessions, &thief), None);
            assert!(user_of(&app.sessions, &user).is_some());
        },
    );
}

#[test]
fn a_session_names_its_deadline() {
    let lifetime = Lifetime::idle(HOUR).with_absolute(HOUR * 2);
    on_every_store(
        |builder| builder.lifetime(lifetime),
        |app| {
            let deadline = |browser: &Browser| {
                let session = browser.open(&app.sessions);
                let deadline = session.deadline().unwrap();
                complete(&app.sessions, &session);
                app.sessions.flush().unwrap();
                deadline
            };
            assert_eq!(deadline(&Browser::default()), None);
            let browser = app.visitor(1);
            assert_eq!(deadline(&browser), Some(NOW + HOUR));
            app.clock.advance(HOUR / 2);
            let used = deadline(&browser);
            assert_eq!(used, Some(NOW + HOUR / 2 + HOUR));
            app.clock.advance(HOUR / 1000);
            assert_eq!(deadline(&browser), used, "so soon after, activity is not recorded");
            app.clock.set(NOW + HOUR);
            assert_eq!(deadline(&browser), Some(NOW + HOUR * 2));
            app.clock.set(NOW + HOUR * 2);
            assert_eq!(deadline(&browser), None);
        },
    );
}

#[test]
fn a_user_signs_out_everywhere() {
    on_both_stores(defaults, |app| {
        let (mut here, mut there) = (app.signed_in("ada"), app.signed_in("ada"));
        let bob = app.signed_in("bob");
        let headers = here.request(&app.sessions, |session| {
            assert_eq!(app.sessions.sign_out_everywhere(session).unwrap(), 2);
            assert_eq!(session.user().unwrap(), None);
            assert_eq!(app.sessions.sign_out_everywhere(session).unwrap(), 0);
        });
        assert_eq!(set_cookie(&headers), Some(REMOVAL));
        assert!(is_out(&app, &mut there));
        assert_eq!(here.cookie, None);
        assert_eq!(user_of(&app.sessions, &bob).as_deref(), Some("bob"));
    });
}

#[test]
fn a_renamed_user_stays_signed_in() {
    on_every_store(defaults, |app| {
        let mut ada = app.signed_in("ada@old");
        let bob = app.signed_in("bob");
        let rename = || app.sessions.rename_user(&user("ada@old"), &user("ada@new"));
        if app.store.inner().index().is_none() {
            assert_eq!(rename().unwrap_err().kind(), ErrorKind::Unsupported);
            return;
        }
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada@old"));
        let during = ada.open(&app.sessions);
        assert!(during.user().unwrap().is_some());
        assert_eq!(rename().unwrap(), 1);
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada@new"));
        // A request that began before stores its changes all the same.
        during.update("n", |n: Option<u32>| n.unwrap_or(0) + 1).unwrap();
        ada.take(&complete(&app.sessions, &during));
        assert_eq!(app.stored_n(&ada), Some(1));
        assert_eq!(user_of(&app.sessions, &ada).as_deref(), Some("ada@new"));
        assert_eq!(user_of(&app.sessions, &bob).as_deref(), Some("bob"));
        assert_eq!(app.sessions.count_for_user(&user("ada@old")).unwrap(), 0);
        assert_eq!(rename().unwrap(), 0);
        assert_eq!(app.count(EventKind::UserRenamed), 2);
        assert_eq!(app.sessions.revoke_for_user(&user("ada@new"), None).unwrap(), 1);
    });
}
