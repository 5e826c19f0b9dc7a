//! Pages that the Back button shows.

use crate::common::chromium::Tab;
use crate::rounds;
use crate::site::{BrowserSite, EXPIRED_FORM, Setting, on_each_adapter};

/// Ends ada's session by another form than the page's; the answer begins no new one.
fn sign_out_silently(tab: &Tab<'_>) {
    tab.leave(|| {
        tab.script(
            "const form = document.createElement('form');
             form.method = 'post';
             form.action = '/sign-out-silently';
             document.body.append(form);
             form.submit();",
        );
    });
}

/// A page of ada's with a form, which is not the one that followed her sign-in.
fn open_as_ada(tab: &Tab<'_>, site: &BrowserSite) {
    tab.open(&site.url("/"));
    tab.sign_in("ada", "demo");
    tab.open(&site.url("/?again"));
    assert_eq!(tab.page().user.as_deref(), Some("ada"));
}

#[test]
fn back_after_a_sign_out_shows_no_form_of_the_user() {
    on_each_adapter(Setting::Defaults, |tab, site| {
        for sign_out in [Tab::sign_out, sign_out_silently] {
            open_as_ada(tab, site);
            sign_out(tab);
            tab.back();
            assert_eq!(tab.script("return location.search"), "?again");
            assert_eq!(tab.page().user, None);
        }
    });
}

#[test]
fn back_shows_the_dead_form_where_form_pages_may_be_kept() {
    on_each_adapter(Setting::FormPagesKept, |tab, site| {
        open_as_ada(tab, site);
        sign_out_silently(tab);
        tab.back();
        assert_eq!(tab.page().user.as_deref(), Some("ada"));
        tab.sign_out();
        assert_eq!(tab.script("return document.body.textContent"), EXPIRED_FORM);
    });
}

#[test]
fn back_shows_no_landing_page_of_a_sign_in_after_the_sign_out() {
    on_each_adapter(Setting::NoStoreWhenSignedIn, |tab, site| {
        let mut restored = 0;
        let rounds = rounds(2);
        for _ in 0..rounds {
            tab.open(&site.url("/"));
            tab.sign_in("ada", "demo");
            assert_eq!(tab.page().user.as_deref(), Some("ada"));
            sign_out_silently(tab);
            tab.back();
            restored += u32::from(tab.page().user.is_some());
        }
        println!("restored: {restored} of {rounds}");
        assert_eq!(restored, 0, "of {rounds}");
    });
}
