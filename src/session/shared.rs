//! What all sessions of one manager share.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cleaner::Cleaner;
use crate::clock::{Clock, Timestamp};
use crate::cookie::CookieConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::http::{HostText, RequestHead, is_loopback};
use crate::id::{SessionId, SessionKey};
use crate::lifetime::Lifetime;
use crate::process::Process;
use crate::record::{Client, Record, Touch};
use crate::session::endings::Endings;
use crate::session::guessing::Guessing;
use crate::session::update_queue::UpdateQueues;
use crate::store::{Admit, Former, Loaded, Store};

/// Touches of sessions with a shorter idle limit do not wait for others.
const SHORT_IDLE: Duration = Duration::from_secs(60);

/// Touches of sessions that end of idleness sooner than this do not wait for others: the cleaner
/// takes up to a second.
const SOON: Duration = Duration::from_secs(2);

/// The longest that a request is expected to take. A session that would end of idleness meanwhile
/// is touched when it is first used, others at the end of the request.
const LONGEST_REQUEST: Duration = Former::REMEMBERED;

/// What a request gets whose session cannot be read because the store fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLoadFailure {
    /// The error.
    #[default]
    Fail,
    /// No session: reading sees nothing, and every change is
    /// [`Unavailable`](ErrorKind::Unavailable). No cookie is sent or removed.
    ReadAsEmpty,
}

/// How the id travels.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Cookie(CookieConfig),
    Header(String),
}

/// How a call is made that may block its thread: it is handed the call, and makes it once.
pub type Crossing = fn(&mut dyn FnMut());

/// Makes a call that may block; without a crossing on this thread, as it is.
pub(crate) fn cross<T>(by: Option<Crossing>, call: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(by) = by else { return call() };
    let (mut call, mut result) = (Some(call), None);
    by(&mut || result = call.take().map(|call| call()));
    let none = || Error::with_source(ErrorKind::Unexpected, "make a call", "it was not made once");
    result.ok_or_else(none)?
}

/// A manager's configuration.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) transport: Transport,
    pub(crate) lifetime: Lifetime,
    /// The lifetime of sessions whose cookie ends with the browser; the usual one if `None`.
    pub(crate) browser_session: Option<Lifetime>,
    pub(crate) persistent: bool,
    pub(crate) max_bytes: usize,
    pub(crate) grace: Option<Duration>,
    pub(crate) on_load_failure: OnLoadFailure,
    pub(crate) keep_on_server_error: bool,
    pub(crate) admit: Option<Admit>,
    pub(crate) status_of: fn(ErrorKind) -> u16,
    /// How many proxies have added to `X-Forwarded-For`.
    pub(crate) proxies: u8,
    pub(crate) record_address: bool,
    pub(crate) record_user_agent: bool,
    pub(crate) no_store_when_signed_in: bool,
    pub(crate) clear_site_data: bool,
}

pub(crate) struct Shared {
    /// The one in which the manager was made.
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) cleaner: Option<Cleaner>,
    pub(crate) settings: Settings,
    pub(crate) endings: Endings,
    pub(crate) guessing: Guessing,
    pub(crate) updates: UpdateQueues,
}

impl Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The ids that a request presents, as far as they are looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented {
    pub(crate) ids: [Option<(SessionId, bool)>; Presented::MAX],
    /// Something stood in the place of an id that none of ours can be.
    pub(crate) malformed: bool,
}

impl Presented {
    /// More ids than this are not tried: whoever sends them is no browser of ours.
    const MAX: usize = 4;

    fn add(&mut self, read: Option<(SessionId, bool)>) {
        let Some((id, outdated)) = read else {
            self.malformed = true;
            return;
        };
        let known = self.ids.iter().flatten().any(|(have, _)| *have == id);
        if !known && let Some(free) = self.ids.iter_mut().find(|slot| slot.is_none()) {
            *free = Some((id, outdated));
        }
    }

    /// Nothing was presented, not even something malformed.
    pub(crate) fn is_empty(&self) -> bool {
        !self.malformed && self.ids.iter().all(Option::is_none)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionKey> {
        self.ids.iter().flatten().map(|(id, _)| id.key())
    }
}

impl Transport {
    /// Finds the ids; no I/O, no allocation where there is none.
    pub(crate) fn presented(&self, head: &RequestHead<'_>) -> Presented {
        let mut presented = Presented::default();
        match self {
            Transport::Cookie(cookie) => {
                for header in head.cookies.iter().flatten() {
                    for value in cookie.values(header) {
                        // An empty value is what a removal leaves in some clients.
                        if !value.is_empty() {
                            presented.add(cookie.read(value));
                        }
                    }
                }
            }
            Transport::Header(_) => {
                if let Some(text) = head.id {
                    presented.add(SessionId::parse(text).map(|id| (id, false)));
                }
            }
        }
        presented
    }

    /// The request header that carries the id.
    pub(crate) fn request_header(&self) -> Cow<'static, str> {
        match self {
            Transport::Cookie(_) => Cow::Borrowed("Cookie"),
            Transport::Header(name) => Cow::Owned(name.clone()),
        }
    }

    /// The response header that gives a client its id.
    pub(crate) fn issue(&self, id: &SessionId, max_age: Option<Duration>) -> (String, String) {
        match self {
            Transport::Cookie(cookie) => ("Set-Cookie".to_owned(), cookie.issue(id, max_age)),
            Transport::Header(name) => (name.clone(), id.reveal()),
        }
    }

    /// The response header that takes the id away, where there is such a thing.
    pub(crate) fn remove(&self) -> Option<(String, String)> {
        match self {
            Transport::Cookie(cookie) => Some(("Set-Cookie".to_owned(), cookie.remove())),
            Transport::Header(_) => None,
        }
    }
}

impl Settings {
    /// What is to be kept of the client.
    pub(crate) fn client(&self, head: &RequestHead<'_>, address: Option<IpAddr>) -> Option<Client> {
        (self.record_address || self.record_user_agent).then(|| {
            let address = address.filter(|_| self.record_address);
            Client::new(address, head.user_agent.filter(|_| self.record_user_agent))
        })
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The store, for whatever a request or the application wants of it.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] in a process that was forked from the manager's.
    pub(crate) fn store(&self) -> Result<&dyn Store> {
        self.process.check()?;
        Ok(&*self.store)
    }

    /// Counts something odd in place of an id: the key of an unknown one, or nothing better.
    pub(crate) fn count_guess(&self, address: Option<IpAddr>, key: Option<&SessionKey>) {
        // In a fork its lock may be held for ever.
        if self.process.is_current()
            && let Some((address, count)) = self.guessing.note(address, key, self.now())
        {
            self.events.raise(&Event::Guessing { address, count });
        }
    }

    /// Records that the session was used at `used`, if that is due `now`: by the cleaner, or at once
    /// where there is no time to wait.
    pub(crate) fn touch(
        &self,
        by: Option<Crossing>,
        key: SessionKey,
        record: &Record,
        used: Timestamp,
        now: Timestamp,
    ) {
        let Some(idle) = record.limits.idle else { return };
        if !record.limits.touch_due(record.seen, used) {
            return;
        }
        let touch = Touch::at(used);
        let at_once = idle < SHORT_IDLE || (record.seen + idle).since(now) <= SOON;
        let written = match &self.cleaner {
            Some(cleaner) if !at_once && cleaner.touch(key, touch) => Ok(()),
            _ => self.store().and_then(|store| cross(by, || store.touch(&[(key, touch)], now))),
        };
        // A request that only reads does not fail because its activity cannot be written.
        if let Err(error) = written {
            self.events.raise(&Event::TouchFailed { error: &error });
        }
    }

    /// The same for a session that is first used `now`, if it may end before the request does.
    pub(crate) fn touch_early(
        &self,
        by: Option<Crossing>,
        key: SessionKey,
        record: &mut Record,
        now: Timestamp,
    ) {
        let ends = record.limits.idle.map(|idle| record.seen + idle);
        if ends.is_some_and(|ends| ends.since(now) <= LONGEST_REQUEST) {
            self.touch(by, key, record, now, now);
            // Done, so that the end of the request does not do it again.
            record.touch(Touch::at(now));
        }
    }

    /// The same for a session that is not loaded, if the store has it in memory.
    pub(crate) fn touch_unread(&self, by: Option<Crossing>, presented: &Presented, now: Timestamp) {
        for key in presented.keys() {
            let loaded = self.store().ok().and_then(|store| store.try_load(&key, now));
            if let Some(Loaded::Live { mut record, key }) = loaded {
                return self.touch_early(by, key, &mut record, now);
            }
        }
    }

    /// The host of a request to which a browser would drop our cookie, until somebody was told.
    pub(crate) fn insecure_host<'r>(&self, head: &RequestHead<'r>) -> Option<&'r str> {
        let Transport::Cookie(cookie) = &self.settings.transport else { return None };
        let host = head.host.filter(|_| cookie.is_secure() && !head.secure)?;
        (!TOLD.load(Ordering::Relaxed) && !is_loopback(host)).then_some(host)
    }

    /// Tells once a process that browsers drop the cookie that is being sent.
    pub(crate) fn warn_if_insecure(&self, host: Option<&HostText>) {
        if let Some(host) = host
            && !TOLD.swap(true, Ordering::Relaxed)
        {
            self.events.raise(&Event::InsecureConnection { host: host.as_str() });
        }
    }
}

/// Whether somebody was told that browsers drop the cookie.
static TOLD: AtomicBool = AtomicBool::new(false);
