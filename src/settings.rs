//! The settings of a manager, and the carrier of the id that they choose.
//!
//! Built by the manager; read by every session.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use crate::backend::MaxSessions;
use crate::clock::Timestamp;
use crate::cookie::CookieConfig;
use crate::cross_origin::CrossOrigin;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Realm, RealmTag, SessionId};
use crate::lifetime::Lifetime;
use crate::message::RequestHead;
use crate::policy::humanize;
use crate::record::{Client, duration_to_millis};

/// The behaviour of a request whose session cannot be read because the store fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLoadFailure {
    /// The request receives the error.
    #[default]
    Fail,
    /// The request continues without a session: reads find no values, every change fails with
    /// [`Unavailable`](ErrorKind::Unavailable), and the response neither sends nor removes a
    /// cookie.
    TreatAsAnonymous,
}

/// The carrier of the id: a cookie or a header.
#[derive(Clone, Debug)]
pub(crate) enum IdCarrier {
    Cookie(CookieConfig),
    Header(String),
}

/// A response header field that carries or removes the id: name and value.
pub(crate) type IdField = (Cow<'static, str>, String);

/// The settings of a manager whose value or default depends on the carrier of the id. The builder
/// resolves them when it builds the manager.
#[derive(Debug)]
pub(crate) struct IdSettings {
    /// The carrier, whose cookie has keys for the realm.
    pub(crate) carrier: IdCarrier,
    /// The cookie under its former names. Sessions under them move to the current name.
    pub(crate) former_cookies: Vec<CookieConfig>,
    /// The realm of this manager, and its tag in the hashes of ids.
    pub(crate) realm: Realm,
    pub(crate) realm_tag: RealmTag,
    pub(crate) cross_origin: CrossOrigin,
}

/// The other settings of a manager, as the application sets them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) lifetime: Lifetime,
    /// The lifetime of sessions whose cookie the browser deletes when it is closed; `lifetime` if
    /// `None`.
    pub(crate) browser_session_lifetime: Option<Lifetime>,
    /// The lifetime of anonymous sessions, if the application sets one.
    pub(crate) anonymous_lifetime: Option<Lifetime>,
    /// The maximum number of anonymous sessions of the realm, if the cleaner limits it.
    pub(crate) max_anonymous: Option<u64>,
    pub(crate) persistent: bool,
    pub(crate) max_bytes: usize,
    pub(crate) renewal_grace: Duration,
    /// The age at which an id is renewed.
    pub(crate) renew_every: Option<Duration>,
    /// The maximum of [`set_idle_limit`](crate::Session::set_idle_limit), if the application sets
    /// one.
    pub(crate) max_idle_limit: Option<Duration>,
    pub(crate) on_load_failure: OnLoadFailure,
    pub(crate) keep_on_server_error: bool,
    pub(crate) max_sessions: Option<MaxSessions>,
    pub(crate) status_of: fn(ErrorKind) -> u16,
    /// The number of proxies that add to `X-Forwarded-For`.
    pub(crate) proxies: u8,
    pub(crate) record_address: bool,
    pub(crate) record_user_agent: bool,
    pub(crate) no_store_when_signed_in: bool,
    pub(crate) no_store_with_csrf_token: bool,
    pub(crate) end_session_on_replaced_id: bool,
    pub(crate) clear_site_data: bool,
}

impl IdSettings {
    /// Returns the names of the cookies that can carry an id: the current one and the former ones.
    pub(crate) fn cookie_names(&self) -> impl Iterator<Item = &str> {
        let current = match &self.carrier {
            IdCarrier::Cookie(cookie) => Some(&*cookie.name),
            IdCarrier::Header(_) => None,
        };
        current.into_iter().chain(self.former_cookies.iter().map(|former| &*former.name))
    }

    /// Returns whether a `Cookie` field may contain an id: a fast search for the names anywhere in
    /// the field.
    pub(crate) fn may_contain_id(&self, field: &str) -> bool {
        self.cookie_names().any(|name| field.contains(name))
    }

    /// Returns the response header fields that remove the cookies of former names.
    pub(crate) fn former_removals(&self) -> impl Iterator<Item = IdField> {
        self.former_cookies.iter().map(|former| set_cookie(former.remove()))
    }
}

impl Settings {
    /// Returns the lifetime of a signed-in session whose cookie is `persistent`.
    pub(crate) fn signed_in_lifetime(&self, persistent: bool) -> Lifetime {
        self.browser_session_lifetime.filter(|_| !persistent).unwrap_or(self.lifetime)
    }

    /// Returns the lifetime of an anonymous session whose cookie is `persistent`.
    pub(crate) fn anonymous_lifetime(&self, persistent: bool) -> Lifetime {
        let make_default = || Lifetime::anonymous(self.signed_in_lifetime(persistent));
        self.anonymous_lifetime.unwrap_or_else(make_default)
    }

    /// Returns the idle limit that a handler sets for a session of this lifetime, in whole
    /// milliseconds; an error if it is too short or too long.
    pub(crate) fn checked_idle_limit(
        &self,
        limit: Duration,
        lifetime: &Lifetime,
        operation: &'static str,
    ) -> Result<Duration> {
        let default_max = lifetime.idle_limit().or(lifetime.absolute_limit());
        let max = self.max_idle_limit.or(default_max).unwrap_or(Duration::MAX);
        let limit = Duration::from_millis(duration_to_millis(limit));
        if limit.is_zero() || limit > max {
            let why = format!(
                "an idle limit of this session is from 1 ms to {}: see max_idle_limit",
                humanize(max)
            );
            return Err(Error::with_source(ErrorKind::Invalid, operation, why));
        }
        Ok(limit)
    }

    /// Returns the parts of the client that the settings record.
    pub(crate) fn client(&self, head: &RequestHead<'_>, address: Option<IpAddr>) -> Option<Client> {
        (self.record_address || self.record_user_agent).then(|| {
            let address = address.filter(|_| self.record_address);
            Client::new(address, head.user_agent.filter(|_| self.record_user_agent))
        })
    }
}

impl IdCarrier {
    /// Returns the request header that carries the id.
    pub(crate) fn request_header(&self) -> Cow<'static, str> {
        match self {
            IdCarrier::Cookie(_) => Cow::Borrowed("Cookie"),
            IdCarrier::Header(name) => Cow::Owned(name.clone()),
        }
    }

    /// Returns the response header field that issues an id.
    pub(crate) fn issue(
        &self,
        id: &SessionId,
        max_age: Option<Duration>,
        now: Timestamp,
    ) -> Vec<IdField> {
        vec![match self {
            IdCarrier::Cookie(cookie) => set_cookie(cookie.issue(id, max_age, now)),
            IdCarrier::Header(name) => (Cow::Owned(name.clone()), id.reveal()),
        }]
    }

    /// Returns the response header fields that remove the id; none if a header carries it. With
    /// `overwrite`, the cookie is overwritten first, because Chromium's back/forward cache may miss
    /// a removal:
    /// [`no_store_when_signed_in`](crate::manager::SessionManagerBuilder::no_store_when_signed_in).
    pub(crate) fn remove(&self, overwrite: bool) -> Vec<IdField> {
        match self {
            IdCarrier::Cookie(cookie) if overwrite => {
                vec![set_cookie(cookie.overwrite()), set_cookie(cookie.remove())]
            }
            IdCarrier::Cookie(cookie) => vec![set_cookie(cookie.remove())],
            IdCarrier::Header(_) => Vec::new(),
        }
    }
}

fn set_cookie(value: String) -> IdField {
    (Cow::Borrowed("Set-Cookie"), value)
}
