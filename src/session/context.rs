//! What all sessions of one manager share.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::backend::{LiveSession, Lookup, ReplacedId, SessionLimit, Store};
use crate::cleaner::Cleaner;
use crate::clock::{Clock, Timestamp};
use crate::cookie::{CookieConfig, OVERWRITTEN};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::http::{Few, HostText, RequestHead, is_loopback, is_webkit};
use crate::id::{PublicId, Realm, RealmTag, SessionId, SessionIdHash};
use crate::lifetime::Lifetime;
use crate::process::Process;
use crate::record::{Client, Record, Touch};
use crate::session::guess_detector::GuessDetector;
use crate::session::recently_ended::RecentlyEnded;
use crate::session::update_queue::UpdateQueues;
use crate::sync::Mutex;

/// Touches of sessions with a shorter idle limit do not wait for others.
const SHORT_IDLE: Duration = Duration::from_secs(60);

/// Touches of sessions that end of idleness sooner than this do not wait for others: the cleaner
/// takes up to a second.
const SOON: Duration = Duration::from_secs(2);

/// The longest that a request is expected to take. A session that would end of idleness meanwhile
/// is touched when it is first used, others at the end of the request.
const LONGEST_REQUEST: Duration = ReplacedId::REMEMBERED;

/// What a request gets whose session cannot be read because the store fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnLoadFailure {
    /// The error.
    #[default]
    Fail,
    /// No session: reading sees nothing, and every change is
    /// [`Unavailable`](ErrorKind::Unavailable). No cookie is sent or removed.
    TreatAsAnonymous,
}

/// How the id travels.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Cookie(CookieConfig),
    Header(String),
}

/// A cookie that carried the id before it was renamed.
#[derive(Clone, Debug)]
pub(crate) struct FormerCookie {
    pub(crate) cookie: CookieConfig,
    pub(crate) realm: RealmTag,
}

/// A response header field that carries the id or removes it: name and value.
pub(crate) type IdField = (Cow<'static, str>, String);

/// How a call is made that may block its thread: it is handed the call, and makes it once.
pub type BlockingHook = fn(&mut dyn FnMut());

/// Makes a call that may block; without a crossing on this thread, as it is.
pub(crate) fn run_blocking<T>(
    by: Option<BlockingHook>,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
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
    /// Whose ids count, and by what they are told from those of other realms.
    pub(crate) realm: Realm,
    pub(crate) realm_tag: RealmTag,
    /// Cookies of former names, whose sessions move to the one of today.
    pub(crate) former: Vec<FormerCookie>,
    pub(crate) lifetime: Lifetime,
    /// The lifetime of sessions whose cookie ends with the browser; the usual one if `None`.
    pub(crate) browser_session: Option<Lifetime>,
    pub(crate) persistent: bool,
    pub(crate) max_bytes: usize,
    pub(crate) grace: Option<Duration>,
    pub(crate) on_load_failure: OnLoadFailure,
    pub(crate) keep_on_server_error: bool,
    pub(crate) session_limit: Option<SessionLimit>,
    pub(crate) status_of: fn(ErrorKind) -> u16,
    /// How many proxies have added to `X-Forwarded-For`.
    pub(crate) proxies: u8,
    pub(crate) record_address: bool,
    pub(crate) record_user_agent: bool,
    pub(crate) no_store_when_signed_in: bool,
    pub(crate) form_pages_no_store: bool,
    pub(crate) end_session_on_replaced_id: bool,
    pub(crate) clear_site_data: bool,
}

pub(crate) struct Context {
    /// The one in which the manager was made.
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) cleaner: Option<Cleaner>,
    pub(crate) settings: Settings,
    pub(crate) recently_ended: RecentlyEnded,
    pub(crate) guess_detector: GuessDetector,
    /// When the last session was dropped that nothing had closed.
    pub(crate) dropped: Mutex<Option<Timestamp>>,
    pub(crate) updates: UpdateQueues,
}

impl Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("store", &self.store).finish_non_exhaustive()
    }
}

/// An id that a request presents.
#[derive(Clone, Debug)]
pub(crate) struct PresentedId {
    pub(crate) id: SessionId,
    pub(crate) realm: RealmTag,
    /// It was sealed with an old key.
    pub(crate) outdated: bool,
    /// It came under a name that the cookie had before.
    pub(crate) former: bool,
}

impl PresentedId {
    pub(crate) fn id_hash(&self) -> SessionIdHash {
        self.id.hash(self.realm)
    }

    fn is_same(&self, other: &PresentedId) -> bool {
        self.id == other.id && self.realm == other.realm
    }
}

/// The ids that a request presents, as far as they are looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented {
    /// Distinct ids in the order in which they came, those of former names last.
    pub(crate) ids: Few<PresentedId, 4>,
    /// The hash of something in the place of an id that no id of ours can be, if there was such.
    pub(crate) malformed: Option<u64>,
    /// There was more than is looked at.
    pub(crate) too_many: bool,
}

impl Presented {
    /// The most distinct ids that are looked up, and the most distinct values that are unsealed.
    /// One browser has one; the others are those that other hosts or paths may have planted.
    const MAX_IDS: usize = 16;

    /// The most cookies of our name that are looked at, ids or not. Other cookies do not count: who
    /// cannot plant one of our name cannot keep the id from being found either.
    const MAX_COOKIES: usize = 256;

    /// As much of something malformed is hashed.
    const MAX_HASHED: usize = 4096;

    /// Looks for ids in the `Cookie` fields of a request.
    fn look_in_cookies<'r>(
        &mut self,
        cookie: &CookieConfig,
        (realm, former): (RealmTag, bool),
        fields: impl Iterator<Item = &'r str>,
    ) {
        let mut unsealed: Few<&str, 4> = Few::default();
        let values = fields.flat_map(|field| cookie.values(field));
        for (number, value) in values.enumerate() {
            if number == Self::MAX_COOKIES {
                self.too_many = true;
                break;
            }
            // A removal leaves an empty value in some clients.
            if value.is_empty() || value == OVERWRITTEN {
                continue;
            }
            if cookie.is_sealed() {
                if unsealed.iter().any(|have| *have == value) {
                    continue;
                }
                if unsealed.len() == Self::MAX_IDS {
                    self.too_many = true;
                    break;
                }
                unsealed.push(value);
            }
            let read = cookie.read(value);
            // What is sealed for one of its realms does not open for the other.
            if former && read.is_none() {
                continue;
            }
            self.add(value, read.map(|(id, outdated)| PresentedId { id, realm, outdated, former }));
            if self.too_many {
                break;
            }
        }
    }

    fn add(&mut self, text: &str, read: Option<PresentedId>) {
        match read {
            None => {
                self.malformed.get_or_insert_with(|| {
                    let start = text.as_bytes().chunks(Self::MAX_HASHED).next();
                    BuildHasherDefault::<DefaultHasher>::default().hash_one((start, text.len()))
                });
            }
            Some(new) if self.ids.iter().any(|have| have.is_same(&new)) => {}
            Some(_) if self.ids.len() == Self::MAX_IDS => self.too_many = true,
            Some(read) => self.ids.push(read),
        }
    }

    /// Nothing was presented, not even something malformed.
    pub(crate) fn is_empty(&self) -> bool {
        self.malformed.is_none() && self.ids.is_empty()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = SessionIdHash> {
        self.ids.iter().map(PresentedId::id_hash)
    }
}

impl Settings {
    /// Finds the ids; no I/O, no allocation where there are few.
    pub(crate) fn presented(&self, head: &RequestHead<'_>) -> Presented {
        let mut presented = Presented::default();
        match &self.transport {
            Transport::Cookie(cookie) => {
                let own = (cookie, self.realm_tag, false);
                let former = self.former.iter().map(|former| (&former.cookie, former.realm, true));
                for (cookie, realm, former) in std::iter::once(own).chain(former) {
                    let fields = head.cookies.iter().copied();
                    let fields = fields.filter(|field| field.contains(cookie.name_text()));
                    presented.look_in_cookies(cookie, (realm, former), fields);
                }
            }
            Transport::Header(_) => {
                for text in head.ids.iter() {
                    let read = SessionId::parse(text).map(|id| PresentedId {
                        id,
                        realm: self.realm_tag,
                        outdated: false,
                        former: false,
                    });
                    presented.add(text, read);
                }
            }
        }
        presented
    }

    /// Whether a `Cookie` field can hold an id: a quick look for the names, anywhere in it.
    pub(crate) fn is_in_cookie(&self, field: &str) -> bool {
        match &self.transport {
            Transport::Cookie(cookie) => {
                let former = self.former.iter().map(|former| former.cookie.name_text());
                std::iter::once(cookie.name_text()).chain(former).any(|name| field.contains(name))
            }
            Transport::Header(_) => false,
        }
    }

    /// The response header fields that remove the cookies of former names.
    pub(crate) fn remove_former(&self) -> impl Iterator<Item = IdField> {
        self.former_cookies().map(|cookie| set_cookie(cookie.remove()))
    }

    /// One cookie of each former name, whatever the realms it is looked up in.
    pub(crate) fn former_cookies(&self) -> impl Iterator<Item = &CookieConfig> {
        let mut last = None;
        self.former.iter().map(|former| &former.cookie).filter(move |cookie| {
            let name = Some(cookie.name_text());
            std::mem::replace(&mut last, name) != name
        })
    }
}

impl Transport {
    /// The request header that carries the id.
    pub(crate) fn request_header(&self) -> Cow<'static, str> {
        match self {
            Transport::Cookie(_) => Cow::Borrowed("Cookie"),
            Transport::Header(name) => Cow::Owned(name.clone()),
        }
    }

    /// The response header field that gives a client its id.
    pub(crate) fn issue(
        &self,
        id: &SessionId,
        max_age: Option<Duration>,
        now: Timestamp,
    ) -> Vec<IdField> {
        vec![match self {
            Transport::Cookie(cookie) => set_cookie(cookie.issue(id, max_age, now)),
            Transport::Header(name) => (Cow::Owned(name.clone()), id.reveal()),
        }]
    }

    /// The response header fields that remove the id; none where the id travels in a header. With
    /// `overwrite`, the cookie gets another value first, which a browser notices even where it
    /// would drop the removal in favour of an older write of the same page.
    pub(crate) fn remove(&self, overwrite: bool) -> Vec<IdField> {
        match self {
            Transport::Cookie(cookie) if overwrite => {
                vec![set_cookie(cookie.overwrite()), set_cookie(cookie.remove())]
            }
            Transport::Cookie(cookie) => vec![set_cookie(cookie.remove())],
            Transport::Header(_) => Vec::new(),
        }
    }
}

fn set_cookie(value: String) -> IdField {
    (Cow::Borrowed("Set-Cookie"), value)
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

impl Context {
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

    /// Counts something odd in place of an id, by a hash of it.
    pub(crate) fn count_guess(&self, address: Option<IpAddr>, hash: u64) {
        // In a fork its lock may be held for ever.
        if self.process.is_current()
            && let Some((address, count)) = self.guess_detector.note(address, hash, self.now())
        {
            self.events.raise(&Event::IdGuessing { address, count });
        }
    }

    /// Raises that a session was dropped that nothing had closed, at most once a second.
    pub(crate) fn dropped(&self, public_id: Option<&PublicId>) {
        // In a fork the lock may be held for ever.
        if !self.process.is_current() {
            return;
        }
        let now = self.now();
        let mut last = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back keeps nothing from being raised.
        if last.is_none_or(|last| now < last || now.since(last) >= Duration::from_secs(1)) {
            *last = Some(now);
            drop(last);
            self.events.raise(&Event::Dropped { public_id });
        }
    }

    /// Records that the session was used at `used`, if that is due `now`: by the cleaner, or at once
    /// where there is no time to wait.
    pub(crate) fn touch(
        &self,
        by: Option<BlockingHook>,
        id_hash: SessionIdHash,
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
            Some(cleaner) if !at_once && cleaner.touch(id_hash, touch) => Ok(()),
            _ => self
                .store()
                .and_then(|store| run_blocking(by, || store.touch(&[(id_hash, touch)], now))),
        };
        // A request that only reads does not fail because its activity cannot be written.
        if let Err(error) = written {
            self.events.raise(&Event::TouchFailed { error: &error });
        }
    }

    /// The same for a session that is first used `now`, if it may end before the request does.
    pub(crate) fn touch_early(
        &self,
        by: Option<BlockingHook>,
        LiveSession { record, id_hash }: &mut LiveSession,
        now: Timestamp,
    ) {
        let ends = record.limits.idle.map(|idle| record.seen + idle);
        if ends.is_some_and(|ends| ends.since(now) <= LONGEST_REQUEST) {
            self.touch(by, *id_hash, record, now, now);
            // Done, so that the end of the request does not do it again.
            record.touch(Touch::at(now));
        }
    }

    /// The same for a session that is not loaded, if the store has it in memory.
    pub(crate) fn touch_unread(
        &self,
        by: Option<BlockingHook>,
        presented: &Presented,
        now: Timestamp,
    ) {
        for id_hash in presented.keys() {
            let found = self.store().ok().and_then(|store| store.try_load(&id_hash, now));
            if let Some(Lookup::Live { mut session, .. }) = found {
                return self.touch_early(by, &mut session, now);
            }
        }
    }

    /// The host of a request whose browser would drop our cookie, until somebody was told. On a
    /// loopback name only WebKit does.
    pub(crate) fn insecure_host<'r>(&self, head: &RequestHead<'r>) -> Option<&'r str> {
        let Transport::Cookie(cookie) = &self.settings.transport else { return None };
        let host = head.host.filter(|_| cookie.is_secure() && !head.secure)?;
        let drops = !is_loopback(host) || head.user_agent.is_some_and(is_webkit);
        (drops && !told(host).load(Ordering::Relaxed)).then_some(host)
    }

    /// Tells once a process that browsers drop the cookie that is being sent, and once that WebKit
    /// does so on a loopback name.
    pub(crate) fn warn_if_insecure(&self, host: Option<&HostText>) {
        if let Some(host) = host
            && !told(host.as_str()).swap(true, Ordering::Relaxed)
        {
            self.events.raise(&Event::InsecureConnection { host: host.as_str() });
        }
    }
}

/// Whether somebody was told that browsers drop the cookie of such a host.
fn told(host: &str) -> &'static AtomicBool {
    static TOLD: AtomicBool = AtomicBool::new(false);
    static TOLD_OF_LOOPBACK: AtomicBool = AtomicBool::new(false);
    if is_loopback(host) { &TOLD_OF_LOOPBACK } else { &TOLD }
}
