//! Forms with a CSRF token, for a site that adds them to the check of the origin.

use crate::common::chromium::{Page, Tab};
use crate::site::{EXPIRED_FORM, Setting, on_each_adapter};

fn forge(tab: &Tab<'_>, value: &str) {
    let script = "document.querySelectorAll('input[name=csrf]').forEach(i => i.value = V)";
    tab.script(&script.replace('V', &format!("'{value}'")));
}

#[track_caller]
fn assert_refused(tab: &Tab<'_>) {
    assert_eq!(tab.script("return document.body.textContent"), EXPIRED_FORM);
}

#[test]
fn a_form_without_the_sessions_token_is_refused() {
    on_each_adapter(Setting::Defaults, |tab, site| {
        tab.open(&site.url("/"));
        forge(tab, "");
        tab.sign_in("ada", "demo");
        assert_refused(tab);
        tab.open(&site.url("/"));
        assert_eq!(tab.page(), Page::new(2, None, &[]));
    });
}

#[test]
fn a_token_from_before_the_sign_in_is_refused() {
    on_each_adapter(Setting::Defaults, |tab, site| {
        tab.open(&site.url("/"));
        let old = tab.script("return document.querySelector('input[name=csrf]').value");
        tab.sign_in("ada", "demo");
        assert_eq!(tab.page().user.as_deref(), Some("ada"));
        forge(tab, old.as_str().unwrap());
        tab.sign_out();
        assert_refused(tab);
        tab.open(&site.url("/"));
        assert_eq!(tab.page().user.as_deref(), Some("ada"));
    });
}
