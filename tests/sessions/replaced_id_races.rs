//! Three requests at once on one session.

use std::sync::Barrier;
use std::thread;

use crate::common::app::{App, Browser, complete, defaults, sign_in, user, user_of};
use crate::common::every_store::{on_every_store, with_ticking_clock};
use cloakroom::Session;

fn rounds() -> u64 {
    crate::common::dice::number("CLOAKROOM_ROUNDS").unwrap_or(50)
}

/// The action of one request on its session.
type Act<'a> = &'a (dyn Fn(&App, &Session) + Sync);

/// Runs these requests of one client at once; the browser of each with its answer alone.
fn at_once(app: &App, client: &Browser, acts: &[Act<'_>]) -> Vec<Browser> {
    let barrier = Barrier::new(acts.len());
    thread::scope(|scope| {
        let threads: Vec<_> = acts
            .iter()
            .map(|act| {
                scope.spawn(|| {
                    let session = client.open(&app.sessions);
                    barrier.wait();
                    act(app, &session);
                    client.with_response(&complete(&app.sessions, &session))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn ada(_: &App, session: &Session) {
    sign_in(session, "ada");
}

fn reads_and_signs_in(_: &App, session: &Session) {
    session.user().unwrap();
    session.update("k", |k: Option<u32>| k.unwrap_or(0) + 1).unwrap();
    sign_in(session, "ada");
}

fn out(_: &App, session: &Session) {
    session.destroy().unwrap();
}

fn renew(_: &App, session: &Session) {
    session.renew().unwrap();
}

fn page(_: &App, session: &Session) {
    session.csrf_token().unwrap();
}

fn revoke(app: &App, session: &Session) {
    let _ = app.sessions.revoke_for_user(&user("ada"), Some(session));
}

/// No session lives that none of the browsers has.
fn no_orphans(app: &App, browsers: &[Browser], case: &str) {
    if app.store.inner().index().is_none() {
        return;
    }
    let mut cookies: Vec<_> = browsers
        .iter()
        .filter(|browser| browser.open(&app.sessions).public_id().unwrap().is_some())
        .map(|browser| browser.cookie.clone())
        .collect();
    cookies.sort();
    cookies.dedup();
    assert_eq!(app.live(), cookies.len() as u64, "{case}");
    app.sessions.revoke_everyone(None).unwrap();
}

#[test]
fn sign_ins_sign_out_and_revocation_leave_no_orphan() {
    for configure in [defaults, with_ticking_clock] {
        on_every_store(configure, |app| {
            for round in 0..rounds() {
                for acts in [
                    &[&ada as Act<'_>, &reads_and_signs_in, &out][..],
                    &[&ada, &ada, &revoke],
                    &[&ada, &renew, &out],
                    &[&ada, &page, &reads_and_signs_in, &out],
                ] {
                    let client = app.visitor(1);
                    let browsers = at_once(&app, &client, acts);
                    no_orphans(&app, &browsers, &format!("round {round}"));
                }
            }
        });
    }
}

#[test]
fn a_sign_in_beside_renewals_and_pages_holds() {
    for configure in [defaults, with_ticking_clock] {
        on_every_store(configure, |app| {
            for round in 0..rounds() {
                let client = app.visitor(1);
                let browsers =
                    at_once(&app, &client, &[&reads_and_signs_in, &renew, &page, &renew]);
                assert_eq!(user_of(&app.sessions, &browsers[0]).as_deref(), Some("ada"), "{round}");
                assert_eq!(app.stored_n(&browsers[0]), Some(1), "{round}");
            }
        });
    }
}

#[test]
fn two_sign_ins_and_pages_end_in_one_id() {
    for configure in [defaults, with_ticking_clock] {
        on_every_store(configure, |app| {
            for round in 0..rounds() {
                let client = app.visitor(1);
                let browsers = at_once(&app, &client, &[&ada, &reads_and_signs_in, &page, &page]);
                assert_eq!(browsers[0].cookie, browsers[1].cookie, "{round}");
                assert_eq!(user_of(&app.sessions, &browsers[0]).as_deref(), Some("ada"), "{round}");
            }
        });
    }
}
