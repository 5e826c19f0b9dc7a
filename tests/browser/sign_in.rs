//! A sign-in that the browser sends twice, or whose answer it does not wait for.

use crate::common::Folder;
use crate::common::chromium::{Chromium, Programs, Tab};
use crate::site::{BrowserSite, ServerKind, Setting};
use crate::{places, rounds};

/// Runs a test on each adapter in several rounds, with a form on the page and one visit counted.
fn on_each_adapter(few: usize, test: impl Fn(&Tab<'_>, usize)) {
    let Some(programs) = Programs::find() else { return };
    let chromium = Chromium::start(&programs);
    for server in ServerKind::TWO {
        println!("{server:?}");
        let folder = Folder::new();
        let site = BrowserSite::start(server, Setting::Defaults, &folder);
        let tab = chromium.tab();
        for round in 0..rounds(few) {
            chromium.forget_cookies();
            tab.open(&site.url("/"));
            assert_eq!(tab.page().visits, 1);
            test(&tab, round);
            assert_signed_in(&tab, &site);
            assert_eq!(tab.fetch("/revoke-everyone"), "revoked");
        }
    }
}

/// Ada is signed in with the session that counted the first visit, and it is the only one.
#[track_caller]
fn assert_signed_in(tab: &Tab<'_>, site: &BrowserSite) {
    tab.open(&site.url("/"));
    let page = tab.page();
    assert_eq!(page.user.as_deref(), Some("ada"));
    assert!(page.visits > 1, "the visits from before are lost");
    tab.open(&site.url("/sessions"));
    assert_eq!(places(tab), [true]);
    tab.open(&site.url("/"));
    tab.sign_out();
    assert_eq!(tab.page().user, None);
}

fn fill_in(tab: &Tab<'_>) {
    tab.script(
        "document.querySelector('input[name=user]').value = 'ada';
         document.querySelector('input[name=password]').value = 'demo';",
    );
}

/// Waits until a request has come to a gate.
const ARRIVED: &str = "const arrived = url => fetch(url)
    .then(answer => answer.text())
    .then(number => number == 1 || arrived(url));";

/// Submits the form by a script, and waits until the user is signed in; the server holds the answer
/// at the gate. Then another script runs, of which `form` is the form.
fn submit_and_hold(tab: &Tab<'_>, gate: usize, then: &str) {
    fill_in(tab);
    // In one script: the driver waits for a page that loads before it does anything else.
    tab.script(&format!(
        "const form = document.querySelector('form');
         form.action = '/sign-in?after={gate}';
         form.submit();
         {ARRIVED}
         return arrived('/arrived?gate={gate}').then(() => {{ {then} }});"
    ));
}

#[test]
fn a_double_clicked_sign_in_keeps_the_visits_in_one_session() {
    on_each_adapter(2, |tab, _| {
        fill_in(tab);
        tab.leave(|| tab.double_click("form button"));
    });
}

#[test]
fn a_sign_in_sent_again_before_its_answer_keeps_the_visits() {
    on_each_adapter(2, |tab, round| {
        tab.leave(|| submit_and_hold(tab, round, "form.action = '/sign-in'; form.submit();"));
        assert_eq!(tab.page().user.as_deref(), Some("ada"));
        assert_eq!(tab.fetch(&format!("/open?gate={round}")), "open");
    });
}

#[test]
fn of_two_sign_ins_at_once_either_answer_keeps_the_visits() {
    on_each_adapter(2, |tab, round| {
        fill_in(tab);
        // The first to sign in is the last to be answered, in every second round.
        let held = if round % 2 == 1 { "true" } else { "false" };
        let answered = tab.script(&format!(
            "const body = new URLSearchParams(new FormData(document.querySelector('form')));
             const send = query =>
                 fetch('/sign-in' + query, {{ method: 'POST', body, redirect: 'manual' }});
             if (!{held})
                 return Promise.all([send(''), send('')]).then(() => 'answered');
             {ARRIVED}
             const first = send('?after={round}');
             return arrived('/arrived?gate={round}')
                 .then(() => send(''))
                 .then(() => fetch('/open?gate={round}'))
                 .then(() => first)
                 .then(() => 'answered');"
        ));
        assert_eq!(answered, "answered");
    });
}

#[test]
fn a_sign_in_that_the_user_stopped_works_when_repeated() {
    on_each_adapter(2, |tab, round| {
        let before = tab.cookie();
        submit_and_hold(tab, round, "window.stop();");
        // The driver waits until the page has loaded.
        assert_eq!(tab.fetch(&format!("/open?gate={round}")), "open");
        if round % 2 == 1 {
            // So late that the first one is not in flight any more.
            assert_eq!(tab.fetch("/advance?seconds=11"), "advanced");
        }
        assert_eq!(tab.cookie().value, before.value, "the answer was not taken");
        tab.script("document.querySelector('form').action = '/sign-in'");
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page().user.as_deref(), Some("ada"));
    });
}
