//! A browser with several requests in flight: no answer takes the cookie away that another gives.

use std::time::Instant;

use cloakroom::stores::sqlite::rusqlite::Connection;

use crate::common::Folder;
use crate::common::chromium::{Chromium, Page, Programs, Tab};
use crate::common::client::PATIENCE;
use crate::rounds;
use crate::site::{BrowserSite, ServerKind, Setting};

/// Runs a test on these servers, with so many processes on one database file.
fn on_servers(
    servers: &[ServerKind],
    processes: &[usize],
    test: impl Fn(&Chromium, &Folder, &[BrowserSite]),
) {
    let Some(programs) = Programs::find() else { return };
    let chromium = Chromium::start(&programs);
    for &server in servers {
        for &processes in processes {
            println!("{server:?}, processes: {processes}");
            let folder = Folder::new();
            let start = |_| BrowserSite::start(server, Setting::Defaults, &folder);
            let sites: Vec<BrowserSite> = (0..processes).map(start).collect();
            chromium.forget_cookies();
            test(&chromium, &folder, &sites);
        }
    }
}

/// Ends all sessions: a process revokes them, or their table is emptied by another program.
fn end_all(round: usize, tab: &Tab<'_>, folder: &Folder) {
    if round % 4 < 2 {
        // Without the cookie: a request that ends its own session removes it.
        let revoke =
            "return fetch('/revoke-everyone', { credentials: 'omit' }).then(a => a.text())";
        assert_eq!(tab.script(revoke), "revoked");
    } else {
        let database = Connection::open(folder.database()).unwrap();
        assert!(database.execute("DELETE FROM cloakroom_sessions", []).unwrap() > 0);
    }
}

#[test]
fn the_first_form_of_a_visitor_with_a_dead_id_is_accepted() {
    on_servers(&ServerKind::ALL, &[1, 2], |chromium, folder, sites| {
        let (first, last) = (sites.first().unwrap(), sites.last().unwrap());
        let tab = chromium.tab();
        tab.open(&first.url("/blank"));
        let other = chromium.tab();
        other.open(&last.url("/blank"));
        let mut refused = 0;
        let rounds = rounds(4);
        for round in 0..rounds {
            assert_ne!(tab.fetch("/token"), "");
            end_all(round, &other, folder);
            assert_eq!(tab.cookies().len(), 1, "the browser keeps the unknown id");
            // In every second round the reads are answered when the form token is there.
            let held = round % 2 == 1;
            let gate = if held { format!("&before={round}") } else { String::new() };
            let reads: Vec<String> =
                (0..3).map(|n| last.url(&format!("/read?n={round}-{n}{gate}"))).collect();
            let mut query = form_urlencoded::Serializer::new(String::new());
            reads.iter().for_each(|read| {
                query.append_pair("read", read);
            });
            if held {
                query.append_pair("arrived", &last.url(&format!("/arrived?gate={round}")));
                query.append_pair("open", &last.url(&format!("/open?gate={round}")));
            }
            tab.open(&first.url(&format!("/visit?{}", query.finish())));
            assert_eq!(tab.script("return window.complete"), "complete");
            tab.follow("button");
            match tab.script("return document.body.textContent").as_str() {
                Some("accepted") => {}
                Some("refused") => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        println!("refused: {refused} of {rounds}");
        assert_eq!(refused, 0, "of {rounds}");
    });
}

/// Three requests of another tab, which the server holds: two have not looked at their session yet,
/// one has.
struct Polls<'c> {
    tab: Tab<'c>,
    gate: usize,
}

impl<'c> Polls<'c> {
    fn start(chromium: &'c Chromium, site: &BrowserSite, gate: usize) -> Self {
        let tab = chromium.tab();
        tab.open(&site.url("/blank"));
        tab.script(&format!(
            "window.polls = ['n=1&before', 'n=2&after', 'n=3&before'].map(
                 poll => fetch(`/read?${{poll}}={gate}`).then(answer => answer.text()));"
        ));
        let started = Instant::now();
        while tab.fetch(&format!("/arrived?gate={gate}")) != "3" {
            assert!(started.elapsed() < PATIENCE, "the polls do not arrive");
        }
        Polls { tab, gate }
    }

    /// Lets them go on. They came with the session of ada, which has ended since.
    fn finish(self) {
        assert_eq!(self.tab.fetch(&format!("/open?gate={}", self.gate)), "open");
        let read = self.tab.script("return Promise.all(window.polls)");
        assert_eq!(read, serde_json::json!(["none", "ada", "none"]));
        self.tab.close();
    }
}

/// Signs ada in and out while another tab polls the same process, and one polls a second process.
fn sign_out_during_polls(test: impl Fn(&Tab<'_>, [Polls<'_>; 2])) {
    on_servers(&ServerKind::TWO, &[2], |chromium, _, sites| {
        let tab = chromium.tab();
        tab.open(&sites[0].url("/"));
        for round in 0..rounds(1) {
            tab.sign_in("ada", "demo");
            assert_eq!(tab.page().user.as_deref(), Some("ada"), "round {round}");
            let polls = [&sites[0], &sites[1]].map(|site| Polls::start(chromium, site, round));
            tab.sign_out();
            assert_eq!(tab.page(), Page::new(1, None, &["You are signed out."]), "round {round}");
            test(&tab, polls);
        }
    });
}

#[test]
fn the_form_after_a_sign_out_is_accepted_when_polls_end_late() {
    sign_out_during_polls(|tab, polls| {
        polls.into_iter().for_each(Polls::finish);
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page(), Page::new(2, "ada", &["You are signed in."]));
        tab.sign_out();
    });
}

#[test]
fn a_user_who_signs_in_again_stays_so_when_polls_end_late() {
    sign_out_during_polls(|tab, polls| {
        tab.sign_in("ada", "demo");
        polls.into_iter().for_each(Polls::finish);
        tab.reload();
        assert_eq!(tab.page(), Page::new(3, "ada", &[]));
        tab.sign_out();
    });
}
