//! Several managers on one store: whose ids count where, on each store and through a cache.

use std::num::{NonZeroU32, NonZeroUsize};

use cloakroom::adapter::{Outcome, ResponseHeaders};
use cloakroom::event::EventKind;
use cloakroom::id::Realm;
use cloakroom::lifetime::AtMaximum;
use cloakroom::list::{Page, SessionFilter};
use cloakroom::manager::SessionManagerBuilder;
use cloakroom::{CookieConfig, ErrorKind, MemoryStore, Session, SessionManager, SignIn};

use crate::common::app::{App, defaults, user};
use crate::common::credentials::{CARRIERS, Credential, sign_in_as};
use crate::common::every_store::on_every_store;

#[test]
fn an_id_of_one_manager_finds_nothing_in_another() {
    on_every_store(defaults, |app| {
        for (carrier, configure) in CARRIERS {
            let visitors = app.another(|builder| configure(builder, "x-visitor"));
            let admins = app.another(|builder| configure(builder, "x-admin"));
            let (visitor, admin) = (sign_in_as(&visitors, "ada"), sign_in_as(&admins, "root"));
            assert_eq!(visitor.user(&visitors, "x-visitor").as_deref(), Some("ada"), "{carrier}");
            assert_eq!(admin.user(&admins, "x-admin").as_deref(), Some("root"), "{carrier}");
            assert_eq!(visitor.user(&admins, "x-admin"), None, "{carrier}");
            assert_eq!(admin.user(&visitors, "x-visitor"), None, "{carrier}");
            // Nor can it end, change, or sign in to, what it does not find.
            let session = visitor.open(&admins, "x-admin");
            session.destroy().unwrap();
            session.set("n", 1).unwrap();
            admins.close(&session, Outcome::Completed).unwrap();
            assert_eq!(visitor.user(&visitors, "x-visitor").as_deref(), Some("ada"), "{carrier}");
        }
    });
}

#[test]
fn managers_of_one_realm_share_their_sessions() {
    on_every_store(defaults, |app| {
        for (carrier, configure) in CARRIERS {
            let realm = |builder: SessionManagerBuilder| builder.realm("shared");
            let one = app.another(|builder| realm(configure(builder, "x-one")));
            let other = app.another(|builder| realm(builder.header("x-other")));
            let credential = sign_in_as(&one, "ada");
            if carrier == "plain" || carrier == "header" {
                assert_eq!(credential.user(&other, "x-other").as_deref(), Some("ada"), "{carrier}");
            } else {
                assert_eq!(credential.user(&other, "x-other"), None, "what is sealed is no id");
            }
            let credential = sign_in_as(&other, "zoe");
            if carrier == "plain" || carrier == "header" {
                assert_eq!(credential.user(&one, "x-one").as_deref(), Some("zoe"), "{carrier}");
            }
        }
    });
}

#[test]
fn equal_cookie_names_in_two_realms_share_no_session() {
    on_every_store(defaults, |app| {
        for (carrier, configure) in CARRIERS {
            let of = |realm: &'static str| {
                app.another(move |builder| configure(builder, "x-id").realm(realm))
            };
            let (one, other, again) = (of("one"), of("other"), of("one"));
            let credential = sign_in_as(&one, "ada");
            assert_eq!(credential.user(&other, "x-id"), None, "{carrier}");
            assert_eq!(credential.user(&again, "x-id").as_deref(), Some("ada"), "{carrier}");
            let malformed = app.count(EventKind::MalformedId);
            credential.user(&other, "x-id");
            let is_sealed = matches!(carrier, "signed" | "encrypted");
            let raised = app.count(EventKind::MalformedId) - malformed;
            assert_eq!(raised, u64::from(is_sealed), "a seal covers the realm: {carrier}");
        }
    });
}

#[test]
fn lists_limits_and_revocations_concern_one_realm_only() {
    crate::common::app::on_both_stores(defaults, |app: App| {
        let limited = |name: &'static str| {
            app.another(move |builder| {
                let builder = builder.cookie(CookieConfig::new().name(name));
                builder.max_sessions_per_user(NonZeroU32::MIN, AtMaximum::EndOldest)
            })
        };
        let (one, other) = (limited("one"), limited("other"));
        let (ada_one, ada_other) = (sign_in_as(&one, "ada"), sign_in_as(&other, "ada"));
        let alive = |credential: &Credential, sessions: &SessionManager| {
            credential.user(sessions, &credential.name).is_some()
        };
        assert!(alive(&ada_one, &one) && alive(&ada_other, &other), "one of each is no more");
        for (sessions, name) in [(&one, "one"), (&other, "other")] {
            assert_eq!(sessions.realm().as_str(), name);
            assert_eq!(sessions.count_for_user(&user("ada")).unwrap(), 1);
            let list = sessions.list_for_user(&user("ada"), None).unwrap().sessions;
            assert_eq!(list.len(), 1);
            assert_eq!(list[0].summary.realm.as_str(), name);
            let many = Page::first(NonZeroUsize::new(10).unwrap());
            assert_eq!(sessions.list_page(&SessionFilter::All, many).unwrap().sessions.len(), 1);
        }
        // By the other's public id either.
        let public_id =
            other.list_for_user(&user("ada"), None).unwrap().sessions[0].summary.public_id;
        assert!(!one.revoke(&user("ada"), &public_id, None).unwrap());
        assert_eq!(one.revoke_for_user(&user("ada"), None).unwrap(), 1);
        assert!(!alive(&ada_one, &one) && alive(&ada_other, &other));
        sign_in_as(&one, "zoe");
        assert_eq!(one.revoke_everyone(None).unwrap(), 1);
        assert!(alive(&ada_other, &other));
        // A store's own calls go through all realms, unless they name one.
        let index = app.store.inner().index().unwrap();
        let now = crate::common::NOW;
        let of = |name: &str| Realm::new(name).unwrap();
        assert_eq!(index.revoke_everyone(Some(&of("one")), now).unwrap(), 0);
        assert_eq!(index.revoke_everyone(None, now).unwrap(), 1);
    });
}

#[test]
fn everyone_of_a_realm_is_revoked_behind_a_cache_too() {
    on_every_store(defaults, |app| {
        let named = |name: &'static str| {
            app.another(move |builder| builder.cookie(CookieConfig::new().name(name)))
        };
        let (one, other) = (named("one"), named("other"));
        let (ada, zoe) = (sign_in_as(&one, "ada"), sign_in_as(&other, "zoe"));
        // Into the cache, where there is one.
        assert!(ada.user(&one, "one").is_some() && zoe.user(&other, "other").is_some());
        match one.revoke_everyone(None) {
            Ok(count) => assert_eq!(count, 1),
            Err(error) => return assert_eq!(error.kind(), ErrorKind::Unsupported),
        }
        assert_eq!(ada.user(&one, "one"), None);
        assert_eq!(zoe.user(&other, "other").as_deref(), Some("zoe"));
    });
}

/// Presents these cookies.
fn request(
    sessions: &SessionManager,
    cookies: &[(&str, &Credential)],
    handler: impl FnOnce(&Session),
) -> ResponseHeaders {
    let pairs: Vec<_> =
        cookies.iter().map(|(name, credential)| format!("{name}={}", credential.value)).collect();
    let field = pairs.join("; ");
    let session = sessions.open(Some(field.as_str()));
    handler(&session);
    sessions.close(&session, Outcome::Completed).unwrap()
}

fn names(headers: &ResponseHeaders) -> Vec<(String, bool)> {
    let name = |(_, text): &(std::borrow::Cow<'static, str>, String)| {
        let name = text.split('=').next().unwrap().to_owned();
        (name, text.contains("Max-Age=0"))
    };
    headers.id_fields.iter().map(name).collect()
}

/// Renames the cookie `old`, whose manager has named no realm, to `new`.
fn renamed(builder: SessionManagerBuilder) -> SessionManagerBuilder {
    let builder = builder.cookie(CookieConfig::new().name("new"));
    builder.realm("old").former_cookie_name("old")
}

#[test]
fn a_rename_of_the_default_cookie_keeps_its_session() {
    on_every_store(defaults, |app| {
        let ada = sign_in_as(&app.sessions, "ada");
        let shop = |builder: SessionManagerBuilder| {
            let builder = builder.cookie(CookieConfig::new().name("__Host-shop"));
            builder.former_cookie_name("__Host-id")
        };
        let error = shop(SessionManager::builder(MemoryStore::new())).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(r#"add .realm("__Host-id")"#), "{error}");
        let after = app.another(|builder| shop(builder).realm("__Host-id"));
        assert_eq!(ada.user(&after, "__Host-id").as_deref(), Some("ada"));
        assert_eq!(after.realm(), app.sessions.realm());
    });
}

#[test]
fn a_renamed_cookie_keeps_its_session() {
    for (carrier, configure) in CARRIERS.into_iter().filter(|(carrier, _)| *carrier != "header") {
        on_every_store(defaults, |app| {
            let before = app.another(|builder| configure(builder, "old"));
            let after = app.another(|builder| {
                configure(builder, "new").realm("old").former_cookie_name("old")
            });
            let old = sign_in_as(&before, "ada");
            request(&before, &[("old", &old)], |session| session.set("n", 1).unwrap());

            // A read finds it, and changes nothing in the browser.
            let headers = request(&after, &[("old", &old)], |session| {
                assert_eq!(session.user().unwrap(), Some(user("ada")), "{carrier}");
            });
            assert_eq!(names(&headers), [], "{carrier}");

            // A change moves it, read before or not.
            for reads in [true, false] {
                let old = sign_in_as(&before, "ada");
                let headers = request(&after, &[("old", &old)], |session| {
                    if reads {
                        assert_eq!(session.user().unwrap(), Some(user("ada")), "{carrier}");
                    }
                    session.set("n", 2).unwrap();
                });
                let moved = [("new".to_owned(), false), ("old".to_owned(), true)];
                assert_eq!(names(&headers), moved, "{carrier}");
                let new = Credential::of(&headers);
                assert_eq!(new.user(&after, "new").as_deref(), Some("ada"), "{carrier}");
                assert_eq!(old.user(&before, "old"), None, "it has moved: {carrier}");
                request(&after, &[("new", &new)], |session| {
                    assert_eq!(session.get("n").unwrap(), Some(2), "{carrier}");
                });
                if app.store.inner().index().is_some() {
                    let public_id = new.open(&after, "new").public_id().unwrap().unwrap();
                    assert!(before.revoke(&user("ada"), &public_id, None).unwrap(), "{carrier}");
                }
            }

            // So does a sign-in.
            let headers = request(&after, &[("old", &old)], |session| {
                assert_eq!(session.sign_in(user("ada")).unwrap(), SignIn::Done);
            });
            let new = Credential::of(&headers);
            request(&after, &[("new", &new)], |session| {
                assert_eq!(session.get("n").unwrap(), Some(1), "{carrier}");
            });
        });
    }
}

#[test]
fn a_sign_out_after_a_rename_removes_both_cookies() {
    on_every_store(defaults, |app| {
        let before = app.another(|builder| builder.cookie(CookieConfig::new().name("old")));
        let after = app.another(renamed);
        let (old, new) = (sign_in_as(&before, "ada"), sign_in_as(&after, "ada"));
        for cookies in [&[("old", &old)][..], &[("new", &new)], &[("new", &new), ("old", &old)]] {
            let headers = request(&after, cookies, |session| session.destroy().unwrap());
            let both = [("new".to_owned(), true), ("old".to_owned(), true)];
            assert_eq!(names(&headers), both);
        }
        assert_eq!(old.user(&before, "old"), None);
        assert_eq!(new.user(&after, "new"), None);
    });
}

#[test]
fn the_current_cookie_name_counts_before_former_names() {
    on_every_store(defaults, |app| {
        let before = app.another(|builder| builder.cookie(CookieConfig::new().name("old")));
        let after = app.another(renamed);
        let (old, new) = (sign_in_as(&before, "zoe"), sign_in_as(&after, "ada"));
        request(&after, &[("old", &old), ("new", &new)], |session| {
            assert_eq!(session.user().unwrap(), Some(user("ada")));
        });
    });
}

/// No response would replace such a cookie, so each request would raise the event.
#[test]
fn a_malformed_value_under_a_former_name_is_ignored() {
    on_every_store(defaults, |app| {
        let after = app.another(renamed);
        let session = after.open(Some("old=malformed"));
        assert_eq!(session.user().unwrap(), None);
        let headers = after.close(&session, Outcome::Completed).unwrap();
        assert_eq!(names(&headers), []);
        assert_eq!(app.count(EventKind::MalformedId), 0);
    });
}

#[test]
fn lists_and_revocations_cover_sessions_of_former_names() {
    crate::common::app::on_both_stores(defaults, |app: App| {
        let before = app.another(|builder| builder.cookie(CookieConfig::new().name("old")));
        let after = app.another(renamed);
        let ada = user("ada");
        let public_ids = || {
            let page = after.list_for_user(&ada, None).unwrap();
            page.sessions.iter().map(|it| it.summary.public_id).collect::<Vec<_>>()
        };
        let (old, new) = (sign_in_as(&before, "ada"), sign_in_as(&after, "ada"));
        let other = sign_in_as(&before, "zoe");
        assert_eq!(after.count_for_user(&ada).unwrap(), 2);
        assert_eq!(before.count_for_user(&ada).unwrap(), 2, "they are in one realm");
        // The newest first, and in pages of any size.
        let (newest, oldest) = (public_ids()[0], public_ids()[1]);
        assert_eq!(Some(newest), new.open(&after, "new").public_id().unwrap());
        let one = NonZeroUsize::MIN;
        let first = after.list_page(&SessionFilter::User(&ada), Page::first(one)).unwrap();
        assert_eq!(first.sessions[0].public_id, newest);
        let second = Page::after(one, first.next.unwrap());
        let second = after.list_page(&SessionFilter::User(&ada), second).unwrap();
        assert_eq!((second.sessions[0].public_id, second.next), (oldest, None));
        // One by its public id, the others of a user, all of a user, everyone.
        assert!(after.revoke(&ada, &oldest, None).unwrap());
        assert_eq!(old.user(&before, "old"), None);
        let old = sign_in_as(&before, "ada");
        assert_eq!(after.revoke_others(&new.open(&after, "new")).unwrap(), 1);
        assert_eq!(old.user(&before, "old"), None);
        let old = sign_in_as(&before, "ada");
        let current = old.open(&after, "old");
        assert_eq!(after.sign_out_everywhere(&current).unwrap(), 2);
        assert_eq!(current.user().unwrap(), None, "its own session has ended");
        assert_eq!((old.user(&before, "old"), new.user(&after, "new")), (None, None));
        assert_eq!(after.rename_user(&user("zoe"), &user("zoë")).unwrap(), 1);
        assert_eq!(other.user(&before, "old").as_deref(), Some("zoë"));
        sign_in_as(&after, "ada");
        let current = other.open(&after, "old");
        assert_eq!(after.revoke_everyone(Some(&current)).unwrap(), 2);
        assert_eq!(current.user().unwrap(), None);
        assert_eq!(other.user(&before, "old"), None);
    });
}

#[test]
fn invalid_realms_and_former_names_are_refused() {
    let builder = || SessionManager::builder(MemoryStore::new());
    let long = "x".repeat(256);
    for bad in [
        builder().realm(""),
        builder().realm("a\0b"),
        builder().realm(long),
        builder().former_cookie_name("old"),
        builder().former_cookie_name("__Host-id"),
        builder().former_cookie_name("a b"),
        builder().former_cookie_name("__Secure-id").cookie(CookieConfig::insecure_http()),
        builder().former_cookie_name("old").header("x-id"),
    ] {
        assert_eq!(bad.build().unwrap_err().kind(), ErrorKind::Invalid);
    }
    builder().realm("x".repeat(255)).build().unwrap();
    assert_eq!(builder().build().unwrap().realm(), &Realm::default());
    assert_eq!(builder().header("X-Id").build().unwrap().realm().as_str(), "x-id");
}
