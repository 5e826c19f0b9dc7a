//! The session of one request: read lazily, changed in memory, committed at the end.

mod authentication;
mod changes;
mod endings;
mod guessing;
mod secret;
mod settle;
mod shared;
mod update_queue;

use std::fmt::{self, Debug};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock::Timestamp;
use crate::data::{Data, Value};
use crate::delta::Change;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::http::{HostText, RequestHead};
use crate::id::{Handle, SessionId, SessionKey, UserKey};
use crate::record::{Client, Record};
use crate::store::Loaded;
use crate::sync::{Mutex, MutexGuard};
use changes::Changes;
use endings::Moment;

pub use authentication::{Authentication, RecentAuth};
pub(crate) use endings::Endings;
pub(crate) use guessing::Guessing;
pub(crate) use secret::Secret;
pub use shared::{Crossing, OnLoadFailure};
pub(crate) use shared::{Presented, Settings, Shared, Transport, cross};
pub(crate) use update_queue::UpdateQueues;

/// The session of one request.
///
/// Nothing happens until it is used. The first read loads it; changes are collected and merged
/// into what is stored then, in one step, when the manager closes it: a request changes what it
/// changed and nothing else. Until something is written there is no session and no cookie.
///
/// Activity counts from the first use, however long the request takes after it. A request that only
/// writes is sure to keep its session alive from its first write on where the store has the session
/// in memory, else from when its changes are stored.
///
/// It can be shared by threads; it is not meant to outlive its request. Dropped without being
/// closed it stores nothing.
pub struct Session {
    shared: Arc<Shared>,
    crossing: Option<Crossing>,
    presented: Presented,
    /// When the request came.
    opened: Moment,
    /// The host, if a browser would drop a cookie sent to it and nobody was told yet.
    insecure_host: Option<HostText>,
    address: Option<IpAddr>,
    /// The client, if it is to be kept.
    client: Option<Client>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Known,
    changes: Changes,
    renew: bool,
    /// What the handler decided about the browser's keeping of a session that begins.
    persistent: Option<bool>,
    /// Sessions to end, because the handler said so.
    to_end: Vec<SessionKey>,
    /// Sessions to end, because a sign-in left them behind: it stands, whatever comes after it.
    left_behind: Vec<SessionKey>,
    destroyed: bool,
    /// One of them was ended.
    ended: bool,
    ignored: bool,
    /// An id that the client does not have yet.
    issued: Option<SessionId>,
    /// The session was ended or renewed by someone else while this request wanted to change it.
    lost: bool,
    /// Changes were lost at any time in this request.
    discarded: bool,
    /// No session was found while deletions were in flight. Whether one of them has ended it is
    /// asked when something is to be stored.
    in_doubt: bool,
    /// The store failed, and the policy is to go on without a session.
    unreadable: Option<Error>,
    /// The response depends on the session.
    looked_at: bool,
    /// When the request first used its session.
    used: Option<Timestamp>,
    /// Somebody was signed in to a session that this request has seen.
    saw_user: bool,
    closed: bool,
}

impl State {
    fn has_changes(&self) -> bool {
        self.renew || !self.changes.delta().is_empty()
    }

    /// What is known, with nothing known from now on.
    fn forget(&mut self) -> Known {
        self.saw_user = self.has_seen_user();
        std::mem::replace(&mut self.known, NOTHING)
    }

    fn has_seen_user(&self) -> bool {
        self.saw_user || matches!(&self.known, Known::Live { record, .. } if record.user.is_some())
    }

    /// Where the session was read as empty, nothing can be changed.
    fn check_readable(&self, doing: &'static str) -> Result<()> {
        match &self.unreadable {
            Some(error) => Err(Error::with_source(ErrorKind::Unavailable, doing, error.clone())),
            None => Ok(()),
        }
    }
}

/// What this request knows of its session.
#[derive(Debug, Default)]
#[allow(clippy::large_enum_variant)] // it is in place, once a request
enum Known {
    #[default]
    Unread,
    Live {
        record: Record,
        key: SessionKey,
    },
    None {
        /// An id was presented that another request has renewed, or ended while this one was under
        /// way: another response has told the client.
        overtaken: bool,
        /// An id was presented whose session does not decode.
        undecodable: bool,
    },
}

const NOTHING: Known = Known::None { overtaken: false, undecodable: false };

impl Known {
    fn data(&self) -> Option<&Data> {
        match self {
            Known::Live { record, .. } => Some(&record.data),
            Known::Unread | Known::None { .. } => None,
        }
    }
}

/// What became of a [`Session::sign_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum SignIn {
    /// The user is signed in.
    Done,
    /// The user has as many sessions as allowed, and nothing was changed.
    Refused,
}

/// What became of the changes at a [`Session::commit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Saved {
    /// They are stored, or there were none.
    Kept,
    /// The session had ended, or had been renewed, before they could be stored.
    Discarded,
}

impl Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// No I/O; and without a cookie no allocation.
    pub(crate) fn new(
        shared: Arc<Shared>,
        crossing: Option<Crossing>,
        head: &RequestHead<'_>,
    ) -> Self {
        let presented = shared.settings.transport.presented(head);
        let address = head.client_address(shared.settings.proxies);
        if presented.malformed {
            shared.events.raise(&Event::Malformed { address });
            shared.count_guess(address, None);
        }
        let client = shared.settings.client(head, address);
        let insecure_host = shared.insecure_host(head).map(HostText::new);
        let opened = shared.endings.now();
        Session {
            shared,
            crossing,
            presented,
            opened,
            insecure_host,
            address,
            client,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of the application's own Serialize leaves the state as it was before the call.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a call that may block.
    fn cross<T>(&self, call: impl FnOnce() -> Result<T>) -> Result<T> {
        cross(self.crossing, call)
    }

    /// Loads the session unless that was done.
    fn read<'s>(&self, state: &'s mut State) -> Result<&'s Known> {
        state.looked_at = true;
        if let Known::Unread = state.known {
            let now = self.shared.now();
            state.used.get_or_insert(now);
            state.known = match self.load(now, &mut state.in_doubt) {
                Ok(mut known) => {
                    if let Known::Live { record, key } = &mut known
                        && !state.ignored
                    {
                        self.shared.touch_early(self.crossing, *key, record, now);
                    }
                    known
                }
                Err(error) => match self.shared.settings.on_load_failure {
                    OnLoadFailure::Fail => return Err(error),
                    OnLoadFailure::ReadAsEmpty => {
                        self.shared.events.raise(&Event::ReadAsEmpty { error: &error });
                        state.unreadable = Some(error);
                        NOTHING
                    }
                },
            };
        }
        Ok(&state.known)
    }

    /// The first live one of the ids that were presented.
    fn load(&self, now: Timestamp, in_doubt: &mut bool) -> Result<Known> {
        let (mut overtaken, mut undecodable) = (false, false);
        for key in self.presented.keys() {
            // Not before: a request that presents nothing pays for nothing.
            let store = self.shared.store()?;
            let at_hand = self.crossing.and_then(|_| store.try_load(&key, now));
            let loaded = match at_hand {
                Some(loaded) => loaded,
                None => self.cross(|| store.load(&key, now))?,
            };
            match loaded {
                Loaded::Live { record, key } => return Ok(Known::Live { record, key }),
                Loaded::Renewed => overtaken = true,
                Loaded::Absent => {
                    match self.shared.endings.try_has_ended_since(&key, self.opened) {
                        Some(true) => overtaken = true,
                        ended => {
                            *in_doubt |= ended.is_none();
                            self.unknown_id(&key);
                        }
                    }
                }
                Loaded::Undecodable { handle, error } => {
                    undecodable = true;
                    self.undecodable(handle.as_ref(), &error);
                }
            }
        }
        Ok(Known::None { overtaken, undecodable })
    }

    fn unknown_id(&self, key: &SessionKey) {
        self.shared.events.raise(&Event::Unknown { address: self.address });
        self.shared.count_guess(self.address, Some(key));
    }

    fn undecodable(&self, handle: Option<&Handle>, error: &Error) {
        self.shared.events.raise(&Event::Undecodable { handle, error });
    }

    /// The state for a change, if changes are possible.
    fn writable(&self, doing: &'static str) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, doing));
        }
        state.check_readable(doing)?;
        state.looked_at = true;
        if state.used.is_none() {
            let now = self.shared.now();
            state.used = Some(now);
            if matches!(state.known, Known::Unread) && !state.ignored {
                self.shared.touch_unread(self.crossing, &self.presented, now);
            }
        }
        Ok(state)
    }

    /// The value of `name`; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when the value is not a `T`; and the store's errors when this is
    /// the first read.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let mut state = self.state();
        let state = &mut *state;
        state.looked_at = true;
        let value = match state.changes.delta().change(name) {
            Change::Set(value) => Some(value.borrowed()),
            Change::Removed => None,
            Change::Untouched => self.read(state)?.data().and_then(|data| data.get(name)),
        };
        value.map(|value| value.decode()).transpose()
    }

    /// Whether there is a value of `name`.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn contains(&self, name: &str) -> Result<bool> {
        let mut state = self.state();
        let state = &mut *state;
        state.looked_at = true;
        Ok(match state.changes.delta().change(name) {
            Change::Set(_) => true,
            Change::Removed => false,
            Change::Untouched => {
                self.read(state)?.data().is_some_and(|data| data.get(name).is_some())
            }
        })
    }

    /// All names that have a value, in order. Names of cloakroom's own, which begin with
    /// `cloakroom.`, are left out.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut state = self.state();
        let mut data = self.read(&mut state)?.data().cloned().unwrap_or_default();
        state.changes.delta().apply_data(&mut data);
        let names = data.iter().map(|(name, _)| name);
        Ok(names.filter(|name| !name.starts_with("cloakroom.")).map(str::to_owned).collect())
    }

    /// Sets `name`. Loads nothing: what is stored is merged with at the end.
    ///
    /// # Errors
    /// [`ErrorKind::WrongType`] when JSON cannot express the value, [`ErrorKind::TooLarge`] when
    /// it alone exceeds the limit of a session, [`ErrorKind::Invalid`] for a name that begins with
    /// `cloakroom.`, [`ErrorKind::Closed`] after the end of the request,
    /// [`ErrorKind::Unavailable`] when the session was read as empty.
    pub fn set(&self, name: &str, value: impl Serialize) -> Result<()> {
        const DOING: &str = "set a session value";
        check_name(name, DOING)?;
        let value = Value::encode(&value)?;
        let (bytes, limit) = (value.as_json().len(), self.shared.settings.max_bytes);
        if bytes > limit {
            let why = format!("the value has {bytes} bytes, a session at most {limit}");
            return Err(Error::with_source(ErrorKind::TooLarge, DOING, why));
        }
        let mut state = self.writable(DOING)?;
        state.changes.edit(|delta| delta.set(name, value.clone()));
        Ok(())
    }

    /// Removes `name`. Loads nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request, [`ErrorKind::Invalid`] for a name that
    /// begins with `cloakroom.`.
    pub fn remove(&self, name: &str) -> Result<()> {
        check_name(name, "remove a session value")?;
        self.writable("remove a session value")?.changes.edit(|delta| delta.remove(name));
        Ok(())
    }

    /// Removes `name` and gives the value it had. Two parallel requests can both get it: for
    /// something that may be used once only, use [`update`](Self::update).
    ///
    /// # Errors
    /// As [`get`](Self::get); the value stays then.
    pub fn take<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let value = self.get(name)?;
        if value.is_some() {
            self.remove(name)?;
        }
        Ok(value)
    }

    /// Removes every value. The session goes on, and its user stays signed in.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn clear(&self) -> Result<()> {
        self.writable("clear the session")?.changes.edit(crate::delta::Delta::clear);
        Ok(())
    }

    /// Changes the value of `name` by `f`, such that no change of a parallel request is lost.
    ///
    /// `f` runs at once, on what this request sees, and its result is returned. If another request
    /// has changed the session before this one's changes are stored, `f` runs again, on this
    /// thread, on what is stored then: so it must depend on nothing but its argument.
    ///
    /// Of many requests at once that update one session, 64 wait for each other. For the others
    /// [`commit`](Self::commit), or the end of the request, fails with [`ErrorKind::Busy`] at once.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`set`](Self::set).
    pub fn update<T, F>(&self, name: &str, f: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> T + Send + 'static,
    {
        check_name(name, "update a session value")?;
        let updated = self.compute(name, move |now| Some(f(now)))?;
        updated.ok_or_else(|| Error::new(ErrorKind::Unexpected, "update a session value"))
    }

    /// [`update`](Self::update) that can also remove the value.
    pub(crate) fn compute<T, F>(&self, name: &str, f: F) -> Result<Option<T>>
    where
        T: Serialize + DeserializeOwned,
        F: Fn(Option<T>) -> Option<T> + Send + 'static,
    {
        const DOING: &str = "update a session value";
        let mut state = self.writable(DOING)?;
        self.read(&mut state)?;
        state.check_readable(DOING)?;
        let State { known, changes, .. } = &mut *state;
        let compute = move |now: Option<&Value<'_>>| {
            let now = now.map(Value::decode::<T>).transpose()?;
            f(now).map(|value| Value::encode(&value)).transpose()
        };
        changes.update(name, known.data(), Box::new(compute))?;
        match changes.delta().change(name) {
            Change::Set(value) => value.decode().map(Some),
            Change::Removed | Change::Untouched => Ok(None),
        }
    }

    /// Who is signed in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn user(&self) -> Result<Option<UserKey>> {
        self.about(|record| record.user.clone()).map(Option::flatten)
    }

    /// When the user last signed in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn authenticated_at(&self) -> Result<Option<Timestamp>> {
        self.about(|record| record.authenticated).map(Option::flatten)
    }

    /// The public name of the session, for pages and logs; `None` if there is none yet.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn handle(&self) -> Result<Option<Handle>> {
        self.about(|record| record.handle)
    }

    /// How strongly the user is authenticated, as the sign-in said; 0 if it did not, or if nobody is
    /// signed in.
    ///
    /// # Errors
    /// The store's errors when this is the first read.
    pub fn auth_level(&self) -> Result<u16> {
        self.about(|record| record.auth_level).map(Option::unwrap_or_default)
    }

    /// Who is signed in, and the handle of their session.
    pub(crate) fn who(&self) -> Result<Option<(UserKey, Handle)>> {
        let who = |record: &Record| record.user.clone().map(|user| (user, record.handle));
        self.about(who).map(Option::flatten)
    }

    fn about<T>(&self, ask: impl FnOnce(&Record) -> T) -> Result<Option<T>> {
        let mut state = self.state();
        Ok(match self.read(&mut state)? {
            Known::Live { record, .. } => Some(ask(record)),
            Known::Unread | Known::None { .. } => None,
        })
    }

    /// Whether the browser keeps the cookie of a session that begins with this request, or signs
    /// in with it, after it is closed: "remember me". Sessions under way keep what they have.
    /// Defaults to the manager's setting.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn set_persistent(&self, persistent: bool) -> Result<()> {
        self.writable("choose how long the cookie lives")?.persistent = Some(persistent);
        Ok(())
    }

    /// Gives the session a new id at the end of this request, with everything else as it is. The
    /// old id is dead then, but for the grace of the manager's settings. Without a session nothing
    /// happens, unless something is written.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn renew(&self) -> Result<()> {
        self.writable("renew the session")?.renew = true;
        Ok(())
    }

    /// Ends the session for good, under every id that this request presented. From now on it is
    /// empty: a later write in this request begins a new, anonymous session.
    ///
    /// It is done at the end of the request, also when the handler fails or panics, or has asked to
    /// [`ignore`](Self::ignore) the session before. If another request has renewed the session
    /// meanwhile, this one's ids find it no more: it is not ended, and the response headers say
    /// that something was discarded.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn destroy(&self) -> Result<()> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "destroy the session"));
        }
        match state.forget() {
            Known::Unread => {}
            Known::Live { key, .. } => state.to_end.push(key),
            Known::None { .. } => {}
        }
        for key in self.presented.keys() {
            if !state.to_end.contains(&key) {
                state.to_end.push(key);
            }
        }
        state.looked_at = true;
        state.destroyed = true;
        state.ignored = false;
        state.changes = Changes::default();
        state.renew = false;
        state.issued = None;
        state.in_doubt = false;
        state.unreadable = None;
        Ok(())
    }

    /// Whether this request has changes that are not stored yet. A change to what is there already
    /// counts too.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        let state = self.state();
        !state.closed && state.has_changes()
    }

    /// Leaves the session as it was before this request, whatever was changed, and sends no
    /// cookie. What [`commit`](Self::commit) and [`sign_in`](Self::sign_in) did stands.
    ///
    /// An ignored request is no activity. Call this first: within ten minutes of the end of the idle
    /// limit, a session that was read before counts as used.
    ///
    /// # Errors
    /// [`ErrorKind::Closed`] after the end of the request.
    pub fn ignore(&self) -> Result<()> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::new(ErrorKind::Closed, "ignore the session"));
        }
        state.ignored = true;
        Ok(())
    }
}

/// Names of our own are not the application's to change: it would be told of a wrong type later.
fn check_name(name: &str, doing: &'static str) -> Result<()> {
    match name.starts_with("cloakroom.") {
        true => {
            let why = "names that begin with `cloakroom.` are its own";
            Err(Error::with_source(ErrorKind::Invalid, doing, why))
        }
        false => Ok(()),
    }
}
