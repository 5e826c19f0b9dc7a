//! The state that all sessions of one manager share: its settings, its store, and the ids that a
//! request presents.
//!
//! Uses the modules below `session`. The manager makes one context; every session holds it.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backend::{LiveSession, Lookup, ReplacedId, SessionLimit, Store};
use crate::cleaner::Cleaner;
use crate::clock::{Clock, Timestamp};
use crate::cookie::{CookieConfig, OVERWRITTEN};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Events};
use crate::id::{PublicId, Realm, RealmTag, SessionId, SessionIdHash};
use crate::lifetime::Lifetime;
use crate::message::{RequestHead, SmallList, is_loopback, is_webkit};
use crate::process::Process;
use crate::record::{Client, Touch};
use crate::session::guess_detector::GuessDetector;
use crate::session::recently_ended::RecentlyEnded;
use crate::session::update_queue::UpdateQueues;
use crate::sync::{IgnorePoison, Mutex};

/// Sessions with a shorter idle limit are touched without waiting for a batch.
const SHORT_IDLE: Duration = Duration::from_secs(60);

/// Sessions that reach their idle limit within this time are touched without waiting for a batch,
/// because the cleaner takes up to a second.
const TOUCH_IMMEDIATELY_WITHIN: Duration = Duration::from_secs(2);

/// The maximum expected duration of a request, uploads and long polls included. A session that
/// would reach its idle limit within this time is touched at its first use, others at the end of
/// the request.
const MAX_REQUEST_TIME: Duration = ReplacedId::REMEMBERED;

/// The behavior of a request whose session cannot be read because the store fails.
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
pub(crate) enum Transport {
    Cookie(CookieConfig),
    Header(String),
}

/// A former name of the cookie, with the realm of its ids.
#[derive(Clone, Debug)]
pub(crate) struct FormerCookie {
    pub(crate) cookie: CookieConfig,
    pub(crate) realm: RealmTag,
}

/// A response header field that carries or removes the id: name and value.
pub(crate) type IdField = (Cow<'static, str>, String);

/// A function that makes a blocking call. It receives the call and must run it exactly once.
pub type BlockingHook = fn(&mut dyn FnMut());

/// Makes a call that may block, through the hook if there is one.
pub(crate) fn run_blocking<T>(
    hook: Option<BlockingHook>,
    call: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(hook) = hook else { return call() };
    let (mut call, mut result) = (Some(call), None);
    hook(&mut || result = call.take().map(|call| call()));
    let none = || {
        Error::with_source(ErrorKind::Unexpected, "make a blocking call", "the hook did not run it")
    };
    result.ok_or_else(none)?
}

/// The configuration of a manager.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) transport: Transport,
    /// The realm of this manager, and its tag in the hashes of ids.
    pub(crate) realm: Realm,
    pub(crate) realm_tag: RealmTag,
    /// The former names of the cookie. Sessions under them move to the current name.
    pub(crate) former: Vec<FormerCookie>,
    pub(crate) lifetime: Lifetime,
    /// The lifetime of sessions whose cookie the browser drops when it is closed; `lifetime` if
    /// `None`.
    pub(crate) browser_session: Option<Lifetime>,
    pub(crate) persistent: bool,
    pub(crate) max_bytes: usize,
    pub(crate) grace: Option<Duration>,
    pub(crate) on_load_failure: OnLoadFailure,
    pub(crate) keep_on_server_error: bool,
    pub(crate) session_limit: Option<SessionLimit>,
    pub(crate) status_of: fn(ErrorKind) -> u16,
    /// The number of proxies that add to `X-Forwarded-For`.
    pub(crate) proxies: u8,
    pub(crate) record_address: bool,
    pub(crate) record_user_agent: bool,
    pub(crate) no_store_when_signed_in: bool,
    pub(crate) form_pages_no_store: bool,
    pub(crate) end_session_on_replaced_id: bool,
    pub(crate) clear_site_data: bool,
}

pub(crate) struct Context {
    /// The process that made the manager.
    pub(crate) process: Process,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) cleaner: Option<Cleaner>,
    pub(crate) settings: Settings,
    pub(crate) recently_ended: RecentlyEnded,
    pub(crate) guess_detector: GuessDetector,
    /// The time at which a session was last dropped without being closed.
    pub(crate) dropped: Mutex<Option<Timestamp>>,
    pub(crate) updates: UpdateQueues,
}

impl Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("store", &self.store).finish_non_exhaustive()
    }
}

/// An id that a request presents.
#[derive(Clone, Debug)]
pub(crate) struct PresentedId {
    pub(crate) id: SessionId,
    pub(crate) realm: RealmTag,
    /// The cookie was sealed with an old key.
    pub(crate) outdated: bool,
    /// The cookie has a former name.
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

/// The ids that a request presents, within the bounds below.
#[derive(Clone, Debug, Default)]
pub(crate) struct Presented {
    /// The distinct ids in the order of the request, those of former names last.
    pub(crate) ids: SmallList<PresentedId, 4>,
    /// The hash of the first malformed id, if there was one.
    pub(crate) malformed: Option<u64>,
    /// Whether the request exceeded a bound.
    pub(crate) too_many: bool,
}

impl Presented {
    /// The maximum number of distinct ids that are looked up, and of distinct values that are
    /// unsealed. A browser presents one; further ones may be planted by other hosts or paths.
    const MAX_IDS: usize = 16;

    /// The maximum number of cookies of the session cookie's name that are examined, well-formed or
    /// not. Cookies of other names do not count, so only a host that can plant one of this name can
    /// hide the id.
    const MAX_COOKIES: usize = 256;

    /// The number of bytes of a malformed id that are hashed.
    const MAX_HASHED: usize = 4096;

    /// Searches the `Cookie` fields of a request for ids.
    fn look_in_cookies<'r>(
        &mut self,
        cookie: &CookieConfig,
        (realm, former): (RealmTag, bool),
        fields: impl Iterator<Item = &'r str>,
    ) {
        let mut unsealed: SmallList<&str, 4> = SmallList::default();
        let values = fields.flat_map(|field| cookie.values(field));
        for (number, value) in values.enumerate() {
            if number == Self::MAX_COOKIES {
                self.too_many = true;
                break;
            }
            // Some clients keep an empty value after a removal.
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
            // Several realms can have one former name. A value that does not open for this one is
            // not malformed, because it may be sealed for another.
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

    /// Returns whether the request presented neither an id nor a malformed one.
    pub(crate) fn is_empty(&self) -> bool {
        self.malformed.is_none() && self.ids.is_empty()
    }

    pub(crate) fn id_hashes(&self) -> impl Iterator<Item = SessionIdHash> {
        self.ids.iter().map(PresentedId::id_hash)
    }
}

impl Settings {
    /// Finds the ids of a request. Does no I/O, and allocates only if there are many.
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

    /// Returns whether a `Cookie` field may contain an id: a fast search for the names anywhere in
    /// it.
    pub(crate) fn may_contain_id(&self, field: &str) -> bool {
        match &self.transport {
            Transport::Cookie(cookie) => {
                let former = self.former.iter().map(|former| former.cookie.name_text());
                std::iter::once(cookie.name_text()).chain(former).any(|name| field.contains(name))
            }
            Transport::Header(_) => false,
        }
    }

    /// Returns the response header fields that remove the cookies of former names.
    pub(crate) fn remove_former(&self) -> impl Iterator<Item = IdField> {
        self.former_cookies().map(|cookie| set_cookie(cookie.remove()))
    }

    /// Returns one cookie for each former name, whatever its number of realms.
    pub(crate) fn former_cookies(&self) -> impl Iterator<Item = &CookieConfig> {
        let mut last = None;
        self.former.iter().map(|former| &former.cookie).filter(move |cookie| {
            let name = Some(cookie.name_text());
            std::mem::replace(&mut last, name) != name
        })
    }
}

impl Transport {
    /// Returns the request header that carries the id.
    pub(crate) fn request_header(&self) -> Cow<'static, str> {
        match self {
            Transport::Cookie(_) => Cow::Borrowed("Cookie"),
            Transport::Header(name) => Cow::Owned(name.clone()),
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
            Transport::Cookie(cookie) => set_cookie(cookie.issue(id, max_age, now)),
            Transport::Header(name) => (Cow::Owned(name.clone()), id.reveal()),
        }]
    }

    /// Returns the response header fields that remove the id; none if a header carries it. With
    /// `overwrite`, the cookie is overwritten first: a browser notices that even where it would
    /// ignore the removal because of an older write of the same page.
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
    /// Returns the parts of the client that the settings record.
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

    /// Returns the store.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] in a process that was forked from the manager's.
    pub(crate) fn store(&self) -> Result<&dyn Store> {
        self.process.check()?;
        Ok(&*self.store)
    }

    /// Counts a malformed or unknown id by its hash, and raises the event when it is due.
    pub(crate) fn count_guess(&self, address: Option<IpAddr>, hash: u64) {
        // In a forked process the lock may never be released.
        if self.process.is_current()
            && let Some((address, count)) = self.guess_detector.count(address, hash, self.now())
        {
            self.events.raise(&Event::IdGuessing { address, count });
        }
    }

    /// Raises the event that a session was dropped without being closed, at most once a second.
    pub(crate) fn dropped(&self, public_id: Option<&PublicId>) {
        // In a forked process the lock may never be released.
        if !self.process.is_current() {
            return;
        }
        let now = self.now();
        let mut last = self.dropped.lock().ignore_poison();
        // If the clock was set back, the event is raised.
        if last.is_none_or(|last| now < last || now.since(last) >= Duration::from_secs(1)) {
            *last = Some(now);
            drop(last);
            self.events.raise(&Event::Dropped { public_id });
        }
    }

    /// Records activity at `used`, if that is due: through the cleaner, or immediately if the
    /// session would end before the cleaner runs.
    pub(crate) fn touch(
        &self,
        hook: Option<BlockingHook>,
        LiveSession { record, id_hash }: &LiveSession,
        used: Timestamp,
        now: Timestamp,
    ) {
        let Some(idle) = record.limits.idle else { return };
        if !record.limits.touch_due(record.seen, used) {
            return;
        }
        let touch = Touch::at(used);
        let left = (record.seen + idle).since(now);
        let immediately = idle < SHORT_IDLE || left <= TOUCH_IMMEDIATELY_WITHIN;
        let written = match &self.cleaner {
            Some(cleaner) if !immediately && cleaner.touch(*id_hash, touch) => Ok(()),
            _ => self.store().and_then(|store| {
                run_blocking(hook, || Ok(store.touch(&[(*id_hash, touch)], now)?))
            }),
        };
        // A failed touch must not fail a request that only reads.
        if let Err(error) = written {
            self.events.raise(&Event::TouchFailed { sessions: 1, error: &error });
        }
    }

    /// Records activity at the first use of a session, if the session may reach its idle limit
    /// before the request ends.
    pub(crate) fn touch_early(
        &self,
        hook: Option<BlockingHook>,
        session: &mut LiveSession,
        now: Timestamp,
    ) {
        let record = &session.record;
        let ends = record.limits.idle.map(|idle| record.seen + idle);
        if ends.is_some_and(|ends| ends.since(now) <= MAX_REQUEST_TIME) {
            self.touch(hook, session, now, now);
            // The end of the request then does not record it again.
            session.record.touch(Touch::at(now));
        }
    }

    /// Records activity at the first use in the same way for a session that is not loaded, if the
    /// store has it in memory.
    pub(crate) fn touch_unread(
        &self,
        hook: Option<BlockingHook>,
        presented: &Presented,
        now: Timestamp,
    ) {
        for id_hash in presented.id_hashes() {
            let found = self.store().ok().and_then(|store| store.try_load(&id_hash, now));
            if let Some(Lookup::Live { mut session, .. }) = found {
                return self.touch_early(hook, &mut session, now);
            }
        }
    }

    /// Returns the host of a request whose browser drops the cookie, until the event was raised. On
    /// a loopback name only WebKit browsers drop it.
    pub(crate) fn insecure_host<'r>(&self, head: &RequestHead<'r>) -> Option<&'r str> {
        let Transport::Cookie(cookie) = &self.settings.transport else { return None };
        let host = head.host.filter(|_| cookie.is_secure() && !head.secure)?;
        let drops = !is_loopback(host) || head.user_agent.is_some_and(is_webkit);
        (drops && !was_warned(host).load(Ordering::Relaxed)).then_some(host)
    }

    /// Raises once per process the event that browsers drop the cookie that is being sent, and once
    /// more the event that WebKit browsers drop it on a loopback name.
    pub(crate) fn warn_if_insecure(&self, host: Option<&str>) {
        if let Some(host) = host
            && !was_warned(host).swap(true, Ordering::Relaxed)
        {
            self.events.raise(&Event::InsecureConnection { host });
        }
    }
}

/// Returns the flag that the event was raised for hosts like `host`.
fn was_warned(host: &str) -> &'static AtomicBool {
    static WARNED: AtomicBool = AtomicBool::new(false);
    static WARNED_OF_LOOPBACK: AtomicBool = AtomicBool::new(false);
    if is_loopback(host) { &WARNED_OF_LOOPBACK } else { &WARNED }
}
