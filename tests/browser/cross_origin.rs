//! A browser that visits pages of other origins, which send requests to the application.

use cloakroom::cross_origin::REFUSED;

use crate::EXAMPLES;
use crate::common::Folder;
use crate::common::chromium::{Chromium, ELSEWHERE, Page, Programs, SIBLING, Tab};
use crate::common::example::{CookieKind, Example};
use crate::site::{BrowserSite, ServerKind, Setting};

/// The application, other origins, and a tab in which ada is signed in.
struct Stage<'c> {
    own: String,
    foreign: String,
    /// Another site, a host of the same site, and another port of the same host.
    others: [String; 3],
    tab: Tab<'c>,
    _sites: [BrowserSite; 2],
}

fn on_servers(test: impl Fn(&Stage<'_>)) {
    let Some(programs) = Programs::find() else { return };
    let chromium = Chromium::start(&programs);
    for server in ServerKind::TWO {
        println!("{server:?}");
        let (folder, other_folder) = (Folder::new(), Folder::new());
        let sites = [&folder, &other_folder]
            .map(|folder| BrowserSite::start(server, Setting::Defaults, folder));
        let at = |site: usize, host: &str| {
            let (_, port) = sites[site].origin.rsplit_once(':').unwrap();
            format!("https://{host}:{port}")
        };
        let (own, foreign) = (at(0, ELSEWHERE), at(0, "localhost"));
        let others = [foreign.clone(), at(0, SIBLING), at(1, ELSEWHERE)];
        chromium.forget_cookies();
        let tab = chromium.tab();
        tab.open(&format!("{own}/"));
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page(), Page::new(2, "ada", &["You are signed in."]));
        test(&Stage { own, foreign, others, tab, _sites: sites });
    }
}

impl Stage<'_> {
    fn open(&self, origin: &str, path: &str) {
        self.tab.open(&format!("{origin}{path}"));
    }

    /// Sends a form from the page that is shown.
    fn post(&self, url: &str) {
        post(&self.tab, url);
    }

    /// The user that the application sees.
    fn user(&self) -> Option<String> {
        self.open(&self.own, "/");
        self.tab.page().user
    }
}

/// Sends a form from the page of a tab.
fn post(tab: &Tab<'_>, url: &str) {
    let script = format!(
        "const form = document.createElement('form');
         form.method = 'post';
         form.action = '{url}';
         document.body.append(form);
         form.submit();"
    );
    tab.leave(|| drop(tab.script(&script)));
}

fn text(tab: &Tab<'_>) -> String {
    serde_json::from_value(tab.script("return document.body.textContent")).unwrap()
}

#[test]
fn a_form_of_another_origin_is_refused() {
    on_servers(|stage| {
        for other in &stage.others {
            stage.open(other, "/blank");
            stage.post(&format!("{}/sign-out-silently", stage.own));
            assert_eq!(text(&stage.tab), REFUSED, "{other}");
            assert_eq!(stage.user().as_deref(), Some("ada"), "{other}");
        }
    });
}

#[test]
fn a_script_of_another_origin_changes_nothing() {
    on_servers(|stage| {
        for other in &stage.others {
            for options in [
                "mode: 'no-cors'",
                "mode: 'cors', headers: { 'Content-Type': 'text/plain' }",
                "mode: 'cors', headers: { 'Content-Type': 'application/json' }, body: '{}'",
                "mode: 'cors', headers: { 'X-Forwarded-Host': 'localhost' }",
            ] {
                stage.open(other, "/blank");
                let ended = stage.tab.script(&format!(
                    "return fetch('{}/sign-out-silently', {{
                         method: 'POST', credentials: 'include', {options}
                     }}).then(() => 'answered', () => 'failed')",
                    stage.own
                ));
                assert!(ended == "answered" || ended == "failed", "{ended}");
                assert_eq!(stage.user().as_deref(), Some("ada"), "{other}: {options}");
            }
        }
    });
}

#[test]
fn a_link_of_another_origin_shows_the_users_page() {
    on_servers(|stage| {
        for other in &stage.others {
            stage.open(other, "/blank");
            let link = format!("document.body.innerHTML = '<a href=\"{}/\">Go</a>'", stage.own);
            stage.tab.script(&link);
            stage.tab.follow("a");
            assert_eq!(stage.tab.page().user.as_deref(), Some("ada"), "{other}");
        }
    });
}

#[test]
fn a_form_that_another_origin_redirects_is_refused() {
    on_servers(|stage| {
        for other in &stage.others {
            let last = format!("{}/sign-out-silently", stage.own);
            stage.open(&stage.own, "/blank");
            stage.post(&format!("{}/bounce?to={other}/bounce?to={last}", stage.own));
            assert_eq!(text(&stage.tab), REFUSED, "{other}");
            assert_eq!(stage.user().as_deref(), Some("ada"));
        }
        stage.open(&stage.own, "/blank");
        stage.post(&format!("{0}/bounce?to={0}/sign-out-silently", stage.own));
        assert_eq!(stage.user(), None, "its own form, redirected by itself");
    });
}

#[test]
fn a_form_of_an_identity_provider_signs_in_where_it_may() {
    on_servers(|stage| {
        stage.open(&stage.foreign, "/blank");
        stage.post(&format!("{}/careless", stage.own));
        assert_eq!(stage.user().as_deref(), Some("ada"), "no new session replaces the user's");
        stage.open(&stage.foreign, "/blank");
        stage.post(&format!("{}/callback", stage.own));
        assert_eq!(stage.tab.page().user.as_deref(), Some("bob"));
        assert_eq!(stage.user().as_deref(), Some("bob"));
    });
}

/// A browser sends no `Sec-Fetch-Site` over plain HTTP, except to this machine.
#[test]
fn over_plain_http_a_form_of_another_origin_is_refused_too() {
    let Some(programs) = Programs::find() else { return };
    let chromium = Chromium::start(&programs);
    for name in EXAMPLES {
        let folder = Folder::new();
        let server = Example::start(name, &folder, CookieKind::InsecureHttp);
        chromium.forget_cookies();
        let tab = chromium.tab();
        for other in ["127.0.0.1", SIBLING] {
            tab.open(&server.url(other));
            post(&tab, &format!("{}sign-in", server.url(ELSEWHERE)));
            assert_eq!(text(&tab), REFUSED, "{other}");
        }
        tab.open(&server.url(ELSEWHERE));
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page(), Page::new(2, "ada", &["You are signed in."]), "its own form");
        let log = server.stop();
        for other in ["127.0.0.1", SIBLING] {
            let origin = format!("the origin \"http://{other}:");
            let is_refusal = |line: &&String| line.contains("refused") && line.contains(&origin);
            assert_eq!(log.iter().filter(is_refusal).count(), 1, "{log:#?}");
        }
    }
}
