//! Events that are raised once per process, about the server's configuration.
//!
//! Called when a session is opened, and when a response issues an id.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::context::Context;
use crate::event::{Event, RejectingBrowsers};
use crate::message::{RequestHead, is_loopback, is_webkit};
use crate::settings::IdCarrier;

impl Context {
    /// Raises once per process the event that a proxy forwards requests, but the addresses of its
    /// clients are not used.
    pub(crate) fn warn_if_proxied(&self, head: &RequestHead<'_>) {
        static WARNED: AtomicBool = AtomicBool::new(false);
        let is_unknown = self.settings.proxies == 0 && head.is_forwarded();
        if is_unknown && !WARNED.load(Ordering::Relaxed) && !WARNED.swap(true, Ordering::Relaxed) {
            self.events.raise(&Event::UnknownProxy { peer: head.peer_addr });
        }
    }

    /// Returns the browsers that reject the cookie of a response to this request; `None` if its
    /// browser accepts it.
    pub(crate) fn rejecting_browsers(&self, head: &RequestHead<'_>) -> Option<RejectingBrowsers> {
        let IdCarrier::Cookie(cookie) = &self.id_settings.carrier else { return None };
        let host = head.host.once().filter(|_| cookie.secure && !head.secure)?;
        if !is_loopback(host) {
            return Some(RejectingBrowsers::Any);
        }
        head.user_agent.is_some_and(is_webkit).then_some(RejectingBrowsers::WebKit)
    }

    /// Raises the event that a browser rejects the cookie that is being sent, once per process and
    /// kind of browser.
    pub(crate) fn warn_if_rejected(&self, browsers: Option<RejectingBrowsers>) {
        static WARNED: AtomicBool = AtomicBool::new(false);
        static WARNED_OF_WEBKIT: AtomicBool = AtomicBool::new(false);
        let Some(browsers) = browsers else { return };
        let warned = match browsers {
            RejectingBrowsers::Any => &WARNED,
            RejectingBrowsers::WebKit => &WARNED_OF_WEBKIT,
        };
        if !warned.swap(true, Ordering::Relaxed) {
            self.events.raise(&Event::InsecureConnection { browsers });
        }
    }
}
